"""Clamp the units of a label while a model writes, and judge what it wrote (Radford et al. 2017).

"Learning to Generate Reviews and Discovering Sentiment", section 5: holding the sentiment unit
high or low decides what reviews are generated. The controls are the model left alone, and as many
other units held at their own ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ShapeError
from interp.core.finite import check_finite
from interp.core.frames.quantity import called, measured
from interp.core.randomness import permutation
from interp.core.result import Result
from interp.models.hooked import HookedModel
from interp.models.hooks.interventions import clamp
from interp.models.text.forms import unpack
from interp.probing.rows import Labels, check_rows, encode
from interp.studies.char_lstm import CharLSTM, clamp_unit


@dataclass(frozen=True, kw_only=True, eq=False)
class ClampedWriting(Result, headline="Writing with {named} held"):
    """What a judge says of samples written while units are held toward one class or the other.

    Every share is that of samples of the second class.
    """

    share: Float[Tensor, "toward"] = measured(
        "share of samples",
        "judged of the second class",
        "more of that class",
        signed=False,
        legend="the units held toward a class",
        null=("random", "free"),
    )
    """The units held toward the first class, toward the second."""
    free: Float[Tensor, ""] = called("nothing held")
    """Share where nothing is held."""
    random: Float[Tensor, "draw toward"] = called("other units")
    """As many other units, held likewise."""
    held: Float[Tensor, "toward unit"]
    """What the units were held at."""
    units: tuple[int, ...]
    """Units that were held."""

    @property
    def named(self) -> str:
        """The units as a title names them."""
        return f"unit {self.units[0]}" if len(self.units) == 1 else f"{len(self.units)} units"

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


Held = Mapping[int, float]
"""Unit -> the value it is held at; empty: nothing is held."""
Writer = Callable[[Held], Any]
"""Writes samples with units held."""
Judge = Callable[[Any], Tensor]
"""Samples -> one number each: 1 where the sample is of the second class, 0 of the first."""


def write_clamped(
    write: Writer,
    judge: Judge,
    rows: Float[Tensor, "n d"],
    labels: Labels,
    units: int | Sequence[int],
    *,
    reach: float = 0.99,
    n_random: int = 5,
    seed: int = 0,
) -> ClampedWriting:
    """Let a model write with units held toward each class, free, and with other units held.

    Every unit is held at the quantile `reach` (or 1 - `reach`) of what it does on its own, on the
    side where its class mean lies.

    Args:
        write: `lstm_writer(...)`, `model_writer(...)` or your own.
        judge: Says of every sample whether it is of the second class (in sorted order).
        rows: What each unit does on its own, [n, d]: the rows that `find_unit` was given.
        labels: Their two classes.
        units: Which, e.g. `find_unit(...).unit`, or several.
        reach: How far to either end, above .5.
        n_random: Sets of as many other units, for comparison.
        seed: Draws these sets.

    Raises:
        ConfigError: No such unit, too few others, not two classes, or a reach that is none.
        ShapeError: Labels that do not fit, or a judge without one number per sample.
        NonFiniteError: NaN or infinity among rows or verdicts.
    """
    rows = check_rows(rows, "the rows of the units").double()
    target = encode("label", labels, len(rows))
    chosen = [units] if isinstance(units, int) else list(units)
    rest = sorted(set(range(rows.shape[1])) - set(chosen))
    if target.kind != "binary" or not 0.5 < reach <= 1:
        raise ConfigError(
            "clamping toward one of two classes",
            got=f"{target.kind} labels, reach {reach}",
            expected="two classes, .5 < reach <= 1",
        )
    if not chosen or len(rest) + len(chosen) != rows.shape[1] or len(rest) < len(chosen):
        raise ConfigError(
            "units to hold",
            got=chosen,
            expected=f"different ones below {rows.shape[1]}, half of them at most",
        )
    ends = torch.quantile(rows, torch.tensor([1 - reach, reach], dtype=torch.float64), dim=0)
    upward = rows[target.values == 1].mean(0) >= rows[target.values == 0].mean(0)
    ends = torch.where(upward, ends, ends.flip(0))  # [class, d]

    def shares(held: Sequence[int]) -> list[float]:
        return [_share(write({u: float(end[u]) for u in held}), judge) for end in ends]

    own = torch.tensor(shares(chosen)).double()
    draws = [permutation(len(rest), seed, "other units", i).tolist() for i in range(n_random)]
    others = [[rest[i] for i in draw[: len(chosen)]] for draw in draws]
    return ClampedWriting(
        share=own,
        free=torch.tensor(_share(write({}), judge)).double(),
        random=torch.tensor([shares(held) for held in others]).double().reshape(-1, 2),
        held=ends[:, chosen],
        units=tuple(chosen),
        labels={"toward": list(target.classes)},
    )


def _share(samples: Any, judge: Judge) -> float:
    found = torch.as_tensor(judge(samples)).double()
    if found.ndim != 1 or not len(found) or len(found) != len(samples):
        raise ShapeError("a judge gives one number per sample", got=tuple(found.shape), expected=len(samples))
    check_finite(found, "the judge's verdicts")
    return float(found.mean())


def lstm_writer(
    model: CharLSTM,
    inputs: Int[Tensor, "batch pos"],
    n: int,
    *,
    layer: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
) -> Writer:
    """Writes ids [batch, pos + n]; the tanh of cells of `layer` is held, at every step."""

    def write(held: Held) -> Tensor:
        edit = None
        if held:  # quantiles of a tanh in single precision may be 1.0
            edit = clamp_unit(layer, list(held), [min(max(v, -0.9999), 0.9999) for v in held.values()])
        return model.generate(inputs, n, edit=edit, temperature=temperature, seed=seed)

    return write


def model_writer(
    model: HookedModel,
    inputs: Sequence[str] | Int[Tensor, "batch pos"],
    n: int,
    site: str,
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> Writer:
    """Writes texts, or ids [batch, pos + n] for ids; entries of `site` are held at every position.

    Raises:
        SiteError: No such site.
    """
    names = model.sites.resolve(site)
    inputs = unpack(inputs)

    def write(held: Held) -> Any:
        hooks = [clamp(name, unit, value) for name in names for unit, value in held.items()]
        return model.generate(
            inputs,
            n,
            fwd_hooks=hooks,
            temperature=temperature,
            seed=seed,
            return_ids=isinstance(inputs, Tensor),
        )

    return write
