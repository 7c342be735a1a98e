"""Observable propagation: from a contrast of tokens to the features that the model reads for it.

An observable is a weight per token, + on " she", − on " he"; behind the final norm it is a
direction. The adjoint carries it back through norms, heads and MLPs to any site, without labels.
Source: Dunefsky and Cohan 2024, "Observable Propagation" (arXiv 2312.16291).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from interp.core.errors import ConfigError, ModelError, SiteError
from interp.core.settings import check_choice
from interp.lenses.features import FeatureVectors, TokenScores
from interp.lenses.reading import one_row, passed_on
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import wide
from interp.models.stream.reading import last_or_said
from interp.models.stream.readout import linear_reading
from interp.models.stream.spelling import linear_target
from interp.models.stream.writers import Writer, norm_before, residual_stream

Norms = Literal["frozen", "exact"]

GRID = 65
"""Points of the segment between two prompts at which an MLP is probed."""


def propagate(
    model: HookedModel,
    inputs: Any,
    target: Any,
    site: str,
    *,
    position: int | None = None,
    norms: Norms = "frozen",
    name: str | None = None,
    **kwargs: Any,
) -> FeatureVectors:
    """The exact adjoint at a site: what the observable at `position` reads from every position.

    Attention patterns are held as they are; MLPs enter by their tangent at this text.

    Args:
        inputs: One text, or ids [pos] or [1, pos].
        target: What is read: a token, a pair of tokens or of lists of tokens (a tuple), float
            weights [d_vocab], or a `Target` of these.
        site: A site of the residual stream, or any site [batch pos d].
        position: Where the logits are read; the last when absent, or where the `Target` says.
        norms: "frozen" holds the scales of all norms, "exact" differentiates them too.
        name: What to call the contrast; the target's own name when absent.
        kwargs: For `run_with_cache`.

    Returns:
        One vector per position of the text.

    Raises:
        ConfigError: Norms are neither frozen nor exact, or a target that is no sum of logits.
        SiteError: No such site, or one without positions.
        ModelError: No head, or an attention whose queries and keys are out of reach.
        ShapeError: An observable of another vocabulary.
    """
    check_choice("norms", norms, Norms)
    passed_on(model, inputs, kwargs, propagate, run=False)
    wanted = linear_target(model, target, "an observable")
    weights = wanted.over_logits(model.cfg.d_vocab_out or model.cfg.d_vocab)
    position = last_or_said(target, position)
    frozen = _frozen_sites(model, scales=norms == "frozen")
    if (there := model.sites.resolve(site)) != [site]:
        raise SiteError("vectors are taken at one site", got=site, expected=", ".join(there))
    leaf: list[Tensor] = []

    def begin(value: Tensor, hook: Any) -> Tensor:
        leaf.append(value.detach().clone().requires_grad_(True))
        return leaf[-1]

    last = residual_stream(model).last
    hooks: list[Any] = [(site, begin)]
    hooks += [(each, lambda value, hook: value.detach()) for each in frozen if each != site]
    acts = model.capture(inputs, [last, *frozen], fwd_hooks=hooks, grad=True, **kwargs)
    tokens, real = one_row(model, acts, inputs, kwargs)
    at = real.nonzero().flatten()
    here = leaf[0]
    if here.ndim != 3:
        raise SiteError(f"{site!r} has no vector per position", got=list(here.shape))
    place = at[position]
    total = _observed(model, acts[last][0, place], weights, norms)
    (gradient,) = torch.autograd.grad(total, here)
    vectors, x = wide(gradient[0, at]), wide(here[0, at]).detach()
    scores = (vectors * x).sum(-1)
    held = {each: acts[each].detach() for each in frozen}
    half = _halved(model, inputs, site, held, kwargs)
    with torch.no_grad():
        measured = _observed(model, half[0, place], weights, norms, held.get("ln_final.hook_scale"), place)
    names = [f"{i} {piece}" for i, piece in enumerate(model.to_str_tokens(tokens))]
    return FeatureVectors(
        vectors=vectors,
        scores=scores,
        total=total.detach(),
        gap=(total.detach() - scores.sum() / 2 - measured).abs(),
        names=tuple(names),
        sites=(site,) * len(at),
        observable=name or wanted.name,
        norms=norms,
        affine=norms == "frozen" and not _has_mlp(model),
        labels={"feature": names},
        provenance=model.provenance([site]),
    )


def path_vectors(
    model: HookedModel,
    target: Any,
    paths: Sequence[Sequence[str]],
    *,
    pair: tuple[Any, Any] | None = None,
    name: str | None = None,
) -> FeatureVectors:
    """Feature vectors of paths, from the weights: y ← W_V W_O y per head, P(γ ⊙ y) per norm.

    Norms give the direction only (their exact gradient has the same one as d_model grows); an MLP
    gives its gradient where the pair's contrast crosses zero on the way from one to the other. Where
    it has no zero there, the gradient is taken where it is nearest to one, and the result's check
    fails and names the path: take a pair that differs in what is read.

    Args:
        target: What is read, as for `propagate`.
        paths: Each from the output to the input: `["L1H3", "L0H2"]`, `["L1 mlp", "L0H2"]`;
            empty for the direct path.
        pair: Two texts of one length that differ in what the observable contrasts; MLPs need it.

    Returns:
        One vector per path, each at the input of its last component.

    Raises:
        ConfigError: A component that does not exist, is out of order, or is an MLP without pair.
        ModelError: Post-norm models, encoder-decoders.
    """
    wanted = linear_target(model, target, "an observable")
    stream = residual_stream(model)
    if stream.prefix != "blocks":
        raise ModelError("paths are followed in one stream", got="an encoder-decoder")
    start = stream.norm.adjoint(wanted.direction(model)[0])
    vectors, sites, uncrossed = [], [], []
    for path in paths:
        y, where, last = start, stream.last, (model.cfg.n_layers, "")
        for component in path:
            writer, head = _component(stream.writers, component)
            place = (writer.layer, writer.name)
            if place >= last:
                raise ConfigError(
                    "a path runs from the output to the input",
                    got=" ← ".join(path),
                    expected=f"something before {last[1]} of layer {last[0]} after it",
                )
            last = place
            if head is not None:
                y = _through_head(model, writer, head, y)
                where = f"blocks.{writer.layer}.hook_resid_pre"
            else:
                y, where, crossed = _through_mlp(model, writer, y, pair)
                if not crossed:
                    uncrossed.append(" ← ".join(path))
        vectors.append(y)
        sites.append(where)
    names = [" ← ".join(path) or "direct" for path in paths]
    return FeatureVectors(
        vectors=torch.stack(vectors),
        scores=None,
        total=None,
        gap=None,
        names=tuple(names),
        sites=tuple(sites),
        observable=name or wanted.name,
        norms="direction",
        affine=False,
        uncrossed=None if pair is None else tuple(dict.fromkeys(uncrossed)),
        labels={"feature": names},
        provenance=model.provenance(dict.fromkeys(sites)),
    )


def score_tokens(model: HookedModel, inputs: Any, vectors: FeatureVectors, **kwargs: Any) -> TokenScores:
    """Every feature's score at every position of one text: vector · activation at its site."""
    passed_on(model, inputs, kwargs, score_tokens)
    sites = list(dict.fromkeys(vectors.sites))
    acts = model.capture(inputs, sites, **kwargs)
    tokens, real = one_row(model, acts, inputs, kwargs)
    rows = [
        wide(acts[site][0, real]) @ vector.to(acts[site].device)
        for site, vector in zip(vectors.sites, vectors.vectors, strict=True)
    ]
    return TokenScores(
        scores=torch.stack(rows),
        names=vectors.names,
        tokens=tuple(model.to_str_tokens(tokens)),
        observable=vectors.observable,
        labels={"feature": list(vectors.names)},
        provenance=model.provenance(sites),
    )


# --- forward pieces ----------------------------------------------------------------------------


def _frozen_sites(model: HookedModel, scales: bool) -> list[str]:
    """Queries and keys, which hold the patterns, and the scales of all norms."""
    queries = [s for s in model.sites if s.endswith((".hook_q", ".hook_k"))]
    if not queries:
        raise ModelError(
            f"the attention patterns of {model.cfg.model_name} cannot be held",
            got=f"family {model.cfg.family}",
            expected="a model with hook_q and hook_k",
        )
    ends = ("hook_scale",) if scales else ()
    found = [s for s in model.sites if s.endswith(ends)] if ends else []
    return [*queries, *found]


def _observed(
    model: HookedModel,
    last: Tensor,
    weights: Tensor,
    norms: str,
    scale: Tensor | None = None,
    at: Tensor | None = None,
) -> Tensor:
    """n · logits before the soft cap, from the stream at one position [d_model]."""
    norm, x = residual_stream(model).norm, wide(last)
    direction, constant = linear_reading(model, weights.to(x), 1, x.dtype)
    sigma = norm.scale(x.detach() if norms == "frozen" else x)
    if scale is not None and at is not None:
        sigma = wide(scale[0, at])
    return (norm.apply(x, sigma) * direction[0]).sum() + constant[0]


def _halved(
    model: HookedModel, inputs: Any, site: str, held: dict[str, Tensor], kwargs: dict[str, Any]
) -> Tensor:
    """The last stream with the site at half strength and everything in `held` as it was."""
    hooks: list[Any] = [(site, lambda value, hook: value / 2)]
    hooks += [(each, lambda value, hook, kept=kept: kept) for each, kept in held.items()]
    last = residual_stream(model).last
    acts = model.capture(inputs, [last], fwd_hooks=hooks, **kwargs)
    return acts[last]


def _has_mlp(model: HookedModel) -> bool:
    return any(writer.kind == "neuron" for writer in residual_stream(model).writers)


# --- backward pieces ---------------------------------------------------------------------------


def _component(writers: Sequence[Writer], name: str) -> tuple[Writer, int | None]:
    """`L1H3` -> (attention of layer 1, 3); `L1 mlp` -> (its MLP, None)."""
    known: dict[str, tuple[Writer, int | None]] = {}
    for writer in writers:
        if writer.kind == "head":
            known |= {writer.part(h): (writer, h) for h in range(writer.n_parts)}
        else:
            known[writer.title] = (writer, None)
    check_choice("component", name, known)
    return known[name]


def _through_head(model: HookedModel, writer: Writer, head: int, y: Tensor) -> Tensor:
    """W_V W_O y, then the norm that the values are read through."""
    values = model.W.layer("W_V", writer.layer)
    group = writer.n_parts // len(values)
    behind = wide(values[head // group].detach()) @ (writer.weight[head] @ writer.post.adjoint(y))
    return norm_before(model, writer.layer).adjoint(behind)


def _through_mlp(
    model: HookedModel, writer: Writer, y: Tensor, pair: tuple[Any, Any] | None
) -> tuple[Tensor, str, bool]:
    """∇_x (y · mlp(x)) at the point between the pair where y · mlp(x) is zero; whether it is."""
    if pair is None:
        raise ConfigError(
            "an MLP's feature vector is taken between two texts",
            got=f"{writer.title} without pair",
            fix='path_vectors(..., pair=("She said", "He said"))',
        )
    block = f"blocks.{writer.layer}"
    site = f"{block}.hook_resid_mid"
    site = site if site in model.sites else f"{block}.hook_resid_pre"
    ends = [model.capture(text, site, positions=-1)[site][0, 0] for text in pair]

    def read(x: Tensor, grad: bool = False) -> Tensor:
        """y · mlp(x) for x [n d_model], each put at the last position of the first text."""
        ids = pair[0] if isinstance(pair[0], Tensor) else model.to_tokens(pair[0])
        ids = (ids if ids.dim() == 2 else ids[None]).expand(len(x), -1)

        def put(value: Tensor, hook: Any) -> Tensor:
            return torch.cat([value[:, :-1], x[:, None].to(value.dtype)], 1)

        acts = model.capture(ids, writer.out, fwd_hooks=[(site, put)], grad=grad)
        return wide(acts[writer.out][:, -1]) @ y

    found, crossed = crossing(read, ends[0], ends[1])
    at = found.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(read(at[None], grad=True).sum(), at)
    return wide(gradient), site, crossed


def crossing(read: Callable[[Tensor], Tensor], first: Tensor, second: Tensor) -> tuple[Tensor, bool]:
    """The point on the segment where `read` is zero, or nearest to it where no sign changes.

    Args:
        read: Points [n d] -> numbers [n].

    Returns:
        The point, and whether the sign changes there.
    """
    low, high = 0.0, 1.0
    with torch.no_grad():
        for _ in range(3):  # each pass divides the interval by GRID - 1
            t = torch.linspace(low, high, GRID, dtype=first.dtype, device=first.device)
            values = read(first + t[:, None] * (second - first))
            change = (values[:-1] * values[1:] <= 0).nonzero().flatten()
            if len(change) == 0:
                return first + t[values.abs().argmin()] * (second - first), high - low < 1
            middle = int((change - GRID // 2).abs().argmin())  # the crossing nearest to the middle
            low, high = float(t[change[middle]]), float(t[change[middle] + 1])
    return first + (low + high) / 2 * (second - first), True
