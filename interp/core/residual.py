"""The residual stream taken apart: what `Activations` stacks by layer, by sublayer and by head."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import ModelError, SiteError
from interp.core.settings import check_choice

Key = str | tuple[Any, ...]
"""A site's full name, or TransformerLens's `(short name, layer[, sublayer])`."""


class ResidualStacks(Mapping[str, Tensor]):
    """Stacks over layers, for a mapping that answers short keys and carries the model's `cfg`."""

    cfg: Any

    @abstractmethod
    def __getitem__(self, key: Key, /) -> Tensor:
        """The tensor at a site, by full name or short key."""

    def stack(
        self, short: str, layers: Sequence[int] | None = None, sublayer: str | None = None
    ) -> Float[Tensor, "layer ..."]:
        """One site of every layer (or of the given layers), stacked in front.

        Args:
            short: A short key ("resid_post"), or a name with a star for the layer
                ("blocks.*.hook_resid_post").

        Raises:
            SiteError: A layer was not captured.
        """
        chosen = range(self._n_layers()) if layers is None else layers
        if short.count("*") == 1 and sublayer is None:
            return torch.stack([self[short.replace("*", str(layer))] for layer in chosen])
        return torch.stack([self[short, layer, sublayer] for layer in chosen])

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """The residual stream before every layer up to `layer`: [component batch pos d_model].

        As TransformerLens's `ActivationCache.accumulated_resid`: `0_pre`, `1_pre`, ... and, for
        `layer` None, -1 or n_layers, `final_post`. With `incl_mid`, also between attention and
        MLP; with `mlp_input`, the last entry is the MLP's input of that layer.
        """
        end, parts, labels = self._end(layer), [], []
        for block in range(end + 1):
            if block == self._n_layers():
                parts.append(self["resid_post", block - 1])
                labels.append("final_post")
                continue
            parts.append(self["resid_pre", block])
            labels.append(f"{block}_pre")
            if (incl_mid and block < end) or (mlp_input and block == end):
                parts.append(self["resid_mid", block])
                labels.append(f"{block}_mid")
        stacked = torch.stack(parts)
        return (stacked, labels) if return_labels else stacked

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """The terms that sum to the residual stream before `layer`: [component batch pos d_model].

        As TransformerLens's `ActivationCache.decompose_resid`: the embeddings, then each earlier
        layer's attention and MLP output.

        Raises:
            SiteError: A term was not captured.
            ModelError: The model normalises after adding, so no such sum exists.
            ConfigError: There is no such mode.
        """
        check_choice("mode", mode, ("all", "mlp", "attn"))
        self._refuse_post_norm("a sum of layer outputs")
        end = self._end(layer)
        labels = [n for n in ("embed", "pos_embed") if incl_embeds and f"hook_{n}" in self]
        parts = [self[f"hook_{label}"] for label in labels]
        attn = mode != "mlp"
        mlp = mode != "attn" and not getattr(self.cfg, "attn_only", False)
        terms = [
            (f"{kind}_out", block)
            for block in range(end)
            for kind, wanted in (("attn", attn), ("mlp", mlp))
            if wanted
        ]
        if mlp_input and attn:
            terms.append(("attn_out", end))
        parts += [self[term] for term in terms]
        labels += [f"{block}_{kind}" for kind, block in terms]
        if not parts:
            raise SiteError(
                "nothing to decompose into",
                got=f"layer {end}, mode {mode!r}, no embeddings captured",
                fix="capture hook_embed (and hook_pos_embed), or ask for a later layer",
            )
        stacked = torch.stack(torch.broadcast_tensors(*parts))
        return (stacked, labels) if return_labels else stacked

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        *,
        W_O: Float[Tensor, "layer head d_head d_model"] | Sequence[Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """What every head before `layer` added to the stream: [component batch pos d_model].

        As TransformerLens's `ActivationCache.stack_head_results`: components `L0H0`, `L0H1`, ...,
        and with `incl_remainder` a last one, everything else in the stream at `layer`.

        Args:
            layer: Heads of layers strictly before it; None and -1 mean all.
            return_labels: Return the labels as well.
            incl_remainder: Add the remainder.
            W_O: `model.W_O`; needed unless `hook_result` was captured, else `hook_z` is used.

        Raises:
            SiteError: Neither `hook_result`, nor `hook_z` together with `W_O`, is there.
        """
        end = self._end(layer)
        if incl_remainder:
            self._refuse_post_norm("a remainder")
        results = [self._head_result(block, W_O) for block in range(end)]
        labels = [f"L{block}H{h}" for block, t in enumerate(results) for h in range(t.shape[-2])]
        stacks = [t.movedim(-2, 0) for t in results]
        if incl_remainder:
            stream = self["resid_post", end - 1] if end else self["resid_pre", 0]
            rest = stream - sum(stack.sum(0) for stack in stacks)
            stacks.append(rest[None])
            labels.append("remainder")
        if not stacks:
            raise SiteError("no head lies before layer 0", got=layer, expected="1 or more")
        stacked = torch.cat(stacks)
        return (stacked, labels) if return_labels else stacked

    def _head_result(self, layer: int, W_O: Any) -> Float[Tensor, "batch pos head d_model"]:
        if ("result", layer) in self:
            return self["result", layer]
        if W_O is None:
            raise SiteError(
                f"layer {layer} has no head results",
                expected="hook_result captured, or hook_z captured and W_O given",
                fix="acts.stack_head_results(W_O=model.W_O)",
            )
        return torch.einsum("bphd,hdm->bphm", self["z", layer], W_O[layer].to(self["z", layer]))

    def _n_layers(self) -> int:
        n_layers = getattr(self.cfg, "n_layers", None)
        if n_layers is None:
            raise SiteError(
                "these activations do not know how many layers the model has",
                expected="cfg with n_layers",
                fix="pass cfg=model.cfg, or name the layer",
            )
        return int(n_layers)

    def _end(self, layer: int | None) -> int:
        """TransformerLens's convention: None and -1 are the end of the model."""
        n_layers = self._n_layers()
        end = n_layers if layer is None or layer == -1 else layer
        if not 0 <= end <= n_layers:
            raise SiteError(
                f"layer {layer} is out of range",
                got=layer,
                expected=f"{n_layers} layers exist: 0 to {n_layers}, or -1 for the end",
            )
        return end

    def _refuse_post_norm(self, wanted: str) -> None:
        if getattr(self.cfg, "style", "") == "post":
            raise ModelError(
                f"{wanted} does not make the residual stream of this model",
                got="a post-norm model: the stream is normalised after every addition",
                expected="a pre-norm model",
                fix="use accumulated_resid, which holds for both",
            )
