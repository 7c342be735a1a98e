"""Calls of the rooms of models, activations, tasks and core."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

import interp
from interp import models, tasks
from interp.activations import (
    ActivationStream,
    FitConfig,
    ShardReader,
    StreamConfig,
    TokenSequences,
    fit,
    tokenize_texts,
    write_shards,
)
from interp.core import Activations, check_finite, generator
from interp.models import SmallConfig, SmallTransformer, TokenBatch
from interp.tasks.grammar.training import GrammarTraining
from tests.devices.place import MIDDLE, SITE, Call, Place, drawn
from tests.models import zoo

TEXT = "Once upon a time there was a"
MASK = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 8 + [0]]).bool()


def folder() -> Path:
    """A new folder."""
    return Path(mkdtemp(prefix="devices"))


def edited(edit: Any, place: Place) -> Any:
    """Logits with an intervention in place."""
    return place.model.run_with_hooks(place.ids(), [edit])


def targeted(place: Place, target: Any) -> Any:
    """What a target says, with its gradient behind it."""
    return interp.attribute(place.model, place.ids()[0], target, method="gradient_x_input").scores


def _hooked(place: Place) -> Any:
    """Everything that a wrapped model does."""
    model, ids = place.model, place.ids()
    padded = TokenBatch(ids, place.put(MASK))
    with model.hooks([models.zero(SITE, positions=-1)]):
        inside = model(padded)
    found = [
        model(ids),
        model.run_with_cache(padded)[1],
        model.capture(padded, "blocks.*.hook_resid_post", positions=[0, -1]),
        model.run_from(SITE, place.rows(4 * 9, zoo.D).view(4, 9, zoo.D), ids[:1]),
        model.randomised(0)(ids),
        model.with_coder(place.dictionary()).run_with_cache(ids)[1],
        model.generate(ids, 4, return_ids=True),
        inside,
        model.loss(ids) if hasattr(model, "loss") else None,
    ]
    return found


def _activations(place: Place) -> Any:
    """What a captured pass can do, there and on disk."""
    acts = place.model.capture(TokenBatch(place.ids(), place.put(MASK)), "blocks.*")
    saved = Activations.load(acts.save(folder() / "acts"))
    return [acts.flat(SITE), acts.to("cpu"), acts.kept_mask, saved, acts.detach()]


def _fit(place: Place) -> Any:
    module, x = torch.nn.Linear(11, 3), place.rows()
    with torch.no_grad():
        module.weight.copy_(drawn(3, 11))
        module.bias.zero_()
    module.to(place.device)
    config = FitConfig(steps=5, lr=0.01, log_every=2, grad_clip=1.0)
    fit(module, lambda m, batch, t: m(batch).square().mean(), lambda t: x, config, out=folder() / "run")
    return module


def _stream(place: Place) -> ActivationStream:
    ids = TokenSequences.of(place.ids(7, 9))
    return ActivationStream(place.model, SITE, ids, StreamConfig(batch_size=13, seed=1))


def _reader(place: Place) -> Any:
    write_shards(_stream(place), folder := Path(mkdtemp()) / "shards")
    return ShardReader(folder, batch_size=13).batch(1)


def _small(place: Place) -> Any:
    sizes = {"n_layers": 2, "d_model": 15, "n_ctx": 13, "d_head": 5, "n_heads": 3, "d_mlp": 11}
    module = SmallTransformer(SmallConfig(**sizes, d_vocab=zoo.V), seed=1).to(place.device)
    return module(place.ids(), attention_mask=place.put(MASK))


MODELS: dict[str, Call] = {
    "HookedModel": _hooked,
    "SmallTransformer": _small,
    "TokenBatch": lambda p: [TokenBatch(p.ids(), p.put(MASK)).ids, p.model(TokenBatch(p.ids(), p.put(MASK)))],
    "Target": lambda p: targeted(p, models.token_logit(p.model, 7)),
    "activation": lambda p: targeted(p, models.activation(SITE, position=-1, index=3)),
    "class_score": lambda p: interp.attribute(
        p.make("vit"), p.put(drawn(1, 3, 12, 12)), models.class_score(2), method="gradient_x_input"
    ),
    "continuation_log_prob": lambda p: targeted(p, models.continuation_log_prob(p.ids()[0], 4)),
    "contrast": lambda p: targeted(p, models.contrast(p.model, [7], [9])),
    "projection": lambda p: targeted(p, models.projection(SITE, p.put(drawn(zoo.D)))),
    "text_loss": lambda p: targeted(p, models.text_loss(p.ids()[0])),
    "token_log_prob": lambda p: targeted(p, models.token_log_prob(p.model, 7)),
    "token_logit": lambda p: targeted(p, models.token_logit(p.model, 7, position=2)),
    "fold": lambda p: models.fold(p.model)(p.ids()),
    "load_model": lambda p: p.grammar(TEXT),
    "wrap": lambda p: [p.make(family)(p.ids()) for family in ("llama", "bert", "gemma2")],
    "zero": lambda p: edited(models.zero("blocks.0.attn.hook_z", head=[0, 2], positions=[0, -1]), p),
    "mean": lambda p: edited(models.mean(SITE, p.model.capture(p.ids(seed=4), SITE)), p),
    "resample": lambda p: edited(models.resample(SITE, p.model.capture(p.ids(seed=4), SITE)), p),
    "patch": lambda p: edited(models.patch(SITE, p.model.capture(p.ids(seed=4), SITE), positions=[1]), p),
    "add": lambda p: edited(models.add(SITE, p.put(drawn(zoo.D)), 2.0), p),
    "steer": lambda p: edited(models.steer(SITE, drawn(zoo.D), 2.0, positions=slice(2, None)), p),
    "clamp": lambda p: edited(models.clamp(MIDDLE, [3, 5], 1.5), p),
    "project_out": lambda p: edited(models.project_out(SITE, p.put(drawn(2, zoo.D))), p),
    "Intervention": lambda p: edited((SITE, lambda value, hook: value * 2), p),
}
MODELS_LEFT = {"SmallConfig": "numbers without tensors", "bundled_models": "names"}

ACTIVATIONS: dict[str, Call] = {
    "fit": _fit,
    "ActivationStream": lambda p: [_stream(p).batch(t) for t in range(2)],
    "write_shards ShardReader": _reader,
    "TokenSequences": lambda p: TokenSequences.of(p.ids()).batch([1, 0]).ids,
    "tokenize_texts": lambda p: tokenize_texts(p.grammar, [TEXT, TEXT]).ids,
}
ACTIVATIONS_LEFT = {
    **dict.fromkeys(("FitConfig", "ShardConfig", "StreamConfig", "TextConfig"), "settings"),
    **dict.fromkeys(("Callback", "Evaluate", "Run"), "what `fit` calls and is"),
    "read_texts": "text",
    "FitReport": "numbers of Python",
}

CORE: dict[str, Call] = {
    "Activations": _activations,
    "check_finite": lambda p: check_finite(p.rows(), "rows"),
    "generator": lambda p: generator(0, "x", device=str(p.device)).initial_seed(),
}
CORE_LEFT = {
    **dict.fromkeys(("permutation", "permuted_index"), "always of the host: the same rows on every device"),
    **dict.fromkeys(("Trained", "Coder"), "what artefacts share; the rooms call theirs"),
    "Result": "what functions return; the rooms make theirs",
    "commit": "written by every artefact",
    "load_tensors": "read by every artefact",
    **dict.fromkeys(("append", "child", "lock", "open_artefact", "read_jsonl", "write_text"), "files"),
    **dict.fromkeys(("esc", "json_island", "visible", "did_you_mean", "match", "slug", "suggest"), "text"),
    **dict.fromkeys(("called", "computed", "measured", "places", "Quantity"), "declarations"),
    **dict.fromkeys(("Check", "Checks", "Provenance", "Placement"), "records without tensors"),
}


def _metric(name: str) -> Call:
    def call(place: Place) -> Any:
        task = tasks.grammar_task(tasks.list_grammar()[0])
        batch = task.sample(4, seed=0).tokenize(place.grammar)
        return tasks.metric(name)(place.grammar(batch.clean), batch, "none")

    return call


def _sentences(place: Place) -> Any:
    batch = place.grammar.read([TEXT, TEXT])
    return tasks.sentence_log_probability(place.grammar(batch), batch)


def _prompt_target(place: Place) -> Any:
    task = tasks.grammar_task(tasks.list_grammar()[0])
    batch = task.sample(2, seed=0).tokenize(place.grammar)
    return tasks.metric_target("logit_difference", batch).of(place.grammar(batch.clean))


def _trained(place: Place) -> Any:
    training = GrammarTraining(steps=2, d_model=32, n_layers=1, batch=4, asked=3, autocast=None)
    return tasks.train_grammar(None, training, device=str(place.device))


TASKS: dict[str, Call] = {
    "measure": lambda p: tasks.measure(p.grammar, tasks.grammar_task(tasks.list_grammar()[0]), 6),
    **{
        name: _metric(name)
        for name in (
            "accuracy answer_probability log_probability logit_difference mass_difference preference "
            "probability_difference rank"
        ).split()
    },
    "metric": _metric("accuracy"),
    "sentence_log_probability": _sentences,
    "metric_target": _prompt_target,
    "train_grammar": _trained,
}
TASKS_LEFT = {
    **dict.fromkeys(("GrammarConfig", "GrammarTraining", "InductionConfig"), "settings"),
    **dict.fromkeys(("TaskReport", "InductionHistory"), "results of what is called here"),
    **dict.fromkeys(("list_tasks", "load_labels", "load_task", "list_grammar", "grammar_task"), "text"),
    **dict.fromkeys(("Labelled", "LabelledCorpus", "LabelledTexts", "Prompt", "Prompts"), "text"),
    **dict.fromkeys(("PromptBatch", "Task"), "used by every metric here"),
    **dict.fromkeys(("grammar_batch", "held_out_blocks", "repeated_blocks"), "ids drawn on the host"),
    "train_induction": "has no device of its own: it trains where torch makes tensors",
}
