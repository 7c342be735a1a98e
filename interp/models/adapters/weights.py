"""Weights by TransformerLens's names and shapes, read from whatever modules hold them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import WeightError
from interp.models.adapters.adapter import Adapter, Stack, find
from interp.models.adapters.blocks import Block
from interp.models.adapters.effective import is_adapted, plain, refuse_replaced
from interp.models.adapters.guest import own_weight
from interp.models.adapters.linear import linear_bias, linear_weight
from interp.models.hooks.sites import Heads, Interleaved, Slice

LAYERED = "W_Q W_K W_V W_O b_Q b_K b_V b_O W_in W_gate b_in W_out b_out".split()
"""Weights that every block has."""


class Weights:
    """W_E, W_pos, W_U, b_U and, stacked over layers, W_Q … b_out.

    Shapes: W_E [d_vocab, d_model]; W_U [d_model, d_vocab]; W_Q, W_K, W_V [layer, head, d_model,
    d_head] (W_K, W_V have kv heads under GQA); W_O [layer, head, d_head, d_model]; W_in, W_gate
    [layer, d_model, d_mlp]; W_out [layer, d_mlp, d_model]; biases accordingly, zero where the
    model has none. They are what the model multiplies with, norms not folded in; factors on
    embeddings, sublayers' outputs and logits (Granite, Cohere) are included.

    Raises:
        WeightError: The model has no such weight, or holds it quantised or offloaded.
    """

    def __init__(self, adapter: Adapter, module: nn.Module) -> None:
        refuse_replaced(adapter.links, adapter.cfg.model_name)
        self._adapter, self._module, self._cfg = adapter, module, adapter.cfg

    @property
    def W_E(self) -> Tensor:
        """Token embedding as it enters the residual stream (Gemma's factor included)."""
        embed: Any = self._adapter.embed
        own = getattr(embed, "W_E", None)
        if own is not None:
            return own
        weight = self._table(embed, "W_E")
        self._refuse_two_tables(embed, weight)
        scale = getattr(plain(embed), "embed_scale", None)
        if isinstance(scale, Tensor):
            scale = scale.to(weight.dtype)
        table = weight if scale is None else weight * scale
        if self._adapter.factors.embed != 1.0:
            table = table * self._adapter.factors.embed
        if table.shape[1] != self._cfg.d_model and self._adapter.embed_project is None:
            raise WeightError(
                f"{self._cfg.model_name} has no W_E: a norm stands between its table and the stream",
                got=f"a table of width {table.shape[1]}",
                expected=f"d_model = {self._cfg.d_model}",
                fix="read embeddings at hook_embed and hook_full_embed",
            )
        project = self._adapter.embed_project
        return table if project is None else table @ linear_weight(project)

    @property
    def W_pos(self) -> Tensor:
        """Position table [n_ctx, d_model] where positions are learned."""
        table: Any = self._adapter.pos_embed
        own = getattr(table, "W_pos", None)
        if own is None:
            own = self._table(table, "W_pos")
        return own[getattr(plain(table), "offset", 0) :]

    @property
    def W_U(self) -> Tensor:
        """Unembedding [d_model, d_vocab]."""
        head: Any = self._adapter.unembed_module
        if head is None:
            raise self._missing("W_U")
        if hasattr(head, "W_U"):
            return head.W_U
        project = self._adapter.unembed_project
        matrix = linear_weight(head) if project is None else linear_weight(project) @ linear_weight(head)
        if matrix.shape[0] != self._cfg.d_model:
            raise WeightError(
                f"{self._cfg.model_name} has no W_U: its head changes the width before the unembedding",
                got=f"an unembedding of width {matrix.shape[0]}",
                expected=f"d_model = {self._cfg.d_model}",
                fix="model.unembed reads the stream as the head does",
            )
        return self._times(matrix, self._adapter.factors.logits)

    @property
    def b_U(self) -> Tensor:
        """Unembedding bias [d_vocab]."""
        head: Any = self._adapter.unembed_module
        if head is None:
            raise self._missing("b_U")
        if hasattr(head, "W_U"):
            return self.W_U.new_zeros(self.W_U.shape[1]) if head.b_U is None else head.b_U
        bias = self._times(linear_bias(head, self.W_U.shape[1]), self._adapter.factors.logits)
        beside = self._adapter.unembed_bias
        return bias if beside is None else bias + beside.flatten()

    def _table(self, module: nn.Module | None, name: str) -> Tensor:
        """The rows of an embedding as they are in use."""
        weight = getattr(plain(module), "weight", None)
        if not isinstance(weight, Tensor):
            raise self._missing(name)
        if not weight.is_floating_point() or weight.element_size() < 2 or weight.is_meta:
            raise WeightError(
                f"{name} of {self._cfg.model_name} cannot be read",
                got="an offloaded table" if weight.is_meta else f"a table of {weight.dtype}",
                expected="floating-point rows in memory",
                fix="load the model unquantised, without offloading",
            )
        return weight

    def _refuse_two_tables(self, embed: nn.Module, weight: Tensor) -> None:
        """T5's two halves share one table, unless each carries an adapter of its own."""
        other = find(self._module, "decoder.embed_tokens") if len(self._adapter.stacks) > 1 else None
        if other is None or not (is_adapted(embed) or is_adapted(other)):
            return
        if not torch.equal(weight, self._table(other, "W_E")):
            raise WeightError(
                f"{self._cfg.model_name} has no one W_E: its encoder and decoder embed differently",
                got="adapters on the token embedding of either half",
                expected="one table for both",
                fix="read embeddings at hook_embed and decoder_hook_embed",
            )

    def __getattr__(self, name: str) -> Tensor:
        named = vars(type(self)).get(name)
        if isinstance(named, property) and named.fget is not None:
            return named.fget(self)  # python asks here when a property raised: say its error again
        if name not in LAYERED:
            raise AttributeError(name)
        return torch.stack([self.layer(name, layer) for layer in range(self.n_layers)])

    @property
    def n_layers(self) -> int:
        """Blocks that hold the layered weights."""
        own = self._own_blocks
        return len(self._stack.blocks) if own is None else len(own)

    def layer(self, name: str, layer: int) -> Tensor:
        """One block's W_Q … b_out as it is in memory: `W.W_Q[layer]` without a copy of the others.

        Raises:
            WeightError: The model has no such weight.
            IndexError: No such block.
        """
        own = self._own_blocks
        if own is None:
            return self._read(name, self._stack.blocks[layer])
        part = "mlp" if name in ("W_in", "W_gate", "b_in", "W_out", "b_out") else "attn"
        held = own_weight(getattr(own[layer], part, None), name)
        if not isinstance(held, Tensor):
            raise self._missing(name)
        return held

    def _read(self, name: str, block: nn.Module) -> Tensor:
        """A weight of one block of a Hugging Face model, by the family's row."""
        if self._stack.mlp.mixer:
            raise self._missing(name)
        match name:
            case "W_Q" | "W_K" | "W_V" | "b_Q" | "b_K" | "b_V":
                return self._reader(name[-1], name[0] == "b")(block)
            case "W_O":
                return self._output(block)
            case "b_O":
                return self._written(linear_bias(find(block, self._attn.o), self._cfg.d_model))
            case "W_in" | "W_gate":
                return self._mlp(block, name.removeprefix("W_"))
            case "b_in":
                return self._mlp_bias(block)
            case "W_out":
                return self._written(linear_weight(self._at(block, self._stack.mlp.mlp_down, name)))
            case _:
                down = self._at(block, self._stack.mlp.mlp_down, name)
                return self._written(linear_bias(down, self._cfg.d_model))

    def _written(self, value: Tensor) -> Tensor:
        return self._times(value, self._adapter.factors.write)

    @staticmethod
    def _times(value: Tensor, factor: float) -> Tensor:
        return value if factor == 1.0 else value * factor

    def _at(self, block: nn.Module, path: str, name: str) -> nn.Module:
        """A part of a block that must be there for a weight to be."""
        part = find(block, path)
        if part is not None:
            return part
        if find(block, self._stack.mlp.experts) is None:
            raise self._missing(name)
        raise WeightError(
            f"{self._cfg.model_name} has no one {name}: its MLP is a mixture of experts",
            got=f"family {self._adapter.name}",
            expected="one matrix per block",
            fix="read the experts' own: model.module.get_submodule(...)",
        )

    @cached_property
    def _own_blocks(self) -> Any:
        """Blocks of our small transformer and TransformerLens guests, which hold the very tensors."""
        return None if self._adapter.stacks else getattr(self._module, "blocks", None)

    @cached_property
    def _stack(self) -> Stack:
        if not self._adapter.stacks:
            raise self._missing("block weights")
        return self._adapter.stacks[-1]

    @cached_property
    def _attn(self) -> Block:
        return next(iter(self._stack.attention.values()))

    def _reader(self, letter: str, bias: bool) -> Callable[[nn.Module], Tensor]:
        cfg, small = self._cfg, letter.lower()
        n = cfg.n_heads if letter == "Q" else cfg.n_kv_heads

        def read(block: nn.Module) -> Tensor:
            at = self._attn
            own = getattr(at, small)
            source = find(block, own or at.qkv)
            if source is None:
                raise self._missing(f"{'b' if bias else 'W'}_{letter}")
            width = linear_weight(source).shape[1]
            flat = linear_bias(source, width) if bias else linear_weight(source)
            if own:
                heads = Heads(n, cfg.d_head).read(flat)
            elif at.fused == "interleaved":
                heads = Interleaved(n, cfg.d_head, "qkv".index(small)).read(flat)
            else:
                wide, narrow = cfg.n_heads * cfg.d_head, cfg.n_kv_heads * cfg.d_head
                start = {"q": 0, "k": wide, "v": wide + narrow}[small]
                stop = start + (wide if small == "q" else narrow)
                heads = Slice(start, stop, Heads(n, cfg.d_head)).read(flat)
            return heads if bias else heads.movedim(0, 1)

        return read

    def _output(self, block: nn.Module) -> Tensor:
        weight = linear_weight(find(block, self._attn.o))
        return self._written(weight.unflatten(0, (self._cfg.n_heads, self._cfg.d_head)))

    def _mlp(self, block: nn.Module, which: str) -> Tensor:
        at = self._stack.mlp
        if at.mlp_gate_up:
            both, n = linear_weight(find(block, at.mlp_gate_up)), self._cfg.d_mlp
            return both[:, :n] if which == "gate" else both[:, n:]
        if which == "gate":
            path = at.mlp_gate
        else:
            path = at.mlp_up or at.mlp_pre
        return linear_weight(self._at(block, path, f"W_{which}"))

    def _mlp_bias(self, block: nn.Module) -> Tensor:
        at = self._stack.mlp
        if at.mlp_gate_up:
            return linear_bias(find(block, at.mlp_gate_up), 2 * self._cfg.d_mlp)[self._cfg.d_mlp :]
        return linear_bias(self._at(block, at.mlp_up or at.mlp_pre, "b_in"), self._cfg.d_mlp)

    def _missing(self, name: str) -> WeightError:
        return WeightError(
            f"{self._cfg.model_name} has no {name}",
            got=f"family {self._adapter.name}",
            expected="a model whose architecture table row names this weight",
        )
