"""Names of nodes and edges: `embed->a1.h2<k>`, `m0->logits`; which reader belongs to which writer."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from interp.core.errors import ConfigError
from interp.core.foreign import show
from interp.core.names import did_you_mean

ARROW = "->"
_HEAD = re.compile(r"(a\d+)\.h(\d+)(?:<[qkv]>)?")


def edge_name(writer: str, reader: str) -> str:
    """`embed->a1.h2<k>`."""
    return f"{writer}{ARROW}{reader}"


def edge_of(name: str, writers: Sequence[str], readers: Sequence[str], possible: Tensor) -> tuple[int, int]:
    """The indices that an edge's name means.

    Raises:
        ConfigError: No such edge; the nearest names are suggested.
    """
    writer, arrow, reader = name.partition(ARROW)
    writer, reader = writer.strip(), reader.strip()
    if not arrow:
        raise ConfigError("this names no edge", got=show(name, 80), expected="writer->reader")
    for part, known, what in ((writer, writers, "writer"), (reader, readers, "reader")):
        if part not in known:
            raise ConfigError(
                f"no {what} {part!r} in this graph", got=show(name, 80), fix=did_you_mean(part, known) or None
            )
    at = writers.index(writer), readers.index(reader)
    if not bool(possible[at]):
        raise ConfigError(
            "this edge runs against the pass", got=show(name, 80), expected="a writer below its reader"
        )
    return at


def belongs(writers: Sequence[str], readers: Sequence[str]) -> Tensor:
    """Which node's input each reader is, [reader writer]; the logits are nobody's.

    A key or value head that several query heads share belongs to each of them.
    """
    of = {name: i for i, name in enumerate(writers)}
    counts: dict[tuple[str, bool], int] = {}
    for names, reading in ((writers, False), (readers, True)):
        for name in names:
            head = _HEAD.fullmatch(name)
            if head and (not reading or name.endswith("<k>")):
                key = (head[1], reading)
                counts[key] = counts.get(key, 0) + 1
    found = torch.zeros(len(readers), len(writers), dtype=torch.bool)
    for row, name in enumerate(readers):
        head = _HEAD.fullmatch(name)
        if head is None:
            if name in of:
                found[row, of[name]] = True
            continue
        block, number = head[1], int(head[2])
        share = 1 if name.endswith("<q>") else counts[block, False] // counts[block, True]
        for each in range(number * share, (number + 1) * share):
            found[row, of[f"{block}.h{each}"]] = True
    return found
