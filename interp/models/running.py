"""How a wrapped model runs once: inputs read, requests made, a forward, what was kept collected."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from torch import Tensor

from interp.core.activations import Activations
from interp.core.settings import check_flags
from interp.models.adapters.effective import refuse_replaced
from interp.models.budget import estimate_bytes, refuse_above
from interp.models.endings import Ending
from interp.models.hooks.frame import Frame
from interp.models.hooks.passes import StopForward
from interp.models.hooks.plan import (
    Keeping,
    collect,
    keeper,
    refuse_inference,
    refuse_placeless,
    requests,
    silent,
)
from interp.models.hooks.runs import Run
from interp.models.hooks.taps import Request
from interp.models.parts import Parts
from interp.models.text.beside import refuse_dtypes
from interp.models.text.keywords import options_of
from interp.models.text.prepared import Prepared


class Running(Parts):
    """The running of a wrapped model; `HookedModel` adds what users call."""

    @cached_property
    def _frame(self) -> Frame:
        base: Any = getattr(self.module, "base_model", None)
        encoder: Any = getattr(self.module, "get_encoder", None) if self.two_sided else None
        adapter = self._adapter
        return Frame.of(
            self.module,
            [base, encoder() if callable(encoder) else None],  # type: ignore[list-item]
            adapter.configs,
            adapter.eager_float32,
            self.two_sided,
        )

    def _read(
        self,
        inputs: Any,
        kwargs: dict[str, Any],
        prepend_bos: bool | None = None,
        truncate: bool = False,
        left: bool = False,
        method: str = "__call__",
    ) -> Prepared:
        refuse_replaced(self._adapter.links, self._adapter.cfg.model_name)
        if type(truncate) is not bool:
            check_flags(truncate=truncate)
        own, elsewhere = options_of(type(self), method) if kwargs else ((), {})
        return self._intake.prepare(inputs, kwargs, prepend_bos, left, truncate, own, elsewhere)

    def _wanted(self, names: list[str], ready: Prepared, fwd_hooks: Any, how: Keeping) -> dict[str, Request]:
        if how.grad:
            refuse_inference("activations on the graph")
        refuse_placeless(self.sites, names, how.positions)
        keep = keeper(how.positions, how.to, how.dtype)
        dtype, device = how.form(self._adapter.cfg.dtype, self.device)
        sizes = estimate_bytes(self.sites, names, ready, dtype, how.positions)
        refuse_above(sizes, how.max_bytes, device)
        return requests(
            self.sites,
            names,
            fwd_hooks,
            grad=how.grad,
            keep=keep,
            clone=how.clone,
            sweep=how.sweep and not self.adapter.exact_once,
        )

    def _forward(
        self, ready: Prepared, wanted: dict[str, Request], ending: Ending, stop: bool = False
    ) -> Any:
        """One forward pass that serves `wanted`, and what it returns."""
        ending.check(self, ready)
        wanted = ending.join(self, wanted)
        run = Run(self._frame, wanted, self.splices, stop=stop or ending.site is not None)
        raw = None
        try:
            with suppress(StopForward):
                raw = run.once(ready.args, ready.kwargs)
        except (RuntimeError, NotImplementedError) as error:
            if ready.tokens is None:  # ids are what they must be
                refuse_dtypes(error, (*ready.args, *ready.kwargs.values()), self._intake.dtype)
            raise
        run.verify()
        return ending.result(raw, wanted, ready)

    def _collect(
        self,
        wanted: dict[str, Request],
        names: Sequence[str],
        ready: Prepared,
        where: dict[str, Tensor],
        remove_batch_dim: bool,
    ) -> Activations:
        further = [r.site for r in wanted.values() if r.first and r.reached]
        if further:
            self.sites.learn(further)
        acts = Activations(
            collect(wanted, names, ready),
            tokens=ready.tokens,
            mask=ready.mask,
            provenance=lambda: self.provenance(names),
            cfg=self.cfg,
            decoder_tokens=ready.decoder_tokens if self.two_sided else None,
            decoder_mask=ready.decoder_mask if self.two_sided else None,
            silent=silent(wanted),
            **where,  # type: ignore[arg-type]
        )
        return acts.remove_batch_dim() if remove_batch_dim else acts
