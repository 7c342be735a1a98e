"""Calls of the rooms of circuits and of programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp import circuits, rasp
from tests.devices.place import Call, Place

TARGET = (7, 11)


def _pair(place: Place) -> Any:
    clean, corrupted = place.ids(2, 5), place.ids(2, 5, seed=1)
    return clean, corrupted


def _scores(method: Any) -> Call:
    return lambda place: circuits.score_edges(place.model, _pair(place), TARGET, method=method)


def _edges(place: Place) -> Any:
    methods = ("eap", "eap_ig", "mask_gradient", "exact", "information_flow")
    return [_scores(method)(place).scores for method in methods]


def _curve(place: Place) -> Any:
    scores = _scores("eap")(place)
    return circuits.faithfulness_curve(
        place.model, _pair(place), scores, target=TARGET, shares=(0.1, 1.0), n_random=2
    )


def _measured(place: Place) -> Any:
    circuit = circuits.select_edges(_scores("eap")(place), 40)
    return circuits.measure_circuit(place.model, _pair(place), circuit, target=TARGET)


def _patched(place: Place) -> Any:
    return circuits.patch_activations(place.model, _pair(place), TARGET, what="heads")


CIRCUITS: dict[str, Call] = {
    "score_edges EdgeScores": _edges,
    "faithfulness_curve FaithfulnessCurve": _curve,
    "measure_circuit select_edges Circuit": _measured,
    "patch_activations PatchEffects": _patched,
    "discover_circuit": lambda p: circuits.discover_circuit(p.model, _pair(p), TARGET, threshold=0.1).kept,
    "wiring Wiring": lambda p: circuits.wiring(p.model).possible,
}
CIRCUITS_LEFT: Mapping[str, str] = {}
RASP: dict[str, Call] = {}
RASP_LEFT: Mapping[str, str] = dict.fromkeys(
    [name for name in rasp.__all__ if not name.endswith("Error")],
    "programs, and models that are made of them on the host: `interp.load_model` moves one",
)
