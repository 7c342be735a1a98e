"""One door: every form of input means the same, masks and positions hold in every family."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from torch import Tensor, nn

import interp
from interp import load_model, wrap
from interp.core.errors import ConfigError, InterpError, ModelError, TokenError, TokenWarning
from interp.models.hooked import HookedModel
from interp.models.hooks.sides import Seen
from interp.models.padding import prove_padding
from interp.models.text.tokens import TokenBatch
from interp.tasks import sentence_log_probability
from tests.models import zoo
from tests.models.tokenizers import word_level

T: Any = transformers
BERT = zoo._BERT
MORE: dict[str, Callable[[], Any]] = {
    "xlm-roberta": lambda: T.XLMRobertaForMaskedLM(T.XLMRobertaConfig(**BERT, pad_token_id=1)),
    "camembert": lambda: T.CamembertForMaskedLM(T.CamembertConfig(**BERT, pad_token_id=1)),
    "electra": lambda: T.ElectraForMaskedLM(T.ElectraConfig(**BERT)),
    "bert-classifier": lambda: T.BertForSequenceClassification(T.BertConfig(**BERT)),
    "bert-decoder": lambda: T.BertLMHeadModel(T.BertConfig(**BERT, is_decoder=True)),
    "bert-span": lambda: T.BertForQuestionAnswering(T.BertConfig(**BERT)),
    "gpt2-classifier": lambda: T.GPT2ForSequenceClassification(
        T.GPT2Config(vocab_size=101, n_embd=24, n_layer=2, n_head=6, n_positions=31, pad_token_id=0)
    ),
    "bart": lambda: T.BartForConditionalGeneration(
        T.BartConfig(
            vocab_size=101,
            d_model=24,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=6,
            decoder_attention_heads=6,
            encoder_ffn_dim=37,
            decoder_ffn_dim=37,
            max_position_embeddings=31,
        )
    ),
    "mamba": lambda: T.MambaForCausalLM(
        T.MambaConfig(vocab_size=101, hidden_size=24, num_hidden_layers=2, state_size=4)
    ),
}
FAMILIES = [*(n for n in (zoo.MAKERS | zoo.UNREACHED) if n != "vit"), *MORE]
REFUSED_LEFT = {"bart", "bert-classifier"}
"""Absolute positions that nobody can move; a head that reads column 0."""
IDS = [50, 57, 64, 71, 78]


@cache
def model_of(name: str) -> HookedModel:
    if name == "small":
        return load_model("tiny-grammar")
    if name not in MORE:
        return wrap(zoo.make(name))
    torch.manual_seed(0)
    module = MORE[name]()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return wrap(module.eval())


@cache
def words() -> HookedModel:
    """A word-level tokenizer with <unk> on a tiny Llama."""
    return wrap(zoo.make("llama"), word_level(0))


def extra(model: HookedModel, n: int) -> dict[str, Any]:
    """Decoder ids, so that encoder-decoders answer about the same tokens."""
    two_sided = "decoder_input_ids" in model.keywords
    return {"decoder_input_ids": torch.tensor([[50, 57]]).expand(n, -1)} if two_sided else {}


def outputs(model: HookedModel, inputs: Any, n: int) -> list[Tensor]:
    with torch.no_grad():
        out = model(inputs, **extra(model, n))
    return [out] if isinstance(out, Tensor) else [out["start_logits"], out["end_logits"]]


def padded(side: str, fill: int) -> tuple[Tensor, Tensor]:
    """Two rows: five tokens alone, and the first three of them padded."""
    short = IDS[:3]
    row = [fill] * 2 + short if side == "left" else short + [fill] * 2
    real = [0, 0, 1, 1, 1] if side == "left" else [1, 1, 1, 0, 0]
    return torch.tensor([IDS, row]), torch.tensor([[1] * 5, real])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_dict_equals_its_rows_alone_or_is_refused(name: str, side: str) -> None:
    model = model_of(name)
    ids, mask = padded(side, fill=33)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if side == "left" and name in REFUSED_LEFT:
        with pytest.raises(TokenError, match="padding") as caught:
            model(inputs, **extra(model, 2))
        assert caught.value.fix and "right" in caught.value.fix
        return
    together = outputs(model, inputs, 2)
    same = outputs(model, TokenBatch(ids, mask.bool()), 2)
    whole, short = outputs(model, IDS, 1), outputs(model, IDS[:3], 1)
    for i in range(len(together)):
        assert torch.equal(together[i], same[i])
        row = together[i][1]
        per_token = row.shape[:1] == (5,) and "decoder_input_ids" not in model.keywords
        row = row[mask[1].bool()] if per_token else row
        torch.testing.assert_close(together[i][0], whole[i][0], atol=2e-4, rtol=2e-4)
        torch.testing.assert_close(row, short[i][0], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "roberta", "opt", "bloom", "xlm-roberta"])
def test_holes_in_a_mask_leave_the_rest_as_if_alone(name: str) -> None:
    model = model_of(name)
    ids, mask = torch.tensor([[*IDS[:2], 33, 40, *IDS[2:]]]), torch.tensor([[1, 1, 0, 0, 1, 1, 1]])
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids, attention_mask=mask)[:, mask[0].bool()], model(IDS), atol=2e-4, rtol=2e-4
        )


@pytest.mark.parametrize("name", ["mistral", "t5", "mpt"])
def test_holes_are_refused_where_the_model_counts_columns(name: str) -> None:
    with pytest.raises(TokenError, match="holes"):
        model_of(name)(IDS, attention_mask=[[1, 0, 0, 1, 1]])


def test_the_proof_finds_another_source_where_one_does_not_hold() -> None:
    model = wrap(zoo.make("roberta"))
    found = model._intake.padding_proved()
    assert found.placed and not found.refused
    object.__setattr__(model._intake, "position_offset", 0)
    prove_padding(model.module, model._frame, "float32", frozenset(), model._intake)
    assert not model._intake.padding.placed and model._intake.padding.fill == 1
    ids, mask = padded("left", 33)
    with torch.no_grad():
        together = model(ids, attention_mask=mask)[1, mask[1].bool()]
        torch.testing.assert_close(together, model(IDS[:3])[0], atol=2e-4, rtol=2e-4)


def test_the_proof_refuses_a_model_that_cannot_count() -> None:
    module: Any = zoo.make("bert")
    encoder = module.bert.encoder.forward
    module.bert.encoder.forward = lambda x, attention_mask=None, **rest: encoder(x, **rest)
    refused = wrap(module)
    assert {"left", "right"} <= set(refused._intake.padding_proved().refused)
    with pytest.raises(TokenError, match="real tokens"):
        refused(padded("right", 33)[0], attention_mask=padded("right", 33)[1])


@pytest.mark.parametrize("form", ["2-D", "4-D", "4-D additive"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_a_cache_step_with_left_padding_goes_on_where_the_text_ended(name: str, form: str) -> None:
    model = model_of(name)
    ids = torch.tensor([[33, 33, *IDS[:3]], [*IDS]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    cache = T.DynamicCache(config=model.module.config)
    with torch.no_grad():
        model(ids, attention_mask=mask[:, :5], past_key_values=cache, use_cache=True)
        given: Tensor = mask
        if form != "2-D":
            given = mask[:, None, None, :].bool()
        if form == "4-D additive":
            given = torch.zeros(given.shape).masked_fill(~given, torch.finfo(torch.float32).min)
        step = model(torch.tensor([[90], [91]]), attention_mask=given, past_key_values=cache)
        torch.testing.assert_close(step[0, 0], model([*IDS[:3], 90])[0, -1], atol=2e-4, rtol=2e-4)
        torch.testing.assert_close(step[1, 0], model([*IDS, 91])[0, -1], atol=2e-4, rtol=2e-4)
    with pytest.raises(TokenError, match="shape") as caught:
        model(torch.tensor([[90], [91]]), attention_mask=mask[:, :3], past_key_values=cache)
    assert "(2, 3)" in str(caught.value) and "cached" in str(caught.value)


def forms(ids: list[list[int]]) -> dict[str, Any]:
    tensor = torch.tensor(ids)
    encoding = T.BatchEncoding({"input_ids": ids, "attention_mask": [[1] * len(r) for r in ids]})
    return {
        "lists": ids,
        "tuple": tuple(map(tuple, ids)),
        "list of tensors": list(tensor),
        "int32": tensor.int(),
        "numpy": np.array(ids),
        "uint16": np.array(ids, dtype=np.uint16),
        "series": pd.Series(ids),
        "batch": TokenBatch.of(tensor),
        "dict": {"input_ids": ids},
        "numpy dict": {"input_ids": np.array(ids), "attention_mask": np.ones_like(ids)},
        "encoding": encoding,
        "no token types": {"input_ids": tensor, "token_type_ids": torch.zeros_like(tensor)},
    }


@pytest.mark.parametrize("name", ["llama", "bert", "mamba", "t5", "small"])
def test_every_form_of_ids_means_the_same(name: str) -> None:
    model = model_of(name)
    rows = [IDS, [90, 91, 92, 93, 94]]
    with torch.no_grad():
        expected = model(torch.tensor(rows))
        for form, given in forms(rows).items():
            assert torch.equal(model(given), expected), form
            assert model.read(given).ids.tolist() == rows, form
        for given in (IDS, np.array(IDS), torch.tensor(IDS), {"input_ids": torch.tensor(IDS)}):
            torch.testing.assert_close(model(given)[0], expected[0], atol=1e-5, rtol=1e-5)


def test_ragged_lists_are_a_padded_batch() -> None:
    model = model_of("llama")
    with torch.no_grad():
        out = model([IDS, IDS[:2]])
        torch.testing.assert_close(out[1, :2], model(IDS[:2])[0], atol=1e-5, rtol=1e-5)
    ragged = {"input_ids": [IDS, IDS[:2]], "attention_mask": [[1] * 5, [1, 1]]}
    assert model.read(ragged).lengths.tolist() == [5, 2]


BAD: dict[str, Any] = {
    "set": {"a", "b"},
    "generator": (text for text in "ab"),
    "bytes": b"ab",
    "floats": [1.0, 2.0],
    "float array": np.array([1.5]),
    "float tensor": torch.rand(1, 3),
    "booleans": [True, False],
    "boolean tensor": torch.ones(1, 3, dtype=torch.bool),
    "nothing": None,
    "no rows": [],
    "a number": 5,
    "an empty row": [[1], []],
    "three axes": torch.ones(1, 2, 3, dtype=torch.long),
    "text in lists": [["a"]],
    "beyond the vocabulary": [5000],
    "beyond 64 bits": [2**70],
    "a misspelt key": {"input_ids": IDS, "attn_mask": [1] * 5},
    "a mask of another shape": {"input_ids": IDS, "attention_mask": [[1, 1]]},
    "no ids": {"attention_mask": [[1, 1]]},
    "a mask of other numbers": {"input_ids": [IDS], "attention_mask": [[0, 2, 1, 1, 1]]},
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_what_is_no_input_is_refused_before_the_run(name: str, kind: str) -> None:
    model = model_of(name)
    ran: list[int] = []
    handle = model.module.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(InterpError):
            model(BAD[kind])
        with pytest.raises(InterpError):
            model.read(BAD[kind])
    finally:
        handle.remove()
    assert not ran


@pytest.mark.parametrize("name", ["llama", "gptj", "t5", "mamba", "small"])
def test_keywords_that_nobody_reads_are_refused(name: str) -> None:
    model = model_of(name)
    swallowed = ("positon", "cu_seq_lens_q", "atention_mask", "output_hidden_states")
    for word in swallowed:
        option: dict[str, Any] = {word: 1}
        with pytest.raises(ConfigError) as caught:
            model(IDS, **option)
        assert word in str(caught.value)
    with pytest.raises(ConfigError, match="atention_mask") as caught:
        model(IDS, atention_mask=[[1] * 5])
    assert "attention_mask" in str(caught.value.fix)


def test_keywords_are_read_through_wrappers_and_looked_up_ones_count() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Bilinear(3, 3, 2)

        def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
            scale = kwargs.pop("scale", 1.0)
            return self.inner(x, **kwargs) * scale

    model = wrap(Outer())
    x = torch.rand(2, 3)
    torch.testing.assert_close(model(x, input2=x, scale=2.0), 2 * model(x, input2=x))
    with pytest.raises(ConfigError, match="scael") as caught:
        model(x, input2=x, scael=2.0)
    assert "scale" in str(caught.value.fix)


def test_numbers_in_any_form_for_models_of_numbers() -> None:
    model = wrap(nn.Linear(3, 2))
    rows = [[0.1, 0.2, 0.3]]
    expected = model(torch.tensor(rows))
    for given in (rows, np.array(rows), pd.DataFrame(rows), {"input": rows}):
        assert torch.equal(model(given), expected)
    with pytest.raises(TokenError, match="numbers"):
        model(pd.DataFrame([["a", "b"]]))
    with pytest.raises(InterpError, match="tokenizer"):
        model("text")
    vit = model_of("vit")
    image = torch.rand(1, 3, 12, 12)
    torch.testing.assert_close(vit(image.numpy()), vit({"pixel_values": image}))


def test_unknown_words_and_empty_texts_are_said() -> None:
    model = words()
    with pytest.warns(TokenWarning, match="zebra"):
        model("red zebra")
    with pytest.raises(TokenError, match="knows no word") as caught:
        model("zebra quagga")
    assert "zebra" in str(caught.value)
    with pytest.warns(TokenWarning, match="empty"):
        model("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model("red <unk>")  # spelled by hand: nothing is lost


def test_a_text_beyond_the_context_has_a_way_out_that_works() -> None:
    model = words()
    text = "red " * 40
    with pytest.raises(TokenError, match="context") as caught:
        model(text)
    assert "truncate=True" in str(caught.value.fix)
    with pytest.raises(TokenError, match="longer than the model's context"):
        model(list(range(5, 45)))
    cut = model.read(text, truncate=True)
    assert model(cut).shape[1] == model.cfg.n_ctx == cut.ids.shape[1]
    assert torch.equal(model.tokenize(text, truncate=True).ids, cut.ids)
    assert torch.equal(model(text, truncate=True), model(cut))
    ready = model._intake.prepare([list(range(5, 45))], {}, None, truncate=True)
    assert ready.tokens is not None and ready.tokens.shape[1] == model.cfg.n_ctx
    left = TokenBatch(torch.arange(40)[None], torch.arange(40)[None] >= 3)
    ready = model._intake.prepare(left, {}, None, truncate=True)
    assert ready.tokens is not None and ready.tokens[0].tolist() == list(range(3, 34))


def test_what_a_raw_call_says_is_seen() -> None:
    model = model_of("llama")
    ids, mask = padded("left", 33)
    side = Seen(model.module, (ids, mask), {}).encoder
    assert side is not None and (side.batch, side.length, side.cached) == (2, ids.shape[1], 0)
    assert torch.equal(side.mask, mask.bool())  # type: ignore[arg-type]
    cache = T.DynamicCache(config=model.module.config)
    with torch.no_grad():
        model.module(ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    longer = torch.cat([mask, torch.tensor([[1], [0]])], 1)
    given: dict[str, Any] = {"attention_mask": longer, "past_key_values": cache}
    step = Seen(model.module, (ids[:, :1],), given).encoder
    assert step is not None and (step.length, step.cached) == (1, 5)
    assert torch.equal(step.mask, longer.bool())  # type: ignore[arg-type]
    two = model_of("t5")
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :2], "attention_mask": mask}
    given["decoder_attention_mask"] = torch.tensor([[1, 1], [1, 0]])
    both = Seen(two.module, (), given)
    assert both.decoder is not None and both.encoder is not None
    assert both.encoder.mask is not None and both.encoder.mask.shape == (2, 5)
    through = two._intake.prepare(given, {}, None)
    assert torch.equal(through.decoder_mask, both.decoder.mask)  # type: ignore[arg-type]
    assert Seen(model.module, ("text",), {"attention_mask": torch.ones(3, 3)}).encoder is None


# --- what strangers gave and nobody read ---


@pytest.mark.parametrize(
    "mask",
    [
        [[0.0, 0, 0, 0, 0], [0, 0, 0, -1e9, -1e9]],
        [[2, 2, 2, 2, 2], [2, 2, 2, 0, 0]],
        [[-1] * 5, [-1, -1, -1, 0, 0]],
        [[float("nan")] * 5] * 2,
        [[1] * 5, [1] * 4],
        "abc",
        [[1] * 4] * 2,
    ],
    ids=["additive", "twos", "negative", "NaN", "ragged", "text", "another shape"],
)
@pytest.mark.parametrize("form", ["ids", "batch", "texts", "dict"])
def test_a_mask_beside_any_form_is_read_alike(form: str, mask: Any) -> None:
    model = words()
    texts = ["red green blue red", "red green"]
    batch = model.tokenize(texts)
    assert batch.ids.shape == (2, 5)
    given = {"ids": batch.ids, "batch": batch, "texts": texts, "dict": {"input_ids": batch.ids}}
    with pytest.raises(TokenError, match="attention_mask"):
        model(given[form], attention_mask=mask)


@pytest.mark.parametrize(
    "more",
    [
        {"position_ids": [[3, 4, 5]]},
        {"token_type_ids": [[3, 3, 3]]},
        {"attention_mask": torch.ones(1, 1, 3, 3).tril().bool()},
    ],
    ids=lambda more: next(iter(more)),
)
def test_generate_carries_what_it_is_given_or_refuses_it(more: dict[str, Any]) -> None:
    model = model_of("gpt2")
    with pytest.raises(TokenError, match="generate"):
        model.generate({"input_ids": [[5, 6, 7]], **more}, 2, return_ids=True)
    with pytest.raises(TokenError, match="decoder_input_ids"):
        model_of("t5").generate({"input_ids": [[5, 6]], "decoder_input_ids": [[0, 5]]}, 2)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_the_loss_is_the_texts_own_wherever_padding_stands(family: str) -> None:
    model = model_of(family)
    row = torch.tensor([[5, 9, 11, 30]])
    alone = model(row, return_type="loss")
    for columns in ([0, 1, 2, 3], [3, 4, 5, 6], [0, 1, 3, 4], [0, 2, 4, 6]):
        ids, mask = torch.full((1, 7), 2), torch.zeros(1, 7, dtype=torch.bool)
        ids[0, columns], mask[0, columns] = row[0], True
        both = model(TokenBatch(ids, mask), return_type="both")
        torch.testing.assert_close(both.loss, alone, rtol=1e-5, atol=1e-6)
        logs = sentence_log_probability(both.logits, TokenBatch(ids, mask))
        torch.testing.assert_close(logs, -3 * alone[None], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(row.int(), return_type="loss"), alone)
    for kept in (1, torch.tensor([3, 2, 1, 0])):
        with pytest.raises(ConfigError, match="logits of every token"):
            model(row, logits_to_keep=kept, return_type="loss")


def test_resampling_never_reads_padding() -> None:
    model, site = model_of("llama"), "blocks.0.hook_resid_post"
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6]).bool()
    ids = torch.tensor([[5, 9, 11, 30, 2, 2], [7, 8, 40, 41, 42, 43]])
    found = []
    for pad in (2, 17):
        batch = TokenBatch(ids.masked_fill(~mask, pad), mask)
        edit = interp.resample(site, positions=-1)
        found.append(model.run_with_hooks(batch, [edit])[1, 5])
        with pytest.raises(TokenError, match="different length"):
            model.run_with_hooks(batch, [interp.resample(site)])
    left = TokenBatch(ids[:, [4, 5, 0, 1, 2, 3]], mask[:, [4, 5, 0, 1, 2, 3]])
    left = TokenBatch(torch.stack([left.ids[0], ids[1]]), torch.stack([left.mask[0], mask[1]]))
    found.append(model.run_with_hooks(left, [interp.resample(site, positions=-1)])[1, 5])
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_sources_follow_their_prompts_through_generate() -> None:
    model, site = model_of("llama"), "blocks.0.hook_resid_post"
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6]).bool()
    batch = TokenBatch(torch.tensor([[5, 9, 11, 30, 2, 2], [7, 8, 40, 41, 42, 43]]), mask)
    own = model.capture(batch, site)[site]
    plain = model.generate(batch, 1, return_ids=True)
    edits = [interp.patch(site, own, positions=-1)]  # its own activations: nothing changes
    assert torch.equal(model.generate(batch, 1, fwd_hooks=edits, return_ids=True), plain)
    with pytest.raises(InterpError, match="does not fit"):
        wrong = [interp.patch(site, torch.zeros(5, 6, own.shape[-1]), positions=-1)]
        model.generate(batch, 1, fwd_hooks=wrong, return_ids=True)
    ids = torch.tensor([[5, 9, 11, 30], [7, 8, 40, 41], [50, 3, 21, 17]])
    edit = [interp.resample(site, seed=2)]
    wanted = model.run_with_hooks(ids, edit)[:, -1].argmax(-1)
    for more in ({}, {"num_beams": 2}, {"temperature": 1e-6, "num_return_sequences": 2}):
        new = model.generate(ids, 1, fwd_hooks=edit, return_ids=True, **more)[:, -1]
        assert torch.equal(new, wanted.repeat_interleave(len(new) // 3)), more
    with pytest.raises(ConfigError, match="padding as text"):
        model.generate(batch, 2, no_repeat_ngram_size=1, return_ids=True)


WRONG_KINDS = {
    "m.capture([5, 6], s, max_bytes='1GB')": "max_bytes",
    "m.capture([5, 6], s, grad='no')": "grad is True or False",
    "m.capture([5, 6], s, clone=1)": "clone is True or False",
    "m([5, 6], truncate='no')": "truncate is True or False",
    "m.capture([5, 6], s, dtype='float16', to=torch.float64)": "two dtypes",
    "m.capture([5, 6, 7], s, positions=[True, False])": "shape of the tokens",
    "m.run_from(s, [[1.0]], [5, 6])": "as a tensor",
    "m.run_from(s, torch.ones(0, 2, 24), [5, 6])": "at least one",
    "m.run_from('blocks.*.hook_resid_post', torch.ones(1), [5])": "one site",
    "m.randomised('a')": "whole number",
    "m.generate([5, 6], 2, temperature=1.0, seed=None)": "whole number",
    "setattr(m, 'W_E', torch.ones(1))": "read from the model",
    "m({'input_ids': [[5]], 'inputs_embeds': torch.ones(1, 1, 24)})": "twice",
    "m([5, 6], prepend_bos=True)": "ids and numbers are taken as they are",
    "m.capture({'input_ids': [[5]]}, s, prepend_bos=True)": "taken as they are",
    "m.generate([5, 6], 2, prepend_bos=True)": "taken as they are",
    "interp.attribute(m, [5, 6], 7, prepend_bos=True)": "taken as they are",
    "interp.logit_lens(m, [5, 6], prepend_bos=True)": "taken as they are",
    "interp.logit_lens(m, [5, 6], k=2.5)": "k is a whole number",
    "interp.direct_logit_attribution(m, [5, 6], 7, positions=1.5)": "integers",
    "interp.attribute(m, [5, 6], targets.text_loss([3]))": "",
    "interp.attribute(m, [5, 6], targets.projection(s, torch.ones(3)))": "does not fit",
}


def test_values_of_a_wrong_kind_are_refused() -> None:
    """In a process without the suite's type checker, which would stand before the package."""
    code = f"""
import json, torch, interp
from interp.models.stream import target as targets
from tests.models import zoo
m, s, found = interp.wrap(zoo.make("gpt2")), "blocks.1.hook_resid_post", {{}}
for call in {list(WRONG_KINDS)!r}:
    try:
        found[call] = ["ran", repr(eval(call))]
    except interp.InterpError as error:
        found[call] = ["refused", str(error)]
    except Exception as error:
        found[call] = ["raw", repr(error)]
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for call, words_ in WRONG_KINDS.items():
        outcome, said = found[call]
        assert outcome == "refused" and words_ in said, (call, outcome, said)


@pytest.mark.parametrize("kept", [1, torch.tensor([1, 2])])
@pytest.mark.parametrize("analysis", [interp.logit_lens, interp.direct_logit_attribution])
def test_logits_of_some_positions_are_no_whole_lens(analysis: Any, kept: Any) -> None:
    model, target = model_of("llama"), (7,) if analysis is interp.direct_logit_attribution else ()
    assert model([5, 6, 7, 8], logits_to_keep=kept).shape[1] < 4
    inside = {"input_ids": [[5, 6, 7, 8]], "logits_to_keep": kept}
    with pytest.raises(ConfigError, match="every token"):
        analysis(model, [5, 6, 7, 8], *target, logits_to_keep=kept)
    with pytest.raises(ConfigError, match="every token"):
        analysis(model, inside, *target)


def test_gradients_under_inference_mode_are_refused_by_its_name() -> None:
    model, site = model_of("gpt2"), "blocks.1.hook_resid_post"
    with torch.inference_mode():
        for call in (
            lambda: model.capture([5, 6], site, grad=True),
            lambda: model.run_with_hooks([5, 6], bwd_hooks=[(site, lambda g, hook: None)]),
            lambda: interp.attribute(model, [5, 6], 7, method="saliency"),
            lambda: interp.direct_logit_attribution(model, [5, 6], 7),
        ):
            with pytest.raises(ModelError, match="inference_mode"):
                call()


def test_what_a_module_derived_from_its_weights_is_copied() -> None:
    from torch.nn.utils import prune

    model = interp.wrap(zoo.make("gpt2"))
    prune.l1_unstructured(model.module.transformer.h[0].mlp.c_fc, "weight", 0.5)
    expected = model([5, 6, 7])
    for made in (copy.deepcopy(model), model.to(torch.float64)):
        torch.testing.assert_close(made([5, 6, 7]), expected.to(made([5, 6, 7])), atol=1e-4, rtol=0)


# --- no model


def test_what_is_no_model_here_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="on this machine") as caught:
        interp.load_model("gpt2")
    assert "did you mean" not in str(caught.value) and "allow_download" in str(caught.value)
    with pytest.raises(ModelError, match="did you mean 'tiny-grammar'"):
        interp.load_model("tiny-gramar")
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelError, match="is a file, not a model folder") as caught:
        interp.load_model(file)
    assert str(tmp_path) in str(caught.value.fix)


def test_a_stack_is_asked_for_by_short_key_or_by_name() -> None:
    _, acts = model_of("gpt2").run_with_cache([5, 6, 7])
    by_name = acts.stack("blocks.*.hook_resid_post")
    assert torch.equal(by_name, acts.stack("resid_post")) and len(by_name) == 3
    assert torch.equal(acts.stack("blocks.*.attn.hook_z", layers=[1])[0], acts["z", 1])
