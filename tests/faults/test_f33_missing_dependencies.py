"""F33: what is not installed is missed only where it is used, in one line with its cure."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.architecture.source import ROOT, modules
from tests.architecture.test_rooms import STOREY

PICTURES = STOREY["plotting"]
EVERYTHING_BUT_CORE = (
    "captum",
    "plotly",
    "sae_lens",
    "transformer_lens",
    "pandas",
    "transformers",
    "sklearn",
    "scipy",
    "jinja2",
    "tqdm",
    "yaml",
    "tyro",
    "datasets",
    "matplotlib",
    "wandb",
    "kaleido",
    "IPython",
)
OPTIONAL = ("captum", "plotly", "sae_lens", "transformer_lens", "pandas", "kaleido", "datasets")


def child(
    code: str, absent: tuple[str, ...], *args: str, timeout: int = 900
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process where these packages are not installed."""
    environment = os.environ | {"INTERP_TEST_ABSENT": ",".join(absent)}
    command = [sys.executable, *(args or ("-c", code))]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=timeout)


def test_the_blocker_blocks() -> None:
    done = child("import plotly.graph_objects", ("plotly",))
    assert done.returncode == 1
    assert "No module named 'plotly" in done.stderr


def test_core_imports_with_torch_numpy_and_safetensors_only() -> None:
    names = [module.name for module in modules().values() if module.room == "core"]
    done = child(f"import importlib; [importlib.import_module(n) for n in {names}]", EVERYTHING_BUT_CORE)
    assert done.returncode == 0, done.stderr


ENGINES = "interp.attribution.methods.engines"
"""Captum's methods, imported when one of them is asked for."""


def test_a_missing_engine_is_named_with_its_cure() -> None:
    code = """
from interp.attribution.methods.table import engine_of
from interp.core.errors import MissingDependency
engine_of("integrated_gradients")
try:
    engine_of("captum_deeplift")
except MissingDependency as error:
    print(error)
"""
    done = child(code, ("captum",))
    assert done.returncode == 0, done.stderr
    assert "captum_deeplift" in done.stdout
    assert "pip install captum" in done.stdout


def test_rooms_below_the_pictures_import_without_optional_packages() -> None:
    below = [m.name for m in modules().values() if m.room and STOREY[m.room] < PICTURES]
    names = [name for name in below if name != ENGINES]
    done = child(f"import importlib; [importlib.import_module(n) for n in {names}]", OPTIONAL)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("absent, use", [("plotly", "result.plot()"), ("pandas", "result.to_frame()")])
def test_a_missing_package_is_named_with_its_cure(absent: str, use: str) -> None:
    code = f"""
import interp, torch
from dataclasses import dataclass
from jaxtyping import Float
from torch import Tensor
from interp.core.errors import MissingDependency
from interp.core.result import Result

@dataclass(frozen=True, kw_only=True, eq=False)
class Probe(Result):
    scores: Float[Tensor, "layer head"]

result = Probe(scores=torch.zeros(2, 3))
try:
    {use}
except MissingDependency as error:
    print(error)
"""
    done = child(code, (absent,))
    assert done.returncode == 0, done.stderr
    assert absent in done.stdout
    assert "pip install" in done.stdout


@pytest.mark.full
def test_core_tests_pass_without_the_rest() -> None:
    # to_frame needs pandas, and pytest its own needs; comparisons with an oracle need the oracle.
    absent = tuple(name for name in EVERYTHING_BUT_CORE if name not in ("pandas", "IPython"))
    alone = ("-k", "not transformer_lens", "tests/core")
    done = child("", absent, "-m", "pytest", "-q", "-x", *alone, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 400
