"""Every public function with its model and its rows on another device: no mix, the same numbers.

The tables in this folder say what is called for which public name; a name that is not called is there
with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp.attribution.methods.table import METHODS
from tests.architecture.source import PACKAGE
from tests.devices.calls_attribution import ATTRIBUTION, ATTRIBUTION_LEFT
from tests.devices.calls_circuits import CIRCUITS, CIRCUITS_LEFT, RASP, RASP_LEFT
from tests.devices.calls_dictionaries import DICTIONARIES, DICTIONARIES_LEFT
from tests.devices.calls_lenses import LENSES, LENSES_LEFT
from tests.devices.calls_models import (
    ACTIVATIONS,
    ACTIVATIONS_LEFT,
    CORE,
    CORE_LEFT,
    MODELS,
    MODELS_LEFT,
    TASKS,
    TASKS_LEFT,
)
from tests.devices.calls_plotting import PLOTTING, PLOTTING_LEFT, REPORTS, REPORTS_LEFT
from tests.devices.calls_probing import PROBING, PROBING_LEFT, STUDIES, STUDIES_LEFT
from tests.devices.elsewhere import Elsewhere, MixedDevices, There, tensors_in
from tests.devices.place import Call, Place

ROOMS: Mapping[str, tuple[dict[str, Call], Mapping[str, str]]] = {
    "core": (CORE, CORE_LEFT),
    "models": (MODELS, MODELS_LEFT),
    "activations": (ACTIVATIONS, ACTIVATIONS_LEFT),
    "tasks": (TASKS, TASKS_LEFT),
    "dictionaries": (DICTIONARIES, DICTIONARIES_LEFT),
    "lenses": (LENSES, LENSES_LEFT),
    "probing": (PROBING, PROBING_LEFT),
    "attribution": (ATTRIBUTION, ATTRIBUTION_LEFT),
    "rasp": (RASP, RASP_LEFT),
    "circuits": (CIRCUITS, CIRCUITS_LEFT),
    "studies": (STUDIES, STUDIES_LEFT),
    "plotting": (PLOTTING, PLOTTING_LEFT),
    "reports": (REPORTS, REPORTS_LEFT),
}
"""Rooms of the package; the command line (`cli`) has no functions but the rooms'."""
CASES = [(room, name) for room, (calls, _) in ROOMS.items() for name in calls]
PUSH = frozenset(
    """
    HookedModel projection mean add clamp fit ActivationStream TokenSequences check_finite
    accuracy sentence_log_probability Dictionary train score_recovery to_jumprelu score_absorption
    sparse_code ablate_second_order direct_logit_attribution measure_coupling
    score_identifiability read_weights
    score_concept_existence Moments random_eraser v_information score_concept_agreement probe_context
    compare_methods attention_flow saliency integrated_gradients prune_curve score_units
    amortize CharLSTM clamp_unit lstm_writer find_unit bars attention_patterns TokenStrip
    score_edges measure_circuit
    """.split()
)
"""What every push calls: some of every room, and what was found to mix devices; the rest at full size."""


def public(room: str) -> set[str]:
    """The names in a room's table of them."""
    table = (PACKAGE / room / "__init__.pyi").read_text(encoding="utf-8")
    names = re.findall(r"^from \S+ import \S+ as (\S+)$", table, re.MULTILINE)
    module = __import__(f"interp.{room}", fromlist=["_"])
    return {name for name in names if not _is_error(getattr(module, name))}


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def test_every_room_and_every_public_name_is_called_or_says_why_not() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.pyi")}
    assert rooms - {"cli"} == set(ROOMS)
    for room, (calls, left) in ROOMS.items():
        named = {name for key in calls for name in key.split()}
        assert not named & set(left) and all(left.values())
        assert named | set(left) == public(room) | (set(METHODS) if room == "attribution" else set()), room


@pytest.fixture(scope="module")
def places() -> tuple[Place, Place]:
    """The CPU, and a device that is not it."""
    return Place("cpu"), Place("cuda")


def same_numbers(found: Any, expected: Any) -> None:
    """Every tensor of one value equals the other's."""
    ours, theirs = dict(tensors_in(found)), dict(tensors_in(expected))
    assert ours.keys() == theirs.keys()
    for path, tensor in theirs.items():
        torch.testing.assert_close(
            ours[path], tensor, rtol=1e-5, atol=1e-6, equal_nan=True, msg=lambda m, p=path: f"{p}: {m}"
        )


def case(room: str, name: str) -> Any:
    """A call as a test, at full size only unless it is among those of a push."""
    marks = [] if PUSH.intersection(name.split()) else [pytest.mark.full]
    return pytest.param(room, name, id=f"{room}.{name}", marks=marks)


@pytest.mark.thin(2)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("room", "name"), [*map(case, *zip(*CASES, strict=True))])
def test_a_call_there_gives_what_it_gives_here(room: str, name: str, places: tuple[Place, Place]) -> None:
    here, there = places
    call = ROOMS[room][0][name]
    with sdpa_kernel(SDPBackend.MATH):  # what the other device computes with, to the last bit
        torch.manual_seed(0)
        expected = call(here)
        with Elsewhere():
            torch.manual_seed(0)
            found = call(there)
    same_numbers(found, expected)


# ---- the device itself -------------------------------------------------------------------------

MIXES: dict[str, Any] = {
    "a sum": lambda here, there: there + here,
    "a product": lambda here, there: there.T @ here,
    "rows side by side": lambda here, there: torch.cat([there, here]),
    "numbers in a stack": lambda here, there: torch.stack([there.sum(), here.sum()]),
    "an index of the device": lambda here, there: here[torch.zeros(2, dtype=torch.long, device=there.device)],
    "a write": lambda here, there: here.index_add_(0, torch.tensor([0]), there[:1]),
    "a choice": lambda here, there: torch.where(there > 0, there, here),
    "a generator": lambda here, there: torch.rand(2, device=there.device, generator=torch.Generator()),
    "NumPy": lambda here, there: np.asarray(there),
    "a view of memory": lambda here, there: there.numpy(),
}


@pytest.mark.parametrize("name", MIXES)
def test_the_device_refuses_what_a_real_one_refuses(name: str) -> None:
    with Elsewhere():
        here = torch.ones(3, 4)
        there = torch.ones(3, 4).to("cuda")
        with pytest.raises((MixedDevices, RuntimeError, TypeError), match=r"device|generator|numpy"):
            MIXES[name](here, there)


def test_the_device_allows_what_a_real_one_allows() -> None:
    with Elsewhere():
        x = torch.arange(6.0).reshape(2, 3).to("cuda:0")
        assert isinstance(x, There) and x.is_cuda and not x.is_cpu and x.device == torch.device("cuda", 0)
        assert x.to("cuda") is x and x.cpu().is_cpu
        moved = [
            x * torch.tensor(2.0),
            x[torch.tensor([1])],
            x.clone().index_fill_(0, torch.tensor([0]).to("cuda"), 1),
        ]
        assert all(isinstance(y, There) for y in moved)
        x[:, [1]] = torch.tensor(7.0)
        assert x.tolist() == [[0.0, 7.0, 2.0], [3.0, 7.0, 5.0]]
        weight = torch.nn.Parameter(torch.ones(3).to("cuda"))
        (x @ weight).sum().backward()
        assert isinstance(weight.grad, There) and weight.grad.tolist() == [3.0, 14.0, 7.0]
    assert not isinstance(torch.ones(2), There)


def test_waiting_is_counted_where_it_is_asked_for() -> None:
    with Elsewhere() as device:
        x = torch.arange(6.0).to("cuda")
        _ = x * 2 + x.sum()
        assert not device.waits
        read: list[Any] = [
            x.sum().item(),
            bool(x.any()),
            x[x > 2],
            x.nonzero(),
            x.cpu(),
            x.tolist(),
            float(x[0]),
        ]
        assert device.waits.total() == len(read)
        assert not device.in_package()  # none of it was asked for by the package
        assert isinstance(x, Tensor)
