"""Where words stand in the text they were cut from."""

from __future__ import annotations

from collections.abc import Sequence

from interp.core.errors import ConfigError
from interp.tasks.formats.source import File


def joined(words: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Words set with single spaces between them, and each one's span, for sources that kept no
    text."""
    spans, at = [], 0
    for word in words:
        spans.append((at, at + len(word)))
        at += len(word) + 1
    return " ".join(words), tuple(spans)


def found(
    text: str, forms: Sequence[str], file: File | None = None, line: int | None = None
) -> list[tuple[int, int]]:
    """The span of each form in `text`, in order, with nothing but whitespace between them.

    Raises:
        ConfigError: The text goes on with something else than the next form.
    """
    spans: list[tuple[int, int]] = []
    at = 0
    for index, form in enumerate(forms):
        while at < len(text) and text[at].isspace():
            at += 1
        if not form or not text.startswith(form, at):
            raise _apart(text, at, index, form, file, line)
        spans.append((at, at + len(form)))
        at += len(form)
    if text[at:].strip():
        raise _apart(text, at, len(forms), "", file, line)
    return spans


def _apart(text: str, at: int, index: int, form: str, file: File | None, line: int | None) -> ConfigError:
    here = text[at : at + 20]
    what = f"the text and its words part at word {index}, character {at}"
    got, expected = f"text {here!r}", f"word {form!r}" if form else "the end of the text"
    if file is None:
        return ConfigError(what, got=got, expected=expected)
    return file.fault(what, line=line, got=got, expected=expected)
