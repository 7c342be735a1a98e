"""Section: a phase change, watched while a second small model learns to copy."""

from __future__ import annotations

from interp.cli.demo.scene import Scene
from interp.plotting import CurvesConfig, Quantity, training_curves
from interp.reports import Item, Section
from interp.tasks.config import InductionConfig
from interp.tasks.induction import InductionHistory, train_induction


def training(scene: Scene) -> Section | None:
    """Loss and accuracy per step, and the two heads that appear together."""
    if not scene.is_bundled:
        return None
    _, history = train_induction(None, InductionConfig(seed=scene.seed))
    works = (history.held_out_accuracy > 0.5).nonzero().flatten()
    when = f"by step {int(history.measured_at[works[0]])}" if len(works) else "not in this run"
    prose = (
        "A second model, of two attention layers, was trained for this page in "
        f"{history.seconds:.0f} s to continue random blocks of tokens that it sees twice. The loss "
        "falls slowly at first: the model only learns which tokens exist. It learns to "
        f"continue repeated blocks in one jump, {when}: a head of layer 0 starts to look at "
        "the previous token, and a head of layer 1 at the token that followed the current one "
        "before. Source: Olsson et al., In-context Learning and Induction Heads (2022)."
    )
    curves = training_curves(
        records(history), title="Accuracy and heads over training", config=CurvesConfig(smoothing=0.0)
    )
    quantity = Quantity(
        "induction score", "mean attention", "the head looks at what followed this token before"
    )
    heads = {
        "field": "induction",
        "layer": 1,
        "quantity": quantity,
        "title": "Heads of layer 1 over training",
    }
    return Section("A circuit appears", [Item(curves), Item(history, plot=heads)], prose)


def records(history: InductionHistory) -> list[dict[str, int | float]]:
    """The history as metrics: every step's loss and accuracy, and the best heads where measured."""
    rows: list[dict[str, int | float]] = [
        {"step": step + 1, "loss": loss, "accuracy": accuracy}
        for step, (loss, accuracy) in enumerate(
            zip(history.loss.tolist(), history.accuracy.tolist(), strict=True)
        )
    ]
    previous = history.previous_token[:, 0].amax(-1).tolist()
    induction = history.induction[:, 1].amax(-1).tolist()
    for index, step in enumerate(history.measured_at.tolist()):
        rows[step - 1]["previous-token head (layer 0)"] = previous[index]
        rows[step - 1]["induction head (layer 1)"] = induction[index]
    return rows
