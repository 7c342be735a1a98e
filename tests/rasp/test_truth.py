"""Edge truths: what the program alone says, patching the weights by brute force confirms."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import product
from operator import eq
from pathlib import Path
from typing import Any, get_args

import pytest

import interp
from interp.core.errors import ConfigError, CorruptArtefact, StorageError, TokenError
from interp.rasp import (
    CompileConfig,
    CompiledProgram,
    ProgramError,
    RandomPrograms,
    aggregate,
    compile_program,
    edge_truth,
    indices,
    interpret,
    length,
    library,
    load_truths,
    random_program,
    select,
    sequence_map,
    tokens,
)
from interp.rasp.config import Ablation
from tests.rasp.patched import edges_that_matter
from tests.rasp.tracrs import PROGRAMS

ABLATIONS = get_args(Ablation)
SMALL = ("fraction-previous", "reverse", "dyck-1", "induction-share")


@cache
def made(name: str, longest: int, turned: bool = False) -> CompiledProgram:
    program, vocabulary = library()[name]
    config = CompileConfig(
        max_length=longest, distractors=longest - 1, rotate=turned, dtype="float64", seed=3
    )
    return compile_program(program, vocabulary, config)


@cache
def plain(name: str, longest: int) -> CompiledProgram:
    program, vocabulary = library()[name]
    return compile_program(program, vocabulary, CompileConfig(max_length=longest))


def confirmed(compiled: CompiledProgram, ablation: Any, longest: int) -> None:
    truth = edge_truth(compiled, ablation)
    changes = edges_that_matter(compiled, truth.edges, ablation, longest)
    assert {name for name, change in changes.items() if change > 1e-6} == set(truth.matters)
    # The two sorts lie far apart: no edge matters by a hair.
    assert truth.largest_without < 1e-6 and (not truth.matters or truth.smallest_with > 1e-3)
    assert not any(edge.startswith(tuple(f"{d}->" for d in truth.distractors)) for edge in truth.matters)
    assert set(truth.matters) <= set(truth.carries) <= set(truth.edges)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", SMALL)
def test_brute_force_on_the_weights_finds_the_same_edges(name: str, ablation: str) -> None:
    confirmed(made(name, 2, turned=name in ("reverse", "dyck-1")), ablation, 2)


@pytest.mark.full
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize(
    "name", ["sort", "induction", "most-frequent", "histogram", "double-histogram", *SMALL]
)
def test_brute_force_finds_the_same_edges_of_every_program(name: str, ablation: str) -> None:
    longest = 2 if ablation == "resample" else 3  # of each string with each other one
    confirmed(made(name, longest, turned=True), ablation, longest)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_random_programs_have_the_edges_that_brute_force_finds(ablation: str, full_count: bool) -> None:
    longest = 3 if full_count else 2
    for seed in range(25 if full_count else 3):
        program = random_program("ab", RandomPrograms(max_length=longest), seed=seed)
        config = CompileConfig(max_length=longest, distractors=1, rotate=True, dtype="float64", seed=seed)
        compiled = compile_program(program, "ab", config)
        truth = edge_truth(compiled, ablation)
        changes = edges_that_matter(compiled, truth.edges, ablation, longest)
        found = {name for name, change in changes.items() if change > 1e-6}
        assert found == set(truth.matters), seed


def test_the_resample_truth_of_reverse_is_that_of_values_exchanged_in_the_exact_interpreter() -> None:
    opposite = sequence_map(lambda n, i: n - 1 - i, length(), indices)
    moved = indices.map(lambda i: i)  # one s-op per reader, so that each can be given values of its own
    read = tokens.map(lambda t: t)
    program = aggregate(select(moved, opposite, eq), read)
    matters = edge_truth(plain("reverse", 3), "resample").matters
    strings = list(product("abc", repeat=3))
    by_hand = {"embed->a2.h0<v>": read, "m1->a2.h0<q>": opposite, "pos->a2.h0<k>": moved}
    for edge, sop in by_hand.items():
        sent = {tuple(interpret(sop, other)) for other in strings}
        changed = any(
            interpret(program, string, given={sop: row}) != interpret(program, string)
            for string, row in product(strings, sent)
        )
        assert changed == (edge in matters)


def test_the_truth_depends_on_the_ablation_and_on_the_strings() -> None:
    compiled = plain("reverse", 3)
    by = {ablation: set(edge_truth(compiled, ablation).matters) for ablation in ABLATIONS}
    assert by["resample"] == {"embed->a2.h0<v>", "a2.h0->logits"}
    assert by["resample"] < by["zero"] and "m1->a2.h0<q>" in by["zero"]
    longest = compiled.interface.strings(3, least=3)
    only = edge_truth(compiled, "zero", strings=longest, over="the 27 strings of 3 tokens")
    # At full length no width at all is read as the largest one, which is right.
    assert by["zero"] - set(only.matters) == {"embed->a0.h0<v>", "a0.h0->m0"}
    assert only.over == "the 27 strings of 3 tokens" and only.to_dict()["matters"] == list(only.matters)
    joined = edge_truth(compiled, "zero", split_embed=False)
    assert not any("pos->" in edge for edge in joined.edges) and "embed->a2.h0<k>" in joined.matters
    assert edge_truth(compiled, "zero").over == "all 39 strings of 1 to 3 tokens from a, b, c"


def test_the_output_may_be_compared_at_the_last_token_alone() -> None:
    compiled = plain("reverse", 3)
    everywhere, last = edge_truth(compiled, "zero"), edge_truth(compiled, "zero", positions="last")
    assert everywhere.matters == last.matters and (everywhere.positions, last.positions) == ("all", "last")
    first = sequence_map(lambda t, i: t if i == 0 else "x", tokens, indices)
    compiled = compile_program(first, "ab", CompileConfig(max_length=2))
    strings = list(product("ab", repeat=2))
    found = edge_truth(compiled, "resample", strings=strings, over="pairs")
    assert found.matters == ("embed->m0", "m0->logits")
    assert edge_truth(compiled, "resample", strings=strings, over="pairs", positions="last").matters == ()


def test_truths_lie_beside_the_saved_model(tmp_path: Path) -> None:
    compiled = plain("reverse", 3)
    truths = [edge_truth(compiled, ablation) for ablation in ABLATIONS]
    compiled.save(tmp_path / "reverse", truths=truths)
    assert load_truths(tmp_path / "reverse") == truths
    assert interp.load_model(tmp_path / "reverse").cfg.n_layers == 3
    for text, words in (
        ("[{}]", "holds no edge truths"),
        ("{}x", "holds no edge truths"),
        ("[1]", "holds no"),
    ):
        (tmp_path / "reverse" / "truth.json").write_text(text)
        with pytest.raises(CorruptArtefact, match=words):
            load_truths(tmp_path / "reverse")
    with pytest.raises(StorageError, match="no edge truths in"):
        load_truths(tmp_path)


def test_a_program_whose_output_is_the_same_for_all_strings_of_a_length_has_no_resample_truth() -> None:
    compiled = compile_program(length(), "ab", CompileConfig(max_length=3))
    truth = edge_truth(compiled, "resample")
    assert truth.matters == () and truth.is_degenerate
    assert not edge_truth(compiled, "zero").is_degenerate


def test_null_the_truth_of_another_program_is_another() -> None:
    compiled, other = made("histogram", 2), made("fraction-previous", 2)
    assert set(edge_truth(compiled, "zero").matters) != set(edge_truth(other, "zero").matters)
    # A machine that ran another program would be found out by brute force.
    wrong = replace(compiled, plan=replace(compiled.plan, mlps=((),)))
    with pytest.raises(KeyError):
        edge_truth(wrong, "zero")


# What our truth and tracr's do not share, per ablation: tracr has no biases, so its constants come from
# the embedding's direction `one`, along edges; and its outputs include the direction in which a selector
# width lies before the MLP reads it.
HELPER = {"a0.h0->logits"}
ONLY_THEIRS = {
    ("count_a", "resample"): HELPER,
    ("count_a", "zero"): HELPER | {"input->m0"},
    ("hist", "resample"): HELPER,
    ("hist", "zero"): HELPER | {"input->m0"},
    ("length", "zero"): HELPER | {"input->m0", "input->a0.h0<v>"},
    ("reverse", "zero"): {"input->m0"},
}
# Without a query theirs sees all positions alike, which is what `length` selects; ours, whose start
# token has a score of its own, sees the start token.
ONLY_OURS = {("length", "zero"): {"input->a0.h0<q>"}, ("reverse", "zero"): {"input->a0.h0<q>"}}


@pytest.mark.parametrize("ablation", ["resample", "zero"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_tracrs_edges(name: str, ablation: Any, shared_data: Path) -> None:
    stored = json.loads((shared_data / "models" / "tracr" / "truth.json").read_text())[name]
    program, vocabulary = PROGRAMS[name]
    compiled = compile_program(program, vocabulary, CompileConfig(max_length=5))
    strings = compiled.interface.strings(5, least=5)
    if len(strings) > 243:  # four letters: the pairs of all strings are the full suite's
        strings = strings[:: len(strings) // 200]
    truth = edge_truth(compiled, ablation, strings=strings, over="strings of 5 tokens", split_embed=False)
    ours = {edge.replace("embed->", "input->") for edge in truth.matters}
    theirs = set(stored[f"functional_{ablation}"])
    assert len(truth.edges) == stored["total_edges"]
    assert theirs - ours == ONLY_THEIRS.get((name, ablation), set())
    assert ours - theirs == ONLY_OURS.get((name, ablation), set())


def test_bad_input_is_one_clear_error() -> None:
    compiled = made("histogram", 2)
    past_the_type_checker = getattr(edge_truth, "__wrapped__", edge_truth)
    with pytest.raises(ConfigError, match="ablation"):
        past_the_type_checker(compiled, "zeroed")
    with pytest.raises(ProgramError, match="are named"):
        edge_truth(compiled, "zero", strings=["ab"])
    with pytest.raises(ProgramError, match="are named"):
        edge_truth(compiled, "zero", over="mine")
    with pytest.raises(ProgramError, match="no string"):
        edge_truth(compiled, "zero", strings=[""], over="nothing")
    with pytest.raises(TokenError, match="vocabulary"):
        edge_truth(compiled, "zero", strings=["ax"], over="mine")
    with pytest.raises(TokenError, match="too long"):
        edge_truth(compiled, "zero", strings=["aaa"], over="mine")
