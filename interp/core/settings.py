"""Settings are checked when they are made, so that a wrong one never reaches any work.

```python
@dataclass(frozen=True, kw_only=True)
class ProbeConfig(Settings):
    steps: Count = 300
    test_fraction: Share = 0.3
```

Standard library only: the command line is built from settings without torch.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean

LISTED = 40
"""More choices than this are counted in an error, not listed."""


class Bound(NamedTuple):
    """What a number may be; NaN is never allowed. Stands in a field's `Annotated` type."""

    text: str
    """As an error says it."""
    holds: Callable[[int | float], bool]
    """Whether a number is allowed."""


def at_least(low: int | float) -> Bound:
    """Finite and not below `low`."""
    return Bound(f"a finite number >= {low:g}", lambda value: low <= value < math.inf)


def above(low: int | float) -> Bound:
    """Finite and above `low`."""
    return Bound(f"a finite number > {low:g}", lambda value: low < value < math.inf)


def between(low: int | float, high: int | float) -> Bound:
    """Neither of the two, but between them."""
    return Bound(f"between {low:g} and {high:g}", lambda value: low < value < high)


def within(low: int | float, high: int | float) -> Bound:
    """One of the two, or between them."""
    return Bound(f"{low:g} to {high}", lambda value: low <= value <= high)


MOST = 2**31 - 1
"""No number of steps, rows or latents is larger."""
Size = Annotated[int, within(1, MOST)]
Whole = Annotated[int, within(0, MOST)]
Count = Annotated[int, at_least(1)]
Natural = Annotated[int, at_least(0)]
Positive = Annotated[float, above(0)]
NonNegative = Annotated[float, at_least(0)]
Share = Annotated[float, between(0, 1)]
Decay = Annotated[float, Bound("at least 0, below 1", lambda value: 0 <= value < 1)]


class Settings:
    """Base of the frozen dataclasses that hold settings: what their types say holds.

    Raises:
        ConfigError: On making one; the field, what it holds, what it may hold.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    def changed(self, options: Mapping[str, Any], what: str) -> Self:
        """The same with single fields replaced by options as a user wrote them.

        Args:
            options: Field -> value.
            what: Who takes the options, for the error.

        Raises:
            ConfigError: An option that is no field, or a value it may not have.
        """
        known = [field.name for field in dataclasses.fields(self)]  # pyright: ignore
        check_options(what, options, known)
        return dataclasses.replace(self, **options)  # pyright: ignore


def check_fields(config: Any, least: Mapping[str, int] | None = None) -> None:
    """Refuse fields of the wrong type or out of bounds, naming them; numpy's numbers become Python's.

    Args:
        config: An instance of a config dataclass.
        least: Field -> smallest allowed number, beside the bounds that the types declare.

    Raises:
        ConfigError: The field, what it holds, what it may hold.
    """
    hints = hints_of(type(config))
    for field in dataclasses.fields(config):
        value, hint = plain(getattr(config, field.name)), hints[field.name]
        object.__setattr__(config, field.name, value)
        if not accepts(hint, value):
            choices = [c for part in (hint, *get_args(hint)) for c in get_args(part)]
            texts = [c for c in choices if isinstance(c, str)]
            near = did_you_mean(value, texts) if isinstance(value, str) else ""
            raise ConfigError(
                f"{field.name} has a wrong value", got=repr(value), expected=say_type(hint), fix=near or None
            )
        if least is not None and field.name in least and value is not None:
            hint = Annotated[hint, at_least(least[field.name])]
        missed = _missed(hint, value)
        if missed is not None:
            raise ConfigError(f"{field.name} is out of range", got=value, expected=missed.text)


def plain(value: object) -> Any:
    """A number or truth value of numpy as Python's; anything else as it is."""
    if type(value) is tuple:
        return tuple(map(plain, value))
    numpys = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if numpys else value  # type: ignore[attr-defined]


def read_count(name: str, value: object, least: int = 1) -> int:
    """A number of things, from Python or numpy.

    Raises:
        ConfigError: No whole number, or too small.
    """
    whole = hasattr(value, "__index__") and not isinstance(value, bool)
    if whole and (n := int(value.__index__())) >= least:  # type: ignore[attr-defined]
        return n
    raise ConfigError(f"{name} is a whole number", got=repr(value)[:80], expected=f"{name} >= {least}")


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a value that is none of the choices.

    Args:
        name: The argument, as the user wrote it.
        value: What it holds.
        choices: A `Literal`, or texts.

    Raises:
        ConfigError: The argument, what it holds, the choices and the nearest of them.
    """
    known = get_args(choices) or tuple(choices)
    if value not in known:
        texts = [choice for choice in known if isinstance(choice, str)]
        raise ConfigError(
            f"{name} has a wrong value",
            got=repr(value),
            expected=", ".join(map(repr, known)) if len(known) <= LISTED else f"one of {len(known)} names",
            fix=(did_you_mean(value, texts) if isinstance(value, str) else "") or None,
        )


def check_flags(**given: object) -> None:
    """Refuse what is no True and no False, of Python or numpy: any text would count as True.

    Raises:
        ConfigError: Naming the first one.
    """
    for name, value in given.items():
        if value is not True and value is not False and type(value).__name__ not in ("bool", "bool_"):
            raise ConfigError(f"{name} is True or False", got=repr(value)[:80])


def check_call(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Refuse options that a function does not have, and arguments that are none of its choices.

    Raises:
        ConfigError: The option, what it holds, what there is.
    """
    parameters = _signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_any:
        check_options(function.__name__, options, list(parameters)[1:])
    hints = hints_of(function)
    for name, value in {**dict(zip(parameters, args, strict=False)), **options}.items():
        if get_origin(hints.get(name)) is Literal:
            check_choice(name, value, hints[name])


def check_options(who: str, options: Iterable[object], known: Collection[str]) -> None:
    """Refuse options, or keys of a file, that are not among the known ones.

    Args:
        who: What takes them, for the error.
        options: Their names, as the user wrote them.
        known: The names that exist.

    Raises:
        ConfigError: The first unknown one, what there is and the nearest of it.
    """
    for name in options:
        if name not in known:
            shown = str(name)[:100]  # looking for the nearest of a long text would take long
            raise ConfigError(
                f"{who} has no option {shown!r}",
                got=shown,
                expected=", ".join(sorted(known)) if len(known) <= LISTED else f"one of {len(known)} names",
                fix=did_you_mean(shown, known) or None,
            )


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


@cache
def hints_of(cls: Any) -> dict[str, Any]:
    """Field or parameter -> its type, with what is `Annotated`."""
    return get_type_hints(cls, include_extras=True)


def _missed(hint: Any, value: Any) -> Bound | None:
    """The bound in a type that a value of that type does not keep."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [extra for extra in parts[1:] if isinstance(extra, Bound)]
        return next((bound for bound in bounds if not bound.holds(value)), None)
    if origin is tuple:
        inner = parts[:1] * len(value) if parts[-1] is ... else parts
        pairs = zip(inner, value, strict=True)
        return next((b for h, v in pairs if (b := _missed(h, v)) is not None), None)
    if origin in (Literal, dict, list) or not parts:
        return None
    return _missed(next(part for part in parts if accepts(part, value)), value)


def accepts(hint: Any, value: object) -> bool:
    """Whether a value is of the annotated type, whatever is in it included."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return accepts(parts[0], value)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if hint is Any:
        return True
    if origin is list:
        return isinstance(value, list) and all(accepts(parts[0], each) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            accepts(parts[0], key) and accepts(parts[1], each) for key, each in value.items()
        )
    if origin is tuple:
        if parts[-1] is ...:
            return isinstance(value, tuple) and all(accepts(parts[0], each) for each in value)
        if not isinstance(value, tuple) or len(value) != len(parts):
            return False
        return all(map(accepts, parts, value))
    if parts:
        return any(accepts(part, value) for part in parts)
    if hint is str:
        return isinstance(value, str)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint  # exact, so that True is not an int


def say_type(hint: Any) -> str:
    """A type as errors say it."""
    if get_origin(hint) is Annotated:
        return say_type(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (dict, list):
        return str(hint)
    if get_args(hint)[-1:] == (...,):
        return f"a tuple of {say_type(get_args(hint)[0])}"
    if get_origin(hint) is None and isinstance(hint, type):
        return hint.__name__.replace("NoneType", "None")
    joined = ", " if get_origin(hint) is tuple else " or "
    return joined.join(map(say_type, get_args(hint)))
