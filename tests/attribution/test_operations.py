"""Every operation, in every form it can be called in, has a rule that is right, or is refused by name.

Right is: DeepLIFT's contributions are the differences written out, or sum to f(x) - f(r); relevance is
the formula, or is conserved. The functions are the table's own and all that torch lets one override.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import get_overridable_functions, resolve_name

from interp.attribution import attribute
from interp.attribution.methods.deeplift import lift
from interp.attribution.methods.operations import CONTRACTIONS, ELEMENTWISE, PRODUCTS
from interp.attribution.methods.relevance import Relevance, propagate
from interp.core.errors import ModelError
from tests.attribution import toys
from tests.attribution.composites import BIASED, COMPOSITES, LSTM, MATRIX, SOFT, Function, mixing

RULED = ("deeplift", "deeplift_reveal_cancel", "lrp_epsilon", "lrp_gamma", "lrp_alpha_beta", "attn_lrp")
WEIGHTS = torch.linspace(0.3, 1.0, 400, dtype=torch.float64)


def weighed(form: Function) -> Function:
    """One number of whatever a function gives: entries weighed apart, so that none stands for another."""

    def read(z: Tensor) -> Tensor:
        out = form(z)
        parts = list(out) if isinstance(out, tuple | list) else [out]
        kept = [p for p in parts if isinstance(p, Tensor) and p.is_floating_point() and p.requires_grad]
        if not kept:  # all of it was held constant
            return z.new_zeros(1)
        return torch.stack([(p.reshape(-1) * WEIGHTS[: p.numel()]).sum() for p in kept]).sum()[None]

    return read


def relevance(form: Function, x: Tensor, **settings: Any) -> Tensor | None:
    rules = Relevance(x.clone().requires_grad_(True), **{"epsilon": 1e-9, **settings})
    return propagate(form, rules, "lrp")


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    x, r = (torch.rand(1, *shape, generator=drawn, dtype=torch.float64) * 0.8 + 0.1 for _ in range(2))
    return x, r


# ---- entrywise functions: contributions and relevance are known entry by entry ------------------

GIVEN: dict[str, tuple[Any, ...]] = {
    "pow": (1.7,),
    "float_power": (1.7,),
    "clamp_min": (0.4,),
    "clamp_max": (0.4,),
    "fmod": (0.3,),
    "remainder": (0.3,),
    "threshold": (0.4, 0.1),
    "xlogy": (torch.tensor(0.7, dtype=torch.float64),),
    "xlog1py": (torch.tensor(0.7, dtype=torch.float64),),
    "prelu": (torch.tensor([0.2], dtype=torch.float64),),
}
ABOVE_ONE = ("acosh", "arccosh")


def forms_of(name: str) -> Iterator[tuple[str, Function]]:
    """The function wherever torch has it, as a method, in place, in place on a part, by keyword."""
    given = GIVEN.get(name, ())
    for owner in (torch, F, torch.special, torch._C._nn, Tensor):
        found = getattr(owner, name, None)
        if found is not None:
            yield f"{owner.__name__}.{name}", lambda z, found=found: found(z, *given)
        if found is not None and owner is not Tensor and not given:
            yield f"{owner.__name__}.{name}(input=)", lambda z, found=found: found(input=z)
    code = getattr(getattr(F, name, None), "__code__", None)
    if code is not None and "inplace" in code.co_varnames:
        yield f"F.{name}(inplace)", lambda z: getattr(F, name)(z.clone(), *given, inplace=True)
    written = getattr(Tensor, f"{name}_", None) or getattr(F, f"{name}_", None)
    if written is not None:
        yield f"{name}_", lambda z: (lambda h: (written(h, *given), h)[1])(z.clone())
        yield f"{name}_ on a part", lambda z: (lambda h: (written(h[:, 1:], *given), h)[1])(z.clone())


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_an_entrywise_function_is_what_it_adds_in_every_form(name: str) -> None:
    x, r = pair(5)
    if name in ABOVE_ONE:
        x, r = x + 1, r + 1
    count = 0
    for form, function in forms_of(name):
        try:
            y, y_then = (function(end.clone()).double() for end in (x, r))
        except (TypeError, RuntimeError, NotImplementedError):
            continue  # torch itself has no such form: rrelu by keyword, log_ndtr in place
        count += 1
        found, missed = lift(weighed(function), x, r)
        torch.testing.assert_close(found[0], (y - y_then)[0] * WEIGHTS[:5], rtol=1e-9, atol=1e-9, msg=form)
        assert missed < 1e-9, form
        if name != "rsqrt":  # the inverse scale of a norm takes no relevance
            passed = relevance(weighed(function), x)
            assert passed is not None
            torch.testing.assert_close(passed[0], y[0] * WEIGHTS[:5], rtol=1e-9, atol=1e-9, msg=form)
    assert count >= 1


# ---- products ---------------------------------------------------------------------------------

SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "bmm": ((2, 3, 5), (2, 5, 3)),
    "mv": ((3, 5), (5,)),
    "dot": ((5,), (5,)),
    "vdot": ((5,), (5,)),
    "outer": ((3,), (5,)),
    "ger": ((3,), (5,)),
    "cross": ((5, 3), (5, 3)),
    "linalg_cross": ((5, 3), (5, 3)),
    "linalg_vecdot": ((5, 3), (5, 3)),
    "mul": ((3, 5), (3, 5)),
    "multiply": ((3, 5), (3, 5)),
    "inner": ((3, 5), (2, 5)),
    "kron": ((3, 5), (2, 3)),
}


def product_forms(name: str, op: Any) -> Iterator[tuple[str, Any]]:
    yield name, op
    for owner in (torch, Tensor):
        if hasattr(owner, name):
            yield f"{owner.__name__}.{name}", getattr(owner, name)
    operator = {"mul": lambda a, b: a * b, "matmul": lambda a, b: a @ b}.get(name)
    if operator is not None:
        yield f"{name} as an operator", operator
    keyword = {"mm": "mat2", "bmm": "mat2", "mv": "vec", "outer": "vec2", "ger": "vec2", "dot": "tensor"}
    if name in ("mul", "matmul", "inner", "multiply", "kron", *keyword) and hasattr(torch, name):
        key = keyword.get(name, "other")
        yield f"{name}({key}=)", lambda a, b: getattr(torch, name)(a, **{key: b})


@pytest.mark.parametrize("name", sorted(PRODUCTS | CONTRACTIONS))
def test_a_product_gives_each_factor_the_mean_of_the_other(name: str) -> None:
    left, right = SHAPES.get(name, ((3, 5), (5, 3)))
    n, m = torch.Size(left).numel(), torch.Size(right).numel()
    x, r = pair(n + m)

    def parts(z: Tensor) -> tuple[Tensor, Tensor]:
        return z[0, :n].reshape(left), z[0, n:].reshape(right)

    for form, op in product_forms(name, (PRODUCTS | CONTRACTIONS)[name]):
        options = {"dims": 1} if name == "tensordot" else {}

        def function(z: Tensor, op: Any = op, options: Any = options) -> Tensor:
            return op(*parts(z), **options)

        ends = [end.clone().requires_grad_(True) for end in (x, r)]
        (a, b), (a_then, b_then) = (parts(end) for end in ends)
        bars = op((a + a_then).detach() / 2, b, **options), op(a, (b + b_then).detach() / 2, **options)
        total = sum((bar.reshape(-1) * WEIGHTS[: bar.numel()]).sum() for bar in bars)
        (slope,) = torch.autograd.grad(total, ends[0])
        found, missed = lift(weighed(function), x, r)
        torch.testing.assert_close(found, slope * (x - r), rtol=1e-9, atol=1e-9, msg=form)
        assert missed < 1e-9
        plain = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(weighed(function)(plain)[0], plain)
        passed = relevance(weighed(function), x)
        assert passed is not None
        torch.testing.assert_close(passed, slope.detach() * x / 2, rtol=1e-9, atol=1e-9, msg=form)


# ---- layers and composites: exact, conserved, and the same however they are written ---------------


@pytest.mark.parametrize("kind", COMPOSITES)
def test_a_composite_is_exact_and_the_same_in_every_form(kind: str) -> None:
    torch.manual_seed(1)
    weight = torch.randn(7, 20, dtype=torch.float64) / 2
    x, r = torch.randn(2, 1, 7, dtype=torch.float64)
    seen: list[tuple[Tensor, Tensor | None]] = []
    for i, form in enumerate(COMPOSITES[kind]):
        whole = weighed(lambda z, form=form: form(z @ weight))
        found, missed = lift(whole, x, r)
        delta = float(
            (whole(x.clone().requires_grad_(True)) - whole(r.clone().requires_grad_(True))).detach()
        )
        assert abs(delta) > 1e-4
        assert abs(float(found.sum()) - delta) < 1e-9 * max(1, abs(delta)), (kind, i)
        assert missed < 1e-9
        passed = relevance(whole, x)
        seen.append((found, passed))
        torch.testing.assert_close(found, seen[0][0], rtol=1e-6, atol=1e-7, msg=f"{kind} {i}")
        if passed is None:
            continue
        torch.testing.assert_close(passed, seen[0][1], rtol=1e-5, atol=1e-6, msg=f"{kind} {i}")
        if kind not in BIASED | SOFT:
            value = float(whole(x.clone().requires_grad_(True)).detach())
            assert float(passed.sum()) == pytest.approx(value, rel=1e-6, abs=1e-8), (kind, i)


@pytest.mark.parametrize("settings", [{"positive": 1.5}, {"apart": (2.0, 1.0)}], ids=["gamma", "alpha-beta"])
def test_what_is_a_layer_of_weights_takes_its_rule_in_every_form(settings: dict[str, Any]) -> None:
    x = torch.randn(1, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain = relevance(weighed(lambda h: F.linear(h, MATRIX.T)), x)
    asked = [relevance(weighed(form), x, **settings) for form in COMPOSITES["linear"]]
    assert plain is not None and asked[0] is not None
    assert float((asked[0] - plain).abs().max()) > 0.1  # the rule is another one than epsilon's
    for i, found in enumerate(asked):
        torch.testing.assert_close(found, asked[0], rtol=1e-6, atol=1e-8, msg=f"form {i}")


def test_a_layer_takes_its_rule_whatever_its_bias_depends_on() -> None:
    """A bias that is computed from the site is a term of its own: the layer is what it is without."""
    x = torch.randn(1, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for settings in ({"positive": 1.5}, {"apart": (2.0, 1.0)}, {}):
        inside = relevance(weighed(lambda h: F.linear(h, MATRIX.T, h[0, :3])), x, **settings)
        beside = relevance(weighed(lambda h: F.linear(h, MATRIX.T) + h[:, :3]), x, **settings)
        assert inside is not None and beside is not None
        torch.testing.assert_close(inside, beside, rtol=1e-9, atol=1e-12)
    image, kernel = (lambda h: h.reshape(1, 1, 4, 5)), MATRIX.reshape(3, 1, 4, 5)[:, :, :2, :2]
    inside = relevance(weighed(lambda h: F.conv2d(image(h), kernel, h[0, :3])), x, positive=1.5)
    beside = relevance(
        weighed(lambda h: F.conv2d(image(h), kernel) + h[0, :3].reshape(3, 1, 1)), x, positive=1.5
    )
    torch.testing.assert_close(inside, beside, rtol=1e-9, atol=1e-12)


# ---- what has no rule ---------------------------------------------------------------------------


class Own(torch.autograd.Function):
    """A user's own backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * ctx.saved_tensors[0].cos()


def packed(h: Tensor) -> Tensor:
    rows = nn.utils.rnn.pack_padded_sequence(mixing(h).double(), torch.tensor([5]), batch_first=True)
    return LSTM(rows)[0][0]


DROPPING = nn.LSTM(4, 3, 2, dropout=0.5).train()
REFUSED: dict[str, Function] = {
    "cumprod": lambda h: h[:, :4].cumprod(1),
    "atan2": lambda h: torch.atan2(h, h**2 + 1),
    "linalg.inv": lambda h: torch.linalg.inv(h[:, :16].reshape(1, 4, 4)),
    "polygamma": lambda h: (lambda g: (g[:, :9].polygamma_(2), g)[1])(h**2 + 1),
    "batch_norm": lambda h: F.batch_norm(h.reshape(5, 4), None, None, training=True),
    "batch_": lambda h: F.batch_norm(h.reshape(5, 4), torch.zeros(4), torch.ones(4), training=True),
    "LogSoftmax": lambda h: F.cross_entropy(h, torch.tensor([3]), label_smoothing=0.1),
    "div": lambda h: torch.div(10 * h, h**2 + 1, rounding_mode="floor"),
    "grid_sample": lambda h: F.grid_sample(torch.ones(1, 1, 4, 4), h[:, :18].reshape(1, 3, 3, 2)),
    "lstm": packed,
    "stm": lambda h: DROPPING(mixing(h))[0],
    "linalg": lambda h: torch.linalg.matrix_norm(mixing(h), 2),
    "Own": lambda h: Own.apply(h),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name: str) -> None:
    torch.manual_seed(5)
    x, r = torch.randn(2, 1, 7)

    def rows(m: Any, z: Tensor) -> Tensor:  # one at a time: some of these know no batch
        return torch.cat([REFUSED[name](m.a(row)).reshape(1, -1).float() for row in z.split(1)])

    model = toys.wrapped(rows, a=nn.Linear(7, 20))
    for method in RULED:
        with pytest.raises(ModelError, match="has no rule for") as caught:
            attribute(model, x, toys.first, method=method, baseline=r)
        said = str(caught.value)
        assert name in said and method in said and "integrated_gradients" in said
    by_path = attribute(model, x, toys.first, baseline=r, max_nodes=64)  # the way out that it names
    assert bool(by_path.scores.isfinite().all())


SWEPT: dict[str, Callable[[Any, Tensor], Any]] = {
    "(x)": lambda op, z: op(z.clone()),
    "(x, y)": lambda op, z: op(z.clone(), z.flip(-1)),
    "(x, constant)": lambda op, z: op(z.clone(), WEIGHTS[:4]),
    "(x, 1)": lambda op, z: op(z.clone(), 1),
    "(x, y, z)": lambda op, z: op(z * 2, z * 0.5, z.flip(-1)),
    "(matrix, matrix)": lambda op, z: op(z[0, 0], z[0, 1]),
    "(vector, vector)": lambda op, z: op(z[0, 0, 0], z[0, 1, 0]),
    "([x, y])": lambda op, z: op([z[0], z[0].flip(-1)]),
}
SOFTENED = (
    "rsqrt softmax softmin logsumexp logaddexp log_softmax cross_entropy scaled_dot_product_attention".split()
)
OFFSET = "max min maximum minimum fmax fmin clamp clip hypot dist loss distance add sub logical".split()
UNTOUCHED = (
    "backward",
    "register",
    "requires_grad",
    "set_",
    "resize",
    "__delitem__",
    "data",
    "dropout",
    "half",
)
UNTOUCHED += (
    "bfloat16",
    "rrelu",
    "bernoulli",
    "normal_",
    "uniform_",
    "random",
    "cauchy",
    "geometric",
    "rand",
)


@pytest.mark.full
def test_all_that_torch_has_is_right_or_refused() -> None:
    """Relevance is conserved where there is no constant to leave some in, or the call is linear."""
    x, r = pair(2, 4, 4)
    ruled, refused, wrong = 0, 0, []
    for op in {id(f): f for functions in get_overridable_functions().values() for f in functions}.values():
        name = resolve_name(op) or ""
        if any(word in name for word in UNTOUCHED):
            continue
        for form, call in SWEPT.items():
            function = weighed(lambda z, op=op, call=call: call(op, z))
            try:
                ends = [end.clone().requires_grad_(True) for end in (x, r)]
                value, base, again = (function(end)[0] for end in (*ends, ends[0]))
                torch.autograd.grad(value, ends[0], retain_graph=True)
                middle = function(((x + r) / 2).requires_grad_(True))[0]
            except Exception:  # noqa: S112 - torch has no such call
                continue
            if not bool(value.isfinite() & base.isfinite()) or not torch.equal(value, again):
                continue  # or it draws at random
            scale = 1 + abs(float(value.detach()))
            try:
                found, missed = lift(function, x, r)
                passed = relevance(function, x)
            except ModelError:
                refused += 1
                continue
            ruled += 1
            delta = float((value - base).detach())
            if abs(abs(float(found.sum()) - delta) - missed) > 1e-9 * scale:
                wrong.append(f"{name}{form}: the gap is not {missed:.2g}")
            if missed > 1e-6 * scale and "logical" not in name:
                wrong.append(f"{name}{form}: contributions miss {missed:.2g}")
            straight = abs(float((middle - (value + base) / 2).detach())) < 1e-9 * scale
            known = straight or passed is None or any(word in name for word in (*SOFTENED, *OFFSET))
            if not known and abs(float(passed.sum()) - float(value.detach())) > 1e-5 * scale:
                wrong.append(
                    f"{name}{form}: relevance {float(passed.sum()):.4g} of {float(value.detach()):.4g}"
                )
    assert not wrong
    assert ruled > 700 and refused > 100
