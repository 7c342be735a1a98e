"""Settings of this room: frozen dataclasses that import nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["relu", "topk", "abstopk", "batchtopk", "jumprelu", "gated", "matching_pursuit"]
"""How pre-activations become latents."""

Normalisation = Literal["none", "expected_average_only_in", "constant_norm_rescale", "layer_norm"]
"""What is done to an activation before it is encoded, under SAELens's names."""

TOPK_FAMILY: tuple[Activation, ...] = ("topk", "abstopk", "batchtopk")
"""Activations that keep a number of latents given by `k`."""

PENALISED: tuple[Activation, ...] = ("relu", "jumprelu", "gated")
"""Activations that a penalty makes sparse."""

_SAVED_AS: dict[str, str] = {"relu": "standard", "batchtopk": "jumprelu"}
_TRANSCODERS: dict[str, str] = {
    "relu": "transcoder",
    "jumprelu": "jumprelu_transcoder",
    "batchtopk": "jumprelu_transcoder",
    "topk": "jumprelu_transcoder",
}


@dataclass(frozen=True, kw_only=True)
class DictionaryConfig:
    """What a dictionary is, apart from its numbers. Checked when a `Dictionary` is made of it."""

    d_in: int
    """Width of the activations it reads."""
    d_sae: int
    """Number of latents."""
    d_out: int | None = None
    """Width of what it writes, which makes it a transcoder; None: an SAE, which writes d_in."""
    activation: Activation = "topk"
    """How pre-activations become latents."""
    k: int | float | None = None
    """Active latents per row (topk, abstopk: a whole number; batchtopk: on average)."""
    groups: tuple[int, ...] = ()
    """Matryoshka: increasing widths of nested prefixes, the last one d_sae; () is one group."""
    skip: bool = False
    """A transcoder with a linear path W_skip beside the latents."""
    apply_b_dec_to_input: bool = True
    """Subtract b_dec before encoding; must be False for a transcoder, as in SAELens."""
    rescale_acts_by_decoder_norm: bool = False
    """Topk family: latents are in units of their decoder row's norm, so free norms are fair."""
    normalize_activations: Normalisation = "none"
    """What is done to an activation before it is encoded, and undone after decoding."""
    residual_threshold: float = 1e-2
    """Matching pursuit: stop when the norm of the residual falls below this; 0 never stops."""
    max_iterations: int | None = None
    """Matching pursuit: latents taken at most; None takes up to d_in."""
    stop_on_duplicate_support: bool = True
    """Matching pursuit: stop a row when a step brings no new latent."""
    site_in: str = ""
    """Site read; "" is not tied to a model."""
    site_out: str = ""
    """Site written; "" is site_in."""
    reshape: Literal["none", "hook_z"] = "none"
    """`hook_z`: activations [.. heads, d_head] are flattened to [.. d_in] first."""
    bandwidth: float = 1e-3
    """JumpReLU: width of the window in which the threshold gets a gradient (arXiv 2407.14435)."""
    lp: float = 1.0
    """Exponent p of the sparsity penalty on relu latents."""
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = "float32"
    """Precision of the parameters."""

    @property
    def width_out(self) -> int:
        """Width of what it writes."""
        return self.d_in if self.d_out is None else self.d_out

    @property
    def is_transcoder(self) -> bool:
        """It maps one place to another: `d_out` is given or the sites differ."""
        return self.d_out is not None or self.site_out not in ("", self.site_in)

    @property
    def architecture(self) -> str | None:
        """SAELens's name of what it is saved as; None where SAELens has no such thing."""
        if not self.is_transcoder:
            return _SAVED_AS.get(self.activation, self.activation)
        found = _TRANSCODERS.get(self.activation)
        return found.replace("transcoder", "skip_transcoder") if found and self.skip else found
