"""Modules of any kind: every tensor is a site, and does what plain torch hooks do by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.core.errors import EditError, HookNotFired, InterpError, ModelError, SiteError
from tests.models import by_hand, zoo
from tests.models.by_hand import Call, gap

# --- kinds --------------------------------------------------------------------------------------


class Readout(nn.Module):
    """Any core, then a linear map of the tensor that `pick` takes from what it returns."""

    def __init__(self, core: nn.Module, width: int, pick: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.core, self.pick, self.read = core, pick, nn.Linear(width, 3)

    def forward(self, *args: Tensor) -> Tensor:
        return self.read(self.pick(self.core(*args)))


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Boxed:
    inner: Tensor
    more: list[Tensor]


class Splitter(nn.Module):
    """Gives what it is told to: a dict, a named tuple, a dataclass, a nest."""

    def __init__(self, make: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x[:, :2].clone(), x[:, 2:].clone())


class Wide(nn.Module):
    """Several inputs: positional, by keyword, nested, left out."""

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        absent: Tensor | None = None,
        *,
        pair: tuple[Tensor, Tensor],
        scale: Tensor,
    ) -> Tensor:
        return (x * y + pair[0] - 2 * pair[1]) * scale


class Caller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = Wide(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.wide(x, y=x + 1, pair=(x.sin(), x.cos()), scale=x.exp()))


class Unrolled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.read = nn.LSTMCell(5, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), 7)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
        return self.read(h)


class Dead(nn.Module):
    """A part that never runs and a layer under two names that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = nn.Linear(5, 2)
        self.layers = nn.ModuleList([nn.Linear(5, 5)] * 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


class InPlace(nn.Module):
    """Writes into what earlier modules gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(5, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        kept = h
        self.relu(h)
        h += 1.0
        return self.last(kept)


def _masked_transformer() -> nn.Module:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Transformer(8, 2, 1, 1, 11, batch_first=True)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1])
            return self.inner(x, y, tgt_mask=mask)

    return Masked()


def _left_right(out: Any) -> Tensor:
    left, right = [t for _, t in by_hand.tensors(out)][:2]
    return torch.cat([left, 3 * right], -1)


KINDS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)), [(2, 5)]),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(10, 3)
        ),
        [(2, 3, 7)],
    ),
    "conv2d": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(30, 3)
        ),
        [(2, 3, 6, 8)],
    ),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(2, 5, 2), nn.GroupNorm(1, 5), nn.Flatten(1)),
        [(2, 2, 3, 4, 3)],
    ),
    "lstm": (
        lambda: Readout(nn.LSTM(5, 7, 2), 14, lambda o: torch.cat([o[0], o[1][1][:1] + o[0]], -1)),
        [(2, 4, 5)],
    ),
    "gru": (lambda: Readout(nn.GRU(5, 7), 14, lambda o: torch.cat([o[0], o[1] + o[0]], -1)), [(2, 4, 5)]),
    "cell": (Unrolled, [(2, 3, 5)]),
    "attention": (
        lambda: Readout(nn.MultiheadAttention(6, 2), 6, lambda o: o[0] + o[1].mean()),
        [(4, 2, 6), (3, 2, 6), (3, 2, 6)],
    ),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 11, batch_first=True), 2),
        [(2, 5, 8)],
    ),
    "transformer": (_masked_transformer, [(2, 5, 8), (2, 3, 8)]),
    "dict": (lambda: Readout(Splitter(lambda a, b: {"a": a, "b": b, "n": 3}), 5, _left_right), [(2, 5)]),
    "named tuple": (lambda: Readout(Splitter(Pair), 5, _left_right), [(2, 5)]),
    "dataclass": (lambda: Readout(Splitter(lambda a, b: Boxed(a, [b])), 5, _left_right), [(2, 5)]),
    "nest": (lambda: Readout(Splitter(lambda a, b: [None, (a, {"deep": b})]), 5, _left_right), [(2, 5)]),
    "several inputs": (Caller, [(2, 5)]),
    "dead and repeated": (Dead, [(2, 5)]),
    "in place": (InPlace, [(2, 5)]),
}


def built(kind: str) -> tuple[nn.Module, Call]:
    make, shapes = KINDS[kind]
    torch.manual_seed(0)
    module = make().eval().double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw).double() * 0.4)
    return module, (tuple(torch.randn(s, generator=draw).double() for s in shapes), {})


def inputs_of(call: Call) -> Any:
    args, kwargs = call
    return kwargs or (args[0] if len(args) == 1 else args)


def expected_names(seen: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """One name per tensor: the bare one where a module ran once, else one for each call."""
    named: dict[str, Tensor] = {}
    for name, calls in seen.items():
        name = "cell.hook_c" if name == "cell.hook_out.1" else name
        if len(calls) == 1:
            named[name] = calls[0]
        else:
            named |= {f"{name}#{i}": value for i, value in enumerate(calls)}
    return named


def plain(site: str) -> str:
    return site.replace("cell.hook_c", "cell.hook_out.1")


# --- what is seen -------------------------------------------------------------------------------


def assert_all_seen(model: interp.HookedModel, call: Call, tolerance: float = 0.0) -> set[str]:
    output, seen, silent = by_hand.watch(model.module, call)
    wanted = expected_names(seen)
    with torch.no_grad():
        ours, acts = model.run_with_cache(inputs_of(call))
    assert gap(ours, getattr(output, "logits", getattr(output, "last_hidden_state", output))) == 0
    assert set(acts) == set(wanted)
    assert set(acts.silent) == silent
    for name, value in wanted.items():
        assert acts[name].shape == value.shape, name
        same = (acts[name] == value) | ((acts[name] - value).abs() <= tolerance)
        assert bool(same.all()), name
    return set(wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_without_a_filter_gives_every_tensor_of_every_module(kind: str) -> None:
    module, call = built(kind)
    model = interp.wrap(module)
    names = assert_all_seen(model, call)
    # What the first run came across is known from then on, and a second run gives the same.
    assert all(name in model.sites for name in names)
    assert assert_all_seen(model, call) == names


@pytest.mark.parametrize("kind", KINDS)
def test_each_tensor_can_be_asked_for_alone(kind: str) -> None:
    module, call = built(kind)
    _, seen, silent = by_hand.watch(module, call)
    for name, value in expected_names(seen).items():
        # A model that has never run: names are found when somebody asks.
        acts = interp.wrap(module).capture(inputs_of(call), name, clone=True)
        assert list(acts) == [name]
        assert torch.equal(acts[name], value), name
    for name in silent:
        with pytest.raises(HookNotFired, match="did not fire"):
            interp.wrap(module).capture(inputs_of(call), name)


# --- what edits do ------------------------------------------------------------------------------


def halve(value: Tensor, hook: Any) -> None:
    if value.is_floating_point():
        value.mul_(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_zeroing_each_tensor_and_writing_into_each_are_what_they_are_by_hand(kind: str) -> None:
    module, call = built(kind)
    model, inputs = interp.wrap(module), inputs_of(call)
    base, seen, _ = by_hand.watch(module, call)
    moved = 0
    with torch.no_grad():
        for name in expected_names(seen):
            for hook, hand in (
                (interp.zero(name), torch.zeros_like),
                ((name, halve), lambda v: v * 0.5 if v.is_floating_point() else v),
            ):
                ours = model.run_with_hooks(inputs, [hook])
                theirs = by_hand.edited(module, call, plain(name), hand)
                assert gap(ours, theirs) < 1e-12, name
                moved += gap(ours, base) > 1e-6
    assert moved > len(seen) / 2, "edits that change nothing test nothing"
    assert gap(module(*call[0]), base) < 1e-12, "an edit stayed behind"


@pytest.mark.parametrize("kind", KINDS)
def test_positions_are_refused_before_the_run_where_nothing_says_which_axis(kind: str) -> None:
    module, call = built(kind)
    ran: list[int] = []
    module.register_forward_pre_hook(lambda *_: ran.append(1))
    model, inputs = interp.wrap(module), inputs_of(call)
    site = next(iter(model.sites))
    for run in (
        lambda: model.capture(inputs, site, positions=-1),
        lambda: model.run_with_cache(inputs, positions=[0]),
        lambda: model.run_with_hooks(inputs, [interp.zero(site, positions=-1)]),
    ):
        with pytest.raises(InterpError, match="position"):
            run()
    assert not ran


def test_what_stayed_silent_is_said_and_kept(tmp_path: Path) -> None:
    module, call = built("dead and repeated")
    acts = interp.wrap(module).capture(inputs_of(call), None)
    assert acts.silent == dict.fromkeys(["dead.hook_in", "dead.hook_out"], "its module did not run")
    assert "2 silent" in repr(acts)
    for kept in (acts.to(torch.float32), interp.Activations.load(acts.save(tmp_path / "acts"))):
        assert kept.silent == acts.silent
        with pytest.raises(SiteError, match="did not run"):
            kept["dead.hook_out"]


def test_a_wrong_path_names_the_tensors_that_are_there() -> None:
    module, call = built("lstm")
    model = interp.wrap(module)
    for wrong in ("core.hook_out.2", "core.hook_out.1.5", "core.hook_in.mask"):
        with pytest.raises(HookNotFired) as error:
            model.capture(inputs_of(call), wrong)
        assert "'0'" in str(error.value) and wrong in str(error.value)
    with pytest.raises(SiteError, match=r"core\.hook_out"):
        model.capture(inputs_of(call), "core.hook_ot.1")
    with pytest.raises(HookNotFired, match="did not fire"):
        dead, call = built("dead and repeated")
        interp.wrap(dead).run_with_cache(inputs_of(call), fwd_hooks=[interp.zero("dead.hook_out")])


def test_an_input_has_one_value_under_its_number_and_its_name() -> None:
    module, call = built("several inputs")
    model, x = interp.wrap(module), call[0][0]
    acts = model.capture(x, ["wide.hook_in.y", "wide.hook_in.1", "wide.hook_in.x", "wide.hook_in"])
    assert torch.equal(acts["wide.hook_in.1"], x + 1)
    assert torch.equal(acts["wide.hook_in.y"], x + 1)
    assert torch.equal(acts["wide.hook_in.x"], x)
    with torch.no_grad():
        ours = model.run_with_hooks(x, [interp.zero("wide.hook_in.1")])
        assert gap(ours, by_hand.edited(module, call, "wide.hook_in.y", torch.zeros_like)) == 0


def test_gradients_of_every_tensor_without_a_filter() -> None:
    module, call = built("lstm")
    model = interp.wrap(module)
    output, acts = model.run_with_cache(inputs_of(call), grad=True)
    (found,) = torch.autograd.grad(output.sum(), acts["core.hook_out.1.1"])
    c = acts["core.hook_out.1.1"].detach().requires_grad_(True)
    h = acts["core.hook_out"].detach()
    module.get_submodule("read")(torch.cat([h, c[:1] + h], -1)).sum().backward()
    assert gap(found, c.grad) < 1e-12


# --- channels -----------------------------------------------------------------------------------

CHANNELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "Conv1d": (nn.Conv1d(3, 5, 3, padding=1), (2, 3, 5)),
    "Conv2d": (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 5, 5)),
    "Conv3d": (nn.Conv3d(3, 5, 3, padding=1), (2, 3, 5, 5, 5)),
    "ConvTranspose2d": (nn.ConvTranspose2d(3, 5, 1), (2, 3, 5, 5)),
    "BatchNorm1d": (nn.BatchNorm1d(5), (2, 5, 5)),
    "BatchNorm1d, flat": (nn.BatchNorm1d(5), (2, 5)),
    "BatchNorm2d": (nn.BatchNorm2d(5), (2, 5, 5, 5)),
    "GroupNorm": (nn.GroupNorm(1, 5), (2, 5, 5, 5)),
    "InstanceNorm2d": (nn.InstanceNorm2d(5), (2, 5, 5, 5)),
    "MaxPool2d": (nn.MaxPool2d(1), (2, 5, 5, 5)),
    "AdaptiveAvgPool1d": (nn.AdaptiveAvgPool1d(5), (2, 5, 5)),
    "AvgPool3d": (nn.AvgPool3d(1), (2, 5, 5, 5, 5)),
    "Dropout2d": (nn.Dropout2d(), (2, 5, 5, 5)),
    "Upsample": (nn.ZeroPad2d(0), (2, 5, 5, 5)),
}
"""Sizes that are all five behind the batch: only the right axis gives the right numbers."""


@pytest.mark.parametrize("kind", CHANNELS)
def test_an_index_on_a_map_is_a_channel(kind: str) -> None:
    part, shape = CHANNELS[kind]
    model = interp.wrap(nn.Sequential(part.eval()))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(x)
        after = model.run_with_hooks(x, [interp.zero("0.hook_out", index=3)])
    before[:, 3] = 0
    assert torch.equal(after, before)
    if shape[1:2] == (3,):
        with pytest.raises(EditError, match="outside"):
            model.run_with_hooks(x, [interp.zero("0.hook_in", index=3)])


def test_a_map_without_its_batch_and_a_row_of_numbers() -> None:
    x = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(0))
    conv = interp.wrap(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1)))
    linear = interp.wrap(nn.Sequential(nn.Linear(5, 7)))
    with torch.no_grad():
        kept = conv(x)
        kept[3] = 0
        assert torch.equal(conv.run_with_hooks(x, [interp.zero("0.hook_out", index=3)]), kept)
        deep = torch.randn(2, 3, 4, 5)
        kept = linear(deep)
        kept[..., 3] = 0
        assert torch.equal(linear.run_with_hooks(deep, [interp.zero("0.hook_out", index=3)]), kept)


@pytest.mark.parametrize(("kind", "site"), [("conv2d", "2.hook_out"), ("conv1d", "1.hook_out")])
def test_where_nothing_tells_channels_from_columns_an_index_is_refused(kind: str, site: str) -> None:
    module, call = built(kind)
    with pytest.raises(EditError, match="which axis"):
        interp.wrap(module).run_with_hooks(inputs_of(call), [interp.zero(site, index=1)])


# --- Hugging Face models without a row ------------------------------------------------------------

_SIZES = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "intermediate_size": 37,
    "max_position_embeddings": 31,
}
_PATCHES = {"image_size": 12, "patch_size": 4}
ROWLESS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...] | None]] = {
    "ernie": (lambda t: t.ErnieForMaskedLM(t.ErnieConfig(**_SIZES)), None),
    "xlm-roberta-xl": (
        lambda t: t.XLMRobertaXLForMaskedLM(t.XLMRobertaXLConfig(**_SIZES, pad_token_id=1)),
        None,
    ),
    "mbart": (
        lambda t: t.MBartForConditionalGeneration(
            t.MBartConfig(
                vocab_size=101,
                d_model=24,
                encoder_layers=1,
                decoder_layers=1,
                encoder_attention_heads=6,
                decoder_attention_heads=6,
                encoder_ffn_dim=37,
                decoder_ffn_dim=37,
                max_position_embeddings=31,
            )
        ),
        None,
    ),
    "rembert": (lambda t: t.RemBertForMaskedLM(t.RemBertConfig(**_SIZES, input_embedding_size=16)), None),
    "persimmon": (lambda t: t.PersimmonForCausalLM(t.PersimmonConfig(**_SIZES)), None),
    "falcon-mamba": (
        lambda t: t.FalconMambaForCausalLM(
            t.FalconMambaConfig(vocab_size=101, hidden_size=24, num_hidden_layers=2, state_size=4)
        ),
        None,
    ),
    "beit": (lambda t: t.BeitForImageClassification(t.BeitConfig(**_SIZES, **_PATCHES)), (2, 3, 12, 12)),
    "resnet": (
        lambda t: t.ResNetForImageClassification(
            t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        ),
        (2, 3, 16, 16),
    ),
    "wav2vec2": (
        lambda t: t.Wav2Vec2Model(
            t.Wav2Vec2Config(
                **{k: v for k, v in _SIZES.items() if "position" not in k},
                conv_dim=(8, 8),
                conv_stride=(5, 2),
                conv_kernel=(10, 3),
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
            )
        ),
        (2, 200),
    ),
}


@pytest.mark.parametrize("kind", ROWLESS)
def test_a_model_without_a_row_gives_what_fires_and_names_the_rest(kind: str) -> None:
    import transformers

    make, shape = ROWLESS[kind]
    torch.manual_seed(0)
    module = make(transformers).eval()
    if shape is None:
        call: Call = ((), {"input_ids": torch.arange(10, 80, 7).reshape(2, 5)})
        if "use_cache" in module.forward.__code__.co_varnames:
            call[1]["use_cache"] = False
    else:
        x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        call = ((), {module.main_input_name: x})
    model = interp.wrap(module)
    bare = next(iter(call[1].values()))
    with torch.no_grad():
        assert gap(model(bare), model(call[1])) == 0
    _, seen, _ = by_hand.watch(module, call)
    names = list(assert_all_seen(model, call))
    with torch.no_grad():
        for name in names[:: max(len(names) // 4, 1)]:
            ours = model.run_with_hooks(call[1], [(name, halve)])
            theirs = by_hand.edited(module, call, name, lambda v: v * 0.5 if v.is_floating_point() else v)
            theirs = getattr(theirs, "logits", getattr(theirs, "last_hidden_state", None))
            assert gap(ours, theirs) < 1e-5, name
    assert seen


# --- Hugging Face models that stray from their row -----------------------------------------------

IDS = torch.tensor([[11, 7, 23, 5, 42], [9, 31, 6, 77, 50]])


def random(module: nn.Module) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module.eval()


def decoders(t: Any) -> dict[str, Any]:
    bert = {**_SIZES, "is_decoder": True}
    gpt2 = {"vocab_size": 101, "n_embd": 24, "n_layer": 2, "n_head": 6, "n_positions": 31}
    return {
        "bert": t.BertLMHeadModel(t.BertConfig(**bert)),
        "roberta": t.RobertaForCausalLM(t.RobertaConfig(**bert, pad_token_id=1)),
        "bert, crossed": t.BertLMHeadModel(t.BertConfig(**bert, add_cross_attention=True)),
        "gpt2, crossed": t.GPT2LMHeadModel(t.GPT2Config(**gpt2, add_cross_attention=True)),
        "not told": t.BertLMHeadModel(t.BertConfig(**_SIZES)),
    }


@pytest.mark.parametrize("kind", ["bert", "roberta", "bert, crossed", "gpt2, crossed", "not told"])
def test_causal_is_what_a_changed_last_token_shows(kind: str) -> None:
    import transformers

    model = interp.wrap(random(decoders(transformers)[kind]))
    other = IDS.clone()
    other[:, -1] = 60
    with torch.no_grad():
        sees_ahead = gap(model(IDS)[:, :-1], model(other)[:, :-1]) > 1e-5
        assert model.cfg.causal is not sees_ahead
        assert model.is_language_model is model.cfg.causal
        last = f"blocks.1.hook_{'' if model.cfg.style == 'pre' else 'normalized_'}resid_post"
        read = model.unembed(model.ln_final(model.capture(IDS, last)[last]))
        assert gap(read, model(IDS)) < 1e-5
    assert interp.logit_lens(model, IDS[0]).check().ok


@pytest.mark.parametrize("kind", ["bert, crossed", "gpt2, crossed"])
def test_cross_attention_is_offered_where_encoder_states_come_in(kind: str) -> None:
    import transformers

    module = random(decoders(transformers)[kind])
    model = interp.wrap(module)
    states = torch.randn(2, 4, 24, generator=torch.Generator().manual_seed(3))
    own = [n for n in model.sites.unlisted if n.startswith("blocks.1.") and "result" not in n]
    cross = [n.removeprefix("blocks.1.") for n in own]
    parts = ["hook_resid_pre", "hook_attn_out", "hook_resid_mid_cross", "hook_mlp_out"]
    parts += ["hook_resid_mid", "hook_resid_post"]
    asked = [f"blocks.1.{n}" for n in dict.fromkeys([*cross, *parts])]
    acts = model.capture(IDS, asked, encoder_hidden_states=states)
    v = {n.removeprefix("blocks.1."): t for n, t in acts.items()}
    assert gap(v["hook_resid_mid"], v["hook_resid_pre"] + v["hook_attn_out"]) < 1e-5
    pattern, value = v["cross_attn.hook_pattern"], v["cross_attn.hook_v"]
    assert pattern.shape[-2:] == (5, 4)
    z = torch.einsum("bhqk,bkhd->bqhd", pattern, value)
    assert gap(v["cross_attn.hook_z"], z) < 1e-5
    if kind.startswith("gpt2"):
        mid = v["hook_resid_mid"] + v["hook_cross_attn_out"]
        assert gap(v["hook_resid_mid_cross"], mid) < 1e-5
        assert gap(v["hook_resid_post"], mid + v["hook_mlp_out"]) < 1e-5
    raw = {
        "bert, crossed": ("bert.encoder.layer.1.crossattention.output.dense.hook_out"),
        "gpt2, crossed": ("transformer.h.1.crossattention.hook_out"),
    }[kind]
    call: Call = ((), {"input_ids": IDS, "encoder_hidden_states": states, "use_cache": False})
    with torch.no_grad():
        edit = [interp.zero("blocks.1.hook_cross_attn_out")]
        ours = model.run_with_hooks(IDS, edit, encoder_hidden_states=states)
        theirs = by_hand.edited(module, call, raw, torch.zeros_like).logits
        assert gap(ours, theirs) < 1e-5
        assert gap(ours, model(IDS, encoder_hidden_states=states)) > 1e-4
        # The same stream without encoder states, and both without a word about the other's sites.
        assert "blocks.1.hook_resid_mid_cross" in [*model.sites, *model.sites.unlisted]
        model.run_with_cache(IDS)
        model.run_with_cache(IDS, encoder_hidden_states=states)
    with pytest.raises(HookNotFired, match="cross_attn_out"):
        model.capture(IDS, "blocks.0.hook_cross_attn_out")


def test_a_decomposition_with_encoder_states_is_refused_and_right_without() -> None:
    import transformers

    model = interp.wrap(random(decoders(transformers)["gpt2, crossed"]))
    assert interp.direct_logit_attribution(model, IDS[0], target=5).check().ok
    states = torch.randn(1, 4, 24)
    with pytest.raises(ModelError, match="cross-attention"):
        interp.direct_logit_attribution(model, IDS[0], target=5, encoder_hidden_states=states)


@pytest.mark.parametrize("behind", [False, True])
def test_a_bloom_whose_residual_starts_behind_its_norms_is_no_sum(behind: bool) -> None:
    import transformers

    config = transformers.BloomConfig(
        vocab_size=101, hidden_size=24, n_layer=3, n_head=6, apply_residual_connection_post_layernorm=behind
    )
    model = interp.wrap(random(transformers.BloomForCausalLM(config)))
    assert interp.logit_lens(model, IDS[0]).check().ok
    if not behind:
        assert interp.direct_logit_attribution(model, IDS[0], target=5).check().ok
        return
    for name in ("hook_attn_out", "hook_mlp_out", "hook_resid_mid"):
        with pytest.raises(SiteError, match="does not offer"):
            model.capture(IDS, f"blocks.1.{name}")
    with pytest.raises(ModelError, match="no sum of its parts"):
        interp.direct_logit_attribution(model, IDS[0], target=5)
    with pytest.raises(SiteError):
        model.run_with_cache(IDS)[1].decompose_resid()


def test_named_families_still_refuse_a_site_that_does_not_fire() -> None:
    model = interp.wrap(zoo.make("llama"))
    embedded = torch.randn(1, 4, zoo.D)
    with pytest.raises(HookNotFired, match="hook_embed"):
        model.run_with_cache({"inputs_embeds": embedded})


def test_a_block_that_stands_twice_in_the_stack_is_refused_by_its_sites() -> None:
    """Its names would mean its first run and its second; the blocks that run once keep theirs."""
    module = zoo.make("gpt2")
    module.transformer.h[1] = module.transformer.h[0]
    model, ids = interp.wrap(module), torch.arange(5)
    for site in ("blocks.0.hook_resid_post", "blocks.1.attn.hook_z"):
        with pytest.raises(InterpError, match="fires 2 times in one forward pass"):
            model.capture(ids, [site])
    assert model.capture(ids, "blocks.2.hook_resid_post")["resid_post", 2].shape == (1, 5, zoo.D)
