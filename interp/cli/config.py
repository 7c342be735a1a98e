"""What every command can be told, and the flags of settings that stand in blocks.

Such a setting's flag is its own name; `--fit.steps` is read as `--steps`. Standard library only.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from interp.core.blocks import Blocks, blocks_of, owners_of

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
    def arguments(cls, argv: Sequence[str]) -> tuple[list[str], Collection[str]]:
        """The arguments as they are parsed, and names that no setting in a block may have as a flag."""
        return list(argv), ()

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


def flags_of(kind: type[Blocks], taken: Collection[str] = ()) -> dict[str, tuple[Any, str]]:
    """Every setting of a config as one flag each, in the order of its fields.

    Args:
        kind: The config's class.
        taken: Names that other options of the command have: such a setting keeps its block's name.

    Returns:
        Name (`steps`, or `stream.dtype` where `dtype` is no name for it) -> (class that declares it, its
        name there). What stands for several settings (`data_seed`) comes last.
    """
    own = [field.name for field in dataclasses.fields(kind)]  # pyright: ignore
    blocks, owners, found = blocks_of(kind), owners_of(kind), dict[str, tuple[Any, str]]()
    for name in own:
        if name not in blocks:
            found[name] = kind, name
            continue
        for inner in (field.name for field in dataclasses.fields(blocks[name])):  # pyright: ignore
            flat = inner in owners and inner not in taken
            found[inner if flat else f"{name}.{inner}"] = blocks[name], inner
    return found | {name: (blocks[owners[name][-1][0]], owners[name][-1][1]) for name in kind.ALSO}


def unnested(argv: Sequence[str], kind: type[Blocks], taken: Collection[str] = ()) -> list[str]:
    """Arguments with `--fit.steps` written as `--steps`, where that is the flag."""
    flags = flags_of(kind, taken)
    return [_unnested(word, kind, flags) for word in argv]


def _unnested(word: str, kind: type[Blocks], flags: dict[str, tuple[Any, str]]) -> str:
    option, equals, value = word.partition("=")
    block, dot, name = option.removeprefix("--").partition(".")
    no = "no-" if name[:3] in ("no-", "no_") else ""
    flat = name[len(no) :].replace("-", "_")
    known = option.startswith("--") and dot and flags.get(flat) == (blocks_of(kind).get(block), flat)
    return f"--{no}{flat.replace('_', '-')}{equals}{value}" if known else word


def value_in(config: Blocks, name: str) -> Any:
    """A setting of a configuration by its flat name, or by `block.name`."""
    block, _, inner = name.rpartition(".")
    return getattr(getattr(config, block) if block else config, inner)


@cache
def docs_of(kind: Any) -> dict[str, str]:
    """Field -> the text below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    return {
        line.target.id: inspect.cleandoc(str(below.value.value))
        for line, below in pairwise(body)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }
