"""Trains the models that ship with the package, measures them, writes files and cards.

    python scripts/train_bundled.py tiny-grammar     # half an hour of one core per seed
    python scripts/train_bundled.py induction-2l     # a minute

Runs lie in --runs and resume where they were stopped; finished ones are only measured again.
The shipped seed is the first, whatever it reaches; the others tell how much seeds differ.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

sys.path.insert(0, str(Path(__file__).parent))

from bundled_card import card_text
from bundled_figures import (
    attribution_of_heads,
    behaviours,
    head_scores,
    held_out_sums,
    probes,
    repeated_lists,
    third_name_split,
)

from interp.core.randomness import generator
from interp.core.store import commit
from interp.models import wrap
from interp.models.small.model import SmallTransformer, small_files
from interp.models.text.tokens import load_tokenizer
from interp.tasks.config import GrammarTraining, InductionConfig
from interp.tasks.grammar import words
from interp.tasks.grammar.tokenizer import tokenizer_files
from interp.tasks.grammar.training import train_grammar
from interp.tasks.induction import held_out_blocks, train_induction

BUNDLED = Path(__file__).parents[1] / "interp" / "models" / "bundled"
INDUCTION_WORDS = (words.NAMES + words.THINGS + words.ADJECTIVES)[:64]
"""The vocabulary of induction-2l: any 64 words would do."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Train, measure and write one bundled model."""

    model: tyro.conf.Positional[Literal["tiny-grammar", "induction-2l"]]
    """Which one."""
    runs: Path = Path("runs/bundled")
    """Where checkpoints and metrics lie."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds to train; the first is shipped."""
    prompts: int = 1000
    """Held-out prompts per behaviour."""
    out: Path = BUNDLED
    """The model's folder is written here."""
    grammar: GrammarTraining = field(default_factory=GrammarTraining)
    """Training of tiny-grammar (its seed is replaced)."""


def main(asked: Training) -> None:
    """Train and write what was asked for."""
    torch.set_num_threads(1)  # matrices this small are slower on several
    make = tiny_grammar if asked.model == "tiny-grammar" else induction_2l
    module, files, figures = make(asked)
    figures = {
        "name": asked.model,
        "seed": asked.seeds[0],
        "seeds": list(asked.seeds),
        "parameters": sum(p.numel() for p in module.parameters()),
        **figures,
    }
    files |= small_files(module) | {"card.json": figures, "README.md": card_text(figures)}
    where = commit(asked.out / asked.model, files, overwrite=True, schema="bundled-model")
    print(f"{where}: {sum(f.stat().st_size for f in where.iterdir()):,} bytes")


def tiny_grammar(asked: Training) -> tuple[SmallTransformer, dict[str, Any], dict[str, Any]]:
    """The default model: four layers trained on the grammar."""
    from dataclasses import replace

    files = tokenizer_files(words.vocabulary(), 64, bos=True)
    tokenizer = _tokenizer(files, asked.runs / "tokenizer")
    trained: dict[int, SmallTransformer] = {}
    for seed in asked.seeds:
        training = replace(asked.grammar, seed=seed)
        trained[seed], report = train_grammar(asked.runs / f"tiny-grammar-{seed}", training)
        print(f"seed {seed}: loss {float(report.loss[-1]):.3f}")
    withheld = replace(asked.grammar, seed=asked.seeds[0], withhold_sums=True)
    without, _ = train_grammar(asked.runs / f"tiny-grammar-{asked.seeds[0]}-withheld", withheld)
    models = {seed: wrap(module, tokenizer) for seed, module in trained.items()}
    reached = {seed: behaviours(model, asked.prompts) for seed, model in models.items()}
    first = models[asked.seeds[0]]
    figures = {
        "fingerprint": first.fingerprint(),
        "steps": asked.grammar.steps,
        "prompts": asked.prompts,
        "behaviours": reached[asked.seeds[0]],
        "by_seed": {
            name: [reached[seed][name]["right"] for seed in asked.seeds] for name in reached[asked.seeds[0]]
        },
        "held_out_sums": held_out_sums(wrap(without, tokenizer), asked.prompts),
        "third_name": third_name_split(first, asked.prompts),
        "heads": head_scores(first, *repeated_lists(100)),
        "attribution": attribution_of_heads(first),
        "probes": probes(first),
    }
    return trained[asked.seeds[0]], files, figures


def induction_2l(asked: Training) -> tuple[SmallTransformer, dict[str, Any], dict[str, Any]]:
    """Two attention-only layers that continue a random list read a second time."""
    files = tokenizer_files(INDUCTION_WORDS, 48, bos=False)
    tokenizer = _tokenizer(files, asked.runs / "tokenizer-induction")
    trained, shares = [], []
    for seed in asked.seeds:
        config = InductionConfig(steps=700, seed=seed, measure_every=100)
        module, history = train_induction(asked.runs / f"induction-2l-{seed}", config)
        trained.append(module)
        shares.append(float(history.held_out_accuracy[-1]))
    ids = held_out_blocks(InductionConfig(held_out=1000, seed=generator(0, "card").initial_seed()))
    half = ids.shape[1] // 2
    with torch.no_grad():
        hits = trained[0](ids)[:, half:-1].argmax(-1) == ids[:, half + 1 :]
    first = wrap(trained[0], tokenizer)
    figures = {
        "fingerprint": first.fingerprint(),
        "steps": 700,
        "prompts": len(ids),
        "repeated_half": float(hits.float().mean()),
        "by_seed": {"repeated half": shares},
        "heads": head_scores(first, ids[:100], half),
    }
    return trained[0], files, figures


def _tokenizer(files: dict[str, Any], folder: Path) -> Any:
    """The tokenizer as it will be read from the bundled folder."""
    return load_tokenizer(commit(folder, files, overwrite=True, schema="tokenizer"))


if __name__ == "__main__":
    main(tyro.cli(Training))
