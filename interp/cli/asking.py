"""Prompts that a command asks a model: of a bundled task, or of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.core.errors import ConfigError

if TYPE_CHECKING:
    from interp.tasks.prompts import Prompts
    from interp.tasks.task import Task


def asked(name: str, n: int, seed: int, sets: int = 1) -> tuple[Task, list[Prompts]]:
    """The task of that name or file, and sets of `n` prompts of it that do not overlap.

    Raises:
        ConfigError: Fewer prompts than are asked for, or prompts without a corrupted side.
    """
    from interp.tasks import load_task

    task = load_task(name)
    if task.size is not None and task.size < sets * n:
        raise ConfigError(
            f"{task.name} has too few prompts",
            got=f"{task.size}",
            expected=f"{sets * n}" + (f", {n} to find edges and {n} to measure" if sets == 2 else ""),
            fix=f"--n {max(1, task.size // sets)}",
        )
    drawn = task.sample(sets * n, seed)
    _ = drawn.corrupted  # refused here, before a model is run
    return task, [drawn[i * n : (i + 1) * n] for i in range(sets)]
