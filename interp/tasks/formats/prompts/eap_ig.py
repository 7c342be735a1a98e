"""EAP-IG's CSV files: clean and corrupted sentences, answers as GPT-2 (or Llama) token ids.

Source: Hanna et al. 2024, "Have faith in faithfulness" (github.com/hannamw/EAP-IG and
eap-ig-faithfulness). Where the text itself says the answer, it is read there and no tokenizer is
needed: the name that is not repeated (IOI), the years above the one named (greater-than), the
pronoun that fits the corrupted man or woman (gender bias), the words of the answer columns. Given a
tokenizer, ids are decoded with it. The corrupted side of IOI is `corrupted` (a third name).
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp.tasks.formats.archives import open_files
from interp.tasks.formats.prompts.names import subject_and_object
from interp.tasks.formats.prompts.pools import pooled
from interp.tasks.formats.source import File, Record
from interp.tasks.formats.table import Format, Options
from interp.tasks.prompts import Prompt
from interp.tasks.task import Criterion, Task

IDS = ("correct_idx", "incorrect_idx")
YEAR_COLUMNS = ("correct_idx", "label")
VERB_LISTS = ("combined_verb_list.csv", "sva_combined_verb_list.csv")
COMMON_VERBS = ((" is", " are"), (" was", " were"), (" has", " have"), (" does", " do"))
"""Singular and plural, where the file's own list of verbs does not lie beside it."""
Reader = Callable[[Record, Options], Prompt]


def reads(file: File) -> bool:
    """Whether the columns are those of one of the repository's tasks."""
    return _kind(set(file.header())) is not None


def read(file: File, options: Options) -> Task:
    """The task of an EAP-IG file."""
    kind = _kind({name.strip() for name in file.header()})
    make, metric, criterion, about = _KINDS[kind or "ioi"]
    if kind == "sva":
        make = _agreement(_verbs(options.folder))
    prompts = [make(record, options) for record in file.records()]
    return pooled(file, prompts, about, metric=metric, criterion=criterion, origin="EAP-IG")


def _kind(names: set[str]) -> str | None:
    """Which of the tasks has these columns."""
    if not names >= {"clean", "corrupted"}:
        return None
    signs = {
        "hypernymy": {"answers_idx", "corrupted_answers_idx"},
        "facts": {"country_idx", "country"},
        "gender": {"clean_answer_idx", "corrupted_answer_idx"},
        "sva": {"plural"},
        "ioi": set(IDS),
    }
    found = next((kind for kind, needed in signs.items() if needed <= names), None)
    return found or ("years" if names & set(YEAR_COLUMNS) else None)


def _decoded(record: Record, field: str, options: Options) -> str:
    number = record.integer(field)
    try:
        text = options.tokenizer.decode([number])
    except (OverflowError, IndexError, TypeError) as error:
        raise record.fault(field, "no token of this tokenizer", got=number) from error
    if not text:
        raise record.fault(field, "no token of this tokenizer", got=number)
    return text


def _sides(record: Record, answers: tuple[str, ...], wrong: tuple[str, ...], **more: Any) -> Prompt:
    return Prompt(record.text("clean"), record.text("corrupted"), answers, wrong, **more)


def _ioi(record: Record, options: Options) -> Prompt:
    extra = {"corrupted_hard": record.values.get("corrupted_hard") or ""}
    if options.tokenizer is not None:
        right, wrong = (_decoded(record, field, options) for field in IDS)
        return _sides(record, (right,), (wrong,), variables=extra)
    found = subject_and_object(record.text("clean"))
    if found is None:
        raise record.fault(
            IDS[0],
            "this column holds token ids, and the sentence does not say which word they are",
            got=record.get(IDS[0]),
            fix="tokenizer=..., the tokenizer (or its folder) that the ids belong to",
        )
    subject, name = found
    return _sides(record, (f" {name}",), (f" {subject}",), variables=extra)


def _years(record: Record, options: Options) -> Prompt:
    """Two digits: right are the years above, wrong the others (Hanna et al. 2023)."""
    field = next(name for name in YEAR_COLUMNS if name in record.values)
    year = record.integer(field, 0, 98)
    later = tuple(f"{other:02d}" for other in range(year + 1, 100))
    earlier = tuple(f"{other:02d}" for other in range(year + 1))
    return _sides(record, later, earlier, variables={"year": f"{year:02d}"})


def _gender(record: Record, options: Options) -> Prompt:
    fields = ("clean_answer_idx", "corrupted_answer_idx")
    if options.tokenizer is not None:
        right, wrong = (_decoded(record, field, options) for field in fields)
    else:
        woman = "woman" in record.text("corrupted").split()
        if not woman and "man" not in record.text("corrupted").split():
            raise record.fault("corrupted", "neither a man nor a woman", got=record.get("corrupted"))
        right, wrong = (" he", " she") if woman else (" she", " he")
    return _sides(record, (right,), (wrong,))


def _facts(record: Record, options: Options) -> Prompt:
    names = {name: record.text(name) for name in ("capital", "country")}
    wrong = (f" {record.text('corrupted_country')}",)
    return _sides(record, (f" {names['country']}",), wrong, variables=names)


def _hypernymy(record: Record, options: Options) -> Prompt:
    right, wrong = (_words(record, field) for field in ("answers", "corrupted_answers"))
    kept = tuple(word for word in wrong if word not in right)
    return _sides(record, right, kept, variables={"hypernym": record.text("hypernym")})


def _words(record: Record, field: str) -> tuple[str, ...]:
    """`"['gem', 'gems']"` -> (" gem", " gems")."""
    try:
        value = ast.literal_eval(record.text(field))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise record.fault(field, "a list of words expected", got=record.get(field)) from error
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise record.fault(field, "a list of words expected", got=record.get(field))
    return tuple(f" {word}" for word in value)


def _agreement(verbs: tuple[tuple[str, ...], tuple[str, ...]]) -> Reader:
    singular, plural = verbs

    def make(record: Record, options: Options) -> Prompt:
        many = record.integer("plural", 0, 1)
        right, wrong = (plural, singular) if many else (singular, plural)
        return _sides(record, right, wrong, template=record.text("group"))

    return make


def _verbs(folder: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Singular and plural verbs, from the list beside the file if it is there."""
    found = next((folder / n for n in VERB_LISTS if (folder / n).is_file()), None) if folder else None
    pairs = list(COMMON_VERBS)
    if found is not None:
        records = open_files(found)[0].records()
        pairs = [(f" {r.text('sing')}", f" {r.text('plur')}") for r in records]
    both = {a for a, _ in pairs} & {b for _, b in pairs}  # "read" is no evidence for either
    singular, plural = (dict.fromkeys(pair[side] for pair in pairs) for side in (0, 1))
    return tuple(v for v in singular if v not in both), tuple(v for v in plural if v not in both)


_KINDS: dict[str, tuple[Reader, str, Criterion, str]] = {
    "ioi": (_ioi, "logit_difference", "accuracy", "indirect object: the name not repeated"),
    "years": (_years, "mass_difference", "accuracy", "greater-than: any two digits above"),
    "gender": (_gender, "logit_difference", "preference", "the pronoun for a profession"),
    "facts": (_facts, "logit_difference", "accuracy", "the country of a capital"),
    "hypernymy": (_hypernymy, "mass_difference", "accuracy", "what kind of thing it is"),
    "sva": (_ioi, "mass_difference", "preference", "subject-verb agreement, any verb"),
}
FORMAT = Format("EAP-IG CSV", "columns `clean`, `corrupted` and token ids", reads, read)
