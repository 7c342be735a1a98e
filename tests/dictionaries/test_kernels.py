"""Triton kernels give what the plain products give: on a GPU, or in Triton's own interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed (torch's CUDA builds bring it)", allow_module_level=True)


@pytest.mark.parametrize("what", ["equal", "compiled"])
def test_they_are_equal_on_any_shape_and_compile(what: str) -> None:
    """In a process of its own: Triton decides on import whether kernels are interpreted.

    The interpreter takes more than the compiler does, which needs no GPU to refuse.
    """
    interpreted = what == "equal" and not torch.cuda.is_available()
    ran = subprocess.run(
        [sys.executable, "-m", "tests.dictionaries.kernel_cases", what],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | ({"TRITON_INTERPRET": "1"} if interpreted else {}),
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split()[-1] == what
