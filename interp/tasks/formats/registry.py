"""Every format, in the order in which the doors try them: the strictest first."""

from __future__ import annotations

from interp.tasks.formats.labels import conllu, tagged, word_tables
from interp.tasks.formats.labels import records as labels
from interp.tasks.formats.prompts import analogies, auto_circuit, eap_ig, greater_than, own, pairs, winobias
from interp.tasks.formats.prompts import records as prompts
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
    prompts.FEATURE_CIRCUITS,
    prompts.BLIMP,
    pairs.JSON,
    prompts.FACTUAL,
    prompts.LENS_EVALUATION,
    winobias.FORMAT,
    analogies.FORMAT,
    pairs.CSV,
    greater_than.FORMAT,
)
LABEL_FORMATS: tuple[Format[LabelledCorpus] | Format[LabelledTexts], ...] = (
    conllu.FORMAT,
    word_tables.TSV,
    word_tables.JSONL,
    labels.STATEMENTS,
    labels.PLACES,
    labels.WORKS,
    labels.ANNOTATIONS,
    labels.PROFESSIONS,
    labels.OWN,
    labels.SENTIMENT,
    labels.SIMILARITY,
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
