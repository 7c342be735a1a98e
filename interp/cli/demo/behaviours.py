"""Section: what the bundled model can do, measured on prompts it has never seen."""

from __future__ import annotations

from interp.cli.demo.scene import Scene
from interp.reports import Item, Section
from interp.tasks import grammar_task, list_grammar, measure

PROMPTS = 60
"""Per behaviour; the model's card has a thousand."""


def behaviours(scene: Scene) -> Section | None:
    """Accuracy on every task of the grammar; nothing for another model."""
    if not scene.is_bundled:
        return None
    tasks = [grammar_task(name) for name in list_grammar()]
    result = measure(scene.model, tasks, PROMPTS, seed=scene.seed)
    prose = (
        f"{PROMPTS} held-out prompts each: combinations of words, or sentences, that the training "
        "text never contains. Every one of these behaviours has prompts with known answers and a "
        "corrupted twin (interp tasks), so any of them can be taken apart."
    )
    return Section("What the model can do", [Item(result)], prose)
