"""What an erasure took: probes before and after, and the model's loss with and without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError
from interp.core.frames.quantity import called, measured
from interp.core.result import Result
from interp.core.settings import check_choice
from interp.models.hooked import HookedModel
from interp.models.losses import text_losses
from interp.probing.ablating import Ablation
from interp.probing.config import EraseConfig, ProbeConfig, ProbeKind
from interp.probing.erasing.eraser import Eraser, concept_columns, fit_eraser, random_eraser
from interp.probing.rows import Labels, check_rows, encode_all
from interp.probing.scores import not_wild
from interp.probing.solvers.spectrum import Moments
from interp.probing.splits import split_targets
from interp.probing.sweeping import score_rows

KINDS: tuple[ProbeKind, ...] = ("linear", "mlp")
PROMISES_ZERO = ("leace", "mean_projection")


@dataclass(frozen=True, kw_only=True, eq=False)
class ErasureAudit(Result):
    """What probes read before and after an erasure, and what it cost."""

    before: Float[Tensor, "probe target"] = measured(
        "test score",
        "accuracy, or R2",
        "more is readable",
        signed=False,
        several="bars",
        beside="after",
        null=("random", "majority"),
    )
    """Test score on the rows as they were."""
    after: Float[Tensor, "probe target"]
    """Test score of probes trained anew on the erased rows."""
    random: Float[Tensor, "probe target"] = called("random, same rank")
    """Test score after a random projection of the eraser's rank: what losing dimensions costs."""
    majority: Float[Tensor, "target"] = called("the majority class")
    """Score of the most frequent class."""
    covariance: Float[Tensor, ""]
    """Largest |Cov(erased row, concept)| on the rows that the eraser was fitted on."""
    moved: Float[Tensor, ""]
    """Mean square of what the eraser changed, as a share of the rows' variance."""
    rank: int
    """Directions taken away."""
    method: str
    """Method of erasure."""
    erased: str
    """The target that was erased; the others are what should stay."""
    covariance_bound: float | None
    """What `covariance` must not exceed, for methods that promise 0; else None."""
    kinds: tuple[str, ...] = ()
    """Per target: binary, classes or real; empty in results saved before this was kept."""
    n_train: int = 0
    """Training rows."""
    n_test: int = 0
    """Test rows."""

    @property
    def headline(self) -> str:
        """What was erased, and how."""
        return f"{self.method.replace('_', ' ')}: {self.erased} erased"

    def check(self) -> Checks:
        """The linear probe (first row) at chance, the guarantee where the method gives one, and no
        probe far below chance."""
        column = self.labels["target"].index(self.erased)
        above = self.after[0, column] - self.majority[column]
        checks = [Check.at_most("linear probe above majority after erasure", above, 0.03)]
        if self.covariance_bound is not None:
            bound = self.covariance_bound
            checks.append(Check.at_most("largest covariance", self.covariance, bound))
        if not self.kinds:
            return Checks(checks)
        scores = torch.stack([self.before, self.after])
        wild = not_wild(scores, self.majority, self.kinds, self.n_train, self.n_test)
        return Checks([*checks, *wild])


def audit_erasure(
    rows: Float[Tensor, "n d"],
    labels: Mapping[str, Labels],
    erased: str,
    config: EraseConfig | None = None,
    *,
    probe: ProbeConfig | None = None,
    groups: Sequence[Any] | Tensor | None = None,
) -> ErasureAudit:
    """Erase one target and probe for all of them, before and after, linearly and not.

    The eraser and every probe see the training rows only; scores are of the test rows.

    Args:
        rows: Rows [n, d].
        labels: What to probe for; `erased` is one of them, the others should stay readable.
        erased: Which one is erased.
        config: How.
        probe: Settings of the probes (their kinds are linear and mlp).
        groups: Rows that are never split between training and test.

    Raises:
        ConfigError: `erased` is no target.
        ShapeError, NonFiniteError: As for a probe.
    """
    config, probe = config or EraseConfig(), probe or ProbeConfig()
    rows = check_rows(rows, "the rows of the audit").double()
    wanted = encode_all(labels, len(rows))
    names = [target.name for target in wanted]
    check_choice("erased", erased, names)
    split = split_targets(wanted, len(rows), probe.test_fraction, probe.seed, groups=groups)
    target = wanted[names.index(erased)][split.train]
    seen = rows[split.train]
    known = [target.classes[i] for i in target.values] if target.classes else target.values
    eraser = fit_eraser(seen, known, config, name=erased, groups=split.groups[split.train])
    control = random_eraser(eraser.rank, seen.mean(0), seed=config.seed)
    versions = {"before": rows, "after": eraser(rows), "random": control(rows)}
    found = {
        name: [score_rows(version, wanted, split, probe, kind) for kind in KINDS]
        for name, version in versions.items()
    }
    left = Moments(rows.shape[1], concept_columns(target).shape[1])
    left.update(eraser(seen), concept_columns(target))
    spread = (seen - seen.mean(0)).square().sum().clamp(min=torch.finfo(rows.dtype).tiny)
    moved = (seen - eraser(seen)).square().sum() / spread  # 0 where all rows are equal
    stacked = {name: torch.stack([test for test, _ in kinds]) for name, kinds in found.items()}
    return ErasureAudit(
        before=stacked["before"],
        after=stacked["after"],
        random=stacked["random"],
        majority=found["before"][0][1],
        covariance=(left.xz / left.n).abs().max(),
        moved=moved,
        rank=eraser.rank,
        method=config.method,
        erased=erased,
        covariance_bound=1e-8 * float(rows.abs().max().clamp(min=1))
        if config.method in PROMISES_ZERO
        else None,
        kinds=tuple(target.kind for target in wanted),
        n_train=len(split.train),
        n_test=len(split.test),
        labels={"probe": list(KINDS), "target": names},
    )


def ablate_concept(
    model: HookedModel,
    inputs: Any,
    site: str,
    eraser: Eraser,
    *,
    n_random: int = 5,
    seed: int = 0,
    strict: bool = True,
) -> Ablation:
    """Next-token loss with the concept erased at a site (Elazar et al. 2021, "Amnesic Probing").

    A concept that is readable but not used costs no more than random directions do.

    Args:
        model: A causal language model.
        inputs: Texts, or ids in any form that the model reads.
        site: Where to erase, at all positions.
        eraser: Fitted to rows of this site.
        n_random: Random projections of the same rank to compare with.
        seed: Of these.
        strict: Refuse an eraser of another model or site.

    Raises:
        ProvenanceError: The eraser was made for another model or site.
        ConfigError: An eraser of rank 0, which takes nothing away.
    """
    if not eraser.rank:
        raise ConfigError(
            f"the eraser of {eraser.concept!r} erases nothing",
            got="rank 0",
            expected="a concept that its rows tell",
            fix="audit_erasure shows what a probe reads of it",
        )
    eraser.for_model(model.provenance([site]), strict)
    batch = model.read(inputs)
    randoms = [random_eraser(eraser.rank, eraser.mean, seed=seed + i) for i in range(n_random)]
    return Ablation(
        intact=text_losses(model, batch),
        ablated=text_losses(model, batch, [eraser.hook(site)]),
        random=torch.stack([text_losses(model, batch, [other.hook(site)]) for other in randoms])
        if randoms
        else torch.zeros(0, len(batch), dtype=torch.float64),
        neurons=(),
        rank=eraser.rank,
        replacement="projection",
        site=site,
        provenance=model.provenance([site]),
    )
