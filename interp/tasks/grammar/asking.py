"""The grammar's behaviours as tasks: prompts that stop where the answer is due."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean
from interp.core.randomness import generator
from interp.tasks.grammar import words as w
from interp.tasks.grammar.behaviours import Behaviour, Columns, Source, Template, held
from interp.tasks.grammar.corpus import ASKED, drawn, form
from interp.tasks.grammar.facts import FILLER
from interp.tasks.prompts import Prompt
from interp.tasks.task import Task

SPLITS = ("train", "dev", "test", "wordings", "sums")
MOST_FILLERS = 2


def list_grammar() -> list[str]:
    """The behaviours that `grammar_task` offers."""
    return [behaviour.name for behaviour in ASKED]


def grammar_task(name: str, split: str = "test", *, fillers: int = MOST_FILLERS) -> Task:
    """One behaviour of the bundled model as a task.

    Args:
        name: One of `list_grammar()`.
        split: "test": held-out combinations, or held-out templates where the behaviour is a fact;
            "dev": others of these, watched during training; "train": as in the corpus;
            "wordings": sentences of another make than the corpus's, for facts; "sums": weekday and
            month sums that `withhold_sums` keeps out of the corpus.
        fillers: Up to so many sentences stand in front, so that no position gives an answer away.

    Raises:
        ConfigError: An unknown behaviour or split.
    """
    found = {behaviour.name: behaviour for behaviour in ASKED}
    if name not in found:
        fix = did_you_mean(name, found)
        raise ConfigError(f"the grammar has no behaviour {name!r}", expected=list(found), fix=fix)
    if split not in SPLITS:
        raise ConfigError(f"no split {split!r}", expected=SPLITS, fix=did_you_mean(split, SPLITS))
    behaviour = found[name]
    if split == "sums" and behaviour.sums is None:
        raise ConfigError(f"{name} is no sum", got="split='sums'", expected="weekdays or months")
    if split == "wordings" and behaviour.rule:
        raise ConfigError(f"{name} is a rule: no wordings are held out", fix='split="test"')
    return Task(
        name=name if split == "test" else f"{name} ({split})",
        description=behaviour.description,
        sampler=partial(_prompts, behaviour, split, fillers),
        metric=behaviour.metric,
        criterion=behaviour.criterion,
        bar=behaviour.bar,
        source="the grammar of tiny-grammar",
    )


def _prompts(behaviour: Behaviour, split: str, fillers: int, n: int, seed: int) -> list[Prompt]:
    """n prompts, templates in equal parts, in random order."""
    purpose = f"grammar {behaviour.name} {split}"
    source = np.random.default_rng(generator(seed, purpose).initial_seed() % 2**63)
    asked = behaviour.asked or {}
    templates = asked.get(split, behaviour.train)
    templates = tuple(t for t in templates if form(t.text).answer[1])
    made: list[Prompt] = []
    for i, template in enumerate(templates):
        count = n // len(templates) + (i < n % len(templates))
        if count:
            made += _of_template(behaviour, template, split, source, count, fillers)
    return [made[i] for i in source.permutation(len(made))]


def _of_template(
    behaviour: Behaviour, template: Template, split: str, source: Source, n: int, fillers: int
) -> list[Prompt]:
    base = _free(behaviour, template, source, n, split)
    key = template.keys[-1] if template.keys else ("", "")
    clean = behaviour.derive(base)
    corrupted = None
    if behaviour.corrupt is not None:
        corrupted = behaviour.derive(behaviour.corrupt(source, base, key))
    made, at = form(template.text), form(template.text).answer
    sentences = made.fill(clean, slice(None))[:, : at[0]]
    others = None if corrupted is None else made.fill(corrupted, slice(None))[:, : at[0]]
    front = _fillers(source, n, fillers)
    prompts = []
    for i in range(n):
        row = {name: int(column[i]) for name, column in clean.items() if column.dtype != float}
        answer = row[at[1]]
        wrong = [] if corrupted is None else [int(corrupted[at[1]][i])]
        answers = behaviour.answers(row) if behaviour.answers else [answer]
        distractors = behaviour.distractors(row) if behaviour.distractors else wrong
        prompts.append(
            Prompt(
                clean=_text(front[i] + sentences[i].tolist()),
                corrupted=None if others is None else _text(front[i] + others[i].tolist()),
                answers=_words(answers),
                distractors=_words(distractors),
                template=template.text,
                variables={name: w.vocabulary()[row[name]].strip() for _, name in made.slots},
            )
        )
    return prompts


def _free(behaviour: Behaviour, template: Template, source: Source, n: int, split: str) -> Columns:
    """n rows of free variables: as in the corpus, or with the last key a held-out combination."""
    if split == "train":
        names = behaviour.base(source, 1)
        columns = drawn(behaviour, source, n)
        return {name: columns[name] for name in names}
    key = behaviour.sums if split == "sums" else None
    if behaviour.rule and template.keys:
        key = template.keys[-1]
    if key is None:
        return behaviour.base(source, n)
    kept: list[Columns] = []
    missing = n
    while missing > 0:
        base = behaviour.base(source, 16 * missing)
        good = np.flatnonzero(held(base[key[0]], base[key[1]]))[:missing]
        kept.append({name: column[good] for name, column in base.items()})
        missing -= len(good)
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}


def _fillers(source: Source, n: int, most: int) -> list[list[int]]:
    """0 to `most` sentences for each of n prompts."""
    counts = source.integers(most + 1, size=n)
    columns = FILLER.base(source, max(int(counts.sum()), 1))
    kinds = source.integers(len(FILLER.train), size=max(int(counts.sum()), 1))
    sentences: list[NDArray[np.int64]] = [
        form(FILLER.train[kind].text).fill(columns, slice(i, i + 1))[0] for i, kind in enumerate(kinds)
    ]
    ends = counts.cumsum()
    return [
        [int(token) for sentence in sentences[end - count : end] for token in sentence]
        for count, end in zip(counts, ends, strict=True)
    ]


def _text(ids: Sequence[int]) -> str:
    return "".join(w.vocabulary()[i] for i in ids).lstrip(" ")


def _words(ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(w.vocabulary()[i] for i in ids)


def encode(text: str) -> list[int]:
    """Token ids of a text of the grammar, without the beginning-of-sequence token.

    What the bundled model's tokenizer does, in three lines and without it (equal in tests).

    Raises:
        ConfigError: A word that the grammar does not have.
    """
    table, pieces = w.token_ids(), w.PIECE.findall(text if text.startswith(" ") else f" {text}")
    unknown = [piece for piece in pieces if piece not in table]
    if unknown:
        fix = did_you_mean(unknown[0], table)
        raise ConfigError(f"{unknown[0]!r} is not a word of the grammar", got=text, fix=fix)
    return [table[piece] for piece in pieces]
