"""One row per architecture family: where the residual stream, attention and the MLP sit.

Paths are relative to the block (or, for the first group, to the base model). A row is plain data;
`adapter.py` turns it into sites and `proof.py` checks every claim on the model itself at load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Style = Literal["pre", "post", "parallel"]
"""Norm before the sublayer; after the residual sum; or attention and MLP side by side."""


@dataclass(frozen=True)
class Block:
    """Paths inside one block; an empty string means that the family has no such thing.

    Attributes:
        ln1, ln2: Norms read by attention and MLP (post-norm: applied to the sums).
        ln1_post, ln2_post: Norms on the sublayers' outputs (Gemma-2/3).
        attn: The module handed to the registered attention function.
        attn_out: The module whose output is attention's contribution to the residual stream.
        q, k, v: Projections; or `qkv`, one fused projection laid out as `fused` says.
        o: Output projection; its input is hook_z.
        mlp_out: The module whose output is the MLP's contribution.
        mlp_pre, mlp_gate, mlp_in, mlp_down: fc1 of a plain MLP, or gate and up of a gated one
            (`gate_up` fused), and the last projection, whose input is hook_post.
    """

    ln1: str = ""
    ln2: str = ""
    ln1_post: str = ""
    ln2_post: str = ""
    attn: str = ""
    attn_out: str = ""
    q: str = ""
    k: str = ""
    v: str = ""
    qkv: str = ""
    fused: Literal["", "thirds", "gqa", "interleaved"] = ""
    o: str = ""
    mlp_out: str = ""
    mlp_pre: str = ""
    mlp_gate: str = ""
    mlp_up: str = ""
    mlp_gate_up: str = ""
    mlp_down: str = ""
    activation: str = ""


@dataclass(frozen=True)
class Family:
    """One architecture family.

    Attributes:
        name: What `print(model)` calls it.
        model_types: Hugging Face `config.model_type`s it covers.
        blocks: Path of the block list, from the base model.
        style: See `Style`; `config_style` names a config flag that may change it.
        rotary: q and k are rotated before they meet: hook_rot_q and hook_rot_k exist.
        flat_mlp: The MLP half runs on [batch * pos, d] (OPT).
        eager_float32: Its own eager attention normalises in float32 whatever the dtype.
    """

    name: str
    model_types: tuple[str, ...]
    blocks: str
    block: Block
    style: Style = "pre"
    embed: str = ""
    pos_embed: str = ""
    type_embed: str = ""
    embed_norm: str = ""
    full_embed: str = ""
    ln_final: str = ""
    rotary: bool = False
    flat_mlp: bool = False
    causal: bool = True
    eager_float32: bool = False


_LLAMA = Block(
    ln1="input_layernorm",
    ln2="post_attention_layernorm",
    attn="self_attn",
    attn_out="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.o_proj",
    mlp_out="mlp",
    mlp_gate="mlp.gate_proj",
    mlp_up="mlp.up_proj",
    mlp_down="mlp.down_proj",
    activation="mlp.act_fn",
)

_BERT = Block(
    ln1="attention.output.LayerNorm",
    ln2="output.LayerNorm",
    attn="attention.self",
    attn_out="attention.output.dense",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    o="attention.output.dense",
    mlp_out="output.dense",
    mlp_pre="intermediate.dense",
    mlp_down="output.dense",
    activation="intermediate.intermediate_act_fn",
)

_GPT2 = Block(
    ln1="ln_1",
    ln2="ln_2",
    attn="attn",
    attn_out="attn",
    qkv="attn.c_attn",
    fused="thirds",
    o="attn.c_proj",
    mlp_out="mlp",
    mlp_pre="mlp.c_fc",
    mlp_down="mlp.c_proj",
    activation="mlp.act",
)

_GPTJ = Block(
    ln1="ln_1",
    attn="attn",
    attn_out="attn",
    q="attn.q_proj",
    k="attn.k_proj",
    v="attn.v_proj",
    o="attn.out_proj",
    mlp_out="mlp",
    mlp_pre="mlp.fc_in",
    mlp_down="mlp.fc_out",
    activation="mlp.act",
)

_NEOX = Block(
    ln1="input_layernorm",
    ln2="post_attention_layernorm",
    attn="attention",
    attn_out="attention",
    qkv="attention.query_key_value",
    fused="interleaved",
    o="attention.dense",
    mlp_out="mlp",
    mlp_pre="mlp.dense_h_to_4h",
    mlp_down="mlp.dense_4h_to_h",
    activation="mlp.act",
)

FAMILIES: tuple[Family, ...] = (
    Family(
        name="GPT-2",
        model_types=("gpt2",),
        blocks="h",
        block=_GPT2,
        embed="wte",
        pos_embed="wpe",
        ln_final="ln_f",
    ),
    Family(
        name="Llama",
        model_types=("llama", "mistral", "qwen2", "qwen3"),
        blocks="layers",
        block=_LLAMA,
        embed="embed_tokens",
        ln_final="norm",
        rotary=True,
        eager_float32=True,
    ),
    Family(
        name="Phi-3",
        model_types=("phi3",),
        blocks="layers",
        block=replace(
            _LLAMA,
            q="",
            k="",
            v="",
            qkv="self_attn.qkv_proj",
            fused="gqa",
            mlp_gate="",
            mlp_up="",
            mlp_gate_up="mlp.gate_up_proj",
            activation="mlp.activation_fn",
        ),
        embed="embed_tokens",
        ln_final="norm",
        rotary=True,
        eager_float32=True,
    ),
    Family(
        name="Gemma",
        model_types=("gemma2", "gemma3_text"),
        blocks="layers",
        block=replace(
            _LLAMA,
            attn_out="post_attention_layernorm",
            ln1_post="post_attention_layernorm",
            ln2="pre_feedforward_layernorm",
            ln2_post="post_feedforward_layernorm",
            mlp_out="post_feedforward_layernorm",
        ),
        embed="embed_tokens",
        ln_final="norm",
        rotary=True,
        eager_float32=True,
    ),
    Family(
        name="GPT-NeoX",
        model_types=("gpt_neox",),
        blocks="layers",
        block=_NEOX,
        style="parallel",
        embed="embed_in",
        ln_final="final_layer_norm",
        rotary=True,
        eager_float32=True,
    ),
    Family(
        name="OPT",
        model_types=("opt",),
        blocks="decoder.layers",
        block=Block(
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
        ),
        embed="decoder.embed_tokens",
        pos_embed="decoder.embed_positions",
        ln_final="decoder.final_layer_norm",
        flat_mlp=True,
        eager_float32=True,
    ),
    Family(
        name="BERT",
        model_types=("bert", "roberta"),
        blocks="encoder.layer",
        block=_BERT,
        style="post",
        embed="embeddings.word_embeddings",
        pos_embed="embeddings.position_embeddings",
        type_embed="embeddings.token_type_embeddings",
        embed_norm="embeddings.LayerNorm",
        full_embed="embeddings",
        causal=False,
    ),
    Family(
        name="DistilBERT",
        model_types=("distilbert",),
        blocks="transformer.layer",
        block=Block(
            ln1="sa_layer_norm",
            ln2="output_layer_norm",
            attn="attention",
            attn_out="attention",
            q="attention.q_lin",
            k="attention.k_lin",
            v="attention.v_lin",
            o="attention.out_lin",
            mlp_out="ffn",
            mlp_pre="ffn.lin1",
            mlp_down="ffn.lin2",
            activation="ffn.activation",
        ),
        style="post",
        embed="embeddings.word_embeddings",
        pos_embed="embeddings.position_embeddings",
        embed_norm="embeddings.LayerNorm",
        full_embed="embeddings",
        causal=False,
    ),
    Family(
        name="ViT",
        model_types=("vit",),
        blocks="layers",
        block=Block(
            ln1="layernorm_before",
            ln2="layernorm_after",
            attn="attention",
            attn_out="attention",
            q="attention.q_proj",
            k="attention.k_proj",
            v="attention.v_proj",
            o="attention.o_proj",
            mlp_out="mlp",
            mlp_pre="mlp.fc1",
            mlp_down="mlp.fc2",
            activation="mlp.activation_fn",
        ),
        embed="embeddings",
        ln_final="layernorm",
        causal=False,
        eager_float32=True,
    ),
    # The families below never call the registered attention function: scores, pattern and rotated
    # q, k stay unreachable, and the proof at load says so.
    Family(
        name="GPT-J",
        model_types=("gptj",),
        blocks="h",
        block=_GPTJ,
        style="parallel",
        embed="wte",
        ln_final="ln_f",
        rotary=True,
    ),
    Family(
        name="CodeGen",
        model_types=("codegen",),
        blocks="h",
        # Its fused projection interleaves q, v, k over model-parallel shards: not offered.
        block=replace(_GPTJ, q="", k="", v=""),
        style="parallel",
        embed="wte",
        ln_final="ln_f",
        rotary=True,
    ),
    Family(
        name="GPT-Neo",
        model_types=("gpt_neo",),
        blocks="h",
        block=replace(
            _GPT2,
            attn="attn.attention",
            q="attn.attention.q_proj",
            k="attn.attention.k_proj",
            v="attn.attention.v_proj",
            qkv="",
            fused="",
            o="attn.attention.out_proj",
        ),
        embed="wte",
        pos_embed="wpe",
        ln_final="ln_f",
    ),
    Family(
        name="Bloom",
        model_types=("bloom",),
        blocks="h",
        block=replace(
            _NEOX,
            attn="self_attention",
            # The attention and MLP modules add the residual themselves: their last projections
            # hold the contributions.
            attn_out="self_attention.dense",
            qkv="self_attention.query_key_value",
            o="self_attention.dense",
            mlp_out="mlp.dense_4h_to_h",
            activation="mlp.gelu_impl",
        ),
        embed="word_embeddings",
        embed_norm="word_embeddings_layernorm",
        ln_final="ln_f",
    ),
    Family(
        name="Falcon",
        model_types=("falcon",),
        blocks="h",
        block=replace(
            _NEOX,
            ln2="",
            attn="self_attention",
            attn_out="self_attention",
            qkv="",
            fused="",
            o="self_attention.dense",
        ),
        style="parallel",
        embed="word_embeddings",
        ln_final="ln_f",
        rotary=True,
    ),
    Family(
        name="MPT",
        model_types=("mpt",),
        blocks="blocks",
        block=Block(
            ln1="norm_1",
            ln2="norm_2",
            attn="attn",
            attn_out="attn",
            qkv="attn.Wqkv",
            fused="thirds",
            o="attn.out_proj",
            mlp_out="ffn.down_proj",
            mlp_pre="ffn.up_proj",
            mlp_down="ffn.down_proj",
            activation="ffn.act",
        ),
        embed="wte",
        ln_final="norm_f",
    ),
)

T5_SELF = Block(
    ln1="layer.0.layer_norm",
    attn="layer.0.SelfAttention",
    attn_out="layer.0.SelfAttention",
    q="layer.0.SelfAttention.q",
    k="layer.0.SelfAttention.k",
    v="layer.0.SelfAttention.v",
    o="layer.0.SelfAttention.o",
)
T5_CROSS = Block(
    ln1="layer.1.layer_norm",
    attn="layer.1.EncDecAttention",
    attn_out="layer.1.EncDecAttention",
    q="layer.1.EncDecAttention.q",
    k="layer.1.EncDecAttention.k",
    v="layer.1.EncDecAttention.v",
    o="layer.1.EncDecAttention.o",
)
T5_TYPES = ("t5", "mt5")


def family_of(model_type: str) -> Family | None:
    """The row for a Hugging Face `model_type`, or None."""
    return next((f for f in FAMILIES if model_type in f.model_types), None)
