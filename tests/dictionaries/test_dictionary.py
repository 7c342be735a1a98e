"""What a `Dictionary` refuses, and what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from interp.core.errors import ConfigError, ShapeError
from interp.core.protocols import Coder
from interp.dictionaries import Dictionary, DictionaryConfig

SIZES = {"d_in": 7, "d_sae": 23}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"activation": "topk"}, "needs k"),
        ({"k": 0}, "needs k"),
        ({"k": 24}, "at most d_sae = 23"),
        ({"k": 2.5}, "whole number"),
        ({"activation": "relu", "k": 3}, "has no k"),
        ({"activation": "relu", "rescale_acts_by_decoder_norm": True}, "topk family"),
        ({"k": 3, "d_out": 5}, "set apply_b_dec_to_input=False"),
        ({"k": 3, "site_in": "a", "site_out": "b"}, "set apply_b_dec_to_input=False"),
        ({"k": 3, "skip": True}, "copies the input"),
        (
            {"activation": "matching_pursuit", "d_out": 5, "apply_b_dec_to_input": False},
            "cannot be a transcoder",
        ),
        ({"activation": "matching_pursuit", "groups": (5, 23)}, "no groups"),
        ({"k": 3, "groups": (5, 11)}, "ending in d_sae = 23"),
        ({"k": 3, "groups": (11, 5, 23)}, "increasing"),
        ({"k": 3, "groups": (0, 23)}, "increasing"),
        ({"k": 3, "d_in": 0}, "d_in"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Dictionary(DictionaryConfig(**SIZES | given))


def test_architecture_is_saelens_name_or_none() -> None:
    free = {"d_out": 5, "apply_b_dec_to_input": False}
    expected = {
        ("relu", ""): "standard",
        ("relu", "t"): "transcoder",
        ("relu", "s"): "skip_transcoder",
        ("topk", ""): "topk",
        ("topk", "t"): "jumprelu_transcoder",
        ("batchtopk", ""): "jumprelu",
        ("batchtopk", "s"): "jumprelu_skip_transcoder",
        ("jumprelu", "t"): "jumprelu_transcoder",
        ("gated", ""): "gated",
        ("gated", "t"): None,
        ("abstopk", "t"): None,
        ("matching_pursuit", ""): "matching_pursuit",
    }
    for (activation, kind), name in expected.items():
        more = free | {"skip": kind == "s"} if kind else {}
        config = DictionaryConfig(**SIZES, activation=activation, **more)
        assert config.architecture == name


def test_states_that_do_not_fit_are_refused() -> None:
    d = Dictionary(DictionaryConfig(**SIZES, k=3))
    state = d.state_dict()
    with pytest.raises(ConfigError, match="threshold"):
        Dictionary.from_state(d.config, state | {"threshold": torch.zeros(23)})
    with pytest.raises(ConfigError, match="b_enc"):
        Dictionary.from_state(d.config, {k: v for k, v in state.items() if k != "b_enc"})
    with pytest.raises(ShapeError, match="encoder has another shape"):
        Dictionary.from_state(d.config, state | {"encoder": state["encoder"].T})


def test_seeds_decide_the_first_weights() -> None:
    config = DictionaryConfig(**SIZES, k=3)
    first, again, other = (Dictionary(config, seed) for seed in (0, 0, 1))
    assert torch.equal(first.W_dec, again.W_dec)
    assert not torch.equal(first.W_dec, other.W_dec)
    assert torch.allclose(first.decoder_norms, torch.ones(23))
    assert torch.equal(first.encoder, first.W_dec)
    assert isinstance(first, Coder)


def test_rows_of_another_width_and_wrong_questions_are_refused() -> None:
    d = Dictionary(DictionaryConfig(**SIZES, activation="relu"))
    with pytest.raises(ShapeError, match="another width"):
        d.encode(torch.zeros(3, 5))
    with pytest.raises(ConfigError, match="varies from row to row"):
        d.encode_sparse(torch.zeros(3, 7))
    pursuit = Dictionary(DictionaryConfig(**SIZES, activation="matching_pursuit"))
    with pytest.raises(ConfigError, match="no pre-activations"):
        pursuit.preactivations(torch.zeros(3, 7))
    about = {**SIZES, "k": 3, "normalize_activations": "layer_norm"}
    with pytest.raises(ConfigError, match="encoded last"):
        Dictionary(DictionaryConfig(**about)).decode(torch.zeros(3, 23))


def test_gradients_reach_inputs_through_encode_and_decode() -> None:
    """Circuits differentiate through a spliced dictionary."""
    for activation in ("relu", "topk", "jumprelu", "gated", "matching_pursuit"):
        more = {"k": 3} if activation == "topk" else {}
        d = Dictionary(DictionaryConfig(**SIZES, activation=activation, **more))
        x = torch.randn(5, 7, requires_grad=True)
        d(x).pow(2).sum().backward()
        assert x.grad is not None and x.grad.abs().sum() > 0


def test_importing_the_room_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, interp.dictionaries as d; d.DictionaryConfig; assert 'torch' not in "
    code += "sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
