"""Views of a model hash its weights once, all together; what differs is hashed anew."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.dictionaries import Dictionary, DictionaryConfig
from interp.models import identity
from tests.models import zoo

SITE = "blocks.1.hook_resid_post"
IDS = torch.arange(5, 12)


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers every hashing of weights read so far; grows."""
    seen: list[int] = []
    hashing = identity.fingerprint_state

    def counted(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> str:
        seen.append(sum(value.numel() for value in state.values()))
        return hashing(state, config)

    monkeypatch.setattr(identity, "fingerprint_state", counted)
    return seen


def coder(model: interp.HookedModel) -> Dictionary:
    made = Dictionary(DictionaryConfig(d_in=model.cfg.d_model, d_sae=37, k=5, site_in=SITE))
    made.provenance = model.provenance([SITE], d_in=model.cfg.d_model)
    return made


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_views_share_the_fingerprint_of_their_model(family: str, hashes: list[int]) -> None:
    model = interp.wrap(zoo.make(family))
    site = SITE if SITE in model.sites else "encoder.blocks.1.hook_resid_post"
    first = model.fingerprint()
    assert len(hashes) == 1
    views = [copy.copy(model), interp.wrap(model.module)]
    if site == SITE:
        spliced = model.with_coder(coder(model))
        views += [spliced, model.with_coder(coder(model), error_term=False), copy.copy(spliced)]
        acts = spliced.capture(IDS, [f"{SITE}.hook_sae_acts_post"])
        assert acts.provenance is not None and acts.provenance.model_fingerprint == first
    for view in views:
        assert view.fingerprint() == view.provenance([]).model_fingerprint == first
    assert len(hashes) == 1


def test_what_is_another_model_is_hashed_anew(hashes: list[int]) -> None:
    """The null: an edit in place, a copy, fresh weights and another dtype are other models."""
    model = interp.wrap(zoo.make("gpt2"))
    first = model.fingerprint()
    view = model.with_coder(coder(model))
    with torch.no_grad():
        next(model.module.parameters()).data.view(-1)[0] += 1
    edited = view.fingerprint()
    assert edited != first and len(hashes) == 2
    assert model.fingerprint() == edited and len(hashes) == 2
    others = [view.randomised(0), view.to("bfloat16")]
    assert len({edited, *(other.fingerprint() for other in others)}) == 3
    assert len(hashes) == 4
    assert copy.deepcopy(view).fingerprint() == edited
