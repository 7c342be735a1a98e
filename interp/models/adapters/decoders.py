"""Rows of decoders that are Llama's or OPT's with parts exchanged; `families.py` has the first ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from interp.models.adapters.blocks import GPT2, LLAMA, Block, Factors, Family

_GATE_UP = replace(
    LLAMA, mlp_gate="", mlp_up="", mlp_gate_up="mlp.gate_up_proj", activation="mlp.activation_fn"
)
_PLAIN_MLP = replace(LLAMA, mlp_gate="", mlp_up="", mlp_pre="mlp.up_proj")
_ONE_NORM = replace(LLAMA, ln2="")
_NORMS_BEHIND = replace(
    LLAMA,
    ln1="",
    ln2="",
    ln1_post="post_attention_layernorm",
    ln2_post="post_feedforward_layernorm",
    mid="mlp",
    attn_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
)
_MIXTURE = replace(LLAMA, router="mlp.gate", experts="mlp.experts")
"""Where a layer has no experts, its MLP is Llama's (Qwen's mixtures)."""

BART_BLOCK = Block(
    ln1="self_attn_layer_norm",
    ln2="final_layer_norm",
    attn="self_attn",
    attn_out="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.out_proj",
    mlp_out="fc2",
    mlp_pre="fc1",
    mlp_down="fc2",
    activation="activation_fn",
)


def _llama_like(name: str, *model_types: str, block: Block = LLAMA, **more: Any) -> Family:
    """A family of Llama's paths outside the block: rotary, `layers`, `embed_tokens`, `norm`."""
    given: dict[str, Any] = {
        "embed": "embed_tokens",
        "ln_final": "norm",
        "rotary": True,
        "eager_float32": True,
    }
    return Family(name=name, model_types=model_types, blocks="layers", block=block, **{**given, **more})


DECODERS: tuple[Family, ...] = (
    _llama_like("Gemma-1", "gemma"),
    _llama_like("SmolLM3", "smollm3"),
    _llama_like("OLMo", "olmo"),
    _llama_like("OLMo-2", "olmo2", "olmo3", block=_NORMS_BEHIND),
    _llama_like(
        "Granite",
        "granite",
        factors=Factors("embedding_multiplier", "residual_multiplier", logits_over="logits_scaling"),
    ),
    _llama_like("Nemotron", "nemotron", block=_PLAIN_MLP),
    _llama_like(
        "StarCoder2",
        "starcoder2",
        block=replace(
            LLAMA, mlp_gate="", mlp_up="", mlp_pre="mlp.c_fc", mlp_down="mlp.c_proj", activation="mlp.act"
        ),
    ),
    _llama_like("GLM", "glm", block=_GATE_UP),
    _llama_like(
        "GLM-4",
        "glm4",
        block=replace(
            _GATE_UP,
            ln1_post="post_self_attn_layernorm",
            ln2_post="post_mlp_layernorm",
            attn_out="post_self_attn_layernorm",
            mlp_out="post_mlp_layernorm",
        ),
    ),
    _llama_like("StableLM", "stablelm"),
    _llama_like(
        "Cohere",
        "cohere",
        "cohere2",
        block=_ONE_NORM,
        style="parallel",
        factors=Factors(logits="logit_scale"),
    ),
    _llama_like(
        "Phi",
        "phi",
        block=replace(
            _ONE_NORM,
            o="self_attn.dense",
            mlp_gate="",
            mlp_up="",
            mlp_pre="mlp.fc1",
            mlp_down="mlp.fc2",
            activation="mlp.activation_fn",
        ),
        style="parallel",
        ln_final="final_layernorm",
    ),
    _llama_like("Mixtral", "mixtral", block=_MIXTURE),
    _llama_like("Qwen-MoE", "qwen2_moe", "qwen3_moe", block=_MIXTURE),
    _llama_like("OLMoE", "olmoe", block=_MIXTURE),
    _llama_like("GPT-OSS", "gpt_oss", block=replace(_MIXTURE, router="mlp.router"), eager_float32=False),
    Family(
        name="GPT-BigCode",
        model_types=("gpt_bigcode",),
        blocks="h",
        block=replace(GPT2, fused="gqa"),
        embed="wte",
        pos_embed="wpe",
        ln_final="ln_f",
        eager_float32=True,
    ),
    Family(
        name="BioGPT",
        model_types=("biogpt",),
        blocks="layers",
        block=BART_BLOCK,
        embed="embed_tokens",
        pos_embed="embed_positions",
        ln_final="layer_norm",
    ),
    Family(
        name="Mamba",
        model_types=("mamba", "mamba2"),
        blocks="layers",
        block=Block(ln1="norm", mixer="mixer"),
        embed="embeddings",
        ln_final="norm_f",
    ),
    # Its attention never calls the registered function.
    Family(
        name="XGLM",
        model_types=("xglm",),
        blocks="layers",
        block=BART_BLOCK,
        embed="embed_tokens",
        pos_embed="embed_positions",
        ln_final="layer_norm",
    ),
)
