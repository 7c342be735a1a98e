"""Erasing a concept from activations: LEACE, mean projection, INLP; as a hook in the model.

LEACE (Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed form", theorem 4.2):

    r(x) = x - W+ u u^T W (x - mean),    W = Cov(x)^-1/2,    u spans W Cov(x, z)

No linear classifier can beat the constant one on r(x), because Cov(r(x), z) = 0; and no affine
function with that property moves the rows less in mean square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from interp.core.artefact import Trained, provenance_from, provenance_json
from interp.core.errors import ConfigError, ShapeError
from interp.core.provenance import Provenance
from interp.core.randomness import generator
from interp.core.store import Artefact
from interp.models.hooks.interventions import Intervention
from interp.models.hooks.taps import Tap
from interp.probing.config import EraseConfig, EraseMethod, ProbeConfig
from interp.probing.rows import Labels, Target, check_rows, encode
from interp.probing.scores import guess, majority
from interp.probing.solvers.linear import scores_of, solve
from interp.probing.solvers.spectrum import Moments
from interp.probing.splits import group_codes, split_targets


class Eraser(Trained):
    """x - left @ right @ (x - mean): a low-rank change of rows, with its provenance.

    Attributes:
        left: [d, rank], float64.
        right: [rank, d].
        mean: [d]; rows at the mean stay.
        method: How it was made.
        concept: What it erases.
        history: For inlp, each classifier's held-out accuracy, in order; else empty.
        provenance: Model and site of the rows it was fitted on.
    """

    schema: ClassVar[str] = "eraser/1"
    left: Tensor
    right: Tensor
    mean: Tensor

    def __init__(
        self,
        left: Float[Tensor, "d k"],
        right: Float[Tensor, "k d"],
        mean: Float[Tensor, "d"],
        *,
        method: EraseMethod = "leace",
        concept: str = "label",
        history: Sequence[float] = (),
        provenance: Provenance | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("left", left.contiguous())  # its layout decides the last bit
        self.register_buffer("right", right.contiguous())
        self.register_buffer("mean", mean)
        self.method = method
        self.concept = concept
        self.history: tuple[float, ...] = tuple(history)
        self.provenance = provenance

    @property
    def rank(self) -> int:
        """Directions taken away."""
        return self.left.shape[1]

    @property
    def projection(self) -> Float[Tensor, "d d"]:
        """The matrix P of r(x) = mean + P (x - mean); idempotent."""
        one = torch.eye(len(self.mean), dtype=self.left.dtype, device=self.left.device)
        return one - self.left @ self.right

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """Rows without the concept, in the rows' own dtype and on their device.

        Raises:
            ShapeError: Rows of another width.
        """
        if x.shape[-1] != len(self.mean):
            what = f"the eraser of {self.concept!r} was fitted to another width"
            raise ShapeError(what, got=x.shape[-1], expected=len(self.mean))
        # The eraser stays where it is: an intervention may run where rows of the user's do not.
        mean, right, left = (part.to(x.device) for part in (self.mean, self.right, self.left))
        off = (x.to(mean.dtype) - mean) @ right.T @ left.T
        return (x.to(off.dtype) - off).to(x.dtype)

    def hook(self, site: str, *, positions: Any = None) -> Intervention:
        """The erasure as an intervention: `model.run_with_hooks(text, [eraser.hook(site)])`.

        At a site of heads, rows are all heads side by side, as `gather` makes them.
        """

        def erase(value: Tensor, hook: Tap) -> Tensor:
            del hook
            by_head = value.dim() > 3 and value.shape[-1] != len(self.mean)
            rows = value.flatten(2) if by_head else value
            return self(rows).reshape(value.shape)

        return Intervention(site, f"erase {self.concept}", erase, positions=positions)

    def files(self) -> dict[str, Any]:
        """Three tensors, and what they are."""
        about = {
            "method": self.method,
            "concept": self.concept,
            "history": list(self.history),
            "provenance": provenance_json(self),
        }
        return {"weights.safetensors": self.state_dict(), "eraser.json": about}

    @classmethod
    def from_files(cls, stored: Artefact, version: int) -> Self:
        """The inverse of `files`."""
        about: dict[str, Any] = stored.json("eraser.json")
        known = provenance_from(about.pop("provenance"), stored.directory)
        about |= stored.tensors("weights.safetensors")
        return cls(**about, provenance=known)


def fit_eraser(
    rows: Float[Tensor, "n d"],
    labels: Labels,
    config: EraseConfig | None = None,
    *,
    name: str = "label",
    groups: Sequence[Any] | Tensor | None = None,
    provenance: Provenance | None = None,
) -> Eraser:
    """Fit an eraser of one concept to rows.

    Args:
        rows: Rows [n, d].
        labels: The concept: classes or real numbers, one per row.
        config: Method and tolerance.
        name: What is erased.
        groups: Rows that stay together in inlp's splits.
        provenance: Where the rows came from.

    Raises:
        ShapeError, ConfigError, NonFiniteError: As for a probe.
    """
    config = config or EraseConfig()
    rows = check_rows(rows, "the rows of the eraser")
    # Erasing 0. and 1. is erasing two classes, but for inlp, whose classifiers must know.
    target = encode(name, labels, len(rows), numbers=config.method != "inlp")
    group_codes(groups, len(rows))
    if config.method == "inlp":
        return _inlp(rows, target, config, groups, provenance)
    columns = concept_columns(target)
    moments = Moments(rows.shape[1], columns.shape[1])
    for part, z in zip(rows.split(8192), columns.split(8192), strict=True):
        moments.update(part, z)
    return eraser_of(moments, config, name=name, provenance=provenance)


def concept_columns(target: Target) -> Float[Tensor, "n k"]:
    """One-hot classes, or the number itself: what `Moments.update` takes as z."""
    if target.kind == "real":
        return target.values[:, None]
    return one_hot(target.values, len(target.classes)).double()


def eraser_of(
    moments: Moments,
    config: EraseConfig | None = None,
    *,
    name: str = "label",
    provenance: Provenance | None = None,
) -> Eraser:
    """The eraser of streamed sums (`Moments.update(x, z)`): leace or mean_projection.

    Raises:
        ConfigError: Inlp, which needs the rows; or fewer than two rows were seen.
    """
    config = config or EraseConfig()
    if moments.n < 2:
        raise ConfigError("an eraser needs rows", got=moments.n, expected="two or more")
    cross = moments.xz / moments.n
    if config.method == "leace":
        power, basis = torch.linalg.eigh(moments.xx / moments.n)
        kept = power > power[-1].clamp(min=0) * torch.finfo(power.dtype).eps * len(power)
        root, basis = power[kept].sqrt(), basis[:, kept]
        inside = basis.T @ cross / root[:, None]  # W Cov(x, z), in the basis
        u = _span(inside, config.tolerance)
        left, right = basis @ (root[:, None] * u), (u / root[:, None]).T @ basis.T
    elif config.method == "mean_projection":
        # Cov(x, one-hot z) has the columns p_k (mean_k - mean): their span is that of the means.
        left = _span(cross, config.tolerance)
        right = left.T
    else:
        raise ConfigError(
            f"{config.method} needs the rows themselves",
            expected="leace or mean_projection",
            fix="fit_eraser(x, labels, config)",
        )
    return Eraser(left, right, moments.mean_x, method=config.method, concept=name, provenance=provenance)


def random_eraser(rank: int, mean: Float[Tensor, "d"], *, seed: int = 0) -> Eraser:
    """The control: an orthogonal projection away from `rank` random directions.

    Raises:
        ConfigError: More directions than dimensions.
    """
    width = len(mean)
    if not 0 <= rank <= width:
        raise ConfigError("a random projection's rank", got=rank, expected=f"0 to {width}")
    draws = torch.randn(width, rank, generator=generator(seed, "random eraser"), dtype=torch.float64)
    basis = torch.linalg.qr(draws).Q
    basis = basis.to(mean.device)
    return Eraser(basis, basis.T, mean.double(), method="random", concept="random directions")


def _span(columns: Tensor, tolerance: float) -> Tensor:
    """Orthonormal basis of the columns' span, relative to the largest singular value."""
    u, s, _ = torch.linalg.svd(columns, full_matrices=False)
    return u[:, s > s.max() * tolerance] if len(s) and s.max() > 0 else u[:, :0]


def _inlp(
    x: Tensor,
    target: Target,
    config: EraseConfig,
    groups: Sequence[Any] | Tensor | None,
    provenance: Provenance | None,
) -> Eraser:
    """Iterative null-space projection (Ravfogel et al. 2020, "Null It Out").

    Each classifier is trained on the original rows projected onto the intersection of all null
    spaces so far; the loop ends when the held-out accuracy is no better than the majority.

    Raises:
        ConfigError: A real target, which has no classifier, or classes that a side of the split
            does not have.
    """
    if target.kind == "real":
        raise ConfigError(
            "inlp erases classes",
            got=f"target {target.name!r}, float labels",
            expected="labels that are text, int or bool",
            fix="method='leace'",
        )
    cut = split_targets([target], len(x), 0.3, config.seed, groups=groups)
    mean = x.double().mean(0)
    centred = x.double() - mean
    basis = centred.new_zeros(x.shape[1], 0)
    history = []
    train, held = target[cut.train], target[cut.test]
    floor = majority(train, held)
    probe = ProbeConfig(standardise=False, max_iter=config.max_iter)
    for _ in range(config.iterations):
        rows = centred - centred @ basis @ basis.T
        solved = solve(rows[cut.train], [train], probe)[0]
        (scores,) = scores_of([solved], rows[cut.test])
        history.append(float((guess(scores, held) == held.values).double().mean()))
        weight = solved.weight - basis @ (basis.T @ solved.weight)
        fresh = _span(weight, 1e-6)
        if history[-1] <= floor or not fresh.shape[1]:
            break
        basis = torch.linalg.qr(torch.cat([basis, fresh], 1)).Q
        if basis.shape[1] >= x.shape[1]:
            break
    return Eraser(
        basis, basis.T, mean, method="inlp", concept=target.name, history=history, provenance=provenance
    )
