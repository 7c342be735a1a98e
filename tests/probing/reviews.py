"""Reviews with a hidden mood, and small language models that read them.

A review is twelve words. Each is, four times in ten, a word of mood (nine times in ten of the
review's own mood), else a word that says nothing; so a reader that predicts well keeps count.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.randomness import generator

GOOD = "great fun lovely superb warm fresh moving brilliant charming clever".split()
BAD = "dull bad awful weak cold stale boring clumsy tedious foolish".split()
PLAIN = "the film a plot was and actors of it scenes with this story music end".split()
WORDS = ["\n", *GOOD, *BAD, *PLAIN]
LENGTH, MOODY, LOYAL = 12, 0.4, 0.9
LETTERS = ["\n", " ", *sorted(set("".join(WORDS[1:])))]


def chances() -> Tensor:
    """P(word | mood), [mood, word]; mood 1 is good."""
    found = torch.zeros(2, len(WORDS), dtype=torch.float64)
    g, b, p = len(GOOD), len(BAD), len(PLAIN)
    for mood in (0, 1):
        good = LOYAL if mood else 1 - LOYAL
        found[mood, 1 : 1 + g] = MOODY * good / g
        found[mood, 1 + g : 1 + g + b] = MOODY * (1 - good) / b
        found[mood, 1 + g + b :] = (1 - MOODY) / p
    return found


def reviews(n: int, seed: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """Word ids [n, 1 + words], the first of them the line break, and moods [n]."""
    draw = generator(seed, "reviews", step)
    mood = torch.randint(2, (n,), generator=draw)
    words = torch.multinomial(chances()[mood], LENGTH, replacement=True, generator=draw)
    return torch.cat([torch.zeros(n, 1, dtype=torch.int64), words], 1), mood


def spelled(words: Tensor) -> tuple[Tensor, Tensor]:
    """Letter ids [n, longest], padded with line breaks, and the index of each one's last letter."""
    lines = ["\n" + " ".join(WORDS[i] for i in row) + " " for row in words[:, 1:].tolist()]
    ends = torch.tensor([len(line) - 1 for line in lines])
    width = int(ends.max()) + 1
    ids = [[LETTERS.index(c) for c in line.ljust(width, "\n")] for line in lines]
    return torch.tensor(ids), ends


def bayes_bits(words: Tensor) -> float:
    """Bits per word of the best reader there can be: it knows the grammar and counts."""
    each = chances().log()[:, words[:, 1:]]  # [mood, n, word]
    total = each.sum(-1).logsumexp(0) - torch.tensor(2.0).log()
    return float(-total.mean() / LENGTH / torch.tensor(2.0).log())


def verdict(words: Tensor) -> Tensor:
    """1 where a review holds more good words than bad ones, .5 where as many; words [n, any]."""
    good = ((words >= 1) & (words <= len(GOOD))).sum(1)
    bad = ((words > len(GOOD)) & (words <= len(GOOD) + len(BAD))).sum(1)
    return (torch.sign(good - bad) + 1) / 2


def read_letters(ids: Tensor) -> Tensor:
    """Verdicts on spelled samples; what is no word counts as nothing."""
    index = {word: i for i, word in enumerate(WORDS)}
    lines = ["".join(LETTERS[i] for i in row).split() for row in ids.tolist()]
    rows = [[index.get(word, 0) for word in line] for line in lines]
    width = max(map(len, rows))
    return verdict(torch.tensor([row + [0] * (width - len(row)) for row in rows]))


def train_reader(
    model: nn.Module, steps: int, *, letters: bool = False, lr: float = 1e-2, seed: int = 0
) -> nn.Module:
    """Next-token training of any module from ids [n, pos] to logits."""

    def step(module: nn.Module, ids: Tensor, t: int) -> Tensor:
        logits = module(ids[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    def batches(t: int) -> Tensor:
        words, _ = reviews(32 if letters else 64, seed, t)
        return spelled(words)[0] if letters else words

    schedule = FitConfig(
        steps=steps, lr=lr, lr_schedule="cosine", grad_clip=1.0, seed=seed, log_every=max(steps // 10, 1)
    )
    fit(model, step, batches, schedule)
    return model.eval()
