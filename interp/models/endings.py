"""What a run gives back: TransformerLens's `return_type` and `stop_at_layer`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ModelError
from interp.core.names import did_you_mean
from interp.models.hooks.taps import Request
from interp.models.losses import next_token_loss
from interp.models.outputs import main_output
from interp.models.text.keywords import refuse_fewer_logits
from interp.models.text.prepared import Prepared

# A HookedModel stands above this file: to it one is any object with these parts.
HookedModel = Any

RETURN_TYPES = ("logits", "loss", "both", None)


class Output(NamedTuple):
    """What `return_type="both"` gives, as in TransformerLens."""

    logits: Tensor
    """[batch pos d_vocab]."""
    loss: Tensor
    """Mean cross-entropy of the next token over real tokens, nats."""


class Ending:
    """Where one run ends and what it returns; refused before anything runs.

    Args:
        return_type: "logits" (the model's main output, whatever it is), "loss", "both" or None.
        stop_at_layer: Return the residual stream before this block instead (negative: from the
            end; `n_layers`: after the last), and compute nothing behind it.

    Raises:
        ConfigError: No such return type or layer.
        ModelError: A loss or a layer that this kind of model does not have.
    """

    def __init__(self, model: HookedModel, return_type: Any, stop_at_layer: Any) -> None:
        if return_type not in RETURN_TYPES:
            raise ConfigError(
                "unknown return_type",
                got=repr(return_type),
                expected=", ".join(map(repr, RETURN_TYPES)),
                fix=did_you_mean(str(return_type), [str(t) for t in RETURN_TYPES]),
            )
        self.return_type = return_type
        self.loss: bool = return_type in ("loss", "both")
        self.site: str | None = None if stop_at_layer is None else _site_before(model, stop_at_layer)
        if self.site is not None and self.loss:
            raise ConfigError(
                f"return_type={return_type!r} needs the whole model",
                got=f"stop_at_layer={stop_at_layer}",
                fix="leave one of the two out",
            )
        if self.loss and not model.is_language_model:
            raise ModelError(
                f"{model.cfg.model_name} has no next-token loss",
                got=f"return_type={return_type!r}",
                expected="a causal language model",
                fix='return_type="logits", and a loss of your own',
            )

    def check(self, ready: Prepared) -> None:
        """Before the run: nothing among its arguments contradicts what it returns.

        Raises:
            ConfigError: A loss, where not every token has its logits.
        """
        if self.loss:
            refuse_fewer_logits(ready.kwargs, f"return_type={self.return_type!r}")

    def names(self, model: HookedModel, names_filter: Any) -> list[str]:
        """The sites to keep; those behind the layer at which the run stops are refused.

        Raises:
            SiteError: Nothing matches.
            ConfigError: A site that the run does not reach.
        """
        if self.site is None:
            return model.sites.resolve(names_filter)
        order = list(model.sites)
        reached = order[: order.index(self.site) + 1]
        if names_filter is None:
            return reached
        names = model.sites.resolve(names_filter)
        behind = [n for n in names if n in order and n not in set(reached)]
        if behind:
            raise ConfigError(
                f"{behind[0]!r} lies behind the layer at which the run stops",
                got=f"the run stops at {self.site!r}",
                fix="a later stop_at_layer, or none",
            )
        return names

    def join(self, model: HookedModel, wanted: dict[str, Request]) -> dict[str, Request]:
        """The requests, with the one that the run stops at."""
        if self.site is None:
            return wanted
        more = dict(wanted)
        if self.site in more and more[self.site].keep:
            return more
        request = more.setdefault(self.site, Request(model.sites[self.site], self.site))
        request.keep, request.on_path = True, torch.is_grad_enabled()
        return more

    def result(self, raw: Any, wanted: dict[str, Request], ready: Prepared) -> Any:
        """What the caller gets."""
        if self.return_type is None:
            return None
        if self.site is not None:
            return wanted[self.site].value
        output = main_output(raw)
        if self.return_type == "logits":
            return output
        loss = next_token_loss(output, ready.tokens, ready.mask)
        return loss if self.return_type == "loss" else Output(output, loss)


def _site_before(model: HookedModel, layer: Any) -> str:
    n = model.cfg.n_layers
    if f"blocks.{n - 1}.hook_resid_post" not in model.sites or not model.adapter.exact_once:
        raise ModelError(
            f"{model.cfg.model_name} has no single stack of blocks to stop in",
            got=f"stop_at_layer={layer!r}",
            fix="model.capture(inputs, site) stops after the last site it keeps",
        )
    if isinstance(layer, bool) or not isinstance(layer, int) or not -n <= layer <= n:
        raise ConfigError("stop_at_layer is no layer of this model", got=repr(layer), expected=f"{-n} to {n}")
    layer = layer + n if layer < 0 else layer
    if layer == n:
        return f"blocks.{n - 1}.hook_resid_post"
    return f"blocks.{layer}.hook_resid_pre"
