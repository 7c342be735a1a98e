"""The table that says which edges matter, as a value and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from interp.core.errors import ConfigError, CorruptArtefact, StorageError
from interp.core.foreign import one_line, read_json
from interp.rasp.config import Ablation, Compared

TRUTH_FILE = "truth.json"


@dataclass(frozen=True, kw_only=True)
class EdgeTruth:
    """Every edge of a compiled program's graph, and those that matter under one ablation.

    An edge is `writer->reader`: from `embed` (tokens), `pos`, a head `a0.h1` or an MLP `m0`, to a
    head's query, key or value `a1.h0<q>`, an MLP `m1` or `logits`.
    """

    ablation: Ablation
    """What travels in place of the value: `zero`, the `mean` over the strings of that length, or
    (`resample`) what another of them sends."""
    over: str
    """The strings, in words."""
    positions: Compared
    """Where the output is compared: at `all` tokens, or at the `last`."""
    edges: tuple[str, ...]
    """All edges, in the order of the forward pass."""
    carries: tuple[str, ...]
    """Edges along which something is read at all; the rest cannot matter."""
    matters: tuple[str, ...]
    """Edges whose exchange changes the output somewhere."""
    largest_without: float
    """Largest change of the output by an edge that does not matter."""
    smallest_with: float
    """Smallest of the largest changes by edges that do (the search stops early under `resample`)."""
    distractors: tuple[str, ...] = ()
    """Heads whose output nobody reads."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> EdgeTruth:
        """What `to_dict` gave.

        Raises:
            ConfigError: Another field, or one that is missing.
        """
        known = [field.name for field in fields(cls)]
        if sorted(raw) != sorted(known):
            raise ConfigError(
                "fields of another table of edges", got=", ".join(raw), expected=", ".join(known)
            )
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        return cls(**values)

    @property
    def is_degenerate(self) -> bool:
        """Whether no edge matters, or every edge does: nothing to tell apart."""
        return len(self.matters) in (0, len(self.edges))


def load_truths(folder: str | Path) -> list[EdgeTruth]:
    """The edge truths that were saved with a compiled program.

    Raises:
        StorageError: No such folder or file.
        CorruptArtefact: A file that says something else.
    """
    path = Path(folder) / TRUTH_FILE
    if not path.is_file():
        raise StorageError("no edge truths in this folder", got=folder, expected=TRUTH_FILE)
    try:
        return [EdgeTruth.from_dict(raw) for raw in read_json(path)]
    except (AttributeError, TypeError, ValueError) as error:
        raise CorruptArtefact(f"{path} holds no edge truths", got=one_line(error)) from error
