"""Names that import their module when first used: `import interp` costs nothing (PEP 562).

A room's `__init__.pyi` is the one table of its public names, one import a line; editors and type
checkers read the same file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Getter = Callable[[str], Any]

_LINE = re.compile(r"from (?P<module>[\w.]+) import (?P<name>\w+)(?: as (?P<public>\w+))?")


@cache
def face(package: str) -> dict[str, tuple[str, str]]:
    """The public names of a package: name -> (module, name there), in the stub's order."""
    loaded = sys.modules.get(package)
    spec = find_spec(package) if loaded is None else loaded.__spec__
    if spec is None or spec.origin is None:
        return {}
    text = Path(spec.origin).with_suffix(".pyi").read_text(encoding="utf-8")
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return {m["public"] or m["name"]: (m["module"], m["name"]) for m in found if m is not None}


def lazy(package: str) -> tuple[list[str], Getter, Callable[[], list[str]]]:
    """Make a package's `__all__`, `__getattr__` and `__dir__` from its `__init__.pyi`.

    Args:
        package: The package's `__name__`.

    Returns:
        The three, to be bound in the package's `__init__`. An unknown name raises `AttributeError`
        with the nearest public names.
    """
    exports = face(package)

    def get(name: str) -> Any:
        if name not in exports:
            if name.startswith("__"):
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            from interp.core.names import did_you_mean

            hint = did_you_mean(name, exports)
            ending = f"; {hint}" if hint else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}{ending}", name=name)
        value = _load(package, *exports[name])
        setattr(sys.modules[package], name, value)  # the next access does not come here
        return value

    def names() -> list[str]:
        return sorted({*exports, *vars(sys.modules[package])})

    return list(exports), get, names


def _load(package: str, module: str, name: str) -> Any:
    """What a line of the table imports: a room of the package itself, or a name in a module."""
    if module == package:
        return import_module(f"{module}.{name}")
    loaded = import_module(module)
    if hasattr(loaded, "__path__") and name not in vars(loaded):
        return import_module(f"{module}.{name}")  # a module of a room, such as `errors`
    return getattr(loaded, name)
