"""The program over values in between: what it says when an edge carries a mean, or nothing.

A categorical value is one number per category (one-hot, zero for None, a mixture for a mean), a
numerical value is the number; a head's pattern is the softmax of scale times the selector, an
elementwise operation has the rule that is written here. On values of strings all of it is what
`interpret` says. It knows s-ops and their values, and no weight, basis or residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from interp.rasp.interpreter import called
from interp.rasp.language import Elementwise, Fill, Indices, Linear, ProgramError, SOp, Tokens, Value
from interp.rasp.plan import START, Head, Plan, Reader

Values = dict[SOp, np.ndarray]
"""S-op -> [string position value], float64; position 0 is the start token."""


class Machine:
    """Runs a plan on strings of one length, or on from a reader that sees other values.

    Args:
        plan: From `plan`.
        score_scale: Attention score of a selected key.
    """

    def __init__(self, plan: Plan, score_scale: float) -> None:
        self.plan = plan
        self.scale = score_scale
        self._heads: dict[str, Head] = {
            f"a{layer}.h{h}": head for layer, row in enumerate(plan.heads) for h, head in enumerate(row)
        }
        self._mlps: dict[str, tuple[SOp, ...]] = {
            f"m{layer}": mlp for layer, mlp in enumerate(plan.mlps) if mlp
        }
        self._reads: dict[str, dict[str, Reader]] = {}
        for reader in plan.readers:
            self._reads.setdefault(reader.node, {})[reader.name] = reader
        self._tables: dict[SOp, Any] = {}

    def run(self, strings: list[tuple[Value, ...]]) -> Values:
        """Every s-op on strings of one length, [string position value]."""
        plan = self.plan
        batch, n = len(strings), len(strings[0]) + 1
        values: Values = {START: np.zeros((batch, n, 1))}
        values[START][:, 0] = 1.0
        for sop, domain in plan.domains.items():
            if isinstance(sop, Tokens | Indices):
                there = np.zeros((batch, n, len(domain)))
                place = {value: i for i, value in enumerate(domain)}
                for b, string in enumerate(strings):
                    for t, token in enumerate(string):
                        there[b, t + 1, place[token] if isinstance(sop, Tokens) else t] = 1.0
                values[sop] = there
        for node in self._order():
            values |= self._node(node, dict.fromkeys(self._reads[node], values))
        return values

    def on(self, values: Mapping[SOp, np.ndarray], reader: Reader, seen: Values) -> np.ndarray:
        """The program's value where one reader sees other values, and all that follows does as ever.

        Args:
            values: From `run`.
            reader: Who sees them.
            seen: What it sees in place of some of what it reads.

        Returns:
            [string position value] of the program.
        """
        if reader.node == "logits":
            return seen.get(self.plan.program, values[self.plan.program])
        views: dict[str, Mapping[SOp, np.ndarray]] = dict.fromkeys(self._reads[reader.node], values)
        views[reader.name] = _Over(seen, values)
        new = self._node(reader.node, views)
        if all(np.array_equal(value, values[sop]) for sop, value in new.items()):
            return values[self.plan.program]
        order = self._order()
        for node in order[order.index(reader.node) + 1 :]:
            if any(sop in new for one in self._reads[node].values() for sop in one.sops):
                new |= self._node(node, dict.fromkeys(self._reads[node], _Over(new, values)))
        return new.get(self.plan.program, values[self.plan.program])

    def _order(self) -> list[str]:
        return [node for node in self._reads if node in self._heads or node in self._mlps]

    def _node(self, node: str, views: Mapping[str, Mapping[SOp, np.ndarray]]) -> Values:
        """What a node writes, from what each of its readers sees."""
        if node in self._heads:
            return self._attend(self._heads[node], *(views[f"{node}<{channel}>"] for channel in "qkv"))
        return {sop: self._elementwise(sop, views[node]) for sop in self._mlps[node]}

    def _attend(
        self,
        head: Head,
        query: Mapping[SOp, np.ndarray],
        key: Mapping[SOp, np.ndarray],
        value: Mapping[SOp, np.ndarray],
    ) -> Values:
        start = 1.0 if head.counts else 0.5
        scores = (query[head.queries] @ head.selects) @ key[head.keys].swapaxes(1, 2)
        scores = self.scale * (scores + start * key[START].swapaxes(1, 2))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        taken = {sop: weights @ value[sop] for sop in head.values}
        return {sop: taken[START if head.counts else sop.inputs[2]] for sop in head.outputs}

    def _elementwise(self, sop: SOp, view: Mapping[SOp, np.ndarray]) -> np.ndarray:
        if isinstance(sop, Linear):
            real = 1.0 - view[START]
            return real * np.asarray(sum(view[source] * float(weight) for source, weight in sop.terms))
        if isinstance(sop, Fill):
            return self._fill(sop, view)
        if not isinstance(sop, Elementwise):
            raise ProgramError("unknown kind of elementwise s-op", got=type(sop).__name__)
        numerical = sop.sources[0].dtype == "numerical"
        return self._step(sop, view) if numerical else self._lookup(sop, view)

    def _fill(self, sop: Fill, view: Mapping[SOp, np.ndarray]) -> np.ndarray:
        """What is there, and the value as far as nothing is there."""
        there = view[sop.source]
        domain = self.plan.domains[sop]
        filled = np.zeros((*there.shape[:2], len(domain)))
        filled[..., : there.shape[2]] = np.maximum(there, 0.0)
        nothing = 1.0 - there.sum(-1) - view[START][..., 0]
        filled[..., domain.index(sop.value)] += np.maximum(nothing, 0.0)
        return filled

    def _lookup(self, sop: Elementwise, view: Mapping[SOp, np.ndarray]) -> np.ndarray:
        """Of each combination, as far as all of it is there: what its parts exceed all but one by."""
        if sop not in self._tables:
            sets = [range(len(self.plan.domains[source])) for source in sop.sources]
            rows = list(product(*sets))
            found = [
                called(sop, tuple(self.plan.domains[s][i] for s, i in zip(sop.sources, row, strict=True)))
                for row in rows
            ]
            self._tables[sop] = np.array(rows), np.stack([self._encoded(sop, value) for value in found])
        rows, table = self._tables[sop]
        there = sum(view[source][..., rows[:, i]] for i, source in enumerate(sop.sources))
        return np.maximum(np.asarray(there) - (len(sop.sources) - 1), 0.0) @ table

    def _step(self, sop: Elementwise, view: Mapping[SOp, np.ndarray]) -> np.ndarray:
        """Constant around each value of the number, linear in the middle half between two."""
        if sop not in self._tables:
            domain = self.plan.domains[sop.sources[0]]
            self._tables[sop] = np.stack([self._encoded(sop, called(sop, (value,))) for value in domain])
        table = self._tables[sop]
        domain = np.array(self.plan.domains[sop.sources[0]], float)
        real = np.maximum(1.0 - view[START], 0.0)
        out = real * table[0]
        for low, high, before, after in zip(domain, domain[1:], table, table[1:], strict=False):
            share = np.clip((view[sop.sources[0]] - low) / (high - low) * 2.0 - 0.5, 0.0, 1.0)
            out = out + (view[START] == 0.0) * share * (after - before)
        return out

    def _encoded(self, sop: SOp, value: Value) -> np.ndarray:
        if sop.dtype == "numerical":
            return np.array([float(value)]) if isinstance(value, Fraction) else np.zeros(1)
        one_hot = np.zeros(len(self.plan.domains[sop]))
        if value is not None:
            one_hot[self.plan.domains[sop].index(value)] = 1.0
        return one_hot


class _Over(dict[SOp, np.ndarray]):
    """Some values in place of others."""

    def __init__(self, some: Mapping[SOp, np.ndarray], others: Mapping[SOp, np.ndarray]) -> None:
        super().__init__(some)
        self._others = others

    def __missing__(self, sop: SOp) -> np.ndarray:
        return self._others[sop]
