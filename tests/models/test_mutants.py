"""The table of mending lines (tests/support/mutants.py) names lines that are there."""

from __future__ import annotations

from tests.support.mutants import MODELS, MUTANTS, ROOT


def test_every_mending_line_stands_where_the_table_says() -> None:
    gone = [row for row, file, old, _, _ in MUTANTS if (ROOT / MODELS / file).read_text().count(old) != 1]
    assert gone == []
    assert len(MUTANTS) > 40
