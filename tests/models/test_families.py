"""Every family: outputs equal the raw model's, and every name means what it says."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import interp
from interp.models.adapters.adapter import find
from interp.models.adapters.blocks import T5_CROSS, T5_SELF
from interp.models.adapters.families import family_of
from interp.models.adapters.proof import probe_inputs
from tests.models import zoo

FAMILIES = list(zoo.MAKERS)
EVERY = FAMILIES + list(zoo.UNREACHED)
BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}


def close(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Relative to the largest value, at the bound of the dtype."""
    return bool((a - b).abs().max() <= BOUND[dtype] * b.abs().max().clamp(min=1))


def raw_logits(model: nn.Module, kwargs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**kwargs).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", EVERY)
def test_outputs_equal_the_raw_model_and_every_site_fires(name: str, dtype: torch.dtype) -> None:
    raw = zoo.make(name, dtype=dtype)
    kwargs = zoo.inputs(raw)
    expected = raw_logits(raw, kwargs)
    model = interp.wrap(raw)
    with torch.no_grad():
        assert torch.equal(model(kwargs), expected)  # untouched without hooks
        output, acts = model.run_with_cache(kwargs)
    assert close(output, expected, dtype)
    assert set(acts) == set(model.sites)
    assert all(acts[s].isfinite().all() for s in acts)
    for site in model.sites:
        described = model.sites[site]
        sizes = described.sizes
        assert len(sizes) == acts[site].dim(), site
        for size, got in zip(sizes, acts[site].shape, strict=True):
            assert size is None or size == got, (site, described.describe(), acts[site].shape)


@pytest.mark.parametrize("name", EVERY)
def test_wrapping_leaves_state_dict_and_save_pretrained_untouched(name: str, tmp_path: Path) -> None:
    raw = zoo.make(name)
    before = {k: v.clone() for k, v in raw.state_dict().items()}
    attention = raw.config._attn_implementation
    model = interp.wrap(raw)
    model.run_with_cache(zoo.inputs(raw))
    after = raw.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert raw.config._attn_implementation == attention
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in raw.modules())
    raw.save_pretrained(tmp_path)
    again = interp.load_model(tmp_path)
    assert close(again(zoo.inputs(raw)), raw_logits(raw, zoo.inputs(raw)))


@pytest.mark.parametrize("name", FAMILIES)
def test_sites_equal_hand_placed_module_hooks(name: str) -> None:
    """Projections, residual stream and sublayer outputs, from modules named by hand."""
    raw = zoo.make(name)
    kwargs = zoo.inputs(raw)
    model = interp.wrap(raw)
    acts = model.run_with_cache(kwargs)[1]
    seen = _by_hand(raw, kwargs)
    assert len(seen) >= 6
    for site, value in seen.items():
        assert close(acts[site].flatten(), value.flatten()), site


def _by_hand(raw: nn.Module, kwargs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    got: dict[str, torch.Tensor] = {}
    handles = []

    def keep(site: str, module: nn.Module | None, end: str) -> None:
        if module is None:
            return

        def into(_: nn.Module, args: tuple, kw: dict) -> None:
            got[site] = (args[0] if args else kw["hidden_states"]).detach().clone()

        def out(_: nn.Module, __: tuple, output: object) -> None:
            got[site] = (output[0] if isinstance(output, tuple) else output).detach().clone()

        if end == "in":
            handles.append(module.register_forward_pre_hook(into, with_kwargs=True))
        else:
            handles.append(module.register_forward_hook(out))

    base = raw.base_model
    if raw.config.model_type == "t5":
        block = raw.decoder.block[1]
        for attn, row in (("self_attn", T5_SELF), ("cross_attn", T5_CROSS)):
            keep(f"decoder_blocks.1.{attn}.hook_q", find(block, row.q), "out")
            keep(f"decoder_blocks.1.{attn}.hook_z", find(block, row.o), "in")
        keep("decoder_blocks.1.hook_resid_mid", block.layer[0], "out")
        keep("decoder_blocks.1.hook_resid_mid_cross", block.layer[1], "out")
        keep("decoder_blocks.1.hook_resid_post", block, "out")
        keep("encoder_blocks.2.hook_resid_post", raw.encoder.block[2], "out")
    else:
        family = family_of(raw.config.model_type)
        assert family is not None
        block, at = find(base, family.blocks)[1], family.block  # type: ignore[index]
        post = raw.config.model_type in ("bert", "roberta", "distilbert") or (
            raw.config.model_type == "opt" and not raw.config.do_layer_norm_before
        )
        keep("blocks.1.hook_resid_pre", block, "in")
        keep(f"blocks.1.hook_{'normalized_' if post else ''}resid_post", block, "out")
        keep("blocks.1.attn.hook_z", find(block, at.o), "in")
        keep("blocks.1.hook_attn_out", find(block, at.attn_out), "out")
        keep("blocks.1.hook_mlp_out", find(block, at.mlp_out), "out")
        keep("blocks.1.mlp.hook_post", find(block, at.mlp_down), "in")
        keep("blocks.1.mlp.hook_pre", find(block, at.mlp_pre or at.mlp_gate), "out")
        for letter in "qkv":
            keep(f"blocks.1.attn.hook_{letter}", find(block, getattr(at, letter)), "out")
    with torch.no_grad():
        raw(**kwargs)
    for handle in handles:
        handle.remove()
    return got


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_sites_are_the_textbook_quantities(name: str) -> None:
    """softmax(scores) = pattern; pattern · v = z; scaled q · k = scores (where plain)."""
    raw = zoo.make(name)
    model = interp.wrap(raw)
    acts = model.run_with_cache(zoo.inputs(raw))[1]
    attns = {s.rpartition(".")[0] for s in model.sites if s.endswith("hook_pattern")}
    assert len(attns) >= zoo.L
    for attn in attns:
        scores, pattern = acts[f"{attn}.hook_attn_scores"], acts[f"{attn}.hook_pattern"]
        assert close(scores.softmax(-1), pattern)
        assert close(pattern.sum(-1), torch.ones(pattern.shape[:-1]))
        v = acts[f"{attn}.hook_v"].repeat_interleave(
            pattern.shape[1] // acts[f"{attn}.hook_v"].shape[2], dim=2
        )
        assert close(torch.einsum("bhqk,bkhd->bqhd", pattern, v), acts[f"{attn}.hook_z"])
    if model.cfg.causal and model.cfg.family != "Gemma":
        q = acts.get("blocks.1.attn.hook_rot_q", acts["blocks.1.attn.hook_q"])
        k = acts.get("blocks.1.attn.hook_rot_k", acts["blocks.1.attn.hook_k"])
        k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
        factor = zoo.DH**-0.5 / (2 if name == "gpt2-inverse-scale" else 1)
        raw_scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * factor
        diagonal = acts["blocks.1.attn.hook_attn_scores"].diagonal(dim1=-2, dim2=-1)
        assert close(raw_scores.diagonal(dim1=-2, dim2=-1), diagonal)


@pytest.mark.parametrize("name", FAMILIES)
def test_head_results_and_residual_stream_add_up(name: str) -> None:
    raw = zoo.make(name)
    model = interp.wrap(raw)
    acts = model.run_with_cache(zoo.inputs(raw), ["*", "*.hook_result"])[1]
    if model.cfg.family == "T5":
        p, attn = "decoder_blocks.1.", "self_attn"
    else:
        p, attn = "blocks.1.", "attn"
    if f"{p}ln1_post.hook_scale" not in model.sites:
        o = model.sites[f"{p}{attn}.hook_z"].module
        bias = 0 if o.bias is None else o.bias
        assert close(acts[f"{p}{attn}.hook_result"].sum(2) + bias, acts[f"{p}hook_attn_out"])
    if model.cfg.style == "pre":
        mid = acts[f"{p}hook_resid_pre"] + acts[f"{p}hook_attn_out"]
        assert close(mid, acts[f"{p}hook_resid_mid"])
        before = acts.get(f"{p}hook_resid_mid_cross", acts[f"{p}hook_resid_mid"])
        assert close(before + acts[f"{p}hook_mlp_out"], acts[f"{p}hook_resid_post"])
    elif model.cfg.style == "parallel":
        assert f"{p}hook_resid_mid" not in model.sites
        total = acts[f"{p}hook_resid_pre"] + acts[f"{p}hook_attn_out"] + acts[f"{p}hook_mlp_out"]
        assert close(total, acts[f"{p}hook_resid_post"])
    else:
        assert close(acts[f"{p}hook_resid_pre"] + acts[f"{p}hook_attn_out"], acts[f"{p}hook_resid_mid"])


HAND_EDITS = {
    "zero": lambda site, v: interp.zero(site),
    "mean": lambda site, v: interp.mean(site, v.mean((0, 1))),
    "patch": lambda site, v: interp.patch(site, v.flip(0)),
    # Not a constant vector: a LayerNorm model does not see a shift of all dimensions together.
    "steer": lambda site, v: interp.steer(site, ramp(v), 0.5),
}


def ramp(value: torch.Tensor) -> torch.Tensor:
    return torch.linspace(-1, 3, value.shape[-1]).square()


@pytest.mark.thin(2)
@pytest.mark.parametrize("edit", HAND_EDITS)
@pytest.mark.parametrize("name", FAMILIES)
def test_edits_equal_the_same_edit_made_by_hand(name: str, edit: str) -> None:
    """At block inputs and outputs, z and MLP neurons: a raw torch hook against the intervention."""
    raw = zoo.make(name)
    kwargs = zoo.inputs(raw)
    model = interp.wrap(raw)
    p = "decoder_blocks.1." if model.cfg.family == "T5" else "blocks.1."
    attn = "self_attn" if model.cfg.family == "T5" else "attn"
    for site in (f"{p}hook_resid_pre", f"{p}{attn}.hook_z", f"{p}mlp.hook_post", f"{p}hook_attn_out"):
        value = model.capture(kwargs, site)[site]
        new = {
            "zero": torch.zeros_like(value),
            "mean": value.mean((0, 1)).expand_as(value),
            "patch": value.flip(0),
            "steer": value + 0.5 * ramp(value),
        }[edit]
        place = model.sites[site]

        def into(_: nn.Module, args: tuple, kw: dict, new: torch.Tensor = new) -> tuple:
            old = args[0] if args else kw["hidden_states"]
            shaped = new.reshape(old.shape)
            return ((shaped, *args[1:]), kw) if args else (args, {**kw, "hidden_states": shaped})

        def out(_: nn.Module, __: tuple, output: object, new: torch.Tensor = new) -> object:
            if isinstance(output, tuple):
                return (new.reshape(output[0].shape), *output[1:])
            return new.reshape(output.shape)  # type: ignore[attr-defined]

        if place.kind == "in":
            handle = place.module.register_forward_pre_hook(into, with_kwargs=True)
        else:
            handle = place.module.register_forward_hook(out)
        expected = raw_logits(raw, kwargs)
        handle.remove()
        with torch.no_grad():
            edited = model.run_with_hooks(kwargs, [HAND_EDITS[edit](site, value)])
        assert close(edited, expected), site
        assert not close(edited, raw_logits(raw, kwargs)), site


WITHOUT_SHARED_MID = {"neox", "gptj", "codegen", "falcon", "falcon-new"} | {
    "opt-post",
    "bert",
    "roberta",
    "distilbert",
}
"""Parallel blocks have no resid_mid; in post-norm ones nothing but the norm reads it."""


@pytest.mark.parametrize("name", [n for n in EVERY if n not in WITHOUT_SHARED_MID])
def test_editing_resid_mid_reaches_the_skip_connection_too(name: str) -> None:
    """resid_mid := m must equal attn_out := m - resid_pre; a hook on the norm alone would not."""
    raw = zoo.make(name, dtype=torch.float64)
    kwargs = zoo.inputs(raw)
    model = interp.wrap(raw)
    p = "encoder_blocks.1." if model.cfg.family == "T5" else "blocks.1."
    acts = model.capture(kwargs, [f"{p}hook_resid_pre", f"{p}hook_resid_mid"])
    target = acts[f"{p}hook_resid_mid"].flip(1) * 1.5
    direct = model.run_with_hooks(kwargs, [interp.patch(f"{p}hook_resid_mid", target)])
    through = target - acts[f"{p}hook_resid_pre"]
    indirect = model.run_with_hooks(kwargs, [interp.patch(f"{p}hook_attn_out", through)])
    assert close(direct, indirect, torch.float64)
    assert not close(direct, raw_logits(raw, kwargs), torch.float64)


@pytest.mark.parametrize("name", FAMILIES)
def test_identity_edits_at_every_site_change_nothing_and_real_ones_do(name: str) -> None:
    raw = zoo.make(name, dtype=torch.float64)
    kwargs = zoo.inputs(raw)
    model = interp.wrap(raw)
    expected = raw_logits(raw, kwargs)
    with torch.no_grad():
        same = model.run_with_hooks(kwargs, [(lambda n: True, lambda v, hook: v.clone())])
    assert close(same, expected, torch.float64)
    last = "decoder_blocks.1." if model.cfg.family == "T5" else "blocks.1."
    for site in [s for s in model.sites if s.startswith(last)]:
        with torch.no_grad():
            edited = model.run_with_hooks(kwargs, [(site, lambda v, hook: v * 1.7 + 0.3 * v.flip(1))])
        # The middle layer: in the last one some positions no longer matter.
        assert not close(edited, expected, torch.float64), site


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_at_every_site_match_finite_differences(name: str) -> None:
    raw = zoo.make(name, dtype=torch.float64).requires_grad_(False)
    kwargs = zoo.inputs(raw)
    model = interp.wrap(raw)
    p = "decoder_blocks.1." if model.cfg.family == "T5" else "blocks.1."
    sites = [s for s in model.sites if s.startswith(p)]
    for site in sites:
        output, acts = model.run_with_cache(kwargs, site, grad=True)
        gradient = torch.autograd.grad(output.square().mean(), acts[site])[0]
        # Along the gradient itself, where the difference is largest against rounding: RMS norms
        # compute in float32 even inside a float64 model.
        norm = gradient.norm()
        assert norm > 0, site
        step = gradient / norm * 3e-3
        moved = [
            model.run_with_hooks(kwargs, [(site, lambda v, hook, d=d: v + d)]).square().mean()
            for d in (step, -step)
        ]
        measured = (moved[0] - moved[1]).item() / 2
        predicted = (gradient * step).sum().item()
        assert abs(measured - predicted) <= 1e-2 * abs(predicted), (site, measured, predicted)


@pytest.mark.parametrize("name", list(zoo.UNREACHED))
def test_architectures_out_of_reach_say_so(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    assert not any(s.endswith(("hook_pattern", "hook_attn_scores")) for s in model.sites)
    with pytest.raises(interp.errors.SiteError, match="does not go through"):
        model.capture(torch.tensor([[5, 6, 7]]), "blocks.0.attn.hook_pattern")
    assert "not offered" in repr(model)
    assert {"blocks.1.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.mlp.hook_post"} <= set(model.sites)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_wrong_adapter_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Null of the proof: an attention function that scales wrongly has no sites."""
    from interp.models.hooks import attention

    honest = attention._softmax
    monkeypatch.setattr(attention, "_softmax", lambda s, d, f: honest(s * 1.5, d, f))
    given = probe_inputs(interp.wrap(zoo.make(name), check=False))
    model = interp.wrap(zoo.make(name))
    for _ in range(2):
        with pytest.raises(interp.errors.AdapterError, match="refused"):
            model.capture(given, "blocks.0.hook_resid_post")
    model(given, return_type=None)  # without sites it is the raw model


def test_a_broken_promise_is_refused_not_approximately_named() -> None:
    """A block that adds something to the stream on the side: its sums are not offered."""
    raw = zoo.make("llama")
    block = raw.model.layers[1]
    honest = block.mlp.forward
    block.register_forward_hook(lambda m, a, output: output + 0.5)
    model = interp.wrap(raw)
    assert "blocks.1.hook_mlp_out" in model.sites.refused
    assert "blocks.0.hook_mlp_out" in model.sites
    assert honest is not None
    with pytest.raises(interp.errors.SiteError, match="not resid_post"):
        model.sites.resolve("blocks.1.hook_mlp_out")


def test_deep_copies_share_nothing(tmp_path: Path) -> None:
    raw = zoo.make("gpt2")
    twin = interp.wrap(copy.deepcopy(raw))
    model = interp.wrap(raw)
    assert model.fingerprint() == twin.fingerprint()
    with torch.no_grad():
        twin.module.transformer.wte.weight[7, 3] += 1e-3
    assert model.fingerprint() != twin.fingerprint()
