"""Results of single units, in-context regressors and named attributes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitResult(Result):
    """One unit against the whole probe: L1 path, threshold, label efficiency."""

    strength: Float[Tensor, "c"]
    """C of the L1 penalty; small = few units."""
    accuracy: Float[Tensor, "c"]
    """Test accuracy of the L1 probe."""
    nonzero: Int[Tensor, "c"]
    """Units it uses."""
    dev_accuracy: Float[Tensor, "c"]
    """Accuracy on rows held out of the training rows: what chooses C."""
    budget: Int[Tensor, "n_labels"]
    """Numbers of training labels."""
    budget_accuracy: Float[Tensor, "n_labels reader"]
    """Test accuracy from so many labels: the unit's threshold, the whole probe."""
    values: Float[Tensor, "row"]
    """The unit on every row."""
    label: Int[Tensor, "row"]
    """Class of every row."""
    unit_accuracy: Float[Tensor, ""]
    """Test accuracy of the best single unit, all labels."""
    full_accuracy: Float[Tensor, ""]
    """Of the probe on all units."""
    shuffled_accuracy: Float[Tensor, ""]
    """Of the same probe on shuffled labels."""
    unit: int
    """Which unit."""
    sign: int
    """1: high means the second class."""
    threshold: float
    """Between the classes, in the unit's own scale."""
    target: str
    """What is read."""
    classes: tuple[str, ...]
    """Names of the two classes."""

    @property
    def chosen(self) -> int:
        """Index of the strength with the best dev accuracy; of equals, the sparsest."""
        return int(self.dev_accuracy.argmax())

    def check(self) -> Checks:
        """The unit comes within three points of the whole probe."""
        gap = self.full_accuracy - self.unit_accuracy
        return Checks([Check.at_most("whole probe above the unit", gap, 0.03)])


@dataclass(frozen=True, kw_only=True, eq=False)
class InContextResult(Result):
    """A regressor's distance to named algorithms, per number of exemplars."""

    spd: Float[Tensor, "algorithm exemplars"]
    """Mean squared difference of predictions, over d."""
    ilwd: Float[Tensor, "algorithm exemplars"]
    """Mean squared distance of the linear weights that the predictions imply, over d."""
    linearity: Float[Tensor, "exemplars"]
    """R2 of a linear fit to the regressor's predictions."""
    loss: Float[Tensor, "exemplars"]
    """Its mean squared error against the noiseless truth, over d."""
    d: int
    """Width of x."""
    noise: float
    """Standard deviation of the noise in y."""

    def nearest(self) -> tuple[str, ...]:
        """The algorithm with the least SPD, per number of exemplars."""
        return tuple(self.labels["algorithm"][i] for i in self.spd.argmin(0).tolist())


@dataclass(frozen=True, kw_only=True, eq=False)
class ContextProbes(Result):
    """What an in-context regressor's hidden states tell about the problem, layer by layer."""

    r2: Float[Tensor, "layer target"]
    """Test R2 of the probe; may be negative."""
    control: Float[Tensor, "layer target"]
    """Of the same probe for the same quantity of an unrelated problem."""
    places: Float[Tensor, "layer target pos"]
    """The probe's softmax over positions: where it reads."""
    hidden: int
    """Hidden units of a probe; 0 is linear."""
    n_train: int
    """Training problems."""
    n_test: int
    """Test problems."""

    def check(self) -> Checks:
        """Unrelated problems must not be readable."""
        worst = self.control.max()
        return Checks([Check.at_most("R2 of an unrelated problem", worst, 0.1)])


@dataclass(frozen=True, kw_only=True, eq=False)
class ClampedWriting(Result):
    """What a judge says of samples written while units are held toward one class or the other.

    Every share is that of samples of the second class.
    """

    share: Float[Tensor, "toward"]
    """The units held toward the first class, toward the second."""
    free: Float[Tensor, ""]
    """Nothing held."""
    random: Float[Tensor, "draw toward"]
    """As many other units, held likewise."""
    held: Float[Tensor, "toward unit"]
    """What the units were held at."""
    units: tuple[int, ...]
    """Which units."""

    @property
    def effect(self) -> float:
        """Share toward the second class minus share toward the first."""
        return float(self.share[1] - self.share[0])

    def check(self) -> Checks:
        """The units move what is written further than any other set does."""
        if not len(self.random):
            return Checks()
        rival = float((self.random[:, 1] - self.random[:, 0]).max())
        return Checks([Check.at_least("effect above other units'", self.effect - rival, 0.0)])


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronAblation(Result):
    """Loss of groups of texts without some neurons, and without random others of the site."""

    intact: Float[Tensor, "group"]
    """Mean loss of each group's texts, nats per token, nothing ablated."""
    ablated: Float[Tensor, "group"]
    """Without the neurons."""
    random: Float[Tensor, "draw group"]
    """Without as many others."""
    neurons: tuple[int, ...]
    """Which neurons."""
    site: str
    """Where."""
    replacement: str
    """What stood in for them."""

    @property
    def effect(self) -> Float[Tensor, "group"]:
        """Rise of each group's loss."""
        return self.ablated - self.intact

    @property
    def random_effects(self) -> Float[Tensor, "draw group"]:
        """Rise of each group's loss without random others."""
        return self.random - self.intact


@dataclass(frozen=True, kw_only=True, eq=False)
class EludeResult(Result):
    """Predictions explained by attributes, and by attributes plus a low-rank rest."""

    attributes_only: Float[Tensor, ""]
    """Share of test predictions that the attributes alone give."""
    with_rest: Float[Tensor, "rank"]
    """The same with a rest of each rank."""
    majority: Float[Tensor, ""]
    """The same for the most frequent class."""
    weight: Float[Tensor, "class attribute"]
    """L1 weights of the standardised attributes."""
    directions: Float[Tensor, "rest d"]
    """Orthonormal directions of the smallest rest, in standardised features."""
    rest: Float[Tensor, "row rest"]
    """Every row along them: rows at the ends show what the attributes miss."""
