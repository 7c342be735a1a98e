"""The class-embedding lens: the head at the top, ranks by hand, digits that become readable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.core.result import Result
from interp.lenses import ClassLensResult, class_lens, score_identifiability
from interp.models.stream import blocks
from tests.lenses import toys
from tests.models import builders, zoo

ANSWERS = torch.tensor([2, 5])


@pytest.fixture(scope="module")
def vit() -> interp.HookedModel:
    return interp.wrap(zoo.make("vit"))


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)).to(dtype)


# --- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_last_class_token_is_the_models_own_output(dtype: torch.dtype) -> None:
    model = interp.wrap(zoo.make("vit", dtype=dtype))
    result = class_lens(model, images(dtype), ANSWERS)
    with torch.no_grad():
        logits = model(images(dtype))
    assert result.check().ok and result.gap <= (1e-10 if dtype == torch.float64 else 1e-5)
    expected = logits.softmax(-1).gather(-1, ANSWERS[:, None])[:, 0]
    torch.testing.assert_close(result.prob[-1, :, 0], expected)
    assert torch.equal(result.predicted[-1, :, 0], logits.argmax(-1))
    assert result.grid == (3, 3) and result.identifiability.shape == (zoo.L + 1, 2, 10)


def test_every_row_by_hand(vit: interp.HookedModel) -> None:
    result = class_lens(vit, images(), ANSWERS, components="all")
    assert result.components[:4] == ("embed", "L0 attn", "L0 mlp", "L0 post")
    acts = vit.capture(images(), ["blocks.1.hook_mlp_out"])
    module = vit.module
    with torch.no_grad():
        logits = module.classifier(module.vit.layernorm(acts["mlp_out", 1]))
    row = result.components.index("L1 mlp")
    for image, answer in enumerate(ANSWERS.tolist()):
        for token in range(10):
            order = logits[image, token].argsort(descending=True).tolist()
            rank = order.index(answer)
            assert float(result.identifiability[row, image, token]) == pytest.approx(1 - rank / 7)


def test_identifiability_shares_the_ranks_of_ties() -> None:
    flat = torch.zeros(11)
    assert float(score_identifiability(flat, torch.tensor(4))) == pytest.approx(1 - 5 / 11)
    ladder = torch.arange(11.0)
    assert float(score_identifiability(ladder, torch.tensor(10))) == 1.0
    assert float(score_identifiability(ladder, torch.tensor(0))) == pytest.approx(1 / 11)
    random = torch.randn(5000, 11, generator=torch.Generator().manual_seed(0))
    mean = score_identifiability(random, torch.zeros(5000).long()).mean()
    assert float(mean) == pytest.approx(1 - 10 / 22, abs=0.02)  # chance


def test_any_classifier_by_naming_its_rows_and_head(shared_data: Path) -> None:
    net = builders.resnet20(shared_data)
    model = interp.wrap(net, name="resnet20")
    pixels, labels = builders.cifar_images(shared_data, per_class=4)
    pixels = builders.normalised(pixels, builders.RESNET_NORM)
    rows = {f"layer3.{i}": f"layer3.{i}.hook_out" for i in range(3)}
    result = class_lens(
        model, pixels, labels, rows=rows, decode=net.linear, special=0, classes=builders.CIFAR_CLASSES
    )
    assert result.check().ok  # the head is linear in the mean over places
    assert result.grid == (8, 8) and result.prob.shape == (3, 40, 64)
    rise = result.by_layer()["patches"]
    assert float(rise[0]) < 0.75 < float(rise[-1]), rise  # measured below


# --- the phenomenon, and the null --------------------------------------------------------------


def test_digits_become_readable_layer_by_layer_and_first_in_the_class_token(
    digits: toys.Digits, full_count: bool, tmp_path: Path
) -> None:
    model, pixels, labels = digits.model, digits.pixels, digits.labels
    result = class_lens(model, pixels, labels)
    means, top = result.by_layer(), result.accuracy()[:, 0]
    cls, patches = means["class token"], means["patches"]
    figures = f"class token {cls.tolist()}, patches {patches.tolist()}, top-1 {top.tolist()}"
    assert abs(float(cls[0]) - 0.55) < 0.03, figures  # chance: one vector for all images
    assert bool((cls.diff() > -0.01).all()) and bool((cls[1:] > patches[1:]).all()), figures
    assert float(cls[-1]) > (0.98 if full_count else 0.95), figures
    assert float(top[-1]) == pytest.approx(0.942 if full_count else 0.74, abs=0.03), figures
    assert float(patches[-1]) > 0.75 > 0.6 > float(patches[0]), figures
    if not full_count:  # what the short training gives
        quick = [[0.54, 0.85, 0.92, 0.95, 0.95], [0.55, 0.68, 0.80, 0.86, 0.87]]
        assert [cls.tolist(), patches.tolist()] == [pytest.approx(one, abs=0.05) for one in quick], figures
    result.save(tmp_path / "it")
    again = Result.load(tmp_path / "it")
    assert isinstance(again, ClassLensResult) and torch.equal(again.prob, result.prob)
    assert again.grid == (4, 4)
    lines = again.plot()
    assert [trace.name for trace in lines.data] == ["class token", "patches"]
    maps = again.plot(kind="map", image=3)
    assert len(maps.data) == 5 and maps.data[0].z.shape == (4, 4)
    torch.testing.assert_close(
        torch.tensor(maps.data[4].z), result.identifiability[4, 3, 1:].unflatten(0, (4, 4))
    )


def test_nothing_is_readable_in_a_random_model_or_with_shuffled_answers(digits: toys.Digits) -> None:
    model, pixels, labels = digits.model, digits.pixels, digits.labels
    null = class_lens(model.randomised(0), pixels, labels)
    shuffled = class_lens(model, pixels, labels.roll(1))
    for result in (null, shuffled):
        assert result.check().ok
        for values in result.by_layer().values():
            assert float((values - 0.55).abs().max()) < 0.06, values


# --- errors ------------------------------------------------------------------------------------


def test_bad_requests_are_explained(vit: interp.HookedModel) -> None:
    with pytest.raises(ShapeError, match="one right class"):
        class_lens(vit, images(), [1])
    with pytest.raises(ShapeError, match="does not exist"):
        class_lens(vit, images(), [1, 7])
    with pytest.raises(ShapeError, match="class names"):
        class_lens(vit, images(), ANSWERS, classes=["a", "b"])
    with pytest.raises(ConfigError, match="belong together"):
        class_lens(vit, images(), ANSWERS, rows={"a": "hook_embed"})
    with pytest.raises(ModelError, match="no head on a residual stream"):
        class_lens(interp.wrap(torch.nn.Linear(3, 3)), torch.ones(2, 3), ANSWERS)
    result = class_lens(vit, images(), ANSWERS)
    with pytest.raises(ConfigError, match="no such image"):
        result.patch_map(2)


def test_many_tokens_are_read_in_blocks(vit: interp.HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = class_lens(vit, images(), ANSWERS)
    monkeypatch.setattr(blocks, "BLOCK", 1)
    seen: list[int] = []
    unembed = type(vit).unembed
    monkeypatch.setattr(
        type(vit), "unembed", lambda self, x: seen.append(x.shape[0]) or unembed(self, x), raising=True
    )
    parts = class_lens(vit, images(), ANSWERS)
    assert set(seen) == {1} and parts.check().ok
    for name in ("identifiability", "prob", "predicted"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
