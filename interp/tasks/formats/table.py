"""What a format is to the doors `load_task` and `load_labels`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from interp.tasks.formats.source import File

Content = TypeVar("Content")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a reader may need beyond the file. Each has a default that fits."""

    tokenizer: Any = None
    """The tokenizer whose ids an answer column holds; None = answers are found in the text."""
    folder: Path | None = None
    """Where the file lies, for what belongs to it."""
    missing: str = "refuse"
    """What a text without a usable label is: "refuse", or "drop" to leave it out."""
    as_text: bool = False
    """Whether labels are words, whatever they look like."""
    shots: int = 5
    """Solved examples before the question, for files of input-output pairs."""


@dataclass(frozen=True)
class Format(Generic[Content]):
    """One file format."""

    name: str
    """What people call it."""
    looks: str
    """What a file of it looks like, for the error that finds none."""
    reads: Callable[[File], bool]
    """Whether a file is of this format; never raises for one that is not."""
    read: Callable[[File, Options], Content]
    """The file's content; raises ConfigError naming line, column, value and fix."""


@dataclass(frozen=True)
class ArchiveFormat(Generic[Content]):
    """An archive whose files belong together."""

    name: str
    """What people call it."""
    reads: Callable[[Sequence[File]], bool]
    """Whether these files are such an archive's."""
    read: Callable[[Sequence[File], Options], Content]
    """Reader of the content."""
