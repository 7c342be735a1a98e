"""Continuing a text token by token: the naive loop's answer, with a cache where there is one.

The naive loop runs the model on the whole text, takes a token, appends it and runs again with the
same interventions on the same positions. Hugging Face models go through their own `generate` (its
caches, beams and stopping rules), with every choice that is not ours to leave to it made here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, TokenError
from interp.core.randomness import generator
from interp.models.endings import refuse_silent
from interp.models.hooks.runs import Run
from interp.models.outputs import main_output
from interp.models.text.batch import TokenBatch
from interp.models.text.keywords import options_of, said_elsewhere
from interp.models.text.prepared import Prepared

# A HookedModel stands above this file: to it one is any object with these parts.
HookedModel = Any

SAMPLING = ("top_k", "top_p", "min_p")
"""Options that mean something only where tokens are drawn."""
REFUSED = {
    "assistant_model": "a second model's tokens cannot be told from this one's",
    "prompt_lookup_num_tokens": "tokens are guessed, and hooks would see the wrong guesses",
    "inputs": "the prompt is the first argument",
    "input_ids": "the prompt is the first argument",
    "attention_mask": "the prompt carries its own mask: pass a TokenBatch or a dict",
    "max_length": "say max_new_tokens",
    "generation_config": "name the options themselves",
    "return_dict_in_generate": "the answer is a text, or ids with return_ids=True",
    "output_scores": "run the model on the text it wrote: model(text)",
    "output_hidden_states": "run the model on the text it wrote: model.capture(text, sites)",
    "output_attentions": "run the model on the text it wrote: model.capture(text, sites)",
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


def generate(
    model: HookedModel,
    ready: Prepared,
    run: Run,
    n: int,
    temperature: float,
    seed: int,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """(ids [row, pos + new], mask of real tokens) under `run`; the decoder's for encoder-decoders.

    Raises:
        ModelError: A model without next-token logits, or inputs that are not tokens.
        ConfigError, TokenError: See `HookedModel.generate`.
    """
    refuse_silent(model, ready)
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ConfigError("max_new_tokens must be a whole number, 0 or more", got=repr(n))
    if not temperature >= 0 or temperature == float("inf"):
        raise ConfigError("temperature must be 0 (greedy) or more", got=repr(temperature))
    _refuse_more(ready)
    own = model._intake.huggingface and hasattr(model.module, "generate")
    settings = _Settings(model, temperature, options, own)
    batch, order = _left_padded(ready)
    # The door refuses padding on the left where it would change what the model computes.
    model._intake.prepare(batch, {}, False)
    run.given, run.order = len(batch), order
    _refuse_long(model, batch, n)
    draw = None if temperature == 0 else _Draw(temperature, seed, settings.sampling)
    if n == 0 and not model.two_sided:
        return batch.ids, batch.mask
    if own and (n > 0 or model.two_sided):
        return _huggingface(model, batch, run, n, draw, settings)
    return _loop(model, batch, run, n, draw, settings)


def _refuse_more(ready: Prepared) -> None:
    """A prompt is ids and which of them are real; whatever else was said of it would be lost.

    Raises:
        TokenError: Naming what cannot be carried through the steps.
    """
    mask = ready.kwargs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 4:
        raise TokenError(
            "generate needs a mask of tokens, [batch, pos]",
            got=f"attention_mask of shape {tuple(mask.shape)}",
            fix="a mask of 1 for real tokens and 0 for padding; or zero hook_pattern by a hook",
        )
    said = {"input_ids", "attention_mask", "use_cache"}
    said |= set() if ready.given_positions else {"position_ids"}
    said |= set() if ready.given_decoder else {"decoder_input_ids"}
    more = [name for name in ready.kwargs if name not in said]
    if more:
        raise TokenError(
            f"generate cannot carry {more[0]} through its steps",
            got=", ".join(more),
            expected="a prompt of ids, and a mask where there is padding",
            fix="run the model step by step: model(ids, ...), append, run again",
        )


def _left_padded(ready: Prepared) -> tuple[TokenBatch, Tensor | None]:
    """The prompt with its padding in front, so that every row goes on at the same column; and
    where its columns stood before."""
    ids = ready.tokens
    if ids is None or ready.mask is None:
        return TokenBatch.of(ids), None  # type: ignore[arg-type]
    # Padding first, real tokens in their order.
    order = torch.argsort(ready.mask.long(), dim=1, stable=True)
    return TokenBatch(ids.gather(1, order), ready.mask.gather(1, order)), order


def _refuse_long(model: HookedModel, batch: TokenBatch, n: int) -> None:
    limit, longest = model.cfg.n_ctx, int(batch.lengths.max())
    if model.two_sided or not limit or longest + n <= limit:
        return
    room = limit - longest
    fewer = f"max_new_tokens={room}, or " if room > 0 else ""
    shorter = f"a prompt of at most {limit - n} tokens" if n < limit else f"max_new_tokens below {limit}"
    raise TokenError(
        "the prompt and what is to be written do not fit the model's context",
        got=f"{longest} + {n} tokens",
        expected=f"at most n_ctx = {limit}",
        fix=fewer + shorter,
    )


class _Settings:
    """The options of one call, each used or refused.

    Attributes:
        sampling: top_k and kin, applied by `_Draw`.
        returned: Sequences per row.
        stop: Token ids that end a row.
        more: What Hugging Face's `generate` gets besides.
    """

    def __init__(self, model: HookedModel, temperature: float, options: dict[str, Any], own: bool) -> None:
        known = _known_options() if own else ["eos_token_id", "use_cache", "num_return_sequences", *SAMPLING]
        given = dict(options)
        for name in given:
            if name in REFUSED:
                raise ConfigError(f"generate takes no {name}", got=name, fix=REFUSED[name])
            if name not in known:
                own, elsewhere = options_of(type(model), "generate")
                near = said_elsewhere(name, [*own, *known], elsewhere)
                raise ConfigError(f"generate has no option {name!r}", got=name, fix=near)
        sampled = given.pop("do_sample", temperature > 0)
        if sampled != (temperature > 0):
            raise ConfigError(
                "do_sample contradicts the temperature, which decides alone",
                got=f"do_sample={sampled} at temperature {temperature:g}",
                fix="temperature=1.0 draws tokens, temperature=0 takes the largest logit",
            )
        self.sampling = {k: given.pop(k) for k in SAMPLING if given.get(k) is not None}
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
        self.returned = int(given.pop("num_return_sequences", 1) or 1)
        if self.returned > 1 and temperature == 0 and beams < self.returned:
            raise ConfigError(
                "greedy decoding has one answer per row",
                got=f"num_return_sequences={self.returned}, num_beams={beams}",
                fix="temperature=1.0, or as many beams",
            )
        self.beams = beams
        named, vocabulary = "eos_token_id" in given, model.tokenization.d_vocab
        stop = given.pop("eos_token_id", _own_stop(model) if own else None)
        self.stop = [] if stop is None else [int(i) for i in torch.as_tensor(stop).reshape(-1)]
        outside = [i for i in self.stop if i < 0 or i >= (vocabulary or i + 1)]
        if named and outside:
            expected = f"0 to {vocabulary - 1}" if vocabulary else "0 or more"
            raise ConfigError("eos_token_id is no token of this model", got=outside[0], expected=expected)
        if any(s.reads_sequence for s in model.splices):
            if given.get("use_cache"):
                raise ConfigError(
                    "a coder in this model reads whole sequences", got="use_cache=True", fix="use_cache=False"
                )
            given["use_cache"] = False
        self.cache = bool(given.pop("use_cache", True))
        self.more = given
        if own:
            _refuse_inherited(model, given)


def _known_options() -> list[str]:
    from transformers import GenerationConfig

    taken = ["logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"]
    return [k for k in vars(GenerationConfig()) if not k.startswith("_")] + taken


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
                fix=f"generate(..., {name}={value!r}), or model.module.generation_config.{name} = "
                f"{neutral!r}",
            )


class _Draw:
    """The next token from (seed, step): logits / temperature plus Gumbel noise, the largest wins.

    Drawing this way needs no global generator, so that threads and caches cannot disturb it.
    """

    def __init__(self, temperature: float, seed: int, sampling: dict[str, Any]) -> None:
        self.temperature, self.seed, self.step = temperature, seed, 0
        self.warpers = _warpers(sampling)

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Scores [row, d_vocab] whose largest entry is the token drawn."""
        scores = logits.float() / self.temperature
        for warper in self.warpers:
            scores = warper(ids, scores)
        draw = generator(self.seed, "generate", self.step)
        noise = torch.rand(scores.shape, generator=draw, dtype=torch.float64)
        self.step += 1
        gumbel = -torch.log(-torch.log(noise.clamp(1e-300, 1 - 1e-16)))
        return scores + gumbel.to(scores.device, scores.dtype)


def _warpers(sampling: dict[str, Any]) -> list[Any]:
    if not sampling:
        return []
    from transformers.generation import logits_process as kinds

    makers = {
        "top_k": kinds.TopKLogitsWarper,
        "top_p": kinds.TopPLogitsWarper,
        "min_p": kinds.MinPLogitsWarper,
    }
    try:
        return [makers[name](value) for name, value in sampling.items()]
    except ValueError as error:
        raise ConfigError(str(error), got=str(sampling)) from error


def _loop(
    model: HookedModel, batch: TokenBatch, run: Run, n: int, draw: _Draw | None, settings: _Settings
) -> tuple[Tensor, Tensor]:
    """The naive loop itself, for models without a cache."""
    ids = batch.ids.repeat_interleave(settings.returned, 0)
    mask = batch.mask.repeat_interleave(settings.returned, 0)
    running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    stop = torch.tensor(settings.stop, device=ids.device)
    with run:
        for _ in range(n):
            padded = {} if bool(mask.all()) else {"attention_mask": mask}
            now = model._intake.prepare(ids, padded, False)
            logits = main_output(model.module(*now.args, **now.kwargs))[:, -1]
            scores = logits if draw is None else draw(ids, logits)
            new = scores.argmax(-1)
            new = torch.where(running, new, batch.ids[0, 0])
            ids = torch.cat([ids, new[:, None]], 1)
            mask = torch.cat([mask, running[:, None]], 1)
            running = running & ~torch.isin(new, stop)
            if not bool(running.any()):
                break
    return ids, mask


def _huggingface(
    model: HookedModel, batch: TokenBatch, run: Run, n: int, draw: _Draw | None, settings: _Settings
) -> tuple[Tensor, Tensor]:
    from transformers import GenerationConfig, LogitsProcessorList

    module: Any = model.module
    own, start = module.generation_config, model._intake.start
    if settings.more.get("no_repeat_ngram_size") and not bool(batch.mask.all()):
        raise ConfigError(
            "no_repeat_ngram_size would count padding as text",
            got="rows of different length",
            fix="rows of one length, or one row at a time",
        )
    ids = batch.ids.repeat_interleave(settings.returned if draw else 1, 0)
    mask = batch.mask.repeat_interleave(settings.returned if draw else 1, 0)
    pad = own.pad_token_id
    if pad is None:
        pad = settings.stop[0] if settings.stop else 0
    config = GenerationConfig(
        max_new_tokens=n,
        do_sample=False,
        eos_token_id=settings.stop or None,
        pad_token_id=pad,
        bos_token_id=own.bos_token_id,
        decoder_start_token_id=own.decoder_start_token_id if start is None else start,
        use_cache=settings.cache,
    )
    # Attributes, not arguments: the constructor would complain of what belongs together.
    more: dict[str, Any] = dict(settings.more) | {"num_return_sequences": 1 if draw else settings.returned}
    given: Any = more.pop("logits_processor", None)
    processors = LogitsProcessorList(given or [])
    if draw is not None:
        processors.append(draw)
    extra = {k: more.pop(k) for k in ("stopping_criteria", "prefix_allowed_tokens_fn") if k in more}
    if more.get("stop_strings"):
        extra["tokenizer"] = model.tokenization.need_tokenizer(more["stop_strings"])
    for name, value in more.items():
        setattr(config, name, value)
    if n == 0:
        begun = torch.full((len(ids), 1), int(config.decoder_start_token_id or 0))
        return begun.to(ids), torch.ones_like(begun, dtype=torch.bool)
    with run:
        written = module.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            generation_config=config,
            logits_processor=processors,
            **extra,
        )
    return written, _written_mask(model, written, mask, settings, pad)


def _written_mask(model: HookedModel, ids: Tensor, prompt: Tensor, settings: _Settings, pad: int) -> Tensor:
    """Real tokens: the prompt's own, and what was written up to the token that ends a row."""
    real = torch.ones_like(ids, dtype=torch.bool)
    begin = 1 if model.two_sided else prompt.shape[1]
    if not model.two_sided:
        real[:, :begin] = prompt.repeat_interleave(len(ids) // len(prompt), 0)
    if settings.stop:
        ends = torch.isin(ids[:, begin:], torch.tensor(settings.stop, device=ids.device))
        # Behind the first end token (which itself is real) only padding follows.
        real[:, begin:] = (ends.long().cumsum(1) - ends.long()) == 0
    return real
