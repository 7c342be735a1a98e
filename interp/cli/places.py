"""Where a command writes: chosen before any work is done, printed at the end."""

from __future__ import annotations

import dataclasses
import json
import re
from hashlib import blake2b
from pathlib import Path
from typing import Any

from interp.cli.config import OUT, Written
from interp.core.errors import StorageError

_NOT_PART_OF_THE_QUESTION = ("out", "overwrite", "debug")


def plain(command: Any) -> dict[str, Any]:
    """A command's name and resolved options as JSON values; written beside the results."""

    def value(item: Any) -> Any:
        return str(item) if isinstance(item, Path) else item

    fields = dataclasses.asdict(command)
    return {"command": type(command).__name__.lower()} | {k: value(v) for k, v in fields.items()}


def default_place(command: Written, subject: str) -> Path:
    """`interp-out/<command>-<subject>-<digest>`: the same question always has the same folder.

    Args:
        command: The resolved command; all options but out, overwrite and debug are the question.
        subject: What it is about, e.g. the model's name; made safe for a folder name.
    """
    options = {k: v for k, v in plain(command).items() if k not in _NOT_PART_OF_THE_QUESTION}
    question = json.dumps(options, sort_keys=True, default=str)
    digest = blake2b(question.encode(), digest_size=3).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", subject).strip("-.")[:40] or "model"
    return OUT / f"{options['command']}-{readable}-{digest}"


def claim(path: Path, *, overwrite: bool) -> Path:
    """Check that a command may write its folder there, before it starts to work.

    Raises:
        StorageError: a file is in the way, the folder already holds something and `overwrite` is
            off, or the operating system refuses the name.
    """
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        in_the_way = path.exists() and not path.is_dir()
    except (OSError, ValueError) as error:
        raise StorageError("This output folder cannot be used.", got=path, fix=error) from error
    if in_the_way:
        raise StorageError("A file is where the output folder should be.", got=path, fix="--out")
    if taken and not overwrite:
        raise StorageError(
            "The output folder already holds something; nothing was changed.",
            got=path,
            expected="a new or an empty folder",
            fix="--overwrite to replace what an earlier run wrote, or another --out",
        )
    return path


def announce(path: Path) -> None:
    """Print what was written, so that it can be clicked or pasted."""
    print(f"wrote {path.resolve()}")
