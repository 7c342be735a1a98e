"""Behaviours that are rules: what is held out is combinations of words."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from interp.tasks.grammar import templates as text
from interp.tasks.grammar import words as w
from interp.tasks.grammar.behaviours import (
    Behaviour,
    Columns,
    Key,
    Source,
    Template,
    another,
    distinct,
    pick,
    plain,
    pool,
    table,
)

# --- indirect object ------------------------------------------------------------------------------


def _names(source: Source, n: int) -> Columns:
    first, second, third = distinct(source, w.NAMES, n, 3)
    return {
        "x": first,
        "y": second,
        "third": third,
        "swap": source.integers(2, size=n),
        "place": pick(source, w.PLACES, n),
        "thing": pick(source, w.THINGS, n),
    }


def _giver(base: Columns) -> Columns:
    swap = base["swap"].astype(bool)
    subject = np.where(swap, base["x"], base["y"])
    indirect = np.where(swap, base["y"], base["x"])
    return base | {"s": subject, "io": indirect, "either": indirect}


INDIRECT_OBJECT = Behaviour(
    name="indirect-object",
    description="when A and B meet and B gives, A receives",
    share=80,
    train=plain(text.INDIRECT_OBJECT, ("x", "y")),
    base=_names,
    derive=_giver,
    corrupt=lambda _, base, _key: base | {"swap": 1 - base["swap"]},
    asked=dict.fromkeys(("dev", "test"), plain(text.INDIRECT_OBJECT, ("x", "y"))),
)
THIRD_NAME = Behaviour(
    name="third-name", share=10, train=plain(text.THIRD_NAME, ("x", "y")), base=_names, derive=_giver
)

# --- agreement ------------------------------------------------------------------------------------

_NOUNS, _VERBS = w.SINGULAR + w.PLURAL, w.VERBS_SINGULAR + w.VERBS_PLURAL


def _nouns(source: Source, n: int) -> Columns:
    kinds = source.permuted(np.tile(np.arange(len(w.SINGULAR)), (n, 1)), axis=1)[:, :3]
    base = {f"{name}_kind": kinds[:, i] for i, name in enumerate("sab")}
    base |= {f"{name}_many": source.integers(2, size=n) for name in "sab"}
    base |= {f"{name}_verb": source.integers(len(w.VERBS_SINGULAR), size=n) for name in "vwu"}
    return base


def _agree(base: Columns) -> Columns:
    nouns, verbs = pool(_NOUNS).reshape(2, -1), pool(_VERBS).reshape(2, -1)
    likes = pool(w.LIKES)
    derived = {x: nouns[base[f"{x}_many"], base[f"{x}_kind"]] for x in "sab"}
    derived |= {x: verbs[base[f"{of}_many"], base[f"{x}_verb"]] for x, of in (("v", "s"), ("u", "a"))}
    return base | derived | {"w": likes[base["a_many"]]}


def _other_number(row: dict[str, int]) -> list[int]:
    return w.ids_of(w.VERBS_SINGULAR if row["s_many"] else w.VERBS_PLURAL)


AGREEMENT = Behaviour(
    name="agreement",
    description="a verb agrees with its subject, whatever nouns stand between",
    share=60,
    train=plain(text.AGREEMENT, ("s_kind", "a_kind")),
    base=_nouns,
    derive=_agree,
    corrupt=lambda _, base, _key: base | {"s_many": 1 - base["s_many"]},
    asked=dict.fromkeys(("dev", "test"), plain(text.AGREEMENT[1:], ("s_kind", "a_kind"))),
    criterion="preference",
    distractors=_other_number,
)

# --- greater-than ---------------------------------------------------------------------------------

_FIRST_YEAR, _LAST_YEAR = 2, 98


def _years(source: Source, n: int) -> Columns:
    return {
        "c": pick(source, w.CENTURIES, n),
        "y_number": source.integers(_FIRST_YEAR, _LAST_YEAR + 1, size=n),
        "u": source.random(n),
        "event": pick(source, w.EVENTS, n),
    }


def _end(base: Columns) -> Columns:
    years, start = pool(w.YEARS), base["y_number"]
    end = start + 1 + (base["u"] * (99 - start)).astype(np.int64)
    return base | {"y": years[start], "z": years[end]}


GREATER_THAN = Behaviour(
    name="greater-than",
    description="an event ends in a later year of the century than it began in",
    share=120,
    train=plain(text.GREATER_THAN, ("c", "y_number")),
    base=_years,
    derive=_end,
    corrupt=lambda _, base, _key: base | {"y_number": np.ones_like(base["y_number"])},
    asked=dict.fromkeys(("dev", "test"), plain(text.GREATER_THAN, ("c", "y_number"))),
    metric="mass_difference",
    bar=0.99,
    answers=lambda row: w.ids_of(w.YEARS[row["y_number"] + 1 :]),
    distractors=lambda row: w.ids_of(w.YEARS[: row["y_number"] + 1]),
)

# --- docstring ------------------------------------------------------------------------------------


def _arguments(source: Source, n: int) -> Columns:
    count = max(text.ARGUMENT_COUNTS)
    base = {f"a{i}": a for i, a in enumerate(distinct(source, w.ARGUMENTS, n, count))}
    base |= {f"t{i}": pick(source, w.DESCRIPTIONS, n) for i in range(count)}
    return base | {"f": pick(source, w.FUNCTIONS, n)}


def _docstrings() -> tuple[Template, ...]:
    made = []
    for count in text.ARGUMENT_COUNTS:
        pairs = tuple((f"a{i}", f"a{i + 1}") for i in range(count - 1))
        made += [Template(text.docstring(count, start), pairs) for start in range(count - 1)]
    return tuple(made)


def _asked_docstrings() -> tuple[Template, ...]:
    return tuple(
        Template(text.docstring(count, start, last), ((f"a{last - 1}", f"a{last}"),))
        for count in text.ARGUMENT_COUNTS
        for start in range(count - 1)
        for last in (start + 1, min(start + 2, count - 1))
        if (last == start + 1) or (start + 2 < count)
    )


def _other_argument(source: Source, base: Columns, key: Key) -> Columns:
    """The signature holds another argument where the answer stood."""
    taken = [base[f"a{i}"] for i in range(max(text.ARGUMENT_COUNTS))]
    return base | {key[1]: another(source, w.ARGUMENTS, *taken)}


DOCSTRING = Behaviour(
    name="docstring",
    description="the argument described next is the next one of the signature",
    share=110,
    train=_docstrings(),
    base=_arguments,
    corrupt=_other_argument,
    asked=dict.fromkeys(("dev", "test"), _asked_docstrings()),
)

# --- induction ------------------------------------------------------------------------------------

_CONTENT = tuple(
    dict.fromkeys(
        word for words in w.CLASSES.values() for word in words if word.startswith(" ") and word[1:].isalpha()
    )
)


def _words(source: Source, n: int) -> Columns:
    count = max(text.BLOCK_LENGTHS)
    rows = pool(_CONTENT)[_sample(source, len(_CONTENT), n, count)]
    return {f"w{i}": rows[:, i] for i in range(count)}


def _sample(source: Source, size: int, n: int, k: int) -> np.ndarray:
    """[n, k] numbers below `size`, different within a row: rows where two met are drawn again."""
    rows = source.integers(size, size=(n, k))
    while True:
        ordered = np.sort(rows, axis=1)
        met = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
        if not len(met):
            return rows
        rows[met] = source.integers(size, size=(len(met), k))


def _blocks() -> tuple[Template, ...]:
    names = [f"w{i}" for i in range(max(text.BLOCK_LENGTHS))]
    return tuple(
        Template(text.induction(length), tuple(pairwise(names[:length]))) for length in text.BLOCK_LENGTHS
    )


def _asked_blocks() -> tuple[Template, ...]:
    return tuple(
        Template(text.induction(length, last), ((f"w{last - 1}", f"w{last}"),))
        for length in (5, 8, 10)
        for last in (1, length // 2, length - 1)
    )


def _other_word(source: Source, base: Columns, key: Key) -> Columns:
    """The list holds another word where the answer stood."""
    return base | {key[1]: another(source, _CONTENT, *base.values())}


INDUCTION = Behaviour(
    name="induction",
    description="a random list of words, read a second time, goes on as before",
    share=80,
    train=_blocks(),
    base=_words,
    corrupt=_other_word,
    asked=dict.fromkeys(("dev", "test"), _asked_blocks()),
)

# --- brackets and quotes --------------------------------------------------------------------------


def _brackets(source: Source, n: int) -> Columns:
    depth = max(text.DEPTHS)
    base = {f"o{i + 1}": o for i, o in enumerate(distinct(source, w.OPENERS, n, depth))}
    base |= {f"n{i + 1}": pick(source, w.SINGULAR + w.PLURAL, n) for i in range(depth)}
    return base | {"adj": pick(source, w.ADJECTIVES, n), "name": pick(source, w.NAMES, n)}


def _closers(base: Columns) -> Columns:
    closer = table(w.OPENERS, w.CLOSERS)
    return base | {f"c{i}": closer[base[f"o{i}"]] for i in text.DEPTHS}


def _other_opener(source: Source, base: Columns, key: Key) -> Columns:
    """The sign that has to be closed is another one, still different from the rest."""
    taken = [base[f"o{i}"] for i in text.DEPTHS]
    return base | {key[0]: another(source, w.OPENERS, *taken)}


BRACKETS = Behaviour(
    name="brackets",
    description="what was opened last is closed first, each with its own sign",
    share=50,
    # Shallow ones are the more frequent, so that after a noun the closing sign is the most likely.
    train=tuple(
        Template(text.brackets(d), tuple((f"o{i}", f"n{i}") for i in range(d, 0, -1)), weight)
        for d, weight in zip(text.DEPTHS, (6.0, 3.0, 1.5), strict=True)
    ),
    base=_brackets,
    derive=_closers,
    corrupt=_other_opener,
    asked=dict.fromkeys(
        ("dev", "test"),
        tuple(
            Template(text.brackets(d, level), ((f"o{level}", f"n{level}"),))
            for d in text.DEPTHS
            for level in range(1, d + 1)
        ),
    ),
)

RULES = (INDIRECT_OBJECT, AGREEMENT, GREATER_THAN, DOCSTRING, INDUCTION, BRACKETS)
CONTROLS = (THIRD_NAME,)
