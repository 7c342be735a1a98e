"""No update from a number that is not finite: checked before every optimizer step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from interp.core.errors import NonFiniteError

GIVE_UP_AFTER = 10
"""Non-finite steps in a row after which even `on_nonfinite="skip"` stops."""


class FiniteGuard:
    """Decides, before each optimizer step, whether loss and gradient are fit to be used.

    A gradient counts as finite while its squared norm fits the parameters' dtype, because Adam
    squares it. On the CPU the answer is read at once. On an accelerator it stays on the device
    (`deferred`): the fused optimizers take it as `found_inf` and leave parameters and moments
    alone, so no host sync is needed before `read`, and nothing non-finite is ever applied.

    Args:
        names: Names of the parameters, in the order in which their gradient norms will come.
        limit: Largest gradient norm that counts as finite.
        stop_at_once: Stop at the first non-finite step; otherwise skip it, up to ten in a row.
        deferred: The device of a deferred guard, or None to decide on the host.
    """

    def __init__(
        self, names: Sequence[str], limit: float, stop_at_once: bool, deferred: torch.device | None = None
    ) -> None:
        self.names = names
        self.limit = limit
        self.allowed = 1 if stop_at_once else GIVE_UP_AFTER
        self.deferred = deferred
        self.skipped: int = 0
        self.in_a_row: int = 0
        self._loss, self._norms, self._step = math.nan, [math.nan] * len(names), -1
        if deferred is not None:
            # skipped, in a row, stopped, step of the last failure, its loss; then its norms
            self._state = torch.zeros(5 + len(names), dtype=torch.float64, device=deferred)

    def load(self, skipped: int, in_a_row: int) -> None:
        """Take up the counts of a run that resumes."""
        self.skipped, self.in_a_row = skipped, in_a_row
        if self.deferred is not None:
            self._state[0], self._state[1] = skipped, in_a_row

    def admits(self, t: int, loss: Tensor, norms: Tensor) -> bool:
        """Host decision for step t: True to update, False to skip.

        Args:
            t: The step.
            loss: Scalar.
            norms: `[parameter]`, the norm of each gradient (0 where there is none).

        Raises:
            NonFiniteError: The run has to stop here.
        """
        if math.isfinite(loss) and float(torch.linalg.vector_norm(norms)) < self.limit:
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        self._step, self._loss, self._norms = t, float(loss), norms.tolist()
        self._stop_if_due()
        return False

    def closed(self, t: int, loss: Tensor, norms: Tensor) -> Tensor:
        """Device decision for step t: 1.0 where the optimizer must not update, without a sync.

        After the step at which the run has to stop, the answer stays 1.0 until `read` raises.
        """
        skipped, in_a_row, stopped = self._state[:3].unbind()
        good = torch.isfinite(loss) & (torch.linalg.vector_norm(norms) < self.limit)
        open_ = stopped == 0
        bad = ~good & open_  # once stopped, the failure that did it is kept for the report
        row = torch.where(open_, torch.where(good, 0.0, in_a_row + 1), in_a_row)
        counts = torch.stack([skipped + bad, row, (row >= self.allowed).double()])
        seen = torch.cat([torch.stack([torch.full_like(row, t), loss.detach().double()]), norms])
        self._state = torch.cat([counts, torch.where(bad, seen, self._state[3:])])
        return (bad | ~open_).float()

    def read(self) -> None:
        """Bring the deferred decisions to the host.

        Raises:
            NonFiniteError: One of the steps since the last `read` stopped the run.
        """
        if self.deferred is None:
            return
        skipped, in_a_row, _, step, self._loss, *self._norms = self._state.tolist()
        self.skipped, self.in_a_row, self._step = int(skipped), int(in_a_row), int(step)
        self._stop_if_due()

    @property
    def stopped_at(self) -> int | None:
        """The step at which the run had to stop, if it had to."""
        return self._step if self.in_a_row >= self.allowed else None

    def _stop_if_due(self) -> None:
        if self.in_a_row < self.allowed:
            return
        pairs = zip(self.names, self._norms, strict=True)
        name = next((n for n, norm in pairs if not norm < self.limit), None)
        if name is None and math.isfinite(self._loss):  # only all of them together are too large
            name = self.names[0]
        affected = "no gradient is affected" if name is None else f"first affected: {name}"
        norm = "" if name is None else f", gradient norm {self._norms[self.names.index(name)]:g}"
        repeated = "" if self.allowed == 1 else f", {self.in_a_row} in a row"
        raise NonFiniteError(
            f"training stopped before the update of step {self._step}{repeated}: {affected}",
            got=f"loss {self._loss:g}{norm}",
            expected=f"a finite loss and gradient norms below {self.limit:.3g}",
            fix="lower lr, set grad_clip, look at that batch, or on_nonfinite='skip'",
        )


def gradient_norms(parameters: Sequence[nn.Parameter]) -> Tensor:
    """`[parameter]` 2-norms of the gradients, 0 where there is none; float64 if any of them is."""
    grads = [p.grad for p in parameters if p.grad is not None]
    kind = torch.float64 if any(g.dtype == torch.float64 for g in grads) else torch.float32
    norms = torch._foreach_norm(grads, 2.0, kind)  # pyright: ignore[reportPrivateImportUsage]
    found = iter(norms)
    device = grads[0].device
    zero = torch.zeros((), dtype=kind, device=device)
    return torch.stack([zero if p.grad is None else next(found).to(device) for p in parameters])


def norm_limit(parameters: Sequence[nn.Parameter]) -> float:
    """The largest norm whose square every parameter's dtype can hold."""
    return math.sqrt(min(torch.finfo(p.dtype).max for p in parameters))


def clip(parameters: Sequence[nn.Parameter], norms: Tensor, most: float) -> None:
    """Scale all gradients so that their joint norm is at most `most`, without a host sync."""
    factor = (most / torch.linalg.vector_norm(norms).clamp(min=1e-30)).clamp(max=1.0)
    for p in parameters:
        if p.grad is not None:
            p.grad.mul_(factor.to(p.grad.device, p.grad.dtype))
