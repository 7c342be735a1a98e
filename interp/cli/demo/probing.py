"""Section: what is readable where, beside its controls; by few neurons; and with it erased."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from interp.cli.demo.scene import Scene
from interp.core.randomness import generator
from interp.models.hooked import HookedModel
from interp.probing import ProbeConfig, SparseConfig, audit_erasure, code_length, probe_sweep, sparse_sweep
from interp.reports import Item, Section

ALPHABET, SEQUENCES, MOST_LAYERS = 8, 240, 12
QUICK = ProbeConfig(n_shuffles=2, tolerance=1e-2, steps=100, hidden=32)
"""A probe of every kind takes a second or less."""
FEW = SparseConfig(ks=(1, 2, 4, 8, 16, 32), n_shuffles=1, prefilter=64)
LABEL = "previous token"


def probing(scene: Scene) -> Section | None:
    """Is the previous token readable at a position? Only attention can bring it there."""
    if "blocks.0.hook_resid_post" not in scene.model.sites or scene.block < ALPHABET:
        return None
    game = _Game.of(scene)
    sites = _residuals(scene.model)
    rows = game.rows(scene.model, sites)
    sweep = probe_sweep(
        rows,
        {LABEL: game.labels},
        QUICK,
        groups=game.groups,
        random_init=game.rows(scene.model.randomised(scene.seed), sites),
        provenance=scene.model.provenance(sites),
    )
    best = int(sweep.score[:, 0].argmax())
    prose = (
        f"Random sequences of {ALPHABET} tokens; a linear probe at every position is asked for the "
        "token before. Where a position has not looked back yet it can only guess; after the "
        f"layers it reads {float(sweep.score[best, 0]):.0%} at best. The controls: the same model "
        "with random weights (attention that looks everywhere a little is readable, too) and "
        "shuffled labels. The dotted line always guesses the most frequent token."
    )
    items = [Item(sweep), *_neurons(scene, game), _erased(rows[sites[best]], sites[best], game)]
    ends = {site: rows[site] for site in dict.fromkeys((sites[0], sites[best], sites[-1]))}
    code = code_length(ends, game.labels, QUICK, name=LABEL, groups=game.groups)
    told = (
        "The same question in bits: labels are sent in growing portions, each with the code of a "
        "probe trained on those before, so that a site that needs many examples pays for them "
        f"(online code, Voita and Titov 2020). At best {float(code.compression.max()):.1f} times "
        "shorter than a uniform code; shuffled labels cannot be shortened."
    )
    return Section("What a probe can read", [*items, Item(code, prose=told)], prose)


def _neurons(scene: Scene, game: _Game) -> list[Item]:
    """F1 of the k best MLP neurons for one of the tokens, where there are MLPs."""
    names = [f"blocks.{layer}.mlp.hook_post" for layer in _layers(scene.model)]
    names = [name for name in names if name in scene.model.sites]
    if not names:
        return []
    one = game.labels[0]
    chosen = [label == one for label in game.labels]
    rows = game.rows(scene.model, names)
    few = sparse_sweep(rows, chosen, FEW, name="one token before", groups=game.groups)
    site, neurons, f1 = few.best(1)
    prose = (
        "How many MLP neurons does it take to tell whether the token before was a certain one? "
        f"The best single neuron is {neurons[0]} of {site} with F1 {f1:.2f}; each k has a probe on "
        "its own neurons, chosen on the training rows (Gurnee et al. 2023). The band: the whole "
        "selection again on shuffled labels."
    )
    return [Item(few, prose=prose)]


def _erased(x: Tensor, site: str, game: _Game) -> Item:
    """LEACE at the site where most is readable, with probes trained anew."""
    audit = audit_erasure(x, {LABEL: game.labels}, LABEL, probe=QUICK, groups=game.groups)
    prose = (
        f"The same information taken out of {site} by LEACE (Belrose et al. 2023): rank "
        f"{audit.rank}, {float(audit.moved):.0%} of the variance moved. No linear probe beats the "
        "majority afterwards; an MLP may. As many random directions cost what they cost."
    )
    return Item(audit, prose=prose)


@dataclass(frozen=True, eq=False)
class _Game:
    """Random sequences over a small alphabet; the label of a position is the token before it."""

    ids: Tensor
    """[sequence, pos]"""
    labels: list[int]
    """Labels of positions 1 and later, sequence by sequence."""
    groups: Tensor
    """Sequence of every label."""

    @classmethod
    def of(cls, scene: Scene) -> _Game:
        """Eight tokens of the scene's own random block, again and again."""
        tokens = scene.repeated[0, : scene.block].sort().values[:ALPHABET]
        length = min(2 * ALPHABET, 2 * scene.block)
        draws = generator(scene.seed, "probing section")
        ids = tokens[torch.randint(ALPHABET, (SEQUENCES, length), generator=draws)]
        groups = torch.arange(SEQUENCES).repeat_interleave(length - 1)
        return cls(ids, ids[:, :-1].flatten().tolist(), groups)

    def rows(self, model: HookedModel, sites: list[str]) -> dict[str, Tensor]:
        """Activations at every labelled position."""
        acts = model.capture(self.ids, sites)
        return {site: acts[site][:, 1:].flatten(0, 1).float() for site in sites}


def _layers(model: HookedModel) -> range:
    n = model.cfg.n_layers
    return range(n) if n <= MOST_LAYERS else range(0, n, -(-n // MOST_LAYERS))


def _residuals(model: HookedModel) -> list[str]:
    """The residual stream before the first layer and after each."""
    sites = [f"blocks.{layer}.hook_resid_post" for layer in _layers(model)]
    first = "blocks.0.hook_resid_pre"
    return [first, *sites] if first in model.sites else sites
