"""How many prompts go at once, and whether one does: known from shapes before anything runs."""

from __future__ import annotations

from interp.circuits.pairs import Pairs
from interp.circuits.wires import Wiring
from interp.core.settings import read_count
from interp.models.budget import refuse_parts, rows_that_fit
from interp.models.hooked import HookedModel
from interp.models.stream.sizes import pass_bytes

CHUNK = 2**28
"""Bytes of contributions that are held at a time, where the caller does not say."""
TOKENS = 2**13
"""Tokens in one run of many circuits or places."""
FIX = "shorter prompts"


def prompts_within(wires: Wiring, pairs: Pairs, given: int | None = None) -> int:
    """How many prompts go through a graph at once.

    Args:
        given: As the caller said; halved until it fits, as the numbers do not depend on it.

    Raises:
        ConfigError: `given` is no count.
        MemoryBudgetError: One prompt does not fit.
    """
    model, pos = wires.model, pairs.clean.ids.shape[1]
    one = _contributions(wires, pos)
    wanted = max(1, CHUNK // one) if given is None else read_count("batch_size", given)
    way = pass_bytes(model, pos)
    row = {
        # The clean ones, what stands for them, their difference, and the run's own.
        "what every node writes": 4 * one,
        "activations and their gradients": 1.5 * way.stream + 1.4 * way.pairs,
        "logits": 4 * pos * way.logits,
    }
    what = f"a circuit over {pos:,} positions"
    return rows_that_fit(what, row, {}, min(wanted, len(pairs)), model.device, FIX)


def refuse_places(model: HookedModel, pairs: Pairs, sites: list[str]) -> None:
    """Refuse to exchange activations that would not fit, place by place.

    Raises:
        MemoryBudgetError: Before anything runs.
    """
    pos = pairs.clean.ids.shape[1]
    rows, way = max(1, TOKENS // pos), pass_bytes(model, pos)
    volumes = [volume for site in sites if (volume := model.sites[site].volume) is not None]
    parts = {
        "both prompts' activations": 8.0 * sum(known * pos**positions for known, _, positions in volumes),
        "one run's rows": rows * (2 * way.stream + 2 * way.pairs) / way.n_blocks,
        "their logits": 2.5 * rows * pos * way.logits,
    }
    refuse_parts(f"patching over {pos:,} positions", parts, model.device, FIX)


def _contributions(wires: Wiring, pos: int) -> int:
    return 4 * len(wires.writer_names) * pos * wires.model.cfg.d_model
