"""The table of operations: what kind each torch function is, whatever form it is called in.

Names are those of `canonical`: without the underscores and the `i` of calls in place, without the
`r` of reversed operators, without `special_`. What is linear needs no entry: it is run as it is, and
`unruled` reads from the graph whether it truly was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Op = Callable[..., Tensor]

ELEMENTWISE = frozenset(
    """
    abs absolute acos acosh arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh ceil celu
    clamp_max clamp_min cos cosh digamma elu entr erf erfc erfcx erfinv exp exp2 expit expm1 fix
    float_power floor fmod frac gelu hardshrink hardsigmoid hardswish hardtanh i0 i0e i1 i1e leaky_relu
    lgamma log log10 log1p log2 log_ndtr log_sigmoid logit logsigmoid mish nan_to_num ndtr ndtri pow
    prelu reciprocal relu relu6 remainder round rrelu rsqrt selu sgn sigmoid sign silu sin sinc sinh
    softplus softshrink softsign sqrt square tan tanh tanhshrink threshold trunc xlog1py xlogy
    """.split()
)
"""y_i = f(x_i): one live tensor, the first; whatever else they are given is constant."""

PRODUCTS: dict[str, Op] = {
    "mul": torch.mul,
    "multiply": torch.mul,
    "cross": torch.cross,
    "linalg_cross": torch.linalg.cross,
    "kron": torch.kron,
    "outer": torch.outer,
    "ger": torch.outer,
}
"""Bilinear; times a constant they only scale, and run as they are."""

CONTRACTIONS: dict[str, Op] = {
    "matmul": torch.matmul,
    "bmm": torch.bmm,
    "mm": torch.mm,
    "mv": torch.mv,
    "dot": torch.dot,
    "vdot": torch.dot,
    "inner": torch.inner,
    "linalg_vecdot": torch.linalg.vecdot,
    "tensordot": torch.tensordot,
}
"""Bilinear sums of products; with a constant they are a linear layer, whose weights it holds."""

LAYERS = frozenset("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split())
"""Linear layers, called with input, weight, bias."""

DIVISIONS = frozenset("div divide true_divide truediv".split())

SUMMED_PRODUCTS: dict[str, Op] = {
    "addmm": torch.mm,
    "addmv": torch.mv,
    "baddbmm": torch.bmm,
    "addbmm": lambda a, b: torch.bmm(a, b).sum(0),
    "addr": torch.outer,
}
"""beta x input + alpha x a product."""

_REVERSED = {"rmatmul": "matmul", "rtruediv": "div", "rdiv": "div", "rpow": "pow"}
_IN_PLACE = {"imul": "mul", "itruediv": "div", "idiv": "div", "ipow": "pow", "imatmul": "matmul"}
_RENAMED = {"axis": "dim", "keepdims": "keepdim", "self": "input", "mat2": "other", "vec": "other"}
_RENAMED |= {"tensor": "other", "vec2": "other", "exponent": "other", "tensor1": "mat1", "batch1": "mat1"}
_RENAMED |= {"batch2": "mat2"}


def canonical(func: Any) -> tuple[str, bool, bool]:
    """Name of a torch function, whether it writes into its first argument, whether it is reversed."""
    raw = getattr(func, "__name__", "")
    name = raw.strip("_").removeprefix("special_")
    dunder = raw.startswith("__")
    if dunder and name in _IN_PLACE:
        return _IN_PLACE[name], True, False
    if dunder and name in _REVERSED:
        return _REVERSED[name], False, True
    if dunder and name == "rmul":
        name = "mul"
    return name, raw.endswith("_") and not dunder, False


def keyword(name: str) -> str:
    """One spelling for what torch spells in several ways (`axis`, `dim`)."""
    return _RENAMED.get(name, name)
