"""The runtime type checker of the suite: every function of the package holds its annotations.

An import hook decorates each function and dataclass as it is compiled, and the first call reads the
annotations: so each test is also a test of shapes and types, and users pay nothing. beartype checks;
where an annotation names axes, a scope of jaxtyping's makes equal names mean equal sizes. (jaxtyping's
own hook opens such a scope around every call and checks its arguments twice; reading annotations at
import, or those of functions inside functions each time, made a third of the suite's time.)
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from threading import Thread
from types import FunctionType
from typing import Any, get_type_hints

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintException
from jaxtyping import config, jaxtyped

NAME = "__check_annotations__"
"""What decorated code calls the decorator."""
TAG = ".checked-2.pyc"
"""Ends the names of cached bytecode; raised with every change of what `_Decorate` writes."""
AXES = ("Float[", "Int[", "Bool[", "Shaped[", "Num[", "Integer[", "Inexact[", "Complex[")
_MARK = "_annotations_are_checked"
_inner: set[tuple[str, int]] = set()


class Violation(TypeError):
    """A value that its annotation does not allow."""


# A whole number is a float, as type checkers have it.
_strictly = beartype(conf=BeartypeConf(violation_type=Violation, is_pep484_tower=True))


def check(target: Any) -> Any:
    """Decorate a function, or the `__init__` of a dataclass."""
    if inspect.isclass(target):
        init = target.__dict__.get("__init__")
        if is_dataclass(target) and isinstance(init, FunctionType) and not hasattr(init, _MARK):
            target.__init__ = check(init)
        return target
    if "<locals>" in target.__qualname__:
        # Made anew at every call of the one around it, and reading takes a hundred times as long as
        # most of them run: a process checks the first of each.
        place = (target.__code__.co_filename, target.__code__.co_firstlineno)
        if place in _inner:
            return target
        _inner.add(place)
    runs: list[Callable[..., Any]] = []

    @functools.wraps(target)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if config.jaxtyping_disable:
            return target(*args, **kwargs)
        if not runs:  # most functions are imported by every process and called by few
            reader = Thread(target=lambda: runs.append(_held(target)))
            # beartype keeps exceptions that it raises, and they keep the frames that called it: in a
            # thread of its own, none that holds somebody's activations.
            reader.start()
            reader.join()
        return runs[0](*args, **kwargs)

    setattr(guarded, _MARK, True)
    return guarded


def _held(target: FunctionType) -> Callable[..., Any]:
    """The function with its annotations read, as it is to be called."""
    told = [str(hint) for hint in target.__annotations__.values()]
    hints = {name: _read(hint, target) for name, hint in target.__annotations__.items()}
    if all(hint is Any for hint in hints.values()):
        return target
    try:
        checked = _checked(target, hints)
    except BeartypeDecorHintException:
        checked = _checked(target, {name: hint if _checkable(hint) else Any for name, hint in hints.items()})
    if not any(kind in hint for hint in told for kind in AXES):
        return checked

    def in_scope(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with jaxtyped("context"):
            return checked(*args, **kwargs)

    return in_scope


def install(package: str) -> None:
    """Check the annotations of a package; before its first import."""
    if package in sys.modules:
        raise RuntimeError(f"{package} was imported before its annotations could be checked")
    setattr(builtins, NAME, check)
    sys.meta_path.insert(0, _Finder(package))


def _read(hint: Any, function: Callable[..., Any]) -> Any:
    """A hint as an object; Any where it names what is only imported for type checkers, or the class
    that a function does not know."""
    if not isinstance(hint, str):
        return hint
    if "Self" in hint:
        return Any

    def holder(value: Any) -> None: ...

    holder.__annotations__ = {"value": hint}
    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)["value"]
    except Exception:  # a name that is missing, or whatever evaluating it raises
        return Any


def _checkable(hint: Any) -> bool:
    """Whether beartype can hold a value to a hint; protocols without `runtime_checkable` cannot be."""

    def holder(value: Any) -> None: ...

    holder.__annotations__ = {"value": hint}
    try:
        beartype(holder)
    except BeartypeDecorHintException:
        return False
    return True


def _checked(target: FunctionType, hints: dict[str, Any]) -> Callable[..., Any]:
    """The function by beartype, under hints that are objects."""
    twin = FunctionType(
        target.__code__, target.__globals__, target.__name__, target.__defaults__, target.__closure__
    )
    twin.__kwdefaults__, twin.__qualname__, twin.__module__ = (
        target.__kwdefaults__,
        target.__qualname__,
        target.__module__,
    )
    twin.__annotations__ = hints
    return _strictly(twin)


class _Decorate(ast.NodeTransformer):
    """Functions are decorated first of all, classes last: after `@dataclass` has made an `__init__`."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list.append(ast.copy_location(ast.Name(NAME, ast.Load()), node))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        node.decorator_list.insert(0, ast.copy_location(ast.Name(NAME, ast.Load()), node))
        return node


class _Loader(SourceFileLoader):
    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:
        tree = _Decorate().visit(ast.parse(data, path))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def get_data(self, path: Any) -> bytes:
        return super().get_data(_apart(path))

    def set_data(self, path: Any, data: Any, *, _mode: int = 0o666) -> None:
        super().set_data(_apart(path), data, _mode=_mode)


def _apart(path: str) -> str:
    """Bytecode of decorated modules has names of its own."""
    return path.removesuffix(".pyc") + TAG if path.endswith(".pyc") else path


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != self.package and not fullname.startswith(self.package + "."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec
