"""The families that people open, one variant each on push, all of them in full.

Held against transformers' own reports (hidden states, attentions), plain torch hooks and arithmetic.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.lenses import head_atlas
from interp.models.adapters.adapter import find
from interp.models.adapters.families import family_of
from tests.models import kinds, zoo
from tests.models.kinds import FULL

NAMES = kinds.EVERY if FULL else kinds.FIRST
UNREACHED = {"xglm", "mpnet", "deberta-v2"}
"""Attention that never calls the registered function."""
DTYPES = [torch.float32, torch.float64] if FULL else [torch.float64]
"""Push builds each model once; XGLM, the folded and the bundled ones are float32 there too."""
BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}
every_kind = pytest.mark.parametrize("name", NAMES)


@cache
def _served(name: str, dtype: torch.dtype) -> tuple[Any, interp.HookedModel]:
    raw = kinds.make(name, dtype=dtype)
    return raw, interp.wrap(raw)


def widest(name: str) -> torch.dtype:
    """XGLM itself does not run in float64: its lowest score is no number that torch.full takes."""
    return torch.float32 if name.startswith("xglm") else torch.float64


def served(name: str, dtype: torch.dtype | None = None) -> tuple[Any, interp.HookedModel, dict[str, Tensor]]:
    """(the raw model, the same one wrapped, inputs)."""
    dtype = dtype or widest(name)
    raw, model = _served(name, dtype)
    return raw, model, zoo.inputs(raw)


def logits(raw: nn.Module, kwargs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return raw(**kwargs).logits


def close(a: Tensor, b: Tensor) -> bool:
    """Relative to the largest value, at the bound of the dtype."""
    return bool((a - b).abs().max() <= BOUND[b.dtype] * b.abs().max().clamp(min=1))


def parts_of(raw: Any, layer: int = 1) -> tuple[nn.Module, Any]:
    """A block found by hand, and the paths of its parts."""
    family = family_of(raw.config.model_type)
    assert family is not None
    blocks: Any = find(raw.base_model, family.blocks)
    if raw.config.model_type == "albert":
        return blocks[0].albert_layers[0], family.block
    return blocks[layer], family.block


def factor_of(raw: Any) -> float:
    """What the block multiplies its outputs by (Granite)."""
    return getattr(raw.config, "residual_multiplier", 1.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_kind
def test_logits_are_the_raw_models_and_every_site_fires(name: str, dtype: torch.dtype) -> None:
    raw, model, kwargs = served(name, min(dtype, widest(name), key=lambda d: d.itemsize))
    expected = logits(raw, kwargs)
    assert not model.adapter.unproved
    with torch.no_grad():
        assert torch.equal(model(kwargs), expected)  # untouched without hooks
        output, acts = model.run_with_cache(kwargs)
    assert close(output, expected)
    assert set(acts) == set(model.sites)
    assert {f"blocks.1.{s}" for s in ("hook_resid_pre", "attn.hook_z", "hook_resid_post")} <= set(acts)
    for site, value in acts.items():
        sizes = model.sites[site].sizes
        assert value.isfinite().all() and len(sizes) == value.dim(), site
        for size, got in zip(sizes, value.shape, strict=True):
            assert size is None or size == got, (site, value.shape)
    again = model.run_with_hooks(kwargs, [(lambda n: True, lambda v, hook: v.clone())])
    assert close(again, expected)


@every_kind
def test_streams_and_patterns_are_what_transformers_reports(name: str) -> None:
    raw, model, kwargs = served(name)
    acts = model.run_with_cache(kwargs)[1]
    with torch.no_grad():
        states = raw(**kwargs, output_hidden_states=True).hidden_states
    for layer in range(model.cfg.n_layers):
        assert close(states[layer], acts[f"blocks.{layer}.hook_resid_pre"]), layer
    if name.partition(":")[0] in UNREACHED:
        assert "blocks.1.attn.hook_pattern" in model.sites.refused
        return
    eager = kinds.make(name, dtype=widest(name))
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = eager(**kwargs, output_attentions=True).attentions
    for layer, pattern in enumerate(patterns):
        # Most families' own eager attention normalises in float32.
        assert (pattern - acts[f"blocks.{layer}.attn.hook_pattern"]).abs().max() < 1e-6, layer


@every_kind
def test_sites_equal_hooks_placed_by_hand(name: str) -> None:
    raw, model, kwargs = served(name)
    block, at = parts_of(raw)
    acts = model.run_with_cache(kwargs)[1]
    seen: dict[str, list[Tensor]] = {}

    def keep(site: str, module: nn.Module | None, end: str) -> None:
        if module is None:
            return

        def into(_: nn.Module, args: tuple, kw: dict) -> None:
            seen.setdefault(site, []).append((args[0] if args else kw["hidden_states"]).clone())

        def out(_: nn.Module, __: tuple, output: Any) -> None:
            seen.setdefault(site, []).append((output[0] if isinstance(output, tuple) else output).clone())

        if end == "in":
            module.register_forward_pre_hook(into, with_kwargs=True)
        else:
            module.register_forward_hook(out)

    keep("hook_resid_pre", block, "in")
    keep("attn.hook_z", find(block, at.o), "in")
    keep("hook_attn_out", find(block, at.attn_out), "out")
    keep("hook_mlp_out", find(block, at.mlp_out), "out")
    keep("mlp.hook_post", find(block, at.mlp_down), "in")
    keep("mlp.hook_pre", find(block, at.mlp_pre or at.mlp_gate), "out")
    for letter in "qkv":
        keep(f"attn.hook_{letter}", find(block, getattr(at, letter)), "out")
    before = raw.config.model_type == "albert"  # one module, a call per block
    try:
        logits(raw, kwargs)
    finally:
        for module in block.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks_with_kwargs.clear()
    assert len(seen) >= 4
    for site, values in seen.items():
        named = f"blocks.1.{site}"
        if named in model.sites.refused:
            continue
        value = values[1 if before else 0]
        if site in ("hook_attn_out", "hook_mlp_out"):
            value = value * factor_of(raw)
        assert close(acts[named].flatten(), value.flatten()), site


@every_kind
def test_parts_add_up(name: str) -> None:
    raw, model, kwargs = served(name)
    acts = model.run_with_cache(kwargs, ["*", "*.hook_result"])[1]
    for layer in range(model.cfg.n_layers):
        p = f"blocks.{layer}."
        attn_out, mlp_out = acts[f"{p}hook_attn_out"], acts[f"{p}hook_mlp_out"]
        if model.cfg.style == "parallel":
            assert f"{p}hook_resid_mid" not in model.sites
            assert close(acts[f"{p}hook_resid_pre"] + attn_out + mlp_out, acts[f"{p}hook_resid_post"])
        else:
            assert close(acts[f"{p}hook_resid_pre"] + attn_out, acts[f"{p}hook_resid_mid"])
        if model.cfg.style == "pre":
            assert close(acts[f"{p}hook_resid_mid"] + mlp_out, acts[f"{p}hook_resid_post"])
        if model.cfg.style == "post":
            mid = acts[f"{p}ln1.hook_normalized"]
            norm = model.sites[f"{p}ln1.hook_normalized"].module
            assert close(mid * norm.weight + norm.bias + mlp_out, acts[f"{p}hook_resid_post"])
        if f"{p}ln1_post.hook_scale" not in model.sites:
            o = model.sites[f"{p}attn.hook_z"].module
            bias = 0 if o.bias is None else o.bias * factor_of(raw)
            assert close(acts[f"{p}attn.hook_result"].sum(2) + bias, attn_out)


@every_kind
def test_attention_sites_are_the_textbook_quantities(name: str) -> None:
    _, model, kwargs = served(name)
    acts = model.run_with_cache(kwargs)[1]
    if name.partition(":")[0] in UNREACHED:
        with pytest.raises(interp.errors.SiteError, match="registered function"):
            model.capture(kwargs, "blocks.1.attn.hook_pattern")
        return
    for layer in range(model.cfg.n_layers):
        attn = f"blocks.{layer}.attn."
        scores, pattern = acts[f"{attn}hook_attn_scores"], acts[f"{attn}hook_pattern"]
        total = pattern.sum(-1, keepdim=True)
        if model.cfg.family == "GPT-OSS":
            sink = acts[f"{attn}hook_attn_sink"]
            share = (sink - torch.cat((scores, sink), -1).logsumexp(-1, keepdim=True)).exp()
            assert (total < 1 - 1e-6).all()  # the sink does take something
            total = total + share
        else:
            assert close(scores.softmax(-1), pattern)
        assert close(total, torch.ones_like(total))
        if f"{attn}hook_v" in model.sites.refused:
            continue
        v = _wide(acts[f"{attn}hook_v"], pattern.shape[1])
        assert close(torch.einsum("bhqk,bkhd->bqhd", pattern, v), acts[f"{attn}hook_z"])


def _wide(v: Tensor, heads: int) -> Tensor:
    return v.repeat_interleave(heads // v.shape[2], dim=2)


def _values(raw: Any, model: interp.HookedModel, kwargs: dict[str, Tensor]) -> Tensor:
    """What attention of layer 1 averages: the values, clipped where the family clips them."""
    site = "blocks.1.attn.hook_v"
    if site in model.sites:
        return model.capture(kwargs, site)[site]
    block, at = parts_of(raw)
    seen: list[Tensor] = []
    with find(block, at.v).register_forward_hook(lambda m, a, out: seen.append(out.clone())):  # type: ignore[union-attr]
        logits(raw, kwargs)
    bound = raw.config.clip_qkv
    return seen[0].unflatten(-1, (-1, model.cfg.d_head)).clamp(-bound, bound)


@every_kind
def test_edits_equal_the_same_edits_by_hand(name: str) -> None:
    raw, model, kwargs = served(name)
    block, at = parts_of(raw)
    plain, shared = logits(raw, kwargs), raw.config.model_type == "albert"
    places = {
        "attn.hook_z": (find(block, at.o), "in", 1.0),
        "hook_attn_out": (find(block, at.attn_out), "out", factor_of(raw)),
        "hook_mlp_out": (find(block, at.mlp_out), "out", factor_of(raw)),
    }
    for short, (module, end, factor) in places.items():
        site = f"blocks.1.{short}"
        new = model.capture(kwargs, site)[site].flip(1) * 1.5 + 0.1
        calls = iter(range(9))

        def put(old: Tensor, new: Tensor = new, factor: float = factor, calls: Any = calls) -> Tensor:
            return (new / factor).reshape(old.shape) if not shared or next(calls) == 1 else old

        def into(_: nn.Module, args: tuple, put: Any = put) -> Any:
            return (put(args[0]), *args[1:])

        def out(_: nn.Module, __: tuple, output: Any, put: Any = put) -> Any:
            return (put(output[0]), *output[1:]) if isinstance(output, tuple) else put(output)

        assert module is not None
        handle = module.register_forward_pre_hook(into) if end == "in" else module.register_forward_hook(out)
        with handle:
            expected = logits(raw, kwargs)
        edited = model.run_with_hooks(kwargs, [interp.patch(site, new)])
        assert close(edited, expected), site
        assert not close(edited, plain), site


@every_kind
def test_edits_of_the_middle_of_a_block_reach_the_stream_too(name: str) -> None:
    raw, model, kwargs = served(name)
    site, p = "blocks.1.hook_resid_mid", "blocks.1."
    if model.cfg.style == "parallel":
        with pytest.raises(interp.errors.SiteError, match="no site"):
            model.capture(kwargs, site)
        return
    acts = model.capture(kwargs, [f"{p}hook_resid_pre", site])
    target = acts[site].flip(1) * 1.5
    direct = model.run_with_hooks(kwargs, [interp.patch(site, target)])
    through = model.run_with_hooks(
        kwargs, [interp.patch(f"{p}hook_attn_out", target - acts[f"{p}hook_resid_pre"])]
    )
    assert close(direct, through)
    assert not close(direct, logits(raw, kwargs))


@pytest.mark.parametrize("name", [n for n in NAMES if n.partition(":")[0] not in UNREACHED])
def test_an_edited_pattern_is_the_values_averaged_with_it(name: str) -> None:
    raw, model, kwargs = served(name)
    p = "blocks.1.attn."
    pattern = model.capture(kwargs, f"{p}hook_pattern")[f"{p}hook_pattern"]
    new = pattern.roll(1, 1) * 0.7 + 0.05
    v = _wide(_values(raw, model, kwargs), new.shape[1])
    direct = model.run_with_hooks(kwargs, [interp.patch(f"{p}hook_pattern", new)])
    z = torch.einsum("bhqk,bkhd->bqhd", new, v)
    assert close(direct, model.run_with_hooks(kwargs, [interp.patch(f"{p}hook_z", z)]))
    assert not close(direct, logits(raw, kwargs))


@every_kind
def test_the_logit_is_the_sum_of_its_parts_or_says_why_not(name: str) -> None:
    _, model, kwargs = served(name)
    ids = kwargs["input_ids"][:1]
    if model.cfg.style == "post":
        with pytest.raises(interp.errors.ModelError, match="no sum of its parts"):
            interp.direct_logit_attribution(model, ids)
        return
    if not model.cfg.causal:
        with pytest.raises(interp.errors.ModelError, match="not a linear map"):
            interp.direct_logit_attribution(model, ids)
        return
    found = interp.direct_logit_attribution(model, ids, 7)
    assert found.check().ok
    assert torch.allclose(found.values.sum(0), model(ids)[0, :, 7], atol=found.tolerance)


@pytest.mark.parametrize("side", ["left", "right"])
@every_kind
def test_a_padded_row_is_the_row_alone(name: str, side: str) -> None:
    raw, model, kwargs = served(name)
    ids = kwargs["input_ids"]
    pad = torch.full((2, 3), raw.config.pad_token_id or 0)
    padded = torch.cat((pad, ids) if side == "left" else (ids, pad), 1)
    mask = torch.ones_like(padded)
    mask[:, :3] = 0 if side == "left" else 1
    mask[:, -3:] = 0 if side == "right" else 1
    with torch.no_grad():
        output, acts = model.run_with_cache(
            {"input_ids": padded, "attention_mask": mask}, "blocks.1.hook_resid_post"
        )
        alone, own = model.run_with_cache({"input_ids": ids}, "blocks.1.hook_resid_post")
    real = slice(3, None) if side == "left" else slice(None, -3)
    bound = 1e-6 if widest(name) == torch.float64 else 1e-5  # norms round in float32
    assert (output[:, real] - alone).abs().max() < bound * alone.abs().max()
    states = acts["blocks.1.hook_resid_post"][:, real], own["blocks.1.hook_resid_post"]
    assert (states[0] - states[1]).abs().max() < bound * states[1].abs().max()


@pytest.mark.parametrize("name", [n for n in NAMES if n.partition(":")[0] in kinds.MIXTURES])
def test_a_mixtures_choice_and_its_experts_are_sites(name: str) -> None:
    raw, model, kwargs = served(name)
    block, at = parts_of(raw)
    wanted = [f"blocks.1.mlp.hook_{s}" for s in ("router_scores", "experts_out", "expert_indices")]
    result = "blocks.1.mlp.hook_expert_result"
    acts = model.capture(kwargs, [*wanted, result])
    scores, whole, chosen = (acts[site] for site in wanted)
    seen: list[Any] = []
    with find(block, at.router).register_forward_hook(lambda m, a, out: seen.append(out)):  # type: ignore[union-attr]
        plain = logits(raw, kwargs)
    assert torch.equal(chosen.flatten(0, 1), seen[0][2]) and chosen.dtype == torch.int64
    assert torch.equal(scores.flatten(0, 1), seen[0][1])
    # One expert after the other, from its own matrices: an oracle that knows no library.
    x = model.capture(kwargs, "blocks.1.ln2.hook_normalized")["blocks.1.ln2.hook_normalized"]
    x = x * model.sites["blocks.1.ln2.hook_normalized"].module.weight
    assert (_by_expert(raw, find(block, at.experts), x, chosen, scores) - acts[result]).abs().max() < 1e-5
    assert close(acts[result].sum(2), whole)
    # Without its second choice a token is left with the first.
    kept = acts[result].clone()
    kept[:, :, -1] = 0
    edited = model.run_with_hooks(kwargs, [interp.patch(result, kept)])
    less = scores.clone()
    less[:, :, -1] = 0
    assert (edited - model.run_with_hooks(kwargs, [interp.patch(wanted[0], less)])).abs().max() < 1e-6
    assert not close(edited, plain)
    swapped = model.run_with_hooks(kwargs, [interp.patch(wanted[2], (chosen + 1) % 5)])
    assert not close(swapped, plain)


def _by_expert(raw: Any, experts: Any, x: Tensor, chosen: Tensor, scores: Tensor) -> Tensor:
    out = torch.zeros(*chosen.shape, x.shape[-1], dtype=x.dtype)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in chosen.shape)).tolist():
        row, expert = x[index[0], index[1]], int(chosen[tuple(index)])
        if raw.config.model_type == "gpt_oss":
            both = row @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
            gate, up = both[::2].clamp(max=experts.limit), both[1::2].clamp(-experts.limit, experts.limit)
            hidden = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
            made = hidden @ experts.down_proj[expert] + experts.down_proj_bias[expert]
        else:
            gate, up = (experts.gate_up_proj[expert] @ row).chunk(2)
            made = experts.down_proj[expert] @ (nn.functional.silu(gate) * up)
        out[tuple(index)] = made * scores[tuple(index)]
    return out


def test_a_mixture_has_no_neurons_and_says_so() -> None:
    """What wants one projection per MLP is refused before anything runs."""
    _, model, kwargs = served("mixtral:top-2")
    with pytest.raises(interp.errors.ModelError, match="mixture of experts"):
        interp.direct_logit_attribution(model, kwargs["input_ids"][:1], neurons=True)
    with pytest.raises(interp.errors.WeightError, match="mixture of experts"):
        _ = model.W_out
    with pytest.raises(interp.errors.FoldError, match="mixtures of experts"):
        interp.fold(model)


FOLDED = [n for n in NAMES if n.partition(":")[0] in {**kinds.LLAMA_SHAPED, **kinds.OTHER_DECODERS}]


@pytest.mark.parametrize("name", FOLDED)
def test_a_folded_model_is_the_same_or_refused_by_name(name: str) -> None:
    """In float32: most of these norms compute in it whatever the dtype."""
    raw, model, kwargs = served(name, torch.float32)
    values = getattr(raw.config, "clip_qkv", None) is None
    if not values and raw.config.attention_bias:
        with pytest.raises(interp.errors.FoldError, match="clipped"):
            interp.fold(model)
    folded = interp.fold(model, fold_value_biases=values)
    wanted, found = (m(kwargs).log_softmax(-1) for m in (model, folded))
    assert (wanted - found).abs().max() < 1e-4 * wanted.abs().max()
    norm = folded.adapter.ln_final
    gain = getattr(norm, "weight", None)
    offset = 1.0 if "Gemma" in type(norm).__name__ or "1P" in type(norm).__name__ else 0.0
    assert gain is None or torch.equal(gain + offset, torch.ones_like(gain))


@pytest.mark.parametrize("name", ["electra:narrow", "albert:shared"])
def test_narrow_embeddings_have_no_matrix_of_the_stream(name: str) -> None:
    """A norm or a dense layer stands between the table and the stream, at either end."""
    _, model, _ = served(name)
    for weight, why in (("W_E", "a norm stands between"), ("W_U", "changes the width")):
        with pytest.raises(interp.errors.WeightError, match=why):
            getattr(model, weight)
    assert model.sites.shape("hook_embed") == "batch pos d_model=10"
    assert model.sites.shape("hook_full_embed") == "batch pos d_model=24"


def test_a_sink_takes_its_share_of_every_row() -> None:
    """The atlas knows that rows of GPT-OSS sum to less than one, and an edited sink takes more."""
    _, model, kwargs = served("gpt-oss:sinks")
    assert head_atlas(model).check().ok
    site, pattern = "blocks.1.attn.hook_attn_sink", "blocks.1.attn.hook_pattern"
    seen = [
        model.capture(kwargs, pattern, fwd_hooks=[(site, lambda v, hook, by=by: v + by)])[pattern]
        for by in (0, 2)
    ]
    assert (seen[1].sum(-1) < seen[0].sum(-1)).all()
    none = model.capture(kwargs, pattern, fwd_hooks=[(site, lambda v, hook: v - 1e4)])[pattern]
    assert close(none.sum(-1), torch.ones_like(none[..., 0]))  # without a sink rows sum to one
