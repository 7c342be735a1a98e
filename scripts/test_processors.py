"""Run the push suite as other processors would: by instruction set and by number of threads.

    python scripts/test_processors.py [--only LEVEL[-THREADS] ...] [--busy N] [-n WORKERS]
                                      [--notebooks] [-- PYTEST ARGUMENTS ...]

MKL, ATen and oneDNN each choose kernels by what the processor can do, and each can be told to do
with less. The three go together: a machine without AVX-512 has it nowhere. Each level runs with
one thread and with two, which sum in other orders. The failures of every combination are listed
at the end; any makes the exit status 1.

Browser tests do not run: what Chromium draws is not torch's arithmetic. Notebooks run with
`--notebooks` only: each is a kernel of its own that executes what the suite tests already, and six
times that is most of an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
SWITCHES = ("MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
LEVELS: dict[str, tuple[str, ...]] = {
    "default": (),
    "avx2": ("AVX2", "avx2", "AVX2"),
    "sse4.2": ("SSE4_2", "default", "SSE41"),
}
"""What each library is told, in the order of SWITCHES; nothing at the machine's own level."""
TOOK_EFFECT = {"avx2": "AVX2", "sse4.2": "DEFAULT"}
"""What ATen then says of itself."""
THREADS = (1, 2)
PROBE = (
    "import json, torch; print(json.dumps("
    "[torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]))"
)


def combinations(only: list[str]) -> list[tuple[str, int]]:
    """All levels and thread counts, or those named: `avx2`, `avx2-1`."""
    every = [(level, threads) for level in LEVELS for threads in THREADS]
    chosen = [c for c in every if not only or {c[0], f"{c[0]}-{c[1]}"} & set(only)]
    known = {*LEVELS, *(f"{level}-{threads}" for level, threads in every)}
    unknown = sorted(set(only) - known)
    if unknown:
        raise SystemExit(f"no combination {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return chosen


def environment(level: str, threads: int) -> dict[str, str]:
    """The environment of one combination."""
    plain = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    told = dict(zip(SWITCHES, LEVELS[level], strict=False))
    # Threads that wait without spinning: with more of them than cores, spinning takes all the time.
    calm = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    return plain | told | calm


def probe(level: str, threads: int) -> str:
    """What torch makes of the environment; ends the program if that is not what was asked for."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        env=environment(level, threads),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    capability, n = json.loads(done.stdout)
    if n != threads or capability != TOOK_EFFECT.get(level, capability):
        raise SystemExit(f"{level} with {threads} thread(s): torch has {capability} with {n}")
    return capability


@contextmanager
def beside(n: int) -> Iterator[None]:
    """`n` processes that keep a core each busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def failures(report: Path) -> list[str]:
    """Tests that failed or broke, of a JUnit file."""
    return [
        f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        for case in ElementTree.parse(report).iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]


def run(level: str, threads: int, options: argparse.Namespace, report: Path) -> list[str]:
    """One combination; what failed."""
    left_out = "not browser" if options.notebooks else "not browser and not notebook"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        left_out,
        "-n",
        str(options.n),
        f"--junitxml={report}",
        *options.pytest,
    ]
    done = subprocess.run(command, env=environment(level, threads), cwd=ROOT)
    failed = failures(report) if report.exists() else []
    if done.returncode and not failed:
        failed = [f"pytest ended with {done.returncode}"]
    return failed


def parse(argv: list[str]) -> argparse.Namespace:
    """The options above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], help="levels or level-threads to run")
    parser.add_argument("--busy", type=int, default=0, help="busy processes to run beside")
    parser.add_argument("-n", type=int, default=2, help="processes of pytest-xdist")
    parser.add_argument("--notebooks", action="store_true", help="execute the notebooks too")
    parser.add_argument("pytest", nargs="*", help="after --: arguments for pytest")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run what was asked for; the exit status."""
    options = parse(argv)
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder, beside(options.busy):
        for level, threads in combinations(options.only):
            name = f"{level}, {threads} thread{'s' * (threads > 1)}"
            print(f"== {name} (ATen: {probe(level, threads)})", flush=True)
            report = Path(folder) / f"{level}-{threads}.xml"
            found[name] = run(level, threads, options, report)
    print("\n== failures by combination")
    for name, failed in found.items():
        print(f"{name}: {len(failed) or 'none'}")
        for test in failed:
            print(f"    {test}")
    return int(any(found.values()))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
