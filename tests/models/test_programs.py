"""Programs of hooks, captures, coders and generation against the same edits made by hand.

328 programs here, 8 or 24 for each model; 10,000 with INTERP_FULL=1, from a seed of the run's own
that is printed (INTERP_SEED=... repeats it). Parts: places (where activations live), hand (a plain
forward), edits (what an edit means), naive (each row alone), programs (what is drawn), play (the
package's side and the comparison). FAULTS.md says which fault is found where.
"""

from __future__ import annotations

import os
import secrets

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings

from tests.conftest import FULL
from tests.models.program.play import play
from tests.models.program.programs import Program, programs
from tests.models.program.subjects import EXACT, each, subject

EACH = 10_000 // len(EXACT) + 1


@pytest.mark.thin(4)
@pytest.mark.parametrize("name", EXACT)
def test_programs_give_what_hands_give(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("INTERP_SEED", secrets.randbits(32) if FULL else 1))
    if FULL:
        with capsys.disabled():
            os.write(1, f"\n{EACH} programs on {name}: INTERP_SEED={seed}\n".encode())

    subject(name)

    @settings(
        max_examples=EACH if FULL else each(name),
        derandomize=False,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @hypothesis.seed(seed + EXACT.index(name))
    @given(programs(name))
    def run(program: Program) -> None:
        play(program)

    run()
