"""Names that import their module when first used: `import interp` costs nothing (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

Getter = Callable[[str], Any]


def lazy(package: str, exports: Mapping[str, str]) -> tuple[Getter, Callable[[], list[str]]]:
    """Make a package's `__getattr__` and `__dir__` from a table of its public names.

    Args:
        package: The package's `__name__`.
        exports: Public name -> `"module:attribute"`, or `"module"` for the module itself.

    Returns:
        `(__getattr__, __dir__)` to be bound in the package's `__init__`. An unknown name raises
        `AttributeError` with the nearest public names.
    """

    def get(name: str) -> Any:
        if name not in exports:
            if name.startswith("__"):
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            from interp.core.names import did_you_mean

            hint = did_you_mean(name, exports)
            ending = f"; {hint}" if hint else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}{ending}", name=name)
        module, _, attribute = exports[name].partition(":")
        loaded = import_module(module)
        value = getattr(loaded, attribute) if attribute else loaded
        setattr(sys.modules[package], name, value)  # the next access does not come here
        return value

    def names() -> list[str]:
        return sorted({*exports, *vars(sys.modules[package])})

    return get, names
