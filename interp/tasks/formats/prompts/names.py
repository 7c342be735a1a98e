"""Who is who in sentences of the indirect-object task."""

from __future__ import annotations

import re
from collections import Counter

_NAME = re.compile(r"\b[A-Z]\w+\b")


def subject_and_object(sentence: str) -> tuple[str, str] | None:
    """(subject, indirect object) of "… Mary and John …, John gave … to"; None if it is no such
    sentence: one name stands twice, the other beside it, joined by "and"."""
    counted = Counter(_NAME.findall(sentence))
    for name, count in counted.most_common():
        if count < 2:
            break
        pair = re.search(rf"\b(?:{name} and ([A-Z]\w+)|([A-Z]\w+) and {name})\b", sentence)
        if pair:
            return name, pair[1] or pair[2]
    return None
