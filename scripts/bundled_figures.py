"""What the cards of the bundled models say, measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.lenses import direct_logit_attribution
from interp.models.hooked import HookedModel
from interp.probing import ProbeConfig, probe_sweep
from interp.tasks.behaviour import measure
from interp.tasks.grammar import words
from interp.tasks.grammar.asking import grammar_task, list_grammar
from interp.tasks.grammar.corpus import ASKED, drawn, form
from interp.tasks.grammar.rules import INDUCTION, THIRD_NAME
from interp.tasks.grammar.templates import induction

BEHAVIOURS = {behaviour.name: behaviour for behaviour in ASKED}
SEED = 7
"""Of the held-out prompts; training and development use other seeds."""


def behaviours(model: HookedModel, n: int) -> dict[str, dict[str, Any]]:
    """Per behaviour: held-out accuracy, its interval, without sentences in front, by template."""
    found: dict[str, dict[str, Any]] = {}
    wordings: dict[str, float] = {}
    for name in list_grammar():
        task = grammar_task(name)
        report = measure(model, task, n, seed=SEED)
        if "wordings" in (BEHAVIOURS[name].asked or {}):
            other = measure(model, grammar_task(name, "wordings"), n, seed=SEED)
            wordings[name] = round(other.overall()["right"], 4)
        alone = measure(model, grammar_task(name, fillers=0), n // 4, seed=SEED)
        found[name] = {
            "description": task.description,
            "criterion": task.criterion,
            "bar": task.bar,
            **{k: round(v, 4) for k, v in report.overall().items()},
            "other_wordings": wordings.get(name),
            "without_sentences_in_front": round(alone.overall()["right"], 4),
            "templates": {
                group: {"n": int(n), "top1": round(float(t), 4), "restricted": round(float(p), 4)}
                for group, n, t, p in zip(report.groups, report.n, report.top1, report.preferred, strict=True)
            },
        }
    return found


def held_out_sums(model: HookedModel, n: int) -> dict[str, float]:
    """Accuracy of a model that never saw one in ten of the sums, on those."""
    return {
        name: round(measure(model, grammar_task(name, "sums"), n, seed=SEED).overall()["right"], 4)
        for name in ("weekdays", "months")
    }


@torch.no_grad()
def third_name_split(model: HookedModel, n: int) -> dict[str, float]:
    """Where the probability goes when a third person gives: first, second name, giver."""
    import numpy as np

    columns = drawn(THIRD_NAME, np.random.default_rng(SEED), n)
    made = form(THIRD_NAME.train[0].text)
    at = next(column for column, name in made.slots if name == "either")
    ids = torch.from_numpy(made.fill(columns, slice(None))[:, :at])
    bos = torch.full((n, 1), words.token_ids()[words.BOS])
    probs = model(torch.cat([bos, ids], 1))[:, -1].softmax(-1)
    return {
        name: round(float(probs.gather(1, torch.from_numpy(columns[key])[:, None]).mean()), 3)
        for name, key in (("first", "x"), ("second", "y"), ("giver", "third"))
    }


def head_scores(model: HookedModel, ids: Tensor, block: int) -> dict[str, Any]:
    """Best previous-token and induction heads on lists read twice, and the randomised model's best.

    Args:
        model: The model.
        ids: Token ids [row pos]; the last `block` tokens repeat words of the first reading.
        block: Distance between the two readings.
    """
    mine, null = (_head_scores(each, ids, block) for each in (model, model.randomised(0)))
    found = {}
    for name, scores in mine.items():
        order = scores.flatten().argsort(descending=True)[:4].tolist()
        heads = scores.shape[1]
        found[name] = {
            "heads": {f"L{i // heads}H{i % heads}": round(float(scores.flatten()[i]), 3) for i in order},
            "randomised": round(float(null[name].max()), 3),
        }
    return found


def _head_scores(model: HookedModel, ids: Tensor, block: int) -> dict[str, Tensor]:
    """Mean attention: of the first reading to the token before, of the second to what followed."""
    acts = model.capture(ids, "blocks.*.attn.hook_pattern")
    patterns = torch.stack([acts["pattern", i] for i in range(model.cfg.n_layers)]).mean(1)
    second = ids.shape[1] - block + 1  # the first word of the second reading is not yet a repeat
    return {
        "previous": patterns.diagonal(-1, -2, -1)[..., : second - 1].mean(-1),
        "induction": patterns.diagonal(1 - block, -2, -1)[..., second + 1 - block :].mean(-1),
    }


def repeated_lists(n: int, length: int = 10) -> tuple[Tensor, int]:
    """The grammar's lists of words, read twice: ids [n pos], and the distance of the readings."""
    import numpy as np

    made = form(induction(length))
    columns = drawn(INDUCTION, np.random.default_rng(SEED), n)
    ids = torch.from_numpy(made.fill(columns, slice(None)))[:, :-1]  # without the full stop
    bos = torch.full((n, 1), words.token_ids()[words.BOS])
    return torch.cat([bos, ids], 1), length + 1


def attribution_of_heads(model: HookedModel, n: int = 200) -> dict[str, Any]:
    """Mean direct contribution of every head to the indirect object's logit difference."""
    prompts = grammar_task("indirect-object", fillers=0).sample(n, SEED)
    total: Tensor | float = 0.0
    for prompt in prompts:
        split = direct_logit_attribution(
            model, prompt.clean, (prompt.answers[0], prompt.distractors[0]), positions=-1
        )
        total = total + split.heads()[..., 0]
    mean = torch.as_tensor(total) / n
    order = mean.flatten().abs().argsort(descending=True).tolist()
    share = mean.abs().flatten()[order].cumsum(0) / mean.abs().sum()
    return {
        "heads": {
            f"L{i // mean.shape[1]}H{i % mean.shape[1]}": round(float(mean.flatten()[i]), 2)
            for i in order[:5]
        },
        "share_of_three": round(float(share[2]), 3),
        "uniform_share_of_three": round(3 / mean.numel(), 3),
    }


def probes(model: HookedModel, n: int = 600) -> dict[str, Any]:
    """Each behaviour's answer read at the last token, beside shuffled labels and fresh weights."""
    fresh = model.randomised(0)
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    found = {}
    for name in list_grammar():
        prompts = grammar_task(name).sample(n, SEED)
        labels = [_latent(name, p.answers, p.distractors) for p in prompts]
        texts = prompts.clean
        sweep = probe_sweep(
            _last(model, texts, sites),
            {name: labels},
            ProbeConfig(kind="ridge", penalties=(1.0, 100.0), n_shuffles=3),
            random_init=_last(fresh, texts, sites),
        )
        layer = int(sweep.score[:, 0].argmax())
        found[name] = {
            "layer": layer,
            "score": round(float(sweep.score[layer, 0]), 3),
            "majority": round(float(sweep.majority[0]), 3),
            "shuffled": round(float(torch.as_tensor(sweep.shuffled).max()), 3),
            "randomised": round(float(torch.as_tensor(sweep.random_init).max()), 3),
        }
    return found


def _latent(name: str, answers: tuple[str, ...], distractors: tuple[str, ...]) -> str:
    """The class that the answer belongs to: plural, past the middle of the century, the answer."""
    if name == "agreement":
        return "plural" if answers[0] in words.VERBS_PLURAL else "singular"
    if name == "greater-than":
        return "late" if int(answers[0]) > 50 else "early"
    if name == "sentiment":
        return "liked" if answers[0] in words.LIKED else "hated"
    if name == "induction":
        return next(kind for kind, pool in words.CLASSES.items() if answers[0] in pool)
    if name == "pronouns":
        return "man" if answers[0] in {he for he, _ in words.PRONOUNS.values()} else "woman"
    return answers[0]


def _last(model: HookedModel, texts: list[str], sites: list[str]) -> dict[str, Tensor]:
    """Rows of each site at the last token of every text."""
    batch = model.tokenize(texts)
    acts = model.capture(batch, sites)
    last = batch.mask.sum(1) - 1
    return {site: acts[site][torch.arange(len(last)), last] for site in sites}
