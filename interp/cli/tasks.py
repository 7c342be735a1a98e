"""`interp tasks [NAME_OR_FILE]`: the bundled tasks, or some prompts of one, as text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from interp.cli.config import Common


@dataclass(frozen=True, kw_only=True)
class Tasks(Common):
    """Show prompts with known answers: what bundled tasks and your own files ask a model.

    Without a name, lists the bundled tasks. docs/tasks.md shows the file formats.
    """

    task: Annotated[Positional[str], arg(metavar="NAME_OR_FILE")] = ""
    """A bundled task's name, or a file of prompts; nothing lists the bundled tasks."""
    n: int = 5
    """How many prompts to show; fewer where the file has fewer."""
    seed: int = 0
    """Seed of the prompts that are drawn."""
    member: str | None = None
    """One file of an archive."""
    json: bool = False
    """Print JSON instead of text."""

    def run(self) -> int:
        """List or show; returns the exit code."""
        if not self.task:
            return self._list()
        from interp.tasks import load_task

        task = load_task(self.task, member=self.member)
        n = self.n if task.size is None else min(self.n, task.size)
        prompts = task.sample(n, self.seed, replace=True)
        about = {
            "name": task.name,
            "description": task.description,
            "prompts": task.size,
            "metric": task.metric,
            "criterion": task.criterion,
            "source": task.source,
        }
        if self.json:
            rows = [asdict(prompt) for prompt in prompts]
            print(json.dumps(about | {"sample": rows}, indent=1, ensure_ascii=False))
            return 0
        print(_headline(about))
        for prompt in prompts:
            print(f"\n{prompt}")
        return 0

    def _list(self) -> int:
        from interp.tasks.catalogue import described

        rows = described()
        if self.json:
            print(json.dumps(rows, indent=1, ensure_ascii=False))
            return 0
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            print(f"{row['name']:<{width}}  {row['description']}")
        more = "" if rows else "no bundled tasks; "
        print(f"{more}interp tasks NAME_OR_FILE shows prompts; docs/tasks.md the file formats")
        return 0


def _headline(about: dict[str, Any]) -> str:
    """Name, size and what counts, in two lines."""
    size = "made on demand" if about["prompts"] is None else f"{about['prompts']:,} prompts"
    first = f"{about['name']}: {about['description']}" if about["description"] else about["name"]
    return f"{first}\n{size}; metric {about['metric']}, right by {about['criterion']}"
