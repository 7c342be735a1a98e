"""Which model this is: the fingerprint follows the weights; copies, moves and nulls are whole."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from interp import load_model, wrap, zero
from interp.core.errors import ConfigError, ModelError, ProvenanceError
from interp.core.provenance import _bit_patterns, _joined, _mixed_parts, checksum_state
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from tests.models import zoo

FAMILIES = ("gpt2", "llama", "bert", "t5", "vit")


def small() -> nn.Module:
    cfg = SmallConfig.from_dict(
        {
            "n_layers": 2,
            "d_model": 12,
            "n_heads": 3,
            "d_head": 4,
            "d_mlp": 17,
            "n_ctx": 9,
            "d_vocab": 23,
            "act_fn": "relu",
            "normalization_type": "LN",
        }
    )
    return SmallTransformer(cfg, seed=0)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def module_of(kind: str) -> Any:
    torch.manual_seed(0)
    made = {"small": small, "net": net}.get(kind)
    module = zoo.MAKERS[kind](transformers) if made is None else made()
    return module.eval().requires_grad_(False)


def last_matrix(module: nn.Module) -> nn.Parameter:
    return [p for p in module.parameters() if p.dim() == 2 and min(p.shape) > 2][-1]


# --- ways to change a weight --------------------------------------------------------------------


def in_place(module: nn.Module) -> None:
    last_matrix(module)[1, 1] += 1.0


def through_data(module: nn.Module) -> None:
    last_matrix(module).data[1, 1] += 1.0


def through_numpy(module: nn.Module) -> None:
    last_matrix(module).detach().numpy()[1, 1] += 1.0


def rows_swapped_in_data(module: nn.Module) -> None:
    data = last_matrix(module).data
    data[[0, 1]] = data[[1, 0]]


def signs_flipped_in_data(module: nn.Module) -> None:
    last_matrix(module).data.neg_()


def data_replaced(module: nn.Module) -> None:
    weight = last_matrix(module)
    weight.data = weight.data + 1.0


def parameter_replaced(module: nn.Module) -> None:
    weight = last_matrix(module)
    for part in module.modules():
        for name, held in part._parameters.items():
            if held is weight:
                setattr(part, name, nn.Parameter(weight * 2.0, requires_grad=False))


def state_loaded(module: nn.Module) -> None:
    module.load_state_dict({k: v * 1.5 for k, v in module.state_dict().items()})


def state_assigned(module: nn.Module) -> None:
    state = {k: (v * 1.5).to(v.dtype) for k, v in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def halved(module: nn.Module) -> None:
    module.half()


def an_optimiser_step(module: nn.Module) -> None:
    weight = last_matrix(module).requires_grad_(True)
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.1).step()


WAYS = (
    in_place,
    through_data,
    through_numpy,
    rows_swapped_in_data,
    signs_flipped_in_data,
    data_replaced,
    parameter_replaced,
    state_loaded,
    state_assigned,
    halved,
    an_optimiser_step,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("kind", [*FAMILIES, "small", "net"])
def test_the_fingerprint_follows_every_way_of_changing_weights(
    kind: str, way: Callable[[nn.Module], None]
) -> None:
    module = module_of(kind)
    model = wrap(module, check=False)
    view = model.with_coder()
    before = model.fingerprint()
    assert model.fingerprint() == before == view.fingerprint()
    with torch.no_grad():
        way(module)
    after = model.fingerprint()
    assert after != before
    assert after == view.fingerprint() == wrap(copy.deepcopy(module), check=False).fingerprint()


def test_it_does_not_change_by_looking() -> None:
    model = load_model("tiny-grammar")
    before, ids = model.fingerprint(), torch.arange(5, 12)[None]
    model(ids)
    model.run_with_hooks(ids, [zero("blocks.0.hook_resid_post")])
    model.capture(ids, "blocks.1.mlp.hook_post")
    _ = model.W_Q, model.W_E, model.unembed(torch.ones(1, 1, model.cfg.d_model))
    assert model.fingerprint() == before == load_model("tiny-grammar").fingerprint()


def test_the_second_call_does_not_hash_again(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of("gpt2")
    model, hashed = wrap(module, check=False), []
    from interp.models import identity

    real = identity.fingerprint_state
    monkeypatch.setattr(identity, "fingerprint_state", lambda *a: hashed.append(1) or real(*a))
    model.fingerprint()
    model.with_coder().fingerprint()
    copy.copy(model).fingerprint()
    assert len(hashed) == 1


def test_cfg_follows_dtype_and_device() -> None:
    module = module_of("llama")
    model = wrap(module)
    assert model.cfg.dtype == "float32"
    module.double()
    assert model.cfg.dtype == "float64" == model.with_coder().cfg.dtype
    assert model.provenance().dtype == "float64"
    module.to("meta")
    assert model.cfg.device == "meta"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("lanes", [4, 1 << 22])
def test_the_device_checksum_sees_values_places_and_signs(dtype: torch.dtype, lanes: int) -> None:
    torch.manual_seed(0)
    values = torch.randint(1, 100, (7, 11)).to(dtype)

    def sum_of(t: Tensor) -> int:
        return _joined([int(part) for part in _mixed_parts(_bit_patterns(t), lanes)])

    mark = sum_of(values)
    assert mark == sum_of(values.clone())
    for i in range(7):
        one = values.clone()
        one[i, i] += 1
        assert sum_of(one) != mark
    assert sum_of(values.flip(0)) != mark != sum_of(values.flip(1))
    assert sum_of(values.roll(4)) != mark
    if dtype.is_floating_point:
        assert sum_of(-values) != mark
        two = values.clone()
        two[0, :2] *= -1
        assert sum_of(two) != mark


def test_the_checksum_reads_any_tensor() -> None:
    whole = torch.randn(6, 5)
    for t in (whole.T, whole[1:, ::2], whole.bool(), whole.to(torch.complex64), whole[:0]):
        assert checksum_state({"t": t}) == checksum_state({"t": t.clone()})
    assert checksum_state({"t": whole}) != checksum_state({"u": whole})
    assert checksum_state({"t": whole}) != checksum_state({"t": whole.view(5, 6)})


# --- copies -------------------------------------------------------------------------------------


class Coder:
    """A plain coder without a `to` of its own."""

    def __init__(self, site: str, d: int, n: int = 13) -> None:
        draw = torch.Generator().manual_seed(1)
        self.W_enc = torch.randn(d, n, generator=draw) / d**0.5
        self.W_dec = torch.randn(n, d, generator=draw) / n**0.5
        self.b_enc, self.b_dec = torch.zeros(n), torch.zeros(d)
        self.site_in = self.site_out = site
        self.cfg = None

    def encode(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.W_enc)

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.W_dec


class ModuleCoder(nn.Module):
    """A coder that is a module, as dictionaries are."""

    def __init__(self, site: str, d: int) -> None:
        super().__init__()
        plain = Coder(site, d)
        self.W_enc, self.W_dec = nn.Parameter(plain.W_enc), nn.Parameter(plain.W_dec)
        self.b_enc, self.b_dec = nn.Parameter(plain.b_enc), nn.Parameter(plain.b_dec)
        self.site_in = self.site_out = site
        self.cfg = None

    encode, decode = Coder.encode, Coder.decode


SITE = "blocks.1.hook_resid_post"
IDS = torch.tensor([[11, 25, 60, 33, 40]])


def inputs_of(kind: str) -> Any:
    if kind == "t5":
        return {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(2)) if (kind == "vit") else IDS


def run(model: Any, inputs: Any) -> Tensor:
    with torch.no_grad():
        return model(inputs)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_deep_copy_is_whole(kind: str) -> None:
    model, inputs = wrap(module_of(kind)), inputs_of(kind)
    before = run(model, inputs)
    twin = copy.deepcopy(model)
    assert list(twin.sites) == list(model.sites)
    assert twin.cfg == model.cfg and twin.fingerprint() == model.fingerprint()
    torch.testing.assert_close(run(twin, inputs), before)
    for p in twin.module.parameters():
        p.data.zero_()
    torch.testing.assert_close(run(model, inputs), before)
    assert not run(twin, inputs).any()
    if twin.adapter.unembed is not None:
        assert not twin.unembed(torch.ones(1, 1, zoo.D)).any()
        assert model.unembed(torch.ones(1, 1, zoo.D)).any()
    result = next((n for n in twin.sites.unlisted if n.endswith("attn.hook_result")), None)
    if result is not None:
        assert not twin.capture(inputs, result)[result].any()
        assert model.capture(inputs, result)[result].any()


def test_a_deep_copy_made_inside_hooks_runs_without_them() -> None:
    model = wrap(module_of("llama"))
    before = run(model, IDS)
    with model.hooks([zero(SITE)]):
        twin = copy.deepcopy(model)
        assert float((run(model, IDS) - before).abs().max()) > 1e-3
    torch.testing.assert_close(run(twin, IDS), before)


@pytest.mark.parametrize("make", [Coder, ModuleCoder])
@pytest.mark.parametrize("error_term", [False, True])
def test_copies_keep_their_coders(make: Any, error_term: bool) -> None:
    coder = make(SITE, zoo.D)
    model = wrap(module_of("llama"))
    spliced = model.with_coder(coder, error_term=error_term)
    latents = f"{SITE}.hook_sae_acts_post"
    before = run(spliced, IDS)
    for twin in (copy.deepcopy(spliced), copy.copy(spliced), spliced.to(torch.float32)):
        torch.testing.assert_close(run(twin, IDS), before)
        assert latents in twin.sites
    deep, view = copy.deepcopy(spliced), copy.copy(spliced)
    assert deep.splices[0].coder is not coder and view.splices[0].coder is coder
    assert view.module is model.module and deep.module is not model.module
    deep.splices[0].coder.W_dec.data.zero_()
    torch.testing.assert_close(run(spliced, IDS), before)
    wide = spliced.to("float64")
    assert wide.splices[0].coder.W_enc.dtype == torch.float64 == run(wide, IDS).dtype
    assert coder.W_enc.dtype == torch.float32 and spliced.cfg.dtype == "float32"
    torch.testing.assert_close(run(wide, IDS).float(), before, atol=1e-4, rtol=1e-4)
    null = spliced.randomised(3)
    assert null.splices[0].coder is coder and null.splices[0].error_term == error_term
    assert null.fingerprint() == model.randomised(3).fingerprint() != model.fingerprint()


def test_a_coder_that_cannot_move_is_named() -> None:
    class Stuck(Coder):
        def to(self, target: Any) -> Stuck:
            return self

    spliced = wrap(module_of("llama")).with_coder(Stuck(SITE, zoo.D))
    with pytest.raises(ModelError, match="does not move") as caught:
        spliced.to(torch.float64)
    assert "Stuck" in str(caught.value)


@pytest.mark.parametrize("target", ["flaot32", torch.int64, True, None, 1.5, "int8"])
def test_targets_that_are_no_place_are_refused(target: Any) -> None:
    with pytest.raises(ConfigError, match=r"no device|floating-point dtype"):
        wrap(module_of("net")).to(target)


def test_pickling_says_what_to_do_instead() -> None:
    model = wrap(module_of("net"))
    with pytest.raises(ModelError, match="not pickled") as caught:
        pickle.dumps(model)
    assert "wrap(" in str(caught.value.fix)


# --- weights that are not there -----------------------------------------------------------------


def test_hasattr_tells_which_weights_there_are() -> None:
    model = wrap(module_of("llama"))
    assert hasattr(model, "W_E") and not hasattr(model, "W_pos")
    with pytest.raises(ModelError, match="has no W_pos"):
        _ = model.W_pos
    with pytest.raises(AttributeError, match="has no W_pos"):
        _ = model.W_pos
    with pytest.raises(AttributeError, match="W_nothing"):
        _ = model.W_nothing
    assert getattr(wrap(module_of("net")), "W_Q", None) is None


def test_numpy_arrays_made_from_weights_do_not_matter() -> None:
    module = module_of("net")
    model = wrap(module)
    before = model.fingerprint()
    held = np.array(module[0].weight)
    held += 1.0
    assert model.fingerprint() == before


# --- what decides the numbers beside the weights ---


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.model.rotary_emb.inv_freq.mul_(3.0),
        lambda m: setattr(m.model.norm, "variance_epsilon", 0.1),
        lambda m: setattr(m.model.layers[0].self_attn, "scaling", 0.3),
        lambda m: setattr(m.config, "rope_parameters", {"rope_type": "default", "rope_theta": 5.0}),
        lambda m: setattr(m.model.layers[0].mlp, "act_fn", nn.Tanh()),
        lambda m: setattr(m.model, "scale", torch.ones(3)),
    ],
    ids=["buffer", "epsilon", "scaling", "configuration", "activation", "attribute"],
)
def test_settings_belong_to_the_fingerprint(change: Callable[[Any], Any]) -> None:
    module = zoo.make("llama")
    model = wrap(module)
    before, numbers = model.provenance(), model.fingerprint().partition("-")[0]
    assert model.fingerprint() == before.model_fingerprint
    change(module)
    assert model.fingerprint() != before.model_fingerprint
    assert model.fingerprint().partition("-")[0] == numbers  # no weight changed
    with pytest.raises(ProvenanceError):
        before.require_match(model.provenance())


def test_a_fingerprint_of_the_first_versions_still_matches() -> None:
    from dataclasses import replace

    now = wrap(zoo.make("llama")).provenance()
    old = replace(now, model_fingerprint=now.model_fingerprint.partition("-")[0])
    assert old.require_match(now) == old
    wrong = replace(old, model_fingerprint="0" * 64)
    with pytest.raises(ProvenanceError):
        wrong.require_match(now)


def test_running_a_model_is_no_change_of_it() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line, self.calls = nn.Linear(3, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.line(x)

    for module, inputs in ((Counter(), torch.ones(1, 3)), (zoo.make("llama"), [[5, 6, 7]])):
        model = wrap(module)
        before = model.fingerprint()
        model.run_with_cache(inputs)
        assert model.fingerprint() == before == copy.deepcopy(model).fingerprint()
