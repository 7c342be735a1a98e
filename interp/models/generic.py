"""Adapters without a table row: any nn.Module, and models that carry hook points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp.models.adapter import Adapter
from interp.models.cfg import ModelConfig
from interp.models.sites import Site, View, axes_of
from interp.models.small import SmallTransformer
from interp.models.small_layers import HookPoint

UNLISTED = ("hook_q_input", "hook_k_input", "hook_v_input", "hook_result")
"""Hooking one of the first three makes the block normalise once per head (TransformerLens's split
inputs); the last is large."""
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Identity)


def module_adapter(module: nn.Module, name: str, family: str = "module") -> Adapter:
    """Every submodule's input and output, by its own path: `conv1.hook_in`, `conv1.hook_out`.

    A module reached by two paths is listed under its first. Recurrent cells also list their state.
    """
    sites: dict[str, Site] = {}
    seen: set[int] = set()
    for path, part in module.named_modules():
        if not path or isinstance(part, _CONTAINERS) or id(part) in seen:
            continue
        seen.add(id(part))
        sites[f"{path}.hook_in"] = Site(f"{path}.hook_in", part, "in", "...")
        sites[f"{path}.hook_out"] = Site(f"{path}.hook_out", part, "out", "...")
        if isinstance(part, nn.LSTMCell):
            sites[f"{path}.hook_c"] = Site(
                f"{path}.hook_c", part, "out", "batch d_hidden", slot="1"
            )
    first = next(module.parameters(), None)
    cfg = ModelConfig(
        model_name=name,
        family=family,
        dtype="" if first is None else str(first.dtype).removeprefix("torch."),
        device="cpu" if first is None else str(first.device),
    )
    return Adapter(name=family, cfg=cfg, sites=sites, inputs="any")


class Converted(View):
    """A bridge's hook point that shows another shape than it receives (heads, say)."""

    def __init__(self, conversion: Any) -> None:
        self.conversion = conversion

    def read(self, raw: Tensor) -> Tensor:
        return self.conversion.convert(raw)

    def write(self, raw: Tensor, value: Tensor) -> Tensor:
        return self.conversion.revert(value)


def _guest_site(name: str, point: Any) -> Site:
    conversion = getattr(point, "hook_conversion", None)
    view = None if conversion is None else Converted(conversion)
    return Site(name, point, "out", axes_of(name) or "...", view=view)


def _sort_out(module: Any, adapter: Adapter) -> None:
    """One pass over two tokens: which points fire, how often, and in which order."""
    fired: dict[str, int] = dict.fromkeys(adapter.sites, 0)
    order: dict[str, None] = {}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            fired[name] += 1
            order[name] = None

        return hook

    handles = [s.module.register_forward_hook(count(n)) for n, s in adapter.sites.items()]
    try:
        with torch.no_grad():
            module(torch.zeros(1, 2, dtype=torch.long, device=adapter.cfg.device))
    finally:
        for handle in handles:
            handle.remove()
    for name, times in fired.items():
        if times == 0:
            adapter.refused[name] = "this hook point is switched off in the guest's own cfg"
        if times > 1:
            adapter.unlisted[name] = adapter.sites[name]
    adapter.sites = {name: adapter.sites[name] for name in order if fired[name] == 1}


def is_hooked_root(module: nn.Module) -> bool:
    """A TransformerLens HookedTransformer, TransformerBridge or any HookedRootModule."""
    names = {k.__name__ for k in type(module).__mro__}
    return bool(names & {"HookedRootModule", "TransformerBridge"})


def hooked_root_adapter(module: Any, name: str) -> Adapter:
    """The guest's own hook points under their own names.

    The same HookPoint under several names (the bridge's aliases) is listed under each. One pass
    over two tokens finds out which points are switched off (refused) and which run several times
    (unlisted: hooking them needs a call index).
    """
    known = getattr(module, "cfg", None)
    sites = {n: _guest_site(n, point) for n, point in module.hook_dict.items()}
    value = {
        f: getattr(known, f, None)
        for f in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx")
    }
    dtype = getattr(known, "dtype", None)
    sizes: dict[str, Any] = {k: int(v) for k, v in value.items() if isinstance(v, int)}
    cfg = ModelConfig(
        model_name=name,
        family=type(module).__name__,
        **sizes,
        n_kv_heads=int(getattr(known, "n_key_value_heads", None) or value["n_heads"] or 0),
        d_vocab=int(getattr(known, "d_vocab", 0) or 0),
        d_vocab_out=int(getattr(known, "d_vocab_out", 0) or 0),
        act_fn=str(getattr(known, "act_fn", "") or ""),
        normalization_type=getattr(known, "normalization_type", None),
        causal=getattr(known, "attention_dir", "") == "causal",
        attn_only=bool(getattr(known, "attn_only", False)),
        default_prepend_bos=getattr(known, "default_prepend_bos", None),
        dtype=str(dtype).removeprefix("torch.") if dtype is not None else "",
        device=str(getattr(known, "device", "cpu")),
    )
    adapter = Adapter(
        name=type(module).__name__, cfg=cfg, sites=sites, inputs="tokens" if known else "any"
    )
    if adapter.inputs == "tokens":
        _sort_out(module, adapter)
    adapter.embed = getattr(module, "embed", None)
    adapter.pos_embed = getattr(module, "pos_embed", None)
    if callable(getattr(module, "unembed", None)):
        adapter.unembed, adapter.unembed_module = module.unembed, module.unembed
    if isinstance(getattr(module, "ln_final", None), nn.Module):
        adapter.ln_final = module.ln_final
    return adapter


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
