"""Rollout and flow over the patches of an image: what the class token reads (Abnar, Zuidema 2020)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

import interp
from interp.attribution import attribute, methods
from interp.attribution.methods.attention import attention_flow
from interp.core.errors import ConfigError

A, B = 3, 8
"""Tokens of two patches; the class token is 0."""
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 12}


def vit(heads: int = 2, **more: Any) -> Any:
    torch.manual_seed(0)
    config = ViTConfig(image_size=(12, 16), patch_size=4, num_labels=3, num_attention_heads=heads, **SIZES)
    return ViTForImageClassification(config, **more).eval()


def image() -> torch.Tensor:
    return torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(1))


def relay(*, first: bool = True) -> interp.HookedModel:
    """The class token attends to patch B in layer 1, and B to A in layer 0; the others to themselves.

    Args:
        first: Without it B attends to itself in layer 0 and A is never read.
    """
    module = vit(heads=1)
    goals = [torch.arange(13), torch.arange(13)]
    goals[0][B], goals[1][0] = (A if first else B), B
    with torch.no_grad():
        for p in module.vit.embeddings.parameters():
            p.zero_()
        module.vit.embeddings.position_embeddings[0, :, :13] = torch.eye(13)  # a token is its place
        for layer, goal in zip(module.vit.layers, goals, strict=True):
            for p in (*layer.attention.parameters(), *layer.mlp.parameters()):
                p.zero_()
            layer.attention.k_proj.weight.copy_(torch.eye(16))
            layer.attention.q_proj.weight[goal, torch.arange(13)] = 20.0
    return interp.wrap(module)


# ---- identity -----------------------------------------------------------------------------------


def test_the_class_tokens_row_of_the_models_own_attentions() -> None:
    module = vit()
    module.set_attn_implementation("eager")
    with torch.no_grad():
        own = module(image(), output_attentions=True).attentions
    patterns = torch.stack(own)[:, 0]
    product = torch.eye(13)
    for layer in patterns:
        product = 0.5 * (layer.mean(0) + torch.eye(13)) @ product
    model = interp.wrap(vit())
    rolled = attribute(model, image(), 2, method="attention_rollout")
    torch.testing.assert_close(rolled.scores.float(), product[0], atol=1e-6, rtol=1e-5)
    assert float(rolled.scores.sum()) == pytest.approx(1.0, abs=1e-5)
    last = attribute(model, image(), 2, method="attention")
    torch.testing.assert_close(last.scores.float(), patterns[-1].mean(0)[0], atol=1e-6, rtol=1e-5)
    flowed = attribute(model, image(), 2, method="attention_flow")
    torch.testing.assert_close(flowed.scores, attention_flow(patterns, 0), atol=1e-5, rtol=0)
    assert rolled.tokens[:2] == ("CLS", "0,0") and len(rolled.scores) == 13


# ---- the phenomenon, and the null ---------------------------------------------------------------


def test_rollout_and_flow_see_through_a_relay_that_raw_attention_stops_at() -> None:
    """In the last layer the class token reads B alone; what B has was A's (section 3)."""
    found = {
        method: attribute(relay(), image(), 2, method=method).scores
        for method in ("attention", "attention_rollout", "attention_flow")
    }
    told = {method: [float(scores[i]) for i in (0, A, B)] for method, scores in found.items()}
    assert told["attention"] == pytest.approx([0, 0, 1.0], abs=1e-4)
    assert told["attention_rollout"] == pytest.approx([0.5, 0.25, 0.25], abs=1e-4)
    assert told["attention_flow"] == pytest.approx([0.5, 0.5, 0.5], abs=1e-4)


def test_without_the_relay_the_patch_behind_it_has_nothing() -> None:
    for method in ("attention_rollout", "attention_flow"):
        scores = attribute(relay(first=False), image(), 2, method=method).scores
        assert float(scores[A]) == pytest.approx(0, abs=1e-4)
        assert float(scores[B]) == pytest.approx(0.5, abs=1e-4)


# ---- units, the picture, refusals ---------------------------------------------------------------


def test_patches_are_a_heat_map_and_can_be_grouped() -> None:
    found = attribute(relay(), image(), 2, method="attention_rollout")
    (trace,) = found.plot().data
    assert trace.type == "heatmap" and tuple(torch.tensor(trace.z).shape) == (3, 4)
    assert found.image is not None and found.image[2, 3] == 12
    rows = torch.tensor([0, *[1] * 4, *[2] * 4, *[3] * 4])
    grouped = attribute(relay(), image(), 2, method="attention_rollout", feature_mask=rows)
    assert grouped.scores.tolist() == pytest.approx([0.5, 0.25, 0.25, 0], abs=1e-4)


@pytest.mark.parametrize("grid", [(1, 13), None])
def test_where_no_class_token_stands_all_patches_read(
    grid: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more tokens than patches, or a model that does not say its patches: the mean over rows."""
    model = interp.wrap(vit())
    last = model.capture(image(), "blocks.1.attn.hook_pattern")["pattern", 1][0]
    monkeypatch.setattr(methods.attention, "patch_grid", lambda rows, model: grid)
    found = attribute(model, image(), 2, method="attention")
    torch.testing.assert_close(found.scores.float(), last.mean((0, 1)), atol=1e-6, rtol=1e-5)


def test_pixels_are_no_positions_of_attention() -> None:
    pixels = {"site": "hook_in", "units": "patch", "patch": 4}
    with pytest.raises(ConfigError, match="positions of tokens, or of the patches"):
        attribute(interp.wrap(vit()), image(), 2, method="attention_rollout", **pixels)
