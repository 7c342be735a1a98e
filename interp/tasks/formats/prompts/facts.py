"""Facts and sentences with one answer: JSON lists with `prompt` and `attribute`, or `answer`.

Sources: Meng et al. 2022, "Locating and editing factual associations in GPT" (`known_1000.json`:
subject, attribute, template); indirect-object sentences with `prompt` and `answer`, where the name
that is repeated becomes the distractor.
"""

from __future__ import annotations

from interp.tasks.formats.prompts.names import subject_and_object
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt, Prompts
from interp.tasks.task import Task

KEPT = ("subject", "attribute", "relation_id", "known_id", "case_id")


def reads(file: File) -> bool:
    """Whether it is a JSON list of objects with `prompt` and an answer."""
    value = file.json
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and "prompt" in first and bool({"attribute", "answer"} & first.keys())


def read(file: File, options: Options) -> Task:
    """The task."""
    prompts = []
    for index, value in enumerate(file.json):
        if not isinstance(value, dict):
            raise file.fault(f"[{index}]: an object expected", got=repr(value)[:80])
        prompts.append(_prompt(Record(file, f"[{index}]", value)))
    return Task(
        name=file.stem,
        description="the answer that is known to be true",
        pool=Prompts(prompts, file.stem),
        metric="logit_difference" if all(p.distractors for p in prompts) else "answer_probability",
        source=file.name,
    )


def _prompt(record: Record) -> Prompt:
    text = record.text("prompt")
    answer = record.text("attribute" if "attribute" in record.values else "answer")
    names = subject_and_object(text)
    repeated = names is not None and names[1] == answer.strip()
    return Prompt(
        clean=text,
        answers=(f" {answer.strip()}",),
        distractors=(f" {names[0]}",) if names and repeated else (),
        template=str(record.values.get("template", "")),
        variables={k: str(record.values[k]) for k in KEPT if k in record.values},
    )


FORMAT = Format("facts", '[{"prompt": ..., "attribute" or "answer": ...}]', reads, read)
