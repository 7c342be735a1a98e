"""The command as a user meets it: exit codes, four-line errors, no traceback unless asked."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import pkgutil
import subprocess
import sys
import textwrap
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import interp.cli
from interp import __version__
from interp.cli import main as cli
from interp.cli.config import Common, Written
from interp.cli.doctor import Doctor
from interp.core.errors import Interrupted, SiteError


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `interp doctor` raise this."""

    def run(self: Doctor) -> int:
        raise error

    monkeypatch.setattr(Doctor, "run", run)


def test_an_interp_error_is_its_four_lines_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, SiteError("no such site", got="hook_q", expected="a site", fix="hook_z"))
    assert cli.main(["doctor"]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "interp: no such site",
        "  got: hook_q",
        "  expected: a site",
        "  fix: hook_z",
    ]
    assert captured.out == ""


def test_a_fault_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, RuntimeError("first line\nsecond line"))
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "RuntimeError: first line second line" in text
    assert "--debug" in text


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (Interrupted("stopped at step 7"), 130)])
def test_an_interruption_has_its_own_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    failing(monkeypatch, error)
    assert cli.main(["doctor"]) == code


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, RuntimeError("inner"))
    assert cli.main(["doctor", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, says",
    [
        (["lens"], "MODEL"),
        (["lens", "a", "b", "--colur", "kl"], "--colour"),  # did you mean
        (["lens", "a", "b", "--k", "many"], "INT"),
        (["lens", "a", "b", "--dtype", "float8"], "bfloat16"),
        (["demo", "--out"], "--out"),
    ],
)
def test_usage_errors_say_what_was_meant_and_exit_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--help"], [], ["lens", "--help"], ["demo", "-h"]])
def test_help_exits_0_and_every_option_is_explained(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 0
    assert "interp" in capsys.readouterr().out


def class_of(command: str) -> type[Common]:
    """The class behind a command's name."""
    module, _, attribute = cli.COMMANDS[command][0].partition(":")
    return getattr(import_module(module), attribute)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_list_of_commands_says_what_each_class_says(command: str) -> None:
    assert cli.COMMANDS[command][1] == (class_of(command).__doc__ or "").splitlines()[0]


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for module in pkgutil.walk_packages(interp.cli.__path__, "interp.cli."):
        import_module(module.name)
    every = {kind for base in (Common, Written) for kind in base.__subclasses__()} - {Written}
    assert every == {class_of(command) for command in cli.COMMANDS}
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in cli.COMMANDS)
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize(
    ("argv", "says"), [(["lnes", "a"], "did you mean 'lens'"), (["--out", "lens"], "--out"), ([""], "demo")]
)
def test_the_first_word_must_be_a_command(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_of_every_command_has_its_line(command: str) -> None:
    config = class_of(command)
    explained: set[str] = set()
    for kind in config.__mro__:
        if kind is not object:
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
            statements = body.body  # type: ignore[attr-defined]
            explained |= {
                first.target.id
                for first, second in pairwise(statements)
                if isinstance(first, ast.AnnAssign) and isinstance(second, ast.Expr)
            }
    for field in dataclasses.fields(config):
        # A nested configuration explains its own fields.
        assert field.name in explained or dataclasses.is_dataclass(field.default_factory), field


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"interp {__version__}\n"


def run(*argv: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "interp", *argv]
    return subprocess.run(command, capture_output=True, cwd=cwd, env=os.environ | environment)


def test_the_installed_command_runs_this_package(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "interp"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == f"interp {__version__}\n"


def test_a_terminal_without_unicode_is_no_error(tmp_path: Path) -> None:
    done = run("models", "caf\u00e9-\U0001f98a", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert b"caf\\xe9" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m interp doctor | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
