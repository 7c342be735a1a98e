"""One operation in several forms: as a module, a functional, a method, by keyword, written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[[Tensor], Any]


def mixing(h: Tensor) -> Tensor:
    return h.reshape(1, 5, 4)


def seeded(make: Callable[[], nn.Module]) -> Any:
    torch.manual_seed(3)
    return make().double().eval()


def squares(h: Tensor) -> tuple[Tensor, ...]:
    return h[:, :12].reshape(3, 1, 2, 2).unbind(0)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def crossed(a: Tensor, b: Tensor) -> Tensor:
    """Rows of a x b by the formula."""
    forth, back = a.roll(-1, -1) * b.roll(-2, -1), a.roll(-2, -1) * b.roll(-1, -1)
    return forth - back


def causal(n: int) -> Tensor:
    return torch.full((n, n), -torch.inf, dtype=torch.float64).triu(1)


NONE = torch.zeros(3, dtype=torch.float64)
ONES = torch.ones(1, dtype=torch.float64)
MATRIX = torch.linspace(-0.5, 0.7, 60, dtype=torch.float64).reshape(20, 3)
ATTENTION = seeded(lambda: nn.MultiheadAttention(4, 2, bias=False))
BATCHED = seeded(lambda: nn.MultiheadAttention(4, 2, batch_first=True, bias=False))
LSTM, GRU = (
    seeded(lambda: nn.LSTM(4, 3, 2, bidirectional=True)),
    seeded(lambda: nn.GRU(4, 3, batch_first=True)),
)
CELL, GRU_CELL = seeded(lambda: nn.LSTMCell(4, 3)), seeded(lambda: nn.GRUCell(4, 3))
ENCODER = seeded(lambda: nn.TransformerEncoderLayer(4, 2, 8))
NORM = seeded(lambda: nn.GroupNorm(5, 5))
BATCH, INSTANCE = seeded(lambda: nn.BatchNorm1d(20)), seeded(lambda: nn.InstanceNorm1d(5))
SWAPPED = seeded(lambda: nn.TransformerDecoderLayer(4, 2, 8, batch_first=True))
BILINEAR = seeded(lambda: nn.Bilinear(4, 5, 2))
PROJECTED = seeded(lambda: nn.LSTM(4, 3, proj_size=2, bias=False))
BIASED = {"encoder layer", "decoder layer", "lstm", "gru", "lstm cell", "gru cell", "batch norm", "bilinear"}
BIASED |= {"weighed bias"}
SOFT = {"logsumexp", "logaddexp", "cross entropy", "cross entropy of places"}
"""Relevance stays in biases, and in what keeps the softmax's own gradient; elsewhere it is conserved."""

# every list is one operation in several forms, which must agree
COMPOSITES: dict[str, list[Function]] = {
    "attention": [
        lambda h: ATTENTION(*[mixing(h).transpose(0, 1)] * 3)[0].transpose(0, 1),
        lambda h: ATTENTION(*[mixing(h).transpose(0, 1)] * 3, need_weights=False)[0].transpose(0, 1),
    ],
    "masked attention": [
        lambda h: BATCHED(*[mixing(h)] * 3, attn_mask=causal(5))[0],
        lambda h: BATCHED(*[mixing(h)] * 3, attn_mask=causal(5) < 0, need_weights=False)[0],
    ],
    "fused attention": [
        lambda h: F.scaled_dot_product_attention(*[mixing(h)] * 3, is_causal=True),
        lambda h: F.scaled_dot_product_attention(*[mixing(h)] * 3, attn_mask=causal(5)),
        lambda h: (mixing(h) @ mixing(h).mT / 2 + causal(5)).softmax(-1) @ mixing(h),
        lambda h: F.softmax(torch.baddbmm(causal(5)[None], mixing(h) / 2, mixing(h).mT), dim=-1) @ mixing(h),
    ],
    "attention to narrower values": [
        lambda h: F.scaled_dot_product_attention(mixing(h), mixing(h), mixing(h)[..., :3]),
        lambda h: (mixing(h) @ mixing(h).mT / 2).softmax(-1) @ mixing(h)[..., :3],
    ],
    "encoder layer": [lambda h: ENCODER(mixing(h).transpose(0, 1))],
    "decoder layer": [lambda h: SWAPPED(mixing(h), mixing(h).flip(1))],
    "lstm": [lambda h: LSTM(mixing(h).transpose(0, 1))[0]],
    "projected lstm": [lambda h: PROJECTED(mixing(h).transpose(0, 1))[0]],
    "gru": [lambda h: GRU(mixing(h))[0][:, -1], lambda h: GRU(mixing(h))[1][0]],
    "lstm cell": [lambda h: CELL(h[:, :4], (h[:, 4:7], h[:, 7:10]))[0]],
    "gru cell": [lambda h: GRU_CELL(h[:, :4], h[:, 4:7])],
    "max": [
        lambda h: h.amax(1),
        lambda h: torch.amax(h, dim=(0, 1)),
        lambda h: h.max(),
        lambda h: h.max(dim=1).values,
        lambda h: torch.max(input=h, dim=1, keepdim=True)[0],
        lambda h: h.topk(1).values,
        lambda h: h.sort(descending=True).values[:, 0],
        lambda h: F.max_pool1d(h[None], 20),
        lambda h: torch.max_pool1d(input=h[None], kernel_size=20),
        lambda h: F.adaptive_max_pool1d(h[None], 1),
        lambda h: nn.AdaptiveMaxPool2d(1)(h.reshape(1, 1, 4, 5)),
        lambda h: nn.MaxPool3d((1, 4, 5))(h.reshape(1, 1, 1, 4, 5)),
        lambda h: -(-h).min(1).values,
        lambda h: h.cummax(1).values[:, -1],
        lambda h: h.aminmax(dim=1).max,
    ],
    "maxima over axes": [
        lambda h: torch.amax(h.reshape(2, 2, 5), dim=(2, 0), keepdim=True),
        lambda h: h.reshape(2, 2, 5).amax((0, 2), True),
        lambda h: h.reshape(2, 2, 5).max(2).values.max(0).values,
    ],
    "median": [
        lambda h: h.median(),
        lambda h: torch.median(h, dim=1)[0],
        lambda h: h.kthvalue(10).values,
        lambda h: torch.sort(input=h, dim=1)[0][:, 9],
        lambda h: h.topk(11, largest=True)[0][:, -1],
        lambda h: torch.msort(h.T)[9],
    ],
    "max pooling": [
        lambda h: nn.MaxPool2d(2, 1, padding=1)(h.reshape(1, 1, 4, 5)),
        lambda h: F.max_pool2d(h.reshape(1, 1, 4, 5), 2, 1, 1),
        lambda h: F.max_pool2d(h.reshape(1, 1, 4, 5), 2, 1, 1, return_indices=True)[0],
        lambda h: torch.max_pool2d(h.reshape(1, 1, 4, 5), 2, stride=1, padding=1),
    ],
    "maximum": [
        lambda h: torch.maximum(h, h.flip(1)),
        lambda h: h.max(h.flip(1)),
        lambda h: torch.max(input=h, other=h.flip(1)),
        lambda h: torch.fmax(h, h.flip(1)),
        lambda h: torch.clamp(h, min=h.flip(1)),
        lambda h: -torch.minimum(-h, -h.flip(1)),
    ],
    "relu": [
        lambda h: F.relu(input=h),
        lambda h: h.relu(),
        lambda h: nn.ReLU(inplace=True)(h.clone()),
        lambda h: torch.maximum(h, torch.zeros((), dtype=torch.float64)),
        lambda h: h.clamp(min=0),
        lambda h: torch.where(h > 0, h, 0.0),
        lambda h: h.where(h > 0, torch.zeros_like(h)),
        lambda h: h.masked_fill(h < 0, 0.0),
        lambda h: h.clone().masked_fill_(h < 0, 0.0),
        lambda h: F.threshold(h, 0.0, 0.0),
    ],
    "logsumexp": [
        lambda h: h.logsumexp(1),
        lambda h: torch.logsumexp(input=h.reshape(1, 4, 5), dim=(1, 2)),
        lambda h: torch.special.logsumexp(h, dim=1),
    ],
    "logaddexp": [lambda h: torch.logaddexp(h, h.flip(1))],
    "std": [
        lambda h: h.std(),
        lambda h: torch.std(h, 1),
        lambda h: torch.std_mean(h, dim=1)[0],
        lambda h: h.var().sqrt(),
    ],
    "group norm": [
        lambda h: NORM(mixing(h)),
        lambda h: F.group_norm(input=mixing(h), num_groups=5),
        lambda h: INSTANCE(mixing(h)),
        lambda h: F.layer_norm(mixing(h), (4,)),
        lambda h: centred(mixing(h)) / (mixing(h).var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt(),
    ],
    "batch norm": [
        lambda h: BATCH(h),
        lambda h: F.batch_norm(h, BATCH.running_mean, BATCH.running_var, BATCH.weight, BATCH.bias),
        lambda h: torch.batch_norm(
            h, BATCH.weight, BATCH.bias, BATCH.running_mean, BATCH.running_var, False, 0.1, 1e-5, False
        ),
        lambda h: h / (1 + 1e-5) ** 0.5,
    ],
    "glu": [lambda h: F.glu(h), lambda h: h[:, :10] * h[:, 10:].sigmoid(), lambda h: nn.GLU()(h)],
    "cosine": [
        lambda h: F.cosine_similarity(h[:, :10], h[:, 10:]),
        lambda h: torch.cosine_similarity(x1=h[:, :10], x2=h[:, 10:], dim=1),
        lambda h: (F.normalize(h[:, :10]) * F.normalize(h[:, 10:])).sum(1),
    ],
    "prod": [
        lambda h: h[:, :4].prod(1),
        lambda h: torch.prod(input=h[:, :4], dim=1, keepdim=True),
        lambda h: h[0, :4].prod(),
    ],
    "three factors": [lambda h: torch.einsum("bi,bi,bi->b", h, h.flip(1), h.roll(1))],
    "distance": [
        lambda h: torch.dist(h[:, :10], h[:, 10:]),
        lambda h: torch.cdist(h[:, :10], h[:, 10:]),
        lambda h: (h[:, :10] - h[:, 10:]).norm(),
        lambda h: torch.linalg.vector_norm(h[:, :10] - h[:, 10:]),
        lambda h: torch.linalg.norm(h[:, :10] - h[:, 10:], dim=1),
    ],
    "linear": [
        lambda h: F.linear(input=h, weight=MATRIX.T),
        lambda h: h @ MATRIX,
        lambda h: torch.mm(h, mat2=MATRIX),
        lambda h: torch.einsum("bi,ij->bj", h, MATRIX),
        lambda h: torch.einsum("ij,...i,k,k", MATRIX, h, ONES.expand(4) / 4, ONES.expand(4)),
        lambda h: torch.einsum("bi, ij, b -> bj", h, MATRIX, ONES),
        lambda h: F.bilinear(h, ONES[None], MATRIX.T[:, :, None]),
        lambda h: F.bilinear(ONES[None], h, MATRIX.T[:, None]),
        lambda h: (MATRIX.T @ h.T).T,
        lambda h: torch.addmm(NONE, h, MATRIX),
        lambda h: torch.addmm(input=NONE, mat1=h, mat2=MATRIX),
        lambda h: torch.addmv(NONE, MATRIX.T, h[0]),
        lambda h: torch.baddbmm(NONE[None, None], h[None], MATRIX[None]),
        lambda h: torch.tensordot(h, MATRIX, dims=1),
        lambda h: F.conv1d(h[:, :, None], MATRIX.T[:, :, None]),
    ],
    "weighed bias": [
        lambda h: torch.addmm(MATRIX[0], h, MATRIX, beta=0.5, alpha=2).tanh(),
        lambda h: F.linear(h, 2 * MATRIX.T, MATRIX[0] / 2).tanh(),
        lambda h: torch.tanh(2 * (h @ MATRIX) + MATRIX[0] / 2),
    ],
    "cross product": [
        lambda h: torch.linalg.cross(h[0, :9].reshape(3, 3), h[0, 9:18].reshape(3, 3)),
        lambda h: torch.cross(h[0, :9].reshape(3, 3), h[0, 9:18].reshape(3, 3), dim=-1),
        lambda h: crossed(h[0, :9].reshape(3, 3), h[0, 9:18].reshape(3, 3)),
    ],
    "products added": [
        lambda h: torch.baddbmm(*squares(h), beta=0.5),
        lambda h: torch.baddbmm(
            **dict(zip(("input", "batch1", "batch2"), squares(h), strict=True)), beta=0.5
        ),
        lambda h: squares(h)[0] / 2 + squares(h)[1] @ squares(h)[2],
    ],
    "a quotient added": [lambda h: torch.addcdiv(h, h, 2 + h**2), lambda h: h + h / (2 + h**2)],
    "cross entropy": [
        lambda h: F.cross_entropy(h, torch.tensor([3])),
        lambda h: -F.log_softmax(h, dim=1)[:, 3],
    ],
    "cross entropy of places": [
        lambda h: F.cross_entropy(mixing(h), torch.tensor([[3, 0, 1, 2]])),
        lambda h: -F.log_softmax(mixing(h), dim=1)[0, [3, 0, 1, 2], [0, 1, 2, 3]].mean(),
    ],
    "bilinear": [lambda h: BILINEAR(h[:, :4], h[:, 4:9])],
    "in place": [
        lambda h: (lambda g: (g.mul_(h.flip(1)), g)[1])(h.clone()),
        lambda h: (lambda g: g.__imul__(h.flip(1)))(h.clone()),
        lambda h: h * h.flip(1),
    ],
    "assigned": [
        lambda h: (lambda g: (g.__setitem__((..., slice(0, 3)), h[:, 3:6].exp()), g)[1])(h.clone()),
        lambda h: torch.cat([h[:, 3:6].exp(), h[:, 3:]], 1),
    ],
}
