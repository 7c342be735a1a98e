"""Direct logit attribution: the parts sum to the logit, each is what the model says it is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp
from interp.core.errors import EditError, ModelError, ShapeError, SiteError, TokenError
from interp.core.result import Result
from interp.lenses.decomposition import Decomposition
from interp.lenses.direct import SINGLE_NORM
from interp.models import contrast
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from interp.models.text.tokens import TokenBatch
from tests.models import tokenizers, zoo

IDS = torch.tensor([11, 7, 23, 5, 42, 17, 3])
SEQ2SEQ = ["t5", "t5-gated"]
SUMS = [name for name in zoo.DECODERS if name != "opt-post"]
EXACT_NORM = ["gpt2", "neox", "opt", "bloom", "gptj"]
"""Families whose norm computes in the dtype it is given; Hugging Face's RMS takes float32."""


def kwargs_for(name: str) -> dict[str, Any]:
    return {"decoder_input_ids": IDS[None, :5]} if name in SEQ2SEQ else {}


def gap(result: Decomposition) -> float:
    return float((result.values.sum(0) - result.total).abs().max())


@pytest.fixture(scope="module")
def gpt2() -> interp.HookedModel:
    return interp.wrap(zoo.make("gpt2"))


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> interp.HookedModel:
    return interp.load_model(shared_data / "models" / "stories260k")


# --- identity: the parts sum to the logit ------------------------------------------------------


@pytest.mark.parametrize("name", [*SUMS, *SEQ2SEQ, *zoo.UNREACHED])
def test_the_parts_of_every_family_sum_to_its_own_logit(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    with torch.no_grad():
        logits = model(IDS, **kwargs_for(name))[0]
    for neurons in (False, True):
        result = interp.direct_logit_attribution(model, IDS, (19, 31), neurons=neurons, **kwargs_for(name))
        assert gap(result) <= 6e-6 and result.head_gap <= 6e-6  # measured: at most 3e-6
        assert result.check().ok
        torch.testing.assert_close(result.output, logits[:, 19] - logits[:, 31], atol=1e-5, rtol=1e-5)
    layers = model.cfg.n_decoder_layers or model.cfg.n_layers
    heads = layers * model.cfg.n_heads * (2 if name in SEQ2SEQ else 1)
    assert result.kinds.count("head") == heads
    assert result.kinds.count("neuron") == layers * model.cfg.d_mlp
    assert float(result.values.abs().max()) > 0.01  # or nothing was summed


@pytest.mark.parametrize("name", EXACT_NORM)
def test_in_double_precision_to_ten_digits(name: str) -> None:
    model = interp.wrap(zoo.make(name, dtype=torch.float64))
    result = interp.direct_logit_attribution(model, IDS, 19, neurons=True)
    assert result.tolerance == 1e-10
    assert gap(result) <= 1e-10 and result.head_gap <= 1e-10
    assert gap(result) < 1e-12  # measured 1e-15


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3", "t5"])
def test_norms_that_compute_in_float32_are_the_whole_of_the_gap(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = zoo.make(name, dtype=torch.float64)
    rounded = interp.direct_logit_attribution(interp.wrap(module), IDS, 19, **kwargs_for(name))
    assert rounded.tolerance == SINGLE_NORM
    assert 1e-10 < gap(rounded) < SINGLE_NORM and rounded.check().ok
    kinds = {type(part) for part in module.modules() if "Norm" in type(part).__name__}
    for kind in kinds:
        monkeypatch.setattr(kind, "forward", _double_rms)
    exact = interp.direct_logit_attribution(interp.wrap(module), IDS, 19, **kwargs_for(name))
    assert exact.tolerance == 1e-10
    assert gap(exact) <= 1e-10 and exact.check().ok


def _double_rms(self: Any, x: Tensor) -> Tensor:
    eps = getattr(self, "variance_epsilon", getattr(self, "eps", None))
    gain = 1.0 + self.weight if type(self).__name__.startswith("Gemma") else self.weight
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def test_under_a_soft_cap_the_parts_sum_to_what_is_capped() -> None:
    module = zoo.make("gemma2")
    with torch.no_grad():
        module.model.norm.weight.mul_(30.0).add_(20.0)  # logits far into the cap
    model = interp.wrap(module)
    with torch.no_grad():
        logits = model(IDS)[0]
    result = interp.direct_logit_attribution(model, IDS, 19)
    assert result.softcap == 30.0 and result.check().ok
    torch.testing.assert_close(result.output, logits[:, 19])
    torch.testing.assert_close(30 * torch.tanh(result.total / 30), logits[:, 19], atol=1e-4, rtol=1e-4)
    assert float((result.total - result.output).abs().max()) > 1.0  # the cap bites
    assert "soft cap" in result.plot(position=-1, kind="waterfall").to_json()


@pytest.mark.parametrize("norm", ["LN", "LNPre", "RMS", "RMSPre", None])
@pytest.mark.parametrize("more", [{}, {"attn_only": True}, {"gated_mlp": True, "act_fn": "silu"}])
def test_the_small_transformer(norm: str | None, more: dict[str, Any]) -> None:
    sizes = {"n_layers": 2, "d_model": 16, "n_ctx": 13, "d_head": 4, "n_heads": 3, "d_mlp": 11}
    module = SmallTransformer(
        SmallConfig(**sizes, d_vocab=61, normalization_type=norm, dtype="float64", **more), seed=1
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    result = interp.direct_logit_attribution(interp.wrap(module), IDS, neurons=True)
    assert gap(result) <= 1e-10 and result.check().ok
    assert float(result.total.abs().max()) > 0.1


# --- every part is what it says ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox"])
def test_taking_a_part_out_of_the_stream_changes_the_logit_by_its_contribution(name: str) -> None:
    """The direct path, measured: the final norm's scale held, nothing else rerun."""
    model = interp.wrap(zoo.make(name, dtype=torch.float64))
    result = interp.direct_logit_attribution(model, IDS, (19, 31))
    sites = [
        "blocks.1.attn.hook_result",
        "blocks.1.hook_mlp_out",
        "hook_embed",
        "ln_final.hook_scale",
        "blocks.1.hook_attn_out",
    ]
    sites += ["blocks.1.ln1_post.hook_scale"] if name == "gemma2" else []
    acts = model.capture(IDS, sites)
    head = acts["blocks.1.attn.hook_result"][:, :, 4]
    if name == "gemma2":
        gain = 1 + model.module.model.layers[1].post_attention_layernorm.weight
        head = head / acts["blocks.1.ln1_post.hook_scale"] * gain
    parts = {"L1H4": head, "L1 mlp": acts["mlp_out", 1], "embed": acts["hook_embed"]}
    scale = acts["ln_final.hook_scale"]
    last = f"blocks.{zoo.L - 1}.hook_resid_post"
    with torch.no_grad():
        whole = model(IDS)[0]
        for component, part in parts.items():
            hooks = [
                (last, lambda x, hook, part=part: x - part),
                ("ln_final.hook_scale", lambda x, hook: scale),
            ]
            without = model.run_with_hooks(IDS, hooks)[0]
            if model.cfg.final_softcap:  # what is summed lies before the cap
                measured = 30 * (torch.atanh(whole / 30) - torch.atanh(without / 30))
            else:
                measured = whole - without
            measured = measured @ _contrast(19, 31)
            found = result.values[result.components.index(component)]
            torch.testing.assert_close(found, measured, atol=2e-6, rtol=1e-5)


def _contrast(plus: int, minus: int) -> Tensor:
    weights = torch.zeros(zoo.V, dtype=torch.float64)
    weights[plus], weights[minus] = 1.0, -1.0
    return weights


def test_neurons_and_bias_sum_to_their_mlp(gpt2: interp.HookedModel) -> None:
    whole = interp.direct_logit_attribution(gpt2, IDS, 19)
    fine = interp.direct_logit_attribution(gpt2, IDS, 19, neurons=True)
    for layer in range(zoo.L):
        rows = [
            i
            for i, name in enumerate(fine.components)
            if name.startswith(f"L{layer}N") or name == f"L{layer} mlp bias"
        ]
        assert len(rows) == zoo.M + 1
        expected = whole.values[whole.components.index(f"L{layer} mlp")]
        torch.testing.assert_close(fine.values[rows].sum(0), expected, atol=1e-5, rtol=1e-5)


def test_equal_to_transformer_lens() -> None:
    import transformer_lens as tl

    sizes = {"n_layers": 3, "d_model": 24, "n_ctx": 13, "d_head": 4, "n_heads": 5, "d_mlp": 17}
    cfg = {**sizes, "d_vocab": 61, "act_fn": "gelu", "normalization_type": "LNPre"}
    theirs = tl.HookedTransformer(tl.HookedTransformerConfig(**cfg, seed=0))
    ours = SmallTransformer(SmallConfig(**cfg))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in ours.state_dict()})
    _, cache = theirs.run_with_cache(IDS[None])
    heads = cache.stack_head_results(layer=-1, pos_slice=-1)
    expected = cache.logit_attrs(heads, tokens=19, incorrect_tokens=31, pos_slice=-1)[:, 0]
    for model in (interp.wrap(ours), interp.wrap(theirs)):
        found = interp.direct_logit_attribution(model, IDS, (19, 31), positions=-1)
        assert found.check().ok
        torch.testing.assert_close(found.of("head")[:, 0], expected, atol=1e-5, rtol=1e-4)
        assert torch.equal(found.heads()[..., 0].flatten(), found.of("head")[:, 0])


def test_an_observable_reads_a_weighted_sum_of_logits(gpt2: interp.HookedModel) -> None:
    weights = contrast(gpt2, [19, 20], [31]).over_logits(zoo.V)
    assert weights[[19, 20, 31]].tolist() == [0.5, 0.5, -1.0] and int((weights != 0).sum()) == 3
    read = interp.direct_logit_attribution(gpt2, IDS, weights)
    parts = [interp.direct_logit_attribution(gpt2, IDS, (plus, 31)) for plus in (19, 20)]
    torch.testing.assert_close(read.values, (parts[0].values + parts[1].values) / 2, atol=1e-5, rtol=1e-4)
    assert read.reading == "observable" and read.check().ok
    same = interp.direct_logit_attribution(gpt2, IDS, ([19, 20], [31]))
    torch.testing.assert_close(same.values, read.values)
    assert same.reading == "contrast" and set(same.targets) == {"19+20−31"}


def test_padding_never_reaches_the_attribution(gpt2: interp.HookedModel) -> None:
    ids = torch.cat([torch.zeros(1, 3).long(), IDS[None]], dim=1)
    padded = TokenBatch(ids, torch.arange(10)[None] >= 3)
    for positions in (None, [0, -1]):
        with_pad = interp.direct_logit_attribution(gpt2, padded, 19, positions=positions)
        plain = interp.direct_logit_attribution(gpt2, IDS, 19, positions=positions)
        assert with_pad.positions == plain.positions and with_pad.tokens == plain.tokens
        torch.testing.assert_close(with_pad.values, plain.values, atol=1e-5, rtol=1e-4)


# --- finer parts: coders and directions --------------------------------------------------------


def coder(site: str, width: int, exact: bool = False, source: str | None = None) -> Any:
    draw = torch.Generator().manual_seed(3)
    encode = torch.randn(width, 41, generator=draw) * 0.3
    decode, offset = (torch.randn(41, width, generator=draw) * 0.3, torch.randn(width, generator=draw))
    if exact:
        encode, decode = torch.eye(width), torch.eye(width)
    return SimpleNamespace(
        site_in=source or site,
        site_out=site,
        W_enc=encode,
        W_dec=decode,
        encode=lambda x: x @ encode if exact else (x @ encode).relu(),
        decode=lambda z: z @ decode if exact else z @ decode + offset,
    )


@pytest.mark.parametrize(
    "site",
    [
        "blocks.1.hook_mlp_out",
        "blocks.1.hook_attn_out",
        "blocks.1.attn.hook_z",
        "blocks.0.mlp.hook_post",
        "blocks.1.hook_resid_post",
        "blocks.2.hook_resid_pre",
    ],
)
def test_a_dictionarys_latents_bias_and_error_take_the_place_of_what_they_split(
    gpt2: interp.HookedModel, site: str
) -> None:
    width = {"hook_post": zoo.M}.get(site.rpartition(".")[2], zoo.D)
    whole = interp.direct_logit_attribution(gpt2, IDS, 19)
    fine = interp.direct_logit_attribution(gpt2, IDS, 19, parts=[coder(site, width)])
    assert fine.check().ok and gap(fine) <= 1e-4
    new = [name for name in fine.components if name.startswith(site)]
    assert {f"{site} error", f"{site} bias"} <= set(new) and "latent" in fine.kinds
    kept = [name for name in fine.components if name in whole.components]
    replaced = [name for name in whole.components if name not in kept]
    assert replaced
    if "resid" in site:
        assert all(name == "embed" or name[:2] in ("po", "L0", "L1") for name in replaced)
    of = {name: v for d in (whole, fine) for name, v in zip(d.components, d.values, strict=True)}
    if "hook_post" not in site:  # there the MLP's bias is told apart as well
        torch.testing.assert_close(
            sum(of[n] for n in new), sum(of[n] for n in replaced), atol=1e-4, rtol=1e-4
        )
    perfect = interp.direct_logit_attribution(gpt2, IDS, 19, parts=[coder(site, width, exact=True)])
    error = perfect.values[perfect.components.index(f"{site} error")]
    assert float(error.abs().max()) < 1e-5


def test_a_transcoder_reads_where_it_reads(gpt2: interp.HookedModel) -> None:
    one = coder("blocks.1.hook_mlp_out", zoo.D, source="blocks.1.ln2.hook_normalized")
    result = interp.direct_logit_attribution(gpt2, IDS, 19, parts=[one])
    latents = one.encode(gpt2.capture(IDS, one.site_in)[one.site_in][0])
    assert result.check().ok
    active = latents.amax(0).nonzero().flatten().tolist()
    assert [n for n in result.components if "#" in n] == [f"{one.site_out} #{i}" for i in active]


def test_any_matrix_of_directions(gpt2: interp.HookedModel) -> None:
    site = "blocks.1.hook_mlp_out"
    basis = torch.linalg.qr(torch.randn(zoo.D, zoo.D))[0]
    full = interp.direct_logit_attribution(gpt2, IDS, 19, parts={site: basis})
    assert full.check().ok
    assert float(full.of("rest").abs().max()) < 1e-5  # a basis misses nothing
    three = interp.direct_logit_attribution(gpt2, IDS, 19, parts={site: basis[:3]})
    assert float(three.of("rest").abs().max()) > 1e-2  # three directions do
    torch.testing.assert_close(three.of("latent"), full.of("latent")[:3], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n", [3, 2 * zoo.D])
def test_directions_that_are_not_orthonormal_get_least_squares_coefficients(
    gpt2: interp.HookedModel, n: int
) -> None:
    """numpy's lstsq is the oracle: dot products would count what two directions share twice."""
    site = "blocks.1.hook_mlp_out"
    oblique = torch.randn(n, zoo.D) + 2 * torch.randn(1, zoo.D)
    found = interp.direct_logit_attribution(gpt2, IDS, 19, parts={site: oblique})
    acts = gpt2.capture(IDS, [site, "ln_final.hook_scale"])
    x = acts[site][0].numpy()
    coefficients = np.linalg.lstsq(oblique.numpy().T, x.T, rcond=None)[0]  # [n pos]
    final = gpt2.module.transformer.ln_f
    behind = (final.weight * gpt2.W_U[:, 19]).detach().numpy()
    reader = (behind - behind.mean())[None] / acts["ln_final.hook_scale"][0].numpy()
    expected = coefficients * (oblique.numpy() @ reader.T)
    np.testing.assert_allclose(found.of("latent"), expected, atol=2e-4)
    assert (n < zoo.D) is (float(found.of("rest").abs().max()) > 1e-2)


def test_the_bias_of_a_norm_behind_a_sublayer_is_a_part() -> None:
    """Gemma's shape with layer norms: without β the parts miss the logit by β · reader."""
    module = zoo.make("gemma2", dtype=torch.float64)
    layer = module.model.layers[1]
    layer.post_feedforward_layernorm = torch.nn.LayerNorm(zoo.D).double()
    with torch.no_grad():
        layer.post_feedforward_layernorm.bias.normal_()
        layer.post_feedforward_layernorm.weight.normal_()
    model = interp.wrap(module)
    found = interp.direct_logit_attribution(model, IDS, 19, neurons=True)
    assert gap(found) < 1e-5 and found.check().ok
    scale = model.capture(IDS, "ln_final.hook_scale")["ln_final.hook_scale"][0]
    gain = 1 + module.model.norm.weight
    behind = layer.post_feedforward_layernorm.bias @ (gain * module.lm_head.weight[19])
    part = found.values[found.components.index("L1 mlp bias")]
    torch.testing.assert_close(part, (behind / scale[:, 0]).detach(), atol=1e-5, rtol=1e-5)
    assert float(part.abs().max()) > 1e-2


# --- the phenomenon, and the null --------------------------------------------------------------


def test_the_induction_heads_say_the_repeated_token(shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "induction")
    draw = torch.Generator().manual_seed(0)
    shares, first = [], []
    for _ in range(10):
        block = torch.randperm(model.cfg.d_vocab, generator=draw)[:30]
        ids = torch.cat([block, block])
        result = interp.direct_logit_attribution(model, ids, ids.roll(-1))
        assert result.check().ok
        heads = result.heads()
        known = heads[1, 1:, 30:-1].sum(0)  # L1H1, L1H2, L1H3: shared/data/README.md
        shares.append(float(known.mean() / result.total[30:-1].mean()))
        first.append(float(heads[1, 1:, :29].sum(0).mean() / known.mean()))
    assert min(shares) > 0.75, f"share of the three induction heads: {shares}"
    assert max(map(abs, first)) < 0.25, f"the same heads where nothing repeats: {first}"


def test_a_random_model_has_no_such_heads(shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "induction").randomised(0)
    block = torch.randperm(model.cfg.d_vocab, generator=torch.Generator().manual_seed(0))[:30]
    ids = torch.cat([block, block])
    result = interp.direct_logit_attribution(model, ids, ids.roll(-1))
    assert result.check().ok  # it is a model too
    known, other = result.heads()[1, 1:, 30:-1].sum(0), result.heads()[1, 1:, :29].sum(0)
    assert float(known.mean()) < 3 * float(other.std()) / 29**0.5


def test_real_text_sums_for_a_real_model(stories: interp.HookedModel) -> None:
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    for neurons in (False, True):
        result = interp.direct_logit_attribution(stories, text, neurons=neurons)
        assert gap(result) <= 1.2e-5 and result.check().ok  # measured 6e-6
        assert float(result.total.max()) > 10


# --- errors, before any number is shown --------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "opt-post", "vit"])
def test_models_whose_output_is_no_sum_are_refused(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    with pytest.raises(ModelError):
        interp.direct_logit_attribution(model, zoo.inputs(model.module))


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"positions": 7}, TokenError, "position 7 does not exist"),
        ({"positions": [True, False]}, TokenError, "shape of the tokens"),
        ({"positions": []}, EditError, "selects nothing"),
        ({"target": zoo.V}, TokenError, "0 to 100"),
        ({"target": (19, "red")}, TokenError, "no tokenizer"),
        ({"target": torch.ones(7)}, ShapeError, "one weight per token"),
        ({"target": (torch.ones(zoo.V), 3)}, TokenError, "one id per position"),
        ({"parts": {"blocks.1.hook_q": torch.ones(2, zoo.D)}}, SiteError, "does not write"),
        ({"parts": {"blocks.1.hook_mlp_out": torch.ones(2, 5)}}, ShapeError, "do not fit"),
    ],
)
def test_bad_requests_are_explained(
    gpt2: interp.HookedModel, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        interp.direct_logit_attribution(gpt2, IDS, **options)


def test_several_texts_are_refused(gpt2: interp.HookedModel) -> None:
    with pytest.raises(TokenError, match="one text at a time"):
        interp.direct_logit_attribution(gpt2, torch.stack([IDS, IDS]))


# --- the result as a value ---------------------------------------------------------------------


def test_the_result_is_a_frame_a_folder_and_pictures(gpt2: interp.HookedModel, tmp_path: Path) -> None:
    result = interp.direct_logit_attribution(gpt2, IDS, (19, 31))
    result.save(tmp_path / "it")
    again = Result.load(tmp_path / "it")
    assert isinstance(again, Decomposition) and torch.equal(again.values, result.values)
    assert again.components == result.components and again.check() == result.check()
    top = result.top(1, "values", absolute=True)
    assert float(top["values"].abs().iloc[0]) == float(result.values.abs().max())
    folded = result.folded(5)
    assert len(folded.components) == 6 and folded.components[-1].endswith("others")
    torch.testing.assert_close(folded.values.sum(0), result.values.sum(0), atol=1e-5, rtol=1e-4)
    water = again.plot(kind="waterfall", position=2)
    bars = water.data[0]
    assert float(bars.x[-1]) == pytest.approx(float(result.total[2]), abs=1e-6)
    ends = [b + x for b, x in zip(bars.base, bars.x, strict=True)]
    assert list(bars.base[1:-1]) == pytest.approx(ends[:-2], abs=1e-5)  # each where the last ended
    assert result.plot(kind="heads").data[0].z.shape == (zoo.L, zoo.H)
    assert result.plot().data[0].z.shape == (25, 7)


def test_hostile_tokens_survive_in_all_pictures() -> None:
    from tests.plotting.samples import NASTY

    words = tokenizers.word_level(bos=0)
    sizes = {"n_layers": 1, "d_model": 8, "n_ctx": 40, "d_head": 4, "n_heads": 2, "d_mlp": 5}
    model = interp.wrap(SmallTransformer(SmallConfig(**sizes, d_vocab=len(words))), words)
    from dataclasses import replace

    plain = interp.direct_logit_attribution(model, "red green one", "cat")
    n = len(plain.tokens)
    nasty = replace(plain, tokens=NASTY[:n], targets=NASTY[3 : 3 + n])
    for kind in ("heatmap", "waterfall", "heads"):
        text = nasty.plot(kind=kind).to_json()
        assert "<script" not in text and "<img" not in text
