"""Rows of a model at labelled tokens, and the sweep over a model's sites."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import SiteError
from interp.core.settings import check_flags
from interp.models.budget import refuse_parts
from interp.models.hooked import HookedModel
from interp.models.text.batch import TokenBatch
from interp.probing.config import ProbeConfig
from interp.probing.sweeping import ProbeSweep, probe_sweep
from interp.probing.syntax.alignment import LabelledTokens


def gather(
    model: HookedModel, labelled: LabelledTokens, sites: str | Iterable[str], *, batch_size: int = 32
) -> dict[str, Float[Tensor, "n d"]]:
    """Activations at the labelled tokens, one row per label, float32 or float64.

    Texts run in order of length, so that little is padding; heads are laid side by side
    ([pos head d_head] becomes one row).

    Args:
        model: The model that the labels were aligned to, or one with the same tokenizer.
        labelled: From `align_words` or `align_texts`.
        sites: Names or globs of sites with a position axis.
        batch_size: Texts per forward pass.

    Raises:
        SiteError: A name that matches nothing, or a site without positions of its own.
        MemoryBudgetError: The rows of all sites together are more than what is free.
    """
    names = model.sites.resolve(sites if isinstance(sites, str) else list(sites))
    for name in names:
        axes = model.sites[name].axes
        if axes and axes.split()[1:2] != ["pos"]:
            expected = "a site with axes batch pos ..."
            raise SiteError(f"{name!r} has no row per token", got=axes, expected=expected)
    batch, n = labelled.batch, len(labelled)
    wide = 8.0 if model.cfg.dtype == "float64" else 4.0
    sizes = {name: wide * n * (model.sites[name].volume or (0,))[0] for name in names}
    refuse_parts(
        f"{n:,} rows of {len(names)} sites", sizes, torch.device("cpu"), "fewer sites, or fewer texts"
    )
    rows: dict[str, Tensor] = {}
    order = batch.lengths.argsort(stable=True)
    for part in order.split(batch_size):
        wanted = torch.isin(labelled.text, part).nonzero().flatten()
        if not len(wanted):
            continue
        acts = model.capture(_rows_of(batch, part).to(model.device), names, to="cpu")
        row_of = torch.zeros(len(batch), dtype=torch.int64).index_copy_(0, part, torch.arange(len(part)))
        for name in names:
            values = acts[name].flatten(2)
            values = values if values.dtype == torch.float64 else values.float()
            if name not in rows:
                rows[name] = values.new_zeros(n, values.shape[-1])
            rows[name][wanted] = _pooled(values, row_of[labelled.text[wanted]], labelled, wanted)
    return rows


def _rows_of(batch: TokenBatch, part: Tensor) -> TokenBatch:
    """Some rows of a batch, padded on the right to the longest of them."""
    width = int(batch.lengths[part].max())
    ids = torch.zeros(len(part), width, dtype=batch.ids.dtype)
    mask = torch.zeros(len(part), width, dtype=torch.bool)
    for i, t in enumerate(part.tolist()):
        own = batch.ids[t][batch.mask[t]]
        ids[i, : len(own)], mask[i, : len(own)] = own, True
    return TokenBatch(ids, mask)


def _pooled(values: Tensor, row: Tensor, labelled: LabelledTokens, wanted: Tensor) -> Tensor:
    """One row per reading from activations [text, pos, d]."""
    first, last = labelled.first[wanted], labelled.last[wanted]
    if labelled.pool != "mean":
        return values[row, first if labelled.pool == "first" else last]
    length = last - first + 1
    reading = torch.arange(len(wanted)).repeat_interleave(length)
    start = (length.cumsum(0) - length).repeat_interleave(length)
    at = torch.arange(len(reading)) - start + first[reading]
    total = values.new_zeros(len(wanted), values.shape[-1])
    total.index_add_(0, reading, values[row[reading], at])
    return total / length[:, None]


def sweep_model(
    model: HookedModel,
    labelled: LabelledTokens,
    sites: str | Iterable[str] = "blocks.*.hook_resid_post",
    config: ProbeConfig | None = None,
    *,
    random_init: bool = True,
    control_task: bool = True,
) -> ProbeSweep:
    """Probe a model's sites for its labels, with shuffled labels, control task and random weights.

    Args:
        model: The model.
        labelled: From `align_words` or `align_texts`.
        sites: Names or globs.
        config: How probes are fitted.
        random_init: Also probe `model.randomised(config.seed)`.
        control_task: Also fit random labels per word type (word labels only).

    Raises:
        SiteError, ConfigError, NonFiniteError: As `gather` and `probe_sweep`.
    """
    check_flags(random_init=random_init, control_task=control_task)
    config = config or ProbeConfig()
    rows = gather(model, labelled, sites)
    fresh = gather(model.randomised(config.seed), labelled, list(rows)) if random_init else None
    return probe_sweep(
        rows,
        labelled.targets,
        config,
        groups=labelled.groups,
        types=labelled.types if control_task and labelled.words else None,
        random_init=fresh,
        provenance=model.provenance(rows, notes=labelled.notes),
    )
