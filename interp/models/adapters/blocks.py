"""Where attention and the MLP sit inside one block, family by family: paths, plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Style = Literal["pre", "post", "parallel"]
"""Norm before the sublayer; after the residual sum; or attention and MLP side by side."""


@dataclass(frozen=True)
class Block:
    """Paths inside one block; an empty string means that the family has no such thing.

    Attributes:
        ln1, ln2: Norms read by attention and MLP (post-norm: applied to the sums).
        ln1_post, ln2_post: Norms on the sublayers' outputs (Gemma-2/3).
        mid: The module that reads resid_mid, where it is not `ln2` (OLMo-2: the MLP itself).
        attn: The module handed to the registered attention function.
        attn_out: The module whose output is attention's contribution to the residual stream.
        q, k, v: Projections; or `qkv`, one fused projection laid out as `fused` says ("pair": only
            k and v share one).
        o: Output projection; its input is hook_z.
        mlp_out: The module whose output is the MLP's contribution.
        mlp_pre, mlp_gate, mlp_in, mlp_down: fc1 of a plain MLP, or gate and up of a gated one
            (`gate_up` fused), and the last projection, whose input is hook_post.
        mixer: What stands for attention and MLP in a state-space model.
        router, experts: Of a mixture: what chooses experts, and all of them in one module.
    """

    ln1: str = ""
    ln2: str = ""
    ln1_post: str = ""
    ln2_post: str = ""
    mid: str = ""
    attn: str = ""
    attn_out: str = ""
    q: str = ""
    k: str = ""
    v: str = ""
    qkv: str = ""
    fused: Literal["", "thirds", "gqa", "interleaved", "pair"] = ""
    o: str = ""
    mlp_out: str = ""
    mlp_pre: str = ""
    mlp_gate: str = ""
    mlp_up: str = ""
    mlp_gate_up: str = ""
    mlp_down: str = ""
    activation: str = ""
    mixer: str = ""
    router: str = ""
    experts: str = ""


@dataclass(frozen=True)
class Factors:
    """Numbers of the config that multiply outside of every module, by their keys (Granite, Cohere).

    Attributes:
        embed: On token embeddings.
        write: On what attention and MLP add to the stream.
        logits, logits_over: On the logits, as a factor or as a divisor.
    """

    embed: str = ""
    write: str = ""
    logits: str = ""
    logits_over: str = ""


@dataclass(frozen=True)
class Family:
    """One architecture family.

    Attributes:
        name: What `print(model)` calls it.
        model_types: Hugging Face `config.model_type`s it covers.
        blocks: Path of the block list, from the base model.
        style: See `Style`; `config_style` names a config flag that may change it.
        rotary: q and k are rotated before they meet: hook_rot_q and hook_rot_k exist.
        cross: Cross-attention between attention and MLP, where a model was built with it.
        pixels: It reads images.
        whole: Paths are relative to the model itself (its "base model" is a part of it).
        flat_mlp: The MLP half runs on [batch * pos, d] (OPT).
        eager_float32: Its own eager attention normalises in float32 whatever the dtype.
        factors: See `Factors`.
        embed_project: From the embeddings' width to the stream's, behind their norm.
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
    cross: Block | None = None
    pixels: bool = False
    whole: bool = False
    flat_mlp: bool = False
    causal: bool = True
    eager_float32: bool = False
    factors: Factors = Factors()
    embed_project: str = ""


LLAMA = Block(
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

BERT = Block(
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

GPT2 = Block(
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

BERT_CROSS = Block(
    ln1="crossattention.output.LayerNorm",
    attn="crossattention.self",
    attn_out="crossattention.output.dense",
    q="crossattention.self.query",
    k="crossattention.self.key",
    v="crossattention.self.value",
    o="crossattention.output.dense",
)

GPT2_CROSS = Block(
    ln1="ln_cross_attn",
    attn="crossattention",
    attn_out="crossattention",
    q="crossattention.q_attn",
    qkv="crossattention.c_attn",
    fused="pair",
    o="crossattention.c_proj",
)

GPTJ = Block(
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

NEOX = Block(
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
