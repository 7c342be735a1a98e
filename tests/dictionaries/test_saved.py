"""The dictionaries that ship: what their card says, readable here and by sae-lens."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.core.errors import ProvenanceError
from interp.core.store import open_artefact
from interp.dictionaries import Dictionary, evaluate
from interp.models.hooked import HookedModel
from interp.tasks.config import GrammarConfig
from interp.tasks.grammar.corpus import batch

FOLDER = Path(__file__).parents[2] / "saved_dictionaries" / "tiny-grammar"
NAMES = (
    "layer1_resid_post",
    "layer2_resid_post",
    "layer2_z",
    *(f"layer{layer}_transcoder" for layer in range(4)),
)


@cache
def model() -> HookedModel:
    return interp.load_model("tiny-grammar")


@cache
def scores() -> dict[str, Any]:
    return json.loads((FOLDER / "scores.json").read_text("utf-8"))


def test_all_ship_and_are_small() -> None:
    assert {folder.name for folder in FOLDER.iterdir() if folder.is_dir()} == set(NAMES)
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 10 * 2**20
    assert set(scores()) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary_is_what_its_card_says(name: str, full_count: bool) -> None:
    """On held-out text; at full size on all of the card's, so the figures must be the card's."""
    open_artefact(FOLDER / name)  # every file's checksum
    dictionary = Dictionary.load(FOLDER / name).for_model(model())
    n = 25 if full_count else 2
    held_out = torch.cat([batch(GrammarConfig(seed=0), 1_000_000 + i)[0] for i in range(n)])
    found = evaluate(dictionary, model(), held_out[: 1600 if full_count else 100]).summary()
    shown = scores()[name]
    for figure, far in (("l0", 1.0), ("fvu", 0.003), ("ce_recovered", 0.03)):
        bound = 1e-3 * abs(shown[figure]) if full_count else far
        assert found[figure] == pytest.approx(shown[figure], abs=bound), figure
    if full_count:
        assert found["n_tokens"] == shown["n_tokens"]
        assert found["dead"] == pytest.approx(shown["dead"], abs=2)
    assert shown["l0"] == pytest.approx(16, abs=0.5)
    assert shown["ce_recovered"] > 0.92
    assert shown["dead"] < 0.15 * shown["n_latents"]


def test_the_page_says_what_was_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER.parents[1] / "scripts")
    script = importlib.import_module("train_saved_dictionaries")
    command = Dictionary.load(FOLDER / NAMES[0]).metadata["command"]
    page = (FOLDER / "README.md").read_text("utf-8")
    assert page == script.card(scores(), command, model().fingerprint())


def test_they_belong_to_this_model() -> None:
    dictionary = Dictionary.load(FOLDER / NAMES[0])
    with pytest.raises(ProvenanceError):
        dictionary.for_model(model().randomised(0))


@pytest.mark.parametrize("name", ["layer1_resid_post", "layer2_z", "layer3_transcoder"])
def test_sae_lens_reads_them(name: str) -> None:
    import sae_lens

    ours = Dictionary.load(FOLDER / name)
    theirs = sae_lens.SAE.load_from_disk(str(FOLDER / name), device="cpu")
    heads = 4 if ours.config.reshape == "hook_z" else 1
    rows = torch.randn(3, 11, heads, ours.config.d_in // heads)
    rows = rows if heads > 1 else rows.squeeze(2)
    with torch.no_grad():
        latents = ours.encode(rows)
        assert (latents > 0).any()
        assert torch.allclose(theirs.encode(rows), latents, atol=1e-5)
        assert torch.allclose(theirs.decode(latents), ours.decode(latents).view_as(rows), atol=1e-5)
