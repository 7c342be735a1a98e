"""The door of `generate`: options are read or refused before the first token, prompts stay theirs."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers

from interp import load_model, wrap
from interp.core.errors import ConfigError, InterpError, TokenError
from interp.models.decoding import BEAMS, ENCODED, READ, REFUSED, SAMPLING, check_option
from interp.models.hooked import HookedModel
from interp.models.hooks.interventions import zero
from tests.models import zoo
from tests.models.tokenizers import byte_level, word_level

T: Any = transformers
IDS = torch.tensor([[50, 57, 64, 71, 78, 85]])


@cache
def llama() -> HookedModel:
    return wrap(zoo.make("llama"), word_level(0))


@cache
def bart() -> HookedModel:
    torch.manual_seed(0)
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in SIZES.items()}
    module = T.BartForConditionalGeneration(
        T.BartConfig(vocab_size=101, d_model=24, max_position_embeddings=31, **sizes)
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    module.generation_config.forced_eos_token_id = None
    return wrap(module.eval())


SIZES = {"layers": 2, "attention_heads": 6, "ffn_dim": 37}


BAD: dict[str, list[Any]] = {
    "temperature": [-1.0, float("nan"), float("inf")],
    "max_time": ["x", -1, 0],
    "num_beams": [0, 1.5, "x", True],
    "num_return_sequences": [0, "x"],
    "repetition_penalty": [-1.5, 0, "x"],
    "no_repeat_ngram_size": [-1, "x"],
    "min_new_tokens": [-1, "x"],
    "length_penalty": ["x", float("inf")],
    "eos_token_id": ["x", 1.5, -3, True, 10**6, [[]]],
    "pad_token_id": [-5, 10**6, [1, 2]],
    "forced_eos_token_id": [10**6],
    "suppress_tokens": [[10**6], "x"],
    "bad_words_ids": [[[10**6]], 3, [[]]],
    "stop_strings": [3, [3], [""]],
    "logits_processor": [3, [3]],
    "stopping_criteria": [3],
    "sequence_bias": ["x"],
    "cache_implementation": ["foo", "static"],
    "num_assistant_tokens": [3],
    "is_assistant": [True],
    "assistant_early_exit": [1],
    "watermarking_config": [3],
    "exponential_decay_length_penalty": ["x"],
    "num_beam_groups": [2],
    "penalty_alpha": [0.5],
    "dola_layers": ["high"],
    "typical_p": [0.5],
}
IDLE: dict[str, Any] = {"early_stopping": True, "length_penalty": 2.0, "decoder_start_token_id": 3}
"""Options without a meaning where one text is followed, or begins with its prompt."""
FIRST, END = 35, 91
AGAIN = torch.tensor([[94, 4, 97, 98]])
"""A prompt of which a token comes again."""
ROWS = torch.tensor([[50, 94, 4, 97, 98], [4, 97, 50, 4, 97]])
WORKS: dict[str, Any] = {
    "bad_words_ids": [[FIRST]],
    "begin_suppress_tokens": [FIRST],
    "encoder_no_repeat_ngram_size": 1,
    "encoder_repetition_penalty": 50.0,
    "eos_token_id": FIRST,
    "exponential_decay_length_penalty": (1, 1e9),
    "forced_eos_token_id": 34,
    "guidance_scale": 4.0,
    "max_time": 1e-9,
    "min_length": 11,
    "min_new_tokens": 6,
    "no_repeat_ngram_size": 1,
    "num_beams": 2,
    "num_return_sequences": 2,
    "pad_token_id": 31,
    "repetition_penalty": 50.0,
    "sequence_bias": [[[FIRST], -1e9]],
    "suppress_tokens": [FIRST],
    "watermarking_config": T.WatermarkingConfig(bias=50.0),
    "logits_processor": [lambda ids, scores: -scores],
    "stopping_criteria": [lambda ids, scores, **_: torch.ones(len(ids), dtype=torch.bool)],
    "prefix_allowed_tokens_fn": lambda row, ids: [5],
}
"""A value of each option that changes what is written behind ROWS: FIRST twice; a row ends with END."""
QUIET = {"do_sample", "use_cache", "remove_invalid_values", "renormalize_logits"}
"""Options of which one value only is no contradiction, or that mend what only own processors break."""
SAMPLED: dict[str, list[Any]] = {"top_k": ["x", 0, -1, 1.5], "top_p": ["x", 0, 1.5], "min_p": ["x", -0.1, 3]}


@pytest.mark.parametrize("name", BAD)
def test_an_option_is_refused_by_name_before_the_first_token(name: str) -> None:
    model, ran = llama(), []
    handle = model.module.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        for value in BAD[name]:
            with pytest.raises(InterpError, match=name.replace("_", ".")) as caught:
                model.generate("red green", 3, **{name: value})
            assert caught.value.got is not None
    finally:
        handle.remove()
    assert not ran


@pytest.mark.parametrize("value", ["hot", None, [1.0], True, torch.ones(2)], ids=str)
def test_a_temperature_is_one_number(value: Any) -> None:
    with pytest.raises(ConfigError, match="temperature is a number"):
        check_option("temperature", value)


@pytest.mark.parametrize("name", SAMPLED)
def test_an_option_of_drawing_is_refused_by_name(name: str) -> None:
    for value in SAMPLED[name]:
        with pytest.raises(ConfigError, match=name):
            llama().generate("red green", 3, temperature=1.0, **{name: value})


@pytest.mark.parametrize("name", WORKS)
def test_an_option_that_is_taken_changes_what_is_written(name: str) -> None:
    def written(**options: Any) -> list[list[int]]:
        rows = AGAIN if name == "encoder_no_repeat_ngram_size" else ROWS
        base = {"temperature": 1.0} if name == "num_return_sequences" else {}
        return llama().generate(rows, 6, return_ids=True, **{"eos_token_id": END, **base, **options}).tolist()

    assert written(**{name: WORKS[name]}) != written()


def test_every_option_of_transformers_is_known_to_work_or_refused_with_a_reason() -> None:
    every = {name for name in vars(T.GenerationConfig()) if not name.startswith("_")}
    named = {"temperature", "max_new_tokens"}
    known = {*READ, *SAMPLING, *BEAMS, *ENCODED, *REFUSED}
    assert every - named <= known
    assert {*READ} <= {*WORKS, *QUIET, "stop_strings"}
    assert not {*READ, *SAMPLING, *BEAMS, *ENCODED} & {*REFUSED}


@pytest.mark.parametrize("name", IDLE)
def test_an_option_without_a_meaning_here_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} means nothing here"):
        llama().generate(IDS, 3, **{name: IDLE[name]})


def test_an_option_of_beams_or_of_a_decoder_is_used_where_it_has_one() -> None:
    long, short = (
        llama().generate(ROWS, 6, return_ids=True, eos_token_id=END, num_beams=4, length_penalty=p)
        for p in (9.0, -9.0)
    )
    assert not torch.equal(long, short)
    begun = bart().generate(IDS, 3, return_ids=True, decoder_start_token_id=7, eos_token_id=96)
    assert begun[0, 0] == 7


@pytest.mark.parametrize("option", [{"eos_token_id": "x"}, {"num_return_sequences": "x"}], ids=str)
def test_a_model_of_ours_checks_alike(option: dict[str, Any]) -> None:
    with pytest.raises(InterpError, match=next(iter(option))):
        load_model("tiny-grammar").generate("The cat", 3, **option)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"eos_token_id": [7, 9]},
        {"bad_words_ids": [[33], [40, 41]]},
        {"suppress_tokens": [33, 40]},
        {"min_new_tokens": 2},
        {"forced_eos_token_id": 9},
    ],
    ids=str,
)
def test_options_that_are_right_give_what_transformers_gives(options: dict[str, Any]) -> None:
    model = llama()
    module: Any = model.module
    ours = model.generate(IDS, 5, return_ids=True, **{"eos_token_id": 9, **options})
    more = {"eos_token_id": 9, "pad_token_id": 9, **options}
    theirs = module.generate(
        IDS, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(IDS), **more
    )
    assert torch.equal(ours, theirs)


def test_stop_strings_find_the_tokenizer() -> None:
    model = wrap(zoo.make("llama"), byte_level())
    texts, options = ["abcabc", "ef"], {"eos_token_id": 100, "pad_token_id": 99}
    written = model.generate(texts[0], 12, **options)
    letter = written[len(texts[0]) + 4]
    stopped = model.generate(texts[0], 12, stop_strings=[letter], **options)
    assert stopped == written[: written.index(letter, len(texts[0])) + 1] != written
    together = model.generate(texts, 12, stop_strings=letter, **options)
    assert together == [model.generate(text, 12, stop_strings=letter, **options) for text in texts]
    with pytest.raises(TokenError, match="no tokenizer"):
        wrap(zoo.make("llama")).generate(IDS, 3, stop_strings=["."])


@pytest.mark.parametrize("n", [1, 2, 9])
def test_an_encoder_decoder_of_any_name_generates(n: int) -> None:
    model = bart()
    module: Any = model.module
    expected = module.generate(IDS, max_new_tokens=n, do_sample=False, num_beams=1, eos_token_id=96)
    assert torch.equal(model.generate(IDS, n, return_ids=True, eos_token_id=96), expected)


def test_what_an_encoder_reads_keeps_its_padding_on_the_right() -> None:
    model = bart()
    ids, mask = torch.tensor([[50, 57, 64, 71], [50, 57, 1, 1]]), torch.tensor([[1] * 4, [1, 1, 0, 0]])
    given = {"input_ids": ids, "attention_mask": mask}
    module: Any = model.module
    together = model.generate(given, 4, return_ids=True, eos_token_id=96)
    expected = module.generate(**given, max_new_tokens=4, do_sample=False, num_beams=1, eos_token_id=96)
    assert torch.equal(together, expected)
    for row, real in zip(ids, mask.sum(1), strict=True):
        alone = model.generate(row[None, : int(real)], 4, return_ids=True, eos_token_id=96)
        assert (alone == together).all(1).any()
    given["input_ids"], given["attention_mask"] = ids.flip(1), mask.flip(1)
    with pytest.raises(TokenError, match="left") as caught:
        model.generate(given, 4)
    assert "right" in str(caught.value.fix)


def test_a_setting_of_the_folder_has_two_fixes_that_work() -> None:
    torch.manual_seed(0)
    model = bart()
    module: Any = model.module
    module.generation_config.forced_eos_token_id = 2
    try:
        with pytest.raises(ConfigError, match="forced_eos_token_id") as caught:
            model.generate(IDS, 3)
        assert "forced_eos_token_id=2" in str(caught.value.fix)
        ours = model.generate(IDS, 3, return_ids=True, forced_eos_token_id=2)
        assert torch.equal(ours, module.generate(IDS, max_new_tokens=3, do_sample=False, num_beams=1))
    finally:
        module.generation_config.forced_eos_token_id = None
    assert model.generate(IDS, 3, return_ids=True).shape == (1, 4)


def test_a_state_that_counts_no_tokens_is_left_out() -> None:
    torch.manual_seed(0)
    config = T.MambaConfig(vocab_size=101, hidden_size=24, num_hidden_layers=2, state_size=4)
    module = T.MambaForCausalLM(config).eval()
    model = wrap(module)
    theirs = module.generate(IDS, max_new_tokens=5, do_sample=False, eos_token_id=96, pad_token_id=96)
    assert torch.equal(model.generate(IDS, 5, return_ids=True, eos_token_id=96), theirs)
    site = "blocks.0.hook_mixer_out"
    edited = model.generate(IDS, 3, return_ids=True, eos_token_id=96, fwd_hooks=zero(site))
    ids = IDS
    for _ in range(3):
        new = model.run_with_hooks(ids, zero(site))[:, -1].argmax(-1)
        ids = torch.cat([ids, new[:, None]], 1)
    assert torch.equal(edited, ids)
    with pytest.raises(ConfigError, match="cache"):
        model.generate(IDS, 3, use_cache=True)
