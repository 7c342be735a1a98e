"""The decoder lens: what the decoder would say if it only saw encoder layer l.

Layer l's hidden states, through the encoder's final norm where it has one, take the place of the
encoder's output; the whole decoder reads them under the same padding mask. No training.
Source: Langedijk et al. 2024, "DecoderLens" (NAACL Findings, arXiv 2310.03686).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import ModelError, TokenError
from interp.core.finite import check_finite
from interp.core.settings import check_flags
from interp.lenses.decoder_scores import DecoderScores
from interp.lenses.reading import TOLERANCE, cell_numbers, log_probs, pieces_of
from interp.lenses.result import LensResult
from interp.models.hooked import HookedModel
from interp.models.stream.reading import followed

LOGIT_TOLERANCE = {"float64": 1e-10, "float32": 1e-6, "float16": 1e-2, "bfloat16": 0.1}
"""Bound on the last layer's logits against the model's own, relative where they exceed 1."""

Decode = Callable[[Tensor, Tensor | None, Tensor], Tensor]
"""(memory [batch pos d], mask [batch pos] or None, decoder ids [batch out]) -> logits
[batch out d_vocab]."""


@dataclass(frozen=True)
class EncoderDecoder:
    """An encoder-decoder as this lens needs it; made by `encoder_decoder`, or by hand.

    Attributes:
        model: The wrapped model; its forward must run the encoder on the inputs given.
        rows: Row name -> site of an encoder layer's output, bottom (embeddings) to top.
        norm: What the encoder does to its last layer's output; the identity for post-norm.
        decode: The whole decoder with its head.
        start: The decoder's first token id.
        stop: Its last one; None when outputs have a fixed length.
        output: Site of the encoder's output, "" where it has no module of its own.
    """

    model: HookedModel
    rows: Mapping[str, str]
    norm: Callable[[Tensor], Tensor]
    decode: Decode
    start: int
    stop: int | None = None
    output: str = ""


def encoder_decoder(model: HookedModel) -> EncoderDecoder:
    """Rows, norm and decoder of a Hugging Face encoder-decoder: T5, BART, Marian, Whisper, ...

    Raises:
        ModelError: Not an encoder-decoder with layers and a head.
    """
    module: Any = model.module
    encoder = module.get_encoder() if hasattr(module, "get_encoder") else None
    layers = next(
        (x for x in (getattr(encoder, n, None) for n in ("block", "layers")) if isinstance(x, nn.ModuleList)),
        None,
    )
    config: Any = getattr(module, "config", None)
    if encoder is None or layers is None or not getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{model.cfg.model_name or type(module).__name__} is no encoder-decoder known here",
            got=type(module).__name__,
            expected="a Hugging Face encoder-decoder with a head",
            fix="describe your own with interp.lenses.EncoderDecoder(...)",
        )
    path = {id(part): name for name, part in module.named_modules()}
    norm = next(
        (
            part
            for name in ("final_layer_norm", "layer_norm")
            if (part := getattr(encoder, name, None)) is not None
        ),
        nn.Identity(),
    )
    rows = {"embed": f"{path[id(layers[0])]}.hook_in"}
    rows |= {f"enc L{i}": f"{path[id(layer)]}.hook_out" for i, layer in enumerate(layers)}

    def decode(memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        more = {} if mask is None else {"attention_mask": mask.long()}
        return module(encoder_outputs=(memory,), decoder_input_ids=ids, use_cache=False, **more).logits

    start, stop = config.decoder_start_token_id, config.eos_token_id
    return EncoderDecoder(
        model,
        rows,
        norm,
        decode,
        int(start or 0),
        stop[0] if isinstance(stop, list) else stop,
        f"{path[id(encoder)]}.hook_out",
    )


def decoder_lens(
    model: HookedModel | EncoderDecoder,
    inputs: Any,
    decoder_ids: Sequence[int] | Tensor | None = None,
    *,
    k: int = 5,
    target: Any = None,
    max_new_tokens: int = 20,
) -> LensResult:
    """One text, every encoder layer: what the decoder predicts after each of its tokens.

    Args:
        model: An encoder-decoder; `EncoderDecoder` for one of your own.
        inputs: One text, ids, or what the model takes.
        decoder_ids: What the decoder has been given, with its start token; the model's own greedy
            output when absent.
        target: Token followed; the model's own likeliest when absent.
        max_new_tokens: Length of the greedy output.

    Raises:
        ModelError: Not an encoder-decoder.
        TokenError: More than one text.
    """
    parts = model if isinstance(model, EncoderDecoder) else encoder_decoder(model)
    with torch.no_grad():
        memories, mask = _memories(parts, inputs)
        last = list(memories.values())[-1]
        if last.shape[0] != 1:
            raise TokenError(
                "a lens reads one text at a time",
                got=f"a batch of {last.shape[0]}",
                fix="score_decoder_lens reads batches",
            )
        if decoder_ids is None:
            ids = greedy(parts, last, mask, max_new_tokens)[:, :-1]
        else:
            ids = torch.as_tensor(decoder_ids, device=last.device).long().reshape(1, -1)
        final = log_probs(parts.decode(last, mask, ids)[0])
        check_finite(final, "the model's log-probabilities")
        wanted = followed(parts.model, target, final)
        k = min(k, final.shape[-1])
        cells = [
            cell_numbers(log_probs(parts.decode(m, mask, ids)[0]), final, wanted, k)
            for m in memories.values()
        ]
    columns: dict[str, Any] = {n: torch.stack([cell[n] for cell in cells]) for n in cells[0]}
    pieces = pieces_of(parts.model, columns["ids_top"], wanted, ids)
    return LensResult(
        **columns,
        tokens=tuple(pieces[i] for i in ids[0].tolist()),
        top_tokens=tuple(
            tuple(tuple(pieces[i] for i in cell) for cell in row) for row in columns["ids_top"].tolist()
        ),
        targets=tuple(pieces[i] for i in wanted.tolist()),
        components=tuple(parts.rows),
        kind="decoder",
        tolerance=TOLERANCE.get(parts.model.cfg.dtype, 1e-2),
        provenance=parts.model.provenance(parts.rows.values()),
    )


def score_decoder_lens(
    model: HookedModel | EncoderDecoder,
    inputs: Any,
    gold: Sequence[Sequence[int]] | Tensor,
    *,
    greedy_outputs: bool = True,
) -> DecoderScores:
    """A batch with known answers: what is solved at which encoder layer.

    Args:
        inputs: Texts, ids [batch pos], a `TokenBatch`, or what the model takes.
        gold: Answer ids without the start token, [batch out]; rows may differ in length.
        greedy_outputs: Also generate from every layer, for exact match; else teacher-forced only.

    Raises:
        ModelError: Not an encoder-decoder, or its output is not its last layer's through `norm`.
        TokenError: As many answers as inputs are needed.
    """
    check_flags(greedy_outputs=greedy_outputs)
    parts = model if isinstance(model, EncoderDecoder) else encoder_decoder(model)
    answers = [torch.as_tensor(row).long() for row in gold]
    longest = max((len(row) for row in answers), default=0)
    with torch.no_grad():
        memories, mask = _memories(parts, inputs)
        last = list(memories.values())[-1]
        if len(answers) != last.shape[0] or longest == 0:
            raise TokenError("every input needs an answer", got=len(answers), expected=last.shape[0])
        wanted = nn.utils.rnn.pad_sequence(answers, batch_first=True).to(last.device)
        real = torch.arange(longest) < torch.tensor([len(row) for row in answers])[:, None]
        real = real.to(last.device)
        ids = torch.cat([torch.full_like(wanted[:, :1], parts.start), wanted[:, :-1]], 1)
        own = parts.decode(_output(parts, inputs, last), mask, ids)
        final = log_probs(own)
        columns: dict[str, list[Tensor]] = {n: [] for n in ("gold", "kl", "accuracy", "exact")}
        for memory in memories.values():
            logits = parts.decode(memory, mask, ids)
            log_q = log_probs(logits)
            each = (final.exp() * (final - log_q)).nan_to_num(0.0).sum(-1).clamp(min=0)
            columns["kl"].append((each * real).sum(1) / real.sum(1))
            at = log_q.gather(-1, wanted[..., None])[..., 0]
            columns["gold"].append((at * real).sum(1))
            right = (log_q.argmax(-1) == wanted) & real
            columns["accuracy"].append(right.sum(1) / real.sum(1))
            if greedy_outputs:
                said = greedy(parts, memory, mask, longest)[:, 1:]
                same = ((said == wanted[:, : said.shape[1]]) | ~real[:, : said.shape[1]]).all(1)
                enough = said.shape[1] >= real.sum(1)
                columns["exact"].append((same & enough).to(final.dtype))
        top = parts.decode(last, mask, ids)
        gap = ((top - own).abs() / own.abs().clamp(min=1.0))[real].max()
    return DecoderScores(
        exact_match=torch.stack(columns["exact"]) if greedy_outputs else None,
        gold_log_prob=torch.stack(columns["gold"]),
        token_accuracy=torch.stack(columns["accuracy"]),
        kl=torch.stack(columns["kl"]),
        gap=gap,
        components=tuple(parts.rows),
        tolerance=LOGIT_TOLERANCE.get(parts.model.cfg.dtype, 0.1),
        labels={"layer": list(parts.rows)},
        provenance=parts.model.provenance(parts.rows.values()),
    )


def greedy(parts: EncoderDecoder, memory: Tensor, mask: Tensor | None, max_new_tokens: int) -> Tensor:
    """The decoder's likeliest tokens one by one, start token first, [batch 1 + n].

    Every step reads the memory afresh: no cross-attention cache of another layer survives.
    """
    ids = torch.full((memory.shape[0], 1), parts.start, device=memory.device)
    done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        nxt = parts.decode(memory, mask, ids)[:, -1].argmax(-1)
        if parts.stop is not None:
            nxt = torch.where(done, parts.stop, nxt)
            done = done | (nxt == parts.stop)
        ids = torch.cat([ids, nxt[:, None]], 1)
        if bool(done.all()):
            break
    return ids


def _memories(parts: EncoderDecoder, inputs: Any) -> tuple[dict[str, Tensor], Tensor | None]:
    """Row -> what the decoder is given, [batch pos d], and the padding mask."""
    acts = parts.model.capture(inputs, list(parts.rows.values()), **_started(parts, inputs))
    mask = acts.mask
    if mask is None and isinstance(inputs, Mapping):
        given = inputs.get("attention_mask")
        mask = given.bool() if isinstance(given, Tensor) and given.dim() == 2 else None
    return {row: parts.norm(acts[site]) for row, site in parts.rows.items()}, mask


def _started(parts: EncoderDecoder, inputs: Any) -> dict[str, Any]:
    """Hugging Face's forward wants decoder ids even for who only looks at the encoder."""
    if not hasattr(parts.model.module, "config"):
        return {}
    if isinstance(inputs, Mapping):
        if "decoder_input_ids" in inputs:
            return {}
        if "input_ids" not in inputs:
            n = len(next(v for v in inputs.values() if isinstance(v, Tensor)))
        else:
            kept = ("input_ids", "attention_mask")
            n = len(parts.model.read({k: v for k, v in inputs.items() if k in kept}))
    elif isinstance(inputs, Tensor) and inputs.is_floating_point():
        n = len(inputs)
    else:
        n = len(parts.model.read(inputs))
    return {"decoder_input_ids": torch.full((n, 1), parts.start, device=parts.model.device)}


def _output(parts: EncoderDecoder, inputs: Any, last: Tensor) -> Tensor:
    """The encoder's own output, which the last row must equal.

    Raises:
        ModelError: It differs: the encoder does something more behind its layers.
    """
    if not parts.output:
        return last
    own = parts.model.capture(inputs, parts.output, **_started(parts, inputs))[parts.output]
    if own.shape != last.shape or not torch.allclose(own, last, rtol=1e-4, atol=1e-4):
        raise ModelError(
            "the encoder's output is not its last layer through its final norm",
            got=f"a difference of {float((own - last).abs().max()):.3g}"
            if own.shape == last.shape
            else list(own.shape),
            fix="describe this model with interp.lenses.EncoderDecoder(norm=...)",
        )
    return own
