"""Section: a tuned lens, trained on the spot, beside the logit lens."""

from __future__ import annotations

import torch

from interp.cli.demo.scene import Scene
from interp.lenses import TunedLensConfig, score_lenses, train_tuned_lens
from interp.reports import Item, Section
from interp.tasks.config import GrammarConfig
from interp.tasks.grammar.corpus import batch

CONFIG = TunedLensConfig(steps=80, batch_tokens=512)


def tuned(scene: Scene) -> Section | None:
    """KL to the output by row, on held-out text; only where the model's own corpus is at hand."""
    if not scene.is_bundled:
        return None
    text, held_out = (
        batch(GrammarConfig(batch=n, seed=scene.seed + 1), t)[0] for t, n in enumerate((192, 32))
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small are slower on two
    try:
        lens, _ = train_tuned_lens(scene.model, text, CONFIG)
        scores = score_lenses(scene.model, held_out, {"tuned": lens})
    finally:
        torch.set_num_threads(threads)
    prose = (
        "Trained here on the spot: one affine map per layer, so that the model's own head reads it "
        "as it reads the last (Belrose et al. 2023). What the tuned line lies below the logit "
        "lens's is only another basis; what remains of it the layer does not know yet. Measured on "
        "sentences that no lens has seen."
    )
    return Section("What a layer knows, and in which basis", [Item(scores)], prose)
