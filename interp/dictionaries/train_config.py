"""How a dictionary is trained: one frozen dataclass, from which the command line is generated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from interp.activations.config import FitConfig, StreamConfig, TextConfig
from interp.core.blocks import Blocks, Place, in_blocks
from interp.core.settings import MOST, Settings, Size, Whole, between, within
from interp.dictionaries.config import PENALISED, TOPK_FAMILY, Activation, DictionaryConfig

Several = Annotated[int, within(2, MOST)]
Amount = Annotated[int | float, within(0, MOST)]
SMALL_ENCODER = 0.1
"""Norm of encoder rows at the start where a penalty makes latents sparse."""

USUAL_STEPS = {"k_anneal": (1000, 2), "sparsity_warmup": (500, 4), "lr_warmup": (100, 5)}
"""Where None stands: so many steps, at most this part of the run (a half, a quarter, a fifth)."""


@dataclass(frozen=True, kw_only=True)
class PenaltyConfig(Settings):
    """What makes the latents of relu, jumprelu and gated dictionaries few: nothing counts them."""

    l0: Amount | None = None
    """Steer the penalty so that this many latents are active per row; None: its weight stays."""
    sparsity: Amount = 1.0
    """Weight of the penalty; where l0 is given, its value at the start."""
    sparsity_warmup: Whole | None = None
    """Steps over which the penalty grows linearly from nothing; None: 500, or a quarter of the run."""
    lp: Amount = 1.0
    """Exponent p of the penalty |z|^p (relu)."""
    lp_final: Amount | None = None
    """Anneal p linearly from lp to this over the second half of training (relu; p-anneal)."""


if TYPE_CHECKING:

    @dataclass(frozen=True, kw_only=True)
    class _Flat(Blocks, PenaltyConfig, FitConfig, StreamConfig, TextConfig):
        """What `Blocks` reads flat, for editors: names and types of the blocks' settings."""

        data_seed: int = 0
        """Seed of the order of the rows."""
else:
    _Flat = Blocks


@in_blocks
@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Flat):
    """How a dictionary is trained: each setting is checked here, what they say together by `train`.

    The settings of `penalty`, `fit`, `stream` and `text` are given in their block or by their own
    names: `steps=500` is `fit=FitConfig(steps=500)`, and `data_seed` is the seed of `fit` and `stream`.
    """

    ALSO: ClassVar[Mapping[str, tuple[Place, ...]]] = {"data_seed": (("fit", "seed"), ("stream", "seed"))}

    site: str = ""
    """Site that is read, e.g. blocks.3.hook_resid_post; "" for a tensor of rows."""
    site_out: str = ""
    """Site that is reconstructed: "" the same one (an SAE), another one makes it a transcoder."""
    name: str = ""
    """What it is called among several that are trained together; "" takes a number."""

    d_sae: Size = 4096
    """Number of latents."""
    activation: Activation = "topk"
    """How pre-activations become latents."""
    k: Amount = 32
    """Active latents per row: of topk and abstopk exactly, of batchtopk on average."""
    groups: tuple[int, ...] = ()
    """Matryoshka: widths of the nested prefixes that reconstruct by themselves, ending in d_sae."""
    skip: bool = False
    """Transcoder: a linear path W_skip beside the latents (Paulo et al. 2501.18823)."""
    apply_b_dec_to_input: bool = True
    """SAE: subtract b_dec before encoding (a transcoder never does)."""
    decoder_norm: Literal["unit", "free"] = "unit"
    """Decoder rows of norm 1, the parallel gradient removed; or free, with their norm penalised."""
    max_iterations: Size | None = None
    """Matching pursuit: latents taken per row at most; None takes k."""
    residual_threshold: Amount = 1e-2
    """Matching pursuit: a row is done when its residual's norm, in scaled units, is below this."""
    bandwidth: Amount = 0.1
    """JumpReLU: width of the window in which thresholds get a gradient, in scaled units."""

    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    """What makes latents few where k does not count them."""
    k_start: Amount | None = None
    """Topk family: begin with this many active latents and come down to k; None: k throughout."""
    k_anneal: Size | None = None
    """Steps over which k_start comes down to k; None: 1,000, or half of the run."""

    auxk_alpha: Amount = 1 / 32
    """Topk family: weight of AuxK, in which dead latents reconstruct the error; 0 leaves it out."""
    dead_after: Size = 200_000
    """Rows without firing after which a latent counts as dead."""
    resample_every: Size | None = None
    """Steps between resamplings of dead latents at badly reconstructed rows; None: never."""
    resample_similar: Annotated[int | float, between(0, 1)] | None = None
    """Resample also the idler of two latents whose decoder rows have a larger cosine (K-SVD)."""

    b_dec_init: Literal["mean", "geometric_median", "zeros"] = "mean"
    """Where the decoder bias starts; the encoder's is set so that this centre encodes to zero."""
    tied: bool = True
    """The encoder starts as the decoder's transpose (a transcoder's decoder is regressed on it)."""
    encoder_scale: Amount | None = None
    """Norm of the encoder's rows at the start (of a penalised free decoder's, too).
    Small, latents grow into features one after another. None: .1 for relu, jumprelu and gated, for
    the others the size at which the first reconstruction is best."""
    init_rows: Several = 16_384
    """Rows from which centre and scale are measured."""
    scale: bool = True
    """Train on activations scaled to variance 1 per dimension; folded into the weights at last."""

    grad_clip: Amount | None = 1.0
    """Largest norm of each dictionary's gradient; None does not clip."""
    precision: Literal["float32", "float64"] = "float32"
    """Precision of the weights and of their updates."""
    seed: int = 0
    """Seed of the initial weights and of what is drawn for this dictionary."""

    fit: FitConfig = field(default_factory=FitConfig)
    """The training loop; its grad_clip bounds the gradient of all dictionaries of a pass together."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    """How a model's activations become batches of rows."""
    text: TextConfig = field(default_factory=TextConfig)
    """How text becomes token sequences."""

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return 2e-4 / (self.d_sae / 2**14) ** 0.5 if self.fit.lr is None else self.fit.lr

    @property
    def encoder_norm(self) -> int | float | None:
        """Norm of the encoder's rows at the start; None: that of the best reconstruction."""
        if self.encoder_scale is None and self.activation in PENALISED:
            return SMALL_ENCODER
        return self.encoder_scale

    def steps_of(self, setting: str) -> int:
        """How many steps a setting says, or the usual number as far as the run is long enough."""
        given = getattr(self, setting)
        usual, part = USUAL_STEPS[setting]
        return min(usual, self.fit.steps // part) if given is None else given

    def k_at(self, t: int) -> int | float:
        """Active latents per row in step t: from k_start down to k."""
        steps = self.steps_of("k_anneal")
        if self.k_start is None or t >= steps:
            return self.k
        k = self.k_start + (self.k - self.k_start) * t / steps
        return k if self.activation == "batchtopk" else round(k)

    def warmed(self, t: int) -> float:
        """The share of the penalty that counts in step t."""
        return min(1.0, (t + 1) / max(1, self.steps_of("sparsity_warmup")))

    def lp_at(self, t: int) -> int | float:
        """Exponent of the penalty in step t: lp, then down to lp_final over the second half."""
        lp, last = self.penalty.lp, self.penalty.lp_final
        return lp if last is None else lp + (last - lp) * max(0.0, 2 * t / self.fit.steps - 1)

    def dictionary(self, d_in: int, d_out: int, site_in: str, site_out: str) -> DictionaryConfig:
        """What is trained, for activations of these widths."""
        is_transcoder = site_in != site_out
        pursuit = self.activation == "matching_pursuit"
        steps = int(self.k) if self.max_iterations is None else self.max_iterations
        return DictionaryConfig(
            d_in=d_in,
            d_out=d_out if is_transcoder else None,
            d_sae=self.d_sae,
            activation=self.activation,
            k=self.k if self.activation in TOPK_FAMILY else None,
            groups=self.groups,
            skip=self.skip,
            apply_b_dec_to_input=self.apply_b_dec_to_input and not is_transcoder,
            rescale_acts_by_decoder_norm=(self.decoder_norm == "free" and self.activation in TOPK_FAMILY),
            max_iterations=steps if pursuit else None,
            residual_threshold=self.residual_threshold if pursuit else 1e-2,
            site_in=site_in,
            site_out=site_out,
            reshape="hook_z" if site_in.endswith("attn.hook_z") else "none",
            bandwidth=self.bandwidth,
            lp=self.penalty.lp if self.penalty.lp_final is None else self.penalty.lp_final,
            dtype=self.precision,
        )

    def loop(self, *, overwrite: bool = False) -> FitConfig:
        """The loop's settings with what is usual for dictionaries where `fit` says None.

        Raises:
            ConfigError: Warm-up and decay do not fit the run.
        """
        steps, warmup, decay = self.fit.steps, self.steps_of("lr_warmup"), self.fit.lr_decay
        if decay is None and self.fit.lr_schedule != "constant":
            decay = max(0, min(max(1, steps // 5), steps - warmup)) or None
        plan = self.fit.filled(lr=self.rate, lr_schedule="linear", lr_warmup=warmup)
        return dataclasses.replace(plan, lr_decay=decay, overwrite=overwrite or self.fit.overwrite)


PASS = ("fit", "stream", "text")
"""Blocks that dictionaries trained in one pass have in common, but for the rate: they are the pass."""
