"""What attribution observes: scores per position, with the completeness gap always beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from interp.attribution.settings import arguments, pair_arguments
from interp.core.checks import Check, Checks
from interp.core.foreign import LINE, one_line, show
from interp.core.result import Result

SAID_ABOVE = 0.01
"""A relative gap above this is said, whatever the method promised."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attribution(Result):
    """Scores of positions (and of heads, neurons or latents) for one target on one input."""

    scores: Float[Tensor, " pos"]
    """One per position (pixel, patch, channel, group: see `units`), in the target's unit; keyed by
    place, so equal tokens stay apart."""
    unit_scores: Float[Tensor, "pos unit"] | None = None
    """Scores split over heads, neurons or latents where the site has them."""
    tokens: tuple[str, ...]
    """The input, one piece per score; features by number where the input is not text."""
    units: str = "position"
    """What one score is of: position, pixel, channel, patch, entry, or group (of a feature mask)."""
    image: Int[Tensor, "row column"] | None = None
    """Which score stands at each place of a picture: `scores[image]` is the map that `plot` draws.
    None where the scores do not lie on a picture."""
    method: str
    """Method that made the scores."""
    target: str
    """What was attributed."""
    site: str
    """Site that was attributed to."""
    baseline: str
    """What absence means: scores depend on it as much as on the method."""
    value: float
    """f(x), the target on the input."""
    base_value: float
    """f(r), the target on the baseline."""
    gap: float
    """|sum of scores - (f(x) - f(r))|, in the target's unit."""
    tolerance: float
    """Relative bound on the gap."""
    rounding: float
    """Smallest gap that this precision can tell from zero."""
    complete: bool
    """Whether the method promises that the scores sum to f(x) - f(r)."""
    converged: bool
    """False: a path was refined to its limit of nodes and still missed the bound."""
    nodes: int
    """Gradients along the path, for path methods."""
    n_forward: int
    """Rows that went through the model forward."""
    standard_errors: Float[Tensor, " pos"] | None = None
    """How far the draws of a sampled method may have moved each score; 0 where it counted all there
    is, absent for methods that draw nothing."""
    asked: dict[str, Any] | None = None
    """Baseline, kept positions, BOS policy and the whole config, as `attribute` was asked; None in
    files that were saved before this was kept. `settings` makes arguments of it."""
    given_baseline: Float[Tensor, " entry"] | None = None
    """The baseline's numbers, flat, where a tensor was given for it."""

    @property
    def settings(self) -> dict[str, Any]:
        """What repeats it: `attribute(model, inputs, target, **result.settings)`.

        Raises:
            ConfigError: It was saved before settings were kept.
        """
        return {"method": self.method, "site": self.site, **arguments(self.asked, self.given_baseline)}

    @property
    def difference(self) -> float:
        """f(x) - f(r): what complete scores sum to."""
        return self.value - self.base_value

    @property
    def relative_gap(self) -> float:
        """The gap relative to |f(x) - f(r)|; 0 where it is rounding."""
        if self.gap <= self.rounding:
            return 0.0
        return self.gap / abs(self.difference) if self.difference else math.inf

    @property
    def gap_sentence(self) -> str:
        """The gap as it is shown: `sum +1.25 of +1.26 (gap 0.8 %)`."""
        total = float(self.scores.double().sum())
        relative = self.relative_gap
        digits = ".2g" if relative < 1 else ",.0f"
        share = "no gap" if relative == 0 else f"gap {100 * relative:{digits}} %"
        note = "" if self.complete or relative <= SAID_ABOVE else ", this method promises no sum"
        late = "" if self.converged else ", NOT converged"
        drawn = f", sampled: ± {self.widest_error:.2g} at most" if self.widest_error else ""
        return f"sum {total:+.3g} of {self.difference:+.3g} ({share}{note}{late}{drawn})"

    @property
    def widest_error(self) -> float:
        """The largest standard error of a score; 0 where nothing was drawn."""
        return 0.0 if self.standard_errors is None else float(self.standard_errors.max())

    def check(self) -> Checks:
        """The completeness gap: bounded where the method promises a sum, shown in any case."""
        gap = self.relative_gap if math.isfinite(self.relative_gap) else 1e9
        if self.complete:
            rows = [Check.at_most("completeness gap (relative)", gap, self.tolerance)]
        else:
            rows = [Check(f"completeness gap ({self.method} promises none)", gap, math.inf, True)]
        if not self.converged:
            rows.append(Check("converged within its nodes", float(self.nodes), 0.0, False))
        return Checks(rows)

    def __repr__(self) -> str:
        best = int(self.scores.abs().argmax())
        what = one_line(f"{self.target} by {self.method} at {self.site}, baseline {self.baseline}", LINE)
        largest = f"{show(repr(self.tokens[best]), 300)} at {best} = {float(self.scores[best]):+.3g}"
        if self.widest_error and self.standard_errors is not None:
            largest += f" ± {float(self.standard_errors[best]):.2g}"
        return f"Attribution of {what}; largest {largest}\n{self.gap_sentence}"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GeneratedAttribution(Result):
    """Which tokens of prompt and continuation each generated token rests on."""

    scores: Float[Tensor, "generated pos"]
    """Scores of every position for the log-probability of each generated token (nats); a position
    at or after the token itself cannot matter and holds 0."""
    gaps: Float[Tensor, " generated"]
    """Relative completeness gap of each row."""
    tokens: tuple[str, ...]
    """Prompt and continuation, one piece per position."""
    generated: tuple[str, ...]
    """The continuation, one piece per row."""
    method: str
    """Method that made the scores."""
    baseline: str
    """What absence means."""
    log_probs: Float[Tensor, " generated"]
    """Log-probability of each generated token, nats."""
    tolerance: float
    """Relative bound on the gaps."""
    complete: bool
    """Whether the method promises complete scores."""
    site: str | None = None
    """Site that was attributed to; None in files that were saved before this was kept."""
    asked: dict[str, Any] | None = None
    """Baseline, kept positions, BOS policy and the whole config, as for `Attribution`."""
    given_baseline: Float[Tensor, " entry"] | None = None
    """The baseline's numbers, flat, where a tensor was given for it."""

    @property
    def settings(self) -> dict[str, Any]:
        """What repeats it: `attribute_generated(model, inputs, continuation, **result.settings)`.

        Raises:
            ConfigError: It was saved before settings were kept.
        """
        return {"method": self.method, "site": self.site, **arguments(self.asked, self.given_baseline)}

    def check(self) -> Checks:
        """The largest completeness gap of a row."""
        worst = float(self.gaps.max())
        if self.complete:
            return Checks([Check.at_most("largest completeness gap", worst, self.tolerance)])
        return Checks([Check(f"largest gap ({self.method} promises none)", worst, math.inf, True)])


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PairAttribution(Result):
    """Which pairs of tokens make two texts similar (Moeller et al. 2023).

    The scores sum to f(a, b) - f(r, b) - f(a, r) + f(r, r), where f is the similarity and r is a
    reference of the same length; the three reference terms stand beside it.
    """

    scores: Float[Tensor, "pos_a pos_b"]
    """One per pair of tokens, in the similarity's unit."""
    tokens_a: tuple[str, ...]
    """First text."""
    tokens_b: tuple[str, ...]
    """Second text."""
    site: str
    """Layer whose activations are attributed."""
    similarity: str
    """cosine (norms of the actual texts) or dot."""
    reference: str
    """What both towers are compared with."""
    f_ab: float
    """f(a, b), the similarity."""
    f_rb: float
    """The similarity f(r, b)."""
    f_ar: float
    """The similarity f(a, r)."""
    f_rr: float
    """f(r, r); divided by the texts' norms, not by its own, so it may exceed 1."""
    gap: float
    """|sum - (f_ab - f_rb - f_ar + f_rr)|."""
    tolerance: float
    """Relative bound on the gap."""
    converged: bool
    """Whether both towers met their bound within the nodes allowed."""
    nodes: tuple[int, int]
    """Nodes taken for each tower."""
    asked: dict[str, Any] | None = None
    """Reference and config, as `attribute_pair` was asked; None in files that were saved before this was
    kept. `settings` makes arguments of it."""
    given_reference: Float[Tensor, " entry"] | None = None
    """The reference's numbers, flat, where a tensor was given for it."""

    @property
    def settings(self) -> dict[str, Any]:
        """What repeats it: `attribute_pair(model, a, b, **result.settings)`.

        Raises:
            ConfigError: It was saved before settings were kept, or made with `embed` or `model_b`,
                which no file holds.
        """
        return {"site": self.site, **pair_arguments(self.asked, self.given_reference)}

    @property
    def explained(self) -> float:
        """f(a, b) - f(r, b) - f(a, r) + f(r, r): what the scores sum to."""
        return self.f_ab - self.f_rb - self.f_ar + self.f_rr

    @property
    def relative_gap(self) -> float:
        """The gap relative to the sum explained."""
        return self.gap / abs(self.explained) if self.explained else self.gap

    @property
    def gap_sentence(self) -> str:
        """As shown under the picture."""
        return (
            f"sum {float(self.scores.double().sum()):+.4g} = f(a,b) {self.f_ab:+.3g} "
            f"- f(r,b) {self.f_rb:+.3g} - f(a,r) {self.f_ar:+.3g} + f(r,r) {self.f_rr:+.3g} "
            f"(gap {100 * self.relative_gap:.2g} %)"
        )

    def check(self) -> Checks:
        """The scores sum to their four terms."""
        rows = [Check.at_most("four-term gap (relative)", self.relative_gap, self.tolerance)]
        if not self.converged:
            rows.append(Check("converged within its nodes", float(max(self.nodes)), 0.0, False))
        return Checks(rows)

    def concentration(self, share: float = 0.5) -> float:
        """Smallest fraction of pairs whose scores reach `share` of the positive total."""
        positive = self.scores.clamp(min=0).flatten().sort(descending=True).values
        if not float(positive.sum()):
            return 1.0
        reached = positive.cumsum(0) < share * positive.sum()
        return (int(reached.sum()) + 1) / positive.numel()

    def __repr__(self) -> str:
        i, j = divmod(int(self.scores.argmax()), self.scores.shape[1])
        pair = show(f"{self.tokens_a[i]!r}-{self.tokens_b[j]!r}", 300)
        return (
            f"PairAttribution {len(self.tokens_a)}x{len(self.tokens_b)} at {one_line(self.site)}; "
            f"largest {pair} = {float(self.scores[i, j]):+.3g}\n{self.gap_sentence}"
        )
