"""Every format, in the order in which the doors try them: the strictest first."""

from __future__ import annotations

from interp.tasks.formats.labels import (
    annotations,
    conllu,
    entities,
    sentiment,
    similarity,
    statements,
    tagged,
    text_tables,
    word_tables,
)
from interp.tasks.formats.prompts import (
    analogies,
    auto_circuit,
    blimp,
    eap_ig,
    facts,
    feature_circuits,
    greater_than,
    lens_eval,
    own,
    pairs,
    professions,
    winobias,
)
from interp.tasks.formats.table import ArchiveFormat, Format
from interp.tasks.labels import LabelledCorpus, LabelledTexts
from interp.tasks.task import Task

Labels = LabelledCorpus | LabelledTexts

TASK_FORMATS: tuple[Format[Task], ...] = (
    auto_circuit.FORMAT,
    eap_ig.FORMAT,
    own.JSON,
    own.JSONL,
    own.CSV,
    feature_circuits.FORMAT,
    blimp.FORMAT,
    pairs.JSON,
    facts.FORMAT,
    lens_eval.FORMAT,
    winobias.FORMAT,
    analogies.FORMAT,
    pairs.CSV,
    greater_than.FORMAT,
)
LABEL_FORMATS: tuple[Format[LabelledCorpus] | Format[LabelledTexts], ...] = (
    conllu.FORMAT,
    word_tables.TSV,
    word_tables.JSONL,
    statements.FORMAT,
    entities.FORMAT,
    annotations.FORMAT,
    professions.FORMAT,
    text_tables.FORMAT,
    sentiment.FORMAT,
    similarity.FORMAT,
    tagged.CHUNKS,
    tagged.SLASHED,
)
LABEL_ARCHIVES: tuple[ArchiveFormat[LabelledCorpus] | ArchiveFormat[LabelledTexts], ...] = (
    tagged.BROWN,
    tagged.TREEBANK,
    tagged.DEPENDENCIES,
    tagged.REVIEWS,
    tagged.NAMES,
)
