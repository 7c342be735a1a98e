"""Who plays: which numbers of an activation are scored, hidden and kept together.

One place decides it, from the value's layout, the units asked for and the feature mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from interp.attribution.config import Units
from interp.core.errors import ConfigError, ShapeError

MOST_UNITS = 64
"""Sites with at most this many heads are perturbed head by head."""
UNIT_AXES = ("head", "kv_head", "d_mlp", "latent")
IMAGE = ("channel", "row", "column")


@dataclass(frozen=True, eq=False)
class Players:
    """The players of one activation x [1, *shape].

    Attributes:
        axes: Names of the axes of *shape.
        of: Which player every entry belongs to, [*shape].
        n: How many there are.
        places: What `keep` counts: positions, or the units of an image, [*shape].
        n_places: How many there are.
        n_scores: How many scores there are: as many as places, or as groups of a feature mask.
        each: What one score is of: "position", "pixel", "channel", "patch", "entry", "group".
        names: One name per score, where it is not the position's.
        grid: How the last players lie side by side: [n], [rows, columns] or [positions, heads]; those
            before stand alone.
        image: Which score stands at each place of a picture, [row column]; None without a picture.
    """

    axes: tuple[str, ...]
    of: Tensor
    n: int
    places: Tensor
    n_places: int
    n_scores: int
    each: str
    names: tuple[str, ...] | None = None
    grid: tuple[int, ...] = ()
    image: Tensor | None = None

    @property
    def unit(self) -> str:
        """What stands beside positions: head, d_mlp, latent, or nothing."""
        return next((a for a in self.axes if a in UNIT_AXES), "") if self.each == "position" else ""

    @property
    def where(self) -> str:
        """The axis of positions, or nothing."""
        return next((a for a in ("key_pos", "pos") if a in self.axes), "")

    def reduce(self, entries: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores of entries [*shape] summed to scores [pos], and to units [pos unit]."""
        if self.each != "position":
            total = entries.new_zeros(self.n_scores)
            return total.index_add(0, self.of.flatten().to(entries.device), entries.flatten()), None
        order = [self.where, self.unit] if self.unit else [self.where]
        rest = [a for a in self.axes if a not in order]
        moved = entries.permute([self.axes.index(a) for a in (*order, *rest)])
        summed = moved.flatten(len(order)).sum(-1) if rest else moved
        return (summed.sum(-1), summed) if self.unit else (summed, None)

    def spread(self, by_player: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores of players [player] as scores [pos], and units [pos unit]."""
        if self.n != self.n_scores:
            grid = by_player.reshape(self.n_scores, -1)
            return grid.sum(-1), grid
        return by_player, None

    def grouped(self, mask: Any, at: str) -> Players:
        """The same with one player per number of an integer mask (captum's `feature_mask`).

        Raises:
            ConfigError: Not whole numbers.
            ShapeError: A mask that does not fit the activation.
        """
        mask = _numbers(mask).to(self.of.device)
        if mask.is_floating_point() or mask.is_complex() or mask.dtype is torch.bool:
            raise ConfigError(
                "feature_mask numbers the player of each entry",
                got=str(mask.dtype),
                expected="whole numbers, the same one where entries belong together",
                fix="feature_mask=mask.long()",
            )
        shape, given = self.of.shape, list(mask.shape)
        if (mask.dim() > len(shape) and mask.shape[0] == 1) or (
            mask.dim() == 2 and self.where and given[0] == 1 and given[1] == self.n_places
        ):
            mask = mask[0]
        if mask.dim() == 1 and self.where and len(mask) == self.n_places:  # one number per position
            view = [1] * len(shape)
            view[self.axes.index(self.where)] = self.n_places
            mask = mask.view(view)
        try:
            whole = mask.expand(shape)
        except RuntimeError:
            raise ShapeError(
                f"the feature_mask does not fit {at!r}",
                got=given,
                expected=f"{[1, *shape]} ({' '.join(('batch', *self.axes))}), or what broadcasts to it"
                + (f"; or one number per position [{self.n_places}]" if self.where else ""),
            ) from None
        ids, of = whole.unique(return_inverse=True)
        n = len(ids)
        names = tuple(str(i) for i in ids.tolist())
        return replace(
            self, of=of, n=n, n_scores=n, each="group", names=names, grid=(n,), image=self._picture(of)
        )

    def by_place(self) -> Tensor | None:
        """The player of every place, [place]; None where a place belongs to several."""
        found = self.of.new_zeros(self.n_places)
        found[self.places.flatten()] = self.of.flatten()
        return found if bool((found[self.places] == self.of).all()) else None

    def with_picture(self, rows: int, columns: int) -> Players:
        """The same whose last rows x columns positions are the patches of a picture."""
        image = torch.arange(self.n_scores - rows * columns, self.n_scores).view(rows, columns)
        grid = (rows, columns) if self.n == self.n_scores else self.grid
        first = self.n_scores - rows * columns
        lone = ["CLS"] if first == 1 else [f"extra {i}" for i in range(first)]
        names = (*lone, *_pairs(rows, columns))
        return replace(self, image=image, grid=grid, names=names)

    def _picture(self, of: Tensor) -> Tensor | None:
        """Which group stands at each place, for groups that are the same in all channels."""
        if self.where:
            by_place = replace(self, of=of).by_place()
            if by_place is None or self.image is None:
                return None
            return by_place[self.image.to(of.device)].cpu()
        if self.axes[-2:] != IMAGE[1:]:
            return None
        flat = of.reshape(-1, *of.shape[-2:])
        return flat[0].cpu() if bool((flat == flat[0]).all()) else None


def axes_of(named: list[str], x: Tensor, n_tokens: int | None, units: Units | None) -> tuple[str, ...]:
    """Names of the axes of an activation but the first; ("entry",) where every number is on its own.

    Args:
        named: What the site says of itself.
        x: The activation, [1, *shape].
        n_tokens: How many positions the model reads, where that is known.
        units: What the caller wants scored.
    """
    if len(named) == x.dim() - 1 and {"pos", "key_pos"} & set(named):
        return tuple(named)
    if x.dim() == 3 and (x.shape[1] == n_tokens or units == "position"):
        return ("pos", "d_model")
    if units == "entry":
        return ("entry",)
    if x.dim() == 4:
        return IMAGE
    if x.dim() == 3 and units in ("pixel", "patch"):
        return IMAGE[1:]
    return ("entry",)


def players_of(axes: tuple[str, ...], x: Tensor, units: Units | None, patch: int | None, at: str) -> Players:
    """The players of an activation by its axes: positions (heads), or units of an image.

    Raises:
        ConfigError: Units that the activation does not have, or a patch without its size.
    """
    _refuse_misfit(axes, x, units, patch, at)
    shape = x.shape[1:]
    if "pos" in axes or "key_pos" in axes:
        return _positions(axes, shape, x.device)
    if axes[-2:] != IMAGE[1:]:
        n = prod(shape)
        of = torch.arange(n, device=x.device).view(shape)
        return Players(axes, of, n, of, n, n, "entry", grid=(n,))
    rows, columns = shape[-2:]
    if units == "channel":
        n = shape[0]
        of = torch.arange(n, device=x.device).view(-1, 1, 1).expand(shape)
        return Players(axes, of, n, of, n, n, "channel", tuple(f"channel {i}" for i in range(n)), (n,))
    side = patch or 1
    down, across = -(-rows // side), -(-columns // side)
    row = torch.arange(rows, device=x.device) // side
    column = torch.arange(columns, device=x.device) // side
    image, n = row[:, None] * across + column, down * across
    of, each = image.expand(shape), units or "pixel"
    return Players(axes, of, n, of, n, n, each, _pairs(down, across), (down, across), image.cpu())


def _positions(axes: tuple[str, ...], shape: torch.Size, device: torch.device) -> Players:
    """Whole positions, or heads of positions where there are few."""
    where = "key_pos" if "key_pos" in axes else "pos"
    unit = next((a for a in axes if a in ("head", "kv_head")), "")
    size = shape[axes.index(unit)] if unit else MOST_UNITS + 1
    n_places = shape[axes.index(where)]
    places = _along(shape, axes.index(where), device)
    if size > MOST_UNITS:
        return Players(axes, places, n_places, places, n_places, n_places, "position", grid=(n_places,))
    of, n = places * size + _along(shape, axes.index(unit), device), n_places * size
    return Players(axes, of, n, places, n_places, n_places, "position", grid=(n_places, size))


def _numbers(mask: Any) -> Tensor:
    try:
        return torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            "cannot read this as a feature_mask",
            got=repr(mask)[:80],
            expected="an array of whole numbers",
            fix="torch.tensor([0, 0, 1, ...]): the number of each entry's player",
        ) from error


def _along(shape: torch.Size, axis: int, device: torch.device) -> Tensor:
    view = [1] * len(shape)
    view[axis] = shape[axis]
    return torch.arange(shape[axis], device=device).view(view).expand(shape)


def _pairs(rows: int, columns: int) -> tuple[str, ...]:
    return tuple(f"{i},{j}" for i in range(rows) for j in range(columns))


def _refuse_misfit(axes: tuple[str, ...], x: Tensor, units: Units | None, patch: int | None, at: str) -> None:
    shape = list(x.shape)
    if (units == "patch") != (patch is not None):
        raise ConfigError(
            "a patch needs its size, and the size its units",
            got=f"units={units!r}, patch={patch}",
            fix="units='patch', patch=4: squares of 4 x 4 pixels",
        )
    if units is None:
        return
    if "pos" in axes or "key_pos" in axes:
        if units != "position":
            raise ConfigError(
                f"{at!r} holds positions, which are its units",
                got=f"units={units!r} of {shape} ({' '.join(('batch', *axes))})",
                fix="leave units out; feature_mask groups positions; site='hook_in' of a model that "
                "reads pixels has pixels",
            )
    elif units == "position":
        raise ConfigError(
            f"{at!r} has no axis of positions", got=f"{shape}", expected="[1, pos, d]", fix="leave units out"
        )
    elif units != "entry" and (axes[-2:] != IMAGE[1:] or (units == "channel" and "channel" not in axes)):
        raise ConfigError(
            f"{at!r} holds no {'channels' if units == 'channel' else 'rows and columns'}",
            got=f"units={units!r} of {shape}",
            expected="[1, channel, row, column]; rows and columns without channels for pixels and patches",
            fix="units='entry', every number on its own, or feature_mask, which groups them",
        )
