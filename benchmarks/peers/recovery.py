"""Peers of `dictionary_recovery.py`: their trainers on our batches, and what they hand back.

sae-lens is a dependency; sparsify and dictionary_learning take part where they can be imported
(install them elsewhere and add that folder to PYTHONPATH). All of them see the batches, steps,
warm-up and decay of `Schedule`; the rest is each library's default, with its window of dead latents
cut to this run's length and its AuxK on where it has one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.dictionaries import SyntheticWorld

Make = Callable[[SyntheticWorld, float, int, "Schedule"], Any]
DEAD_AFTER = 200  # steps without firing after which a latent counts as dead


@dataclass(frozen=True)
class Schedule:
    """What every trainer gets: batch t of a world, steps, warm-up, linear decay at the end."""

    steps: int
    rows: Callable[[int], Tensor]
    batch: int
    warmup: int

    @property
    def decay(self) -> int:
        """Steps of the decay."""
        return self.steps // 5

    def factor(self, t: int) -> float:
        """Learning rate at step t over its peak."""
        return min(1.0, (t + 1) / self.warmup, (self.steps - t) / self.decay)


class Foreign(NamedTuple):
    """A peer's dictionary as `score_recovery` reads one."""

    W_dec: Tensor
    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]


def saelens(kind: str, knob: str = "lr", **fixed: Any) -> Make:
    """A trainer of sae-lens; what is evaluated is its saved inference model."""

    def run(world: SyntheticWorld, setting: float, seed: int, plan: Schedule) -> Any:
        import sae_lens
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(seed)
        rate, own = (setting, {}) if knob == "lr" else (1e-3, {knob: setting})
        made = getattr(sae_lens, f"{kind}TrainingSAEConfig")(
            d_in=world.config.d, d_sae=world.config.n_features, **own, **fixed
        )
        sae = getattr(sae_lens, f"{kind}TrainingSAE")(made)
        config = SAETrainerConfig(
            total_training_samples=plan.steps * plan.batch,
            train_batch_size_samples=plan.batch,
            lr=rate,
            lr_end=rate,
            lr_warm_up_steps=plan.warmup,
            lr_decay_steps=plan.decay,
            dead_feature_window=DEAD_AFTER,
            logger=LoggingConfig(log_to_wandb=False, eval_every_n_wandb_logs=2**31 - 1),
        )
        stream = (plan.rows(t) for t in range(2**31))
        SAETrainer(cfg=config, sae=sae, data_provider=stream).fit()
        with tempfile.TemporaryDirectory() as folder:
            sae.save_inference_model(folder)
            return sae_lens.SAE.load_from_disk(folder)

    return run


def dictionary_learning(name: str, knob: str = "lr", **fixed: Any) -> Make:
    """A trainer of dictionary_learning, by module and class ("top_k.TopKTrainer")."""

    def run(world: SyntheticWorld, setting: float, seed: int, plan: Schedule) -> Any:
        from importlib import import_module

        torch.manual_seed(seed)
        module, kind = name.split(".")
        values = {"lr": 1e-3, knob: setting} | fixed
        trainer = getattr(import_module(f"dictionary_learning.trainers.{module}"), kind)(
            steps=plan.steps,
            activation_dim=world.config.d,
            dict_size=world.config.n_features,
            layer=0,
            lm_name="-",
            warmup_steps=plan.warmup,
            decay_start=plan.steps - plan.decay,
            seed=seed,
            device="cpu",
            **values,
        )
        trainer.dead_feature_threshold = DEAD_AFTER * plan.batch
        for t in range(plan.steps):
            trainer.update(t, plan.rows(t))
        ae = trainer.ae
        rows = ae.W_dec if hasattr(ae, "W_dec") else ae.decoder.weight.T
        return Foreign(rows.detach(), ae.encode, ae.decode)

    return run


def sparsify(k: int, auxk_alpha: float = 1 / 32) -> Make:
    """The body of sparsify's `Trainer.fit` with Adam: that method wants a language model."""

    def run(world: SyntheticWorld, setting: float, seed: int, plan: Schedule) -> Any:
        from sparsify import SparseCoder, SparseCoderConfig

        torch.manual_seed(seed)
        coder = SparseCoder(world.config.d, SparseCoderConfig(num_latents=world.config.n_features, k=k))
        coder.b_dec.data = plan.rows(0).mean(0)
        adam = torch.optim.Adam(coder.parameters(), lr=setting)
        idle = torch.zeros(coder.num_latents, dtype=torch.long)
        for t in range(plan.steps):
            for group in adam.param_groups:
                group["lr"] = setting * plan.factor(t)
            coder.set_decoder_norm_to_unit_norm()
            out = coder(x=plan.rows(t), dead_mask=idle > DEAD_AFTER * plan.batch)
            (out.fvu + auxk_alpha * out.auxk_loss).backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            adam.step()
            adam.zero_grad()
            idle += plan.batch
            idle[out.latent_indices.flatten().unique()] = 0
        coder.set_decoder_norm_to_unit_norm()

        def encode(x: Tensor) -> Tensor:
            values, indices, _ = coder.encode(x)
            return x.new_zeros(len(x), coder.num_latents).scatter(1, indices, values)

        rows = coder.W_dec.detach()
        return Foreign(rows, encode, lambda z: z @ rows + coder.b_dec)

    return run
