"""Types reach the user: what the package exports is typed, and a typo is an error in an editor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.source import PACKAGE


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The package as it is once installed: in a folder of libraries, beside nothing else."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "interp").symlink_to(PACKAGE, target_is_directory=True)
    return folder


def pyright(site: Path, *arguments: str) -> dict[str, Any]:
    """What pyright says, run as an editor of the user's would: away from our own settings."""
    libraries = [str(site), *(p for p in sys.path if p.endswith("site-packages"))]
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", *arguments],
        cwd=site.parent,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(libraries)},
    )
    assert done.stdout.startswith("{"), done.stderr[-2000:] or done.stdout[-2000:]
    return json.loads(done.stdout)


def test_exported_types_are_known(site: Path) -> None:
    said = pyright(site, "--verifytypes", "interp", "--ignoreexternal")["typeCompleteness"]
    counts = said["exportedSymbolCounts"]
    lacking = [
        f"{symbol['name']}: {note['message'].splitlines()[0]}"
        for symbol in said["symbols"]
        if symbol["isExported"] and not symbol["isTypeKnown"]
        for note in symbol["diagnostics"][:1]
    ]
    assert counts["withKnownType"] > 5000
    assert said["completenessScore"] >= 0.99, "\n".join(lacking[:40])
    assert counts["withUnknownType"] == 0, "\n".join(lacking[:40])


RIGHT = """\
import interp
from interp.dictionaries import TrainConfig
from interp.models import zero

model = interp.load_model("folder")
acts = model.capture("text", "blocks.0.hook_resid_post", positions=-1)
edit = zero("blocks.0.hook_resid_post", positions=-1)
config = TrainConfig(steps=10)
"""
# A model's own methods hand further keywords on to the raw module, which no stub knows: those are
# refused when they run.
TYPOS = {
    "interp.load_model(": "interp.load_modle(",
    "model.capture(": "model.captur(",
    "import TrainConfig": "import TrainConfg",
    "import zero": "import zeros",
    '_post", positions=-1)\nconfig': '_post", positon=-1)\nconfig',
    "steps=10": "step=10",
}


def test_a_typo_is_an_error_in_an_editor(site: Path, tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(RIGHT)
    for i, (right, wrong) in enumerate(TYPOS.items()):
        assert right in RIGHT
        (tmp_path / f"typo{i}.py").write_text(RIGHT.replace(right, wrong))
    found = pyright(site, str(tmp_path))["generalDiagnostics"]
    wrong = {Path(d["file"]).stem for d in found if d["severity"] == "error"}
    assert wrong == {f"typo{i}" for i in range(len(TYPOS))}, found
