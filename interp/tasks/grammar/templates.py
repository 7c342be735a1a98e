"""The sentences of the grammar, as templates. Standard library only.

`{name}` is a variable, `{=name}` one whose value the text before it determines (an answer: trained
with full weight, asked for by the task), `{~name}` one that nothing determines (random words).
Everything else is literal. A slot stands for one token and takes the space before it along.

A behaviour that is a fact has very many (see `wordings`), and templates are held out. A rule has a
few, and combinations of words are held out.
"""

from __future__ import annotations

from collections.abc import Iterator

from interp.tasks.grammar.wordings import calendar, wordings

INDIRECT_OBJECT = (
    "When {x} and {y} went to the {place}, {s} gave a {thing} to {=io}.",
    "After {x} and {y} left the {place}, {s} sent a {thing} to {=io}.",
    "While {x} and {y} were at the {place}, {s} showed a {thing} to {=io}.",
    "Then {x} and {y} had a long day at the {place}, and {s} handed a {thing} to {=io}.",
    "{x} and {y} met at the {place}, where {s} passed a {thing} to {=io}.",
    "The friends {x} and {y} found a {thing} near the {place}, and {s} gave it to {=io}.",
)
THIRD_NAME = tuple(t.replace("{s}", "{third}").replace("{=io}", "{either}") for t in INDIRECT_OBJECT)
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


def every_template() -> Iterator[str]:
    """All templates of the training corpus, whose literals are the vocabulary's rest."""
    yield from (*INDIRECT_OBJECT, *AGREEMENT, *GREATER_THAN, *FILLER)
    for unit in ("day", "month"):
        splits = calendar(unit)
        yield from (*splits["train"], *splits["plain"])
    for fact in ("pronouns", "sentiment", "capitals"):
        yield from wordings(fact)["train"]
    yield from (docstring(3, 0), induction(4), brackets(1))
