"""Section: the logit lens."""

from __future__ import annotations

from interp.cli.demo.scene import Scene
from interp.core.errors import ModelError
from interp.lenses import logit_lens
from interp.reports import Item, Section


def residual(scene: Scene) -> Section | None:
    """What each layer would predict; nothing for a model without a head over its tokens."""
    try:
        lens = logit_lens(scene.model, scene.inputs)
    except ModelError:
        return None
    prose = (
        "Each row reads the residual stream after one layer with the model's own unembedding, as "
        "if the model stopped there; the top row is the model's output. A cell's text is the most "
        "likely next token; orange marks from where on it stays the final one."
    )
    if scene.is_bundled:
        prose += (
            " The last column is where the answer is due: early layers know that a name or a thing "
            "comes, the last ones know whose."
        )
    return Section("What each layer predicts", [Item(lens)], prose)
