"""Settings of this room: frozen dataclasses that import nothing but the standard library."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

from interp.core.errors import ConfigError
from interp.core.settings import Count, Decay, NonNegative, Positive, Settings, Size, Whole, at_least

USUAL_RATE = 1e-3
"""Peak learning rate where nothing says another one."""


@dataclass(frozen=True, kw_only=True)
class FitConfig(Settings):
    """How a training runs."""

    steps: Size = 10_000
    """Number of optimizer steps; batches 0 .. steps - 1 are used, each once."""
    lr: NonNegative | None = None
    """Peak learning rate; None: 1e-3, of a dictionary 2e-4 / sqrt(d_sae / 2^14) (Gao et al.
    2406.04093). Ignored when an optimizer is handed to `fit`."""
    lr_schedule: Literal["constant", "linear", "cosine"] | None = None
    """Shape of the decay after the warm-up; None: "constant", of a dictionary "linear"."""
    lr_warmup: Whole | None = None
    """Steps of linear warm-up from lr / lr_warmup to lr; None: none, of a dictionary 100 or a
    fifth of the run."""
    lr_decay: Size | None = None
    """The decay takes the last `lr_decay` steps; None: everything after the warm-up, of a
    dictionary the last fifth."""
    lr_final: NonNegative = 0.0
    """The decay ends at this fraction of lr."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Which torch optimizer, fused where the parameters allow it."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Adam's decay rates; sgd takes the first as its momentum."""
    weight_decay: NonNegative = 0.0
    """Decoupled for adamw, an L2 penalty for adam and sgd."""
    grad_clip: NonNegative | None = None
    """Largest norm of the whole gradient; None does not clip."""
    autocast: Literal["bfloat16"] | None = None
    """Run the step function under autocast to this dtype; None keeps full precision."""
    seed: int = 0
    """Global torch randomness in step t (dropout, say) derives from (seed, t)."""
    log_every: Size = 10
    """One line of metrics.jsonl per this many steps, and one for the last step."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """At a non-finite loss or gradient: stop, or skip the step (counted; ten in a row stop)."""
    checkpoint_seconds: NonNegative = 60.0
    """At least this much time lies between two checkpoints."""
    checkpoint_fraction: Positive = 0.05
    """Checkpoints take at most about this fraction of the run's time."""
    keep_last: Annotated[int, at_least(2)] = 2
    """How many checkpoints stay on disk; at least 2."""
    overwrite: bool = False
    """Replace a run of that name instead of resuming or refusing it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        warmup = self.lr_warmup or 0
        if warmup > self.steps:
            raise ConfigError(
                "lr_warmup is longer than the run",
                got=f"lr_warmup={self.lr_warmup}, steps={self.steps}",
                expected="lr_warmup <= steps",
            )
        constant = self.lr_schedule == "constant"
        if constant and (self.lr_decay is not None or self.lr_final != 0):
            raise ConfigError(
                "a constant learning rate does not decay",
                got=f"lr_schedule='constant', lr_decay={self.lr_decay}, lr_final={self.lr_final}",
                fix="lr_schedule='linear' or 'cosine', or neither of the two",
            )
        if self.lr_decay is not None and self.lr_decay > self.steps - warmup:
            raise ConfigError(
                "warm-up and decay are longer than the run",
                got=f"lr_warmup={self.lr_warmup}, lr_decay={self.lr_decay}, steps={self.steps}",
                expected="lr_warmup + lr_decay <= steps",
            )

    def filled(
        self,
        *,
        lr: float = USUAL_RATE,
        lr_schedule: Literal["constant", "linear", "cosine"] = "constant",
        lr_warmup: int = 0,
    ) -> FitConfig:
        """The same with these values where the schedule says None.

        Raises:
            ConfigError: They do not fit what is given beside them.
        """
        return dataclasses.replace(
            self,
            lr=lr if self.lr is None else self.lr,
            lr_schedule=self.lr_schedule or lr_schedule,
            lr_warmup=lr_warmup if self.lr_warmup is None else self.lr_warmup,
        )


@dataclass(frozen=True, kw_only=True)
class StreamConfig(Settings):
    """How token sequences become shuffled activation batches."""

    batch_size: Size = 4096
    """Rows (token positions) per batch."""
    buffer_sequences: Size = 512
    """Sequences captured and shuffled as one block; more mix better and take more memory."""
    forward_sequences: Size = 32
    """Sequences per forward pass of the model."""
    seed: int = 0
    """Order of sequences and rows derives from (seed, epoch, block)."""
    exclude_bos: bool = True
    """Leave out the activations at beginning-of-sequence tokens."""
    dtype: str | None = None
    """Name of the dtype of the batches, e.g. "float32"; None keeps the model's."""
    device: str | None = None
    """Where the block and its batches live; None keeps the model's."""
    max_bytes: Count = 8 * 2**30
    """Largest block held in memory; a bigger one is refused with the size that fits."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(Settings):
    """How text becomes token sequences."""

    n_ctx: Annotated[int, at_least(2)] | None = None
    """Tokens per sequence, BOS included; None takes the model's context length."""
    pack: bool = True
    """Join documents (BOS between) and cut windows of n_ctx; else one sequence per document."""
    prepend_bos: bool | None = None
    """Start every sequence with BOS; None does what the model was trained with."""
    field: str = "text"
    """Column or key that holds the text in .jsonl, .json, .parquet and datasets."""
    split: str | None = None
    """Split of a saved datasets folder that has several."""
    separator: str = "\n\n"
    """What separates documents in a .txt file; "" makes a file one document."""
    max_sequences: Count | None = None
    """Stop after this many sequences; None reads everything."""
    max_bytes: Count = 2 * 2**30
    """Largest file of text; what is packed may also not unpack to more than 20 times its size."""


@dataclass(frozen=True, kw_only=True)
class ShardConfig(Settings):
    """How stored activations are written."""

    rows: Count | None = None
    """Rows to write; None writes one epoch of the stream (its full batches)."""
    rows_per_shard: Count = 65_536
    """Rows per file; a reader shuffles within one and in the order of them."""
    dtype: str | None = None
    """Name of the stored dtype, e.g. "float16"; None keeps the stream's."""
