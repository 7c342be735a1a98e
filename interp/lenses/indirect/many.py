"""Second-order effects over many inputs: one direction per neuron, its words, and what it decides.

Over inputs I, a neuron's effect φ_n(I) is near zero for most and lies along one direction r̂_n for
the others; r̂_n is written as a few atoms of a dictionary (unembedding or class rows).
Source: Gandelsman, Efros and Steinhardt 2025 (arXiv 2406.04341), sections 3.2 to 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, MemoryBudgetError, ShapeError
from interp.core.frames.quantity import measured
from interp.core.result import Result
from interp.lenses.indirect.one import Carriers, carried_effects, find_carriers, through
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import wide

BUDGET = 2 * 2**30
"""Bytes that the effects of all inputs may take."""
WAYS = (
    "whole model",
    "no second order",
    "no first order",
    "strongest inputs",
    "other inputs",
    "one direction",
)
"""What is kept of a layer; the rest is replaced by its mean over the inputs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronDirections(Result):
    """What each neuron of a layer says through later heads, over many inputs."""

    direction: Float[Tensor, "neuron d_model"]
    """r̂_n: unit principal direction of the largest effects, behind the final norm."""
    mean: Float[Tensor, "neuron d_model"]
    """Mean effect over the inputs."""
    explained: Float[Tensor, " neuron"]
    """Share of the variance of the largest effects along r̂_n; 1 / d_model at least."""
    along: Float[Tensor, "neuron input"]
    """Effect less its mean, along r̂_n."""
    size: Float[Tensor, "neuron input"]
    """Norm of the effect less its mean, over the norm of what the head reads."""
    layer: int
    """Block of the neurons."""

    def check(self) -> Checks:
        """Directions have length one, and no projection exceeds its vector."""
        length = (self.direction.norm(dim=-1) - 1).abs().max()
        return Checks([Check.at_most("length of the directions − 1", length, 1e-4)])

    def concentration(self, share: float = 0.02) -> Float[Tensor, " neuron"]:
        """Part of each neuron's squared effects that its strongest `share` of the inputs hold."""
        squared = self.size.square().sort(dim=1, descending=True).values
        n = max(1, round(share * squared.shape[1]))
        return squared[:, :n].sum(1) / squared.sum(1).clamp(min=1e-30)


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseCode(Result):
    """Vectors as sums of a few atoms."""

    ids: Int[Tensor, "row step"]
    """Atoms in the order in which they were chosen."""
    weights: Float[Tensor, "row step"]
    """Weights of the atoms once all are chosen; atoms count with unit length."""
    error: Float[Tensor, "row step"]
    """Norm of what is left after each step, over the vector's own norm."""
    atoms: tuple[str, ...]
    """Names of the atoms."""

    def check(self) -> Checks:
        """A step never makes the rest larger."""
        grown = self.error.diff(dim=1).max() if self.error.shape[1] > 1 else torch.tensor(0.0)
        return Checks([Check.at_most("growth of the rest", grown, 1e-4)])

    def words(self, row: int, n: int = 10) -> list[tuple[str, float]]:
        """The atoms of a row by size of their weights."""
        order = self.weights[row].abs().argsort(descending=True)[:n].tolist()
        return [(self.atoms[int(self.ids[row, i])], float(self.weights[row, i])) for i in order]


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondOrderAblation(Result, headline="What is left without parts of one layer, {n_inputs} inputs"):
    """Accuracy when parts of what one layer's MLP does are replaced by their mean over inputs."""

    accuracy: Float[Tensor, "layer way"] = measured(
        "accuracy", "share", "the answers do not hang on what was taken", signed=False
    )
    """Share of right answers."""
    effect: Float[Tensor, "layer way"] = measured(
        "size of what was taken", "share of what the head reads", "more was taken", signed=False
    )
    """Mean size of what was taken away, over the norm of what the head reads."""
    layers: tuple[int, ...]
    """Blocks of the neurons."""
    n_inputs: int
    """How many inputs."""


def neuron_directions(
    model: HookedModel,
    inputs: Any,
    layer: int,
    neurons: Sequence[int] | None = None,
    *,
    position: int = -1,
    k: int = 100,
    batch_size: int = 16,
) -> NeuronDirections:
    """Second-order effects of a layer's neurons over many inputs, and their principal directions.

    Args:
        inputs: Texts, ids [input pos], a `TokenBatch`, or images [input channel height width].
        neurons: Which; all by default.
        position: Where the head reads; 0 for a vision transformer's class token.
        k: Inputs with the largest effects that a direction is fitted to.
        batch_size: Inputs per forward pass.

    Raises:
        ConfigError: No such layer or neuron, no head above, or fewer than two inputs.
        MemoryBudgetError: The effects would take more than 2 GiB.
    """
    carriers = find_carriers(model, layer)
    chosen = _chosen(carriers, neurons)
    found = _effects(model, inputs, carriers, chosen, position, batch_size)
    if len(found.vectors) < 2:
        raise ConfigError("a mean over inputs needs two of them", got=len(found.vectors))
    centred = found.vectors - found.vectors.mean(0)
    direction, explained = _principal(centred, k)
    reads = found.normalized.norm(dim=-1)
    return NeuronDirections(
        direction=direction,
        mean=found.vectors.mean(0),
        explained=explained,
        along=torch.einsum("ind,nd->ni", centred, direction),
        size=(centred.norm(dim=-1) / reads[:, None]).T,
        layer=layer,
        labels={"neuron": [carriers.mlp.part(int(n)) for n in chosen]},
        provenance=model.provenance(carriers.sites),
    )


def sparse_code(
    vectors: Tensor,
    dictionary: Tensor,
    k: int,
    *,
    atoms: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
) -> SparseCode:
    """Orthogonal matching pursuit: each vector as `k` atoms with least-squares weights.

    Args:
        vectors: [row d].
        dictionary: Atoms, [atom d]; scaled to unit length here. Centre text embeddings before.
        atoms: Their names.
        rows: Names of the vectors.

    Raises:
        ShapeError: Vectors and atoms of different widths.
        ConfigError: More steps than atoms or dimensions.
    """
    if vectors.ndim != 2 or dictionary.ndim != 2 or vectors.shape[1] != dictionary.shape[1]:
        raise ShapeError(
            "vectors and atoms must be [row d] and [atom d]",
            got=f"{list(vectors.shape)} and {list(dictionary.shape)}",
        )
    if not 1 <= k <= min(dictionary.shape):
        raise ConfigError("no such number of atoms", got=k, expected=f"1 to {min(dictionary.shape)}")
    x = vectors.detach().double()
    unit = torch.nn.functional.normalize(dictionary.detach().to(x), dim=-1)
    length = x.norm(dim=-1).clamp(min=1e-30)
    ids, errors, rest = torch.empty(len(x), 0, dtype=torch.long, device=x.device), [], x
    weights = x.new_empty(len(x), 0)
    for _ in range(k):
        fit = (rest @ unit.T).abs()
        fit.scatter_(1, ids, -1.0)  # an atom is chosen once
        ids = torch.cat([ids, fit.argmax(-1, keepdim=True)], 1)
        support = unit[ids]  # [row step d]
        weights = torch.linalg.lstsq(support.mT, x[..., None]).solution[..., 0]
        rest = x - torch.einsum("rs,rsd->rd", weights, support)
        errors.append(rest.norm(dim=-1) / length)
    return SparseCode(
        ids=ids,
        weights=weights.float(),
        error=torch.stack(errors, 1).float(),
        atoms=tuple(atoms) if atoms is not None else tuple(map(str, range(len(unit)))),
        labels={"row": list(rows)} if rows is not None else {},
    )


def ablate_second_order(
    model: HookedModel,
    inputs: Any,
    answers: Sequence[int] | Tensor,
    layers: Sequence[int] | None = None,
    *,
    position: int = -1,
    share: float = 0.02,
    batch_size: int = 16,
) -> SecondOrderAblation:
    """How much of the answers hangs on what a layer's neurons say through later heads.

    For each layer, parts of φ are replaced by their mean over the inputs in what the head reads:
    all of it, all but each neuron's strongest `share` of the inputs, all but the others, all but
    what lies along r̂_n; and, to compare, the layer's direct (first-order) contribution.

    Args:
        inputs: As for `neuron_directions`.
        answers: Right class or token per input.
        layers: Blocks; every one with a head above it by default.
        share: Part of the inputs that counts as a neuron's strongest.

    Raises:
        ShapeError: Not one answer per input.
    """
    chosen = list(range(model.cfg.n_layers - 1)) if layers is None else list(layers)
    wanted = torch.as_tensor(answers).long()
    accuracy, effect = [], []
    n_inputs = 0
    for layer in chosen:
        carriers = find_carriers(model, layer)
        neurons = _chosen(carriers, None)
        found = _effects(model, inputs, carriers, neurons, position, batch_size)
        n_inputs = len(found.vectors)
        if n_inputs != len(wanted):
            raise ShapeError("one answer per input", got=len(wanted), expected=n_inputs)
        removed = _removed(found, share)
        with torch.no_grad():
            rows = [found.normalized - part for part in removed]
            said = [model.unembed(row.to(model.device, found.dtype)).argmax(-1).cpu() for row in rows]
        accuracy.append(torch.stack([(row == wanted).float().mean() for row in said]))
        size = found.normalized.norm(dim=-1)
        effect.append(torch.stack([(part.norm(dim=-1) / size).mean() for part in removed]))
    return SecondOrderAblation(
        accuracy=torch.stack(accuracy),
        effect=torch.stack(effect).float(),
        layers=tuple(chosen),
        n_inputs=n_inputs,
        labels={"layer": [f"L{layer}" for layer in chosen], "way": list(WAYS)},
        provenance=model.provenance(),
    )


@dataclass(frozen=True)
class _Effects:
    """What one layer does to every input."""

    vectors: Tensor
    """φ, [input neuron d_model], on the CPU."""
    normalized: Tensor
    """What the head reads, [input d_model]."""
    direct: Tensor
    """The MLP's own contribution to it, norm held, [input d_model]."""
    dtype: torch.dtype
    """Precision of the model."""


def _effects(
    model: HookedModel, inputs: Any, carriers: Carriers, neurons: Tensor, position: int, batch_size: int
) -> _Effects:
    vectors, normalized, direct = [], [], []
    stream, spent = carriers.stream, 0
    last_dtype = torch.float32
    for batch in _batches(model, inputs, batch_size):
        with torch.no_grad():
            acts = model.capture(batch, carriers.sites)
            last_dtype = acts[stream.last].dtype
            for row in range(acts[stream.last].shape[0]):
                one = {site: acts[site][row : row + 1] for site in carriers.sites}
                real = acts.mask[row].nonzero().flatten() if acts.mask is not None else None
                n = len(real) if real is not None else one[stream.last].shape[1]
                if not -n <= position < n:
                    raise ConfigError("no such position", got=position, expected=f"{n} tokens")
                at = int(real[position]) if real is not None else position % n
                found = carried_effects(model, one, carriers, neurons, at).cpu()
                spent += found.nbytes
                if spent > BUDGET:
                    raise MemoryBudgetError(
                        "the effects of all inputs do not fit",
                        got=f"more than {BUDGET >> 30} GiB at {len(vectors) + 1} inputs",
                        fix="fewer inputs, or neurons=[...]",
                    )
                vectors.append(found)
                last = wide(one[stream.last][0, at])
                scale = stream.norm.scale(last)
                normalized.append(stream.norm.apply(last, scale).cpu())
                direct.append(through(stream.norm, wide(one[carriers.mlp.out][0, at]), scale).cpu())
    return _Effects(torch.stack(vectors), torch.stack(normalized), torch.stack(direct), last_dtype)


def _batches(model: HookedModel, inputs: Any, size: int) -> Iterator[Any]:
    """Texts, ids, or images in pieces."""
    if not (isinstance(inputs, Tensor) and inputs.is_floating_point()):
        inputs = model.read(inputs)
    for start in range(0, len(inputs), size):
        yield inputs[start : start + size]


def _chosen(carriers: Carriers, neurons: Sequence[int] | None) -> Tensor:
    n = carriers.mlp.n_parts
    chosen = list(range(n)) if neurons is None else list(neurons)
    bad = [i for i in chosen if not 0 <= i < n]
    if bad or not chosen:
        raise ConfigError("no such neuron", got=bad, expected=f"0 to {n - 1}")
    return torch.tensor(chosen)


def _principal(centred: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Unit directions [neuron d_model], signed so that most large effects lie along them, and the
    share of those effects' variance that they hold [neuron]."""
    directions, shares = [], []
    for rows in centred.transpose(0, 1):  # [input d_model], one neuron
        largest = rows[rows.norm(dim=-1).topk(min(top, len(rows))).indices]
        _, sigma, right = torch.linalg.svd(largest, full_matrices=False)
        along = largest @ right[0]
        directions.append(right[0] * (1.0 if float(along.sign().sum()) >= 0 else -1.0))
        shares.append(sigma[0].square() / sigma.square().sum().clamp(min=1e-30))
    return torch.stack(directions), torch.stack(shares)


def _removed(found: _Effects, share: float) -> list[Tensor]:
    """What each of `WAYS` takes from what the head reads, [input d_model] each."""
    centred = found.vectors - found.vectors.mean(0)
    direction, _ = _principal(centred, 100)
    n = max(1, round(share * len(centred)))
    size = centred.norm(dim=-1)  # [input neuron]
    strong = size >= size.topk(n, dim=0).values[-1]
    along = torch.einsum("ind,nd->in", centred, direction)
    strongest = (centred * strong[..., None]).sum(1)
    total = centred.sum(1)
    return [
        torch.zeros_like(total),
        total,
        found.direct - found.direct.mean(0),
        total - strongest,
        strongest,
        total - along @ direction,
    ]
