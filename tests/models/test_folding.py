"""Folding: equal log-probabilities, the original untouched, TransformerLens's weights, refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp.core.errors import FoldError
from interp.models.adapters.adapter import find
from interp.models.adapters.norms import norm_parts
from interp.models.folding.fold import fold
from interp.models.folding.parts import FoldNorm
from interp.models.hooked import HookedModel
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer, load_parameters
from interp.models.wrapping import wrap
from tests.models import zoo

POST = ("opt-post", "bert", "roberta", "distilbert")
FAMILIES = [name for name in (*zoo.MAKERS, *zoo.UNREACHED) if name not in POST]
CENTRED = ("gpt2", "neox", "neox-sequential", "opt", "gptj", "codegen", "gpt-neo", "falcon", "mpt", "vit")
FLOAT32_INSIDE = ("gemma2", "gemma3", "bloom")
"""These multiply the gain or take the softmax in float32 in a float64 model."""
OFF: dict[str, Any] = {
    "fold_ln": False,
    "center_writing_weights": False,
    "center_unembed": False,
    "fold_value_biases": False,
}


def log_probs(model: HookedModel, given: Any) -> Tensor:
    with torch.no_grad():
        return model(given).log_softmax(-1)


def gap(a: HookedModel, b: HookedModel, given: Any) -> float:
    return float((log_probs(a, given) - log_probs(b, given)).abs().max())


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_bits(module: nn.Module, before: dict[str, Tensor]) -> bool:
    now = module.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[k], v) for k, v in before.items())


def tiny(kind: str, config: str, dtype: torch.dtype = torch.float64, **fields: Any) -> nn.Module:
    """A random Hugging Face model of any class, every parameter drawn."""
    import transformers

    torch.manual_seed(3)
    model = getattr(transformers, kind)(getattr(transformers, config)(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.to(dtype).eval()


GPT2 = {"vocab_size": zoo.V, "n_embd": 24, "n_layer": 2, "n_head": 6, "n_positions": zoo.C, "pad_token_id": 0}
OPT = {
    "vocab_size": zoo.V,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "ffn_dim": 37,
    "max_position_embeddings": zoo.C,
    "word_embed_proj_dim": 24,
}
T5 = {"vocab_size": zoo.V, "d_model": 24, "d_kv": 5, "d_ff": 37, "num_layers": 2, "num_heads": 6}
FALCON = {"vocab_size": zoo.V, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6}


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", FAMILIES)
def test_log_probs_stay_and_the_original_keeps_every_bit(name: str) -> None:
    raw = zoo.make(name, seed=1, dtype=torch.float64)
    if name in FLOAT32_INSIDE:
        with pytest.raises(FoldError, match="computes in float32 inside"):
            fold(wrap(raw))
        raw = raw.float()
    model, before, config = wrap(raw, name="toy"), bits(raw), raw.config.to_dict()
    folded = fold(model)
    given = zoo.inputs(raw)
    assert gap(model, folded, given) <= (1e-5 if name in FLOAT32_INSIDE else 1e-10)
    assert same_bits(raw, before)
    assert raw.config.to_dict() == config
    assert not same_bits(folded.module, before)
    held = ({p.data_ptr() for p in m.parameters()} for m in (raw, folded.module))
    assert not set.intersection(*held)
    assert folded.cfg.model_name == "toy (folded)"
    assert set(model.sites) == set(folded.sites)
    assert any("folded" in note for note in folded.adapter.notes)
    norms_are_plain(name, folded)


def norms_are_plain(name: str, folded: HookedModel) -> None:
    """Gain 1, bias 0, but for Gemma's post-norms and head norms, which no linear map reads."""
    seen = 0
    for path, part in folded.module.named_modules():
        parts = norm_parts(part)
        if parts is None:
            continue
        post = path.endswith(("post_attention_layernorm", "post_feedforward_layernorm"))
        kept = path.endswith(("q_norm", "k_norm", "word_embeddings_layernorm"))
        kept = kept or (post and name.startswith("gemma"))
        gain, bias = FoldNorm(path, part, ()).read()
        assert gain is not None
        assert torch.equal(gain, torch.ones_like(gain)) is not kept, path
        if parts.plus_one and not kept:
            assert not part.weight.any(), path
        if bias is not None and not kept:
            assert not bias.any(), path
        seen += not kept
    assert seen > sum(len(stack.blocks) for stack in folded.adapter.stacks)


@pytest.mark.parametrize("name", CENTRED)
def test_centring_empties_the_mean_of_the_residual_stream_and_of_the_logits(name: str) -> None:
    raw = zoo.make(name, seed=3, dtype=torch.float64)
    model, given = wrap(raw), zoo.inputs(raw)
    folded = fold(model, center_unembed=True)
    stream = "blocks.*.hook_resid_post"
    before, after = model.capture(given, stream), folded.capture(given, stream)
    for site, value in before.items():
        assert value.mean(-1).abs().max() > 1e-2
        assert after[site].mean(-1).abs().max() < 1e-12
        centred = value - value.mean(-1, keepdim=True)
        assert (after[site] - centred).abs().max() < 1e-10
    with torch.no_grad():
        assert folded(given).mean(-1).abs().max() < 1e-12
        assert model(given).mean(-1).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "falcon"])
def test_sites_before_the_gain_do_not_move(name: str) -> None:
    """hook_normalized and the patterns are the same numbers in the folded copy."""
    raw = zoo.make(name, seed=4, dtype=torch.float64)
    model, given = wrap(raw), zoo.inputs(raw)
    folded = fold(model)
    sites = [s for s in model.sites if s.endswith(("hook_normalized", "hook_pattern"))]
    assert sites
    before, after = model.capture(given, sites), folded.capture(given, sites)
    for site in sites:
        assert (before[site] - after[site]).abs().max() < 1e-10, site


def test_each_flag_does_its_own_part_only() -> None:
    raw = zoo.make("gpt2", seed=5, dtype=torch.float64)
    model, given = wrap(raw), zoo.inputs(raw)
    nothing = fold(model, **OFF)
    assert same_bits(nothing.module, bits(raw))
    values = fold(model, **{**OFF, "fold_value_biases": True})
    assert not values.b_V.any()
    assert torch.equal(values.b_Q, model.b_Q) and torch.equal(values.W_E, model.W_E)
    assert (values.b_O - model.b_O).abs().max() > 1e-3
    unembed = fold(model, **{**OFF, "center_unembed": True})
    assert unembed.W_U.mean(-1).abs().max() < 1e-15
    assert torch.equal(unembed.W_E, model.W_E)
    writing = fold(model, **{**OFF, "center_writing_weights": True})
    for name in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
        assert getattr(writing, name).mean(-1).abs().max() < 1e-15, name
        assert getattr(model, name).mean(-1).abs().max() > 1e-3, name
    assert torch.equal(writing.W_U, model.W_U) and torch.equal(writing.W_Q, model.W_Q)
    norms = fold(model, **{**OFF, "fold_ln": True})
    assert torch.equal(norms.W_O, model.W_O) and torch.equal(norms.W_E, model.W_E)
    assert norms.b_V.any()
    for one in (values, unembed, writing, norms):
        assert gap(model, one, given) <= 1e-10


def test_tied_embeddings_come_apart_in_the_copy_only() -> None:
    raw = zoo.make("gpt2", seed=6)
    model = wrap(raw)
    assert raw.lm_head.weight is raw.transformer.wte.weight
    folded = fold(model)
    head, embed = folded.module.lm_head.weight, folded.module.transformer.wte.weight
    assert head.data_ptr() != embed.data_ptr()
    assert folded.module.config.tie_word_embeddings is False
    assert raw.config.tie_word_embeddings is True
    assert raw.lm_head.weight is raw.transformer.wte.weight


def test_folding_twice_changes_nothing_more() -> None:
    raw = zoo.make("neox", seed=7, dtype=torch.float64)
    once = fold(wrap(raw, name="toy"))
    twice = fold(once)
    assert twice.cfg.model_name == "toy (folded)"
    for name, tensor in once.module.state_dict().items():
        assert (twice.module.state_dict()[name] - tensor).abs().max() < 1e-13, name


def test_padding_and_interventions_agree() -> None:
    raw = zoo.make("gpt2", seed=8, dtype=torch.float64)
    model = wrap(raw)
    folded = fold(model)
    ids = zoo.inputs(raw)["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    a, b = log_probs(model, given), log_probs(folded, given)
    assert (a - b)[mask.bool()].abs().max() <= 1e-10

    def zero(value: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(value)

    hooks = [("blocks.1.hook_mlp_out", zero)]
    a, b = (m.run_with_hooks(ids, hooks).log_softmax(-1) for m in (model, folded))
    assert (a - b).abs().max() <= 1e-10
    assert (a - log_probs(model, ids)).abs().max() > 1e-2


@pytest.mark.parametrize("requires", [True, False])
def test_parameters_keep_their_requires_grad(requires: bool) -> None:
    raw = zoo.make("llama", seed=9).requires_grad_(requires)
    folded = fold(wrap(raw))
    assert {p.requires_grad for p in folded.module.parameters()} == {requires}


VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "narrow-opt": ("OPTForCausalLM", "OPTConfig", OPT | {"word_embed_proj_dim": 10}),
    "plain-norm-opt": ("OPTForCausalLM", "OPTConfig", OPT | {"layer_norm_elementwise_affine": False}),
    "no-final-opt": ("OPTForCausalLM", "OPTConfig", OPT | {"_remove_final_layer_norm": True}),
    "biasless-opt": ("OPTForCausalLM", "OPTConfig", OPT | {"enable_bias": False}),
    "falcon-sequential": ("FalconForCausalLM", "FalconConfig", FALCON | {"parallel_attn": False}),
    "falcon-heads": ("FalconForCausalLM", "FalconConfig", FALCON | {"multi_query": False, "bias": True}),
    "falcon-one-norm": (
        "FalconForCausalLM",
        "FalconConfig",
        FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "gpt2-base": ("GPT2Model", "GPT2Config", GPT2),
    "gpt2-classifier": ("GPT2ForSequenceClassification", "GPT2Config", GPT2),
    "t5-base": ("T5Model", "T5Config", T5 | {"num_decoder_layers": 3, "decoder_start_token_id": 0}),
    "t5-encoder": ("T5EncoderModel", "T5Config", T5),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_inside_a_family(variant: str) -> None:
    kind, config, fields = VARIANTS[variant]
    raw = tiny(kind, config, **fields)
    model = wrap(raw)
    folded, given = fold(model), zoo.inputs(raw)
    if "encoder" in variant:
        given = {"input_ids": given["input_ids"]}
    assert gap(model, folded, given) <= 1e-10
    assert not same_bits(folded.module, bits(raw)) or variant == "plain-norm-opt"


@pytest.mark.parametrize("variant", ["gpt2-base", "t5-encoder"])
def test_a_final_norm_that_is_the_output_stays(variant: str) -> None:
    kind, config, fields = VARIANTS[variant]
    raw = tiny(kind, config, **fields)
    model = wrap(raw)
    folded = fold(model)
    assert model.adapter.ln_final is not None and folded.adapter.ln_final is not None
    assert torch.equal(folded.adapter.ln_final.weight, model.adapter.ln_final.weight)


def test_t5_encoder_norm_goes_into_every_cross_attention() -> None:
    raw = zoo.make("t5", seed=10, dtype=torch.float64)
    folded = fold(wrap(raw)).module
    gain = raw.encoder.final_layer_norm.weight
    assert torch.equal(folded.encoder.final_layer_norm.weight, torch.ones_like(gain))
    for i, block in enumerate(raw.decoder.block):
        cross = block.layer[1]
        own = folded.decoder.block[i].layer[1].EncDecAttention
        assert torch.allclose(own.k.weight, cross.EncDecAttention.k.weight * gain)
        assert torch.allclose(own.v.weight, cross.EncDecAttention.v.weight * gain)
        query = cross.EncDecAttention.q.weight * cross.layer_norm.weight
        assert torch.allclose(own.q.weight, query)


VALUES = {
    "codegen": "attn.qkv_proj",
    "falcon": "self_attention.query_key_value",
    "falcon-new": "self_attention.query_key_value",
    "neox": "attention.query_key_value",
    "gpt2": "attn.c_attn",
}


@pytest.mark.parametrize("name", VALUES)
def test_value_biases_leave_fused_projections(name: str) -> None:
    """Exactly the biases of v go: adding noise to what is left changes q or k, which shows."""
    raw = zoo.make(name, seed=11, dtype=torch.float64)
    folded = fold(wrap(raw))
    kv = {"falcon": 1, "falcon-new": zoo.KV, "codegen": 4}.get(name, zoo.H)
    d_head = folded.cfg.d_head
    for block in folded.adapter.stacks[0].blocks:
        fused = find(block, VALUES[name])
        assert fused is not None and isinstance(fused.bias, Tensor)
        assert int((fused.bias == 0).sum()) == kv * d_head


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POST)
def test_post_norm_is_refused(name: str) -> None:
    raw = zoo.make(name, seed=12, dtype=torch.float64)
    model, before = wrap(raw), bits(raw)
    with pytest.raises(FoldError, match="cannot fold post-norm"):
        fold(model)
    with pytest.raises(FoldError, match="cannot centre the writing weights: post-norm"):
        fold(model, fold_ln=False, center_writing_weights=True)
    assert same_bits(raw, before)
    rest = fold(model, fold_ln=False)
    assert gap(model, rest, zoo.inputs(raw)) <= 1e-10
    assert not rest.b_V.any() and model.b_V.any()


@pytest.mark.parametrize(
    ("name", "flag", "words"),
    [
        ("llama", "center_writing_weights", "RMS norms read the mean"),
        ("gemma2", "center_writing_weights", "RMS norms read the mean"),
        ("t5", "center_writing_weights", "RMS norms read the mean"),
        ("bloom", "center_writing_weights", "a norm after the embedding"),
        ("gemma2", "center_unembed", "soft-capped"),
    ],
)
def test_inexact_steps_are_refused_when_asked_for(name: str, flag: str, words: str) -> None:
    model = wrap(zoo.make(name, seed=13))
    with pytest.raises(FoldError, match=words):
        fold(model, **{flag: True})
    fold(model, **{flag: False})


def test_centring_needs_a_head_and_more_than_one_class() -> None:
    with pytest.raises(FoldError, match="no unembedding"):
        fold(wrap(tiny("GPT2Model", "GPT2Config", **GPT2)), center_unembed=True)
    with pytest.raises(FoldError, match="no layer norm stands between"):
        no_final = tiny("OPTForCausalLM", "OPTConfig", **OPT, _remove_final_layer_norm=True)
        fold(wrap(no_final), center_writing_weights=True)
    single = small(d_vocab_out=1, normalization_type="LN")
    with pytest.raises(FoldError, match="single output"):
        fold(single, center_unembed=True)
    assert fold(single).W_U.any()


def test_a_norm_outside_the_table_is_refused() -> None:
    model = wrap(tiny("GPT2LMHeadModel", "GPT2Config", **GPT2, add_cross_attention=True))
    with pytest.raises(FoldError, match=r"does not name blocks\.0\.ln_cross_attn"):
        fold(model)
    bloom = {"vocab_size": zoo.V, "hidden_size": 24, "n_layer": 2, "n_head": 6}
    flag = {"apply_residual_connection_post_layernorm": True}
    model = wrap(tiny("BloomForCausalLM", "BloomConfig", **bloom, **flag))
    with pytest.raises(FoldError, match="residual branch starts after the norm"):
        fold(model)


def test_a_hidden_reader_of_a_norm_is_found_by_running_both() -> None:
    """A hook feeds the final norm's output to somebody the architecture knows nothing about."""
    raw = zoo.make("gpt2", seed=14, dtype=torch.float64)
    seen: list[Tensor] = []
    raw.transformer.ln_f.register_forward_hook(lambda _m, _i, out: seen.append(out))
    raw.transformer.h[0].mlp.c_proj.register_forward_pre_hook(lambda _m, _i: seen.clear())
    raw.lm_head.register_forward_hook(lambda _m, _i, out: out * (1 + seen[-1][..., :1].sigmoid()))
    model = wrap(raw, check=False)
    with pytest.raises(FoldError, match="computes something else"):
        fold(model)


def test_blocks_that_share_modules_are_refused() -> None:
    raw = zoo.make("llama", seed=15)
    raw.model.layers[1] = raw.model.layers[0]
    with pytest.raises(FoldError, match="share a module"):
        fold(wrap(raw, check=False))
    shared = zoo.make("llama", seed=15, dtype=torch.float64)
    # Tied tensors in modules of their own are fine: they come apart.
    shared.model.layers[1].mlp.gate_proj.weight = shared.model.layers[0].mlp.gate_proj.weight
    model = wrap(shared)
    assert gap(model, fold(model), zoo.inputs(shared)) <= 1e-10


def test_weights_that_cannot_be_read_are_refused() -> None:
    half = wrap(zoo.make("llama", dtype=torch.bfloat16))
    with pytest.raises(FoldError, match="cannot fold in bfloat16"):
        fold(half)
    raw = zoo.make("llama")
    packed = raw.model.layers[1].mlp.up_proj
    packed.weight = nn.Parameter(packed.weight.detach().to(torch.int8), requires_grad=False)
    with pytest.raises(FoldError, match=r"mlp\.up_proj is not a plain floating-point matrix"):
        fold(wrap(raw, check=False))
    raw = zoo.make("llama")
    raw.model.layers[2].self_attn.o_proj.to("meta")
    with pytest.raises(FoldError, match="offloaded"):
        fold(wrap(raw, check=False))
    raw = zoo.make("llama")
    raw.model.layers[0].self_attn.q_proj = nn.Sequential(raw.model.layers[0].self_attn.q_proj)
    with pytest.raises(FoldError, match=r"self_attn\.q_proj is not a plain linear map"):
        fold(wrap(raw, check=False))


def test_models_nothing_is_known_about_are_refused() -> None:
    import transformer_lens as lens

    guest = lens.HookedTransformer(
        lens.HookedTransformerConfig(
            n_layers=1, d_model=6, d_head=3, n_ctx=7, d_vocab=11, act_fn="relu", device="cpu"
        )
    )
    for module in (guest, nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 5))):
        with pytest.raises(FoldError, match="nothing is known about which maps read its norms"):
            fold(wrap(module))


# --- the small transformer, against TransformerLens -----------------------------------------

SIZES: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 22,
    "n_heads": 3,
    "d_head": 7,
    "d_mlp": 17,
    "d_vocab": 29,
    "n_ctx": 13,
    "act_fn": "gelu",
}
ROTARY = {"positional_embedding_type": "rotary", "d_head": 6, "rotary_dim": 4}
SMALL: dict[str, dict[str, Any]] = {
    "plain": {"normalization_type": None},
    "ln": {"normalization_type": "LN", "eps": 1e-3},
    "ln-pre": {"normalization_type": "LNPre"},
    "rms": {"normalization_type": "RMS", "act_fn": "silu"},
    "rms-gated": {"normalization_type": "RMS", "gated_mlp": True},
    "rms-pre": {"normalization_type": "RMSPre", "d_vocab_out": 5},
    "attention-only": {"attn_only": True, "normalization_type": "LN"},
    "bidirectional": {"attention_dir": "bidirectional", "normalization_type": "LN"},
    "rotary": {**ROTARY, "normalization_type": "LN", "d_vocab_out": 5},
    "solu-ln": {"act_fn": "solu_ln", "normalization_type": "LN"},
}


def small(seed: int = 0, dtype: str = "float64", **fields: Any) -> HookedModel:
    module = SmallTransformer(SmallConfig.from_dict({**SIZES, "dtype": dtype, **fields}))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
            parameter.copy_(0.2 * noise + (1.0 if name.endswith(".w") else 0.0))
    return wrap(module.eval(), name="small")


def ids() -> Tensor:
    return torch.randint(0, 29, (3, 11), generator=torch.Generator().manual_seed(7))


@pytest.mark.thin(2)
@pytest.mark.parametrize("flags", [{}, {"fold_ln": False}, {"fold_value_biases": False}, OFF], ids=str)
@pytest.mark.parametrize("variant", SMALL)
def test_weights_equal_those_transformer_lens_processes(variant: str, flags: dict[str, Any]) -> None:
    import transformer_lens as lens

    if variant == "solu-ln" and flags.get("fold_ln") is False:
        flags = {**flags, "fold_ln": True}  # TransformerLens only knows the folded form
    fields = {**SIZES, **SMALL[variant]}
    model = small(dtype="float32", **SMALL[variant])
    reference = lens.HookedTransformer(lens.HookedTransformerConfig(**fields, device="cpu"))
    start = {k: v.clone() for k, v in reference.state_dict().items()}
    start |= {k: v.clone() for k, v in model.module.state_dict().items()}
    reference.load_and_process_state_dict(start, **flags)
    folded = fold(model, **flags)
    theirs, ours = dict(reference.named_parameters()), dict(folded.module.named_parameters())
    compared = [name for name in ours if not name.endswith((".w", ".b"))]
    assert set(compared) == {n for n in theirs if not n.endswith((".w", ".b"))}
    for name in compared:
        assert (theirs[name] - ours[name]).abs().max() <= 2e-6, name
    with torch.no_grad():
        assert (reference(ids()) - folded(ids())).abs().max() <= 1e-5
    assert gap(model, folded, ids()) <= 1e-5


@pytest.mark.parametrize("variant", SMALL)
def test_small_log_probs_stay(variant: str) -> None:
    model = small(**SMALL[variant])
    before = bits(model.module)
    folded = fold(model)
    assert gap(model, folded, ids()) <= 1e-10
    assert same_bits(model.module, before)
    for name, parameter in folded.module.named_parameters():
        if name.endswith((".w", ".b")):
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith(".w"))))


def test_final_rms_keeps_the_mean() -> None:
    """TransformerLens centres the unembedding behind an RMS norm too; that would not be exact."""
    model = small(normalization_type="LN", final_rms=True)
    assert gap(model, fold(model), ids()) <= 1e-10
    with pytest.raises(FoldError, match="do not remove the mean"):
        fold(model, center_writing_weights=True)


def test_gated_layer_norm_bias_is_refused_where_transformer_lens_is_wrong() -> None:
    """The gate has no bias to take up the norm's; without one in the norm the fold is exact."""
    import transformer_lens as lens

    fields = {"normalization_type": "LN", "gated_mlp": True}
    model = small(dtype="float32", **fields)
    with pytest.raises(FoldError, match=r"mlp\.W_in has no bias that could take up"):
        fold(model)
    reference = lens.HookedTransformer(lens.HookedTransformerConfig(**SIZES, **fields, device="cpu"))
    start = dict(reference.state_dict()) | copy.deepcopy(dict(model.module.state_dict()))
    reference.load_and_process_state_dict(start)
    wrong = (reference(ids()).log_softmax(-1) - log_probs(model, ids())).abs().max()
    assert wrong > 1e-3
    biasless = {
        n: torch.zeros_like(p) if n.endswith("ln2.b") else p.detach()
        for n, p in model.module.named_parameters()
    }
    load_parameters(model.module, biasless)  # type: ignore[arg-type]
    assert gap(model, fold(model), ids()) <= 1e-5


def test_coders_are_spliced_after_folding() -> None:
    class Coder(nn.Module):
        site_in = site_out = "blocks.0.hook_resid_post"

        def __init__(self) -> None:
            super().__init__()
            self.W_enc, self.W_dec = (nn.Parameter(torch.randn(22, 31)), nn.Parameter(torch.randn(31, 22)))

        def encode(self, x: Tensor) -> Tensor:
            return (x @ self.W_enc.to(x.dtype)).relu()

        def decode(self, z: Tensor) -> Tensor:
            return z @ self.W_dec.to(z.dtype)

    model = small(normalization_type="LN")
    with pytest.raises(FoldError, match="coders spliced in"):
        fold(model.with_coder(Coder()))
    spliced = fold(model).with_coder(Coder())
    assert gap(model, spliced, ids()) <= 1e-10
