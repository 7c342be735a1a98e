"""`print(model)`: one readable map of a model and its sites."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel


def model_map(model: HookedModel) -> str:
    """Sizes, text policy, then every kind of site once with its axes and sizes."""
    cfg = model.cfg
    head = f"{cfg.model_name or type(model.module).__name__} · {cfg.family}"
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
    traits = [
        t for t in (cfg.normalization_type, cfg.positional, cfg.style and f"{cfg.style}-norm") if t
    ]
    if cfg.style == "parallel":
        traits[-1] = "attention and MLP in parallel"
    lines = [head, "  " + ", ".join(sizes) if sizes else "  " + type(model.module).__name__]
    lines.append("  " + ", ".join([*traits, cfg.dtype, cfg.device]).strip(", "))
    if model.adapter.inputs in ("tokens", "encoder_decoder"):
        lines.append(f"  BOS: {model.tokenization.bos_policy}")
    lines.extend(_site_lines(model))
    lines.extend(f"  note: {note}" for note in model.adapter.notes)
    reasons: dict[str, list[str]] = {}
    for name, reason in model.adapter.refused.items():
        reasons.setdefault(reason, []).append(_kind(name))
    for reason, names in reasons.items():
        kinds = ", ".join(dict.fromkeys(names))
        lines.append(f"  not offered: {kinds} ({reason})")
    return "\n".join(lines)


def _kind(name: str) -> str:
    return re.sub(r"blocks\.\d+\.", "blocks.*.", name)


def _site_lines(model: HookedModel) -> list[str]:
    kinds: dict[str, tuple[str, int]] = {}
    for name, site in model.sites.items():
        kind = _kind(name)
        kinds[kind] = (site.describe(), kinds.get(kind, ("", 0))[1] + 1)
    width = max(map(len, kinds), default=0)
    lines = [f"  {len(model.sites)} sites:"]
    for kind, (axes, count) in kinds.items():
        times = f"  ×{count}" if count > 1 else ""
        lines.append(f"    {kind:<{width}}  {axes}{times}".rstrip())
    return lines
