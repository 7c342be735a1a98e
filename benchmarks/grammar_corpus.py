"""The grammar's corpus against what it feeds: tokens per second of the generator and of a step.

    python benchmarks/grammar_corpus.py [--rows 256] [--rounds 15]

Interleaved; medians of the rounds in CPU seconds of one thread: a busy machine does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import tyro

from interp.tasks.config import GrammarConfig, GrammarTraining
from interp.tasks.grammar.corpus import batch
from interp.tasks.grammar.training import grammar_model


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is timed."""

    rows: int = 256
    """Rows of 64 tokens per batch."""
    rounds: int = 15
    """Measurements of each."""


def main(sizes: Sizes) -> None:
    """Print tokens per second and the ratio."""
    torch.set_num_threads(1)
    config = GrammarConfig(batch=sizes.rows)
    model = grammar_model(GrammarTraining())
    ids, _ = batch(config, 0)

    def forward() -> None:
        with torch.no_grad():
            model(ids)

    made: list[float] = []
    read: list[float] = []
    for t in range(sizes.rounds):
        made.append(_seconds(lambda t=t: batch(config, t)))
        read.append(_seconds(forward))
    tokens = ids.numel()
    print(f"corpus           {tokens / median(made) / 1e6:8.2f} M tokens/s")
    print(f"forward pass     {tokens / median(read) / 1e6:8.2f} M tokens/s")
    print(f"ratio            {median(read) / median(made):8.1f}")


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main(tyro.cli(Sizes))
