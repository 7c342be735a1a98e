"""The looped transformer: as deep as wanted, and exact."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

import interp
from interp.core.store import commit
from interp.models.small.model import small_files
from interp.rasp import ProgramError, SubleqMachine, run_subleq, subleq_machine

# (a, b, c): mem[b] -= mem[a]; if mem[b] <= 0: goto c
ADD = [(0, 2, 1), (2, 1, 2), (2, 2, 3)]  # b += a, cells a b t
MULTIPLY = [(0, 4, 1), (4, 2, 2), (4, 4, 3), (3, 1, 5), (4, 4, 0)]  # r += x, y times; cells x y r 1 t
COUNTDOWN = [(1, 0, 2), (2, 2, 0)]  # cells n 1 t


@pytest.fixture(scope="module")
def multiplier() -> SubleqMachine:
    return subleq_machine(MULTIPLY, 5)


@pytest.mark.parametrize(("x", "y"), [(3, 4), (-7, 9), (11, 11), (100, 3), (-128, 1)])
def test_it_multiplies(multiplier: SubleqMachine, x: int, y: int) -> None:
    memory = multiplier.run([x, y, 0, 1, 0], 5 * y)
    assert memory[2] == (x * y + 128) % 256 - 128  # 8 bits wrap around: 100 * 3 is 44
    assert memory == run_subleq(MULTIPLY, [x, y, 0, 1, 0], 5 * y)
    # Once it has ended, it stays: ten loops more, or none of the steps left out.
    assert multiplier.run([x, y, 0, 1, 0], 5 * y + 10) == memory


def test_it_adds_and_counts_down() -> None:
    adder, counter = subleq_machine(ADD, 3), subleq_machine(COUNTDOWN, 3)
    for a, b in ((5, 7), (-100, 27), (127, 1), (-128, -128)):
        assert adder.run([a, b, 0], 3)[1] == (a + b + 128) % 256 - 128
    assert counter.run([100, 1, 0], 200) == [0, 1, 0]  # six hundred layers
    assert counter.run([100, 1, 0], 100) == [50, 1, 0]


def test_random_programs_step_by_step(full_count: bool) -> None:
    draw = random.Random(1)
    for _ in range(200 if full_count else 8):
        n, cells, bits = draw.randrange(1, 9), draw.randrange(1, 9), draw.randrange(2, 9)
        address = lambda bound: draw.randrange(bound)  # noqa: E731
        program = [(address(cells), address(cells), address(n + 1)) for _ in range(n)]
        half = 1 << (bits - 1)
        memory = [draw.randrange(-half, half) for _ in range(cells)]
        machine = subleq_machine(program, cells, bits=bits)
        for loops in (1, 2, 5, 40):
            assert machine.run(memory, loops) == run_subleq(program, memory, loops, bits=bits)


def test_unrolled_it_is_a_plain_deep_model(multiplier: SubleqMachine, tmp_path: Path) -> None:
    loops = 12
    deep = multiplier.unrolled(loops)
    commit(tmp_path / "deep", small_files(deep), schema="model")
    model = interp.load_model(tmp_path / "deep")
    memory = [3, 2, 0, 1, 0]
    with torch.no_grad():
        logits = model(multiplier.encode(memory))
    assert model.cfg.n_layers == 36
    assert multiplier.decode(logits) == run_subleq(MULTIPLY, memory, loops) == [3, 0, 6, 1, 0]
    assert multiplier.run(memory, 0) == memory


def test_null_a_changed_weight_computes_something_else(multiplier: SubleqMachine) -> None:
    broken = subleq_machine(MULTIPLY, 5)
    mlp = broken.block.blocks[1].mlp
    with torch.no_grad():
        mlp.W_in.copy_(mlp.W_in[:, torch.randperm(mlp.W_in.shape[1], generator=torch.manual_seed(0))])
    try:
        assert broken.run([3, 4, 0, 1, 0], 20) != multiplier.run([3, 4, 0, 1, 0], 20)
    except ProgramError as error:
        assert "no whole numbers" in str(error)


def test_bad_input_is_one_clear_error(multiplier: SubleqMachine) -> None:
    for program, cells, words in (
        ([], 2, "has an instruction"),
        ([(0, 2, 0)], 2, "b = 2"),
        ([(0, 1, 2)], 2, "c = 2"),
        ([(-1, 1, 0)], 2, "a = -1"),
    ):
        with pytest.raises(ProgramError, match=words):
            subleq_machine(program, cells)
    with pytest.raises(ProgramError, match="another width"):
        subleq_machine(ADD, 3, bits=20)
    for memory, words in (([1, 2], "another size"), ([300, 0, 0, 1, 0], "does not fit")):
        with pytest.raises(ProgramError, match=words):
            multiplier.run(memory, 1)
        with pytest.raises(ProgramError, match=words if len(memory) > 2 else "does not exist"):
            run_subleq(MULTIPLY, memory, 1)
