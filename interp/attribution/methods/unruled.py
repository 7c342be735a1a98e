"""What the rules missed, read from the graph that is about to be differentiated.

However an operation was called (module, function, method, keyword, from C++), it is a node of the
autograd graph, and the slopes of a rule are right only where every node left is linear in what is
attributed to. A list of linear nodes therefore finds every operation without a rule.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from torch.overrides import resolve_name

from interp.attribution.graph import nodes
from interp.core.errors import ModelError

OURS = frozenset(("SlopeBackward", "_ApartBackward"))

LINEAR = frozenset(
    """
    AccumulateGrad Add Sub Rsub Neg Sum Mean Trace Cumsum Nansum
    View UnsafeView ReshapeAlias ViewAsReal ViewAsComplex Real Imag Conj ResolveConj
    Transpose T Permute Swapaxes Expand Repeat Squeeze Unsqueeze AsStrided Alias Clone Copy
    CopyBackwards ToCopy Contiguous Lift LiftFresh Detach MkldnnReshape
    Slice Select Index IndexSelect Gather Take TakeAlongDim Cat Stack Split SplitWithSizes UnsafeSplit
    UnsafeSplitWithSizes Unbind Chunk Narrow Flip Roll Rot90 Tril Triu Diagonal DiagEmbed Diag
    Unfold Im2Col Col2Im SliceScatter SelectScatter DiagonalScatter AsStridedScatter
    Scatter ScatterAdd IndexAdd IndexCopy IndexPut IndexPutImpl IndexFill MaskedFill MaskedScatter
    MaskedSelect Where Zero Fill NewZeros
    ConstantPadNd ReflectionPad1D ReflectionPad2D ReflectionPad3D ReplicationPad1D ReplicationPad2D
    ReplicationPad3D PixelShuffle PixelUnshuffle ChannelShuffle NativeChannelShuffle
    AvgPool1D AvgPool2D AvgPool3D AdaptiveAvgPool1D AdaptiveAvgPool2D AdaptiveAvgPool3D
    MkldnnAdaptiveAvgPool2D UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D
    UpsampleNearestExact1D UpsampleNearestExact2D UpsampleNearestExact3D UpsampleLinear1D
    UpsampleBilinear2D UpsampleBilinear2DAa UpsampleBicubic2D UpsampleBicubic2DAa UpsampleTrilinear3D
    NllLoss NllLoss2D FftR2C FftC2R FftC2C NativeDropout FusedDropout
    """.split()
)
"""Autograd nodes that are linear in all their inputs together."""

FACTORS: dict[str, tuple[int, ...]] = {
    "Mul": (0, 1),
    "Mm": (0, 1),
    "Bmm": (0, 1),
    "Mv": (0, 1),
    "Dot": (0, 1),
    "Vdot": (0, 1),
    "Linear": (0, 1),
    "Matmul": (0, 1),
    "Addmm": (1, 2),
    "Addmv": (1, 2),
    "Addbmm": (1, 2),
    "Baddbmm": (1, 2),
    "Addr": (1, 2),
    "Addcmul": (1, 2),
    "Convolution": (0, 1),
    "ConvolutionOverrideable": (0, 1),
    "MkldnnConvolution": (0, 1),
    "CudnnConvolution": (0, 1),
    "Trilinear": (0, 1, 2),
    "LinalgCross": (0, 1),
}
"""Multilinear nodes, and which of their inputs are multiplied: linear while one of them is live."""

CONSTANT: dict[str, tuple[int, ...]] = {"Div": (1,), "Addcdiv": (2,), "Lerp": (2,)}
"""Nodes that are linear while these inputs are constants."""

WRITES = frozenset(
    "setitem copy add iadd sub isub fill zero index_put index_add index_copy index_fill scatter "
    "scatter_add masked_scatter neg".split()
)
"""Writes into a part of a tensor that are linear; what a rule has computed is copied there."""


def refuse_unruled(out: Tensor, source: Tensor, calls: dict[Any, Any], method: str) -> None:
    """Refuse a graph that holds a node which is neither linear nor ours.

    Args:
        calls: Node -> the torch function whose output it made, to name what the reader wrote.

    Raises:
        ModelError: An operation without a rule, by name; or a tensor that learns beside the site.
    """
    within: dict[Any, Any] = {}
    for node, reader in nodes(out):
        call = within[node] = calls.get(node, within.get(reader))
        if _is_linear(node, call):
            if getattr(node, "variable", source) is not source:
                raise ModelError(
                    f"{method} met a tensor that requires a gradient of its own",
                    got=f"shape {tuple(node.variable.shape)}",
                    fix="tensor.requires_grad_(False) on what the target or a hook brings along",
                )
            continue
        shown = _shown(node, call)
        raise ModelError(
            f"{method} has no rule for {shown}",
            got=f"{shown} between {reader_of(source)} and the target",
            expected="linear maps, entrywise functions, products, norms, attention, pooling, maxima",
            fix="method='integrated_gradients', which needs no rules",
        )


def reader_of(source: Tensor) -> str:
    """The site's tensor, for a message."""
    return f"the site (shape {tuple(source.shape)})"


def _is_linear(node: Any, call: Any) -> bool:
    name = node.name().rpartition("::")[2]
    if name in OURS:
        return True
    kind = re.sub(r"(Backward|Backward_)?\d*$", "", name) or name
    if name == "CopySlices":
        return _call_name(call).strip("_") in WRITES
    live = [below is not None for below, _ in node.next_functions]
    if kind in FACTORS:
        return sum(live[i] for i in FACTORS[kind] if i < len(live)) <= 1
    if kind in CONSTANT:
        return not any(live[i] for i in CONSTANT[kind] if i < len(live))
    return kind in LINEAR or name in LINEAR


def _call_name(call: Any) -> str:
    return getattr(call, "__name__", "")


def _shown(node: Any, call: Any) -> str:
    kind = re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2])
    said = resolve_name(call) if call is not None else None
    return kind if said is None else f"{said} ({kind})"
