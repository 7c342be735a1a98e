"""Activation patching: one activation exchanged for the other prompt's, one place at a time.

Meng et al. 2022 (causal tracing), Wang et al. 2022 (IOI), section 3; Heimersheim and Nanda 2024 for
what the two directions mean. A prompt's places are rows of one run that begins at the block, so that
nothing below is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.circuits.budget import TOKENS, refuse_places
from interp.circuits.config import Direction, Patched
from interp.circuits.exact import repeated
from interp.circuits.pairs import Pairs, numbers, read_pairs
from interp.circuits.patched import becomes
from interp.core.activations import Activations
from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, SiteError
from interp.core.frames.quantity import measured
from interp.core.result import Result
from interp.core.settings import check_choice
from interp.models.hooked import HookedModel


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchEffects(Result, headline="Patching {what} ({direction})"):
    """What each exchange does to the metric, as a share of the gap between clean and corrupted.

    Denoising: 0 leaves the corrupted prompt as it is, 1 restores the clean answer. Noising: 0 changes
    nothing, 1 makes the corrupted answer. Shares are not clamped.
    """

    effects: Float[Tensor, "layer place"] = measured("share of the gap", "", "the place carries more")
    """Mean over the prompts; a place is a position, a head, or both."""
    by_prompt: Float[Tensor, "prompt layer place"]
    """Shares of the mean gap, prompt by prompt."""
    clean: Float[Tensor, ""]
    """The metric on the clean prompts."""
    corrupted: Float[Tensor, ""]
    """The metric on the corrupted ones."""
    what: str
    """Which activation was exchanged."""
    direction: str
    """"denoise" or "noise"."""
    metric: str
    """What was read."""

    def check(self) -> Checks:
        """Whether there is a gap to restore."""
        gap = abs(float(self.clean - self.corrupted))
        return Checks([Check.at_least("gap of the metric", gap, 1e-6)])


def patch_activations(
    model: HookedModel,
    inputs: Any,
    target: Any = None,
    *,
    what: Patched = "resid_pre",
    direction: Direction = "denoise",
) -> PatchEffects:
    """Exchange one activation at a time and measure the answer.

    Args:
        inputs, target: As for `score_edges`.
        what: "resid_pre", "attn_out", "mlp_out": layer × position. "heads": the output of each head
            at all positions, layer × head. "heads_by_position": layer × (head, position).
        direction: "denoise": clean activations into the corrupted prompt. "noise": the reverse.

    Raises:
        ConfigError: No corrupted prompts, or a metric that is the same on both sides.
        SiteError: The model has no such sites.
        MemoryBudgetError: One prompt does not fit.
    """
    check_choice("what", what, Patched)
    check_choice("direction", direction, Direction)
    pairs = read_pairs(model, inputs, target)
    sides = pairs.clean, pairs.both()
    places = _Places(model, what)
    refuse_places(model, pairs, places.sites)
    with torch.no_grad():
        ends = [numbers(pairs, model(side)).cpu() for side in sides]
        gap = ends[0] - ends[1]
        if float(gap.mean().abs()) <= 1e-6:
            raise ConfigError(
                "the metric is the same on clean and corrupted prompts, so there is nothing to restore",
                got=f"{float(ends[0].mean()):.6g} and {float(ends[1].mean()):.6g}",
            )
        base, source = (1, 0) if direction == "denoise" else (0, 1)
        rows = []
        for row in range(len(pairs)):
            one = pairs[row : row + 1]
            runs = [model.capture(side[row : row + 1], places.sites) for side in sides]
            rows.append(places.measure(one, sides[base][row : row + 1], runs[base], runs[source]))
    measured_at = torch.stack(rows).cpu()  # [prompt layer place]
    sign = 1.0 if direction == "denoise" else -1.0
    each = sign * (measured_at - ends[base][:, None, None]) / gap.mean()
    return PatchEffects(
        effects=each.mean(0),
        by_prompt=each,
        clean=ends[0].mean(),
        corrupted=ends[1].mean(),
        what=what,
        direction=direction,
        metric=pairs.target.name,
        labels={"layer": [f"L{i}" for i in range(places.n_layers)], "place": places.names(model, pairs)},
        provenance=model.provenance(places.sites),
    )


class _Places:
    """Where one kind of activation sits, and how to exchange it place by place."""

    def __init__(self, model: HookedModel, what: Patched) -> None:
        self.model, self.what = model, what
        self.n_layers = model.cfg.n_layers
        self.heads = what.startswith("heads")
        short = "attn.hook_z" if self.heads else f"hook_{what}"
        self.at = [f"blocks.{layer}.{short}" for layer in range(self.n_layers)]
        self.start = [f"blocks.{layer}.hook_resid_pre" for layer in range(self.n_layers)]
        missing = [site for site in (*self.at, *self.start) if site not in model.sites]
        if missing:
            raise SiteError(f"{model.cfg.model_name} has nothing to patch there", got=missing[0])
        self.sites = list(dict.fromkeys([*self.at, *self.start]))

    def names(self, model: HookedModel, pairs: Pairs) -> list[str]:
        """What the places are called: `3 " Mary"`, `H2`, `H2 @ 3`."""
        width = pairs.clean.ids.shape[1]
        tokens = [str(i) for i in range(width)]
        if model.tokenizer is not None and len(pairs) == 1:
            tokens = [f"{i} {piece}" for i, piece in enumerate(model.to_str_tokens(pairs.clean.ids[0]))]
        if not self.heads:
            return tokens
        heads = [f"H{head}" for head in range(model.cfg.n_heads)]
        if self.what == "heads":
            return heads
        return [f"{head} @ {token}" for head in heads for token in tokens]

    def measure(self, pairs: Pairs, base: Any, here: Activations, other: Activations) -> Tensor:
        """The metric with each place exchanged, [layer place]; rows of one prompt."""
        return torch.stack([self._layer(layer, pairs, base, here, other) for layer in range(self.n_layers)])

    def _layer(self, layer: int, pairs: Pairs, base: Any, here: Activations, other: Activations) -> Tensor:
        site, start = self.at[layer], self.start[layer]
        held, given, begin = here[site], other[site], here[start]
        found = []
        masks = self._masks(held)
        for some in masks.split(max(1, TOKENS // held.shape[1])):
            rows = torch.where(some, given, held)
            if site == start:
                output = self.model.run_from(start, rows, base)
            else:
                with self.model.hooks([(site, becomes(rows))]):
                    output = self.model.run_from(start, begin.expand(len(rows), *begin.shape[1:]), base)
            found.append(repeated(pairs, len(rows)).target.of(output))
        return torch.cat(found)

    def _masks(self, held: Tensor) -> Tensor:
        """Which entries each place exchanges, [place pos 1] or [place pos head 1]."""
        width = held.shape[1]
        by_position = torch.eye(width, dtype=torch.bool, device=held.device)
        if not self.heads:
            return by_position[..., None]
        by_head = torch.eye(held.shape[2], dtype=torch.bool, device=held.device)
        if self.what == "heads":
            return by_head[:, None, :, None].expand(-1, width, -1, -1)
        both = by_head[:, None, None, :] & by_position[None, :, :, None]
        return both.flatten(0, 1)[..., None]
