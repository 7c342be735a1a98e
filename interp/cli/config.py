"""What every command can be told. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

OUT = Path("interp-out")
"""Where commands write unless told otherwise, relative to the working directory."""


@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    debug: bool = False
    """Show the full traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class Written(Common):
    """Options of the commands that write a folder of their own."""

    out: Path | None = None
    """Folder to write. By default a folder whose name is printed at the end."""
    overwrite: bool = False
    """Replace what an earlier run wrote there."""
