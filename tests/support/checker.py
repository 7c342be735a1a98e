"""The runtime type checker of the suite: beartype, where it can read the annotation.

jaxtyping decorates every function of the package with it (pyproject: `--jaxtyping-packages`): so
each test is also a test of shapes and types, and users pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from beartype import beartype
from beartype.roar import BeartypeDecorHintException

Checked = TypeVar("Checked", bound=Callable[..., Any] | type)


def check(target: Checked) -> Checked:
    """Decorate a function, unless its annotation only makes sense to a class (`typing.Self`)."""
    try:
        return beartype(target)
    except BeartypeDecorHintException:
        return target
