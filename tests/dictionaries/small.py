"""Small trainings whose every mechanism is at work, shared by this folder's fault tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from interp.activations.config import FitConfig
from interp.core.randomness import generator
from interp.dictionaries.train_checks import at_defaults, unread
from interp.dictionaries.train_config import TrainConfig

D, N_FEATURES = 13, 29


def features(d: int = D, n: int = N_FEATURES, seed: int = 0) -> Tensor:
    """Unit directions [n, d]."""
    return F.normalize(torch.randn(n, d, generator=generator(seed, "features")), dim=1)


def planted(rows: int, d: int = D, n: int = N_FEATURES, p: float = 0.08, seed: int = 0) -> Tensor:
    """Sparse positive combinations of the features around a mean that is far from zero."""
    drawn = generator(seed, "planted")
    on = torch.rand(rows, n, generator=drawn) < p
    size = (1 + 0.25 * torch.randn(rows, n, generator=drawn)).abs()
    return (on * size) @ features(d, n, seed) + 3.0


def small(**changes: Any) -> TrainConfig:
    """A few quick steps; of what is small here, only what the activation reads."""
    steps = changes.get("steps", 40)
    config = TrainConfig(
        **{
            "d_sae": 37,
            "k": 3,
            "steps": 40,
            "batch_size": 53,
            "lr": 3e-3,
            "lr_warmup": min(5, steps),
            "log_every": 1,
            "init_rows": 211,
            "sparsity_warmup": min(10, steps),
            **changes,
        }
    )
    return at_defaults(config, set(unread(config)) - set(changes))


def everything(steps: int = 40) -> list[TrainConfig]:
    """Dictionaries that between them use every piece of state a resumed run needs."""
    dead = {"d_sae": 151, "dead_after": 150, "resample_every": min(8, 3 * steps // 4)}
    return [
        small(steps=steps, name="topk", d_sae=151, k=2, k_start=9, k_anneal=min(20, steps), dead_after=150),
        small(steps=steps, name="batch", activation="batchtopk", k=1.5, **dead),
        small(steps=steps, name="jump", activation="jumprelu", l0=3.0, **dead),
        small(steps=steps, name="l1", activation="relu", l0=3.0, lp_final=0.5, grad_clip=0.5),
        small(steps=steps, name="gated", activation="gated", l0=3.0, decoder_norm="free"),
    ]


@pytest.fixture
def every_step() -> Iterator[None]:
    """Checkpoints after each step."""
    plain = TrainConfig.loop

    def often(self: TrainConfig, **given: Any) -> FitConfig:
        found = plain(self, **given)
        return dataclasses.replace(found, checkpoint_seconds=0.0, checkpoint_fraction=1e9)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainConfig, "loop", often)
        yield


def last_state(run: Path) -> dict[str, Tensor]:
    """Weights, buffers and moments of a run's newest checkpoint."""
    newest = max((run / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))
    return {
        f"{kind}:{name}": tensor
        for kind in ("weights", "moments")
        for name, tensor in load_file(newest / f"{kind}.safetensors").items()
    }


def identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Same names, every tensor bit-equal."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def same_module(one: Any, other: Any) -> bool:
    """Two dictionaries with bit-equal tensors."""
    return identical(one.state_dict(), other.state_dict())


Work = Callable[[Path], Any]
