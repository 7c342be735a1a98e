"""HookedModel: requests resolved before the run, answered once, nothing left behind."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from torch import nn

import interp
from interp.core.errors import (
    EditError,
    HookNotFired,
    InterpError,
    MemoryBudgetError,
    NonFiniteError,
    ShapeError,
    SiteError,
    TokenError,
)
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from interp.models.text.tokens import TokenBatch
from tests.models import zoo

IDS = torch.tensor([[11, 7, 23, 5, 42, 17, 3], [9, 31, 6, 77, 50, 8, 12]])


@pytest.fixture(scope="module")
def llama() -> interp.HookedModel:
    return interp.wrap(zoo.make("llama"))


@pytest.fixture(scope="module")
def gpt2() -> interp.HookedModel:
    return interp.wrap(zoo.make("gpt2"))


def small(**more: object) -> SmallTransformer:
    sizes = {"n_layers": 2, "d_model": 16, "n_ctx": 13, "d_head": 4, "d_vocab": 19, "n_heads": 3, "d_mlp": 11}
    return SmallTransformer(SmallConfig(**{**sizes, **more}), seed=1)  # type: ignore[arg-type]


# --- what is asked for ---


@pytest.mark.parametrize(
    "asked",
    [
        "blocks.0.hook_resid_pst",
        "blocks.7.hook_resid_post",
        "blocks.*.hook_nothing",
        lambda name: False,
        ["blocks.0.hook_resid_post", "blocks.0.hook_resid_pots"],
        [],
        3,
    ],
)
def test_requests_that_match_nothing_never_reach_the_model(llama: interp.HookedModel, asked: object) -> None:
    ran: list[int] = []
    handle = llama.module.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        for call in (
            lambda: llama.capture(IDS, asked),
            lambda: llama.run_with_cache(IDS, asked),
            lambda: llama.run_with_hooks(IDS, [(asked, lambda v, hook: None)]),
        ):
            with pytest.raises(SiteError) as error:
                call()
            assert error.value.fix or error.value.expected
    finally:
        handle.remove()
    assert not ran


def test_globs_and_predicates_select_in_firing_order(llama: interp.HookedModel) -> None:
    names = llama.sites.resolve(["ln_final.*", "blocks.*.hook_resid_post"])
    assert names == ["ln_final.hook_scale", "ln_final.hook_normalized"] + [
        f"blocks.{i}.hook_resid_post" for i in range(zoo.L)
    ]
    assert llama.sites.resolve(lambda n: n.endswith("hook_z")) == [
        f"blocks.{i}.attn.hook_z" for i in range(zoo.L)
    ]


# --- early stop ---


def test_capture_stops_after_the_last_site(llama: interp.HookedModel) -> None:
    reached: list[str] = []
    layers = llama.module.model.layers
    handles = [
        b.register_forward_pre_hook(lambda *_, i=i: reached.append(str(i))) for i, b in enumerate(layers)
    ]
    head = llama.module.lm_head.register_forward_pre_hook(lambda *_: reached.append("head"))
    acts = llama.capture(IDS, "blocks.1.hook_resid_mid")
    for handle in (*handles, head):
        handle.remove()
    assert reached == ["0", "1"]
    assert torch.equal(
        acts["resid_mid", 1], llama.run_with_cache(IDS, "blocks.1.hook_resid_mid")[1]["resid_mid", 1]
    )


# --- edits ---


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (lambda v, hook: v[:, :3], "shape"),
        (lambda v, hook: v.double(), "dtype"),
        (lambda v, hook: v.to("meta"), "device"),
        (lambda v, hook: 3.0, "float"),
        (lambda v, hook: v * float("nan"), "finite"),
        (lambda v, hook: (v,), "tuple"),
    ],
)
@pytest.mark.parametrize(
    "site", ["blocks.1.hook_resid_mid", "blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern"]
)
def test_what_cannot_stand_for_the_activation_is_refused(
    llama: interp.HookedModel, site: str, bad: object, word: str
) -> None:
    with pytest.raises((EditError, NonFiniteError), match=word):
        llama.run_with_hooks(IDS, [(site, bad)])


def test_interventions_select_heads_positions_and_entries(llama: interp.HookedModel) -> None:
    site = "blocks.1.attn.hook_z"
    clean = llama.capture(IDS, site)[site]
    seen = {}

    def look(value: torch.Tensor, hook: object) -> None:
        seen["z"] = value.clone()

    for edit, chosen in (
        (interp.zero(site, head=2), (slice(None), slice(None), 2)),
        (interp.zero(site, positions=-1), (slice(None), -1)),
        (interp.zero(site, positions=[0, 3], head=[1, -1]), None),
        (interp.clamp(site, 3, 9.0), None),
    ):
        llama.run_with_hooks(IDS, [edit, (site, look)])
        expected = clean.clone()
        if chosen is not None:
            expected[chosen] = 0
        elif edit.name == "clamp":
            expected[..., 3] = 9.0
        else:
            for p in (0, 3):
                for h in (1, zoo.H - 1):
                    expected[:, p, h] = 0
        assert torch.equal(seen["z"], expected), edit
    v = torch.randn(zoo.DH)
    llama.run_with_hooks(IDS, [interp.project_out(site, v), (site, look)])
    assert (seen["z"] @ v).abs().max() < 1e-5
    assert not torch.equal(seen["z"], clean)
    with pytest.raises(EditError, match="head axis"):
        llama.run_with_hooks(IDS, [interp.zero("blocks.0.hook_resid_pre", head=1)])
    with pytest.raises(EditError, match="outside"):
        llama.run_with_hooks(IDS, [interp.zero(site, head=99)])
    with pytest.raises(ShapeError):
        llama.run_with_hooks(IDS, [interp.steer(site, torch.ones(5))])


def test_patching_the_whole_residual_stream_reproduces_the_source(llama: interp.HookedModel) -> None:
    other = IDS.flip(1)
    source = llama.capture(other, "blocks.1.hook_resid_post")
    with torch.no_grad():
        patched = llama.run_with_hooks(IDS, [interp.patch("blocks.1.hook_resid_post", source)])
        assert torch.equal(patched, llama(other))


def test_resample_draws_other_rows_reproducibly(llama: interp.HookedModel) -> None:
    site = "blocks.0.hook_resid_post"
    clean = llama.capture(IDS, site)[site]
    edit = interp.resample(site, seed=4)
    seen: list[torch.Tensor] = []
    for _ in range(2):
        llama.run_with_hooks(IDS, [edit, (site, lambda v, hook: seen.append(v.clone()))])
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], clean.flip(0))


def test_order_of_composition_is_the_order_given(llama: interp.HookedModel) -> None:
    site, v = "blocks.0.hook_resid_post", torch.full((zoo.D,), 2.0)
    seen: list[torch.Tensor] = []
    look = (site, lambda value, hook: seen.append(value.clone()))
    llama.run_with_hooks(IDS, [interp.zero(site), interp.steer(site, v), look])
    llama.run_with_hooks(IDS, [interp.steer(site, v), interp.zero(site), look])
    assert torch.equal(seen[0], torch.full_like(seen[0], 2.0))
    assert not seen[1].any()


# --- nothing stays behind ---


def _state(model: nn.Module) -> tuple[object, ...]:
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    modes = tuple(m.training for m in model.modules())
    weights = tuple(p._version for p in model.parameters())
    return hooks, modes, weights, model.config._attn_implementation


def test_exceptions_inside_hooks_leave_the_model_as_it_was(
    llama: interp.HookedModel, full_count: bool
) -> None:
    """F4: any exception, at any site, in every way of running; also an abandoned generator."""
    from interp.models.hooks import attention

    before = _state(llama.module)
    expected = llama(IDS)
    names = list(llama.sites)
    kinds = [ValueError("x"), KeyboardInterrupt(), SystemExit(1), RuntimeError("y"), GeneratorExit()]
    for i in range(1000 if full_count else 100):
        site, error = names[i * 7 % len(names)], kinds[i % len(kinds)]

        def fail(value: torch.Tensor, hook: object, error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)):
            if i % 3 == 0:
                llama.run_with_hooks(IDS, [(site, fail)])
            elif i % 3 == 1:
                llama.capture(IDS, site, fwd_hooks=[(site, fail)])
            else:
                with llama.hooks([(site, fail)]):
                    llama(IDS)
        assert _state(llama.module) == before
        assert not attention.listening()
    with llama.hooks([interp.zero(names[3])]):
        pass  # a block that never runs the model is not an error
    abandoned = llama.hooks([interp.zero("blocks.0.attn.hook_pattern")])
    abandoned.__enter__()
    del abandoned
    gc.collect()
    assert _state(llama.module) == before
    assert torch.equal(llama(IDS), expected)


def test_nested_contexts_compose_and_unwind(llama: interp.HookedModel) -> None:
    site = "blocks.1.attn.hook_pattern"
    with torch.no_grad():
        clean = llama(IDS)
        with llama.hooks([interp.zero(site, head=0)]):
            one = llama(IDS)
            with llama.hooks([interp.zero(site, head=1)]):
                both = llama(IDS)
            again = llama(IDS)
        after = llama(IDS)
        direct = llama.run_with_hooks(IDS, [interp.zero(site, head=[0, 1])])
    assert torch.equal(one, again)
    assert torch.equal(clean, after)
    assert torch.allclose(both, direct, atol=1e-6)
    assert not torch.allclose(one, both, atol=1e-4)


# --- hooks that do not fire, or fire twice ---


class Twice(nn.Module):
    """One linear map used twice, another never."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.idle = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shared(self.shared(x).relu())


def test_silent_and_repeated_hooks_are_loud() -> None:
    torch.manual_seed(0)
    model = interp.wrap(Twice())
    x = torch.randn(3, 5)
    with pytest.raises(HookNotFired, match="did not fire"):
        model.run_with_hooks(x, [("idle.hook_out", lambda v, hook: v)])
    with (
        pytest.raises(HookNotFired, match="did not fire"),
        model.hooks([("idle.hook_in", lambda v, hook: v)]),
    ):
        model(x)
    with pytest.raises(HookNotFired, match="2 times") as error:
        model.capture(x, "shared.hook_out")
    assert "shared.hook_out#1" in str(error.value.fix)
    acts = model.capture(x, ["shared.hook_out#0", "shared.hook_out#1"])
    assert torch.equal(acts["shared.hook_out#1"], model.module(x))
    assert torch.equal(acts["shared.hook_out#0"], model.module.shared(x))
    with torch.no_grad():
        edited = model.run_with_hooks(x, [interp.zero("shared.hook_out#0")])
        assert torch.equal(edited, model.module.shared(torch.zeros(3, 5)))
    with pytest.raises(HookNotFired, match="did not fire"):
        model.capture(x, "shared.hook_out#2")


def test_in_place_overwriting_is_noticed() -> None:
    torch.manual_seed(0)
    model = interp.wrap(nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)))
    x = torch.randn(11, 5)
    with pytest.raises(EditError, match="overwritten in place"):
        model.capture(x, "0.hook_out")
    acts = model.capture(x, "0.hook_out", clone=True)
    assert torch.equal(acts["0.hook_out"], model.module[0](x))
    assert (acts["0.hook_out"] < 0).any()


# --- any nn.Module ---


def test_cnn_lstm_and_mlp_have_their_modules_as_sites() -> None:
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(7))
    image = torch.randn(2, 3, 8, 8)
    cnn(image)
    model = interp.wrap(cnn)
    assert "0.hook_out" in model.sites
    assert model.capture(image, "0.hook_out")["0.hook_out"].shape == (2, 5, 6, 6)
    lstm = interp.wrap(nn.LSTM(5, 7, batch_first=True))
    assert list(lstm.sites) == []  # the root is the module: nothing below it
    cell = nn.LSTMCell(5, 7)

    class Unrolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.read = cell, nn.Linear(7, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = c = torch.zeros(len(x), 7)
            for t in range(x.shape[1]):
                h, c = self.cell(x[:, t], (h, c))
            return self.read(h)

    model = interp.wrap(Unrolled())
    x = torch.randn(3, 4, 5)
    acts = model.capture(x, ["cell.hook_out#2", "cell.hook_c#2", "read.hook_in"])
    h, c = cell(x[:, 2], _roll(cell, x[:, :2]))
    assert torch.allclose(acts["cell.hook_out#2"], h, atol=1e-6)
    assert torch.allclose(acts["cell.hook_c#2"], c, atol=1e-6)
    with torch.no_grad():
        stepped = model.run_with_hooks(x, [interp.zero("cell.hook_c#2")])
        assert not torch.allclose(stepped, model(x))


def _roll(cell: nn.LSTMCell, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    h = c = torch.zeros(len(x), 7)
    for t in range(x.shape[1]):
        h, c = cell(x[:, t], (h, c))
    return h, c


# --- batches, padding, positions ---


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "name",
    ["gpt2", "llama", "neox", "gemma2", "opt", "bert", "roberta", "qwen3", "phi3", "bloom", "gptj", "small"],
)
def test_a_ragged_batch_answers_as_one_text_at_a_time(name: str, side: str) -> None:
    raw = small(d_vocab=zoo.V, n_ctx=zoo.C) if name == "small" else zoo.make(name)
    model = interp.wrap(raw)
    rows = [IDS[0], IDS[1, :4], IDS[0, 2:5]]
    width = max(map(len, rows))
    ids, mask = torch.full((3, width), 2), torch.zeros(3, width, dtype=torch.bool)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(width - len(row), None)
        ids[i, at], mask[i, at] = row, True
    site = "blocks.1.hook_resid_post"
    with torch.no_grad():
        output, acts = model.run_with_cache(TokenBatch(ids, mask), site)
        last = model.capture(TokenBatch(ids, mask), site, positions=[0, -1])[site]
        for i, row in enumerate(rows):
            alone, one = model.run_with_cache(row, site)
            scale = alone.abs().max()
            assert (output[i][mask[i]] - alone[0]).abs().max() <= 1e-5 * scale
            assert (acts[site][i][mask[i]] - one[site][0]).abs().max() <= 1e-4
            assert (last[i] - one[site][0][[0, -1]]).abs().max() <= 1e-4
    flat = acts.flat(site)
    assert len(flat) == sum(map(len, rows))


def test_positions_outside_the_text_name_the_row(llama: interp.HookedModel) -> None:
    with pytest.raises(TokenError, match="position 7"):
        llama.capture(IDS, "blocks.0.hook_resid_post", positions=7)
    with pytest.raises(SiteError, match="no position axis"):
        interp.wrap(Twice()).capture(torch.randn(2, 5), "shared.hook_out#0", positions=0)
    kept = llama.capture(
        IDS, ["blocks.0.attn.hook_pattern", "hook_embed"], positions=[1, -1], dtype="float64"
    )
    assert kept["pattern", 0].shape == (2, zoo.H, 2, 7)
    assert kept["hook_embed"].dtype == torch.float64


# --- memory and numbers ---


def test_a_request_that_would_not_fit_is_refused_before_the_run(llama: interp.HookedModel) -> None:
    ids = torch.randint(5, zoo.V, (13, 29))
    with pytest.raises(MemoryBudgetError, match="would not fit") as error:
        llama.run_with_cache(ids, max_bytes=10_000)
    assert "hook_" in str(error.value.got)
    acts = llama.run_with_cache(ids)[1]
    held = sum(t.numel() * t.element_size() for t in acts.values())
    assert math.isclose(llama.estimate(ids), held, rel_tol=0.1)


def test_not_a_number_names_the_site() -> None:
    raw = zoo.make("llama")
    with torch.no_grad():
        raw.model.layers[1].mlp.down_proj.weight[3, 5] = float("nan")
    model = interp.wrap(raw, check=False)
    with pytest.raises(NonFiniteError, match=r"blocks\.1\.hook_mlp_out"):
        model.capture(IDS, ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"])


# --- generation ---


@pytest.mark.parametrize("name", ["llama", "gpt2", "small", "t5"])
def test_interventions_act_under_generate(name: str) -> None:
    raw = small(d_vocab=zoo.V, n_ctx=zoo.C) if name == "small" else zoo.make(name)
    model = interp.wrap(raw)
    site = ("decoder_blocks" if name == "t5" else "blocks") + ".1.hook_resid_post"
    steps: list[tuple[int, int]] = []

    def note(value: torch.Tensor, hook: object) -> None:
        steps.append((hook.step, value.shape[1]))  # type: ignore[attr-defined]

    plain = model.generate(IDS, 4, return_ids=True, fwd_hooks=[(site, note)])
    assert plain.shape[1] == 4 + (1 if name == "t5" else IDS.shape[1])
    assert [s for s, _ in steps] == [0, 1, 2, 3]
    push = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0)) * 30
    steered = model.generate(IDS, 4, return_ids=True, fwd_hooks=[interp.steer(site, push)])
    assert not torch.equal(plain, steered)
    assert torch.equal(plain, model.generate(IDS, 4, return_ids=True))
    one = model.generate(IDS, 4, return_ids=True, temperature=1.5, seed=3)
    assert torch.equal(one, model.generate(IDS, 4, return_ids=True, temperature=1.5, seed=3))
    assert not torch.equal(one, model.generate(IDS, 4, return_ids=True, temperature=1.5, seed=4))


# --- models made from models ---


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5", "vit", "small"])
def test_randomised_is_the_same_architecture_with_other_weights(name: str) -> None:
    raw = small() if name == "small" else zoo.make(name)
    model = interp.wrap(raw)
    before = model.fingerprint()
    null, same, other = model.randomised(1), model.randomised(1), model.randomised(2)
    assert list(null.sites) == list(model.sites)
    assert null.fingerprint() == same.fingerprint() != other.fingerprint()
    assert null.fingerprint() != before == model.fingerprint()


class LinearCoder(nn.Module):
    """A random dictionary: latents relu(x W_enc), reconstruction z W_dec."""

    def __init__(self, site_in: str, site_out: str, d_in: int, d_out: int, n: int = 29) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.site_in, self.site_out = site_in, site_out
        self.W_enc = nn.Parameter(torch.randn(d_in, n, generator=draw))
        self.W_dec = nn.Parameter(torch.randn(n, d_out, generator=draw) * 0.1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.W_enc).relu()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.W_dec


def triple(value: torch.Tensor) -> None:
    """An edit that returns nothing."""
    value.mul_(3).add_(1)


@pytest.mark.parametrize(
    ("into", "out", "d_in", "d_out"),
    [
        ("blocks.1.hook_resid_post", "blocks.1.hook_resid_post", zoo.D, zoo.D),
        ("blocks.1.attn.hook_z", "blocks.1.attn.hook_z", zoo.H * zoo.DH, zoo.H * zoo.DH),
        ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out", zoo.D, zoo.D),
    ],
)
def test_a_coder_with_its_error_is_a_no_op_until_edited(
    llama: interp.HookedModel, into: str, out: str, d_in: int, d_out: int
) -> None:
    coder = LinearCoder(into, out, d_in, d_out)
    spliced = llama.with_coder(coder)
    latents, error = f"{into}.hook_sae_acts_post", f"{out}.hook_sae_error"
    assert {latents, error} <= set(spliced.sites)
    assert latents not in llama.sites
    with torch.no_grad():
        clean = llama(IDS)
        assert torch.equal(spliced(IDS), clean)
        output, acts = spliced.run_with_cache(IDS, [into, out, latents, error])
        assert torch.equal(output, clean)
        flat = acts[into].flatten(-2) if acts[into].dim() == 4 else acts[into]
        assert torch.allclose(acts[latents], coder.encode(flat), atol=1e-5)
        target = acts[out].flatten(-2) if acts[out].dim() == 4 else acts[out]
        assert torch.allclose(coder.decode(acts[latents]) + acts[error], target, atol=1e-5)
        # An edit of one latent moves the output by its decoder row and nothing else.
        seen: list[torch.Tensor] = []
        look = (out, lambda v, hook: seen.append(v.clone()))
        bump = (latents, lambda v, hook: v + 2.0 * torch.nn.functional.one_hot(torch.tensor(4), 29))
        spliced.run_with_hooks(IDS, [bump, look])
        moved = seen[0].reshape(target.shape) - target
        assert torch.allclose(moved, 2.0 * coder.W_dec[4].expand_as(moved), atol=1e-4)
        # In place is as good as returned: neither the error nor the latents take it back.
        for site in (latents, error):
            returned = spliced.run_with_hooks(IDS, [(site, lambda v, hook: v * 3 + 1)])
            in_place = spliced.run_with_hooks(IDS, [(site, lambda v, hook: triple(v))])
            assert not torch.allclose(returned, clean, atol=1e-2)
            assert torch.equal(returned, in_place)
        bare = llama.with_coder(coder, error_term=False)
        assert not torch.allclose(bare(IDS), clean, atol=1e-2)
        by_hand = llama.run_with_hooks(
            IDS, [interp.patch(out, coder.decode(acts[latents]).reshape(acts[out].shape))]
        )
        assert torch.allclose(bare(IDS), by_hand, atol=1e-5)
    output, grads = spliced.run_with_cache(IDS, latents, grad=True)
    gradient = torch.autograd.grad(output[:, -1, 7].sum(), grads[latents])[0]
    assert gradient.shape == grads[latents].shape
    assert gradient.abs().max() > 0


def test_a_coder_of_another_width_or_site_is_refused(llama: interp.HookedModel) -> None:
    with pytest.raises(ShapeError, match="does not fit"):
        llama.with_coder(LinearCoder("blocks.0.hook_resid_post", "blocks.0.hook_resid_post", 5, 5))
    with pytest.raises(SiteError):
        llama.with_coder(LinearCoder("blocks.0.hook_resid_pots", "blocks.0.hook_resid_post", zoo.D, zoo.D))


# --- weights ---


@pytest.mark.parametrize("name", [*zoo.DECODERS, "small"])
def test_weights_reproduce_the_activations(name: str) -> None:
    """q = normalised input · W_Q, z · W_O = result, and so on: names, shapes and orientation."""
    raw = small(d_vocab=zoo.V, n_ctx=zoo.C) if name == "small" else zoo.make(name)
    model = interp.wrap(raw)
    acts = model.run_with_cache(IDS, ["*", "*.hook_result"])[1]
    x = _input_of(model, 1, "ln1", acts)
    if name != "opt-post":
        assert torch.allclose(model.W_E[IDS], acts["hook_embed"], atol=1e-4)
        for letter in "QKV":
            weight, bias = getattr(model, f"W_{letter}")[1], getattr(model, f"b_{letter}")[1]
            expected = torch.einsum("bpm,hmd->bphd", x, weight) + bias
            got = acts[f"blocks.1.attn.hook_{letter.lower()}"]
            assert torch.allclose(expected, got, atol=1e-4), letter
    z = acts["blocks.1.attn.hook_z"]
    result = torch.einsum("bphd,hdm->bphm", z, model.W_O[1])
    assert torch.allclose(result, acts["blocks.1.attn.hook_result"], atol=1e-4)
    post = acts["blocks.1.mlp.hook_post"]
    if model.cfg.family != "Gemma":
        assert torch.allclose(
            post @ model.W_out[1] + model.b_out[1], acts["blocks.1.hook_mlp_out"], atol=1e-4
        )
    assert model.W_U.shape == (zoo.D if name != "small" else 16, zoo.V)


def test_the_bias_of_a_gate_and_an_input_in_one_is_the_inputs_half() -> None:
    module = zoo.make("phi3")
    for block in module.model.layers:
        block.mlp.gate_up_proj.bias = nn.Parameter(torch.randn(2 * zoo.M))
    model = interp.wrap(module)
    x = torch.randn(1, 5, zoo.D)
    for layer, block in enumerate(module.model.layers):
        gate, up = block.mlp.gate_up_proj(x).chunk(2, -1)
        torch.testing.assert_close(x @ model.W_in[layer] + model.b_in[layer], up, atol=1e-5, rtol=1e-5)
        bias = gate - x @ model.W_gate[layer]
        torch.testing.assert_close(
            bias, block.mlp.gate_up_proj.bias[: zoo.M].expand_as(gate), atol=1e-5, rtol=1e-5
        )


def _input_of(model: interp.HookedModel, layer: int, norm: str, acts: object) -> torch.Tensor:
    if model.cfg.family == "small":
        ln = getattr(model.module.blocks[layer], norm)
        return ln(acts[f"blocks.{layer}.hook_resid_pre"])  # type: ignore[index]
    ln = model.sites[f"blocks.{layer}.{norm}.hook_scale"].module
    return ln(acts[f"blocks.{layer}.hook_resid_pre"])  # type: ignore[index]


def test_missing_weights_say_so(llama: interp.HookedModel) -> None:
    with pytest.raises(InterpError, match="W_pos"):
        _ = llama.W_pos
    quantised = torch.ao.quantization.quantize_dynamic(zoo.make("llama"), {nn.Linear}, torch.qint8)
    model = interp.wrap(quantised)
    assert model.capture(IDS, "blocks.1.mlp.hook_post")["post", 1].shape == (2, 7, zoo.M)
    # torch's own quantised layers can be dequantised; what is packed otherwise is refused.
    assert 0 < float((model.W_Q - llama.W_Q).abs().max()) < 0.01 * float(llama.W_Q.abs().max())
    packed = zoo.make("llama")
    layer = packed.get_submodule("model.layers.0.self_attn.q_proj")
    layer.weight = nn.Parameter(torch.zeros(zoo.D, zoo.D, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InterpError, match="plain weight"):
        _ = interp.wrap(packed, check=False).W_Q


def test_the_map_is_readable(llama: interp.HookedModel) -> None:
    text = repr(llama)
    for word in ("Llama", "layers 3", "kv heads 2", "blocks.*.attn.hook_pattern", "head=6", "×3"):
        assert word in text
    assert max(map(len, text.splitlines())) < 110


def test_a_site_that_all_rows_share_stays_on_the_graph_of_one_row() -> None:
    """Positions are embedded once for the batch; for one row nothing is spread, nothing copied."""
    model = interp.wrap(zoo.make("gpt2", seed=2, dtype=torch.float64))
    output, acts = model.run_with_cache(torch.tensor([[3, 4, 5]]), "hook_pos_embed", grad=True)
    (grad,) = torch.autograd.grad(output.square().sum(), acts["hook_pos_embed"])
    step = torch.zeros_like(grad)
    step[0, 1, 0] = 1e-6

    def moved(sign: int) -> float:
        hook = ("hook_pos_embed", lambda value, hook: value + sign * step)
        with torch.no_grad():
            out = model.run_with_hooks(torch.tensor([[3, 4, 5]]), fwd_hooks=[hook])
        return float(out.square().sum())

    assert (moved(1) - moved(-1)) / 2e-6 == pytest.approx(float(grad[0, 1, 0]), rel=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "bert", "opt", "gemma2"])
def test_a_run_from_a_site_is_the_whole_run_with_that_value(name: str) -> None:
    model = interp.wrap(zoo.make(name, dtype=torch.float64))
    ids = torch.randint(3, zoo.V, (1, 7), generator=torch.Generator().manual_seed(0))
    for site in ("blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"):
        here = model.capture(ids, site)[site]
        values = here * torch.linspace(0.5, 1.5, 5, dtype=torch.float64)[:, None, None]
        first = model.sites["blocks.0.hook_resid_pre"]
        whole = model.run_with_hooks(ids.expand(5, -1), [(site, lambda value, hook, v=values: v)])
        rows: list[int] = []
        note = first.module.register_forward_hook(lambda m, x, y, r=rows: r.append(len(x[0])))
        short = model.run_from(site, values, ids)
        note.remove()
        torch.testing.assert_close(short, whole, rtol=1e-10, atol=1e-10)
        assert rows == [1], "what lies before the site runs on one row"
        assert torch.equal(model.run_from(site, here, ids), model(ids))
    with pytest.raises(EditError, match="another shape"):
        model.run_from("blocks.1.hook_resid_pre", values[..., :-1], ids)
    with pytest.raises(SiteError, match=r"blocks\.1\.hook_resid_pre"):
        model.run_from("blocks.1.hook_resid_per", values, ids)
    with pytest.raises(SiteError, match="cannot start"):
        model.run_from("blocks.1.attn.hook_z", values, ids)
