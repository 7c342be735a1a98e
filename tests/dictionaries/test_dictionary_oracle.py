"""A `Dictionary` means what the installed SAELens means by the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import sae_lens
import torch
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor

from interp.dictionaries import Dictionary, DictionaryConfig
from interp.dictionaries.steps.table import TrainLoss, make_step
from tests.support.closeness import assert_close_across

D_IN, D_OUT, D_SAE, N = 13, 11, 53, 31


def random_state(dictionary: Dictionary, seed: int = 0) -> dict[str, Tensor]:
    """Numbers with no structure at all: nothing is zero, unit or shared."""
    source = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in dictionary.state_dict().items():
        state[name] = 0.3 * torch.randn(tensor.shape, generator=source)
    if "threshold" in state:
        state["threshold"] = state["threshold"].abs()
    return state


def pair(architecture: str, theirs: dict[str, Any], ours: dict[str, Any]) -> tuple[Any, Dictionary]:
    """An SAELens object and a dictionary of the same numbers."""
    about = {"d_in": D_IN, "d_sae": D_SAE}
    empty = Dictionary(DictionaryConfig(**about, **ours))
    dictionary = Dictionary.from_state(empty.config, random_state(empty))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        kind, config = get_sae_class(architecture)
        sae = kind(config(**about, **theirs))
    state = dictionary.state_dict()
    if "encoder" in state:
        state["W_enc"] = state.pop("encoder").T.contiguous()
    sae.load_state_dict(state)
    return sae, dictionary


FREE = {"apply_b_dec_to_input": False}
CASES = [
    ("standard", {}, {"activation": "relu"}),
    ("standard", FREE, {"activation": "relu", **FREE}),
    ("topk", {"k": 7}, {"k": 7}),
    ("topk", {"k": 7, "rescale_acts_by_decoder_norm": True}, {"k": 7, "rescale_acts_by_decoder_norm": True}),
    ("abstopk", {"k": 7}, {"k": 7, "activation": "abstopk"}),
    (
        "abstopk",
        {"k": 7, "rescale_acts_by_decoder_norm": True},
        {"k": 7, "activation": "abstopk", "rescale_acts_by_decoder_norm": True},
    ),
    ("jumprelu", {}, {"activation": "jumprelu"}),
    ("jumprelu", FREE, {"activation": "batchtopk", "k": 3.5, **FREE}),
    ("gated", {}, {"activation": "gated"}),
    ("matching_pursuit", {}, {"activation": "matching_pursuit"}),
    (
        "matching_pursuit",
        {"max_iterations": 5, "residual_threshold": 1.5, **FREE},
        {"activation": "matching_pursuit", "max_iterations": 5, "residual_threshold": 1.5, **FREE},
    ),
    (
        "matching_pursuit",
        {"max_iterations": 5, "stop_on_duplicate_support": False},
        {"activation": "matching_pursuit", "max_iterations": 5, "stop_on_duplicate_support": False},
    ),
    *[
        (
            name,
            {"d_out": D_OUT, **FREE},
            {"activation": activation, "d_out": D_OUT, "skip": "skip" in name, **FREE},
        )
        for name, activation in [
            ("transcoder", "relu"),
            ("skip_transcoder", "relu"),
            ("jumprelu_transcoder", "jumprelu"),
            ("jumprelu_skip_transcoder", "jumprelu"),
        ]
    ],
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case[:2])))
@pytest.mark.parametrize("norm", ["none", "expected_average_only_in", "constant_norm_rescale", "layer_norm"])
def test_encode_and_decode_are_saelens(case: tuple[str, dict, dict], norm: str) -> None:
    architecture, theirs, ours = case
    sae, dictionary = pair(
        architecture, theirs | {"normalize_activations": norm}, ours | {"normalize_activations": norm}
    )
    if architecture == "matching_pursuit":  # it diverges with long rows: every peer needs unit ones
        unit = dictionary.W_dec / dictionary.decoder_norms[:, None]
        dictionary.W_dec.data, sae.W_dec.data = unit, unit.clone()
    x = torch.randn(3, N, D_IN, generator=torch.Generator().manual_seed(1)) + 0.2
    with torch.no_grad():
        latents = sae.encode(x)
        assert 0 < (latents != 0).sum() < latents.numel()
        # In: the norm's sums, b_dec, the product, a bias; out: the product, b_dec, the norm undone.
        inward, outward = 2 * D_IN + 4, D_SAE + 3
        assert_close_across(dictionary.encode(x), latents, terms=inward)
        assert_close_across(dictionary.decode(latents), sae.decode(latents), terms=outward)
        assert_close_across(dictionary(x), sae(x), terms=inward + outward)
    assert dictionary.config.architecture == architecture


def test_hook_z_heads_are_flattened_as_saelens_does() -> None:
    about = {"metadata": sae_lens.saes.sae.SAEMetadata(hook_name="blocks.0.attn.hook_z")}
    sae, dictionary = pair(
        "topk", {"k": 5, "reshape_activations": "hook_z", **about}, {"k": 5, "reshape": "hook_z"}
    )
    # 13 is prime: one head of it, and the flat layout beside it
    x = torch.randn(3, 7, 13, 1)
    with torch.no_grad():
        assert_close_across(dictionary.encode(x), sae.encode(x), terms=D_IN + 3)
        assert dictionary(x).shape == x.shape
        assert_close_across(dictionary(x), sae(x), terms=D_IN + D_SAE + 5)
        assert torch.equal(dictionary.encode(x), dictionary.encode(x.flatten(-2)))


def test_batch_top_is_saelens_training_activation() -> None:
    kind, config = get_sae_training_class("batchtopk")
    about: dict[str, Any] = {"k": 3.5, "rescale_acts_by_decoder_norm": False}
    sae = kind(config(d_in=D_IN, d_sae=D_SAE, **about))
    dictionary = Dictionary(DictionaryConfig(d_in=D_IN, d_sae=D_SAE, activation="batchtopk", k=3.5))
    state = random_state(dictionary)
    for name in ("W_dec", "b_enc", "b_dec"):
        getattr(sae, name).data = state[name].clone()
        getattr(dictionary, name).data = state[name].clone()
    sae.W_enc.data, dictionary.encoder.data = state["encoder"].T.clone(), state["encoder"].clone()
    x = torch.randn(N, D_IN)
    with torch.no_grad():
        theirs = sae.encode(x)
        assert_close_across(dictionary.encode(x), theirs, terms=D_IN + 3)
        assert (theirs != 0).sum() == int(3.5 * N)


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu"])
def test_gradients_are_those_of_saelens_training(activation: str) -> None:
    """Its training step by autograd against ours written out; the same losses on both sides."""
    name = "standard" if activation == "relu" else activation
    more: dict[str, Any] = {
        "relu": {"l1_coefficient": 0.3},
        "topk": {"k": 5},
        "batchtopk": {"k": 3.5},
        "jumprelu": {"l0_coefficient": 0.3, "jumprelu_bandwidth": 0.3},
    }[activation]
    kind, make = get_sae_training_class(name)
    sae = kind(make(d_in=D_IN, d_sae=D_SAE, **more))
    in_topk_family = activation in ("topk", "batchtopk")
    about = {"rescale_acts_by_decoder_norm": True, "k": more["k"]} if in_topk_family else {}
    config = DictionaryConfig(d_in=D_IN, d_sae=D_SAE, activation=activation, bandwidth=0.3, **about)
    ours = Dictionary.from_state(config, random_state(Dictionary(config)))
    for parameter, tensor in ours.named_parameters():
        theirs = tensor.detach().clone()
        if parameter == "encoder":
            sae.W_enc.data = theirs.T.contiguous()
        else:
            getattr(sae, parameter).data = theirs
    x = torch.randn(N, D_IN, generator=torch.Generator().manual_seed(2))
    coefficients = {"relu": {"l1": 0.3}, "jumprelu": {"l0": 0.3}}.get(activation, {})
    given = TrainStepInput(
        sae_in=x, coefficients=coefficients, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
    )
    expected = sae.training_forward_pass(given).loss
    expected.backward()
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    loss, _ = make_step(ours, TrainLoss(coefficient=torch.tensor(0.3), dead=dead))(x, x)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, tensor in ours.named_parameters():
        theirs = sae.W_enc.grad.T if parameter == "encoder" else getattr(sae, parameter).grad
        assert theirs.abs().max() > 0
        assert (tensor.grad - theirs).abs().max() <= 1e-5 * theirs.abs().max(), parameter
