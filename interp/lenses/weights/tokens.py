"""Weights as tokens, no data: any direction matrix, MLP neurons, dimensions of the heads.

Davies 2025, "Decoding specialised feature neurons with the LM head" (arXiv 2501.02688); Dar et al.
2023, "Analyzing Transformers in Embedding Space" (arXiv 2209.02535).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.core.randomness import generator
from interp.core.settings import check_choice
from interp.lenses.config import Side, Space, TokenTableConfig
from interp.lenses.weights.table import SIGNS, TokenTable
from interp.models.adapters.norms import norm_parts
from interp.models.hooked import HookedModel

SIDES = get_args(Side)
WEIGHTS = (*SIDES, "Q", "K", "V", "O")
NULL_ROWS = 512
"""Permuted directions that the threshold is estimated from."""
LEVEL = 0.01
"""Share of tables of permuted directions in which any row would pass the threshold."""


@dataclass(frozen=True)
class Vocabulary:
    """The vectors that directions are compared with."""

    vectors: Tensor
    """[d_model, d_vocab], float32 or wider; column t belongs to token t."""
    prepare: Callable[[Tensor], Tensor]
    """What a direction passes before it meets the vectors: the final norm's centring and gain."""
    space: str
    """"unembed" or "embed"."""


def vocabulary(model: HookedModel, space: str = "auto", *, final_norm: bool = True) -> Vocabulary:
    """The unembedding or the embedding of a model, as `Vocabulary`.

    Raises:
        ModelError: The model has neither, or not the one that was asked for.
        ConfigError: An unknown space.
    """
    check_choice("space", space, Space)
    if space == "auto":
        space = "embed" if model.head is None else "unembed"
    vectors = model.W_U if space == "unembed" else model.W_E.T
    norm = model.final_norm
    parts = norm_parts(norm) if norm is not None else None
    gain = parts.gain(norm) if parts is not None and norm is not None else None

    def prepare(rows: Tensor) -> Tensor:
        rows = _wide(rows.detach())
        if space == "embed" or not final_norm or parts is None:
            return rows
        rows = parts.centre(rows)
        return rows if gain is None else rows * gain.detach().to(rows.dtype)

    return Vocabulary(_wide(vectors.detach()), prepare, space)


@torch.no_grad()
def read_directions(
    model: HookedModel,
    directions: Tensor,
    names: Sequence[str] | None = None,
    config: TokenTableConfig | None = None,
) -> TokenTable:
    """Read each direction as the tokens it promotes, and those its negative promotes.

    Blocks of rows meet the whole vocabulary, so that memory stays at `config.block_mib` however
    many directions there are.

    Args:
        model: Any model with an unembedding or a token embedding.
        directions: [direction, d_model]: neurons' weights, a dictionary's decoder, ...
        names: One per row; default D0, D1, ...
        config: How many tokens, which vectors, how much memory.

    Raises:
        ShapeError: Directions of another width, or names that do not match.
        ModelError: The model has no tokens to compare with.
    """
    if directions.dim() != 2 or directions.shape[1] != model.cfg.d_model or not len(directions):
        raise ShapeError(
            "directions do not fit the model",
            got=f"shape {list(directions.shape)}",
            expected=f"[n, {model.cfg.d_model}], n >= 1",
        )
    titles = [f"D{i}" for i in range(len(directions))] if names is None else list(names)
    if len(titles) != len(directions):
        raise ShapeError("one name per direction", got=len(titles), expected=len(directions))
    return _table(model, {"": iter([(directions,)])}, titles, config or TokenTableConfig())


@torch.no_grad()
def read_weights(
    model: HookedModel,
    which: str | Sequence[str] = ("in", "out"),
    config: TokenTableConfig | None = None,
    *,
    layers: Sequence[int] | None = None,
) -> TokenTable:
    """Read rows of weight matrices as tokens.

    Args:
        which: MLP sides "in" (up), "gate", "out" and "gate*in" (the product of what gate and up
            would read from a token: what a gated neuron responds to); or "Q", "K", "V", "O",
            dimension by dimension of every head.
        config: How many tokens, which vectors, how much memory.
        layers: Layers to read; default all.

    Returns:
        Rows named `L3N12.out` (layer 3, neuron 12) and `L3H2.Q5` (head 2, dimension 5).

    Raises:
        ConfigError: An unknown weight or layer.
        ModelError: The model has no such weight.
    """
    wanted = [which] if isinstance(which, str) else list(which)
    for name in wanted:
        check_choice("weight", name, WEIGHTS)
    n_layers = model.cfg.n_decoder_layers or model.cfg.n_layers
    chosen = list(range(n_layers)) if layers is None else [int(layer) for layer in layers]
    if not wanted or not chosen or not all(0 <= layer < n_layers for layer in chosen):
        raise ConfigError(
            "no such layers or weights",
            got=f"layers {chosen}, weights {list(wanted)}",
            expected=f"layers from 0 to {n_layers - 1}",
        )
    names = [name for which in wanted for name in _names(model, which, chosen)]
    parts = {which: _parts(model, which, chosen) for which in wanted}
    return _table(model, parts, names, config or TokenTableConfig())


def neuron_atlas(
    model: HookedModel,
    config: TokenTableConfig | None = None,
    *,
    sides: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
) -> TokenTable:
    """Every MLP neuron of a model as tokens: what it reads (in, gate) and writes (out).

    Args:
        sides: Default: all that the model has ("gate" only for gated MLPs).

    Raises:
        ModelError: The model has no MLPs.
    """
    if model.cfg.attn_only or not model.cfg.d_mlp:
        raise ModelError(f"{model.cfg.model_name} has no MLP neurons", got="attention only")
    default = ("in", "gate", "out") if model.cfg.gated_mlp else ("in", "out")
    return read_weights(model, tuple(sides or default), config, layers=layers)


def _names(model: HookedModel, which: str, layers: Sequence[int]) -> list[str]:
    cfg = model.cfg
    if which in SIDES:
        return [f"L{layer}N{i}.{which}" for layer in layers for i in range(cfg.d_mlp)]
    heads = cfg.n_kv_heads if which in "KV" else cfg.n_heads
    return [
        f"L{layer}H{head}.{which}{i}" for layer in layers for head in range(heads) for i in range(cfg.d_head)
    ]


def _parts(model: HookedModel, which: str, layers: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
    """Per layer: directions [n d_model], in two factors where their scores are multiplied."""
    for layer in layers:
        found = []
        for name in which.split("*"):
            rows = model.W.layer(f"W_{name}", layer)
            if which in ("in", "gate", "gate*in"):  # [d_model d_mlp]
                rows = rows.T
            elif which in ("Q", "K", "V"):  # [head d_model d_head]
                rows = rows.transpose(1, 2)
            found.append(rows.reshape(-1, rows.shape[-1]))
        yield tuple(found)


def _table(
    model: HookedModel,
    groups: Mapping[str, Iterator[tuple[Tensor, ...]]],
    names: list[str],
    config: TokenTableConfig,
) -> TokenTable:
    """The whole table, group by group and part by part; a part's two factors are multiplied."""
    if config.k < 1 or config.block_mib < 1:
        raise ConfigError("a table needs k >= 1 and block_mib >= 1", got=config)
    to = vocabulary(model, config.space, final_norm=config.final_norm)
    d_vocab = to.vectors.shape[1]
    k, moments = min(config.k, d_vocab), _Moments(to.vectors)
    rows = max(1, config.block_mib * 2**20 // (d_vocab * to.vectors.element_size()))
    source = generator(config.seed, "permuted directions")
    share = min(1.0, NULL_ROWS / len(names))
    # Filled as the parts come: a list of them all, joined at last, would be there twice.
    n = len(names)
    scores, ids = torch.empty(n, 2, k), torch.empty(n, 2, k, dtype=torch.long)
    mean, std, thresholds = torch.empty(n), torch.empty(n), torch.empty(n)
    done = 0
    for parts in groups.values():
        first, null = done, []
        for part in parts:
            for start in range(0, len(part[0]), rows):
                found = _top(to, moments, [f[start : start + rows] for f in part], k)
                here = slice(done, done + len(found[0]))
                for whole, piece in zip((scores, ids, mean, std), found, strict=True):
                    whole[here] = piece.cpu()
                done = here.stop
            draw = torch.randperm(len(part[0]), generator=source)
            picked = draw[: max(2, math.ceil(share * len(draw)))].to(part[0].device)
            for chosen in picked.split(rows):
                null.append(_top_z(*_top(to, moments, [_permuted(f[chosen], source) for f in part], 1)))
        thresholds[first:done] = _threshold(torch.cat(null), 2 * n)
    return TokenTable(
        scores=scores,
        ids=ids,
        mean=mean,
        std=std,
        threshold=thresholds,
        pieces=token_pieces(model, ids),
        n_tokens=d_vocab,
        space=to.space,
        labels={"direction": names, "sign": list(SIGNS)},
        provenance=model.provenance(),
    )


def _top(
    to: Vocabulary, moments: _Moments, block: Sequence[Tensor], k: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores [n 2 k], ids [n 2 k], mean [n] and std [n] of one block of directions."""
    ready = [to.prepare(factor).to(to.vectors.dtype) for factor in block]
    dots = ready[0] @ to.vectors
    for factor in ready[1:]:
        dots *= factor @ to.vectors
    if len(ready) == 1:
        mean, std = moments(ready[0])
    else:
        mean, std = dots.mean(-1), dots.std(-1, correction=0)
    high, low = dots.topk(k, -1), dots.topk(k, -1, largest=False)
    scores = torch.stack([high.values, -low.values], 1)
    return scores, torch.stack([high.indices, low.indices], 1), mean, std


class _Moments:
    """Mean and deviation over the vocabulary of any direction, from the vectors' own moments.

    No pass over the scores is needed: the mean dot product is the dot product with the mean, and
    the variance is a quadratic form with the covariance of the vectors.
    """

    def __init__(self, vectors: Tensor) -> None:
        n = vectors.shape[1]
        self.mean = vectors.mean(1).double()
        self.cov = (vectors @ vectors.T).double() / n - torch.outer(self.mean, self.mean)

    def __call__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [n d_model] -> mean [n], std [n]."""
        wide = rows.double()
        variance = ((wide @ self.cov) * wide).sum(-1).clamp(min=0)
        return (wide @ self.mean).to(rows.dtype), variance.sqrt().to(rows.dtype)


def _permuted(rows: Tensor, source: torch.Generator) -> Tensor:
    """Every row's entries in an order of their own."""
    order = torch.rand(rows.shape, generator=source).argsort(-1)
    return rows.gather(-1, order.to(rows.device))


def _top_z(scores: Tensor, _ids: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """z of the first token, both signs, flat."""
    signed = torch.stack([mean, -mean], 1)
    return ((scores[..., 0] - signed) / std.clamp(min=1e-30)[:, None]).flatten().cpu()


def _threshold(null: Tensor, n: int) -> float:
    """The z that the largest of `n` nulls exceeds with probability LEVEL.

    Scores over the vocabulary are about normal, so the square of their largest z has an exponential
    tail: a Gumbel law, whose location and scale follow from mean and deviation.
    """
    squares = null.double().square()
    scale = float(squares.std()) * math.sqrt(6) / math.pi
    location = float(squares.mean()) - 0.5772156649 * scale
    return math.sqrt(max(0.0, location - scale * math.log(-math.log1p(-LEVEL) / n)))


def token_pieces(model: HookedModel, ids: Tensor) -> dict[int, str]:
    """Text of every id in `ids`: pieces, a classifier's own names, or the number itself."""
    occurs = torch.zeros(int(ids.max()) + 1, dtype=torch.bool)
    occurs[ids] = True  # sorting them, as `unique` does, would take four copies
    seen = occurs.nonzero()[:, 0].tolist()
    config: Any = getattr(model.module, "config", None)
    if model.tokenizer is not None:
        return dict(zip(seen, model.to_str_tokens(torch.tensor(seen)), strict=True))
    classes = getattr(config, "id2label", None) or {}
    named = model.reads == "pixels"
    return {i: str(classes.get(i, i)) if named else str(i) for i in seen}


def _wide(tensor: Tensor) -> Tensor:
    """At least single precision."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
