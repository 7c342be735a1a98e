"""Are a problem's weights readable in a model that solves it in context? (Akyürek et al. 2023)

"What learning algorithm is in-context learning?", section 4.3: a probe v(H) = f(sum_p s_p h_p) of
one layer's hidden states, with s = softmax over positions of free numbers and f linear or an MLP,
is trained to give what an algorithm would compute on the way (w of least squares, X^T y). The
control is the same quantity of an unrelated problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ShapeError
from interp.core.finite import check_finite
from interp.core.frames.quantity import called, measured
from interp.core.randomness import generator
from interp.core.result import Result
from interp.probing.config import ContextProbeConfig
from interp.probing.rows import on_host
from interp.probing.splits import Split, split_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class ContextProbes(Result, headline="Is the problem readable in the states?"):
    """What an in-context regressor's hidden states tell about the problem, layer by layer."""

    r2: Float[Tensor, "layer target"] = measured(
        "test R2", "", "more is readable", legend="probe", along="layer", null="control"
    )
    """Test R2 of the probe; may be negative."""
    control: Float[Tensor, "layer target"] = called("unrelated problem")
    """Test R2 of the same probe for the same quantity of an unrelated problem."""
    places: Float[Tensor, "layer target pos"]
    """The probe's softmax over positions: where it reads."""
    hidden: int
    """Hidden units of a probe; 0 is linear."""
    n_train: int
    """Training problems."""
    n_test: int
    """Test problems."""

    def check(self) -> Checks:
        """Unrelated problems must not be readable, and no probe be worse by half than the mean."""
        worst = Check.at_most("R2 of an unrelated problem", self.control.max(), 0.1)
        return Checks([worst, Check.at_least("lowest R2, 0 is the mean", self.r2.min(), -0.5)])


class PooledProbes(nn.Module):
    """One probe per target, each with its own softmax over positions.

    Attributes:
        places: Logits of the positions, [target, pos].
        inward: [target, d, hidden], absent (None) in a linear probe.
        outward: [target, hidden or d, width].
        bias: [target, width].
    """

    def __init__(
        self, targets: int, pos: int, d: int, width: int, config: ContextProbeConfig, layer: int
    ) -> None:
        super().__init__()
        draw = generator(config.seed, "context probe", layer)

        def weights(rows: int, columns: int) -> nn.Parameter:
            start = torch.randn(rows, columns, generator=draw) / rows**0.5
            return nn.Parameter(start.repeat(targets, 1, 1))  # control and target start alike

        self.places: nn.Parameter = nn.Parameter(torch.zeros(targets, pos))
        self.inward: nn.Parameter | None = weights(d, config.hidden) if config.hidden else None
        self.outward: nn.Parameter = weights(config.hidden or d, width)
        self.bias: nn.Parameter = nn.Parameter(torch.zeros(targets, width))

    def forward(self, states: Float[Tensor, "n pos d"]) -> Float[Tensor, "target n width"]:
        """Guesses of all targets."""
        pooled = torch.einsum("tp,npd->tnd", self.places.softmax(-1), states)
        if self.inward is not None:
            pooled = (pooled @ self.inward).relu()
        return pooled @ self.outward + self.bias[:, None]


def probe_context(
    rows: Float[Tensor, "layer problem pos d"],
    labels: Mapping[str, Float[Tensor, "problem width"]],
    config: ContextProbeConfig | None = None,
) -> ContextProbes:
    """R2 of pooled probes for each target at each layer, beside targets of unrelated problems.

    Args:
        rows: Hidden states of each layer (the embedding may be layer 0).
        labels: What to read, by name; all of one width. `implied_ridge(x, y, 0)` are the weights
            of least squares, `x.mT @ y[..., None]` the moment.
        config: Linear or MLP, steps, split.

    Raises:
        ShapeError: States without four axes, or targets of other problems or widths.
        ConfigError: No targets, too few problems, or a target that never changes.
        NonFiniteError: NaN or infinity in states or targets.
    """
    config = config or ContextProbeConfig()
    if rows.ndim != 4 or 0 in rows.shape:
        raise ShapeError(
            "hidden states of a probe",
            got=tuple(rows.shape),
            expected="[layer, problem, pos, d], none of them empty",
        )
    rows = on_host(rows)
    check_finite(rows, "the hidden states")
    split = split_rows(rows.shape[1], config.test_fraction, config.seed)
    wanted = _standardised(labels, rows.shape[1], split)
    # The same numbers, of the next problem of the same side: nothing in the states tells them.
    other = wanted.clone()
    for side in (split.train, split.test):
        other[:, side] = wanted[:, side.roll(1)]
    both = torch.cat([wanted, other])
    found = [_probe_layer(h.float(), both, split, config, i) for i, h in enumerate(rows)]
    r2 = torch.stack([score for score, _ in found])
    t = len(wanted)
    return ContextProbes(
        r2=r2[:, :t],
        control=r2[:, t:],
        places=torch.stack([place[:t] for _, place in found]),
        hidden=config.hidden,
        n_train=len(split.train),
        n_test=len(split.test),
        labels={"layer": [str(i) for i in range(len(rows))], "target": list(labels)},
    )


def _standardised(
    targets: Mapping[str, Tensor], n: int, split: Split
) -> Float[Tensor, "target problem width"]:
    """All targets, centred and of unit variance over the training problems."""
    if not targets:
        raise ConfigError("nothing to probe for", got="no targets", expected="at least one")
    shapes = {name: tuple(values.shape) for name, values in targets.items()}
    first = next(iter(shapes.values()))
    if len(first) != 2 or first[0] != n or len(set(shapes.values())) > 1:
        raise ShapeError("targets of a context probe", got=shapes, expected=f"({n}, one width)")
    stacked = torch.stack([on_host(values).double() for values in targets.values()])
    check_finite(stacked, "the targets")
    seen = stacked[:, split.train]
    spread = (seen - seen.mean(1, keepdim=True)).square().mean((1, 2), keepdim=True).sqrt()
    flat = [name for name, size in zip(targets, spread.flatten(), strict=True) if not size > 0]
    if flat:
        raise ConfigError("a target is the same in every problem", got=", ".join(flat))
    return ((stacked - seen.mean(1, keepdim=True)) / spread).float()


def _probe_layer(
    states: Tensor, targets: Tensor, split: Split, config: ContextProbeConfig, layer: int
) -> tuple[Tensor, Tensor]:
    """Test R2 [target] and places [target, pos] at one layer."""
    seen = states[split.train]
    centre = seen.mean((0, 1))
    size = (seen - centre).square().mean((0, 1)).sqrt()
    states = (states - centre) / torch.where(size > 1e-6 * seen.abs().amax((0, 1)), size, 1.0)
    probes = PooledProbes(len(targets), states.shape[1], states.shape[2], targets.shape[2], config, layer)

    def batches(t: int) -> Tensor:
        pick = generator(config.seed, "context probe batch", t)
        rows = torch.randint(len(split.train), (config.batch_size,), generator=pick)
        return split.train[rows]

    def step(module: nn.Module, rows: Tensor, t: int) -> Tensor:
        return (module(states[rows]) - targets[:, rows]).square().mean((1, 2)).sum()

    schedule = FitConfig(
        steps=config.steps,
        lr=config.lr,
        lr_schedule="cosine",
        optimizer="adamw",
        weight_decay=config.weight_decay,
        seed=config.seed,
        log_every=config.steps,
    )
    fit(probes, step, batches, schedule)
    with torch.no_grad():
        residual = probes(states[split.test]) - targets[:, split.test]
        truth = targets[:, split.test]
        total = (truth - truth.mean(1, keepdim=True)).square().sum((1, 2))
        left = residual.square().sum((1, 2))
        r2 = torch.where(total > 0, 1 - left / total.clamp(min=1e-30), 0.0)
    return r2.double(), probes.places.detach().softmax(-1)
