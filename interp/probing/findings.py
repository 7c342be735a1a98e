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
