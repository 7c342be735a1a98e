"""Which keywords a raw module reads, and the refusal of those that it would swallow."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from torch import nn

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean

_ELSEWHERE = {
    "output_hidden_states": "run_with_cache(inputs, '*.hook_resid_post') gives hidden states",
    "output_attentions": "run_with_cache(inputs, '*.hook_pattern') gives attention patterns",
    "return_dict": "model.module(...) is the raw model, with every output it has",
}
"""Options of transformers that ask for outputs which none of our calls hands on."""


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


def check_keywords(given: Collection[str], accepted: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse keywords that nobody would read.

    Args:
        given: What was passed on.
        accepted: What the raw module reads.
        known: The calling method's own keywords, to suggest.
        where: The module's class, for the error.

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
            fix=_UNREAD.get(name) or did_you_mean(name, [*own, *sorted(accepted)]) or None,
        )


def check_options(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse options of one of our own functions that it does not have.

    Raises:
        ConfigError: Naming the first one and the nearest names.
    """
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{where} has no option {name!r}",
                got=name,
                expected=", ".join(known),
                fix=did_you_mean(name, known) or None,
            )


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


def check_flags(**given: object) -> None:
    """Refuse what is no True and no False: any text would count as True.

    Raises:
        ConfigError: Naming the first one.
    """
    for name, value in given.items():
        if value is not True and value is not False:
            raise ConfigError(f"{name} is True or False", got=repr(value)[:80])


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
