"""Compiled programs: the transformer says what the interpreter says, on every string there is."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from operator import eq
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.core.errors import ConfigError, CorruptArtefact, ShapeError, SiteError, StorageError, TokenError
from interp.models.small.model import SmallTransformer
from interp.rasp import (
    CompileConfig,
    CompiledProgram,
    ProgramError,
    RandomPrograms,
    SOp,
    aggregate,
    compile_program,
    indices,
    interpret,
    interpret_all,
    library,
    load_interface,
    random_program,
    select,
    sequence_map,
    tokens,
)
from interp.rasp.language import ancestors
from tests.models.builders import tracr
from tests.rasp.tracrs import PROGRAMS

PLAIN = CompileConfig()
HARD = CompileConfig(distractors=3, rotate=True, seed=5)
# Largest error of a logit: (floating type, turned) -> (of categories, of numbers). Measured on 150 random
# programs: 2.5e-21 and 1.6e-7, turned 3.2e-5 and 2.9e-3; in float64 7e-15 and 2e-15, turned 1.7e-13
# and 1.2e-11.
TOLERANCE = {
    ("float32", False): (1e-6, 1e-5),
    ("float32", True): (1e-3, 1e-2),
    ("float64", False): (1e-12, 1e-12),
    ("float64", True): (1e-10, 1e-10),
}


def expected(compiled: CompiledProgram, said: list[list[Any]]) -> Tensor:
    """The logits that stand for values, [string position output]; position 0 and padding are NaN."""
    outputs = compiled.interface.outputs
    width = 2 if outputs is None else len(outputs)
    wanted = torch.full((len(said), 1 + max(map(len, said)), width), float("nan"), dtype=torch.float64)
    for i, row in enumerate(said):
        for t, value in enumerate(row):
            plain = [float(value), 1.0] if outputs is None else [-0.5] * width
            wanted[i, t + 1] = torch.tensor(plain, dtype=torch.float64)
            if outputs is not None and value is not None:
                wanted[i, t + 1, outputs.index(value)] = 0.5
    return wanted


def error(compiled: CompiledProgram, model: Any, strings: list[Any], said: list[list[Any]]) -> float:
    ids, mask = compiled.interface.encode(strings)
    with torch.no_grad():
        logits = model(ids, attention_mask=mask)
    return float((logits - expected(compiled, said)).nan_to_num(0.0).abs().max())


def bound(compiled: CompiledProgram) -> float:
    config = compiled.config
    return TOLERANCE[config.dtype, config.rotate][compiled.interface.outputs is None]


@cache
def strings_and_answers(name: str, longest: int) -> tuple[list[Any], list[list[Any]]]:
    program, vocabulary = library()[name]
    strings = compile_program(program, vocabulary).interface.strings(longest)
    return strings, interpret_all(program, strings)


def longest_of(name: str, config: CompileConfig, full: bool) -> int:
    return 6 if full or (name != "dyck-2" and config is PLAIN) else 4


@pytest.mark.thin(2)
@pytest.mark.parametrize("config", [PLAIN, HARD], ids=["plain", "turned"])
@pytest.mark.parametrize("name", library())
def test_the_model_says_what_the_program_says_on_all_strings(
    name: str, config: CompileConfig, tmp_path: Path, full_count: bool
) -> None:
    program, vocabulary = library()[name]
    compiled = compile_program(program, vocabulary, config)
    longest = longest_of(name, config, full_count)
    strings, said = strings_and_answers(name, longest)
    assert len(strings) == sum(len(vocabulary) ** n for n in range(longest + 1))  # 1093 up to six of three
    compiled.save(tmp_path / "program")
    model = interp.load_model(tmp_path / "program")
    assert error(compiled, model, strings, said) < bound(compiled)
    if compiled.interface.outputs is not None:
        assert compiled.run(strings) == said


def test_random_programs_on_all_strings(full_count: bool) -> None:
    several = 0
    for seed in range(200 if full_count else 8):
        program = random_program(seed=seed)
        config = CompileConfig(
            distractors=seed % 4, rotate=seed % 2 == 1, dtype=("float32", "float64")[seed // 2 % 2], seed=seed
        )
        compiled = compile_program(program, "abc", config)
        strings = compiled.interface.strings(6 if full_count or seed < 2 else 4)
        said = interpret_all(program, strings)
        assert error(compiled, compiled.module, strings, said) < bound(compiled), seed
        if compiled.interface.outputs is not None:
            assert compiled.run(strings) == said, seed
        several += len({value for row in said for value in row}) > 1
    assert several >= (150 if full_count else 5)  # that is, the programs say something


def test_random_programs_follow_from_their_seed_and_settings() -> None:
    strings = ["abca", "bbac", "ccab"]
    said = [[interpret(random_program(seed=seed), s) for s in strings] for seed in (1, 1, 3)]
    assert said[0] == said[1] != said[2]
    small = random_program("ab", RandomPrograms(max_length=2, operations=1), seed=4)
    assert len(ancestors(small)) <= 4


def test_the_residual_stream_holds_every_s_op_in_its_directions() -> None:
    program, vocabulary = library()["sort"]
    compiled = compile_program(program, vocabulary, CompileConfig(rotate=True, dtype="float64", max_length=4))
    strings = compiled.interface.strings(4, least=4)
    ids, _mask = compiled.interface.encode(strings)
    last = f"blocks.{compiled.plan.n_layers - 1}.hook_resid_post"
    read = compiled.model.capture(ids, last)[last] @ compiled.directions.T
    width, seen = len(compiled.names), 0
    assert (compiled.directions @ compiled.directions.T - torch.eye(width)).abs().max() < 1e-12
    assert (compiled.directions.abs() > 0.999).sum() == 0  # nothing lies along an axis
    for sop in ancestors(compiled.plan.program):
        said = interpret_all(sop, strings)
        for value in compiled.plan.domains[sop] if sop.dtype == "categorical" else (None,):
            name = sop.name if value is None else f"{sop.name}:{value}"
            if compiled.names.count(name) == 1 and f"{sop.name}_2" not in str(compiled.names):
                rows = [[float(v == value) if value is not None else float(v) for v in row] for row in said]
                column = read[:, 1:, compiled.names.index(name)]
                assert (column - torch.tensor(rows, dtype=torch.float64)).abs().max() < 1e-9
                assert torch.equal(compiled.direction(name), compiled.directions[compiled.names.index(name)])
                seen += 1
    assert seen > 20
    with pytest.raises(SiteError, match="sort:a"):
        compiled.direction("sort:A")


def test_distractor_heads_write_and_nobody_reads() -> None:
    program, vocabulary = library()["histogram"]
    compiled = compile_program(program, vocabulary, CompileConfig(distractors=4, rotate=True, seed=2))
    strings = compiled.interface.strings(4)
    ids, mask = compiled.interface.encode(strings)
    assert len(compiled.plan.distractors) == 4 and compiled.plan.n_heads == 5
    before = compiled.module(ids, mask)
    for head in compiled.plan.distractors:
        layer, h = head[1:].split(".h")
        attn: Any = compiled.module.blocks[int(layer)].attn
        assert attn.W_O[int(h)].abs().max() > 0.1
        attn.W_O[int(h)] = 0.0
    assert (compiled.module(ids, mask) - before).abs().max() < 1e-4
    used = next(h for h in range(5) if f"a0.h{h}" not in compiled.plan.distractors)
    attn = compiled.module.blocks[0].attn
    attn.W_O[used] = 0.0
    assert (compiled.module(ids, mask) - before).abs().max() > 0.5


@pytest.mark.parametrize("name", ["reverse", "fraction-previous"])
def test_null_a_permuted_weight_or_another_program_fails(name: str) -> None:
    program, vocabulary = library()[name]
    strings, said = strings_and_answers(name, 4)
    compiled = compile_program(program, vocabulary)
    assert error(compiled, compiled.module, strings, said) < bound(compiled)
    for place in ("embed.W_E", "blocks.-1.attn.W_V", "unembed.W_U"):
        broken = compile_program(program, vocabulary, CompileConfig(seed=1)).module
        place = place.replace("-1", str(compiled.plan.n_layers - 1))
        weight = dict(broken.named_parameters())[place]
        weight.copy_(weight.roll(1, -2))
        assert error(compiled, broken, strings, said) > 0.3, place
    other = {"reverse": "sort", "fraction-previous": "induction-share"}[name]
    assert error(compiled, compiled.module, strings, strings_and_answers(other, 4)[1]) > 0.3


@pytest.mark.full
def test_transformer_lens_computes_the_same() -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    compiled = compile_program(library()["reverse"].program, "abc", HARD)
    fields = compiled.module.cfg.to_dict()
    theirs = HookedTransformer(HookedTransformerConfig.from_dict({**fields, "dtype": torch.float32}))
    theirs.load_state_dict(dict(compiled.module.named_parameters()), strict=False)
    ids, _mask = compiled.interface.encode(compiled.interface.strings(6, least=6))
    assert (theirs(ids) - compiled.module(ids)).abs().max() < 1e-3
    assert compiled.interface.decode(theirs(ids)) == compiled.run(compiled.interface.strings(6, least=6))


@pytest.mark.parametrize("name", PROGRAMS)
def test_tracrs_models_open_and_compute_what_our_programs_say(
    name: str, shared_data: Path, tmp_path: Path
) -> None:
    from interp.core.store import commit
    from interp.models.small.model import small_files

    module, info = tracr(shared_data, name)
    commit(tmp_path / name, small_files(module), schema="model")
    model = interp.load_model(tmp_path / name)
    program, vocabulary = PROGRAMS[name]
    labels: list[str] = info["residual_labels"]
    first = next(
        label for label in labels if label.startswith({"frac_prevs": "frac_prevs_1"}.get(name, f"{name}_"))
    )
    stem = first.partition(":")[0]
    columns = [i for i, label in enumerate(labels) if label.partition(":")[0] == stem]
    strings = compile_program(program, vocabulary, CompileConfig(max_length=5)).interface.strings(5, least=1)
    for n in range(1, 6):
        rows = [s for s in strings if len(s) == n][:243]
        ids = torch.tensor([[info["vocab"]["BOS"], *(info["vocab"][c] for c in s)] for s in rows])
        with torch.no_grad():
            values = model(ids)[:, 1:, columns]
        said = interpret_all(program, rows)
        if info["out_map"] is None:
            assert (values[..., 0] - torch.tensor([[float(v) for v in r] for r in said])).abs().max() < 1e-5
        else:
            names = [labels[i].rpartition(":")[2] for i in columns]
            assert [[names[i] for i in r] for r in values.argmax(-1).tolist()] == [
                [str(v) for v in r] for r in said
            ]


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    pair = sequence_map(lambda t, i: (t, i % 2 == 0), tokens, indices)
    for program in (pair, library()["fraction-previous"].program, indices.map(lambda i: Fraction(i, 2))):
        compiled = compile_program(program, ["yes", "no"], CompileConfig(max_length=3))
        compiled.save(tmp_path / "saved", overwrite=True)
        assert load_interface(tmp_path / "saved") == compiled.interface
        assert compiled.run([["yes", "no"]]) == [interpret(program, ["yes", "no"])]
    with pytest.raises(StorageError, match="exists"):
        compiled.save(tmp_path / "saved")
    (tmp_path / "saved" / "program.json").write_text("{}")
    with pytest.raises(CorruptArtefact, match="describes no program"):
        load_interface(tmp_path / "saved")
    with pytest.raises(StorageError, match=r"program\.json"):
        load_interface(tmp_path)
    odd = compile_program(tokens, [frozenset("ab")])
    with pytest.raises(ConfigError, match="cannot be saved"):
        odd.save(tmp_path / "odd")


def test_bad_input_is_one_clear_error() -> None:
    compiled = compile_program(library()["reverse"].program, "abc")
    for strings, words in (
        ("abc", "list of strings"),
        (["abx"], "not in the program's vocabulary"),
        (["a" * 7], "too long"),
    ):
        with pytest.raises(TokenError, match=words):
            compiled.run(strings)
    with pytest.raises(ShapeError, match="another program"):
        compiled.interface.decode(torch.zeros(1, 3, 4))
    with pytest.raises(ShapeError, match="one length per string"):
        compiled.interface.decode(torch.zeros(1, 3, 3), [1, 2])
    for vocabulary in ("", "aa", ["a", None]):
        with pytest.raises(ProgramError, match="a vocabulary is"):
            compile_program(tokens, vocabulary)
    with pytest.raises(ProgramError, match="the function of map fails"):  # for a value that only may come
        compile_program(library()["histogram"].program.map(lambda n: 6 // n), "abc")
    with pytest.raises(ProgramError, match="too many values"):
        compile_program(sequence_map(lambda *v: v, *[tokens] * 8), "abc")
    with pytest.raises(ProgramError, match="too many values"):
        wide = aggregate(
            select(indices, indices, eq), tokens.map(lambda t: Fraction(ord(t) ** 3, 7), "numerical")
        )
        compile_program(wide + wide * 3 + wide * 1001, [chr(i) for i in range(99, 130)])
    with pytest.raises(ConfigError, match="max_length"):
        CompileConfig(max_length=0)
    with pytest.raises(ConfigError, match="score_scale"):
        CompileConfig(score_scale=10)  # a softmax that is not hard


def test_the_smallest_programs_compile() -> None:
    identity: list[SOp] = [tokens, indices, tokens.map(lambda t: 1, "numerical")]
    for program in identity:
        compiled = compile_program(program, "a", CompileConfig(max_length=1))
        assert isinstance(compiled.module, SmallTransformer) and compiled.plan.n_layers == 1
        assert compiled.run(["a", ""]) == [interpret(program, "a"), []]
        assert compiled.run([]) == []


class Doubled:
    """A function that is an object, and has no hash."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, value: str) -> str:
        return value * 2


def test_any_callable_is_a_function() -> None:
    program = tokens.map(Doubled())
    assert compile_program(program, "ab").run(["ab"]) == [["aa", "bb"]] == [interpret(program, "ab")]


@pytest.mark.parametrize("scale", [50.0, 1000.0])
def test_scores_may_be_scaled_otherwise(scale: float) -> None:
    for name in ("sort", "fraction-previous"):
        strings, said = strings_and_answers(name, 4)
        config = CompileConfig(rotate=True, dtype="float64", score_scale=scale)
        compiled = compile_program(*library()[name], config)
        assert error(compiled, compiled.module, strings, said) < bound(compiled)
