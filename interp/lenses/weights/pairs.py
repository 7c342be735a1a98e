"""OV and QK circuits as token pairs, without the vocabulary-by-vocabulary matrix.

Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Dar et al. 2023, "Analyzing
Transformers in Embedding Space" (arXiv 2209.02535).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.core.result import Result
from interp.core.settings import check_choice
from interp.lenses.config import TokenTableConfig
from interp.lenses.weights.tokens import token_pieces, vocabulary
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import wide
from interp.models.stream.writers import norm_before

if TYPE_CHECKING:
    import pandas as pd

CIRCUITS = ("OV", "QK")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PairTable(Result):
    """The k strongest token pairs of every head.

    OV: attending to `source` raises the logit of `target` by `scores`. QK: a `source` asks for a
    `target`; the score is what their embeddings alone add to the attention score.
    """

    scores: Float[Tensor, "head k"]
    """Scores of the pairs, falling."""
    source: Int[Tensor, "head k"]
    """OV: the token attended to; QK: the query."""
    target: Int[Tensor, "head k"]
    """OV: the token written; QK: the key."""
    pieces: dict[int, str]
    """Text of every id that occurs."""
    circuit: str
    """"OV" or "QK"."""
    n_tokens: int
    """Size of the vocabulary; there are n_tokens^2 pairs."""
    left_out: float | None = None
    """How much the norm in front of a head would change what the head reads with, at most: the part
    of W_V (of W_Q and W_K) that its gain and centring move, or its bias adds, by the matrix's own
    size. 0 in a folded model, 1 where the norm's formula is not known; None in older results."""

    @property
    def same(self) -> Float[Tensor, " head"]:
        """Share of the pairs that are a token and itself: 1 for a head that copies (OV)."""
        return (self.source == self.target).float().mean(-1)

    def pairs(self, head: str) -> list[tuple[str, str]]:
        """The pairs of one head, as `L3H2`, strongest first.

        Raises:
            ConfigError: No such head in this table.
        """
        names = self.labels["head"]
        if head not in names:
            raise ConfigError("this table has no such head", got=head, expected=", ".join(names))
        row = names.index(head)
        rows = zip(self.source[row].tolist(), self.target[row].tolist(), strict=True)
        return [(self.pieces[s], self.pieces[t]) for s, t in rows]

    def to_frame(self, field: str | None = None) -> pd.DataFrame:
        """As for every result, with the tokens' text beside their ids."""
        frame: Any = super().to_frame(field)
        for side in ("source", "target"):
            frame[f"{side}_token"] = [self.pieces[i] for i in frame[side].tolist()]
        return frame

    def check(self) -> Checks:
        """Pairs are sorted, and what was read is what the heads read."""
        rises = self.scores.diff(dim=-1).clamp(min=0)
        checks = [Check.at_most("order", rises.max() if rises.numel() else 0.0, 0.0)]
        if self.left_out is not None:
            checks.append(Check.at_most("norm left out (fold the model)", self.left_out, 1e-4))
        return Checks(checks)


@torch.no_grad()
def read_pairs(
    model: HookedModel,
    circuit: str = "OV",
    heads: Sequence[tuple[int, int]] | None = None,
    config: TokenTableConfig | None = None,
) -> PairTable:
    """The strongest token pairs of heads, from weights alone.

    Norms before the head are left out, and the result's check says how much that is: `fold` the
    model first, and it is nothing but the norms' scale. Positions are left out too. An OV output is
    read as `read_directions` reads directions.

    Args:
        circuit: "OV" or "QK".
        heads: (layer, head) pairs; default all.
        config: How many pairs, which vocabulary, memory of one block.

    Raises:
        ConfigError: Another circuit, or a head that does not exist.
        ModelError: The model's attention weights or embeddings cannot be read.
    """
    config, cfg = config or TokenTableConfig(), model.cfg
    check_choice("circuit", circuit, CIRCUITS)
    every = [(layer, head) for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]
    chosen = every if heads is None else [(int(layer), int(head)) for layer, head in heads]
    if not chosen or not set(chosen) <= set(every):
        raise ConfigError(
            "no such heads",
            got=sorted(set(chosen) - set(every)) or "none",
            expected=f"layers below {cfg.n_layers}, heads below {cfg.n_heads}",
        )
    embed = model.W_E.detach().float()
    group = cfg.n_heads // (cfg.n_kv_heads or cfg.n_heads)
    rows = []
    if circuit == "OV":
        to = vocabulary(model, config.space, final_norm=config.final_norm)
        for layer, head in chosen:
            values, out = (model.W.layer(name, layer) for name in ("W_V", "W_O"))
            read = embed @ values[head // group].detach().float()
            write = to.prepare(out[head]).float() @ to.vectors.float()
            rows.append(top_pairs(read, write, config.k, config.block_mib))
    else:
        for layer, head in chosen:
            kv = head // group
            w_q, w_k, b_q, b_k = (model.W.layer(name, layer) for name in ("W_Q", "W_K", "b_Q", "b_K"))
            query = embed @ w_q[head].float() + b_q[head].float()
            key = embed @ w_k[kv].float() + b_k[kv].float()
            rows.append(top_pairs(query / math.sqrt(cfg.d_head), key.T, config.k, config.block_mib))
    scores, source, target = (torch.stack(part).cpu() for part in zip(*rows, strict=True))
    return PairTable(
        scores=scores,
        source=source,
        target=target,
        pieces=token_pieces(model, torch.cat([source, target])),
        circuit=circuit,
        n_tokens=len(embed),
        left_out=max(_left_out(model, circuit, layer) for layer in dict(chosen)),
        labels={"head": [f"L{layer}H{head}" for layer, head in chosen]},
        provenance=model.provenance(),
    )


def _left_out(model: HookedModel, circuit: str, layer: int) -> float:
    """`PairTable.left_out` of one layer's heads."""
    try:
        norm = norm_before(model, layer)
    except ModelError:
        return 1.0
    matrices = [model.W_V] if circuit == "OV" else [model.W_Q, model.W_K]
    found = []
    for every in matrices:
        whole = wide(every[layer].detach()).transpose(-1, -2)  # [head d_head d_model]
        size = whole.flatten(1).norm(dim=1).clamp(min=1e-30)
        moved = (norm.adjoint(whole) - whole).flatten(1).norm(dim=1)
        found += [(moved / size).max(), (norm.constant(whole).norm(dim=-1) / size).max()]
    return float(torch.stack(found).max())


def top_pairs(left: Tensor, right: Tensor, k: int, block_mib: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest entries of left @ right, with their rows and columns; exact.

    Rows and columns come in order of falling norm. Once k entries are known, a pair whose norms'
    product is below the least of them cannot enter (Cauchy-Schwarz): blocks shrink and soon end.

    Args:
        left: [n rank].
        right: [rank m].
        k: How many; all n * m when there are fewer.
        block_mib: Memory of one block of scores.

    Returns:
        Values falling, rows, columns, each [k].

    Raises:
        ShapeError: The factors do not fit.
    """
    if left.dim() != 2 or right.dim() != 2 or left.shape[1] != right.shape[0] or k < 1:
        raise ShapeError("factors do not fit", got=f"{list(left.shape)} @ {list(right.shape)}")
    left_norm, left_order = left.norm(dim=1).sort(descending=True, stable=True)
    right_norm, right_order = right.norm(dim=0).sort(descending=True, stable=True)
    left, right = left[left_order], right[:, right_order]
    n, m = len(left), right.shape[1]
    k = min(k, n * m)
    step = max(1, block_mib * 2**20 // (m * left.element_size()))
    # A first small block sets a high bar early.
    edges = [0, *range(min(step, 1 + n // 64), n, step), n]
    values = left.new_empty(0)
    places = torch.empty(0, dtype=torch.long, device=left.device)
    for start, stop in pairwise(edges):
        width = m
        if len(values) == k and values[-1] > 0:
            width = int((right_norm * left_norm[start] * (1 + 1e-6) >= values[-1]).sum())
            if width == 0:
                break
        dots = left[start:stop] @ right[:, :width]
        best, index = dots.flatten().topk(min(k, dots.numel()))
        at = (start + index // width) * m + index % width
        values, order = torch.cat([values, best]).topk(min(k, len(values) + len(best)))
        places = torch.cat([places, at])[order]
    return values, left_order[places // m], right_order[places % m]
