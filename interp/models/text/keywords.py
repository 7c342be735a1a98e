"""Which keywords a raw module reads, and the refusal of those that it would swallow."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from types import MappingProxyType
from typing import Any

from torch import nn

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean

_ELSEWHERE = {
    "output_hidden_states": "run_with_cache(inputs, '*.hook_resid_post') gives hidden states",
    "output_attentions": "run_with_cache(inputs, '*.hook_pattern') gives attention patterns",
    "return_dict": "model.module(...) is the raw model, with every output it has",
    "loss_per_token": "model.module(ids, return_type='loss', loss_per_token=True) is the guest's own",
}
"""Options of transformers and TransformerLens that ask for what none of our calls hands on."""


_UNREAD = {
    "start_at_layer": "model.run_from('blocks.1.hook_resid_pre', values, ids) starts at a site",
    **dict.fromkeys(
        (
            "offset_mapping",
            "special_tokens_mask",
            "length",
            "overflow_to_sample_mapping",
            "overflowing_tokens",
            "num_truncated_tokens",
        ),
        "a tokenizer's note on its text, which no model reads: drop that key",
    ),
}
"""What may come along and is read by no model, and what to do about it."""
METHODS = ("generate", "run_with_cache", "capture", "run_with_hooks", "__call__")
"""The methods that run a model; where several take an option, the last of them is named."""

FEWER_LOGITS = ("logits_to_keep", "num_logits_to_keep")
"""Under which names transformers takes the positions that get logits; 0 and None mean all."""


def named_parameters_of(forward: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters of a forward in order, those it only swallows left out."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # built in: it tells nobody what it takes
        return ()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return tuple(p.name for p in parameters if p.kind in kinds)


def keywords_read(module: nn.Module) -> frozenset[str]:
    """Every keyword that a call of the module reads.

    Its forward's named parameters; where the forward also takes `**kwargs`, what it passes them on
    to: the model under a head, an adapter's base model, a compiled module's original. A module of
    the user's own is read for the keys it looks up and for the children it hands `**kwargs` to.
    """
    names = set(named_parameters_of(module.forward))
    if not _takes_any(module.forward):
        return frozenset(names)
    inner = _inner(module)
    if inner is not None:
        return frozenset(names) | keywords_read(inner)
    if not _is_huggingface(module):
        names |= _looked_up(module)
    return frozenset(names)


def check_keywords(
    given: Collection[str],
    accepted: Iterable[str],
    known: Iterable[str],
    where: str,
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse keywords that nobody would read.

    Args:
        given: What was passed on.
        accepted: What the raw module reads.
        known: The calling method's own keywords, to suggest.
        where: The module's class, for the error.
        elsewhere: Keywords that other methods take -> one that does.

    Raises:
        ConfigError: Naming the first one and the nearest names.
    """
    if not given:
        return
    accepted = set(accepted)
    for name in given:
        if name in _ELSEWHERE:
            raise ConfigError(
                f"{name} asks for what this call does not return", fix=_ELSEWHERE[name], got=name
            )
        if name in accepted:
            continue
        own = [k for k in known if k not in accepted]
        raise ConfigError(
            f"no option {name!r}: neither ours nor a parameter of {where}",
            got=name,
            expected=", ".join([*own, *sorted(accepted)]) or "no further options",
            fix=_UNREAD.get(name) or said_elsewhere(name, [*own, *sorted(accepted)], elsewhere),
        )


def said_elsewhere(name: str, known: Collection[str], elsewhere: Mapping[str, str]) -> str | None:
    """Where an option that is not here is taken, else its nearest names here, if any is near."""
    if name in elsewhere:
        return f"model{elsewhere[name]} takes {name}"
    return did_you_mean(name, known) if get_close_matches(name, known, cutoff=0.5) else None


@cache
def options_of(kind: type, method: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The options of a method of `HookedModel`; and those of the others -> one that takes them."""
    taken = {name: named_parameters_of(getattr(kind, name))[2:] for name in METHODS}
    own = taken.pop(method)
    others = {option: name for name, options in taken.items() for option in options}
    shown = {option: "(inputs, ...)" if m == "__call__" else f".{m}" for option, m in others.items()}
    return own, {option: where for option, where in shown.items() if option not in own}


def refuse_fewer_logits(given: Mapping[str, Any], what: str) -> None:
    """Refuse logits of some positions where those of all are read.

    Raises:
        ConfigError: Naming the option.
    """
    for name in FEWER_LOGITS:
        value = given.get(name)
        if value is not None and not (type(value) is int and value == 0):
            raise ConfigError(
                f"{what} needs the logits of every token",
                got=f"{name}={value!r}"[:80],
                fix="leave one of the two out",
            )


def _takes_any(forward: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _inner(module: Any) -> nn.Module | None:
    """The module that reads what this one's `**kwargs` swallow."""
    if hasattr(module, "get_base_model"):  # peft
        inner = module.get_base_model()
    elif hasattr(module, "_orig_mod"):  # torch.compile
        inner = module._orig_mod
    elif hasattr(module, "original_model"):  # TransformerBridge
        inner = module.original_model
    elif _is_huggingface(module):
        inner = module.base_model
    else:
        inner = None
    return inner if isinstance(inner, nn.Module) and inner is not module else None


def _is_huggingface(module: nn.Module) -> bool:
    return hasattr(module, "base_model") and hasattr(module, "config")


def _looked_up(module: nn.Module) -> set[str]:
    """Keys that a forward looks up in its `**kwargs`, and what the children it calls may read."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    if code is None:
        return set()
    names = {c for c in code.co_consts if isinstance(c, str) and c.isidentifier()}
    if any(i.opname == "CALL_FUNCTION_EX" for i in dis.get_instructions(code)):
        for child in module.children():
            names |= keywords_read(child)
    return names
