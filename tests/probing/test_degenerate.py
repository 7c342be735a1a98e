"""Row F16 through every other call of the room: an InterpError, or numbers that are all finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from interp.core.errors import ConfigError, InterpError, NonFiniteError, ShapeError
from interp.probing import concepts
from interp.probing.config import (
    AttentionProbeConfig,
    ContextProbeConfig,
    ProbeConfig,
    SparseConfig,
    StructuralConfig,
)
from interp.probing.context_weights import probe_context
from interp.probing.erasing.audit import audit_erasure
from interp.probing.information import code_length, v_information
from interp.probing.probe import train_probe
from interp.probing.rows import encode
from interp.probing.solvers.spectrum import spectrum
from interp.probing.sparse import prune_neurons
from interp.probing.splits import split_rows
from interp.probing.syntax.attention import fit_attention_probe
from interp.probing.syntax.maps import WordMaps
from interp.probing.syntax.structural import structural_probe, tree_distances
from interp.studies.clamped_units import write_clamped
from interp.studies.config import OptimalConfig
from interp.studies.proved_supports import find_optimal_support
from interp.studies.sentiment_unit import find_unit
from tests.probing.rows import F16

Case = tuple[Tensor, Any, int]


def _attention(case: Case) -> Any:
    x, _, seed = case
    draw = torch.Generator().manual_seed(seed)
    heads = torch.randint(-1, 3, (len(x), 4), generator=draw)
    heads[heads == torch.arange(4)] = -1
    maps = x.float().mean(1)[:, None, None, None].expand(-1, 2, 4, 4)
    sentences = [WordMaps(m, h, ("a",) * 4) for m, h in zip(maps, heads, strict=True)]
    return fit_attention_probe(sentences, AttentionProbeConfig(steps=2))


def _structural(case: Case) -> Any:
    x, _, seed = case
    trees = [[1, -1, 1, 2, 3], [-1, 0, 1, 2, 3, 3], [1, 2, -1, 2, 3]]
    parts = [x[:5], x[:6], x[-5:]]
    return structural_probe(
        parts, trees[: 2 + seed % 2] + trees[:1] * (1 - seed % 2), StructuralConfig(steps=2, rank=3)
    )


def _context(case: Case) -> Any:
    x = case[0]
    return probe_context(x[None, :, None], {"w": x[:, :2]}, ContextProbeConfig(steps=2, hidden=3))


QUICK = ProbeConfig(kind="mlp", steps=2, hidden=3)
CALLS: dict[str, Callable[[Case], Any]] = {
    "mlp": lambda c: train_probe(c[0], c[1], QUICK)(c[0].float()),
    "code": lambda c: code_length({"s": c[0]}, c[1]),
    "information": lambda c: v_information({"s": c[0]}, c[0][:, :2] + c[2]),
    "unit": lambda c: find_unit(c[0], c[1], strengths=(1.0,)),
    "pruning": lambda c: prune_neurons(c[0], c[1], SparseConfig(), k=1 + c[2] % 3, rounds=2),
    "support": lambda c: find_optimal_support(c[0], c[1], 1 + c[2] % 3, OptimalConfig(seconds=1.0)),
    "elude": lambda c: concepts.elude(c[0], c[0], _codes(c[1]), ranks=(1,), steps=2),
    "audit": lambda c: audit_erasure(c[0], {"y": c[1]}, "y", probe=QUICK),
    "writing": lambda c: write_clamped(lambda h: torch.ones(2), lambda s: s, c[0], c[1], 0, n_random=1),
    "attention": _attention,
    "structural": _structural,
    "context": _context,
}


def _codes(labels: list[Any]) -> Tensor:
    return torch.tensor([sorted(set(labels)).index(value) for value in labels])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few rows, constant and repeated ones, extreme scales, one class, three, numbers."""
    n, d = draw(st.integers(1, 17)), draw(st.integers(1, 11))
    seed = draw(st.integers(0, 99))
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    x = x * 10.0 ** draw(st.integers(-12, 12)) + draw(st.sampled_from([0.0, 1.0, -1e6]))
    if draw(st.booleans()):
        x[:, draw(st.integers(0, d - 1))] = draw(st.sampled_from([0.0, 5.0, -1e9]))
    if draw(st.booleans()):
        x[:] = x[0].clone()
    labels: list[Any] = draw(
        st.lists(st.integers(0, 1), min_size=n, max_size=n)
        | st.lists(st.sampled_from("abc"), min_size=n, max_size=n)
        | st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n)
    )
    return x, labels, seed


@pytest.mark.thin(3)
@pytest.mark.parametrize("call", CALLS)
def test_f16_every_call_gives_numbers_or_one_error(call: str) -> None:
    refused: list[str] = []

    @F16
    @given(case=cases())
    def run(case: Case) -> None:
        try:
            found = CALLS[call](case)
        except NonFiniteError as error:  # finite input must not become this
            raise AssertionError(f"{call}: {error}") from error
        except InterpError as error:
            refused.append(str(error))
            return
        if isinstance(found, Tensor):
            assert bool(torch.isfinite(found).all())
        # A Result has checked its own arrays.

    run()
    assert refused or call in ("structural", "context", "information")


# --- what was wrong once -------------------------------------------------------------------------


def test_the_unit_of_a_feature_never_makes_it_constant() -> None:
    x = torch.randn(97, 3)
    plain = spectrum(x)
    for scale in (1e-30, 1e25):
        scaled = spectrum(x * scale)
        assert len(scaled.power) == 3
        torch.testing.assert_close(scaled.power, plain.power, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["a", float("nan"), "b"], "nan at row 1"),  # how tables write a missing name
        (["a", None, "b"], "None at row 1"),
        ([(1, 2), (1, 3), (1, 2)], "neither text nor number"),
        ([[1], [2], [1]], "neither text nor number"),
        ([1j, 2j, 1j], "neither text nor number"),
    ],
)
def test_what_is_no_label_is_named(labels: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        encode("y", labels)


def test_scalars_of_other_libraries_are_labels() -> None:
    import numpy as np

    assert encode("y", list(np.array([1, 0, 1]))).kind == "binary"
    assert encode("y", [torch.tensor(0.5), torch.tensor(2.0)]).kind == "real"
    assert encode("y", [np.bool_(True), np.bool_(False)]).classes == ("False", "True")


def test_a_class_without_training_rows_is_never_guessed() -> None:
    # Class "0" occurs once, in a test row: its logit used to tie with the first trained class.
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(1, 3, (200,), generator=draw)
    lone = int(split_rows(200, 0.3, 0).test[0])
    y[lone] = 0
    a = y[:, None].float() + 0.1 * torch.randn(200, 1, generator=draw)
    found = concepts.elude(a, torch.randn(200, 5), y, ranks=(1,), steps=1, strength=10.0)
    assert float(found.attributes_only) > 0.9


def test_empty_and_broken_concept_metrics_are_refused() -> None:
    empty, nan = torch.zeros(0, 3), torch.full((2, 3), torch.nan)
    with pytest.raises(ShapeError):
        concepts.score_concept_existence(empty, empty)
    with pytest.raises(NonFiniteError):
        concepts.score_concept_existence(nan, torch.ones(2, 3))
    with pytest.raises(NonFiniteError):
        concepts.score_concept_agreement(nan, torch.ones(2, 3))
    with pytest.raises(ShapeError):
        concepts.score_concept_location(torch.zeros(0, 4, 4), torch.zeros(0, 4, 4))


def test_pruning_and_sites_are_checked() -> None:
    x, y = torch.randn(30, 4), [0, 1] * 15
    for k, rounds in ((5, 1), (0, 1), (1, -1)):
        with pytest.raises(ConfigError, match="pruning"):
            prune_neurons(x, y, k=k, rounds=rounds)
    with pytest.raises(ShapeError, match="different rows"):
        code_length({"a": x, "b": x[:9]}, y)
    with pytest.raises(ShapeError, match="different rows"):
        v_information({"a": x, "b": x[:9]}, torch.randn(30, 2))


def test_sentences_without_arcs_are_refused() -> None:
    blank = WordMaps(torch.rand(2, 3, 3), torch.tensor([-1, -1, -1]), ("a",) * 3)
    with pytest.raises(ConfigError, match="no arc"):
        fit_attention_probe([blank] * 4)
    with pytest.raises(ConfigError, match="too few"):
        fit_attention_probe([])
    assert tree_distances([-1]).tolist() == [[0]]
