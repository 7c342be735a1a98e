"""A coder at any place that a model has by name: it splices, and its latents are sites there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.dictionaries import Dictionary, DictionaryConfig
from interp.models import HookedModel
from tests.activations.models import D_HEAD, D_MODEL, N_HEADS, small_model
from tests.support.closeness import assert_close_across

IDS = torch.tensor([[0, 3, 5, 7, 2], [0, 4, 4, 1, 6]])
LISTED = ("blocks.1.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.0.attn.hook_z")
BY_NAME = ("blocks.1.attn.hook_result", "blocks.0.attn.hook_result", "blocks.1.hook_q_input")
PLACES = [(site, is_flat) for site in (*LISTED, *BY_NAME) for is_flat in (True, False)]
PLACES.remove(("blocks.1.hook_q_input", True))  # one vector of width d_model for each head


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


def coder_at(site: str, width: int) -> Dictionary:
    """A ReLU dictionary of random weights."""
    config = DictionaryConfig(d_in=width, d_sae=17, activation="relu", site_in=site, site_out=site)
    return Dictionary(config, seed=3)


@pytest.mark.parametrize(("site", "is_flat"), PLACES)
@pytest.mark.parametrize("error_term", [True, False])
def test_latents_are_sites_wherever_the_coder_splices(
    site: str, is_flat: bool, error_term: bool, model: HookedModel
) -> None:
    """Identity, phenomenon and null, by the weights: whether the site is listed or known by name."""
    value = model.capture(IDS, site)[site]
    if value.ndim == 3 and not is_flat:
        return  # no heads to take one by one
    width = value[0, 0].numel() if is_flat else value.shape[-1]
    coder, latents = coder_at(site, width), f"{site}.hook_sae_acts_post"
    view = model.with_coder(coder, error_term=error_term)
    assert latents in view.sites and latents in list(view.sites)
    rows = value.flatten(2) if is_flat else value
    z = torch.relu((rows - coder.b_dec) @ coder.encoder.T + coder.b_enc)  # by hand
    found = view.capture(IDS, latents)[latents]
    assert_close_across(found, z.detach(), terms=2 * width)

    def instead(new: Tensor) -> Tensor:
        """The model's output with the site replaced, by an ordinary hook."""
        return model.run_with_hooks(IDS, [(site, lambda v, hook: new.reshape(v.shape))])

    left = rows - (z @ coder.W_dec + coder.b_dec) if error_term else torch.zeros(())
    plain = rows if error_term else z @ coder.W_dec + coder.b_dec
    zeroed = coder.b_dec + left + torch.zeros_like(rows)
    with torch.no_grad():
        torch.testing.assert_close(view(IDS), instead(plain), rtol=1e-4, atol=1e-4)
        edited = view.run_with_hooks(IDS, [interp.zero(latents)])
        torch.testing.assert_close(edited, instead(zeroed), rtol=1e-4, atol=1e-4)
        assert float((edited - view(IDS)).abs().max()) > 1e-3
    assert latents not in model.sites  # the model itself has no such place


def test_the_places_known_by_name_are_not_listed(model: HookedModel) -> None:
    """What makes them a kind of their own."""
    assert not set(BY_NAME) & set(model.sites) and set(BY_NAME) <= set(model.sites.unlisted)
    assert model.capture(IDS, BY_NAME[0])[BY_NAME[0]].shape == (2, 5, N_HEADS, D_MODEL)
    assert model.capture(IDS, LISTED[2])[LISTED[2]].shape == (2, 5, N_HEADS, D_HEAD)
