"""The one training loop: dictionaries, lenses, probes and bundled models all train here.

```python
def step(module, batch, t):
    return (module(batch) - batch).pow(2).mean()

report = fit(module, step, stream.batch, FitConfig(steps=1000), out=Path("runs/sae"))
```

Exact by construction: batch t depends on (seed, t), global torch randomness in step t depends on
(seed, t), the learning rate on t. A checkpoint is parameters, buffers, moments and the step, so a
run that was killed and resumed ends bit-equal to one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.activations.bar import Bar
from interp.activations.config import FitConfig
from interp.activations.guard import FiniteGuard, clip, gradient_norms, norm_limit
from interp.activations.optim import lr_factor, make_optimizer
from interp.activations.report import FitReport, losses
from interp.activations.runfolder import Progress, Resume, RunFolder, open_run
from interp.activations.signals import GracefulStop, interrupted
from interp.activations.state import names_of
from interp.core.errors import ConfigError, NonFiniteError, ShapeError
from interp.core.randomness import generator

StepFn = Callable[[Any, Any, int], Tensor | tuple[Tensor, Mapping[str, Any]]]


class Callback:
    """What happens around a step. Override any of the three; metrics go to metrics.jsonl."""

    def start(self, run: Run) -> None:
        """Before the first step of this process, after a checkpoint was restored."""

    def after_backward(self, module: Any, t: int) -> None:
        """Gradients of step t are there and may be edited (projected, reduced over devices)."""

    def after_step(self, module: Any, t: int) -> Mapping[str, Any] | None:
        """The update of step t is done; weights may be edited (normalised, resampled).

        State of its own that a resumed run needs belongs into buffers of the module.
        """
        return None


class Evaluate(Callback):
    """Call `measure(module, t)` every `every` steps and at the last; its numbers are logged."""

    def __init__(self, measure: Callable[[Any, int], Mapping[str, Any]], every: int) -> None:
        if every < 1:
            raise ConfigError("an evaluation needs an interval", got=every, expected="1 or more")
        self.measure = measure
        self.every = every
        self.steps: int = 0

    def start(self, run: Run) -> None:
        self.steps = run.config.steps

    def after_step(self, module: Any, t: int) -> Mapping[str, Any] | None:
        if (t + 1) % self.every and t + 1 != self.steps:
            return None
        with torch.no_grad():
            return self.measure(module, t)


def fit(
    module: nn.Module,
    step_fn: StepFn,
    batches: Callable[[int], Any],
    config: FitConfig,
    *,
    out: Path | str | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Callable[[int], float] | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Resume = "auto",
    record: Mapping[str, Any] | None = None,
    read_record: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> FitReport:
    """Train `module` in place.

    Args:
        module: What is trained; several at once go into an `nn.ModuleDict`. Buffers are part of
            its state, so counters (dead latents, say) that must survive a resume are buffers.
        step_fn: `(module, batch, t) -> loss`, a scalar tensor, or `(loss, metrics)` with scalar
            metrics. A loss that carries no gradient means: `step_fn` has filled `.grad` itself.
        batches: `t -> batch`; must depend on t and fixed seeds only, e.g. `stream.batch`.
        config: Steps, optimizer, checkpoints.
        out: The run's folder; None trains without checkpoints.
        optimizer: In place of the config's; its groups' lr are the peaks of the schedule.
        schedule: `t -> factor` on the learning rate, in place of the config's.
        callbacks: Called in order.
        resume: "auto" goes on where the folder's newest checkpoint stands, "never" refuses a
            folder that holds a run, "must" refuses one without a checkpoint. A finished run is
            loaded and not run again (unless `config.overwrite`).
        record: What else makes this run what it is (the artefact's own config); kept in
            config.json and compared on resume.
        read_record: A record as an earlier version wrote it -> as it would be written today.

    Returns:
        The report; the weights are in `module`.

    Raises:
        ConfigError: A setting that cannot be, or `out` holds a run with other settings.
        NonFiniteError: A loss, gradient, weight or moment stopped being finite. It was not
            applied or saved; crash.json names the batch.
        StorageError: `out` is held by another process, or the disk refuses.
        Interrupted: SIGTERM or SIGINT: the step was finished and a checkpoint committed; `code`
            is 143 or 130. A second signal stops at once.
    """
    config = config.filled()
    names_of(module, optimizer := optimizer or make_optimizer(module.parameters(), config))
    with ExitStack() as stack:
        folder = None
        if out is not None:
            folder = stack.enter_context(open_run(Path(out), config, record, resume, read_record))
        elif resume == "must":
            raise ConfigError("resume='must' needs the run's folder", got="out=None")
        run = Run(module, optimizer, config, folder)
        run.step_fn, run.batches, run.callbacks = step_fn, batches, callbacks
        run.schedule = schedule or partial(lr_factor, config)
        start = run.prepare()
        if start < config.steps:
            stack.enter_context(_training_mode(module))
            stack.enter_context(_own_randomness(run.device))
            run.loop(stack.enter_context(GracefulStop()))
        progress = run.progress
        logged, loss = losses(progress.records)
        return FitReport(
            steps=config.steps,
            resumed_at=start,
            skipped=progress.skipped,
            seconds=progress.seconds,
            records=tuple(progress.records),
            out=None if folder is None else str(folder.path),
            step=logged,
            loss=loss,
        )


class Run:
    """One training in progress, as callbacks see it in `start`.

    Attributes:
        module: What is trained.
        optimizer: Its optimizer, for callbacks that reset moments (`optimizer.state[p]`).
        config: The settings.
        progress: Steps done, seconds, records so far.
        device: Where the first trained parameter lives.
    """

    step_fn: StepFn
    batches: Callable[[int], Any]
    callbacks: Sequence[Callback]
    schedule: Callable[[int], float]

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, config: FitConfig, folder: RunFolder | None
    ) -> None:
        self.module = module
        self.optimizer = optimizer
        self.config = config
        self.folder = folder
        self.progress: Progress = Progress()
        names = names_of(module, optimizer)
        self.parameters: list[nn.Parameter] = list(names)
        self.device: torch.device = self.parameters[0].device
        self.guard: FiniteGuard = FiniteGuard(
            list(names.values()),
            norm_limit(self.parameters),
            config.on_nonfinite == "stop",
            self.device if _may_defer(optimizer, self.device) else None,
        )

    def prepare(self) -> int:
        """Restore the newest checkpoint, start the callbacks; the step to begin with."""
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        if self.folder is not None:
            self.progress = self.folder.restore(self.module, self.optimizer)
        self.guard.load(self.progress.skipped, self.progress.in_a_row)
        for callback in self.callbacks:
            callback.start(self)
        return self.progress.step

    def loop(self, stop: GracefulStop) -> None:
        """Steps from the restored one to the last, with checkpoints on their time budget."""
        config, progress = self.config, self.progress
        begun = time.monotonic() - progress.seconds
        saved, cost = time.monotonic(), 0.0
        bar = Bar(total=config.steps, initial=progress.step, unit="step")
        with bar:
            for t in range(progress.step, config.steps):
                try:
                    self.step(t, begun, bar)
                    progress.step, progress.seconds = t + 1, time.monotonic() - begun
                    wait = max(config.checkpoint_seconds, cost / config.checkpoint_fraction)
                    due = time.monotonic() - saved >= wait
                    asked = stop.received  # read once: one that comes later finds nothing saved
                    if due or asked is not None or t + 1 == config.steps:
                        cost = self.checkpoint()
                        saved = time.monotonic()
                except NonFiniteError as error:
                    if self.folder is not None:
                        stopped_at = self.guard.stopped_at
                        self.folder.crash(t if stopped_at is None else stopped_at, error)
                    raise
                bar.update()
                if asked is not None:
                    raise self._interrupted(asked)
        if self.folder is not None:
            self.folder.finished()
        self.optimizer.zero_grad(set_to_none=True)
        if stop.received is not None:  # during the last step: all is saved, what follows is not begun
            raise self._interrupted(stop.received)

    def step(self, t: int, begun: float, bar: Any) -> None:
        """One batch: loss, gradient, the finite guard, the update, the callbacks, the log."""
        config = self.config
        seed = generator(config.seed, "fit", t).initial_seed()
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        factor = self.schedule(t)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        loss, metrics = self._gradient(t)
        norms = gradient_norms(self.parameters)
        self._update(t, loss, norms)
        self.optimizer.zero_grad(set_to_none=True)
        extra = [callback.after_step(self.module, t) for callback in self.callbacks]
        is_due = (t + 1) % config.log_every == 0 or t + 1 == config.steps
        if not is_due and not any(extra):
            return
        self.guard.read()
        row: dict[str, Any] = {"step": t}
        if is_due:
            lr = self.optimizer.param_groups[0]["lr"]
            row |= {"loss": loss, "lr": lr, "grad_norm": torch.linalg.vector_norm(norms)}
            row |= dict(metrics)
        for found in extra:
            row |= found or {}
        self._log(row, begun)
        if is_due:
            bar.set_postfix_str(f"loss {self.progress.records[-1]['loss']}", refresh=False)

    def checkpoint(self) -> float:
        """Commit the state after `progress.step` steps; the seconds that took."""
        started = time.monotonic()
        self.guard.read()
        self.progress.skipped, self.progress.in_a_row = self.guard.skipped, self.guard.in_a_row
        if self.folder is not None:
            self.folder.save(self.module, self.optimizer, self.progress)
        return time.monotonic() - started

    def _gradient(self, t: int) -> tuple[Tensor, Mapping[str, Any]]:
        config = self.config
        cast = nullcontext()
        if config.autocast is not None:
            cast = torch.autocast(self.device.type, getattr(torch, config.autocast))
        with cast:
            found = self.step_fn(self.module, self.batches(t), t)
        loss, metrics = found if isinstance(found, tuple) else (found, {})
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            raise ShapeError(
                "the step function must return a scalar loss",
                got=list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__,
                expected="a tensor of shape [], or (loss, metrics)",
            )
        if loss.requires_grad:
            loss.backward()
        if all(p.grad is None for p in self.parameters):
            raise ConfigError(
                f"no gradient reached any trained parameter in step {t}",
                got=f"a loss with requires_grad={loss.requires_grad}",
                fix="compute the loss from the module, or fill .grad in the step function",
            )
        for callback in self.callbacks:
            callback.after_backward(self.module, t)
        return loss.detach(), metrics

    def _update(self, t: int, loss: Tensor, norms: Tensor) -> None:
        if self.guard.deferred is None and not self.guard.admits(t, loss, norms):
            return
        if self.config.grad_clip is not None:
            clip(self.parameters, norms, self.config.grad_clip)
        if self.guard.deferred is None:
            self.optimizer.step()
            return
        # The protocol of torch.amp.GradScaler: a fused step reads these and may do nothing.
        given = vars(self.optimizer)
        given |= {"found_inf": self.guard.closed(t, loss, norms), "grad_scale": None}
        self.optimizer.step()
        del given["found_inf"], given["grad_scale"]

    def _log(self, row: Mapping[str, Any], begun: float) -> None:
        """Scalars to one line; numbers that are not finite become null, as JSON has none."""
        line = {name: _number(name, value) for name, value in row.items()}
        if self.guard.skipped:
            line["skipped"] = self.guard.skipped
        line["seconds"] = round(time.monotonic() - begun, 3)
        self.progress.records.append(line)
        if self.folder is not None:
            self.folder.log(line)

    def _interrupted(self, signum: int) -> BaseException:
        step = self.progress.step
        if self.folder is None:
            return interrupted(signum, f"stopped after {step} steps", "give out= to keep progress")
        return interrupted(
            signum,
            f"stopped after {step} of {self.config.steps} steps; {self.folder.path} is saved",
            "run it again: it resumes there",
        )


def _may_defer(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Whether the finite guard can leave its decision on the device (fused steps obey it)."""
    return device.type == "cuda" and all(group.get("fused") for group in optimizer.param_groups)


def _number(name: str, value: Any) -> int | float | None:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ShapeError(f"metric {name!r} is not a scalar", got=list(value.shape), expected="one number")
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"metric {name!r} is not a number", got=repr(value))
    return value if math.isfinite(value) else None


@contextmanager
def _training_mode(module: nn.Module) -> Iterator[None]:
    """Train mode inside; afterwards every submodule is in the mode it was in."""
    before = {part: part.training for part in module.modules()}
    module.train()
    try:
        yield
    finally:
        for part, mode in before.items():
            part.training = mode


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """The caller's global torch generators continue afterwards as if nothing had been drawn."""
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)
