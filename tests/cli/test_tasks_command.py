"""`interp tasks`: prompts as text and as JSON, from a file; refusals with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interp.cli.main import main
from interp.tasks import Prompt, Prompts, Task, list_tasks, load_task
from interp.tasks.catalogue import described

ROWS = [Prompt(f"the {w} near the cat", f"a {w} near the cat", (" yes",), (" no",)) for w in "abc"]


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(Prompts(ROWS, "mine").save(tmp_path / "mine.json"))


def test_it_prints_prompts_as_text(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", file, "--n", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mine\n3 prompts; metric logit_difference, right by accuracy\n")
    assert out.count("clean      'the ") == out.count("corrupted  'a ") == 2
    assert out.count("answer     ' yes'") == 2


def test_it_prints_json(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", file, "--n", "9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompts"] == 3
    assert sorted(row["clean"] for row in found["sample"]) == sorted(p.clean for p in ROWS)


def test_it_lists_what_is_bundled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == list_tasks()
    assert main(["tasks"]) == 0
    assert all(name in capsys.readouterr().out for name in list_tasks()[:1])


def test_what_is_no_task_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", str(tmp_path / "mine.json")]) == 2
    assert "no such file" in capsys.readouterr().err
    labels = tmp_path / "labels.csv"
    labels.write_text("text,label\na,1\n")
    assert main(["tasks", str(labels)]) == 2
    assert "load_labels" in capsys.readouterr().err


def test_the_list_says_what_the_tasks_say() -> None:
    rows = described()
    assert [row["name"] for row in rows] == list_tasks()
    for row in rows:
        task = load_task(row["name"])
        assert isinstance(task, Task)
        assert (row["description"], row["criterion"]) == (task.description, task.criterion)


def test_flags_come_in_pairs_with_the_positive_text_on_the_positive_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["probe", "--help"])
    said = capsys.readouterr().out
    assert "--standardise, --no-standardise" in said and "--balanced, --no-balanced" in said
