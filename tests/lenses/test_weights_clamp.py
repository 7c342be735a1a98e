"""Decoded neurons tested by what they do: a toy with known topics, clamps, and chance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import interp
from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.errors import ConfigError
from interp.core.randomness import generator
from interp.core.result import Result
from interp.lenses import TokenTableConfig, clamp_neuron, neuron_atlas
from interp.models.hooked import HookedModel
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from tests.models.zoo import make

TOPICS, WORDS, V, N, D_MLP = 10, 10, 199, 17, 97


def texts(batch: int, t: int, purpose: str = "topics") -> tuple[torch.Tensor, torch.Tensor]:
    """Every second token is a word of the text's topic, the others are common words."""
    source = generator(0, purpose, t)
    topic = torch.randint(TOPICS, (batch, 1), generator=source)
    word = topic * WORDS + torch.randint(WORDS, (batch, N), generator=source)
    common = torch.randint(TOPICS * WORDS, V, (batch, N), generator=source)
    own = torch.rand(batch, N, generator=source) < 0.5
    return torch.where(own, word, common), topic[:, 0]


def loss(model: SmallTransformer, ids: torch.Tensor, _t: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(ids)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()), {}


@pytest.fixture(scope="module")
def toy() -> HookedModel:
    shape = SmallConfig(
        n_layers=1,
        d_model=48,
        n_ctx=N,
        d_head=24,
        n_heads=2,
        d_vocab=V,
        d_mlp=D_MLP,
        act_fn="relu",
        normalization_type="LN",
        default_prepend_bos=False,
    )
    model = SmallTransformer(shape, 0)
    config = FitConfig(steps=200, lr=3e-3, lr_warmup=20, seed=0, log_every=100)
    fit(model, loss, lambda t: texts(64, t)[0], config)
    return interp.wrap(model.eval())


def topical(model: HookedModel, side: str) -> list[tuple[int, int]]:
    """(neuron, topic) where 5 or more of the 10 decoded tokens are words of one topic."""
    table = neuron_atlas(model, TokenTableConfig(k=10), sides=[side])
    topic = table.ids[:, 0] // WORDS
    found = []
    for neuron, row in enumerate(topic):
        counts = row[row < TOPICS].bincount(minlength=TOPICS)
        if counts.max() >= 5:
            found.append((neuron, int(counts.argmax())))
    return found


@pytest.mark.parametrize("side", ["in", "out"])
def test_decoded_neurons_fire_on_their_topic(toy: HookedModel, side: str) -> None:
    """Davies: at least 60 % of topical neurons tell their topic's texts apart (AUC >= 0.8)."""
    from sklearn.metrics import roc_auc_score

    ids, topic = texts(300, 0, "held out")
    site = "blocks.0.mlp.hook_post"
    fires = toy.capture(ids, site)[site][:, -1]
    found = topical(toy, side)
    assert len(found) > 20
    good = [roc_auc_score((topic == own).numpy(), fires[:, neuron].numpy()) >= 0.8 for neuron, own in found]
    assert sum(good) / len(good) == pytest.approx({"in": 0.86, "out": 0.97}[side], abs=0.06)
    assert sum(good) >= 0.6 * len(good)


def test_clamping_a_topical_neuron_raises_its_topic_and_a_random_one_does_not(toy: HookedModel) -> None:
    ids = texts(40, 1, "held out")[0]
    site = "blocks.0.mlp.hook_post"
    largest = toy.capture(ids, site)[site].flatten(0, 1).amax(0)

    def raised(neuron: int, topic: int) -> float:
        effect = clamp_neuron(toy, ids, (0, neuron), float(largest[neuron]))
        return effect.raised(range(WORDS * topic, WORDS * (topic + 1)))

    own = [raised(*pair) for pair in topical(toy, "out")[:10]]
    assert sum(own) / len(own) == pytest.approx(0.98, abs=0.02)
    source = torch.Generator().manual_seed(0)
    pairs = (torch.randint(D_MLP, (16,), generator=source), torch.randint(10, (16,), generator=source))
    rand = [raised(int(n), int(t)) for n, t in zip(*pairs, strict=True)]
    # A neuron that raises its own topic lowers the nine others: chance lies below one half.
    assert sum(rand) / len(rand) <= 0.6


def test_untrained_neurons_decode_to_no_topic() -> None:
    shape = SmallConfig(
        n_layers=1,
        d_model=48,
        n_ctx=N,
        d_head=24,
        n_heads=2,
        d_vocab=V,
        d_mlp=D_MLP,
        act_fn="relu",
        normalization_type="LN",
        default_prepend_bos=False,
    )
    model = interp.wrap(SmallTransformer(shape, 1).eval())
    assert len(topical(model, "out")) <= 1


def test_the_effect_of_a_clamp_is_that_of_its_own_output_direction() -> None:
    """Oracle by hand: in a one-layer model without norm the logits move by (v - a) W_out W_U."""
    shape = SmallConfig(
        n_layers=1,
        d_model=11,
        n_ctx=7,
        d_head=5,
        n_heads=2,
        d_vocab=13,
        d_mlp=17,
        act_fn="gelu",
        normalization_type=None,
        default_prepend_bos=False,
    )
    model = interp.wrap(SmallTransformer(shape, 0).eval())
    ids = torch.randint(13, (3, 7))
    effect = clamp_neuron(model, ids, (0, 5), 2.5)
    moved = (2.5 - effect.natural)[:, None] * (model.W_out[0, 5] @ model.W_U).detach()
    torch.testing.assert_close(effect.after, (model(ids)[:, -1].detach() + moved).softmax(-1))
    torch.testing.assert_close(effect.before, model(ids)[:, -1].detach().softmax(-1))
    assert effect.check().ok


def test_effects_name_what_moves_and_are_saved(shared_data: Path, tmp_path: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    effect = clamp_neuron(model, ["Once upon a time", "Lily had a"], (4, 7), 8.0, point="pre_linear")
    up, down = effect.moved(3), effect.moved(3, down=True)
    assert up[0][1] >= up[-1][1] > 0 > down[0][1] and isinstance(up[0][0], str)
    effect.save(tmp_path / "e")
    assert Result.load(tmp_path / "e").moved(3) == up  # type: ignore[attr-defined]
    alone = clamp_neuron(model, "Lily had a", (4, 7), 8.0, point="pre_linear")  # without padding
    torch.testing.assert_close(alone.after[0], effect.after[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "neuron, at", [((3, 0), "post"), ((0, 37), "post"), ((0, 0), "out"), ((0, 0), "pre_linear")]
)
def test_neurons_that_do_not_exist_are_refused(neuron: tuple[int, int], at: str) -> None:
    with pytest.raises(ConfigError, match="no such neuron"):
        clamp_neuron(interp.wrap(make("gpt2")), torch.tensor([5, 6]), neuron, 1.0, point=at)
