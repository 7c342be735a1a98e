"""The logit lens: read every layer's residual stream with the model's own final norm and head.

nostalgebraist 2020, "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from typing import Any

from interp.core.settings import check_choice
from interp.lenses.config import Components
from interp.lenses.reading import passed_on, read_rows, stream_rows
from interp.lenses.result import LensResult
from interp.models.hooked import HookedModel


def logit_lens(
    model: HookedModel,
    inputs: Any,
    *,
    components: Components = "resid",
    k: int = 5,
    target: Any = None,
    prepend_bos: bool | None = None,
    **kwargs: Any,
) -> LensResult:
    """Decode the residual stream after every layer.

    Each row is `unembed(ln_final(x))`, soft caps and biases included; the last row is the model's
    output. Attention and MLP outputs (`components="all"`) are read in the same way, on their own.

    Args:
        model: A decoder, an encoder with a masked-LM head, or an encoder-decoder (its decoder).
        inputs: One text, or ids [pos] or [1, pos].
        components: "resid" for embedding and layers, "all" for the sublayers between them too.
        k: Tokens kept per cell.
        target: Token to follow: text of one token, an id, or one id per position; the model's own
            most likely token at each position when absent.
        kwargs: For `run_with_cache`: `fwd_hooks` (the lens of an edited model) and arguments of
            the raw model (`decoder_input_ids`, ...).

    Raises:
        ModelError: The model has no head over tokens, or no residual stream by name.
        TokenError: More than one text, or a target that is not one token.
        NonFiniteError: The model gives NaN.
    """
    check_choice("components", components, Components)
    passed_on(model, inputs, kwargs, logit_lens)
    return read_rows(
        model,
        inputs,
        stream_rows(model, components),
        lambda _, x: model.unembed(model.ln_final(x)),
        kind="logit",
        k=k,
        target=target,
        prepend_bos=prepend_bos,
        **kwargs,
    )
