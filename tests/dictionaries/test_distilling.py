"""A one-pass encoder learned from pursuit detects as well as any linear one can."""

from __future__ import annotations

import pytest
import torch

from interp.core.errors import ConfigError
from interp.dictionaries import (
    Dictionary,
    DictionaryConfig,
    DistilConfig,
    SyntheticConfig,
    SyntheticWorld,
    distil,
    score_ceilings,
    score_recovery,
)
from tests.dictionaries.test_recovery import pursuit

SMALL = SyntheticConfig(d=23, n_features=47, p_first=0.08, p_last=0.02, seed=3)


@pytest.mark.full
def test_the_student_reaches_the_one_pass_ceiling_at_the_teachers_sparsity() -> None:
    world = SyntheticWorld(SMALL)
    teacher = pursuit(world.features)
    student = distil(teacher, lambda t: world.batch(t, 512), DistilConfig(steps=300, lr=0.03))
    taught = score_recovery(teacher, world, 4000, with_ceiling=False)
    found = score_recovery(student, world, 4000, with_ceiling=False)
    best = score_ceilings(world, 4000)["one pass"]["f1"]
    assert float(found.f1.mean()) > best - 0.04
    assert found.mcc == pytest.approx(1, abs=1e-6) and found.dead == 0
    assert float(found.l0) == pytest.approx(float(taught.l0), rel=0.05)
    assert float(found.fvu) < 0.35
    assert student.config.activation == "gated"
    # null: before it learned, the same gate detects far worse
    raw = distil(teacher, lambda t: world.batch(t, 512), DistilConfig(steps=1, lr=0.0))
    assert float(score_recovery(raw, world, 4000, with_ceiling=False).f1.mean()) < best - 0.08


@pytest.mark.full
def test_magnitudes_are_the_regression_on_what_the_teacher_takes() -> None:
    """Orthogonal features: the student fires with the teacher, and as strongly."""
    basis = torch.linalg.qr(torch.randn(13, 13))[0]
    teacher = pursuit(basis, residual_threshold=0.3)

    def rows(t: int) -> torch.Tensor:
        source = torch.Generator().manual_seed(t)
        size = 1 + 0.1 * torch.randn(256, 13, generator=source)
        return (size * (torch.rand(256, 13, generator=source) < 0.2)) @ basis

    student = distil(teacher, rows, DistilConfig(steps=100))
    with torch.no_grad():
        wanted, found = teacher.encode(rows(999)), student.encode(rows(999))
    assert torch.equal(wanted > 0, found > 0)
    off = (found - wanted).square().sum() / wanted.square().sum()
    scaled = (1.2 * wanted - wanted).square().sum() / wanted.square().sum()
    assert float(off) < 0.02 < float(scaled)


def test_what_cannot_be_distilled_is_refused() -> None:
    config = DictionaryConfig(
        d_in=5, d_out=5, d_sae=7, k=2, apply_b_dec_to_input=False, site_in="a", site_out="b"
    )
    with pytest.raises(ConfigError, match="plain SAEs"):
        distil(Dictionary(config), lambda t: torch.randn(8, 5))
    with pytest.raises(ConfigError, match="steps"):
        distil(pursuit(torch.eye(5)), lambda t: torch.randn(8, 5), DistilConfig(steps=0))


@pytest.mark.full
def test_a_latent_the_common_offset_would_silence_fires_as_often_as_the_teachers() -> None:
    """Two rows of pursuit that point nearly alike, and a gate that learned nothing."""
    world = SyntheticWorld(SMALL)
    rows = world.features.clone()
    rows[1] = torch.nn.functional.normalize(rows[0] + 0.1 * rows[1], dim=0)
    teacher = pursuit(rows)
    student = distil(teacher, lambda t: world.batch(t, 512), DistilConfig(steps=200))
    x = world.sample(6000, 0, "held out").x
    with torch.no_grad():
        taken, fired = (teacher.encode(x) > 0).sum(0), (student.encode(x) > 0).sum(0)
    assert bool((fired[taken > 20] > 0.1 * taken[taken > 20]).all())
