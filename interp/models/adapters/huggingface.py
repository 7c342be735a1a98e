"""Adapters for Hugging Face models: the table row filled in from the live module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import ModelError
from interp.models.adapters.adapter import Adapter, SiteBuilder, Stack, block_sites, find, t5_block_sites
from interp.models.adapters.blocks import T5_CROSS, T5_SELF, Block, Family
from interp.models.adapters.families import T5_TYPES, family_of
from interp.models.adapters.linear import in_features
from interp.models.adapters.norms import norm_parts
from interp.models.cfg import ModelConfig
from interp.models.hooks import attention

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
        return _t5_adapter(module, name)
    family = family_of(model_type)
    return None if family is None else _stack_adapter(module, family, name)


def _attention_configs(module: Any) -> tuple[Any, ...]:
    """Every config object some submodule reads its attention implementation from."""
    found: dict[int, Any] = {}
    for part in module.modules():
        config = getattr(part, "config", None)
        if hasattr(config, "_attn_implementation_internal"):
            found[id(config)] = config
    return tuple(found.values())


def _style(family: Family, config: Any) -> str:
    flags = {
        "GPT-NeoX": ("use_parallel_residual", "parallel", "pre"),
        "Falcon": ("parallel_attn", "parallel", "pre"),
        "OPT": ("do_layer_norm_before", "pre", "post"),
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
    return "standard" if family.pos_embed or family.name == "ViT" else "alibi"


def _n_ctx(config: Any) -> int:
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        limit = getattr(config, key, None)
        if limit:
            # RoBERTa's position table begins after the padding index.
            shift = config.pad_token_id + 1 if config.model_type == "roberta" else 0
            return int(limit) - shift
    return 0


def _dtype_device(module: Any) -> dict[str, Any]:
    first = next(module.parameters(), None)
    if first is None:
        return {"dtype": "", "device": "cpu"}
    return {"dtype": str(first.dtype).removeprefix("torch."), "device": str(first.device)}


def _config(module: Any, family: Family, blocks: Any, name: str) -> ModelConfig:
    config, at, block = module.config, family.block, blocks[0]
    n_heads = int(config.num_attention_heads)
    o = find(block, at.o)
    d_head = in_features(o) // n_heads if o is not None else config.hidden_size // n_heads
    down = find(block, at.mlp_down)
    ln1 = find(block, at.ln1)
    parts = None if ln1 is None else norm_parts(ln1)
    vision = family.name == "ViT"
    return ModelConfig(
        model_name=name,
        family=family.name,
        n_layers=len(blocks),
        d_model=int(config.hidden_size),
        n_heads=n_heads,
        n_kv_heads=int(getattr(config, "num_key_value_heads", None) or n_heads),
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
        **_dtype_device(module),
    )


def _stack_adapter(module: Any, family: Family, name: str) -> Adapter:
    base = getattr(module, "base_model", module)
    blocks = find(base, family.blocks)
    if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
        raise ModelError(
            f"{type(module).__name__} has no blocks at {family.blocks!r}",
            got=type(base).__name__,
            expected=f"a {family.name} model of the transformers version in constraints.txt",
        )
    family = _refine(family, module.config, blocks[0])
    cfg = _config(module, family, blocks, name)
    to = SiteBuilder(cfg)
    # OPT-350m embeds in fewer dimensions than it works in.
    project_in, project_out = find(base, "decoder.project_in"), find(base, "decoder.project_out")
    to.add("hook_embed", project_in or find(base, family.embed), "out")
    to.add("hook_token_type_embed", find(base, family.type_embed), "out")
    to.add("hook_pos_embed", find(base, family.pos_embed), "out")
    to.norm("embed_ln", find(base, family.embed_norm))
    to.add("hook_full_embed", find(base, family.full_embed), "out")
    for i, block in enumerate(blocks):
        block_sites(to, f"blocks.{i}", block, family, cfg.style)
    ln_final = find(base, family.ln_final)
    to.norm("ln_final", ln_final)
    unembed, head = _unembedding(module, base, cfg)
    stack = Stack("blocks", tuple(blocks), {"attn": family.block}, family.block, ln_final)
    return Adapter(
        name=family.name,
        cfg=replace(cfg, d_vocab_out=_width(head, cfg)),
        sites=to.sites,
        refused=to.refused,
        unlisted=to.unlisted,
        inputs="pixels" if family.name == "ViT" else "tokens",
        configs=_attention_configs(module),
        eager_float32=family.eager_float32,
        embed=find(base, family.embed),
        embed_project=project_in,
        unembed_project=project_out,
        pos_embed=find(base, family.pos_embed),
        unembed=unembed,
        unembed_module=head,
        ln_final=ln_final,
        stacks=(stack,),
        exact_once=True,
        pools_first=family.name == "ViT",
        notes=_notes(family, module.config),
    )


def _refine(family: Family, config: Any, block: Any) -> Family:
    """Variants inside a family that move its parts."""
    at = family.block
    if family.name == "Falcon" and find(block, "ln_attn") is not None:
        at = replace(at, ln1="ln_attn", ln2="ln_mlp")
    elif family.name == "Falcon" and not config.parallel_attn:
        at = replace(at, ln2="post_attention_layernorm")
    # A BERT with `is_decoder` masks what comes later.
    causal = family.causal or bool(getattr(config, "is_decoder", False))
    return replace(family, block=at, causal=causal)


def _notes(family: Family, config: Any) -> list[str]:
    notes = []
    if family.name == "Gemma":
        notes.append("hook_attn_out and hook_mlp_out are taken after the post-norms")
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


def _width(head: nn.Module | None, cfg: ModelConfig) -> int:
    out = getattr(head, "out_features", None)
    return int(out) if out else cfg.d_vocab if head is not None else 0


def _unembedding(
    module: Any, base: Any, cfg: ModelConfig
) -> tuple[Callable[[Tensor], Tensor] | None, nn.Module | None]:
    """Normalised residual -> logits, exactly as the model's own head computes it."""
    kind = type(module).__name__
    if cfg.family == "ViT":
        head = find(module, "classifier")
        return (head, head) if head is not None else (None, None)
    causal = kind.endswith(("LMHeadModel", "ForCausalLM"))
    if kind.endswith("ForMaskedLM") or (causal and cfg.family == "BERT"):
        return _masked_lm_head(module)
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    if not causal or head is None:
        return None, None
    out: Any = head
    project, cap = find(base, "decoder.project_out"), cfg.final_softcap

    def unembed(x: Tensor) -> Tensor:
        logits = out(x if project is None else project(x))
        return torch.tanh(logits / cap) * cap if cap else logits

    return unembed, head


def _masked_lm_head(module: Any) -> tuple[Callable[[Tensor], Tensor] | None, nn.Module | None]:
    own = getattr(module, "get_output_embeddings", lambda: None)()
    for path in ("cls", "lm_head"):
        head = find(module, path)
        if head is not None and own is not None:
            return head, own
    if find(module, "vocab_projector") is None:
        return None, None

    def distil(x: Tensor) -> Tensor:
        return module.vocab_projector(module.vocab_layer_norm(module.activation(module.vocab_transform(x))))

    return distil, module.vocab_projector


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


def _t5_adapter(module: Any, name: str) -> Adapter:
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
        **_dtype_device(module),
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
        cfg=replace(cfg, d_vocab_out=_width(head, cfg)),
        sites=to.sites,
        refused=to.refused,
        unlisted=to.unlisted,
        inputs="encoder_decoder" if "decoder" in coders else "tokens",
        configs=_attention_configs(module),
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
