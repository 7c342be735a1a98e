"""Flags of settings that stand in blocks: by the setting's own name, `--fit.steps` as well as `--steps`."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Collection, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_type_hints

from interp.core.blocks import Blocks, blocks_of, owners_of

if TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo


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


def rule_for(taken: Collection[str]) -> ConstructorRegistry:
    """How the command line is built for settings with blocks.

    Args:
        taken: Names that other options of the command have.
    """
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec

    registry = ConstructorRegistry()

    @registry.struct_rule
    def _(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not (isinstance(info.type, type) and issubclass(info.type, Blocks)):
            return None
        kind = info.type
        start = info.default if isinstance(info.default, kind) else kind()
        flags = flags_of(kind, taken)
        defaults = {name: _value(start, name) for name in flags}

        def made(**given: Any) -> Blocks:
            said = {name: value for name, value in given.items() if value != defaults[name]}
            options: dict[str, Any] = {}
            for name, value in said.items():
                block, _, inner = name.rpartition(".")
                (options.setdefault(block, {}) if block else options)[inner] = value
            return start.changed(options, "the command line")

        return StructConstructorSpec(
            instantiate=made,
            fields=tuple(
                StructFieldSpec(name, get_type_hints(owner)[inner], defaults[name], _docs(owner)[inner])
                for name, (owner, inner) in flags.items()
            ),
        )

    return registry


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


def _value(config: Blocks, name: str) -> Any:
    block, _, inner = name.rpartition(".")
    return getattr(getattr(config, block) if block else config, inner)


@cache
def _docs(kind: Any) -> dict[str, str]:
    """Field -> the text below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    return {
        line.target.id: inspect.cleandoc(str(below.value.value))
        for line, below in pairwise(body)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }
