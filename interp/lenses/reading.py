"""What all lenses over the residual stream share: rows, texts, targets, and one row's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from interp.core.activations import Activations
from interp.core.errors import ConfigError, ModelError, TokenError
from interp.core.finite import check_finite
from interp.core.settings import read_count
from interp.lenses.config import Components
from interp.lenses.result import LensResult
from interp.models.hooked import HookedModel
from interp.models.outputs import single_output
from interp.models.stream.blocks import are_many, only_last, row_blocks
from interp.models.stream.reading import followed
from interp.models.text.keywords import check_keywords, named_parameters_of, refuse_fewer_logits

TOLERANCE = {"float64": 1e-10, "float32": 1e-6, "float16": 1e-3, "bfloat16": 1e-2}
"""Bound on KL(model || last row), nats."""

Decode = Callable[[str, Tensor], Tensor]
"""(site, activation [batch pos d_model]) -> logits [batch pos d_vocab]."""


def read_rows(
    model: HookedModel,
    inputs: Any,
    rows: Mapping[str, str],
    decode: Decode,
    *,
    kind: str,
    k: int = 5,
    target: Any = None,
    **kwargs: Any,
) -> LensResult:
    """Run the model once and reduce what `decode` says at every row to a `LensResult`.

    Args:
        rows: Row name -> site, bottom to top; the last row is the model's output.
        decode: What a row predicts.
        kind: Name of the lens.
        kwargs: For `run_with_cache`.
    """
    k = read_count("k", k)
    with torch.no_grad():
        own, acts = run_with_logits(model, inputs, list(rows.values()), kwargs)
        tokens, real = one_row(model, acts, inputs, kwargs)
        columns: dict[str, Any] = _columns(
            model, acts, own[0], rows, decode, real.nonzero()[:, 0], target=target, k=k
        )
    wanted = columns.pop("wanted")
    pieces = pieces_of(model, columns["ids_top"], wanted)
    return LensResult(
        **columns,
        tokens=tuple(model.to_str_tokens(tokens)),
        top_tokens=tuple(
            tuple(tuple(pieces[i] for i in cell) for cell in row) for row in columns["ids_top"].tolist()
        ),
        targets=tuple(pieces[i] for i in wanted.tolist()),
        components=tuple(rows),
        kind=kind,
        tolerance=TOLERANCE.get(model.cfg.dtype, 1e-2),
        provenance=model.provenance(rows.values()),
    )


def run_with_logits(
    model: HookedModel, inputs: Any, sites: list[str], kwargs: dict[str, Any]
) -> tuple[Tensor, Activations]:
    """The model's own logits [1 pos d_vocab], of the last real position alone where all would be too
    many, and the activations at `sites`."""
    if not model.cfg.n_decoder_layers and not kwargs.get("fwd_hooks") and _only_text(inputs):
        said = {name: kwargs[name] for name in _SAID_WITH_TEXT if kwargs.get(name) is not None}
        kwargs = {name: value for name, value in kwargs.items() if name not in _SAID_WITH_TEXT}
        inputs = model.read(inputs, **said)
        spares = "logits_to_keep" in model.keywords
        if spares and len(inputs) == 1 and are_many(model, inputs.ids.shape[1]):
            kwargs |= only_last(inputs.mask[0])
    output, acts = model.run_with_cache(inputs, sites, **kwargs)
    return single_output(output, "a lens"), acts


_SAID_WITH_TEXT = ("attention_mask", "prepend_bos", "truncate")


def _only_text(inputs: Any) -> bool:
    """Whether inputs are text or ids and at most their mask."""
    return not isinstance(inputs, Mapping) or set(inputs) <= {"input_ids", "attention_mask"}


def _columns(
    model: HookedModel,
    acts: Activations,
    own: Tensor,
    rows: Mapping[str, str],
    decode: Decode,
    at: Tensor,
    *,
    target: Any,
    k: int,
) -> dict[str, Tensor]:
    """Every row's numbers at the positions `at`, and the `wanted` ids: [layer pos], [layer pos k].

    Block by block, and row by row in each: all logits at once would be layers times larger.

    Args:
        own: The model's logits at all positions, or at the last of `at` alone; where it gives none,
            the last row speaks for it.
    """
    width, last = own.shape[-1], list(rows.values())[-1]
    k = min(k, width)
    # Nobody reads these numbers, only how many there are.
    asked = None if target is None else followed(model, target, own.new_empty(()).expand(len(at), width))
    whole = len(own) > 1 or len(at) == 1
    blocks = []
    for block in row_blocks(len(at), width):
        here = at[block]
        if whole:
            final = own[here]
        else:
            final = decode(last, acts[last][:, here])[0]
            if block.stop == len(at):
                final[-1] = own[0]
        check_finite(final, "the model's logits")
        final = log_probs(final)
        wanted = final.argmax(-1) if asked is None else asked[block]
        cells = [
            cell_numbers(log_probs(decode(site, acts[site][:, here])[0]), final, wanted, k)
            for site in rows.values()
        ]
        found = {name: torch.stack([cell[name] for cell in cells]) for name in cells[0]}
        blocks.append(found | {"wanted": wanted[None]})
    joined = {name: torch.cat([block[name] for block in blocks], 1) for name in blocks[0]}
    return joined | {"wanted": joined["wanted"][0]}


_RUN = ("fwd_hooks", "prepend_bos", "clone", "max_bytes", "truncate")
"""Options of a run that leave what a lens reads whole: no positions, types or gradients."""


def passed_on(
    model: HookedModel, inputs: Any, kwargs: Mapping[str, Any], caller: Callable[..., Any], run: bool = True
) -> None:
    """Refuse what neither the run nor the raw module reads, before anything runs.

    Args:
        caller: The public function that took `kwargs`; its own options are suggested.
        run: Whether options of the run go through (`fwd_hooks`, ...).

    Raises:
        ConfigError: Naming the option and the nearest ones.
    """
    if "positions" in kwargs and "positions" not in named_parameters_of(caller):
        raise ConfigError(
            "a lens reads whole texts",
            got=f"positions={kwargs['positions']!r}",
            fix="select positions in the result: lens.kl[:, -1]",
        )
    for given in (kwargs, inputs):
        if isinstance(given, Mapping):
            refuse_fewer_logits(given, "a lens")
    through = _RUN if run else tuple(name for name in _RUN if name != "fwd_hooks")
    own = named_parameters_of(caller)
    known = (*own, *through)
    check_keywords(kwargs, {*model.keywords, *through}, known, type(model.module).__name__)


def stream_rows(model: HookedModel, components: Components) -> dict[str, str]:
    """Row name -> site, bottom to top: what each block reads, then what the last one writes."""
    cfg = model.cfg
    decoder = cfg.n_decoder_layers > 0
    prefix = "decoder_blocks" if decoder else "blocks"
    n = cfg.n_decoder_layers if decoder else cfg.n_layers
    if n == 0 or f"{prefix}.0.hook_resid_pre" not in model.sites:
        lacks = "no residual stream by name"
    elif not model.has_head:
        lacks = "no head"
    elif model.head_pools_first:
        lacks = "a head that reads one position only"
    else:
        lacks = ""
    if lacks:
        raise ModelError(
            f"a lens needs a residual stream and a head over tokens; {cfg.model_name} has {lacks}",
            got=type(model.module).__name__,
            expected="a language model loaded with its head",
        )
    post = "hook_normalized_resid_post" if cfg.style == "post" else "hook_resid_post"
    parts = {"attn": "hook_attn_out", "cross_attn": "hook_cross_attn_out", "mlp": "hook_mlp_out"}
    rows = {"embed": f"{prefix}.0.hook_resid_pre"}
    for layer in range(n):
        if components == "all":
            for name, site in parts.items():
                if f"{prefix}.{layer}.{site}" in model.sites:
                    rows[f"L{layer} {name}"] = f"{prefix}.{layer}.{site}"
        rows[f"L{layer} post"] = f"{prefix}.{layer}.{post}"
    return rows


def one_row(
    model: HookedModel, acts: Activations, inputs: Any, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The ids the rows belong to, [n_real], and which positions are real, [pos].

    Encoder-decoders: the decoder's ids, by default the start token that the model was given.
    """
    tokens, mask = acts.tokens, acts.mask
    if model.cfg.n_decoder_layers:
        given = {**inputs, **kwargs} if isinstance(inputs, Mapping) else kwargs
        start = getattr(model.module.config, "decoder_start_token_id", None) or 0
        tokens = torch.as_tensor(given.get("decoder_input_ids", [[start]]))
        tokens = tokens[None] if tokens.dim() == 1 else tokens
        mask = given.get("decoder_attention_mask")
        mask = None if mask is None else torch.as_tensor(mask).bool().reshape(tokens.shape)
    if tokens is None or tokens.shape[0] != 1:
        raise TokenError(
            "a lens reads one text at a time",
            got="no tokens" if tokens is None else f"a batch of {tokens.shape[0]}",
            fix="[logit_lens(model, text) for text in texts]",
        )
    real = torch.ones_like(tokens[0], dtype=torch.bool) if mask is None else mask[0]
    return tokens[0][real], real


def whole_rows(model: HookedModel, inputs: Any) -> Tensor:
    """Ids [context pos] of texts of one length.

    Raises:
        TokenError: Rows of different length.
    """
    batch = model.read(inputs)
    if len(set(batch.lengths.tolist())) > 1:
        raise TokenError(
            "positions are compared over texts of one length",
            got=f"lengths {sorted(set(batch.lengths.tolist()))[:8]}",
            fix="cut them to the shortest",
        )
    return torch.stack(list(batch)).to(model.device)


def log_probs(logits: Tensor) -> Tensor:
    """Log-softmax in at least single precision."""
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return exact.log_softmax(-1)


def cell_numbers(log_p: Tensor, final: Tensor, wanted: Tensor, k: int) -> dict[str, Tensor]:
    """One row's numbers from its log-probabilities and the model's, both [pos, d_vocab]."""
    top = log_p.topk(k, dim=-1)
    at_target = log_p.gather(-1, wanted[:, None])
    # One buffer serves all three: each is as large as everything else here together.
    scratch = log_p.exp()
    entropy = -scratch.mul_(log_p).nan_to_num_(0.0).sum(-1)
    kl = torch.sub(final, log_p, out=scratch).mul_(final.exp()).nan_to_num_(0.0).sum(-1)
    return {
        "probs_top": top.values.exp(),
        "ids_top": top.indices,
        "entropy": entropy,
        "kl": kl.clamp(min=0),  # rounding may leave a divergence a hair below zero
        "target_prob": at_target[:, 0].exp(),
        "target_rank": (log_p > at_target).sum(-1),
    }


def pieces_of(model: HookedModel, *ids: Tensor) -> dict[int, str]:
    """Text of every id that occurs; the id itself where there is no tokenizer."""
    seen = sorted({i for part in ids for i in part.flatten().tolist()})
    if model.tokenizer is None:
        return {i: str(i) for i in seen}
    return dict(zip(seen, model.to_str_tokens(torch.tensor(seen)), strict=True))
