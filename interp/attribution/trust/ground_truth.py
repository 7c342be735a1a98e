"""Methods against tasks whose deciding tokens are known: does the score lead where it should?

A prompt and its corrupted twin differ in what decides the answer and in nothing else; where the
answer is copied from the prompt, the tokens that it is copied from decide as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.attribution.attributing import attribute
from interp.attribution.config import AttributionConfig
from interp.attribution.trust.faithfulness import RANDOM
from interp.attribution.trust.result import GroundTruth
from interp.core.errors import ConfigError
from interp.core.randomness import generator
from interp.models.hooked import HookedModel
from interp.models.stream.target import Target
from interp.tasks.batch import PromptBatch
from interp.tasks.prompts import Prompts

SAMPLES = 60


def score_ground_truth(
    model: HookedModel,
    tasks: Mapping[str, Prompts],
    methods: Sequence[str] = ("integrated_gradients", "deeplift", "feature_ablation"),
    *,
    baseline: Any = "mean",
    config: AttributionConfig | None = None,
) -> GroundTruth:
    """Rank tokens by |score| and see where those stand that decide, task by task.

    The target is log p(answers) - log p(distractors) where the answer is due. A method "random" is
    added as the control.

    Args:
        tasks: Name -> prompts with corrupted twins, answers and distractors.
        methods: Names from `METHODS`.
        baseline, config: As for `attribute`.

    Raises:
        ConfigError: Prompts without twins, answers or distractors, or whose twins are equal.
    """
    settings = config or replace(AttributionConfig(), samples=SAMPLES)
    names = [*methods, RANDOM]
    hits, areas = torch.zeros(2, len(names), len(tasks))
    chance = torch.zeros(len(tasks))
    for t, (name, prompts) in enumerate(tasks.items()):
        batch = prompts.tokenize(model)
        for i in range(len(prompts)):
            ids, decides, target = _case(name, batch, i)
            scores = {
                method: attribute(model, ids, target, method=method, baseline=baseline, config=settings)
                .scores.abs()
                .cpu()
                for method in methods
            }
            drawn = generator(settings.seed, f"random order {name}", i)
            scores[RANDOM] = torch.rand(len(ids), generator=drawn)
            for m, method in enumerate(names):
                hits[m, t] += float(decides[int(scores[method].argmax())])
                areas[m, t] += area_under_curve(scores[method], decides)
            chance[t] += float(decides.float().mean())
        hits[:, t] /= len(prompts)
        areas[:, t] /= len(prompts)
        chance[t] /= len(prompts)
    return GroundTruth(
        hits=hits,
        area=areas,
        chance=chance,
        n_prompts=sum(map(len, tasks.values())),
        labels={"method": names, "task": list(tasks)},
        provenance=model.provenance([]),
    )


def area_under_curve(scores: Tensor, decides: Tensor) -> float:
    """Chance that a deciding position scores above another one, [pos], [pos]; ties count half."""
    above = scores[decides][:, None] - scores[~decides]
    return float((above.sign().double() / 2 + 0.5).mean()) if above.numel() else 1.0


def _case(task: str, batch: PromptBatch, i: int) -> tuple[Tensor, Tensor, Target]:
    """One prompt up to where the answer is due: ids [pos], which decide [pos], the target."""
    twin, end = batch.corrupted, int(batch.last[i]) + 1
    good, bad = (rows[i][rows[i] >= 0] for rows in (batch.answers, batch.distractors))
    if twin is None or not len(good) or not len(bad):
        raise ConfigError(
            "ground truth needs corrupted twins, answers and distractors", got=f"{task}, prompt {i}"
        )
    ids = batch.clean.ids[i, :end]
    decides = ids != twin.ids[i, :end]
    if not bool(decides.any()):
        raise ConfigError(
            "a corrupted prompt that equals the clean one decides nothing", got=f"{task}, prompt {i}"
        )
    decides = (decides | torch.isin(ids, good)).cpu()  # beside scores that are ranked on the host

    def read(out: Tensor) -> Tensor:
        logits = out[:, -1]
        return logits[:, good].logsumexp(-1) - logits[:, bad].logsumexp(-1)

    return ids, decides, Target("answers against distractors", read)
