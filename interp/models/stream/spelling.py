"""What a user may write as a target, in one place.

Every analysis takes its target in the same spellings:

| written                                  | read                                                  |
|------------------------------------------|-------------------------------------------------------|
| `None`                                   | logit of the likeliest token (score of that class)    |
| `" Mary"`, `42`                          | logit of that token (score of that class)             |
| `(" Mary", " John")`                     | logit of the first less that of the second            |
| `([" he", " him"], [" she"])`            | mean logit of one side less that of the other         |
| float tensor [d_vocab]                   | an observable: the logits, weighted and summed        |
| `activation(site, ...)`, `text_loss(ids)` | a `Target`: a latent, any site, a loss, ...           |
| a function of the output                 | what it returns, one number per row                   |

What reads every position of a text (lenses, decompositions) also takes one token per position: a
list, or a tensor of integers [pos].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ShapeError
from interp.core.foreign import show
from interp.models.hooked import HookedModel
from interp.models.outputs import candidates
from interp.models.stream.target import (
    Read,
    Target,
    class_score,
    is_token,
    is_weights,
    side_of,
    sum_of_logits,
    token_logit,
    vocabulary,
    weighted,
)

SPELLINGS = "token, pair of tokens (a tuple), class, float weights [d_vocab], Target, function, or None"


def as_target(model: HookedModel, target: Any, output: Callable[[], Any]) -> Target:
    """What a user may write (the table above), as a Target.

    Args:
        output: Gives the model's output on the input, asked for only when needed.

    Raises:
        ConfigError: Something else, None for a model without logits, or no such class.
        ShapeError: Weights of another vocabulary.
        TokenError: Text that is not one token, or an id outside the vocabulary.
    """
    if isinstance(target, Target):
        return target
    if callable(target) and not isinstance(target, Tensor):
        return Target(str(getattr(target, "__name__", "function")), cast(Read, target))
    out = output()
    if not isinstance(out, Tensor) or out.dim() not in (2, 3):
        raise ConfigError(
            "this model's output needs a target of its own",
            got=f"output of type {type(out).__name__}" + _fields(out),
            fix="target=lambda output: ... giving one number per row",
        )
    if target is None:
        return _likeliest(model, out)
    classes = out.shape[-1] if out.dim() == 2 else None
    if isinstance(target, tuple) and len(target) == 2:
        return sum_of_logits(model, [side_of(side) for side in target], None, classes)
    if isinstance(target, Tensor) and is_weights(target):
        return _observable(target, out.shape[-1], classes)
    if is_token(target):
        return sum_of_logits(model, [(target,)], None, classes)
    raise ConfigError(
        "cannot read this as a target",
        got=show(target, 80),
        expected=SPELLINGS,
        fix="a pair is a tuple: (answer, distractor)" if isinstance(target, list) else None,
    )


def linear_target(model: HookedModel, target: Any, what: str) -> Target:
    """What a user may write where only a sum of logits is understood, without an input.

    Args:
        what: Who asks, for the error.

    Raises:
        ConfigError: Something that is no such sum, or None.
        ShapeError: Weights of another vocabulary.
        TokenError: Text that is not one token, or an id outside the vocabulary.
    """
    n = vocabulary(model)
    if not (isinstance(target, Target | tuple) or is_weights(target) or is_token(target)):
        raise ConfigError(
            f"{what} needs a weighted sum of logits",
            got=show(target, 80),
            expected="a token, a pair of tokens (a tuple), float weights [d_vocab], or a Target of these",
        )
    found = as_target(model, target, lambda: torch.empty(1, 1, n))
    found.over_logits(n)
    return found


def _likeliest(model: HookedModel, out: Tensor) -> Target:
    if out.dim() == 3 and not model.has_head:
        raise ConfigError(
            "a model without a head has no likeliest answer",
            got="target=None",
            fix="interp.models.activation(site, index=k), or a function of the output",
        )
    if out.dim() == 2:
        return class_score(int(out[0].argmax(-1)))
    return token_logit(model, int(out[0, -1].argmax(-1)))


def _observable(weights: Tensor, n: int, classes: int | None) -> Target:
    if weights.shape != (n,):
        raise ShapeError(
            "an observable has one weight per token of the vocabulary", got=list(weights.shape), expected=[n]
        )
    ids = weights.detach().cpu().nonzero().flatten()
    found = weights.detach().cpu()[ids]
    return weighted("observable", ids, found, None, classes=classes is not None)


def _fields(output: Any) -> str:
    """The parts of an output that may be meant, for the error."""
    names = [] if isinstance(output, Tensor) else candidates(output)
    return f" with {', '.join(names)}" if names else ""
