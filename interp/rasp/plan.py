"""Which head and which MLP computes which s-op: what compiler and truth both read.

A program becomes attention and MLP operations; each stands in the first layer in which all that it
reads is there. Aggregates of one selector share a head. Names are those of circuits: `embed`,
`pos`, `a<layer>.h<head>`, `m<layer>`, `logits`; readers of heads are `a0.h1<q>`, `<k>`, `<v>`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
import torch

from interp.core.randomness import generator
from interp.rasp.config import CompileConfig
from interp.rasp.domains import Domain, domains, read_vocabulary
from interp.rasp.interpreter import holds
from interp.rasp.language import (
    Aggregate,
    Elementwise,
    Indices,
    InverseWidth,
    Selector,
    SOp,
    Tokens,
    Value,
    ancestors,
    read_sop,
)

START = SOp(name="start", dtype="numerical")
"""1 at the beginning-of-sequence token, 0 elsewhere; the embedding writes it."""


@dataclass(frozen=True, eq=False)
class Head:
    """One attention head: what is selected, and what is taken from there."""

    layer: int
    keys: SOp
    queries: SOp
    selects: np.ndarray
    """[query key] of 0 and 1, over the values of queries and keys."""
    outputs: tuple[SOp, ...]
    """Aggregates, or one inverse width."""

    @property
    def counts(self) -> bool:
        """Whether it attends to the start as to a selected position, and reads off how much is left."""
        return isinstance(self.outputs[0], InverseWidth)

    @property
    def values(self) -> tuple[SOp, ...]:
        """What it takes from where it looks."""
        taken = [sop.values for sop in self.outputs if isinstance(sop, Aggregate)]
        return (START,) if self.counts else tuple(dict.fromkeys(taken))


@dataclass(frozen=True)
class Reader:
    """One input of a node, and the s-ops that are read there."""

    name: str
    """As in an edge: `a1.h0<q>`, `m2`, `logits`."""
    node: str
    sops: tuple[SOp, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """A program laid out over layers."""

    program: SOp
    vocabulary: Domain
    max_length: int
    domains: dict[SOp, Domain]
    """The values of every s-op, distractors included."""
    heads: tuple[tuple[Head, ...], ...]
    """Per layer; fewer than `n_heads` where some are left empty."""
    mlps: tuple[tuple[SOp, ...], ...]
    """Elementwise operations per layer."""
    distractors: tuple[str, ...] = field(default=())
    """Heads that nobody reads, `a<layer>.h<head>`."""

    @property
    def n_layers(self) -> int:
        """Blocks."""
        return len(self.heads)

    @property
    def n_heads(self) -> int:
        """Heads per block, at least one."""
        return max(1, *map(len, self.heads))

    def width(self, sop: SOp) -> int:
        """Directions that an s-op takes: one per category, or one."""
        return len(self.domains[sop]) if sop.dtype == "categorical" else 1

    @cached_property
    def writers(self) -> dict[SOp, str]:
        """Which node writes an s-op."""
        found = {START: "embed"}
        for sop in self.domains:
            if isinstance(sop, Tokens | Indices):
                found[sop] = "embed" if isinstance(sop, Tokens) else "pos"
        for layer, (heads, mlp) in enumerate(zip(self.heads, self.mlps, strict=True)):
            for h, head in enumerate(heads):
                found |= dict.fromkeys(head.outputs, f"a{layer}.h{h}")
            found |= dict.fromkeys(mlp, f"m{layer}")
        return found

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        """Every input of every node in the order of the forward pass, empty heads and MLPs included."""
        return tuple(self._readers())

    def _readers(self) -> Iterator[Reader]:
        for layer, (heads, mlp) in enumerate(zip(self.heads, self.mlps, strict=True)):
            for h in range(self.n_heads):
                node = f"a{layer}.h{h}"
                head = heads[h] if h < len(heads) else None
                reads = ((), (), ()) if head is None else ((head.queries,), (head.keys, START), head.values)
                yield from (Reader(f"{node}<{c}>", node, r) for c, r in zip("qkv", reads, strict=True))
            yield Reader(f"m{layer}", f"m{layer}", mlp_reads(mlp))
        yield Reader("logits", "logits", (self.program,))

    def writers_before(self, reader: str) -> list[str]:
        """The nodes whose output an input can see, in the order of the forward pass."""
        layers = self.n_layers if reader == "logits" else int(reader[1:].partition(".")[0])
        found = ["embed", "pos"]
        for layer in range(layers + reader.startswith("m")):
            found += [f"a{layer}.h{h}" for h in range(self.n_heads)]
            found += [f"m{layer}"] if layer < layers else []
        return found


def mlp_reads(mlp: Sequence[SOp]) -> tuple[SOp, ...]:
    """What the operations of one MLP read; the start too, where one is to be silent there."""
    read = dict.fromkeys(source for sop in mlp for source in sop.inputs)
    return (*read, START) if any(silenced(sop) for sop in mlp) else tuple(read)


def silenced(sop: SOp) -> bool:
    """Whether an elementwise operation would speak at the start token: a number there is 0, not None."""
    lookup = isinstance(sop, Elementwise) and sop.sources[0].dtype == "categorical"
    return not lookup


def plan(program: SOp, vocabulary: Sequence[Value], config: CompileConfig | None = None) -> Plan:
    """Lay a program out over the layers of a transformer.

    Raises:
        ProgramError: No program, or one that means nothing for this vocabulary (see `domains`).
    """
    config = config or CompileConfig()
    words = read_vocabulary(vocabulary)
    program = merged(read_sop(program, "a program"))
    values = domains(program, words, config.max_length)
    times = schedule(program)
    n_layers = max(1, *((time + 1) // 2 for time in times.values()))
    heads: list[list[Head]] = [[] for _ in range(n_layers)]
    mlps: list[list[SOp]] = [[] for _ in range(n_layers)]
    for sop, time in times.items():
        layer = (time - 1) // 2
        if isinstance(sop, Aggregate | InverseWidth):
            _seat(heads[layer], sop, layer, values)
        elif time:
            mlps[layer].append(sop)
    laid = Plan(
        program=program,
        vocabulary=words,
        max_length=config.max_length,
        domains=values,
        heads=tuple(map(tuple, heads)),
        mlps=tuple(map(tuple, mlps)),
    )
    return _distracted(laid, times, config) if config.distractors else laid


def merged(program: SOp) -> SOp:
    """The same program with equal s-ops computed once; functions are equal where Python says so."""
    known: dict[object, SOp] = {}
    new: dict[int, SOp] = {}

    def seen(value: object) -> object:
        if isinstance(value, SOp):
            return new[id(value)]
        if isinstance(value, Selector):
            return Selector(new[id(value.keys)], new[id(value.queries)], value.predicate)
        if isinstance(value, tuple):
            return tuple(seen(part) for part in value)
        return value

    def key(value: object) -> object:
        if isinstance(value, Selector):
            return id(value.keys), id(value.queries), key(value.predicate)
        if isinstance(value, SOp):
            return id(value)
        if isinstance(value, tuple):
            return tuple(map(key, value))
        try:
            hash(value)
        except TypeError:  # a function that is an object of some class
            return id(value)
        return value

    for sop in ancestors(program):
        parts = {f.name: seen(getattr(sop, f.name)) for f in fields(sop)}
        same = (type(sop), *(key(part) for name, part in parts.items() if name != "name"))
        new[id(sop)] = known.setdefault(same, replace(sop, **parts))
    return new[id(program)]


def schedule(program: SOp) -> dict[SOp, int]:
    """When each s-op is there: 0 embedded, 2l + 1 after the attention of layer l, 2l + 2 after its MLP."""
    times: dict[SOp, int] = {}
    for sop in ancestors(program):
        before = max((times[source] for source in sop.inputs), default=-1)
        attends = isinstance(sop, Aggregate | InverseWidth)
        times[sop] = before + 1 + (before + 1) % 2 if not attends else before + 1 + before % 2
    return times


def _seat(heads: list[Head], sop: Aggregate | InverseWidth, layer: int, values: dict[SOp, Domain]) -> None:
    """Into the head of the same selector, or a new one."""
    selector = sop.selector
    for i, head in enumerate(heads):
        first = head.outputs[0]
        same = isinstance(first, Aggregate | InverseWidth) and _same(first.selector, selector)
        if same and type(first) is type(sop):
            heads[i] = replace(head, outputs=(*head.outputs, sop))
            return
    keys, queries = values[selector.keys], values[selector.queries]
    selects = np.array([[holds(selector.predicate, key, query) for key in keys] for query in queries], float)
    heads.append(Head(layer, selector.keys, selector.queries, selects, (sop,)))


def _same(one: Selector, two: Selector) -> bool:
    return one.keys is two.keys and one.queries is two.queries and one.predicate == two.predicate


def _distracted(laid: Plan, times: dict[SOp, int], config: CompileConfig) -> Plan:
    """Heads in random layers with random selectors over what is there; all heads in random order."""
    source = generator(config.seed, "distractor heads")

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=source))

    heads, values, useless = [list(layer) for layer in laid.heads], dict(laid.domains), set[Head]()
    for i in range(config.distractors):
        layer = below(laid.n_layers)
        there = [sop for sop, time in times.items() if time <= 2 * layer]
        choice = [sop for sop in there if sop.dtype == "categorical"] or [there[0]]
        keys, queries, taken = (choice[below(len(choice))] for _ in range(3))
        shape = (len(values[queries]), len(values[keys]))
        selects = torch.randint(2, shape, generator=source).double().numpy()
        output = Aggregate(
            name=f"distractor_{i}", dtype=taken.dtype, selector=Selector(keys, queries, _random), values=taken
        )
        values[output] = values[taken]
        head = Head(layer, keys, queries, selects, (output,))
        heads[layer].append(head)
        useless.add(head)
    for layer in heads:
        order = torch.randperm(len(layer), generator=source).tolist()
        layer[:] = [layer[i] for i in order]
    names = [
        f"a{layer}.h{h}" for layer, row in enumerate(heads) for h, head in enumerate(row) if head in useless
    ]
    return replace(laid, heads=tuple(map(tuple, heads)), domains=values, distractors=tuple(names))


def _random(_key: Value, _query: Value) -> bool:
    """Stands in a distractor's selector; what it selects is drawn, in its `Head`."""
    return False
