"""F29: the L0 on record finds imports that went wrong in silence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from interp.core.errors import ConfigError, NonFiniteError, ProvenanceError
from interp.dictionaries import Dictionary, check_l0
from tests.dictionaries.zoo import make, rows


def test_a_topk_read_as_relu_is_found() -> None:
    """sae-lens once loaded them so: L0 600 instead of 80."""
    topk = make("topk")
    topk.metadata = {"l0": 7.0}
    assert check_l0(topk, rows()).value == 1.0
    config = replace(topk.config, activation="relu", k=None)
    wrong = Dictionary.from_state(config, topk.state_dict())
    wrong.metadata = topk.metadata
    with pytest.raises(ProvenanceError, match=r"expected: about 7\.0"):
        check_l0(wrong, rows())
    check = check_l0(wrong, rows(), strict=False)
    assert not check.ok and check.value > 3


def test_a_lost_threshold_and_a_wrong_scale_are_found() -> None:
    jump = make("jumprelu").requires_grad_(False)
    jump.b_enc.zero_()
    jump.b_dec.zero_()
    jump.metadata = {"l0": float((jump.encode(rows()) > 0).sum(-1).double().mean())}
    assert check_l0(jump, rows(seed=4)).ok
    with pytest.raises(ProvenanceError):
        check_l0(jump, rows() / 10)
    jump.threshold.zero_()
    assert not check_l0(jump, rows(), within=1.2, strict=False).ok


def test_k_stands_in_for_a_record() -> None:
    topk = make("topk")
    topk.metadata = {"l0": "seven"}
    assert check_l0(topk, rows()).ok


def test_nothing_to_compare() -> None:
    relu = make("standard")
    relu.metadata = {}
    with pytest.raises(ConfigError, match="nothing to compare"):
        check_l0(relu, rows())
    with pytest.raises(ConfigError, match="rows"):
        check_l0(make("topk"), rows(0))
    bad = rows()
    bad[2, 3] = float("nan")
    with pytest.raises(NonFiniteError):
        check_l0(make("topk"), bad)
