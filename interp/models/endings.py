"""What a run gives back: TransformerLens's `return_type` and `stop_at_layer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ModelError
from interp.core.names import did_you_mean
from interp.models.adapters.huggingface import writes_text
from interp.models.hooks.taps import Request
from interp.models.losses import next_token_loss
from interp.models.outputs import main_output
from interp.models.text.keywords import refuse_fewer_logits
from interp.models.text.prepared import Prepared

# A HookedModel stands above this file: to it one is any object with these parts.
HookedModel = Any

RETURN_TYPES = ("logits", "loss", "both", None)
LABELS = frozenset(("labels", "mc_labels", "start_positions", "end_positions", "next_sentence_label"))
"""Under which names transformers takes what its own loss is about."""


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
        ModelError: A layer that this kind of model does not have.
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
        self.labelled: bool = False
        self.site: str | None = None if stop_at_layer is None else _site_before(model, stop_at_layer)
        if self.site is not None and self.loss:
            raise ConfigError(
                f"return_type={return_type!r} needs the whole model",
                got=f"stop_at_layer={stop_at_layer}",
                fix="leave one of the two out",
            )

    def check(self, model: HookedModel, ready: Prepared) -> None:
        """Before the run: nothing among its arguments contradicts what it returns.

        Raises:
            ConfigError: A loss, where not every token has its logits; labels without a loss.
            ModelError: A loss that this kind of model does not have.
        """
        labelled = model._intake.huggingface and not LABELS.isdisjoint(ready.kwargs)
        if labelled:
            self._check_labels(model, ready.kwargs)
        if not self.loss:
            return
        refuse_fewer_logits(ready.kwargs, f"return_type={self.return_type!r}")
        if not labelled and not model.is_language_model:
            raise ModelError(
                f"{model.cfg.model_name} has no next-token loss",
                got=f"return_type={self.return_type!r}",
                expected="a causal language model, or labels for the model's own loss",
                fix='return_type="logits", and a loss of your own',
            )

    def _check_labels(self, model: HookedModel, given: Mapping[str, Any]) -> None:
        """Labels make the model's own loss, or (alone) what a decoder reads; nothing else."""
        self.labelled = self.loss
        read = "decoder_input_ids" in model.keywords and not {
            "decoder_input_ids",
            "decoder_inputs_embeds",
        } & set(given)
        if not self.loss and not read:
            name = next(k for k in given if k in LABELS)
            raise ConfigError(
                f"{name} would be computed with, and its loss given to nobody",
                got=f"{name} with return_type={self.return_type!r}",
                fix=f'model(inputs, {name}=..., return_type="loss"), or inputs without {name}',
            )

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
        loss = self._loss(raw, output, ready)
        return loss if self.return_type == "loss" else Output(output, loss)

    def _loss(self, raw: Any, output: Any, ready: Prepared) -> Tensor:
        if not self.labelled:
            return next_token_loss(output, ready.tokens, ready.mask)
        loss = getattr(raw, "loss", None)
        if not isinstance(loss, Tensor):
            given = ", ".join(sorted(LABELS & set(ready.kwargs)))
            raise ModelError(
                f"{type(raw).__name__} holds no loss",
                got=f"only {given}",
                fix="all the labels that this head's loss is made of",
            )
        return loss


def _site_before(model: HookedModel, layer: Any) -> str:
    n = model.cfg.n_layers
    if f"blocks.{n - 1}.hook_resid_post" not in model.adapter.sites:  # what is there fires once
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


def refuse_silent(model: HookedModel, ready: Prepared) -> None:
    """Only logits of the next token say how a text goes on.

    Raises:
        ModelError: Another kind of head, none at all, or a module of which nobody knows.
    """
    own = model._intake.huggingface
    writes = model.reads == "any" or (writes_text(model.module) if own else model.cfg.causal)
    if not writes:
        raise ModelError(
            f"{model.cfg.model_name} writes no text",
            got=type(model.module).__name__,
            expected="a causal language model, or an encoder-decoder with a language model's head",
            fix="load the architecture with that head (...ForCausalLM, ...ForConditionalGeneration)",
        )
    if ready.tokens is None:
        raise ModelError(
            f"nothing says that {type(model.module).__name__} reads these numbers as token ids",
            got="a module without a table row",
            fix="generate(interp.models.TokenBatch.of(ids))",
        )
