"""Tiny random models of the families that people open, with the variants of each.

`KINDS[family]` maps variant -> maker; the first variant is the one that the push suite runs. Sizes
are those of `zoo`: no axis mix-up survives them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.zoo import _BERT, _GQA, DH, C, D, H, L, M, V

FULL = os.environ.get("INTERP_FULL") == "1"
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
_BART = {
    "vocab_size": V,
    "d_model": D,
    "encoder_layers": L,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": H,
    "encoder_ffn_dim": 29,
    "decoder_ffn_dim": M,
    "max_position_embeddings": C,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_T5 = {"vocab_size": V, "d_model": D, "d_kv": 5, "d_ff": M, "num_layers": L, "num_decoder_layers": 2}
_SPEECH = {k: v for k, v in _BART.items() if k != "max_position_embeddings"} | {
    "num_mel_bins": 5,
    "max_source_positions": 9,
    "max_target_positions": C,
    "begin_suppress_tokens": None,
}
CODERS: dict[str, dict[str, Maker]] = {
    "bart": {
        "scaled": _of("Bart", _BART, "ForConditionalGeneration", scale_embedding=True),
        "plain": _of("Bart", _BART, "ForConditionalGeneration"),
    },
    "marian": {
        "shared": _of("Marian", _BART, "MTModel", scale_embedding=True),
        "apart": _of(
            "Marian",
            _BART,
            "MTModel",
            share_encoder_decoder_embeddings=False,
            decoder_vocab_size=V,
            tie_word_embeddings=False,
        ),
    },
    "m2m-100": {"scaled": _of("M2M100", _BART, "ForConditionalGeneration")},
    "umt5": {
        "gated": _of("UMT5", _T5, "ForConditionalGeneration", num_heads=H, decoder_start_token_id=0),
        "plain": _of(
            "UMT5",
            _T5,
            "ForConditionalGeneration",
            num_heads=H,
            decoder_start_token_id=0,
            feed_forward_proj="relu",
        ),
    },
    "whisper": {"speech": _of("Whisper", _SPEECH, "ForConditionalGeneration")},
}
_IMAGE = {
    "image_size": 12,
    "patch_size": 4,
    "hidden_size": D,
    "num_hidden_layers": L,
    "num_attention_heads": H,
    "intermediate_size": M,
}
_TEXT = _BERT | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "projection_dim": 9}
_BOTH = {"text_config": _TEXT, "vision_config": _IMAGE | {"projection_dim": 9}, "projection_dim": 9}
VISION: dict[str, dict[str, Maker]] = {
    "deit": {"classes": _of("DeiT", _IMAGE, "ForImageClassification", num_labels=7)},
    "dinov2": {
        "plain": _of("Dinov2", _IMAGE, "Model", mlp_ratio=2, layerscale_value=0.7),
        "classes": _of("Dinov2", _IMAGE, "ForImageClassification", mlp_ratio=2, num_labels=7),
        "gated": _of("Dinov2", _IMAGE, "Model", use_swiglu_ffn=True),
    },
    "dinov3": {
        "plain": _of("DINOv3ViT", _IMAGE, "Model", num_register_tokens=2, layerscale_value=0.7),
        "gated": _of("DINOv3ViT", _IMAGE, "Model", use_gated_mlp=True),
    },
    "siglip": {
        "vision": _of("SiglipVision", _IMAGE, "Model"),
        "text": _of("SiglipText", _TEXT, "Model"),
        "both": _of("Siglip", {k: v for k, v in _BOTH.items() if k != "projection_dim"}, "Model"),
    },
    "clip": {
        "vision": _of("CLIPVision", _IMAGE, "Model", projection_dim=9),
        "text": _of("CLIPText", _TEXT, "Model"),
        "both": _of("CLIP", _BOTH, "Model"),
        "projected": _of("CLIPVision", _IMAGE, "ModelWithProjection", projection_dim=9),
    },
}
_MAMBA = {"vocab_size": V, "hidden_size": D, "num_hidden_layers": L, "state_size": 5}
STATES: dict[str, dict[str, Maker]] = {
    "mamba": {"plain": _of("Mamba", _MAMBA, residual_in_fp32=False, time_step_rank=3)},
    "mamba2": {
        "heads": _of(
            "Mamba2",
            _MAMBA,
            residual_in_fp32=False,
            num_heads=6,
            head_dim=8,
            expand=2,
            n_groups=2,
            chunk_size=4,
        )
    },
}
KINDS: dict[str, dict[str, Maker]] = LLAMA_SHAPED | OTHER_DECODERS | MIXTURES | ENCODERS
MORE: dict[str, dict[str, Maker]] = CODERS | VISION | STATES
"""Two stacks, images, two towers, no attention: tests of their own."""


def named(families: dict[str, dict[str, Maker]], every: bool) -> list[str]:
    """`family:variant` of all variants, or of each family's first."""
    return [
        f"{family}:{v}"
        for family, variants in families.items()
        for v in list(variants)[: None if every else 1]
    ]


FIRST, EVERY = named(KINDS, False), named(KINDS, True)


def make(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """`family:variant` with every parameter drawn (norm gains, biases and sinks too)."""
    import transformers

    family, _, variant = name.partition(":")
    torch.manual_seed(seed)
    model = (KINDS | MORE)[family][variant](transformers)
    with torch.no_grad():
        for parameter in model.parameters():
            if not bool(parameter.isfinite().all()):
                parameter.zero_()
            parameter.add_(torch.randn_like(parameter) * 0.2)
    if dtype == torch.float64 and family in MIXTURES:
        model.set_experts_implementation("eager")  # grouped products know no float64
    return model.to(dtype).eval()
