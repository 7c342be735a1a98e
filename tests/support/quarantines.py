"""A skip that tests/QUARANTINES.md does not list is a failure: a plugin of pytest.

The first column of its table holds the reason that pytest prints, in backquotes; `…` stands for
what depends on the machine.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "QUARANTINES.md"


def listed() -> list[str]:
    """The reasons of the table, as they are written there."""
    return re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.M)


def row_of(reason: str) -> str | None:
    """The row of the table that allows a skip with this reason; None where there is none."""
    for row in listed():
        if re.fullmatch(".*".join(map(re.escape, row.split("…"))), reason, re.S):
            return row
    return None


def _judged(report: Any) -> Any:
    """The report, made a failure where it is a skip that no row allows."""
    if not report.skipped:
        return report
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    # An expected failure is reported as a skip, with its reason elsewhere.
    reason = getattr(report, "wasxfail", told.removeprefix("Skipped: "))
    if row_of(reason) is None:
        report.outcome = "failed"
        report.longrepr = f"a skip that tests/QUARANTINES.md does not list: {reason!r}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Skips of tests and their fixtures."""
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """Skips of whole files."""
    return _judged((yield))
