"""Section: the logit lens."""

from __future__ import annotations

from interp.cli.demo.scene import Scene
from interp.core.errors import ModelError
from interp.lenses import logit_lens
from interp.reports import Item, Section


def residual(scene: Scene) -> Section | None:
    """What each layer would predict; nothing for a model without a head over its tokens."""
    # The trained model reads a block twice, so the true next token is known at every position.
    target = None if scene.history is None else scene.ids[0].roll(-1)
    try:
        lens = logit_lens(scene.model, scene.inputs, target=target)
    except ModelError:
        return None
    prose = (
        "Each row reads the residual stream after one layer with the model's own unembedding, as "
        "if the model stopped there; the top row is the model's output. A cell's text is the most "
        "likely next token; orange marks from where on it stays the final one."
    )
    if scene.history is not None:
        prose += (
            " The second half repeats the first. The colour is the probability of the token that "
            "really comes next: the model can know it only in the second half, and does so only "
            "after the last layer."
        )
    return Section("What each layer predicts", [Item(lens)], prose)
