"""`interp` as a process on a clumsy machine: one line or a clean stop, and nothing lost.

Signals arrive when the process shows that it has begun (a file it has written, a line it has
printed), never after a fixed time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from interp.core import store
from tests.activations.toys import checkpoints

ROOT = Path(__file__).parents[2]
TEXT = "Mary gave a book to John"


def command(*words: str, python: Sequence[str] = ()) -> list[str]:
    return [sys.executable, *python, "-m", "interp", *words]


def environment(**changes: str | None) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    made = {**os.environ, "PYTHONPATH": path} | changes
    return {key: value for key, value in made.items() if value is not None}


def lens(out: Path) -> list[str]:
    return ["lens", "tiny-grammar", TEXT, "--out", str(out)]


def ran(words: list[str], cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    options = {"env": environment(), **options}
    return subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, errors="replace", check=False, timeout=300, **options
    )  # type: ignore[call-overload]


def require_clean(text: str) -> None:
    """No traceback, no half sentence of the interpreter's own."""
    for sign in ("Traceback", "Exception ignored", "Fatal Python", "most recent call"):
        assert sign not in text, text


ALL = "no HOME, -O, -W error, a random hash seed, a locale without UTF-8"
WEATHERS: dict[str, tuple[list[str], dict[str, str | None]]] = {
    ALL: (
        ["-O", "-W", "error"],
        {
            "HOME": None,
            "XDG_CACHE_HOME": None,
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONHASHSEED": "random",
        },
    ),
    "no HOME, -O": (["-O"], {"HOME": None, "XDG_CACHE_HOME": None}),
    "a HOME that is not there, a locale without UTF-8": (
        [],
        {"HOME": "/nonexistent", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ),
    "-W error, a random hash seed": (["-W", "error"], {"PYTHONHASHSEED": "random"}),
    "Latin-1 streams": ([], {"PYTHONIOENCODING": "latin-1"}),
}


EACH = [ALL, *(pytest.param(name, marks=pytest.mark.full) for name in WEATHERS if name != ALL)]


@pytest.mark.parametrize("name", EACH)
def test_the_same_page_in_every_weather(name: str, tmp_path: Path) -> None:
    python, changes = WEATHERS[name]
    done = ran(command(*lens(tmp_path / "out"), python=python), tmp_path, env=environment(**changes))
    require_clean(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr
    assert {"report.html", "report.json"} <= {p.name for p in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("name", EACH)
def test_one_error_in_every_weather(name: str, tmp_path: Path) -> None:
    python, changes = WEATHERS[name]
    done = ran(command("tasks", "caf\u00e9\u202e.json", python=python), tmp_path, env=environment(**changes))
    require_clean(done.stdout + done.stderr)
    assert done.returncode == 2
    assert done.stderr.startswith("interp: ") and "\u202e" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [["--version"], *(pytest.param([w], marks=pytest.mark.full) for w in ("models", "--help", "tasks"))],
)
def test_a_full_standard_output(words: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(*words),
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            text=True,
            stderr=subprocess.PIPE,
            check=False,
            timeout=300,
        )
    require_clean(done.stderr)
    assert done.returncode in (1, 2) and "No space left" in done.stderr


@pytest.mark.parametrize("closed", [(0, 1, 2), *(pytest.param((n,), marks=pytest.mark.full) for n in (1, 2))])
def test_closed_streams(closed: tuple[int, ...], tmp_path: Path) -> None:
    """No file that the command writes may become its standard output."""
    shut = " ".join(f"{number}>&-" for number in closed)
    shell = f'exec "$@" {shut}'
    done = ran(["sh", "-c", shell, "sh", *command(*lens(tmp_path / "out"))], tmp_path)
    require_clean(done.stdout + done.stderr)
    assert done.returncode == 0
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert page.lstrip().lower().startswith("<!doctype") and page.rstrip().endswith("</html>")


@pytest.mark.full
def test_a_reader_that_leaves(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("models", "tiny-grammar"),
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    require_clean(said)
    assert process.wait(300) in (0, 1)


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    place = Path("/proc/interp") if Path("/proc").is_dir() else Path("/dev/null/interp")
    done = ran(command(*lens(place)), tmp_path)
    require_clean(done.stdout + done.stderr)
    assert done.returncode == 2 and str(place) in done.stderr


@pytest.mark.full
def test_a_disk_that_fills(tmp_path: Path) -> None:
    """Files may grow to 20 KB: the page does not fit, and nothing of it stays."""
    words = " ".join(f"'{word}'" for word in command(*lens(tmp_path / "out")))
    done = ran(["bash", "-c", f"trap '' XFSZ; ulimit -f 20; exec {words}"], tmp_path)
    require_clean(done.stdout + done.stderr)
    assert done.returncode == 2 and "cannot write" in done.stderr
    left = {p.name for p in (tmp_path / "out").iterdir()} if (tmp_path / "out").exists() else set()
    assert not left & {"report.html", "report.json"}


# ------------------------------------------------------------------ signals


def training(tmp_path: Path) -> list[str]:
    (tmp_path / "text.txt").write_text((TEXT + "\n\n") * 200)
    settings = (
        "model: tiny-grammar\ndata: text.txt\nsite: blocks.1.hook_resid_post\nd_sae: 64\nk: 4\n"
        "steps: 100000\nbatch_size: 64\nout: run\nlog_every: 1\n"
    )
    (tmp_path / "run.yaml").write_text(settings)
    return command("train", "--config", "run.yaml")


def begun(process: subprocess.Popen[str], run: Path) -> None:
    """The training has made steps: its log grows."""
    log, deadline = run / "metrics.jsonl", time.monotonic() + 240
    while not log.exists() or log.stat().st_size < 2_000:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def listening() -> None:
    """In a child: the suite itself may run under nohup, and then everybody ignores SIGHUP."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


@pytest.mark.parametrize(
    ("signals", "codes"),
    [
        ([signal.SIGHUP], {129}),
        pytest.param([signal.SIGINT, signal.SIGINT], {130, -signal.SIGINT}, marks=pytest.mark.full),
        pytest.param([signal.SIGTERM, signal.SIGHUP], {129, 143, -signal.SIGHUP}, marks=pytest.mark.full),
    ],
    ids=["SIGHUP", "SIGINT twice", "SIGTERM and SIGHUP"],
)
def test_a_training_that_is_stopped(signals: list[signal.Signals], codes: set[int], tmp_path: Path) -> None:
    process = subprocess.Popen(
        training(tmp_path),
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=listening,
    )
    begun(process, tmp_path / "run")
    for number in signals:
        process.send_signal(number)
    out, said = process.communicate(timeout=240)
    require_clean(out + said)
    assert process.returncode in codes, (process.returncode, said)
    if len(signals) == 1:
        (reached,) = checkpoints(tmp_path / "run")[-1:]
        assert reached > 0
    for step in checkpoints(tmp_path / "run"):  # whole, each of them
        store.open_artefact(tmp_path / "run" / "checkpoints" / f"step_{step}")


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_page_that_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    """Signals at moments spread over the whole run, told by what it costs here and now."""
    began = time.monotonic()
    assert ran(command(*lens(tmp_path / "whole")), tmp_path).returncode == 0
    whole = time.monotonic() - began
    tries = 12
    for attempt in range(tries):
        out = tmp_path / str(attempt)
        process = subprocess.Popen(
            command(*lens(out)),
            cwd=tmp_path,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=listening,
        )
        try:
            said = process.communicate(timeout=whole * (0.3 + 0.6 * attempt / tries))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            if number is signal.SIGINT and attempt % 2:
                process.send_signal(number)
            said = process.communicate(timeout=240)
        require_clean(said[0] + said[1])
        left = {p.name for p in out.iterdir()} if out.exists() else set()
        assert ("report.html" in left) == ("report.json" in left)


@pytest.mark.full
def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    """nohup: the training goes on."""
    words = " ".join(f"'{word}'" for word in training(tmp_path))
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' HUP; exec {words}"],
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    begun(process, tmp_path / "run")
    process.send_signal(signal.SIGHUP)
    log = tmp_path / "run" / "metrics.jsonl"
    size, deadline = log.stat().st_size, time.monotonic() + 120
    while log.stat().st_size < size + 1_000:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=240)
    require_clean(out + said)
    assert process.returncode == 143
