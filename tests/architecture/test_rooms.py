"""Who may import whom. Lazy and TYPE_CHECKING imports count: that is where cycles hide."""

from __future__ import annotations

import ast
import sys

import pytest

from tests.architecture.source import PACKAGE, cycles, edges, modules

# Each storey may import the storeys below it; rooms of one storey never import each other.
STOREYS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("models",),
    ("activations",),
    ("tasks",),
    ("rasp", "dictionaries", "lenses", "probing", "attribution", "geometry", "vision"),
    ("circuits",),
    ("features",),
    ("studies",),
    ("plotting",),
    ("reports",),
    ("cli",),
)
STOREY = {room: level for level, rooms in enumerate(STOREYS) for room in rooms}
CORE_MAY_IMPORT = {"numpy", "torch", "safetensors", "jaxtyping"}
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


def top(dotted: str) -> str:
    return dotted.partition(".")[0]


def test_every_room_has_a_storey() -> None:
    assert set(ROOMS) <= set(STOREY), "a new room needs a place in design.md and in STOREYS"


def test_rooms_import_only_downward() -> None:
    known = modules()
    upward = [
        f"{known[source].place} imports {target}"
        for source, targets in edges().items()
        for target in targets
        if known[source].room and known[source].room != known[target].room
        if not known[target].room or STOREY[known[target].room] >= STOREY[known[source].room]
    ]
    assert upward == []


def test_adapters_stay_in_their_room() -> None:
    """What an architecture is like is asked of the model: its stream, its head, its weights."""
    reached = [
        f"{module.place}:{node.lineno} .{node.attr}"
        for module in modules().values()
        if module.room != "models"
        for node in module.nodes(ast.Attribute)
        if isinstance(node, ast.Attribute) and node.attr in ("adapter", "_intake", "_frame")
    ]
    assert reached == []


def test_no_import_cycles_between_files() -> None:
    # The face names rooms in strings and for type checkers only; no room ever imports the face
    # (the test above), so it closes no cycle except through the helper that makes it lazy.
    assert cycles(edges()) == []


def test_the_cycle_finder_finds_cycles() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_core_stands_on_torch_numpy_and_safetensors_only() -> None:
    allowed = CORE_MAY_IMPORT | set(sys.stdlib_module_names) | {"interp"}
    foreign = [
        f"{module.place}: {dotted}"
        for module in modules().values()
        if module.room == "core"
        for dotted in sorted(module.imports)
        if top(dotted) not in allowed
        and not (top(dotted) == "pandas" and _inside(module.tree, "pandas", {"_frame"}))
    ]
    assert foreign == []


def _inside(tree: ast.AST, package: str, functions: set[str]) -> bool:
    """Whether every import of `package` lies in those functions or is for type checkers."""

    def imports(node: ast.AST) -> set[int]:
        return {
            child.lineno
            for child in ast.walk(node)
            if (isinstance(child, ast.Import) and any(top(a.name) == package for a in child.names))
            or (isinstance(child, ast.ImportFrom) and top(child.module or "") == package)
        }

    allowed: set[int] = set()
    for node in ast.walk(tree):
        if (isinstance(node, ast.FunctionDef) and node.name in functions) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            allowed |= imports(node)
    return imports(tree) <= allowed


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_config_of_the_standard_library(room: str) -> None:
    name = f"interp.{room}.config"
    assert name in modules(), f"interp/{room}/config.py is missing"
    seen, todo = set(), [name]
    while todo:  # what a config imports of ours must stand on the standard library, too
        known = modules()[todo.pop()]
        seen.add(known.name)
        for dotted in known.imports:
            owner = next((m for m in (dotted, dotted.rpartition(".")[0]) if m in modules()), None)
            assert owner is not None or top(dotted) in sys.stdlib_module_names, (
                f"{known.place} imports {dotted}"
            )
            todo += [owner] if owner and owner not in seen else []


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_never_hide_behind_a_file_of_the_same_name(room: str) -> None:
    # `interp.lenses.logit_lens` would be the function or the module, by the order of imports.
    import importlib

    public = set(getattr(importlib.import_module(f"interp.{room}"), "__all__", ()))
    files = {path.stem for path in (PACKAGE / room).iterdir()}
    assert public & files == set()


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_resolves(room: str) -> None:
    import importlib

    package = importlib.import_module(f"interp.{room}")
    assert list(getattr(package, "__all__", ())), f"interp.{room} names nothing"
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError):
        package.no_such_name  # noqa: B018
