"""Small things to train and small models to read, shared by this folder and tests/faults."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.core.randomness import generator
from tests.support.children import fork

N_LAYERS, D_MODEL, BATCH = 3, 7, 11
EVERY_STEP: dict[str, Any] = {"checkpoint_seconds": 0.0, "checkpoint_fraction": 1e9}
"""Settings that checkpoint after each step."""

_TEACHER = torch.randn(N_LAYERS, D_MODEL, D_MODEL + 1, generator=generator(0, "teacher"))


@pytest.fixture(scope="module")
def no_power_cuts() -> Iterator[None]:
    """Flushing to the disk is most of a toy step's time and changes nothing that a kill leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """What a forked child computes is promised to be equal bit for bit with one thread count only;
    and the threads of the parent do not live on in a fork, so that count is one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Translators(nn.Module):
    """One affine map per layer, as in a tuned lens; dropout and a counter make resuming harder."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(D_MODEL, D_MODEL) for _ in range(N_LAYERS))
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("rows_seen", torch.zeros((), dtype=torch.int64))
        with torch.no_grad():
            for i, one in enumerate(self.maps):
                start = torch.randn(D_MODEL, D_MODEL + 1, generator=generator(1, "init", i))
                one.weight.copy_(0.1 * start[:, 1:])
                one.bias.copy_(start[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([one(self.dropout(x[i])) for i, one in enumerate(self.maps)])

    def distance(self) -> float:
        """Largest difference from the teacher."""
        weights = torch.stack([torch.cat([m.weight, m.bias[:, None]], 1) for m in self.maps])
        return float((weights.detach() - _TEACHER).abs().max())


def batches(t: int) -> Tensor:
    return torch.randn(N_LAYERS, BATCH, D_MODEL, generator=generator(2, "batch", t))


def step(module: Any, batch: Tensor, t: int) -> tuple[Tensor, dict[str, Any]]:
    module.rows_seen += batch.shape[1]
    target = torch.einsum("lbd,led->lbe", batch, _TEACHER[..., :-1]) + _TEACHER[:, None, :, -1]
    residual = module(batch) - target
    return residual.pow(2).mean(), {"worst": residual.detach().abs().max()}


def config(**changes: Any) -> FitConfig:
    return FitConfig(**{"steps": 17, "lr": 0.01, "log_every": 1, **changes})


def same(one: nn.Module, other: nn.Module) -> bool:
    """Every parameter and buffer bit-equal."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def checkpoints(run: Path) -> list[int]:
    """Steps of the checkpoints on disk."""
    found = (run / "checkpoints").glob("step_*") if (run / "checkpoints").exists() else ()
    return sorted(int(p.name.removeprefix("step_")) for p in found)


def tensors_on_disk(root: Path) -> dict[str, Tensor]:
    """Every tensor of every safetensors file under a folder, staging folders included."""
    return {
        f"{path}:{name}": tensor
        for path in root.rglob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a child that shares the warm interpreter; its process id.

    The child ends with 0, or with 3 after an exception, and never returns into pytest.
    """
    pid = fork()
    if pid == 0:
        code = 3
        try:
            torch.set_num_threads(1)
            work()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            os._exit(code)
    return pid


def unchecked(function: Any) -> Any:
    """Without the shape checker of the tests, as a user runs it: our own errors must come."""
    from jaxtyping import config as jaxtyping_config

    def call(*args: Any, **kwargs: Any) -> Any:
        jaxtyping_config.update("jaxtyping_disable", True)
        try:
            return function(*args, **kwargs)
        finally:
            jaxtyping_config.update("jaxtyping_disable", False)

    return call
