"""Adapters and quantised layers: every weight read is the one in use, or refused by name."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from interp import InterpError, load_model, wrap
from interp.core.errors import FoldError, ModelError, WeightError
from interp.lenses import direct_logit_attribution, find_heads, neuron_atlas
from interp.models.adapters.linear import linear_weight
from interp.models.folding.fold import fold
from tests.models import zoo

peft = pytest.importorskip("peft", reason="no peft: install [dev]")

WEIGHTS = (
    "W_E",
    "W_pos",
    "W_U",
    "b_U",
    "W_Q",
    "W_K",
    "W_V",
    "W_O",
    "b_Q",
    "b_K",
    "b_V",
    "b_O",
    "W_in",
    "W_gate",
    "W_out",
    "b_in",
    "b_out",
)
UNTIED: dict[str, Any] = {
    "gpt2": lambda t: zoo._gpt2(t, tie_word_embeddings=False),
    "llama": zoo.MAKERS["llama"],
    "neox": zoo.MAKERS["neox"],
    # Its head reads the embedding matrix whatever the flag says, so no adapter sits on that.
    "bert": zoo.MAKERS["bert"],
    "t5": zoo.MAKERS["t5-gated"],
}
TARGETS = {
    "gpt2": ["c_attn", "c_proj", "c_fc", "wte", "wpe", "lm_head"],
    "llama": [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "up_proj",
        "gate_proj",
        "down_proj",
        "embed_tokens",
        "lm_head",
    ],
    "neox": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "embed_in", "lm_head"],
    "bert": ["query", "key", "value", "dense"],
    "t5": ["q", "k", "v", "o", "wi_0", "wi_1", "wo", "lm_head"],
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 5},
    "dora": {"use_dora": True},
}


def base(family: str) -> Any:
    torch.manual_seed(0)
    module = UNTIED[family](transformers).eval().requires_grad_(False)
    if family == "t5":  # its flag unties nothing; merging into a tied table changes both ends
        module.lm_head.weight = nn.Parameter(torch.randn(zoo.V, zoo.D), requires_grad=False)
    return module


def stir(module: nn.Module, seed: int = 1) -> None:
    """Adapters start as nothing: give them values that are felt."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "magnitude" in name:
                p.mul_(1.0 + 0.3 * torch.rand_like(p))
            elif "lora_" in name:
                p.normal_(0.0, 0.1)
    module.eval().requires_grad_(False)


def adapted(family: str, **options: Any) -> Any:
    config = peft.LoraConfig(r=3, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2", **options)
    model = peft.get_peft_model(base(family), config)
    stir(model)
    return model


def read(model: Any, name: str) -> Tensor | None:
    return getattr(model, name, None)


def assert_weights_equal(model: Any, other: Any) -> None:
    seen = 0
    for name in WEIGHTS:
        mine, theirs = read(model, name), read(other, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None and theirs is not None:
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0, msg=name)
            seen += 1
    assert seen >= 11


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", UNTIED)
def test_every_weight_is_the_merged_models(family: str, kind: str) -> None:
    model = adapted(family, **KINDS[kind])
    merged = wrap(copy.deepcopy(model).merge_and_unload())
    wrapped, plain = wrap(model), wrap(base(family))
    assert_weights_equal(wrapped, merged)
    assert set(wrapped.sites) == set(merged.sites)
    assert set(wrapped.sites.unlisted) == set(merged.sites.unlisted)  # hook_result stays
    assert wrapped.fingerprint() == merged.fingerprint() != plain.fingerprint()
    moved = ["W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"]
    moved += {"bert": [], "t5": ["W_U"]}.get(family, ["W_E", "W_U"])
    for name in moved:
        assert float((getattr(wrapped, name) - getattr(plain, name)).abs().max()) > 1e-3, name


@pytest.mark.parametrize("family", UNTIED)
def test_switching_adapters_is_seen_by_a_model_wrapped_before(family: str) -> None:
    model = adapted(family)
    wrapped, plain = wrap(model), wrap(base(family))
    on = wrapped.fingerprint(), wrapped.W_Q
    with model.disable_adapter():
        assert wrapped.fingerprint() == plain.fingerprint()
        assert_weights_equal(wrapped, plain)
    assert wrapped.fingerprint() == on[0]
    torch.testing.assert_close(wrapped.W_Q, on[1])
    model.merge_adapter()
    torch.testing.assert_close(wrapped.W_Q, on[1], atol=1e-6, rtol=0)
    model.unmerge_adapter()
    torch.testing.assert_close(wrapped.W_Q, on[1], atol=1e-6, rtol=0)


def test_a_merged_adapter_that_is_switched_off_reads_as_the_base() -> None:
    model, plain = adapted("llama"), wrap(base("llama"))
    wrapped = wrap(model)
    model.merge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(wrapped.W_Q, plain.W_Q, atol=1e-6, rtol=0)
        ids = torch.arange(5)[None] + 10
        torch.testing.assert_close(wrapped(ids), plain(ids), atol=1e-5, rtol=0)


def test_several_active_adapters_and_their_scaling() -> None:
    model = peft.get_peft_model(base("llama"), peft.LoraConfig(r=3, target_modules=["q_proj"]))
    model.add_adapter("second", peft.LoraConfig(r=2, lora_alpha=7, target_modules=["q_proj"]))
    stir(model)
    wrapped, plain = wrap(model), wrap(base("llama"))
    first = wrapped.W_Q - plain.W_Q
    model.base_model.set_adapter(["default", "second"])
    both, mark = wrapped.W_Q - plain.W_Q, wrapped.fingerprint()
    model.set_adapter("second")
    torch.testing.assert_close(both, first + wrapped.W_Q - plain.W_Q, atol=1e-6, rtol=0)
    second = wrapped.W_Q - plain.W_Q
    for layer in model.modules():
        if hasattr(layer, "set_scale") and hasattr(layer, "lora_A"):
            layer.set_scale("second", 2.0)
    torch.testing.assert_close(wrapped.W_Q - plain.W_Q, 2 * second, atol=1e-6, rtol=0)
    assert wrapped.fingerprint() != mark


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_modules_to_save_are_what_runs(family: str) -> None:
    saved = {"gpt2": ["lm_head", "wte", "ln_f"], "llama": ["lm_head", "embed_tokens", "norm"]}
    config = peft.LoraConfig(
        r=3,
        target_modules=TARGETS[family][:1],
        fan_in_fan_out=family == "gpt2",
        modules_to_save=saved[family],
    )
    model = peft.get_peft_model(base(family), config)
    stir(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "modules_to_save" in name:
                p.add_(0.1 * torch.randn_like(p))
    merged = wrap(copy.deepcopy(model).merge_and_unload())
    wrapped = wrap(model)
    assert_weights_equal(wrapped, merged)
    assert wrapped.fingerprint() == merged.fingerprint()
    x = torch.randn(2, zoo.D)
    torch.testing.assert_close(wrapped.ln_final(x), merged.ln_final(x))


@pytest.mark.parametrize("neurons", [False, True])
@pytest.mark.parametrize("family", [f for f in UNTIED if f != "bert"])
def test_decompositions_of_an_adapted_model_sum(family: str, neurons: bool) -> None:
    wrapped = wrap(adapted(family))
    ids = torch.tensor([[11, 25, 60, 33, 40]])
    more = {"decoder_input_ids": ids.flip(1)} if family == "t5" else {}
    logits = wrapped(ids, **more)[0, :, 7].double()
    plain = wrap(base(family))(ids, **more)[0, :, 7].double()
    found = direct_logit_attribution(wrapped, ids, 7, neurons=neurons, **more)
    assert found.check().ok
    total = found.values.sum(0).double()
    assert float((total - logits).abs().max()) < 1e-4 < 1e-2 < float((total - plain).abs().max())


def test_a_post_norm_model_has_no_such_sum() -> None:
    with pytest.raises(ModelError, match="no sum of its parts"):
        direct_logit_attribution(wrap(adapted("bert")), torch.tensor([[11, 25, 60]]), 7)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_results_at_the_sites_read_the_weight_of_this_call(family: str) -> None:
    model = adapted(family)
    wrapped, site = wrap(model), "blocks.1.attn.hook_result"
    ids = torch.tensor([[11, 25, 60, 33, 40]])

    def gap() -> float:
        acts = wrapped.capture(ids, [site, "blocks.1.hook_attn_out"])
        bias = wrapped.b_O[1]
        return float((acts[site].sum(2) + bias - acts["blocks.1.hook_attn_out"]).abs().max())

    assert gap() < 1e-5
    with model.disable_adapter():
        assert gap() < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_weight_analyses_agree_with_the_merged_model(family: str) -> None:
    model = adapted(family)
    wrapped, merged = wrap(model), wrap(copy.deepcopy(model).merge_and_unload())
    plain = wrap(base(family))
    for analysis in (find_heads, neuron_atlas):
        mine, theirs, old = (analysis(m).to_frame() for m in (wrapped, merged, plain))
        numbers = mine.select_dtypes("number").columns
        assert len(numbers)
        gap = (mine[numbers] - theirs[numbers]).abs().max().max()
        moved = (mine[numbers] - old[numbers]).abs().max().max()
        assert gap < 1e-4 < moved, analysis.__name__


def test_kinds_that_scale_are_read_too() -> None:
    config = peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    model = peft.get_peft_model(base("llama"), config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ia3_" in name:
                p.mul_(1.0 + torch.rand_like(p))
    merged = wrap(copy.deepcopy(model).merge_and_unload())
    assert_weights_equal(wrap(model), merged)


def test_two_halves_that_embed_differently_have_no_one_table() -> None:
    config = peft.LoraConfig(r=3, target_modules=["embed_tokens"])
    model = peft.get_peft_model(base("t5"), config)
    plain = wrap(base("t5"))
    torch.testing.assert_close(wrap(model).W_E, plain.W_E)  # fresh adapters are nothing
    stir(model)
    wrapped = wrap(model)
    with pytest.raises(WeightError, match="no one W_E"):
        _ = wrapped.W_E
    with model.disable_adapter():
        torch.testing.assert_close(wrapped.W_E, plain.W_E)


def test_prompt_and_prefix_tuning_are_refused() -> None:
    for config in (
        peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    ):
        model = peft.get_peft_model(base("gpt2"), config)
        with pytest.raises(ModelError, match=r"PROMPT_TUNING|PREFIX_TUNING") as caught:
            wrap(model)
        assert caught.value.fix


def test_a_layer_that_computes_more_than_its_weight_is_refused() -> None:
    class Patched(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + input[..., :1]

    model = base("llama")
    old = model.model.layers[0].self_attn.q_proj
    new = Patched(old.in_features, old.out_features, bias=False)
    new.weight = old.weight
    model.model.layers[0].self_attn.q_proj = new
    wrapped = wrap(model)
    with pytest.raises(WeightError, match="Patched computes more"):
        _ = wrapped.W_Q
    assert not hasattr(wrapped, "W_Q") and hasattr(wrapped, "W_K")


def test_add_adapter_of_transformers() -> None:
    model = base("llama")
    model.add_adapter(peft.LoraConfig(r=3, target_modules=["q_proj", "o_proj"]), "mine")
    stir(model)
    wrapped, plain = wrap(model), wrap(base("llama"))
    assert float((wrapped.W_Q - plain.W_Q).abs().max()) > 1e-3
    model.disable_adapters()
    assert_weights_equal(wrapped, plain)
    assert wrapped.fingerprint() == plain.fingerprint()


def test_an_adapter_added_after_wrapping_is_not_overlooked() -> None:
    module = base("llama")
    wrapped = wrap(module)
    module.add_adapter(peft.LoraConfig(r=3, target_modules=["embed_tokens"]), "mine")
    stir(module)
    with pytest.raises(ModelError, match="replaced after it was wrapped"):
        _ = wrapped.W_E
    plain = wrap(base("llama")).W_E
    assert float((wrap(module).W_E - plain).abs().max()) > 1e-3


@pytest.mark.parametrize("relative", [False, True])
def test_adapter_folders_open(tmp_path: Any, relative: bool) -> None:
    home = tmp_path / "adapter" / "base" if relative else tmp_path / "base"
    base("llama").save_pretrained(home)
    model = adapted("llama")
    model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = "base" if relative else str(home)
    file.write_text(json.dumps(config))
    opened = load_model(tmp_path / "adapter")
    ids = torch.arange(5)[None] + 10
    torch.testing.assert_close(opened(ids), wrap(model)(ids))
    assert opened.fingerprint() == wrap(model).fingerprint()
    assert opened.cfg.model_name == "adapter"


def test_adapter_folders_that_cannot_open_say_why(tmp_path: Any) -> None:
    base("llama").save_pretrained(tmp_path / "base")
    adapted("llama").save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    whole = json.loads(file.read_text())

    def refused(match: str, **changes: Any) -> None:
        file.write_text(json.dumps(whole | changes))
        with pytest.raises(InterpError, match=match):
            load_model(tmp_path / "adapter")

    refused("not on this machine", base_model_name_or_path="nobody/nothing")
    refused("does not say which model", base_model_name_or_path=None)
    here = str(tmp_path / "base")
    refused("does not fit", base_model_name_or_path=here, target_modules=["q_proj"])
    refused("does not fit", base_model_name_or_path=here, r=5)
    file.write_text("{")
    with pytest.raises(ModelError, match="cannot read"):
        load_model(tmp_path / "adapter")
    file.write_text(json.dumps(whole | {"base_model_name_or_path": here}))
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no adapter weights"):
        load_model(tmp_path / "adapter")


def test_adapted_models_are_copied_randomised_and_not_folded() -> None:
    wrapped = wrap(adapted("gpt2"))
    twin = copy.deepcopy(wrapped)
    assert twin.fingerprint() == wrapped.fingerprint()
    fresh = wrapped.randomised(3)
    assert float((fresh.W_Q - wrapped.W_Q).abs().max()) > 1e-3
    with pytest.raises(FoldError, match="carries adapters"):
        fold(wrapped)


# --- quantised ----------------------------------------------------------------------------------


def quantised(module: nn.Module) -> Any:
    return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_dynamically_quantised_net_runs_and_is_itself() -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    packed = quantised(net)
    wrapped, x = wrap(packed), torch.randn(2, 5)
    torch.testing.assert_close(wrapped(x), packed(x))
    acts = wrapped.capture(x, "0.hook_out")
    assert acts["0.hook_out"].shape == (2, 7)
    assert not [name for name in wrapped.sites if "_packed" in name]  # weights, never run
    assert list(wrapped.run_with_cache(x)[1]) == list(wrapped.sites)
    step = packed[0].weight().q_scale()
    assert float((linear_weight(packed[0]).T - net[0].weight).abs().max()) <= step
    other = quantised(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).eval())
    assert wrapped.fingerprint() == wrap(packed).fingerprint() != wrap(other).fingerprint()
    assert copy.deepcopy(wrapped).fingerprint() == wrapped.fingerprint()
    with pytest.raises(ModelError, match="quantised"):
        wrapped.to(torch.float64)
    with pytest.raises(ModelError, match="quantised"):
        wrapped.randomised(1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_dynamically_quantised_language_model_shows_its_weights() -> None:
    plain = wrap(base("llama"))
    packed = wrap(quantised(copy.deepcopy(plain.module)))
    ids = torch.arange(5)[None] + 10
    gap = float((packed(ids) - plain(ids)).abs().max())
    assert 0 < gap < 0.2 * float(plain(ids).abs().max())
    for name in ("W_Q", "W_O", "W_in", "W_U", "W_E"):
        mine, theirs = getattr(packed, name), getattr(plain, name)
        assert mine.shape == theirs.shape
        assert float((mine - theirs).abs().max()) <= float(theirs.abs().max()) / 100
    with pytest.raises(FoldError):
        fold(packed)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_packed_weights_are_refused(dtype: torch.dtype) -> None:
    model = base("llama")
    layer = model.model.layers[0].self_attn.q_proj
    layer.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
    with pytest.raises(WeightError, match="quantised or packed"):
        linear_weight(layer)
