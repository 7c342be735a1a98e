"""`docs/families.md` is what the library does: every family, its sites, and what refuses it.

`python -m tests.docs.test_families_page` writes the page anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.core.errors import InterpError
from interp.lenses import head_atlas, neuron_atlas
from tests.models import kinds, zoo
from tests.models.kinds import FULL
from tests.models.test_open_stacks import given

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
OLD = [n for n in (*zoo.MAKERS, *zoo.UNREACHED) if "-" not in n or n == "gpt-neo"]
NAMES = [*OLD, *kinds.FIRST, *kinds.named(kinds.MORE, False), "siglip:text", "clip:text", "clip:both"]
PUSH = ["gpt2", "mpt", "gemma:tied", "mixtral:top-2", "gpt-oss:sinks", "albert:shared", "m2m-100:scaled"]
SITES = {
    "stream": ("hook_resid_pre", "hook_resid_post"),
    "mid": ("hook_resid_mid",),
    "outputs": ("hook_attn_out", "hook_mlp_out"),
    "q k v": ("hook_q", "hook_k", "hook_v"),
    "pattern": ("hook_attn_scores", "hook_pattern"),
    "z": ("hook_z",),
    "result": ("hook_result",),
    "neurons": ("hook_pre", "hook_post"),
    "experts": ("hook_router_scores", "hook_expert_result"),
    "mixer": ("hook_mixer_out", "hook_y"),
}
ANALYSES: dict[str, Callable[[interp.HookedModel, Any], Any]] = {
    "logit lens": lambda m, x: interp.logit_lens(m, x),
    "DLA": lambda m, x: interp.direct_logit_attribution(m, x),
    "fold": lambda m, x: interp.fold(m),
    "head atlas": lambda m, x: head_atlas(m, x),
    "neuron atlas": lambda m, x: neuron_atlas(m),
    "generate": lambda m, x: m.generate(_prompt(x), max_new_tokens=2),
    "attribute": lambda m, x: interp.attribute(m, x, 3, method="gradient_x_input"),
}


def _prompt(x: Any) -> Any:
    """What an encoder reads: the text itself begins with the model's own start."""
    rest = {k: v for k, v in x.items() if k != "decoder_input_ids"} if isinstance(x, dict) else x
    return rest["input_ids"] if list(rest) == ["input_ids"] else rest


HEAD = """# Families

Every architecture with named sites, and what works on it. This page is written by
`tests/docs/test_families_page.py` from tiny random models, one variant of each; what is not offered
says why, before anything runs. A number points to the reason below the tables. Sites are those of
`sites.md`: every one in a cell must be there for its +. Any other model has sites by module path.

"""


def kind_of(name: str) -> str:
    first = name in (*kinds.FIRST, *kinds.named(kinds.MORE, False))
    return name.partition(":")[0] if first else name.replace(":", " ")


def row(name: str) -> tuple[str, list[str], list[str]]:
    """(family, cells of its sites, cells of what works: "+" or the reason)."""
    raw = zoo.make(name) if name in OLD else kinds.make(name)
    model = interp.wrap(raw)
    inputs = zoo.inputs(raw) if name in OLD else given(raw, torch.float32)
    one: Any = {k: v[:1] for k, v in inputs.items()}
    one = one["input_ids"] if list(one) == ["input_ids"] else one
    there = {s.rpartition(".")[2] for s in (*model.sites, *model.sites.unlisted)}
    refused = {s.rpartition(".")[2]: why for s, why in model.sites.refused.items()}
    sites = []
    for wanted in SITES.values():
        missing = [s for s in wanted if s not in there]
        said = next((refused[s] for s in missing if s in refused), "")
        sites.append(said if missing else "+")
    done = []
    for run in ANALYSES.values():
        try:
            run(model, one)
            done.append("+")
        except InterpError as error:  # anything else is a fault
            assert "something else" not in str(error), (name, error)
            done.append(_reason(error, model))
    return f"{kind_of(name)} ({type(raw).__name__})", sites, done


def _reason(error: InterpError, model: interp.HookedModel) -> str:
    first = str(error).splitlines()[0]
    got = next((line.strip() for line in str(error).splitlines() if "got:" in line), "")
    name = model.cfg.model_name
    first = first.replace(name, "the model")
    return f"{first} ({got})" if first.endswith("no sum of its parts") and name not in got else first


def table(title: str, columns: list[str], rows: list[tuple[str, list[str]]], reasons: list[str]) -> str:
    lines = [f"| {title} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, cells in rows:
        shown = []
        for cell in cells:
            if cell not in ("+", "") and cell not in reasons:
                reasons.append(cell)
            shown.append(cell if cell in ("+", "") else str(reasons.index(cell) + 1))
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def page(rows: list[tuple[str, list[str], list[str]]]) -> str:
    reasons: list[str] = []
    first = table("sites", list(SITES), [(n, s) for n, s, _ in rows], reasons)
    second = table("what works", list(ANALYSES), [(n, d) for n, _, d in rows], reasons)
    said = "\n".join(f"{i}. {why}" for i, why in enumerate(reasons, 1))
    return f"{HEAD}{first}\n{second}\n{said}\n"


def read() -> dict[str, tuple[list[str], list[str]]]:
    """The page's rows, numbers replaced by the reasons they point to."""
    text = PAGE.read_text(encoding="utf-8")
    reasons = dict(line.split(". ", 1) for line in text.splitlines() if line[:1].isdigit())
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and "(" in cells[0]:
            found.setdefault(cells[0], []).append([reasons.get(cell, cell) for cell in cells[1:]])
    return {name: (both[0], both[1]) for name, both in found.items()}


@pytest.mark.parametrize("name", NAMES if FULL else PUSH)
def test_the_page_says_what_a_family_does(name: str) -> None:
    family, sites, done = row(name)
    assert read()[family] == (sites, done), "python -m tests.docs.test_families_page writes it anew"


def test_the_page_has_every_family() -> None:
    shown = {name.partition(" (")[0] for name in read()}
    assert {kind_of(name) for name in NAMES} <= shown


if __name__ == "__main__":
    PAGE.write_text(page([row(name) for name in NAMES]), encoding="utf-8")
