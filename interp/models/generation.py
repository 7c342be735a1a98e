"""Continuing a text token by token; randomness from (seed, step)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import ModelError
from interp.core.randomness import generator
from interp.models.inputs import Intake, Prepared, main_output


def generate(
    module: nn.Module,
    intake: Intake,
    ready: Prepared,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    extra: dict[str, Any],
) -> Tensor:
    """Ids [batch, pos + new] (the decoder's ids for encoder-decoders).

    Hugging Face models use their own `generate` (with its cache); others are run whole each step.
    """
    if ready.tokens is None:
        raise ModelError("generate needs token inputs", fix="pass text or ids")
    if intake.huggingface and hasattr(module, "generate"):
        return _huggingface(module, ready, max_new_tokens, temperature, seed, extra)
    ids, mask = ready.tokens, ready.mask
    for step in range(max_new_tokens):
        now = intake.prepare(ids, {} if mask is None else {"attention_mask": mask}, False)
        logits = main_output(module(*now.args, **now.kwargs))[:, -1]
        new = _choose(logits, temperature, seed, step)
        ids = torch.cat([ids, new[:, None]], dim=1)
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids


def _choose(logits: Tensor, temperature: float, seed: int, step: int) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    draw = generator(seed, "generate", step, device=str(logits.device))
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=draw)[:, 0]


def _huggingface(
    module: Any, ready: Prepared, n: int, temperature: float, seed: int, extra: dict[str, Any]
) -> Tensor:
    mask = torch.ones_like(ready.tokens) if ready.mask is None else ready.mask.long()  # type: ignore[arg-type]
    options: dict[str, Any] = {
        "max_new_tokens": n,
        "do_sample": temperature > 0,
        "attention_mask": mask,
    }
    if temperature > 0:
        options |= {"temperature": temperature, "top_k": 0}
    config = module.generation_config
    if config.pad_token_id is None and "pad_token_id" not in extra:
        stop = config.eos_token_id
        options["pad_token_id"] = (stop[0] if isinstance(stop, list) else stop) or 0
    # Hugging Face samples from the global generator: lend it ours and put it back.
    with torch.random.fork_rng():
        torch.manual_seed(generator(seed, "generate").initial_seed())
        return module.generate(input_ids=ready.tokens, **{**options, **extra})
