"""Tasks: samples depend on (n, seed) only, hold no prompt twice, and say when there are too few."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import ConfigError
from interp.core.randomness import generator
from interp.tasks import Prompt, Prompts, Task, catalogue, list_tasks, load_task
from interp.tasks.catalogue import bundled
from tests.tasks.toys import unchecked

POOL = Prompts([Prompt(f"text {i}", None, (" yes",)) for i in range(31)])


def drawn(n: int, seed: int) -> list[Prompt]:
    """A sampler with 53 different prompts, each draw independent of the others."""
    source = generator(seed, "test")
    import torch

    return [Prompt(f"{i}") for i in torch.randint(53, (n,), generator=source).tolist()]


MADE = Task(name="made", sampler=drawn)
FIXED = Task(name="fixed", pool=POOL)


@pytest.mark.parametrize("task", [MADE, FIXED])
@given(n=st.integers(1, 31), seed=st.integers(0, 10**9))
def test_samples_depend_on_n_and_seed_only_and_hold_nothing_twice(task: Task, n: int, seed: int) -> None:
    once = task.sample(n, seed)
    task.sample(7, seed + 1)
    assert once == task.sample(n, seed)
    assert len(once) == n == len(set(once.clean))
    assert once.name == task.name


@pytest.mark.parametrize("task", [MADE, FIXED])
def test_another_seed_is_another_sample(task: Task) -> None:
    assert task.sample(11, 0) != task.sample(11, 1)


def test_every_prompt_of_a_pool_has_the_same_chance() -> None:
    counted = Counter(text for seed in range(400) for text in FIXED.sample(3, seed).clean)
    assert set(counted) == set(POOL.clean)
    assert max(counted.values()) < 3 * min(counted.values())  # expected 38.7 each


def test_the_whole_pool_can_be_had() -> None:
    assert sorted(FIXED.sample(31).clean) == sorted(POOL.clean)
    assert sorted(MADE.sample(53).clean, key=int) == [str(i) for i in range(53)]


@pytest.mark.parametrize(("task", "size"), [(MADE, 53), (FIXED, 31)])
def test_too_few_prompts_is_an_error_that_counts_them(task: Task, size: int) -> None:
    with pytest.raises(ConfigError) as caught:
        task.sample(size + 1)
    assert caught.value.expected == f"1 to {size}"
    assert f"n={size}" in str(caught.value.fix)
    more = task.sample(2 * size + 1, replace=True)
    assert len(more) == 2 * size + 1
    assert max(Counter(more.clean).values()) == 3


def test_a_file_that_repeats_a_prompt_has_it_once() -> None:
    task = Task(name="twice", pool=Prompts([*POOL, *POOL]))
    assert task.size == 62
    with pytest.raises(ConfigError, match="only 31 different"):
        task.sample(32)


def test_templates_and_variables_do_not_make_a_prompt_another() -> None:
    same = [Prompt("x", template="a"), Prompt("x", template="b", variables={"k": "v"})]
    with pytest.raises(ConfigError, match="only 1 different"):
        Task(name="same", pool=Prompts(same)).sample(2)


def test_a_sampler_that_gives_nothing_ends() -> None:
    empty = Task(name="empty", sampler=lambda n, seed: [])
    with pytest.raises(ConfigError, match="no prompts"):
        empty.sample(1)


@pytest.mark.parametrize("n", [0, -3])
def test_a_sample_has_a_prompt(n: int) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        FIXED.sample(n)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"metric": "logit_diference", "pool": POOL}, "did you mean 'logit_difference'"),
        ({"criterion": "right", "pool": POOL}, "unknown criterion"),
        ({}, "neither"),
        ({"pool": POOL, "sampler": drawn}, "both"),
    ],
)
def test_impossible_tasks_are_refused(fields: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        unchecked(Task, name="x", **fields)


def test_bundled_names_resolve_and_typos_are_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"made-up": f"{__name__}:MADE", "made-later": f"{__name__}:later"}
    monkeypatch.setattr(catalogue, "TASKS", rows)
    monkeypatch.setattr("interp.tasks.files.TASKS", rows)
    assert list_tasks() == ["made-up", "made-later"]
    assert load_task("made-up") is MADE
    assert bundled("made-later").name == "made-later"
    with pytest.raises(ConfigError, match=r"(?s)no bundled task 'made-upp'.*'made-up'"):
        load_task("made-upp")


def later(name: str) -> Task:
    return Task(name=name, pool=POOL)


def test_every_bundled_task_can_be_sampled() -> None:
    for name in list_tasks():
        assert len(bundled(name).sample(3)) == 3, name
