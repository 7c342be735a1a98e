"""Results of single units, in-context regressors and named attributes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.result import Result


@dataclass(frozen=True, kw_only=True, eq=False)
class ContextProbes(Result):
    """What an in-context regressor's hidden states tell about the problem, layer by layer."""

    r2: Float[Tensor, "layer target"]
    """Test R2 of the probe; may be negative."""
    control: Float[Tensor, "layer target"]
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
        """Unrelated problems must not be readable."""
        worst = self.control.max()
        return Checks([Check.at_most("R2 of an unrelated problem", worst, 0.1)])


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
    """Neurons that were ablated."""
    site: str
    """Site at which they were ablated."""
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
    """Share of test predictions that the attributes give with a rest of each rank."""
    majority: Float[Tensor, ""]
    """Share of test predictions that the most frequent class gives."""
    weight: Float[Tensor, "class attribute"]
    """L1 weights of the standardised attributes."""
    directions: Float[Tensor, "rest d"]
    """Orthonormal directions of the smallest rest, in standardised features."""
    rest: Float[Tensor, "row rest"]
    """Every row along them: rows at the ends show what the attributes miss."""
