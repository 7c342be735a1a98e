"""Settings that hold the settings of others as blocks: each one stands once, with its owner.

```python
@in_blocks
@dataclass(frozen=True, kw_only=True)
class TrainConfig(Blocks):
    d_sae: Size = 4096
    fit: FitConfig = field(default_factory=FitConfig)

TrainConfig(fit=FitConfig(steps=500)) == TrainConfig(steps=500) == TrainConfig.of({"fit": {"steps": 500}})
```

A setting that one block alone has can be given and read by its own name: `steps` is `fit.steps`.
What is not given is as the block's class has it. `dataclasses.replace(config, steps=7)` works, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from interp.core.errors import ConfigError
from interp.core.settings import Settings, check_options, hints_of, plain

Place = tuple[str, str]
"""A block and the name of a setting in it."""
HELD = "_held"
"""Mark of a block that a config holds. Where it is given on, as `dataclasses.replace` does, it is what one
starts from; a block that somebody made says every one of its settings."""
C = TypeVar("C", bound="Blocks")


class Blocks(Settings):
    """Base of the settings with blocks; `in_blocks` stands above the dataclass."""

    ALSO: ClassVar[Mapping[str, tuple[Place, ...]]] = {}
    """Names beside those of the settings themselves, and what they stand for."""

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = "the config") -> Self:
        """From keys and values as YAML or JSON give them, nested or flat; lists become tuples.

        Args:
            values: Setting or block -> value; a block's value is a mapping of its settings.
            where: Where they were written, for errors.

        Raises:
            ConfigError: Something that is no mapping, a key that is no setting, or two values for one.
        """
        return cls(**_filled(cls, _read(values, where), where, _defaults(cls)))

    def changed(self, options: Mapping[str, Any], what: str = "the config") -> Self:
        """The same with single settings replaced, in blocks too; a mapping changes part of a block.

        Args:
            options: Setting or block -> value.
            what: Who takes the options, for the error.

        Raises:
            ConfigError: An option that is no setting, two values for one, or one it may not have.
        """
        base = {block: getattr(self, block) for block in blocks_of(type(self))}
        made = _filled(type(self), _read(options, what), what, base)
        return dataclasses.replace(self, **made)  # pyright: ignore

    if not TYPE_CHECKING:  # to an editor an unknown attribute stays an error

        def __getattr__(self, name: str) -> Any:
            """A block's setting under its own name."""
            for block, setting in owners_of(type(self)).get(name, ())[-1:]:
                return getattr(getattr(self, block), setting)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def in_blocks(cls: type[C]) -> type[C]:
    """Class decorator: the constructor also takes the settings of blocks by their own names."""
    make = cls.__init__

    @wraps(make)
    def __init__(self: C, **given: Any) -> None:
        made = _filled(cls, given, cls.__name__, _defaults(cls))
        for block in blocks_of(cls):
            object.__setattr__(made[block], HELD, True)
        make(self, **made)

    cls.__init__ = __init__
    return cls


@cache
def blocks_of(cls: type[Blocks]) -> dict[str, type[Settings]]:
    """Field -> the class of the settings that it holds."""
    hints = hints_of(cls)
    named = {name: hints[name] for name in _fields(cls)}
    return {n: hint for n, hint in named.items() if isinstance(hint, type) and issubclass(hint, Settings)}


@cache
def owners_of(cls: type[Blocks]) -> dict[str, tuple[Place, ...]]:
    """Name -> what it stands for in the blocks: each name that one block alone has."""
    places = _places(cls)
    return {name: found for name, found in places.items() if len(found) == 1} | dict(cls.ALSO)


def names_of(cls: type[Blocks]) -> tuple[str, ...]:
    """Every name there is: settings, blocks, settings of blocks."""
    return (*_fields(cls), *_places(cls), *cls.ALSO)


def settings_in(cls: type[Blocks], values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings that a mapping says, by their own names, and their values; blocks opened."""
    for name, value in values.items():
        inner = value if name in blocks_of(cls) and isinstance(value, Mapping) else {name: value}
        yield from inner.items()


def _fields(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _places(cls: type[Blocks]) -> dict[str, tuple[Place, ...]]:
    own, places = _fields(cls), dict[str, tuple[Place, ...]]()
    for block, kind in blocks_of(cls).items():
        for name in _fields(kind):
            if name not in own:
                places[name] = (*places.get(name, ()), (block, name))
    return places


def _defaults(cls: type[Blocks]) -> dict[str, Settings]:
    return {name: kind() for name, kind in blocks_of(cls).items()}


def _filled(
    cls: type[Blocks], given: Mapping[str, Any], who: str, base: Mapping[str, Settings]
) -> dict[str, Any]:
    """What was given as fields: settings of blocks are put into these.

    Raises:
        ConfigError: A name that there is not, or that says two things, or two values for one setting.
    """
    owners = owners_of(cls)
    for name, places in _places(cls).items():
        if name in given and len(places) > 1:
            raise ConfigError(
                f"{who}: {name} is a setting of several blocks",
                got=f"{name}={_short(given[name])}",
                expected=" or ".join(map(".".join, places)),
                fix=f"inside of the one that is meant: {places[0][0]}: {{{name}: ...}}",
            )
    check_options(who, given, names_of(cls))
    made = {name: value for name, value in given.items() if name not in owners and name not in base}
    for block, kind in blocks_of(cls).items():
        start, said = base[block], given.get(block, {})
        if isinstance(said, kind) and hasattr(said, HELD):
            start, said = said, {}
        inside = _inside(kind, said, f"{who}: {block}")
        for name, value in given.items():
            for setting in (s for b, s in owners.get(name, ()) if b == block):
                if setting in inside and not _same(inside[setting], value):
                    raise ConfigError(
                        f"{who}: {name} is given twice",
                        got=f"{name}={_short(value)}, {block}.{setting}={_short(inside[setting])}",
                        expected="one value for one setting",
                        fix="leave one of them out",
                    )
                inside[setting] = value
        made[block] = dataclasses.replace(start, **inside)  # pyright: ignore
    return made


def _inside(kind: type[Settings], value: object, where: str) -> dict[str, Any]:
    """The settings that a block was given.

    Raises:
        ConfigError: No settings of this kind, or a name that it does not have.
    """
    if isinstance(value, kind):
        return {name: getattr(value, name) for name in _fields(kind)}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where} holds settings",
            got=_short(value),
            expected=f"{kind.__name__}, or keys and values: {', '.join(_fields(kind)[:3])}, ...",
        )
    given: dict[str, Any] = dict(value)
    check_options(where, given, _fields(kind))
    return given


def _read(values: object, where: str) -> dict[str, Any]:
    """Keys and values as a file has them.

    Raises:
        ConfigError: No mapping.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"{where} must be keys and values", got=_short(values), expected="such as `d_sae: 4096`"
        )
    return {name: _tupled(value) for name, value in values.items()}


def _tupled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tupled(each) for name, each in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _same(one: object, other: object) -> bool:
    try:
        return bool(plain(one) == plain(other))
    except (TypeError, ValueError, RuntimeError):  # an array is neither the same nor another
        return False


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
