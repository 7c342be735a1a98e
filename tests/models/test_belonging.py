"""A trained thing and the model it was made for: accepted, refused or noted."""

from __future__ import annotations

from dataclasses import replace

import pytest

import interp
from interp.core.errors import ProvenanceError
from interp.core.provenance import Provenance
from tests.core.test_artefact import Scaler


@pytest.fixture(scope="module")
def model() -> interp.HookedModel:
    return interp.load_model("induction-2l")


def test_its_own_model_is_accepted_and_another_is_not(model: interp.HookedModel) -> None:
    site = "blocks.1.hook_resid_post"
    here = model.provenance([site], d_in=model.cfg.d_model, normalisation="none")
    scaler = Scaler(2.0, here)
    assert scaler.for_model(model) is scaler and scaler.provenance == here
    for changes, said in (
        ({"model_fingerprint": "0" * 64}, "model_fingerprint"),
        ({"d_in": 5}, "d_in"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"prepend_bos": not here.prepend_bos}, "prepend_bos"),
        ({"sites": ("blocks.1.hook_resid_pots",)}, "did you mean 'blocks.1.hook_resid_post'"),
    ):
        other = Scaler(2.0, replace(here, **changes))
        with pytest.raises(ProvenanceError, match=said):
            other.for_model(model)
        other.for_model(model, strict=False)
        assert other.provenance is not None and other.provenance.notes


def test_heads_are_read_singly_or_side_by_side(model: interp.HookedModel) -> None:
    site = "blocks.0.attn.hook_z"
    cfg = model.cfg
    for width in (cfg.d_head, cfg.n_heads * cfg.d_head):
        Scaler(1.0, model.provenance([site], d_in=width)).for_model(model)
    with pytest.raises(ProvenanceError, match="d_in"):
        Scaler(1.0, model.provenance([site], d_in=3)).for_model(model)


def test_without_provenance_everything_is_noted_and_nothing_kept(model: interp.HookedModel) -> None:
    scaler = Scaler()
    assert scaler.for_model(model).provenance is None
    assert any("model_fingerprint" in note for note in scaler.check_model(model).notes)


def test_an_import_notes_the_name_of_another_model(model: interp.HookedModel) -> None:
    """sae-lens keeps `model_name` and never looks at it."""
    for name, is_noted in (("gpt2-small", True), (model.cfg.model_name, False), ("unknown", False)):
        scaler = Scaler(1.0, Provenance(name, "unknown"))
        for _ in range(2):
            scaler.for_model(model)
        assert scaler.provenance is not None
        found = [note for note in scaler.provenance.notes if "made for 'gpt2-small'" in note]
        assert len(found) == is_noted
