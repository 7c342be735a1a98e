"""The bundled tasks by name; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean

if TYPE_CHECKING:
    from interp.tasks.task import Task

GRAMMAR = "interp.tasks.grammar.asking:grammar_task"
TASKS: dict[str, str] = {
    "indirect-object": GRAMMAR,
    "agreement": GRAMMAR,
    "greater-than": GRAMMAR,
    "docstring": GRAMMAR,
    "induction": GRAMMAR,
    "brackets": GRAMMAR,
    "weekdays": GRAMMAR,
    "months": GRAMMAR,
    "pronouns": GRAMMAR,
    "sentiment": GRAMMAR,
    "capitals": GRAMMAR,
}
"""Name -> "module:attribute" of a Task, or of a function that makes one from its name."""


def list_tasks() -> list[str]:
    """The names of the bundled tasks, for `load_task`."""
    return list(TASKS)


def described() -> list[dict[str, str]]:
    """Name, description and criterion of every bundled task; those of the grammar without torch."""
    from interp.tasks.grammar.facts import FACTS
    from interp.tasks.grammar.rules import RULES

    known: dict[str, Any] = {behaviour.name: behaviour for behaviour in (*RULES, *FACTS)}
    rows = []
    for name, where in TASKS.items():
        about = known[name] if where == GRAMMAR else bundled(name)
        rows.append({"name": name, "description": about.description, "criterion": about.criterion})
    return rows


def bundled(name: str) -> Task:
    """The bundled task of that name.

    Raises:
        ConfigError: There is none; the nearest names are suggested.
    """
    if name not in TASKS:
        raise ConfigError(
            f"no bundled task {name!r}",
            expected=f"one of {', '.join(TASKS)}" if TASKS else "the path of a file",
            fix=did_you_mean(name, TASKS) or None,
        )
    from interp.tasks.task import Task

    module, _, attribute = TASKS[name].partition(":")
    found = getattr(import_module(module), attribute)
    return found if isinstance(found, Task) else found(name)
