"""Settings of the tasks, as the command line takes them; standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class InductionConfig:
    """An attention-only model that learns induction in seconds. Checked before any work is done."""

    d_vocab: int = 64
    """Number of tokens; at least n_ctx - shortest_block, since a sequence repeats nothing early."""
    n_ctx: int = 48
    """Length of every sequence, even."""
    batch: int = 32
    """Sequences per step."""
    shortest_block: int = 4
    """Blocks are shortest_block to n_ctx / 2 tokens long, so no fixed distance solves the task."""
    d_model: int = 64
    """Width of the residual stream."""
    n_heads: int = 2
    """Heads in each of the two layers, d_model / n_heads wide."""
    steps: int = 300
    """Optimizer steps."""
    lr: float = 1e-2
    """Peak learning rate of Adam."""
    lr_warmup: int = 50
    """Steps of linear warm-up."""
    attention_gain: float = 2.0
    """Initial query, key and position weights are this many times HookedTransformer's.

    At 1 the heads of layer 0 often share the previous token between them; at 2 one takes it.
    """
    measure_every: int = 10
    """Head scores and held-out accuracy are taken every so many steps, and at the last."""
    held_out: int = 64
    """Held-out sequences, each a block of n_ctx / 2 tokens and its repetition."""
    seed: int = 0
    """Initial weights and every batch follow from it."""


@dataclass(frozen=True, kw_only=True)
class GrammarConfig:
    """Batches of the grammar's corpus."""

    batch: int = 256
    """Rows per batch."""
    n_ctx: int = 64
    """Tokens per row, the beginning-of-sequence token included."""
    seed: int = 0
    """Every batch follows from it and its number."""
    withhold_sums: bool = False
    """Hold out one in ten of the weekday and month sums, to see whether sums are computed."""


@dataclass(frozen=True, kw_only=True)
class GrammarTraining:
    """How `tiny-grammar` is trained."""

    n_layers: int = 4
    """Blocks."""
    d_model: int = 128
    """Width of the residual stream."""
    n_heads: int = 4
    """Heads per layer."""
    d_mlp: int = 336
    """Width of the gated MLP."""
    batch: int = 32
    """Rows of 64 tokens per step."""
    steps: int = 9000
    """Optimizer steps."""
    autocast: Literal["bfloat16"] | None = "bfloat16"
    """Arithmetic of the training's products; the weights stay float32."""
    lr: float = 2e-3
    """Peak learning rate of AdamW; constant for 30 % of the steps, then falling linearly."""
    weight_decay: float = 0.05
    """Decoupled weight decay."""
    measure_every: int = 500
    """Behaviours are measured on the development split every so many steps."""
    asked: int = 200
    """Prompts per behaviour in such a measurement."""
    withhold_sums: bool = False
    """Leave one in ten of the weekday and month sums out of the corpus."""
    seed: int = 0
    """Initial weights and every batch follow from it."""
