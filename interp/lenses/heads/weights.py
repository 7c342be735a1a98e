"""Heads known from weights alone: what a head's matrices recall, as associative memories.

Bietti et al. 2023, "Birth of a Transformer" (arXiv 2306.00802): sums of outer products whose argmax
is tested; Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits": OV eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import ConfigError, ModelError, WeightError
from interp.core.frames.quantity import computed, measured
from interp.core.randomness import generator
from interp.core.result import Result
from interp.models.budget import refuse_parts
from interp.models.hooked import HookedModel


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WeightHeads(Result):
    """What each head would do with embeddings and positions alone: shares of argmaxes that hit."""

    previous: Float[Tensor, "layer head"] | None = measured(
        "position before recalled", "share", "W_QK of positions picks the one before", signed=False
    )
    """Share of positions t >= 1 whose best key among positions 0..t is t - 1; chance is about
    `previous_chance`. None where positions are not a table of vectors (rotary, relative)."""
    matching: Float[Tensor, "layer head earlier_layer earlier_head"] | None = measured(
        "best match with an earlier head",
        "share",
        "W_QK finds the token that an earlier head's W_OV wrote",
        signed=False,
    )
    """Share of tokens t for which t, as query, best fits the key that an earlier head's output for
    t makes (K-composition): the two find what followed t before. 0 where not earlier. None for a
    model of one layer."""
    copying: Float[Tensor, "layer head"] | None = measured(
        "token recalled by OV", "share", "the head raises the token it looks at", signed=False
    )
    """Share of tokens v whose OV output raises v most. None without a head over tokens."""
    eigenvalues: Float[Tensor, "layer head"] | None = measured(
        "OV eigenvalues", "-1 to 1", "the head raises the token it looks at", signed=True
    )
    """Sum of the OV circuit's eigenvalues over the sum of their magnitudes, -1 to 1; 1: copies."""
    n_tokens: int
    """How many tokens stood for the vocabulary; chance of `matching` and `copying` is 1 / this."""
    previous_chance: float
    """`previous` of a head whose best key is any of those allowed: mean of 1 / (t + 1)."""

    @property
    @computed(
        measured(
            "previous x matching x copying", "share", "an induction circuit ends in this head", signed=False
        )
    )
    def induction(self) -> Float[Tensor, "layer head"] | None:
        """Per head: the best `previous` x `matching` over earlier heads, x its `copying`."""
        if self.previous is None or self.matching is None or self.copying is None:
            return None
        pairs = self.previous * self.matching
        return pairs.flatten(2).amax(-1) * self.copying


@torch.no_grad()
def find_heads(model: HookedModel, *, n_tokens: int = 512, seed: int = 0) -> WeightHeads:
    """Previous-token, induction and copying heads, without running the model.

    Norms are left out: for a model with norms, `fold` it first, which moves their gains into the
    weights and centres what layer norms would.

    Args:
        model: A decoder or encoder with plain attention weights.
        n_tokens: Tokens drawn to stand for the vocabulary (all, if there are fewer).

    Raises:
        ModelError: The model's attention weights or embeddings cannot be read.
        MemoryBudgetError: What every head writes for every token is more than what is free.
    """
    if n_tokens < 2:
        raise ConfigError("recall needs tokens to confuse", got=n_tokens, expected="n_tokens >= 2")
    cfg = model.cfg
    if not cfg.n_heads or not cfg.d_vocab:
        raise ModelError(f"{cfg.model_name} has no attention over tokens", got=cfg.family)
    n, heads = min(n_tokens, cfg.d_vocab), cfg.n_heads
    parts = {
        "what every head writes for every token": 4.0 * cfg.n_layers * heads * n * cfg.d_model,
        "what one layer's heads say of every token": 4.0 * heads * n * (3 * n + 2 * cfg.d_head),
    }
    fix = f"n_tokens={max(2, n // 4)}"
    refuse_parts(f"find_heads over {n:,} tokens", parts, model.device, fix)
    draw = torch.randperm(cfg.d_vocab, generator=generator(seed, "tokens for heads"))[:n_tokens]
    embed = model.W_E.detach()[draw.to(model.device)].float()
    unembed = None
    if _over_tokens(model):
        unembed = model.W_U.detach()[:, draw.to(model.device)].float()
    # What every head writes for each token, [layer] of [head t d]: later layers look for it.
    written: list[Tensor] = []
    copying: list[Tensor] = []
    matching = torch.zeros(cfg.n_layers, cfg.n_heads, cfg.n_layers, cfg.n_heads)
    for layer in range(cfg.n_layers):
        q, k, v, o, b_q, _ = _heads(model, layer)
        if layer:
            queries = torch.einsum("td,hde->hte", embed, q) + b_q[:, None]
            matching[layer, :, :layer] = _matching(queries, written, k)
        here = torch.einsum("td,hde,hef->htf", embed, v, o)
        if unembed is not None:
            copying.append(_recall(here @ unembed))
        if layer + 1 < cfg.n_layers:
            written.append(here)
    previous, chance = _previous(model)
    return WeightHeads(
        previous=previous,
        matching=matching if cfg.n_layers > 1 else None,
        copying=torch.stack(copying) if copying else None,
        eigenvalues=eigen_shares(model),
        n_tokens=len(draw),
        previous_chance=chance,
        provenance=model.provenance(),
    )


def _recall(scores: Tensor) -> Tensor:
    """Share of rows whose argmax is their own column, [... n n] -> [...]."""
    n = scores.shape[-1]
    return (scores.argmax(-1) == torch.arange(n, device=scores.device)).float().mean(-1).cpu()


def _over_tokens(model: HookedModel) -> bool:
    """Whether the head says one number per token that the model reads, from what is in the stream."""
    if model.head is None:
        return False
    try:
        matrix = model.W_U
    except WeightError:
        if getattr(model.head, "in_features", model.cfg.d_model) != model.cfg.d_model:
            return False  # ALBERT and Electra change the width before they unembed
        raise
    return matrix.shape[1] == model.cfg.d_vocab


def _heads(model: HookedModel, layer: int) -> tuple[Tensor, ...]:
    """W_Q, W_K, W_V, W_O, b_Q, b_K of one block, float32, grouped keys and values for every head."""
    cfg = model.cfg
    group = cfg.n_heads // (cfg.n_kv_heads or cfg.n_heads)
    found = []
    for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K"):
        weight = model.W.layer(name, layer).detach().float()
        found.append(weight if name[-1] in "QO" else weight.repeat_interleave(group, 0))
    return tuple(found)


def _matching(queries: Tensor, written: list[Tensor], k: Tensor) -> Tensor:
    """[head earlier_layer earlier_head] from queries [h t e] and each layer's outputs [h t d].

    The bias of the keys adds the same to every key of a query, so it decides nothing.
    """
    found = torch.zeros(len(queries), len(written), len(queries))
    for head, query in enumerate(queries):
        for earlier, outputs in enumerate(written):
            keys = outputs @ k[head]  # [earlier head t e]
            found[head, earlier] = _recall(query @ keys.transpose(-1, -2))
    return found


def _previous(model: HookedModel) -> tuple[Tensor | None, float]:
    """Recall of the position before, and its chance; None without a position table."""
    try:
        positions = model.W_pos.detach().float()
    except ModelError:
        return None, 0.0
    n = len(positions)
    if n < 2:
        return None, 0.0
    future = torch.ones(n, n, dtype=torch.bool, device=positions.device).triu(1)
    found = []
    for layer in range(model.cfg.n_layers):
        q, k, _, _, b_q, b_k = _heads(model, layer)
        for head in range(len(q)):
            scores = (positions @ q[head] + b_q[head]) @ (positions @ k[head] + b_k[head]).T
            found.append(scores.masked_fill_(future, -torch.inf).argmax(-1))
    hit = torch.stack(found)[:, 1:] == torch.arange(n - 1, device=positions.device)
    chance = float((1 / torch.arange(2, n + 1)).mean())
    return hit.float().mean(-1).cpu().unflatten(0, (model.cfg.n_layers, -1)), chance


@torch.no_grad()
def eigen_shares(model: HookedModel) -> Float[Tensor, "layer head"] | None:
    """Sum of eigenvalues over sum of magnitudes of W_E W_V W_O W_U; None without a head over tokens.

    The vocabulary-sized product and its cyclic permutation W_O W_U W_E W_V [d_head d_head] have
    the same nonzero eigenvalues.
    """
    if not _over_tokens(model):
        return None
    around = model.W_U.detach().float() @ model.W_E.detach().float()  # [d_model d_model]
    shares = []
    for layer in range(model.cfg.n_layers):
        _, _, v, o, _, _ = _heads(model, layer)
        values = torch.linalg.eigvals((o @ around @ v).double())
        share = values.real.sum(-1) / values.abs().sum(-1).clamp(min=1e-30)
        shares.append(share.float().cpu())
    return torch.stack(shares)
