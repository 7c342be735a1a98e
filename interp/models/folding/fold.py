"""Weight processing as a pure function: an equal model that is easier to read, or a refusal.

A layer norm is a nonlinear centring and scaling followed by a linear gain and bias, and linear maps
that follow one another are one (Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits"; Nanda's `fold_layer_norm` in TransformerLens, whose results these are, in tests). What is
folded here is exact for every input; where it would not be, `FoldError` says why.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import FoldError
from interp.core.settings import check_flags
from interp.models.adapters.effective import adapted_parts
from interp.models.adapters.proof import probe_inputs
from interp.models.budget import refuse_copy
from interp.models.folding.families import huggingface_parts, small_parts
from interp.models.folding.parts import FoldNorm, FoldParts, ValuePath
from interp.models.hooked import HookedModel
from interp.models.hooks.passes import apart
from interp.models.small.model import SmallTransformer
from interp.models.wrapping import wrap

SUFFIX = " (folded)"
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
"""Of the self-check, relative to the largest output."""


@torch.no_grad()
def fold(
    model: HookedModel,
    *,
    fold_ln: bool = True,
    center_writing_weights: bool | None = None,
    center_unembed: bool | None = None,
    fold_value_biases: bool = True,
) -> HookedModel:
    """A folded deep copy of `model` with the same log-probabilities; `model` is not touched.

    Tied embeddings are untied in the copy, and biases appear where a map had none: read the copy,
    do not save it as its architecture. Before it is returned it is run beside the original.

    Args:
        fold_ln: Move every norm's gain and bias into the maps that read it (q, k, v; MLP input and
            gate; cross-attention's keys and values; the unembedding); the norm keeps gain 1 and
            bias 0. Maps behind a layer norm also lose their mean over d_model, which reads nothing.
            A final norm that no head reads is the model's output and stays.
        center_writing_weights: Remove the mean over d_model from everything that writes into the
            residual stream; layer norms never see it. None: where that is exact.
        center_unembed: Remove the mean over the vocabulary from W_U and b_U. Logits change by one
            constant per position, log-probabilities do not. None: for language models without soft
            cap.
        fold_value_biases: Move b_V through W_O into b_O: rows of an attention pattern sum to one.

    Raises:
        FoldError: The step is not exact here (post-norm, RMS and centring, soft cap, half
            precision, a float64 model that computes in float32 where the fold would reach:
            Gemma's gains, Bloom's softmax), or the weights cannot be read (quantised, offloaded,
            unknown family).
        MemoryBudgetError: A second copy of the weights is more than what is free.
    """
    check_flags(fold_ln=fold_ln, fold_value_biases=fold_value_biases)
    _refuse_unknown(model)
    # Every refusal comes before the copy: a large model is not copied in vain.
    parts = _parts(model.module, model, model)
    parts.refuse_shared()
    writing = _wanted("centre the writing weights", center_writing_weights, parts.no_centring)
    unembed = _wanted("centre the unembedding", center_unembed, parts.no_unembed, parts.softmax)
    if fold_ln and parts.no_norms:
        raise FoldError(
            f"cannot fold {parts.no_norms}",
            got=f"{model.cfg.model_name}, family {model.cfg.family}",
            expected="norms whose output only linear maps read",
            fix="fold_ln=False folds what remains exact",
        )
    if fold_value_biases and parts.no_values and any(path.v.read()[1] is not None for path in parts.values):
        raise FoldError(
            f"cannot fold the biases of values: {parts.no_values}",
            got=f"{model.cfg.model_name}, family {model.cfg.family}",
            expected="rows of attention patterns that sum to one over the projected values",
            fix="fold_value_biases=False folds what remains exact",
        )
    refuse_copy(model.module, "a folded copy")
    module = copy.deepcopy(model.module)
    parts = _parts(module, wrap(module, model.tokenizer, check=False), model)
    _untie(module, parts)
    for norm in parts.norms if fold_ln else ():
        _fold_norm(norm)
    for path in parts.values if fold_value_biases else ():
        _fold_values(path)
    for affine in parts.writers if writing else ():
        weight, bias = affine.read()
        affine.write(_less_mean(weight), None if bias is None else _less_mean(bias))
    if unembed and parts.head is not None:
        weight, bias = parts.head.read()
        parts.head.write(_less_mean(weight), None if bias is None else _less_mean(bias))
    name = model.cfg.model_name.removesuffix(SUFFIX) + SUFFIX
    folded = wrap(module, model.tokenizer, name=name)
    _prove_equal(model, folded, unembed)
    folded.adapter.notes.append("folded: weights differ from the original's, log-probs do not")
    return folded


def _refuse_unknown(model: HookedModel) -> None:
    adapted = adapted_parts(model.module)
    if adapted:
        raise FoldError(
            f"cannot fold {model.cfg.model_name}: it carries adapters",
            got=", ".join(adapted[:3]),
            expected="plain weights",
            fix="merge them first: wrap(peft_model.merge_and_unload(), tokenizer)",
        )
    if model.splices:
        raise FoldError(
            "cannot fold a model with coders spliced in",
            fix="fold first, then with_coder(...); coders trained on folded activations only",
        )
    if not model.adapter.stacks and not isinstance(model.module, SmallTransformer):
        raise FoldError(
            f"cannot fold {model.cfg.model_name}: nothing is known about which maps read its norms",
            got=f"family {model.cfg.family}",
            expected="a family of the architecture table, or SmallTransformer",
            fix="a HookedTransformer folds itself: load_and_process_state_dict; then wrap it",
        )


def _parts(module: Any, wrapped: HookedModel, proven: HookedModel) -> FoldParts:
    """What there is to fold in `module`; `proven` has been through the proof."""
    if isinstance(module, SmallTransformer):
        return small_parts(module)
    return huggingface_parts(module, wrapped.adapter, proven.adapter.unembed is not None)


def _wanted(step: str, asked: bool | None, reason: str, default: bool = True) -> bool:
    if asked and reason:
        raise FoldError(f"cannot {step}: {reason}", fix="leave it None: done where it is exact")
    return (default if asked is None else asked) and not reason


def _less_mean(rows: Tensor) -> Tensor:
    return rows - rows.mean(-1, keepdim=True)


def _untie(module: Any, parts: FoldParts) -> None:
    """The head gets its own tensor: W_U and W_E go different ways from here."""
    if parts.head is None:
        return
    weight, _ = parts.head.read()
    parts.head.write(weight, None)
    config: Any = getattr(module, "config", None)
    # UMT5 scales what its head reads where this is set: the flag is part of what it computes.
    if getattr(config, "tie_word_embeddings", False) and config.model_type != "umt5":
        config.tie_word_embeddings = False


def _fold_norm(norm: FoldNorm) -> None:
    """(n * gain + shift) W + b = n (gain * W) + (shift W + b), n the normalised activation."""
    gain, shift = norm.read()
    if gain is None and shift is None:
        return
    for reader in norm.readers:
        weight, bias = reader.read()
        if shift is not None and shift.any():
            bias = shift @ weight if bias is None else shift @ weight + bias
        if gain is not None:
            weight = gain[:, None] * weight
        if norm.centred:
            weight = weight - weight.mean(0)
        reader.write(weight, bias)
    norm.reset()


def _fold_values(path: ValuePath) -> None:
    """pattern · (v + b_V) = pattern · v + b_V: the bias goes through W_O once per query."""
    value_weight, bias = path.v.read()
    if bias is None:
        return
    out_weight, out_bias = path.o.read()
    kv_heads, d_head = path.index.shape
    index = path.index.to(bias.device)
    repeats = out_weight.shape[0] // (kv_heads * d_head)  # queries per value head
    moved = bias[index].repeat_interleave(repeats, 0).flatten() @ out_weight
    bias[index] = 0.0
    path.v.write(value_weight, bias)
    path.o.write(out_weight, moved if out_bias is None else moved + out_bias)


def _prove_equal(model: HookedModel, folded: HookedModel, shifted: bool) -> None:
    """Both models on a few tokens, as in the proof: an unknown reader of a norm shows here.

    Raises:
        FoldError: The outputs differ by more than rounding.
    """
    inputs = probe_inputs(model)
    with apart():
        before, after = model(inputs).double(), folded(inputs).double()
    if shifted:
        before, after = before.log_softmax(-1), after.log_softmax(-1)
    gap = float((after - before).abs().max() / before.abs().max().clamp(min=1.0))
    bound = TOLERANCE[model.cfg.dtype]
    if bound < gap <= TOLERANCE["float32"]:
        raise FoldError(
            f"cannot fold {model.cfg.model_name} exactly: its code computes in float32 inside",
            got=f"outputs differ by {gap:.1e} of the largest, in a {model.cfg.dtype} model",
            expected=f"below {bound:g}",
            fix="fold(model.to(torch.float32)), or leave the step out: fold_ln=False for norms "
            "that apply their gain in float32, fold_value_biases=False for a float32 softmax",
        )
    if not gap <= bound:
        raise FoldError(
            f"cannot fold {model.cfg.model_name}: the folded copy computes something else",
            got=f"outputs differ by {gap:.1e} of the largest",
            expected=f"below {bound:g}",
            fix="a module outside the architecture's row reads a norm; please report the model",
        )
