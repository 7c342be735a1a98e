"""What every command can be told. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

OUT = Path("interp-out")
"""Where commands write unless told otherwise, relative to the working directory."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    debug: bool = False
    """Show the full traceback of an error."""

    @classmethod
    def preset(cls, argv: Sequence[str]) -> Self | None:
        """Defaults that the command's own arguments name, such as a file of options; None: none."""
        return None

    @classmethod
    def arguments(cls, argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
        """The arguments as they are parsed, and what the parser is told beside the class."""
        return list(argv), {}

    def run(self) -> int:
        """Do what was asked; returns the exit code."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Written(Common):
    """Options of the commands that write a folder of their own."""

    out: Path | None = None
    """Folder to write. By default a folder whose name is printed at the end."""
    overwrite: bool = False
    """Replace what an earlier run wrote there."""
