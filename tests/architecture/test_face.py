"""The public face: every name resolves, typos are helped, editors see the same names."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import interp
from interp.core.lazy import face
from tests.architecture.source import modules


@pytest.mark.parametrize("name", interp.__all__)
def test_every_public_name_resolves_and_is_listed(name: str) -> None:
    assert getattr(interp, name) is not None
    assert name in dir(interp)


def test_an_unknown_name_is_an_attribute_error_with_the_nearest_names() -> None:
    with pytest.raises(AttributeError, match=r"load_modle.*did you mean 'load_model'"):
        interp.load_modle  # noqa: B018
    assert not hasattr(interp, "nothing_like_it_at_all")


FACES = sorted(name for name in modules() if modules()[name].path.with_suffix(".pyi").exists())


@pytest.mark.parametrize("package", FACES)
def test_the_stub_is_the_table(package: str) -> None:
    """Editors, type checkers and people see one list, and every name in it is there."""
    room, names = import_module(package), face(package)
    assert names and list(names) == room.__all__
    stub = ast.parse(modules()[package].path.with_suffix(".pyi").read_text(encoding="utf-8"))
    lines = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    assert len(lines) == len(names)  # one a line, none that the table does not read
    for name, (module, attribute) in names.items():
        found = getattr(room, name)
        if module != package and hasattr(import_module(module), attribute):
            assert found is getattr(import_module(module), attribute)
        assert name in dir(room)


def test_only_stubs_name_what_is_public() -> None:
    lazy_rooms = [m.name for m in modules().values() if "lazy(__name__)" in m.text]
    assert sorted(lazy_rooms) == FACES
    assert (modules()["interp"].path.parent / "py.typed").exists()


def result_types() -> dict[str, str]:
    """Result types of the package, by syntax: class name -> module."""
    found = {"Result": "interp.core.result"}
    size = 0
    while len(found) > size:
        size = len(found)
        for module in modules().values():
            for node in module.nodes(ast.ClassDef):
                assert isinstance(node, ast.ClassDef)
                if {ast.unparse(base) for base in node.bases} & set(found):
                    found[node.name] = module.name
    del found["Result"]
    return found


def test_every_result_type_can_be_loaded_without_importing_its_room_first() -> None:
    known = {
        name: place[0] for room in interp._WITH_RESULTS for name, place in face(f"interp.{room}").items()
    }
    for name, module in result_types().items():
        assert known.get(name) == module, name


def test_a_saved_result_loads_and_plots_in_a_fresh_process(tmp_path: Path) -> None:
    import torch

    from interp.tasks.induction import InductionHistory

    once, heads = torch.zeros(3), torch.zeros(1, 2, 2)
    InductionHistory(
        loss=once,
        accuracy=once,
        measured_at=torch.tensor([3]),
        held_out_accuracy=torch.ones(1),
        previous_token=heads,
        induction=heads,
        seconds=1.0,
    ).save(tmp_path / "history")
    code = (
        "from interp.core.result import Result\n"
        f"history = Result.load({str(tmp_path / 'history')!r})\n"
        "print(type(history).__name__, type(history.plot()).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["InductionHistory", "Figure"], done.stderr
