"""A transformer that learns linear regression in context, as on the method page."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interp.activations.config import FitConfig
from interp.activations.loop import fit
from interp.core.randomness import generator
from interp.models.small.config import SmallConfig
from interp.models.small.layers import Block, norm

D, EXEMPLARS = 3, 8


class Regressor(nn.Module):
    """x_1 y_1 x_2 y_2 ... as tokens (0, x) and (y, 0); the guess of y_i stands at x_i."""

    def __init__(self, n_layers: int = 4, width: int = 64, seed: int = 0) -> None:
        super().__init__()
        cfg = SmallConfig(
            n_layers=n_layers, d_model=width, n_ctx=2 * EXEMPLARS, d_head=16, d_vocab=1, act_fn="gelu"
        )
        self.read, self.place = nn.Linear(D + 1, width), nn.Embedding(cfg.n_ctx, width)
        self.blocks = nn.ModuleList(Block(cfg, layer) for layer in range(n_layers))
        self.norm, self.out = norm(cfg, width), nn.Linear(width, 1)
        draw = generator(seed, "regressor")
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim > 1:
                    fan = parameter.shape[-1 if parameter.ndim == 2 else -2]
                    scale = 0.3 if parameter is self.place.weight else fan**-0.5
                    parameter.copy_(torch.randn(parameter.shape, generator=draw) * scale)

    def states(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Hidden states [batch, 2 n, d] after the embedding and every block."""
        tokens = torch.zeros(len(x), 2 * x.shape[1], D + 1)
        tokens[:, 0::2, 1:], tokens[:, 1::2, 0] = x.float(), y.float()
        found = [self.read(tokens) + self.place.weight[: tokens.shape[1]]]
        for block in self.blocks:
            found.append(block(found[-1], None, True, None))
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Guesses [batch, n] of every y_i from what stood before it."""
        return self.out(self.norm(self.states(x, y)[-1][:, 0::2]))[..., 0]

    @torch.no_grad()
    def predict(self, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        """As `compare_in_context` asks: every query alone, behind the exemplars."""
        batch, q = queries.shape[:2]
        longer = torch.cat([x[:, None].expand(-1, q, -1, -1), queries[:, :, None]], 2)
        given = torch.cat([y, torch.zeros(batch, 1)], 1)[:, None].expand(-1, q, -1)
        parts = zip(longer.flatten(0, 1).split(1024), given.flatten(0, 1).split(1024), strict=True)
        return torch.cat([self(a, b)[:, -1] for a, b in parts]).view(batch, q)


def problems(n: int, noise: float, seed: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """x [n, exemplars, d] and y [n, exemplars] of fresh weights."""
    draw = generator(seed, "regression problems", step)
    w, x = torch.randn(n, D, generator=draw), torch.randn(n, EXEMPLARS, D, generator=draw)
    y = (x @ w[..., None])[..., 0]
    return x, y + noise * torch.randn(n, EXEMPLARS, generator=draw)


def trained(n_layers: int = 4, *, steps: int = 3000, noise: float = 0.0, seed: int = 0) -> Regressor:
    """Adam on a one-cycle schedule, 64 problems per step."""
    model = Regressor(n_layers, seed=seed)

    def step(module: nn.Module, batch: tuple[Tensor, Tensor], t: int) -> Tensor:
        return (module(*batch) - batch[1]).square().mean()

    schedule = FitConfig(
        steps=steps,
        lr=2e-3,
        lr_warmup=steps // 4,
        lr_schedule="cosine",
        grad_clip=1.0,
        log_every=250,
        seed=seed,
    )
    fit(model, step, lambda t: problems(64, noise, seed, t), schedule)
    return model.eval()
