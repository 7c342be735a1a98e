"""Direct logit attribution: which parts of the model say the answer, on the direct path.

The final norm held fixed, a logit is linear in the residual stream, and the stream is the sum of
what embedding, heads and MLPs wrote. Source: Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits"; Wang et al. 2022 (IOI), section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from interp.core.activations import Activations
from interp.core.errors import ConfigError, ModelError, ShapeError, SiteError
from interp.core.finite import check_finite
from interp.core.foreign import show
from interp.core.protocols import Coder
from interp.core.settings import check_flags
from interp.lenses.decomposition import Decomposition
from interp.lenses.reading import one_row, passed_on, run_with_logits
from interp.models.hooked import HookedModel
from interp.models.hooks.sides import Side
from interp.models.stream.frozen import wide
from interp.models.stream.reading import Reading, place_of, read_in_blocks
from interp.models.stream.target import Target
from interp.models.stream.writers import Stream, Writer, residual_stream

TOLERANCE = {"float64": 1e-10, "float32": 1e-4, "float16": 5e-2, "bfloat16": 0.5}
"""Bound on the gaps, by the model's dtype."""
SINGLE_NORM = 1e-6
"""The same for a double-precision model whose norms compute in float32 (Hugging Face's RMS)."""
_IN_STREAM = ("hook_resid_pre", "hook_resid_post")


@dataclass(frozen=True)
class _Term:
    """Components of one kind from one place: values [component pos]."""

    kind: str
    layer: int
    names: list[str]
    values: Tensor


def direct_logit_attribution(
    model: HookedModel,
    inputs: Any,
    target: Any = None,
    *,
    positions: int | Sequence[int] | None = None,
    neurons: bool = False,
    parts: Mapping[str, Tensor] | Sequence[Coder] = (),
    **kwargs: Any,
) -> Decomposition:
    """Split the logit of a token, or the difference of two, over everything that wrote to it.

    Components: token and position embedding, every head, every MLP, the biases between them, the
    final norm's and the unembedding's bias. They sum to the logit; under a final soft cap (Gemma)
    to the logit before it, which the result says.

    Args:
        model: A pre-norm model with a linear head: decoders, and T5's decoder.
        inputs: One text, or ids [pos] or [1, pos].
        target: What is read: a token, a pair of tokens or of lists of tokens (a tuple; the second
            is subtracted), float weights [d_vocab], a `Target` of these, or one token per
            position; the model's likeliest token when absent.
        positions: Which positions to read, counted in the text; all when absent, or where the
            `Target` says.
        neurons: Split every MLP into its neurons.
        parts: Split sites further: coders (a sparse dictionary at a sublayer's output, at `hook_z`
            or in the stream, where it stands for all that wrote before), or {site: directions
            [n d]}, least-squares coefficients on them; what they miss is a component of its own.
        kwargs: For `run_with_cache` (`fwd_hooks`, `prepend_bos`, `decoder_input_ids`, ...).

    Raises:
        ModelError: The output is no sum of parts (post-norm models, nonlinear heads).
        TokenError: More than one text, or a target that is not one token.
        ConfigError: A target that is no weighted sum of logits.
        SiteError: A part at a site that does not write to the stream.
    """
    check_flags(neurons=neurons)
    passed_on(model, inputs, kwargs, direct_logit_attribution)
    stream = residual_stream(model)
    if model.head_pools_first:
        raise ModelError(
            f"{model.cfg.model_name} has a head that reads one position only",
            fix="interp.lenses.class_lens reads classifiers",
        )
    given = {**inputs, **kwargs} if isinstance(inputs, Mapping) else kwargs
    if not stream.prefix.startswith("decoder") and given.get("encoder_hidden_states") is not None:
        raise ModelError(
            "what cross-attention adds to the stream is not among the parts",
            got="encoder_hidden_states",
            expected="a text alone",
            fix="capture '*.hook_cross_attn_out' and the other parts, and add them up",
        )
    if positions is None or isinstance(positions, int):
        positions = place_of(target, positions)
    elif isinstance(target, Target) and target.position is not None:
        raise ConfigError(
            "a Target names its own position",
            got=f"{target.name}, positions {show(positions, 80)}",
            fix="leave positions out, or write the tokens: (answer, distractor)",
        )
    splits = _splits(model, stream, parts)
    names = _sites(stream, splits, neurons)
    with torch.no_grad():
        own, acts = run_with_logits(model, inputs, names, kwargs)
        tokens, real = one_row(model, acts, inputs, kwargs)
        index = _index(positions, real)
        run = _Run(model, stream, acts, index)
        logits = partial(_own_logits, model, run, own[0], index, real)
        reading = read_in_blocks(model, run.normalized, logits, own.shape[-1], target)
        terms = _terms(run, reading.direction, splits, neurons)
    bias = run.stream.norm.constant(reading.direction)
    n_layers = len({writer.layer for writer in stream.writers})
    terms.append(_Term("bias", n_layers, ["final norm bias"], bias[None]))
    terms.append(_Term("bias", n_layers, ["unembed bias"], reading.constant[None]))
    terms = _that_say_something(terms)
    pieces = model.to_str_tokens(tokens)
    where = (real.cumsum(0) - 1)[index].tolist()
    return _result(model, terms, reading, run.tolerance, ([pieces[i] for i in where], where))


def _that_say_something(terms: list[_Term]) -> list[_Term]:
    """All but the biases that are zero everywhere; read together, in one wait for a device."""
    biases = [t for t in terms if t.kind == "bias"]
    some = iter(torch.stack([t.values.any() for t in biases]).tolist())
    return [t for t in terms if t.kind != "bias" or next(some)]


def _own_logits(
    model: HookedModel, run: _Run, own: Tensor, index: Tensor, real: Tensor, rows: slice
) -> Tensor:
    """What the model says at some of the positions read, [n d_vocab].

    Args:
        own: Its logits at all positions, or at the last real one alone: then the head says the rest
            of what it reads there.
        index: Where the positions read are in the padded row.
        rows: Which of them.
    """
    at = index[rows]
    if len(own) == len(real):
        found = own[at]
    else:
        found = model.unembed(run.final[:, rows])[0]
        is_last = at == real.nonzero()[-1]
        found = torch.where(is_last[:, None], own, found)
    check_finite(found, "the model's logits")
    return found


def _result(
    model: HookedModel,
    terms: list[_Term],
    reading: Reading,
    tolerance: float,
    at: tuple[list[str], list[int]],
) -> Decomposition:
    components = [name for term in terms for name in term.names]
    return Decomposition(
        values=torch.cat([term.values for term in terms]),
        total=reading.total,
        output=reading.output,
        layer=torch.tensor([term.layer for term in terms for _ in term.names]),
        components=tuple(components),
        kinds=tuple(term.kind for term in terms for _ in term.names),
        tokens=tuple(at[0]),
        targets=reading.targets,
        positions=tuple(at[1]),
        reading=reading.name,
        softcap=model.cfg.final_softcap,
        head_gap=reading.gap,
        tolerance=tolerance,
        labels={"component": components},
        provenance=model.provenance(),
    )


class _Run:
    """Activations of one text at the positions read, each [pos ...] and in full precision."""

    def __init__(self, model: HookedModel, stream: Stream, acts: Activations, index: Tensor) -> None:
        self.stream, self._acts, self._index = stream, acts, index
        last = acts[stream.last][:, index]
        self.final: Tensor = model.ln_final(last)
        self.normalized: Tensor = wide(self.final)[0]
        self.scale = stream.norm.scale(wide(last[0]))
        self.tolerance = TOLERANCE.get(model.cfg.dtype, 0.5)
        rounding = (stream.norm.apply(wide(last[0])) - self.normalized).abs().max()
        if model.cfg.dtype == "float64" and float(rounding) > 1e-12:
            self.tolerance = SINGLE_NORM

    def __getitem__(self, site: str) -> Tensor:
        return wide(self._acts[site][0, self._index])

    def reader(self, writer: Writer, direction: Tensor) -> Tensor:
        """What `direction` in the stream is before the sublayer's own norm, [pos d_model]."""
        if not writer.post_scale:
            return direction
        return writer.post.adjoint(direction, self[writer.post_scale])


def _terms(run: _Run, direction: Tensor, splits: Mapping[str, Coder | Tensor], neurons: bool) -> list[_Term]:
    """All components but the constants behind the final norm; `direction` [pos d_model]."""
    stream = run.stream
    # Linear in the stream with the scale held fixed: the adjoint of the final norm.
    reader = stream.norm.adjoint(direction, run.scale)
    begin = next((site for site in splits if site.endswith(_IN_STREAM)), None)
    if begin is None:
        terms = _embeddings(run, reader)
    else:
        layer = int(begin.split(".")[1]) - begin.endswith("resid_pre")
        terms = _split(run, begin, splits[begin], reader, layer)
    for writer in stream.writers:
        if begin is not None and _before(writer, begin):
            continue
        behind = run.reader(writer, reader)
        if writer.out in splits:
            terms += _split(run, writer.out, splits[writer.out], reader, writer.layer)
            continue
        if writer.parts in splits:
            into = (behind @ writer.weight.flatten(0, -2).T).flatten(1)
            terms += _split(run, writer.parts, splits[writer.parts], into, writer.layer)
        elif writer.kind == "head":
            z = torch.einsum("phd,hdm,pm->hp", run[writer.parts], writer.weight, behind)
            names = [writer.part(h) for h in range(len(z))]
            terms.append(_Term("head", writer.layer, names, z))
        elif neurons:
            each = run[writer.parts] * (behind @ writer.weight.T)
            names = [writer.part(n) for n in range(each.shape[1])]
            terms.append(_Term("neuron", writer.layer, names, each.T))
        else:
            whole = (run[writer.out] * reader).sum(-1)
            terms.append(_Term("mlp", writer.layer, [writer.title], whole[None]))
            continue
        offset = behind @ writer.bias
        if writer.post_scale:
            offset = offset + writer.post.constant(reader)
        terms.append(_Term("bias", writer.layer, [f"{writer.title} bias"], offset[None]))
    return terms


def _embeddings(run: _Run, reader: Tensor) -> list[_Term]:
    """Token and position part where they add up to the stream's beginning, else that as one."""
    first = run[run.stream.first]
    parts = [
        (site.removeprefix("decoder_").removeprefix("hook_"), run[site]) for site in run.stream.embeddings
    ]
    total = sum((value for _, value in parts), torch.zeros_like(first))
    if not parts or not torch.allclose(total, first, rtol=1e-3, atol=1e-5):
        parts = [("embed", first)]
    return [_Term("embedding", -1, [name], (value * reader).sum(-1)[None]) for name, value in parts]


def _split(run: _Run, site: str, coder: Coder | Tensor, reader: Tensor, layer: int) -> list[_Term]:
    """An activation as latents times directions, the coder's bias, and what it misses."""
    x = run[site].flatten(1)
    if isinstance(coder, Tensor):
        directions = coder.to(x)
        latents = x @ torch.linalg.pinv(directions)
        offset = torch.zeros_like(x)
    else:
        directions = coder.W_dec.to(x)
        latents = wide(coder.encode(run[coder.site_in].flatten(1)))
        offset = wide(coder.decode(latents.to(coder.W_dec.dtype))) - latents @ directions
    active = latents.abs().amax(0).nonzero().flatten().tolist()
    each = (latents * (reader @ directions.T))[:, active]
    missed = x - latents @ directions - offset
    terms = [
        _Term("latent", layer, [f"{site} #{i}" for i in active], each.T),
        _Term("rest", layer, [f"{site} error"], (missed * reader).sum(-1)[None]),
    ]
    if bool(offset.any()):
        terms.append(_Term("bias", layer, [f"{site} bias"], (offset * reader).sum(-1)[None]))
    return [t for t in terms if t.names]


def _splits(
    model: HookedModel, stream: Stream, parts: Mapping[str, Tensor] | Sequence[Coder]
) -> dict[str, Coder | Tensor]:
    """Site -> what splits it, checked."""
    if isinstance(parts, Mapping):
        splits: dict[str, Coder | Tensor] = dict(parts)
    else:
        splits = {coder.site_out: coder for coder in parts}
    writing = {site for writer in stream.writers for site in (writer.out, writer.parts)}
    for site, coder in splits.items():
        in_stream = site.startswith(stream.prefix) and site.endswith(_IN_STREAM)
        if site not in writing and not in_stream:
            raise SiteError(
                f"{site!r} does not write to the residual stream",
                expected="a sublayer's output, hook_z, hook_post, hook_resid_pre or _post",
            )
        matrix = coder if isinstance(coder, Tensor) else coder.W_dec
        width = next(
            (w.weight.flatten(0, -2).shape[0] for w in stream.writers if w.parts == site != w.out),
            model.cfg.d_model,
        )
        if matrix.ndim != 2 or matrix.shape[1] != width:
            raise ShapeError(
                f"the directions at {site!r} do not fit", got=list(matrix.shape), expected=f"[n, {width}]"
            )
    if sum(site.endswith(_IN_STREAM) for site in splits) > 1:
        raise ConfigError("only one part can stand for the stream itself", got=", ".join(splits))
    return splits


def _sites(stream: Stream, splits: Mapping[str, Coder | Tensor], neurons: bool) -> list[str]:
    for writer in stream.writers:
        if neurons and writer.kind == "whole":
            writer.held()  # says why it has no neurons
    sites = [*stream.embeddings, stream.first, stream.last]
    for writer in stream.writers:
        sites.append(writer.parts if writer.kind == "head" or neurons else writer.out)
        sites += [writer.post_scale] if writer.post_scale else []
    for site, coder in splits.items():
        sites += [site] if isinstance(coder, Tensor) else [site, coder.site_in]
    return list(dict.fromkeys(sites))


def _before(writer: Writer, begin: str) -> bool:
    """Whether a sublayer wrote before the stream was at `begin`."""
    layer = int(begin.split(".")[1])
    return writer.layer < layer or (writer.layer == layer and begin.endswith("resid_post"))


def _index(positions: int | Sequence[int] | None, real: Tensor) -> Tensor:
    """Positions of the real text -> indices into the padded row."""
    where = real.nonzero().flatten()
    if positions is None:
        return where
    return where[Side(1, len(where)).ranks(positions)[0].to(where.device)]
