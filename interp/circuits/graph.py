"""One graph for every circuit method: edges with scores, and the part of them that is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.circuits.config import Select
from interp.circuits.naming import ARROW, belongs, edge_name, edge_of
from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ShapeError
from interp.core.frames.quantity import measured
from interp.core.result import Result
from interp.core.settings import check_choice, check_flags


@dataclass(frozen=True, kw_only=True, eq=False)
class EdgeScores(Result, headline="Edges by {method}", caption="{metric} where the edge carries {ablation}"):
    """How much every edge of a model matters to a metric.

    A score is the predicted (or, for `exact`, measured) change of the metric when the edge alone
    carries what the ablation puts in its place.
    """

    scores: Float[Tensor, "writer reader"] = measured(
        "change of the metric", "", "without the edge there is more of it"
    )
    """Mean over the prompts; 0 where there is no edge."""
    possible: Bool[Tensor, "writer reader"]
    """Which edges there are."""
    metric: str
    """What the scores are a change of."""
    method: str
    """How they were made."""
    ablation: str
    """What an edge carries in place of the clean value."""
    clean: Float[Tensor, ""]
    """The metric on the clean prompts."""
    ablated: Float[Tensor, ""]
    """The metric with every edge ablated."""
    by_prompt: Float[Tensor, "prompt writer reader"] | None = None
    """Scores of each prompt, where they were asked for."""

    def check(self) -> Checks:
        """Whether there is a gap between clean and ablated that edges could explain."""
        gap = abs(float(self.clean - self.ablated))
        return Checks([Check.at_least("gap of the metric", gap, 1e-6)])

    @property
    def writers(self) -> list[str]:
        """Names of the rows."""
        return self.labels["writer"]

    @property
    def readers(self) -> list[str]:
        """Names of the columns."""
        return self.labels["reader"]

    def score(self, edge: str) -> float:
        """The score of one edge, `m0->a1.h2<q>`.

        Raises:
            ConfigError: No such edge.
        """
        return float(self.scores[edge_of(edge, self.writers, self.readers, self.possible)])

    def ranked(self, *, absolute: bool = True) -> list[str]:
        """Every edge, the one that matters most first; equal scores in the order of the pass."""
        check_flags(absolute=absolute)
        value = self.scores.abs() if absolute else self.scores
        flat = value.flatten().masked_fill(~self.possible.flatten(), -torch.inf)
        order = flat.argsort(descending=True, stable=True)[: int(self.possible.sum())].tolist()
        n = len(self.readers)
        return [edge_name(self.writers[i // n], self.readers[i % n]) for i in order]


@dataclass(frozen=True, kw_only=True, eq=False)
class Circuit(Result, headline="Circuit of {n_edges} edges", caption="the rest carries {ablation}"):
    """The edges that are kept of a graph; what the others carry is the ablation's."""

    kept: Bool[Tensor, "writer reader"]
    """The circuit."""
    possible: Bool[Tensor, "writer reader"]
    """Every edge of the model's graph."""
    weights: Float[Tensor, "writer reader"] | None = None
    """What the edges were chosen by, where they were."""
    ablation: str = "unsaid"
    """What stands for the rest: "zero", "mean over ...", "resample"."""
    found_by: str = ""
    """Which method chose the edges."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for axis, n in zip(("writer", "reader"), self.kept.shape, strict=True):
            if len(self.labels.get(axis, ())) != n:
                raise ShapeError(
                    f"a circuit names its {axis}s", got=self.labels.get(axis), expected=f"{n} names"
                )
        if bool((self.kept & ~self.possible).any()):
            wrong = (self.kept & ~self.possible).nonzero()[0].tolist()
            raise ConfigError(
                "a circuit keeps an edge that the graph does not have",
                got=edge_name(self.labels["writer"][wrong[0]], self.labels["reader"][wrong[1]]),
            )

    @property
    def n_edges(self) -> int:
        """How many edges are kept."""
        return int(self.kept.sum())

    @property
    def edges(self) -> list[str]:
        """Names of the kept edges, in the order of the pass."""
        writers, readers = self.labels["writer"], self.labels["reader"]
        return [edge_name(writers[w], readers[r]) for w, r in self.kept.nonzero().tolist()]

    @property
    def nodes(self) -> list[str]:
        """Names of the writers and of `logits` that a kept edge touches."""
        writers = self.labels["writer"]
        into = self.kept.any(0).float() @ belongs(writers, self.labels["reader"]).float()
        touched = self.kept.any(1) | (into > 0)
        found = [name for name, is_in in zip(writers, touched.tolist(), strict=True) if is_in]
        return [*found, "logits"] if bool(self.kept[:, -1].any()) else found

    def with_edges(self, edges: Iterable[str], *, found_by: str = "") -> Circuit:
        """The circuit of these edges in the same graph.

        Raises:
            ConfigError: No such edge.
        """
        kept = torch.zeros_like(self.possible)
        for name in edges:
            kept[edge_of(name, self.labels["writer"], self.labels["reader"], self.possible)] = True
        return self._of(kept, found_by)

    def without_dead_ends(self) -> Circuit:
        """Only edges on a path from an embedding to the logits."""
        writers, readers = self.labels["writer"], self.labels["reader"]
        return self._of(on_a_path(self.kept, belongs(writers, readers)), self.found_by)

    def compare(self, truth: Circuit) -> dict[str, float]:
        """Precision, recall, F1 and Jaccard of the kept edges against those of another circuit.

        Raises:
            ShapeError: The other is of another graph.
        """
        if self.labels != truth.labels:
            raise ShapeError(
                "these circuits are of different graphs",
                got=f"{list(truth.kept.shape)}",
                expected=f"{list(self.kept.shape)}, the same names",
            )
        both = float((self.kept & truth.kept).sum())
        one, other = float(self.kept.sum()), float(truth.kept.sum())
        either = one + other - both
        return {
            "precision": both / one if one else 1.0,
            "recall": both / other if other else 1.0,
            "f1": 2 * both / (one + other) if one + other else 1.0,
            "jaccard": both / either if either else 1.0,
        }

    def _of(self, kept: Tensor, found_by: str) -> Circuit:
        return Circuit(
            kept=kept,
            possible=self.possible,
            weights=self.weights,
            ablation=self.ablation,
            found_by=found_by,
            labels=self.labels,
            provenance=self.provenance,
        )


def on_a_path(
    kept: Bool[Tensor, "writer reader"], owner: Bool[Tensor, "reader writer"]
) -> Bool[Tensor, "writer reader"]:
    """The kept edges that lie on a path from a writer that reads nothing to the last reader."""
    edges, owns = kept.float(), owner.float()
    fed = ~owner.any(0)
    for _ in range(len(kept)):
        arriving = (edges.T @ fed.float() > 0).float() @ owns > 0
        more = fed | arriving
        if torch.equal(more, fed):
            break
        fed = more
    useful = torch.zeros(kept.shape[1], dtype=torch.bool)
    useful[-1] = True
    for _ in range(len(kept)):
        leaving = owns @ (edges @ useful.float() > 0).float() > 0
        more = useful | leaving
        if torch.equal(more, useful):
            break
        useful = more
    return kept & fed[:, None] & useful[None, :]


def select_edges(
    scores: EdgeScores, n_edges: int, *, how: Select = "top", absolute: bool = True, prune: bool = True
) -> Circuit:
    """The circuit of the edges that matter most.

    Args:
        n_edges: How many edges to choose; pruning may leave fewer.
        how: "top": the largest scores. "greedy": from the logits downwards, always the largest
            score that ends in a node already reached (EAP's authors' choice).
        absolute: Rank by magnitude.
        prune: Drop edges on no path from an embedding to the logits.

    Raises:
        ConfigError: More edges than there are, or none.
    """
    check_flags(absolute=absolute, prune=prune)
    check_choice("how", how, Select)
    total = int(scores.possible.sum())
    if isinstance(n_edges, bool) or not 0 < n_edges <= total:
        raise ConfigError(
            "no circuit has that many edges", got=f"n_edges={n_edges}", expected=f"1 to {total}"
        )
    whole = Circuit(
        kept=scores.possible,
        possible=scores.possible,
        weights=scores.scores,
        ablation=scores.ablation,
        labels=scores.labels,
        provenance=scores.provenance,
    )
    said = f"{how} {n_edges} by {scores.method}"
    if how == "top":
        found = whole.with_edges(scores.ranked(absolute=absolute)[:n_edges], found_by=said)
    else:
        found = whole.with_edges(_greedy(scores, n_edges, absolute), found_by=said)
    return found.without_dead_ends() if prune else found


def _greedy(scores: EdgeScores, n_edges: int, absolute: bool) -> list[str]:
    """Edges into nodes that are reached already, the largest first."""
    owner = belongs(scores.writers, scores.readers)
    value = scores.scores.abs() if absolute else scores.scores.clone()
    open_to = torch.zeros(len(scores.readers), dtype=torch.bool)
    open_to[-1] = True
    free = scores.possible.clone()
    chosen: list[str] = []
    while len(chosen) < n_edges:
        candidates = value.masked_fill(~(free & open_to[None]), -torch.inf)
        best = int(candidates.argmax())
        if candidates.flatten()[best] == -torch.inf:
            break
        w, r = divmod(best, len(scores.readers))
        free[w, r] = False
        chosen.append(f"{scores.writers[w]}{ARROW}{scores.readers[r]}")
        open_to |= owner[:, w]
    return chosen
