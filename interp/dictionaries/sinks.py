"""Training metrics elsewhere than in metrics.jsonl: tensorboard, Weights & Biases. Optional."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interp.activations.loop import Callback, Run
from interp.core.errors import MissingDependency
from interp.core.settings import check_choice


class Sink(Callback):
    """Forwards the lines of metrics.jsonl, each once, one step after it was written at the latest.

    Args:
        write: `(metrics, step)`, called for each line; the numbers alone, without step.
        close: Called once after training, however it ends.
    """

    def __init__(self, write: Callable[[dict[str, float], int], Any], close: Callable[[], Any]) -> None:
        self._write, self._close = write, close
        self._records: list[dict[str, Any]] = []
        self._sent = 0

    def start(self, run: Run) -> None:
        """What an earlier process of this run has logged is there already."""
        self._records = run.progress.records
        self._sent = len(self._records)

    def after_step(self, module: Any, t: int) -> Mapping[str, Any] | None:
        """Send what has been logged since."""
        self._send()
        return None

    def finish(self) -> None:
        """Send the last lines and close."""
        self._send()
        self._close()

    def _send(self) -> None:
        for record in self._records[self._sent :]:
            numbers = {k: v for k, v in record.items() if v is not None and k != "step"}
            self._write(numbers, record["step"])
        self._sent = len(self._records)


def tensorboard(folder: str | Path) -> Sink:
    """A sink that writes tensorboard event files into a folder.

    Raises:
        MissingDependency: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependency(
            "tensorboard is not installed",
            fix="pip install tensorboard; metrics.jsonl is written in any case",
        ) from error
    writer = SummaryWriter(str(folder))

    def write(metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return Sink(write, writer.close)


def wandb(project: str, folder: str | Path, **settings: Any) -> Sink:
    """A sink that logs to Weights & Biases; `mode="offline"` stays on this machine.

    Args:
        project: The project's name there.
        folder: Where wandb keeps its own files.
        settings: For `wandb.init`.

    Raises:
        MissingDependency: wandb is not installed.
    """
    try:
        import wandb as client
    except ImportError as error:
        raise MissingDependency(
            "wandb is not installed", fix="pip install wandb; metrics.jsonl is written in any case"
        ) from error
    run = client.init(project=project, dir=str(folder), **settings)
    return Sink(lambda metrics, step: run.log(metrics, step=step), run.finish)


def open_sinks(names: tuple[str, ...], folder: str | Path) -> list[Sink]:
    """Sinks by name, writing under a run's folder.

    Raises:
        ConfigError: There is no such sink.
        MissingDependency: Its package is not installed.
    """
    known: dict[str, Callable[[], Sink]] = {
        "tensorboard": lambda: tensorboard(Path(folder) / "tensorboard"),
        "wandb": lambda: wandb("interp", folder),
    }
    for name in names:
        check_choice("sink", name, known)
    return [known[name]() for name in names]
