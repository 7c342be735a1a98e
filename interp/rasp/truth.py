"""Which edges of a compiled program matter, under a named ablation: from the program alone.

The value that travels along one edge is exchanged, all else stays as it is, and the program is run on
from its reader; the edge matters if the output changes anywhere on any string. No weight, no residual
stream and no patched model takes part (`machine`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from interp.core.settings import check_choice
from interp.rasp.compiled import CompiledProgram
from interp.rasp.config import Ablation, Compared
from interp.rasp.edges import EdgeTruth
from interp.rasp.language import ProgramError, Value, ancestors
from interp.rasp.machine import Machine, Values
from interp.rasp.plan import Plan, Reader

TIE = 1e-6
"""A change of the output below this is none; values are 0, 1 and numbers of the program."""
ROWS = 4096
"""Pairs of strings at a time."""


def edge_truth(
    compiled: CompiledProgram,
    ablation: Ablation,
    *,
    strings: Sequence[str | Sequence[Value]] | None = None,
    over: str = "",
    positions: Compared = "all",
    split_embed: bool = True,
) -> EdgeTruth:
    """Which edges of a compiled program matter under an ablation.

    Args:
        compiled: From `compile_program`.
        ablation: `zero`; `mean` over the strings of the same length, position by position; `resample`
            from every other string of the same length.
        strings: Those that are run and exchanged; all of 1 to `max_length` tokens where absent.
        over: What they are called in the truth; needed with strings of one's own.
        positions: Where the output is compared: at `all` tokens, or at the `last` of each string.
        split_embed: Tokens and positions as two writers, `embed` and `pos`; else one, `embed`.

    Raises:
        ProgramError: No strings, or strings without a name, or a name without strings.
        TokenError: An unknown token, or a string that is too long.
        ConfigError: No such ablation, or no such positions.
    """
    check_choice("ablation", ablation, Ablation)
    check_choice("positions", positions, Compared)
    if (strings is None) == bool(over):
        raise ProgramError(
            "strings of one's own are named, and only those", got=over, expected='strings=..., over="..."'
        )
    if strings is None:
        own = compiled.interface.strings(least=1)
        letters = ", ".join(map(str, compiled.interface.vocabulary))
        over = f"all {len(own)} strings of 1 to {compiled.interface.max_length} tokens from {letters}"
    else:
        compiled.interface.encode(strings)
        own = [tuple(string) for string in strings if len(string)]
    if not own:
        raise ProgramError("no string to tell edges by", got=0, fix="strings of one token or more")
    search = _Search(compiled.plan, Machine(compiled.plan, compiled.config.score_scale), own, positions)
    edges = list(_edges(compiled.plan, split_embed))
    found = {name: search.change(reader, writers, ablation) for name, reader, writers in edges}
    with_, without = [c for c in found.values() if c > TIE], [c for c in found.values() if c <= TIE]
    return EdgeTruth(
        ablation=ablation,
        over=over,
        positions=positions,
        edges=tuple(found),
        carries=tuple(n for n, r, w in edges if carried(compiled.plan, r, w)),
        matters=tuple(name for name, change in found.items() if change > TIE),
        largest_without=max(without, default=0.0),
        smallest_with=min(with_, default=0.0),
        distractors=compiled.plan.distractors,
    )


def carried(plan: Plan, reader: Reader, writers: tuple[str, ...]) -> tuple[Any, ...]:
    """The s-ops that some writers write and a reader reads."""
    return tuple(sop for sop in reader.sops if plan.writers[sop] in writers)


def _edges(plan: Plan, split_embed: bool) -> Iterator[tuple[str, Reader, tuple[str, ...]]]:
    """Name, reader and writers of every edge."""
    for reader in plan.readers:
        for writer in plan.writers_before(reader.name):
            if split_embed:
                yield f"{writer}->{reader.name}", reader, (writer,)
            elif writer != "pos":
                both = ("embed", "pos") if writer == "embed" else (writer,)
                yield f"{writer}->{reader.name}", reader, both


class _Search:
    """Strings by length, each length run once."""

    def __init__(
        self, plan: Plan, machine: Machine, strings: list[tuple[Value, ...]], positions: Compared
    ) -> None:
        self.plan = plan
        self.machine = machine
        self.first = 1 if positions == "all" else -1
        self.read = {plan.writers[sop] for sop in ancestors(plan.program)} | {"logits"}
        ordered = sorted(dict.fromkeys(strings), key=len)
        self.values: list[Values] = [machine.run(list(group)) for _, group in groupby(ordered, key=len)]

    def change(self, reader: Reader, writers: tuple[str, ...], ablation: Ablation) -> float:
        """The largest change of the output; with `resample` the first chunk's that shows one."""
        sops = carried(self.plan, reader, writers) if reader.node in self.read else ()
        most = 0.0
        for values in self.values if sops else ():
            if ablation == "zero":
                most = max(most, self._changed(values, reader, {s: np.zeros_like(values[s]) for s in sops}))
            elif ablation == "mean":
                mean = {s: np.broadcast_to(values[s].mean(0), values[s].shape) for s in sops}
                most = max(most, self._changed(values, reader, mean))
            else:
                for change in self._resampled(values, reader, sops):
                    most = max(most, change)
                    if most > TIE:
                        return most
        return most

    def _resampled(self, values: Values, reader: Reader, sops: tuple[Any, ...]) -> Iterator[float]:
        """Each string with what each other one sends; equal messages are sent once."""
        joined = np.concatenate([values[sop] for sop in sops], -1)
        kinds, kind_of = np.unique(joined.reshape(len(joined), -1), axis=0, return_inverse=True)
        if len(kinds) == 1:
            return
        senders = np.array([int(np.argmax(kind_of.ravel() == kind)) for kind in range(len(kinds))])
        total = len(joined) * len(senders)
        for first in range(0, total, ROWS):
            pairs = np.arange(first, min(first + ROWS, total))
            to, by = pairs // len(senders), senders[pairs % len(senders)]
            here = _Rows(values, to)
            yield self._changed(here, reader, {sop: values[sop][by] for sop in sops})

    def _changed(self, values: Values, reader: Reader, seen: Values) -> float:
        """Largest change of the output at a token, over strings."""
        program = self.plan.program
        output = self.machine.on(values, reader, seen)
        return float(np.abs(output - values[program])[:, self.first :].max())


class _Rows(dict[Any, np.ndarray]):
    """Some rows of values, made when they are asked for."""

    def __init__(self, values: Values, rows: np.ndarray) -> None:
        super().__init__()
        self._values, self._rows = values, rows

    def __missing__(self, sop: Any) -> np.ndarray:
        self[sop] = self._values[sop][self._rows]
        return self[sop]
