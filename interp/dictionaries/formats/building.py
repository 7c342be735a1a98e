"""From what a file says to a `Dictionary`: checked, finite, and every error names the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.core.errors import ConfigError, CorruptArtefact, InterpError
from interp.core.finite import check_finite
from interp.core.provenance import UNKNOWN, Provenance
from interp.core.settings import check_options
from interp.dictionaries.checks import check_dictionary
from interp.dictionaries.config import DictionaryConfig
from interp.dictionaries.dictionary import Dictionary


@contextmanager
def named(where: Path) -> Iterator[None]:
    """Errors raised inside begin with the file or folder they are about."""
    try:
        yield
    except InterpError as error:
        if str(where) in error.what:
            raise
        told = {"got": error.got, "expected": error.expected, "fix": error.fix}
        raise type(error)(f"{where}: {error.what}", **told) from error


def config_from_json(values: Any) -> DictionaryConfig:
    """A checked config from a JSON value.

    Raises:
        ConfigError: No object, a key unknown or missing, a value of a wrong type or impossible.
    """
    if not isinstance(values, Mapping):
        raise ConfigError("the settings of a dictionary", got=repr(values)[:80], expected="{...}")
    known = [field.name for field in fields(DictionaryConfig)]
    check_options("a dictionary", values, known)
    missing = [key for key in ("d_in", "d_sae") if key not in values]
    if missing:
        raise ConfigError("the settings are incomplete", expected=", ".join(missing))
    groups = values.get("groups", ())
    plain = {**values, "groups": tuple(groups) if isinstance(groups, list) else groups}
    config = DictionaryConfig(**plain)
    check_dictionary(config)
    return config


def config_to_json(config: DictionaryConfig) -> dict[str, Any]:
    """The inverse of `config_from_json`."""
    return asdict(config) | {"groups": list(config.groups)}


def build(
    where: Path,
    config: DictionaryConfig | Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    metadata: Mapping[str, Any] | None = None,
    provenance: Provenance | None = None,
) -> Dictionary:
    """The dictionary that a file describes.

    Args:
        where: The file or folder, for errors.
        config: Settings, checked here.
        tensors: Under the names of `Dictionary`, in any dtype.
        metadata: What else the file says.
        provenance: Where it came from.

    Raises:
        ConfigError: Impossible settings.
        CorruptArtefact: Tensors that contradict the settings.
        NonFiniteError: NaN or infinity among the weights.
    """
    with named(where):
        if not isinstance(config, DictionaryConfig):
            config = config_from_json(config)
        told = (config.d_sae, config.width_out)
        found = tuple(tensors["W_dec"].shape) if "W_dec" in tensors else None
        if found != told:
            raise CorruptArtefact(
                "the decoder is not what the settings say",
                got="none" if found is None else f"W_dec {list(found)}",
                expected=f"[d_sae, d_out] = {list(told)}",
                fix="transposed, or settings of another file",
            )
        for name, tensor in tensors.items():
            check_finite(tensor, name)
        made = Dictionary.from_state(config, tensors)
    made.provenance = provenance
    made.metadata = dict(metadata) if isinstance(metadata, Mapping) else {}
    return made


def at_sites(made: Dictionary, *, site_in: str | None = None, site_out: str | None = None) -> Dictionary:
    """The same numbers at other sites; None keeps one as it is."""
    asked = {"site_in": site_in, "site_out": site_out}
    sites = {key: site for key, site in asked.items() if site is not None}
    if all(getattr(made.config, key) == site for key, site in sites.items()):
        return made
    moved = Dictionary.from_state(replace(made.config, **sites), made.state_dict())
    moved.metadata, moved.provenance = made.metadata, made.provenance
    if moved.provenance is not None:
        both = tuple(dict.fromkeys((moved.site_in, moved.site_out)))
        moved.provenance = replace(moved.provenance, sites=both)
    return moved


def take(tensors: Mapping[str, Tensor], names: Mapping[str, str], where: Path) -> dict[str, Tensor]:
    """The tensors of a file under our names.

    Args:
        names: Our name -> the file's name; all must be there, and nothing else.
        where: The file, for errors.

    Raises:
        CorruptArtefact: One is missing, or one is left over: it is not the file it claims to be.
    """
    if set(tensors) != set(names.values()):
        raise CorruptArtefact(
            f"{where}: these are not the tensors of what its settings describe",
            got=", ".join(sorted(tensors)) or "no tensors",
            expected=", ".join(sorted(names.values())),
            fix="the settings may belong to another file, or to another version of its library",
        )
    return {ours: tensors[theirs] for ours, theirs in names.items()}


def origin(
    kind: str,
    *,
    model: object = None,
    sites: Sequence[str] = (),
    d_in: int | None = None,
    prepend_bos: object = None,
    normalisation: str | None = None,
    notes: Sequence[str] = (),
) -> Provenance:
    """Provenance of a foreign file: what it says of itself; nothing vouches for it."""
    return Provenance(
        model=model if isinstance(model, str) and model else UNKNOWN,
        model_fingerprint=UNKNOWN,
        sites=tuple(dict.fromkeys(site for site in sites if site)),
        d_in=d_in,
        prepend_bos=prepend_bos if isinstance(prepend_bos, bool) else None,
        normalisation=normalisation,
        notes=(f"imported from {kind}; no manifest vouches for it", *notes),
    )


def number(values: Mapping[str, Any], key: str, where: Path) -> int:
    """A whole number from a foreign JSON file.

    Raises:
        ConfigError: The key is missing, or its value is no whole number.
    """
    value = values.get(key)
    if type(value) is not int:
        raise ConfigError(
            f"{where}: {key!r} is {'missing' if key not in values else 'no whole number'}",
            got=None if key not in values else repr(value)[:80],
            expected=f'"{key}": a whole number',
        )
    return value
