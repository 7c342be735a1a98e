"""The model from one site on: what comes before it runs on one row, whatever the batch is.

Everything before the site is the same for all rows. A hook that hands on more rows than it got
spares it: masks, positions and the like of the one row are broadcast by the modules behind.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from interp.attribution.game import SiteGame


def output_from(game: SiteGame, x: Tensor) -> Any:
    """The model's output where the site holds x, [n, *shape]; earlier parts see one row.

    Only for inputs and outputs of whole modules; see `can_start`.
    """
    site = game.site

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (x, *args[1:]), kwargs

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return x

    if site.kind == "in":
        handle: Any = site.module.register_forward_pre_hook(enter, with_kwargs=True)
    else:
        handle = site.module.register_forward_hook(leave)
    try:
        return game.model.run_with_hooks(game.rows.one)
    finally:
        handle.remove()


def can_start(game: SiteGame) -> bool:
    """Whether `output_from` gives what the whole model gives: tried on two rows, not assumed."""
    site = game.site
    plain = site.kind in ("in", "out") and site.view is None and not site.slot
    if not plain or game.model.splices:
        return False
    x = torch.cat([game.r, game.x])
    with torch.no_grad():
        whole = game.model.run_with_hooks(game.rows.times(2), [(game.at, lambda v, hook: x)])
        try:
            short = output_from(game, x)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return False  # a module behind the site insists on the batch that the input has
    if not isinstance(short, Tensor) or short.shape != whole.shape:
        return False
    eps = torch.finfo(whole.dtype).eps
    return bool((short - whole).norm() <= eps**0.75 * whole.norm())
