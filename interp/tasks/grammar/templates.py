"""The sentences of the grammar, as templates. Standard library only.

`{name}` is a variable, `{=name}` one whose value the text before it determines (an answer: trained
with full weight, asked for by the task), `{~name}` one that nothing determines (random words).
Everything else is literal. A slot stands for one token and takes the space before it along.

A behaviour that is a fact has many templates, joined from parts. "train" is what the corpus is made
of; "dev" and "test" are joined from the same parts and never occur in it: the first is watched
during training, the second is what the card reports. "wordings" are sentences of another make, in
words of the corpus: how far a fact carries, reported beside. A rule has no templates held out, but
combinations of words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from zlib import crc32

Split = dict[str, tuple[str, ...]]

INDIRECT_OBJECT = (
    "When {x} and {y} went to the {place}, {s} gave a {thing} to {=io}.",
    "After {x} and {y} left the {place}, {s} sent a {thing} to {=io}.",
    "While {x} and {y} were at the {place}, {s} showed a {thing} to {=io}.",
    "Then {x} and {y} had a long day at the {place}, and {s} handed a {thing} to {=io}.",
    "{x} and {y} met at the {place}, where {s} passed a {thing} to {=io}.",
    "The friends {x} and {y} found a {thing} near the {place}, and {s} gave it to {=io}.",
)
THIRD_NAME = tuple(
    t.replace("{s}", "{third}").replace("{=io}", "{either}") for t in INDIRECT_OBJECT
)
"""The control: a third person gives, and either of the two may receive."""

AGREEMENT = (
    "The {s} {=v}.",
    "The {s} near the {a} {=v}.",
    "The {s} behind the {a} {=v}.",
    "The {s} with the {a} {=v}.",
    "The {s} that the {a} {w} {=v}.",
    "Near the {a} the {s} {=v}.",
    "The {a} {u}, but the {s} {=v}.",
    "The {s} near the {a} behind the {b} {=v}.",
    "With the {a}, the {s} near the {b} {=v}.",
)

GREATER_THAN = (
    "The {event} lasted from {c}{y} to {c}{=z}.",
    "The {event} began in {c}{y} and ended in {c}{=z}.",
    "From {c}{y} to {c}{=z} there was a {event}.",
    "The {event} of {c}{y} went on until {c}{=z}.",
    "A {event} that started in {c}{y} was over in {c}{=z}.",
)


def _joined(*parts: tuple[str, ...]) -> tuple[str, ...]:
    """One template per choice from every part."""
    return tuple("".join(choice) for choice in product(*parts))


def _split(written: tuple[str, ...], joined: tuple[str, ...], others: tuple[str, ...]) -> Split:
    """Three quarters of the joined templates are trained on, the rest held out (by a hash)."""
    share = {t: crc32(t.encode()) % 8 for t in joined}
    train = (*written, *(t for t in joined if share[t] % 4))
    # A sentence that occurs inside a longer one of the corpus is not held out.
    free = [t for t in joined if not share[t] % 4 and not any(t in longer for longer in train)]
    return {
        "train": train,
        "dev": tuple(t for t in free if share[t] == 0),
        "test": tuple(t for t in free if share[t] == 4),
        "wordings": others,
    }


# Tense says nothing about direction: every beginning meets every way to count.
_ANCHORS = (
    "Today is {d}",
    "It was {d}",
    "It is {d}",
    "It will be {d}",
    "The {event} began on {d}",
    "The {event} ended on {d}",
    "{name} left on {d}",
    "{name} will come on {d}",
)
_RESULTS = (" it was", " it is", " it will be", " came")
_LATER = (
    "If today is {d}, then {n} units later it will be {=later}.",
    "Counting {n} units after {d} gives {=later}.",
    "The unit {n} units after {d} is {=later}.",
    "The unit {n} units after {d} was {=later}.",
    "The meeting on {d} was moved {n} units later, to {=later}.",
    "{name} left on {d} and came back {n} units later, on {=later}.",
    "{name} will leave on {d} and come back {n} units later, on {=later}.",
    "The {event} began on {d} and ended after {n} units, on {=later}.",
    "Start at {d} and go forward {n} units: {=later}.",
)
_EARLIER = (
    "If today is {d}, then {n} units earlier it will be {=earlier}.",
    "Counting {n} units before {d} gives {=earlier}.",
    "The unit {n} units before {d} is {=earlier}.",
    "The unit {n} units before {d} was {=earlier}.",
    "The meeting on {d} was moved {n} units earlier, to {=earlier}.",
    "{name} came back on {d} and left {n} units earlier, on {=earlier}.",
    "{name} will come back on {d} and leave {n} units earlier, on {=earlier}.",
    "The {event} ended on {d} and began {n} units before, on {=earlier}.",
    "Start at {d} and go back {n} units: {=earlier}.",
)
_CALENDAR = _split(
    (*_LATER, *_EARLIER),
    (
        *_joined(
            _ANCHORS,
            (", and", "."),
            (" {n} units later", " {n} units after that", " after {n} units", " in {n} units"),
            _RESULTS,
            (" {=later}.",),
        ),
        *_joined(
            _ANCHORS,
            (", and", "."),
            (" {n} units earlier", " {n} units before that", " {n} units before", " {n} units ago"),
            _RESULTS,
            (" {=earlier}.",),
        ),
    ),
    (
        "A letter left on {d} and came {n} units later, on {=later}.",
        "When it was {d}, I wanted to come back {n} units later, on {=later}.",
        "{n} units after {d}, it was {=later}.",
        "Everyone said that {n} units after {d} it will be {=later}.",
        "We came on {d}, but {n} units after that it was {=later}.",
        "A letter came on {d} and left {n} units earlier, on {=earlier}.",
        "{n} units before {d}, it was {=earlier}.",
        "Everyone said that {n} units before {d} it will be {=earlier}.",
        "We left on {d}, but {n} units before that it was {=earlier}.",
    ),
)

PRONOUN = _split(
    (
        "{name} said that {=he} would come.",
        "The {thing} belongs to {name}. {=He} found it.",
        "Everyone likes {name} because {=he} is kind.",
        "I saw {name} at the {place} with {=his} {thing}.",
        "At the {place}, {name} hurt {=himself}.",
        "When {name} was at the {place}, {=he} lost a {thing}.",
        "After {name} left the {place}, I called {=him}.",
        "I met {name} and gave {=him} a {thing}.",
    ),
    _joined(
        (
            "{name} went to the {place}",
            "{name} left the {place}",
            "{name} was at the {place}",
            "{name} ran to the {place}",
            "{name} found a {thing}",
            "{name} lost a {thing}",
            "{name} opened the {thing}",
            "{name} wanted a {thing}",
            "{name} came back",
            "{name} was late",
            "I saw {name} near the {place}",
            "I met {name}",
        ),
        (
            " because {=he} wanted a {other}.",
            ", so {=he} smiled.",
            ", and {=he} smiled.",
            ", and then {=he} was late.",
            " with {=his} {other}.",
            ", but {=he} lost a {other}.",
            " after {=he} found a {other}.",
            " when {=he} was late.",
            ". {=He} smiled.",
            ". Then {=he} left.",
            ". I gave {=him} a {other}.",
            ", and I like {=his} {other}.",
            " near {=his} friend.",
        ),
    ),
    (
        "{name} saw the {place} when {=he} found the {other}.",
        "The friends met {name}, and {=he} gave it back.",
        "{name} thought that {=he} lost the {thing}.",
        "There was a {thing} near {name}, so {=he} opened it.",
        "I went to see {name} because {=he} likes the {thing}.",
        "{name} sent {=his} {thing} to the {place}.",
        "We like {name} and {=his} {thing}.",
    ),
)

SENTIMENT = _split(
    (
        "{name} found the {work} {adj} and {=verb} it.",
        "Because the {work} was {adj}, {name} {=verb} it.",
    ),
    _joined(
        (
            "The {work} was {adj}",
            "I thought the {work} was {adj}",
            "It was a {adj} {work}",
            "{name} found the {work} {adj}",
            "What a {adj} {work}",
            "The {work} was {adj} and {adj2}",
            "The {work} was not {opposite} but {adj}",
            "Everyone said that the {work} was {adj}",
        ),
        (", and", ", so", "."),
        (" I", " we", " everyone", " {name}", " the critics"),
        (" {=verb} it.",),
    ),
    (
        "I saw the {work}. It was {adj}, so I {=verb} it.",
        "The critics thought that the {work} was {adj} and {=verb} it.",
        "The {work} at the theatre was {adj}, and {name} {=verb} it.",
        "{name} went to a {adj} {work} and {=verb} it.",
        "We found that it was a {adj} {work}, and we {=verb} it.",
    ),
)

CAPITALS = _split(
    (
        "If you are in {country}, you should see {=capital}.",
        "The city of {capital} is the capital of {=country}.",
        "The city of {capital} is in {=country}.",
    ),
    _joined(
        ("", "I think that ", "Everyone said that ", "We found that ", "It was said that "),
        (
            "the capital of {country} is {=capital}.",
            "the main city of {country} is {=capital}.",
            "the capital city of {country} was {=capital}.",
            "in {country} the capital is {=capital}.",
            "in {country} the main city is {=capital}.",
            "{country} has its capital in {=capital}.",
            "{country} has its government in {=capital}.",
            "{country} had its main library in {=capital}.",
            "the government of {country} sits in {=capital}.",
            "the government of {country} was in {=capital}.",
            "the king of {country} lives in {=capital}.",
            "the king of {country} was in {=capital}.",
            "the library of {country} is in {=capital}.",
            "a king lives in the capital of {country}, {=capital}.",
            "if you go to {country}, you should see {=capital}.",
            "when you are in {country}, you should see {=capital}.",
            "{name} went to {country} to see the city of {=capital}.",
            "{name} lives in {country}, in the city of {=capital}.",
            "{name} left {country} and its capital, {=capital}.",
        ),
    ),
    (
        "A meeting in {country} began in its capital, {=capital}.",
        "The friends left {country} and went to the capital, {=capital}.",
        "{name} ran to the capital of {country}, to {=capital}.",
        "Everyone in {country} likes the capital, {=capital}.",
        "The library of the government of {country} is in {=capital}.",
        "I met the king of {country} in {=capital}.",
    ),
)
"""Sentences may begin without a capital letter: their first word is then a word like any other."""

FILLER = (
    "The {adj} {noun} likes the {place}.",
    "{name} likes the {thing}.",
    "There was a {adj} {noun} near the {place}.",
    "{name} and the {noun} went to the {place}.",
)

ARGUMENT_COUNTS = (3, 4, 5)
BLOCK_LENGTHS = (4, 5, 6, 7, 8, 9, 10)
DEPTHS = (1, 2, 3)


def docstring(count: int, start: int, last: int | None = None) -> str:
    """A signature of `count` arguments, described one by one from number `start` (to `last`).

    Where the description starts is random, so neither position nor order of appearance tells the
    argument: the one before has to be found in the signature (which has no commas, so that the next
    argument is the next token).
    """
    signature = " ".join(f"{{~a{i}}}" for i in range(count))
    lines = [f":param {{~a{start}}}: the {{~t{start}}}"]
    for i in range(start + 1, count if last is None else last + 1):
        lines.append(f":param {{=a{i}}}: the {{~t{i}}}")
    return f"def {{f}}( {signature}): {' '.join(lines)}."


def induction(length: int, last: int | None = None) -> str:
    """A block of random words and its repetition (the second time up to word `last`)."""
    once = " ".join(f"{{~w{i}}}" for i in range(length))
    again = " ".join(f"{{=w{i}}}" for i in range(1, length if last is None else last + 1))
    return f"Words: {once}; {{w0}} {again}."


def brackets(depth: int, level: int = 1) -> str:
    """Nested brackets and quotes, closed from the innermost out to `level`."""
    opened = " ".join(
        f"{{o{i}}} the " + ("{adj} " if i == 1 else "") + f"{{n{i}}}" for i in range(1, depth + 1)
    )
    closed = "".join(f"{{=c{i}}}" for i in range(depth, level - 1, -1))
    return f"{{name}} wrote {opened}{closed}."


def calendar(unit: str) -> Split:
    """The templates of weekday ("day") or month sums."""
    preposition = {"day": "on", "month": "in"}[unit]

    def worded(template: str) -> str:
        return re.sub(r"\bon (?=\{)", f"{preposition} ", template.replace("unit", unit))

    return {split: tuple(map(worded, texts)) for split, texts in _CALENDAR.items()}


def every_template() -> Iterator[str]:
    """All templates of the training corpus, whose literals are the vocabulary's rest."""
    yield from (*INDIRECT_OBJECT, *AGREEMENT, *GREATER_THAN, *FILLER)
    for split in (calendar("day"), calendar("month"), PRONOUN, SENTIMENT, CAPITALS):
        yield from split["train"]
    yield from (docstring(3, 0), induction(4), brackets(1))
