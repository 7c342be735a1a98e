"""What a forward pass returns, reduced to what its reader means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from interp.core.errors import ModelError

_ASIDE = ("loss", "past_key_values", "hidden_states", "attentions", "encoder_last_hidden_state")


def main_output(raw: Any) -> Any:
    """The one tensor that a model is asked for, or all of what it returned if there is none.

    The rule, first match wins: `logits`; else the tensors that are called logits (`start_logits`,
    `logits_per_image`); else those called embeddings (`text_embeds`); else `last_hidden_state`;
    else every other tensor that is no loss. Where the match names several (a span's start and end,
    CLIP's two sides), nobody can know which is meant: the whole output comes back, by name.
    """
    if isinstance(raw, Tensor | tuple | list):
        return raw
    logits = raw.get("logits") if isinstance(raw, Mapping) else getattr(raw, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    names = candidates(raw)
    return _get(raw, names[0]) if len(names) == 1 else raw


def candidates(raw: Any) -> list[str]:
    """The fields of an output that may be meant, by the rule of `main_output`."""
    names = [n for n in _names(raw) if isinstance(_get(raw, n), Tensor)]
    for group in (
        [n for n in names if n == "logits"],
        [n for n in names if n.endswith("_logits") or n.startswith("logits_")],
        [n for n in names if n.endswith("_embeds")],
        [n for n in names if n == "last_hidden_state"],
    ):
        if group:
            return group
    return [n for n in names if "loss" not in n and n not in _ASIDE]


def single_output(output: Any, what: str) -> Tensor:
    """The output as a tensor, for who needs exactly one.

    Raises:
        ModelError: There are several, or none; their names are listed.
    """
    if isinstance(output, Tensor):
        return output
    names = candidates(output)
    listed = f": {', '.join(names)}" if names else ""
    pick = names[0] if names else "name"
    raise ModelError(
        f"{what} needs one output tensor",
        got=f"{type(output).__name__}{listed}",
        expected="a model whose forward pass returns one tensor, or names one as its logits",
        fix=f"wrap a module whose forward returns that one (output[{pick!r}])",
    )


def _names(raw: Any) -> list[str]:
    if isinstance(raw, Mapping):
        return [str(name) for name in raw]
    # A plain object of the module's own: only the two names that mean the same everywhere.
    return [n for n in ("logits", "last_hidden_state") if hasattr(raw, n)]


def _get(raw: Any, name: str) -> Any:
    return raw[name] if isinstance(raw, Mapping) else getattr(raw, name)
