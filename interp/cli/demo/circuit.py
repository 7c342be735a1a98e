"""Section: the edges that carry a name through the model, and circuits made of them."""

from __future__ import annotations

from interp.circuits import faithfulness_curve, score_edges, select_edges
from interp.cli.demo.scene import Scene
from interp.reports import Item, Section
from interp.tasks import load_task

EDGES = 44


def circuit(scene: Scene) -> Section | None:
    """Edges by EAP-IG on eight prompts, measured on eight others; None for a model of one's own."""
    if not scene.is_bundled:
        return None
    asked = load_task("indirect-object").sample(16, scene.seed)
    scores = score_edges(scene.model, asked[:8])
    curve = faithfulness_curve(
        scene.model, asked[8:], scores, shares=(0.01, 0.05, 0.1, 0.2, 0.5, 1.0), n_random=8, seed=scene.seed
    )
    found = select_edges(scores, EDGES)
    share = float(curve.faithfulness[2])
    prose = (
        f"Which of the model's {int(scores.possible.sum())} edges carry the other name to the answer? "
        f"With a tenth of them as they are and the rest taken from a prompt with the names exchanged, "
        f"{share:.0%} of the difference in logits is left; random circuits of that size keep "
        f"{float(curve.random[2]):.0%}. The first layer's head 2 reads the names."
    )
    return Section("Which edges carry the answer", [Item(found), Item(curve)], prose)
