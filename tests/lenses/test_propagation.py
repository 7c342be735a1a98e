"""Observable propagation: exact adjoints, the norm's geometry, features from one pair of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.core.errors import ConfigError, ModelError, ShapeError, SiteError
from interp.core.result import Result
from interp.lenses import FeatureVectors, measure_coupling, path_vectors, propagate, score_tokens
from interp.lenses.propagation import crossing
from interp.models import contrast
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from interp.models.stream.frozen import FrozenNorm
from interp.models.text.tokens import TokenBatch
from tests.lenses import toys
from tests.models import zoo

IDS = torch.tensor([11, 7, 23, 5, 42, 17, 3])
ENTRY = "blocks.0.hook_resid_pre"


def small(**more: Any) -> interp.HookedModel:
    sizes = {"n_layers": 2, "d_model": 16, "n_ctx": 13, "d_head": 4, "n_heads": 3, "d_mlp": 11}
    module = SmallTransformer(SmallConfig(**{**sizes, "d_vocab": 61, **more}), seed=1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return interp.wrap(module)


# --- norms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("centred", [True, False])
def test_the_gradient_of_a_norm_is_autograds(centred: bool) -> None:
    gain, bias = torch.randn(23).double(), torch.randn(23).double()
    norm = FrozenNorm(centred, gain, bias, 1e-5)
    x, y = torch.randn(7, 23).double(), torch.randn(7, 23).double()
    leaf = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad((norm.apply(leaf) * y).sum(), leaf)
    torch.testing.assert_close(norm.gradient(x, y), expected, atol=1e-12, rtol=1e-10)
    if centred:
        theirs = torch.nn.functional.layer_norm(x, (23,), gain, bias, 1e-5)
        torch.testing.assert_close(norm.apply(x), theirs)


def test_the_closed_form_of_the_theorem() -> None:
    """∇ nᵀLN(x) = (√d/‖Px‖) P (I − x̂x̂ᵀ)(γ ⊙ n), here with the usual eps of 1e-5."""
    for d in (32, 128, 768):
        x, n = torch.randn(100, d).double(), torch.randn(100, d).double()
        gain = 1 + 0.1 * torch.randn(d).double()
        centred = x - x.mean(-1, keepdim=True)
        size = centred.norm(dim=-1, keepdim=True)
        unit, behind = centred / size, gain * n
        rest = behind - unit * (unit * behind).sum(-1, keepdim=True)
        closed = d**0.5 / size * (rest - rest.mean(-1, keepdim=True))
        found = FrozenNorm(True, gain, None, 1e-5).gradient(x, n)
        assert float((found - closed).abs().max()) <= 1e-4  # eps; 2.6e-5 at the source's sizes
        exact = FrozenNorm(True, gain, None, 0.0).gradient(x, n)
        assert float((exact - closed).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("d", "cosine"), [(32, 0.982), (64, 0.992), (128, 0.9967), (512, 0.9992), (768, 0.9994)]
)
def test_a_norm_changes_the_direction_less_the_wider_the_model(d: int, cosine: float) -> None:
    draw = torch.Generator().manual_seed(d)
    x, n = (torch.randn(4000, d, generator=draw).double() for _ in range(2))
    norm = FrozenNorm(True, 1 + 0.1 * torch.randn(d, generator=draw).double(), None, 1e-5)
    exact, direction = norm.gradient(x, n), norm.adjoint(n)
    found = torch.nn.functional.cosine_similarity(exact, direction, dim=-1).mean()
    assert abs(float(found) - cosine) <= 0.002, float(found)


def test_at_one_unlucky_point_the_direction_does_turn() -> None:
    """The null of the theorem: n along x itself is what the norm takes away."""
    x = torch.randn(64).double()
    x = x - x.mean()
    norm = FrozenNorm(True, None, None, 0.0)
    assert float(norm.gradient(x, x).norm() / norm.adjoint(x, norm.scale(x)).norm()) < 1e-12


# --- identity: the adjoint ---------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "LN", "RMS"])
def test_without_mlps_scores_and_constant_are_the_observable(norm: str | None) -> None:
    model = small(attn_only=True, normalization_type=norm, dtype="float64")
    wanted = contrast(model, [19], [31]).over_logits(model.cfg.d_vocab_out or model.cfg.d_vocab).double()
    for site in (ENTRY, "blocks.1.hook_resid_pre"):
        found = propagate(model, IDS, wanted, site)
        with torch.no_grad():
            logits = model(IDS)[0, -1]
        torch.testing.assert_close(found.total, logits[19] - logits[31])
        assert found.affine and found.check().ok and len(found.check()) == 1
        assert float(found.gap) < 1e-10
        assert float(found.vectors.norm(dim=-1).min()) > 1e-3


def test_one_layer_by_hand() -> None:
    """Σ_src A (y_h · x_src) over heads, plus the direct path: the observable to 1e-5."""
    model = small(n_layers=1, attn_only=True, normalization_type=None)
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if ".b_" in name or name.endswith("b_U"):
                parameter.zero_()
    wanted = contrast(model, [19], [31])
    acts = model.capture(IDS, [ENTRY, "blocks.0.attn.hook_pattern"])
    x, pattern = acts[ENTRY][0], acts["pattern", 0][0, :, -1]
    paths = path_vectors(model, wanted, [[], ["L0H0"], ["L0H1"], ["L0H2"]])
    by_hand = paths.vectors[0] @ x[-1]
    for head in range(3):
        by_hand = by_hand + pattern[head] @ (x @ paths.vectors[1 + head])
    with torch.no_grad():
        logits = model(IDS)[0, -1]
    torch.testing.assert_close(by_hand, logits[19] - logits[31], atol=1e-5, rtol=1e-5)
    exact = propagate(model, IDS, wanted, ENTRY)
    mixed = torch.einsum("hp,hd->pd", pattern, paths.vectors[1:])
    mixed[-1] += paths.vectors[0]
    torch.testing.assert_close(exact.vectors, mixed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_the_vectors_are_the_slope_of_the_model_with_patterns_held(name: str) -> None:
    model = interp.wrap(zoo.make(name, dtype=torch.float64))
    wanted = contrast(model, [19], [31]).over_logits(model.cfg.d_vocab_out or model.cfg.d_vocab).double()
    found = propagate(model, IDS, wanted, "blocks.1.hook_resid_pre", norms="exact")
    direction = torch.randn(len(IDS), zoo.D).double()
    held = model.capture(IDS, ["*.hook_q", "*.hook_k"])
    hooks: list[Any] = [(s, lambda v, hook, kept=t: kept) for s, t in held.items()]
    last = f"blocks.{zoo.L - 1}.hook_resid_post"

    def at(step: float) -> Tensor:
        move = ("blocks.1.hook_resid_pre", lambda v, hook: v + step * direction)
        x = model.capture(IDS, [last], fwd_hooks=[move, *hooks])[last][0, -1]
        logits = model.unembed(model.ln_final(x))
        cap = model.cfg.final_softcap
        logits = cap * torch.atanh(logits / cap) if cap else logits
        return (logits[19] - logits[31]).detach()

    step = 1e-3 if name in ("llama", "gemma2") else 1e-5  # their norms compute in float32
    slope = (at(step) - at(-step)) / (2 * step)
    torch.testing.assert_close((found.vectors * direction).sum(), slope, atol=2e-3, rtol=2e-3)


def test_padding_and_gradients_stay_outside() -> None:
    model = interp.wrap(zoo.make("gpt2"))
    wanted = contrast(model, [19], [31])
    ids = torch.cat([torch.zeros(1, 3).long(), IDS[None]], dim=1)
    padded = propagate(model, TokenBatch(ids, torch.arange(10)[None] >= 3), wanted, ENTRY)
    plain = propagate(model, IDS, wanted, ENTRY)
    torch.testing.assert_close(padded.vectors, plain.vectors, atol=1e-5, rtol=1e-4)
    assert padded.names == plain.names
    assert all(parameter.grad is None for parameter in model.module.parameters())


# --- paths -------------------------------------------------------------------------------------


def test_grouped_heads_read_their_groups_values() -> None:
    model = interp.wrap(zoo.make("llama"))
    wanted = contrast(model, [19], [31])
    found = path_vectors(model, wanted, [["L2H4"]]).vectors[0]
    layer, norm = model.module.model.layers[2], model.module.model.norm
    y = norm.weight * (model.W_U[:, 19] - model.W_U[:, 31])
    o = layer.self_attn.o_proj.weight[:, 4 * zoo.DH : 5 * zoo.DH]
    group = 4 // (zoo.H // zoo.KV)
    v = layer.self_attn.v_proj.weight[group * zoo.DH : (group + 1) * zoo.DH]
    expected = layer.input_layernorm.weight * (v.T @ (o.T @ y))
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-4)


def test_an_mlp_enters_by_its_gradient_where_the_contrast_crosses_zero() -> None:
    model = interp.wrap(zoo.make("gpt2"))
    wanted = contrast(model, [19], [31])
    pair = (IDS, IDS.flip(0))
    found = path_vectors(model, wanted, [["L1 mlp"], ["L1 mlp", "L0H2"]], pair=pair)
    assert found.sites == ("blocks.1.hook_resid_mid", ENTRY)
    block = model.module.transformer.h[1]
    y = path_vectors(model, wanted, [[]]).vectors[0]
    ends = [model.capture(t, found.sites[0])[found.sites[0]][0, -1] for t in pair]
    x, crossed = crossing(lambda p: block.mlp(block.ln_2(p)) @ y, *ends)
    assert found.uncrossed == (() if crossed else ("L1 mlp", "L1 mlp ← L0H2"))
    x.requires_grad_(True)
    value = block.mlp(block.ln_2(x)) @ y
    (expected,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(found.vectors[0], expected, atol=1e-4, rtol=1e-3)


def test_the_crossing_is_found_and_without_one_the_nearest_point() -> None:
    a, b = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 1.0])
    at, crossed = crossing(lambda x: x[:, 0] - 0.777, a, b)
    torch.testing.assert_close(at, torch.tensor([0.777, 1.0]), atol=1e-5, rtol=0)
    nearest, none = crossing(lambda x: x[:, 0] + 1, a, b)
    assert torch.equal(nearest, a) and crossed and not none


def test_a_pair_without_a_zero_between_fails_the_check() -> None:
    """Row 49: the same text twice, and a reading that is above zero everywhere; said by path."""
    model = interp.wrap(zoo.make("gpt2"))
    wanted, paths = contrast(model, [19], [31]), [["L1 mlp"], ["L0H2"], ["L2H0", "L1 mlp", "L0H1"]]
    site = "blocks.1.hook_resid_mid"
    block = model.module.transformer.h[1]
    y = path_vectors(model, wanted, [[]]).vectors[0]
    with torch.no_grad():  # on the first path every input reads 1,000 times the bias along y
        block.mlp.c_proj.bias.add_(1e3 * y / y.norm())
    same = path_vectors(model, wanted, paths, pair=(IDS, IDS.flip(0)))
    ends = [model.capture(t, site)[site][0, -1] for t in (IDS, IDS.flip(0))]
    with torch.no_grad():
        assert all(float(block.mlp(block.ln_2(x)) @ y) > 0 for x in ends)
    assert same.uncrossed is not None and "L1 mlp" in same.uncrossed and "L0H2" not in same.uncrossed
    assert not same.check().ok and "no zero between the pair: L1 mlp" in same.caption
    # Between a text that reads above zero and one below there is a zero.
    with torch.no_grad():
        reads = [float(block.mlp(block.ln_2(x)) @ y) for x in ends]
        block.mlp.c_proj.bias.sub_(sum(reads) / 2 * y / y.dot(y))
    both = path_vectors(model, wanted, paths[:2], pair=(IDS, IDS.flip(0)))
    assert both.uncrossed == () and both.check().ok and both.caption == ""
    assert path_vectors(model, wanted, paths[1:2]).uncrossed is None


# --- coupling ----------------------------------------------------------------------------------


def test_the_coupling_coefficient_is_the_slope_over_isotropic_points() -> None:
    draw = torch.Generator().manual_seed(0)
    y1 = torch.randn(64, generator=draw)
    y2 = 0.5 * y1 + torch.randn(64, generator=draw)
    x = torch.randn(20_000, 64, generator=draw)
    a, b = x @ y1, x @ y2
    slope = float((a * b).sum() / a.pow(2).sum())
    r2 = float(torch.corrcoef(torch.stack([a, b]))[0, 1] ** 2)
    cosine = torch.nn.functional.cosine_similarity(y1, y2, dim=0)
    assert abs(float(measure_coupling(y1, y2)) - slope) < 0.02
    assert abs(float(cosine) ** 2 - r2) < 0.02
    assert float(measure_coupling(y1, y1)) == pytest.approx(1.0)


# --- the phenomenon, and the null --------------------------------------------------------------


@pytest.fixture(scope="module")
def names(full_count: bool) -> toys.Names:
    return toys.train_names(250 if full_count else 70)


def auc(gender: Tensor, scores: Tensor) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(gender, scores.detach()))


def test_one_pair_of_texts_finds_the_gender_of_500_names_it_never_saw(names: toys.Names) -> None:
    gender, model = names.gender, names.model
    wanted = contrast(model, [toys.SHE], [toys.HE])
    every = toys.sentences(gender, torch.arange(toys.N_NAMES), 0)[:, :-1]
    x = model.capture(every, ENTRY)[ENTRY][:, 1].detach()
    ours, plain, null = [], [], []
    for k in range(6):
        she, he = int(gender.nonzero()[7 * k]), int((~gender).nonzero()[5 * k])
        rest = torch.tensor([i for i in range(toys.N_NAMES) if i not in (she, he)])[:500]
        pair = [propagate(model, names.prompt(i), wanted, ENTRY) for i in (she, he)]
        vector = (pair[0].vectors + pair[1].vectors)[1]
        ours.append(auc(gender[rest], x[rest] @ vector))
        plain.append(auc(gender[rest], x[rest] @ (x[she] - x[he])))
        other = model.randomised(k)
        unlearned = propagate(other, names.prompt(she), wanted, ENTRY).vectors[1]
        y = other.capture(every, ENTRY)[ENTRY][:, 1].detach()
        null.append(auc(gender[rest], y[rest] @ unlearned))
    mean = [sum(values) / len(values) for values in (ours, plain, null)]
    figures = f"ROC-AUC: observable {ours}, mean difference {plain}, random model {null}"
    assert min(ours) >= 0.95, figures
    assert mean[1] <= mean[0] - 0.05, figures
    assert 0.4 < mean[2] < 0.6, figures
    labelled = x[:200][gender[:200]].mean(0) - x[:200][~gender[:200]].mean(0)
    tie = auc(gender[200:], x[200:] @ labelled), auc(gender[200:], x[200:] @ vector)
    assert abs(tie[0] - tie[1]) < 0.02, f"with 200 labels both tie: {tie}"


def test_coupling_predicts_what_the_model_does_on_its_own_data(names: toys.Names) -> None:
    """Over the 600 names: slope of one feature on another against C, where the fit is good."""
    model = names.model
    trait = toys.TRAITS
    # What is read, and where it is said: the pronoun at the end, the trait after IS.
    contrasts = {
        "gender": (contrast(model, [toys.SHE], [toys.HE]), -1),
        "she": (contrast(model, [toys.SHE], [trait]), -1),
        "trait": (contrast(model, [trait], [trait + 1]), 2),
    }
    vectors = torch.stack(
        [
            propagate(model, names.prompt(3), wanted, ENTRY, position=at).vectors[1]
            for wanted, at in contrasts.values()
        ]
    )
    x = model.capture(torch.arange(toys.N_NAMES)[:, None], "hook_embed")["hook_embed"][:, 0]
    x = (x - x.mean(0)).detach()
    a, b = x @ vectors[0], x @ vectors[1]
    slope = float((a * b).sum() / a.pow(2).sum())
    r2 = float(torch.corrcoef(torch.stack([a, b]))[0, 1] ** 2)
    found = float(measure_coupling(vectors[0], vectors[1]))
    assert r2 > 0.5 and abs(found - slope) < 0.1, (found, slope, r2)
    cosines = FeatureVectors(
        vectors=vectors,
        scores=None,
        total=None,
        gap=None,
        names=tuple(contrasts),
        affine=False,
        sites=(ENTRY,) * 3,
        observable="",
        norms="frozen",
    ).cosines()
    assert abs(float(cosines[0, 2])) < 0.5 < float(cosines[0, 1])  # traits are another matter


# --- results and errors ------------------------------------------------------------------------


def test_results_are_folders_and_pictures(names: toys.Names, tmp_path: Path) -> None:
    model, prompt = names.model, names.prompt(3)
    wanted = contrast(model, [toys.SHE], [toys.HE])
    paths = path_vectors(model, wanted, [["L1H0"], ["L1H1"]], name="she − he")
    assert paths.plot().data[0].z.shape == (2, 2)
    scored = score_tokens(model, prompt, paths)
    x = model.capture(prompt, "blocks.1.hook_resid_pre")["resid_pre", 1][0]
    torch.testing.assert_close(scored.scores, (x @ paths.vectors.T).T)
    torch.testing.assert_close(paths.read(x), x @ paths.vectors.T)
    assert scored.plot().data[0].z.shape == (2, 6)
    for result in (paths, scored, propagate(model, prompt, wanted, ENTRY)):
        result.save(tmp_path / type(result).__name__, overwrite=True)
        again = Result.load(tmp_path / type(result).__name__)
        assert again.names == result.names and type(again) is type(result)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m, o: propagate(m, IDS, torch.ones(5), ENTRY), ShapeError, "one weight per token"),
        (lambda m, o: propagate(m, IDS, o, "blocks.*.hook_resid_pre"), SiteError, "at one site"),
        (lambda m, o: propagate(m, IDS, o, "blocks.0.hook_resid_pree"), SiteError, "resid_pre"),
        (lambda m, o: propagate(m, IDS, o, "blocks.0.hook_q"), SiteError, "no"),
        (lambda m, o: path_vectors(m, o, [["L1H9"]]), ConfigError, "component has a wrong value"),
        (lambda m, o: path_vectors(m, o, [["L0H1", "L1H0"]]), ConfigError, "output to the input"),
        (lambda m, o: path_vectors(m, o, [["L1 mlp"]]), ConfigError, "between two texts"),
        (lambda m, o: contrast(m, []), ConfigError, "positive side"),
    ],
)
def test_bad_requests_are_explained(call: Any, kind: type[Exception], words: str) -> None:
    model = small()
    with pytest.raises(kind, match=words):
        call(model, contrast(model, [19], [31]))


def test_models_whose_patterns_cannot_be_held_are_refused() -> None:
    model = interp.wrap(zoo.make("falcon"))
    with pytest.raises(ModelError, match="cannot be held"):
        propagate(model, IDS, contrast(model, [19], [31]), ENTRY)
