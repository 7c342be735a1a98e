"""The words of the grammar, the classes they belong to, and the vocabulary they make.

A word carries the space before it, as in GPT-2 (` Mary`); closing brackets and quotes, commas, full
stops and the second half of a year carry none (`17`+`32` is ` 17`, `32`). Ids are positions in
`VOCABULARY`, which follows from this file alone. Standard library only.
"""

from __future__ import annotations

import re
from functools import cache

BOS = "<|bos|>"
PAD = "<|pad|>"
UNKNOWN = "<|unknown|>"
SPECIAL = (BOS, PAD, UNKNOWN)

PIECE = re.compile(r" ?[A-Za-z]+| ?[0-9]{1,2}| ?[^A-Za-z0-9 ]| ")
"""What one token is: a word, one or two digits, or one sign, each with the space before it."""
SLOT = re.compile(r" ?\{([=~]?)([A-Za-z0-9_]+)\}")
"""A variable of a template, with the space before it; groups: its mark and its name."""


def spaced(words: str) -> tuple[str, ...]:
    """Each word of a list with the space that comes before it."""
    return tuple(f" {word}" for word in words.split())


MEN = spaced(
    "John Tom James Paul Mark Peter David Robert Simon Henry George Frank Jack Adam Luke Martin "
    "Kevin Brian Eric Daniel Jason Scott Victor Oscar"
)
WOMEN = spaced(
    "Mary Anna Susan Laura Alice Emma Sarah Julia Helen Kate Lucy Jane Rachel Diana Clara Nancy "
    "Karen Linda Rose Amy Maria Sophie Ellen Grace"
)
NAMES = MEN + WOMEN

PLACES = spaced("park school store market office station beach library garden hospital theatre restaurant")
THINGS = spaced("book letter ring ball drink ticket basket coat lamp phone key present")

SINGULAR = spaced(
    "dog cat boy girl teacher doctor farmer king bird horse car tree house table friend artist "
    "driver lawyer pilot singer"
)
PLURAL = spaced(
    "dogs cats boys girls teachers doctors farmers kings birds horses cars trees houses tables "
    "friends artists drivers lawyers pilots singers"
)
VERBS_SINGULAR = spaced("is was has does seems sleeps runs sings waits works")
VERBS_PLURAL = spaced("are were have do seem sleep run sing wait work")

LIKES = (" likes", " like")

PRONOUNS = {
    "he": (" he", " she"),
    "He": (" He", " She"),
    "his": (" his", " her"),
    "him": (" him", " her"),
    "himself": (" himself", " herself"),
}
"""By the form as it is for a man: (a man's, a woman's)."""

POSITIVE = spaced(
    "wonderful excellent lovely brilliant great amazing superb delightful charming perfect "
    "beautiful fantastic"
)
NEGATIVE = spaced("terrible awful boring horrible bad dreadful poor ugly stupid disappointing dull miserable")
LIKED = spaced("loved enjoyed praised")
HATED = spaced("hated disliked attacked")
WORKS = spaced("film novel play song show concert")

COUNTRIES = spaced(
    "France Italy Spain Germany Poland Greece Russia Japan China India Egypt Kenya Canada Cuba "
    "Peru Chile Norway Sweden Finland Austria Ireland Portugal Hungary Iran"
)
CAPITALS = spaced(
    "Paris Rome Madrid Berlin Warsaw Athens Moscow Tokyo Beijing Delhi Cairo Nairobi Ottawa Havana "
    "Lima Santiago Oslo Stockholm Helsinki Vienna Dublin Lisbon Budapest Tehran"
)

WEEKDAYS = spaced("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = spaced("January February March April May June July August September October November December")
NUMBERS = spaced("one two three four five six seven eight nine ten eleven twelve")

CENTURIES = tuple(f" {c}" for c in range(11, 20))
YEARS = tuple(f"{y:02d}" for y in range(100))
EVENTS = spaced("war plague strike siege trial journey voyage crisis revolt famine")

FUNCTIONS = spaced("load save find merge open send sort check")
ARGUMENTS = spaced(
    "files size token path names index value mode limit data label count image group start end "
    "width color target source score buffer level weight"
)
DESCRIPTIONS = spaced("input output number string list table option flag")

OPENERS = (" (", " [", " {", ' "')
CLOSERS = (")", "]", "}", '"')
ADJECTIVES = spaced("red old small quiet young tall green strange happy tired")

CLASSES: dict[str, tuple[str, ...]] = {
    "names": NAMES,
    "places": PLACES,
    "things": THINGS,
    "nouns": SINGULAR + PLURAL,
    "verbs": VERBS_SINGULAR + VERBS_PLURAL + LIKES,
    "pronouns": tuple(word for pair in PRONOUNS.values() for word in pair),
    "sentiment": POSITIVE + NEGATIVE + LIKED + HATED + WORKS,
    "capitals": COUNTRIES + CAPITALS,
    "calendar": WEEKDAYS + MONTHS + NUMBERS,
    "years": CENTURIES + YEARS + EVENTS,
    "code": FUNCTIONS + ARGUMENTS + DESCRIPTIONS,
    "brackets": OPENERS + CLOSERS + ADJECTIVES,
}
"""Every content word by the behaviour that it serves."""


@cache
def vocabulary() -> tuple[str, ...]:
    """All tokens in order of their ids: special ones, content words, then the templates' own."""
    from interp.tasks.grammar.templates import every_template

    seen: dict[str, None] = dict.fromkeys(SPECIAL)
    for words in CLASSES.values():
        seen.update(dict.fromkeys(words))
    literal = {
        piece
        for template in every_template()
        for text in SLOT.split(f" {template}")[::3]
        for piece in PIECE.findall(text)
    }
    seen.update(dict.fromkeys(sorted(literal)))
    return tuple(seen)


@cache
def token_ids() -> dict[str, int]:
    """Token to id."""
    return {token: i for i, token in enumerate(vocabulary())}


def ids_of(words: tuple[str, ...]) -> list[int]:
    """Ids of words."""
    table = token_ids()
    return [table[word] for word in words]
