"""TransformerLens models as guests: their own hook points, weights and head by their own names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp.models.adapters.adapter import Adapter
from interp.models.cfg import ModelConfig
from interp.models.hooks.sites import Site, View, axes_of


class Converted(View):
    """A bridge's hook point that shows another shape than it receives (heads, say)."""

    def __init__(self, conversion: Any) -> None:
        self.conversion = conversion

    def read(self, raw: Tensor) -> Tensor:
        return self.conversion.convert(raw)

    def write(self, raw: Tensor, value: Tensor) -> Tensor:
        return self.conversion.revert(value)


def is_hooked_root(module: nn.Module) -> bool:
    """A TransformerLens HookedTransformer, TransformerBridge or any HookedRootModule."""
    names = {k.__name__ for k in type(module).__mro__}
    return bool(names & {"HookedRootModule", "TransformerBridge"})


def hooked_root_adapter(module: Any, name: str) -> Adapter:
    """The guest's own hook points under their own names.

    The same HookPoint under several names (the bridge's aliases) is listed under each. One pass
    over two tokens finds out which points are switched off (refused), which run several times
    (each call is a site, `blocks.0.ln1.hook_scale#2`), and whether norm, unembedding and soft cap
    give the guest's own logits (else it has no `unembed` here).
    """
    known = getattr(module, "cfg", None)
    sites = {n: _guest_site(n, point) for n, point in module.hook_dict.items()}
    cfg = _guest_config(module, known, name, sites)
    adapter = Adapter(name=type(module).__name__, cfg=cfg, sites=sites, inputs="tokens" if known else "any")
    adapter.embed = getattr(module, "embed", None)
    adapter.pos_embed = getattr(module, "pos_embed", None)
    for norm in ("ln_final", "decoder_final_ln"):
        if isinstance(getattr(module, norm, None), nn.Module):
            adapter.ln_final = getattr(module, norm)
    if callable(getattr(module, "unembed", None)):
        adapter.unembed, adapter.unembed_module = _head(module, cfg), module.unembed
    if adapter.inputs == "tokens":
        _look(module, adapter)
    return adapter


def own_weight(part: Any, name: str) -> Any:
    """A guest's tensor; zeros for a bias that it does not have.

    Grouped-query attention shows W_K and W_V once per query head; what it holds, one for each
    group, is underneath.
    """
    held = getattr(part, f"_{name}", None)
    held = held if isinstance(held, Tensor) else getattr(part, name, None)
    if held is None and name.startswith("b_"):
        weight = own_weight(part, f"W_{name[2:]}")
        if isinstance(weight, Tensor):
            heads = weight.shape[:1] if name in ("b_Q", "b_K", "b_V") else ()
            return weight.new_zeros(*heads, weight.shape[-1])
    return held


def _guest_site(name: str, point: Any) -> Site:
    conversion = getattr(point, "hook_conversion", None)
    view = None if conversion is None else Converted(conversion)
    return Site(name, point, "out", axes_of(name) or "...", view=view)


def _guest_config(module: Any, known: Any, name: str, sites: Iterable[str]) -> ModelConfig:
    value = {
        f: getattr(known, f, None) for f in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx")
    }
    sizes: dict[str, Any] = {k: int(v) for k, v in value.items() if isinstance(v, int)}
    dtype = getattr(known, "dtype", None)
    style = "parallel" if getattr(known, "parallel_attn_mlp", False) else ""
    if "blocks.0.hook_normalized_resid_post" in set(sites):
        style = "post"
    return ModelConfig(
        model_name=name,
        family=type(module).__name__,
        **sizes,
        n_kv_heads=int(getattr(known, "n_key_value_heads", None) or value["n_heads"] or 0),
        d_vocab=int(getattr(known, "d_vocab", 0) or 0),
        d_vocab_out=int(getattr(known, "d_vocab_out", 0) or 0),
        act_fn=str(getattr(known, "act_fn", "") or ""),
        normalization_type=getattr(known, "normalization_type", None),
        style=style,
        causal=getattr(known, "attention_dir", "") == "causal",
        attn_only=bool(getattr(known, "attn_only", False)),
        final_softcap=max(float(getattr(known, "output_logits_soft_cap", None) or 0.0), 0.0),
        default_prepend_bos=getattr(known, "default_prepend_bos", None),
        dtype=str(dtype).removeprefix("torch.") if dtype is not None else "",
        device=str(getattr(known, "device", "cpu")),
    )


def _head(module: Any, cfg: ModelConfig) -> Callable[[Tensor], Tensor]:
    """Normalised residual -> logits, as the guest's own forward computes them."""
    cap, transform = cfg.final_softcap, getattr(module, "mlm_head", None)

    def unembed(x: Tensor) -> Tensor:
        logits = module.unembed(x if transform is None else transform(x))
        return torch.tanh(logits / cap) * cap if cap else logits

    return unembed


def _look(module: Any, adapter: Adapter) -> None:
    """One pass over two tokens: how often each point fires, and what the head makes of the last."""
    fired: dict[str, int] = {}
    last: dict[str, Tensor] = {}
    n = adapter.cfg.n_layers
    streams = [
        f"{prefix}.{n - 1}.hook_{what}resid_post"
        for what in ("normalized_", "")
        for prefix in ("blocks", "decoder")
    ]

    terms = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    sums = [[f"blocks.{layer}.hook_{term}" for term in terms] for layer in range(n)]
    kept = {*streams, "hook_embed", *(name for names in sums for name in names)}

    def count(name: str) -> Any:
        def hook(point: Any, args: Any, output: Any) -> None:
            fired[name] = fired.get(name, 0) + 1
            if name in kept and isinstance(output, Tensor):
                last[name] = output

        return hook

    handles = [s.module.register_forward_hook(count(n)) for n, s in adapter.sites.items()]
    # From the upper half of the vocabulary: special ids sit at the bottom.
    ids = torch.tensor([[adapter.cfg.d_vocab // 2, max(adapter.cfg.d_vocab - 1, 0)]])
    ids = ids.to(adapter.cfg.device)
    two = "decoder_input" in inspect.signature(module.forward).parameters
    try:
        with torch.no_grad():
            output = module(ids, **({"decoder_input": ids} if two else {}))
    finally:
        for handle in handles:
            handle.remove()
    _sort_out(adapter, fired)
    resid = next((last[n] for n in streams if n in last), None)
    _prove_head(adapter, resid, getattr(output, "logits", output))
    for pre, attn, mlp, post in sums:
        if pre in last and post in last and attn in last:
            total = last[pre] + last[attn] + last.get(mlp, torch.zeros(()))
            if not _close(total, last[post]):
                adapter.no_sum = f"{pre}, {attn} and {mlp} do not add up to {post} in this guest"
    table, embedded = getattr(adapter.embed, "W_E", None), last.get("hook_embed")
    if isinstance(table, Tensor) and embedded is not None and not _close(table[ids], embedded):
        adapter.embed = None
        adapter.notes.append("no `W_E`: rows of the guest's table are not what hook_embed holds")


def _sort_out(adapter: Adapter, fired: dict[str, int]) -> None:
    sites, adapter.sites = adapter.sites, {}
    for name in sites:
        if name not in fired:
            adapter.refused[name] = (
                "this hook point was switched off in the guest's own cfg when it was wrapped: "
                "switch it on and wrap it again"
            )
    for name, times in fired.items():  # in the order of their first call
        if times == 1:
            adapter.sites[name] = sites[name]
            continue
        adapter.unlisted[name] = sites[name]
        calls = [f"{name}#{i}" for i in range(times)]
        adapter.sites.update((call, replace(sites[name], name=call)) for call in calls)
    if adapter.unlisted:
        adapter.notes.append("'#k' is the k-th call of a hook point that runs several times in one pass")


def _prove_head(adapter: Adapter, resid: Tensor | None, logits: Any) -> None:
    """unembed(ln_final(last residual)) must be the guest's own logits, or it is not offered."""
    if adapter.unembed is None:
        return
    reason = "its last residual stream has no hook point"
    if resid is not None and isinstance(logits, Tensor):
        with torch.no_grad():
            read = adapter.unembed(resid if adapter.ln_final is None else adapter.ln_final(resid))
        if _close(read, logits):
            return
        reason = "norm and unembedding do not give the guest's own logits"
    adapter.unembed = None
    adapter.notes.append(f"no `unembed`: {reason}")


def _close(a: Tensor, b: Tensor) -> bool:
    wide = b.dtype in (torch.float32, torch.float64)
    bound = (3e-4 if wide else 0.2) * float(b.detach().abs().max().clamp(min=1e-6))
    return a.shape == b.shape and float((a - b).detach().abs().max()) <= bound
