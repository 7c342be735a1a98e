"""What writes to the residual stream: every attention and every MLP, with the map of its parts.

A head's part is z_h W_O[h], a neuron's is its activation times its row of W_out; both pass the
norm behind the sublayer where the family has one (Gemma), and the factor that the block multiplies
with (Granite). An MLP of experts is one part, and so is a mixer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from interp.core.errors import ModelError
from interp.models.adapters.adapter import Stack, find
from interp.models.adapters.guest import own_weight
from interp.models.adapters.linear import linear_bias, linear_weight
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import IDENTITY, FrozenNorm, frozen_norm, wide


@dataclass(frozen=True)
class Writer:
    """One sublayer that adds to the stream.

    Attributes:
        name: "attn", "cross_attn", "mlp" or "mixer".
        kind: What its parts are.
        layer: Block number.
        parts: Site of the parts' activations: hook_z [batch pos head d_head], hook_post
            [batch pos d_mlp]; of what has no parts its output.
        out: Site of what is added to the stream, [batch pos d_model].
        n_parts: Heads or neurons; 1 for a whole.
        held: The weight and the bias as the model holds them, the block's factor included.
        post: The norm between the sublayer and the stream, the identity in most families.
        post_scale: Site of that norm's scale, "" without one.
    """

    name: str
    kind: Literal["head", "neuron", "whole"]
    layer: int
    parts: str
    out: str
    n_parts: int
    held: Callable[[], tuple[Tensor, Tensor]]
    post: FrozenNorm = IDENTITY
    post_scale: str = ""

    @property
    def weight(self) -> Tensor:
        """[head d_head d_model], or [d_mlp d_model]; at least float32, made when it is asked for.

        A half-precision model's matrices of all layers, widened, would be larger than the model.
        """
        return wide(self.held()[0].detach())

    @property
    def bias(self) -> Tensor:
        """[d_model], at least float32."""
        return wide(self.held()[1].detach())

    @property
    def title(self) -> str:
        """`L3 mlp`."""
        return f"L{self.layer} {self.name}"

    def part(self, index: int) -> str:
        """The field's name of one part: L3H1, L3N1024 (cross-attention: L3X1)."""
        letter = "N" if self.kind == "neuron" else "X" if self.name == "cross_attn" else "H"
        return f"L{self.layer}{letter}{index}"


@dataclass(frozen=True)
class Stream:
    """A residual stream and all that writes to it.

    Attributes:
        prefix: "blocks" or "decoder_blocks".
        first, last: Sites of the stream before the first block and after the last.
        embeddings: Sites of what is added up before the first block, as far as they are named.
        writers: In the order in which they write.
        norm: The final norm.
    """

    prefix: str
    first: str
    last: str
    embeddings: tuple[str, ...]
    writers: tuple[Writer, ...]
    norm: FrozenNorm


def residual_stream(model: HookedModel) -> Stream:
    """The stream that the model's head reads.

    Raises:
        ModelError: The model has no such stream, normalises it after every addition (BERT), or
            does not give its parts.
    """
    cfg = model.cfg
    decoder = cfg.n_decoder_layers > 0
    prefix = "decoder_blocks" if decoder else "blocks"
    n = cfg.n_decoder_layers if decoder else cfg.n_layers
    first = f"{prefix}.0.hook_resid_pre"
    got = type(model.module).__name__
    if cfg.style == "post":
        got = "a post-norm model: the stream is normalised after every addition"
    if not n or first not in model.sites or cfg.style == "post" or model.adapter.unembed is None:
        raise ModelError(
            f"the output of {cfg.model_name} is no sum of its parts",
            got=got,
            expected="a head on a residual stream that only the last norm rescales",
        )
    blocks = _stack_writers(model, prefix) if model.adapter.stacks else _own_writers(model, n)
    refused = model.adapter.refused
    broken = [f"{w.out}: {refused[w.out]}" for w in blocks if w.out in refused]
    if model.adapter.no_sum or broken:
        raise ModelError(
            f"the output of {cfg.model_name} is no sum of its parts",
            got=model.adapter.no_sum or broken[0],
            expected="a residual stream to which every layer adds",
            fix="the logit lens reads such a stream as it is",
        )
    embed = ("decoder_hook_embed",) if decoder else ("hook_embed", "hook_pos_embed")
    return Stream(
        prefix,
        first,
        f"{prefix}.{n - 1}.hook_resid_post",
        tuple(site for site in embed if site in model.sites),
        tuple(writer for writer in blocks if writer.out in model.sites),
        frozen_norm(model.adapter.ln_final),
    )


def _stack_writers(model: HookedModel, prefix: str) -> list[Writer]:
    """Hugging Face: from the family's row."""
    stack = next(s for s in reversed(model.adapter.stacks) if s.prefix == prefix)
    found = []
    for layer, block in enumerate(stack.blocks):
        found += [_attention(model, stack, layer, name) for name in stack.attention]
        if find(block, stack.mlp.mlp_down) is not None:
            found.append(_mlp(model, stack, layer))
        elif stack.mlp.mixer:
            found.append(_whole(model, stack, layer, "mixer"))
        elif find(block, stack.mlp.experts) is not None:
            found.append(_whole(model, stack, layer, "mlp"))
    return found


def _attention(model: HookedModel, stack: Stack, layer: int, module: str) -> Writer:
    paths, block, cross = stack.attention[module], stack.blocks[layer], module == "cross_attn"
    cfg, here, o = model.cfg, f"{stack.prefix}.{layer}", find(block, paths.o)
    post = find(block, paths.ln1_post)

    def held() -> tuple[Tensor, Tensor]:
        weight = linear_weight(o).unflatten(0, (cfg.n_heads, cfg.d_head))
        return _times(model.adapter.factors.write, weight, linear_bias(o, cfg.d_model))

    return Writer(
        "cross_attn" if cross else "attn",
        "head",
        layer,
        f"{here}.{module}.hook_z",
        f"{here}.hook_cross_attn_out" if cross else f"{here}.hook_attn_out",
        len(held()[0]),
        held,
        frozen_norm(post),
        f"{here}.ln1_post.hook_scale" if post is not None else "",
    )


def _mlp(model: HookedModel, stack: Stack, layer: int) -> Writer:
    block, here = stack.blocks[layer], f"{stack.prefix}.{layer}"
    down, post = find(block, stack.mlp.mlp_down), find(block, stack.mlp.ln2_post)

    def held() -> tuple[Tensor, Tensor]:
        bias = linear_bias(down, model.cfg.d_model)
        return _times(model.adapter.factors.write, linear_weight(down), bias)

    return Writer(
        "mlp",
        "neuron",
        layer,
        f"{here}.mlp.hook_post",
        f"{here}.hook_mlp_out",
        len(held()[0]),
        held,
        frozen_norm(post),
        f"{here}.ln2_post.hook_scale" if post is not None else "",
    )


def _whole(model: HookedModel, stack: Stack, layer: int, name: str) -> Writer:
    """What has no parts that add up: experts and their router, or the mixer of a state-space model."""
    out = f"{stack.prefix}.{layer}.hook_{name}_out"
    kind = "mixture of experts" if name == "mlp" else "state-space mixer"

    def held() -> tuple[Tensor, Tensor]:
        raise ModelError(
            f"layer {layer} of {model.cfg.model_name} has no neurons: it is a {kind}",
            expected="one projection per MLP",
            fix=f"read it as a whole at {out!r}"
            + (f", or by expert at 'blocks.{layer}.mlp.hook_expert_result'" if name == "mlp" else ""),
        )

    return Writer(name, "whole", layer, out, out, 1, held)


def _times(factor: float, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return (weight, bias) if factor == 1.0 else (weight * factor, bias * factor)


def _own_writers(model: HookedModel, n: int) -> list[Writer]:
    """Our small transformer and TransformerLens's guests hold the tensors under these names."""
    blocks: Any = getattr(model.module, "blocks", None)
    found = []
    for layer in range(n):
        block, here = blocks[layer], f"blocks.{layer}"
        parts: list[tuple[str, Literal["head", "neuron"], str, str, str]] = [
            ("attn", "head", "attn.hook_z", "W_O", "b_O"),
            ("mlp", "neuron", "mlp.hook_post", "W_out", "b_out"),
        ]
        for name, kind, site, weight, bias in parts:
            module = getattr(block, name, None)
            if module is None:
                continue

            def held(part: Any = module, names: tuple[str, str] = (weight, bias)) -> tuple[Tensor, Tensor]:
                return own_weight(part, names[0]), own_weight(part, names[1])

            behind = "ln1_post" if name == "attn" else "ln2_post"
            post = getattr(block, behind, None)
            found.append(
                Writer(
                    name,
                    kind,
                    layer,
                    f"{here}.{site}",
                    f"{here}.hook_{name}_out",
                    len(held()[0]),
                    held,
                    frozen_norm(post),
                    f"{here}.{behind}.hook_scale" if post is not None else "",
                )
            )
    return found


def norm_before(model: HookedModel, layer: int) -> FrozenNorm:
    """The norm that the attention of a block reads through."""
    if not model.adapter.stacks:
        blocks: Any = model.module.blocks
        return frozen_norm(getattr(blocks[layer], "ln1", None))
    stack = model.adapter.stacks[-1]
    paths = next(iter(stack.attention.values()))
    return frozen_norm(find(stack.blocks[layer], paths.ln1))
