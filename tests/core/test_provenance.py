"""Artefacts know where they came from, and refuse to be used elsewhere."""

import dataclasses
import json

import pytest
import torch

from interp.core.errors import ProvenanceError
from interp.core.provenance import MATCHED, Provenance, _pieces, fingerprint_state, fingerprint_text, versions
from tests.support.work import counted_elements

HOME = Provenance(
    model="tiny-grammar",
    model_fingerprint="aa11",
    sites=("blocks.1.hook_resid_post",),
    d_in=128,
    dtype="float32",
    prepend_bos=True,
    tokenizer_hash="bb22",
    normalisation="none",
    data_fingerprint="cc33",
    versions={"torch": "2.13"},
)
ELSEWHERE = {
    "model_fingerprint": "ff00",
    "sites": ("blocks.2.hook_resid_post",),
    "d_in": 64,
    "dtype": "bfloat16",
    "prepend_bos": False,
    "tokenizer_hash": "ee99",
    "normalisation": "layer_norm",
}


def test_every_matched_field_has_a_contradiction_here():
    assert set(ELSEWHERE) == set(MATCHED)


def test_json_round_trip():
    assert Provenance.from_json(json.loads(json.dumps(HOME.to_json()))) == HOME
    bare = Provenance(model="m", model_fingerprint="f")
    assert Provenance.from_json(json.loads(json.dumps(bare.to_json()))) == bare
    assert hash(HOME) == hash(Provenance.from_json(HOME.to_json()))


def test_json_with_wrong_keys_is_refused():
    with pytest.raises(ProvenanceError, match="normalisation"):
        Provenance.from_json({**HOME.to_json(), "normalization": "none"})
    with pytest.raises(ProvenanceError, match="model_fingerprint"):
        Provenance.from_json({"model": "m"})


def test_the_same_place_matches():
    assert HOME.require_match(HOME) is HOME
    other_data = dataclasses.replace(HOME, data_fingerprint="held out", versions={})
    assert HOME.require_match(other_data) is HOME


@pytest.mark.parametrize("field", MATCHED)
def test_each_contradiction_is_refused_with_both_values(field):
    other = dataclasses.replace(HOME, **{field: ELSEWHERE[field]})
    for one, two in ((HOME, other), (other, HOME)):
        with pytest.raises(ProvenanceError) as caught:
            one.require_match(two)
        values = [getattr(p, field) for p in (one, two)]
        for value in values:
            text = repr(value[0]) if isinstance(value, tuple) else repr(value)
            assert text in caught.value.got
        assert caught.value.got.startswith(f"{field}: ")
        assert "strict=False" in caught.value.fix


@pytest.mark.parametrize("field", MATCHED)
def test_strict_false_records_the_contradiction(field):
    other = dataclasses.replace(HOME, **{field: ELSEWHERE[field]})
    accepted = HOME.require_match(other, strict=False)
    assert len(accepted.notes) == 1
    assert accepted.notes[0].startswith(f"{field}: made for ")
    assert dataclasses.replace(accepted, notes=()) == HOME
    assert accepted.require_match(other, strict=False).notes == accepted.notes


def test_all_contradictions_are_named_at_once():
    with pytest.raises(ProvenanceError) as caught:
        HOME.require_match(dataclasses.replace(HOME, **ELSEWHERE))
    assert all(f"{field}: " in caught.value.got for field in MATCHED)


@pytest.mark.parametrize(
    ("field", "missing"), [("d_in", None), ("model_fingerprint", "unknown"), ("sites", ())]
)
def test_what_was_not_recorded_is_noted_not_refused(field, missing):
    accepted = HOME.require_match(dataclasses.replace(HOME, **{field: missing}))
    assert accepted.notes == (
        f"{field}: made for {HOME.sites[0]!r}, applied to not recorded"
        if field == "sites"
        else f"{field}: made for {getattr(HOME, field)!r}, applied to not recorded",
    )


def test_false_is_recorded():
    """`prepend_bos=False` is a value, not an absence."""
    no_bos = dataclasses.replace(HOME, prepend_bos=False)
    with pytest.raises(ProvenanceError):
        no_bos.require_match(HOME)


def test_an_artefact_may_read_some_of_the_sites_captured():
    wide = dataclasses.replace(HOME, sites=("hook_embed", *HOME.sites))
    assert HOME.require_match(wide) is HOME
    with pytest.raises(ProvenanceError):
        wide.require_match(HOME)


def test_chosen_fields_only():
    other = dataclasses.replace(HOME, model_fingerprint="ff00", d_in=64)
    assert HOME.require_match(other, fields=("dtype",)) is HOME


# ------------------------------------------------------------------ fingerprints


def state(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return {
        "small": torch.randn(7, 11, generator=g).to(dtype),
        "large": torch.randn(1009, 1013, generator=g).to(dtype),
    }


BASE = {"n_layers": 2, "dtype": torch.float32}


def test_order_and_layout_do_not_matter():
    one = state()
    two = dict(reversed(list(one.items())))
    two["small"] = two["small"].T.contiguous().T  # same values, other strides
    config = dict(reversed(list(BASE.items())))
    assert fingerprint_state(one, BASE) == fingerprint_state(two, config)
    assert len(fingerprint_state(one, BASE)) == 64


def test_a_view_into_a_larger_storage_is_the_same_tensor():
    large = torch.randn(1_000_003)
    padded = torch.cat([torch.zeros(1), large])[1:]
    assert fingerprint_state({"w": padded}, {}) == fingerprint_state({"w": large}, {})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("index", [(0, 0), (3, 5), (-1, -1), (-1, -2)])
def test_one_changed_weight_anywhere_changes_it(dtype, name, index):
    one, two = state(dtype=dtype), state(dtype=dtype)
    two[name][index] += 1
    assert fingerprint_state(one, BASE) != fingerprint_state(two, BASE)


def test_negative_zero_and_the_last_bit_count():
    a = torch.zeros(1_000_003)
    b = a.clone()
    b[500_001] = -0.0
    c = a.clone()
    c[500_001] = 1e-45
    assert len({fingerprint_state({"w": t}, {}) for t in (a, b, c)}) == 3


def test_name_dtype_shape_and_config_count():
    t = torch.zeros(6, 35)
    prints = [
        fingerprint_state({"w": t}, {}),
        fingerprint_state({"v": t}, {}),
        fingerprint_state({"w": t.view(torch.int32)}, {}),
        fingerprint_state({"w": t.view(35, 6)}, {}),
        fingerprint_state({"w": t}, {"n_layers": 1}),
        fingerprint_state({"w": t, "x": t}, {}),
        fingerprint_state({"w": t[:3], "w2": t[3:]}, {}),
        fingerprint_state({}, {}),
    ]
    assert len(set(prints)) == len(prints)


def test_odd_tensors_are_fingerprinted():
    odd = {
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.0),
        "bool": torch.tensor([True, False]),
        "complex": torch.ones(3, dtype=torch.complex64),
        "param": torch.nn.Parameter(torch.ones(3)),
    }
    flipped = {**odd, "bool": torch.tensor([False, True])}
    assert fingerprint_state(odd, {}) != fingerprint_state(flipped, {})


def test_meta_tensors_are_refused():
    with pytest.raises(ProvenanceError, match="'w'"):
        fingerprint_state({"w": torch.zeros(3, device="meta")}, {})


def test_of_large_tensors_a_sample_is_hashed():
    """Every element is added up, once, as pairs (100 M parameters: 0.03 s); a sample is hashed."""
    weight = torch.ones(5_000_000)
    with counted_elements() as elements:
        fingerprint_state({"w": weight}, {})
    assert weight.numel() / 2 <= elements.n < weight.numel()
    assert sum(map(len, _pieces(weight))) < weight.nbytes / 50


def test_text():
    assert fingerprint_text("abc") == fingerprint_text(b"abc")
    assert fingerprint_text("abc").startswith("ba7816bf")  # FIPS 180-2, appendix B.1
    assert fingerprint_text("\ud800") != fingerprint_text("\ud801")


def test_versions_name_python_and_torch_and_are_a_copy():
    found = versions()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["python"].startswith("3.")
    found["torch"] = "changed"
    assert versions()["torch"] != "changed"
