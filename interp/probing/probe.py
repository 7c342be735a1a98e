"""The `Probe` artefact: rows to scores, one class for every kind; and how one is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.artefact import Trained, fill, provenance_from, provenance_json
from interp.core.errors import ConfigError, CorruptArtefact, ShapeError
from interp.core.provenance import Provenance
from interp.core.randomness import generator
from interp.core.settings import Count, Natural, Settings
from interp.core.store import Artefact
from interp.probing.config import ProbeConfig, ProbeKind
from interp.probing.rows import Labels, Target, check_rows, encode_for
from interp.probing.solvers.linear import check_penalty_rows, solve

FittedKind = Literal["logistic", "ridge", "mass_mean", "mlp"]
"""What a probe is in the end: "linear" is one of these by then."""


@dataclass(frozen=True)
class ProbeShape(Settings):
    """What a probe is, apart from its numbers."""

    d_in: Count
    """Width of the rows it reads."""
    name: str
    """What it reads from them."""
    kind: FittedKind = "logistic"
    """How it was fitted."""
    classes: tuple[str, ...] = ()
    """Class names by index; none for a real target."""
    hidden: Natural = 0
    """Hidden units; 0 is linear."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.classes)) < len(self.classes) or len(self.classes) == 1:
            raise ConfigError(
                f"the probe {self.name!r} tells no classes apart",
                got=", ".join(self.classes),
                expected="none, or two or more names",
            )

    @property
    def n_outputs(self) -> int:
        """One logit for two classes, one number for a real target, else one logit per class."""
        return len(self.classes) if len(self.classes) > 2 else 1


class Probe(Trained):
    """Scores of rows; `save` and `load` keep it with its provenance.

    Attributes:
        shape: Width, classes, kind.
        net: `nn.Linear`, or two of them with a ReLU between.
        mean: Subtracted from rows first, [d_in]; zero for linear probes, which have it folded in.
        scale: Rows are divided by it, [d_in].
        provenance: Model and site of the rows it was trained on.
    """

    schema: ClassVar[str] = "probe/1"
    mean: Tensor
    scale: Tensor

    def __init__(self, shape: ProbeShape, provenance: Provenance | None = None) -> None:
        super().__init__()
        self.shape = shape
        self.provenance = provenance
        d, out = shape.d_in, shape.n_outputs
        self.net: nn.Module = (
            nn.Linear(d, out)
            if not shape.hidden
            else nn.Sequential(nn.Linear(d, shape.hidden), nn.ReLU(), nn.Linear(shape.hidden, out))
        )
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))

    def forward(self, rows: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch k"]:
        """Logits (or the real number) of rows of any leading shape, on the rows' device.

        Raises:
            ShapeError: Rows of another width.
        """
        if rows.shape[-1] != self.shape.d_in:
            raise ShapeError(
                f"the probe {self.shape.name!r} reads another width",
                got=rows.shape[-1],
                expected=self.shape.d_in,
            )
        here = rows.to(self.mean)
        return self.net((here - self.mean) / self.scale).to(rows.device)

    def predict(self, rows: Float[Tensor, "n d"]) -> Int[Tensor, "n"] | Float[Tensor, "n"]:
        """Class indices, or the real numbers."""
        with torch.no_grad():
            scores = self(rows)
        if not self.shape.classes:
            return scores[:, 0]
        return scores.argmax(-1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()

    @property
    def directions(self) -> Float[Tensor, "k d"]:
        """What it looks along in raw rows; linear probes only.

        Raises:
            ConfigError: The probe has a hidden layer.
        """
        if not isinstance(self.net, nn.Linear):
            raise ConfigError("this probe has no direction", got=self.shape.kind, expected="a linear probe")
        return self.net.weight.detach() / self.scale

    def files(self) -> dict[str, Any]:
        """Weights as safetensors, shape and provenance as JSON."""
        about = {"shape": asdict(self.shape), "provenance": provenance_json(self)}
        return {"weights.safetensors": self.state_dict(), "probe.json": about}

    @classmethod
    def from_files(cls, stored: Artefact, version: int) -> Self:
        """The inverse of `files`."""
        about: dict[str, Any] = stored.json("probe.json")
        shape = ProbeShape(**{**about["shape"], "classes": tuple(about["shape"]["classes"])})
        state = stored.tensors("weights.safetensors")
        numbers = sum(value.numel() for value in state.values())
        if not 0 < shape.d_in * max(shape.hidden, 1) <= numbers:
            raise CorruptArtefact(
                f"{stored.directory} describes a larger probe than it holds",
                got=f"d_in = {shape.d_in:,}, hidden = {shape.hidden:,} and {numbers:,} numbers",
            )
        probe = cls(shape, provenance_from(about["provenance"], stored.directory))
        probe = probe.to(next(iter(state.values())).dtype)
        fill(probe, state, stored.directory)
        return probe


def train_probe(
    rows: Float[Tensor, "n d"],
    labels: Labels,
    config: ProbeConfig | None = None,
    *,
    name: str = "label",
    groups: Sequence[Any] | Tensor | None = None,
    provenance: Provenance | None = None,
) -> Probe:
    """Fit one probe on all the rows given.

    Args:
        rows: Rows [n, d]; any n, constant and repeated features included.
        labels: One per row; floats are a real target.
        config: Kind, penalties, ...
        name: What is read.
        groups: Rows that belong together when a penalty is chosen on held-out rows.
        provenance: Where the rows came from, kept with the probe.

    Raises:
        ShapeError: Labels that do not fit the rows.
        ConfigError: One class only, also among the rows that penalties are tried on; numbers for a
            probe of classes.
        NonFiniteError: NaN or infinity in rows or labels.
    """
    config = config or ProbeConfig()
    rows = check_rows(rows, "the rows of the probe")
    target = encode_for(config.kind, name, labels, len(rows))
    check_penalty_rows([target], len(rows), config, groups)
    if config.kind == "mlp":
        return train_mlp(rows, target, config, provenance)
    solved = solve(rows, [target], config, groups=groups)[0]
    shape = ProbeShape(rows.shape[1], name, fitted_kind(config.kind, target), target.classes)
    probe = Probe(shape, provenance).double()
    if not isinstance(probe.net, nn.Linear):  # the shape has no hidden layer
        raise ConfigError("a linear probe is linear", got=probe.shape)
    with torch.no_grad():
        probe.net.weight.copy_(solved.weight.T)
        probe.net.bias.copy_(solved.bias)
    return probe.requires_grad_(False)


def fitted_kind(kind: ProbeKind, target: Target) -> FittedKind:
    """The kind that a target gets: "linear" is ridge for numbers and logistic for classes."""
    if kind != "linear":
        return kind
    return "ridge" if target.kind == "real" else "logistic"


def train_mlp(x: Tensor, target: Target, config: ProbeConfig, origin: Provenance | None = None) -> Probe:
    """One hidden layer on standardised rows [n, d], trained by `interp.activations.fit`."""
    shape = ProbeShape(x.shape[1], target.name, "mlp", target.classes, config.hidden)
    probe = Probe(shape, origin)
    with torch.no_grad():
        probe.mean.copy_(x.mean(0))
        spread = x.std(0, correction=0)
        probe.scale.copy_(torch.where(spread > 1e-6 * x.abs().amax(0), spread, 1.0))
        draw = generator(config.seed, f"mlp probe {target.name}")
        for parameter in probe.parameters():
            bound = parameter.shape[-1] ** -0.5
            parameter.uniform_(-bound, bound, generator=draw)
    real = target.kind == "real"
    y = target.values.float() if target.kind != "classes" else target.values
    centre, width = (y.mean(), y.std(correction=0)) if real else (torch.tensor(0.0), 1.0)
    if real and not float(width) > 0:  # differences too small for float32
        width = 1.0
    y = (y - centre) / width if real else y

    def batches(t: int) -> tuple[Tensor, Tensor]:
        pick = generator(config.seed, "mlp probe batch", t)
        rows = torch.randint(len(x), (min(config.batch_size, len(x)),), generator=pick)
        return x[rows], y[rows]

    def step(module: nn.Module, batch: tuple[Tensor, Tensor], t: int) -> Tensor:
        scores = module(batch[0])
        if real:
            return (scores[:, 0] - batch[1]).square().mean()
        if target.kind == "classes":
            return nn.functional.cross_entropy(scores, batch[1])
        return nn.functional.binary_cross_entropy_with_logits(scores[:, 0], batch[1])

    schedule = FitConfig(
        steps=config.steps,
        lr=config.lr,
        lr_schedule="cosine",
        optimizer="adamw",
        weight_decay=1e-2,
        seed=config.seed,
        log_every=max(config.steps // 10, 1),
    )
    fit(probe, step, batches, schedule)
    if real:  # back to the target's own unit
        last = list(probe.parameters())[-2:]
        with torch.no_grad():
            last[0].mul_(width)
            last[1].mul_(width).add_(centre)
    return probe.requires_grad_(False)
