"""The logit lens: identity at the top, the same numbers by hand, and an answer that emerges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.core.errors import ConfigError, ModelError, NonFiniteError, TokenError
from interp.core.result import Result
from interp.lenses.result import LensResult
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from interp.models.text.tokens import TokenBatch
from tests.models import tokenizers, zoo

IDS = torch.tensor([11, 7, 23, 5, 42, 17, 3])
PROMPT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
ENCODERS = ["bert", "roberta", "distilbert"]
SEQ2SEQ = ["t5", "t5-gated"]


def small(**more: Any) -> SmallTransformer:
    sizes = {"n_layers": 2, "d_model": 16, "n_ctx": 13, "d_head": 4, "n_heads": 3, "d_mlp": 11}
    return SmallTransformer(SmallConfig(**{**sizes, "d_vocab": 61, **more}), seed=1)


def kwargs_for(name: str) -> dict[str, Any]:
    return {"decoder_input_ids": IDS[None, :5]} if name in SEQ2SEQ else {}


@pytest.fixture(scope="module")
def gpt2() -> interp.HookedModel:
    return interp.wrap(zoo.make("gpt2"))


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> interp.HookedModel:
    return interp.load_model(shared_data / "models" / "stories260k")


# --- identity: the last row is the model's own output ------------------------------------------


@pytest.mark.parametrize("name", [*zoo.DECODERS, *ENCODERS, *SEQ2SEQ])
def test_last_row_is_the_output_of_every_family(name: str) -> None:
    model = interp.wrap(zoo.make(name))
    lens = interp.logit_lens(model, IDS, k=7, **kwargs_for(name))
    with torch.no_grad():
        expected = model(IDS, **kwargs_for(name))[0].log_softmax(-1).exp().topk(7)
    assert lens.check().ok, lens.check()
    assert torch.equal(lens.ids_top[-1], expected.indices)
    assert torch.equal(lens.probs_top[-1], expected.values)
    assert float(lens.kl[-1].max()) < 1e-6
    assert float(lens.kl[0].max()) > 1e-3  # or the comparison above could not fail
    decoder = model.cfg.n_decoder_layers
    assert lens.components[0] == "embed"
    assert len(lens.components) == (decoder or model.cfg.n_layers) + 1


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox", "bert", "t5"])
def test_last_row_is_the_output_in_double_precision(name: str) -> None:
    model = interp.wrap(zoo.make(name, dtype=torch.float64))
    lens = interp.logit_lens(model, IDS, **kwargs_for(name))
    assert lens.tolerance == 1e-10
    assert lens.kl.dtype == torch.float64
    assert lens.check().ok, lens.check()


@pytest.mark.parametrize(
    "more", [{}, {"attn_only": True, "normalization_type": None}, {"positional_embedding_type": "rotary"}]
)
def test_last_row_is_the_output_of_the_small_transformer(more: dict[str, Any]) -> None:
    lens = interp.logit_lens(interp.wrap(small(**more)), IDS)
    assert float(lens.kl[-1].max()) < 1e-6 < float(lens.kl[0].max())


def test_the_softcap_of_gemma_2_is_part_of_every_row() -> None:
    module = zoo.make("gemma2")
    cap = module.config.final_logit_softcapping
    with torch.no_grad():
        module.lm_head.weight.mul_(40)  # tied: the embedding grows too
    model = interp.wrap(module)
    acts = model.capture(IDS, "blocks.1.hook_resid_post")
    with torch.no_grad():
        raw = module.lm_head(module.model.norm(acts["resid_post", 1]))[0]
    assert float(raw.abs().max()) > 2 * cap
    expected = (cap * torch.tanh(raw / cap)).softmax(-1).max(-1).values
    torch.testing.assert_close(interp.logit_lens(model, IDS).probs_top[2, :, 0], expected)


# --- the same numbers by other means -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "norm", "head"),
    [
        ("gpt2", "transformer.ln_f", "lm_head"),
        ("llama", "model.norm", "lm_head"),
        ("qwen3", "model.norm", "lm_head"),
        ("neox", "gpt_neox.final_layer_norm", None),
        ("opt", "model.decoder.final_layer_norm", "lm_head"),
    ],
)
def test_rows_are_nostalgebraists_on_the_raw_hidden_states(name: str, norm: str, head: str | None) -> None:
    module = zoo.make(name)
    unembed = module.get_submodule(head) if head else module.get_output_embeddings()
    with torch.no_grad():
        states = module(IDS[None], output_hidden_states=True).hidden_states
        rows = [unembed(module.get_submodule(norm)(state)) for state in states[:-1]]
        rows.append(unembed(states[-1]))  # Hugging Face has normalised the last one already
    expected = torch.cat(rows).softmax(-1)
    lens = interp.logit_lens(interp.wrap(module), IDS, k=zoo.V)
    rebuilt = torch.zeros_like(expected).scatter(-1, lens.ids_top, lens.probs_top)
    torch.testing.assert_close(rebuilt, expected, atol=1e-6, rtol=1e-4)


def test_rows_are_transformer_lens_accumulated_residual() -> None:
    import transformer_lens as lens_library

    cfg = lens_library.HookedTransformerConfig(
        n_layers=3,
        d_model=24,
        n_ctx=13,
        d_head=5,
        n_heads=4,
        d_mlp=37,
        d_vocab=53,
        act_fn="gelu",
        normalization_type="LN",
        seed=3,
        device="cpu",
    )
    theirs = lens_library.HookedTransformer(cfg)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        _, cache = theirs.run_with_cache(IDS[None])
        stack, names = cache.accumulated_resid(apply_ln=True, return_labels=True)
        expected = (stack[:, 0] @ theirs.W_U + theirs.b_U).log_softmax(-1)
    ours = small(n_layers=3, d_model=24, d_head=5, n_heads=4, d_mlp=37, d_vocab=53, act_fn="gelu")
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in ours.state_dict()})
    for module in (theirs, ours):
        lens = interp.logit_lens(interp.wrap(module), IDS)
        assert len(lens.components) == len(names)
        torch.testing.assert_close(lens.probs_top, expected.exp().topk(5).values)
        torch.testing.assert_close(lens.entropy, -(expected.exp() * expected).sum(-1))


def by_brute_force(rows: Tensor, target: list[int]) -> dict[str, list[list[float]]]:
    """Entropy, KL, target probability and rank with Python floats, one cell at a time."""
    found: dict[str, list[list[float]]] = {"entropy": [], "kl": [], "target_prob": [], "rank": []}
    dist = [[distribution(cell) for cell in row] for row in rows.tolist()]
    for row in dist:
        for key in found:
            found[key].append([])
        for pos, p in enumerate(row):
            q = dist[-1][pos]
            found["entropy"][-1].append(-sum(x * math.log(x) for x in p))
            found["kl"][-1].append(sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)))
            found["target_prob"][-1].append(p[target[pos]])
            found["rank"][-1].append(sum(x > p[target[pos]] for x in p))
    return found


def distribution(logits: list[float]) -> list[float]:
    largest = max(logits)
    weights = [math.exp(x - largest) for x in logits]
    return [w / math.fsum(weights) for w in weights]


@pytest.mark.parametrize("target", [None, 19, [3, 1, 4, 15, 9, 2, 6]])
def test_numbers_equal_brute_force(target: Any) -> None:
    model = interp.wrap(zoo.make("gpt2", dtype=torch.float64))
    _, acts = model.run_with_cache(IDS, ["blocks.0.hook_resid_pre", "blocks.*.hook_resid_post"])
    with torch.no_grad():
        rows = torch.cat([model.unembed(model.ln_final(acts[site])) for site in acts])
    wanted = target
    if target is None:
        wanted = rows[-1].argmax(-1).tolist()
    elif isinstance(target, int):
        wanted = [target] * len(IDS)
    expected = by_brute_force(rows, wanted)
    lens = interp.logit_lens(model, IDS, target=target, k=4)
    for name in ("entropy", "kl", "target_prob"):
        torch.testing.assert_close(
            getattr(lens, name), torch.tensor(expected[name]).double(), atol=2e-7, rtol=2e-6
        )
    assert lens.target_rank.tolist() == expected["rank"]
    order = rows.argsort(-1, descending=True)[..., :4]
    assert torch.equal(lens.ids_top, order)
    assert lens.targets == tuple(map(str, wanted))


def test_a_target_may_be_text_or_its_id() -> None:
    words = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(words)), words)
    by_text = interp.logit_lens(model, "red green one", target="cat")
    by_id = interp.logit_lens(model, "red green one", target=words.convert_tokens_to_ids("cat"))
    assert by_text.targets == by_id.targets == (" cat",) * 4
    assert torch.equal(by_text.target_prob, by_id.target_prob)
    assert by_text.tokens == ("<s>", " red", " green", " one")


def test_all_components_reads_attention_and_mlp_outputs_on_their_own(gpt2: interp.HookedModel) -> None:
    lens = interp.logit_lens(gpt2, IDS, components="all", k=zoo.V)
    layers = [f"L{layer} {part}" for layer in range(zoo.L) for part in ("attn", "mlp", "post")]
    assert lens.components == ("embed", *layers)
    acts = gpt2.capture(IDS, ["blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"])
    module = gpt2.module
    for row, site in (("L1 attn", ("attn_out", 1)), ("L1 mlp", ("mlp_out", 1))):
        with torch.no_grad():
            expected = module.lm_head(module.transformer.ln_f(acts[site]))[0].softmax(-1)
        at = lens.components.index(row)
        torch.testing.assert_close(lens.probs_top[at], expected.topk(zoo.V).values)
    resid = interp.logit_lens(gpt2, IDS)
    posts = [i for i, c in enumerate(lens.components) if c.endswith(("embed", "post"))]
    assert torch.equal(lens.kl[posts], resid.kl)
    assert [posts.index(row) for row in lens.emergence()] == list(resid.emergence())


def test_all_components_of_a_decoder_include_cross_attention() -> None:
    model = interp.wrap(zoo.make("t5"))
    lens = interp.logit_lens(model, IDS, components="all", **kwargs_for("t5"))
    assert lens.components[1:5] == ("L0 attn", "L0 cross_attn", "L0 mlp", "L0 post")
    in_a_dict = {"input_ids": IDS[None], **kwargs_for("t5")}
    assert interp.logit_lens(model, in_a_dict).tokens == lens.tokens == ("11", "7", "23", "5", "42")
    alone = interp.logit_lens(model, IDS)
    assert alone.tokens == ("0",)  # the decoder's start token


def test_emergence_is_the_row_from_which_the_answer_stays(gpt2: interp.HookedModel) -> None:
    lens = interp.logit_lens(gpt2, IDS)
    top = lens.ids_top[..., 0]
    for position, row in enumerate(lens.emergence()):
        assert bool((top[row:, position] == top[-1, position]).all())
        assert row == 0 or top[row - 1, position] != top[-1, position]


def test_the_lens_of_an_edited_model(gpt2: interp.HookedModel) -> None:
    edit = interp.zero("blocks.1.hook_mlp_out")
    lens, plain = interp.logit_lens(gpt2, IDS, fwd_hooks=[edit]), interp.logit_lens(gpt2, IDS)
    with torch.no_grad():
        expected = gpt2.run_with_hooks(IDS, [edit])[0].log_softmax(-1).exp().topk(5).values
    assert torch.equal(lens.probs_top[-1], expected)
    assert torch.equal(lens.probs_top[:2], plain.probs_top[:2])
    assert not torch.equal(lens.probs_top[2:], plain.probs_top[2:])


def test_padding_never_reaches_the_lens(gpt2: interp.HookedModel) -> None:
    ids = torch.cat([torch.zeros(1, 3).long(), IDS[None]], dim=1)
    padded = interp.logit_lens(gpt2, TokenBatch(ids, torch.arange(10)[None] >= 3))
    plain = interp.logit_lens(gpt2, IDS)
    assert padded.tokens == plain.tokens
    assert torch.equal(padded.ids_top, plain.ids_top)
    torch.testing.assert_close(padded.kl, plain.kl, atol=1e-5, rtol=1e-4)


# --- the phenomenon, and the null --------------------------------------------------------------


def test_the_answer_emerges_in_a_real_model(stories: interp.HookedModel) -> None:
    lens = interp.logit_lens(stories, PROMPT)
    kl, rank = lens.kl.mean(1), lens.target_rank.float().mean(1)
    assert lens.tokens[:4] == ("<s>", " Once", " upon", " a")
    assert bool((kl.diff() < 0).all()), f"KL to the output by layer: {kl.tolist()}"
    assert bool((rank.diff() < 0).all()), f"rank of the answer by layer: {rank.tolist()}"
    assert kl[0] > 20 and kl[-2] < 1.5  # measured 22.3 and 0.96 nats
    assert rank[0] > 100 and rank[-2] < 2  # measured 117.6 and 1.03 of 512
    # Half of the answers settle only in the last layers: the lens shows work being done.
    assert 3 <= sorted(lens.emergence())[len(lens.tokens) // 2] <= 5


def test_the_answer_does_not_emerge_in_the_null(stories: interp.HookedModel) -> None:
    real = interp.logit_lens(stories, PROMPT)
    with torch.no_grad():
        answers = stories(PROMPT)[0].argmax(-1)
    null = interp.logit_lens(stories.randomised(0), PROMPT, target=answers)
    before_last = real.target_rank[-2].float().mean(), null.target_rank[-2].float().mean()
    fall = real.kl[0].mean() - real.kl[-1].mean(), null.kl[0].mean() - null.kl[-1].mean()
    figures = (
        f"rank of the answer before the last layer: real {before_last[0]:.2f}, "
        f"null {before_last[1]:.1f} (chance 255.5); fall of KL: real {fall[0]:.2f}, "
        f"null {fall[1]:.3f} nats"
    )
    assert before_last[0] < 5 and before_last[1] > 150, figures
    assert fall[0] > 10 and fall[1] < 0.1, figures
    assert null.check().ok, "the null is a model too: its last row is its own output"


# --- errors, before any number is shown --------------------------------------------------------


def test_several_texts_are_refused_with_the_loop_to_write(gpt2: interp.HookedModel) -> None:
    with pytest.raises(TokenError, match="one text at a time") as error:
        interp.logit_lens(gpt2, torch.stack([IDS, IDS]))
    assert error.value.got == "a batch of 2"
    assert "for text in texts" in error.value.fix


@pytest.mark.parametrize("module", [torch.nn.Linear(3, 3), "vit", "bert-headless"])
def test_models_without_a_head_over_tokens_are_refused(module: Any) -> None:
    import transformers

    if module == "bert-headless":
        module = transformers.BertModel(zoo.make("bert").config)
    elif module == "vit":
        module = zoo.make("vit")
    model = interp.wrap(module)
    ran: list[int] = []
    model.module.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(ModelError, match="residual stream and a head"):
        interp.logit_lens(model, IDS)
    assert not ran


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"components": "heads"}, ConfigError, "components has a wrong value"),
        ({"k": 0}, ConfigError, "k >= 1"),
        ({"target": zoo.V}, TokenError, "0 to 100"),
        ({"target": -1}, TokenError, "outside the vocabulary"),
        ({"target": [1, 2]}, TokenError, "one id per position"),
        ({"target": torch.ones(1, 7).long()}, TokenError, "one id per position"),
        ({"target": "red"}, TokenError, "no tokenizer"),
        ({"positions": -1}, ConfigError, "whole texts"),
    ],
)
def test_bad_requests_are_explained(
    gpt2: interp.HookedModel, options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    # Past the suite's own type checker, which users do not run.
    lens = getattr(interp.logit_lens, "__wrapped__", interp.logit_lens)
    with pytest.raises(kind, match=words):
        lens(gpt2, IDS, **options)


def test_a_target_of_two_tokens_is_refused() -> None:
    words = tokenizers.word_level(bos=0)
    model = interp.wrap(small(d_vocab=len(words)), words)
    with pytest.raises(TokenError, match="not a single token") as error:
        interp.logit_lens(model, "red", target="red green")
    assert "2 tokens" in error.value.got


def test_a_model_that_gives_nan_has_no_lens() -> None:
    module = zoo.make("gpt2")
    model = interp.wrap(module)
    with torch.no_grad():
        module.lm_head.weight[5] = float("nan")
    with pytest.raises(NonFiniteError):
        interp.logit_lens(model, IDS)


# --- the result as a value ---------------------------------------------------------------------


def test_the_result_is_a_frame_a_folder_and_a_picture(gpt2: interp.HookedModel, tmp_path: Path) -> None:
    lens = interp.logit_lens(gpt2, IDS, k=3)
    n_rows, n_pos = len(lens.components), len(IDS)
    frame = lens.to_frame("kl")
    assert len(frame) == n_rows * n_pos
    assert {"layer", "pos", "kl"} <= set(frame.columns)
    assert float(frame["kl"].max()) == pytest.approx(float(lens.kl.max()))
    lens.save(tmp_path / "lens")
    again = Result.load(tmp_path / "lens")
    assert isinstance(again, LensResult)
    for name in ("probs_top", "ids_top", "entropy", "kl", "target_prob", "target_rank"):
        assert torch.equal(getattr(again, name), getattr(lens, name))
    for name in ("tokens", "top_tokens", "targets", "components", "kind", "tolerance"):
        assert getattr(again, name) == getattr(lens, name)
    assert again.provenance == lens.provenance
    assert lens.provenance.model_fingerprint == gpt2.fingerprint()
    assert lens.provenance.sites[-1] == f"blocks.{zoo.L - 1}.hook_resid_post"
    figure = again.plot(colour="kl")
    assert list(figure.layout.yaxis.ticktext) == list(lens.components)
    assert figure.to_json() == lens.plot(colour="kl").to_json()
