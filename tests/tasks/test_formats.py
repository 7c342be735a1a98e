"""Other people's task files: every public one loads and says what it should; broken ones say where.

The walk over `shared/data/tasks` proves that no file is left out: each is opened by exactly one of
the two doors, and the other door says which one it is.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import ConfigError, InterpError, StorageError, TokenError
from interp.models.text.reading import load_tokenizer
from interp.tasks import LabelledCorpus, LabelledTexts, Prompts, Task, load_labels, load_task
from tests.tasks.toys import gpt2_words, ids_only

MEMBERS = {"space_time.tar.gz": ("art", "us_place", "world_place")}
"""Archives of unlike files, of which one is named."""


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "tasks"


def either(path: Path, member: str | None = None) -> Task | LabelledCorpus | LabelledTexts:
    """The content of a file through its door; the other door must point to this one."""
    found: list[Any] = []
    refused: list[InterpError] = []
    for door in (load_task, load_labels):
        try:
            found.append(door(path, member=member))
        except InterpError as error:
            refused.append(error)
    assert len(found) == 1, [str(error) for error in refused]
    wanted = "load_task" if isinstance(found[0], Task) else "load_labels"
    assert wanted in str(refused[0]) or "holds" in str(refused[0])
    return found[0]


def test_every_public_task_file_loads_and_prints(folder: Path, full_count: bool) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) >= 100
    if not full_count:  # fifty-two files of one format: every eighth of them
        alike = [path for path in files if "function_vectors" in path.parts]
        files = [path for path in files if path not in alike or alike.index(path) % 8 == 0]
    tasks = labels = 0
    for path in files:
        for member in MEMBERS.get(path.name, (None,)):
            content = either(path, member)
            if isinstance(content, Task):
                tasks += 1
                text = repr(content.sample(3, replace=True))
                assert text.count("clean      ") == 3, path
                assert "answer     " in text or content.criterion == "sentence", path
            else:
                labels += 1
                assert len(content) > 50, path
                assert len(content.to_frame()) >= len(content), path
    assert (tasks, labels) == (94 if full_count else 49, 21)


def source_rows(path: Path) -> int:
    """How many records a file has, counted without this package."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as file:
            return sum(1 for _ in csv.DictReader(file))
    text = path.read_text()
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return sum(bool(line.strip()) for line in text.splitlines())
    return len(value) if isinstance(value, list) else len(value.get("prompts", value.get("items")))


def test_no_row_is_lost(folder: Path) -> None:
    chosen = [
        *sorted((folder / "eap_ig").glob("*_gpt2.csv")),
        *(folder / "lens_eval").iterdir(),
        *(folder / "sva_feature_circuits").glob("*.json"),
        *(folder / "facts").iterdir(),
        *[p for p in (folder / "auto_circuit").iterdir() if "tracr" not in p.name],
    ]
    assert len(chosen) == 29
    for path in chosen:
        if path.name == "within_rc_train.json":
            continue  # like its test file, four times as large
        assert load_task(path).size == source_rows(path), path
    for path in (folder / "geometry_of_truth").iterdir():
        assert len(load_labels(path)) == source_rows(path), path


def test_blimp_is_all_its_paradigms_of_a_thousand_pairs(folder: Path) -> None:
    task = load_task(folder / "blimp.tar.gz")
    assert task.pool is not None
    groups = task.pool.templates()
    assert len(groups) == 29
    assert {len(group) for group in groups.values()} == {1000}
    with tarfile.open(folder / "blimp.tar.gz") as archive:
        member = archive.extractfile("blimp/npi_present_1.jsonl")
        assert member is not None
        lines = [json.loads(line) for line in member]
    assert [p.clean for p in groups["npi_present_1"]] == [line["sentence_good"] for line in lines]
    assert load_task(folder / "blimp.tar.gz", member="npi_present_1").pool == groups["npi_present_1"]


# --- EAP-IG: the text says the same as the token ids ----------------------------------------------


@pytest.mark.parametrize("name", ["ioi_gpt2", "gender-bias_gpt2"])
def test_answers_read_in_the_text_are_those_the_ids_say(folder: Path, name: str) -> None:
    path = folder / "eap_ig" / f"{name}.csv"
    tokenizer = folder.parent / "models" / "gpt2-tokenizer"
    by_text, by_id = load_task(path).pool, load_task(path, tokenizer=tokenizer).pool
    assert by_text is not None
    assert by_text == by_id


@pytest.mark.parametrize(
    "name", ["greater-than_gpt2", "greater-than-price_gpt2", "hypernymy-comma_gpt2", "sva_gpt2"]
)
def test_answers_of_eap_ig_are_single_gpt2_tokens(folder: Path, name: str) -> None:
    task = load_task(folder / "eap_ig" / f"{name}.csv")
    batch = task.sample(5).tokenize(gpt2_words(folder.parent), drop=name.startswith("sva"))
    assert batch.corrupted is not None
    assert bool((batch.answers >= 0).any(-1).all())


def test_hypernym_words_are_the_ids_beside_them(folder: Path) -> None:
    path = folder / "eap_ig" / "hypernymy-comma_gpt2.csv"
    tokenizer = load_tokenizer(folder.parent / "models" / "gpt2-tokenizer")
    with path.open(newline="") as file:
        ids = [json.loads(row["answers_idx"]) for row in csv.DictReader(file)]
    pool = load_task(path).pool
    assert pool is not None and tokenizer is not None
    for prompt, row in zip(pool, ids, strict=True):
        assert sorted(prompt.answers) == sorted(map(tokenizer.decode, row))


def test_agreement_takes_the_verbs_that_lie_beside_the_file(folder: Path, tmp_path: Path) -> None:
    path = folder / "eap_ig" / "sva_gpt2.csv"
    many = load_task(path).pool
    alone = tmp_path / "sva_gpt2.csv"
    alone.write_bytes(path.read_bytes())
    few = load_task(alone).pool
    assert many is not None and few is not None
    assert len(many[0].answers) > 1500
    assert few[0].answers == (" are", " were", " have", " do")  # "The poems that the skater likes"
    assert few[0].distractors == (" is", " was", " has", " does")
    assert not {*many[0].answers} & {*many[0].distractors}


def test_ids_that_the_text_does_not_explain_ask_for_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("clean,corrupted,correct_idx,incorrect_idx\nA b c,A b d,262,257\n")
    with pytest.raises(ConfigError, match=r"(?s)line 2, column 'correct_idx'.*tokenizer="):
        load_task(path)
    tokenizer = folder.parent / "models" / "gpt2-tokenizer"
    pool = load_task(path, tokenizer=tokenizer).pool
    assert pool is not None
    assert (pool[0].answers, pool[0].distractors) == ((" the",), (" a",))


# --- auto-circuit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ioi_prompts", "docstring_prompts", "greaterthan_gpt2-small_prompts"])
def test_pairs_of_auto_circuit_are_aligned_in_gpt2s_tokens(folder: Path, name: str) -> None:
    batch = load_task(folder / "auto_circuit" / f"{name}.json").sample(31).tokenize(gpt2_words(folder.parent))
    assert batch.corrupted is not None
    assert bool(batch.differs.any(-1).all())


def test_tracr_prompts_ask_for_the_reversed_sequence(folder: Path) -> None:
    task = load_task(folder / "auto_circuit" / "tracr_reverse_len_5_prompts.json")
    pool = task.pool
    assert pool is not None and task.ids and len(pool) == 243 * 5
    for prompt in pool:
        ids = prompt.clean.split()[1:]
        assert prompt.read_at is not None
        assert prompt.answers == (ids[::-1][prompt.read_at - 1],)
    batch = task.sample(17).tokenize(ids_only(5))
    assert batch.clean.ids.shape == (17, 6)
    assert set(batch.last.tolist()) <= set(range(1, 6))


# --- the other formats ----------------------------------------------------------------------------


def test_function_vector_prompts_are_solved_examples_and_a_question(folder: Path) -> None:
    path = folder / "function_vectors" / "abstractive" / "country-capital.json"
    pairs = {row["input"]: row["output"] for row in json.loads(path.read_text())}
    for prompt in load_task(path, shots=3).sample(40):
        *examples, question = prompt.clean.split("\n\n")
        solved = [tuple(e.removeprefix("Q: ").split("\nA: ")) for e in examples]
        assert len(solved) == 3
        assert all(pairs[one] == two for one, two in solved)
        asked = question.removeprefix("Q: ").removesuffix("\nA:")
        assert prompt.answers == (f" {pairs[asked]}",)
        assert asked not in dict(solved)
        assert prompt.corrupted is not None
        other = [e.split("\nA: ") for e in prompt.corrupted.split("\n\n")[:-1]]
        assert sorted(two for _, two in other) == sorted(two for _, two in solved)
        assert all(x[1] != y[1] for x, y in zip(other, solved, strict=True))
    assert load_task(path, shots=0).size == len(pairs)
    with pytest.raises(ConfigError, match=r"shots=-1"):
        load_task(path, shots=-1)


def test_greater_than_made_from_nouns_obeys_its_rule(folder: Path) -> None:
    path = folder / "eap_ig" / "greater-than_potential_nouns.txt"
    nouns = set(path.read_text().split())
    for prompt in load_task(path).sample(50, seed=3):
        words = prompt.clean.split()
        start, noun = words[6], words[1]
        assert noun in nouns and 2 <= int(start[2:]) <= 98
        assert all(int(answer) > int(start[2:]) for answer in prompt.answers)
        assert len(prompt.answers) + len(prompt.distractors) == 100
        assert prompt.corrupted == prompt.clean.replace(start, f"{start[:2]}01")


def test_winobias_asks_for_the_pronoun_and_the_two_sides_disagree(folder: Path) -> None:
    sides = [
        load_task(folder / "winobias" / f"{side}_stereotyped_type1.txt.test").pool for side in ("pro", "anti")
    ]
    assert sides[0] is not None and sides[1] is not None
    assert sides[0][0].clean == "The janitor reprimanded the accountant because"
    assert sides[0][0].answers == (" she",) and sides[0][0].distractors == (" he",)
    swapped = sum(a.answers != b.answers for a, b in zip(*sides, strict=True))
    assert swapped > 0.95 * len(sides[0])
    assert "[" not in repr(sides[0])


def test_repeated_names_are_the_distractors_of_facts_about_gifts(folder: Path) -> None:
    pool = load_task(folder / "facts" / "ioi_dual_path.json").pool
    assert pool is not None
    assert pool[0].answers == (" Deanna",) and pool[0].distractors == (" Eleanor",)
    assert all(p.distractors for p in pool)


def test_lens_items_ask_for_the_target_or_the_thought(folder: Path) -> None:
    pools = {
        name: load_task(folder / "lens_eval" / f"lens-eval-{name}.json").pool
        for name in ("multihop", "poetry", "multilingual")
    }
    assert pools["multihop"] is not None and pools["poetry"] is not None
    first = pools["multihop"][0]
    assert first.answers == (" Atlantic",) and first.clean.endswith("is the")
    assert first.variables["intermediates"] == "Brazil"
    assert pools["poetry"][0].answers == (" death",)
    assert pools["multilingual"] is not None
    assert pools["multilingual"][0].answers == ("pequeño",)  # after an opening quotation mark


# --- own files ------------------------------------------------------------------------------------

OWN_JSON = {
    "name": "cats",
    "metric": "rank",
    "criterion": "preference",
    "bar": 0.9,
    "prompts": [
        {
            "clean": "the cat",
            "corrupted": "the dog",
            "answers": [" a"],
            "distractors": [" b"],
            "template": "t",
            "variables": {"k": "v"},
            "read_at": 1,
        }
    ],
}
OWN_CSV = 'clean,corrupted,answers,distractors,template,noun\n"the, cat",the dog, a| c, b,t,cat\n'


def written(folder: Path, name: str, content: str | bytes | object) -> Path:
    path = folder / name
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_own_files_say_everything(tmp_path: Path) -> None:
    task = load_task(written(tmp_path, "a.json", OWN_JSON))
    assert (task.name, task.metric, task.criterion, task.bar) == ("cats", "rank", "preference", 0.9)
    assert task.pool is not None
    assert task.pool[0].variables == {"k": "v"} and task.pool[0].read_at == 1
    pool = load_task(written(tmp_path, "b.csv", OWN_CSV)).pool
    assert pool is not None
    assert pool[0].clean == "the, cat" and pool[0].answers == (" a", " c")
    assert pool[0].variables == {"noun": "cat"}
    lines = "\n".join(json.dumps(row) for row in OWN_JSON["prompts"])
    assert load_task(written(tmp_path, "c.jsonl", lines)).pool == task.pool


@pytest.mark.parametrize(
    "dress",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.rstrip("\n").encode(),
        lambda text: text.encode() + b"\n\n",
    ],
    ids=["BOM", "CRLF", "no last newline", "blank lines"],
)
def test_how_a_file_was_saved_does_not_matter(tmp_path: Path, dress: Any) -> None:
    plain = load_task(written(tmp_path, "plain.csv", OWN_CSV)).pool
    assert load_task(written(tmp_path, "b.csv", dress(OWN_CSV))).pool == plain
    zipped = gzip.compress(dress(OWN_CSV))
    assert load_task(written(tmp_path, "b.csv.gz", zipped)).pool == plain


def test_other_encodings_are_named_and_can_be_asked_for(tmp_path: Path) -> None:
    text = OWN_CSV.replace("the dog", "l'été")
    path = written(tmp_path, "latin.csv", text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"(?s)latin.csv, line 2: not utf-8.*0xe9.*latin-1"):
        load_task(path)
    assert load_task(path, encoding="latin-1").sample(1)[0].corrupted == "l'été"
    wide = written(tmp_path, "wide.csv", text.encode("utf-16"))
    with pytest.raises(ConfigError, match=r"(?s)but utf-16.*encoding='utf-16'"):
        load_task(wide)
    assert load_task(wide, encoding="utf-16").size == 1
    with pytest.raises(ConfigError, match="unknown encoding"):
        load_task(path, encoding="klingon")


HYPERNYMS = "clean,corrupted,answers_idx,answers,corrupted_answers,corrupted_answers_idx,hypernym"
BROKEN: dict[str, tuple[str, str | bytes | object, tuple[str, ...]]] = {
    "empty": ("a.csv", "", ("a.csv", "empty")),
    "blank": ("a.csv", "  \n\n", ("a.csv", "empty")),
    "header only": ("a.csv", "clean,answers\n", ("a.csv", "no rows")),
    "twice": ("a.csv", "clean,answers,clean\na,b,c\n", ("line 1", "'clean'", "two columns")),
    "ragged": ("a.csv", "clean,answers\na,b\nc,d,e\n", ("line 3", "3 fields", "2 fields")),
    "quote": ("a.csv", 'clean,answers\n"a,b\nc,d\n', ("line 2", "not a table")),
    "no text": ("a.csv", "clean,answers\na,b\n,d\n", ("line 3", "'clean'", "text expected")),
    "NUL": ("a.csv", b"clean,answers\na,b\0\n", ("line 2", "NUL")),
    "typo": ("a.csv", "claen,answers\na,b\n", ("line 1", "'claen'", "did you mean 'clean'")),
    "json": ("a.json", '{"prompts": [\n  {"clean": "a",}\n]}', ("a.json", "line 2", "JSON")),
    "no list": ("a.json", {"prompts": {}}, ("a.json", "prompts", "list")),
    "no object": ("a.json", {"prompts": ["a"]}, ("prompts", "object")),
    "field": (
        "a.json",
        {"prompts": [{"clean": "a", "answer": ["b"]}]},
        ("prompts[0].answer", "unknown", "did you mean 'answers'"),
    ),
    "type": ("a.json", {"prompts": [{"clean": "a"}, {"clean": 3}]}, ("prompts[1].clean", "3")),
    "answers": ("a.json", {"prompts": [{"clean": "a", "answers": [1]}]}, ("answers", "[1]")),
    "no answer": ("a.json", {"prompts": [{"clean": "a", "answers": [""]}]}, ("answers", "empty")),
    "metric": ("a.json", {"metric": "rnak", "prompts": [{"clean": "a"}]}, ("metric", "'rnak'")),
    "read_at": ("a.json", {"prompts": [{"clean": "a", "read_at": "x"}]}, ("read_at", "'x'")),
    "jsonl": ("a.jsonl", '{"clean": "a", "answers": []}\nnonsense\n', ("line 2", "nonsense")),
    "auto": (
        "a.json",
        {"prompts": [{"clean": "a", "corrupt": "b", "answers": []}]},
        ("prompts[0].wrong_answers", "missing"),
    ),
    "tracr": (
        "a.json",
        {"prompts": [{"clean": [1, 2], "corrupt": [1, "2"], "answers": [[1]], "wrong_answers": [[2]]}]},
        ("corrupt", "token ids"),
    ),
    "tracr length": (
        "a.json",
        {"prompts": [{"clean": [1, 2], "corrupt": [1, 2], "answers": [[1]] * 3, "wrong_answers": [[2]]}]},
        ("answers", "3", "1"),
    ),
    "year": ("a.csv", "clean,corrupted,correct_idx\na,b,99\n", ("line 2", "_idx", "0 to 98")),
    "id": ("a.csv", "clean,corrupted,correct_idx\na,b,x\n", ("line 2", "correct_idx", "'x'")),
    "id 1_0": ("a.csv", "clean,corrupted,correct_idx\na,b,1_0\n", ("correct_idx", "'1_0'")),
    "words": ("a.csv", f"{HYPERNYMS}\na,b,[],gem,[],[],x\n", ("line 2", "'answers'", "gem")),
    "prefix": (
        "a.json",
        {"clean_prefix": "a", "patch_prefix": "b", "clean_answer": "", "patch_answer": "d"},
        ("line 1", "clean_answer"),
    ),
    "pair": ("a.json", [{"input": "a", "output": "b"}, {"input": "c"}], ("[1]", "output")),
    "wino": ("a.txt", "1 [The cook] said [she] ran.\n2 The cook ran.\n", ("line 2", "brackets")),
    "analogy": ("a.txt", ": x\na b c d\na b c\n", ("line 3", "four words")),
    "fact": ("a.json", [{"prompt": "a", "answer": "b"}, 3], ("[1]", "object")),
    "item": (
        "a.json",
        {
            "items": [
                {"prompt": "a", "intermediates": ["b"]},
                {"prompt": "a", "intermediates": "b", "target": 3},
            ]
        },
        ("items[1].target", "text expected", "3"),
    ),
    "no item": ("a.json", {"items": [{"prompt": "a", "intermediates": ["b"]}, []]}, ("items[1]", "object")),
    "minimal": (
        "a.jsonl",
        '{"sentence_good": "a", "sentence_bad": "b"}\n{"sentence_good": "a"}\n',
        ("line 2", "sentence_bad", "missing"),
    ),
    "prose": ("a.txt", "Call me Ishmael.\n", ("a.txt, line 1", "no format", "BLiMP")),
    "binary": ("a.json", bytes(range(128, 256)), ("a.json", "line 1", "not utf-8")),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_say_file_place_value_and_what_was_expected(tmp_path: Path, case: str) -> None:
    name, content, parts = BROKEN[case]
    path = written(tmp_path, name, content)
    with pytest.raises(ConfigError) as caught:
        load_task(path)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_missing_files_are_helped(tmp_path: Path) -> None:
    written(tmp_path, "prompts.csv", OWN_CSV)
    with pytest.raises(StorageError, match=r"(?s)no such file.*'prompts.csv'"):
        load_task(tmp_path / "promts.csv")
    with pytest.raises(StorageError, match="folder"):
        load_task(tmp_path)
    with pytest.raises(StorageError, match="cannot be read"):
        load_task(written(tmp_path, "a.csv.gz", b"no gzip"))
    with pytest.raises(StorageError, match="cannot be read"):
        load_task(written(tmp_path, "a.zip", b"no zip"))
    with pytest.raises(StorageError, match="cannot be read"):
        load_task(str(tmp_path / ("x" * 300 + ".csv")))
    with pytest.raises(ConfigError, match="no archive"):
        load_task(tmp_path / "prompts.csv", member="x")
    with pytest.raises(ConfigError, match="no tokenizer lies"):
        load_task(tmp_path / "prompts.csv", tokenizer=tmp_path)


def test_members_of_archives_are_found_by_name(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in (("in/one.csv", OWN_CSV), ("in/two.csv", OWN_CSV.replace("cat", "cow"))):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    path = written(tmp_path, "both.tar.gz", stream.getvalue())
    assert load_task(path).size == 2
    for member in ("two", "two.csv", "in/two.csv"):
        assert load_task(path, member=member).sample(1)[0].clean == "the, cow"
    with pytest.raises(ConfigError, match="did you mean 'two'"):
        load_task(path, member="tow")


BASES = [
    json.dumps(OWN_JSON),
    OWN_CSV,
    "1 [The cook] said [she] ran.\n",
    ": x\na b c d\n",
    '{"clean_prefix": "a", "patch_prefix": "b", "clean_answer": "c", "patch_answer": "d"}\n',
    "clean,corrupted,correct_idx,incorrect_idx\nA and B ran, A b,c,1,2\n",
    '[{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]',
    '{"items": [{"prompt": "a"}]}',
]


@given(
    base=st.sampled_from(BASES),
    cut=st.integers(0, 200),
    junk=st.binary(max_size=6) | st.sampled_from([b",", b'"', b"\n", b"{", b"]", b"\0", b"null"]),
    drop=st.integers(0, 12),
)
def test_damaged_files_give_our_errors_or_a_task(
    tmp_path_factory: pytest.TempPathFactory, base: str, cut: int, junk: bytes, drop: int
) -> None:
    data = base.encode()
    cut %= len(data)
    path = written(tmp_path_factory.mktemp("fuzz"), "a.json", data[:cut] + junk + data[cut + drop :])
    for door in (load_task, load_labels):
        try:
            content = door(path)
        except InterpError:
            continue
        assert len(repr(content)) > 0
        if isinstance(content, Task):
            assert isinstance(content.sample(1, replace=True), Prompts)


def test_public_prompts_meet_another_tokenizer_with_an_explanation(folder: Path) -> None:
    from interp.models import load_model

    model = load_model(folder.parent / "models" / "stories260k")
    task = load_task(folder / "auto_circuit" / "ioi_prompts.json")
    with pytest.raises(TokenError, match=r"prompt \d+: (clean and corrupted|the answer)"):
        task.sample(20).tokenize(model)
