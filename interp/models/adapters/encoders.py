"""Rows of encoders that are BERT's with parts exchanged; `families.py` has the first ones."""

from __future__ import annotations

from dataclasses import replace

from interp.models.adapters.blocks import BERT, Block, Family


def _bert_like(
    name: str, model_type: str, block: Block, blocks: str = "encoder.layer", embed_project: str = ""
) -> Family:
    """A family of BERT's embeddings and order of norms."""
    return Family(
        name=name,
        model_types=(model_type,),
        blocks=blocks,
        block=block,
        style="post",
        embed="embeddings.word_embeddings",
        pos_embed="embeddings.position_embeddings",
        type_embed="embeddings.token_type_embeddings",
        embed_norm="embeddings.LayerNorm",
        full_embed="embeddings",
        embed_project=embed_project,
        causal=False,
    )


_SCALED = Block(
    ln1="norm1",
    ln2="norm2",
    attn="attention",
    attn_out="layer_scale1",
    q="attention.q_proj",
    k="attention.k_proj",
    v="attention.v_proj",
    o="attention.o_proj",
    mlp_out="layer_scale2",
    mlp_pre="mlp.fc1",
    mlp_down="mlp.fc2",
    activation="mlp.activation_fn",
)
_CLIP = Block(
    ln1="layer_norm1",
    ln2="layer_norm2",
    attn="self_attn",
    attn_out="self_attn",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    o="self_attn.out_proj",
    mlp_out="mlp",
    mlp_pre="mlp.fc1",
    mlp_down="mlp.fc2",
    activation="mlp.activation_fn",
)

ENCODERS: tuple[Family, ...] = (
    _bert_like(
        "ALBERT",
        "albert",
        Block(
            ln1="attention.LayerNorm",
            ln2="full_layer_layer_norm",
            attn="attention",
            attn_out="attention.dense",
            q="attention.query",
            k="attention.key",
            v="attention.value",
            o="attention.dense",
            mlp_out="ffn_output",
            mlp_pre="ffn",
            mlp_down="ffn_output",
            activation="activation",
        ),
        "encoder.albert_layer_groups",
        embed_project="encoder.embedding_hidden_mapping_in",
    ),
    # Neither calls the registered function.
    _bert_like(
        "MPNet",
        "mpnet",
        replace(
            BERT,
            ln1="attention.LayerNorm",
            attn="attention.attn",
            attn_out="attention.attn.o",
            q="attention.attn.q",
            k="attention.attn.k",
            v="attention.attn.v",
            o="attention.attn.o",
        ),
    ),
    _bert_like(
        "DeBERTa-v2",
        "deberta-v2",
        replace(
            BERT, q="attention.self.query_proj", k="attention.self.key_proj", v="attention.self.value_proj"
        ),
    ),
    Family(
        name="ModernBERT",
        model_types=("modernbert",),
        blocks="layers",
        block=Block(
            ln1="attn_norm",
            ln2="mlp_norm",
            attn="attn",
            attn_out="attn",
            qkv="attn.Wqkv",
            fused="thirds",
            o="attn.Wo",
            mlp_out="mlp",
            mlp_gate_up="mlp.Wi",
            mlp_down="mlp.Wo",
            activation="mlp.act",
        ),
        embed="embeddings.tok_embeddings",
        embed_norm="embeddings.norm",
        full_embed="embeddings",
        ln_final="final_norm",
        rotary=True,
        causal=False,
        eager_float32=True,
    ),
    # The layers' outputs are multiplied, number by number, before they are added.
    Family(
        name="DINOv2",
        model_types=("dinov2",),
        blocks="encoder.layer",
        block=_SCALED,
        embed="embeddings",
        ln_final="layernorm",
        pixels=True,
        causal=False,
        eager_float32=True,
    ),
    Family(
        name="DINOv3",
        model_types=("dinov3_vit",),
        blocks="model.layer",
        block=replace(_SCALED, mlp_pre="mlp.up_proj", mlp_down="mlp.down_proj", activation="mlp.act_fn"),
        embed="embeddings",
        ln_final="norm",
        rotary=True,
        pixels=True,
        whole=True,
        causal=False,
        eager_float32=True,
    ),
    Family(
        name="CLIP vision",
        model_types=("clip_vision_model",),
        blocks="encoder.layers",
        block=_CLIP,
        embed="embeddings",
        embed_norm="pre_layrnorm",
        full_embed="pre_layrnorm",
        pixels=True,
        causal=False,
        eager_float32=True,
    ),
    Family(
        name="CLIP text",
        model_types=("clip_text_model",),
        blocks="encoder.layers",
        block=_CLIP,
        embed="embeddings.token_embedding",
        pos_embed="embeddings.position_embedding",
        ln_final="final_layer_norm",
        eager_float32=True,
    ),
    Family(
        name="SigLIP vision",
        model_types=("siglip_vision_model",),
        blocks="encoder.layers",
        block=_CLIP,
        embed="embeddings",
        ln_final="post_layernorm",
        pixels=True,
        causal=False,
        eager_float32=True,
    ),
    Family(
        name="SigLIP text",
        model_types=("siglip_text_model",),
        blocks="encoder.layers",
        block=_CLIP,
        embed="embeddings.token_embedding",
        pos_embed="embeddings.position_embedding",
        ln_final="final_layer_norm",
        causal=False,
        eager_float32=True,
    ),
)
