"""Behaviours that are facts (who is a woman, what follows Monday): held out is how they are put."""

from __future__ import annotations

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
from interp.tasks.grammar.templates import FILLER as FILLERS
from interp.tasks.grammar.wordings import HELD_OUT, Split, calendar, wordings


def _asked(split: Split) -> dict[str, tuple]:
    return {name: plain(split[name]) for name in HELD_OUT}


def _heavy(texts: tuple[str, ...], others: int) -> tuple[Template, ...]:
    """Templates that together come as often as so many others."""
    return tuple(Template(text, weight=others / len(texts)) for text in texts)


def _scenery(source: Source, n: int) -> Columns:
    """What sentences mention besides the fact."""
    name, friend = distinct(source, w.NAMES, n, 2)
    thing, other = distinct(source, w.THINGS, n, 2)
    place, where = distinct(source, w.PLACES, n, 2)
    return {
        "name": name,
        "friend": friend,
        "thing": thing,
        "other": other,
        "place": place,
        "where": where,
        "noun": pick(source, w.SINGULAR, n),
        "adjective": pick(source, w.ADJECTIVES, n),
        "event": pick(source, w.EVENTS, n),
    }


# --- weekdays and months --------------------------------------------------------------------------


def _calendar(
    name: str, unit: str, cycle: tuple[str, ...], steps: range, share: int, description: str
) -> Behaviour:
    """Sums on a circle: `steps` units before or after each element of the cycle."""
    split = calendar(unit)

    def base(source: Source, n: int) -> Columns:
        return _scenery(source, n) | {
            "d_number": source.integers(len(cycle), size=n),
            "n_number": source.integers(steps.start, steps.stop, size=n),
        }

    def derive(base: Columns) -> Columns:
        start, step, size = base["d_number"], base["n_number"], len(cycle)
        return base | {
            "d": pool(cycle)[start],
            "n": pool(w.NUMBERS)[step - 1],
            "later": pool(cycle)[(start + step) % size],
            "earlier": pool(cycle)[(start - step) % size],
        }

    def corrupt(source: Source, base: Columns, _key: Key) -> Columns:
        shift = source.integers(1, len(cycle), size=len(base["d_number"]))
        return base | {"d_number": (base["d_number"] + shift) % len(cycle)}

    return Behaviour(
        name=name,
        description=description,
        share=share,
        train=(*plain(split["train"]), *_heavy(split["plain"], 3 * len(split["train"]))),
        base=base,
        derive=derive,
        corrupt=corrupt,
        asked=_asked(split),
        rule=False,
        sums=("d_number", "n_number"),
        bar=0.98,
    )


WEEKDAYS = _calendar(
    "weekdays", "day", w.WEEKDAYS, range(2, 8), 200, "days before and after a day of the week"
)
MONTHS = _calendar(
    "months", "month", w.MONTHS, range(2, 13), 300, "months before and after a month of the year"
)

# --- pronouns -------------------------------------------------------------------------------------


def _person(source: Source, n: int) -> Columns:
    return _scenery(source, n) | {
        "who": source.integers(len(w.MEN), size=n),
        "woman": source.integers(2, size=n),
    }


def _gender(base: Columns) -> Columns:
    people, woman = pool(w.NAMES).reshape(2, -1), base["woman"]
    derived = {name: pool(pair)[woman] for name, pair in w.PRONOUNS.items()}
    return base | derived | {"name": people[woman, base["who"]]}


PRONOUNS = Behaviour(
    name="pronouns",
    description="he or she, by the name",
    share=100,
    train=plain(wordings("pronouns")["train"]),
    base=_person,
    derive=_gender,
    corrupt=lambda _, base, _key: base | {"woman": 1 - base["woman"]},
    asked=_asked(wordings("pronouns")),
    criterion="preference",
    rule=False,
)

# --- sentiment ------------------------------------------------------------------------------------


def _review(source: Source, n: int) -> Columns:
    size = len(w.POSITIVE)
    first = source.integers(size, size=n)
    return _scenery(source, n) | {
        "bad": source.integers(2, size=n),
        "adj_number": first,
        "adj2_number": (first + source.integers(1, size, size=n)) % size,
        "opposite_number": source.integers(size, size=n),
        "verb_number": source.integers(len(w.LIKED), size=n),
        "work": pick(source, w.WORKS, n),
    }


def _valence(base: Columns) -> Columns:
    adjectives = pool(w.POSITIVE + w.NEGATIVE).reshape(2, -1)
    verbs, bad = pool(w.LIKED + w.HATED).reshape(2, -1), base["bad"]
    return base | {
        "adj": adjectives[bad, base["adj_number"]],
        "adj2": adjectives[bad, base["adj2_number"]],
        "opposite": adjectives[1 - bad, base["opposite_number"]],
        "verb": verbs[bad, base["verb_number"]],
    }


SENTIMENT = Behaviour(
    name="sentiment",
    description="who found it wonderful loved it, who found it awful hated it",
    share=60,
    train=plain(wordings("sentiment")["train"]),
    base=_review,
    derive=_valence,
    corrupt=lambda _, base, _key: base | {"bad": 1 - base["bad"]},
    asked=_asked(wordings("sentiment")),
    criterion="preference",
    distractors=lambda row: w.ids_of(w.LIKED if row["bad"] else w.HATED),
    rule=False,
)

# --- capitals -------------------------------------------------------------------------------------


def _country(source: Source, n: int) -> Columns:
    return _scenery(source, n) | {"country": pick(source, w.COUNTRIES, n)}


CAPITALS = Behaviour(
    name="capitals",
    description="the capital of a country",
    share=70,
    train=plain(wordings("capitals")["train"]),
    base=_country,
    derive=lambda base: base | {"capital": table(w.COUNTRIES, w.CAPITALS)[base["country"]]},
    corrupt=lambda source, base, _key: base | {"country": another(source, w.COUNTRIES, base["country"])},
    asked=_asked(wordings("capitals")),
    rule=False,
)

# --- sentences between ----------------------------------------------------------------------------

FILLER = Behaviour(
    name="filler",
    description="sentences that ask for nothing",
    share=40,
    train=plain(FILLERS),
    base=lambda source, n: {
        "adj": pick(source, w.ADJECTIVES, n),
        "noun": pick(source, w.SINGULAR, n),
        "name": pick(source, w.NAMES, n),
        "place": pick(source, w.PLACES, n),
        "thing": pick(source, w.THINGS, n),
    },
)

FACTS = (WEEKDAYS, MONTHS, PRONOUNS, SENTIMENT, CAPITALS)
