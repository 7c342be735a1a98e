"""Prompts that are one record each: a format is which field is the prompt and which its answer."""

from __future__ import annotations

from typing import Any

from interp.tasks.formats.prompts.names import subject_and_object
from interp.tasks.formats.prompts.pools import prompts
from interp.tasks.formats.records import LINES, label, listed, one, text
from interp.tasks.formats.source import Record

FACTS = ("subject", "attribute", "relation_id", "known_id", "case_id")
LENS_ITEMS = listed("items")
"""How a file of lens evaluation holds its items."""


def _phenomenon(record: Record) -> dict[str, str]:
    kept = ("field", "linguistics_term", "pairID")
    values = {k: str(v) for k, v in record.values.items() if k in kept or "_prefix_" in k}
    return {k: v for k, v in values.items() if not k.endswith("_method")}


def _known(record: Record) -> str:
    return record.text("attribute" if "attribute" in record.values else "answer").strip()


def _repeated(record: Record) -> tuple[str, ...]:
    """The other name of an indirect-object sentence, if that is what the prompt is."""
    names = subject_and_object(record.text("prompt"))
    return (f" {names[0]}",) if names and names[1] == _known(record) else ()


def _read_by_a_lens(record: Record) -> tuple[str, ...]:
    named = "target" in record.values
    answers = (record.text("target"),) if named else record.texts("intermediates")
    quoted = record.text("prompt").endswith(('"', "'", "“", "«"))  # the answer follows the quotation mark
    return tuple(answer if quoted else f" {answer}" for answer in answers)


def _between(record: Record) -> dict[str, Any]:
    between = " | ".join(record.texts("intermediates"))
    return {"name": str(record.values.get("name", "")), "intermediates": between}


FEATURE_CIRCUITS = prompts(
    "feature-circuits JSON lines",
    '{"clean_prefix": ..., ...}',
    LINES,
    LINES.has({"clean_prefix", "patch_prefix", "clean_answer", "patch_answer"}),
    {
        "clean": text("clean_prefix"),
        "corrupted": text("patch_prefix"),
        "answers": one("clean_answer"),
        "distractors": one("patch_answer"),
        "template": label("case"),
    },
    description="subject-verb agreement",
    criterion="preference",
    origin="feature-circuits",
)
"""Agreement: Marks et al. 2024, "Sparse feature circuits" (github.com/saprmarks/feature-circuits).
The corrupted prefix has another number, the distractor is the verb that fits it."""

BLIMP = prompts(
    "BLiMP",
    '{"sentence_good": ..., "sentence_bad": ...}',
    LINES,
    LINES.has({"sentence_good", "sentence_bad"}),
    {
        "clean": text("sentence_good"),
        "corrupted": text("sentence_bad"),
        "template": lambda record: label("UID", record.file.stem)(record),
        "variables": _phenomenon,
    },
    description="the good sentence is the more probable one",
    metric="log_probability",
    criterion="sentence",
    origin="BLiMP",
)
"""Minimal pairs: Warstadt et al. 2020, "BLiMP: the benchmark of linguistic minimal pairs"
(github.com/alexwarstadt/blimp). A model is right where the good sentence as a whole is more
probable (the paper's main method, "simple LM"). The paradigm is the template; prefixes and their
words, where a paradigm has them, are variables."""

FACTUAL = prompts(
    "facts",
    '[{"prompt": ..., "attribute" or "answer": ...}]',
    listed(),
    listed().has({"prompt", "attribute"}, {"prompt", "answer"}),
    {
        "clean": text("prompt"),
        "answers": lambda record: (f" {_known(record)}",),
        "distractors": _repeated,
        "template": label("template"),
        "variables": lambda record: {k: str(record.values[k]) for k in FACTS if k in record.values},
    },
    description="the answer that is known to be true",
)
"""Facts: Meng et al. 2022, "Locating and editing factual associations in GPT" (`known_1000.json`);
and indirect-object sentences, where the name that is repeated becomes the distractor."""

LENS_EVALUATION = prompts(
    "lens evaluation",
    '{"items": [{"prompt": ..., "intermediates": [...]}]}',
    LENS_ITEMS,
    LENS_ITEMS.has({"prompt"}),
    {
        "clean": lambda record: record.text("prompt").rstrip(" "),
        "answers": _read_by_a_lens,
        "variables": _between,
    },
    description="what a lens should read",
    metric="answer_probability",
)
"""What a model should think of on its way: github.com/ToonTalk/jlens-tinystories. Without a target
the intermediates are what a lens should read at the last token, so they are the answers. A space at
a prompt's end moves to its answers, where tokenizers want it."""
