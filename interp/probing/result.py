"""What this room observes: sweeps of probes, sparse sweeps, audits of erasure, ..."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.result import Result


def _all_converged(unconverged: int) -> Check:
    name = "logistic fits before their optimum (raise max_iter)"
    return Check.at_most(name, float(unconverged), 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeSweep(Result):
    """How well each target is read at each site, beside the controls.

    Scores are test accuracy for classes and test R2 for real targets; rows of test groups were
    never seen in training. Controls are absent (None) where they were not asked for.
    """

    score: Float[Tensor, "site target"]
    """Test score of the probe."""
    low: Float[Tensor, "site target"]
    """Lower end of its confidence interval, groups taken into account."""
    high: Float[Tensor, "site target"]
    """Upper end of its confidence interval."""
    train_score: Float[Tensor, "site target"]
    """Score on the training rows: what of it is memory."""
    majority: Float[Tensor, "target"]
    """Test score of the training rows' most frequent class; 0 for a real target."""
    shuffled: Float[Tensor, "site target"] | None
    """Mean test score of probes fitted to shuffled labels."""
    shuffled_low: Float[Tensor, "site target"] | None
    """Lowest of them."""
    shuffled_high: Float[Tensor, "site target"] | None
    """Highest of them."""
    control: Float[Tensor, "site target"] | None
    """Score on the control task: every word type has a random label of its own."""
    random_init: Float[Tensor, "site target"] | None
    """Score on the same model with fresh weights."""
    kinds: tuple[str, ...]
    """Per target: binary, classes or real."""
    probe: str
    """Kind of probe."""
    unconverged: int
    """Logistic fits, controls included, that stopped at `max_iter` before their optimum."""
    n_train: int
    """Training rows."""
    n_test: int
    """Test rows."""
    confidence: float
    """Coverage of the intervals."""

    @property
    def selectivity(self) -> Tensor | None:
        """Score minus control-task score, [site target] (Hewitt and Liang 2019)."""
        return None if self.control is None else self.score - self.control

    def check(self) -> Checks:
        """Every fit at its optimum; shuffled labels not readable.

        Shuffled: at most chance plus four standard errors, and a little for the largest of many.
        """
        checks = [_all_converged(self.unconverged)]
        if self.shuffled is not None:
            excess = (self.shuffled - self.majority).max()
            checks.append(Check.at_most("shuffled labels above majority", excess, self._slack()))
        return Checks(checks)

    def _slack(self) -> float:
        return 4 * (0.25 / self.n_test) ** 0.5 + 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseSweep(Result):
    """F1 and MCC of probes on the k best neurons, per site and k; the neurons by number."""

    f1: Float[Tensor, "site k"]
    """Test F1 of the positive class."""
    mcc: Float[Tensor, "site k"]
    """Test Matthews correlation."""
    kappa: Float[Tensor, "site k"]
    """Cohen's kappa on the test rows."""
    fmi: Float[Tensor, "site k"]
    """Fowlkes and Mallows' index: sqrt(precision * recall)."""
    precision: Float[Tensor, "site k"]
    """Test precision."""
    recall: Float[Tensor, "site k"]
    """Test recall."""
    roc_auc: Float[Tensor, "site k"]
    """Area under the test ROC curve."""
    pr_auc: Float[Tensor, "site k"]
    """Average precision on the test rows."""
    null_f1: Float[Tensor, "site k"] | None
    """Mean F1 of whole selections on shuffled labels."""
    null_low: Float[Tensor, "site k"] | None
    """Lowest of them."""
    null_high: Float[Tensor, "site k"] | None
    """Highest of them."""
    neurons: tuple[tuple[tuple[int, ...], ...], ...]
    """The support per site and k, most important first."""
    target: str
    """What is read."""
    positive: str
    """The class that counts as positive."""
    ranking: str
    """How neurons were chosen."""
    unconverged: int
    """Probes, those on shuffled labels included, that stopped before their optimum."""
    n_train: int
    """Training rows."""
    n_test: int
    """Test rows."""

    def check(self) -> Checks:
        """Every probe at its optimum."""
        return Checks([_all_converged(self.unconverged)])

    def best(self, k: int) -> tuple[str, tuple[int, ...], float]:
        """(site, neurons, F1) of the site with the highest F1 at this k."""
        column = self.labels["k"].index(str(k))
        row = int(self.f1[:, column].argmax())
        return self.labels["site"][row], self.neurons[row][column], float(self.f1[row, column])


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningCurve(Result):
    """F1 of probes on the k best neurons as the best single one is taken away, again and again."""

    f1: Float[Tensor, "round"]
    """Test F1; round 0 has all neurons."""
    removed: tuple[int, ...]
    """The best single neuron of each round, taken away after it."""
    k: int
    """Neurons per probe."""
    target: str
    """What is read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ErasureAudit(Result):
    """What probes read before and after an erasure, and what it cost."""

    before: Float[Tensor, "probe target"]
    """Test score on the rows as they were."""
    after: Float[Tensor, "probe target"]
    """Test score of probes trained anew on the erased rows."""
    random: Float[Tensor, "probe target"]
    """Test score after a random projection of the eraser's rank: what losing dimensions costs."""
    majority: Float[Tensor, "target"]
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

    def check(self) -> Checks:
        """The linear probe (first row) at chance, and the guarantee where the method gives one."""
        column = self.labels["target"].index(self.erased)
        above = self.after[0, column] - self.majority[column]
        checks = [Check.at_most("linear probe above majority after erasure", above, 0.03)]
        if self.covariance_bound is not None:
            bound = self.covariance_bound
            checks.append(Check.at_most("largest covariance", self.covariance, bound))
        return Checks(checks)


@dataclass(frozen=True, kw_only=True, eq=False)
class AmnesicResult(Result):
    """A model's loss with a concept erased at a site, beside random erasures of the same rank."""

    intact: Float[Tensor, "text"]
    """Mean loss of each text, nats per token, nothing erased."""
    erased: Float[Tensor, "text"]
    """With the concept erased."""
    random: Float[Tensor, "draw text"]
    """With random projections of the same rank."""
    rank: int
    """Directions taken away."""
    site: str
    """Site of the erasure."""

    @property
    def effect(self) -> float:
        """Rise of the mean loss through the erasure, nats per token."""
        return float(self.erased.mean() - self.intact.mean())

    @property
    def random_effects(self) -> Tensor:
        """Rise of the mean loss through each random projection, [draw]."""
        return self.random.mean(1) - self.intact.mean()


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionProbeResult(Result):
    """How much of the gold trees attention maps alone tell, beside what no model is needed for.

    UAS is the share of test words whose head is guessed right; the root's word is not asked.
    """

    uas: Float[Tensor, ""]
    """UAS of the probe."""
    low: Float[Tensor, ""]
    """Lower end of its confidence interval, sentences taken as groups."""
    high: Float[Tensor, ""]
    """Upper end of its confidence interval."""
    offset_uas: Float[Tensor, ""]
    """UAS of the best fixed offset ("the head is the next word"), chosen on training sentences."""
    random_init_uas: Float[Tensor, ""] | None
    """UAS of the same probe on the maps of the same model with fresh weights."""
    weight: Float[Tensor, "layer head direction"]
    """Weight of every map: read from the word to its head, and backwards."""
    relation_uas: Float[Tensor, "relation"]
    """UAS per relation, most frequent first."""
    relation_offset: Float[Tensor, "relation"]
    """UAS of the fixed offset that is best for a relation on the training sentences."""
    offset: int
    """The best fixed offset."""
    n_train: int
    """Training arcs."""
    n_test: int
    """Test arcs."""

    def check(self) -> Checks:
        """Beats the offset, and the model without training."""
        checks = [Check.at_least("above the best offset", self.uas - self.offset_uas, 0.0)]
        if self.random_init_uas is not None:
            gain = self.uas - self.random_init_uas
            checks.append(Check.at_least("above random weights", gain, 0.0))
        return Checks(checks)


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeLengths(Result):
    """Bits it takes to send labels to somebody who has the rows, by online coding."""

    bits: Float[Tensor, "site"]
    """Bits with the code of probes trained on what was sent before."""
    shuffled: Float[Tensor, "site"]
    """Bits for shuffled labels, which nothing can compress below their entropy."""
    uniform: Float[Tensor, ""]
    """Bits with a uniform code: n log2(classes)."""
    n: int
    """Number of rows."""
    target: str
    """What is sent."""
    probe: str
    """Kind of probe."""

    @property
    def compression(self) -> Tensor:
        """Uniform / online, [site]; 1 = the rows say nothing."""
        return self.uniform / self.bits


@dataclass(frozen=True, kw_only=True, eq=False)
class VInformation(Result):
    """What a linear reader gains about real targets at every site, in nats; never below 0."""

    nats: Float[Tensor, "site target"]
    """1/2 ln(variance / residual variance) on held-out rows."""
    shuffled: Float[Tensor, "site target"]
    """Nats with shuffled training targets."""

    @property
    def complexity(self) -> Tensor:
        """1 - mean over sites of nats / their maximum, [target]; 1 where nothing is readable."""
        top = self.nats.amax(0)
        share = self.nats / top.clamp(min=1e-12)
        return (1 - share.mean(0)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class StructuralResult(Result):
    """How well squared distances after a linear map are distances in gold trees."""

    spearman: Float[Tensor, ""]
    """Rank correlation with tree distance, mean over words, then test sentences."""
    uuas: Float[Tensor, ""]
    """Share of gold arcs, undirected, in the minimum spanning tree."""
    linear_spearman: Float[Tensor, ""]
    """Rank correlation of the distance in words, which needs no model."""
    linear_uuas: Float[Tensor, ""]
    """Share of gold arcs in the tree that links neighbours."""
    matrix: Float[Tensor, "rank d"]
    """The map, of rows centred and scaled to unit mean square."""
    rank: int
    """Rank of the map at most."""
    n_train: int
    """Training sentences."""
    n_test: int
    """Test sentences."""

    def check(self) -> Checks:
        """Better than word order."""
        gain = self.uuas - self.linear_uuas
        return Checks([Check.at_least("UUAS above word order", gain, 0.0)])
