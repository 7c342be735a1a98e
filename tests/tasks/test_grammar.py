"""The grammar: what it holds out is absent, what it asks has the answers a reader would give."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch

from interp.core.errors import ConfigError
from interp.tasks.catalogue import list_tasks
from interp.tasks.config import GrammarConfig
from interp.tasks.grammar import wordings
from interp.tasks.grammar import words as w
from interp.tasks.grammar.asking import encode, grammar_task, list_grammar
from interp.tasks.grammar.behaviours import Behaviour, held
from interp.tasks.grammar.corpus import ANSWER, ASKED, MIXTURE, batch, drawn, form, token_weights
from interp.tasks.grammar.facts import FACTS
from interp.tasks.grammar.rules import RULES
from interp.tasks.grammar.templates import every_template

SMALL = GrammarConfig(batch=16, n_ctx=64, seed=3)


def texts(count: int) -> list[str]:
    """Rows of the corpus as text."""
    table, config = w.vocabulary(), GrammarConfig(batch=64)
    rows = [row for t in range(count) for row in batch(config, t)[0].tolist()]
    return ["".join(table[i] for i in row[1:]) for row in rows]


@cache
def values(name: str) -> dict[str, str]:
    """For each variable of a behaviour, a regular expression of what it may be."""
    behaviour = next(b for b in MIXTURE if b.name == name)
    columns = behaviour.derive(behaviour.base(np.random.default_rng(0), 4000))
    table = w.vocabulary()
    return {
        name: "|".join(re.escape(table[i]) for i in sorted(set(column.tolist())))
        for name, column in columns.items()
        if column.dtype.kind == "i" and column.max() < len(table)
    }


def pattern(template: str, behaviour: Behaviour) -> re.Pattern[str]:
    """A template as a regular expression, written without the code that fills it."""
    allowed = values(behaviour.name)
    parts = re.split(r"( ?\{[=~]?\w+\})", f" {template}")
    seen: set[str] = set()
    out = ""
    for part in parts:
        slot = re.fullmatch(r"( ?)\{[=~]?(\w+)\}", part)
        if slot is None:
            out += re.escape(part)
        elif slot[2] in seen:
            out += f"(?P={slot[2]})"
        else:
            seen.add(slot[2])
            out += rf"(?P<{slot[2]}>{allowed[slot[2]]})"
    return re.compile(out)


CONTENT = frozenset(word for words in w.CLASSES.values() for word in words)


def skeleton(text: str) -> str:
    """A template or a text with every word of a class left open: strict, and quick to look up."""
    marked = w.SLOT.sub(" _", f" {text}")
    pieces = ("_" if p in CONTENT or p == " _" else p.strip() for p in PIECES.findall(marked))
    return f". {' '.join(pieces)}"


PIECES = re.compile(rf" _|{w.PIECE.pattern}")


# --- what is held out -----------------------------------------------------------------------------


def combinations(behaviour: Behaviour, corpus: str) -> Counter[bool]:
    """For every sentence of the behaviour found in the text: is its combination held out?"""
    table, found = w.token_ids(), Counter[bool]()
    for template in behaviour.train:
        slots = [name for _, name in form(template.text).slots]
        for match in pattern(template.text, behaviour).finditer(corpus):
            row = {name: table[match[name]] for name in slots}
            if behaviour.name == "agreement":
                kinds = w.SINGULAR + w.PLURAL
                for name in "sa":
                    if name in match.groupdict():
                        row[f"{name}_kind"] = kinds.index(match[name]) % len(w.SINGULAR)
            if behaviour.name == "greater-than":
                row["y_number"] = int(match["y"])
            for first, second in template.keys:
                if first in row and second in row:
                    found[bool(held(np.array([row[first]]), np.array([row[second]]))[0])] += 1
    return found


@pytest.mark.parametrize("behaviour", RULES, ids=lambda b: b.name)
def test_held_out_combinations_never_occur(behaviour: Behaviour, full_count: bool) -> None:
    """Read off the text itself; the null is the task, which has nothing else."""
    found = combinations(behaviour, "\n".join(texts(300 if full_count else 40)))
    assert found[False] > 100
    assert found[True] == 0
    prompts = grammar_task(behaviour.name, fillers=0).sample(60, seed=1)
    asked = behaviour.asked or {}
    keys = {template.text: template.keys[-1] for template in asked["test"]}
    for prompt in prompts:
        first, second = keys[prompt.template]
        if behaviour.name in ("agreement", "greater-than"):
            continue  # their keys are numbers, not words: the sentences above cover them
        ids = [np.array(w.ids_of((f" {prompt.variables[name]}",))) for name in (first, second)]
        assert held(*ids)[0]


@pytest.mark.parametrize("behaviour", FACTS, ids=lambda b: b.name)
def test_held_out_templates_never_occur(behaviour: Behaviour, full_count: bool) -> None:
    asked = behaviour.asked or {}
    corpus = "\n".join(map(skeleton, texts(200 if full_count else 30)))
    trained = {t.text for t in behaviour.train}
    for split in ("dev", "test", "wordings"):
        assert asked[split]
        assert not trained & {t.text for t in asked[split]}
        for template in asked[split]:
            assert skeleton(template.text) not in corpus, template.text
    assert sum(skeleton(t.text) in corpus for t in behaviour.train) > 20
    assert not {t.text for t in asked["dev"]} & {t.text for t in asked["test"]}


def test_withheld_sums_never_occur() -> None:
    source = np.random.default_rng(0)
    for behaviour in (b for b in ASKED if b.sums):
        first, second = behaviour.sums or ("", "")
        with_all = drawn(behaviour, source, 3000)
        assert held(with_all[first], with_all[second]).any()
        without = drawn(behaviour, source, 3000, withhold_sums=True)
        assert not held(without[first], without[second]).any()


def test_held_out_templates_use_words_of_the_corpus() -> None:
    literal = {p for t in every_template() for x in w.SLOT.split(f" {t}")[::3] for p in w.PIECE.findall(x)}
    known = literal | {word for words in w.CLASSES.values() for word in words}
    for behaviour in FACTS:
        for split in ("dev", "test", "wordings"):
            for template in (behaviour.asked or {})[split]:
                parts = w.SLOT.split(f" {template.text}")[::3]
                assert {piece for part in parts for piece in w.PIECE.findall(part)} <= known


# --- the corpus -----------------------------------------------------------------------------------

CHILD = """
import hashlib
from interp.tasks.config import GrammarConfig
from interp.tasks.grammar.corpus import batch
for t in (5, 0, 2):
    ids, kinds = batch(GrammarConfig(batch=16, n_ctx=64, seed=3), t)
    print(t, hashlib.sha256(ids.numpy().tobytes() + kinds.numpy().tobytes()).hexdigest())
"""


def test_batches_are_the_same_in_any_process_and_order() -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    printed = [child.communicate(timeout=900)[0] for child in children]
    assert printed[0] == printed[1]
    there = dict(line.split() for line in printed[0].splitlines())
    here = {}
    for t in (0, 2, 5):
        ids, kinds = batch(SMALL, t)
        here[str(t)] = hashlib.sha256(ids.numpy().tobytes() + kinds.numpy().tobytes()).hexdigest()
    assert here == there
    assert len(set(here.values())) == 3
    other = batch(GrammarConfig(batch=16, n_ctx=64, seed=4), 0)[0]
    assert not torch.equal(other, batch(SMALL, 0)[0])


@pytest.mark.parametrize(("rows", "n_ctx"), [(1, 2), (1, 64), (7, 23), (64, 128)])
def test_rows_are_bos_and_whole_sentences_as_far_as_they_fit(rows: int, n_ctx: int) -> None:
    ids, kinds = batch(GrammarConfig(batch=rows, n_ctx=n_ctx), 1)
    assert ids.shape == kinds.shape == (rows, n_ctx)
    table = w.vocabulary()
    assert set(ids[:, 0].tolist()) == {table.index(w.BOS)}
    assert int(ids[:, 1:].min()) >= len(w.SPECIAL)
    assert int(ids.max()) < len(table)
    # A sentence begins with a literal word, or with a slot's, which is one of few.
    beginnings = {int(form(t.text).ids[0]) for b in MIXTURE for t in b.train} - {0}
    slots = (w.NAMES, w.COUNTRIES, w.CAPITALS, w.WEEKDAYS, w.MONTHS, w.NUMBERS)
    first = {i for words in (*slots, w.POSITIVE, w.NEGATIVE) for i in w.ids_of(words)}
    assert set(ids[:, 1].tolist()) <= beginnings | first
    assert len(beginnings | first) < 0.4 * len(table)


def test_sentences_come_plain_and_with_asides_before_the_answer() -> None:
    for fact in ("pronouns", "sentiment", "capitals", "calendar"):
        written = wordings.written()[fact]["train"]
        made = wordings.wordings(fact)["train"]
        assert set(written) <= set(made)
        assert len(set(made)) > 6 * len(written)
        asides = [aside.rstrip(",") for aside in wordings.written()["asides"]]
        others = set(made) - set(written)
        with_aside = [t for t in others if any(aside in t.split("{=")[0] for aside in asides)]
        assert 0.5 < len(with_aside) / len(others) < 1
        assert not any(",," in text or ",." in text for text in others)


def test_every_behaviour_is_in_the_corpus_in_its_share() -> None:
    corpus = "\n".join(map(skeleton, texts(30)))
    seen = {
        b.name: sum(corpus.count(text) for text in {skeleton(t.text) for t in b.train})
        for b in (*RULES, *FACTS)
        if b.name != "brackets"  # a deep one contains shallow ones
    }
    total = sum(b.share for b in MIXTURE)
    for behaviour in (*RULES, *FACTS):
        if behaviour.name in seen:
            share = seen[behaviour.name] / sum(seen.values())
            assert 0.5 * behaviour.share / total < share < 2 * behaviour.share / total


def test_answers_are_marked_and_weigh_most() -> None:
    ids, kinds = batch(SMALL, 0)
    weights = token_weights(kinds)
    assert 0.05 < float((kinds == ANSWER).float().mean()) < 0.2
    assert set(weights[kinds == ANSWER].tolist()) == {2.0}
    assert weights.shape == ids.shape


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch is out of range"):
        GrammarConfig(batch=0)
    with pytest.raises(ConfigError, match="n_ctx is out of range"):
        GrammarConfig(n_ctx=1)


# --- the tasks: answers as a reader would give them -----------------------------------------------


def test_the_catalogue_has_every_behaviour() -> None:
    assert set(list_grammar()) <= set(list_tasks())


@pytest.mark.parametrize("name", list_grammar())
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_prompts_are_aligned_and_differ_in_what_decides(name: str, split: str) -> None:
    prompts = grammar_task(name, split).sample(40, seed=2)
    assert prompts == grammar_task(name, split).sample(40, seed=2)
    assert prompts != grammar_task(name, split).sample(40, seed=3)
    for prompt in prompts:
        clean, corrupted = encode(prompt.clean), encode(prompt.corrupted or "")
        assert len(clean) == len(corrupted) < 63
        assert 1 <= sum(a != b for a, b in zip(clean, corrupted, strict=True)) <= 2
        assert prompt.answers
        assert prompt.distractors
        assert not set(prompt.answers) & set(prompt.distractors)


FRONT = re.compile(
    r"(?:The \w+ \w+ likes|There was a \w+ \w+ near|\w+ likes|\w+ and the \w+ went to) the \w+\. "
)


def sentence(prompt: str) -> str:
    """A prompt without the sentences that stand in front."""
    while (front := FRONT.match(prompt)) is not None:
        prompt = prompt[front.end() :]
    return prompt


def test_indirect_object_is_the_name_that_occurs_once() -> None:
    people = {name.strip() for name in w.NAMES}
    for prompt in grammar_task("indirect-object", fillers=0).sample(50):
        named = Counter(word for word in re.findall(r"\w+", prompt.clean) if word in people)
        once = [name for name, times in named.items() if times == 1]
        assert [f" {name}" for name in once] == list(prompt.answers)


def test_sums_are_right() -> None:
    numbers = [n.strip() for n in w.NUMBERS]
    for name, cycle in (("weekdays", w.WEEKDAYS), ("months", w.MONTHS)):
        circle = [c.strip() for c in cycle]
        for split in ("train", "dev", "test", "wordings"):
            for prompt in grammar_task(name, split).sample(60):
                text = sentence(prompt.clean)
                start = next(x for x in re.findall(r"\w+", text) if x in circle)
                step = numbers.index(next(x for x in re.findall(r"\w+", text) if x in numbers)) + 1
                sign = -1 if "{=earlier}" in prompt.template else 1
                due = circle[(circle.index(start) + sign * step) % len(circle)]
                assert prompt.answers == (f" {due}",), prompt.clean


def test_capitals_and_pronouns_are_right() -> None:
    capital = dict(zip(w.COUNTRIES, w.CAPITALS, strict=True))
    for prompt in grammar_task("capitals").sample(40):
        countries = (c for c in w.COUNTRIES if re.search(rf"{c}\b", f" {sentence(prompt.clean)}"))
        country = next(countries)
        assert prompt.answers == (capital[country],)
    for prompt in grammar_task("pronouns").sample(40):
        name = next(n for n in w.NAMES if re.search(rf"\b{n.strip()}\b", sentence(prompt.clean)))
        column = 0 if name in w.MEN else 1
        assert prompt.answers[0] in {pair[column] for pair in w.PRONOUNS.values()}
        assert prompt.distractors[0] in {pair[1 - column] for pair in w.PRONOUNS.values()}


def test_later_years_are_later_and_brackets_close() -> None:
    for prompt in grammar_task("greater-than").sample(40):
        year = int(re.findall(r"\d{4}", prompt.clean)[0]) % 100
        assert {int(a) for a in prompt.answers} == set(range(year + 1, 100))
        assert {int(d) for d in prompt.distractors} == set(range(year + 1))
    closer = dict(zip("([{", ")]}", strict=True))
    for prompt in grammar_task("brackets").sample(60):
        stack: list[str] = []
        for sign in re.findall(r'[(\[{)\]}"]', prompt.clean):
            if stack and sign == stack[-1]:
                stack.pop()
            else:
                stack.append(closer.get(sign, sign))
        assert prompt.answers == (stack[-1],), prompt.clean


def test_docstring_and_induction_go_on_as_before() -> None:
    for prompt in grammar_task("docstring").sample(40):
        signature = re.findall(r"\w+", re.search(r"\( ([\w ]+)\):", prompt.clean)[1])  # pyright: ignore
        described = re.findall(r":param (\w+):", prompt.clean)
        assert prompt.answers == (f" {signature[signature.index(described[-1]) + 1]}",)
    for prompt in grammar_task("induction").sample(40):
        first, again = prompt.clean.partition("Words: ")[2].split("; ")
        listed = first.split()
        assert prompt.answers == (f" {listed[len(again.split())]}",)
        assert listed[: len(again.split())] == again.split()


def test_unknown_names_and_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="indirect-object"):
        grammar_task("indirect-objekt")
    with pytest.raises(ConfigError, match="no split"):
        grammar_task("months", "tset")
    with pytest.raises(ConfigError, match="is a rule"):
        grammar_task("docstring", "wordings")
    with pytest.raises(ConfigError, match="no sum"):
        grammar_task("pronouns", "sums")
    with pytest.raises(ConfigError, match="not a word"):
        encode("When Mary zzz")
