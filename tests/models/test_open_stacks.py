"""Encoder-decoders, images, two towers and state-space models: their sites, proved.

Held against transformers' own reports (hidden states, attentions), plain torch hooks and arithmetic.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.core.errors import ModelError, SiteError, WeightError
from tests.models import kinds
from tests.models.kinds import FULL

DTYPES = [torch.float32, torch.float64] if FULL else [torch.float64]
"""Push builds each model once; XGLM, the folded and the bundled ones are float32 there too."""
BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}
WHOLE = kinds.named(kinds.MORE, FULL) + ([] if FULL else ["clip:both"])
CODERS = [n for n in WHOLE if n.partition(":")[0] in kinds.CODERS]
STATES = [n for n in WHOLE if n.partition(":")[0] in kinds.STATES]
TOWERS = [n for n in WHOLE if n.endswith(":both")]
ONE = [n for n in WHOLE if n.partition(":")[0] in kinds.VISION and n not in TOWERS]


@cache
def served(
    name: str, dtype: torch.dtype = torch.float64
) -> tuple[Any, interp.HookedModel, dict[str, Tensor]]:
    raw = kinds.make(name, dtype=dtype)
    return raw, interp.wrap(raw), given(raw, dtype)


def given(raw: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    draw, config = torch.Generator().manual_seed(0), raw.config
    ids = torch.randint(5, kinds.V, (2, 7), generator=draw)
    pixels = torch.randn(2, 3, 12, 12, generator=draw).to(dtype)
    later = torch.randint(5, kinds.V, (2, 5), generator=draw)
    if config.model_type == "whisper":
        mel = torch.randn(2, 5, 18, generator=draw).to(dtype)
        return {"input_features": mel, "decoder_input_ids": later}
    if config.model_type in ("clip", "siglip"):
        return {"input_ids": ids, "pixel_values": pixels}
    if config.is_encoder_decoder:
        return {"input_ids": ids, "decoder_input_ids": later}
    return {"pixel_values": pixels} if "pixel_values" in raw.main_input_name else {"input_ids": ids}


def main(output: Any) -> Tensor:
    for name in ("logits", "logits_per_image", "image_embeds", "last_hidden_state"):
        if getattr(output, name, None) is not None:
            return getattr(output, name)
    return output if isinstance(output, Tensor) else output[0]


def run(raw: nn.Module, kwargs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return main(raw(**kwargs))


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= BOUND[b.dtype] * b.abs().max().clamp(min=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", WHOLE)
def test_outputs_are_the_raw_models_and_every_site_fires(name: str, dtype: torch.dtype) -> None:
    raw, model, kwargs = served(name, dtype)
    expected = run(raw, kwargs)
    assert not model.adapter.unproved
    with torch.no_grad():
        output, acts = model.run_with_cache(kwargs)
    assert close(main(output), expected)
    assert set(acts) == set(model.sites) and len(acts) > 20
    for site, value in acts.items():
        sizes = model.sites[site].sizes
        assert value.isfinite().all() and len(sizes) == value.dim(), site
        for size, got in zip(sizes, value.shape, strict=True):
            assert size is None or size == got, (site, value.shape)
    same = model.run_with_hooks(kwargs, [(lambda n: True, lambda v, hook: v.clone())])
    assert close(main(same), expected)


def _stacks(name: str) -> list[tuple[str, str, str]]:
    """(sites' prefix, transformers' report of its states, of its patterns)."""
    if name in CODERS:
        return [
            ("encoder_blocks", "encoder_hidden_states", "encoder_attentions"),
            ("decoder_blocks", "decoder_hidden_states", "decoder_attentions"),
        ]
    return [("blocks", "hidden_states", "" if name in STATES else "attentions")]


@pytest.mark.parametrize("name", [*CODERS, *ONE, *STATES])
def test_streams_and_patterns_are_what_transformers_reports(name: str) -> None:
    _, model, kwargs = served(name)
    eager = kinds.make(name, dtype=torch.float64)
    asked = {"output_hidden_states": True}
    if name not in STATES:
        eager.set_attn_implementation("eager")
        asked["output_attentions"] = True
    with torch.no_grad():
        report = eager(**kwargs, **asked)
    acts = model.run_with_cache(kwargs)[1]
    for prefix, states, patterns in _stacks(name):
        layers = [s for s in model.sites if s.startswith(f"{prefix}.") and s.endswith("hook_resid_pre")]
        assert len(layers) >= 2
        for layer in range(len(layers)):
            found = acts[f"{prefix}.{layer}.hook_resid_pre"]
            # Eager attention normalises in float32 in most families.
            # Mamba reports what leaves its blocks.
            end = acts[f"{prefix}.{layer}.hook_resid_post"] if name in STATES else found
            assert (end - report[states][layer]).abs().max() < 1e-5 * end.abs().max(), (prefix, layer)
            if patterns:
                attn = "self_attn" if prefix == "decoder_blocks" else "attn"
                pattern = acts[f"{prefix}.{layer}.{attn}.hook_pattern"]
                assert (pattern - report[patterns][layer]).abs().max() < 1e-5
            if prefix == "decoder_blocks":
                cross = acts[f"{prefix}.{layer}.cross_attn.hook_pattern"]
                assert (cross - report.cross_attentions[layer]).abs().max() < 1e-5


def blocks_of(model: interp.HookedModel) -> list[str]:
    return [s.removesuffix("hook_resid_pre") for s in model.sites if s.endswith("hook_resid_pre")]


@pytest.mark.parametrize("name", WHOLE)
def test_parts_add_up(name: str) -> None:
    _, model, kwargs = served(name)
    acts = model.run_with_cache(kwargs)[1]
    for p in blocks_of(model):
        v = {s.removeprefix(p): acts[s] for s in model.sites if s.startswith(p)}
        if name in STATES:
            assert close(v["hook_resid_pre"] + v["hook_mixer_out"], v["hook_resid_post"])
            continue
        assert close(v["hook_resid_pre"] + v["hook_attn_out"], v["hook_resid_mid"])
        mid = v["hook_resid_mid"]
        post = f"{p}hook_normalized_resid_post" in model.sites
        if post:
            mid = _normalised(model, f"{p}ln1", v["ln1.hook_normalized"])
        if "hook_cross_attn_out" in v:
            assert close(mid + v["hook_cross_attn_out"], v["hook_resid_mid_cross"])
            mid = v["hook_resid_mid_cross"]
            mid = _normalised(model, f"{p}ln2", v["ln2.hook_normalized"]) if post else mid
        assert close(mid + v["hook_mlp_out"], v["hook_resid_post"])
        for attn in ("attn", "self_attn", "cross_attn"):
            if f"{attn}.hook_pattern" in v:
                pattern = v[f"{attn}.hook_pattern"]
                assert close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
                assert close(v[f"{attn}.hook_attn_scores"].softmax(-1), pattern)
                z = torch.einsum("bhqk,bkhd->bqhd", pattern, v[f"{attn}.hook_v"])
                assert close(z, v[f"{attn}.hook_z"])


def _normalised(model: interp.HookedModel, norm: str, value: Tensor) -> Tensor:
    held: Any = model.sites[f"{norm}.hook_normalized"].module
    return value * held.weight + held.bias


@pytest.mark.parametrize("name", WHOLE)
def test_edits_equal_the_same_edits_by_hand(name: str) -> None:
    raw, model, kwargs = served(name)
    plain = run(raw, kwargs)
    p = next(p for p in blocks_of(model) if ".1." in p and not p.startswith("encoder"))
    wanted = [s for s in ("attn.hook_z", "self_attn.hook_z", "cross_attn.hook_z") if f"{p}{s}" in model.sites]
    wanted += [s for s in ("hook_attn_out", "hook_mlp_out", "hook_mixer_out") if f"{p}{s}" in model.sites]
    for short in wanted:
        site = f"{p}{short}"
        new = model.capture(kwargs, site)[site].flip(1) * 1.5 + 0.1
        module, end = model.sites[site].module, model.sites[site].kind

        def into(_: nn.Module, args: tuple, new: Tensor = new) -> Any:
            return (new.reshape(args[0].shape), *args[1:])

        def out(_: nn.Module, __: tuple, output: Any, new: Tensor = new) -> Any:
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handle = module.register_forward_pre_hook(into) if end == "in" else module.register_forward_hook(out)
        with handle:
            expected = run(raw, kwargs)
        edited = main(model.run_with_hooks(kwargs, [interp.patch(site, new)]))
        assert close(edited, expected) and not close(edited, plain), site
    for mid, part, before in (
        ("hook_resid_mid", "hook_attn_out", "hook_resid_pre"),
        ("hook_resid_mid_cross", "hook_cross_attn_out", "hook_resid_mid"),
    ):
        if f"{p}{mid}" not in model.sites or (model.cfg.style == "post" and mid.endswith("cross")):
            continue
        acts = model.capture(kwargs, [f"{p}{before}", f"{p}{mid}"])
        target = acts[f"{p}{mid}"].flip(1) * 1.5
        direct = main(model.run_with_hooks(kwargs, [interp.patch(f"{p}{mid}", target)]))
        through = interp.patch(f"{p}{part}", target - acts[f"{p}{before}"])
        assert close(direct, main(model.run_with_hooks(kwargs, [through])))
        assert not close(direct, plain)


@pytest.mark.parametrize("name", [n for n in WHOLE if n not in STATES])
def test_an_edited_pattern_is_the_values_averaged_with_it(name: str) -> None:
    _, model, kwargs = served(name)
    for p in [s.removesuffix("hook_pattern") for s in model.sites if s.endswith("hook_pattern")][1::2]:
        acts = model.capture(kwargs, [f"{p}hook_pattern", f"{p}hook_v"])
        new = acts[f"{p}hook_pattern"].roll(1, 1) * 0.7 + 0.05
        z = torch.einsum("bhqk,bkhd->bqhd", new, acts[f"{p}hook_v"])
        direct = main(model.run_with_hooks(kwargs, [interp.patch(f"{p}hook_pattern", new)]))
        assert close(direct, main(model.run_with_hooks(kwargs, [interp.patch(f"{p}hook_z", z)]))), p


@pytest.mark.parametrize("name", CODERS)
def test_a_decoders_logit_is_the_sum_of_its_parts_or_says_why_not(name: str) -> None:
    _, model, kwargs = served(name)
    one = {k: v[:1] for k, v in kwargs.items()}
    logits = main(model(one))
    last = f"decoder_blocks.1.hook_{'normalized_' if model.cfg.style == 'post' else ''}resid_post"
    stream = model.capture(one, last)[last]
    assert close(model.unembed(model.ln_final(stream)), logits)
    bias = model.b_U
    norm = model.ln_final(stream)
    if model.cfg.family != "T5":
        assert close(norm @ model.W_U + bias, logits)
    if model.cfg.style == "post":
        with pytest.raises(ModelError, match="no sum of its parts"):
            interp.direct_logit_attribution(model, one)
    else:
        assert interp.direct_logit_attribution(model, one, 7).check().ok


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [n for n in CODERS if not n.startswith("whisper")])
def test_a_padded_source_is_the_source_alone_or_refused(name: str, side: str) -> None:
    raw, model, kwargs = served(name)
    ids = kwargs["input_ids"]
    pad = torch.full((2, 3), raw.config.pad_token_id or 0)
    padded = torch.cat((pad, ids) if side == "left" else (ids, pad), 1)
    mask = torch.cat((0 * pad, 0 * ids + 1) if side == "left" else (0 * ids + 1, 0 * pad), 1)
    asked = {"input_ids": padded, "attention_mask": mask, "decoder_input_ids": kwargs["decoder_input_ids"]}
    if side in model._intake.padding_proved().refused:
        with pytest.raises(interp.InterpError, match=f"padding on the {side}|left padding"):
            model(asked)
        return
    assert (main(model(asked)) - main(model(kwargs))).abs().max() < 1e-5


@pytest.mark.parametrize("name", STATES)
def test_a_state_space_model_pretends_no_attention(name: str) -> None:
    raw, model, kwargs = served(name)
    assert not [s for s in model.sites if "attn" in s or "mlp" in s]
    with pytest.raises(SiteError):
        model.capture(kwargs, "blocks.0.attn.hook_pattern")
    with pytest.raises(WeightError, match="no W_Q"):
        _ = model.W_Q
    with pytest.raises(interp.errors.FoldError, match="mixer"):
        interp.fold(model)
    ids = kwargs["input_ids"][:1]
    found = interp.direct_logit_attribution(model, ids, 7)
    assert found.check().ok and torch.allclose(found.values.sum(0).float(), model(ids)[0, :, 7], atol=1e-5)
    # What a mixer's projections hand on: B and C are slices of one product of the convolved input.
    if name.startswith("mamba:"):
        acts = model.capture(kwargs, ["blocks.1.mixer.hook_B", "blocks.1.mixer.hook_C"])
        seen: list[Tensor] = []
        with raw.backbone.layers[1].mixer.x_proj.register_forward_hook(lambda m, a, out: seen.append(out)):
            run(raw, kwargs)
        size, rank = raw.config.state_size, raw.config.time_step_rank
        assert torch.equal(acts["blocks.1.mixer.hook_B"], seen[0][..., rank : rank + size])
        assert torch.equal(acts["blocks.1.mixer.hook_C"], seen[0][..., rank + size :])


@pytest.mark.parametrize("name", TOWERS)
def test_two_towers_are_each_of_them_alone(name: str) -> None:
    raw, model, kwargs = served(name)
    acts = model.run_with_cache(kwargs)[1]
    for side, key in (("text", "input_ids"), ("vision", "pixel_values")):
        tower = interp.wrap(getattr(raw, f"{side}_model"))
        alone = tower.run_with_cache({key: kwargs[key]})[1]
        for site in tower.sites:
            assert close(acts[f"{side}_{site}"], alone[site]), site
    if name.startswith("clip"):
        with torch.no_grad():
            wanted = raw(**kwargs)
        shared = acts["vision_hook_projection"]
        assert close(shared / shared.norm(dim=-1, keepdim=True), wanted.image_embeds)
    with pytest.raises(interp.InterpError):
        model.capture(kwargs, "vision_blocks.0.hook_resid_pre", positions=0)
