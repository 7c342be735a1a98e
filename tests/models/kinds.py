"""Tiny random models of the families that people open, with the variants of each.

`KINDS[family]` maps variant -> maker; the first variant is the one that the push suite runs. Sizes
are those of `zoo`: no axis mix-up survives them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.zoo import _BERT, _GQA, DH, C, D, H, L, M, V

Maker = Callable[[Any], Any]
_MHA = {k: v for k, v in _GQA.items() if k != "num_key_value_heads"}
# Grouped products want rows of whole 16 bytes.
_MOE = _GQA | {"num_experts_per_tok": 2, "intermediate_size": 36}


def _of(name: str, sizes: dict[str, Any], task: str = "ForCausalLM", **more: Any) -> Maker:
    """`<name><task>` of `<name>Config` with these settings."""

    def make(t: Any) -> Any:
        return getattr(t, f"{name}{task}")(getattr(t, f"{name}Config")(**{**sizes, **more}))

    return make


_ROPE = {"rope_theta": 10_000.0, "rope_type": "default"}
_HALF = {"rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5}}

LLAMA_SHAPED: dict[str, dict[str, Maker]] = {
    "gemma": {
        "tied": _of("Gemma", _GQA, head_dim=DH),
        "biased": _of("Gemma", _GQA, head_dim=DH + 2, attention_bias=True),
    },
    "phi": {
        "gqa": _of("Phi", _GQA, "ForCausalLM", **_HALF),
        "qk-norm": _of("Phi", _MHA, qk_layernorm=True, **_HALF),
    },
    "stablelm": {
        "sequential": _of("StableLm", _GQA, "ForCausalLM", **_HALF),
        "parallel": _of("StableLm", _GQA, use_parallel_residual=True, use_qkv_bias=True, **_HALF),
        "qk-norm": _of("StableLm", _GQA, qk_layernorm=True, **_HALF),
    },
    "cohere": {
        "scaled": _of("Cohere", _GQA, logit_scale=0.25),
        "qk-norm": _of("Cohere", _GQA, logit_scale=2.0, use_qk_norm=True),
        "biased": _of("Cohere", _GQA, attention_bias=True),
    },
    "cohere2": {
        "sliding": _of("Cohere2", _GQA, head_dim=DH, sliding_window=3, logit_scale=0.25),
        "biased": _of("Cohere2", _GQA, head_dim=DH, attention_bias=True),
    },
    "olmo": {
        "clipped": _of("Olmo", _GQA, clip_qkv=1.0),
        "plain": _of("Olmo", _GQA),
        "biased": _of("Olmo", _GQA, attention_bias=True, tie_word_embeddings=True),
    },
    "olmo2": {"gqa": _of("Olmo2", _GQA), "biased": _of("Olmo2", _MHA, attention_bias=True)},
    "olmo3": {
        "sliding": _of("Olmo3", _GQA, sliding_window=3),
        "biased": _of("Olmo3", _MHA, attention_bias=True),
    },
    "granite": {
        "multiplied": _of(
            "Granite",
            _GQA,
            embedding_multiplier=3.0,
            residual_multiplier=0.22,
            logits_scaling=4.0,
            attention_multiplier=0.3,
        ),
        "biased": _of("Granite", _GQA, attention_bias=True, mlp_bias=True, residual_multiplier=0.5),
    },
    "starcoder2": {
        "sliding": _of("Starcoder2", _GQA, sliding_window=3),
        "unbiased": _of("Starcoder2", _GQA, use_bias=False),
    },
    "smollm3": {
        "nope": _of("SmolLM3", _GQA, no_rope_layer_interval=2),
        "rope": _of("SmolLM3", _GQA, no_rope_layers=[1] * L, attention_bias=True, mlp_bias=True),
    },
    "glm": {"partial": _of("Glm", _GQA, head_dim=DH)},
    "glm4": {
        "partial": _of("Glm4", _GQA, head_dim=DH),
        "biased": _of("Glm4", _GQA, head_dim=DH, attention_bias=True),
    },
    "nemotron": {
        "gqa": _of("Nemotron", _GQA, head_dim=DH),
        "biased": _of("Nemotron", _GQA, head_dim=DH, attention_bias=True, mlp_bias=True),
    },
}
_BIGCODE = {"vocab_size": V, "n_embd": D, "n_layer": L, "n_head": H, "n_inner": M, "n_positions": C}
_XGLM = {"vocab_size": V, "d_model": D, "num_layers": L, "attention_heads": H, "ffn_dim": M}
OTHER_DECODERS: dict[str, dict[str, Maker]] = {
    "gpt-bigcode": {
        "multi-query": _of("GPTBigCode", _BIGCODE),
        "multi-head": _of("GPTBigCode", _BIGCODE, multi_query=False),
    },
    "biogpt": {"scaled": _of("BioGpt", _BERT), "unscaled": _of("BioGpt", _BERT, scale_embedding=False)},
    "xglm": {
        "scaled": _of("XGLM", _XGLM, max_position_embeddings=C),
        "unscaled": _of("XGLM", _XGLM, max_position_embeddings=C, scale_embedding=False),
    },
}
MIXTURES: dict[str, dict[str, Maker]] = {
    "mixtral": {
        "top-2": _of("Mixtral", _MOE, num_local_experts=5),
        "sliding": _of("Mixtral", _MOE, num_local_experts=5, sliding_window=3),
    },
    "qwen2-moe": {
        "shared": _of(
            "Qwen2Moe",
            _MOE,
            num_experts=5,
            moe_intermediate_size=12,
            shared_expert_intermediate_size=13,
            mlp_only_layers=[0],
        ),
        "normed": _of(
            "Qwen2Moe",
            _MOE,
            num_experts=5,
            moe_intermediate_size=12,
            shared_expert_intermediate_size=13,
            norm_topk_prob=True,
        ),
    },
    "qwen3-moe": {
        "some-dense": _of(
            "Qwen3Moe", _MOE, head_dim=DH, num_experts=5, moe_intermediate_size=12, decoder_sparse_step=2
        ),
        "normed": _of(
            "Qwen3Moe", _MOE, head_dim=DH, num_experts=5, moe_intermediate_size=12, norm_topk_prob=True
        ),
    },
    "olmoe": {
        "top-2": _of("Olmoe", _MOE, num_experts=5),
        "clipped": _of("Olmoe", _MOE, num_experts=5, norm_topk_prob=True, clip_qkv=1.0),
    },
    "gpt-oss": {
        "sinks": _of("GptOss", _MOE, head_dim=DH, num_local_experts=5, sliding_window=3),
        "top-1": _of("GptOss", _MOE | {"num_experts_per_tok": 1}, head_dim=DH, num_local_experts=5),
    },
}
_PAD1 = {"pad_token_id": 1}
ENCODERS: dict[str, dict[str, Maker]] = {
    "xlm-roberta": {
        "mlm": _of("XLMRoberta", _BERT, "ForMaskedLM", **_PAD1),
        "decoder": _of("XLMRoberta", _BERT, "ForCausalLM", is_decoder=True, **_PAD1),
    },
    "camembert": {"mlm": _of("Camembert", _BERT, "ForMaskedLM", **_PAD1)},
    "electra": {
        "narrow": _of("Electra", _BERT, "ForMaskedLM", embedding_size=10),
        "wide": _of("Electra", _BERT, "ForMaskedLM", embedding_size=D),
        "discriminator": _of("Electra", _BERT, "ForPreTraining", embedding_size=10),
    },
    "mpnet": {"mlm": _of("MPNet", _BERT, "ForMaskedLM", relative_attention_num_buckets=32)},
    "deberta-v2": {
        "relative": _of(
            "DebertaV2",
            _BERT,
            "ForMaskedLM",
            relative_attention=True,
            pos_att_type=["c2p", "p2c"],
            position_buckets=4,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            position_biased_input=False,
        ),
        "absolute": _of("DebertaV2", _BERT, "ForMaskedLM", type_vocab_size=2),
        "conv": _of("DebertaV2", _BERT, "ForMaskedLM", conv_kernel_size=3, conv_act="gelu"),
    },
    "albert": {
        "shared": _of("Albert", _BERT, "ForMaskedLM", embedding_size=10),
        "groups": _of(
            "Albert", _BERT | {"num_hidden_layers": 4}, "ForMaskedLM", embedding_size=10, num_hidden_groups=2
        ),
    },
    "modernbert": {
        "local": _of(
            "ModernBert",
            _MHA,
            "ForMaskedLM",
            local_attention=4,
            global_attn_every_n_layers=2,
            cls_token_id=1,
            sep_token_id=2,
        ),
        "biased": _of(
            "ModernBert",
            _MHA,
            "ForMaskedLM",
            attention_bias=True,
            mlp_bias=True,
            norm_bias=True,
            cls_token_id=1,
            sep_token_id=2,
        ),
    },
}
KINDS: dict[str, dict[str, Maker]] = LLAMA_SHAPED | OTHER_DECODERS | MIXTURES | ENCODERS
FIRST = [f"{family}:{next(iter(variants))}" for family, variants in KINDS.items()]
EVERY = [f"{family}:{variant}" for family, variants in KINDS.items() for variant in variants]


def make(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """`family:variant` with every parameter drawn (norm gains, biases and sinks too)."""
    import transformers

    family, _, variant = name.partition(":")
    torch.manual_seed(seed)
    model = KINDS[family][variant](transformers)
    with torch.no_grad():
        for parameter in model.parameters():
            if not bool(parameter.isfinite().all()):
                parameter.zero_()
            parameter.add_(torch.randn_like(parameter) * 0.2)
    if dtype == torch.float64 and family in MIXTURES:
        model.set_experts_implementation("eager")  # grouped products know no float64
    return model.to(dtype).eval()
