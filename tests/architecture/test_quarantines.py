"""Every skip stands in tests/QUARANTINES.md, every row there is used, and nothing else may skip."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source import ROOT
from tests.support.quarantines import listed, row_of

# What reads skips names them too.
READERS = ("tests/architecture/test_quarantines.py", "tests/support/quarantines.py")

WAYS = re.compile(r"(?:pytest|pytest\.mark|unittest|self)\.(skip\w*|importorskip|xfail|expectedFailure)")


def text_of(node: ast.expr | None) -> str:
    """A string as it will be printed; what it fills in is `…`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def skips() -> Iterator[tuple[str, str, str, str]]:
    """(place, verb, reason, what is imported) of every call that can skip a test."""
    for path in sorted(ROOT.glob("tests/**/*.py")):
        place = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if place not in READERS else ():
            if not isinstance(node, ast.Call):
                continue
            way = WAYS.fullmatch(ast.unparse(node.func))
            if way is None:
                continue
            verb = way[1]
            named = {keyword.arg: keyword.value for keyword in node.keywords}
            first = node.args[0] if node.args else None
            given = named.get("reason", first if verb in ("skip", "xfail") else None)
            yield f"{place}:{node.lineno}", verb, text_of(given), text_of(first)


def test_every_skip_is_listed() -> None:
    found = list(skips())
    unlisted = [(place, reason) for place, _, reason, _ in found if row_of(reason) is None]
    assert unlisted == []
    assert {verb for _, verb, _, _ in found} <= {"skip", "skipif", "importorskip"}, "xfail, or a new way"
    assert len(found) > 20


def test_every_row_is_used() -> None:
    used = {row_of(reason) for _, _, reason, _ in skips()}
    assert sorted(set(listed()) - used) == []
    assert len(set(listed())) == len(listed())


def test_what_is_installed_with_the_package_is_never_skipped_for() -> None:
    """A test of what the package requires fails where that cannot be imported."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = {re.split("[><=]", name)[0] for name in extras["optional-dependencies"]["dev"]}
    wanted = {what.split(".")[0].replace("_", "-") for _, verb, _, what in skips() if verb == "importorskip"}
    assert wanted <= optional and wanted


CASES = """
import pytest

def test_unlisted():
    pytest.skip("tired")

@pytest.fixture
def data():
    pytest.skip("no shared data at /nowhere; set INTERP_SHARED_DATA")

def test_listed(data):
    pass

def test_nearly_listed():
    pytest.skip("no shared data at /nowhere")

@pytest.mark.skip(reason="later")
def test_marked():
    pass

@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    assert False

def test_passes():
    pass
"""


def test_a_run_fails_at_a_skip_that_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "test_whole.py").write_text('import pytest\npytest.importorskip("no_such_module")\n')
    (tmp_path / "test_no_triton.py").write_text(
        'import pytest\npytest.skip("Triton is not installed (torch\'s CUDA builds bring it)", '
        "allow_module_level=True)\n"
    )
    plugins = ["-p", "tests.support.quarantines", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--continue-on-collection-errors", *plugins]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(
        [*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 1, run.stdout + run.stderr
    told = run.stdout
    assert "3 failed, 1 passed, 2 skipped, 2 errors" in told
    for reason in ("'tired'", "'no shared data at /nowhere'", "'later'", "no_such_module", "'known'"):
        assert re.search(f"does not list: .*{reason}", told), told


def test_the_suite_runs_under_it(request: pytest.FixtureRequest) -> None:
    """The plugin is in place here, not only in the run above."""
    hooks = request.config.hook.pytest_runtest_makereport.get_hookimpls()
    assert any(hook.function.__module__ == "tests.support.quarantines" for hook in hooks)
