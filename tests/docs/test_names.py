"""docs/names.md is true: both columns of every row run, and are equal where the page says so."""

from __future__ import annotations

import ast
import dataclasses
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.models.loading import bundled_models

PAGE = Path(__file__).parents[2] / "docs" / "names.md"
NAME = "blocks.1.hook_resid_post"
TOKENS = torch.tensor([[1, 40, 55, 60, 71, 90, 33], [1, 15, 80, 23, 64, 11, 200]])


def rows(section: str) -> list[tuple[str, str, str]]:
    """The table of one section: their code, ours, the remark."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    found = [re.fullmatch(r"\| `(.*?)` \| `(.*?)` \| ?(.*?) ?\|", line) for line in lines]
    assert all(found) and len(found) > 5
    return [(m[1], m[2], m[3]) for m in found if m]


def result(code: str, names: dict[str, Any]) -> Any:
    """What a line of code gives: its last expression, or what it calls `out`."""
    names = dict(names)
    tree = ast.parse(code)
    last = tree.body[-1]
    if isinstance(last, ast.Expr) and "out" not in {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }:
        tree.body.pop()
        exec(compile(tree, "names.md", "exec"), names)  # noqa: S102 - lines of our own page
        return eval(compile(ast.Expression(last.value), "names.md", "eval"), names)  # noqa: S307
    exec(compile(tree, "names.md", "exec"), names)  # noqa: S102 - lines of our own page
    return names["out"]


def assert_equal(theirs: Any, ours: Any) -> None:
    if not isinstance(theirs, Tensor):
        assert theirs == ours
        return
    assert theirs.shape == ours.shape
    seen = theirs > -1e9  # masked scores: -inf there
    scale = float(theirs[seen].detach().abs().max()) if theirs.is_floating_point() else 1.0
    assert float((theirs - ours)[seen].detach().abs().max()) <= 1e-4 * max(scale, 1.0)


def zero_head(value: Tensor, hook: Any) -> Tensor:
    value[:, :, 1] = 0.0
    return value


def halve(value: Tensor, hook: Any) -> Tensor:
    return value * 0.5


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    return interp.load_model("tiny-grammar")


@pytest.fixture(scope="module")
def names(model: interp.HookedModel) -> dict[str, Any]:
    from interp import activations, dictionaries

    rooms = {"interp": interp, "dictionaries": dictionaries, "activations": activations}
    given = {"tokens": TOKENS, "NAME": NAME, "zero_head": zero_head, "halve": halve}
    return {**rooms, **given, "model": model}


@pytest.fixture(scope="module")
def theirs(model: interp.HookedModel) -> Iterator[dict[str, Any]]:
    """A HookedTransformer with the bundled model's weights."""
    import json

    import transformer_lens as tl
    from transformer_lens import utilities as utils

    folder = bundled_models()["tiny-grammar"]
    known = json.loads((Path(folder) / "hooked_transformer.json").read_text())
    fields = {
        k: v
        for k, v in known.items()
        if k in {f.name for f in dataclasses.fields(tl.HookedTransformerConfig)}
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = tl.HookedTransformer(
            tl.HookedTransformerConfig(**{**fields, "dtype": torch.float32, "device": "cpu"})
        )
    made.load_state_dict(model.module.state_dict(), strict=False)
    given = {"tokens": TOKENS, "NAME": NAME, "zero_head": zero_head, "halve": halve}
    yield {**given, "model": made.eval(), "utils": utils}


@pytest.mark.parametrize("row", rows("TransformerLens"), ids=lambda row: row[0][:60])
def test_transformer_lens(row: tuple[str, str, str], names: dict[str, Any], theirs: dict[str, Any]) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        their, our = result(row[0], theirs), result(row[1], names)
    assert row[2]
    if row[2] == "equal":
        assert_equal(their, our)


@pytest.fixture(scope="module")
def saved(model: interp.HookedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dictionary on disk, as both libraries read it."""
    from interp import dictionaries

    config = dictionaries.DictionaryConfig(
        site_in=NAME,
        d_in=model.cfg.d_model,
        d_sae=48,
        activation="topk",
        k=4,
        rescale_acts_by_decoder_norm=True,
    )
    made = dictionaries.Dictionary(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return dictionaries.save(made, tmp_path_factory.mktemp("names") / "sae")


@pytest.mark.parametrize("row", rows("SAELens"), ids=lambda row: row[0][:60])
def test_sae_lens(row: tuple[str, str, str], names: dict[str, Any], saved: Path, full_count: bool) -> None:
    import sae_lens

    from interp import dictionaries

    if "Runner" in row[0] and not full_count:
        pytest.skip("full size only: make test-all (its import alone takes ten seconds)")
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    there = {"sae_lens": sae_lens, "SAE": sae_lens.SAE, "x": x, "folder": str(saved)}
    there["sae"] = sae_lens.SAE.load_from_disk(str(saved))
    here = {**names, "x": x, "folder": saved, "sae": dictionaries.load(saved)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        their, our = result(row[0], there), result(row[1], here)
    if row[2] == "equal":
        assert_equal(their, our)


@pytest.mark.parametrize("row", rows("captum"), ids=lambda row: row[0])
def test_captum(row: tuple[str, str, str], names: dict[str, Any]) -> None:
    from captum import attr as captum

    assert hasattr(captum, row[0])
    found = result(row[1], names)
    assert found.scores.isfinite().all()
