"""Repeated blocks of random tokens, and a two-layer attention-only model that learns them live.

The only way to predict a repeated random block is to find where the current token stood before and
to copy what followed: a previous-token head in layer 0 feeds an induction head in layer 1 (Elhage
et al. 2021; Olsson et al. 2022). Both appear together, in one jump of accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import Evaluate, fit
from interp.activations.report import FitReport
from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.frames.quantity import measured, places
from interp.core.randomness import generator
from interp.core.result import Result
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from interp.tasks.config import InductionConfig

LAYERS = 2


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InductionHistory(Result, headline="How induction was learned"):
    """How the model came to do induction: curves over steps, head scores over measurements."""

    loss: Float[Tensor, " step"] = measured(
        "cross-entropy of repeated tokens", "nats per token", "it is foreseen less", along="step"
    )
    """Cross-entropy of the repeated tokens of each training batch, nats per token."""
    accuracy: Float[Tensor, " step"] = measured(
        "repeated tokens predicted", "share", "the repetition is foreseen", signed=False, along="step"
    )
    """Share of the repeated tokens of each training batch that were predicted."""
    measured_at: Int[Tensor, " measurement"] = places("measurement", "steps done")
    """Steps done (1 = after the first) when the heads were measured."""
    held_out_accuracy: Float[Tensor, " measurement"] = measured(
        "held-out tokens predicted", "share", "induction works", signed=False, along="measurement"
    )
    """Share of the second half of held-out sequences that was predicted."""
    previous_token: Float[Tensor, "measurement layer head"]
    """Mean attention, in the first half of held-out sequences, to the token before."""
    induction: Float[Tensor, "measurement layer head"]
    """Mean attention, in the second half, to the token that followed the current one before."""
    seconds: float
    """Time spent in training."""

    def check(self) -> Checks:
        """It works at the end, and through the two heads that the theory names."""
        return Checks(
            [
                Check.at_least("held_out_accuracy", float(self.held_out_accuracy[-1]), 0.9),
                Check.at_least("previous_token_head", float(self.previous_token[-1, 0].max()), 0.7),
                Check.at_least("induction_head", float(self.induction[-1, 1].max()), 0.7),
            ]
        )


def repeated_blocks(config: InductionConfig, t: int) -> Tensor:
    """Training batch t, token ids [batch pos]; depends on (config.seed, t) only.

    A sequence is a filler, then a block repeated to the end. Lengths of both are random and all
    tokens before the first repetition are different, so every repeated token has one answer.
    """
    _check(config)
    source = generator(config.seed, "induction batch", t)
    span = config.n_ctx // 2 - config.shortest_block + 1
    block = config.shortest_block + torch.randint(span, (config.batch, 1), generator=source)
    room = config.n_ctx - 2 * block + 1
    filler = (torch.rand(config.batch, 1, generator=source) * room).long()
    return _sequences(config, source, block, filler)


def held_out_blocks(config: InductionConfig) -> Tensor:
    """Held-out token ids [held_out pos]: a block of n_ctx / 2 tokens and its repetition."""
    _check(config)
    block = torch.full((config.held_out, 1), config.n_ctx // 2)
    source = generator(config.seed, "induction held out")
    return _sequences(config, source, block, torch.zeros_like(block))


def _sequences(config: InductionConfig, source: torch.Generator, block: Tensor, filler: Tensor) -> Tensor:
    """Filler and repeated block of the lengths given per row [row 1]; ids [row pos]."""
    tokens = torch.rand(len(block), config.d_vocab, generator=source).argsort(1)
    position = torch.arange(config.n_ctx)
    index = torch.where(position < filler, position, filler + (position - filler) % block)
    return tokens.gather(1, index)


def _check(config: InductionConfig) -> None:
    """Refuse what would need tokens or positions that do not exist."""
    needs = {
        "n_ctx": (config.n_ctx % 2 == 0, "an even number"),
        "shortest_block": (2 <= config.shortest_block <= config.n_ctx // 2, "2 to n_ctx / 2"),
        "d_vocab": (
            config.d_vocab >= config.n_ctx - config.shortest_block,
            "at least n_ctx - shortest_block",
        ),
        "n_heads": (config.n_heads > 0 and config.d_model % config.n_heads == 0, "d_model / n"),
        "batch": (config.batch > 0, "1 or more"),
        "held_out": (config.held_out > 0, "1 or more"),
    }
    for name, (holds, expected) in needs.items():
        if not holds:
            got = getattr(config, name)
            raise ConfigError(f"impossible {name} for induction", got=got, expected=expected)


def induction_model(config: InductionConfig) -> SmallTransformer:
    """The untrained model: two attention layers, learned positions, no norm, no MLP."""
    _check(config)
    shape = SmallConfig(
        n_layers=LAYERS,
        d_model=config.d_model,
        n_ctx=config.n_ctx,
        d_head=config.d_model // config.n_heads,
        d_vocab=config.d_vocab,
        n_heads=config.n_heads,
        attn_only=True,
        normalization_type=None,
        default_prepend_bos=False,
    )
    model = SmallTransformer(shape, config.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith((".W_Q", ".W_K", ".W_pos")):
                parameter.mul_(config.attention_gain)
    return model


def train_induction(
    out: Path | str | None, config: InductionConfig | None = None
) -> tuple[SmallTransformer, InductionHistory]:
    """Train the model on repeated blocks, watching its heads.

    Args:
        out: Run folder (metrics and checkpoints; a killed run resumes there); None keeps nothing.
        config: Task, model and optimizer.

    Returns:
        The trained model, in evaluation mode, and its history.

    Raises:
        ConfigError: An impossible setting, or `out` holds a run with other settings.
        NonFiniteError: The training diverged (a learning rate far too high).
    """
    config = config or InductionConfig()
    model, sequences = induction_model(config), held_out_blocks(config)
    settings = FitConfig(
        steps=config.steps,
        lr=config.lr,
        lr_warmup=config.lr_warmup,
        betas=(0.9, 0.98),
        grad_clip=1.0,
        seed=config.seed,
        log_every=1,
    )

    def measure(module: SmallTransformer, _t: int) -> Mapping[str, float]:
        return _measure(module, sequences)

    with _one_thread():
        report = fit(
            model,
            _step,
            lambda t: repeated_blocks(config, t),
            settings,
            out=out,
            callbacks=[Evaluate(measure, config.measure_every)],
            record={"induction": asdict(config)},
        )
    return model.eval(), _history(report, config.n_heads)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices this small cost less than waking a second thread, on a busy machine far less."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _step(model: SmallTransformer, ids: Tensor, _t: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy and accuracy at every token that follows one seen before."""
    logits, target = model(ids)[:, :-1], ids[:, 1:]
    seen = (ids[:, :, None] == ids[:, None, :]).tril(-1).any(-1)[:, :-1]
    loss = F.cross_entropy(logits[seen], target[seen])
    return loss, {"accuracy": (logits.argmax(-1) == target)[seen].float().mean()}


def _measure(model: SmallTransformer, ids: Tensor) -> dict[str, float]:
    """Held-out accuracy and both scores of every head, as flat metrics."""
    half = ids.shape[1] // 2
    patterns: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, pattern: Tensor) -> None:
        patterns.append(pattern)

    points = [model.get_submodule(f"blocks.{i}.attn.hook_pattern") for i in range(LAYERS)]
    handles = [point.register_forward_hook(keep) for point in points]
    try:
        logits = model(ids)
    finally:
        for handle in handles:
            handle.remove()
    hits = logits[:, half:-1].argmax(-1) == ids[:, half + 1 :]
    found = {"held_out_accuracy": float(hits.float().mean())}
    for layer, pattern in enumerate(patterns):  # [sequence head query key]
        before = pattern.diagonal(-1, 2, 3)[..., :half].mean((0, 2))
        # query q of the second half looks at key q - half + 1; query half - 1 has nothing to repeat
        follows = pattern.diagonal(1 - half, 2, 3)[..., 1:].mean((0, 2))
        for head, (previous, induction) in enumerate(zip(before, follows, strict=True)):
            found[f"previous_token/L{layer}H{head}"] = float(previous)
            found[f"induction/L{layer}H{head}"] = float(induction)
    return found


def _history(report: FitReport, heads: int) -> InductionHistory:
    """Records of the run as arrays."""
    rows: list[dict[str, Any]] = [r for r in report.records if "held_out_accuracy" in r]

    def scores(kind: str) -> Tensor:
        names = [f"{kind}/L{layer}H{head}" for layer in range(LAYERS) for head in range(heads)]
        flat = torch.tensor([[row[name] for name in names] for row in rows])
        return flat.unflatten(1, (LAYERS, heads))

    measured = [row["step"] + 1 for row in rows]
    return InductionHistory(
        loss=torch.tensor(report.series("loss")[1]),
        accuracy=torch.tensor(report.series("accuracy")[1]),
        measured_at=torch.tensor(measured),
        held_out_accuracy=torch.tensor([row["held_out_accuracy"] for row in rows]),
        previous_token=scores("previous_token"),
        induction=scores("induction"),
        seconds=report.seconds,
        labels={"measurement": [str(step) for step in measured]},
    )
