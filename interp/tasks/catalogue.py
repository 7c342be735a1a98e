"""The bundled tasks by name; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean
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


def names() -> list[str]:
    """The names of the bundled tasks, for `load_task`."""
    return list(TASKS)


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
    module, _, attribute = TASKS[name].partition(":")
    found = getattr(import_module(module), attribute)
    return found if isinstance(found, Task) else found(name)
