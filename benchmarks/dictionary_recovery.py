"""Recovery of known features: our trainers and the peers' on the same data, steps and grids.

    python benchmarks/dictionary_recovery.py                  # everything; resumes from its log
    python benchmarks/dictionary_recovery.py --only matching --seeds 0
    python benchmarks/dictionary_recovery.py --table          # print what the log holds
    ... --seeds 0 --log a.jsonl, in another process --seeds 1 2 --log b.jsonl, and then
    python benchmarks/dictionary_recovery.py --table --log a.jsonl b.jsonl

World: 256 random unit features in 64 dimensions, 5.6 of them on (methods: `SyntheticConfig`).
Every trainer gets the same batches (512 of 1024 rows, six times over), 3000 steps, Adam with 100
steps of warm-up and the last 600 decaying linearly, and five settings: the learning rate where a
number of active latents can be asked for, else the penalty. The setting is chosen by FVU on rows of
its own, among those whose L0 is at most 10 % above the truth's; scores are on yet other rows, of
the saved inference model. A run per line of the log; a run that is there is not repeated. Peers
that cannot be imported are left out (see `peers/recovery.py`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peers.recovery import Make, Schedule, dictionary_learning, saelens, sparsify

from interp.core import store
from interp.dictionaries import (
    DistilConfig,
    SyntheticConfig,
    SyntheticWorld,
    distil,
    score_ceilings,
    score_recovery,
)
from interp.dictionaries.train_checks import at_defaults, unread
from interp.dictionaries.train_config import TrainConfig
from interp.dictionaries.training import run_training

BATCH, BATCHES, WARMUP = 1024, 512, 100
RATES = (3e-4, 1e-3, 2e-3, 3e-3, 6e-3)
RELU = (0.2, 0.4, 0.8, 1.2, 1.6)
ANNEALED = (0.2, 0.4, 0.5, 0.6, 0.8)
GATED = (0.5, 1.0, 1.2, 1.5, 2.0)
L0 = 5.63
STOP, PASSES = 0.7, 16  # matching pursuit: where a row is done, and after how many latents at most
PURSUIT: dict[str, Any] = {
    "activation": "matching_pursuit",
    "max_iterations": PASSES,
    "resample_every": 150,
    "resample_similar": 0.9,
}
START = 0.1  # norm of rows at the start: the encoder's and, if free, the decoder's (as sae-lens's)
FIGURES = ("mcc", "f1", "latent_f1", "uniqueness", "rec90", "fvu", "l0", "dead")


class Rows:
    """The batches of a plan as our training loop reads them."""

    sites = ("input",)

    def __init__(self, plan: Schedule) -> None:
        self.plan = plan

    def batch(self, t: int) -> dict[str, torch.Tensor]:
        """Batch t."""
        return {"input": self.plan.rows(t)}

    def provenance(self) -> None:
        """No model."""


@dataclass(frozen=True)
class Trainer:
    """One way to make a dictionary, with its grid."""

    name: str
    owner: str
    grid: tuple[float, ...]
    run: Make

    @property
    def key(self) -> str:
        """Name in the log."""
        return f"{self.owner} {self.name}"


def ours(**fixed: Any) -> Make:
    """A trainer of this package; `knob` says what the grid sets."""
    knob = fixed.pop("knob", "lr")

    def run(world: SyntheticWorld, setting: float, seed: int, plan: Schedule) -> Any:
        values: dict[str, Any] = {"lr": 1e-3, knob: setting} | fixed
        config = TrainConfig(
            d_sae=world.config.n_features,
            steps=plan.steps,
            batch_size=plan.batch,
            lr_warmup=plan.warmup,
            sparsity_warmup=0,
            lr_decay=plan.decay,
            scale=False,
            grad_clip=None,
            seed=seed,
            encoder_scale=START,
            residual_threshold=STOP,
            **values,
        )
        made = run_training(at_defaults(config, unread(config)), Rows(plan))
        return next(iter(made.dictionaries.values()))

    return run


def distilled(world: SyntheticWorld, setting: float, seed: int, plan: Schedule) -> Any:
    """Pursuit for part of the steps, its one-pass encoder for the rest."""
    rest = plan.steps // 5
    pursuit = ours(**PURSUIT)
    teacher = pursuit(world, setting, seed, replace(plan, steps=plan.steps - rest))
    return distil(teacher, plan.rows, DistilConfig(steps=rest))


WIDTHS = (32, 64, 128, 256)
FREE = {"decoder_norm": "free"}  # of sae-lens's dictionaries, too
RESAMPLED = {"resample_every": 150, "dead_after": 50 * BATCH}
REVIVED = {"auxk_alpha": 1.0}  # as sae-lens's
AT_ZERO = {"b_dec_init": "zeros"}  # sae-lens's start; here it is also the truth
AT_ONCE = {"sparsity_warmup_steps": 0}  # the penalty is whole from the first step, as ours
TRAINERS = (
    Trainer("relu", "interp", RELU, ours(activation="relu", knob="sparsity", **FREE, **AT_ZERO)),
    Trainer(
        "p-anneal",
        "interp",
        ANNEALED,
        ours(activation="relu", knob="sparsity", lp_final=0.5, **FREE, **AT_ZERO),
    ),
    Trainer("gated", "interp", GATED, ours(activation="gated", knob="sparsity", **FREE)),
    Trainer(
        "jumprelu", "interp", RATES, ours(activation="jumprelu", l0=L0, sparsity=0.4, **RESAMPLED, **FREE)
    ),
    Trainer("topk", "interp", RATES, ours(activation="topk", k=6, k_start=24)),
    Trainer("batchtopk", "interp", RATES, ours(activation="batchtopk", k=L0, k_start=24, **REVIVED)),
    Trainer("matryoshka", "interp", RATES, ours(activation="batchtopk", k=L0, groups=WIDTHS, **REVIVED)),
    Trainer("matching pursuit", "interp", RATES, ours(**PURSUIT)),
    Trainer("matching pursuit distilled", "interp", RATES, distilled),
    Trainer("relu", "sae-lens", RELU, saelens("Standard", "l1_coefficient")),
    Trainer("gated", "sae-lens", GATED, saelens("Gated", "l1_coefficient")),
    Trainer(
        "jumprelu",
        "sae-lens",
        RATES,
        saelens("JumpReLU", jumprelu_sparsity_loss_mode="quadratic", target_l0=L0),
    ),
    Trainer("topk", "sae-lens", RATES, saelens("TopK", k=6)),
    Trainer("batchtopk", "sae-lens", RATES, saelens("BatchTopK", k=L0)),
    Trainer(
        "matryoshka", "sae-lens", RATES, saelens("MatryoshkaBatchTopK", k=L0, matryoshka_widths=list(WIDTHS))
    ),
    Trainer(
        "matching pursuit",
        "sae-lens",
        RATES,
        saelens("MatchingPursuit", residual_threshold=STOP, max_iterations=PASSES),
    ),
    Trainer("topk", "sparsify", RATES, sparsify(k=6)),
    Trainer(
        "relu",
        "dictionary_learning",
        RELU,
        dictionary_learning("standard.StandardTrainer", "l1_penalty", **AT_ONCE),
    ),
    Trainer(
        "p-anneal",
        "dictionary_learning",
        ANNEALED,
        dictionary_learning(
            "p_anneal.PAnnealTrainer",
            "initial_sparsity_penalty",
            anneal_start=1500,
            p_end=0.5,
            sparsity_function="Lp^p",
            **AT_ONCE,
        ),
    ),
    Trainer(
        "gated",
        "dictionary_learning",
        GATED,
        dictionary_learning("gdm.GatedSAETrainer", "l1_penalty", **AT_ONCE),
    ),
    Trainer(
        "jumprelu",
        "dictionary_learning",
        RATES,
        dictionary_learning("jumprelu.JumpReluTrainer", target_l0=L0, **AT_ONCE),
    ),
    Trainer("topk", "dictionary_learning", RATES, dictionary_learning("top_k.TopKTrainer", k=6)),
    Trainer(
        "batchtopk", "dictionary_learning", RATES, dictionary_learning("batch_top_k.BatchTopKTrainer", k=6)
    ),
    Trainer(
        "matryoshka",
        "dictionary_learning",
        RATES,
        dictionary_learning(
            "matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer",
            k=6,
            group_fractions=[1 / 8, 1 / 8, 1 / 4, 1 / 2],
        ),
    ),
)
ONE_PASS = (
    "relu",
    "p-anneal",
    "gated",
    "jumprelu",
    "topk",
    "batchtopk",
    "matryoshka",
    "matching pursuit distilled",
)


@torch.no_grad()
def validation_fvu(coder: Any, world: SyntheticWorld) -> float:
    """FVU on the rows that choose the setting."""
    x = world.sample(8192, 0, "validation").x
    error = x - coder.decode(coder.encode(x))
    return float(error.square().sum() / (x - x.mean(0)).square().sum())


def measure(trainer: Trainer, setting: float, seed: int, steps: int) -> dict[str, Any]:
    """One line of the log."""
    world = SyntheticWorld(SyntheticConfig(seed=seed))
    begin = time.process_time()
    plan = Schedule(steps, lambda t: world.batch(t % BATCHES, BATCH), BATCH, WARMUP)
    coder = trainer.run(world, setting, seed, plan)
    seconds = time.process_time() - begin
    scores = score_recovery(coder, world, with_ceiling=False).summary()
    return {
        "trainer": trainer.key,
        "setting": setting,
        "seed": seed,
        "steps": steps,
        "validation_fvu": validation_fvu(coder, world),
        "cpu_seconds": round(seconds, 1),
        **scores,
    }


def chosen(records: list[dict[str, Any]], key: str, seed: int) -> dict[str, Any] | None:
    """The run of the best setting: least validation FVU among those sparse enough."""
    found = [r for r in records if r["trainer"] == key and r["seed"] == seed]
    sparse = [r for r in found if r["l0"] <= 1.1 * r["true_l0"]]
    return min(sparse or found, key=lambda r: r["validation_fvu"], default=None)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return statistics.mean(values), error


def table(records: list[dict[str, Any]], seeds: list[int]) -> None:
    """Print means over seeds of the chosen settings, and the verdicts."""
    best: dict[str, dict[str, tuple[float, float]]] = {}
    print(f"{'trainer':36}{'runs':>5}" + "".join(f"{name:>15}" for name in FIGURES))
    for trainer in TRAINERS:
        rows = [r for s in seeds if (r := chosen(records, trainer.key, s)) is not None]
        if not rows:
            continue
        best[trainer.key] = {n: mean_and_error([r[n] for r in rows]) for n in FIGURES}
        runs = sum(r["trainer"] == trainer.key for r in records)
        cells = "".join(f"{m:9.3f} ±{e:.3f}" for m, e in best[trainer.key].values())
        settings = ", ".join(f"{r['setting']:g}" for r in rows)
        print(f"{trainer.key:36}{runs:>5}{cells}  settings {settings}")
    for trainer in TRAINERS:
        mine, peer = best.get(f"interp {trainer.name}"), best.get(trainer.key)
        if trainer.owner != "interp" and mine and peer:
            for name in ("mcc", "f1"):
                behind = peer[name][0] - mine[name][0]
                slack = max(mine[name][1], peer[name][1])
                word = "ahead" if behind < 0 else "level" if behind <= slack else "BEHIND"
                gap = f"{word:7} by {-behind:+.3f} (error {slack:.3f})"
                print(f"{trainer.name:20} against {trainer.owner:20} {name:4} {gap}")
    pursuit = best.get("interp matching pursuit")
    if pursuit:
        ok = pursuit["mcc"][0] >= 0.96 and pursuit["f1"][0] >= 0.90
        print(f"matching pursuit: MCC >= .96 and F1 >= .90: {'yes' if ok else 'NO'}")
    good = [
        name
        for name in ONE_PASS
        if (b := best.get(f"interp {name}"))
        and b["mcc"][0] >= 0.95
        and b["f1"][0] >= 0.75
        and abs(b["l0"][0] / L0 - 1) <= 0.1
        and b["dead"][0] == 0
    ]
    print(f"one pass: MCC >= .95, F1 >= .75, L0 within 10 %, none dead: {', '.join(good) or 'NO'}")


def main() -> None:
    """Run what the log lacks, then print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", default="", help="trainers whose name contains this")
    parser.add_argument("--settings", type=float, nargs="+", help="these of the grid only")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument(
        "--log",
        type=Path,
        nargs="+",
        default=[Path("dictionary_recovery.jsonl")],
        help="logs to read; new runs go to the first",
    )
    parser.add_argument("--table", action="store_true", help="print and run nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = [r for log in options.log if log.exists() for r in store.read_jsonl(log)]
    done = [r for r in done if r["steps"] == options.steps]
    there = [t for t in TRAINERS if find_spec(t.owner.replace("-", "_"))]
    if not options.table:
        keys = {(r["trainer"], r["setting"], r["seed"]) for r in done}
        for seed in options.seeds:
            for trainer in there:
                for setting in trainer.grid:
                    wanted = options.only in trainer.key
                    wanted &= options.settings is None or setting in options.settings
                    if wanted and (trainer.key, setting, seed) not in keys:
                        record = measure(trainer, setting, seed, options.steps)
                        store.append(options.log[0], record)
                        done.append(record)
                        print({k: record[k] for k in ("trainer", "setting", "seed", *FIGURES)})
        for seed in options.seeds:
            print(f"ceiling of seed {seed}: {score_ceilings(SyntheticWorld(SyntheticConfig(seed=seed)))}")
    table(done, options.seeds)


if __name__ == "__main__":
    main()
