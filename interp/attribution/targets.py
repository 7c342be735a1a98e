"""What is attributed: one number per row of a batch, read from the output or from a site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError, TokenError
from interp.models.hooked import HookedModel
from interp.models.outputs import candidates
from interp.models.text.forms import ids_of

Read = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Target:
    """A named number per row.

    `read` takes the model's output, or the activation at `site` when one is named, and returns
    [batch] or a scalar for a batch of one.
    """

    name: str
    """As shown: `logit ' Mary' - ' John' at -1`."""
    read: Read
    """From output or activation to [batch]."""
    site: str | None = None
    """Read this activation in place of the output."""

    def of(self, value: Any) -> Tensor:
        """The numbers, [batch].

        Raises:
            ShapeError: `read` gave something else than one number per row, or reads a position or
                an index that is not there.
        """
        try:
            found = self.read(value)
        except IndexError as error:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ShapeError(
                f"the target {self.name!r} reads a place that is not there",
                got=str(error),
                expected=f"a place in {self.site or 'the output'} of shape {shape}",
            ) from error
        if not isinstance(found, Tensor) or found.dim() > 1:
            raise ShapeError(
                f"the target {self.name!r} must give one number per row",
                got=f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found),
                expected="[batch]",
            )
        return found.reshape(-1)


def token_logit(model: HookedModel, token: str | int, position: int = -1) -> Target:
    """The logit of a token at a position (the last by default)."""
    wanted, name = _token(model, token)
    return Target(f"logit {name} at {position}", lambda out: out[:, position, wanted])


def token_log_prob(model: HookedModel, token: str | int, position: int = -1) -> Target:
    """The log-probability of a token at a position, nats."""
    wanted, name = _token(model, token)
    return Target(
        f"log-probability {name} at {position}", lambda out: out[:, position].log_softmax(-1)[:, wanted]
    )


def logit_difference(
    model: HookedModel, answer: str | int, distractor: str | int, position: int = -1
) -> Target:
    """logit(answer) - logit(distractor) at a position."""
    (good, a), (bad, b) = _token(model, answer), _token(model, distractor)
    return Target(
        f"logit {a} - {b} at {position}", lambda out: out[:, position, good] - out[:, position, bad]
    )


def class_score(index: int, name: str = "") -> Target:
    """The score of one class of a classifier whose output is [batch, class]."""
    return Target(f"score of class {name or index}", lambda out: out[..., index])


def text_loss(ids: Tensor) -> Target:
    """Mean next-token cross-entropy over the text `ids` [pos], nats per token."""
    labels = _row(ids)[1:]
    if not len(labels):
        raise ShapeError("the loss of a text needs two tokens or more", got=f"ids={ids!r}"[:80])

    def read(logits: Tensor) -> Tensor:
        log_p = logits[:, :-1].log_softmax(-1)
        return -log_p.gather(-1, labels.expand(len(logits), -1)[..., None])[..., 0].mean(-1)

    return Target("loss over the text", read)


def activation(site: str, *, position: int = -1, index: int | Sequence[int] = ()) -> Target:
    """One entry of any site: a neuron, a latent, a head's output.

    Args:
        site: Where, e.g. `blocks.2.hook_resid_post.hook_sae_acts_post`.
        position: Which token.
        index: The remaining indices; axes left over are summed.
    """
    rest = (index,) if isinstance(index, int) else tuple(index)

    def read(value: Tensor) -> Tensor:
        entry = value[(slice(None), position, *rest)]
        return entry.flatten(1).sum(-1) if entry.dim() > 1 else entry

    where = ", ".join(map(str, (position, *rest)))
    return Target(f"{site}[{where}]", read, site)


def projection(site: str, direction: Tensor, *, position: int = -1) -> Target:
    """The component of a site's activation along a direction [d]."""

    direction = torch.as_tensor(direction)

    def read(value: Tensor) -> Tensor:
        if direction.shape != value.shape[-1:]:
            raise ShapeError(
                f"the direction does not fit {site!r}",
                got=tuple(direction.shape),
                expected=tuple(value.shape[-1:]),
            )
        return value[:, position] @ direction.to(value.device, value.dtype)

    return Target(f"direction at {site}[{position}]", read, site)


def continuation_log_prob(ids: Tensor, n_prompt: int) -> Target:
    """Log-probability of everything after the first `n_prompt` of `ids` [pos], nats."""
    wanted = _row(ids)[n_prompt:]

    def read(logits: Tensor) -> Tensor:
        log_p = logits[:, n_prompt - 1 : -1].log_softmax(-1)
        return log_p.gather(-1, wanted.expand(len(logits), -1)[..., None])[..., 0].sum(-1)

    return Target(f"log-probability of the last {len(wanted)} tokens", read)


def _row(ids: Any) -> Tensor:
    """One text's ids as a tensor [pos]."""
    found, _ = ids_of(ids)
    if len(found) != 1:
        raise ShapeError("a target reads one text", got=tuple(found.shape), expected="[pos]")
    return found[0]


def as_target(model: HookedModel, target: Any, output: Callable[[], Any]) -> Target:
    """What a user may write, as a Target.

    Args:
        target: A Target; a token (text or id): its logit at the last position, or a class index
            where the output is [batch, class]; a pair of tokens: their logit difference; "loss" is
            spelled `text_loss(ids)`; a function of the output; None: the likeliest answer.
        output: Gives the model's output on the input, asked for only when needed.

    Raises:
        ConfigError: Something else, or None for a model without logits.
        TokenError: Text that is not one token.
    """
    if isinstance(target, Target):
        return target
    if callable(target):
        return Target(str(getattr(target, "__name__", "function")), cast(Read, target))
    if isinstance(target, tuple | list) and len(target) == 2:
        return logit_difference(model, *target)
    out = output()
    if not isinstance(out, Tensor) or out.dim() not in (2, 3):
        raise ConfigError(
            "this model's output needs a target of its own",
            got=f"output of type {type(out).__name__}" + _fields(out),
            fix="target=lambda output: ... giving one number per row",
        )
    if target is None:
        reads_words = out.dim() == 2 or model.has_head
        if not reads_words:
            raise ConfigError(
                "a model without a head has no likeliest answer",
                got="target=None",
                fix="interp.attribution.activation(site, index=k), or a function of the output",
            )
        best = int(out[0].argmax(-1) if out.dim() == 2 else out[0, -1].argmax(-1))
        return class_score(best) if out.dim() == 2 else token_logit(model, best)
    if isinstance(target, int | str) and not isinstance(target, bool):
        if out.dim() == 2:
            return _class(target, out.shape[-1])
        return token_logit(model, target)
    raise ConfigError(
        "cannot read this as a target",
        got=repr(target)[:80],
        expected="Target, token, pair of tokens, class index, function of the output, or None",
    )


def _class(index: int | str, n: int) -> Target:
    if not isinstance(index, int) or not -n <= index < n:
        raise ConfigError("no such class", got=index, expected=f"0 to {n - 1}")
    return class_score(index)


def _token(model: HookedModel, token: str | int) -> tuple[int, str]:
    if isinstance(token, str):
        return model.to_single_token(token), repr(token)
    n = model.cfg.d_vocab
    if n and not 0 <= token < n:
        raise TokenError("no such token", got=token, expected=f"0 to {n - 1}")
    if model.tokenizer is None:
        return token, str(token)
    return token, repr(model.to_str_tokens(torch.tensor([token]))[0])


def _fields(output: Any) -> str:
    """The parts of an output that may be meant, for the error."""
    names = [] if isinstance(output, Tensor) else candidates(output)
    return f" with {', '.join(names)}" if names else ""
