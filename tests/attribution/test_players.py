"""Who plays: units of images, patches, groups of a feature mask; captum's own functions are the oracle.

Captum gets the bare function and its own arguments (`feature_mask`, `sliding_window_shapes`); ours gets
the wrapped model. Captum gives every member its player's score, ours gives the score once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from captum import attr as captum
from torch import Tensor, nn

import interp
from interp.attribution import METHODS, Attribution, attribute, measure_faithfulness
from interp.attribution.players import MOST_UNITS, players_of
from interp.core.errors import ConfigError, InterpError, ShapeError
from tests.attribution import toys
from tests.attribution.pictures import NEAR, C, H, W, convolution, image, of, once, scattered, summed

HIDING = ("occlusion", "feature_ablation", "shapley", "kernel_shap", "lime")
GRADIENTS = [m for m in METHODS if m not in (*HIDING, "layer_conductance") and "attention" not in m]


# ---- feature_mask -----------------------------------------------------------------------------


def test_groups_are_hidden_whole_as_captum_hides_them() -> None:
    net, x, mask = convolution(), image(), scattered()
    by_captum = mask.unique(return_inverse=True)[1]  # it wants numbers without gaps
    ablated = captum.FeatureAblation(net).attribute(x, target=1, feature_mask=by_captum)
    exact = captum.ShapleyValues(net).attribute(x, target=1, feature_mask=by_captum)
    for method, right in [("feature_ablation", ablated), ("shapley", exact), ("kernel_shap", exact)]:
        found = of(net, x, method, feature_mask=mask)
        assert found.units == "group" and found.tokens == ("-2", "1", "4", "7", "10")
        torch.testing.assert_close(found.scores.double(), once(right, mask).detach(), **NEAR)
    # the null: groups are not their members, where a network is not linear
    apart = captum.FeatureAblation(net).attribute(x, target=1)
    assert float((summed(apart, mask) - once(ablated, mask)).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        (
            "integrated_gradients",
            lambda net, x: captum.IntegratedGradients(net).attribute(x, target=1, n_steps=400),
        ),
        ("gradient_x_input", lambda net, x: captum.InputXGradient(net).attribute(x, target=1)),
        ("saliency", lambda net, x: captum.Saliency(net).attribute(x, target=1)),
        ("deeplift", lambda net, x: captum.DeepLift(net).attribute(x, target=1)),
    ],
)
def test_gradients_are_summed_within_a_group(method: str, theirs: Any) -> None:
    net, x, mask = convolution(), image(), scattered()
    right = summed(theirs(net, x.clone().requires_grad_(True)).detach(), mask)
    found = of(net, x, method, feature_mask=mask, tolerance=1e-4)
    tolerance = 2e-3 if method == "integrated_gradients" else 1e-9  # captum's sum of 400 steps over kinks
    torch.testing.assert_close(found.scores.double(), right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("method", GRADIENTS)
@pytest.mark.parametrize("options", [{"feature_mask": scattered()}, {}, {"units": "patch", "patch": 2}])
def test_every_gradient_method_sums_its_entries(method: str, options: dict[str, Any]) -> None:
    net, x = convolution(), image()
    if method == "functional_information":  # asks for a positive target
        net = nn.Sequential(net, nn.Softmax(-1))
    entries = of(net, x, method, units="entry").scores.view(1, C, H, W)
    groups: Tensor = options.get("feature_mask", torch.arange(H * W).view(1, 1, H, W))
    if options.get("units") == "patch":
        groups = (torch.arange(H)[:, None] // 2 * 4 + torch.arange(W) // 2)[None, None]
    found = of(net, x, method, **options)
    torch.testing.assert_close(found.scores, summed(entries, groups), rtol=1e-6, atol=1e-9)


def test_words_of_a_text_are_players() -> None:
    model, ids, words = toys.small(dtype=torch.float64), toys.IDS[:6], torch.tensor([0, 1, 1, 2, 0, 2])
    x = model.capture(ids[None], ["hook_embed"])["hook_embed"]

    def f(x: Tensor) -> Tensor:
        rows = ids.expand(len(x), -1)
        out = model.run_with_hooks(rows, [("hook_embed", lambda value, hook: x)])
        return out[:, -1, 3] - out[:, -1, 5]

    right = captum.ShapleyValues(f).attribute(x, feature_mask=words[None, :, None])
    for form in (words, words[None], words[None, :, None], words[:, None], words.tolist(), words.numpy()):
        found = attribute(model, ids, (3, 5), method="shapley", feature_mask=form)
        assert found.tokens == ("11 … 42", "723", "5 … 17")
        torch.testing.assert_close(found.scores.double(), once(right, words[None, :, None]), **NEAR)
    ablated = captum.FeatureAblation(f).attribute(x, feature_mask=words[None, :, None])
    one = attribute(model, ids, (3, 5), method="occlusion", feature_mask=words, window=1)
    torch.testing.assert_close(one.scores.double(), once(ablated, words[None, :, None]), **NEAR)
    with pytest.raises(ShapeError, match="feature_mask does not fit"):
        attribute(model, ids, (3, 5), feature_mask=[0, 1, 2])


@pytest.mark.parametrize("method", ["attention", "attention_rollout", "attention_flow"])
def test_attention_goes_to_groups_of_positions_and_not_to_parts_of_one(method: str) -> None:
    model, ids, words = toys.small(), toys.IDS[:5], torch.tensor([4, 4, 0, 0, 7])
    apart = attribute(model, ids, (3, 5), method=method).scores
    found = attribute(model, ids, (3, 5), method=method, feature_mask=words).scores
    torch.testing.assert_close(found, torch.stack([apart[2:4].sum(), apart[:2].sum(), apart[4]]))
    with pytest.raises(ConfigError, match="divides"):
        attribute(model, ids, (3, 5), method=method, feature_mask=torch.arange(15)[None, None])


def test_a_position_that_is_kept_stays_within_its_group() -> None:
    model, ids, words = toys.small(), toys.IDS[:4], torch.tensor([0, 0, 1, 1])
    found = attribute(model, ids, (3, 5), method="feature_ablation", feature_mask=words, keep=[0])
    alone = attribute(model, ids, (3, 5), method="feature_ablation", keep=[0])
    torch.testing.assert_close(found.scores[0], alone.scores[1])
    whole = attribute(model, ids, (3, 5), method="feature_ablation", feature_mask=words)
    assert float((whole.scores - found.scores).abs().max()) > 1e-4


@pytest.mark.parametrize(("heads", "players"), [(MOST_UNITS, 2 * MOST_UNITS), (MOST_UNITS + 1, 2)])
def test_as_many_heads_as_are_allowed_play_one_by_one(heads: int, players: int) -> None:
    who = players_of(("pos", "head", "d_head"), torch.zeros(1, 2, heads, 3), None, None, "z")
    assert who.n == players and who.n_scores == 2
    assert who.grid == ((2, heads) if players > 2 else (2,))


def test_groups_that_part_in_one_channel_have_no_picture() -> None:
    net, x = convolution(), image()
    alike = torch.arange(H * W).view(1, 1, H, W).expand(1, C, H, W) // 5
    one = of(net, x, "gradient_x_input", feature_mask=alike)
    assert one.image is not None and torch.equal(one.image, alike[0, 0])
    parted = alike.clone()
    parted[0, 1, 2, 3] = 0  # in one of the channels, at one of the places
    assert of(net, x, "gradient_x_input", feature_mask=parted).image is None


# ---- refusals, cost, what a result carries ----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"units": "patch"}, "patch needs its size"),
        ({"patch": 2}, "patch needs its size"),
        ({"units": "position"}, "no axis of positions"),
        ({"units": "channel", "feature_mask": scattered()}, "both say who plays"),
        ({"feature_mask": scattered().double()}, "numbers the player"),
        ({"feature_mask": scattered() > 0}, "numbers the player"),
        ({"feature_mask": [[0, 1], [2]]}, "cannot read this as a feature_mask"),
        ({"feature_mask": torch.zeros(1, 4, H, W).long()}, "does not fit"),
        ({"units": "channel", "method": "occlusion"}, "no neighbours"),
        ({"units": "channel", "site": "3.hook_in"}, "holds no channels"),
        ({"units": "patch", "patch": 2, "site": "3.hook_in"}, "holds no rows and columns"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InterpError, match=said):
        of(convolution(), image(), **{"method": "gradient_x_input", **options})


def test_positions_have_no_pixels_and_a_growing_text_no_mask() -> None:
    model = toys.small()
    with pytest.raises(ConfigError, match="holds positions"):
        attribute(model, toys.IDS, (3, 5), units="pixel")
    for options in ({"feature_mask": [0, 1]}, {"units": "position"}):
        with pytest.raises(ConfigError, match="longer text"):
            interp.attribution.attribute_generated(model, toys.IDS[:2], 2, **options)


@pytest.mark.parametrize("method", ["shapley", "kernel_shap", "feature_ablation", "occlusion"])
def test_a_run_of_tens_of_thousands_is_refused_before_it_starts(method: str) -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return x.flatten(1).sum(1, keepdim=True)

    model, x = interp.wrap(Counting()), torch.rand(1, 3, 32, 32) + 0.1
    told = {"units": "entry", "max_forward": 3_000}
    more = {"samples": 50} if method == "shapley" else {}
    more = {"window": 1} if method == "occlusion" else more
    with pytest.raises(ConfigError, match=r"rows through the model") as error:
        attribute(model, x, 0, method=method, **told, **more)
    assert sum(seen) < 20 and "feature_mask" in str(error.value)
    with pytest.raises(ConfigError, match=r"3,072 players|3072 players"):
        attribute(model, x, 0, method=method, units="entry", max_forward=50, **more)
    few = {"window": 1} if method == "occlusion" else {}
    found = attribute(model, x, 0, method=method, units="patch", patch=16, **few)
    assert found.n_forward < 30


def test_the_cost_that_samples_ask_for_is_granted() -> None:
    net, x = nn.Linear(13, 1), torch.rand(1, 13) + 0.1
    run = {"method": "shapley", "max_forward": 50}
    with pytest.raises(ConfigError, match="98 rows through the model"):
        attribute(interp.wrap(net), x, 0, samples=40, **run)
    found = attribute(interp.wrap(net), x, 0, samples=200, **run)
    assert found.n_forward <= 200


def test_a_result_carries_its_units_and_its_mask(tmp_path: Path) -> None:
    net, x = convolution(), image()
    for options in ({"feature_mask": scattered()}, {"units": "patch", "patch": 2}, {"units": "channel"}, {}):
        one = of(net, x, "shapley", **options)
        loaded = Attribution.load(one.save(tmp_path / str(len(str(options)))))
        again = attribute(interp.wrap(net), x, 1, **loaded.settings)
        assert torch.equal(again.scores, one.scores)
        assert loaded.units == one.units and loaded.tokens == one.tokens
        assert (loaded.image is None) is (one.image is None)


def test_judges_remove_the_units_that_were_scored() -> None:
    net, x = convolution(), image()
    model = interp.wrap(net)
    told: dict[str, Any] = {"units": "patch", "patch": 2}
    found = {m: [attribute(model, x, 1, method=m, **told)] for m in ("feature_ablation", "gradient_x_input")}
    judged = measure_faithfulness(model, [x], 1, found, sensitivity=True)
    assert judged.n_examples == 1
    mixed = {**found, "saliency": [attribute(model, x, 1, method="saliency")]}
    with pytest.raises(ConfigError, match="different units"):
        measure_faithfulness(model, [x], 1, mixed)
    mask = scattered()
    grouped = {"feature_ablation": [attribute(model, x, 1, method="feature_ablation", feature_mask=mask)]}
    assert measure_faithfulness(model, [x], 1, grouped).n_examples == 1
