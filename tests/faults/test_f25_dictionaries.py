"""F25: activations of a bfloat16 model train a float32 dictionary whose metrics are exact."""

from __future__ import annotations

import torch

from interp.dictionaries import Dictionary, DictionaryConfig, train
from interp.dictionaries.steps.table import TrainLoss, make_step
from interp.dictionaries.train_config import TrainConfig

D_IN, D_SAE, N = 13, 29, 211


def rows(n: int = 4 * N) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    directions = torch.randn(17, D_IN, generator=source)
    active = torch.rand(n, 17, generator=source) < 0.15
    return ((active * torch.rand(n, 17, generator=source)) @ directions).bfloat16()


def test_thresholds_move_under_adam_on_bfloat16_rows() -> None:
    config = TrainConfig(
        d_sae=D_SAE,
        activation="jumprelu",
        steps=40,
        batch_size=N,
        lr=1e-3,
        lr_warmup=0,
        bandwidth=0.3,
        sparsity=0.3,
        sparsity_warmup=0,
        init_rows=N,
    )
    trained = train(config, rows())
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
    # an Adam step of 1e-3 on a threshold near 1 rounds away in bfloat16 (eps 2^-8)
    spread = trained.threshold.detach().std()
    assert spread > 0 and not torch.equal(trained.threshold.bfloat16().float(), trained.threshold)


def test_metrics_of_coarse_products_agree_with_float64() -> None:
    """Under autocast the encoder's product is bfloat16 and only chooses latents."""
    d = Dictionary(DictionaryConfig(d_in=D_IN, d_sae=D_SAE, k=5))
    x = rows(N).float()
    zero = torch.zeros(())
    losses = TrainLoss(coefficient=zero, dead=torch.zeros(D_SAE, dtype=torch.bool))
    step = make_step(d, losses)
    with torch.autocast("cpu", torch.bfloat16):
        loss, metrics = step(x, x)
    assert loss.dtype == metrics["mse"].dtype == torch.float32
    exact = Dictionary.from_state(
        DictionaryConfig(d_in=D_IN, d_sae=D_SAE, k=5, dtype="float64"), d.state_dict()
    )
    with torch.no_grad():
        pre = step.buffer("pre", (N, D_SAE), torch.bfloat16)
        chosen = torch.zeros(N, D_SAE, dtype=torch.bool).scatter(1, pre.topk(5, 1).indices, True)
        z = exact.preactivations(x.double()).relu() * chosen
        expected = (exact.decode(z) - x).pow(2).sum(1).mean()
    assert abs(float(metrics["mse"] - expected)) <= 8 * 2**-23 * float(expected)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in d.parameters())
