"""How many layers and heads a program needs, counted as the paper does."""

from __future__ import annotations

from typing import NamedTuple

from interp.rasp.language import Aggregate, InverseWidth, SOp, ancestors, read_sop
from interp.rasp.plan import merged


class Budget(NamedTuple):
    """Layers and heads of a program (Weiss et al. 2021, Table 1)."""

    layers: int
    """Attention that stands on attention; elementwise operations are free."""
    heads: int
    """Most different selectors in one of those layers."""


def budget(program: SOp) -> Budget:
    """The layers and heads that a program needs if every aggregate stands as early as it can.

    Elementwise operations cost nothing, as in the paper; the compiled model has more layers where
    they stand on each other (`CompiledProgram.plan`).

    Args:
        program: An s-op.

    Raises:
        ProgramError: Something else.
    """
    depth: dict[SOp, int] = {}
    selectors: dict[int, set[object]] = {}
    for sop in ancestors(merged(read_sop(program, "a program"))):
        below = max((depth[source] for source in sop.inputs), default=0)
        depth[sop] = below
        if isinstance(sop, Aggregate | InverseWidth):
            s = sop.selector
            depth[sop] = below + 1
            one = (id(s.keys), id(s.queries), s.predicate, type(sop))
            selectors.setdefault(below + 1, set()).add(one)
    return Budget(max(selectors, default=0), max(map(len, selectors.values()), default=0))
