"""Training of `tiny-grammar`: four layers, about a million parameters, on the one loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp.activations.config import FitConfig
from interp.activations.loop import Evaluate, fit
from interp.activations.report import FitReport
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from interp.tasks.config import GrammarConfig, GrammarTraining
from interp.tasks.grammar import words as w
from interp.tasks.grammar.asking import encode, grammar_task, list_grammar
from interp.tasks.grammar.corpus import batch, token_weights
from interp.tasks.prompts import Prompt


def grammar_model(training: GrammarTraining, n_ctx: int = 64) -> SmallTransformer:
    """The untrained model: RMS norms, rotary positions, gated MLPs (as Llama)."""
    return SmallTransformer(
        SmallConfig(
            n_layers=training.n_layers,
            d_model=training.d_model,
            n_ctx=n_ctx,
            d_head=training.d_model // training.n_heads,
            n_heads=training.n_heads,
            d_mlp=training.d_mlp,
            d_vocab=len(w.vocabulary()),
            act_fn="silu",
            normalization_type="RMS",
            gated_mlp=True,
            positional_embedding_type="rotary",
        ),
        training.seed,
    )


def train_grammar(
    out: Path | str | None, training: GrammarTraining | None = None, *, device: str = "cpu"
) -> tuple[SmallTransformer, FitReport]:
    """Train on the grammar's corpus.

    Args:
        out: Run folder (a killed run resumes there); None keeps nothing.
        training: Shape, steps, learning rate, seed.
        device: Where to train.

    Returns:
        The model on the CPU, in evaluation mode, and the report with the accuracy of every
        behaviour over steps (development split).

    Raises:
        ConfigError: An impossible setting, or `out` holds a run with other settings.
        NonFiniteError: The training diverged.
    """
    training = training or GrammarTraining()
    corpus = GrammarConfig(batch=training.batch, seed=training.seed, withhold_sums=training.withhold_sums)
    model = grammar_model(training, corpus.n_ctx).to(device)
    settings = FitConfig(
        steps=training.steps,
        lr=training.lr,
        lr_warmup=min(100, training.steps // 4),
        lr_schedule="linear",
        lr_decay=max(1, int(0.7 * training.steps)),
        lr_final=0.01,
        optimizer="adamw",
        weight_decay=training.weight_decay,
        grad_clip=1.0,
        autocast=training.autocast,
        seed=training.seed,
        log_every=50,
    )
    tasks = {name: grammar_task(name, "dev") for name in list_grammar()}
    asked = {
        name: Asked(task.sample(training.asked, seed=training.seed), task.criterion)
        for name, task in tasks.items()
    }

    def batches(t: int) -> tuple[Tensor, Tensor]:
        ids, kinds = batch(corpus, t)
        return ids.to(device), kinds.to(device)

    def measure(module: SmallTransformer, _t: int) -> Mapping[str, float]:
        return {name: float(prompts.right(module).mean()) for name, prompts in asked.items()}

    report = fit(
        model,
        _step,
        batches,
        settings,
        out=out,
        callbacks=[Evaluate(measure, training.measure_every)],
        record={"grammar": asdict(training)},
    )
    return model.cpu().eval(), report


def _step(model: SmallTransformer, pair: tuple[Tensor, Tensor], _t: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted cross-entropy of the next token, and the share of answers that are top-1."""
    ids, kinds = pair
    with sdpa_kernel(SDPBackend.MATH):  # at 64 tokens the fused backward costs 40 % of a CPU's step
        logits = model(ids)[:, :-1]
    target, kind = ids[:, 1:], kinds[:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none")
    weights = token_weights(kind).flatten()
    asked = (kind == 1).flatten()
    hits = (logits.argmax(-1) == target).flatten() & asked
    return (losses * weights).sum() / weights.sum(), {"answers": hits.sum() / asked.sum()}


class Asked:
    """Prompts of one behaviour as tensors, for the model without its tokenizer.

    Args:
        prompts: Texts of the grammar with their answers.
        criterion: As in `Task`.
    """

    def __init__(self, prompts: Sequence[Prompt], criterion: str) -> None:
        table = w.token_ids()
        rows = [[table[w.BOS], *encode(prompt.clean)] for prompt in prompts]
        length = max(map(len, rows))
        # Padding on the right: a causal model does not see it.
        self.ids: Tensor = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        self.last: Tensor = torch.tensor([len(row) - 1 for row in rows])
        self.answers: Tensor = torch.zeros(len(rows), len(table), dtype=torch.bool)
        self.rivals: Tensor = torch.full_like(self.answers, criterion == "accuracy")
        for i, prompt in enumerate(prompts):
            if criterion == "preference":
                self.rivals[i, [table[word] for word in prompt.distractors]] = True
            self.answers[i, [table[word] for word in prompt.answers]] = True
            self.rivals[i] &= ~self.answers[i]

    @torch.no_grad()
    def right(self, model: SmallTransformer) -> Tensor:
        """1 where an answer is above all rivals: all other tokens, or the distractors. [prompt]"""
        device = next(model.parameters()).device
        logits = model(self.ids.to(device))[torch.arange(len(self.ids)), self.last].cpu()
        best = logits.masked_fill(~self.answers, -torch.inf).amax(1)
        return (best > logits.masked_fill(~self.rivals, -torch.inf).amax(1)).float()
