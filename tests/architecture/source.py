"""The package as text: every module with its syntax tree and its imports, hidden ones included."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "interp"


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        """`core` for `interp.core.store`; the empty string for `interp` itself."""
        parts = self.name.split(".")
        is_face = len(parts) == 1 or (len(parts) == 2 and self.path.name != "__init__.py")
        return "" if is_face else parts[1]

    @property
    def place(self) -> str:
        return str(self.path.relative_to(ROOT))

    def nodes(self, *kinds: type[ast.AST]) -> list[ast.AST]:
        return [node for node in ast.walk(self.tree) if isinstance(node, kinds)]

    @cached_property
    def imports(self) -> set[str]:
        """Dotted names imported anywhere in the file: at the top, in functions, for type checkers.

        `from a.b import c` gives `a.b.c`; a relative import is resolved first.
        """
        found: set[str] = set()
        for node in self.nodes(ast.Import, ast.ImportFrom):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
                continue
            assert isinstance(node, ast.ImportFrom)
            base = node.module or ""
            if node.level:
                depth = node.level - (self.path.name == "__init__.py")
                anchor = self.name.split(".")
                base = ".".join(filter(None, [*anchor[: len(anchor) - depth], base]))
            found |= {f"{base}.{alias.name}" for alias in node.names}
        return found


@cache
def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(path, name)
    return found


@cache
def edges() -> dict[str, set[str]]:
    """Module -> modules of the package that it imports.

    `from interp.core import esc` points to `interp.core`: the lazy `__init__` decides the rest.
    """
    known = modules()

    def target(dotted: str) -> str | None:
        while dotted and dotted not in known:
            dotted = dotted.rpartition(".")[0]
        return dotted or None

    return {
        name: {hit for dotted in module.imports if (hit := target(dotted)) and hit != name}
        for name, module in known.items()
    }


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected groups of more than one node (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for neighbour in sorted(graph.get(node, ())):
            if neighbour not in index:
                visit(neighbour)
            if neighbour in stack:
                low[node] = min(low[node], low[neighbour])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return groups
