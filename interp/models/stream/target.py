"""What is read from a run: one number per row, of the output or of any site."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError, TokenError
from interp.core.foreign import show
from interp.models.hooked import HookedModel
from interp.models.stream.readout import linear_reading
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
    """The activation that is read in place of the output."""
    weights: tuple[Tensor, Tensor] | None = None
    """Ids [k] and coefficients [k] of the sum of logits that it is; None where it is no such sum."""
    position: int | None = None
    """Where a sum of logits is read; None where it was not said: the last position."""

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

    def over_logits(self, d_vocab: int) -> Tensor:
        """Its weights on the logits, [d_vocab].

        Raises:
            ConfigError: It is not a sum of logits.
        """
        if self.weights is None:
            raise ConfigError(
                f"the target {self.name!r} is no weighted sum of logits",
                expected="a token, a pair of tokens, float weights [d_vocab]",
                fix="interp.attribute takes targets of every kind",
            )
        ids, coefficients = self.weights
        return torch.zeros(d_vocab, dtype=coefficients.dtype).index_add_(0, ids, coefficients)

    def direction(self, model: HookedModel) -> tuple[Tensor, Tensor]:
        """Itself as a direction behind the final norm [d_model], and the constant [] that it adds.

        Raises:
            ConfigError: It is not a sum of logits.
            ModelError: The head cannot be differentiated.
        """
        weights = self.over_logits(vocabulary(model)).to(model.device)
        dtype = torch.float64 if model.cfg.dtype == "float64" else torch.float32
        direction, constant = linear_reading(model, weights.to(dtype), 1, dtype)
        return direction[0], constant[0]


def token_logit(model: HookedModel, token: str | int, position: int | None = None) -> Target:
    """The logit of a token at a position (the last by default)."""
    return sum_of_logits(model, ((token,),), position)


def contrast(
    model: HookedModel,
    positive: str | int | Sequence[str | int],
    negative: str | int | Sequence[str | int] = (),
    position: int | None = None,
) -> Target:
    """Mean logit of one side's tokens less that of the other's, at a position.

    One token on each side is the logit difference; one side alone is its mean logit.

    Raises:
        ConfigError: No token on the positive side.
        TokenError: A text that is not one token, or an id outside the vocabulary.
    """
    sides = [side_of(tokens) for tokens in (positive, negative)]
    if not sides[0]:
        raise ConfigError("a contrast needs a token on its positive side", got="none")
    return sum_of_logits(model, [side for side in sides if side], position)


def token_log_prob(model: HookedModel, token: str | int, position: int = -1) -> Target:
    """The log-probability of a token at a position, nats."""
    wanted = token_id(model, token)
    name = f"log-probability {spelt(model, wanted)} at {position}"
    return Target(name, lambda out: out[:, position].log_softmax(-1)[:, wanted])


def class_score(index: int, name: str = "") -> Target:
    """The score of one class of a classifier whose output is [batch, class]."""
    one = (torch.tensor([index]), torch.ones(1))
    return Target(f"score of class {name or index}", lambda out: out[..., index], weights=one)


def text_loss(ids: Any) -> Target:
    """Mean next-token cross-entropy over the text `ids` [pos], nats per token."""
    labels = _row(ids)[1:]
    if not len(labels):
        raise ShapeError("the loss of a text needs two tokens or more", got=f"ids={ids!r}"[:80])

    def read(logits: Tensor) -> Tensor:
        log_p = logits[:, :-1].log_softmax(-1)
        return -log_p.gather(-1, labels.expand(len(logits), -1)[..., None])[..., 0].mean(-1)

    return Target("loss over the text", read)


def continuation_log_prob(ids: Any, n_prompt: int) -> Target:
    """Log-probability of everything after the first `n_prompt` of `ids` [pos], nats."""
    wanted = _row(ids)[n_prompt:]

    def read(logits: Tensor) -> Tensor:
        log_p = logits[:, n_prompt - 1 : -1].log_softmax(-1)
        return log_p.gather(-1, wanted.expand(len(logits), -1)[..., None])[..., 0].sum(-1)

    return Target(f"log-probability of the last {len(wanted)} tokens", read)


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


def is_token(target: Any) -> bool:
    """Whether this is one token: text, or an integer of Python, numpy or torch."""
    if isinstance(target, bool) or getattr(target, "ndim", 0):
        return False
    if isinstance(target, Tensor):
        return not (target.is_floating_point() or target.dtype == torch.bool)
    return isinstance(target, str) or hasattr(target, "__index__")


def is_weights(target: Any) -> bool:
    """Whether this is an observable: a tensor of floats."""
    return isinstance(target, Tensor) and target.is_floating_point()


def token_id(model: HookedModel, token: Any) -> int:
    """The id of one token, given as text or as a number.

    Raises:
        TokenError: No token, text that is several, or an id outside the vocabulary.
    """
    if not is_token(token):
        raise TokenError("this is not one token", got=show(token, 80), expected="text or an integer id")
    if isinstance(token, str):
        return model.to_single_token(token)
    n, index = vocabulary(model), operator.index(token)
    if n and not 0 <= index < n:
        raise TokenError("no such token", got=index, expected=f"0 to {n - 1}")
    return index


def spelt(model: HookedModel, index: int) -> str:
    """A token as names of targets show it: quoted text, or the id where there is no tokenizer."""
    return str(index) if model.tokenizer is None else repr(model.to_str_tokens(torch.tensor([index]))[0])


def sum_of_logits(
    model: HookedModel, sides: Sequence[Sequence[Any]], position: int | None, classes: int | None = None
) -> Target:
    """Means of sides, the second subtracted; of class scores where there are `classes`."""
    ids: list[list[int]] = []
    for side in sides:
        ids.append([_class(each, classes) if classes is not None else token_id(model, each) for each in side])
    named = [
        ", ".join(str(i) if classes is not None else spelt(model, i) for i in side) or "nothing"
        for side in ids
    ]
    if any(not side for side in ids):
        raise ConfigError("a side of a contrast names no token", got=" - ".join(named))
    flat = torch.tensor([i for side in ids for i in side])
    signs = [sign / len(side) for sign, side in zip((1.0, -1.0), ids, strict=False) for _ in side]
    shown = " - ".join(named)
    shares = torch.tensor(signs, dtype=torch.float64)
    if classes is not None:
        return weighted(f"score of class {shown}", flat, shares, None, classes=True)
    place = "" if position is None else f" at {position}"
    return weighted(f"logit {shown}{place}", flat, shares, position)


def weighted(
    name: str, ids: Tensor, coefficients: Tensor, position: int | None, classes: bool = False
) -> Target:
    """Σ coefficient · logit over `ids`, at a position of [batch pos d_vocab], or of [batch class]."""

    def read(out: Tensor) -> Tensor:
        logits = out if classes else _at(out, -1 if position is None else position, name)
        return (logits[:, ids.to(out.device)] * coefficients.to(out)).sum(-1)

    return Target(name, read, weights=(ids, coefficients), position=position)


def _at(out: Tensor, position: int, name: str) -> Tensor:
    if out.dim() != 3:
        raise ShapeError(
            f"the target {name!r} reads a position",
            got=f"an output of shape {list(out.shape)}",
            expected="logits [batch pos d_vocab]",
            fix="a class by its index, or a function of the output",
        )
    return out[:, position]


def side_of(tokens: Any) -> tuple[Any, ...]:
    """One side of a contrast as a sequence of tokens."""
    if isinstance(tokens, str) or is_token(tokens):
        return (tokens,)
    if isinstance(tokens, Sequence):
        return tuple(tokens)
    if isinstance(tokens, Tensor) and tokens.dim() == 1 and not tokens.is_floating_point():
        return tuple(tokens.tolist())
    raise TokenError(
        "a side of a contrast is a token or a list of tokens", got=show(tokens, 80), expected="text or ids"
    )


def _class(index: Any, n: int) -> int:
    if isinstance(index, str) or not is_token(index) or not -n <= operator.index(index) < n:
        raise ConfigError("no such class", got=show(index, 80), expected=f"0 to {n - 1}")
    return operator.index(index) % n


def vocabulary(model: HookedModel) -> int:
    """How many logits the model gives per position."""
    return model.cfg.d_vocab_out or model.cfg.d_vocab


def _row(ids: Any) -> Tensor:
    """One text's ids as a tensor [pos]."""
    found, _ = ids_of(ids)
    if len(found) != 1:
        raise ShapeError("a target reads one text", got=tuple(found.shape), expected="[pos]")
    return found[0]
