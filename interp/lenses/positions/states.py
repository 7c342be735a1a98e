"""Position and context: hidden states as mean + position part + context part + the rest.

h_{c,t} = μ + pos_t + ctx_c + resid_{c,t}, with pos_t and ctx_c the means over contexts and over
positions less μ: a two-way analysis of variance whose four parts are orthogonal over the data.
Source: Song and Zhong 2024, "Uncovering hidden geometry in Transformers via disentangling position
and context" (arXiv 2310.04861), and its repository's metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ShapeError
from interp.core.result import Result
from interp.lenses.reading import whole_rows
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import wide


@dataclass(frozen=True, kw_only=True, eq=False)
class PositionContext(Result):
    """The parts of the stream at some sites, and what they are like."""

    mean: Float[Tensor, "layer d_model"]
    """Mean μ over positions and texts."""
    pos: Float[Tensor, "layer pos d_model"]
    """Position part; sums to zero over positions."""
    ctx: Float[Tensor, "layer context d_model"]
    """Context part; sums to zero over contexts."""
    share_pos: Float[Tensor, " layer"]
    """Share of the variance about μ that is position."""
    share_ctx: Float[Tensor, " layer"]
    """Share that is context."""
    share_resid: Float[Tensor, " layer"]
    """Share of what neither explains."""
    top10: Float[Tensor, " layer"]
    """Share of the position part's singular values (their sum) in the ten largest."""
    stable_rank: Float[Tensor, " layer"]
    """Σσ²/σ₁² of the position part."""
    smoothness: Float[Tensor, " layer"]
    """Share of the energy of the position part's Gram matrix in the lowest tenth of frequencies."""
    cosine: Float[Tensor, " layer"]
    """Mean |cos| between position and context vectors; 0 = orthogonal."""
    relative_norm: Float[Tensor, " layer"]
    """‖pos‖₂ / ‖pos + ctx + μ‖₂, spectral norms."""
    sites: tuple[str, ...]
    """Where the states were taken."""
    first: int
    """Position of the text at which the parts begin; earlier ones are left out."""

    def check(self) -> Checks:
        """Both parts are centred, and the shares add up to one."""
        size = float(self.pos.abs().amax().clamp(min=1e-30) + self.ctx.abs().amax())
        total = self.share_pos + self.share_ctx + self.share_resid
        return Checks(
            [
                Check.at_most("sum over positions", self.pos.mean(1).abs().max() / size, 1e-5),
                Check.at_most("sum over contexts", self.ctx.mean(1).abs().max() / size, 1e-5),
                Check.at_most("shares sum to one", (total - 1).abs().max(), 1e-5),
            ]
        )

    def gram(self, layer: int) -> Float[Tensor, "pos other"]:
        """Cosines of the position vectors of one layer."""
        unit = torch.nn.functional.normalize(self.pos[layer], dim=-1)
        return unit @ unit.T

    def plane(self, layer: int) -> Float[Tensor, "pos axis"]:
        """The position vectors in their two leading principal directions."""
        u, s, _ = torch.linalg.svd(self.pos[layer], full_matrices=False)
        return u[:, :2] * s[:2]


def decompose_positions(
    states: Float[Tensor, "layer context pos d_model"] | Sequence[Tensor],
    *,
    sites: Sequence[str] | None = None,
    first: int = 0,
) -> PositionContext:
    """Split hidden states of many texts of one length.

    Args:
        states: [layer context pos d_model], or one [context pos d_model] per layer.
        sites: Names of the layers.
        first: Number of the first position, where some were left out before.

    Raises:
        ShapeError: Not three axes per layer, or fewer than two contexts or positions.
    """
    layers = [wide(layer) for layer in states]
    names = list(sites) if sites is not None else [f"layer {i}" for i in range(len(layers))]
    for layer in layers:
        if layer.ndim != 3 or min(layer.shape[:2]) < 2 or layer.shape != layers[0].shape:
            raise ShapeError(
                "states must be [context pos d_model] with two contexts and positions at least",
                got=[list(one.shape) for one in layers],
                fix="texts of one length: unequal lengths would mix the parts",
            )
    columns: dict[str, list[Tensor]] = {}
    for layer in layers:
        for name, value in _parts(layer).items():
            columns.setdefault(name, []).append(value)
    stacked: dict[str, Any] = {name: torch.stack(values) for name, values in columns.items()}
    return PositionContext(**stacked, sites=tuple(names), first=first, labels={"layer": names})


def split_stream(
    model: HookedModel, inputs: Any, sites: Any = None, *, first: int = 1, batch_size: int = 32
) -> PositionContext:
    """Split a model's stream over texts of one length.

    Args:
        inputs: Texts or ids [context pos] of one length.
        sites: Residual sites; every layer's by default.
        first: First position that counts; 1 leaves the attention sink at 0 out, as the paper does.
        batch_size: Texts per forward pass.

    Raises:
        ConfigError: Nothing is left after `first`.
        ShapeError: Fewer than two texts.
    """
    inputs = whole_rows(model, inputs)
    if inputs.ndim != 2 or inputs.shape[1] - first < 2:
        raise ConfigError(
            "too few positions", got=list(inputs.shape), expected=f"[context, {first + 2} or more]"
        )
    post = "hook_normalized_resid_post" if model.cfg.style == "post" else "hook_resid_post"
    wanted = ["blocks.0.hook_resid_pre", f"blocks.*.{post}"] if sites is None else sites
    names = model.sites.resolve(wanted)
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    for rows in inputs.split(batch_size):
        acts = model.capture(rows, names)
        for name in names:
            kept[name].append(acts[name][:, first:].cpu())
    found = decompose_positions([torch.cat(kept[n]) for n in names], sites=names, first=first)
    return PositionContext(**{**vars(found), "provenance": model.provenance(names)})


def _parts(h: Tensor) -> dict[str, Tensor]:
    """The parts of one layer [context pos d_model], and their measures; sums in double."""
    h = h.double()
    mean = h.mean((0, 1))
    pos, ctx = h.mean(0) - mean, h.mean(1) - mean
    n_ctx, n_pos = h.shape[:2]
    total = (h - mean).pow(2).sum().clamp(min=1e-300)
    shares = {
        "share_pos": n_ctx * pos.pow(2).sum() / total,
        "share_ctx": n_pos * ctx.pow(2).sum() / total,
        "share_resid": (h - mean - pos - ctx[:, None]).pow(2).sum() / total,
    }
    sigma = torch.linalg.svdvals(pos)
    unit = torch.nn.functional.normalize
    fitted = (mean + pos + ctx[:, None]).flatten(0, 1)
    # ‖M‖₂ from the d × d Gram matrix: M has a row per context and position.
    norm_fitted = torch.linalg.eigvalsh(fitted.T @ fitted)[-1].clamp(min=1e-300).sqrt()
    measures = {
        "top10": sigma[:10].sum() / sigma.sum().clamp(min=1e-300),
        "stable_rank": sigma.pow(2).sum() / sigma[0].pow(2).clamp(min=1e-300),
        "smoothness": _smoothness(pos),
        "cosine": (unit(pos, dim=-1) @ unit(ctx, dim=-1).T).abs().mean(),
        "relative_norm": sigma[0] * n_ctx**0.5 / norm_fitted,
    }
    return {
        name: value.float()
        for name, value in {"mean": mean, "pos": pos, "ctx": ctx, **shares, **measures}.items()
    }


def _smoothness(pos: Tensor) -> Tensor:
    """Energy of the two-dimensional cosine transform of the Gram matrix below a tenth of the
    frequencies on both axes; the Gram matrix of a smooth curve has nearly all of it there."""
    gram = pos @ pos.T
    n = len(gram)
    # An even extension keeps the ends from looking like jumps: DCT by FFT.
    even = torch.cat([gram, gram.flip(0)], 0)
    even = torch.cat([even, even.flip(1)], 1)
    energy = torch.fft.fft2(even).abs().pow(2)[:n, :n]
    low = max(1, -(-n // 10))
    return energy[:low, :low].sum() / energy.sum().clamp(min=1e-300)
