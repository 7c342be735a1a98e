"""F18: random command lines end in 0 or 2, with something readable, never in a traceback."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path

import pytest

from interp.cli.demo.command import Demo
from interp.cli.main import main

COMMANDS = ["demo", "lens", "models", "doctor", "report", "lnes", ""]
FLAGS = [
    "--out",
    "--overwrite",
    "--colour",
    "--color",
    "--top-k",
    "--components",
    "--device",
    "--dtype",
    "--debug",
    "--json",
    "--seed",
    "--model",
    "--help",
    "-h",
    "--version",
    "--",
    "-",
    "---",
    "-5",
    "--no-debug",
    "--n_shuffles",
    "--k=-1",
    "--k=9" * 40,
    "--out=",
    "--dtype=float8",
    "--device=",
]
VALUES = [
    "",
    " ",
    "x",
    "3",
    "-3",
    "1e309",
    "nan",
    "True",
    "None",
    "null",
    "kl",
    "entropy",
    "all",
    "cuda:99",
    "cpu",
    "float32",
    "resid",
    "nosuchmodel",
    "../..",
    "/",
    "/dev/null",
    "~",
    ".",
    "a" * 5_000,
    "{}",
    "[1,2",
    "%s%n",
    "'; drop table",
    "<script>",
    "\n",
    "\t",
    "é",
    "日本語",
    "🦊",
    "\u202e",
    "\ud800",
    "@file",
    "--=",
    "=",
    "a=b",
    "\\",
    "*",
    "$HOME",
    "interp-out",
    "café\u0301",
    "\x1b[31m",
    "0x10",
]


def random_argv(rng: random.Random) -> list[str]:
    """Half sensible: a command, then flags, values and noise in any order and number."""
    noise = "".join(chr(rng.choice((rng.randrange(1, 128), rng.randrange(0xA0, 0xD7FF)))) for _ in "...")
    pool = [*FLAGS, *VALUES, noise]
    argv = [rng.choice(pool) for _ in range(rng.randrange(8))]
    return [rng.choice(COMMANDS), *argv] if rng.random() < 0.9 else argv


def outcome(argv: list[str]) -> tuple[int, str]:
    """Exit code and everything printed; anything but a clean exit propagates."""
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            code = main(argv)
        except SystemExit as end:
            code = int(end.code or 0)
    output.flush()
    return code, output.buffer.getvalue().decode()


def test_random_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_count: bool) -> None:
    monkeypatch.chdir(tmp_path)
    demos: list[Demo] = []
    monkeypatch.setattr(Demo, "run", lambda self: demos.append(self) or 0)  # its own test runs it
    rng = random.Random(18)
    codes: dict[int, int] = {}
    for _ in range(2_000 if full_count else 200):
        argv = random_argv(rng)
        code, text = outcome(argv)
        codes[code] = codes.get(code, 0) + 1
        assert code in (0, 2), (argv, text)
        assert "Traceback" not in text or "--debug" in argv, (argv, text)
        assert code == 0 or "interp" in text, (argv, text)  # names the command to ask for help
    assert codes[0] > 5 and codes[2] > 50, codes  # the fuzz reaches both outcomes
    assert demos
