"""What every trained thing shares: where it came from, saving and loading whole, refusing others.

Probes, erasers, lenses and dictionaries are `Trained`. Each says which files it is (`files`) and
how it is made from them (`from_files`); the rest is here, once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from interp.core.errors import CorruptArtefact, InterpError, ProvenanceError, StorageError, out_of_memory
from interp.core.finite import check_finite
from interp.core.foreign import reason
from interp.core.names import did_you_mean
from interp.core.provenance import UNKNOWN, Provenance
from interp.core.store import Artefact, commit, open_artefact
from interp.core.version import VERSION

REFETCH = "re-download it, or pick an older one"


class Model(Protocol):
    """The part of a `HookedModel` that tells where its activations come from."""

    @property
    def sites(self) -> Mapping[str, Any]:
        """Site name -> site with `sizes`."""
        ...

    @property
    def cfg(self) -> Any:
        """Its configuration, with `model_name`."""
        ...

    def provenance(self, sites: Iterable[str] = (), **more: Any) -> Provenance:
        """What activations at these sites come from."""
        ...


class Trained(nn.Module, ABC):
    """A module with its provenance, saved as one folder.

    Attributes:
        schema: Kind and version of the folder, as `probe/1`; a new version reads the old ones.
        provenance: Model, sites and data it was trained on; None if nobody said.
    """

    schema: ClassVar[str]
    provenance: Provenance | None = None

    @abstractmethod
    def files(self) -> dict[str, Any]:
        """The content of the folder, as `store.commit` takes it."""

    @classmethod
    @abstractmethod
    def from_files(cls, stored: Artefact, version: int) -> Self:
        """The object that `files` of schema version `version` describe."""

    def check_model(self, model: Model | Provenance, *, strict: bool = True) -> Provenance:
        """Its provenance, if it may be applied to this model (or where this provenance says).

        Raises:
            ProvenanceError: Other weights, site, width, dtype, BOS policy or tokenizer; all that
                differ are named with both values. With `strict=False` they become notes.
        """
        mine = self.provenance or Provenance(UNKNOWN, UNKNOWN)
        here = model if isinstance(model, Provenance) else self._place(model, mine, strict)
        known = mine.require_match(here, strict=strict)
        if mine.model_fingerprint != UNKNOWN or mine.model in (UNKNOWN, here.model):
            return known
        # an import: the name is all there is, and names are no proof either way
        note = f"model: made for {mine.model!r}, applied to {here.model!r}; only the names tell"
        return known if note in known.notes else replace(known, notes=(*known.notes, note))

    def for_model(self, model: Model | Provenance, strict: bool = True) -> Self:
        """Itself, if made for this model; what was not recorded or accepted is noted.

        Raises:
            ProvenanceError: It was made for something else; `strict=False` notes it instead.
        """
        if self.provenance is not None:
            self.provenance = self.check_model(model, strict=strict)
        return self

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write it as a folder that appears complete or not at all.

        Raises:
            StorageError: The folder exists and `overwrite` is False, or the disk refuses.
        """
        return commit(directory, self.files(), overwrite=overwrite, schema=self.schema)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """What `save` wrote, bit for bit, on the CPU.

        Raises:
            CorruptArtefact: A byte differs from what was written, or it was never whole.
            NonFiniteError: A weight is no number.
            StorageError: No such folder, another kind of artefact, or one of a newer interp.
        """
        stored = open_artefact(directory)
        version = require_schema(stored, cls.schema)
        try:
            made = cls.from_files(stored, version)
        except InterpError:
            raise
        except Exception as error:  # a manifest says who wrote it, not that it was written well
            raise out_of_memory(error, stored.directory) or CorruptArtefact(
                f"{stored.directory} does not hold what a {cls.__name__} is made of",
                got=reason(error),
                fix="ask its author for it again, or save it anew",
            ) from error
        for name, value in made.state_dict().items():
            if isinstance(value, Tensor):
                check_finite(value, f"{stored.directory}: {name}")
        return made

    def _place(self, model: Model, mine: Provenance, strict: bool) -> Provenance:
        """The provenance that activations of this model at the artefact's sites would have."""
        missing = [site for site in mine.sites if site not in model.sites]
        if missing and strict:
            raise ProvenanceError(
                f"{model.cfg.model_name} has no site {missing[0]!r}, which this "
                f"{type(self).__name__} reads or writes",
                got=f"made for {mine.model}",
                fix=did_you_mean(missing[0], list(model.sites)) or "name the model it was made for",
            )
        widths = {_width(model.sites[site], mine.d_in) for site in mine.sites[:1] if not missing}
        there = tuple(site for site in mine.sites if site not in missing)
        told = {"d_in": widths.pop() if widths else None, "normalisation": mine.normalisation}
        return model.provenance(there, **told)  # nothing but the artefact itself normalises


def _width(site: Any, mine: int | None) -> int | None:
    """Width of a site: of one head or of all side by side, whichever the artefact reads."""
    sizes = [size for size in site.sizes[2:] if size is not None]
    return mine if sizes and mine == sizes[-1] else (math.prod(sizes) if sizes else None)


def require_schema(stored: Artefact, schema: str) -> int:
    """The version of an opened folder, if this `interp` reads it.

    Args:
        stored: A folder that `commit` wrote.
        schema: Kind and the newest version known, as `probe/1`.

    Raises:
        StorageError: Another kind, or a version of a newer `interp`: both versions are named.
    """
    writer = stored.manifest.get("versions", {}).get("interp", "a newer version")
    return require_version(str(stored.manifest["schema"]), schema, stored.directory, writer)


def require_version(found: str, schema: str, where: Path, writer: str = "a newer version") -> int:
    """The version in a schema's name, if it is of the kind and no newer than `schema`.

    Raises:
        StorageError: As for `require_schema`.
    """
    kind, _, newest = schema.partition("/")
    mine, _, version = found.partition("/")
    if mine != kind or not version.isdecimal():
        raise StorageError(f"{where} holds something else", got=found, expected=schema)
    if int(version) > int(newest):
        raise StorageError(
            f"{where} was written by interp {writer}; you have {VERSION}: upgrade",
            got=f"schema {found}",
            expected=f"schema {schema} or older",
            fix="pip install --upgrade interp",
        )
    return int(version)


def provenance_json(artefact: Trained) -> dict[str, Any] | None:
    """An artefact's provenance as a JSON value; None if it has none."""
    return None if artefact.provenance is None else artefact.provenance.to_json()


def provenance_from(value: Any, where: Path) -> Provenance | None:
    """The inverse of `provenance_json`; `where` is only named in errors.

    Raises:
        CorruptArtefact: No provenance and not None.
    """
    if value is None:
        return None
    try:
        return Provenance.from_json(value)
    except (InterpError, TypeError, AttributeError) as error:
        raise CorruptArtefact(f"{where}: its provenance cannot be read", got=error, fix=REFETCH) from error


def fill(module: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Load all tensors of a folder into a module of the same names and shapes.

    Raises:
        CorruptArtefact: A tensor is missing, left over or of another shape; they are named.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        told = " ".join(line.strip() for line in lines[1:]) or lines[0]
        raise CorruptArtefact(f"{where}: its tensors do not fit it", got=told) from error
