"""Can the model do it? Accuracy, logit difference and probability on a task, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.frames.intervals import wilson
from interp.core.provenance import fingerprint_text
from interp.core.result import Result
from interp.tasks import metrics
from interp.tasks.batch import PromptBatch
from interp.tasks.prompts import Prompts
from interp.tasks.task import Task

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

NAN = float("nan")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TaskReport(Result):
    """How well a model does on one task, per template, or on several tasks, one group each.

    What counts as right is the task's criterion: top-1 of the whole vocabulary, above every
    distractor, or the more probable sentence. Intervals are Wilson's, 95 %.
    """

    allow_nonfinite: ClassVar[frozenset[str]] = frozenset(
        {"top1", "preferred", "logit_difference", "probability", "bar"}
    )

    right: Float[Tensor, " group"]
    """Share of prompts answered right, by the group's criterion."""
    low: Float[Tensor, " group"]
    """Lower end of its 95 % interval."""
    high: Float[Tensor, " group"]
    """Upper end of its 95 % interval."""
    top1: Float[Tensor, " group"]
    """Share with an answer on top of the whole vocabulary; NaN for whole sentences."""
    preferred: Float[Tensor, " group"]
    """Share with an answer above every distractor (for sentences: the good one above the bad);
    NaN where there are no distractors."""
    logit_difference: Float[Tensor, " group"]
    """Mean logit difference of answers and distractors (for sentences: difference of log
    probabilities, nats); NaN where there are no distractors."""
    probability: Float[Tensor, " group"]
    """Mean probability mass on the answers; NaN for whole sentences."""
    n: Int[Tensor, " group"]
    """Number of prompts."""
    bar: Float[Tensor, " group"]
    """Share of right answers that counts as learned; NaN where nobody set one."""
    name: str
    """The task, or what the tasks are."""
    grouped_by: str
    """What a group is: `template` or `task`."""
    criteria: tuple[str, ...]
    """The criterion of each group."""
    shortened: int = 0
    """How many different answers stand as their first token only."""

    @property
    def groups(self) -> list[str]:
        """Names of the groups."""
        return self.labels["group"]

    def overall(self) -> dict[str, float]:
        """The same numbers over all prompts together, and how many those are."""
        weights = self.n.double() / self.n.sum()
        share = float((self.right * weights).sum())
        low, high = wilson(share, self.n.sum())
        fields = ("top1", "preferred", "logit_difference", "probability")
        means = {name: float((getattr(self, name) * weights).sum()) for name in fields}
        ends = {"low": float(low), "high": float(high)}
        return {"right": share, **ends, **means, "n": float(self.n.sum())}

    def check(self) -> Checks:
        """Each group with a bar reaches it; the interval is narrow enough to say something."""
        found = [
            Check.at_least(f"right[{name}]", right, float(bar))
            for name, right, bar in zip(self.groups, self.right, self.bar, strict=True)
            if float(bar) == float(bar)
        ]
        total = self.overall()
        return Checks([*found, Check.at_most("interval_width", total["high"] - total["low"], 0.2)])


def measure(
    model: HookedModel,
    task: Task | Prompts | Sequence[Task],
    n: int | None = None,
    *,
    seed: int = 0,
    batch_size: int = 64,
    prepend_bos: bool | None = None,
    first_token: bool = False,
    drop: bool = False,
) -> TaskReport:
    """Run a task's prompts through the model and score the answers.

    Args:
        model: The model.
        task: One task (groups are its templates), prompts as they are, or several tasks (a group
            each).
        n: Prompts per task; None = 200, or all of a smaller pool (all, for `Prompts`).
        seed: Of the sample.
        batch_size: Prompts per forward pass.
        prepend_bos: None = the model's policy.
        first_token: Score answers of several tokens by their first.
        drop: Leave answers of several tokens out.

    Raises:
        TokenError: Prompts that this tokenizer cannot align or answers that are several tokens.
        ConfigError: No prompts, or fewer different ones than `n`.
    """
    if batch_size < 1:
        raise ConfigError("a batch has at least one prompt", got=f"batch_size={batch_size}")
    several = isinstance(task, Sequence) and not isinstance(task, Prompts)
    tasks = [_as_task(each) for each in (task if several else [task])]  # pyright: ignore
    if not tasks:
        raise ConfigError("no task to measure")
    groups: list[_Group] = []
    shortened: set[str] = set()
    texts: list[str] = []
    for each in tasks:
        prompts = each.pool if isinstance(task, Prompts) and n is None else _sampled(each, n, seed)
        prompts = Prompts(()) if prompts is None else prompts
        whole = each.criterion == "sentence"
        if not whole:  # the corrupted side is not run, so it need not fit
            clean = [replace(prompt, corrupted=None) for prompt in prompts]
            prompts = Prompts(clean, prompts.name, ids=prompts.ids)
        batch = prompts.tokenize(
            model, prepend_bos=prepend_bos, first_token=first_token, drop=drop, aligned=False
        )
        rows = [
            _sentences(model, part) if whole else _answers(model, part) for part in batch.batches(batch_size)
        ]
        scores = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        shortened |= set(batch.shortened)
        texts += prompts.clean
        names = [each.name] * len(batch) if several else list(batch.templates)
        groups += _grouped(names, scores, each)
    return _report(model, groups, several, tasks, fingerprint_text("\n".join(texts)), shortened)


@dataclass(frozen=True)
class _Group:
    """The means of one group."""

    name: str
    n: int
    means: dict[str, float]
    criterion: str
    bar: float


def _as_task(given: Task | Prompts) -> Task:
    if isinstance(given, Task):
        return given
    return Task(name=given.name or "prompts", pool=given, ids=given.ids)


def _sampled(task: Task, n: int | None, seed: int) -> Prompts:
    if n is None:
        n = 200
        if task.pool is not None:
            n = min(n, len(task.pool))
            different = task.sample(len(task.pool), seed, replace=True)
            return different[:n] if len(task.pool) else different
    return task.sample(n, seed)


@torch.no_grad()
def _answers(model: HookedModel, batch: PromptBatch) -> dict[str, Tensor]:
    """Scores per prompt of one batch, float64 on the CPU."""
    final = batch.final(model(batch.clean)).float()
    found = {
        "top1": metrics.accuracy(final, batch, "none"),
        "probability": metrics.answer_probability(final, batch, "none"),
    }
    if batch.distractors.shape[1] and bool((batch.distractors >= 0).any(-1).all()):
        found["preferred"] = metrics.preference(final, batch, "none")
        found["logit_difference"] = metrics.logit_difference(final, batch, "none")
    return _complete(found, len(batch))


@torch.no_grad()
def _sentences(model: HookedModel, batch: PromptBatch) -> dict[str, Tensor]:
    """The same for whole sentences: the clean one should be the more probable."""
    if batch.corrupted is None:
        raise ConfigError("the criterion `sentence` compares clean with corrupted sentences")
    good, bad = (
        metrics.sentence_log_probability(model(side).float(), side) for side in (batch.clean, batch.corrupted)
    )
    return _complete({"preferred": (good > bad).float(), "logit_difference": good - bad}, len(batch))


def _complete(found: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    names = ("top1", "preferred", "logit_difference", "probability")
    absent = torch.full((n,), NAN)
    return {name: found.get(name, absent).double().cpu() for name in names}


def _grouped(names: Sequence[str], scores: dict[str, Tensor], task: Task) -> list[_Group]:
    """Means per name, in order of first appearance."""
    rows: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        rows.setdefault(name, []).append(index)
    bar = NAN if task.bar is None else task.bar
    return [
        _Group(
            name or task.name,
            len(index),
            {key: float(values[index].mean()) for key, values in scores.items()},
            task.criterion,
            bar,
        )
        for name, index in rows.items()
    ]


def _report(
    model: HookedModel,
    groups: Sequence[_Group],
    several: bool,
    tasks: Sequence[Task],
    fingerprint: str,
    shortened: set[str],
) -> TaskReport:
    def column(name: str) -> Tensor:
        return torch.tensor([group.means[name] for group in groups], dtype=torch.float32)

    chosen = ["top1" if group.criterion == "accuracy" else "preferred" for group in groups]
    right = torch.tensor([g.means[key] for g, key in zip(groups, chosen, strict=True)])
    if bool(right.isnan().any()):
        name = groups[int(right.isnan().nonzero()[0])].name
        raise ConfigError(
            f"{name!r} counts answers above every distractor, but has prompts without distractors",
            fix="criterion='accuracy'",
        )
    n = torch.tensor([group.n for group in groups])
    low, high = (end.float() for end in wilson(right, n))
    return TaskReport(
        right=right,
        low=low,
        high=high,
        top1=column("top1"),
        preferred=column("preferred"),
        logit_difference=column("logit_difference"),
        probability=column("probability"),
        n=n,
        bar=torch.tensor([group.bar for group in groups]),
        name=f"{len(tasks)} tasks" if several else tasks[0].name,
        grouped_by="task" if several else "template",
        criteria=tuple(group.criterion for group in groups),
        shortened=len(shortened),
        labels={"group": [group.name for group in groups]},
        provenance=model.provenance(data_fingerprint=fingerprint),
    )
