"""The layers of the small transformer, with HookedTransformer's parameter names and hook points."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp.models.small.config import SmallConfig


class HookPoint(nn.Module):
    """An identity with a name: torch module hooks placed here read or replace the activation."""

    @property
    def hooked(self) -> bool:
        """Whether anybody listens, so that costly activations are made only on request.

        A hook of a pass listens in its own thread only: elsewhere the model computes as ever.
        """
        if self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks:
            return True
        passes = (getattr(hook, "owner", None) for hook in tuple(self._forward_hooks.values()))
        return any(owner is None or owner.here for owner in passes)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Norm(nn.Module):
    """Layer or RMS norm over the last axis, x / scale, with weights unless `kind` ends in Pre.

    `hook_scale` [..., 1] sees the divisor, `hook_normalized` [..., d] the quotient before weights.
    """

    def __init__(self, kind: str, width: int, eps: float) -> None:
        super().__init__()
        self.centre: bool = kind.startswith("LN")
        self.eps = eps
        self.w: nn.Parameter | None = None if kind.endswith("Pre") else nn.Parameter(torch.ones(width))
        self.b: nn.Parameter | None = nn.Parameter(torch.zeros(width)) if kind == "LN" else None
        self.hook_scale: HookPoint = HookPoint()
        self.hook_normalized: HookPoint = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        if dtype not in (torch.float32, torch.float64):
            x = x.float()  # half precision squares overflow
        if self.centre:
            x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        x = self.hook_normalized(x / scale).to(dtype)
        if self.w is not None:
            x = x * self.w
        return x if self.b is None else x + self.b


def norm(cfg: SmallConfig, width: int, *, final: bool = False) -> nn.Module:
    """The norm the configuration asks for; an identity without hook points where it is None."""
    kind = cfg.normalization_type
    if kind is None:
        return nn.Identity()
    if final and cfg.final_rms:
        kind = kind.replace("LN", "RMS")
    return Norm(kind, width, cfg.eps)


class Embed(nn.Module):
    """Token ids [batch pos] to vectors [batch pos d_model]."""

    def __init__(self, cfg: SmallConfig) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.W_E)


class PosEmbed(nn.Module):
    """Position ids [batch pos] to learned vectors [batch pos d_model]."""

    def __init__(self, cfg: SmallConfig) -> None:
        super().__init__()
        self.W_pos: nn.Parameter = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))

    def forward(self, positions: Tensor) -> Tensor:
        return F.embedding(positions, self.W_pos)


class Unembed(nn.Module):
    """Residual stream [batch pos d_model] to logits [batch pos d_vocab_out]."""

    def __init__(self, cfg: SmallConfig) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab_out))
        self.b_U: nn.Parameter = nn.Parameter(torch.zeros(cfg.d_vocab_out))
        self.hook_in: HookPoint = HookPoint()
        self.hook_out: HookPoint = HookPoint()

    def forward(self, residual: Tensor) -> Tensor:
        return self.hook_out(F.linear(self.hook_in(residual), self.W_U.T, self.b_U))


class Attention(nn.Module):
    """Multi-head attention with one weight slice per head: W_Q, W_K, W_V [head d_model d_head].

    Scores and pattern [batch head query key] exist only while `hook_attn_scores` or `hook_pattern`
    is hooked, per-head results [batch pos head d_model] only while `hook_result` is; otherwise
    torch's fused attention runs (which has no second derivative on the CPU: hook the pattern, or
    choose `torch.nn.attention.SDPBackend.MATH`, where one is needed).
    """

    def __init__(self, cfg: SmallConfig, layer: int) -> None:
        super().__init__()
        heads, d_model, d_head = cfg.n_heads, cfg.d_model, cfg.d_head
        self.W_Q = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_K = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_V = nn.Parameter(torch.empty(heads, d_model, d_head))
        self.W_O = nn.Parameter(torch.empty(heads, d_head, d_model))
        self.b_Q: nn.Parameter = nn.Parameter(torch.zeros(heads, d_head))
        self.b_K: nn.Parameter = nn.Parameter(torch.zeros(heads, d_head))
        self.b_V: nn.Parameter = nn.Parameter(torch.zeros(heads, d_head))
        self.b_O: nn.Parameter = nn.Parameter(torch.zeros(d_model))
        self.scale: float = cfg.attn_scale if cfg.use_attn_scale else 1.0
        if cfg.scale_attn_by_inverse_layer_idx:
            self.scale *= layer + 1
        self.adjacent_pairs: bool = cfg.rotary_adjacent_pairs
        self.split_heads: bool = cfg.use_attn_result
        self.hook_q: HookPoint = HookPoint()
        self.hook_k: HookPoint = HookPoint()
        self.hook_v: HookPoint = HookPoint()
        if cfg.positional_embedding_type == "rotary":
            self.hook_rot_q: HookPoint = HookPoint()
            self.hook_rot_k: HookPoint = HookPoint()
        self.hook_attn_scores: HookPoint = HookPoint()
        self.hook_pattern: HookPoint = HookPoint()
        self.hook_z: HookPoint = HookPoint()
        self.hook_result: HookPoint = HookPoint()

    def forward(
        self,
        inputs: tuple[Tensor, Tensor, Tensor],
        allowed: Tensor | None,
        causal: bool,
        rotation: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """Attention output [batch pos d_model].

        `inputs` are the normalised inputs of query, key and value, [batch pos d_model] or, one per
        head, [batch pos head d_model]; `allowed` [batch 1 query key] is True where a query may look
        (None: everywhere, up to the causal triangle).
        """
        query, key, value = inputs
        q = self.hook_q(_project(query, self.W_Q, self.b_Q))
        k = self.hook_k(_project(key, self.W_K, self.b_K))
        v = self.hook_v(_project(value, self.W_V, self.b_V))
        if rotation is not None:
            q = self.hook_rot_q(_rotate(q, *rotation, self.adjacent_pairs))
            k = self.hook_rot_k(_rotate(k, *rotation, self.adjacent_pairs))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if self.hook_attn_scores.hooked or self.hook_pattern.hooked:
            scores = q @ k.transpose(-1, -2) / self.scale
            if allowed is None and causal:
                allowed = causal_triangle(q.shape[2], q.device)
            if allowed is not None:
                scores = scores.masked_fill(~allowed, -math.inf)
            z = self.hook_pattern(self.hook_attn_scores(scores).softmax(-1)) @ v
        else:
            fused = causal and allowed is None
            z = F.scaled_dot_product_attention(
                q, k, v, attn_mask=allowed, is_causal=fused, scale=1.0 / self.scale
            )
        z = self.hook_z(z.transpose(1, 2))
        if self.split_heads or self.hook_result.hooked:
            result = self.hook_result(torch.einsum("bphe,hed->bphd", z, self.W_O))
            return result.sum(2) + self.b_O
        return F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)


def _project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Per-head projection to [batch pos head d_head] of a shared or per-head input."""
    if x.ndim == 4:
        return torch.einsum("bphd,hde->bphe", x, weight) + bias
    flat = weight.transpose(1, 2).flatten(0, 1)
    return F.linear(x, flat, bias.flatten()).unflatten(-1, bias.shape)


def causal_triangle(length: int, device: torch.device) -> Tensor:
    """Lower triangle [query key]: True where a query may look."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def _rotate(x: Tensor, sin: Tensor, cos: Tensor, adjacent: bool) -> Tensor:
    """Rotate the first dimensions of every head (Su et al. 2021), x [batch pos head d_head]."""
    width = sin.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    if adjacent:
        flipped = torch.stack((-turned[..., 1::2], turned[..., ::2]), -1).flatten(-2)
    else:
        low, high = turned.chunk(2, -1)
        flipped = torch.cat((-high, low), -1)
    return torch.cat((turned * cos + flipped * sin, rest), -1)


def _solu(x: Tensor) -> Tensor:
    """Softmax linear unit (Elhage et al. 2022)."""
    return x * x.softmax(-1)


def _gelu_fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu2": _relu2,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_fast,
    "gelu_pytorch_tanh": _gelu_tanh,
    "silu": F.silu,
    "solu": _solu,
    "solu_ln": _solu,
}


class MLP(nn.Module):
    """Two-layer MLP, gated or not; `hook_pre` and `hook_post` are [batch pos d_mlp]."""

    def __init__(self, cfg: SmallConfig) -> None:
        super().__init__()
        width = cfg.d_mlp or 4 * cfg.d_model
        self.act: Callable[[Tensor], Tensor] = _ACTIVATIONS[cfg.act_fn]
        self.W_in: nn.Parameter = nn.Parameter(torch.empty(cfg.d_model, width))
        self.b_in: nn.Parameter = nn.Parameter(torch.zeros(width))
        self.W_out: nn.Parameter = nn.Parameter(torch.empty(width, cfg.d_model))
        self.b_out: nn.Parameter = nn.Parameter(torch.zeros(cfg.d_model))
        self.W_gate: nn.Parameter | None = (
            nn.Parameter(torch.empty(cfg.d_model, width)) if cfg.gated_mlp else None
        )
        self.hook_pre: HookPoint = HookPoint()
        if cfg.gated_mlp:
            self.hook_pre_linear: HookPoint = HookPoint()
        self.ln: nn.Module | None = None
        if cfg.act_fn == "solu_ln":
            self.hook_mid: HookPoint = HookPoint()
            self.ln = Norm("LN" if cfg.normalization_type == "LN" else "LNPre", width, cfg.eps)
        self.hook_post: HookPoint = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        if self.W_gate is not None:
            gate = self.act(self.hook_pre(F.linear(x, self.W_gate.T)))
            post = gate * self.hook_pre_linear(F.linear(x, self.W_in.T)) + self.b_in
        else:
            post = self.act(self.hook_pre(F.linear(x, self.W_in.T, self.b_in)))
            if self.ln is not None:
                post = self.ln(self.hook_mid(post))
        return F.linear(self.hook_post(post), self.W_out.T, self.b_out)


class Block(nn.Module):
    """Residual block: attention, then an MLP unless the model is attention-only."""

    def __init__(self, cfg: SmallConfig, layer: int) -> None:
        super().__init__()
        # In the order in which they run: sites are listed so.
        self.heads: int = cfg.n_heads
        self.hook_resid_pre: HookPoint = HookPoint()
        self.hook_q_input: HookPoint = HookPoint()
        self.hook_k_input: HookPoint = HookPoint()
        self.hook_v_input: HookPoint = HookPoint()
        self.ln1: nn.Module = norm(cfg, cfg.d_model)
        self.attn: Attention = Attention(cfg, layer)
        self.hook_attn_out: HookPoint = HookPoint()
        self.mlp: MLP | None = None
        if not cfg.attn_only:
            self.hook_resid_mid: HookPoint = HookPoint()
            self.hook_mlp_in: HookPoint = HookPoint()
            self.ln2: nn.Module = norm(cfg, cfg.d_model)
            self.mlp = MLP(cfg)
            self.hook_mlp_out: HookPoint = HookPoint()
        self.hook_resid_post: HookPoint = HookPoint()

    def forward(
        self, residual: Tensor, allowed: Tensor | None, causal: bool, rotation: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        residual = self.hook_resid_pre(residual)
        inputs = self._attention_inputs(residual)
        attn_out = self.hook_attn_out(self.attn(inputs, allowed, causal, rotation))
        residual = residual + attn_out
        if self.mlp is not None:
            residual = self.hook_resid_mid(residual)
            mlp_out = self.mlp(self.ln2(self.hook_mlp_in(residual)))
            residual = residual + self.hook_mlp_out(mlp_out)
        return self.hook_resid_post(residual)

    def _attention_inputs(self, residual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One normalised input for all heads, or one per head while `hook_{q,k,v}_input` is hooked.

        In the second case `ln1` runs three times with a head axis, as HookedTransformer does under
        `use_split_qkv_input`.
        """
        points = (self.hook_q_input, self.hook_k_input, self.hook_v_input)
        if not any(point.hooked for point in points):
            shared = self.ln1(residual)
            return shared, shared, shared
        per_head = residual.unsqueeze(2).expand(-1, -1, self.heads, -1)
        query, key, value = (self.ln1(point(per_head.clone())) for point in points)
        return query, key, value
