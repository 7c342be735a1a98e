"""`score_edges`: how much every edge of a model matters to a metric.

An edge's score is ⟨a'_u − a_u, ∂M/∂in_v⟩ under every method but the measured one; methods differ in
where the gradient is taken. Sources: Syed, Rager and Conmy 2023, "Attribution patching outperforms
automated circuit discovery" (EAP); Hanna, Pezzelle and Belinkov 2024, "Have faith in faithfulness"
(EAP-IG, clean-corrupted); Ferrando and Voita 2024 (information flow routes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.circuits.ablation import Replacement
from interp.circuits.budget import prompts_within
from interp.circuits.config import Ablation, EdgeMethod, PathNodes
from interp.circuits.exact import measured_edges
from interp.circuits.graph import EdgeScores
from interp.circuits.pairs import Pairs, numbers, read_pairs
from interp.circuits.patched import PatchedRun, becomes
from interp.circuits.wires import Wiring, adds_up, wiring
from interp.core.errors import ConfigError
from interp.core.settings import check_choice, check_flags, read_count
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import wide

COUNTED = ("accuracy", "preference", "rank")
"""Metrics that step."""


@dataclass(frozen=True, eq=False)
class Scene:
    """Some prompts with what their edges carry.

    Attributes:
        wires: The model's graph.
        pairs: The prompts.
        clean: Contributions on the clean prompts, [writer batch pos d_model].
        instead: What stands for them.
    """

    wires: Wiring
    pairs: Pairs
    clean: Tensor
    instead: Tensor

    @property
    def change(self) -> Tensor:
        """a' − a, zero at padding."""
        return (self.instead - self.clean) * self.pairs.clean.mask[None, :, :, None]


def score_edges(
    model: HookedModel,
    inputs: Any,
    target: Any = None,
    *,
    method: EdgeMethod = "eap_ig",
    ablation: Ablation = "resample",
    over: Any = None,
    steps: int | None = None,
    nodes: PathNodes | None = None,
    frozen_norms: bool = False,
    by_prompt: bool = False,
    batch_size: int | None = None,
) -> EdgeScores:
    """Score every edge between what writes to the residual stream and what reads it.

    Args:
        model: A pre-norm or parallel model with one stream and a head on it.
        inputs: Prompts or a PromptBatch with corrupted sides, or a pair (clean, corrupted) of texts
            or ids, aligned token by token.
        target: A metric of `interp.tasks` by name (logit_difference where nothing is said), or what
            `interp.attribute` takes, one number per prompt.
        method: "eap": the gradient on the clean prompts. "eap_ig": its mean while the embeddings go
            from corrupted to clean. "clean_corrupted": the mean of both ends. "mask_gradient": the
            mean while every edge goes from clean to ablated at once (`steps=1, nodes="right"` is EAP).
            "exact": each edge ablated alone and measured. "information_flow": how much nearer the
            writer brings the reader's input to itself in the 1-norm, without gradients.
        ablation: "resample" (the corrupted prompt's), "zero", "mean".
        over: Prompts of the mean; the corrupted ones where there are, else the clean ones.
        steps: Nodes on the path, of "eap_ig" and "mask_gradient" (5).
        nodes: Where they lie: "gauss" (Gauss-Legendre), "left" (the corrupted end counts, the clean
            one does not) or "right".
        frozen_norms: Hold the norm's scale fixed in the gradient of what is read.
        by_prompt: Keep every prompt's scores.
        batch_size: Prompts at a time, fewer where memory says so; as many as 256 MiB of contributions
            hold.

    Raises:
        ConfigError: A setting that the method does not use, prompts without a corrupted side, or a
            metric without a gradient. (`check()` says where clean and ablated do not differ.)
        ShapeError: A target that is no number per prompt, or sides of different shape.
        ModelError: A model without one residual stream, or whose readers cannot be told apart.
        MemoryBudgetError: Not one prompt fits.
    """
    check_choice("method", method, EdgeMethod)
    check_flags(frozen_norms=frozen_norms, by_prompt=by_prompt)
    places, weights = _path(method, steps, nodes)
    pairs = read_pairs(model, inputs, target)
    _refuse_unused(method, frozen_norms, pairs)
    wires = graph_of(model, pairs)
    replace = Replacement(wires, pairs, ablation, over)
    if method == "eap_ig":
        pairs.both()
    rows, clean, ablated = [], [], []
    for part in pairs.batches(prompts_within(wires, pairs, batch_size)):
        with torch.no_grad():
            output, acts = model.run_with_cache(part.clean, wires.sites)
            here = wires.contributions(acts)
            scene = Scene(wires, part, here, replace(part, here))
            clean.append(numbers(part, output))
            everything = wires.possible.to(here)
            ablated.append(numbers(part, PatchedRun(wires, everything, scene.instead)(part.clean)))
        rows.append(_SCORERS[method](scene, places, weights, frozen_norms))
    each = torch.cat(rows).cpu()
    return EdgeScores(
        scores=each.mean(0),
        possible=wires.possible,
        metric=pairs.target.name,
        method=method.replace("_", "-"),
        ablation=replace.said,
        clean=torch.cat(clean).mean().cpu(),
        ablated=torch.cat(ablated).mean().cpu(),
        by_prompt=each if by_prompt else None,
        labels={"writer": list(wires.writer_names), "reader": list(wires.reader_names)},
        provenance=model.provenance(wires.sites),
    )


def _refuse_unused(method: str, frozen_norms: bool, pairs: Pairs) -> None:
    """Refuse a setting that the method has no use for, and a metric without a gradient.

    Raises:
        ConfigError: One of these.
    """
    if frozen_norms and method in ("exact", "information_flow", "mask_gradient"):
        raise ConfigError(
            "no gradient of a norm is held fixed here",
            got=f'frozen_norms=True, method="{method}"',
            fix='method="eap" or "eap_ig"',
        )
    if method not in ("exact", "information_flow") and pairs.metric in COUNTED:
        raise ConfigError(
            f"{pairs.metric} counts, so it has no gradient",
            got=f'method="{method}"',
            expected='a metric that moves with the logits, or method="exact"',
            fix="logit_difference",
        )


def _path(method: str, steps: int | None, nodes: str | None) -> tuple[list[float], list[float]]:
    """Places on the way from corrupted (0) to clean (1), and their weights."""
    if method not in ("eap_ig", "mask_gradient"):
        if steps is not None or nodes is not None:
            raise ConfigError(
                "only a path has steps and nodes",
                got=f'steps={steps}, nodes={nodes}, method="{method}"',
                fix='method="eap_ig" or "mask_gradient"',
            )
        return [1.0], [1.0]
    n = 5 if steps is None else read_count("steps", steps)
    check_choice("nodes", nodes or "gauss", PathNodes)
    if nodes == "left":
        return [k / n for k in range(n)], [1 / n] * n
    if nodes == "right":
        return [k / n for k in range(1, n + 1)], [1 / n] * n
    x, w = np.polynomial.legendre.leggauss(n)
    return ((x + 1) / 2).tolist(), (w / 2).tolist()


def graph_of(model: HookedModel, pairs: Pairs) -> Wiring:
    """The graph, with its embeddings apart where they add up to the stream's beginning.

    Raises:
        MemoryBudgetError: Not one prompt fits through it.
    """
    wires = wiring(model)
    prompts_within(wires, pairs)
    with torch.no_grad():
        acts = model.capture(pairs.clean[:1], wires.sites)
    return wires if adds_up(wires, acts) else wiring(model, one_embedding=True)


def _gradients(
    scene: Scene, hooks: Any = (), frozen: bool = False, batch: Any = None
) -> Iterator[tuple[slice, int, Tensor]]:
    """(readers, how many writers stand above them, ∂M/∂in [reader batch pos d_model]), place by place."""
    wires, model = scene.wires, scene.wires.model
    at = [reader.differentiated(frozen) for reader, _ in wires.readers]
    streams = [reader.stream for reader, _ in wires.readers]
    given = scene.pairs.clean if batch is None else batch
    output, acts = model.run_with_cache(given, [*at, *streams], fwd_hooks=hooks, grad=True)
    total = numbers(scene.pairs, output).sum()
    pulls = torch.autograd.grad(total, [acts[site] for site in at], allow_unused=True)
    for (reader, group), site, pull in zip(wires.readers, at, pulls, strict=True):
        n = wires.upstream(group)
        x = wide(acts[reader.stream].detach())
        pull = torch.zeros_like(acts[site]) if pull is None else pull
        yield group.span, n, reader.gradient(x, wide(pull), frozen)


def _contracted(
    scene: Scene, gradients: Iterator[tuple[slice, int, Tensor]], into: Tensor, weight: float
) -> None:
    """Add ⟨change, gradient⟩ of every edge to `into` [batch writer reader]."""
    change = scene.change.movedim(1, 0).flatten(2)  # [batch writer pos·d_model]
    for span, n, pull in gradients:
        flat = pull.movedim(1, 0).flatten(2)
        into[:, :n, span] += weight * (change[:, :n] @ flat.mT.to(change))


def _empty(scene: Scene) -> Tensor:
    return scene.clean.new_zeros(len(scene.pairs), *scene.wires.possible.shape)


def _by_gradient(scene: Scene, places: list[float], weights: list[float], frozen: bool) -> Tensor:
    found = _empty(scene)
    _contracted(scene, _gradients(scene, frozen=frozen), found, 1.0)
    return found


def _clean_corrupted(scene: Scene, places: list[float], weights: list[float], frozen: bool) -> Tensor:
    found = _empty(scene)
    _contracted(scene, _gradients(scene, frozen=frozen), found, 0.5)
    _contracted(scene, _gradients(scene, frozen=frozen, batch=scene.pairs.both()), found, 0.5)
    return found


def _along_inputs(scene: Scene, places: list[float], weights: list[float], frozen: bool) -> Tensor:
    found, model = _empty(scene), scene.wires.model
    with torch.no_grad():
        sides = scene.pairs.clean, scene.pairs.both()
        ends = [model.capture(side, list(scene.wires.embeddings)) for side in sides]
    # Positions are the same on both sides, and may be one row for all.
    sites = [site for site in scene.wires.embeddings if not torch.equal(ends[0][site], ends[1][site])]
    for place, weight in zip(places, weights, strict=True):
        between = {site: torch.lerp(ends[1][site], ends[0][site], place) for site in sites}
        hooks = [(site, becomes(value)) for site, value in between.items()]
        _contracted(scene, _gradients(scene, hooks, frozen), found, weight)
    return found


def _by_mask(scene: Scene, places: list[float], weights: list[float], frozen: bool) -> Tensor:
    """∂M/∂m of every edge's share, where every share is 1 − place: of each prompt, row by row."""
    found = _empty(scene)
    for row in range(len(scene.pairs)):
        one = scene.pairs[row : row + 1]
        instead = scene.instead[:, row : row + 1]
        for place, weight in zip(places, weights, strict=True):
            share = (scene.wires.possible.to(instead) * (1 - place)).requires_grad_(True)
            total = numbers(one, PatchedRun(scene.wires, share, instead)(one.clean)).sum()
            (slope,) = torch.autograd.grad(total, share)
            found[row] += weight * slope
    return found * scene.wires.possible.to(found)


def _by_flow(scene: Scene, places: list[float], weights: list[float], frozen: bool) -> Tensor:
    """max(0, ‖in‖₁ − ‖in − a‖₁) as a share of all writers', a mean over the real tokens."""
    found, wires = _empty(scene), scene.wires
    with torch.no_grad():
        acts = wires.model.capture(scene.pairs.clean, [reader.stream for reader, _ in wires.readers])
    real = scene.pairs.clean.mask.to(scene.clean)
    for reader, group in wires.readers:
        n = wires.upstream(group)
        x = wide(acts[reader.stream])
        near = (x.abs().sum(-1) - (x - scene.clean[:n]).abs().sum(-1)).clamp(min=0)
        share = near / near.sum(0).clamp(min=torch.finfo(near.dtype).tiny)
        flow = (share * real).sum(-1) / real.sum(-1)  # [writer batch]
        found[:, :n, group.span] = flow.T[:, :, None]
    return found


_SCORERS: dict[str, Callable[[Scene, list[float], list[float], bool], Tensor]] = {
    "eap": _by_gradient,
    "eap_ig": _along_inputs,
    "clean_corrupted": _clean_corrupted,
    "mask_gradient": _by_mask,
    "information_flow": _by_flow,
    "exact": lambda scene, places, weights, frozen: measured_edges(
        scene.wires, scene.pairs, scene.clean, scene.instead
    ),
}
