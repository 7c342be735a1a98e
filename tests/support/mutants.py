# ruff: noqa: E501 - a mutant is one line
"""Take the mending lines of a fault out, one at a time, and see which test says so.

    python -m tests.support.mutants          # every mutant, about 30 s each
    python -m tests.support.mutants 7 18     # those of two rows of the fault book

Each file is put back whatever happens. The table of tests/models/FAULTS.md was made with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODELS = "interp/models/"
PROGRAMS = "tests/models/test_programs.py"
THREADS = "tests/models/test_threads.py"
ADAPTERS = "tests/models/test_adapters.py"
ANY = "tests/models/test_any_module.py"
DOOR = "tests/models/test_door.py"
GUESTS = "tests/models/test_guests.py"
IDENTITY = "tests/models/test_identity.py"
PASSES = "tests/models/test_passes.py"
POSITIONS = "tests/models/test_positions.py"

MUTANTS: list[tuple[str, str, str, str, str]] = [
    (
        "1 in place",
        "hooks/taps.py",
        "        if version >= 0 and own._version != version:\n            return own\n        return None if _same(own, value) else own",
        "        return None",
        "p",
    ),
    ("1 .data", "hooks/taps.py", "return None if _same(own, value) else own", "return None", "p"),
    (
        "2",
        "hooks/passes.py",
        "runs = here.runs[start:]",
        "runs = [r for r in here.runs[start:] if not r.passes]",
        "p",
    ),
    (
        "3",
        "hooks/sides.py",
        "return Side(batch, length, cached, mask)",
        "return Side(batch, length, cached)",
        "p",
    ),
    (
        "4",
        "text/inputs.py",
        "self._mask(ready, mask, ids.shape, cached)\n        ids =",
        "ready.mask = None\n        ids =",
        "p",
    ),
    (
        "5",
        "hooks/sides.py",
        "        return found\n    if found.dtype == torch.bool or",
        "        return found.long()\n    if found.dtype == torch.bool or",
        "p",
    ),
    (
        "6",
        "text/inputs.py",
        "        check_keywords(extra, self.accepted, known, self.where, elsewhere)\n        given = {k",
        "        extra = {k: v for k, v in extra.items() if k in self.accepted}\n        given = {k",
        DOOR,
    ),
    (
        "7",
        "hooks/passes.py",
        "        for splice in splices:\n            splice.attach(self)",
        "        for splice in [s for run in self.runs for s in run.splices]:\n            splice.attach(self)",
        "p",
    ),
    (
        "8",
        "identity.py",
        "return _spliced(fresh, model, lambda coder: _moved_coder(coder, target))",
        "return fresh",
        IDENTITY,
    ),
    (
        "9",
        "identity.py",
        "module = _copied(model.module, memo)",
        "module = copy.copy(model.module)",
        IDENTITY,
    ),
    ("10", "identity.py", "held is not None and held[0] == key", "held is not None", IDENTITY),
    (
        "11",
        "generation.py",
        "return TokenBatch(ids.gather(1, order), ready.mask.gather(1, order)), order",
        "return TokenBatch(ids, ready.mask), None",
        "p",
    ),
    (
        "12 beams",
        "hooks/sides.py",
        "if self.given and len(choice) == self.given",
        "if False and len(choice) == self.given",
        "p",
    ),
    (
        "12 masks",
        "generation.py",
        "run.given, run.order = len(batch), order",
        "run.given, run.order = len(batch), None",
        "p",
    ),
    (
        "13",
        "hooks/passes.py",
        "return replace(found, prompt=prompt, later=self.step > 0, given=run.given, order=order)",
        "return found if self.step else replace(found, prompt=prompt, given=run.given, order=order)",
        "p",
    ),
    ("14", "hooks/passes.py", "seen.uses_cache", "False", "p"),
    (
        "15",
        "hooks/passes.py",
        "found = self.seen.decoder if decoder else self.seen.encoder",
        "found = self.seen.encoder",
        "p",
    ),
    (
        "16 offset",
        "text/inputs.py",
        "position_ids(full, cached) + self.position_offset",
        "position_ids(full, cached)",
        DOOR,
    ),
    ("16 proof", "padding.py", "        vars(intake.padding).update(vars(best) | known)\n", "", DOOR),
    ("17", "hooks/taps.py", "        self.owner.refuse_recomputed(self)\n", "", PASSES),
    (
        "18 hooks",
        "hooks/passes.py",
        "return self.live and self.thread == threading.get_ident()",
        "return self.live",
        "t",
    ),
    (
        "18 attention",
        "hooks/attention.py",
        "return NAME if id(self) in _here.switched else own",
        "return NAME",
        "t",
    ),
    ("18 small", "small/layers.py", "owner is None or owner.here for owner", "True for owner", "t"),
    ("19", "hooks/installers.py", "module._forward_hooks.move_to_end(key)", "pass", PASSES),
    (
        "20",
        "hooks/taps.py",
        "        own = value.clone()\n        version",
        "        own = value\n        version",
        "p",
    ),
    (
        "21",
        "adapters/effective.py",
        "    if is_adapted(module):\n        return _without_adapter(module)\n",
        "",
        ADAPTERS,
    ),
    ("22", "hooks/passes.py", "            if self.evaluating:", "            if False:", "p"),
    (
        "23 cap",
        "adapters/guest.py",
        "return torch.tanh(logits / cap) * cap if cap else logits",
        "return logits",
        GUESTS,
    ),
    ("23 repeated", "adapters/guest.py", "        if times == 1:", "        if times:", GUESTS),
    ("23 groups", "adapters/guest.py", 'getattr(part, f"_{name}", None)', "None", GUESTS),
    (
        "24 second of a pair",
        "hooks/installers.py",
        "raw = tensor_at(output, path)",
        'raw = tensor_at(output, "")',
        "p",
    ),
    ("25 context", "text/batch.py", "if n_ctx is not None and ids.shape[-1] > n_ctx:", "if False:", DOOR),
    ("25 unknown words", "text/reading.py", "if unk is None or", "if unk is not None or", DOOR),
    ("26 a hook that runs the model", "hooks/passes.py", "start = inner.depth", "start = 0", "p"),
    ("27", "outputs.py", '[n for n in names if n.endswith("_embeds")],', "[],", POSITIONS),
    ("28", "adapters/adapter.py", "if crossed and family.cross is not None:", "if False:", ANY),
    ("29", "hooks/interventions.py", '    if "channel" in axes:\n', "    if False:\n", ANY),
    ("30", "running.py", "sweep=how.sweep and not self.adapter.exact_once", "sweep=False", ANY),
    (
        "31 causal",
        "adapters/huggingface.py",
        'causal = family.causal or bool(getattr(config, "is_decoder", False))',
        "causal = family.causal",
        ANY,
    ),
    (
        "31 post-norm residual",
        "adapters/proof.py",
        "            model.adapter.refused[site] = reason\n",
        "            pass\n",
        ANY,
    ),
    (
        "order",
        "hooks/passes.py",
        "for run in self.runs:\n            for request",
        "for run in reversed(self.runs):\n            for request",
        "p",
    ),
    ("error term", "hooks/splice.py", ").detach()", ")", "p"),
    (
        "latents of two views",
        "hooks/passes.py",
        "run.waiting -= run.requests.get(tap.name) in tap.requests",
        "run.waiting -= tap.name in run.requests",
        "p",
    ),
    ("rotated keys", "hooks/taps.py", 'self.site.slot == "rot_k":', "False:", "p"),
    ("config restored", "hooks/attention.py", "config.__class__ = type(config).__mro__[1]", "pass", "p"),
]
"""Row of the fault book, file, mending line, what stands there instead, and who should see it:
p = programs, t = threads, otherwise a test file."""

FIND = """
import sys, warnings; warnings.filterwarnings("ignore")
import torch, transformers, hypothesis
from hypothesis import HealthCheck, Phase, given, settings
torch.set_num_threads(1); transformers.logging.set_verbosity_error()
from tests.models.program.play import play
from tests.models.program.programs import programs
from tests.models.program.subjects import EXACT, each, subject
count = [0]
def find(seed, name):
    @hypothesis.seed(seed)
    @settings(max_examples=each(name), database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck), report_multiple_bugs=False)
    @given(programs(name))
    def run(program):
        count[0] += 1
        try:
            play(program)
        except BaseException as error:
            sys.stdout.write(f"program {count[0]} ({program.name}): {error}"[:200].split("\\n")[0])
            sys.stdout.flush()
            import os; os._exit(1)
    run()
for seed, name in enumerate(EXACT, 1):
    subject(name)
    find(seed, name)
"""


def tried(file: str, old: str, new: str, who: str) -> str:
    """What the test says of one mutant; empty when it notices nothing."""
    path = ROOT / MODELS / file
    text = path.read_text()
    if text.count(old) < 1:
        raise SystemExit(f"{file} has no such line: this table is out of date\n{old}")
    path.write_text(text.replace(old, new, 1))
    tests = THREADS if who == "t" else who
    command = ["-c", FIND] if who == "p" else ["-m", "pytest", "-qx", "-n0", tests, "--tb=no"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=environment
        )
    finally:
        path.write_text(text)
    if not done.returncode:
        return ""
    said = done.stdout.strip() or done.stderr.strip() or f"exit status {done.returncode}"
    return said.splitlines()[-1][:200]


def main(rows: list[str]) -> int:
    """Print one line per mutant; 1 if any went unnoticed."""
    unnoticed = 0
    for row, file, old, new, who in MUTANTS:
        if rows and row.split()[0] not in rows:
            continue
        said = tried(file, old, new, who)
        unnoticed += not said
        sys.stdout.write(f"{row:32} {'found: ' + said if said else 'NOT FOUND'}\n")
        sys.stdout.flush()
    return int(bool(unnoticed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
