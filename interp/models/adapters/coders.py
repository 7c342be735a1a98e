"""Adapters of encoder-decoders: two stacks, the second of which reads the first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from interp.models.adapters.adapter import Adapter, SiteBuilder, Stack, find, t5_block_sites
from interp.models.adapters.blocks import T5_CROSS, T5_SELF, Block
from interp.models.adapters.facts import attention_configs, dtype_device
from interp.models.adapters.heads import width_of
from interp.models.cfg import ModelConfig


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
    scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0

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
