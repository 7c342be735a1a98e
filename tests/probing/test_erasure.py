"""Erasure: LEACE's guarantee and optimality, INLP's projection, what is left in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import Tensor

import interp
from interp.core.errors import ConfigError, InterpError, ProvenanceError, ShapeError
from interp.core.result import Result
from interp.models.losses import text_losses
from interp.probing import EraseConfig, Moments, ProbeConfig, probe_sweep, split_rows
from interp.probing.erasing.audit import ablate_concept, audit_erasure
from interp.probing.erasing.eraser import Eraser, eraser_of, fit_eraser, random_eraser
from tests.models import tokenizers
from tests.probing.languages import texts, trained
from tests.probing.rows import F16, small


def concept(n: int = 6000, d: int = 64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The method page's data: z on one strong and two noisy directions, a correlated main task."""
    draw = torch.Generator().manual_seed(seed)
    z = torch.randint(2, (n,), generator=draw)
    t = torch.where(torch.rand(n, generator=draw) < 0.7, z, 1 - z)
    x = torch.randn(n, d, generator=draw, dtype=torch.float64)
    sign, main = z * 2.0 - 1, t * 2.0 - 1
    x[:, 0] += 4 * sign
    x[:, 1] += sign
    x[:, 2] += 0.5 * sign
    x[:, 3] += 6 * main
    mix = torch.eye(d) + 0.1 * torch.randn(d, d, generator=draw)
    return x @ mix.double() + 1.0, z, t


def cross(x: Tensor, z: Tensor) -> float:
    return float(Moments(x.shape[1], 1).update(x, z[:, None]).xz.abs().max()) / len(x)


# --- identity ----------------------------------------------------------------------------------


def test_leace_is_the_formula_of_the_paper() -> None:
    x, z, _ = concept(997, 13)
    sigma = np.cov(x.numpy().T, bias=True)
    white = scipy.linalg.fractional_matrix_power(sigma, -0.5)
    sxz = ((x - x.mean(0)).T @ (z - z.double().mean())[:, None] / len(x)).numpy()
    u = scipy.linalg.orth(white @ sxz)
    expected = np.eye(13) - np.linalg.inv(white) @ u @ u.T @ white
    eraser = fit_eraser(x, z)
    np.testing.assert_allclose(eraser.projection, expected, atol=1e-9)
    torch.testing.assert_close(eraser(x), x.mean(0) + (x - x.mean(0)) @ eraser.projection.T)


@pytest.mark.parametrize("labels", ["two", "five", "real"])
def test_nothing_linear_is_left_and_nothing_moves_less(labels: str) -> None:
    x, z, _ = concept(2003, 17)
    draw = torch.Generator().manual_seed(5)
    wanted: Tensor = {
        "two": z,
        "five": (2 * z + torch.randint(2, (len(z),), generator=draw) * (z + 1)),
        "real": x[:, 0] + x[:, 5].square(),
    }[labels]
    eraser = fit_eraser(x, wanted)
    columns = wanted.double()[:, None] if labels == "real" else (wanted[:, None] == wanted.unique()).double()
    sums = Moments(17, columns.shape[1]).update(eraser(x), columns)
    assert float(sums.xz.abs().max()) / len(x) <= 1e-8
    # First-order optimality over all affine maps that leave no covariance: the change is
    # orthogonal, in the metric of Cov(x), to every map D with D Cov(x, z) = 0.
    before = Moments(17, columns.shape[1]).update(x, columns)
    change = eraser.left @ eraser.right
    sigma = before.xx / before.n
    null = scipy.linalg.null_space((before.xz / before.n).T.numpy())
    directions = torch.randn(17, null.shape[1], dtype=torch.float64) @ torch.from_numpy(null).T
    tilt = float((change @ sigma * directions).sum() / (change.norm() * directions.norm()))
    assert abs(tilt) < 1e-9
    torch.testing.assert_close(eraser.projection @ eraser.projection, eraser.projection)
    assert eraser.rank <= (1 if labels in ("two", "real") else len(wanted.unique()) - 1)


def test_streamed_sums_give_the_same_eraser_in_any_cut() -> None:
    x, z, _ = concept(1009, 11)
    whole = fit_eraser(x, z)
    columns = torch.nn.functional.one_hot(z, 2).double()
    for size in (1, 97, 500):
        sums = Moments(11, 2)
        for a, b in zip(x.split(size), columns.split(size), strict=True):
            sums.update(a, b)
        torch.testing.assert_close(eraser_of(sums).projection, whole.projection)


def test_weak_concepts_are_erased_too() -> None:
    # Correlation .004 after whitening: below concept-erasure's absolute tolerance of .01.
    x = torch.randn(50_000, 7, dtype=torch.float64)
    z = (torch.randn(50_000) + 0.004 * x[:, 0] > 0).long()
    eraser = fit_eraser(x, z)
    assert eraser.rank == 1
    assert cross(x, z) > 1e-4 and cross(eraser(x), z) <= 1e-8


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_the_unit_of_the_rows_does_not_matter(scale: float) -> None:
    x, z, _ = concept(997, 13)
    torch.testing.assert_close(
        fit_eraser(x * scale, z).projection, fit_eraser(x, z).projection, atol=1e-8, rtol=1e-8
    )


# --- phenomenon: the figures of the method page ------------------------------------------------


def test_leace_beats_inlp_at_the_price_it_pays() -> None:
    x, z, t = concept()
    probe = ProbeConfig(n_shuffles=0, steps=150, hidden=32)
    audits = {
        method: audit_erasure(x, {"z": z, "t": t}, "z", EraseConfig(method=method), probe=probe)
        for method in ("leace", "mean_projection", "inlp")
    }
    leace, inlp = audits["leace"], audits["inlp"]
    figures = {m: (a.before[0].tolist(), a.after.tolist(), float(a.moved), a.rank) for m, a in audits.items()}
    assert float(leace.before[0, 0]) > 0.98, figures
    assert float(leace.after[0, 0]) <= float(leace.majority[0]) + 0.03, figures
    assert float(leace.covariance) <= 1e-14 and leace.check().ok, figures  # measured 3e-15
    assert float(leace.after[0, 1]) >= float(leace.before[0, 1]) - 0.01, figures
    assert leace.moved <= audits["mean_projection"].moved + 1e-12, figures
    assert audits["mean_projection"].moved <= inlp.moved, figures
    moved = [float(audits[m].moved) for m in ("leace", "mean_projection", "inlp")]
    assert moved == pytest.approx([0.23, 0.31, 0.55], abs=0.01), figures
    assert float(leace.random[0, 0]) > 0.95, figures  # the same rank at random takes nothing


def test_no_classifier_of_another_library_finds_it_again() -> None:
    x, z, _ = concept(4000, 29)
    train, test = slice(0, 2800), slice(2800, None)
    clean = fit_eraser(x[train], z[train])(x).numpy()
    most = max(float(z[test].double().mean()), 1 - float(z[test].double().mean()))
    for oracle in (LogisticRegression(C=1e3, max_iter=5000), LinearSVC(C=1.0, max_iter=5000)):
        again = oracle.fit(clean[train], z[train].numpy()).score(clean[test], z[test].numpy())
        assert again <= most + 0.03, (oracle, again)


def test_inlp_is_a_projection_whose_classifiers_fade() -> None:
    x, z, _ = concept(3000, 31)
    eraser = fit_eraser(x, z, EraseConfig(method="inlp", iterations=12))
    p = eraser.projection
    assert float((p @ p - p).abs().max()) <= 1e-10 and torch.allclose(p, p.T)
    assert float((eraser.right @ p).abs().max()) <= 1e-10  # no removed direction is left
    steps = np.diff(eraser.history)
    assert eraser.history[0] > 0.97 and eraser.history[-1] < 0.75, eraser.history
    assert steps.max() <= 0.03, eraser.history


def test_inlp_stops_where_its_classifier_knows_no_more_than_the_majority() -> None:
    z = torch.arange(2000) % 2
    x = torch.randn(2000, 41, generator=torch.Generator().manual_seed(0)).double()
    x[:, 0] += 6.0 * z
    eraser = fit_eraser(x, z, EraseConfig(method="inlp", iterations=40))
    cut = split_rows(2000, 0.3, 0)
    most = int(z[cut.train].bincount().argmax())
    floor = float((z[cut.test] == most).double().mean())
    assert len(eraser.history) < 15 and eraser.rank == len(eraser.history) - 1, eraser.history
    assert eraser.history[-1] <= floor < min(eraser.history[:-1]), (eraser.history, floor)


def test_inlps_classifiers_never_see_the_rows_that_judge_them() -> None:
    """More features than rows: whoever trains on a row gets it right, others guess."""
    draw = torch.Generator().manual_seed(1)
    x, z = torch.randn(120, 150, generator=draw).double(), torch.randint(2, (120,), generator=draw)
    eraser = fit_eraser(x, z, EraseConfig(method="inlp", iterations=1))
    cut = split_rows(120, 0.3, 0)
    (train, y_train), (test, y_test) = ((x[i].numpy(), z[i].numpy()) for i in (cut.train, cut.test))
    oracle = LogisticRegression(C=1.0, tol=1e-10, max_iter=2000).fit(train, y_train)
    assert eraser.history[0] == pytest.approx(oracle.score(test, y_test), abs=1.01 / len(test))
    every = LogisticRegression(C=1.0, tol=1e-10, max_iter=2000).fit(x.numpy(), z.numpy())
    assert every.score(test, y_test) > eraser.history[0] + 0.2


def test_an_audit_keeps_groups_together_where_inlp_splits_as_well() -> None:
    """Rows of a group are one row: whoever has seen one knows the label of all, and nothing is there."""
    draw = torch.Generator().manual_seed(3)
    group = torch.arange(300) // 5
    x = torch.randn(60, 41, generator=draw).double()[group]
    x += 0.01 * torch.randn(300, 41, generator=draw)
    z = torch.randint(2, (60,), generator=draw)[group]
    told = {"config": EraseConfig(method="inlp", iterations=6), "probe": ProbeConfig(n_shuffles=0, steps=5)}
    apart, alike = (audit_erasure(x, {"z": z}, "z", **told, groups=code) for code in (None, group))
    cut = split_rows(300, 0.3, 0, groups=group)
    own = fit_eraser(x[cut.train], z[cut.train], told["config"], groups=group[cut.train])
    assert alike.rank == own.rank < apart.rank == 6


def test_a_nonlinear_probe_is_run_and_may_still_see() -> None:
    # |x| tells the class: no mean difference, nothing linear; LEACE promises nothing here.
    draw = torch.Generator().manual_seed(0)
    z = torch.randint(2, (4000,), generator=draw)
    x = torch.randn(4000, 23, generator=draw).double()
    x[:, 0] *= 0.2 + 2 * z
    audit = audit_erasure(x, {"z": z}, "z", probe=ProbeConfig(n_shuffles=0, steps=600))
    linear, bent = audit.after[:, 0].tolist()
    assert linear < 0.56 and bent > 0.75 and audit.check().ok


# --- null --------------------------------------------------------------------------------------


def test_random_labels_leave_the_real_concept_alone() -> None:
    x, z, _ = concept(4000, 29)
    noise = torch.randint(2, (4000,), generator=torch.Generator().manual_seed(7))
    audit = audit_erasure(x, {"noise": noise, "z": z}, "noise", probe=ProbeConfig(n_shuffles=0))
    assert float(audit.after[0, 1]) > 0.97
    assert float(audit.moved) < 0.05


# --- in the model ------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["blocks.0.hook_resid_post", "blocks.0.attn.hook_z"])
def test_the_hook_erases_in_the_model_and_amnesic_probing_compares(site: str) -> None:
    words = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(words)), words)
    colours = "red green blue".split()
    texts = [" ".join(colours[i] for i in torch.randint(3, (9,)).tolist()) for _ in range(40)]
    batch = model.tokenize(texts)
    rows = model.capture(batch, site)[site].flatten(0, 1).flatten(1)
    is_red = (batch.ids == model.to_single_token("red")).flatten().long()
    eraser = fit_eraser(rows, is_red, provenance=model.provenance([site]))
    later = model.capture(batch, site, fwd_hooks=[eraser.hook(site)])[site].flatten(0, 1).flatten(1)
    assert cross(rows.double(), is_red) > 1e-2 and cross(later.double(), is_red) < 1e-6
    found = ablate_concept(model, batch, site, eraser, n_random=3)
    assert found.random.shape == (3, 40)
    with torch.no_grad():
        logits = model(texts[0])
    ids = batch.ids[:1]
    expected = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert float(found.intact[0]) == pytest.approx(float(expected), abs=1e-5)
    assert float((found.ablated - found.intact).abs().max()) > 1e-3
    assert torch.equal(text_losses(model, batch), found.intact)  # nothing stays behind


@pytest.mark.parametrize("by_head", [False, True])
def test_at_a_site_of_heads_the_hook_reads_rows_as_they_were_fitted(by_head: bool) -> None:
    """All heads side by side, as `gather` lays them, or each head alone, by the rows' width."""
    model, site = interp.wrap(small(d_vocab=31)), "blocks.0.attn.hook_z"
    ids = torch.randint(31, (5, 7))
    z = model.capture(ids, site)[site]  # [text pos head d_head]
    rows = z.flatten(0, 2) if by_head else z.flatten(0, 1).flatten(1)
    eraser = fit_eraser(rows, (torch.arange(len(rows)) % 2).tolist())
    later = model.capture(ids, site, fwd_hooks=[eraser.hook(site)])[site]
    p, mean = eraser.projection.numpy(), eraser.mean.numpy()
    expected = mean + (rows.double().numpy() - mean) @ p.T
    np.testing.assert_allclose(later.reshape(rows.shape), expected, atol=1e-5)
    assert float((later - z).abs().max()) > 1e-2
    with pytest.raises(ShapeError, match="another width"):
        wrong = fit_eraser(torch.randn(20, 5), [0, 1] * 10)
        model.capture(ids, site, fwd_hooks=[wrong.hook(site)])


def test_a_concept_that_is_used_costs_more_than_random_directions() -> None:
    # A model of two languages must know which one it reads; one with random weights tells much
    # of it (its embeddings differ), but has no use for it.
    model, site = trained(0), "blocks.0.hook_resid_post"
    ids, language = texts(200, 0, -1)
    tongue = language[:, None].expand(-1, 15).flatten()
    found = []
    for one in (model, model.randomised(0)):
        rows = one.capture(ids, site)[site][:, 1:].flatten(0, 1)
        read = probe_sweep({site: rows}, tongue, ProbeConfig(n_shuffles=0))
        assert float(read.score[0, 0]) > 0.75  # measured: 1.00, .86
        eraser = fit_eraser(rows, tongue, provenance=one.provenance([site]))
        found.append(ablate_concept(one, interp.models.TokenBatch.of(ids), site, eraser, n_random=5))
    used, null = found
    effect, blank = float(used.effect), float(null.effect)
    figures = f"{effect:.3f}, random {used.random_effects.tolist()}, blank {blank:.3f}"
    assert used.rank == null.rank == 1
    # Measured: .32 nats, random directions .01 to .08.
    assert effect > 3 * float(used.random_effects.max()), figures
    assert abs(blank) < effect / 3, figures


def test_another_model_or_site_is_refused() -> None:
    model = interp.wrap(small(d_vocab=31))
    site = "blocks.0.hook_resid_post"
    x = torch.randn(50, 24)
    eraser = fit_eraser(x, [0, 1] * 25, provenance=model.provenance([site]))
    ids = interp.models.TokenBatch.of(torch.randint(31, (2, 5)))
    with pytest.raises(ProvenanceError, match="sites"):
        ablate_concept(model, ids, "blocks.1.hook_resid_post", eraser)
    with pytest.raises(ProvenanceError, match="model_fingerprint"):
        ablate_concept(model.randomised(1), ids, site, eraser)
    assert ablate_concept(model.randomised(1), ids, site, eraser, strict=False).rank == 1


# --- the artefact, and bad input ---------------------------------------------------------------


def test_an_eraser_is_an_artefact(tmp_path: Path) -> None:
    x, z, t = concept(499, 7)
    for method in ("leace", "inlp"):
        eraser = fit_eraser(x, z, EraseConfig(method=method), name="z")
        eraser.save(tmp_path / method)
        again = Eraser.load(tmp_path / method)
        assert torch.equal(again(x), eraser(x))
        assert (again.method, again.concept, again.history) == (method, "z", eraser.history)
    audit = audit_erasure(x, {"z": z, "t": t}, "z", probe=ProbeConfig(steps=20, n_shuffles=0))
    audit.save(tmp_path / "audit")
    assert torch.equal(Result.load(tmp_path / "audit").after, audit.after)


def test_bad_requests_are_explained() -> None:
    x, z, _ = concept(99, 7)
    with pytest.raises(ConfigError, match="erased has a wrong value") as error:
        audit_erasure(x, {"gender": z}, "gander")
    assert "did you mean 'gender'" in str(error.value)
    with pytest.raises(ConfigError, match="erases classes"):
        fit_eraser(x, x[:, 0], EraseConfig(method="inlp"))
    with pytest.raises(ConfigError, match="one class only"):
        fit_eraser(x, [1] * 99)
    with pytest.raises(ShapeError, match="another width"):
        fit_eraser(x, z)(torch.randn(3, 8))
    with pytest.raises(ConfigError, match="needs rows"):
        eraser_of(Moments(3, 1))
    with pytest.raises(ConfigError, match="rank"):
        random_eraser(4, torch.zeros(3))


@F16
@given(n=st.integers(2, 19), d=st.integers(1, 29), seed=st.integers(0, 99), flat=st.booleans())
def test_f16_degenerate_rows(n: int, d: int, seed: int, flat: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=draw) * 10.0 ** float(torch.randint(-9, 9, (1,), generator=draw))
    if flat:
        x[:] = x[0].clone()
    z: Any = torch.randint(3, (n,), generator=draw)
    for method in ("leace", "mean_projection", "inlp"):
        try:
            eraser = fit_eraser(x, z, EraseConfig(method=method))
        except InterpError:
            continue
        assert bool(torch.isfinite(eraser(x)).all())
        if method == "leace":
            columns = torch.nn.functional.one_hot(z).double()
            sums = Moments(d, columns.shape[1]).update(eraser(x.double()), columns)
            assert float(sums.xz.abs().max()) / n <= 1e-8 * max(float(x.abs().max()), 1e-8)
