"""Attention as an explanation: raw, rolled out over layers, or as a flow (Abnar, Zuidema 2020).

None of them looks at the target; they are here to be compared, not to be trusted.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.game import SiteGame, patch_grid
from interp.attribution.methods.raw import Raw
from interp.core.errors import ConfigError, ModelError

PATTERNS = "blocks.*.attn.hook_pattern"
UNITS = 1_000_000
"""Capacities of the flow network are integers: attention in millionths."""


def last_attention(game: SiteGame, config: AttributionConfig) -> Raw:
    """Attention of the last layer, mean over heads."""
    return _of_scores(game, _read(game, _patterns(game)[-1].mean(0)))


def rollout(game: SiteGame, config: AttributionConfig) -> Raw:
    """Product over layers of (A + I) / 2, A the mean over heads."""
    return _of_scores(game, _read(game, attention_rollout(_patterns(game))))


def flow(game: SiteGame, config: AttributionConfig) -> Raw:
    """Largest flow from the output position to every input position."""
    patterns = _patterns(game)
    rows = [attention_flow(patterns, reader) for reader in _readers(game)]
    return _of_scores(game, torch.stack(rows).mean(0))


def attention_rollout(patterns: Float[Tensor, "layer head query key"]) -> Float[Tensor, "query key"]:
    """Attention multiplied over layers, half of it the residual stream.

    A~_l = (mean_h A_l + I) / 2; rollout = A~_L ... A~_1 (Abnar and Zuidema 2020, section 3).
    Rows sum to 1 where those of the patterns do.
    """
    eye = torch.eye(patterns.shape[-1], dtype=patterns.dtype, device=patterns.device)
    found = eye
    for layer in patterns:
        found = (layer.mean(0) + eye) / 2 @ found
    return found


def attention_flow(patterns: Float[Tensor, "layer head query key"], reader: int = -1) -> Float[Tensor, "key"]:
    """Largest flow from one position after the last layer down to each input position.

    Edges between layers have capacity A~ (see `attention_rollout`); one maximum flow per input.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    n_layers, n = len(patterns), patterns.shape[-1]
    eye = np.eye(n)
    mixed = [(layer.mean(0).double().cpu().numpy() + eye) / 2 for layer in patterns]
    capacity = np.round(np.stack(mixed) * UNITS).astype(np.int32)  # layer 0 is the first
    depth, query, key = capacity.nonzero()
    # Nodes above read below. Most pairs of nodes have no edge: a table of all would grow with (L T)^2.
    ends, size = ((depth + 1) * n + query, depth * n + key), (n_layers + 1) * n
    graph = csr_array((capacity[depth, query, key], ends), shape=(size, size))
    source = n_layers * n + reader % n
    found = [maximum_flow(graph, source, sink).flow_value / UNITS for sink in range(n)]
    return torch.tensor(found, dtype=torch.float64)


def _patterns(game: SiteGame) -> Tensor:
    model, n, ids = game.model, game.who.n_places, game.rows.ids
    fits = model.reads == "pixels" if ids is None else n == len(ids)
    if game.who.where != "pos" or not fits:
        raise ConfigError(
            "attention scores positions of tokens, or of the patches of an image, only", got=f"at={game.at!r}"
        )
    if "blocks.0.attn.hook_pattern" not in model.sites:
        raise ModelError(
            f"{model.cfg.model_name} offers no attention patterns",
            fix="a method that needs gradients or values only",
        )
    # With the site as the game has it, so that what is moved there moves the patterns behind it.
    acts = model.capture(game.rows.one, PATTERNS, fwd_hooks=[game.placed(game.x)])
    patterns = [acts["pattern", layer][0] for layer in range(model.cfg.n_layers)]
    if any(pattern.shape[1:] != (n, n) for pattern in patterns):
        raise ConfigError(
            "attention is multiplied over layers where all of them attend between the same positions",
            got=f"{[list(pattern.shape[1:]) for pattern in patterns]} at {n} positions of {game.at!r}",
            fix="a method that needs gradients or values only",
        )
    return torch.stack(patterns)


def _read(game: SiteGame, matrix: Tensor) -> Tensor:
    """What the output reads: the mean over its readers' rows."""
    return matrix[_readers(game)].mean(0).double()


def _readers(game: SiteGame) -> list[int]:
    """Positions that the output is read from: the last of a causal model, the class token where one
    stands before the patches of an image, else all."""
    n, patches = game.who.n_places, patch_grid(game.rows, game.model)
    if game.model.cfg.causal:
        return [n - 1]
    return [0] if patches is not None and n > prod(patches) else list(range(n))


def _of_scores(game: SiteGame, by_position: Tensor) -> Raw:
    """What positions get, summed to the groups of a feature mask where there is one."""
    if game.who.each != "group":
        return Raw(players=by_position)
    group = game.who.by_place()
    if group is None:
        raise ConfigError(
            "attention goes to whole positions, which this feature_mask divides",
            fix="a feature_mask with one number per position",
        )
    found = torch.zeros(game.who.n, dtype=torch.float64)
    return Raw(players=found.index_add(0, group.cpu(), by_position.double().cpu()))
