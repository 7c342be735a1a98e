"""Where each named activation lives in each raw module, written out by hand.

Nothing here is read from `interp`: a name that the package attaches to another place than this
table says is a difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Path = Callable[[str], str]
"""From a path inside a block to the path from the root."""
How = Literal["in", "out", "mid", "scale", "normalized", "result", "attention", "pair"]


@dataclass(frozen=True)
class Place:
    """One activation of a raw module.

    Attributes:
        path: The module, from the root.
        how: Its input, its output (`pair`: the second of its outputs), the residual stream behind
            an attention output (`mid`), inside a norm, one head's share of a projection, or inside
            attention (then `part` says what).
        axes: d = [batch pos d], h = [batch pos head d], k = the same along the keys, a = [batch
            head query key], 1 = [batch pos 1], c = [batch channel row column], s = a state
            [batch d], ? = nothing known.
        heads: Heads in an h or k view.
        columns: Start and stop of a share of a fused projection; `inter` for NeoX's layout, as
            (part, parts).
        norm: "ln", "rms", or "rms1" (gain 1 + weight).
        side: Whose tokens it runs along.
        block: For `mid`: the block whose input begins the residual branch; `part` is the
            norm behind.
    """

    path: str
    how: How
    axes: str = "d"
    heads: int = 0
    columns: tuple[int, int] | None = None
    inter: tuple[int, int] | None = None
    norm: str = ""
    part: str = ""
    side: Literal["encoder", "decoder"] = "encoder"
    block: str = ""


H, KV, D = 6, 2, 24


@dataclass(frozen=True)
class Row:
    """One family: the block's path, and paths inside the block ("" = no such thing)."""

    block: str
    layers: int = 3
    style: str = "pre"
    norm: str = "ln"
    ln1: str = ""
    ln2: str = ""
    post1: str = ""
    post2: str = ""
    attn: str = ""
    attn_out: str = ""
    o: str = ""
    q: str = ""
    k: str = ""
    v: str = ""
    thirds: str = ""
    gqa: str = ""
    inter: str = ""
    mlp_out: str = ""
    pre: str = ""
    gate: str = ""
    up: str = ""
    gate_up: str = ""
    down: str = ""
    mlp_width: int = 37
    heads: int = H
    kv_heads: int = H
    d_head: int = 4
    rotary: bool = False
    inside: bool = True
    ln_final: str = ""


_LLAMA = Row(
    "model.layers.{}",
    norm="rms",
    ln1="input_layernorm",
    ln2="post_attention_layernorm",
    attn="self_attn",
    attn_out="self_attn",
    o="self_attn.o_proj",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    mlp_out="mlp",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    kv_heads=KV,
    rotary=True,
    ln_final="model.norm",
)
_PHI3 = replace(
    _LLAMA, q="", k="", v="", gate="", up="", gqa="self_attn.qkv_proj", gate_up="mlp.gate_up_proj"
)
_GEMMA = replace(
    _LLAMA,
    norm="rms1",
    ln2="pre_feedforward_layernorm",
    post1="post_attention_layernorm",
    post2="post_feedforward_layernorm",
    attn_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
)
_GPT2 = Row(
    "transformer.h.{}",
    ln1="ln_1",
    ln2="ln_2",
    attn="attn",
    attn_out="attn",
    o="attn.c_proj",
    thirds="attn.c_attn",
    mlp_out="mlp",
    pre="mlp.c_fc",
    down="mlp.c_proj",
    ln_final="transformer.ln_f",
)
_NEOX = Row(
    "gpt_neox.layers.{}",
    style="parallel",
    ln1="input_layernorm",
    ln2="post_attention_layernorm",
    attn="attention",
    attn_out="attention",
    o="attention.dense",
    inter="attention.query_key_value",
    mlp_out="mlp",
    pre="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    rotary=True,
    ln_final="gpt_neox.final_layer_norm",
)
_OPT = Row(
    "model.decoder.layers.{}",
    ln1="self_attn_layer_norm",
    ln2="final_layer_norm",
    attn="self_attn",
    attn_out="self_attn",
    o="self_attn.out_proj",
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    mlp_out="fc2",
    pre="fc1",
    down="fc2",
    ln_final="model.decoder.final_layer_norm",
)
_BERT = Row(
    "bert.encoder.layer.{}",
    style="post",
    ln1="attention.output.LayerNorm",
    ln2="output.LayerNorm",
    attn="attention.self",
    attn_out="attention.output.dense",
    o="attention.output.dense",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    mlp_out="output.dense",
    pre="intermediate.dense",
    down="output.dense",
)
_DISTIL = Row(
    "distilbert.transformer.layer.{}",
    style="post",
    ln1="sa_layer_norm",
    ln2="output_layer_norm",
    attn="attention",
    attn_out="attention",
    o="attention.out_lin",
    q="attention.q_lin",
    k="attention.k_lin",
    v="attention.v_lin",
    mlp_out="ffn",
    pre="ffn.lin1",
    down="ffn.lin2",
)
_VIT = Row(
    "vit.layers.{}",
    ln1="layernorm_before",
    ln2="layernorm_after",
    attn="attention",
    attn_out="attention",
    o="attention.o_proj",
    q="attention.q_proj",
    k="attention.k_proj",
    v="attention.v_proj",
    mlp_out="mlp",
    pre="mlp.fc1",
    down="mlp.fc2",
    ln_final="vit.layernorm",
)
_GPTJ = Row(
    "transformer.h.{}",
    style="parallel",
    ln1="ln_1",
    attn="attn",
    attn_out="attn",
    o="attn.out_proj",
    q="attn.q_proj",
    k="attn.k_proj",
    v="attn.v_proj",
    mlp_out="mlp",
    pre="mlp.fc_in",
    down="mlp.fc_out",
    inside=False,
    ln_final="transformer.ln_f",
)
_FALCON = Row(
    "transformer.h.{}",
    style="parallel",
    ln1="input_layernorm",
    attn="self_attention",
    attn_out="self_attention",
    o="self_attention.dense",
    mlp_out="mlp",
    pre="mlp.dense_h_to_4h",
    down="mlp.dense_4h_to_h",
    mlp_width=96,
    inside=False,
    ln_final="transformer.ln_f",
)

ROWS: dict[str, Row] = {
    "gpt2": _GPT2,
    "gpt2-inverse-scale": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _PHI3,
    "neox": _NEOX,
    "neox-sequential": replace(_NEOX, style="pre"),
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "opt": _OPT,
    "opt-post": replace(_OPT, style="post", ln_final=""),
    "bert": _BERT,
    "roberta": replace(_BERT, block="roberta.encoder.layer.{}"),
    "distilbert": _DISTIL,
    "vit": _VIT,
    "gptj": _GPTJ,
    "codegen": replace(_GPTJ, q="", k="", v="", heads=4, kv_heads=4, d_head=8),
    "gpt-neo": replace(
        _GPT2,
        layers=2,
        thirds="",
        q="attn.attention.q_proj",
        k="attn.attention.k_proj",
        v="attn.attention.v_proj",
        o="attn.attention.out_proj",
        inside=False,
    ),
    "bloom": replace(
        _NEOX,
        block="transformer.h.{}",
        style="pre",
        attn="self_attention",
        attn_out="self_attention.dense",
        inter="self_attention.query_key_value",
        o="self_attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        rotary=False,
        inside=False,
        ln_final="transformer.ln_f",
    ),
    "falcon": _FALCON,
    "falcon-new": replace(_FALCON, ln1="ln_attn", ln2="ln_mlp"),
    "falcon-alibi": replace(_FALCON, style="pre", ln2="post_attention_layernorm"),
    "mpt": Row(
        "transformer.blocks.{}",
        ln1="norm_1",
        ln2="norm_2",
        attn="attn",
        attn_out="attn",
        o="attn.out_proj",
        thirds="attn.Wqkv",
        mlp_out="ffn.down_proj",
        pre="ffn.up_proj",
        down="ffn.down_proj",
        heads=4,
        kv_heads=4,
        d_head=8,
        inside=False,
        ln_final="transformer.norm_f",
    ),
}


def places_of(row: Row) -> dict[str, Place]:
    """Every activation of one single-stack family, by TransformerLens's name."""
    found: dict[str, Place] = {}
    for layer in range(row.layers):
        _block(found, row, f"blocks.{layer}", row.block.format(layer))
    if row.ln_final:
        norm_places(found, "ln_final", row.ln_final, row.norm)
    return found


def norm_places(found: dict[str, Place], name: str, path: str, kind: str) -> None:
    found[f"{name}.hook_scale"] = Place(path, "scale", "1", norm=kind)
    found[f"{name}.hook_normalized"] = Place(path, "normalized", norm=kind)


def _block(found: dict[str, Place], row: Row, name: str, block: str) -> None:
    def at(path: str) -> str:
        return f"{block}.{path}"

    found[f"{name}.hook_resid_pre"] = Place(block, "in")
    found[f"{name}.hook_attn_out"] = Place(at(row.attn_out), "out")
    found[f"{name}.hook_mlp_out"] = Place(at(row.mlp_out), "out")
    found[f"{name}.mlp.hook_post"] = Place(at(row.down), "in")
    if row.style == "post":
        found[f"{name}.hook_resid_mid"] = Place(at(row.ln1), "in")
        found[f"{name}.hook_resid_post"] = Place(at(row.ln2), "in")
        found[f"{name}.hook_normalized_resid_post"] = Place(block, "out")
    else:
        found[f"{name}.hook_resid_post"] = Place(block, "out")
    if row.style == "pre":
        found[f"{name}.hook_resid_mid"] = Place(at(row.attn_out), "mid", block=block, part=at(row.ln2))
    for norm, path in (("ln1", row.ln1), ("ln2", row.ln2), ("ln1_post", row.post1), ("ln2_post", row.post2)):
        if path:
            norm_places(found, f"{name}.{norm}", at(path), row.norm)
    _attention(found, row, f"{name}.attn", at)
    if row.gate_up:
        wide = (0, row.mlp_width, 2 * row.mlp_width)
        found[f"{name}.mlp.hook_pre"] = Place(at(row.gate_up), "out", columns=wide[:2])
        found[f"{name}.mlp.hook_pre_linear"] = Place(at(row.gate_up), "out", columns=wide[1:])
    else:
        found[f"{name}.mlp.hook_pre"] = Place(at(row.gate or row.pre), "out")
    if row.up:
        found[f"{name}.mlp.hook_pre_linear"] = Place(at(row.up), "out")


def _attention(found: dict[str, Place], row: Row, name: str, inside: Path) -> None:
    heads = {"q": row.heads, "k": row.kv_heads, "v": row.kv_heads}
    found[f"{name}.hook_z"] = Place(inside(row.o), "in", "h", row.heads)
    found[f"{name}.hook_result"] = Place(inside(row.o), "result", "h", row.heads)
    start = 0
    for part, letter in enumerate("qkv"):
        own, n = getattr(row, letter), heads[letter]
        fused = row.thirds or row.gqa
        if own:
            place = Place(inside(own), "out", "h", n)
        elif fused:
            stop = start + n * row.d_head
            place = Place(inside(fused), "out", "h", n, columns=(start, stop))
            start = stop
        elif row.inter:
            place = Place(inside(row.inter), "out", "h", n, inter=(part, 3))
        else:
            continue
        found[f"{name}.hook_{letter}"] = place
    if not row.inside:
        return
    core = inside(row.attn)
    for part in ("scores", "pattern"):
        known = "hook_attn_scores" if part == "scores" else "hook_pattern"
        found[f"{name}.{known}"] = Place(core, "attention", "a", part=part)
    if row.rotary:
        found[f"{name}.hook_rot_q"] = Place(core, "attention", "h", row.heads, part="rot_q")
        found[f"{name}.hook_rot_k"] = Place(core, "attention", "h", row.kv_heads, part="rot_k")
