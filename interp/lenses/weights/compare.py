"""Two models' weights side by side: agreement of neurons, alignment, stitching through embeddings.

Davies 2025 (arXiv 2501.02688), section on base and tuned models; Dar et al. 2023, "Analyzing
Transformers in Embedding Space" (arXiv 2209.02535), sections 5.1 and 5.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ShapeError
from interp.core.frames.quantity import called, measured
from interp.core.randomness import generator
from interp.core.result import Result
from interp.core.settings import check_choice
from interp.lenses.weights.table import TokenTable
from interp.models.budget import refuse_parts
from interp.models.hooked import HookedModel
from interp.models.hooks.interventions import patch

_SIDE = re.compile(r"\.(gate\*in|gate|in|out|[QKVO])")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NeuronAgreement(Result, headline="Do both models' neurons say the same?"):
    """How far the same rows of two token tables say the same."""

    same_first: Float[Tensor, " sign"] = measured(
        "rows with the same first token",
        "share",
        "the models agree",
        signed=False,
        legend="as they are",
        null="same_first_shuffled",
    )
    """Share of rows whose first token is the same."""
    same_first_shuffled: Float[Tensor, " sign"] = called("shuffled")
    """Share of equal first tokens with the second table's rows in random order."""
    overlap: Float[Tensor, "direction sign"]
    """Jaccard index of the rows' k tokens."""
    overlap_shuffled: float
    """Mean overlap with the second table's rows in random order."""

    def ticks(self, axis: str) -> list[str] | None:
        """The signs have names, too."""
        return ["direction", "negative"] if axis == "sign" else super().ticks(axis)

    def check(self) -> Checks:
        """Indices lie in [0, 1]."""
        return Checks([Check.at_most("largest overlap", self.overlap.max(), 1.0)])


def compare_tables(first: TokenTable, second: TokenTable, *, seed: int = 0) -> NeuronAgreement:
    """Compare two models (a base and its fine-tuned version), or two sides of one, row by row.

    Rows belong together by layer, head and number: `compare_tables(read_weights(model, "in"),
    read_weights(model, "out"))` asks whether neurons write what they read (Dar et al., sim_k).

    Raises:
        ShapeError: The tables do not have the same rows, or another vocabulary.
    """
    alike = [_SIDE.sub(".", name) for name in first.names] == [_SIDE.sub(".", name) for name in second.names]
    if not alike or first.n_tokens != second.n_tokens:
        raise ShapeError(
            "the tables are not of the same rows",
            got=f"{len(first.names)} and {len(second.names)} rows, "
            f"{first.n_tokens} and {second.n_tokens} tokens",
            fix="select the rows that both have; models need one vocabulary",
        )
    k = min(first.ids.shape[-1], second.ids.shape[-1])
    a, b = first.ids[..., :k], second.ids[..., :k]
    order = torch.randperm(len(a), generator=generator(seed, "shuffled rows"))
    return NeuronAgreement(
        same_first=(a[..., 0] == b[..., 0]).float().mean(0),
        same_first_shuffled=(a[..., 0] == b[order][..., 0]).float().mean(0),
        overlap=_jaccard(a, b),
        overlap_shuffled=float(_jaccard(a, b[order]).mean()),
        labels={axis: first.labels[axis] for axis in ("direction", "sign")},
        provenance=first.provenance,
    )


def _jaccard(a: Tensor, b: Tensor) -> Tensor:
    shared = (a[..., :, None] == b[..., None, :]).any(-1).sum(-1).float()
    return shared / (2 * a.shape[-1] - shared)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Alignment(Result, headline="Which layers hold the same neurons"):
    """Neurons of one model matched to another's by what they say to each token."""

    similarity: Float[Tensor, "layer other_layer"] = measured(
        "best |correlation|",
        "mean over neurons",
        "the layers hold like neurons",
        signed=False,
        null="similarity_control",
    )
    """Mean over the first model's neurons of the best |correlation| in the other layer."""
    similarity_control: Float[Tensor, "layer other_layer"] = called("chance")
    """Similarity with the second model's tokens permuted: what chance gives."""
    matched_layer: Int[Tensor, " layer"]
    """The other model's layer for every layer (Hungarian on `similarity`)."""
    neuron: Int[Tensor, "layer neuron"]
    """For every neuron its partner in the matched layer (Hungarian on |correlation|)."""
    correlation: Float[Tensor, "layer neuron"]
    """Correlation with the partner over the vocabulary."""
    weight: str
    """Which weights: "in", "gate" or "out"."""

    def check(self) -> Checks:
        """A correlation is at most 1."""
        return Checks([Check.at_most("largest |correlation|", self.correlation.abs().max(), 1.001)])


@torch.no_grad()
def align_models(first: HookedModel, second: HookedModel, weight: str = "out", *, seed: int = 0) -> Alignment:
    """Match layers and neurons of two models that share a vocabulary, whatever their widths.

    x E1 and y E2 live in the same space, one number per token; their correlation over tokens needs
    only the kernels E1'E1, E1'E2 and E2'E2 of the centred embeddings.

    Args:
        weight: MLP side that is compared: "in", "gate" or "out".

    Raises:
        ConfigError: Different vocabularies, or another weight.
        ModelError: A model has no such weight.
        MemoryBudgetError: All layers' weights of both models, widened, are more than what is free.
    """
    check_choice("weight", weight, ("in", "gate", "out"))
    _same_vocabulary(first, second)
    from scipy.optimize import linear_sum_assignment

    sizes = [(one.cfg.n_layers, one.cfg.d_mlp, one.cfg.d_model, one.cfg.d_vocab) for one in (first, second)]
    parts = {
        "MLP weights of all layers": 4.0 * sum(layers * d_mlp * d for layers, d_mlp, d, _ in sizes),
        "token embeddings": 8.0 * sum(n_tokens * d for _, _, d, n_tokens in sizes),
        "neurons by neurons": 8.0 * sizes[0][1] * sizes[1][1],
    }
    fix = "models on a device with more memory, or of fewer layers"
    refuse_parts("align_models", parts, first.device, fix)
    left, right = _rows(first, weight), _rows(second, weight)
    e1, e2 = _centred(first), _centred(second)
    draw = torch.randperm(len(e2), generator=generator(seed, "permuted tokens"))
    norm_left = _lengths(left, e1.T @ e1)
    norm_right = _lengths(right, e2.T @ e2)

    def correlations(i: int, j: int, cross: Tensor) -> Tensor:
        return (left[i] @ cross @ right[j].T) / (norm_left[i][:, None] * norm_right[j][None, :])

    grids = []
    for cross in (e1.T @ e2, e1.T @ e2[draw.to(e2.device)]):
        best = [
            [float(correlations(i, j, cross).abs().amax(-1).mean()) for j in range(len(right))]
            for i in range(len(left))
        ]
        grids.append(torch.tensor(best))
    rows, columns = linear_sum_assignment(grids[0].numpy(), maximize=True)
    layer = torch.full((len(left),), -1)
    layer[torch.as_tensor(rows)] = torch.as_tensor(columns)
    neuron = torch.full(left.shape[:2], -1)
    found = torch.zeros(left.shape[:2])
    for i, j in zip(rows.tolist(), columns.tolist(), strict=True):
        values = correlations(i, j, e1.T @ e2).cpu()
        ours, theirs = map(torch.as_tensor, linear_sum_assignment(values.abs().numpy(), True))
        neuron[i, ours] = theirs
        found[i, ours] = values[ours, theirs].float()
    return Alignment(
        similarity=grids[0],
        similarity_control=grids[1],
        matched_layer=layer,
        neuron=neuron,
        correlation=found,
        weight=weight,
        provenance=first.provenance(),
    )


@torch.no_grad()
def stitch_kernel(model: HookedModel, second: HookedModel) -> Tensor:
    """The linear map that turns the source's token embeddings into the target's best.

    K = pinv(E_source) E_target, [d_source, d_target]: a stream that the source wrote, times K, is
    one that the target's layers can read.

    Raises:
        ConfigError: Different vocabularies.
    """
    _same_vocabulary(model, second)
    return torch.linalg.lstsq(model.W_E.detach().double(), second.W_E.detach().double()).solution


@torch.no_grad()
def run_stitched(
    model: HookedModel, second: HookedModel, inputs: Any, cut: tuple[int, int], kernel: Tensor | None = None
) -> Any:
    """The target's output when its first layers are the source's: no training, one matrix.

    Args:
        inputs: What both models read.
        cut: (layers of the source that run, first layer of the target that runs).
        kernel: [d_source, d_target]; default `stitch_kernel`.

    Raises:
        ConfigError: A cut outside the models.
        ShapeError: A kernel of other widths.
    """
    before, start = cut
    if not (0 <= before <= model.cfg.n_layers and 0 <= start < second.cfg.n_layers):
        raise ConfigError(
            "no such cut", got=cut, expected=f"(0 to {model.cfg.n_layers}, 0 to {second.cfg.n_layers - 1})"
        )
    kernel = stitch_kernel(model, second) if kernel is None else kernel
    wanted = (model.cfg.d_model, second.cfg.d_model)
    if kernel.shape != wanted:
        raise ShapeError("the kernel does not fit", got=list(kernel.shape), expected=list(wanted))
    site = (
        f"blocks.{before}.hook_resid_pre"
        if before < model.cfg.n_layers
        else (f"blocks.{before - 1}.hook_resid_post")
    )
    stream = model.capture(inputs, site)[site]
    mapped = (stream.double() @ kernel.double()).to(stream.dtype)
    return second.run_with_hooks(inputs, [patch(f"blocks.{start}.hook_resid_pre", mapped)])


def _rows(model: HookedModel, weight: str) -> Tensor:
    """[layer neuron d_model], float32."""
    found = getattr(model, f"W_{weight}").detach().float()
    return found if weight == "out" else found.transpose(1, 2)


def _centred(model: HookedModel) -> Tensor:
    embed = model.W_E.detach().float()
    return embed - embed.mean(0)


def _lengths(rows: Tensor, kernel: Tensor) -> Tensor:
    """Deviation over tokens times sqrt(n), [layer neuron]."""
    return ((rows @ kernel) * rows).sum(-1).clamp(min=1e-20).sqrt()


def _same_vocabulary(first: HookedModel, second: HookedModel) -> None:
    one, two = first.tokenization.hash, second.tokenization.hash
    if first.cfg.d_vocab != second.cfg.d_vocab or (one and two and one != two):
        raise ConfigError(
            "the models do not share a vocabulary",
            got=f"{first.cfg.d_vocab} and {second.cfg.d_vocab} tokens",
            expected="one tokenizer for both",
        )
