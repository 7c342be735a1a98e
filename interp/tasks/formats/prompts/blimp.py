"""BLiMP: minimal pairs of an acceptable and an unacceptable sentence, JSON lines.

Source: Warstadt et al. 2020, "BLiMP: the benchmark of linguistic minimal pairs"
(github.com/alexwarstadt/blimp). `clean` is the good sentence, `corrupted` the bad one; a model is
right where the good one as a whole is more probable (the paper's main method, "simple LM"). The
paradigm is the template. Prefixes and their words, where a paradigm has them, are variables.
"""

from __future__ import annotations

from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt, Prompts
from interp.tasks.task import Task

KEPT = ("field", "linguistics_term", "pairID")


def reads(file: File) -> bool:
    """Whether the first object has a good and a bad sentence."""
    return file.jsonl is not None and {"sentence_good", "sentence_bad"} <= file.jsonl[0][1].keys()


def read(file: File, options: Options) -> Task:
    """The paradigm."""
    prompts = []
    for number, value in file.jsonl or []:
        record = Record(file, number, value)
        kept = {k: str(v) for k, v in value.items() if k in KEPT or "_prefix_" in k}
        prompts.append(
            Prompt(
                clean=record.text("sentence_good"),
                corrupted=record.text("sentence_bad"),
                template=str(value.get("UID", file.stem)),
                variables={k: v for k, v in kept.items() if not k.endswith("_method")},
            )
        )
    return Task(
        name=file.stem,
        description="the good sentence is the more probable one",
        pool=Prompts(prompts, file.stem),
        metric="log_probability",
        criterion="sentence",
        source=f"BLiMP, {file.name}",
    )


FORMAT = Format("BLiMP", '{"sentence_good": ..., "sentence_bad": ...}', reads, read)
