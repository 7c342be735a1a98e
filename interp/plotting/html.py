"""The one jinja2 environment: every value that a template writes passes `core.escape.esc`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from interp.core.escape import esc


@cache
def environment(folder: Path) -> Environment:
    """Templates of a folder (and of this room), autoescaped; an undefined name is an error."""
    here = Path(__file__).parent / "templates"
    return Environment(
        loader=FileSystemLoader([folder, here], encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(folder: Path, name: str, **values: object) -> Markup:
    """Fill a template of `folder`."""
    return Markup(environment(folder).get_template(name).render(**values))


def _finalize(value: object) -> object:
    """Escape what is not markup already, with the house's function rather than jinja's own, which
    would let NUL and lone surrogates through."""
    return value if hasattr(value, "__html__") else Markup(esc(str(value)))
