"""Drawn cases: the same at each push, new ones in the full suite, whose seed is printed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings

from tests import conftest


class Options:
    """As much of pytest's configuration as the seed needs."""

    def __init__(self, seed: str | None = None) -> None:
        self.option = SimpleNamespace(hypothesis_seed=seed)
        self.pluginmanager = SimpleNamespace(register=lambda plugin: None)

    def getoption(self, name: str, default: Any = None) -> Any:
        return getattr(self.option, name, default)


def prepared(seed: str | None = None) -> Any:
    options: Any = Options(seed)
    conftest.pytest_configure(options)
    return options


def test_the_full_suite_draws_new_cases_and_says_how_to_draw_them_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conftest, "FULL", True)
    runs = [prepared() for _ in range(3)]
    seeds = {run.option.hypothesis_seed for run in runs}
    assert len(seeds) == 3 and all(seed.isdigit() for seed in seeds)
    for run in runs:
        assert f"--hypothesis-seed={run.option.hypothesis_seed}" in conftest.pytest_report_header(run)
    assert prepared("17").option.hypothesis_seed == "17", "a seed that was given is kept"


def test_a_push_repeats_its_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "FULL", False)
    assert prepared().option.hypothesis_seed is None


def test_the_profiles_do_not_follow_the_machine() -> None:
    """Where CI is set, hypothesis's own default repeats its cases; both sizes say it themselves."""
    push, full = settings.get_profile("push"), settings.get_profile("full")
    assert push.derandomize and not full.derandomize
    assert full.print_blob and full.max_examples == 20 * push.max_examples


def test_the_profile_of_this_run_is_that_of_its_size(full_count: bool) -> None:
    assert settings.default is settings.get_profile("full" if full_count else "push")
