"""The model as a function of one activation: f(x) with the site's value replaced by x.

Every method of the room sees a model only through this: values, gradients, and coalitions
v(z) = f(r + z (x - r)), where z says which positions keep their value and r is the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.attribution.graph import reaches
from interp.attribution.players import Players, axes_of, players_of
from interp.attribution.rows import Rows, tensors
from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.core.randomness import generator
from interp.models.hooked import HookedModel
from interp.models.hooks.sites import Site
from interp.models.stream.blocks import only_what_is_read
from interp.models.stream.target import Target

MOST_EXTRA = 8
"""Class, distillation and register tokens that may stand before a vision model's patches."""


class SiteGame:
    """f(x): the target as a function of the activation at `at`, everything before it fixed.

    Attributes:
        x: The activation as it is, [1, *shape].
        r: The baseline, [1, *shape]; set by `baseline`.
        who: The players: which entries are scored and hidden together.
        n_forward, n_backward: Rows that went through the model, each way.
        path: The same game at the model's embeddings, for methods that run a path there.
    """

    def __init__(
        self,
        model: HookedModel,
        rows: Rows,
        target: Target,
        at: str,
        config: AttributionConfig | None = None,
        feature_mask: Any = None,
    ) -> None:
        config = config or AttributionConfig()
        self.model = model
        self.rows = rows
        self.target = target
        self.at = at
        self.batch: int = config.rows
        self.site: Site = model.sites[at]
        x = model.capture(rows.one, [at], clone=True)[at].detach()
        if not x.is_floating_point() or not len(x):
            raise ModelError(
                f"{at!r} holds no numbers to attribute to",
                got=str(x.dtype),
                fix="site='NAME.hook_out', where NAME is the module that makes vectors of them",
            )
        self.x: Tensor
        self.who: Players
        self.x, self.who = self._players(x, config, feature_mask)
        self.r: Tensor = torch.zeros_like(self.x)
        self.n_forward: int = 0
        self.n_backward: int = 0
        self.path: SiteGame | None = None
        self._fewer: dict[str, Any] = only_what_is_read(model, target, rows.one, at)

    # ---- the function ----------------------------------------------------------------------

    def __call__(self, x: Tensor) -> Tensor:
        """f of every row, [n, *shape] -> [n]; on the graph of x. One pass, whatever n is.

        Raises:
            ModelError: x asks for a gradient, and the target has none.
        """
        found = self.pass_through(x)
        if torch.is_grad_enabled() and x.requires_grad and not reaches(found, x):
            raise self.unreached()
        return found

    def pass_through(self, x: Tensor, at_target: Callable[[], None] = lambda: None) -> Tensor:
        """The same where rules of the caller's may cut the graph; `at_target` is called between the two."""
        return self._target(len(x), [self.placed(x)], at_target)

    def placed(self, x: Tensor) -> tuple[str, Callable[..., Tensor]]:
        """A hook that gives the site these values, [n, *shape]."""

        def replace(value: Tensor, hook: Any) -> Tensor:
            # a copy: what comes next may write into it
            return x.to(value.dtype).reshape(value.shape).clone()

        return self.at, replace

    def behind(self, site: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """What a site behind this one holds on every row, and f's gradient there: two of [n, ...].

        The gradient is that of f as a function of `site` alone: what bypasses it is held fixed.

        Raises:
            ModelError: The target does not depend on that site.
        """
        held, slopes = [], []
        with torch.enable_grad(), frozen(self.model):
            for part in x.split(self.batch):
                leaves: list[Tensor] = []

                def cut(value: Tensor, hook: Any, leaves: list[Tensor] = leaves) -> Tensor:
                    leaves.append(value.detach().clone().requires_grad_(True))
                    return leaves[-1].clone()  # a module behind may write into it

                value = self._target(len(part), [self.placed(part), (site, cut)])
                slope = None
                if value.requires_grad:
                    (slope,) = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
                if slope is None:
                    raise self.unreached(site)
                self.n_backward += len(part)
                held.append(leaves[0].detach())
                slopes.append(slope)
        return torch.cat(held), torch.cat(slopes)

    def _target(
        self,
        n: int,
        hooks: list[tuple[str, Callable[..., Tensor]]],
        at_target: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """The target on `n` copies of the input under hooks, [n]."""
        self.n_forward += n
        inputs, target = self.rows.times(n), self.target
        if target.site is None:
            out = self.model.run_with_hooks(inputs, hooks, **self._fewer)
        else:
            grad = torch.is_grad_enabled()
            acts = self.model.capture(inputs, [target.site], fwd_hooks=hooks, grad=grad)
            out = acts[target.site]
        at_target()
        found = target.of(out)
        if len(found) != n:
            raise ShapeError(
                f"the target {target.name!r} must give one number per row",
                got=f"{len(found)} numbers",
                expected=f"{n} rows",
            )
        return found

    def unreached(self, site: str = "") -> ModelError:
        """What every method says of a site (by default its own) that the target does not depend on."""
        return ModelError(
            f"the target {self.target.name!r} does not depend on {site or self.at!r}",
            got=f"no gradient of it there, on {type(self.model.module).__name__}",
            fix="a site that the target is computed from, or a target behind this one",
        )

    def refuse_unmoved(self, value: float, base: float) -> None:
        """Refuse a target that never moves with the site, for methods that ask for no gradient.

        Raises:
            ModelError: f(x), f(r) and f of noise are one number, and no gradient leads to the site.
        """
        if value != base:
            return
        drawn = generator(0, "does the target move", device=str(self.x.device))
        noise = torch.randn(3, *self.x.shape[1:], generator=drawn, device=self.x.device).to(self.x.dtype)
        if bool((self.values(self.x + noise * (1 + self.x.abs())) != value).any()):
            return
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.model):
            here = self.x.clone().requires_grad_(True)
            if not reaches(self.pass_through(here), here):
                raise self.unreached()

    def values(self, x: Tensor) -> Tensor:
        """f of every row in chunks, without a graph, [n, *shape] -> [n] (float64)."""
        with torch.no_grad():
            return torch.cat([self(part).double() for part in x.split(self.batch)])

    def gradients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f and its gradient at every row in chunks: [n], [n, *shape].

        Raises:
            ModelError: The target does not depend on the site.
        """
        found, slopes = [], []
        with torch.enable_grad(), frozen(self.model):
            for part in x.split(self.batch):
                here = part.detach().clone().requires_grad_(True)
                value = self(here)
                (slope,) = torch.autograd.grad(value.sum(), here)
                self.n_backward += len(part)
                found.append(value.detach().double())
                slopes.append(slope)
        return torch.cat(found), torch.cat(slopes)

    def coalition(self, z: Tensor) -> Tensor:
        """v(z) = f(r + z (x - r)) in chunks, [n, player] (0 to 1) -> [n]."""
        z = z.to(self.x.device, self.x.dtype)
        with torch.no_grad():
            parts = [
                self(self.r + part[:, self.who.of] * (self.x - self.r)).double()
                for part in z.split(self.batch)
            ]
        return torch.cat(parts)

    def ends(self) -> tuple[float, float]:
        """f(x) and f(r)."""
        value, base = self.values(torch.cat([self.x, self.r])).tolist()
        return value, base

    def moving(self) -> Tensor:
        """Players that differ from the baseline, [k]; whoever equals it has nothing to play with."""
        return self.who.of[(self.x != self.r)[0]].unique()

    def afford(self, rows: int, method: str, config: AttributionConfig) -> None:
        """Refuse a method that would send more rows through the model than the caller allowed.

        Raises:
            ConfigError: More than `max_forward`, and than `samples`; names what makes it fewer.
        """
        if rows <= max(config.max_forward, config.samples or 0):
            return
        fewer = "feature_mask=..., one player for a group of entries"
        if self.who.each == "pixel":
            fewer = "units='patch', patch=8 (or larger), or " + fewer
        raise ConfigError(
            f"{method} over {self.who.n:,} players ({self.who.each}) sends {rows:,} rows through the model",
            got=f"{rows:,} rows",
            expected=f"at most max_forward={config.max_forward:,}",
            fix=f"{fewer}; or max_forward={rows}",
        )

    # ---- who plays -------------------------------------------------------------------------

    def _players(self, x: Tensor, config: AttributionConfig, feature_mask: Any) -> tuple[Tensor, Players]:
        """Who plays, and x as they see it: flat where every number is on its own."""
        ids, vision, units = self.rows.ids, self.model.reads == "pixels", config.units
        if feature_mask is not None and units not in (None, "position"):
            raise ConfigError(
                "feature_mask and units both say who plays", got=f"units={units!r}", fix="leave one out"
            )
        n_tokens = None if ids is None else len(ids)
        if vision and x.dim() == 3:
            n_tokens = x.shape[1]
        axes = axes_of(self.site.axes.split()[1:], x, n_tokens, units)
        if axes == ("entry",):
            x = x.flatten(1) if feature_mask is None else x
            axes = tuple(f"axis_{i}" for i in range(1, x.dim()))
        who = players_of(axes, x, units, config.patch, self.at)
        patches = patch_grid(self.rows, self.model) if vision else None
        if patches is not None and who.where and 0 <= who.n_places - prod(patches) <= MOST_EXTRA:
            who = who.with_picture(*patches)
        return x, who if feature_mask is None else who.grouped(feature_mask, self.at)


def patch_grid(rows: Rows, model: HookedModel) -> tuple[int, int] | None:
    """Rows and columns of the patches that a vision model cuts its image into, where it says."""
    side = getattr(getattr(model.module, "config", None), "patch_size", None)
    images = [t for t in tensors(rows.one) if t.dim() == 4]
    if not isinstance(side, int) or len(images) != 1:
        return None
    return images[0].shape[-2] // side, images[0].shape[-1] // side


@contextmanager
def frozen(model: HookedModel) -> Iterator[None]:
    """No parameter takes part in the graph inside; as they were on the way out."""
    moving = [p for p in model.module.parameters() if p.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
