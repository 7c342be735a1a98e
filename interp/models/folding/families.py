"""Finding the parts of a model that folding works on, from its table row and the live modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import FoldError
from interp.models.adapters.adapter import Adapter, Stack, find
from interp.models.adapters.blocks import Block
from interp.models.adapters.families import family_of
from interp.models.adapters.linear import is_transposed
from interp.models.adapters.norms import norm_parts
from interp.models.folding.parts import Affine, FoldNorm, FoldParts, ValuePath
from interp.models.hooks.sites import Heads, Interleaved, Slice, View
from interp.models.small.layers import Norm
from interp.models.small.model import SmallTransformer

HEAD_NORMS = ("q_norm", "k_norm", "q_layernorm", "k_layernorm")
"""Norms inside attention, after the projections: they do not read the residual stream."""
FUSED = {"Falcon": "self_attention.query_key_value", "CodeGen": "attn.qkv_proj"}
"""Fused projections whose layout no row describes; folding a norm needs only the whole."""
SINGLE = "it has a single output, and the mean would be all of it"


def small_parts(module: SmallTransformer) -> FoldParts:
    """The parts of our own small transformer."""
    cfg: Any = module.cfg
    head = Affine("unembed.W_U", module.unembed, "rows", "W_U", "b_U")
    parts = FoldParts(head=head)
    parts.writers.append(Affine("embed.W_E", module.embed, "rows", "W_E", ""))
    if hasattr(module, "pos_embed"):
        parts.writers.append(Affine("pos_embed.W_pos", module.pos_embed, "rows", "W_pos", ""))
    for i, block in enumerate(module.blocks):
        _small_block(parts, cfg, block, f"blocks.{i}")
    _small_norm(parts, "ln_final", module.ln_final, (head,))
    if cfg.final_rms or not str(cfg.normalization_type).startswith("LN"):
        parts.no_centring = "its norms do not remove the mean of the residual stream"
    if cfg.d_vocab_out == 1:
        parts.no_unembed = SINGLE
    return parts


def _small_block(parts: FoldParts, cfg: Any, block: Any, at: str) -> None:
    q, k, v = (Affine(f"{at}.attn.W_{x}", block.attn, "heads", f"W_{x}", f"b_{x}") for x in "QKV")
    o = Affine(f"{at}.attn.W_O", block.attn, "rows", "W_O", "b_O")
    _small_norm(parts, f"{at}.ln1", block.ln1, (q, k, v))
    index = torch.arange(cfg.n_heads * cfg.d_head).view(cfg.n_heads, cfg.d_head)
    parts.values.append(ValuePath(v, index, o))
    parts.writers.append(o)
    mlp = block.mlp
    if mlp is None:
        return
    gated = mlp.W_gate is not None
    # A gated MLP adds b_in after the product of both halves: it is nobody's input bias.
    readers = [Affine(f"{at}.mlp.W_in", mlp, "rows", "W_in", "" if gated else "b_in")]
    if gated:
        readers.append(Affine(f"{at}.mlp.W_gate", mlp, "rows", "W_gate", ""))
    _small_norm(parts, f"{at}.ln2", block.ln2, readers)
    out = Affine(f"{at}.mlp.W_out", mlp, "rows", "W_out", "b_out")
    _small_norm(parts, f"{at}.mlp.ln", mlp.ln, (out,))
    parts.writers.append(out)


def _small_norm(parts: FoldParts, name: str, norm: nn.Module | None, readers: Sequence[Affine]) -> None:
    if isinstance(norm, Norm):
        parts.norms.append(FoldNorm(name, norm, tuple(readers)))


def huggingface_parts(module: Any, adapter: Adapter, headed: bool) -> FoldParts:
    """The parts of a Hugging Face model with a table row.

    Args:
        headed: The head is norm and unembedding, nothing more (the proof said so).
    """
    parts = FoldParts()
    base = getattr(module, "base_model", module)
    _head(parts, adapter, headed)
    if adapter.cfg.style == "post":
        parts.no_norms = "post-norm: the residual stream itself reads the norms' outputs"
    elif getattr(module.config, "apply_residual_connection_post_layernorm", False):
        parts.no_norms = "norms: the residual branch starts after the norm and reads its output"
    _refuse_experts(adapter)
    parts.no_values = _against_values(adapter)
    for stack in adapter.stacks:
        for i, block in enumerate(stack.blocks):
            where = f"{stack.prefix}.{i}"
            parts.no_norms = parts.no_norms or _unknown_norm(stack, block, where)
            _block(parts, adapter, stack, block, where)
        _final(parts, base, adapter, stack)
    parts.no_centring = parts.no_norms or _against_centring(module, adapter)
    if not parts.no_centring:
        parts.writers += _tables(base, adapter)
    return parts


def _refuse_experts(adapter: Adapter) -> None:
    """Experts are three-dimensional parameters, mixers no maps: nothing that a norm could be folded into."""
    for stack in adapter.stacks:
        if stack.mlp.mixer:
            raise FoldError(
                f"cannot fold {adapter.cfg.model_name}: its blocks are mixers of a state-space model",
                got=f"{stack.prefix}.0.{stack.mlp.mixer}",
                expected="attention and MLPs",
            )
        for i, block in enumerate(stack.blocks):
            if find(block, stack.mlp.experts) is not None:
                raise FoldError(
                    f"cannot fold {adapter.cfg.model_name}: its MLPs are mixtures of experts",
                    got=f"{stack.prefix}.{i}.{stack.mlp.experts}",
                    expected="MLPs of plain linear maps",
                )


def _against_values(adapter: Adapter) -> str:
    """Why a bias of the values is not what attention adds of it."""
    if adapter.clipped:
        return "its values are clipped behind their projection"
    if any(name.endswith("hook_attn_sink") for name in adapter.sites):
        return "a sink takes its share of every row of an attention pattern"
    return ""


def _head(parts: FoldParts, adapter: Adapter, headed: bool) -> None:
    cfg, head = adapter.cfg, adapter.unembed_module
    if head is None or not headed or adapter.bent:
        parts.no_unembed = "it has no unembedding that reads the residual stream"
        return
    parts.head = _linear(head, "the unembedding")
    parts.softmax = cfg.d_vocab > 0
    if cfg.final_softcap:
        parts.no_unembed = "its logits are soft-capped, so a constant added before changes them"
    elif cfg.d_vocab_out == 1:
        parts.no_unembed = SINGLE


def _unknown_norm(stack: Stack, block: nn.Module, where: str) -> str:
    """The norm in this block that the row does not name (GPT-2's ln_cross_attn), as a reason."""
    rows = (*stack.attention.values(), stack.mlp)
    named = {path for row in rows for path in (row.ln1, row.ln2, row.ln1_post, row.ln2_post)}
    for path, part in block.named_modules():
        known = path in named or not set(path.split(".")).isdisjoint(HEAD_NORMS)
        if not known and norm_parts(part) is not None:
            return f"norms: the architecture's row does not name {where}.{path}"
    return ""


def _block(parts: FoldParts, adapter: Adapter, stack: Stack, block: nn.Module, where: str) -> None:
    shared: tuple[Affine, ...] = ()
    for name, at in stack.attention.items():
        paths = [at.q, at.k, at.v] if at.q else [at.qkv or FUSED.get(adapter.name, "")]
        readers = tuple(_at(block, path) for path in paths)
        o = _at(block, at.o)
        parts.writers.append(o)
        parts.values.append(ValuePath(readers[-1], _value_index(adapter, at, readers[-1]), o))
        if name == "cross_attn":
            readers = readers[:1]  # keys and values read the encoder: see _final
        if not at.ln1:
            continue  # OLMo-2: norms stand behind the sublayers alone
        if stack.mlp.ln2:
            _norm(parts, f"{where}.{at.ln1}", find(block, at.ln1), readers)
        else:
            shared = readers  # attention and MLP read one norm
    at = stack.mlp
    paths = [at.mlp_gate, at.mlp_up] if at.mlp_gate else [at.mlp_gate_up or at.mlp_pre]
    mlp = tuple(_at(block, path) for path in paths)
    path = at.ln2 or at.ln1
    if path:
        _norm(parts, f"{where}.{path}", find(block, path), (*shared, *mlp))
    parts.writers.append(_at(block, at.mlp_down))


def _norm(parts: FoldParts, name: str, norm: nn.Module | None, readers: Sequence[Affine]) -> None:
    if isinstance(norm, nn.Identity):  # ModernBERT's first: its embeddings have been through one
        return
    if norm is None or norm_parts(norm) is None:
        parts.no_norms = parts.no_norms or f"norms: the formula of {name} is unknown"
        return
    parts.norms.append(FoldNorm(name, norm, tuple(readers)))


def _value_index(adapter: Adapter, at: Block, v: Affine) -> Tensor:
    """Where a (fused) projection puts the values: indices [kv_head, d_head] of its outputs."""
    n, kv, d = adapter.cfg.n_heads, adapter.cfg.n_kv_heads, adapter.cfg.d_head
    held: Any = getattr(v.module, v.weight)
    width = held.shape[0 if v.layout == "columns" else 1]
    every = torch.arange(width)
    if at.v:
        view: View = Heads(kv, d)
    elif at.fused == "interleaved":
        view = Interleaved(n, d, 2)
    elif at.fused:
        view = Slice((n + kv) * d, (n + 2 * kv) * d, Heads(kv, d))
    elif adapter.name == "CodeGen":
        # Four shards, each query, value, key.
        return every.view(4, 3, -1)[:, 1].reshape(n, d)
    else:
        # Falcon: groups of some queries, one key and one value; one group when multi-query.
        queries = 2 * n // (width // d - n)
        return every.view(-1, queries + 2, d)[:, -1]
    return view.read(every)


def _final(parts: FoldParts, base: nn.Module, adapter: Adapter, stack: Stack) -> None:
    """The final norm of a stack: into the cross-attention that reads it, or into the head.

    Without either it is the model's output and stays.
    """
    if stack.ln_final is None:
        return
    readers: tuple[Affine, ...] = ()
    if stack.prefix == "encoder_blocks" and len(adapter.stacks) > 1:
        decoder = adapter.stacks[-1]
        cross = decoder.attention["cross_attn"]
        readers = tuple(_at(b, path) for b in decoder.blocks for path in (cross.k, cross.v))
    elif parts.head is not None:
        project = find(base, "decoder.project_out")  # OPT with narrow embeddings
        readers = (parts.head if project is None else _linear(project, "decoder.project_out"),)
    if readers:
        parts.norms.append(FoldNorm(f"{stack.prefix} final norm", stack.ln_final, readers))


def _against_centring(module: Any, adapter: Adapter) -> str:
    if adapter.cfg.normalization_type != "LN":
        return "RMS norms read the mean of the residual stream"
    row = family_of(module.config.model_type)
    if row is not None and row.embed_norm:
        return "a norm after the embedding writes into the residual stream"
    if adapter.inputs == "pixels" and adapter.name != "ViT":
        return "what its patches write into the residual stream is read by no row"
    if adapter.pos_embed is not None and "weight" not in adapter.pos_embed._parameters:
        return "its positions are computed, not read from a table"
    for stack in adapter.stacks:
        final = None if stack.ln_final is None else norm_parts(stack.ln_final)
        if final is None or not final.centred:
            return "no layer norm stands between the residual stream and the output"
    return ""


def _tables(base: nn.Module, adapter: Adapter) -> Iterator[Affine]:
    """Embeddings that write into the residual stream."""
    if adapter.name == "ViT":
        for name in ("cls_token", "position_embeddings", "mask_token"):
            if adapter.embed is not None and getattr(adapter.embed, name, None) is not None:
                yield Affine(f"embeddings.{name}", adapter.embed, "rows", name, "")
        patches = find(base, "embeddings.patch_embeddings.projection")
        if patches is not None:
            yield Affine("patch_embeddings.projection", patches, "columns")
        return
    project = find(base, "decoder.project_in")  # OPT with narrow embeddings
    if project is not None:
        yield _linear(project, "decoder.project_in")
    elif adapter.embed is not None:
        yield Affine("the token embedding", adapter.embed, "rows", "weight", "")
    if adapter.pos_embed is not None:
        yield Affine("the position embedding", adapter.pos_embed, "rows", "weight", "")


def _at(root: nn.Module, path: str) -> Affine:
    module = find(root, path)
    if module is None:
        raise FoldError(f"cannot fold: no module {path!r}", got=type(root).__name__)
    return _linear(module, path)


def _linear(module: nn.Module, name: str) -> Affine:
    conv = is_transposed(module)
    if not conv and not isinstance(module, nn.Linear):
        raise FoldError(
            f"cannot fold: {name} is not a plain linear map",
            got=type(module).__name__,
            expected="nn.Linear or Conv1D",
            fix="load the model unquantised and merge its adapters first",
        )
    return Affine(name, module, "rows" if conv else "columns")
