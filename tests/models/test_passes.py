"""A forward is a pass: its own tokens, calls, splices and modes, in its own thread.

Faults of the fault book, table 1: rows 1-3, 7, 11-15, 17-20, 22. The stateful test
(`test_programs.py`) draws combinations of these; here each kind stands alone and can be read.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.core.errors import (
    ConfigError,
    EditError,
    InterpError,
    ModelError,
    ShapeError,
    SiteError,
    TokenError,
)
from interp.models.hooks import attention, passes
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from interp.models.text.tokens import TokenBatch
from tests.models import zoo

IDS = torch.tensor([[11, 7, 23, 5, 42, 17, 3], [9, 31, 6, 77, 50, 8, 12]])
FAMILIES = [*zoo.MAKERS, *zoo.UNREACHED, "small"]
TEXT = [n for n in FAMILIES if n.split("-")[0] not in ("vit", "t5")]
CAUSAL = [n for n in TEXT if n not in ("bert", "roberta", "distilbert")]


def made(name: str, dtype: torch.dtype = torch.float64) -> interp.HookedModel:
    if name != "small":
        return interp.wrap(zoo.make(name, dtype=dtype).requires_grad_(False))
    config = SmallConfig(n_layers=2, d_model=24, n_ctx=zoo.C, d_head=5, d_vocab=zoo.V, n_heads=3, d_mlp=11)
    return interp.wrap(SmallTransformer(config, seed=1).to(dtype).requires_grad_(False))


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, interp.HookedModel]]:
    """Every family once, made when first asked for."""

    class Lazy(dict[str, interp.HookedModel]):
        def __missing__(self, name: str) -> interp.HookedModel:
            self[name] = made(name)
            return self[name]

    yield Lazy()
    assert not passes.active()


def given(model: interp.HookedModel) -> dict[str, Tensor]:
    return zoo.inputs(model.module) if model.cfg.family != "small" else {"input_ids": IDS}


# --- an edit acts, however it is made ---


def _in_place(value: Tensor, hook: object) -> Tensor:
    value[:, -1] = 0.25
    return value


def _unreturned(value: Tensor, hook: object) -> None:
    value[:, -1] = 0.25


def _behind_autograd(value: Tensor, hook: object) -> None:
    value.data[:, -1] = 0.25


def _copied(value: Tensor, hook: object) -> Tensor:
    value = value.clone()
    value[:, -1] = 0.25
    return value


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", FAMILIES)
def test_an_edit_in_place_is_an_edit_at_every_site(
    name: str, models: dict[str, interp.HookedModel], full_count: bool
) -> None:
    model = models[name]
    inputs = given(model)
    sites = [s for s in [*model.sites, *model.sites.unlisted] if ".1." in s or "blocks" not in s]
    # Every family has all kinds of sites; pushed, each tries a third of its own.
    sites = sites if full_count else sites[FAMILIES.index(name) % 3 :: 3]
    with torch.no_grad():
        clean = model(inputs)
        for site in sites:
            right = model.run_with_hooks(inputs, [(site, _copied)])
            for edit in (_in_place, _unreturned, _behind_autograd):
                assert torch.equal(model.run_with_hooks(inputs, [(site, edit)]), right), site
            looked = model.run_with_hooks(inputs, [(site, lambda value, hook: None)])
            if not site.endswith(("hook_pattern", "scores", "rot_q", "rot_k")):
                # Looking inside attention computes it another way: equal to rounding only.
                split = model.sites[site].kind == "out" and "input" in site
                torch.testing.assert_close(looked, clean, rtol=1e-9, atol=1e-9 if split else 0)
    with torch.inference_mode():
        site = sites[len(sites) // 2]
        right = model.run_with_hooks(inputs, [(site, _copied)])
        for edit in (_in_place, _unreturned, _behind_autograd):
            assert torch.equal(model.run_with_hooks(inputs, [(site, edit)]), right)


def test_an_edit_reaches_only_what_follows_its_site(models: dict[str, interp.HookedModel]) -> None:
    """The tensor a hook is given is nobody else's: no residual branch sees it written."""
    model = models["small"]
    site, out = "blocks.1.hook_mlp_in", "blocks.1.hook_resid_post"
    a = model.capture(IDS, out, fwd_hooks=[(site, _in_place)])[out]
    assert torch.equal(a, model.capture(IDS, out, fwd_hooks=[(site, _copied)])[out])
    assert not torch.equal(a, model.capture(IDS, out)[out])


def test_a_gradient_flows_through_an_edit_in_place() -> None:
    model = made("llama")
    model.module.requires_grad_(True)
    grads = []
    for edit in (lambda v, hook: v.mul_(0.3), lambda v, hook: v * 0.3):
        model.module.zero_grad()
        model.run_with_hooks(IDS, [("blocks.1.hook_mlp_out", edit)]).logsumexp(-1).sum().backward()
        grads.append(model.module.model.layers[0].mlp.down_proj.weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1])


# --- every forward of a block is a pass ---


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "small"])
def test_the_second_forward_of_a_block_is_edited_like_the_first(
    name: str, models: dict[str, interp.HookedModel]
) -> None:
    model, site = models[name], "blocks.1.hook_resid_post"
    edits = [interp.zero(site, positions=-1), interp.resample(site, seed=3)]
    steps: list[int] = []
    with torch.no_grad():
        alone = model.run_with_hooks(IDS, edits)
        other = model.run_with_hooks(IDS[:, :4], edits)
        with model.hooks([*edits, (site, lambda v, hook: steps.append(hook.step))]):
            assert torch.equal(model(IDS), alone)
            assert torch.equal(model(IDS[:, :4]), other)
            assert torch.equal(model(IDS), alone)
            if name != "small":
                raw = model.module(IDS)
                assert torch.equal(raw.logits, alone)
    assert set(steps) == {0}
    assert not torch.equal(alone, model(IDS))


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_in_a_block_are_each_rows_own(side: str) -> None:
    model, site = made("llama"), "blocks.1.hook_resid_post"
    ids, mask = IDS.clone(), torch.ones_like(IDS, dtype=torch.bool)
    at = slice(4, None) if side == "right" else slice(0, 3)
    mask[1, at] = False
    real = ids[1][mask[1]][None]
    with torch.no_grad(), model.hooks([interp.zero(site, positions=[0, -1])]):
        both = model(TokenBatch(ids, mask))
        as_dict = model({"input_ids": ids, "attention_mask": mask.long()})
    alone = model.run_with_hooks(real, [interp.zero(site, positions=[0, -1])])
    torch.testing.assert_close(both[1][mask[1]], alone[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(as_dict[1][mask[1]], alone[0], rtol=1e-9, atol=1e-9)


def test_contexts_may_close_in_any_order() -> None:
    model = made("llama", torch.float32)
    clean, config = model(IDS), model.module.config
    before = (config._attn_implementation, type(config))
    sites = ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern", "blocks.1.hook_mlp_out"]
    contexts = [model.hooks([interp.zero(s)]) for s in sites]
    for context in contexts:
        context.__enter__()
    both = model(IDS)
    contexts[0].__exit__(None, None, None)
    rest = model(IDS)
    for context in contexts[1:]:
        context.__exit__(None, None, None)
    assert torch.equal(rest, model.run_with_hooks(IDS, [interp.zero(s) for s in sites[1:]]))
    assert not torch.equal(both, rest)
    assert torch.equal(model(IDS), clean)
    assert (config._attn_implementation, type(config)) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


def test_a_forward_inside_a_hook_is_a_pass_of_its_own() -> None:
    model, site = made("llama"), "blocks.1.hook_resid_post"
    inner: list[Tensor] = []

    def asks(value: Tensor, hook: object) -> Tensor:
        inner.append(model(IDS))
        inner.append(model.module(IDS).logits)
        inner.append(model.run_with_hooks(IDS, [interp.zero("blocks.0.hook_mlp_out")]))
        return value * 0.5

    with torch.no_grad():
        clean, other = model(IDS), model.run_with_hooks(IDS, [interp.zero("blocks.0.hook_mlp_out")])
        out = model.run_with_hooks(IDS, [(site, asks)])
        right = model.run_with_hooks(IDS, [(site, lambda v, hook: v * 0.5)])
        assert torch.equal(out, right)
        assert torch.equal(inner[0], clean) and torch.equal(inner[1], clean)
        assert torch.equal(inner[2], other)


def test_another_threads_forward_is_untouched(full_count: bool) -> None:
    """Also while attention is switched: the other thread's model answers as it was loaded."""
    model = made("llama", torch.float32)
    stop, wrong, ran = threading.Event(), [], []
    sites = ["blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern", "blocks.0.ln1.hook_normalized"]
    with torch.no_grad():
        clean = model.module(IDS).logits
        right = [model.run_with_hooks(IDS, [interp.zero(s)]) for s in sites]

    def plain() -> None:
        with torch.no_grad():
            while not stop.is_set():
                ran.append(None)
                if not torch.equal(model.module(IDS).logits, clean):
                    wrong.append(model.module.config._attn_implementation)

    worker = threading.Thread(target=plain)
    worker.start()
    try:
        with torch.no_grad():
            turns = 10_000 if full_count else 150
            for turn in range(turns):
                site = sites[turn % 3]
                edited = model.run_with_hooks(IDS, [interp.zero(site)])
                assert torch.equal(edited, right[turn % 3])
    finally:
        stop.set()
        worker.join()
    assert ran and not wrong
    assert not attention._holders


def test_two_threads_edit_at_once() -> None:
    model = made("gpt2", torch.float32)
    sites = ["blocks.1.attn.hook_pattern", "blocks.0.hook_mlp_out"]
    with torch.no_grad():
        right = [model.run_with_hooks(IDS, [interp.zero(s)]) for s in sites]
    wrong: list[str] = []

    def edits(which: int) -> None:
        with torch.no_grad(), model.hooks([interp.zero(sites[which])]):
            for _ in range(60):
                if not torch.equal(model(IDS), right[which]):
                    wrong.append(sites[which])

    workers = [threading.Thread(target=edits, args=(i,)) for i in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_hidden_states_are_the_edited_ones_whether_or_not_they_were_asked_for_before() -> None:
    found = []
    for before in (False, True):
        model = made("llama")
        with torch.no_grad():
            if before:
                model.module(IDS, output_hidden_states=True)
            with model.hooks([interp.zero("blocks.1.hook_resid_post")]):
                found.append(model.module(IDS, output_hidden_states=True).hidden_states)
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)
    assert not found[1][2].any() and found[1][1].any()


# --- modes ---


class Noisy(nn.Module):
    """Batch statistics and dropout: looking in training mode would change what is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.drop, self.read = nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.drop(self.norm(self.inner(x))))


def test_looking_changes_no_statistics_and_gives_modes_back() -> None:
    net = Noisy()
    net.drop.eval()
    modes = [m.training for m in net.modules()]
    model, x = interp.wrap(net), torch.randn(7, 4)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    for call in (
        lambda: model(x),
        lambda: model.capture(x, "norm.hook_out"),
        lambda: model.run_with_cache(x)[0],
        lambda: model.run_with_hooks(x, [interp.zero("inner.hook_out")]),
    ):
        call()
        assert [m.training for m in net.modules()] == modes
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    with pytest.raises(ZeroDivisionError):
        model.run_with_hooks(x, [("inner.hook_out", lambda v, hook: 1 / 0)])
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(model(x), model(x))
    with model.in_training_mode():
        model(x)
    assert not torch.equal(net.norm.running_mean, state["norm.running_mean"])


def test_a_part_added_later_rests_as_well() -> None:
    net = Noisy()
    model, x = interp.wrap(net), torch.randn(7, 4)
    model(x)
    net.read.register_module("late", nn.Dropout(0.5))
    seen: list[bool] = []
    net.norm.register_forward_hook(lambda *_: seen.append(net.read.late.training))
    model(x)
    assert seen == [False] and net.read.late.training


# --- what a run leaves behind ---


@pytest.mark.parametrize("site", ["", "hook_out", "blocks.0.attn.hook_pattern", "a coder"])
@pytest.mark.parametrize("way", ["run_with_cache", "capture", "run_with_hooks", "hooks", "generate"])
def test_a_run_leaves_no_cycle_that_keeps_activations(
    way: str, site: str, models: dict[str, interp.HookedModel]
) -> None:
    """A cycle would keep every tensor of a run until the collector happens to come by."""
    model, place = models["gpt2"], "blocks.1.hook_resid_post"
    if site == "a coder":
        model, site = model.with_coder(Linear(place, place)), f"{place}.hook_sae_acts_post"
    seen: list[weakref.ref[Tensor]] = []

    def note(value: Tensor, hook: object) -> Tensor:
        seen.append(weakref.ref(value))
        seen.append(weakref.ref(new := value * 2))
        return new

    edits = [(site or place, note)]
    gc.disable()
    try:
        with torch.no_grad():
            if way == "hooks":
                with model.hooks(edits):
                    model(IDS)
            elif way == "generate":
                model.generate(IDS[:, :3], 2, fwd_hooks=edits, return_ids=True)
            elif way == "run_with_hooks":
                model.run_with_hooks(IDS, edits)
            else:
                kept = getattr(model, way)(IDS, site or None, fwd_hooks=edits)
                acts = kept if way == "capture" else kept[1]
                seen += [weakref.ref(value) for value in acts.values()]
                del kept, acts
        left = [value for value in seen if value() is not None]
    finally:
        gc.enable()
    assert seen
    assert not left


def test_gradient_checkpointing_is_right_or_refused() -> None:
    site, edit = "blocks.1.mlp.hook_post", ("blocks.1.mlp.hook_post", lambda v, hook: v * 0.3)
    del site

    def gradient(model: interp.HookedModel) -> Tensor:
        model.run_with_hooks(IDS, [edit]).logsumexp(-1).sum().backward()
        return model.module.model.layers[1].mlp.down_proj.weight.grad

    plain, other = made("llama"), made("llama")
    for model in (plain, other):
        model.module.requires_grad_(True)
    other.module.gradient_checkpointing_enable()
    other.module.train()
    torch.testing.assert_close(gradient(other), gradient(plain))
    with other.in_training_mode(), pytest.raises(ModelError, match="recomputed"):
        gradient(other)
    with other.in_training_mode(), torch.no_grad():
        other.run_with_hooks(IDS, [edit])


# --- caches ---


def test_a_capture_that_uses_a_cache_leaves_it_whole() -> None:
    model = made("llama")
    with torch.no_grad():
        whole = model(IDS)
        cache = model.module(IDS[:, :4], use_cache=True).past_key_values
        acts = model.capture(IDS[:, 4:6], "blocks.0.hook_resid_post", past_key_values=cache)
        assert acts["resid_post", 0].shape[1] == 2
        last = model(IDS[:, 6:], past_key_values=cache)
        torch.testing.assert_close(last[:, -1], whole[:, -1], rtol=1e-9, atol=1e-9)


def test_positions_count_cached_tokens() -> None:
    model, site = made("llama"), "blocks.1.hook_resid_post"
    with torch.no_grad():
        right = model.run_with_hooks(IDS, [interp.zero(site, positions=5)])
        cache = model.module(IDS[:, :4], use_cache=True).past_key_values
        step = model.run_with_hooks(IDS[:, 4:], [interp.zero(site, positions=5)], past_key_values=cache)
        torch.testing.assert_close(step, right[:, 4:], rtol=1e-9, atol=1e-9)
        cache = model.module(IDS[:, :4], use_cache=True).past_key_values
        with pytest.raises(TokenError, match="in the cache"):
            model.run_with_hooks(IDS[:, 4:], [interp.zero(site, positions=2)], past_key_values=cache)
        kept = model.capture(IDS, site, positions=[4, -1])[site]
        cache = model.module(IDS[:, :4], use_cache=True).past_key_values
        late = model.capture(IDS[:, 4:], site, positions=[4, -1], past_key_values=cache)[site]
        torch.testing.assert_close(late, kept, rtol=1e-9, atol=1e-9)


# --- encoder and decoder ---


def test_each_side_of_an_encoder_decoder_counts_its_own_tokens() -> None:
    model = made("t5")
    draw = torch.Generator().manual_seed(0)
    encoder = torch.randint(5, zoo.V, (2, 7), generator=draw)
    decoder = torch.randint(5, zoo.V, (2, 9), generator=draw)
    mask = torch.ones_like(encoder)
    mask[1, 4:] = 0
    inputs = {"input_ids": encoder, "attention_mask": mask, "decoder_input_ids": decoder}
    there, here = "decoder_blocks.1.hook_resid_post", "encoder_blocks.1.hook_resid_post"
    whole = model.capture(inputs, [there, here])
    last = model.capture(inputs, [there, here], positions=-1)
    assert torch.equal(last[there][:, 0], whole[there][:, -1])
    assert torch.equal(last[here][0, 0], whole[here][0, -1])
    assert torch.equal(last[here][1, 0], whole[here][1, 3])
    assert len(whole.flat(there)) == 18 and len(whole.flat(here)) == 11
    assert torch.equal(whole.flat(there), whole[there].flatten(0, 1))
    seen: list[Tensor] = []
    model.run_with_hooks(
        inputs, [interp.zero(there, positions=-1), (there, lambda v, hook: seen.append(v.clone()))]
    )
    assert not seen[0][:, -1].any() and seen[0][:, :-1].ne(0).all()


# --- generate is the naive loop ---


def naive(model: interp.HookedModel, row: Tensor, edits: list[interp.Intervention], n: int) -> Tensor:
    """Append and run again, the interventions on the positions that the prompt gave them."""
    length = len(row)
    fixed = [e if e.positions is None else _at(e, [p % length for p in e.positions]) for e in edits]
    ids = row[None]
    for _ in range(n):
        ids = torch.cat([ids, model.run_with_hooks(ids, fixed)[:, -1].argmax(-1)[:, None]], 1)
    return ids[0]


def _at(edit: interp.Intervention, positions: list[int]) -> interp.Intervention:
    from dataclasses import replace

    return replace(edit, positions=positions)


@pytest.mark.parametrize("name", CAUSAL)
def test_generate_is_the_naive_loop(name: str, models: dict[str, interp.HookedModel]) -> None:
    model = models[name]
    push = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0)).double() * 3
    site = "blocks.1.hook_resid_post"
    edits = [
        interp.zero("blocks.0.hook_resid_post", positions=[2, -1]),
        interp.steer(site, push),
        interp.resample("blocks.1.hook_mlp_out", torch.randn(3, 1, model.cfg.d_model).double()),
    ][:2]
    rows = [IDS[0], IDS[1, :4]]
    with torch.no_grad():
        right = [naive(model, row, edits, 5) for row in rows]
    for use_cache in (True, False):
        if name == "small" and not use_cache:
            continue
        for side in ("left", "right"):
            ids, mask = torch.full((2, 7), 2), torch.zeros(2, 7, dtype=torch.bool)
            for i, row in enumerate(rows):
                at = slice(len(row)) if side == "right" else slice(7 - len(row), None)
                ids[i, at], mask[i, at] = row, True
            try:
                written = model.generate(
                    TokenBatch(ids, mask),
                    5,
                    fwd_hooks=edits,
                    return_ids=True,
                    eos_token_id=[],
                    use_cache=use_cache,
                )
            except TokenError as refused:
                # Families whose positions cannot follow padding say so; row by row they work.
                assert "padd" in str(refused)
                continue
            for i, row in enumerate(rows):
                assert torch.equal(written[i][-len(row) - 5 :], right[i]), (name, side, use_cache)
        for row, expected in zip(rows, right, strict=True):
            one = model.generate(
                row, 5, fwd_hooks=edits, return_ids=True, eos_token_id=[], use_cache=use_cache
            )
            assert torch.equal(one[0], expected), (name, use_cache)


def test_what_would_decide_beside_the_temperature_is_refused() -> None:
    model = made("llama")
    plain = model.generate(IDS, 4, return_ids=True)
    for options, word in (
        ({"do_sample": True}, "do_sample"),
        ({"top_k": 5}, "temperature 0"),
        ({"num_return_sequences": 2}, "one answer"),
        ({"temperature": 0.7, "num_beams": 3}, "beam search"),
        ({"temperature": -1.0}, "temperature"),
        ({"max_new_tokns": 3}, "max_new_tokens"),
        ({"repetition_penality": 3.0}, "repetition_penalty"),
        ({"assistant_model": None}, "assistant_model"),
    ):
        with pytest.raises(ConfigError, match=word):
            model.generate(IDS, 4, return_ids=True, **options)
    model.module.generation_config.repetition_penalty = 5.0
    with pytest.raises(ConfigError, match="repetition_penalty"):
        model.generate(IDS, 4)
    named = model.generate(IDS, 4, return_ids=True, repetition_penalty=1.0)
    assert torch.equal(named, plain)
    model.module.generation_config.repetition_penalty = 1.0
    model.module.generation_config.do_sample = True
    model.module.generation_config.top_p = 0.1
    assert torch.equal(model.generate(IDS, 4, return_ids=True), plain)
    assert torch.equal(model.generate(IDS, 0, return_ids=True), IDS)
    with pytest.raises(TokenError, match="context"):
        model.generate(IDS, zoo.C)


def test_beams_and_draws_carry_their_rows_positions() -> None:
    model, edits = made("llama"), [interp.zero("blocks.0.hook_resid_post", positions=-1)]
    ids, mask = IDS.clone(), torch.ones_like(IDS, dtype=torch.bool)
    mask[1, :3] = False
    for options in ({"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}):
        both = model.generate(TokenBatch(ids, mask), 4, fwd_hooks=edits, return_ids=True, **options)
        alone = model.generate(ids[1:, 3:], 4, fwd_hooks=edits, return_ids=True, **options)
        n = options.get("num_return_sequences", 1)
        assert torch.equal(both[-n:, 3:], alone)
    drawn = model.generate(IDS, 4, return_ids=True, temperature=1.3, num_return_sequences=3)
    assert drawn.shape == (6, 11) and len({tuple(r.tolist()) for r in drawn[:3]}) > 1
    narrow = model.generate(IDS, 4, return_ids=True, temperature=1.3, top_k=1)
    assert torch.equal(narrow, model.generate(IDS, 4, return_ids=True))


def test_a_draw_needs_no_global_generator() -> None:
    model = made("llama")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = model.generate(IDS, 5, return_ids=True, temperature=1.5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(one, model.generate(IDS, 5, return_ids=True, temperature=1.5, seed=3))
    uncached = model.generate(IDS, 5, return_ids=True, temperature=1.5, seed=3, use_cache=False)
    assert torch.equal(one, uncached)


# --- coders ---


class Linear(nn.Module):
    """latents relu(x W), reconstruction z V."""

    def __init__(self, into: str, out: str, d: int = zoo.D, n: int = 29) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.site_in, self.site_out = into, out
        self.W_enc = nn.Parameter(torch.randn(d, n, generator=draw).double())
        self.W_dec = nn.Parameter(torch.randn(n, d, generator=draw).double() * 0.1)

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.W_enc).relu()

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.W_dec


def test_a_coder_is_spliced_once_however_contexts_nest(models: dict[str, interp.HookedModel]) -> None:
    model, site = models["llama"], "blocks.1.hook_resid_post"
    view = model.with_coder(Linear(site, site), error_term=False)
    latents = f"{site}.hook_sae_acts_post"
    with torch.no_grad():
        alone = view(IDS)
        with view.hooks([("blocks.0.hook_resid_post", lambda v, hook: None)]):
            assert torch.equal(view(IDS), alone)
            with view.hooks(), view.hooks():
                assert torch.equal(view(IDS), alone)
        with view.hooks([interp.zero(latents)]):
            shown = view.capture(IDS, latents)[latents]
            out = view(IDS)
    assert not shown.any()
    assert torch.equal(out, model.run_with_hooks(IDS, [interp.zero(site)]))
    with pytest.raises(SiteError, match="another coder"):
        view.with_coder(Linear(site, site))


def test_a_transcoder_reads_what_edits_made_of_its_input(models: dict[str, interp.HookedModel]) -> None:
    model = models["llama"]
    into, out = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
    coder = Linear(into, out)
    view = model.with_coder(coder, error_term=False)
    with torch.no_grad():
        got = view.capture(IDS, out, fwd_hooks=[interp.zero(into, positions=2)])[out]
        x = model.capture(IDS, into)[into].clone()
        x[:, 2] = 0
        torch.testing.assert_close(got, coder.decode(coder.encode(x)))


class Staged:
    """A cross-layer transcoder: latents read at each layer write there and at every later one."""

    def __init__(self, layers: int) -> None:
        draw = torch.Generator().manual_seed(2)
        self.sites_in = tuple(f"blocks.{i}.ln2.hook_normalized" for i in range(layers))
        self.sites_out = tuple(f"blocks.{i}.hook_mlp_out" for i in range(layers))
        self.n_latents = 13
        self.read = [torch.randn(zoo.D, 13, generator=draw).double() for _ in range(layers)]
        self.written = {
            (i, j): torch.randn(13, zoo.D, generator=draw).double() / 9
            for i in range(layers)
            for j in range(i, layers)
        }

    def encode_at(self, site: str, x: Tensor) -> Tensor:
        return (x @ self.read[self.sites_in.index(site)]).relu()

    def decode_at(self, site: str, latents: Mapping[str, Tensor]) -> Tensor:
        j = self.sites_out.index(site)
        parts = [z @ self.written[self.sites_in.index(s), j] for s, z in latents.items()]
        return torch.stack(parts).sum(0)


def test_a_coder_over_layers_reads_and_writes_site_by_site(models: dict[str, interp.HookedModel]) -> None:
    model, coder = models["llama"], Staged(zoo.L)
    view, bare = model.with_coder(coder), model.with_coder(coder, error_term=False)
    latents = [f"{s}.hook_sae_acts_post" for s in coder.sites_in]
    errors = [f"{s}.hook_sae_error" for s in coder.sites_out]
    with torch.no_grad():
        clean = model(IDS)
        assert torch.equal(view(IDS), clean)
        out, acts = view.run_with_cache(IDS, [*latents, *errors, *coder.sites_out, *coder.sites_in])
        assert torch.equal(out, clean)
        for j, site in enumerate(coder.sites_out):
            rebuilt = coder.decode_at(
                site, {s: acts[latents[i]] for i, s in enumerate(coder.sites_in[: j + 1])}
            )
            torch.testing.assert_close(rebuilt + acts[errors[j]], acts[site])
        # By hand: the replacement model, layer after layer.
        got = bare.capture(IDS, [*coder.sites_out, *coder.sites_in])
        known: dict[str, Tensor] = {}
        for into, site in zip(coder.sites_in, coder.sites_out, strict=True):
            known[into] = coder.encode_at(into, got[into])
            torch.testing.assert_close(got[site], coder.decode_at(site, known))
        # A latent of layer 0 moves what layer 2 writes, with the errors held.
        moved = view.capture(IDS, [*coder.sites_out], fwd_hooks=[interp.clamp(latents[0], 4, 3.0)])
        step = 3.0 - acts[latents[0]][..., 4:5]
        direct = step * coder.written[0, 0][4]
        torch.testing.assert_close(moved[coder.sites_out[0]], acts[coder.sites_out[0]] + direct)


class Cross:
    """A crosscoder: one set of latents from three layers' streams, written back to all three."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(3)
        self.sites_in = self.sites_out = tuple(f"blocks.{i}.hook_resid_post" for i in range(3))
        self.n_latents = 17
        self.W = {s: torch.randn(zoo.D, 17, generator=draw).double() for s in self.sites_in}

    def encode(self, x: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([x[s] @ self.W[s] for s in self.sites_in]).sum(0).relu()

    def decode(self, z: Tensor) -> Mapping[str, Tensor]:
        return {s: z @ self.W[s].T / 50 for s in self.sites_out}


def test_a_crosscoders_latents_are_one_site_of_several_inputs(models: dict[str, interp.HookedModel]) -> None:
    model, coder = models["llama"], Cross()
    view = model.with_coder(coder)
    latents = f"{coder.sites_in[-1]}.hook_sae_acts_post"
    with torch.no_grad():
        acts = view.capture(IDS, [latents, *coder.sites_in])
        torch.testing.assert_close(acts[latents], coder.encode(acts))
        assert torch.equal(view(IDS), model(IDS))
        with pytest.raises(EditError, match="had been passed"):
            view.run_with_hooks(IDS, [interp.zero(latents)])
        with pytest.raises(SiteError, match="before"):
            model.with_coder(coder, error_term=False)


class Running(Linear):
    """A coder of whole sequences: each latent is the mean over the text so far."""

    reads_sequence = True

    def encode(self, x: Tensor) -> Tensor:
        z = super().encode(x)
        return z.cumsum(1) / torch.arange(1, z.shape[1] + 1, dtype=z.dtype)[:, None]


def test_a_coder_of_whole_sequences_never_meets_a_cache(models: dict[str, interp.HookedModel]) -> None:
    model, site = models["llama"], "blocks.1.hook_resid_post"
    view = model.with_coder(Running(site, site), error_term=False)
    ids = IDS[:1]
    for _ in range(4):
        ids = torch.cat([ids, view(ids)[:, -1].argmax(-1)[:, None]], 1)
    assert torch.equal(view.generate(IDS[:1], 4, return_ids=True, eos_token_id=[]), ids)
    with pytest.raises(ConfigError, match="whole sequences"):
        view.generate(IDS[:1], 4, use_cache=True)
    with torch.no_grad():
        cache = model.module(IDS[:, :4], use_cache=True).past_key_values
    with pytest.raises(ModelError, match="whole sequences"):
        view(IDS[:, 4:], past_key_values=cache)


# --- masks, numbers, and what is neither ---


def test_a_mask_is_a_mask(models: dict[str, interp.HookedModel]) -> None:
    model, site = models["llama"], "blocks.1.attn.hook_z"
    heads = torch.tensor([False, True, False, False, True, False])
    entries = torch.arange(zoo.M) % 5 == 2
    tokens = torch.tensor([[0, 1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 1]]).bool()
    for with_mask, with_numbers in (
        (interp.zero(site, head=heads), interp.zero(site, head=[1, 4])),
        (interp.zero(site, head=heads.tolist()), interp.zero(site, head=[1, 4])),
        (interp.zero(site, head=heads.numpy()), interp.zero(site, head=[1, 4])),
        (
            interp.zero("blocks.0.mlp.hook_post", index=entries),
            interp.zero("blocks.0.mlp.hook_post", index=entries.nonzero().flatten()),
        ),
        (interp.zero(site, positions=tokens[0]), interp.zero(site, positions=[1, 4])),
        (interp.zero(site, positions=tokens), interp.zero(site, positions=torch.tensor([[1, 4], [0, 6]]))),
        (interp.zero(site, head=slice(1, None, 3)), interp.zero(site, head=[1, 4])),
    ):
        assert torch.equal(model.run_with_hooks(IDS, [with_mask]), model.run_with_hooks(IDS, [with_numbers]))
    grid = model.capture(IDS, site, positions=tokens)[site]
    assert torch.equal(grid, model.capture(IDS, site, positions=[[1, 4], [0, 6]])[site])


@pytest.mark.parametrize(
    "edit",
    [
        lambda: interp.zero("blocks.1.attn.hook_z", head=1.0),
        lambda: interp.zero("blocks.1.attn.hook_z", head=True),
        lambda: interp.zero("blocks.1.attn.hook_z", head="1"),
        lambda: interp.zero("blocks.1.attn.hook_z", head=[]),
        lambda: interp.zero("blocks.1.attn.hook_z", head=99),
        lambda: interp.zero("blocks.1.attn.hook_z", head=torch.ones(5, dtype=torch.bool)),
        lambda: interp.zero("blocks.0.mlp.hook_post", index=[1.5]),
        lambda: interp.zero("blocks.0.mlp.hook_post", index=zoo.M),
        lambda: interp.zero("blocks.0.hook_mlp_out", head=0),
        lambda: interp.zero("blocks.0.hook_mlp_out", positions=0.0),
        lambda: ("blocks.0.hook_mlp_out",),
        lambda: ("blocks.0.hook_mlp_out", 3),
        lambda: 7,
    ],
)
def test_choices_that_are_none_are_refused_before_the_run(edit: object) -> None:
    model = made("llama", torch.float32)
    ran: list[int] = []
    handle = model.module.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(InterpError):
        model.run_with_hooks(IDS, [edit()])  # type: ignore[operator]
    handle.remove()
    assert not ran


def test_one_hook_needs_no_list(models: dict[str, interp.HookedModel]) -> None:
    model, site = models["llama"], "blocks.1.hook_mlp_out"
    right = model.run_with_hooks(IDS, [interp.zero(site)])
    for form in (
        interp.zero(site),
        (site, lambda v, hook: v * 0),
        {site: lambda v, hook: v * 0},
        [[site, lambda v, hook: v * 0]],
    ):
        assert torch.equal(model.run_with_hooks(IDS, form), right)
        with model.hooks(form):
            assert torch.equal(model(IDS), right)


# --- TransformerLens's three keywords ---


def test_return_type_and_stop_at_layer(models: dict[str, interp.HookedModel]) -> None:
    model = models["llama"]
    logits = model(IDS)
    by_hand = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    loss = model(IDS, return_type="loss")
    torch.testing.assert_close(loss, by_hand.to(loss.dtype))
    both = model.run_with_hooks(IDS, [], return_type="both")
    assert torch.equal(both.logits, logits) and torch.equal(both.loss, loss)
    assert model(IDS, return_type=None) is None
    for layer in range(-zoo.L, zoo.L + 1):
        site = "hook_resid_post" if layer == zoo.L else "hook_resid_pre"
        right = model.capture(IDS, f"blocks.{min(layer % (zoo.L + 1), zoo.L - 1)}.{site}")
        if layer < 0:
            right = model.capture(IDS, f"blocks.{zoo.L + layer}.hook_resid_pre")
        assert torch.equal(model(IDS, stop_at_layer=layer), next(iter(right.values())))
    reached: list[int] = []
    handle = model.module.model.layers[1].register_forward_pre_hook(lambda *_: reached.append(1))
    resid, acts = model.run_with_cache(IDS, stop_at_layer=1)
    handle.remove()
    assert torch.equal(resid, acts["resid_pre", 1]) and "blocks.2.hook_resid_pre" not in acts
    assert len(reached) == 1
    with pytest.raises(ConfigError, match="behind"):
        model.run_with_cache(IDS, "blocks.2.hook_mlp_out", stop_at_layer=1)
    for bad in ({"return_type": "logit"}, {"stop_at_layer": 9}, {"stop_at_layer": True}):
        with pytest.raises(ConfigError):
            model(IDS, **bad)
    with pytest.raises(ConfigError, match="whole model"):
        model(IDS, stop_at_layer=1, return_type="loss")
    with pytest.raises(ModelError, match="no next-token loss"):
        models["bert"](IDS, return_type="loss")


def test_a_padded_loss_counts_real_tokens(models: dict[str, interp.HookedModel]) -> None:
    model = models["llama"]
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[1, 4:] = False
    loss = model(TokenBatch(IDS, mask), return_type="loss")
    rows = [model(IDS[:1], return_type="loss"), model(IDS[1:, :4], return_type="loss")]
    torch.testing.assert_close(loss, (rows[0] * 6 + rows[1] * 3) / 9)


def test_remove_batch_dim(models: dict[str, interp.HookedModel]) -> None:
    model = models["llama"]
    row = IDS[:1]
    whole = model.run_with_cache(row)[1]
    bare = model.run_with_cache(row, remove_batch_dim=True)[1]
    for site in whole:
        assert torch.equal(bare[site], whole[site][0])
    site = "blocks.1.hook_resid_post"
    assert torch.equal(bare.flat(site), whole.flat(site))
    assert torch.equal(bare.accumulated_resid(), whole.accumulated_resid()[:, 0])
    with pytest.raises(ShapeError, match="single row"):
        model.capture(IDS, site, remove_batch_dim=True)


def test_a_block_with_an_early_stop_inside_is_not_blamed() -> None:
    model = made("llama", torch.float32)
    with model.hooks([interp.zero("blocks.2.hook_mlp_out")]):
        model.capture(IDS, "blocks.0.hook_resid_post")
    with ExitStack() as stack:
        stack.enter_context(model.hooks([interp.zero("blocks.2.hook_mlp_out")]))
        stack.enter_context(torch.no_grad())
        model(IDS)


def test_every_call_is_asked_for_as_such() -> None:
    """A module that runs twice: no edit acts twice unnoticed, in a block or for one run."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(self.shared(x).relu())

    torch.manual_seed(0)
    model, x = interp.wrap(Twice()), torch.randn(3, 5)
    double = ("shared.hook_out#*", lambda v, hook: v * 2)
    right = 2 * model.module.shared((2 * model.module.shared(x)).relu())
    torch.testing.assert_close(model.run_with_hooks(x, double), right)
    with model.hooks(double):
        torch.testing.assert_close(model(x), right)
    with pytest.raises(InterpError, match="2 times"):
        model.run_with_hooks(x, ("shared.hook_out", lambda v, hook: v * 2))
    with pytest.raises(InterpError, match="2 times"), model.hooks(("shared.hook_out", lambda v, hook: v * 2)):
        model(x)
    with pytest.raises(SiteError, match="one call"):
        model.capture(x, "shared.hook_out#*")


def test_the_roots_own_input_and_output_are_sites() -> None:
    """Their hooks go on while its forward is under way: torch itself would look too early."""
    torch.manual_seed(0)
    model, x = interp.wrap(nn.Linear(3, 2)), torch.randn(5, 3)
    acts = model.capture(x, ["hook_in", "hook_out"])
    assert torch.equal(acts["hook_in"], x)
    assert torch.equal(acts["hook_out"], model.module(x))
    double = ("hook_in", lambda v, hook: v * 2)
    right = model.module(x * 2)
    assert torch.equal(model.run_with_hooks(x, double), right)
    with model.hooks([double, ("hook_out", lambda v, hook: v.neg_())]):
        assert torch.equal(model(x), -right)
        assert torch.equal(model.module(x), -right)
    assert not model.module._forward_hooks and not model.module._forward_pre_hooks
