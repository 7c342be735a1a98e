"""How a dictionary is trained: one frozen dataclass, from which the command line is generated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from interp.activations.config import FitConfig, StreamConfig, TextConfig
from interp.core.errors import ConfigError
from interp.core.settings import Decay, Settings, between, check_options, within
from interp.dictionaries.config import PENALISED, TOPK_FAMILY, Activation, DictionaryConfig

MOST = 2**31 - 1
"""No size in a config is larger."""
Size = Annotated[int, within(1, MOST)]
Several = Annotated[int, within(2, MOST)]
Whole = Annotated[int, within(0, MOST)]
Amount = Annotated[int | float, within(0, MOST)]
Rate = Annotated[float, within(0, MOST)]
SMALL_ENCODER = 0.1
"""Norm of encoder rows at the start where a penalty makes latents sparse."""


USUAL_STEPS = {"k_anneal": (1000, 2), "sparsity_warmup": (500, 4), "lr_warmup": (100, 5)}
"""Where None stands: so many steps, at most this part of the run (a half, a quarter, a fifth)."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """How a dictionary is trained: each setting is checked here, what they say together by `train`."""

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

    l0: Amount | None = None
    """relu, jumprelu, gated: steer the penalty so that this many latents are active per row."""
    sparsity: Amount = 1.0
    """relu, jumprelu, gated: weight of the penalty; where l0 is given, its value at the start."""
    sparsity_warmup: Whole | None = None
    """Steps over which the penalty grows linearly from nothing; None: 500, or a quarter of the run."""
    lp: Amount = 1.0
    """relu: exponent p of the penalty |z|^p."""
    lp_final: Amount | None = None
    """relu: anneal p linearly from lp to this over the second half of training (p-anneal)."""
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

    steps: Size = 10_000
    """Optimizer steps."""
    batch_size: Size = 4096
    """Rows per step."""
    lr: Rate | None = None
    """Peak learning rate; None takes 2e-4 / sqrt(d_sae / 2^14) (Gao et al. 2406.04093)."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Shape of the decay."""
    lr_warmup: Whole | None = None
    """Steps of linear warm-up; None: 100, or a fifth of the run."""
    lr_decay: Size | None = None
    """The decay takes this many last steps; None: the last fifth."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Adam's decay rates."""
    grad_clip: Amount | None = 1.0
    """Largest norm of each dictionary's gradient; None does not clip."""
    autocast: Literal["bfloat16"] | None = None
    """Run the step under autocast to this dtype; None keeps full precision."""
    precision: Literal["float32", "float64"] = "float32"
    """Precision of the weights and of their updates."""
    seed: int = 0
    """Seed of the initial weights and of what is drawn for this dictionary."""

    data_seed: int = 0
    """Seed of the order of the rows."""

    n_ctx: Several | None = None
    """Tokens per sequence of text; None takes the model's context length."""
    exclude_bos: bool = True
    """Leave out the activations at beginning-of-sequence tokens."""
    buffer_sequences: Size = 512
    """Sequences captured and shuffled as one block."""
    forward_sequences: Size = 32
    """Sequences per forward pass of the model."""
    log_every: Size = 10
    """One line of metrics.jsonl per this many steps."""
    checkpoint_seconds: Amount = 60.0
    """At least this much time lies between two checkpoints."""

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "the config") -> TrainConfig:
        """From keys and values as YAML or JSON give them; lists become tuples.

        Raises:
            ConfigError: Something that is no mapping, or a key that is no setting.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"{where} must be keys and values", got=_short(values), expected="such as `d_sae: 4096`"
            )
        check_options(where, values, [field.name for field in dataclasses.fields(cls)])
        given: dict[str, Any] = dict(values)
        return cls(**{k: _tupled(v) for k, v in given.items()})

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return 2e-4 / (self.d_sae / 2**14) ** 0.5 if self.lr is None else self.lr

    @property
    def encoder_norm(self) -> int | float | None:
        """Norm of the encoder's rows at the start; None: that of the best reconstruction."""
        if self.encoder_scale is None and self.activation in PENALISED:
            return SMALL_ENCODER
        return self.encoder_scale

    @property
    def is_controlled(self) -> bool:
        """Whether the penalty is steered towards `l0`."""
        return self.l0 is not None

    def steps_of(self, setting: str) -> int:
        """How many steps a setting says, or the usual number as far as the run is long enough."""
        given = getattr(self, setting)
        usual, part = USUAL_STEPS[setting]
        return min(usual, self.steps // part) if given is None else given

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
        if self.lp_final is None:
            return self.lp
        done = max(0.0, 2 * t / self.steps - 1)
        return self.lp + (self.lp_final - self.lp) * done

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
            lp=self.lp if self.lp_final is None else self.lp_final,
            dtype=self.precision,
        )

    def fit(self, *, overwrite: bool = False) -> FitConfig:
        """The training loop's settings; gradients are clipped per dictionary, not by the loop.

        Raises:
            ConfigError: Warm-up and decay do not fit the run.
        """
        warmup = self.steps_of("lr_warmup")
        decay = self.lr_decay
        if decay is None and self.lr_schedule != "constant":
            decay = max(0, min(max(1, self.steps // 5), self.steps - warmup)) or None
        return FitConfig(
            steps=self.steps,
            lr=self.rate,
            lr_schedule=self.lr_schedule,
            lr_warmup=warmup,
            lr_decay=decay,
            betas=self.betas,
            autocast=self.autocast,
            seed=self.data_seed,
            log_every=self.log_every,
            checkpoint_seconds=self.checkpoint_seconds,
            overwrite=overwrite,
        )

    def stream(self) -> StreamConfig:
        """How a model's activations become batches."""
        return StreamConfig(
            batch_size=self.batch_size,
            buffer_sequences=self.buffer_sequences,
            forward_sequences=self.forward_sequences,
            seed=self.data_seed,
            exclude_bos=self.exclude_bos,
        )

    def text(self) -> TextConfig:
        """How text becomes token sequences."""
        return TextConfig(n_ctx=self.n_ctx)


SHARED = tuple(
    """
    steps batch_size lr_schedule lr_warmup lr_decay betas autocast data_seed n_ctx exclude_bos
    buffer_sequences forward_sequences log_every checkpoint_seconds
    """.split()
)
"""Settings that dictionaries trained in one pass have in common: they are the pass."""


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
