"""Pixels, channels and patches; tokens of plain modules; vision transformers; the picture drawn.

Captum gets the bare function and its own arguments (`feature_mask`, `sliding_window_shapes`); ours gets
the wrapped model. Captum gives every member its player's score, ours gives the score once.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from captum import attr as captum
from torch import Tensor, nn

import interp
from interp.attribution import attribute
from interp.core.errors import ConfigError
from tests.attribution.pictures import NEAR, C, H, W, convolution, image, of, once

# ---- units of an image ------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_occlusion_slides_a_square_over_the_image(window: int) -> None:
    net, x = convolution(), image()
    shape = (C, min(window, H), min(window, W))
    right = captum.Occlusion(net).attribute(x, shape, target=1)
    found = of(net, x, "occlusion", window=window)
    assert found.units == "pixel" and found.image is not None and tuple(found.image.shape) == (H, W)
    torch.testing.assert_close(found.scores.double()[found.image], right[0, 0].detach().double(), **NEAR)


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({}, torch.arange(H * W).view(1, 1, H, W)),
        ({"units": "pixel"}, torch.arange(H * W).view(1, 1, H, W)),
        ({"units": "channel"}, torch.arange(C).view(1, C, 1, 1)),
        (
            {"units": "patch", "patch": 3},
            (torch.arange(H)[:, None] // 3 * 3 + torch.arange(W) // 3)[None, None],
        ),
        ({"units": "entry"}, torch.arange(C * H * W).view(1, C, H, W)),
    ],
)
@pytest.mark.parametrize("site", [None, "1.hook_in"])
def test_units_are_what_captum_hides_by_their_mask(
    options: dict[str, Any], mask: Tensor, site: str | None
) -> None:
    net, x = convolution(), image()
    tail, value = (net, x) if site is None else (net[1:], net[0](x).detach())
    if site is not None:
        side, rows, columns = options.get("patch", 1), torch.arange(3)[:, None], torch.arange(5)
        mask = (rows // side * -(-5 // side) + columns // side)[None, None]
        mask = torch.arange(4).view(1, 4, 1, 1) if options.get("units") == "channel" else mask
        mask = torch.arange(60).view(1, 4, 3, 5) if options.get("units") == "entry" else mask
    right = captum.FeatureAblation(tail).attribute(value, target=1, feature_mask=mask)
    found = of(net, x, "feature_ablation", site=site, **options)
    assert found.units == options.get("units", "pixel")
    torch.testing.assert_close(found.scores.double(), once(right, mask).detach(), **NEAR)


def test_a_picture_without_channels_has_units_when_they_are_asked_for() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(H * W, 2)).double()
    x, mask = image()[:, 0], (torch.arange(H)[:, None] // 4 * 2 + torch.arange(W) // 4)
    right = captum.FeatureAblation(net).attribute(x, target=1, feature_mask=mask[None])
    found = of(net, x, "feature_ablation", units="patch", patch=4)
    torch.testing.assert_close(found.scores.double(), once(right, mask).detach(), **NEAR)
    same = of(net, x, "feature_ablation", feature_mask=mask)
    torch.testing.assert_close(same.scores, found.scores, **NEAR)
    assert len(of(net, x, "feature_ablation").scores) == H * W
    rows = of(net, x, "feature_ablation", units="position")
    right = captum.FeatureAblation(net).attribute(x, target=1, feature_mask=torch.arange(H)[None, :, None])
    torch.testing.assert_close(rows.scores.double(), right[0, :, 0].detach().double(), **NEAR)


@pytest.mark.parametrize("method", ["integrated_gradients", "shapley", "occlusion", "saliency"])
def test_what_one_patch_decides_is_found_there_and_nowhere_else(method: str) -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 4:8, 8:12].mean((1, 2, 3))[:, None] ** 2

    x = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0)) + 0.2
    found = attribute(
        interp.wrap(Corner()),
        x,
        0,
        method=method,
        units="patch",
        patch=4,
        **({"window": 1} if method == "occlusion" else {}),
    )
    assert found.tokens[int(found.scores.argmax())] == "1,2"
    assert int((found.scores != 0).sum()) == 1  # the null: eleven patches that nothing reads
    assert found.image is not None
    assert bool((found.scores[found.image] != 0)[4:8, 8:12].all())
    if method != "saliency":
        assert float(found.scores.sum()) == pytest.approx(found.difference, rel=1e-3)


def test_the_mean_of_an_image_is_each_channels_and_what_is_kept_is_a_pixel() -> None:
    net, x = convolution(), image()
    given = x.mean((2, 3), keepdim=True).expand(x.shape)
    told = of(net, x, "feature_ablation", baseline="mean", keep=[8])
    right = (
        captum.FeatureAblation(net)
        .attribute(x, target=1, baselines=given, feature_mask=torch.arange(H * W).view(1, 1, H, W))[0, 0]
        .detach()
        .flatten()
    )
    right = right.double()
    right[8] = 0
    torch.testing.assert_close(told.scores.double(), right, **NEAR)


# ---- plain modules that read tokens, vision transformers, pictures -------------------------------


class Reader(nn.Module):
    """Reads ids; another embedding stands before it and never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Embedding(3, 4)
        self.table = nn.Embedding(50, 7)
        self.mix = nn.GRU(7, 5, batch_first=True)
        self.out = nn.Linear(5, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.mix(self.table(ids))[0][:, -1])


def test_a_plain_module_that_reads_ids_has_one_score_per_token() -> None:
    torch.manual_seed(0)
    net, ids = Reader().double().eval(), torch.tensor([[3, 41, 5, 3, 9]])

    def f(x: Tensor) -> Tensor:
        return net.out(net.mix(x)[0][:, -1])

    x = net.table(ids).detach()
    right = captum.FeatureAblation(f).attribute(x, target=1, feature_mask=torch.arange(5)[None, :, None])
    found = attribute(interp.wrap(net), ids, 1, method="feature_ablation")
    assert found.site == "table.hook_out" and found.tokens == ("3", "41", "5", "3", "9")
    torch.testing.assert_close(found.scores.double(), right[0, :, 0].detach().double(), **NEAR)


@pytest.fixture(scope="module")
def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    module = ViTForImageClassification(
        ViTConfig(image_size=(12, 16), patch_size=4, num_channels=3, num_labels=3, **sizes)
    )
    return interp.wrap(module.eval())


def test_a_vision_transformer_has_a_score_per_patch_and_windows_of_patches(vit: Any) -> None:
    x = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    value = vit.capture(x, ["hook_embed"])["hook_embed"].detach()

    def f(x: Tensor) -> Tensor:
        inputs = torch.zeros(len(x), 3, 12, 16)
        return vit.run_with_hooks(inputs, [("hook_embed", lambda value, hook: x)])

    def of_patches(grid: Tensor) -> Tensor:
        return f(torch.cat([value[:, :1].expand(len(grid), 1, -1), grid.flatten(1, 2)], 1))

    patches = value[:, 1:].view(1, 3, 4, -1)
    right = captum.Occlusion(of_patches).attribute(patches, (2, 2, patches.shape[-1]), target=2)[..., 0]
    found = attribute(vit, x, 2, method="occlusion", window=2)
    assert found.tokens[:3] == ("CLS", "0,0", "0,1") and len(found.scores) == 13
    assert found.image is not None and tuple(found.image.shape) == (3, 4)
    torch.testing.assert_close(found.scores[found.image].double(), right[0].detach().double(), **NEAR)
    without = torch.cat([torch.zeros_like(value[:, :1]), value[:, 1:]], 1)
    torch.testing.assert_close(found.scores[0].double(), (f(value) - f(without))[0, 2].double(), **NEAR)
    halves = torch.tensor([9, *[1, 1, 2, 2] * 3])
    grouped = attribute(vit, x, 2, method="gradient_x_input", feature_mask=halves)
    apart = attribute(vit, x, 2, method="gradient_x_input").scores
    torch.testing.assert_close(
        grouped.scores, torch.stack([apart[halves == i].sum() for i in (1, 2, 9)]), rtol=1e-4, atol=1e-6
    )
    assert grouped.image is not None and grouped.image.tolist() == [[0, 0, 1, 1]] * 3
    pixels = attribute(vit, x, 2, method="gradient_x_input", site="hook_in", units="patch", patch=4)
    assert len(pixels.scores) == 12


def test_an_image_is_drawn_as_a_map_of_signed_scores(vit: Any) -> None:
    net, x = convolution(), image()
    one = of(net, x, "gradient_x_input", units="patch", patch=2)
    figure = one.plot()
    (trace,) = figure.data
    assert trace.type == "heatmap" and trace.zmin == -trace.zmax  # both signs on one scale
    assert one.image is not None
    torch.testing.assert_close(torch.tensor(trace.z), one.scores.float()[one.image], rtol=1e-5, atol=1e-6)
    assert "per patch" in str(figure.layout)
    beside = attribute(vit, torch.rand(1, 3, 12, 16), 2, method="occlusion").plot()
    assert "not on the map: CLS" in str(beside.layout) and tuple(torch.tensor(beside.data[0].z).shape) == (
        3,
        4,
    )
    assert of(net, x, "saliency", units="channel").plot().data[0].type == "bar"
    with pytest.raises(ConfigError, match="lie on a picture"):
        one.plot(strip=True)
    with pytest.raises(ConfigError, match="no heads, neurons or latents"):
        one.plot(units=True)
