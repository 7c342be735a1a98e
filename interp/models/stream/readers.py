"""What reads the residual stream: every head's query, key and value, every MLP, the head.

The counterpart of `writers.py`. A reader sees N(x), N the norm in front of it, and its site is where
what it made of that, or what it sees, can be exchanged for this reader alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from interp.core.errors import ModelError
from interp.models.adapters.adapter import find
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import IDENTITY, FrozenNorm, frozen_norm, wide
from interp.models.stream.writers import residual_stream

Channel = Literal["q", "k", "v", "mlp", "logits"]


@dataclass(frozen=True)
class Reader:
    """One kind of reader in one block.

    Attributes:
        channel: A head's input that it is; "mlp", or "logits" for the final norm and head.
        layer: Block number; the number of blocks for the logits.
        stream: Site of the stream that is read, [batch pos d_model].
        norm: The norm in front; without gain and bias where `site` or `behind` lie before them.
        site: Where this reader alone can be given something else: hook_q, hook_k or hook_v
            [batch pos head d_head]; for the MLP and the logits a site [batch pos d_model].
        normalized: Whether that site lies behind the norm.
        behind: Of the MLP and the logits: the site behind the norm, before its gain; "" without one.
        n: Heads (key and value heads for k and v); 1 for the MLP and the logits.
        held: A head's weight [head d_model d_head] and bias [head d_head] as the model holds them.
    """

    channel: Channel
    layer: int
    stream: str
    norm: FrozenNorm
    site: str
    normalized: bool
    behind: str = ""
    n: int = 1
    held: Callable[[], tuple[Tensor, Tensor]] | None = None

    @property
    def of_heads(self) -> bool:
        """Whether it is a head's query, key or value."""
        return self.held is not None

    def read(self, x: Tensor) -> Tensor:
        """What its site holds where the stream is `x` [... d_model]: [... head d_head] or [... d_model].

        The norm's scale is that of `x` itself.
        """
        if not self.normalized:
            return x
        seen = self.norm.apply(x)
        if self.held is None:
            return seen
        weight, bias = (wide(part.detach()).to(seen) for part in self.held())
        return (seen @ weight.movedim(0, 1).flatten(1)).unflatten(-1, bias.shape) + bias

    def read_apart(self, x: Tensor) -> Tensor:
        """The same where each head sees a stream of its own: `x` [head ... d_model]."""
        if self.held is None:
            return self.read(x[0])
        weight, bias = (wide(part.detach()).to(x) for part in self.held())
        seen = self.norm.apply(x)
        flat = seen.flatten(1, -2) @ weight + bias[:, None]
        return flat.unflatten(1, x.shape[1:-1]).movedim(0, -2)

    def differentiated(self, frozen: bool) -> str:
        """The site whose gradient `gradient` takes."""
        return self.behind if frozen and self.behind else self.site

    def gradient(self, x: Tensor, pull: Tensor, frozen: bool = False) -> Tensor:
        """∂/∂x of what is read: one row per head, [head ... d_model].

        Args:
            x: The stream there, [... d_model].
            pull: ∂ at `differentiated(frozen)`: [... head d_head] for heads, [... d_model] else.
            frozen: Hold the norm's scale fixed.
        """
        if self.held is not None:
            weight = wide(self.held()[0].detach()).to(pull)
            behind = (pull.movedim(-2, 0).flatten(1, -2) @ weight.mT).unflatten(1, x.shape[:-1])
        else:
            behind = pull[None]
        if not self.normalized and not (frozen and self.behind):
            return behind
        return self.norm.adjoint(behind, self.norm.scale(x)) if frozen else self.norm.gradient(x, behind)


def stream_readers(model: HookedModel) -> tuple[Reader, ...]:
    """Everything that reads the stream which the model's head reads, in the order of the pass.

    Raises:
        ModelError: The model has no such stream, a block's readers cannot be given streams of their
            own, or what attention multiplies with is not W_Q, W_K and W_V alone.
    """
    stream = residual_stream(model)
    found: list[Reader] = []
    for layer in sorted({writer.layer for writer in stream.writers}):
        names = [writer.name for writer in stream.writers if writer.layer == layer]
        if "cross_attn" in names:
            raise ModelError(
                f"{model.cfg.model_name} reads an encoder beside its stream",
                got=f"cross-attention in block {layer}",
                expected="a model of one stream",
            )
        here = f"{stream.prefix}.{layer}"
        norms = _norms(model, layer)
        if "attn" in names:
            found += _of_heads(model, here, layer, norms[0])
        if "mlp" in names:
            found.append(_of_mlp(model, here, layer, norms[1]))
    last = len({writer.layer for writer in stream.writers})
    prefix = "decoder_ln_final" if stream.prefix.startswith("decoder") else "ln_final"
    behind = _if_listed(model, f"{prefix}.hook_normalized")
    found.append(Reader("logits", last, stream.last, _bare(stream.norm), stream.last, False, behind))
    return tuple(found)


def _norms(model: HookedModel, layer: int) -> tuple[FrozenNorm, FrozenNorm]:
    """The norms in front of a block's attention and of its MLP."""
    if not model.adapter.stacks:
        blocks: Any = model.module.blocks
        return frozen_norm(getattr(blocks[layer], "ln1", None)), frozen_norm(
            getattr(blocks[layer], "ln2", None)
        )
    stack = model.adapter.stacks[-1]
    block, paths = stack.blocks[layer], next(iter(stack.attention.values()))
    return frozen_norm(find(block, paths.ln1)), frozen_norm(find(block, paths.ln2))


def _of_heads(model: HookedModel, here: str, layer: int, norm: FrozenNorm) -> list[Reader]:
    found: list[Reader] = []
    channels: tuple[Channel, ...] = ("q", "k", "v")
    for channel in channels:
        letter = channel.upper()

        def held(layer: int = layer, letter: str = letter) -> tuple[Tensor, Tensor]:
            return model.W.layer(f"W_{letter}", layer), model.W.layer(f"b_{letter}", layer)

        site = _listed(model, f"{here}.attn.hook_{channel}")
        n = len(held()[0])
        found.append(Reader(channel, layer, f"{here}.hook_resid_pre", norm, site, True, "", n, held))
    return found


def _of_mlp(model: HookedModel, here: str, layer: int, norm: FrozenNorm) -> Reader:
    parallel = model.cfg.style == "parallel"
    stream = f"{here}.hook_resid_pre" if parallel else f"{here}.hook_resid_mid"
    if f"{here}.hook_mlp_in" in model.sites:
        behind = _if_listed(model, f"{here}.ln2.hook_normalized")
        return Reader("mlp", layer, stream, _bare(norm), f"{here}.hook_mlp_in", False, behind)
    if norm is IDENTITY:
        raise ModelError(
            f"the MLP of block {layer} of {model.cfg.model_name} has no input of its own",
            got="a block without a second norm",
            expected="a norm, or hook_mlp_in, in front of the MLP alone",
        )
    behind = _listed(model, f"{here}.ln2.hook_normalized")
    return Reader("mlp", layer, stream, _bare(norm), behind, True, behind)


def _bare(norm: FrozenNorm) -> FrozenNorm:
    """The same norm without gain and bias."""
    return replace(norm, gain=None, bias=None)


def _if_listed(model: HookedModel, site: str) -> str:
    return site if site in model.sites else ""


def _listed(model: HookedModel, site: str) -> str:
    if site not in model.sites:
        raise ModelError(
            f"{model.cfg.model_name} has readers that cannot be told apart",
            got=model.adapter.refused.get(site, f"no site {site!r}"),
            expected="queries, keys, values and MLP inputs at sites of their own",
        )
    return site
