"""How much of what the model does a circuit does alone, and how much is left without it.

Faithfulness of a circuit C is (M(C) − M(∅))/(M(full) − M(∅)), ∅ the model with every edge ablated in
the same way; completeness is the same of what is not in C. CPR and CMD are areas over the share of
edges kept (Mueller et al. 2025, MIB): of the faithfulness, and of its distance from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.ablation import Replacement, contributions
from interp.circuits.budget import TOKENS, prompts_within
from interp.circuits.config import Ablation, Select
from interp.circuits.graph import Circuit, EdgeScores, select_edges
from interp.circuits.naming import belongs
from interp.circuits.pairs import Pairs, numbers, read_pairs
from interp.circuits.patched import PatchedRun
from interp.circuits.scoring import graph_of
from interp.circuits.wires import Wiring
from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ShapeError
from interp.core.frames.quantity import called, measured, places
from interp.core.randomness import generator
from interp.core.result import Result
from interp.core.settings import check_flags, read_count
from interp.models.hooked import HookedModel
from interp.models.text.batch import TokenBatch

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all edges at which MIB measures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FaithfulnessCurve(
    Result, headline="Faithfulness of circuits by {method}", caption="{metric}; the rest carries {ablation}"
):
    """Circuits of growing size, measured.

    Faithfulness is not clamped: a circuit without what holds the model back exceeds 1.
    """

    share: Float[Tensor, " size"] = places("size", "share of all edges")
    """Edges kept before dead ends went, as a share of all."""
    n_edges: Int[Tensor, " size"]
    """Edges that are kept."""
    faithfulness: Float[Tensor, " size"] = measured(
        "faithfulness",
        "",
        "the circuit does more of what the model does",
        legend="circuit",
        along="size",
        axis_title="share of all edges",
        log="x",
        beside=("complement",),
        null="random",
    )
    """(M(C) − M(∅))/(M(full) − M(∅))."""
    complement: Float[Tensor, " size"] = called("every other edge")
    """(M − M(∅))/(M(full) − M(∅)) of every edge that is not in the circuit."""
    random: Float[Tensor, " size"] = called("random circuits (95th percentile)")
    """95th percentile of random circuits of that many edges with a path from input to output."""
    full: Float[Tensor, ""]
    """The metric of the whole model."""
    empty: Float[Tensor, ""]
    """The metric with every edge ablated."""
    metric: str
    """What is measured."""
    method: str
    """How edges were chosen."""
    ablation: str
    """What the others carry."""

    @property
    def cpr(self) -> float:
        """Area under the faithfulness over the share of edges, 0 to the largest share."""
        return _area(self.share, self.faithfulness)

    @property
    def cmd(self) -> float:
        """Area between the faithfulness and 1; 0 is best."""
        return _area(self.share, (1 - self.faithfulness).abs())

    @property
    def log_cmd(self) -> float:
        """The same over the logarithm of the share, per decade: small circuits count."""
        x, y = self.share.log10(), (1 - self.faithfulness).abs()
        return float(torch.trapezoid(y, x) / (x[-1] - x[0])) if len(x) > 1 else float(y[0])

    def smallest(self, faithfulness: float = 0.85) -> int | None:
        """Edges of the smallest circuit measured that is at least so faithful."""
        reached = (self.faithfulness >= faithfulness).nonzero()
        return int(self.n_edges[reached[0, 0]]) if len(reached) else None

    def check(self) -> Checks:
        """Whether some circuit of at most a fifth of the edges beats random ones."""
        small = self.share <= 0.2
        gain = float((self.faithfulness - self.random)[small].max()) if bool(small.any()) else 0.0
        return Checks([Check.at_least("above random circuits", gain, 0.0)])


def measure_circuit(
    model: HookedModel,
    inputs: Any,
    circuit: Circuit,
    *,
    target: Any = None,
    ablation: Ablation = "resample",
    over: Any = None,
    by_prompt: bool = False,
) -> Tensor:
    """The metric where only the circuit's edges carry clean values, [] (or [prompt]).

    Args:
        inputs, target, ablation, over: As for `score_edges`.

    Raises:
        ShapeError: The circuit is of another model's graph.
    """
    check_flags(by_prompt=by_prompt)
    pairs = read_pairs(model, inputs, target)
    wires = graph_of(model, pairs)
    refuse_other(wires, circuit.labels)
    stage = Stage(wires, pairs, Replacement(wires, pairs, ablation, over))
    found = stage.measure(circuit.kept[None])[0]
    return found if by_prompt else found.mean()


def faithfulness_curve(
    model: HookedModel,
    inputs: Any,
    scores: EdgeScores,
    *,
    target: Any = None,
    shares: Sequence[float] = SHARES,
    how: Select = "top",
    absolute: bool = True,
    ablation: Ablation = "resample",
    over: Any = None,
    n_random: int = 100,
    seed: int = 0,
) -> FaithfulnessCurve:
    """Measure circuits of growing size, chosen by `scores`, beside random ones.

    Args:
        inputs, target, ablation, over: As for `score_edges`; better other prompts than those that
            the scores were made on.
        shares: Sizes, as shares of all edges, growing.
        how, absolute: As for `select_edges`.
        n_random: Random circuits per size; each holds a path from an embedding to the logits.
        seed: Of the random circuits.

    Raises:
        ConfigError: Shares that do not grow from above 0 to at most 1, no gap between the full and
            the ablated model.
        ShapeError: The scores are of another model's graph.
    """
    chosen = [float(share) for share in shares]
    if not chosen or chosen != sorted(set(chosen)) or not 0 < chosen[0] <= chosen[-1] <= 1:
        raise ConfigError("shares grow from above 0 to at most 1", got=chosen)
    n_random = read_count("n_random", n_random)  # the null of every circuit
    pairs = read_pairs(model, inputs, target)
    wires = graph_of(model, pairs)
    refuse_other(wires, scores.labels)
    stage = Stage(wires, pairs, Replacement(wires, pairs, ablation, over))
    total = int(wires.possible.sum())
    sizes = [max(1, round(share * total)) for share in chosen]
    circuits = [select_edges(scores, n, how=how, absolute=absolute).kept for n in sizes]
    full, empty = stage.measure(torch.stack([wires.possible, torch.zeros_like(wires.possible)])).mean(1)
    refuse_no_gap(float(full), float(empty), pairs.target.name)
    kept = torch.stack(circuits)
    inside = stage.measure(kept).mean(1)
    outside = stage.measure(wires.possible & ~kept).mean(1)
    draws = RandomCircuits(wires, seed)
    bands = []
    for n in sizes:
        reached = stage.measure(torch.stack([draws(n) for _ in range(n_random)])).mean(1)
        bands.append(((reached - empty) / (full - empty)).quantile(0.95))
    return FaithfulnessCurve(
        share=torch.tensor([n / total for n in sizes]),
        n_edges=kept.flatten(1).sum(1),
        faithfulness=(inside - empty) / (full - empty),
        complement=(outside - empty) / (full - empty),
        random=torch.stack(bands),
        full=full,
        empty=empty,
        metric=pairs.target.name,
        method=f"{how} {scores.method}",
        ablation=stage.replace.said,
        provenance=model.provenance(wires.sites),
    )


class Stage:
    """Prompts on which circuits are measured, many at a time."""

    def __init__(self, wires: Wiring, pairs: Pairs, replace: Replacement) -> None:
        self.wires, self.pairs, self.replace = wires, pairs, replace
        self.size = prompts_within(wires, pairs)

    @torch.no_grad()
    def measure(self, kept: Tensor) -> Tensor:
        """The metric of each circuit on each prompt, [circuit prompt]; `kept` [circuit writer reader]."""
        parts = self.pairs.batches(self.size)
        return torch.cat([self._part(part, kept) for part in parts], 1).cpu()

    def _part(self, pairs: Pairs, kept: Tensor) -> Tensor:
        clean = contributions(self.wires, pairs.clean)
        instead = self.replace(pairs, clean)
        n = max(1, TOKENS // pairs.clean.ids.numel())
        found = []
        for some in kept.split(n):
            removed = (self.wires.possible & ~some).to(clean)
            rows = TokenBatch(pairs.clean.ids.repeat(len(some), 1), pairs.clean.mask.repeat(len(some), 1))
            output = PatchedRun(self.wires, removed, instead)(rows)
            blocks = output.unflatten(0, (len(some), len(pairs)))
            found += [numbers(pairs, block) for block in blocks]
        return torch.stack(found)


class RandomCircuits:
    """Random circuits with a path from an embedding to the logits; the same for the same seed."""

    def __init__(self, wires: Wiring, seed: int) -> None:
        self.possible = wires.possible
        self.owner = belongs(wires.writer_names, wires.reader_names)
        self.source = generator(seed, "random circuits")

    def __call__(self, n_edges: int) -> Tensor:
        """[writer reader]."""
        kept = self._path(n_edges)
        free = (self.possible & ~kept).flatten().nonzero()[:, 0]
        more = n_edges - int(kept.sum())
        chosen = free[torch.randperm(len(free), generator=self.source)[:more]]
        kept.view(-1)[chosen] = True
        return kept

    def _path(self, n_edges: int) -> Tensor:
        """A random walk down from the logits, drawn again while it is longer than the circuit."""
        while True:
            kept, reader = torch.zeros_like(self.possible), self.possible.shape[1] - 1
            while True:
                writer = self._one(self.possible[:, reader])
                kept[writer, reader] = True
                inputs = self.owner[:, writer]
                if not bool(inputs.any()):
                    break
                reader = self._one(inputs)
            if int(kept.sum()) <= n_edges:
                return kept

    def _one(self, among: Tensor) -> int:
        at = among.nonzero()[:, 0]
        return int(at[torch.randint(len(at), (1,), generator=self.source)])


def refuse_other(wires: Wiring, labels: dict[str, list[str]]) -> None:
    """Refuse scores and circuits of another model's graph.

    Raises:
        ShapeError: The names of writers or readers differ.
    """
    own = {"writer": list(wires.writer_names), "reader": list(wires.reader_names)}
    if {axis: list(labels.get(axis, ())) for axis in own} != own:
        raise ShapeError(
            "these edges are of another model's graph",
            got=f"{len(labels.get('writer', ()))} writers, {len(labels.get('reader', ()))} readers",
            expected=f"{len(own['writer'])} and {len(own['reader'])}, the same names",
        )


def refuse_no_gap(full: float, empty: float, name: str) -> None:
    """Refuse a metric that does not change when everything is ablated.

    Raises:
        ConfigError: No gap.
    """
    if abs(full - empty) <= 1e-6 * max(1.0, abs(full)):
        raise ConfigError(
            "the metric is the same with every edge ablated, so no circuit can explain it",
            got=f"{name} {full:.6g} and {empty:.6g}",
            fix="prompts that differ in what decides the answer",
        )


def _area(x: Tensor, y: Tensor) -> float:
    """Trapezoids from 0; the first value holds below the first size."""
    return float(torch.trapezoid(torch.cat([y[:1], y]), torch.cat([x.new_zeros(1), x])))
