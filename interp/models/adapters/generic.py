"""Adapters without a table row: any nn.Module, and our own small transformer."""

from __future__ import annotations

from torch import nn

from interp.models.adapters.adapter import Adapter
from interp.models.adapters.layouts import End, layout, tensors_beside
from interp.models.cfg import ModelConfig
from interp.models.hooks.sites import Site, axes_of
from interp.models.small.layers import HookPoint
from interp.models.small.model import SmallTransformer

UNLISTED = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_result")
"""Hooking one of the first three makes the block normalise once per head (TransformerLens's split
inputs); the last is large."""
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Identity)
_FURTHER = (
    "hook_in and hook_out are a module's first tensors; more go by number or key: "
    "'<module>.hook_out.1', '<module>.hook_in.mask'"
)


def module_adapter(module: nn.Module, name: str, family: str = "module") -> Adapter:
    """Every submodule's input and output, by its own path: `conv1.hook_in`, `conv1.hook_out`.

    A module reached by two paths is listed under its first. Further tensors have a path after the
    name, `lstm.hook_out.1.0`: those that a kind of torch module always has are listed, any other
    is a site when it is named or once a run without a filter has met it.
    """
    sites: dict[str, Site] = {}
    seen: set[int] = set()
    for path, part in module.named_modules():
        if not path or isinstance(part, _CONTAINERS) or id(part) in seen or _only_weights(part):
            continue
        seen.add(id(part))
        parent = module.get_submodule(path.rpartition(".")[0])
        beside_in, beside_out = tensors_beside(part)
        ends: tuple[tuple[End, tuple[str, ...]], ...] = (("in", beside_in), ("out", beside_out))
        for kind, more in ends:
            axes, sizes = layout(part, kind, parent)
            first = Site(f"{path}.hook_{kind}", part, kind, axes, sizes)
            sites[first.name] = first
            sites.update((s.name, s) for s in map(first.further, more))
        if isinstance(part, nn.LSTMCell):
            sites[f"{path}.hook_c"] = Site(f"{path}.hook_c", part, "out", "batch d_hidden", slot="1")
    weight = next(module.parameters(), None)
    cfg = ModelConfig(
        model_name=name,
        family=family,
        dtype="" if weight is None else str(weight.dtype).removeprefix("torch."),
        device="cpu" if weight is None else str(weight.device),
    )
    return Adapter(name=family, cfg=cfg, sites=sites, inputs="any", notes=[_FURTHER])


def _only_weights(part: nn.Module) -> bool:
    """Whether a part holds a quantised layer's weights and is never run."""
    kind = type(part)
    return kind.__module__.startswith("torch.ao.nn.quantized") and "Packed" in kind.__name__


def small_adapter(module: SmallTransformer, name: str) -> Adapter:
    """Our own small transformer: its hook points are its sites."""
    own = module.cfg
    sizes = {
        "d_model": own.d_model,
        "head": own.n_heads,
        "kv_head": own.n_heads,
        "d_head": own.d_head,
        "d_mlp": own.d_mlp,
        "d_vocab": own.d_vocab_out,
        "1": 1,
    }
    sites, split = {}, {}
    for path, part in module.named_modules():
        if isinstance(part, HookPoint):
            axes = "batch pos d_vocab" if path == "unembed.hook_out" else axes_of(path)
            site = Site(path, part, "out", axes, tuple(sizes.get(a) for a in axes.split()))
            (split if path.endswith(UNLISTED) else sites)[path] = site
    parameter = next(module.parameters())
    norm = own.normalization_type
    cfg = ModelConfig(
        model_name=name,
        family="small",
        n_layers=own.n_layers,
        d_model=own.d_model,
        n_heads=own.n_heads,
        n_kv_heads=sizes["kv_head"],
        d_head=own.d_head,
        d_mlp=0 if own.attn_only else own.d_mlp or 0,
        d_vocab=own.d_vocab,
        d_vocab_out=own.d_vocab_out,
        n_ctx=own.n_ctx,
        act_fn=own.act_fn or "",
        normalization_type=None if norm is None else norm.removesuffix("Pre"),
        positional=own.positional_embedding_type,
        style="pre",
        causal=own.attention_dir == "causal",
        attn_only=own.attn_only,
        gated_mlp=own.gated_mlp,
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
    )
    return Adapter(
        name="small",
        cfg=cfg,
        sites=sites,
        unlisted=split,
        inputs="tokens",
        embed=module.embed,
        pos_embed=getattr(module, "pos_embed", None),
        unembed=module.unembed,
        unembed_module=module.unembed,
        ln_final=module.ln_final,
        exact_once=True,
    )
