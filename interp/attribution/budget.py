"""How many rows of an input a method may send through the model at once, said before any goes.

What a pass makes follows from shapes: the sites behind the one that is scored, and the logits that
are read. What a method keeps of it are shares of those sizes, counted from torch's allocator.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig, PairConfig
from interp.attribution.game import MOST_EXTRA
from interp.attribution.methods.paths import NODES
from interp.attribution.methods.table import method_row
from interp.attribution.rows import Rows, tensors
from interp.models.budget import fits, rows_that_fit
from interp.models.hooked import HookedModel
from interp.models.stream.blocks import LAST, only_what_is_read
from interp.models.stream.sizes import pass_bytes
from interp.models.stream.target import Target


class Share(NamedTuple):
    """What is held at once, in units of the sizes of a pass; from above.

    Attributes:
        stream, pairs: Of all layers' activations, and of their attention scores and patterns.
        block: Of both in one block.
        logits: Of the logits that the pass gives.
        fused: Whether attention runs as the model runs it, without patterns where it makes none.
    """

    stream: float
    pairs: float
    block: float
    logits: float
    fused: bool = True


LOOKS = Share(0.0, 0.0, 1.5, 2.5)
GRAPH = Share(1.5, 1.4, 1.0, 4.0)
SHARES = {
    "nothing": LOOKS,
    "patterns": Share(0.0, 1.2, 2.0, 2.5, fused=False),
    "gradient": GRAPH,
    "gradients": GRAPH,
    "relevance": Share(4.5, 2.0, 2.0, 6.0, fused=False),
    "differences": Share(11.0, 7.0, 2.0, 14.0, fused=False),
}
"""By what a method keeps, as the table of methods says; a pair's tangents go forward beside their row."""
TANGENTS = Share(0.0, 0.0, 6.0, 6.0, fused=False)
MANY = ("nothing", "gradients")
"""Kinds that send many rows at once; the others send one, and two that are only looked at."""


def rows_within(
    model: HookedModel, rows: Rows, target: Any, at: str, method: str, config: AttributionConfig
) -> int:
    """How many rows of a method's go at once: `config.rows`, halved until they fit.

    Args:
        target: As written, or a Target.
        at: The site from which the model runs anew.

    Raises:
        MemoryBudgetError: One row does not fit; with the size, the largest part, and what fits.
    """
    row, need = method_row(method), _Need(model, rows, target, at)
    # noise is drawn for all rows, whatever part of them goes at once; a path keeps its panels
    copies = 4 * config.rows if "noise" in row.reads else config.max_nodes // NODES
    return need.rows(method, row.keeps, config.rows, copies if row.keeps == "gradients" else 0)


def pair_rows_within(model: HookedModel, rows: Rows, at: str, config: PairConfig) -> int:
    """The same for the tangents of a pair's tower.

    Raises:
        MemoryBudgetError: One tangent does not fit.
    """
    return _Need(model, rows, None, at).rows("attribute_pair", "", config.rows, 0)


@dataclass(frozen=True)
class _Need:
    """What one input takes from a site on."""

    model: HookedModel
    inputs: Rows
    target: Any
    at: str

    def rows(self, method: str, keeps: str, rows: int, copies: int) -> int:
        """At most `rows`; `copies` of the site are there beside them."""
        pos = length_of(self.model, self.inputs)
        if pos is None:  # only a run tells
            return rows
        if keeps and keeps not in MANY:  # x and r are looked at together, and one of them goes again
            rows = min(rows, 2)
        one, beside = self.parts(pos, keeps, copies)
        whole = {part: one.get(part, 0.0) + beside.get(part, 0.0) for part in {**one, **beside}}
        device = self.model.device
        fix = "" if fits(whole, device) else self.fix(pos, keeps, copies)
        return rows_that_fit(f"{method} over {pos:,} positions", one, beside, rows, device, fix)

    def parts(self, pos: int, keeps: str, copies: int) -> tuple[dict[str, float], dict[str, float]]:
        """Bytes by part, of one row and of what is there beside."""
        if keeps in MANY or not keeps:
            one = self.held(pos, SHARES.get(keeps, TANGENTS))
            return one, {"copies of the site": float(copies * self.site(pos))}
        return self.held(pos, LOOKS), self.held(pos, SHARES[keeps])

    def held(self, pos: int, share: Share) -> dict[str, float]:
        """Bytes of one pass, by part."""
        return held_bytes(self.model, pos, self.at, share, self.read(pos))

    def site(self, pos: int) -> int:
        """Bytes of the site."""
        return pass_bytes(self.model, pos, self.at).site

    def read(self, pos: int) -> int:
        """At how many positions the pass gives logits."""
        target = self.target
        if isinstance(target, Target) and target.site is not None:
            return 0
        if self.model.head_pools_first:
            return 1
        if not isinstance(target, Target):
            spelt = not callable(target) or isinstance(target, Tensor)
            target = LAST if spelt else Target("a function", lambda out: out)
        return 1 if only_what_is_read(self.model, target, self.inputs.one, self.at) else pos

    def fix(self, pos: int, keeps: str, copies: int) -> str:
        """What fits where this does not."""

        def one_fits(n: int, kept: str, n_copies: int) -> bool:
            one, beside = self.parts(n, kept, n_copies)
            return fits({"": sum(one.values()) + sum(beside.values())}, self.model.device)

        others = {"gradients": "integrated_gradients", "nothing": "occlusion"} if keeps else {}
        found = [
            f"method={name!r}" for kept, name in others.items() if kept != keeps and one_fits(pos, kept, 0)
        ]
        shorter = pos
        while shorter > 1 and not one_fits(shorter, keeps, copies):
            shorter //= 2
        if shorter > 1:
            found.append(f"an input of at most {shorter:,} positions")
        return ", ".join([*found, "a site further up"])


def held_bytes(model: HookedModel, pos: int, at: str, share: Share, read: int = 1) -> dict[str, float]:
    """What one row's pass holds at once, by part.

    Args:
        pos: Positions of the row.
        at: The site from which the model runs anew.
        read: Positions that get logits.
    """
    size = pass_bytes(model, pos, at)
    # In half precision norms and softmax keep float32 all the same.
    wide = 1.25 if getattr(torch, model.cfg.dtype or "float32").itemsize == 2 else 1.0
    block = wide * share.block / size.n_blocks
    pairs = 0 if share.fused and size.fused else size.pairs
    return {
        "activations of the layers behind the site": (wide * share.stream + block) * size.stream,
        "attention scores and patterns": (wide * share.pairs + block) * pairs,
        "logits": wide * share.logits * size.logits * read,
        "copies of the site": 4.0 * size.site,
    }


def length_of(model: HookedModel, rows: Rows) -> int | None:
    """Positions of an input; None where only a run tells."""
    if rows.ids is not None:
        return len(rows.ids)
    side = getattr(getattr(model.module, "config", None), "patch_size", None)
    for value in tensors(rows.one):
        if value.dim() == 3 and value.shape[-1] == model.cfg.d_model:
            return value.shape[1]
        if value.dim() == 4 and isinstance(side, int):
            return prod(size // side for size in value.shape[-2:]) + MOST_EXTRA
    return None
