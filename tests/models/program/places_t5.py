"""Where T5's activations live: two stacks, and attention from one to the other."""

from __future__ import annotations

from dataclasses import replace

from tests.models.program.places import H, Place, norm_places


def t5_places() -> dict[str, Place]:
    """Both stacks of the zoo's T5: three encoder blocks, two decoder blocks."""
    found: dict[str, Place] = {}
    for side, layers in (("encoder", 3), ("decoder", 2)):
        for layer in range(layers):
            _t5_block(found, side, f"{side}_blocks.{layer}", f"{side}.block.{layer}")
    return {
        name: replace(place, side="decoder" if name.startswith("decoder") else "encoder")
        for name, place in found.items()
    }


def _t5_block(found: dict[str, Place], side: str, name: str, block: str) -> None:
    cross = side == "decoder"
    own = "self_attn" if cross else "attn"
    last = 2 if cross else 1
    found[f"{name}.hook_resid_pre"] = Place(block, "in")
    found[f"{name}.hook_resid_post"] = Place(block, "out")
    found[f"{name}.hook_resid_mid"] = Place(f"{block}.layer.0", "out")
    ff = f"{block}.layer.{last}.DenseReluDense"
    found[f"{name}.hook_mlp_out"] = Place(ff, "out")
    found[f"{name}.mlp.hook_post"] = Place(f"{ff}.wo", "in")
    norm_places(found, f"{name}.ln1", f"{block}.layer.0.layer_norm", "rms")
    parts = {own: f"{block}.layer.0.SelfAttention"}
    if cross:
        parts["cross_attn"] = f"{block}.layer.1.EncDecAttention"
        found[f"{name}.hook_cross_attn_out"] = Place(parts["cross_attn"], "out")
        found[f"{name}.hook_resid_mid_cross"] = Place(f"{block}.layer.1", "out")
    found[f"{name}.hook_attn_out"] = Place(parts[own], "out")
    for attn, path in parts.items():
        keys = "k" if attn == "cross_attn" else "h"
        found[f"{name}.{attn}.hook_z"] = Place(f"{path}.o", "in", "h", H)
        found[f"{name}.{attn}.hook_q"] = Place(f"{path}.q", "out", "h", H)
        found[f"{name}.{attn}.hook_k"] = Place(f"{path}.k", "out", keys, H)
        found[f"{name}.{attn}.hook_v"] = Place(f"{path}.v", "out", keys, H)
        found[f"{name}.{attn}.hook_pattern"] = Place(path, "attention", "a", part="pattern")
