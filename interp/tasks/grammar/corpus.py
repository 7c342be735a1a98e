"""The corpus: any number of tokens, batch t a function of (seed, t) alone.

A batch is made behaviour by behaviour, a few array operations each. A row is a
beginning-of-sequence token and as many sentences as fit; the last one is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.core.errors import ConfigError
from interp.core.randomness import generator
from interp.tasks.config import GrammarConfig
from interp.tasks.grammar import words as w
from interp.tasks.grammar.behaviours import Behaviour, Columns, Source, Template, held
from interp.tasks.grammar.facts import FACTS, FILLER
from interp.tasks.grammar.rules import CONTROLS, RULES

ASKED = (*RULES, *FACTS)
"""Behaviours with a task."""
MIXTURE = (*ASKED, *CONTROLS, FILLER)
"""Behaviours in the corpus."""
Ints = NDArray[np.int64]
PLAIN, ANSWER, RANDOM = range(3)
"""What a token is: text, the answer to what came before, or a word that nothing determines."""


@dataclass(frozen=True)
class Form:
    """A template as token ids.

    Attributes:
        ids: Ids, 0 at the slots.
        slots: (column, variable).
        kinds: PLAIN, ANSWER or RANDOM per column.
        answer: Column and variable of the last answer; (-1, "") where there is none.
    """

    ids: Ints
    slots: tuple[tuple[int, str], ...]
    kinds: Ints
    answer: tuple[int, str]

    def fill(self, columns: Columns, rows: Ints | slice) -> Ints:
        """The sentences of these rows, [sentence pos]."""
        count = len(next(iter(columns.values()))[rows])
        out = np.repeat(self.ids[None], count, axis=0)
        for at, variable in self.slots:
            out[:, at] = columns[variable][rows]
        return out


@cache
def form(text: str) -> Form:
    """The template as token ids.

    Raises:
        ConfigError: A literal of the template is not in the vocabulary.
    """
    table = w.token_ids()
    ids: list[int] = []
    slots: list[tuple[int, str]] = []
    kinds: list[int] = []
    parts = w.SLOT.split(f" {text}")  # literal, mark, name, literal, ...
    for literal, mark, name in zip(parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True):
        pieces = w.PIECE.findall(literal)
        unknown = [piece for piece in pieces if piece not in table]
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is not a word of the grammar", got=text)
        ids += [table[piece] for piece in pieces]
        kinds += [PLAIN] * len(pieces)
        if name:
            slots.append((len(ids), name))
            ids.append(0)
            kinds.append({"=": ANSWER, "~": RANDOM}.get(mark, PLAIN))
    answers = [(at, name) for at, name in slots if kinds[at] == ANSWER]
    return Form(np.array(ids), tuple(slots), np.array(kinds), answers[-1] if answers else (-1, ""))


def violations(template: Template, columns: Columns) -> NDArray[np.bool_]:
    """Which rows hold a combination that the corpus must not contain."""
    bad = np.zeros(len(next(iter(columns.values()))), dtype=bool)
    for first, second in template.keys:
        bad |= held(columns[first], columns[second])
    return bad


def drawn(behaviour: Behaviour, source: Source, n: int, withhold_sums: bool = False) -> Columns:
    """n rows of free and derived variables, without any held-out combination."""
    keys = behaviour.keys
    if withhold_sums and behaviour.sums:
        keys = (*keys, behaviour.sums)
    strictest = Template("", keys)
    kept: list[Columns] = []
    missing = n
    while missing > 0:
        # Half more than needed, and a few: a second round is rare.
        columns = behaviour.base(source, missing + missing // 2 + 16 if keys else missing)
        good = np.flatnonzero(~violations(strictest, columns))[:missing]
        kept.append({name: column[good] for name, column in columns.items()})
        missing -= len(good)
    whole = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
    return behaviour.derive(whole)


@dataclass(frozen=True)
class Forms:
    """All templates of a behaviour as one table, so that a batch needs no loop over them.

    Attributes:
        names: The variables.
        ids: Token ids [template pos], 0 at slots and beyond the end.
        slots: Number of the variable [template pos], -1 for literals.
        kinds: [template pos].
        lengths: [template].
        odds: Probability of each template.
    """

    names: tuple[str, ...]
    ids: Ints
    slots: Ints
    kinds: Ints
    lengths: Ints
    odds: NDArray[np.float64]

    def fill(self, columns: Columns, which: Ints) -> tuple[Ints, Ints, Ints]:
        """One sentence per row: ids and kinds [sentence pos], lengths [sentence]."""
        values = np.stack([columns[name] for name in self.names], axis=1)
        slots = self.slots[which]
        chosen = np.take_along_axis(values, slots.clip(min=0), axis=1)
        ids = np.where(slots >= 0, chosen, self.ids[which])
        return ids, self.kinds[which], self.lengths[which]


@cache
def _forms(number: int) -> Forms:
    """The table of behaviour `number` of the mixture."""
    made = [form(template.text) for template in MIXTURE[number].train]
    names = tuple(dict.fromkeys(name for one in made for _, name in one.slots))
    shape = (len(made), max(len(one.ids) for one in made))
    ids, slots, kinds = np.zeros(shape, int), np.full(shape, -1), np.zeros(shape, int)
    for row, one in enumerate(made):
        ids[row, : len(one.ids)], kinds[row, : len(one.ids)] = one.ids, one.kinds
        for at, name in one.slots:
            slots[row, at] = names.index(name)
    odds = np.array([template.weight for template in MIXTURE[number].train])
    lengths = np.array([len(one.ids) for one in made])
    return Forms(names, ids, slots, kinds, lengths, odds / odds.sum())


@cache
def _shares() -> tuple[NDArray[np.float64], float]:
    """Probability of each behaviour of the mixture, and the mean length of a sentence."""
    shares = np.array([behaviour.share for behaviour in MIXTURE], dtype=float)
    shares /= shares.sum()
    lengths = [_forms(i).odds @ _forms(i).lengths for i in range(len(MIXTURE))]
    return shares, float(shares @ lengths)


def _stream(source: Source, tokens: int, withhold_sums: bool) -> tuple[Ints, Ints, Ints]:
    """Sentences in random order, at least `tokens` tokens: ids, kinds, where sentences start."""
    shares, mean = _shares()
    counts = source.multinomial(int(tokens / mean * 1.1) + 50, shares)
    groups: list[tuple[Ints, Ints, Ints]] = []
    for number, n in enumerate(counts):
        if n:
            forms = _forms(number)
            columns = drawn(MIXTURE[number], source, int(n), withhold_sums)
            which = source.choice(len(forms.lengths), size=n, p=forms.odds)
            groups.append(forms.fill(columns, which))
    lengths = np.concatenate([length for _, _, length in groups])
    order = source.permutation(len(lengths))
    ends = lengths[order].cumsum()
    starts = np.empty_like(ends)
    starts[order] = ends - lengths[order]
    ids, kinds = np.empty(ends[-1], dtype=np.int64), np.empty(ends[-1], dtype=np.int64)
    done = 0
    for group, kind, length in groups:
        position = np.arange(group.shape[1])
        real = position < length[:, None]
        where = (starts[done : done + len(group), None] + position)[real]
        ids[where], kinds[where] = group[real], kind[real]
        done += len(group)
    return ids, kinds, ends - lengths[order]


def batch(config: GrammarConfig, t: int) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "row pos"]]:
    """Batch t of the corpus: token ids and what each token is (PLAIN, ANSWER, RANDOM).

    Depends on (config.seed, t) only, so that any process can make any batch.

    Args:
        config: Rows, their length, the seed.
        t: Number of the batch.
    """
    seed = generator(config.seed, "grammar", t).initial_seed()
    source = np.random.default_rng(seed % 2**63)
    width = config.n_ctx - 1
    ids, kinds, starts = _stream(source, (config.batch + 1) * width + 64, config.withhold_sums)
    # Row i begins with the first sentence that starts in its stretch of the stream.
    first = starts[np.searchsorted(starts, np.arange(config.batch) * width)]
    where = first[:, None] + np.arange(width)
    rows = np.empty((2, config.batch, config.n_ctx), dtype=np.int64)
    rows[0, :, 0], rows[1, :, 0] = w.token_ids()[w.BOS], PLAIN
    rows[0, :, 1:], rows[1, :, 1:] = ids[where], kinds[where]
    return torch.from_numpy(rows[0]), torch.from_numpy(rows[1])


def token_weights(kinds: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """How much the loss counts a token: answers 2, text 1/10, words that nothing determines .02."""
    return torch.tensor([0.1, 2.0, 0.02], device=kinds.device)[kinds]
