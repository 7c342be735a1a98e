"""Programs of hooks, captures, coders and generation against the same edits made by hand.

300 programs here, 10,000 with INTERP_FULL=1 from a seed of the run's own (INTERP_SEED repeats
one). Parts: places (where activations live), hand (a plain forward), edits (what an edit means),
naive (each row alone), programs (what is drawn), play (the package's side and the comparison).
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

PARTS = 20 if FULL else 3
EACH = 500 if FULL else 100


@pytest.mark.parametrize("part", range(PARTS))
def test_programs_give_what_hands_give(part: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("INTERP_SEED", secrets.randbits(32) if FULL else 1)) + part
    if FULL:
        with capsys.disabled():
            os.write(1, f"\nprograms, part {part}: INTERP_SEED={seed - part}\n".encode())

    @settings(
        max_examples=EACH,
        derandomize=False,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.seed(seed)
    @given(programs())
    def run(program: Program) -> None:
        play(program)

    run()
