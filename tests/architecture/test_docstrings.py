"""Docstrings name only what exists, and the line about a field can be read alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from tests.architecture.source import ROOT, Module, modules

LEANING = re.compile(r"(The same|Of |Its |Their |Those |Likewise|And |How\.|Where\.|Which \w+\.|Upper end\.)")
"""How a field's doc begins that says something only beside the line above it."""
FILE = re.compile(r"`([\w/]+\.(?:py|md|json|yaml))`")
DOTTED = re.compile(r"`(interp(?:\.\w+)+)`")
OF_OTHERS = {
    "config.json",
    "cfg.json",
    "adapter_config.json",
    "hooked_transformer.json",
    "manifest.json",
    "metrics.json",
    "env.json",
    "state.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "generation_config.json",
    "config.yaml",
    "run.yaml",
    "dataset_info.json",
    "order.json",
    "README.md",
    "vocab.json",
    "report.json",
    "known_1000.json",
}
"""Files that models, runs and other libraries bring."""


def docs(module: Module) -> Iterator[tuple[int, str]]:
    """Every docstring of a file, those of fields and constants included."""
    for node in module.nodes(ast.Expr):
        assert isinstance(node, ast.Expr)
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def field_docs(module: Module) -> Iterator[tuple[int, str, str]]:
    """The docs of annotated fields: line, field, text."""
    for node in module.nodes(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        for field, doc in zip(node.body, node.body[1:], strict=False):
            is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if is_field and isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                assert isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                yield doc.lineno, field.target.id, str(doc.value.value)


def test_a_fields_doc_stands_alone() -> None:
    # `to_frame()`, `--help` and editors show it without the line above.
    leaning = [
        f"{module.place}:{line} {field}: {text}"
        for module in modules().values()
        for line, field, text in field_docs(module)
        if LEANING.match(text)
    ]
    assert leaning == []


def test_files_that_docs_name_exist() -> None:
    known = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts}
    lost = [
        f"{module.place}:{line} {name}"
        for module in modules().values()
        for line, text in docs(module)
        for name in FILE.findall(text)
        if name not in OF_OTHERS and not any(f"/{k}".endswith(f"/{name}") for k in known)
    ]
    assert lost == []


def test_names_that_docs_give_resolve() -> None:
    lost = []
    for module in modules().values():
        for line, text in docs(module):
            for name in DOTTED.findall(text):
                if not exists(name):
                    lost.append(f"{module.place}:{line} {name}")
    assert lost == []


def exists(dotted: str) -> bool:
    """Whether a dotted name can be imported, or read from what can."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            found = getattr(found, name, None)
        return found is not None
    return False


@pytest.mark.parametrize("name", ["interp.load_model", "interp.core.store", "interp.lenses.heads"])
def test_the_finder_finds(name: str) -> None:
    assert exists(name) and not exists(f"{name}_not") and not exists(f"{name}.nothing")
