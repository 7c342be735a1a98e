"""`interp doctor`: what this machine and this environment offer, in one look."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from interp.cli.config import OUT, Common
from interp.cli.places import announce
from interp.core.version import VERSION

OPTIONAL = ("kaleido", "jupyter", "jupytext", "beartype", "playwright", "pytest")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
GIB = 2**30
Facts = dict[str, dict[str, object]]


@dataclass(frozen=True, kw_only=True)
class Doctor(Common):
    """Check versions, devices, memory, offline state and Chromium: for a bug report.

    What is printed is also written: to interp-out/doctor.json.
    """

    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Examine, print, write; returns 0, or 1 if a required package is missing."""
        facts = examine()
        text = json.dumps(facts, indent=2)
        print(text if self.json else _table(facts))

        from interp.core.store import write_text

        write_text(OUT / "doctor.json", text + "\n", overwrite=True)
        if not self.json:
            announce(OUT / "doctor.json")
        missing = [name for name, found in facts["packages"].items() if found is None]
        if missing:
            print(f"missing: {', '.join(missing)}; pip install -e .", file=sys.stderr)
        return 1 if missing else 0


def examine() -> Facts:
    """Everything the command reports, as JSON values; None stands for absent."""
    from interp.models import bundled_models

    return {
        "system": {
            "interp": VERSION,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "memory_gib": _memory(),
        },
        "packages": {name: _version(name) for name in _required()},
        "optional": {name: _version(name) for name in OPTIONAL},
        "devices": _devices(),
        "offline": {
            "downloads": "only with load_model(..., allow_download=True)",
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE"),
        },
        "browser": {"chromium": _browser()},
        "models": {"bundled": list(bundled_models())},
    }


def _required() -> list[str]:
    """Names of the packages that `interp` cannot do without, from its own metadata."""
    from importlib.metadata import requires

    needed = [line for line in requires("interp") or [] if "extra ==" not in line]
    return sorted(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in needed)


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _memory() -> dict[str, float | None]:
    """Total and available memory in GiB, where the system says."""
    names = getattr(os, "sysconf_names", {})
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB if names else None
    available = None
    report = Path("/proc/meminfo")
    if report.exists():
        fields = dict(line.split(":", 1) for line in report.read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024 / GIB
    return {
        "total": None if total is None else round(total, 1),
        "available": None if available is None else round(available, 1),
    }


def _devices() -> dict[str, object]:
    """What torch can compute on; a torch that does not load is reported, not raised."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"torch": f"cannot be imported: {error}"}
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    mps = torch.backends.mps.is_available()
    return {"cpu_threads": torch.get_num_threads(), "cuda": cuda, "mps": mps}


def _browser() -> str | None:
    """The Chromium that screenshots, static images and browser tests use."""
    return os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, BROWSERS)), None)


def _table(facts: Facts) -> str:
    lines = []
    for heading, items in facts.items():
        lines.append(heading)
        lines += [f"  {key:<20} {_words(value)}" for key, value in items.items()]
    return "\n".join(lines)


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "not found" if value is None else str(value)
