"""What may be said about decoding: every option is read, or refused before the first token.

What only `temperature` decides, what would run a stranger's code, and what asks for outputs that
nobody hands on is refused by name; numbers and token ids are checked by what they are.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from interp.core.errors import ConfigError, TokenError
from interp.core.settings import Bound, above, at_least
from interp.models.text.batch import short
from interp.models.text.keywords import options_of, said_elsewhere

# A HookedModel stands above this file: to it one is any object with these parts.
HookedModel = Any

SAMPLING = ("top_k", "top_p", "min_p")
"""Options that mean something only where tokens are drawn."""
BEAMS = ("early_stopping", "length_penalty")
"""Options that mean something only under beam search."""
ENCODED = ("decoder_start_token_id", "forced_bos_token_id")
"""Options that mean something only where a decoder begins a text of its own."""
READ = """bad_words_ids begin_suppress_tokens encoder_no_repeat_ngram_size encoder_repetition_penalty
    eos_token_id exponential_decay_length_penalty forced_eos_token_id guidance_scale max_time min_length
    min_new_tokens no_repeat_ngram_size num_beams num_return_sequences pad_token_id remove_invalid_values
    renormalize_logits repetition_penalty sequence_bias stop_strings suppress_tokens use_cache do_sample
    watermarking_config logits_processor stopping_criteria prefix_allowed_tokens_fn""".split()
"""The other options of Hugging Face's `generate` that change what is written here."""
_DRAWN = "tokens are drawn by top_k, top_p or min_p"
_GUESSED = "tokens are guessed, and hooks would see the wrong guesses"
_OWN = "how a text is run is decided here: use_cache=True or False"
REFUSED = {
    "assistant_model": "a second model's tokens cannot be told from this one's",
    "inputs": "the prompt is the first argument",
    "input_ids": "the prompt is the first argument",
    "attention_mask": "the prompt carries its own mask: pass a TokenBatch or a dict",
    "max_length": "say max_new_tokens",
    "generation_config": "name the options themselves",
    "return_dict_in_generate": "the answer is a text, or ids with return_ids=True",
    "output_scores": "run the model on the text it wrote: model(text)",
    "output_hidden_states": "run the model on the text it wrote: model.capture(text, sites)",
    "output_attentions": "run the model on the text it wrote: model.capture(text, sites)",
    "token_healing": "the prompt is taken as it is: end it before the word that is to be completed",
    "output_logits": "run the model on the text it wrote: model(text)",
    "bos_token_id": "every text here begins with its prompt: put the token in front of it",
    "transformers_version": "it says who wrote a file",
    **dict.fromkeys(
        """prompt_lookup_num_tokens assistant_confidence_threshold assistant_early_exit
        assistant_ensemble_weight assistant_lookbehind is_assistant max_matching_ngram_size
        num_assistant_tokens num_assistant_tokens_schedule speculation_type target_lookbehind
        use_mtp""".split(),
        _GUESSED,
    ),
    **dict.fromkeys(
        """cache_config cache_implementation compile_config continuous_batching_config disable_compile
        low_memory max_cache_len prefill_chunk_size""".split(),
        _OWN,
    ),
    **dict.fromkeys(("typical_p", "epsilon_cutoff", "eta_cutoff", "top_h"), _DRAWN),
    **dict.fromkeys(
        (
            "constraints",
            "custom_generate",
            "diversity_penalty",
            "dola_layers",
            "force_words_ids",
            "num_beam_groups",
            "penalty_alpha",
        ),
        "transformers fetches code from the hub for it, which is never done",
    ),
}
NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": None,
    "watermarking_config": None,
    "min_length": 0,
    "min_new_tokens": None,
    "num_beams": 1,
    "penalty_alpha": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "renormalize_logits": False,
    "remove_invalid_values": False,
}
"""Settings of a model's own generation_config under which greedy decoding takes the largest logit;
any other value there would decide beside `temperature`."""


_FINITE = Bound("finite", math.isfinite)
_WEIGHT = Bound("a number in (0, 1]", lambda value: 0 < value <= 1)
_NUMBERS: dict[str, tuple[type, Bound]] = {
    "temperature": (float, at_least(0)),
    "num_beams": (int, at_least(1)),
    "num_return_sequences": (int, at_least(1)),
    "top_k": (int, at_least(1)),
    "top_p": (float, _WEIGHT),
    "min_p": (float, Bound("a number in [0, 1]", lambda value: 0 <= value <= 1)),
    "min_length": (int, at_least(0)),
    "min_new_tokens": (int, at_least(0)),
    "no_repeat_ngram_size": (int, at_least(0)),
    "encoder_no_repeat_ngram_size": (int, at_least(0)),
    "repetition_penalty": (float, above(0)),
    "encoder_repetition_penalty": (float, above(0)),
    "length_penalty": (float, _FINITE),
    "guidance_scale": (float, _FINITE),
    "max_time": (float, above(0)),
}
"""Options that are one number: of which type, and in which range."""
_IDS = {
    "eos_token_id": "one or many",
    "forced_eos_token_id": "one or many",
    "suppress_tokens": "many",
    "begin_suppress_tokens": "many",
    "bad_words_ids": "rows",
    "pad_token_id": "one",
    "bos_token_id": "one",
    "decoder_start_token_id": "one",
    "forced_bos_token_id": "one",
}
"""Options that are token ids, and how many."""
_CALLED = ("logits_processor", "stopping_criteria")


def check_option(name: str, value: Any) -> None:
    """Refuse a value that an option cannot have; None stands for leaving it out.

    Raises:
        ConfigError: Naming the option, the value and what it may be.
    """
    if name in _CALLED and value is not None and not (isinstance(value, list) and all(map(callable, value))):
        raise ConfigError(f"{name} is a list of functions", got=repr(value)[:80], fix=f"{name}=[f]")
    if name == "stop_strings" and value is not None:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) and text for text in texts):
            raise ConfigError("stop_strings is a text or a list of texts", got=repr(value)[:80])
    if name not in _NUMBERS or (value is None and name != "temperature"):
        return
    kind, bound = _NUMBERS[name]
    number = _whole(value) or (kind is float and hasattr(value, "__float__") and not isinstance(value, bool))
    try:
        good = number and bound.holds(float(value))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, RuntimeError):  # arrays of several numbers
        good = False
    if not good:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name} is {what}, {bound.text}", got=repr(value)[:80])


def _whole(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _check_ids(model: HookedModel, given: dict[str, Any]) -> None:
    """Token ids among the options are ids that the model has.

    Raises:
        TokenError: Naming the option and the id.
    """
    size = model.tokenization.d_vocab or math.inf
    for name, many in _IDS.items():
        value = given.get(name)
        if value is None or (name == "eos_token_id" and short(value) == "[]"):  # none ends a row
            continue
        listed = value.tolist() if hasattr(value, "tolist") else value
        rows = listed if many == "rows" and isinstance(listed, list | tuple) else [listed]
        rows = [row if isinstance(row, list | tuple) else [row] for row in rows]
        ids = [token for row in rows for token in row]
        fits = bool(rows) and all(rows) and (many != "one" or len(ids) == 1)
        if not fits or not all(_whole(token) and 0 <= token < size for token in ids):
            raise TokenError(
                f"{name} does not name token ids of this model",
                got=short(value),
                expected=f"{'lists of ids' if many == 'rows' else many}, 0 to {size - 1}",
                fix="model.to_single_token(text) gives an id",
            )


def _refuse_other_cache(model: HookedModel, given: dict[str, Any]) -> None:
    """A state that does not say how many tokens it has read (Mamba's): the whole text is run again.

    Raises:
        ConfigError: A cache is asked for.
    """
    if given.get("use_cache"):
        raise ConfigError(
            f"the cache of {type(model.module).__name__} does not say how many tokens it holds",
            got="use_cache=True",
            expected="a model with keys of its tokens: hooks count positions by them",
            fix="leave use_cache out: each step then runs the whole text",
        )
    given["use_cache"] = False


class Decoding:
    """The options of one call, each used or refused.

    Attributes:
        sampling: top_k and kin, applied where tokens are drawn.
        returned: Sequences per row.
        stop: Token ids that end a row.
        more: What Hugging Face's `generate` gets besides.
    """

    def __init__(self, model: HookedModel, temperature: float, options: dict[str, Any], own: bool) -> None:
        known = ["eos_token_id", "use_cache", "num_return_sequences", *SAMPLING]
        if own:
            known = [*known, *READ, *BEAMS, *ENCODED]
        given = dict(options)
        for name in given:
            if name in REFUSED:
                raise ConfigError(f"generate takes no {name}", got=name, fix=REFUSED[name])
            if name not in known:
                mine, elsewhere = options_of(type(model), "generate")
                near = said_elsewhere(name, [*mine, *known], elsewhere)
                raise ConfigError(f"generate has no option {name!r}", got=name, fix=near)
            check_option(name, given[name])
        _check_ids(model, given)
        sampled = given.pop("do_sample", temperature > 0)
        if sampled != (temperature > 0):
            raise ConfigError(
                "do_sample contradicts the temperature, which decides alone",
                got=f"do_sample={sampled} at temperature {temperature:g}",
                fix="temperature=1.0 draws tokens, temperature=0 takes the largest logit",
            )
        self.sampling: dict[str, Any] = {k: given.pop(k) for k in SAMPLING if given.get(k) is not None}
        if self.sampling and temperature == 0:
            raise ConfigError(
                f"{next(iter(self.sampling))} means nothing at temperature 0",
                got=str(self.sampling),
                fix="temperature=1.0",
            )
        beams = given.get("num_beams") or 1
        if beams > 1 and temperature > 0:
            raise ConfigError(
                "beam search takes the best text and draws nothing",
                got=f"num_beams={beams} at temperature {temperature:g}",
                fix="temperature=0, or num_beams=1",
            )
        _refuse_idle(given, BEAMS, beams > 1, "one text is followed, not several", "num_beams=4")
        _refuse_idle(given, ENCODED, model.two_sided, "the text begins with its prompt", "leave it out")
        self.returned = given.pop("num_return_sequences", None) or 1
        if self.returned > 1 and temperature == 0 and beams < self.returned:
            raise ConfigError(
                "greedy decoding has one answer per row",
                got=f"num_return_sequences={self.returned}, num_beams={beams}",
                fix="temperature=1.0, or as many beams",
            )
        self.beams = beams
        stop = given.pop("eos_token_id", _own_stop(model) if own else None)
        self.stop: list[int] = [] if stop is None else [int(i) for i in torch.as_tensor(stop).reshape(-1)]
        if any(s.reads_sequence for s in model.splices):
            if given.get("use_cache"):
                raise ConfigError(
                    "a coder in this model reads whole sequences", got="use_cache=True", fix="use_cache=False"
                )
            given["use_cache"] = False
        if own and "past_key_values" not in model.keywords:
            _refuse_other_cache(model, given)
        self.cache: bool = bool(given.pop("use_cache", True))
        if given.get("stop_strings") is not None and model.tokenizer is None:
            raise TokenError(
                "stop_strings are text, and this model has no tokenizer",
                got=repr(given["stop_strings"])[:80],
                fix="eos_token_id=..., or wrap(module, tokenizer)",
            )
        self.more = given
        if own:
            _refuse_inherited(model, given)


def _refuse_idle(given: dict[str, Any], options: tuple[str, ...], used: bool, why: str, fix: str) -> None:
    """Options that would change nothing in this call.

    Raises:
        ConfigError: Naming the first one.
    """
    idle = [name for name in options if given.get(name) is not None]
    if idle and not used:
        raise ConfigError(
            f"{idle[0]} means nothing here: {why}", got=f"{idle[0]}={given[idle[0]]!r}"[:80], fix=fix
        )


def _own_stop(model: HookedModel) -> Any:
    return getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)


def _refuse_inherited(model: HookedModel, given: dict[str, Any]) -> None:
    """What the model's folder says about decoding is no choice of the caller's."""
    config = getattr(model.module, "generation_config", None)
    for name, neutral in NEUTRAL.items():
        value = getattr(config, name, None)
        if value is not None and value != neutral and name not in given:
            raise ConfigError(
                f"the model's generation_config sets {name}, which would decide beside temperature",
                got=f"{name}={value!r}",
                expected=f"{name}={neutral!r}, or the option named in the call",
                fix=("" if name in REFUSED else f"generate(..., {name}={value!r}), or ")
                + f"model.module.generation_config.{name} = {neutral!r}",
            )
