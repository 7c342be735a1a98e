"""A behaviour as prompts on demand: what is asked, how it is scored, when it counts as learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from interp.core.errors import ConfigError
from interp.core.randomness import permutation
from interp.core.settings import check_flags
from interp.tasks.metrics import Metric, metric
from interp.tasks.prompts import Prompt, Prompts

Sampler = Callable[[int, int], Sequence[Prompt]]
Criterion = Literal["accuracy", "preference", "sentence"]
CRITERIA: tuple[Criterion, ...] = ("accuracy", "preference", "sentence")
ROUNDS = 20


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompts with known answers, drawn on demand.

    ```python
    task = interp.tasks.load_task("my_prompts.csv")
    prompts = task.sample(100, seed=0)
    batch = prompts.tokenize(model)
    interp.tasks.logit_difference(model(batch.clean), batch)
    ```

    Raises:
        ConfigError: An unknown metric or criterion, or neither a sampler nor a pool.
    """

    name: str
    """Short name, for tables and the command line."""
    description: str = ""
    """One sentence: what the prompts ask for."""
    sampler: Sampler | None = field(default=None, repr=False)
    """`(n, seed)` -> n prompts (fewer where it has no more); depends on nothing else."""
    pool: Prompts | None = None
    """All prompts there are, for a task from a file; samples are drawn from it."""
    metric: str = "logit_difference"
    """Name of the metric in `interp.tasks.metrics` that circuits and patching use."""
    criterion: Criterion = "accuracy"
    """What counts as right: an answer is top-1 of the whole vocabulary (`accuracy`), is above every
    distractor (`preference`), or the clean sentence is more probable than the corrupted one
    (`sentence`)."""
    bar: float | None = None
    """Share of right answers from which the behaviour counts as learned."""
    source: str = ""
    """Where the prompts come from: file, paper."""
    ids: bool = False
    """The prompts are token ids written as numbers (models without text)."""

    def __post_init__(self) -> None:
        metric(self.metric)
        if (self.sampler is None) == (self.pool is None):
            raise ConfigError(
                f"task {self.name!r} needs a sampler or a pool of prompts, one of the two",
                got="neither" if self.sampler is None else "both",
            )
        if self.criterion not in CRITERIA:
            raise ConfigError("unknown criterion", got=self.criterion, expected=", ".join(CRITERIA))

    @property
    def score(self) -> Metric:
        """The metric as a function: `task.score(logits, batch)`."""
        return metric(self.metric)

    @property
    def size(self) -> int | None:
        """How many prompts there are; None where they are made on demand."""
        return None if self.pool is None else len(self.pool)

    def sample(self, n: int, seed: int = 0, *, replace: bool = False) -> Prompts:
        """`n` prompts that depend on (n, seed) only.

        Args:
            n: How many.
            seed: Another seed, other prompts (or another order of the same).
            replace: Let prompts occur more than once instead of raising where there are too few.

        Raises:
            ConfigError: `n` is below 1, or there are fewer than `n` different prompts.
        """
        check_flags(replace=replace)
        if n < 1:
            raise ConfigError("a sample has at least one prompt", got=n)
        chosen = self._made(n, seed) if self.pool is None else self._drawn(self.pool, n, seed)
        if not chosen:
            raise ConfigError(f"task {self.name!r} has no prompts", got=f"n={n}")
        if len(chosen) < n:
            if not replace:
                raise ConfigError(
                    f"task {self.name!r} has only {len(chosen)} different prompts",
                    got=n,
                    expected=f"1 to {len(chosen)}",
                    fix=f"n={len(chosen)}, or replace=True for repeated prompts",
                )
            chosen = [chosen[i % len(chosen)] for i in range(n)]
        return Prompts(chosen, self.name, ids=self.ids)

    def _drawn(self, pool: Prompts, n: int, seed: int) -> list[Prompt]:
        """Prompts from the pool, in random order; a prompt that the file repeats counts once."""
        order = permutation(len(pool), seed, f"task {self.name}").tolist()
        found: dict[tuple[object, ...], Prompt] = {}
        for index in order:
            found.setdefault(_identity(pool[index]), pool[index])
            if len(found) == n:
                break
        return list(found.values())

    def _made(self, n: int, seed: int) -> list[Prompt]:
        """Different prompts from the sampler; what repeats is drawn again under a new seed."""
        found: dict[tuple[object, ...], Prompt] = {}
        if self.sampler is None:
            return []
        for attempt in range(ROUNDS):
            before = len(found)
            for prompt in self.sampler(n, seed if attempt == 0 else _reseeded(seed, attempt)):
                found.setdefault(_identity(prompt), prompt)
                if len(found) == n:
                    return list(found.values())
            if len(found) == before:
                break
        return list(found.values())


def _identity(prompt: Prompt) -> tuple[object, ...]:
    """What makes two prompts the same question; variables and template names do not."""
    return prompt.clean, prompt.corrupted, prompt.answers, prompt.distractors, prompt.read_at


def _reseeded(seed: int, attempt: int) -> int:
    """A seed far from its neighbours, so that no user's next seed draws the same prompts."""
    return int.from_bytes(blake2b(f"{seed} {attempt}".encode(), digest_size=6).digest(), "little")
