"""A dictionary compared with a synthetic world's truth, beside what the truth itself reaches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.errors import ShapeError
from interp.core.protocols import Coder
from interp.core.randomness import generator
from interp.core.settings import check_flags
from interp.dictionaries.result import Recovery
from interp.dictionaries.scores.matching import best_pairs, cosines
from interp.dictionaries.scores.synthetic import SyntheticBatch, SyntheticWorld
from interp.dictionaries.scores.tallies import CodingTally
from interp.dictionaries.steps import coding

BLOCK = 4096
RESIDUALS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # where the true directions' pursuit may stop
OFFSETS = tuple(x / 4 for x in range(-8, 5))  # added to the one-pass detector's logits


@torch.no_grad()
def score_recovery(
    dictionary: Coder, world: SyntheticWorld, n: int = 20_000, *, with_ceiling: bool = True
) -> Recovery:
    """Decoder rows against true directions, firings against true firings, on fresh rows.

    Args:
        dictionary: Anything with `W_dec`, `encode` and `decode` (a `sae_lens.SAE`, too).
        world: What made the data.
        n: Held-out rows.
        with_ceiling: Also score the true directions themselves (seconds; see `score_ceilings`).

    Raises:
        ShapeError: Decoder rows of another width than the world's.
    """
    check_flags(with_ceiling=with_ceiling)
    if dictionary.W_dec.shape[1] != world.config.d:
        raise ShapeError(
            "the dictionary is not of this world",
            got=list(dictionary.W_dec.shape),
            expected=f"[latent, {world.config.d}]",
        )
    similar = cosines(world.features, dictionary.W_dec.detach().float().cpu()).abs()
    partner = best_pairs(similar)
    nearest = similar.argmax(0)
    tally, pairs, latents = CodingTally(), _Firings(), _Firings()
    for batch in _blocks(world, n):
        x = batch.x.to(dictionary.W_dec.device)
        z = dictionary.encode(x)
        tally.update(x, z, dictionary.decode(z))
        on, truth = (z != 0).cpu(), batch.truth > 0
        pairs.update(on[:, partner.clamp_min(0)] & (partner >= 0), truth)
        latents.update(on, truth[:, nearest])
    found = tally.finish()
    matched = similar.gather(1, partner.clamp_min(0)[:, None])[:, 0] * (partner >= 0)
    scores = pairs.scores()
    return Recovery(
        cosine=matched,
        best=similar.amax(1),
        f1=scores.f1,
        precision=scores.precision,
        recall=scores.recall,
        partner=partner,
        probability=world.probability,
        uniqueness=torch.tensor(len(nearest.unique()) / len(nearest)),
        latent_f1=latents.scores().f1.mean(),
        l0=found["l0"],
        fvu=found["fvu"],
        dead=int((found["density"] == 0).sum()),
        true_l0=world.l0,
        ceiling=score_ceilings(world) if with_ceiling else {},
    )


def score_ceilings(world: SyntheticWorld, n: int = 20_000) -> dict[str, dict[str, float]]:
    """What the true directions reach, for encoders that know them: {way: {f1, l0, ...}}.

    `matching pursuit` peels the true directions off until the residual is small, and stops at the
    threshold (of a small grid) whose L0 is nearest the truth's. `one pass` is a linear detector per
    feature, trained on the true firings by logistic regression: no ReLU or threshold encoder
    detects better, however it was trained.
    """
    with torch.no_grad():
        pursuits = [_pursuit(world, n, threshold) for threshold in RESIDUALS]
    best = min(pursuits, key=lambda scores: abs(scores["l0"] - world.l0))
    return {"matching pursuit": best, "one pass": _one_pass(world, n)}


def _pursuit(world: SyntheticWorld, n: int, threshold: float) -> dict[str, float]:
    """Matching pursuit with the true directions."""
    firings, tally = _Firings(), CodingTally()
    for batch in _blocks(world, n):
        found = coding.pursue(batch.x, world.features, residual_threshold=threshold, stop_on_duplicate=False)
        z = coding.scatter(found.values, found.indices, world.config.n_features)
        firings.update(z > 0, batch.truth > 0)
        tally.update(batch.x, z, z @ world.features)
    scores = firings.scores()
    return scores.means() | {"l0": firings.l0, "fvu": float(tally.finish()["fvu"])}


def _one_pass(world: SyntheticWorld, n: int, steps: int = 600) -> dict[str, float]:
    """The best linear detector of each feature, its common offset chosen on rows of its own."""
    detector = nn.Linear(world.config.d, world.config.n_features)
    with torch.no_grad():
        detector.weight.copy_(4 * world.features)
        detector.bias.fill_(-4.0)

    def loss(module: nn.Module, batch: SyntheticBatch, t: int) -> Tensor:
        on = (batch.truth > 0).to(batch.x)
        total = F.binary_cross_entropy_with_logits(module(batch.x), on, reduction="sum")
        return total / len(on)

    config = FitConfig(steps=steps, lr=3e-2, lr_schedule="linear", seed=world.config.seed)
    with torch.enable_grad():
        fit(detector, loss, lambda t: world.sample(512, t, "ceiling"), config)
    with torch.no_grad():
        x, truth = world.sample(n, 0, "offset")
        logits = detector(x)
        offset = max(OFFSETS, key=lambda o: float(_of(logits > o, truth > 0).f1.mean()))
        firings = _Firings()
        for batch in _blocks(world, n):
            firings.update(detector(batch.x) > offset, batch.truth > 0)
    return firings.scores().means() | {"l0": firings.l0}


class Detection(NamedTuple):
    """How well firings detect features, per feature."""

    f1: Float[Tensor, "feature"]
    """Harmonic mean of the two; 0 where there is no true positive."""
    precision: Float[Tensor, "feature"]
    """True positives per firing."""
    recall: Float[Tensor, "feature"]
    """True positives per true firing."""

    def means(self) -> dict[str, float]:
        """Means over features by name."""
        return {name: float(value.mean()) for name, value in self._asdict().items()}


class _Firings:
    """Counts of hits, firings and true firings."""

    def __init__(self) -> None:
        self.hits: Int[Tensor, " feature"] | int = 0
        self.on: Int[Tensor, " feature"] | int = 0
        self.true: Int[Tensor, " feature"] | int = 0
        self.rows = 0

    def update(self, on: Bool[Tensor, "row feature"], truth: Bool[Tensor, "row feature"]) -> None:
        """Take in rows."""
        self.hits = self.hits + (on & truth).sum(0)
        self.on = self.on + on.sum(0)
        self.true = self.true + truth.sum(0)
        self.rows += len(on)

    @property
    def l0(self) -> float:
        """Firings per row."""
        return float(torch.as_tensor(self.on).sum()) / self.rows

    def scores(self) -> Detection:
        """F1, precision and recall; 0 where undefined."""
        hits, on, true = (torch.as_tensor(t).float() for t in (self.hits, self.on, self.true))
        return Detection(
            2 * hits / (on + true).clamp_min(1), hits / on.clamp_min(1), hits / true.clamp_min(1)
        )


def _of(on: Tensor, truth: Tensor) -> Detection:
    counts = _Firings()
    counts.update(on, truth)
    return counts.scores()


def _blocks(world: SyntheticWorld, n: int) -> Iterator[SyntheticBatch]:
    """`n` held-out rows, in blocks."""
    for step, start in enumerate(range(0, n, BLOCK)):
        yield world.sample(min(BLOCK, n - start), step, "held out")


def random_directions(n: int, d: int, seed: int = 0) -> Float[Tensor, "n d"]:
    """Unit rows that know nothing: the null of every matching."""
    return F.normalize(torch.randn(n, d, generator=generator(seed, "null directions")), dim=1)
