"""The one next-token loss: what each real token costs, given the real ones before it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.errors import ShapeError
from interp.models.text.batch import TokenBatch

# A HookedModel stands above this file: to it one is any object that runs with hooks.
HookedModel = Any


def next_token_loss(logits: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
    """Mean cross-entropy of each next real token, nats, [].

    Raises:
        ShapeError: Nothing is predicted: one token per row, or no tokens.
    """
    if tokens is None or tokens.shape[1] < 2:
        raise ShapeError(
            "a next-token loss needs at least two tokens per row",
            got=None if tokens is None else tuple(tokens.shape),
        )
    losses, counted = token_losses(logits, tokens, mask)
    return losses[counted].mean()


def token_losses(logits: Tensor, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each real token given those before it, nats, [batch, pos - 1].

    Padding counts nowhere, wherever it stands: the token before a real one is the real one before.

    Returns:
        The losses and, boolean in the same shape, which of them are of a real token. With padding
        they stand in the order of each row's real tokens.
    """
    tokens = tokens.to(logits.device).long()
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.to(logits.device)
    if mask is not None:
        order = torch.argsort((~real).long(), dim=1, stable=True)  # real tokens first, in order
        real, tokens = real.gather(1, order), tokens.gather(1, order)
        logits = logits.gather(1, order[:, :, None].expand(-1, -1, logits.shape[-1]))
    half = logits.dtype in (torch.float16, torch.bfloat16)
    scores = logits[:, :-1].float() if half else logits[:, :-1]
    after = tokens[:, 1:].masked_fill(~real[:, 1:], 0)
    flat = nn.functional.cross_entropy(scores.flatten(0, 1), after.flatten(), reduction="none")
    return flat.view_as(after), real[:, 1:]


def text_losses(
    model: HookedModel, batch: TokenBatch, edits: Any = (), batch_size: int = 32
) -> Float[Tensor, " text"]:
    """Mean next-token cross-entropy of every text under edits, nats per token, float64.

    Args:
        batch: Texts; a text of one token costs 0.
        edits: As `fwd_hooks`.
        batch_size: Texts run at once.
    """
    found = []
    with torch.no_grad():
        for part in batch.batches(batch_size):
            part = part.to(model.device)
            logits = model.run_with_hooks(part, edits)
            mask = part.mask if part.padded else None
            losses, counted = token_losses(logits, part.ids, mask)
            total = (losses.double() * counted).sum(1)
            found.append((total / counted.sum(1).clamp(min=1)).cpu())
    return torch.cat(found)
