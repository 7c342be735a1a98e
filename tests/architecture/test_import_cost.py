"""What an import and a `--help` cost: which modules they load, and how many."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.architecture.source import ROOT
from tests.architecture.test_rooms import ROOMS

HEAVY = (
    "torch",
    "numpy",
    "transformers",
    "transformer_lens",
    "sae_lens",
    "captum",
    "plotly",
    "pandas",
    "sklearn",
    "scipy",
    "safetensors",
    "jaxtyping",
    "jinja2",
)
HELP = "import interp.cli.main as m; m.main(['--help'])"


def run(code: str) -> tuple[set[str], int]:
    """Heavy packages loaded after `code`, and how many modules it loads in a bare interpreter."""
    probe = (
        "import sys, io, contextlib, json\n"
        "before = set(sys.modules)\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    {code}\n"
        f"heavy = [n for n in {HEAVY!r} if n in sys.modules]\n"
        "print(json.dumps([heavy, len(set(sys.modules) - before)]))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy, n = json.loads(done.stdout)
    return set(heavy), n


@pytest.mark.parametrize("code, limit", [("import interp", 40), (HELP, 60)])
def test_face_and_help_load_nothing_heavy_and_little_else(code: str, limit: int) -> None:
    """Python 3.11 loads 19 and 29 modules, its own included; one heavy package loads hundreds."""
    loaded, n = run(code)
    assert loaded == set()
    assert 0 < n < limit


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_loads_nothing_heavy_until_a_name_is_used(room: str) -> None:
    assert run(f"import interp.{room}, interp.{room}.config")[0] == set()


def test_the_probe_sees_a_heavy_import() -> None:
    assert "numpy" in run("import numpy")[0]


def test_the_version_is_the_one_of_the_package() -> None:
    import tomllib

    import interp

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert interp.__version__ == project["version"]


def test_eleven_names_are_listed_without_torch() -> None:
    loaded, _ = run("import interp.cli.main as m; m.main(['tasks'])")
    assert "torch" not in loaded and "plotly" not in loaded
