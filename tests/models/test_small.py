"""The small transformer against HookedTransformer: logits, every hook point, masks, bad input."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from interp.core.errors import ConfigError, ModelError, TokenError
from interp.models.small.config import BOOKKEEPING, UNSUPPORTED, SmallConfig
from interp.models.small.layers import HookPoint
from interp.models.small.model import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    SmallTransformer,
    load_parameters,
    load_small,
    small_files,
)
from interp.models.wrapping import wrap

SIZES: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 22,
    "n_heads": 3,
    "d_head": 7,
    "d_mlp": 17,
    "d_vocab": 29,
    "n_ctx": 13,
}
ROTARY = {"positional_embedding_type": "rotary", "d_head": 6, "rotary_dim": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"normalization_type": None},
    "ln": {"act_fn": "gelu", "normalization_type": "LN", "eps": 1e-3},
    "ln-pre": {"act_fn": "gelu_new", "normalization_type": "LNPre"},
    "rms": {"act_fn": "silu", "normalization_type": "RMS", "gated_mlp": True},
    "rms-pre": {"act_fn": "gelu_fast", "normalization_type": "RMSPre", "d_vocab_out": 5},
    "attention-only": {"attn_only": True, "normalization_type": None, "use_attn_scale": False},
    "bidirectional": {"attention_dir": "bidirectional", "act_fn": "gelu_pytorch_tanh"},
    "rotary": {**ROTARY, "rotary_base": 100.0, "act_fn": "relu2"},
    "rotary-pairs": {**ROTARY, "rotary_adjacent_pairs": True, "gated_mlp": True},
    "solu-ln": {"act_fn": "solu_ln", "normalization_type": "LN", "final_rms": True},
    "solu-ln-pre": {"act_fn": "solu_ln", "normalization_type": "LNPre"},
    "solu": {"act_fn": "solu", "scale_attn_by_inverse_layer_idx": True, "attn_scale": 2.5},
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def make_pair(variant: dict[str, Any], dtype: torch.dtype, **extra: Any) -> tuple[SmallTransformer, Any]:
    """Our model and HookedTransformer with the same random weights, biases and gains included."""
    import transformer_lens as lens

    fields = {**SIZES, **variant}
    cfg = lens.HookedTransformerConfig(**fields, dtype=dtype, device="cpu", **extra)
    reference = lens.HookedTransformer(cfg)
    source = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=source, dtype=dtype))
    ours = SmallTransformer(SmallConfig.from_dict({**fields, "dtype": dtype}))
    load_parameters(ours, reference.state_dict())
    return ours.eval(), reference.eval()


def capture(model: SmallTransformer, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    """The output of every hook point, by plain torch forward hooks; each must fire once."""
    seen: dict[str, torch.Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, HookPoint) and not name.endswith("_input"):

            def keep(_m: object, _i: object, out: torch.Tensor, name: str = name) -> None:
                assert name not in seen, f"{name} fired twice"
                seen[name] = out.detach()

            handles.append(module.register_forward_hook(keep))
    try:
        model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def tokens(batch: int = 3, length: int = 11) -> torch.Tensor:
    source = torch.Generator().manual_seed(7)
    return torch.randint(0, SIZES["d_vocab"], (batch, length), generator=source)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_hooked_transformer(variant: str, dtype: torch.dtype) -> None:
    ours, reference = make_pair(VARIANTS[variant], dtype)
    ids = tokens()
    expected = reference(ids).detach()
    assert expected.std() > 0.1
    assert (ours(ids).detach() - expected).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_hook_point_equals_hooked_transformer(variant: str) -> None:
    dtype = torch.float64
    ours, reference = make_pair(VARIANTS[variant], dtype, use_attn_result=True)
    ids = tokens()
    _, expected = reference.run_with_cache(ids)
    seen = capture(ours, ids)
    own_extra = {f"blocks.{i}.hook_mlp_in" for i in range(2)}  # optional in HookedTransformer
    assert set(seen) - own_extra == set(expected)
    for name in expected:
        theirs, mine = expected[name], seen[name]
        assert mine.shape == theirs.shape, name
        hidden = theirs == -torch.inf
        assert torch.equal(hidden, mine == -torch.inf), name
        gap = (mine - theirs).masked_fill(hidden, 0.0).abs().max()
        assert gap <= 1e-9, f"{name}: {gap}"


def test_split_inputs_equal_hooked_transformer() -> None:
    """An edit of one head's key input: the same logits as `use_split_qkv_input` there."""
    ours, reference = make_pair(VARIANTS["ln"], torch.float64, use_split_qkv_input=True)
    ids, name = tokens(), "blocks.1.hook_k_input"

    def edit(x: torch.Tensor, hook: object = None) -> torch.Tensor:
        x = x.clone()
        x[:, ::2, 1] += 3.0 * torch.arange(x.shape[-1], dtype=x.dtype).sin()
        return x

    expected = reference.run_with_hooks(ids, fwd_hooks=[(name, edit)])
    plain = ours(ids)
    handle = ours.get_submodule(name).register_forward_hook(lambda _m, _i, out: edit(out))
    edited = ours(ids)
    handle.remove()
    assert (edited - plain).abs().max() > 1e-3
    assert (edited - expected).abs().max() <= 1e-9


@pytest.mark.parametrize("variant", ["ln", "rotary", "bidirectional"])
def test_attention_paths_agree_in_value_and_gradient(variant: str) -> None:
    """Fused attention against the explicit pattern, with and without padding."""
    ours, _ = make_pair(VARIANTS[variant], torch.float64)
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    for attention_mask in (None, mask):
        gradients = []
        for explicit in (False, True):
            hook = ours.get_submodule("blocks.0.attn.hook_pattern").register_forward_hook(
                lambda _m, _i, out: out
            )
            if not explicit:
                hook.remove()
            ours.zero_grad()
            loss = ours(ids, attention_mask)[:, -3:].square().mean()
            loss.backward()
            hook.remove()
            gradients.append([p.grad.clone() for p in ours.parameters() if p.grad is not None])
        for fused, plain in zip(*gradients, strict=True):
            assert torch.isfinite(plain).all()
            assert (fused - plain).abs().max() <= 1e-10 * max(1.0, float(plain.abs().max()))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", ["ln", "rotary", "bidirectional"])
def test_padded_batch_equals_one_text_at_a_time(variant: str, side: str) -> None:
    ours, _ = make_pair(VARIANTS[variant], torch.float64)
    texts = [tokens(1, n)[0] for n in (3, 11, 7)]
    ids, mask = torch.full((3, 11), 28), torch.zeros(3, 11, dtype=torch.bool)
    for row, text in enumerate(texts):
        where = slice(11 - len(text), 11) if side == "left" else slice(0, len(text))
        ids[row, where], mask[row, where] = text, True
    batched = ours(ids, mask)
    assert torch.isfinite(batched).all()
    for row, text in enumerate(texts):
        alone = ours(text[None])[0]
        assert (batched[row][mask[row]] - alone).abs().max() <= 1e-12
    assert (ours(ids)[0][mask[0]] - ours(texts[0][None])[0]).abs().max() > 1e-6 or (
        side == "right" and variant != "bidirectional"
    )


def test_left_padding_equals_hooked_transformer() -> None:
    ours, reference = make_pair(VARIANTS["ln"], torch.float64)
    ids, mask = tokens(), torch.ones(3, 11, dtype=torch.long)
    mask[1, :5] = 0
    expected = reference(ids, attention_mask=mask)
    real = mask.bool()
    assert (ours(ids, mask) - expected)[real].abs().max() <= 1e-10


def test_explicit_positions_replace_the_default() -> None:
    ours, _ = make_pair(VARIANTS["ln"], torch.float64)
    ids = tokens(1, 5)
    shifted = ours(ids, position_ids=torch.arange(5)[None] + 3)
    assert (shifted - ours(ids)).abs().max() > 1e-4
    assert torch.equal(ours(ids, position_ids=torch.arange(5)[None]), ours(ids))


def test_results_and_patterns_are_made_only_on_request() -> None:
    ours, _ = make_pair(VARIANTS["ln"], torch.float32)
    fired: list[str] = []
    point = ours.get_submodule("blocks.0.attn.hook_z")
    handle = point.register_forward_hook(lambda *_: fired.append("z"))
    ours(tokens())
    handle.remove()
    assert fired == ["z"]
    assert not ours.get_submodule("blocks.0.attn.hook_pattern").hooked
    seen = capture(ours, tokens())
    result = seen["blocks.0.attn.hook_result"].sum(2) + ours.blocks[0].attn.b_O
    assert (result - seen["blocks.0.hook_attn_out"]).abs().max() <= 1e-5


def test_initial_weights_follow_the_seed_alone() -> None:
    cfg = SmallConfig.from_dict(SIZES)
    torch.manual_seed(1)
    first = SmallTransformer(cfg, seed=3)
    torch.manual_seed(2)
    again, other = SmallTransformer(cfg, seed=3), SmallTransformer(cfg, seed=4)
    assert torch.equal(first.embed.W_E, again.embed.W_E)
    assert not torch.equal(first.embed.W_E, other.embed.W_E)
    spread = torch.cat([p.flatten() for n, p in first.named_parameters() if "W_" in n]).detach().std()
    assert abs(float(spread) - 0.8 / 22**0.5) < 0.01
    first.blocks[0].attn.b_Q.data.fill_(9.0)
    first.init_weights(3)
    assert torch.equal(first.blocks[0].attn.b_Q, torch.zeros(3, 7))
    assert torch.equal(first.ln_final.w, torch.ones(22))


@pytest.mark.parametrize(
    ("ids", "kwargs", "words"),
    [
        (torch.full((1, 3), 29), {}, "token id"),
        (torch.full((1, 3), -1), {}, "token id"),
        (torch.zeros(1, 14, dtype=torch.long), {}, "position"),
        (torch.zeros(1, 3), {}, "integers"),
        (torch.zeros(3, dtype=torch.long), {}, "integers"),
        (torch.zeros(1, 3, dtype=torch.long), {"attention_mask": torch.ones(1, 4)}, "shape"),
        (torch.zeros(1, 3, dtype=torch.long), {"position_ids": torch.full((1, 3), 13)}, "position"),
    ],
)
def test_bad_tokens_are_refused(ids: torch.Tensor, kwargs: dict[str, torch.Tensor], words: str) -> None:
    model = SmallTransformer(SmallConfig.from_dict(SIZES))
    with pytest.raises(TokenError, match=words):
        model(ids, **kwargs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_layer": 3}, "n_layers"),
        ({"n_key_value_heads": 1}, "n_key_value_heads"),
        ({"parallel_attn_mlp": True}, "parallel_attn_mlp"),
        ({"positional_embedding_type": "shortformer"}, "standard, rotary"),
        ({"normalization_type": "batch"}, "normalization_type"),
        ({"act_fn": "tanh"}, "act_fn"),
        ({"attention_dir": "backwards"}, "attention_dir"),
        ({"d_model": 0}, "positive"),
        ({"d_head": True}, "positive"),
        ({"n_heads": -1, "d_head": 5}, "divisor"),
        ({"rotary_dim": 3, "positional_embedding_type": "rotary"}, "even"),
        ({"gated_mlp": True, "act_fn": "solu_ln"}, "gated_mlp"),
        ({"dtype": "int8"}, "dtype"),
        ({"d_vocab": -1}, "positive"),
    ],
)
def test_bad_configurations_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SmallConfig.from_dict({**SIZES, **change})


def test_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match="d_head"):
        SmallConfig.from_dict({k: v for k, v in SIZES.items() if k != "d_head"})


def test_configuration_knows_every_field_of_hooked_transformer() -> None:
    import transformer_lens as lens

    theirs = {f.name for f in dataclasses.fields(lens.HookedTransformerConfig)}
    ours = {f.name: f for f in dataclasses.fields(SmallConfig)}
    assert theirs == ours.keys() | BOOKKEEPING | UNSUPPORTED.keys()
    defaults = {f.name: f.default for f in dataclasses.fields(lens.HookedTransformerConfig)}
    for name, field in ours.items():
        if field.default is not dataclasses.MISSING and name != "dtype":
            assert field.default == defaults[name], name
    for name, values in UNSUPPORTED.items():
        assert values[0] == defaults[name], name


def test_defaults_equal_hooked_transformer_and_round_trip() -> None:
    import transformer_lens as lens

    fields = {"n_layers": 1, "d_model": 22, "d_head": 11, "n_ctx": 5, "d_vocab": 7}
    theirs = lens.HookedTransformerConfig(**fields, device="cpu")
    ours = SmallConfig.from_dict(fields)
    for field in dataclasses.fields(SmallConfig):
        if field.name not in ("dtype", "attn_scale", "initializer_range"):
            assert getattr(ours, field.name) == getattr(theirs, field.name), field.name
    assert ours.attn_scale == pytest.approx(float(theirs.attn_scale))
    assert ours.initializer_range == pytest.approx(float(theirs.initializer_range))
    assert SmallConfig.from_dict(json.loads(json.dumps(ours.to_dict()))) == ours


def write_folder(folder: Any, model: SmallTransformer) -> Any:
    files = small_files(model)
    (folder / CONFIG_FILE).write_text(json.dumps(files[CONFIG_FILE]), encoding="utf-8")
    save_file(files[WEIGHTS_FILE], folder / WEIGHTS_FILE)
    return folder


@pytest.mark.parametrize("variant", ["ln", "rms", "rotary", "attention-only"])
def test_saved_files_load_to_the_same_model(tmp_path: Any, variant: str) -> None:
    model = SmallTransformer(SmallConfig.from_dict({**SIZES, **VARIANTS[variant]}), seed=11)
    loaded = load_small(write_folder(tmp_path, model))
    assert torch.equal(loaded(tokens()), model(tokens()))
    assert loaded.cfg == model.cfg


def test_hooked_transformer_state_dict_loads_with_its_buffers(tmp_path: Any) -> None:
    ours, reference = make_pair(VARIANTS["rotary"], torch.float32)
    state = {k: v.contiguous() for k, v in reference.state_dict().items()}
    assert any(k.endswith("attn.IGNORE") for k in state)
    config = {**SIZES, **VARIANTS["rotary"], "seed": 3, "model_name": "toy", "device": "cpu"}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    save_file(state, tmp_path / WEIGHTS_FILE)
    assert torch.equal(load_small(tmp_path)(tokens()), ours(tokens()))


def test_wrong_parameters_are_named() -> None:
    model = SmallTransformer(SmallConfig.from_dict(SIZES))
    good = {n: p.detach().clone() for n, p in model.named_parameters()}
    before = model.embed.W_E.clone()
    cases = [
        ({k: v for k, v in good.items() if k != "unembed.b_U"}, "missing unembed.b_U"),
        ({**good, "unembed.b_V": good["unembed.b_U"]}, "unexpected unembed.b_V"),
        ({**good, "ln_final.b": torch.zeros(23)}, r"ln_final\.b(.|\n)*\[23\](.|\n)*\[22\]"),
    ]
    for bad, words in cases:
        with pytest.raises(ModelError, match=words):
            load_parameters(model, {**bad, "embed.W_E": before + 1} if words[0] == "l" else bad)
    assert torch.equal(model.embed.W_E, before)


def test_missing_files_and_broken_json_are_named(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match=WEIGHTS_FILE):
        load_small(tmp_path)
    write_folder(tmp_path, SmallTransformer(SmallConfig.from_dict(SIZES)))
    (tmp_path / CONFIG_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="JSON"):
        load_small(tmp_path)


def test_every_site_says_its_axes_and_sizes() -> None:
    rotary = {**SIZES, "positional_embedding_type": "rotary", "rotary_dim": 6, "d_head": 6}
    model = wrap(SmallTransformer(SmallConfig.from_dict(rotary)))
    names = [*model.sites, *model.sites.unlisted]
    assert any(name.endswith("hook_q_input") for name in names)
    ids = torch.randint(0, model.cfg.d_vocab, (2, 5))
    for name in names:
        site, value = model.sites[name], model.capture(ids, [name])[name]
        axes = dict(zip(site.axes.split(), value.shape, strict=True))
        known = dict(zip(site.axes.split(), site.sizes, strict=True))
        assert all(axes[a] == size for a, size in known.items() if size is not None), name
        assert (axes["batch"], axes["pos"]) == (2, 5), name
