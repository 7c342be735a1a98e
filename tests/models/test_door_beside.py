"""The door for what is given beside ids: it fits them and the model's tables, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from interp import load_model, wrap
from interp.core.errors import ConfigError, InterpError, ModelError, TokenError
from interp.models.hooked import HookedModel
from interp.models.hooks.splice import Splice
from tests.models import zoo
from tests.models.tokenizers import word_level

T: Any = transformers
IDS = torch.tensor([[50, 57, 64, 71, 78]])


@cache
def model_of(name: str) -> HookedModel:
    if name == "bart":
        torch.manual_seed(0)
        sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in SIZES.items()}
        config = T.BartConfig(vocab_size=101, d_model=24, max_position_embeddings=31, **sizes)
        return wrap(T.BartForConditionalGeneration(config).eval())
    return wrap(zoo.make(name))


SIZES = {"layers": 2, "attention_heads": 6, "ffn_dim": 37}


def filled(name: str, rows: int) -> Any:
    module: Any = model_of(name).module
    cache = T.DynamicCache(config=module.config)
    with torch.no_grad():
        module(IDS.repeat(rows, 1), past_key_values=cache, use_cache=True)
    return cache


def at(*shape: int, fill: int = 0) -> Tensor:
    return torch.full(shape, fill)


BAD: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "positions of another length": ("gpt2", lambda: {"position_ids": torch.arange(4)[None]}),
    "positions of other rows": ("llama", lambda: {"position_ids": at(3, 5)}),
    "positions beyond the table": ("gpt2", lambda: {"position_ids": at(1, 5, fill=1000)}),
    "positions beyond BERT's": ("bert", lambda: {"position_ids": at(1, 5, fill=1000)}),
    "negative positions": ("gpt2", lambda: {"position_ids": at(1, 5, fill=-1)}),
    "positions of floats": ("llama", lambda: {"position_ids": torch.zeros(1, 5)}),
    "positions as text": ("llama", lambda: {"position_ids": "x"}),
    "segments beyond the table": ("bert", lambda: {"token_type_ids": at(1, 5, fill=7)}),
    "segments beyond the words": ("gpt2", lambda: {"token_type_ids": at(1, 5, fill=1000)}),
    "segments of another length": ("bert", lambda: {"token_type_ids": at(1, 4)}),
    "logits of text": ("llama", lambda: {"logits_to_keep": "x"}),
    "logits of a half": ("llama", lambda: {"logits_to_keep": 1.5}),
    "logits of -1": ("llama", lambda: {"logits_to_keep": -1}),
    "logits beyond": ("llama", lambda: {"logits_to_keep": torch.tensor([9])}),
    "a number as cache": ("llama", lambda: {"past_key_values": 3}),
    "a cache of other rows": ("llama", lambda: {"past_key_values": filled("llama", 2)}),
    "a decoder's vectors": ("bart", lambda: {"decoder_inputs_embeds": torch.randn(1, 2, 23)}),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_does_not_fit_the_ids_is_refused(kind: str) -> None:
    name, make = BAD[kind]
    given, ran = make(), []
    model = model_of(name)
    handle = model.module.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        for run in (lambda: model(IDS, **given), lambda: model({"input_ids": IDS, **given})):
            with pytest.raises(TokenError, match=next(iter(given))):
                run()
    finally:
        handle.remove()
    assert not ran


@pytest.mark.parametrize(
    "value",
    [torch.randn(1, 5, 23), torch.randn(5, 24), at(1, 5, 24), torch.randn(1, 5, 24).double(), "x"],
    ids=["another width", "two axes", "integers", "another dtype", "text"],
)
def test_embeddings_that_no_ids_could_give_are_refused(value: Any) -> None:
    with pytest.raises(TokenError, match="inputs_embeds"):
        model_of("gpt2")({"inputs_embeds": value})


def test_embeddings_beyond_the_context_are_refused() -> None:
    model = model_of("gpt2")
    with pytest.raises(TokenError, match="context"):
        model({"inputs_embeds": torch.randn(1, model.cfg.n_ctx + 1, 24)})


def test_embeddings_beyond_what_a_cache_leaves_of_the_context_are_refused() -> None:
    """What a cache holds is in the context already, as it is for ids."""
    model = model_of("gpt2")
    cache = filled("gpt2", 1)
    held, n_ctx = cache.get_seq_length(), model.cfg.n_ctx
    assert 0 < held < n_ctx
    with pytest.raises(TokenError, match="context") as error:
        model({"inputs_embeds": torch.randn(1, n_ctx - held + 1, 24)}, past_key_values=cache)
    assert f"{n_ctx + 1} tokens" in str(error.value)
    vectors = torch.randn(1, n_ctx - held, 24)
    with torch.no_grad():
        expected = model.module(inputs_embeds=vectors, past_key_values=filled("gpt2", 1)).logits
        assert torch.equal(model({"inputs_embeds": vectors}, past_key_values=cache), expected)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("gpt2", {"position_ids": torch.arange(3, 8)}),
        ("gpt2", {"position_ids": torch.arange(3, 8)[None]}),
        ("llama", {"position_ids": torch.arange(5)[None] + 100_000}),
        ("bert", {"position_ids": torch.arange(3, 8)[None]}),
        ("bert", {"token_type_ids": at(1, 5, fill=1)}),
        ("gpt2", {"token_type_ids": at(1, 5, fill=100)}),
        ("llama", {"logits_to_keep": 2}),
        ("llama", {"logits_to_keep": torch.tensor([0, -1])}),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_fits_gives_what_transformers_gives(name: str, given: dict[str, Any]) -> None:
    model = model_of(name)
    with torch.no_grad():
        raw = model.module(IDS, **given)
        expected = raw.logits if "logits" in raw else raw.last_hidden_state
        assert torch.equal(model(IDS, **given), expected)
        assert torch.equal(model({"input_ids": IDS.tolist(), **given}), expected)


def test_embeddings_and_caches_that_fit_give_what_transformers_gives() -> None:
    model = model_of("llama")
    vectors = torch.randn(2, 5, 24)
    with torch.no_grad():
        assert torch.equal(model({"inputs_embeds": vectors}), model.module(inputs_embeds=vectors).logits)
        step = at(2, 1, fill=90)
        expected = model.module(step, past_key_values=filled("llama", 2)).logits
        assert torch.equal(model(step, past_key_values=filled("llama", 2)), expected)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_ids_without_values_are_refused(name: str) -> None:
    for ids in (IDS.to("meta"), IDS.to_sparse(), torch.nested.nested_tensor([IDS[0], IDS[0, :2]])):
        with pytest.raises(TokenError, match="dense tensor with values"):
            model_of(name)(ids)
    with pytest.raises(TokenError, match="no values"):
        wrap(nn.Linear(3, 3))(torch.randn(2, 3, device="meta"))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(3, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.part(first) + second


def test_a_module_is_called_with_what_it_takes() -> None:
    model, x = wrap(Two()), torch.randn(2, 3)
    with pytest.raises(TokenError, match="second") as caught:
        model(x)
    assert "forward(first, second)" in str(caught.value.expected)
    with pytest.raises(TokenError, match="too many"):
        model((x, x, x))
    expected = model.module(x, x)
    for given in (
        lambda: model((x, x)),
        lambda: model(x, second=x),
        lambda: model({"first": x, "second": x}),
    ):
        assert torch.equal(given(), expected)


def test_a_module_without_life_is_refused_at_once() -> None:
    with pytest.raises(ModelError, match="TorchScript"):
        wrap(torch.jit.script(nn.Linear(3, 3)))
    with torch.device("meta"):
        empty = nn.Linear(3, 3)
    with pytest.raises(ModelError, match="no values"):
        wrap(empty)


def classifier(name: str) -> Any:
    torch.manual_seed(0)
    if name == "gpt2":
        sizes = {"n_embd": 24, "n_layer": 2, "n_head": 6, "n_positions": 31}
        return T.GPT2ForSequenceClassification(T.GPT2Config(vocab_size=101, **sizes)).eval()
    return T.LlamaForSequenceClassification(
        T.LlamaConfig(
            vocab_size=101, hidden_size=24, intermediate_size=37, num_hidden_layers=2, num_attention_heads=6
        )
    ).eval()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_classifier_without_padding_id_runs_row_by_row(name: str) -> None:
    module = classifier(name)
    model = wrap(module)
    with torch.no_grad():
        assert torch.equal(model(IDS), module(IDS).logits)
        acts = model.capture(IDS, "blocks.*.hook_resid_post")
    assert len(acts) == 2 and not model.adapter.unproved
    with pytest.raises(TokenError, match="one row at a time") as caught:
        model(IDS.repeat(2, 1))
    assert "padding token" in str(caught.value)
    with pytest.raises(TokenError, match="cannot be padded"):
        model(IDS, attention_mask=[[1, 1, 1, 1, 0]])


def test_a_model_of_choices_reads_them() -> None:
    torch.manual_seed(0)
    module = T.BertForMultipleChoice(T.BertConfig(**zoo._BERT)).eval()
    model = wrap(module)
    ids = torch.arange(2 * 3 * 5).reshape(2, 3, 5) + 20
    with torch.no_grad():
        expected = module(ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.equal(model(ids), module(ids).logits)
        assert torch.equal(model({"input_ids": ids, "attention_mask": torch.ones_like(ids)}), expected)
        assert model.capture(ids, "blocks.0.hook_resid_post")["resid_post", 0].shape[:2] == (6, 5)
    for bad in (IDS, "text", ids * 1000):
        with pytest.raises(TokenError):
            model(bad)
    assert "choices" in repr(model)


def test_a_module_that_cannot_run_the_proof_is_opened_and_says_so() -> None:
    module: Any = zoo.make("gpt2")
    inner = module.transformer.forward

    def picky(*args: Any, **kwargs: Any) -> Any:
        if len(args[0] if args else kwargs["input_ids"]) != 3:
            raise RuntimeError("three rows, please")
        return inner(*args, **kwargs)

    module.transformer.forward = picky
    model = wrap(module)
    assert "three rows, please" in model.adapter.unproved and "three rows, please" in repr(model)
    rows = IDS.repeat(3, 1)
    with torch.no_grad():
        assert torch.equal(model(rows), module(rows).logits)
        assert model.capture(rows, "blocks.0.hook_resid_post")["resid_post", 0].shape == (3, 5, 24)


def test_notes_of_a_tokenizer_are_named_as_such() -> None:
    tokenizer = word_level(0)
    model = wrap(zoo.make("llama"), tokenizer)
    for note in ("offsets_mapping", "special_tokens_mask", "length"):
        encoding = tokenizer("red green", return_tensors="pt", **{f"return_{note}": True})
        with pytest.raises(ConfigError) as caught:
            model(encoding)
        assert "drop that key" in str(caught.value.fix)


def test_texts_give_pieces_for_each() -> None:
    model = wrap(zoo.make("llama"), word_level(0))
    texts = ["red green", "blue"]
    assert model.to_str_tokens(texts) == [model.to_str_tokens(text) for text in texts]
    with pytest.raises(TokenError, match="one sequence"):
        model.to_str_tokens(IDS.repeat(2, 1))


def test_the_return_type_may_be_second_as_in_transformer_lens() -> None:
    model = model_of("llama")
    assert torch.equal(model(IDS, "loss"), model(IDS, return_type="loss"))


def test_a_guest_starts_at_a_site_and_takes_its_own_cache() -> None:
    import transformer_lens as lens

    torch.manual_seed(0)
    config = lens.HookedTransformerConfig(
        n_layers=2, d_model=24, n_ctx=31, d_head=4, n_heads=6, d_vocab=101, act_fn="gelu", device="cpu"
    )
    guest = lens.HookedTransformer(config)
    model = wrap(guest)
    residual = guest.run_with_cache(IDS)[1]["blocks.1.hook_resid_pre"]
    with pytest.raises(ConfigError, match="start_at_layer") as caught:
        model(residual, start_at_layer=1)
    assert "run_from('blocks.1.hook_resid_pre'" in str(caught.value.fix)
    expected = guest(residual, start_at_layer=1)
    torch.testing.assert_close(model.run_from("blocks.1.hook_resid_pre", residual, IDS), expected)
    with pytest.raises(TokenError, match="past_kv_cache"):
        model(IDS, past_kv_cache=3)


def test_what_is_no_coder_is_refused_with_the_way_in() -> None:
    sites = load_model("tiny-grammar").sites
    for bad in (3, "x", None, nn.Linear(3, 3), type("C", (), {"site_in": "a", "site_out": "a"})):
        with pytest.raises(ModelError, match="no coder"):
            Splice.of(bad, sites, True)
    import sae_lens as theirs

    sae = theirs.StandardSAE(theirs.StandardSAEConfig(d_in=128, d_sae=16, device="cpu"))
    with pytest.raises(InterpError) as caught:
        Splice.of(sae, sites, True)
    assert "interp.dictionaries.from_saelens(sae)" in str(caught.value.fix)


ENCODED: dict[str, Any] = {
    "number": 3,
    "text": "a",
    "none inside": (),
    "no tensor inside": (3,),
    "bare tensor": torch.zeros(1, 5, 24),
    "one axis": (torch.zeros(1),),
    "another width": (torch.zeros(1, 5, 9),),
    "another dtype": (torch.zeros(1, 5, 24).long(),),
    "other rows": (torch.zeros(2, 5, 24),),
    "dict": {"last_hidden_state": torch.zeros(1, 5, 24)},
}


@pytest.mark.parametrize("kind", ENCODED)
def test_what_no_encoder_returned_is_refused(kind: str) -> None:
    with pytest.raises(TokenError, match=r"encoder"):
        model_of("bart")(None, encoder_outputs=ENCODED[kind], decoder_input_ids=IDS)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_a_decoder_runs_on_what_an_encoder_returned(name: str) -> None:
    model = model_of(name)
    module: Any = model.module
    ids, mask = torch.tensor([[50, 57, 64], [71, 78, 1]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        memory = module.get_encoder()(ids, attention_mask=mask)
        for encoded in (memory, tuple(memory.to_tuple())):
            given = {"encoder_outputs": encoded, "attention_mask": mask, "decoder_input_ids": ids}
            expected = model(ids, attention_mask=mask, decoder_input_ids=ids)
            assert torch.allclose(model(given), expected, atol=1e-5)
    # Without decoder ids the decoder begins: nothing is there that the module could shift.
    begun = {"encoder_outputs": memory, "attention_mask": mask}
    start = torch.full((2, 1), module.config.decoder_start_token_id)
    assert torch.equal(model(begun), model({**begun, "decoder_input_ids": start}))
    with pytest.raises(TokenError, match="given twice"):
        model(ids, encoder_outputs=memory)
    with pytest.raises(TokenError, match="mask"):
        model({**given, "attention_mask": torch.ones(1, 9)})


def test_a_decoder_has_a_row_for_each_of_the_encoder() -> None:
    with pytest.raises(TokenError, match="row for each") as caught:
        model_of("t5")(IDS.repeat(2, 1), decoder_input_ids=IDS)
    assert "(2, pos)" in str(caught.value)
