"""Section: a sparse dictionary, trained on the spot and held to what the model loses by it."""

from __future__ import annotations

import torch

from interp.cli.demo.scene import Scene
from interp.dictionaries.train_config import TrainConfig
from interp.plotting.rooms.dictionaries_training import dictionary_curves
from interp.reports import Item, Section
from interp.tasks.config import GrammarConfig
from interp.tasks.grammar.corpus import batch

CONFIG = TrainConfig(
    site="blocks.2.hook_resid_post",
    activation="batchtopk",
    d_sae=256,
    k=12,
    k_start=36,
    k_anneal=60,
    steps=150,
    batch_size=512,
    lr=5e-3,
    lr_warmup=20,
    init_rows=4096,
    buffer_sequences=128,
    dead_after=50_000,
    log_every=3,
)


def dictionary(scene: Scene) -> Section | None:
    """Curves of the training and scores on held-out text; only where the corpus is at hand."""
    if not scene.is_bundled:
        return None
    from dataclasses import replace

    from interp.dictionaries import evaluate, run_training

    text, held_out = (
        batch(GrammarConfig(batch=n, seed=scene.seed + 2), t)[0] for t, n in enumerate((256, 64))
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small are slower on two
    try:
        config = replace(CONFIG, seed=scene.seed, data_seed=scene.seed)
        run = run_training(config, text, model=scene.model)
        made = next(iter(run.dictionaries.values()))
        scores = evaluate(made, scene.model, held_out)
    finally:
        torch.set_num_threads(threads)
    recovered = scores.recovered()
    prose = (
        f"A sparse autoencoder of {config.d_sae} latents was trained for this page in "
        f"{run.report.seconds:.0f} s on the residual stream after layer 2 (BatchTopK, Bussmann et "
        f"al. 2024). On held-out text {float(scores.l0):.1f} latents are active per token and "
        f"leave {float(scores.fvu):.1%} of the variance unexplained. With the reconstruction in "
        "place of the stream, the model keeps "
        f"{'an unknown share' if recovered is None else f'{recovered:.1%}'} of what it would lose "
        "if the stream were replaced by its mean."
    )
    curves = dictionary_curves(run.report.records, {"dictionary": config.k}, "A dictionary learns")
    return Section("What the stream is made of", [Item(curves), Item(scores)], prose)
