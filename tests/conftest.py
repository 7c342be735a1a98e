"""What every test stands on: no network, fixed seeds, one thread unless OMP_NUM_THREADS says more
(`make test-processors`), and two sizes (push and full)."""

from __future__ import annotations

import gc
import importlib
import os
import random
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch, transformers or a child process can read them.
SUPPORT = Path(__file__).parent / "support"
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from tests.support import checker, quarantines  # noqa: E402

checker.install("interp")

# A worker of pytest-xdist is a child of the first process and has the guard already: two of them
# would not share what a marker opens.
if hasattr(sys.modules.get("sitecustomize"), "NetworkBlocked"):
    sys.modules["tests.support.sitecustomize"] = sys.modules["sitecustomize"]
network = importlib.import_module("tests.support.sitecustomize")

ROOT = Path(__file__).parents[1]
FULL = os.environ.get("INTERP_FULL") == "1"

_CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# What is not said here comes from hypothesis's own profile, which repeats its cases where CI is set.
settings.register_profile("push", max_examples=50, derandomize=True, database=None, **_CALM)
settings.register_profile(
    "full", max_examples=1_000, derandomize=False, database=None, print_blob=True, **_CALM
)
settings.load_profile("full" if FULL else "push")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """No skip goes unlisted; the full suite draws new cases each time (workers inherit the seed)."""
    config.pluginmanager.register(quarantines)
    if FULL and config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(secrets.randbits(32))


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look at it again at every turn."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """The seed of this run's cases, before anything runs."""
    return _seed_line(config)


def _seed_line(config: pytest.Config) -> str:
    seed = config.getoption("hypothesis_seed", None)
    if not FULL:
        return "hypothesis: the same cases each time (push)"
    return f"hypothesis: fresh cases; these again with INTERP_FULL=1 pytest --hypothesis-seed={seed}"


def chromium() -> str | None:
    """The Chromium that browser tests drive, if this machine has one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, names)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips that depend on the size of the run or on the machine (tests/QUARANTINES.md).

    Of a test marked `thin(n)` a push runs the first of its cases and every n-th after it.
    """
    no_browser = chromium() is None
    cases: Counter[str] = Counter()
    for item in items:
        thin = item.get_closest_marker("thin")
        name = item.nodeid.partition("[")[0]
        left_out = thin is not None and cases[name] % thin.args[0] != 0
        cases[name] += 1
        if (left_out or item.get_closest_marker("full")) and not FULL:
            item.add_marker(pytest.mark.skip(reason="full size only: make test-all"))
        if item.get_closest_marker("browser") and no_browser:
            item.add_marker(pytest.mark.skip(reason="no Chromium: apt-get install chromium"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The seed once more, below what failed; and seconds per room, summed over processes: where the
    next cheaper test is to be looked for.

    A room gets 45 s of the push suite, its notebooks 20 s (docs/folders.md lists the rooms).
    """
    if FULL:
        terminalreporter.write_line(_seed_line(terminalreporter.config))
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            parts = str(getattr(report, "nodeid", "")).split("/")
            if hasattr(report, "duration") and len(parts) > 2:
                seconds[parts[1]] += report.duration
    if sum(seconds.values()) > 60:
        told = ", ".join(f"{room} {spent:.0f}" for room, spent in seconds.most_common())
        terminalreporter.write_line(f"seconds of tests by room: {told}")


@pytest.fixture(autouse=True)
def _offline(request: pytest.FixtureRequest) -> Iterator[None]:
    """Loopback opens only for tests that drive a child over it; nothing else ever opens."""
    marks = ("browser", "loopback", "notebook")
    network.loopback_allowed = any(request.node.get_closest_marker(mark) for mark in marks)
    yield
    network.loopback_allowed = False


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same numbers in every order of tests."""
    random.seed(0)
    import numpy as np
    import torch

    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    """A test that leaves another thread count behind changes the sums of all that follow it."""
    import torch

    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before, "the test leaves another thread count behind"


@pytest.fixture(scope="session")
def full_count() -> bool:
    """True in `make test-all`: fault-matrix tests then run their full counts."""
    return FULL


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and corpora; the tests that read it skip where it is absent."""
    folder = Path(os.environ.get("INTERP_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared data at {folder}; set INTERP_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The executable for playwright's `executable_path`."""
    path = chromium()
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium")
    return path
