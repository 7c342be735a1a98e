"""NaN and infinity are named; large finite numbers are left alone."""

import timeit

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import NonFiniteError
from interp.core.finite import check_finite

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_error_names_what_index_value_dtype(dtype, value):
    t = torch.zeros(3, 5, 7, dtype=dtype)
    t[1, 2, 3] = value
    t[2, 0, 0] = value
    with pytest.raises(NonFiniteError) as caught:
        check_finite(t, "blocks.3.hook_resid_post", token_axis=1)
    message = str(caught.value)
    assert "blocks.3.hook_resid_post" in message
    assert "(1, 2, 3)" in message
    assert "token 2" in message
    assert f"{value} at" in message
    assert str(dtype).removeprefix("torch.") in message
    assert "2 of 105" in message


@pytest.mark.parametrize("dtype", FLOATS)
def test_finite_tensors_whose_sum_overflows_pass(dtype):
    big = torch.finfo(dtype).max
    check_finite(torch.full((11, 13), big, dtype=dtype), "big")
    check_finite(torch.full((11, 13), -big, dtype=dtype), "big")


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_bad_value_among_overflowing_ones_is_found(dtype):
    for value in (float("nan"), float("inf"), float("-inf")):
        t = torch.full((11, 13), torch.finfo(dtype).max, dtype=dtype)
        t[7, 5] = value
        with pytest.raises(NonFiniteError, match=r"\(7, 5\)"):
            check_finite(t, "big")


def test_opposite_infinities_do_not_cancel():
    with pytest.raises(NonFiniteError):
        check_finite(torch.tensor([float("inf"), float("-inf")]), "pair")


@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=4),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e38]),
    data=st.data(),
)
def test_agrees_with_isfinite(shape, value, data):
    t = torch.randn(shape)
    flat = t.view(-1)
    flat[data.draw(st.integers(0, flat.numel() - 1))] = value
    if torch.isfinite(t).all():
        check_finite(t, "t")
    else:
        with pytest.raises(NonFiniteError):
            check_finite(t, "t")


@pytest.mark.parametrize(
    "t",
    [
        torch.tensor([True, False]),
        torch.tensor([2**62, 2**62, 2**62]),
        torch.zeros(0, 3),
        torch.tensor(1.0),
        torch.zeros(2, 3, device="meta"),
        torch.randn(5, 3).T[::2],
        torch.ones(3, requires_grad=True) * 2,
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3).to(torch.float8_e4m3fn),
    ],
    ids=["bool", "int", "empty", "scalar", "meta", "strided", "grad", "complex", "float8"],
)
def test_what_has_no_bad_values_passes(t):
    check_finite(t, "t")


@pytest.mark.parametrize(
    ("t", "index"),
    [
        (torch.tensor([1, complex(0, float("nan"))]), r"\(1,\)"),
        (torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn), r"\(1,\)"),
        (torch.tensor(float("nan")), r"\(\)"),
    ],
    ids=["complex", "float8", "scalar"],
)
def test_unusual_tensors_are_checked_too(t, index):
    with pytest.raises(NonFiniteError, match=index):
        check_finite(t, "t", token_axis=0)


def test_small_tensors_cost_microseconds():
    """About 4 us here; the bound leaves room for a busy machine and for runtime type checks."""
    t = torch.randn(1, 8, 64)
    seconds = min(timeit.repeat(lambda: check_finite(t, "t"), number=200, repeat=7)) / 200
    exact = min(timeit.repeat(lambda: torch.isfinite(t).all().item(), number=200, repeat=7)) / 200
    assert seconds < max(40e-6, 4 * exact)


def test_large_tensors_cost_less_than_a_mask():
    t = torch.randn(1 << 20)
    ours = min(timeit.repeat(lambda: check_finite(t, "t"), number=5, repeat=5))
    mask = min(timeit.repeat(lambda: torch.isfinite(t).all().item(), number=5, repeat=5))
    assert ours < mask
