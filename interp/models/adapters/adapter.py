"""From a family row and a live model to named sites and weights.

An `Adapter` is everything `HookedModel` needs to know about a raw module; nothing here runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from interp.models.adapters.blocks import Block, Family
from interp.models.adapters.effective import Links
from interp.models.adapters.linear import has_plain_weight, in_features, linear_weight
from interp.models.adapters.norms import norm_parts
from interp.models.adapters.once import Once
from interp.models.cfg import ModelConfig
from interp.models.hooks.sites import Flattened, Heads, Interleaved, Scaled, Site, Slice, View

Inputs = Literal["tokens", "pixels", "encoder_decoder", "choices", "any"]
"""What a forward pass takes; "choices": ids [batch, choice, pos], several answers per question."""


@dataclass(frozen=True)
class Multiplied:
    """What a model multiplies by outside of its modules, see `Factors`; 1 where it does not.

    Attributes:
        embed: Token embeddings, on their way into the stream.
        write: What attention and MLP add to it.
        logits: The output.
    """

    embed: float = 1.0
    write: float = 1.0
    logits: float = 1.0


@dataclass(frozen=True)
class Stack:
    """A run of blocks with one naming prefix: `blocks`, or T5's `encoder_blocks`."""

    prefix: str
    blocks: tuple[nn.Module, ...]
    attention: dict[str, Block]
    """Attention parts by TransformerLens name: {"attn": ...}, or {"self_attn", "cross_attn"}."""
    mlp: Block
    ln_final: nn.Module | None = None


@dataclass
class Adapter:
    """What is known about one raw model.

    Attributes:
        name: Family name for `print(model)`.
        sites: Listed sites in firing order.
        configs: Hugging Face configs that choose the attention function.
        eager_float32: See `Family`.
        inputs: What the forward pass takes.
        embed, unembed, ln_final: Modules or functions, None where there is no such thing.
        embed_project, unembed_project: Between embedding and residual width (OPT-350m).
        stacks: Blocks with their parts, for the weights.
        probe: Inputs for the proof, where tokens or pixels alone would not do.
        bent: The head does more than one linear map, so no norm can be folded into it.
        unembed_bias: Added to the logits behind the unembedding (BART), [1, d_vocab].
        factors: What is multiplied outside of the modules.
        clipped: q, k and v are cut to a range behind their projections (OLMo).
        exact_once: Every listed site fires once per forward pass, so a run may stop early.
        refused: Names not offered, with reasons.
        unlisted: Sites that cost much or change how the model computes: by name or glob only.
        no_sum: Why the layers' outputs do not add up to the residual stream; empty where they do.
        pools_first: The head reads position 0 only (ViT's class token).
        notes: Sentences for `print(model)`.
        unproved: Why the model could not be run at load; empty where it could.
        proof: Refuses the sites that are not what their names say; None where nobody asks.
        hooks: Keys of the torch hooks that the model came with.
        born: dtype and device of the first parameter when `cfg` was made.
        links: Where every module stood then, see `effective.refuse_replaced`.
    """

    name: str
    cfg: ModelConfig
    sites: dict[str, Site]
    inputs: Inputs = "any"
    configs: tuple[Any, ...] = ()
    eager_float32: bool = False
    embed: nn.Module | None = None
    pos_embed: nn.Module | None = None
    embed_project: nn.Module | None = None
    unembed_project: nn.Module | None = None
    unembed: Callable[[Tensor], Tensor] | None = None
    unembed_module: nn.Module | None = None
    ln_final: nn.Module | None = None
    stacks: tuple[Stack, ...] = ()
    probe: Callable[[], dict[str, Tensor]] | None = None
    bent: bool = False
    unembed_bias: Tensor | None = None
    factors: Multiplied = Multiplied()
    clipped: bool = False
    exact_once: bool = False
    pools_first: bool = False
    no_sum: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, Site] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unproved: str = ""
    proof: Once | None = None
    hooks: frozenset[Any] = frozenset()
    born: tuple[torch.dtype, torch.device] | None = None
    links: Links = field(default_factory=lambda: Links([], []))


def find(root: nn.Module, path: str) -> nn.Module | None:
    """The submodule at a dotted path, or None when there is none (or the path is empty)."""
    if not path:
        return None
    here: Any = root
    for part in path.split("."):
        here = getattr(here, part, None)
        if here is None:
            return None
    return here if isinstance(here, nn.Module) else None


class SiteBuilder:
    """Adds sites in firing order, skipping what the model does not have.

    Attributes:
        write: See `Multiplied`.
        call: Which run of a block's modules its sites are, where blocks share them.
    """

    def __init__(self, cfg: ModelConfig, write: float = 1.0) -> None:
        self.cfg, self.write = cfg, write
        self.call: int | None = None
        self.sites: dict[str, Site] = {}
        self.unlisted: dict[str, Site] = {}
        self.refused: dict[str, str] = {}

    def add(
        self,
        name: str,
        module: nn.Module | None,
        kind: Any,
        axes: str = "batch pos d_model",
        *,
        view: View | None = None,
        slot: str = "",
        partner: object = None,
        sizes: dict[str, int] | None = None,
    ) -> None:
        """One site; `axes` may end in sizes taken from the model's configuration."""
        if module is None:
            return
        known = {"d_model": self.cfg.d_model, "head": self.cfg.n_heads, "d_head": self.cfg.d_head}
        known |= {"kv_head": self.cfg.n_kv_heads, "1": 1} | (sizes or {})
        shape = tuple(known.get(a) for a in axes.split())
        self.sites[name] = Site(name, module, kind, axes, shape, view, slot, partner, self.call)

    def norm(
        self,
        name: str,
        module: nn.Module | None,
        view: View | None = None,
        sizes: dict[str, int] | None = None,
    ) -> None:
        """`<name>.hook_scale` and `<name>.hook_normalized` of a known norm."""
        if module is None or norm_parts(module) is None:
            return
        self.add(f"{name}.hook_scale", module, "scale", "batch pos 1", view=view)
        self.add(f"{name}.hook_normalized", module, "normalized", view=view, sizes=sizes)

    def attention(self, name: str, block: nn.Module, at: Block, rotary: bool, keys: str) -> None:
        """q, k, v, rotated q and k, scores, pattern, z and per-head results of one attention."""
        cfg, core = self.cfg, find(block, at.attn)
        for letter in ("q", "k", "v"):
            self._projection(f"{name}.hook_{letter}", block, at, letter, keys)
        queries = "batch head pos key_pos"
        if rotary:
            self.add(f"{name}.hook_rot_q", core, "attention", "batch pos head d_head", slot="rot_q")
            self.add(f"{name}.hook_rot_k", core, "attention", f"batch {keys} kv_head d_head", slot="rot_k")
        self.add(f"{name}.hook_attn_scores", core, "attention", queries, slot="scores")
        if getattr(core, "sinks", None) is not None:
            self.add(f"{name}.hook_attn_sink", core, "attention", "batch head pos 1", slot="sink")
        self.add(f"{name}.hook_pattern", core, "attention", queries, slot="pattern")
        o, heads = find(block, at.o), Heads(cfg.n_heads, cfg.d_head, self.write)
        self.add(f"{name}.hook_z", o, "in", "batch pos head d_head", view=heads)

        if not has_plain_weight(o):
            self.refused[f"{name}.hook_result"] = "the output projection holds no plain weight matrix"
            return

        def weight() -> Tensor:
            weight = linear_weight(o).unflatten(0, (cfg.n_heads, cfg.d_head))
            return weight if self.write == 1.0 else weight * self.write

        self.add(f"{name}.hook_result", o, "result", "batch pos head d_model", view=heads, partner=weight)
        # d_model numbers per head and position: as in TransformerLens, only for who asks by name.
        self.unlisted[f"{name}.hook_result"] = self.sites.pop(f"{name}.hook_result")

    def _projection(self, name: str, block: nn.Module, at: Block, letter: str, keys: str) -> None:
        cfg = self.cfg
        n = cfg.n_heads if letter == "q" else cfg.n_kv_heads
        axes = "batch pos head d_head" if letter == "q" else f"batch {keys} kv_head d_head"
        heads = Heads(n, cfg.d_head)
        own = getattr(at, letter)
        if own:
            self.add(name, find(block, own), "out", axes, view=heads)
            return
        fused = find(block, at.qkv)
        if at.fused == "interleaved":
            view: View = Interleaved(n, cfg.d_head, "qkv".index(letter))
        else:
            wide = cfg.n_heads * cfg.d_head
            narrow = cfg.n_kv_heads * cfg.d_head
            wide = 0 if at.fused == "pair" else wide
            starts = {"q": (0, wide), "k": (wide, wide + narrow), "v": (wide + narrow, wide + 2 * narrow)}
            view = Slice(*starts[letter], heads)
        self.add(name, fused, "out", axes, view=view)

    def mlp(self, name: str, block: nn.Module, at: Block, flat: View | None) -> None:
        """hook_pre, hook_pre_linear (gated) and hook_post of one MLP; or a mixture's router."""
        if find(block, at.experts) is not None:
            self._mixture(name, block, at)
        down = find(block, at.mlp_down)
        if down is None:
            return
        d_mlp = {"d_mlp": in_features(down)}
        axes = "batch pos d_mlp"
        if at.mlp_gate_up:
            both, n = find(block, at.mlp_gate_up), d_mlp["d_mlp"]
            self.add(f"{name}.hook_pre", both, "out", axes, view=Slice(0, n), sizes=d_mlp)
            self.add(f"{name}.hook_pre_linear", both, "out", axes, view=Slice(n, 2 * n), sizes=d_mlp)
        else:
            first = find(block, at.mlp_gate) or find(block, at.mlp_pre)
            self.add(f"{name}.hook_pre", first, "out", axes, view=flat, sizes=d_mlp)
            up = find(block, at.mlp_up)
            self.add(f"{name}.hook_pre_linear", up, "out", axes, view=flat, sizes=d_mlp)
        self.add(f"{name}.hook_post", down, "in", axes, view=flat, sizes=d_mlp)

    def _mixture(self, name: str, block: nn.Module, at: Block) -> None:
        """The chosen experts' weights, and by name only: which they are, what each of them adds."""
        router, experts, flat = find(block, at.router), find(block, at.experts), Flattened(block)
        choices = "batch pos choice"
        self.add(f"{name}.hook_router_scores", router, "out", choices, view=flat, slot="1")
        self.add(f"{name}.hook_experts_out", experts, "out", view=flat)
        listed, self.sites = self.sites, {}
        self.add(f"{name}.hook_expert_indices", router, "out", choices, view=flat, slot="2")
        self.add(f"{name}.hook_expert_result", experts, "experts", f"{choices} d_model", view=flat)
        self.unlisted |= self.sites
        self.sites = listed


def block_sites(to: SiteBuilder, prefix: str, block: nn.Module, family: Family, style: str) -> None:
    """All sites of one block of a single-stack family, in firing order."""
    at = family.block
    if at.mixer:
        mixer_sites(to, prefix, block, at)
        return
    flat = Flattened(block) if family.flat_mlp else None
    scaled = Scaled(to.write) if to.write != 1.0 else None
    ln1, ln2 = find(block, at.ln1), find(block, at.ln2)
    to.add(f"{prefix}.hook_resid_pre", block, "in")
    if style != "post":
        to.norm(f"{prefix}.ln1", ln1)
    to.attention(f"{prefix}.attn", block, at, family.rotary, "pos")
    to.norm(f"{prefix}.ln1_post", find(block, at.ln1_post))
    to.add(f"{prefix}.hook_attn_out", find(block, at.attn_out), "out", view=scaled)
    crossed = family.cross is not None and find(block, family.cross.attn) is not None
    if crossed and family.cross is not None:
        cross_sites(to, prefix, block, family.cross, style)
    if style == "post":
        to.add(f"{prefix}.hook_resid_mid", ln1, "in")
        to.norm(f"{prefix}.ln1", ln1)
    elif style == "pre":
        # The residual branch holds the tensor that the norm reads: see _install_in_place. Where
        # encoder states may have come in between, it is not what attention alone has made.
        mid = "hook_resid_mid_cross" if crossed else "hook_resid_mid"
        to.add(f"{prefix}.{mid}", ln2 or find(block, at.mid), "in_place", view=flat)
        to.norm(f"{prefix}.ln2", ln2, view=flat)
    elif ln2 is not None:
        to.norm(f"{prefix}.ln2", ln2)
    to.mlp(f"{prefix}.mlp", block, at, flat)
    to.norm(f"{prefix}.ln2_post", find(block, at.ln2_post))
    to.add(f"{prefix}.hook_mlp_out", find(block, at.mlp_out), "out", view=flat or scaled)
    if style == "post":
        to.add(f"{prefix}.hook_resid_post", ln2, "in")
        to.norm(f"{prefix}.ln2", ln2)
        to.add(f"{prefix}.hook_normalized_resid_post", block, "out")
    else:
        to.add(f"{prefix}.hook_resid_post", block, "out")


def cross_sites(to: SiteBuilder, prefix: str, block: nn.Module, at: Block, style: str) -> None:
    """Cross-attention that runs when encoder states are given: its sites are there by name."""
    listed, to.sites = to.sites, {}
    norm = find(block, at.ln1)
    if style == "pre":
        to.add(f"{prefix}.hook_resid_mid", norm, "in_place")
        to.norm(f"{prefix}.ln_cross", norm)
    to.attention(f"{prefix}.cross_attn", block, at, False, "key_pos")
    to.add(f"{prefix}.hook_cross_attn_out", find(block, at.attn_out), "out")
    if style == "post":
        to.add(f"{prefix}.hook_resid_mid_cross", norm, "in")
        to.norm(f"{prefix}.ln_cross", norm)
    to.unlisted |= to.sites
    to.sites = listed


def mixer_sites(to: SiteBuilder, prefix: str, block: nn.Module, at: Block) -> None:
    """A state-space block (Mamba): one mixer between the stream and the stream; no attention."""
    mixer = find(block, at.mixer)
    down = find(block, f"{at.mixer}.out_proj")
    wide = {} if down is None else {"d_inner": in_features(down)}
    to.add(f"{prefix}.hook_resid_pre", block, "in")
    to.norm(f"{prefix}.ln1", find(block, at.ln1))
    name, axes = f"{prefix}.mixer", "batch pos d_inner"
    to.add(f"{name}.hook_in_proj", find(block, f"{at.mixer}.in_proj"), "out", "batch pos d_in_proj")
    rank, size = (getattr(mixer, key, 0) for key in ("time_step_rank", "ssm_state_size"))
    x_proj, state = find(block, f"{at.mixer}.x_proj"), {"d_state": size}
    for letter, start in (("B", rank), ("C", rank + size)):
        view = Slice(start, start + size)
        to.add(f"{name}.hook_{letter}", x_proj, "out", "batch pos d_state", view=view, sizes=state)
    to.add(f"{name}.hook_y", down, "in", axes, sizes=wide)
    to.add(f"{prefix}.hook_mixer_out", mixer, "out")
    to.add(f"{prefix}.hook_resid_post", block, "out")


def decoder_block_sites(to: SiteBuilder, prefix: str, block: nn.Module, stack: Stack, style: str) -> None:
    """All sites of a decoder block with cross-attention in the middle (BART and kin)."""
    (own, at), (other, cross) = stack.attention.items()
    norms = {"ln1": find(block, at.ln1), "ln2": find(block, cross.ln1), "ln3": find(block, stack.mlp.ln2)}
    post = style == "post"
    to.add(f"{prefix}.hook_resid_pre", block, "in")
    if not post:
        to.norm(f"{prefix}.ln1", norms["ln1"])
    to.attention(f"{prefix}.{own}", block, at, False, "pos")
    to.add(f"{prefix}.hook_attn_out", find(block, at.attn_out), "out")
    for mid, here, name, paths in (
        ("hook_resid_mid", "ln1" if post else "ln2", other, cross),
        ("hook_resid_mid_cross", "ln2" if post else "ln3", "", None),
    ):
        to.add(f"{prefix}.{mid}", norms[here], "in" if post else "in_place")
        to.norm(f"{prefix}.{here}", norms[here])
        if paths is not None:
            to.attention(f"{prefix}.{name}", block, paths, False, "key_pos")
            to.add(f"{prefix}.hook_cross_attn_out", find(block, paths.attn_out), "out")
    to.mlp(f"{prefix}.mlp", block, stack.mlp, None)
    to.add(f"{prefix}.hook_mlp_out", find(block, stack.mlp.mlp_out), "out")
    to.add(f"{prefix}.hook_resid_post", norms["ln3"] if post else block, "in" if post else "out")
    if post:
        to.norm(f"{prefix}.ln3", norms["ln3"])
        to.add(f"{prefix}.hook_normalized_resid_post", block, "out")


def t5_block_sites(to: SiteBuilder, prefix: str, block: nn.Module, stack: Stack) -> None:
    """All sites of one T5 block; a decoder block has self- and cross-attention."""
    cross = stack.attention.get("cross_attn")
    to.add(f"{prefix}.hook_resid_pre", block, "in")
    name, at = next(iter(stack.attention.items()))
    to.norm(f"{prefix}.ln1", find(block, at.ln1))
    to.attention(f"{prefix}.{name}", block, at, False, "pos")
    to.add(f"{prefix}.hook_attn_out", find(block, at.attn_out), "out")
    to.add(f"{prefix}.hook_resid_mid", find(block, "layer.0"), "out")
    if cross is not None:
        to.norm(f"{prefix}.ln2", find(block, cross.ln1))
        to.attention(f"{prefix}.cross_attn", block, cross, False, "key_pos")
        to.add(f"{prefix}.hook_cross_attn_out", find(block, cross.attn_out), "out")
        to.add(f"{prefix}.hook_resid_mid_cross", find(block, "layer.1"), "out")
    to.norm(f"{prefix}.ln3" if cross is not None else f"{prefix}.ln2", find(block, stack.mlp.ln2))
    to.mlp(f"{prefix}.mlp", block, stack.mlp, None)
    to.add(f"{prefix}.hook_mlp_out", find(block, stack.mlp.mlp_out), "out")
    to.add(f"{prefix}.hook_resid_post", block, "out")
