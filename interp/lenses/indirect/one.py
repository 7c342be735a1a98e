"""The second-order lens: what a neuron says through the heads above it.

A neuron writes at one token; later heads carry that to where the answer is read. With patterns and
norm scales held, its effect through one head is linear: φ_n = Σ_t p_n(t) · (w_n · m_t), where the
reader m_t = Σ_{l',h} A_{l'h}[d, t] P(γ ⊙ W_V W_O r)/σ_{l'}(t) depends on the token alone.
Source: Gandelsman, Efros and Steinhardt 2025, "Interpreting the Second-Order Effects of Neurons in
CLIP" (ICLR, arXiv 2406.04341), whose code forms [token neuron d_model] per head; this does not.

On layer norms this differs from the authors' code. There a norm's bias, and the mean that it takes
away, are shared out in equal parts over all neurons and heads, so that their effects add up to the
whole output. Here a norm is linear once its scale is held: each neuron's own mean is taken away from
what that neuron wrote, and biases, which no neuron wrote, are in no neuron's effect; what the MLP's
own bias does is `SecondOrder.bias`. Under RMS norms without bias both are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.activations import Activations
from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ModelError
from interp.core.result import Result
from interp.lenses.reading import one_row, passed_on
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import FrozenNorm, wide
from interp.models.stream.reading import last_or_said, read_head
from interp.models.stream.writers import Stream, Writer, norm_before, residual_stream

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
"""Bound on the gap; a double-precision model whose norms compute in float32 is held to 1e-6."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SecondOrder(Result):
    """Effects of one layer's neurons on a reading, through exactly one later head, and directly."""

    effects: Float[Tensor, "neuron pos"]
    """Logits that a neuron adds by what it writes at each position, through all later heads."""
    direct: Float[Tensor, " neuron"]
    """Logits that it adds on the direct path, at the position read."""
    by_head: Float[Tensor, "layer head"]
    """Effects of all neurons (and the MLP's bias) by the head they go through; layers above."""
    bias: Float[Tensor, ""]
    """Second-order effect of the MLP's own bias."""
    replay: Float[Tensor, ""]
    """Measured: what later attention writes less when it does not see this MLP's output."""
    layer: int
    """Block of the neurons."""
    layers: tuple[int, ...]
    """Blocks of the heads."""
    position: int
    """Where the logits are read."""
    target: str
    """What is read."""
    tokens: tuple[str, ...]
    """The input, one piece per position."""
    tolerance: float
    """Bound on the gap, relative to the largest effect where that exceeds 1."""

    def check(self) -> Checks:
        """All effects together are what a replay with patterns and scales held measures."""
        gap = (self.effects.sum() + self.bias - self.replay).abs()
        scale = max(1.0, float(self.effects.abs().sum(0).max()))
        return Checks([Check.at_most("sum of effects = replay", gap, self.tolerance * scale)])

    def total(self) -> Float[Tensor, " neuron"]:
        """Second-order effect of each neuron, over positions."""
        return self.effects.sum(1)


def split_second_order(
    model: HookedModel,
    inputs: Any,
    target: Any = None,
    *,
    layer: int,
    position: int | None = None,
    **kwargs: Any,
) -> SecondOrder:
    """Split what the neurons of one layer say through later heads.

    Args:
        model: A pre-norm decoder, or a vision transformer with a classifier.
        inputs: One text or ids, or one image.
        target: Token (or class) read, as for `direct_logit_attribution`.
        layer: Block of the neurons.
        position: Where it is read; the last when absent, or where the `Target` says; 0 for a vision
            transformer's class token.
        kwargs: For `capture`.

    Raises:
        ConfigError: No such layer or position, or no head above it.
        ModelError: Post-norm models, attention patterns out of reach, no MLPs.
    """
    passed_on(model, inputs, kwargs, split_second_order)
    position = last_or_said(target, position)
    carriers = find_carriers(model, layer)
    stream, mlp, later, sites = carriers.stream, carriers.mlp, carriers.later, carriers.sites
    with torch.no_grad():
        acts = model.capture(inputs, sites, **kwargs)
        tokens, real = _tokens(model, acts, inputs, kwargs)
        if not -len(tokens) <= position < len(tokens):
            raise ConfigError("no such position", got=position, expected=f"{len(tokens)} tokens")
        at = int(real.nonzero().flatten()[position])
        last = acts[stream.last][:, at]
        normalized = wide(model.ln_final(last))
        logits = model.unembed(model.ln_final(last))
        reading = read_head(model, normalized, logits, target)
        reader = stream.norm.adjoint(reading.direction, stream.norm.scale(wide(last)))[0]
        parts = [_readers(model, w, acts, reader, at) for w in later]
        m = torch.stack([each.sum(0) for each in parts]).sum(0)
        written = _behind(mlp, m, acts)
        p = wide(acts[mlp.parts][0])
        effects = (p * (written @ mlp.weight.T)).T[:, real]
        constant = (written @ mlp.bias)[real].sum()
        if mlp.post_scale:
            constant = constant + mlp.post.constant(m)[real].sum()
        out = wide(acts[mlp.out][0])
        by_head = torch.stack([torch.einsum("pd,hpd->h", out[real], each[:, real]) for each in parts])
        here = _behind(mlp, reader.expand_as(m), acts)[at]
        replay = _replay(model, inputs, carriers, acts, kwargs)[at] @ reader
        rounding = (stream.norm.apply(wide(last)) - normalized).abs().max()
    return SecondOrder(
        effects=effects,
        direct=p[at] * (mlp.weight @ here),
        by_head=by_head,
        bias=constant,
        replay=replay,
        layer=layer,
        layers=tuple(w.layer for w in later),
        position=position % len(tokens),
        target=reading.targets[0],
        tokens=tuple(tokens),
        tolerance=max(TOLERANCE.get(model.cfg.dtype, 0.05), 1e-6 * (float(rounding) > 1e-12)),
        labels={"neuron": [mlp.part(n) for n in range(len(effects))]},
        provenance=model.provenance(sites),
    )


@dataclass(frozen=True)
class Carriers:
    """What brings the neurons of one layer to the output.

    Attributes:
        stream: The residual stream.
        mlp: The sublayer of the neurons.
        later: The attentions above it.
        sites: What `carried_effects` must be given.
    """

    stream: Stream
    mlp: Writer
    later: tuple[Writer, ...]
    sites: tuple[str, ...]


def find_carriers(model: HookedModel, layer: int) -> Carriers:
    """The parts that second-order effects of a layer need.

    Raises:
        ConfigError: No such layer, or no head above it.
        ModelError: Post-norm models, attention patterns out of reach, no MLPs.
    """
    stream = residual_stream(model)
    mlp, later = _sublayers(model, stream, layer)
    sites = [mlp.parts, mlp.out, stream.last, *([mlp.post_scale] if mlp.post_scale else [])]
    sites += [s for w in later for s in _sites(model, w)]
    return Carriers(stream, mlp, tuple(later), tuple(dict.fromkeys(sites)))


def second_order_directions(
    model: HookedModel, inputs: Any, layer: int, neurons: Sequence[int], *, position: int = -1, **kwargs: Any
) -> Float[Tensor, "neuron d_model"]:
    """φ_n: what each neuron adds behind the final norm through later heads, as a vector.

    Its dot product with a column of W_U is the effect on that token's logit: read the rows with
    `read_directions`, or stack them over texts for a neuron's principal direction.
    """
    passed_on(model, inputs, kwargs, second_order_directions)
    carriers = find_carriers(model, layer)
    mlp = carriers.mlp
    bad = [n for n in neurons if not 0 <= n < mlp.n_parts]
    if bad or not len(neurons):
        raise ConfigError("no such neuron", got=bad, expected=f"0 to {mlp.n_parts - 1}")
    with torch.no_grad():
        acts = model.capture(inputs, carriers.sites, **kwargs)
        _, real = _tokens(model, acts, inputs, kwargs)
        at = int(real.nonzero().flatten()[position])
        return carried_effects(model, acts, carriers, torch.as_tensor(list(neurons)), at)


def carried_effects(
    model: HookedModel, acts: Mapping[str, Tensor], carriers: Carriers, neurons: Tensor, at: int
) -> Float[Tensor, "neuron d_model"]:
    """φ_n of the neurons given, behind the final norm, for the one input that `acts` holds."""
    stream, mlp = carriers.stream, carriers.mlp
    p, w = wide(acts[mlp.parts][0])[:, neurons], mlp.weight[neurons]
    rows = p[..., None] * w  # [pos neuron d_model]
    if mlp.post_scale:
        rows = through(mlp.post, rows, wide(acts[mlp.post_scale][0])[:, None])
    total = torch.zeros(len(w), model.cfg.d_model, dtype=rows.dtype, device=rows.device)
    for writer in carriers.later:
        total += _carried(model, writer, acts, rows, at)
    scale = stream.norm.scale(wide(acts[stream.last][0, at]))
    return through(stream.norm, total, scale)


def through(norm: FrozenNorm, rows: Tensor, scale: Tensor) -> Tensor:
    """Vectors as a norm held at `scale` passes them on, without its bias; [..., d_model]."""
    rows = norm.centre(rows) / scale
    return rows if norm.gain is None else rows * norm.gain


def _carried(model: HookedModel, writer: Writer, acts: Mapping[str, Tensor], rows: Tensor, at: int) -> Tensor:
    """Vectors at every token [pos neuron d_model] as one attention brings them to `at`."""
    here, norm = f"blocks.{writer.layer}", norm_before(model, writer.layer)
    seen = f"{here}.ln1.hook_scale"
    scale = wide(acts[seen][0])[:, None] if seen in acts else torch.ones_like(rows[:, :1, :1])
    rows = through(norm, rows, scale)
    values = wide(model.W.layer("W_V", writer.layer).detach())
    group = writer.n_parts // len(values)
    pattern = wide(acts[f"{here}.attn.hook_pattern"][0, :, at])
    mixed = torch.einsum("hp,pnd->hnd", pattern, rows)
    out = torch.einsum("hnd,hde,hem->nm", mixed, values.repeat_interleave(group, 0), writer.weight)
    if not writer.post_scale:
        return out
    return through(writer.post, out, wide(acts[writer.post_scale][0, at]))


def _sublayers(model: HookedModel, stream: Stream, layer: int) -> tuple[Writer, list[Writer]]:
    """The MLP of a layer and the attentions above it."""
    n = model.cfg.n_layers
    mlp = next((w for w in stream.writers if w.kind == "neuron" and w.layer == layer), None)
    later = [w for w in stream.writers if w.name == "attn" and w.layer > layer]
    if stream.prefix != "blocks" or mlp is None or not later:
        raise ConfigError(
            "the second-order lens needs an MLP and a head above it",
            got=f"layer {layer} of {n} in {model.cfg.model_name}",
            expected=f"a layer from 0 to {n - 2} with an MLP, in a model with one stream",
        )
    wanted = [f"blocks.{w.layer}.attn.{name}" for w in later for name in ("hook_pattern", "hook_q", "hook_k")]
    missing = [site for site in wanted if site not in model.sites]
    if missing:
        raise ModelError(
            f"the attention patterns of {model.cfg.model_name} are out of reach",
            got=missing[0],
            fix="a family whose attention goes through the registered function",
        )
    return mlp, later


def _sites(model: HookedModel, writer: Writer) -> list[str]:
    """What must be known, and held, of one attention."""
    here = f"blocks.{writer.layer}"
    names = [
        f"{here}.attn.hook_pattern",
        f"{here}.attn.hook_q",
        f"{here}.attn.hook_k",
        f"{here}.ln1.hook_scale",
        f"{here}.hook_resid_pre",
        writer.out,
    ]
    names += [writer.post_scale] if writer.post_scale else []
    return [name for name in names if name in model.sites]


def _readers(model: HookedModel, writer: Writer, acts: Activations, reader: Tensor, at: int) -> Tensor:
    """What a write to the stream at each token adds through each head, [head pos d_model]."""
    here = f"blocks.{writer.layer}"
    behind = (
        writer.post.adjoint(reader, wide(acts[writer.post_scale][0, at])) if (writer.post_scale) else reader
    )
    values = wide(model.W.layer("W_V", writer.layer).detach())
    group = writer.n_parts // len(values)
    ov = torch.einsum("hmd,hdn,n->hm", values.repeat_interleave(group, 0), writer.weight, behind)  # W_V W_O r
    norm = norm_before(model, writer.layer)
    scale = wide(acts[f"{here}.ln1.hook_scale"][0]) if f"{here}.ln1.hook_scale" in acts else 1.0
    pattern = wide(acts[f"{here}.attn.hook_pattern"][0, :, at])
    return pattern[..., None] * norm.adjoint(ov[:, None], scale)


def _behind(mlp: Writer, m: Tensor, acts: Activations) -> Tensor:
    """Readers of the stream as readers of the MLP's own output, [pos d_model]."""
    return mlp.post.adjoint(m, wide(acts[mlp.post_scale][0])) if mlp.post_scale else m


def _replay(
    model: HookedModel, inputs: Any, carriers: Carriers, acts: Activations, kwargs: dict[str, Any]
) -> Tensor:
    """What the later attentions write less what they write without the MLP's output, [pos d_model].

    The model's own forward pass, with the queries, keys and norm scales of the first run. One pass
    serves every layer: each block's stream is put in its place, so no layer sees another's change.
    """
    hooks: list[Any] = []
    for writer in carriers.later:
        start = f"blocks.{writer.layer}.hook_resid_pre"
        without = acts[start] - acts[carriers.mlp.out]
        hooks.append((start, lambda value, hook, kept=without: kept))
        held = [s for s in _sites(model, writer) if s.endswith(("hook_q", "hook_k", "hook_scale"))]
        hooks += [(site, lambda value, hook, kept=acts[site]: kept) for site in held]
    outs = [writer.out for writer in carriers.later]
    blind = model.capture(inputs, outs, fwd_hooks=hooks, **kwargs)
    return torch.stack([wide(acts[out][0] - blind[out][0]) for out in outs]).sum(0)


def _tokens(
    model: HookedModel, acts: Activations, inputs: Any, kwargs: dict[str, Any]
) -> tuple[Sequence[str], Tensor]:
    """Names of the positions, and which are real."""
    if model.reads != "pixels":
        ids, real = one_row(model, acts, inputs, kwargs)
        return model.to_str_tokens(ids), real
    first = next(iter(acts.values()))
    if first.shape[0] != 1:
        raise ConfigError("one image at a time", got=first.shape[0], expected=1)
    n = first.shape[1]
    return ["class", *(f"patch {i}" for i in range(1, n))], torch.ones(n, dtype=torch.bool)
