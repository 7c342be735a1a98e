"""Section: direct logit attribution, part by part."""

from __future__ import annotations

from interp.cli.demo.scene import TEXT, Scene
from interp.core.errors import ModelError
from interp.lenses import direct_logit_attribution
from interp.reports import Item, Section

ANSWER, DISTRACTOR = " Mary", " John"


def parts(scene: Scene) -> Section | None:
    """What each head and MLP adds to the answer; nothing for a model whose output is no sum."""
    asked = scene.is_bundled and scene.inputs == TEXT
    contrast = (ANSWER, DISTRACTOR) if asked else None
    try:
        result = direct_logit_attribution(scene.model, scene.inputs, contrast)
    except ModelError:
        return None
    prose = (
        "With the final norm held as it was, the logit of a token is a sum: embedding, every head "
        "and every MLP add their part, and the bars end at what the model says. "
    )
    if asked:
        prose += (
            "Read here at the last token: the answer's logit less that of the name that was said "
            "twice. Parts that favour either name cancel or count; what all names share is gone."
        )
    waterfall = {"kind": "waterfall", "position": -1, "keep": 16}
    items = [Item(result, plot=waterfall)]
    if len(result.tokens) > 1 and not asked:
        items.append(Item(result))
    return Section("Which part says it", items, prose)
