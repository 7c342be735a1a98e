"""The `interp` command: imports only the command that is asked for, turns errors into four lines.

Exit codes: 0 done, 1 a fault of ours (one line; `--debug` shows the traceback), 2 something to
correct in the request, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import sys
import textwrap
import traceback
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

from interp.cli.config import docs_of, flags_of, value_in
from interp.cli.process import finished, hold_descriptors, leave, revealing, say, signals
from interp.core.blocks import Blocks
from interp.core.errors import InterpError, Interrupted
from interp.core.foreign import reason, revealed
from interp.core.settings import check_choice
from interp.core.version import VERSION

if TYPE_CHECKING:
    from interp.cli.config import Common

COMMANDS = {
    "demo": ("interp.cli.demo.command:Demo", "From nothing to one page: the bundled model, or one of yours."),
    "lens": (
        "interp.cli.lens:Lens",
        "Read every layer with the model's own head: the logit, tuned or decoder lens.",
    ),
    "atlas": (
        "interp.cli.atlas:Atlas",
        "Map every attention head: what it looks at, which are alike, what weights alone say.",
    ),
    "neurons": ("interp.cli.neurons:Neurons", "Read every MLP neuron as tokens; no text is run."),
    "attribute": (
        "interp.cli.attribute:Attribute",
        "Which tokens made the answer, by several methods, with tests of faithfulness.",
    ),
    "circuit": (
        "interp.cli.circuit:CircuitOf",
        "Find the edges of a model that carry a task's answer, and measure circuits made of them.",
    ),
    "patch": (
        "interp.cli.patch:Patch",
        "Exchange activations between clean and corrupted prompts, one place at a time.",
    ),
    "models": (
        "interp.cli.models:Models",
        "List the bundled models, or print the map of one model: its sites and their shapes.",
    ),
    "probe": (
        "interp.cli.probe:Probe",
        "Probe every layer for labels of words (CoNLL-U, tagged text) or texts (CSV, TSV, JSON).",
    ),
    "tasks": (
        "interp.cli.tasks:Tasks",
        "Show prompts with known answers: what bundled tasks and your own files ask a model.",
    ),
    "train": (
        "interp.cli.train:Train",
        "Train dictionaries (SAEs, transcoders) on a model's activations, or on stored ones.",
    ),
    "evaluate": (
        "interp.cli.evaluate:Evaluate",
        "Evaluate dictionaries of one model on text they were not trained on.",
    ),
    "convert": (
        "interp.cli.convert:Convert",
        "Read a dictionary of any known layout and write it as another.",
    ),
    "doctor": (
        "interp.cli.doctor:Doctor",
        "Check versions, devices, memory, offline state and Chromium: for a bug report.",
    ),
}
"""Name -> where its class is, and the first line of that class's docstring: the list that
`interp --help` prints must not import twelve modules to be written."""

OPENING = """usage: interp COMMAND ...

Look inside neural networks. Offline: nothing is ever downloaded.

First: `interp demo`, then `interp lens MODEL TEXT` with a folder of your own.
"""
CLOSING = """`interp COMMAND --help` explains one; `interp --version` prints the version."""


def help_text() -> str:
    """What `interp --help` prints: every command and its line, 80 columns wide."""
    rows = [
        textwrap.fill(line, 80, initial_indent=f"  {name:<11}", subsequent_indent=" " * 13)
        for name, (_, line) in COMMANDS.items()
    ]
    return "\n".join([OPENING, "commands:", *rows, "", CLOSING])


def parse(argv: Sequence[str]) -> Common:
    """The command these arguments ask for.

    Raises:
        ConfigError: No such command; or the file named by `train --config` is wrong.
        SystemExit: 0 after `--help`, 2 after a usage error; both are already printed.
    """
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(help_text())
        raise SystemExit(0)
    check_choice("command", name[:80], COMMANDS)
    module, _, attribute = COMMANDS[name][0].partition(":")
    kind: type[Common] = getattr(import_module(module), attribute)
    rest, taken = kind.arguments(rest)
    given = kind.preset(rest)

    import tyro

    prog = f"interp {name}"
    how: dict[str, Any] = {"registry": _rule_for(taken)}
    how |= {} if given is None else {"default": given}
    said = _Held()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=rest, prog=prog, config=(tyro.conf.OmitArgPrefixes,), **how)
    except SystemExit as stop:
        ours = _cause(stop)
        if ours is None:
            sys.stderr.write(said.getvalue())
            raise
    raise ours


def _rule_for(taken: Collection[str]) -> Any:
    """How tyro builds the flags of settings with blocks: its `ConstructorRegistry`.

    Args:
        taken: Names that other options of the command have.
    """
    from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec

    registry = ConstructorRegistry()

    @registry.struct_rule
    def _(info: Any) -> StructConstructorSpec | None:
        if not (isinstance(info.type, type) and issubclass(info.type, Blocks)):
            return None
        kind = info.type
        start = info.default if isinstance(info.default, kind) else kind()
        flags = flags_of(kind, taken)
        defaults = {name: value_in(start, name) for name in flags}

        def made(**given: Any) -> Blocks:
            said = {name: value for name, value in given.items() if value != defaults[name]}
            options: dict[str, Any] = {}
            for name, value in said.items():
                block, _, inner = name.rpartition(".")
                (options.setdefault(block, {}) if block else options)[inner] = value
            return start.changed(options, "the command line")

        return StructConstructorSpec(
            instantiate=made,
            fields=tuple(
                StructFieldSpec(name, get_type_hints(owner)[inner], defaults[name], docs_of(owner)[inner])
                for name, (owner, inner) in flags.items()
            ),
        )

    return registry


class _Held(io.StringIO):
    """What would have gone to the terminal, formatted for it."""

    def isatty(self) -> bool:
        """Whether colours will be seen."""
        return sys.__stderr__ is not None and sys.__stderr__.isatty()


def _cause(stop: BaseException) -> InterpError | None:
    """The error of ours behind a usage error: tyro makes one line of what a setting refuses."""
    error: BaseException | None = stop
    while error is not None and not isinstance(error, InterpError):
        error = error.__cause__ or error.__context__
    return error


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the arguments of this process by default. Returns the exit code."""
    own_process = argv is None
    if own_process:
        hold_descriptors()
        argv = sys.argv[1:]
    try:
        with signals():
            return finished(_run(argv))
    except KeyboardInterrupt:  # in the last line
        return 130
    except Interrupted as stop:
        return stop.code
    finally:
        if own_process:
            leave()


def _run(argv: Sequence[str]) -> int:
    """Run one command line, whatever it raises; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    debug = False
    try:
        if list(argv) == ["--version"]:
            print(f"interp {VERSION}")
            return 0
        command = parse(argv)
        debug = command.debug
        with revealing():
            return command.run()
    except BrokenPipeError:  # nobody reads on; `finished` closes the stream
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            say(revealed(traceback.format_exc()).rstrip())
        return _explain(error, debug=debug)


def _explain(error: BaseException, *, debug: bool) -> int:
    """Print an error for people; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        say("interp: interrupted")
        return 130
    if isinstance(error, InterpError):
        say(f"interp: {error}")
        return error.code if isinstance(error, Interrupted) else 2
    hint = "" if debug else ", with what --debug shows"
    say(f"interp: {reason(error)} (a bug of interp: please report it{hint})")
    return 1
