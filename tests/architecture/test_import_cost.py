"""What an import and a `--help` cost: which modules they load, and how much CPU."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from tests.architecture.source import ROOT
from tests.architecture.test_rooms import ROOMS

HEAVY = (
    "torch", "numpy", "transformers", "transformer_lens", "sae_lens", "captum", "plotly", "pandas",
    "sklearn", "scipy", "safetensors", "jaxtyping", "jinja2",
)  # fmt: skip
HELP = "import interp.cli.main as m; m.main(['--help'])"


def run(code: str) -> tuple[set[str], float]:
    """Heavy packages loaded after `code`, and the CPU seconds (user + sys) of that interpreter."""
    probe = (
        "import sys, io, contextlib\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    {code}\n"
        f"import json; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return set(json.loads(done.stdout)), cpu


@pytest.mark.parametrize("code, limit", [("import interp", 0.15), (HELP, 0.3)])
def test_face_and_help_load_nothing_heavy(code: str, limit: float) -> None:
    loaded, first = run(code)
    assert loaded == set()
    # The best of a few: the rest measures the machine's neighbours. Python itself is included.
    best = min([first, *(run(code)[1] for _ in range(4))])
    print(f"{code}: {best * 1000:.0f} ms CPU, limit {limit * 1000:.0f} ms")
    assert best < limit


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
