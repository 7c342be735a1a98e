"""Continuing a text token by token: the naive loop's answer, with a cache where there is one.

The naive loop runs the model on the whole text, takes a token, appends it and runs again with the
same interventions on the same positions. Hugging Face models go through their own `generate` (its
caches, beams and stopping rules), with every choice that is not ours to leave to it made here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, InterpError, TokenError
from interp.core.foreign import one_line
from interp.core.randomness import generator, read_seed
from interp.models.decoding import Decoding, check_option
from interp.models.endings import refuse_silent
from interp.models.hooks.runs import Run
from interp.models.outputs import main_output
from interp.models.text.batch import TokenBatch
from interp.models.text.prepared import Prepared

# A HookedModel stands above this file: to it one is any object with these parts.
HookedModel = Any

_ENDS = ("stop_strings", "stopping_criteria", "max_time")
"""Options that end a row before its end token."""


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
    check_option("temperature", temperature)
    seed = read_seed(seed)
    _refuse_more(ready)
    own = model._intake.huggingface and hasattr(model.module, "generate")
    settings = Decoding(model, temperature, options, own)
    batch, order = _as_given(ready) if model.two_sided else _left_padded(ready)
    refused = ""
    if batch.padded and order is not None:
        refused = model._intake.padding_proved().refused.get("left", "")
    if refused:
        raise TokenError(
            f"rows of different length are continued with their padding on the left, and {refused}",
            got=f"rows of {batch.lengths.tolist()[:8]} tokens",
            fix="rows of one length, or one row at a time",
        )
    # The door refuses padding where it would change what the model computes.
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


def _as_given(ready: Prepared) -> tuple[TokenBatch, None]:
    """The prompt where it stands: what an encoder reads, nobody continues."""
    ids: Any = ready.tokens
    return (TokenBatch.of(ids) if ready.mask is None else TokenBatch(ids, ready.mask)), None


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
    model: HookedModel, batch: TokenBatch, run: Run, n: int, draw: _Draw | None, settings: Decoding
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
    model: HookedModel, batch: TokenBatch, run: Run, n: int, draw: _Draw | None, settings: Decoding
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
    pad = settings.more.get("pad_token_id", own.pad_token_id)
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
        try:
            written = module.generate(
                input_ids=ids,
                attention_mask=mask.long(),
                generation_config=config,
                logits_processor=processors,
                **extra,
            )
        except InterpError:
            raise
        except Exception as error:  # each option is checked in a place of its own there
            if run.passes:
                raise
            raise ConfigError(
                "transformers cannot write with these options",
                got=f"{', '.join(f'{k}={v!r}' for k, v in settings.more.items())[:160]}: {one_line(error)}",
                fix="leave one of them out",
            ) from error
    return written, _written_mask(model, written, mask, settings, pad)


def _written_mask(model: HookedModel, ids: Tensor, prompt: Tensor, settings: Decoding, pad: int) -> Tensor:
    """Real tokens: the prompt's own, and what was written up to the token that ends a row."""
    real = torch.ones_like(ids, dtype=torch.bool)
    begin = 1 if model.two_sided else prompt.shape[1]
    if not model.two_sided:
        real[:, :begin] = prompt.repeat_interleave(len(ids) // len(prompt), 0)
    if settings.stop:
        ends = torch.isin(ids[:, begin:], torch.tensor(settings.stop, device=ids.device))
        # Behind the first end token (which itself is real) only padding follows.
        real[:, begin:] = (ends.long().cumsum(1) - ends.long()) == 0
        if pad not in settings.stop and not settings.more.keys().isdisjoint(_ENDS):
            # Rows that ended so are filled up until the last one ends.
            after = (ids[:, begin:] != pad).long().flip(1).cumsum(1).flip(1)
            real[:, begin:] &= after > 0
    return real
