"""Given is used or refused: every argument at the models' door decides something, or is an error.

Calls run in a process without the suite's type checker, which would stand before the package.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from tests.models import zoo
from tests.models.test_door import IDS, model_of

SITE = "blocks.1.hook_resid_post"
SETUP = """
import json, numpy as np, torch, transformers, interp
from interp.core.errors import InterpError
from tests.models import zoo
from tests.models.test_door import model_of, words
m, s, z, x = model_of("gpt2"), "blocks.1.hook_resid_post", "blocks.1.attn.hook_z", [[5, 6, 7, 8]]
tg, T = interp.load_model("tiny-grammar"), "When Mary and John went to the park, John gave a book to"
seq = interp.wrap(torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 9)))
image, none = torch.rand(1, 3, 12, 12), np.zeros(6, bool)
def edited(edit): return m.run_with_hooks(x, [edit])
def held(loss): return model_of("bert-classifier")(x, labels=[1], return_type=loss)
def outcome(call):
    try:
        return ["ran", repr(eval(call))]
    except InterpError as error:
        return ["refused", str(error)]
    except Exception as error:
        return ["raw", repr(error)]
"""

REFUSED = {
    # a head that says nothing of the next token
    "model_of('bert').generate(x, 2)": "writes no text",
    "model_of('gpt2-classifier').generate(x, 2)": "writes no text",
    "interp.wrap(m.module.transformer).generate(x, 2)": "writes no text",
    "model_of('vit').generate(image, 2)": "writes no text",
    "seq.generate(x, 2)": "TokenBatch.of(ids)",
    # words that the tokenizer does not know
    "tg.to_single_token(' xyzzy')": "does not know ' xyzzy'",
    "interp.attribute(tg, T, (' Mry', ' John'))": "' Mary'",
    "interp.logit_lens(tg, T, target=' xyzzy')": "does not know",
    "interp.direct_logit_attribution(tg, T, ' xyzzy')": "does not know",
    # masks of queries and keys
    "m(x, attention_mask=torch.ones(1, 1, 4, 4).tril())": "mask.bool()",
    "m(x, attention_mask=torch.ones(1, 1, 4, 4).long() * 3)": "1 for real tokens",
    # labels whose loss nobody sees
    "held('logits')": 'return_type="loss"',
    "m.capture({'input_ids': x, 'labels': x}, s)": "inputs without labels",
    "model_of('t5')(x, labels=x, decoder_input_ids=x)": "loss given to nobody",
    "m(x, return_type='loss', loss_per_token=True)": "model.module(",
    # choices that select nothing
    "edited(interp.zero(s, positions=slice(10, 13)))": "selects none",
    "edited(interp.zero(s, positions=slice(4, 1)))": "selects none",
    "edited(interp.zero(z, head=slice(8, 12)))": "head= selects nothing",
    "edited(interp.zero(s, index=slice(5000, None)))": "index= selects nothing",
    "edited(interp.zero(s, positions=torch.zeros(1, 4).bool()))": "positions= selects nothing",
    "interp.zero(z, head=none)": "head= selects nothing",
    "m.capture(x, s, positions=slice(10, 13))": "selects none",
    "m.capture(x, s, positions=torch.zeros(1, 4).bool())": "selects nothing",
    # yes or no
    "tg.to_tokens(T, prepend_bos='no')": "prepend_bos is True or False",
    "tg(T, prepend_bos='no')": "prepend_bos is True or False",
    "tg.tokenize(T, truncate='no')": "truncate is True or False",
    "m.capture(x, s, remove_batch_dim='no')": "remove_batch_dim is True or False",
    "m.generate(x, 1, return_ids='no')": "return_ids is True or False",
    "m.with_coder(error_term='no')": "error_term is True or False",
    "interp.load_model('gpt2', allow_download='no')": "allow_download is True or False",
    "interp.wrap(zoo.make('gpt2'), check='no')": "check is True or False",
    "m.capture(x, s).save('/nowhere/at/all', overwrite='no')": "overwrite is True or False",
    "interp.dictionaries.load('a/b', strict='no')": "strict is True or False",
    # no tokenizer
    "interp.wrap(zoo.make('gpt2'), 'gpt2')": "a folder with its files",
    "interp.wrap(zoo.make('gpt2'), object())": "a Hugging Face tokenizer",
    # a mask that contradicts the text's own padding
    "words()(['red green', 'red'], attention_mask=torch.ones(2, 3))": "takes padding for text",
    "words()(['red green', 'red'], attention_mask=[[1, 1, 1], [0, 1, 1]])": "takes padding for text",
    # values that change nothing, or everything
    "m.capture(x, s, dtype=torch.int8)": "floating-point dtype",
    "m.capture(x, s, dtype='bool')": "floating-point dtype",
    "m.capture(x, s, to=torch.int32)": "floating-point dtype",
    "edited(interp.zero(None))": "a hook needs a site",
    "edited((None, lambda value, hook: value))": "a hook needs a site",
    "interp.clamp(s, 3, low=2, high=1)": "no room between its bounds",
    "edited(interp.resample(s))": "no other row",
    "m.generate(x, 1, eos_token_id=99999)": "token ids of this model",
    "m(x, encoder_attention_mask=[[1] * 4])": "encoder_hidden_states",
    "model_of('vit')(image, attention_mask=torch.ones(9, 10))": "a row for each image",
    # options that the method does not read
    "interp.attribute(m, x, 7, method='saliency', samples=5)": "gradient_shap, shapley",
    "interp.attribute(m, x, 7, window=3)": "means nothing to integrated_gradients",
    "interp.attribute(m, x, 7, method='occlusion', gamma=0.5)": "means nothing to occlusion",
    "interp.attribution.attribute_methods(m, x, 7, ['saliency', 'lime'], noise=1.0)": "saliency, lime",
}


MORE = {
    # the method that takes a word, or what takes the place of an attribute
    "m(x, names_filter=s)": "model.run_with_cache takes names_filter",
    "m(x, fwd_hooks=[])": "model.run_with_hooks takes fwd_hooks",
    "m.run_with_cache(x, sites=s)": "model.capture takes sites",
    "m.generate(x, 2, return_type='loss')": "model(inputs, ...) takes return_type",
    "m.generate('a ' * 40, 3)": "no tokenizer",
    "m.generate([[5] * 30], 3)": "a prompt of at most 28 tokens",
    "m.generate([[5] * 31], 40)": "max_new_tokens below 31",
    "m.generate(x, 2, stop_strings=['.'])": "no tokenizer",
}
ATTRIBUTES = {
    "eval": "evaluation mode",
    "add_hook": "with model.hooks(",
    "state_dict": "model.module.state_dict",
    "run_with_cach": "did you mean 'run_with_cache'",
}


def outcomes(calls: Any) -> dict[str, list[str]]:
    """What became of each call: ran, refused or a raw error, with what it said."""
    code = f"{SETUP}\nprint(json.dumps({{call: outcome(call) for call in {list(calls)!r}}}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    return outcomes(REFUSED | MORE)


@pytest.mark.parametrize("call", MORE)
def test_a_fix_is_one_that_works(call: str, found: dict[str, list[str]]) -> None:
    outcome, said = found[call]
    assert outcome == "refused" and MORE[call] in said, (outcome, said)
    assert "did you mean" not in said


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_that_is_not_here_names_what_is(name: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(model_of("gpt2"), name)
    assert ATTRIBUTES[name] in str(caught.value)


def test_texts_that_end_a_row_need_only_the_models_own_tokenizer(shared_data: Path) -> None:
    model = interp.load_model(shared_data / "models" / "stories260k")
    assert model.generate("Once upon a time", 40, stop_strings=["."]).endswith(".")


@pytest.mark.parametrize("call", REFUSED)
def test_what_would_be_ignored_is_refused(call: str, found: dict[str, list[str]]) -> None:
    outcome, said = found[call]
    assert outcome == "refused" and REFUSED[call] in said, (outcome, said)


def test_the_spelling_of_the_unknown_token_is_a_token() -> None:
    model = interp.load_model("tiny-grammar")
    assert model.to_single_token("<|unknown|>") == model.tokenizer.unk_token_id


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["bool", "int64", "int32"])
def test_a_mask_of_queries_and_keys_is_one_mask_whoever_looks(attention: str, kind: str) -> None:
    module: Any = zoo.make("llama")
    module.set_attn_implementation(attention)
    model, ids = interp.wrap(module), torch.tensor([IDS])
    seen = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    seen[..., 2:, 1] = False  # nobody behind the second token sees it
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = module(ids, attention_mask=added).logits
        mask = seen.to(getattr(torch, kind))
        torch.testing.assert_close(model(ids, attention_mask=mask), expected)
        watched, _ = model.run_with_cache(ids, "*.hook_pattern", attention_mask=mask)
        torch.testing.assert_close(watched, expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, model(ids))


def test_labels_are_what_the_loss_is_about() -> None:
    model, ids = model_of("llama"), torch.tensor([IDS])
    labels = ids.clone()
    labels[0, 2] = -100
    with torch.no_grad():
        own = model.module(ids, labels=labels).loss
        assert torch.equal(model(ids, labels=labels, return_type="loss"), own)
        assert torch.equal(model({"input_ids": ids, "labels": labels}, return_type="both").loss, own)
        assert not torch.allclose(own, model(ids, return_type="loss"))
        classifier = model_of("bert-classifier")
        wanted = classifier.module(ids, labels=torch.tensor([1])).loss
        torch.testing.assert_close(classifier(ids, labels=[1], return_type="loss"), wanted)
        model_of("t5")(ids, labels=ids)  # the decoder reads them


@pytest.mark.parametrize("name", ["mamba", "bert-decoder"])
def test_the_loss_of_a_language_model_without_a_table_row(name: str) -> None:
    model, ids = model_of(name), torch.tensor([IDS])
    with torch.no_grad():
        expected = model.module(ids, labels=ids).loss
        torch.testing.assert_close(model(ids, return_type="loss"), expected)


def test_no_run_ends_before_the_hooks_of_a_block_around_it() -> None:
    model, seen = model_of("gpt2"), []

    def note(value: Tensor, hook: Any) -> None:
        seen.append(hook.name)

    for run in (
        lambda: model.capture(IDS, "hook_embed"),
        lambda: model(IDS, stop_at_layer=1),
        lambda: model.run_with_cache(IDS, "hook_embed", stop_at_layer=1),
    ):
        with model.hooks([(SITE, note)]), model.hooks([("hook_embed", note)]):
            run()
        assert seen == ["hook_embed", SITE]
        seen.clear()
    behind: list[int] = []
    handle = model.module.lm_head.register_forward_hook(lambda *_: behind.append(1))
    with model.hooks([(SITE, note)]):
        model.capture(IDS, "hook_embed")
    handle.remove()
    assert seen and not behind, "it goes no further than the last of them"
