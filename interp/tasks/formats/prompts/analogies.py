"""word2vec's analogies: four words a line, sections after a colon.

Source: Mikolov et al. 2013, "Efficient estimation of word representations in vector space"
(questions-words.txt). The first three words ask for the fourth; the section is the template.
"""

from __future__ import annotations

from interp.tasks.formats.prompts.pools import pooled
from interp.tasks.formats.source import File
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt
from interp.tasks.task import Task

WORDS = 4


def reads(file: File) -> bool:
    """Whether the first line names a section and the next has four words."""
    return file.lines[0].startswith(": ") and len("".join(file.lines[1:2]).split()) == WORDS


def read(file: File, options: Options) -> Task:
    """The task: "Athens is to Greece as Baghdad is to"; the words are variables a, b, c, d."""
    prompts, section = [], ""
    for number, line in enumerate(file.lines, 1):
        words = line.split()
        if line.startswith(":"):
            section = line[1:].strip()
        elif len(words) == WORDS:
            one, two, three, four = words
            clean = f"{one} is to {two} as {three} is to"
            variables = dict(zip("abcd", words, strict=True))
            prompts.append(Prompt(clean, None, (f" {four}",), (), section, variables))
        elif words:
            raise file.fault("four words expected", line=number, got=repr(line[:80]))
    about = "the fourth word of an analogy"
    return pooled(file, prompts, about, metric="answer_probability", origin="word2vec")


FORMAT = Format("word analogies", ": section, then four words a line", reads, read)
