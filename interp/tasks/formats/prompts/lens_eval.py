"""Lens evaluation items: what a model should think of on its way, and what it should say.

Source: github.com/ToonTalk/jlens-tinystories. `{"items": [{"name", "prompt", "intermediates",
"target"}]}`; without a target the intermediates are what a lens should read at the last token, so
they are the answers. A space at a prompt's end moves to its answers, where tokenizers want it.
"""

from __future__ import annotations

from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt, Prompts
from interp.tasks.task import Task


def reads(file: File) -> bool:
    """Whether it is an object with `items`, the first of which has a prompt."""
    value = file.json
    items = value.get("items") if isinstance(value, dict) else None
    first = items[0] if isinstance(items, list) and items else None
    return isinstance(first, dict) and "prompt" in first


def read(file: File, options: Options) -> Task:
    """The task; the template is the file's subject, the intermediates are a variable."""
    prompts = []
    for index, value in enumerate(file.json["items"]):
        if not isinstance(value, dict):
            raise file.fault(f"items[{index}]: an object expected", got=repr(value)[:80])
        prompts.append(_prompt(Record(file, f"items[{index}]", value)))
    return Task(
        name=file.stem,
        description="what a lens should read",
        pool=Prompts(prompts, file.stem),
        metric="answer_probability",
        source=file.name,
    )


def _prompt(record: Record) -> Prompt:
    text = record.text("prompt")
    between = record.texts("intermediates")
    answers = (record.text("target"),) if "target" in record.values else between
    quoted = text.endswith(('"', "'", "“", "«"))  # the answer follows the quotation mark
    return Prompt(
        clean=text.rstrip(" "),
        answers=tuple(answer if quoted else f" {answer}" for answer in answers),
        variables={"name": str(record.values.get("name", "")), "intermediates": " | ".join(between)},
    )


FORMAT = Format("lens evaluation", '{"items": [{"prompt": ..., "intermediates": [...]}]}', reads, read)
