"""F21: what must hold for every dictionary, whatever its numbers, sizes, dtype and kind.

x = reconstruction + error; a splice with its error term changes nothing; folding norms or scales
is the same function; a row encodes alike alone and in a batch; no more latents than asked for.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import interp
from interp.core.errors import ConfigError, ProvenanceError, ShapeError, SiteError
from interp.dictionaries import Dictionary, DictionaryConfig
from tests.models.zoo import D, H

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
ACTIVATIONS = ("relu", "topk", "abstopk", "batchtopk", "jumprelu", "gated", "matching_pursuit")
BOUND = {"float32": 2e-5, "float64": 1e-10}


@st.composite
def dictionaries(draw: st.DrawFn, **fixed: Any) -> Dictionary:
    """Any dictionary of random numbers."""
    activation = fixed.get("activation") or draw(st.sampled_from(ACTIVATIONS))
    d_in, d_sae = (draw(st.sampled_from(PRIMES)) for _ in range(2))
    about: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": d_sae,
        "activation": activation,
        "dtype": draw(st.sampled_from(sorted(BOUND))),
        "apply_b_dec_to_input": draw(st.booleans()),
    }
    if activation in ("topk", "abstopk", "batchtopk"):
        about["k"] = draw(st.integers(1, d_sae))
        about["rescale_acts_by_decoder_norm"] = draw(st.booleans())
    if activation != "matching_pursuit" and draw(st.booleans()):
        about |= {"d_out": draw(st.sampled_from(PRIMES)), "apply_b_dec_to_input": False}
        about["skip"] = draw(st.booleans())
    elif draw(st.booleans()):
        about["normalize_activations"] = draw(
            st.sampled_from(["layer_norm", "constant_norm_rescale", "expected_average_only_in"])
        )
    return filled(Dictionary(DictionaryConfig(**about | fixed)), draw(st.integers(0, 10**6)))


def filled(dictionary: Dictionary, seed: int) -> Dictionary:
    source = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in dictionary.state_dict().items():
        noise = torch.randn(tensor.shape, generator=source, dtype=torch.float64)
        if name == "W_dec":
            noise /= noise.norm(dim=1, keepdim=True)
            if dictionary.config.activation != "matching_pursuit":
                noise *= 0.5 + torch.rand(len(noise), 1, generator=source, dtype=torch.float64)
        state[name] = noise.abs() if name == "threshold" else noise
    return Dictionary.from_state(dictionary.config, state)


def rows(dictionary: Dictionary, n: int = 7, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(n, dictionary.config.d_in, generator=source, dtype=torch.float64)
    return x.to(dictionary.W_dec.dtype)


def size(dictionary: Dictionary, *tensors: Tensor) -> float:
    """Rounding allowed: relative to the largest number around."""
    return BOUND[dictionary.config.dtype] * max(1.0, *(float(t.abs().max()) for t in tensors))


def skewed(dictionary: Dictionary) -> bool:
    """layer_norm of one number is 0 / 0: what SAELens computes, and nobody's data."""
    return dictionary.config.d_in < 3 and dictionary.config.normalize_activations == "layer_norm"


@given(dictionary=dictionaries())
def test_target_is_reconstruction_plus_error(dictionary: Dictionary) -> None:
    if skewed(dictionary):
        return
    x = rows(dictionary)
    with torch.no_grad():
        y = x if not dictionary.config.is_transcoder else dictionary(x).flip(0) + 1
        whole = dictionary.decode(dictionary.encode(x)) + dictionary.skip(x)
        again = whole + dictionary.error(x, y)
    assert (again - y).abs().max() <= size(dictionary, y, whole)


@given(dictionary=dictionaries())
def test_folding_norms_is_the_same_function(dictionary: Dictionary) -> None:
    config = dictionary.config
    if skewed(dictionary):
        return
    depends = config.activation in ("topk", "abstopk") and not config.rescale_acts_by_decoder_norm
    if depends or config.activation == "matching_pursuit":
        with pytest.raises(ConfigError, match="cannot be folded"):
            dictionary.folded()
        return
    folded = dictionary.folded()
    x = rows(dictionary)
    with torch.no_grad():
        assert (folded.decoder_norms - 1).abs().max() <= 1e-6
        expected = dictionary(x)
        assert (folded(x) - expected).abs().max() <= size(dictionary, expected)
        ours = dictionary.encode(x)
        if not config.rescale_acts_by_decoder_norm:  # there latents carry the norms already
            ours = ours * dictionary.decoder_norms
        assert (folded.encode(x) - ours).abs().max() <= size(dictionary, ours)


@given(
    dictionary=dictionaries(normalize_activations="expected_average_only_in"),
    scale=st.sampled_from([0.125, 4.0]),
    other=st.sampled_from([0.5, 8.0]),
)
def test_folding_a_scale_is_the_same_function(dictionary: Dictionary, scale: float, other: float) -> None:
    other = other if dictionary.config.is_transcoder else scale
    raw = dictionary.unscaled(scale, other)
    x = rows(dictionary)
    with torch.no_grad():
        expected = dictionary(x * scale) / other
        assert (raw(x) - expected).abs().max() <= size(dictionary, expected)
    assert raw.config.normalize_activations == "none"


@given(dictionary=dictionaries(), n=st.sampled_from([2, 5, 11]))
def test_a_row_is_encoded_alike_alone_and_in_a_batch(dictionary: Dictionary, n: int) -> None:
    if skewed(dictionary):
        return
    x = rows(dictionary, n)
    with torch.no_grad():
        whole = dictionary.encode(x)
        alone = torch.cat([dictionary.encode(row[None]) for row in x])
        shaped = dictionary.encode(x[None, :, None])[0, :, 0]
    bound = 1e-6 if dictionary.config.dtype == "float64" else 1e-4
    for other in (alone, shaped):  # products of other shapes: the last digits are their own
        assert ((whole - other).abs() <= bound * whole.abs().max().clamp_min(1)).all()


@given(dictionary=dictionaries(activation="topk"), k=st.integers(1, 5))
def test_topk_keeps_at_most_k(dictionary: Dictionary, k: int) -> None:
    x = rows(dictionary, 11)
    for activation in ("topk", "abstopk", "batchtopk"):
        about = {**vars(dictionary.config), "activation": activation}
        about["k"] = min(k, dictionary.config.d_sae)
        found = filled(Dictionary(DictionaryConfig(**about)), 3)
        if activation == "batchtopk":
            found.threshold.zero_()  # none was measured: the best of the batch
        with torch.no_grad():
            active = (found.encode(x) != 0).sum(1)
        if activation == "batchtopk":
            assert active.sum() <= about["k"] * len(x)
        else:
            assert active.max() <= about["k"]
            values, indices = found.encode_sparse(x)
            dense = torch.zeros(11, found.config.d_sae, dtype=values.dtype)
            assert torch.equal(dense.scatter(1, indices, values), found.encode(x))


def made_for(model: Any, site_in: str, site_out: str, **more: Any) -> Dictionary:
    width = {site: model.sites[site].sizes[-1] for site in (site_in, site_out)}
    d_in = D if site_in.endswith("hook_z") else width[site_in]
    about: dict[str, Any] = {"d_in": d_in, "d_sae": 53, "site_in": site_in, "site_out": site_out}
    if site_in != site_out:
        about |= {"d_out": width[site_out], "apply_b_dec_to_input": False}
    if site_in.endswith("hook_z"):
        about["reshape"] = "hook_z"
    return filled(Dictionary(DictionaryConfig(**about | more)), 0)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=101, n_embd=D, n_layer=3, n_head=H, n_positions=31)
    return interp.wrap(GPT2LMHeadModel(shape).eval().double())


PLACES = [
    ("blocks.1.hook_resid_post", "blocks.1.hook_resid_post", {}),
    ("blocks.1.attn.hook_z", "blocks.1.attn.hook_z", {}),
    ("blocks.0.hook_mlp_out", "blocks.0.hook_mlp_out", {}),
    ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out", {}),
    ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out", {"skip": True}),
]


@pytest.mark.parametrize(
    ("activation", "place"),
    [
        pytest.param(activation, place, id=f"{activation}-{place[0]}-{bool(place[2])}")
        for activation in ACTIVATIONS
        for place in PLACES
        # matching pursuit is no transcoder
        if activation != "matching_pursuit" or place[0] == place[1]
    ],
)
def test_a_splice_with_its_error_term_changes_nothing(
    model: Any, activation: str, place: tuple[str, str, dict[str, Any]]
) -> None:
    site_in, site_out, more = place
    k = {"k": 5} if activation in ("topk", "abstopk", "batchtopk") else {}
    coder = made_for(model, site_in, site_out, activation=activation, dtype="float64", **k, **more)
    tokens = torch.randint(0, 101, (2, 13), generator=torch.Generator().manual_seed(1))
    spliced = model.with_coder(coder)
    latents = f"{site_in}.hook_sae_acts_post"
    with torch.no_grad():
        expected = model(tokens)
        assert torch.equal(spliced(tokens), expected)
        # an edit that gives back what it got sends the run through decode + error
        same = spliced.run_with_hooks(tokens, fwd_hooks=[(latents, lambda z, hook: z.clone())])
        assert (same - expected).abs().max() <= 1e-10
        alone = model.with_coder(coder, error_term=False)
        assert (alone(tokens) - expected).abs().max() > 1e-6  # the null: it is really there
        acts = model.capture(tokens, [site_in, site_out])
        x = acts[site_in].flatten(-2) if coder.config.reshape == "hook_z" else acts[site_in]
        by_hand = coder(x).reshape(acts[site_out].shape)
        put = model.run_with_hooks(tokens, fwd_hooks=[(site_out, lambda value, hook: by_hand)])
        assert (alone(tokens) - put).abs().max() <= 1e-10


def test_a_dictionary_knows_its_model(model: Any) -> None:
    site = "blocks.1.hook_resid_post"
    coder = made_for(model, site, site, k=5)
    coder.provenance = model.provenance((site,), d_in=D)
    assert coder.for_model(model) is coder
    other = model.randomised(1)
    with pytest.raises(ProvenanceError) as refused:
        coder.for_model(other)
    assert model.fingerprint() in str(refused.value) and other.fingerprint() in str(refused.value)
    coder.for_model(other, strict=False)
    assert coder.provenance.notes
    with pytest.raises(SiteError, match="resid_pots"):
        made_for_site(coder, "blocks.1.hook_resid_pots").for_model(model)
    with pytest.raises(ShapeError, match="does not fit"):
        made_for_site(coder, "blocks.1.mlp.hook_post").for_model(model)


def made_for_site(coder: Dictionary, site: str) -> Dictionary:
    return Dictionary(DictionaryConfig(**{**vars(coder.config), "site_in": site, "site_out": site}))


@settings(max_examples=20)
@given(dictionary=dictionaries())
def test_states_round_trip_bit_by_bit(dictionary: Dictionary) -> None:
    again = Dictionary.from_state(dictionary.config, dictionary.state_dict())
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, dictionary.state_dict()[name])
        assert tensor.data_ptr() != dictionary.state_dict()[name].data_ptr()
