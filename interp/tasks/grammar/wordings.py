"""How the facts of the grammar are put into words. Standard library only.

A fact (what comes after Monday, who is a woman) is asked for in sentences that the corpus never
contains, so the corpus has to put it in very many ways, or a small model learns the sentences
instead. `sentences.json` holds them, by fact:

    frames   parts that are joined in every combination, of which a hash keeps a fixed number
    train    whole sentences by several hands, which saw the words of the corpus and not one another
    plain    for sums: short frames, most of the corpus's sums: on them sums themselves are learned
    dev      held out, by other hands; looked at while the mixture was found
    test     held out: combinations of the frames that the corpus does not keep, drawn after the
             mixture was fixed
    wordings held out: sentences by a hand that had seen none of the others, written after the
             mixture was fixed (they show how far a fact carries)

Half of what the frames make and most of what the sentences make carries an aside before the answer,
so that no distance between words means anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any
from zlib import crc32

Split = dict[str, tuple[str, ...]]
SENTENCES = Path(__file__).with_name("sentences.json")
HELD_OUT = ("dev", "test", "wordings")
VARIANTS = 9
"""How often a whole sentence stands in the corpus with an aside (and once without)."""
GAP = re.compile(r"\b([a-z]+) (?=[a-zA-Z{])")
"""Between two words (not after a slot: numbers stay with what they count)."""
BINDING = frozenset(
    "a an the of in at to on by for from near with my our her his this such very so as".split()
)
"""Words that nothing separates from what follows them."""
SENTENCE_START = re.compile(r"^[a-z]|(?<=[.] )[a-z]")


@cache
def wordings(fact: str) -> Split:
    """The sentences of a fact by split: those of the module's list, "train" with the frames'."""
    data = written()
    own, asides = data[fact], data["asides"]
    made = {
        "train": (*_varied(own["train"], asides), *_framed(own["frames"], asides)),
        **{split: tuple(own[split]) for split in HELD_OUT},
    }
    return made | ({"plain": tuple(_framed(own["plain"], [""]))} if "plain" in own else {})


def calendar(unit: str) -> Split:
    """Weekday ("day") or month sums."""
    preposition = {"day": "on", "month": "in"}[unit]

    def worded(template: str) -> str:
        return re.sub(r"\bon (?=\{[d=])", f"{preposition} ", template.replace("unit", unit))

    return {split: tuple(map(worded, texts)) for split, texts in wordings("calendar").items()}


@cache
def written() -> dict[str, Any]:
    """What `sentences.json` says."""
    return json.loads(SENTENCES.read_text("utf-8"))


def _varied(sentences: Sequence[str], asides: Sequence[str]) -> Iterator[str]:
    """Each sentence, and variants of it with an aside."""
    for sentence in sentences:
        yield sentence
        if _gaps(sentence):
            for i in range(VARIANTS):
                drawn, chosen = divmod(crc32(f"{i}/{sentence}".encode()), len(asides))
                yield _joint(_with_aside(sentence, asides[chosen], drawn))


def _framed(groups: Sequence[dict[str, Any]], asides: Sequence[str]) -> Iterator[str]:
    """Up to `kept` sentences of each frame of each group, always the same ones."""
    for group in groups:
        found: dict[str, None] = {}
        for number, frame in enumerate(group["frames"]):
            parts = [written()["parts"][part] if isinstance(part, str) else part for part in frame]
            total = prod(map(len, parts))
            for i in range(min(total, group["kept"])):
                # A hash of the number, where there are more combinations than are kept.
                drawn = crc32(f"{number}/{i}".encode())
                whole = _combined(parts, i if total <= group["kept"] else drawn % total)
                where, chosen = divmod(drawn // 7, 2 * len(asides))
                if chosen < len(asides):
                    whole = _with_aside(whole, asides[chosen], where)
                found[SENTENCE_START.sub(lambda first: first[0].upper(), _joint(whole))] = None
        yield from found


def _combined(parts: Sequence[Sequence[str]], number: int) -> str:
    """Combination `number` of a frame's parts."""
    chosen = []
    for part in parts:
        number, i = divmod(number, len(part))
        chosen.append(part[i])
    return "".join(chosen)


def _gaps(sentence: str) -> list[int]:
    """Where an aside may stand: between two words that both come before the answer."""
    found = GAP.finditer(sentence, 0, sentence.rindex("{="))
    return [gap.end(1) for gap in found if gap[1] not in BINDING]


def _with_aside(sentence: str, aside: str, number: int) -> str:
    """The sentence with an aside between two of its words, if it can have one."""
    gaps = _gaps(sentence)
    if not gaps:
        return sentence
    at = gaps[number % len(gaps)]
    return sentence[:at] + aside + sentence[at:]


def _joint(sentence: str) -> str:
    """An aside ends in a comma; where the sentence has one, too, one stays."""
    return re.sub(r",([,.;:?])", r"\1", sentence)
