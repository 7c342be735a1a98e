"""Files, functions and signatures stay small enough to read; what is public explains itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.architecture.source import Module, modules

MAX_FILE = 400
MAX_FUNCTION = 80
MAX_POSITIONAL = 7
MAX_SILENT = 0.05
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(module: Module) -> Iterator[Function]:
    for node in module.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        assert isinstance(node, Function)
        yield node


def public(module: Module) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions, classes and methods of files that are public themselves."""

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
        for node in body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{prefix}{node.name}", node
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{prefix}{node.name}.")

    if not any(part.startswith("_") for part in module.name.split(".")):
        yield from walk(module.tree.body, "")


def is_stand_in(node: Function | ast.ClassDef) -> bool:
    """Overloads and property setters share the docstring of the function they belong to."""
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    return any(mark.endswith(("overload", ".setter")) for mark in marks)


def test_files_are_short() -> None:
    long = {m.place: n for m in modules().values() if (n := len(m.text.splitlines())) > MAX_FILE}
    assert long == {}


def test_one_layout() -> None:
    """The formatter's; nobody sets lines by hand."""
    own = [m.place for m in modules().values() if "# fmt: " + "skip" in m.text or "# fmt: " + "off" in m.text]
    assert own == []


def test_functions_are_short() -> None:
    long = {
        f"{module.place}:{node.name}": node.end_lineno - node.lineno + 1
        for module in modules().values()
        for node in functions(module)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > MAX_FUNCTION
    }
    assert long == {}


def test_signatures_are_narrow() -> None:
    wide = {}
    for module in modules().values():
        for node in functions(module):
            names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
            names = [name for name in names if name not in ("self", "cls")]
            if len(names) > MAX_POSITIONAL:
                wide[f"{module.place}:{node.name}"] = len(names)
    assert wide == {}, "more than seven arguments become a config dataclass"


def test_what_is_public_has_a_docstring() -> None:
    named = [
        (f"{module.place}:{node.lineno} {name}", bool(ast.get_docstring(node)))
        for module in modules().values()
        for name, node in public(module)
        if not is_stand_in(node)
    ]
    silent = [place for place, spoken in named if not spoken]
    # Every function and class; of all methods together, all but a few that say it in their name.
    assert [place for place in silent if "." not in place.rpartition(" ")[2]] == []
    assert len(silent) <= MAX_SILENT * len(named), silent


def test_every_file_says_what_it_is() -> None:
    silent = [m.place for m in modules().values() if not ast.get_docstring(m.tree)]
    assert silent == []


def test_everything_is_typed() -> None:
    untyped = []
    for module in modules().values():
        for node in functions(module):
            plain = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            args = [*plain, *filter(None, (node.args.vararg, node.args.kwarg))]
            bare = [a.arg for a in args if a.annotation is None and a.arg not in ("self", "cls")]
            if bare or (node.returns is None):
                untyped.append(f"{module.place}:{node.lineno} {node.name} {bare}")
    assert untyped == []
