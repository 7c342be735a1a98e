"""Adapters of encoder-decoders: two stacks, the second of which reads the first."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp.models.adapters.adapter import (
    Adapter,
    SiteBuilder,
    Stack,
    block_sites,
    decoder_block_sites,
    find,
    t5_block_sites,
)
from interp.models.adapters.blocks import T5_CROSS, T5_SELF, Block, Family
from interp.models.adapters.decoders import BART_BLOCK
from interp.models.adapters.facts import attention_configs, dtype_device
from interp.models.adapters.heads import width_of
from interp.models.cfg import ModelConfig
from interp.models.hooks.sites import Scaled


def _t5_mlp(block: Any) -> Block:
    last = len(block.layer) - 1
    ff = f"layer.{last}.DenseReluDense"
    gated = find(block, f"{ff}.wi_0") is not None
    return Block(
        ln2=f"layer.{last}.layer_norm",
        mlp_out=ff,
        mlp_pre="" if gated else f"{ff}.wi",
        mlp_gate=f"{ff}.wi_0" if gated else "",
        mlp_up=f"{ff}.wi_1" if gated else "",
        mlp_down=f"{ff}.wo",
        activation=f"{ff}.act",
    )


BART_TYPES = {"bart": "BART", "marian": "Marian", "m2m_100": "M2M-100", "whisper": "Whisper"}
"""Encoder-decoders of BART's paths by `model_type`."""
_BEFORE = ("m2m_100", "whisper")
"""Those that normalise before the sublayers."""
_CROSS = Block(
    ln1="encoder_attn_layer_norm",
    attn="encoder_attn",
    attn_out="encoder_attn",
    q="encoder_attn.q_proj",
    k="encoder_attn.k_proj",
    v="encoder_attn.v_proj",
    o="encoder_attn.out_proj",
)


def bart_adapter(module: Any, name: str) -> Adapter:
    """BART and kin: two stacks of the same paths, norms before or behind the sublayers."""
    config, base = module.config, module.base_model
    kind, style = BART_TYPES[config.model_type], "pre" if config.model_type in _BEFORE else "post"
    cfg = ModelConfig(
        model_name=name,
        family=kind,
        n_layers=len(base.encoder.layers),
        n_decoder_layers=len(base.decoder.layers),
        d_model=config.d_model,
        n_heads=config.decoder_attention_heads,
        n_kv_heads=config.decoder_attention_heads,
        d_head=config.d_model // config.decoder_attention_heads,
        d_mlp=config.decoder_ffn_dim,
        d_vocab=getattr(config, "decoder_vocab_size", None) or config.vocab_size,
        act_fn=config.activation_function,
        normalization_type="LN",
        positional="standard",
        style=style,
        **dtype_device(module),
    )
    to, stacks = SiteBuilder(cfg), []
    heads = config.encoder_attention_heads
    to.cfg = replace(cfg, n_heads=heads, n_kv_heads=heads, d_head=config.d_model // heads)
    family = Family(name=kind, model_types=(), blocks="layers", block=BART_BLOCK)
    for coder in ("encoder", "decoder"):
        part, decodes = getattr(base, coder), coder == "decoder"
        attns = {"self_attn": BART_BLOCK, "cross_attn": _CROSS} if decodes else {"attn": BART_BLOCK}
        final = find(part, "layer_norm")
        stack = Stack(f"{coder}_blocks", tuple(part.layers), attns, BART_BLOCK, final)
        stacks.append(stack)
        to.cfg = cfg if decodes else to.cfg
        _embedded(to, part, "decoder_" if decodes else "", config)
        for i, block in enumerate(part.layers):
            if decodes:
                decoder_block_sites(to, f"{coder}_blocks.{i}", block, stack, style)
            else:
                block_sites(to, f"{coder}_blocks.{i}", block, family, style)
        to.norm(f"{coder}_ln_final", final)
    head: Any = module.get_output_embeddings()
    speech, beside = config.model_type == "whisper", getattr(module, "final_logits_bias", None)

    def unembed(x: Tensor) -> Tensor:
        logits = head(x)
        return logits if beside is None else logits + beside

    def spoken() -> dict[str, Tensor]:
        weight = next(module.parameters())
        shape = (2, config.num_mel_bins, 2 * config.max_source_positions)
        mel = torch.linspace(-1, 1, math.prod(shape)).reshape(shape).to(weight.dtype)
        return {
            "input_features": mel,
            "decoder_input_ids": config.vocab_size // 2 + torch.arange(8).view(2, 4),
        }

    return Adapter(
        name=kind,
        cfg=replace(cfg, d_vocab_out=width_of(head, cfg)),
        sites=to.sites,
        refused=to.refused,
        unlisted=to.unlisted,
        inputs="any" if speech else "encoder_decoder",
        probe=spoken if speech else None,
        configs=attention_configs(module),
        embed=find(base, "decoder.embed_tokens" if speech else "encoder.embed_tokens"),
        unembed=unembed if head is not None else None,
        unembed_module=head,
        unembed_bias=beside,
        ln_final=find(base, "decoder.layer_norm"),
        stacks=tuple(stacks),
        exact_once=True,
    )


def _embedded(to: SiteBuilder, part: Any, prefix: str, config: Any) -> None:
    """Tokens (speech: what two convolutions make of it), positions, and the norm over their sum."""
    outside = config.model_type == "marian" and config.scale_embedding
    scaled = Scaled(config.d_model**0.5) if outside else None
    to.add(f"{prefix}hook_embed", find(part, "embed_tokens"), "out", view=scaled)
    # Marian's positions, and those of Whisper's sound, are rows of a table whatever the batch.
    alike = config.model_type == "marian" or (config.model_type == "whisper" and not prefix)
    axes = "pos d_model" if alike else "batch pos d_model"
    to.add(f"{prefix}hook_pos_embed", find(part, "embed_positions"), "out", axes)
    to.norm(f"{prefix}embed_ln", find(part, "layernorm_embedding"))


def t5_adapter(module: Any, name: str) -> Adapter:
    """T5: encoder and decoder stacks, cross-attention, relative positions inside the scores."""
    config = module.config
    coders = [c for c in ("encoder", "decoder") if find(module, c) is not None]
    cfg = ModelConfig(
        model_name=name,
        family="T5",
        n_layers=len(module.encoder.block),
        n_decoder_layers=len(module.decoder.block) if "decoder" in coders else 0,
        d_model=config.d_model,
        n_heads=config.num_heads,
        n_kv_heads=config.num_heads,
        d_head=config.d_kv,
        d_mlp=config.d_ff,
        d_vocab=config.vocab_size,
        act_fn=config.feed_forward_proj,
        normalization_type="RMS",
        positional="relative",
        style="pre",
        gated_mlp=config.is_gated_act,
        **dtype_device(module),
    )
    to, stacks = SiteBuilder(cfg), []
    for coder in coders:
        part = getattr(module, coder)
        attns = {"self_attn": T5_SELF, "cross_attn": T5_CROSS} if coder == "decoder" else {"attn": T5_SELF}
        stack = Stack(
            f"{coder}_blocks", tuple(part.block), attns, _t5_mlp(part.block[0]), part.final_layer_norm
        )
        stacks.append(stack)
        prefix = "" if coder == "encoder" else "decoder_"
        to.add(f"{prefix}hook_embed", part.embed_tokens, "out")
        for i, block in enumerate(part.block):
            t5_block_sites(to, f"{coder}_blocks.{i}", block, stack)
        to.norm(f"{coder}_ln_final", part.final_layer_norm)
    head: Any = find(module, "lm_head")
    scaled = getattr(config, "scale_decoder_outputs", config.tie_word_embeddings)
    scale = config.d_model**-0.5 if scaled else 1.0

    def unembed(x: Tensor) -> Tensor:
        return head(x * scale)

    return Adapter(
        name="T5",
        cfg=replace(cfg, d_vocab_out=width_of(head, cfg)),
        sites=to.sites,
        refused=to.refused,
        unlisted=to.unlisted,
        inputs="encoder_decoder" if "decoder" in coders else "tokens",
        configs=attention_configs(module),
        # `shared` only holds the table: an adapter sits on the modules that look tokens up.
        embed=find(module, "encoder.embed_tokens") or find(module, "shared"),
        unembed=unembed if head is not None else None,
        unembed_module=head,
        ln_final=find(
            module, "decoder.final_layer_norm" if "decoder" in coders else "encoder.final_layer_norm"
        ),
        stacks=tuple(stacks),
        exact_once=True,
    )
