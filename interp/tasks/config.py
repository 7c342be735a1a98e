"""Settings of the tasks, as the command line takes them; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from interp.core.settings import Count, Natural, NonNegative, Positive, Settings, at_least


@dataclass(frozen=True, kw_only=True)
class InductionConfig(Settings):
    """An attention-only model that learns induction in seconds. Checked before any work is done."""

    d_vocab: Count = 64
    """Number of tokens; at least n_ctx - shortest_block, since a sequence repeats nothing early."""
    n_ctx: Count = 48
    """Length of every sequence, even."""
    batch: Count = 32
    """Sequences per step."""
    shortest_block: Count = 4
    """Blocks are shortest_block to n_ctx / 2 tokens long, so no fixed distance solves the task."""
    d_model: Count = 64
    """Width of the residual stream."""
    n_heads: Count = 2
    """Heads in each of the two layers, d_model / n_heads wide."""
    steps: Count = 300
    """Optimizer steps."""
    lr: Positive = 1e-2
    """Peak learning rate of Adam."""
    lr_warmup: Natural = 50
    """Steps of linear warm-up."""
    attention_gain: Positive = 2.0
    """Initial query, key and position weights are this many times HookedTransformer's.

    At 1 the heads of layer 0 often share the previous token between them; at 2 one takes it.
    """
    measure_every: Count = 10
    """Head scores and held-out accuracy are taken every so many steps, and at the last."""
    held_out: Count = 64
    """Held-out sequences, each a block of n_ctx / 2 tokens and its repetition."""
    seed: int = 0
    """Initial weights and every batch follow from it."""


@dataclass(frozen=True, kw_only=True)
class GrammarConfig(Settings):
    """Batches of the grammar's corpus."""

    batch: Count = 256
    """Rows per batch."""
    n_ctx: Annotated[int, at_least(2)] = 64
    """Tokens per row, the beginning-of-sequence token included."""
    seed: int = 0
    """Every batch follows from it and its number."""
    withhold_sums: bool = False
    """Hold out one in ten of the weekday and month sums, to see whether sums are computed."""


@dataclass(frozen=True, kw_only=True)
class GrammarTraining(Settings):
    """How `tiny-grammar` is trained."""

    n_layers: Count = 4
    """Blocks."""
    d_model: Count = 128
    """Width of the residual stream."""
    n_heads: Count = 4
    """Heads per layer."""
    d_mlp: Count = 336
    """Width of the gated MLP."""
    batch: Count = 32
    """Rows of 64 tokens per step."""
    steps: Count = 9000
    """Optimizer steps."""
    autocast: Literal["bfloat16"] | None = "bfloat16"
    """Arithmetic of the training's products; the weights stay float32."""
    lr: Positive = 2e-3
    """Peak learning rate of AdamW; constant for 30 % of the steps, then falling linearly."""
    weight_decay: NonNegative = 0.05
    """Decoupled weight decay."""
    measure_every: Count = 500
    """Behaviours are measured on the development split every so many steps."""
    asked: Count = 200
    """Prompts per behaviour in such a measurement."""
    withhold_sums: bool = False
    """Leave one in ten of the weekday and month sums out of the corpus."""
    seed: int = 0
    """Initial weights and every batch follow from it."""
