"""`print(model)`: one readable map of a model and its sites."""

from __future__ import annotations

import re

from interp.models.adapters.adapter import Adapter
from interp.models.hooks.sites import SiteMap
from interp.models.text.tokens import Tokenization


def model_map(adapter: Adapter, sites: SiteMap, tokenization: Tokenization) -> str:
    """Sizes, text policy, then every kind of site once with its axes and sizes."""
    cfg, kind = adapter.cfg, type(sites.root).__name__
    head = f"{cfg.model_name or kind} · {cfg.family}"
    sizes = [
        f"{label} {value}"
        for label, value in (
            ("layers", cfg.n_layers),
            ("decoder layers", cfg.n_decoder_layers),
            ("d_model", cfg.d_model),
            ("heads", cfg.n_heads),
            ("kv heads", cfg.n_kv_heads if cfg.n_kv_heads != cfg.n_heads else 0),
            ("d_head", cfg.d_head),
            ("d_mlp", cfg.d_mlp),
            ("vocabulary", cfg.d_vocab),
            ("context", cfg.n_ctx),
        )
        if value
    ]
    traits = [t for t in (cfg.normalization_type, cfg.positional, cfg.style and f"{cfg.style}-norm") if t]
    if cfg.style == "parallel":
        traits[-1] = "attention and MLP in parallel"
    lines = [head, "  " + ", ".join(sizes) if sizes else f"  {kind}"]
    lines.append("  " + ", ".join([*traits, cfg.dtype, cfg.device]).strip(", "))
    if adapter.inputs in ("tokens", "encoder_decoder"):
        lines.append(f"  BOS: {tokenization.bos_policy}")
    lines.extend(_site_lines(sites))
    hidden = dict.fromkeys(_kind(name) for name in sites.unlisted)
    if hidden:
        lines.append(f"  only by name: {', '.join(hidden)}")
    lines.extend(f"  note: {note}" for note in adapter.notes)
    reasons: dict[str, list[str]] = {}
    for name, reason in adapter.refused.items():
        reasons.setdefault(reason, []).append(_kind(name))
    for reason, names in reasons.items():
        kinds = ", ".join(dict.fromkeys(names))
        lines.append(f"  not offered: {kinds} ({reason})")
    return "\n".join(lines)


def _kind(name: str) -> str:
    return re.sub(r"blocks\.\d+\.", "blocks.*.", name)


def _site_lines(sites: SiteMap) -> list[str]:
    kinds: dict[str, tuple[str, int]] = {}
    for name, site in sites.items():
        kind = _kind(name)
        kinds[kind] = (site.describe(), kinds.get(kind, ("", 0))[1] + 1)
    width = max(map(len, kinds), default=0)
    lines = [f"  {len(sites)} sites:"]
    for kind, (axes, count) in kinds.items():
        times = f"  ×{count}" if count > 1 else ""
        lines.append(f"    {kind:<{width}}  {axes}{times}".rstrip())
    return lines
