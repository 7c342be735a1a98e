"""Train dictionaries: any rows, any sites, one or many in one pass, on the one training loop.

```python
config = TrainConfig(site="blocks.3.hook_resid_post", d_sae=1024, k=16, steps=2000)
sae = train(config, "stories.jsonl", model=model)
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, overload

import torch
from torch import Tensor, nn

from interp.activations.loop import Callback, Run, fit
from interp.activations.optim import make_optimizer
from interp.activations.report import FitReport
from interp.activations.runfolder import NEUTRAL, PLAN, Resume
from interp.activations.shards import ShardReader
from interp.core.errors import ConfigError
from interp.core.provenance import Provenance
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.far_rows import find_far, named_rows, norms_of, tell_far
from interp.dictionaries.initialising import Sample
from interp.dictionaries.landing import land, rows_wanted
from interp.dictionaries.resampling import resample
from interp.dictionaries.sources import (
    Source,
    TensorRows,
    own_settings,
    plan_of,
    provenance_at,
    read_data,
    refuse_unaffordable,
    sides,
    source_of,
)
from interp.dictionaries.train_checks import as_used, check_configs, refuse_unread
from interp.dictionaries.train_config import TrainConfig
from interp.dictionaries.trainee import Trainee


@dataclass(frozen=True, eq=False)
class DictionaryRun:
    """What a training made.

    Attributes:
        dictionaries: By name, in the order of the configs; in raw units, ready to use.
        report: How it went; with several dictionaries its metrics are called `<name>/<metric>`.
    """

    dictionaries: dict[str, Dictionary]
    report: FitReport


@overload
def train(
    config: TrainConfig, data: Any = None, *, model: Any = None, out: Path | str | None = None, **options: Any
) -> Dictionary: ...
@overload
def train(
    config: Sequence[TrainConfig],
    data: Any = None,
    *,
    model: Any = None,
    out: Path | str | None = None,
    **options: Any,
) -> list[Dictionary]: ...
def train(
    config: TrainConfig | Sequence[TrainConfig],
    data: Any = None,
    *,
    model: Any = None,
    out: Path | str | None = None,
    **options: Any,
) -> Dictionary | list[Dictionary]:
    """Train one dictionary, or several on the same batches: one pass over the model for all.

    Arguments and errors are `run_training`'s, which also returns how the training went.

    Returns:
        The dictionary, or the list of them in the order of the configs.
    """
    made = run_training(config, data, model=model, out=out, **options)
    found = list(made.dictionaries.values())
    return found[0] if isinstance(config, TrainConfig) else found


def run_training(
    config: TrainConfig | Sequence[TrainConfig],
    data: Any = None,
    *,
    model: Any = None,
    out: Path | str | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Resume = "auto",
    overwrite: bool = False,
) -> DictionaryRun:
    """Train dictionaries and report how it went.

    Args:
        config: What and how; several must agree on what makes the pass (`PASS`), but for the rate.
        data: Rows `[n, d]`; a pair of them for a transcoder; a mapping of them by site; a stream,
            a shard reader or its folder; with a model, text or token sequences.
        model: The `HookedModel` that text runs through; for rows, where they came from (noted).
        out: The run's folder: checkpoints, metrics.jsonl, and at the end every dictionary under
            `dictionaries/`. None keeps nothing on disk.
        callbacks: For the loop, after this function's own.
        resume: As for `interp.activations.fit`.
        overwrite: Replace what an earlier run left in `out`.

    Training goes on where the rows lie (a stream's: where its model is), and the dictionary stays there.
    Rows far larger than the others (attention sinks) are named in a `DataWarning`, as far as they are
    among the first `init_rows`.

    Raises:
        ConfigError: Settings that are wrong or contradict each other or the run in `out`.
        SiteError, ShapeError: No rows at a site.
        NonFiniteError: Rows, losses, gradients or weights stopped being finite.
        StorageError: `out` is held by another process, or the disk refuses.
        Interrupted: SIGTERM or SIGINT; a checkpoint was committed.
        MemoryBudgetError: Weights, their gradients and moments, and one batch's latents are more than
            what is free, before any row is read.
    """
    configs = [config] if isinstance(config, TrainConfig) else list(config)
    names = check_configs(configs)
    first, data = configs[0], read_data(data)
    places = [sides(c.site, c.site_out, data) for c in configs]
    sites = [site for pair in places for site in pair]
    source = source_of(data, model, sites, first.stream, first.text)
    if source is data or isinstance(source, TensorRows | ShardReader):
        refuse_unread(first, own_settings(source), type(source).__name__)
    refuse_unaffordable(configs, places, source)
    plan = plan_of(source)
    trainees = nn.ModuleDict()
    samples: dict[tuple[str, str, int], Sample] = {}
    for name, one, (site_in, site_out) in zip(names, configs, places, strict=True):
        key = (site_in, site_out, one.init_rows)
        samples[key] = samples.get(key) or Sample.of(source, *key)
        trainees[name] = Trainee(one, site_in, site_out, samples[key])
    # Every batch would be fetched otherwise, and trained on where the rows are not.
    trainees.to(source.batch(0)[sites[0]].device)
    far = _far(source, samples)
    samples.clear()
    optimizer = _optimizer(trainees, first)
    report = fit(
        trainees,
        _step,
        source.batch,
        first.loop(overwrite=overwrite),
        out=out,
        optimizer=optimizer,
        callbacks=[Upkeep(), *callbacks],
        resume=resume,
        record=_record(names, configs, source, plan),
        read_record=_today,
    )
    made = {name: _finish(name, _at(trainees, name), source, model, report) for name in names}
    for dictionary in made.values():
        here = {site: far[site] for site in (dictionary.site_in, dictionary.site_out) if site in far}
        dictionary.metadata["training"] |= {"data": plan} | ({"far_rows": here} if here else {})
    if out is not None:
        for name, dictionary in made.items():
            dictionary.save(Path(out) / "dictionaries" / name, overwrite=True)
    return DictionaryRun(made, report)


class Upkeep(Callback):
    """What holds around every update: unit decoder rows, bounded gradients, living latents."""

    def start(self, run: Run) -> None:
        """Keep the optimizer, whose moments resampling resets."""
        self.optimizer: torch.optim.Optimizer = run.optimizer
        self.steps: int = run.config.steps

    def after_backward(self, module: Any, t: int) -> None:
        """Along a unit row the decoder has no gradient; the rest is clipped per dictionary."""
        for trainee in module.values():
            d, config = trainee.dictionary, trainee.config
            if config.decoder_norm == "unit":
                grad, rows = d.W_dec.grad, d.W_dec.detach()
                along = torch.linalg.vecdot(grad, rows)
                grad.addcmul_(rows, along[:, None], value=-1)
            if config.grad_clip is not None:
                clip_dictionary(d, config.grad_clip)

    def after_step(self, module: Any, t: int) -> Mapping[str, Any] | None:
        """Dead latents replaced when it is time, not in the last quarter; constraints restored."""
        found: dict[str, Any] = {}
        for name, trainee in module.items():
            every = trainee.config.resample_every
            due = every is not None and (t + 1) % every == 0 and t + 1 <= 0.75 * self.steps
            if due and (n := resample(trainee, self.optimizer, t)):
                found[_metric(module, name, "resampled")] = float(n)
            trainee.hold()
        return found


def clip_dictionary(dictionary: Dictionary, most: int | float) -> None:
    """Scale one dictionary's gradient to a norm of at most `most`; leave one that is not finite."""
    grads = [p.grad for p in dictionary.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads]))
    factor = torch.where(norm.isfinite(), (most / norm.clamp_min(1e-30)).clamp(max=1), 1.0)
    torch._foreach_mul_(grads, factor)  # pyright: ignore[reportPrivateImportUsage]


def _step(module: Any, batch: Any, t: int) -> tuple[Tensor, dict[str, Tensor]]:
    losses, metrics = [], {}
    for name, trainee in module.items():
        loss, found = trainee.step(batch, t)
        losses.append(loss)
        metrics |= {_metric(module, name, key): value for key, value in found.items()}
        if len(module) > 1:
            metrics[_metric(module, name, "loss")] = loss
    return torch.stack(losses).sum(), metrics


def _metric(module: Any, name: str, key: str) -> str:
    return f"{name}/{key}" if len(module) > 1 else key


def _at(trainees: nn.ModuleDict, name: str) -> Trainee:
    return cast(Trainee, trainees[name])


def _optimizer(trainees: nn.ModuleDict, first: TrainConfig) -> torch.optim.Optimizer:
    groups: list[nn.Parameter | dict[str, Any]] = [
        {"params": list(one.dictionary.parameters()), "lr": one.config.rate}
        for one in cast("list[Trainee]", list(trainees.values()))
    ]
    return make_optimizer(groups, first.fit)


def _far(source: Source, samples: Mapping[tuple[str, str, int], Sample]) -> dict[str, dict[str, float]]:
    """Warn of rows far larger than the others, among those from which the dictionaries start."""
    found: dict[str, dict[str, float]] = {}
    size = len(source.batch(0)[source.sites[0]])
    for (site_in, site_out, _), sample in samples.items():
        for site, rows in ((site_in, sample.x), (site_out, sample.y)):
            far = None if site in found else find_far(norms_of(rows))
            if far is not None:
                tell_far(far, f"training rows at {site}", named_rows(source, far.rows, size))
                found[site] = {"rows": far.n, "of": far.of, "largest": far.largest, "share": far.share}
    return found


def _record(
    names: list[str], configs: list[TrainConfig], source: Source, plan: dict[str, Any]
) -> dict[str, Any]:
    """What makes this run what it is, compared when it resumes."""
    settings = {name: _recorded(one) for name, one in zip(names, configs, strict=True)}
    known = source.provenance()
    data: dict[str, Any] = {PLAN: plan}
    # The next two are all that earlier versions recorded: their runs are compared by them.
    if known is not None:
        data |= {"model": known.model_fingerprint, "text": known.data_fingerprint}
    elif isinstance(source, TensorRows):
        data["rows"] = plan["rows"]
    return json.loads(json.dumps({"dictionaries": settings, "data": data}))


def _recorded(config: TrainConfig) -> dict[str, Any]:
    """A config's settings without those that a run may change when it resumes."""
    told = asdict(config)
    told["fit"] = {name: value for name, value in told["fit"].items() if name not in NEUTRAL}
    return told


def _today(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record as this version writes it: earlier ones had no blocks, and fewer settings."""
    found = record.get("dictionaries")
    if not isinstance(found, dict):
        return record
    try:
        settings = {name: _recorded(TrainConfig.of(one)) for name, one in found.items()}
    except ConfigError:  # a setting of some other version: the comparison names it
        return record
    return record | {"dictionaries": json.loads(json.dumps(settings))}


def _finish(name: str, trainee: Trainee, source: Source, model: Any, report: FitReport) -> Dictionary:
    """The dictionary in raw units, with where it comes from and how its training ended."""
    made = trainee.finished()
    d_in = made.config.d_in
    aim = trainee.config.k if made.config.activation == "batchtopk" else trainee.config.penalty.l0
    if aim is not None:
        land(made, _last_rows(trainee, source), aim)
    made.provenance = provenance_at(source, trainee.site_in, trainee.site_out, d_in)
    if made.provenance is None:
        made.provenance = _assumed(trainee, model, d_in)
    prefix = f"{name}/" if any(f"{name}/l0" in record for record in report.records) else ""
    last = {
        key: report.series(prefix + key)[1][-1]
        for key in ("fvu", "l0", "dead")
        if report.series(prefix + key)[1]
    }
    config = trainee.config
    made.metadata["training"] = {
        "config": json.loads(json.dumps(as_used(config, own_settings(source)))),
        "rows": config.fit.steps * config.stream.batch_size,
        "seconds": round(report.seconds, 1),
        "last": last,
    }
    return made


def _last_rows(trainee: Trainee, source: Source) -> Tensor:
    """Rows of the last batches, as many as `land` wants."""
    wanted, parts, t = rows_wanted(trainee.config.d_sae), [], trainee.config.fit.steps
    while t and sum(map(len, parts)) < wanted:
        t -= 1
        parts.append(source.batch(t)[trainee.site_in])
    return torch.cat(parts)[:wanted]


def _assumed(trainee: Trainee, model: Any, d_in: int) -> Provenance | None:
    """Rows without a history, but with the model they are said to come from."""
    sites = list(dict.fromkeys((trainee.site_in, trainee.site_out)))
    if model is None or any(site not in model.sites for site in sites):
        return None
    return model.provenance(sites, d_in=d_in)
