"""How near two float results must be that were added up in different orders."""

from __future__ import annotations

import torch
from torch import Tensor


def rounding_bound(dtype: torch.dtype, terms: int, scale: float) -> float:
    """How far two sums of the same numbers may lie apart when only the order of adding differs.

    A sum of `terms` numbers, added in any order, lies within `terms · eps/2 · scale` of the exact
    one (Higham, *Accuracy and Stability of Numerical Algorithms*, section 4.2), where `scale` is
    the size of what is added; two orders lie within twice that of each other.

    Args:
        dtype: What was computed in, float32 for instance.
        terms: Roundings between the input and one number of the result: the lengths of the sums
            (a product's inner width, a mean's rows), added up over the layers they go through.
        scale: Size of what is added up. The largest result will do unless it cancels.
    """
    return terms * torch.finfo(dtype).eps * scale


def assert_close_across(found: Tensor, expected: Tensor, *, terms: int, scale: float | None = None) -> None:
    """`found` is `expected` up to the order in which its sums were taken.

    For results from another machine (stored files), another batch shape or another thread count.
    Each of these adds in another order: a vector instruction set sums in as many lanes as it has,
    a product of another shape is cut into other tiles, and threads each sum their share. Bits then
    differ, and which ones is the processor's business.

    Bit equality is promised for resuming and reloading on one machine with one thread count, and
    for hooks that change nothing; tests of those use `torch.equal`. It is promised nowhere else.

    Args:
        terms: As in `rounding_bound`; so is `scale`, the largest of both results by default.
    """
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    assert found.dtype == expected.dtype, f"{found.dtype} is not {expected.dtype}"
    size = scale or max(float(found.detach().abs().max()), float(expected.detach().abs().max()))
    bound = rounding_bound(found.dtype, terms, size)
    torch.testing.assert_close(found, expected, rtol=0, atol=bound)
