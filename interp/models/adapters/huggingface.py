"""Adapters for Hugging Face models: the table row filled in from the live module."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import ModelError
from interp.models.adapters.adapter import Adapter, Multiplied, SiteBuilder, Stack, block_sites, find
from interp.models.adapters.blocks import Family
from interp.models.adapters.coders import BART_TYPES, bart_adapter, t5_adapter
from interp.models.adapters.facts import attention_configs, dtype_device
from interp.models.adapters.families import T5_TYPES, family_of
from interp.models.adapters.heads import unembedding, width_of
from interp.models.adapters.linear import in_features
from interp.models.adapters.norms import norm_parts
from interp.models.cfg import ModelConfig
from interp.models.hooks import attention
from interp.models.hooks.sites import Scaled, Site

_FROM_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Position tables that begin after the padding index."""
UNREACHED = "this architecture's attention does not go through the registered function"


def is_huggingface(module: Any) -> bool:
    """Whether `module` is a transformers model, without importing transformers for others."""
    return any(k.__module__.startswith("transformers.") for k in type(module).__mro__) and hasattr(
        module, "config"
    )


def writes_text(module: Any) -> bool:
    """Whether a transformers model continues texts: its logits are the next token's."""
    able = getattr(module, "can_generate", None)
    if not is_huggingface(module) or able is None or not able():
        return False
    # A class that can be both (BERT's) sees what follows, unless it is told to be a decoder.
    family = family_of(getattr(module.config, "model_type", ""))
    alone = family is not None and family.causal
    return bool(alone or module.config.is_encoder_decoder or getattr(module.config, "is_decoder", True))


def huggingface_adapter(module: Any, name: str) -> Adapter | None:
    """The adapter of a known family, or None for a family that has no row."""
    model_type = getattr(module.config, "model_type", "")
    attention.register()
    if model_type in T5_TYPES:
        return t5_adapter(module, name)
    if model_type in BART_TYPES and module.config.is_encoder_decoder:
        return bart_adapter(module, name)
    if model_type in ("clip", "siglip"):
        return _towers(module, name)
    family = family_of(model_type)
    return None if family is None else _stack_adapter(module, family, name)


def _towers(module: Any, name: str) -> Adapter | None:
    """CLIP's two encoders: the sites of each, and of the projections where they meet."""
    towers = {side: find(module, f"{side}_model") for side in ("text", "vision")}
    found = {side: None if m is None else huggingface_adapter(m, name) for side, m in towers.items()}
    if any(one is None or not one.sites for one in found.values()) or not hasattr(
        module, "get_image_features"
    ):
        return None
    to = SiteBuilder(ModelConfig(model_name=name, family=_TOWERS[module.config.model_type]))
    vision: Any = module.config.vision_config
    width = int(getattr(module.config, "projection_dim", 0) or 0)
    for side, one in found.items():
        for sites, into in ((one.sites, to.sites), (one.unlisted, to.unlisted)) if one else ():
            into.update({f"{side}_{n}": _of_tower(site, side) for n, site in sites.items()})
        to.refused |= {f"{side}_{n}": why for n, why in one.refused.items()} if one else {}
        projection = find(module, "visual_projection" if side == "vision" else "text_projection")
        to.add(f"{side}_hook_projection", projection, "out", "batch d_shared", sizes={"d_shared": width})

    def probe() -> dict[str, Tensor]:
        shape = (2, vision.num_channels, vision.image_size, vision.image_size)
        weight = next(module.parameters())
        pixels = torch.linspace(-1, 1, math.prod(shape)).reshape(shape).to(weight.dtype)
        ids = module.config.text_config.vocab_size // 2 + torch.arange(10).reshape(2, 5)
        return {"input_ids": ids, "pixel_values": pixels}

    cfg = replace(to.cfg, style="pre", normalization_type="LN", **dtype_device(module))
    return Adapter(
        name=cfg.family,
        cfg=cfg,
        sites=to.sites,
        unlisted=to.unlisted,
        refused=to.refused,
        inputs="any",
        probe=probe,
        configs=attention_configs(module),
        eager_float32=all(one.eager_float32 for one in found.values() if one),
        exact_once=True,
        notes=["two towers: wrap(model.text_model) or wrap(model.vision_model) for analyses of one"],
    )


_TOWERS = {"clip": "CLIP", "siglip": "SigLIP"}


def _of_tower(site: Site, side: str) -> Site:
    """A tower's site under the whole model's name; patches are no positions of the text."""
    axes = site.axes if side == "text" else site.axes.replace("pos", "patch")
    return replace(site, name=f"{side}_{site.name}", axes=axes)


def _style(family: Family, config: Any) -> str:
    flags = {
        "GPT-NeoX": ("use_parallel_residual", "parallel", "pre"),
        "Falcon": ("parallel_attn", "parallel", "pre"),
        "OPT": ("do_layer_norm_before", "pre", "post"),
        "StableLM": ("use_parallel_residual", "parallel", "pre"),
    }
    if family.name not in flags:
        return family.style
    flag, yes, no = flags[family.name]
    if family.name == "Falcon" and getattr(config, "new_decoder_architecture", False):
        return "parallel"
    return yes if getattr(config, flag) else no


def _positional(family: Family, config: Any) -> str:
    if family.rotary and not getattr(config, "alibi", False):
        return "rotary"
    if family.block.mixer:
        return ""
    return "standard" if family.pos_embed or family.pixels else "alibi"


def _n_ctx(config: Any) -> int:
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        limit = getattr(config, key, None)
        if limit:
            shift = config.pad_token_id + 1 if config.model_type in _FROM_PADDING else 0
            return int(limit) - shift
    return 0


def _n_kv_heads(family: Family, config: Any, n_heads: int) -> int:
    if family.name == "GPT-BigCode":
        return 1 if config.multi_query else n_heads
    return int(getattr(config, "num_key_value_heads", None) or n_heads)


def _factors(family: Family, config: Any) -> Multiplied:
    """What the model multiplies outside of its modules, from its config."""
    at = family.factors
    embed, write, logits = (
        float(getattr(config, key)) if key else 1.0 for key in (at.embed, at.write, at.logits)
    )
    over = float(getattr(config, at.logits_over)) if at.logits_over else 1.0
    return Multiplied(embed, write, logits / over)


def _config(module: Any, family: Family, blocks: Any, name: str) -> ModelConfig:
    config, at, block = module.config, family.block, blocks[0]
    n_heads = 0 if at.mixer else int(config.num_attention_heads)
    o = find(block, at.o)
    d_head = 0 if at.mixer else int(config.hidden_size) // n_heads
    d_head = d_head if o is None else in_features(o) // n_heads
    down = find(block, at.mlp_down)
    ln1 = find(block, at.ln1)
    parts = None if ln1 is None else norm_parts(ln1)
    vision = family.pixels
    return ModelConfig(
        model_name=name,
        family=family.name,
        n_layers=len(blocks),
        d_model=int(config.hidden_size),
        n_heads=n_heads,
        n_kv_heads=_n_kv_heads(family, config, n_heads),
        d_head=d_head,
        d_mlp=in_features(down) if down is not None else 0,
        d_vocab=0 if vision else int(config.vocab_size),
        n_ctx=0 if vision else _n_ctx(config),
        act_fn=str(
            next(
                (
                    getattr(config, k)
                    for k in ("hidden_activation", "hidden_act", "activation_function", "activation")
                    if getattr(config, k, None)
                ),
                "",
            )
        ),
        normalization_type=None if parts is None else ("LN" if parts.centred else "RMS"),
        positional=_positional(family, config),
        style=_style(family, config),
        causal=family.causal,
        gated_mlp=bool(at.mlp_gate or at.mlp_gate_up),
        final_softcap=float(getattr(config, "final_logit_softcapping", None) or 0.0),
        **dtype_device(module),
    )


def _blocks(base: nn.Module, family: Family, config: Any) -> list[nn.Module]:
    """The blocks in the order in which they run; ALBERT runs the same ones again and again."""
    held = find(base, family.blocks)
    if not isinstance(held, nn.ModuleList):
        return []
    if family.name != "ALBERT":
        return list(held)
    per_group = config.num_hidden_layers / config.num_hidden_groups
    groups: list[Any] = [held[int(i / per_group)] for i in range(config.num_hidden_layers)]
    return [layer for group in groups for layer in group.albert_layers]


def _stack_adapter(module: Any, family: Family, name: str) -> Adapter:
    base, config = module if family.whole else getattr(module, "base_model", module), module.config
    blocks = _blocks(base, family, config)
    if not blocks:
        raise ModelError(
            f"{type(module).__name__} has no blocks at {family.blocks!r}",
            got=type(base).__name__,
            expected=f"a {family.name} model of the transformers version in constraints.txt",
        )
    family = _refine(family, module.config, blocks[0])
    cfg = _config(module, family, blocks, name)
    factors = _factors(family, module.config)
    to = SiteBuilder(cfg, factors.write)
    # OPT-350m embeds in fewer dimensions than it works in.
    project_in, project_out = find(base, "decoder.project_in"), find(base, "decoder.project_out")
    _embedding_sites(to, base, family, project_in, factors.embed)
    shared = family.name == "ALBERT" and len(set(blocks)) < len(blocks)
    for i, block in enumerate(blocks):
        to.call = blocks[:i].count(block) if shared else None
        block_sites(to, f"blocks.{i}", block, family, cfg.style)
    to.call = None
    ln_final = find(base, family.ln_final)
    to.norm("ln_final", ln_final)
    clipped = getattr(module.config, "clip_qkv", None) is not None
    if clipped:
        _refuse_clipped(to)
    unembed, head = unembedding(module, base, cfg, factors.logits)
    attention = {} if family.block.mixer else {"attn": family.block}
    stack = Stack("blocks", tuple(blocks), attention, family.block, ln_final)
    return Adapter(
        name=family.name,
        cfg=replace(cfg, d_vocab_out=width_of(head, cfg)),
        sites=to.sites,
        refused=to.refused,
        unlisted=to.unlisted,
        inputs="pixels" if family.pixels else "tokens",
        configs=attention_configs(module),
        eager_float32=family.eager_float32,
        embed=find(base, family.embed),
        embed_project=project_in,
        unembed_project=project_out,
        pos_embed=find(base, family.pos_embed),
        unembed=unembed,
        unembed_module=head,
        bent=isinstance(unembed, nn.Module) and unembed is not head,
        ln_final=ln_final,
        stacks=(stack,),
        factors=factors,
        clipped=clipped,
        exact_once=True,
        pools_first=family.name == "ViT",
        notes=_notes(family, module.config),
    )


def _embedding_sites(
    to: SiteBuilder, base: Any, family: Family, project_in: nn.Module | None, factor: float
) -> None:
    """What is added up before the first block."""
    scaled = Scaled(factor) if factor != 1.0 else None
    # Electra and ALBERT project what their embeddings add up to.
    late = find(base, family.embed_project)
    narrow = {"d_model": base.config.embedding_size} if late is not None else {}
    to.add("hook_embed", project_in or find(base, family.embed), "out", view=scaled, sizes=narrow)
    to.add("hook_token_type_embed", find(base, family.type_embed), "out", sizes=narrow)
    to.add("hook_pos_embed", find(base, family.pos_embed), "out", sizes=narrow)
    to.norm("embed_ln", find(base, family.embed_norm), sizes=narrow)
    to.add("hook_full_embed", late or find(base, family.full_embed), "out")


def _refuse_clipped(to: SiteBuilder) -> None:
    """q, k and v are cut to a range behind their projections, in place: the projections are not them."""
    for name in [n for n in to.sites if n.endswith(("hook_q", "hook_k", "hook_v"))]:
        to.refused[name] = "what attention reads is clipped to clip_qkv behind the projection"
        del to.sites[name]


def _refine(family: Family, config: Any, block: Any) -> Family:
    """Variants inside a family that move its parts."""
    at = family.block
    if family.name == "Falcon" and find(block, "ln_attn") is not None:
        at = replace(at, ln1="ln_attn", ln2="ln_mlp")
    elif family.name == "Falcon" and not config.parallel_attn:
        at = replace(at, ln2="post_attention_layernorm")
    elif family.name == "StableLM" and config.use_parallel_residual:
        at = replace(at, ln2="")
    elif family.name == "GPT-BigCode" and not config.multi_query:
        at = replace(at, fused="interleaved")
    elif family.pixels and find(block, "mlp.gate_proj") is not None:
        gated = {"mlp_gate": "mlp.gate_proj", "mlp_up": "mlp.up_proj", "mlp_down": "mlp.down_proj"}
        at = replace(at, mlp_pre="", **gated, activation="mlp.act_fn")
    # A BERT with `is_decoder` masks what comes later.
    causal = family.causal or bool(getattr(config, "is_decoder", False))
    return replace(family, block=at, causal=causal)


def _notes(family: Family, config: Any) -> list[str]:
    notes = []
    if family.name == "Gemma":
        notes.append("hook_attn_out and hook_mlp_out are taken after the post-norms")
    if family.factors.write:
        notes.append("hook_attn_out and hook_mlp_out include the factor that the block multiplies with")
    if family.name == "OPT":
        notes.append("q is scaled before the dot product; hook_q is the unscaled projection")
    if getattr(config, "attn_logit_softcapping", None):
        notes.append("hook_attn_scores is taken after the soft cap")
    if getattr(config, "apply_residual_connection_post_layernorm", False):
        notes.append("the residual branch starts behind each norm: no sum of layers is the stream")
    if family.cross is not None and getattr(config, "add_cross_attention", False):
        notes.append(
            "cross-attention runs when encoder_hidden_states are given: its sites are there by "
            "name; hook_resid_mid_cross is what the MLP reads"
        )
    return notes
