"""Section: which tokens made the answer, by two methods that promise a sum, and how they agree."""

from __future__ import annotations

from interp.attribution import attribute_methods
from interp.cli.demo.scene import Scene
from interp.core.errors import ConfigError, ModelError
from interp.reports import Item, Section

METHODS = ("integrated_gradients", "deeplift", "shapley")


def attribution(scene: Scene) -> Section | None:
    """Coloured tokens for the model's own answer at the end of the text; None without logits."""
    try:
        named = attribute_methods(scene.model, scene.ids, None, METHODS, baseline="mean", samples=60)
    except (ConfigError, ModelError):  # no logits, or none over tokens
        return None
    found = list(named.values())
    prose = (
        f"Which tokens of the text made the model answer with {found[0].target}. Each score is a "
        "share of it, and together they sum to it minus its value on the baseline (the mean "
        "embedding everywhere); what is missing from the sum is written beside it."
    )
    strips = [Item(one, plot={"strip": True}) for one in found]
    return Section("Which tokens made the answer", [*strips, Item(found[0])], prose)
