"""The `interp` command: parses without torch, runs one command, turns errors into four lines.

Exit codes: 0 done, 1 a fault of ours (one line; `--debug` shows the traceback), 2 something to
correct in the request, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import tyro

from interp.cli.atlas import Atlas
from interp.cli.attribute import Attribute
from interp.cli.convert import Convert
from interp.cli.demo.command import Demo
from interp.cli.doctor import Doctor
from interp.cli.evaluate import Evaluate
from interp.cli.lens import Lens
from interp.cli.models import Models
from interp.cli.neurons import Neurons
from interp.cli.probe import Probe
from interp.cli.tasks import Tasks
from interp.cli.train import Train, preset
from interp.core.errors import InterpError, Interrupted
from interp.core.version import VERSION

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Lens, tyro.conf.subcommand("lens")]
    | Annotated[Atlas, tyro.conf.subcommand("atlas")]
    | Annotated[Neurons, tyro.conf.subcommand("neurons")]
    | Annotated[Attribute, tyro.conf.subcommand("attribute")]
    | Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Probe, tyro.conf.subcommand("probe")]
    | Annotated[Tasks, tyro.conf.subcommand("tasks")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)
_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes)
DESCRIPTION = (
    "Look inside neural networks. Offline: nothing is ever downloaded.\n\n"
    "First: `interp demo`, then `interp lens MODEL TEXT` with a folder of your own."
)


def parse(
    argv: Sequence[str],
) -> (
    Demo | Lens | Atlas | Neurons | Attribute | Models | Probe | Tasks | Train | Evaluate | Convert
    | Doctor
):  # fmt: skip
    """The command these arguments ask for.

    Raises:
        SystemExit: 0 after `--help`, 2 after a usage error; both are already printed.
    """
    try:
        given = preset(argv)
    except InterpError as error:
        raise SystemExit(_explain(error, debug=False)) from error
    ask = partial(tyro.cli, Command, args=argv, prog="interp", description=DESCRIPTION)
    return ask(config=_STYLE) if given is None else ask(config=_STYLE, default=given)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the arguments of this process by default. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    if list(argv) == ["--version"]:
        print(f"interp {VERSION}")
        return 0
    command = parse(argv or ["--help"])
    try:
        return command.run()
    except BrokenPipeError:  # `interp models | head`: nobody reads on
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.close()
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if command.debug:
            traceback.print_exc()
        return _explain(error, debug=command.debug)


def _explain(error: BaseException, *, debug: bool) -> int:
    """Print an error for people; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        print("interp: interrupted", file=sys.stderr)
        return 130
    if isinstance(error, InterpError):
        print(f"interp: {error}", file=sys.stderr)
        return error.code if isinstance(error, Interrupted) else 2
    summary = " ".join(str(error).split())[:300]
    hint = "" if debug else " (the whole story: add --debug)"
    print(f"interp: {type(error).__name__}: {summary}{hint}", file=sys.stderr)
    return 1
