"""WinoBias: sentences whose pronoun refers to a profession, both in square brackets.

Source: Zhao et al. 2018, "Gender bias in coreference resolution" (github.com/uclanlp/corefBias).
The prompt is the sentence up to the first such pronoun, the answer the pronoun, the distractor that
of the other gender; so the pro-stereotyped files ask for what the stereotype says.
"""

from __future__ import annotations

import re

from interp.tasks.formats.prompts.pools import pooled
from interp.tasks.formats.source import File
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt
from interp.tasks.task import Task

OTHER: dict[str, tuple[str, ...]] = {
    "he": (" she",),
    "she": (" he",),
    "him": (" her",),
    "his": (" her",),
    "her": (" him", " his"),
    "himself": (" herself",),
    "herself": (" himself",),
}
_LINE = re.compile(r"(\d+) (.*)")
_MARKED = re.compile(r"\[([^\[\]]+)\]")


def reads(file: File) -> bool:
    """Whether the first line is numbered and has two bracketed parts or more."""
    line = _LINE.fullmatch(file.lines[0].strip())
    return line is not None and len(_MARKED.findall(line[2])) >= 2


def read(file: File, options: Options) -> Task:
    """The task; variables are the profession meant and the end of the sentence."""
    prompts = [
        _prompt(file, number, line.strip()) for number, line in enumerate(file.lines, 1) if line.strip()
    ]
    about = "the pronoun for a profession"
    return pooled(file, prompts, about, criterion="preference", origin="WinoBias")


def _prompt(file: File, number: int, line: str) -> Prompt:
    numbered = _LINE.fullmatch(line)
    marks = list(_MARKED.finditer(numbered[2])) if numbered else []
    pronouns = [mark for mark in marks if mark[1].strip().casefold() in OTHER]
    if numbered is None or not pronouns or len(marks) != len(pronouns) + 1:
        raise file.fault(
            "not a sentence with a profession and a pronoun in brackets",
            line=number,
            got=repr(line[:120]),
            expected=FORMAT.looks,
        )
    pronoun, sentence = pronouns[0], numbered[2]
    profession = next(mark for mark in marks if mark not in pronouns)
    word = pronoun[1].strip()
    before = _plain(sentence[: pronoun.start()])
    if not before:
        raise file.fault("nothing stands before the pronoun", line=number, got=repr(line[:120]))
    return Prompt(
        clean=before,
        answers=(f" {word}",),
        distractors=OTHER[word.casefold()],
        variables={"profession": profession[1], "rest": _plain(sentence[pronoun.end() :])},
    )


def _plain(text: str) -> str:
    """Without brackets; the data has a doubled article here and there ("the [the chief]")."""
    return re.sub(r"\b(the) the\b", r"\1", text.replace("[", "").replace("]", "")).strip()


FORMAT = Format("WinoBias", "1 [The cook] left because [she] was tired.", reads, read)
