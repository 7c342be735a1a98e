"""Names resolve to what was meant or to an error that says what exists."""

import importlib
import random
import subprocess
import sys

import jaxtyping
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interp.core.errors import BadName, SiteError
from interp.core.names import did_you_mean, expand, layer_count, match, slug, suggest
from tests.support.work import counted_calls

SITES = (
    "hook_embed",
    "hook_pos_embed",
    *(
        f"blocks.{layer}.{hook}"
        for layer in range(3)
        for hook in (
            "hook_resid_pre",
            "hook_resid_mid",
            "hook_resid_post",
            "attn.hook_z",
            "attn.hook_pattern",
            "mlp.hook_post",
            "ln1.hook_scale",
        )
    ),
    "ln_final.hook_normalized",
)

words = st.text("abc.1_", max_size=9)


def plain_distance(a, b):
    """Optimal string alignment by the textbook's table."""
    table = {(-1, -1): 0}
    table |= {(i, -1): i + 1 for i in range(len(a))} | {(-1, j): j + 1 for j in range(len(b))}
    for i in range(len(a)):
        for j in range(len(b)):
            options = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a[i] != b[j])]
            if i and j and a[i] == b[j - 1] and a[i - 1] == b[j]:
                options.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(options)
    return table[len(a) - 1, len(b) - 1]


# ------------------------------------------------------------------ suggest


@given(name=words.filter(bool), candidates=st.lists(words.filter(bool), min_size=1, max_size=12))
@example(name="c1_", candidates=["1", "_.1", "11c1_1"])  # the nearest is not the first looked at
def test_suggestions_are_the_nearest_by_the_textbook_distance(name, candidates):
    unique = list(dict.fromkeys(candidates))
    distances = {candidate: plain_distance(name, candidate) for candidate in unique}
    near = suggest(name, candidates)
    assert len(near) == min(3, len(unique)) == len(set(near))
    if 3 * min(distances.values()) > max(6, len(name)):
        return  # nothing is near: names that contain the query come first instead
    assert sorted(distances[c] for c in near) == sorted(distances.values())[: len(near)]
    assert [distances[c] for c in near] == sorted(distances[c] for c in near)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("blocks.0.hook_resid_pst", "blocks.0.hook_resid_post"),
        ("blocks.1.atnt.hook_z", "blocks.1.attn.hook_z"),
        ("block.2.attn.hook_patern", "blocks.2.attn.hook_pattern"),
        ("blocks.1.hook_resid_posr", "blocks.1.hook_resid_post"),
        ("HOOK_EMBED", "hook_embed"),
        ("blocks.2.resid_post", "blocks.2.hook_resid_post"),
        ("lnfinal.hook_normalised", "ln_final.hook_normalized"),
        ("attn.hook_z", "blocks.0.attn.hook_z"),
    ],
)
def test_the_meant_name_comes_first(typed, meant):
    assert suggest(typed, SITES)[0] == meant


def test_ties_go_to_the_same_layer_then_to_neighbouring_keys():
    assert suggest("blocks.2.hook_resid_p", SITES)[0] == "blocks.2.hook_resid_pre"
    assert suggest("b.1.x", ["b.2.x", "b.1x"], n=1) == ["b.1x"]
    assert suggest("cat", ["hat", "vat", "bat"], n=1) == ["vat"]  # c and v touch
    assert suggest("ab", ["pb", "qb", "ac"], n=1) == ["qb"]


def test_a_transposition_is_one_edit():
    assert suggest("abcd", ["xycd", "bacd"], n=1) == ["bacd"]


def test_no_candidates_no_suggestion():
    assert suggest("x", []) == []
    assert did_you_mean("x", []) == ""


def test_empty_and_strange_queries_still_answer():
    for query in ("", "a" * 500, "\ud800", "日本語", "\n", "."):
        assert len(suggest(query, SITES)) == 3


def test_did_you_mean_reads_as_english():
    assert did_you_mean("a1", ["a"]) == "did you mean 'a'?"
    assert did_you_mean("a1", ["a", "ab"]) == "did you mean 'a' or 'ab'?"
    assert did_you_mean("a1", ["a", "ab", "abc"]) == "did you mean 'a', 'ab' or 'abc'?"


def test_the_order_does_not_depend_on_the_hash_seed():
    code = (
        "from interp.core.names import suggest;"
        "print(suggest('blocks.x.hook_z', [f'blocks.{i}.hook_z' for i in range(12)]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.fixture
def unchecked(monkeypatch):
    """Without the suite's type checker, which looks at every name: as in production."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def test_a_query_takes_some_thousand_calls(unchecked):
    names = [f"blocks.{layer}.attn.hook_{hook}" for layer in range(12) for hook in "kqvzabcdefghijkl"]
    rng = random.Random(0)
    queries = [rng.choice(names).replace("k", "kk").replace("hook", "hok") for _ in range(200)]
    with counted_calls() as calls:
        for query in queries:
            suggest(query, names)
    assert calls.n / len(queries) < 4_500  # 2,161


# ------------------------------------------------------------------ match


def test_exact_names_globs_and_predicates_in_candidate_order():
    assert match("hook_embed", SITES) == ["hook_embed"]
    posts = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    assert match("blocks.*.hook_resid_post", SITES) == posts
    assert match("blocks.[12].hook_resid_post", SITES) == posts[1:]
    assert match("blocks.?.hook_resid_post", SITES) == posts
    assert match(lambda name: name.endswith("resid_post"), SITES) == posts
    assert match([posts[2], "hook_embed", posts[0]], SITES) == ["hook_embed", posts[0], posts[2]]
    assert match(["*_embed", "hook_embed"], SITES) == ["hook_embed", "hook_pos_embed"]
    assert match(None, SITES) == list(SITES)
    assert match((name for name in posts), SITES) == posts
    assert match("hook_embed", dict.fromkeys(SITES)) == ["hook_embed"]


def test_globs_mind_the_case_and_the_whole_name():
    with pytest.raises(SiteError):
        match("HOOK_*", SITES)
    with pytest.raises(SiteError):
        match("hook_emb?", SITES)


@pytest.mark.parametrize("patterns", ["hook_embd", ["hook_embed", "hook_embd"], ["hook_*", "hook_embd"]])
def test_one_bad_name_refuses_the_list_and_is_named(patterns):
    with pytest.raises(SiteError) as caught:
        match(patterns, SITES, where="tiny")
    assert caught.value.what == "no site 'hook_embd' in tiny (3 layers)"
    assert "did you mean 'hook_embed'" in caught.value.fix


@pytest.mark.parametrize("nothing", [[], (), iter([]), lambda name: False])
def test_asking_for_nothing_is_an_error(nothing):
    with pytest.raises(SiteError) as caught:
        match(nothing, SITES)
    assert "hook_embed" in caught.value.fix


def test_an_empty_glob_suggests_globs():
    with pytest.raises(SiteError) as caught:
        match("blocks.*.hook_resid_pst", SITES)
    assert "'blocks.*.hook_resid_post'" in caught.value.fix


@pytest.mark.parametrize("layer", ["3", "11", "-1", "999"])
@pytest.mark.parametrize("rest", ["hook_resid_post", "attn.hook_*"])
def test_a_layer_out_of_range_says_how_many_there_are(layer, rest):
    with pytest.raises(SiteError) as caught:
        match(f"blocks.{layer}.{rest}", SITES)
    assert f"layer {layer} is out of range" in caught.value.what
    assert caught.value.expected == "3 layers exist, 0 to 2"


def test_the_last_layer_is_suggested_for_one_too_many():
    with pytest.raises(SiteError) as caught:
        match("blocks.3.attn.hook_z", SITES)
    assert caught.value.fix == "did you mean 'blocks.2.attn.hook_z'?"


def test_layers_are_counted_per_prefix():
    names = ["encoder.blocks.0.x", "encoder.blocks.1.x", "decoder.blocks.0.x", "blocks.6.x"]
    assert layer_count("encoder.blocks.9.x", names) == 2
    assert layer_count("decoder.blocks.9.x", names) == 1
    assert layer_count("whatever", names) == 7
    assert layer_count("whatever", ["hook_embed"]) is None


def test_exact_names_are_looked_up(unchecked):
    class Names(dict[str, None]):
        def __iter__(self):
            raise AssertionError("an exact name needs no walk over the others")

    many = Names.fromkeys(f"blocks.{i}.hook_resid_post" for i in range(2000))
    with counted_calls() as calls:
        assert match("blocks.1999.hook_resid_post", many) == ["blocks.1999.hook_resid_post"]
    assert calls.n < 40  # 18, of which the type checker that is off makes 12


@given(st.text(max_size=12))
def test_any_pattern_matches_or_raises(pattern):
    try:
        found = match(pattern, SITES)
    except SiteError:
        return
    assert found
    assert set(found) <= set(SITES)


# ------------------------------------------------------------------ expand, slug


def test_expand_speaks_transformer_lens():
    utilities = importlib.import_module("transformer_lens.utilities")  # slow: only here
    cases = [
        (short, layer, sublayer)
        for short in (
            "embed pos_embed resid_pre resid_mid resid_post attn_out mlp_out q k v z rot_q rot_k "
            "result pattern attn attn_scores attn_logits key query value pre post mid pre_linear "
            "mlp_pre mlp_post mlp_mid scale normalized q_input attn_in"
        ).split()
        for layer in (None, 0, 11)
        for sublayer in (None, "ln1", "ln2", "a", "m", "b", "attention", "mlp", "attn")
        if layer is not None or sublayer is None
    ]
    cases += [("k6", None, None), ("scale4ln1", None, None), ("pre5", None, None)]
    cases += [("blocks.1.attn.hook_z", None, None), ("hook_embed", None, None)]
    for case in cases:
        assert expand(*case) == utilities.get_act_name(*case), case


@pytest.mark.parametrize("name", ["a", "run-1", "gpt2.layer_3", "0", "a" * 100, "console"])
def test_slugs_pass(name):
    assert slug(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        "../x",
        "/etc",
        "~",
        "a/b",
        "a\\b",
        "a\0",
        "a\n",
        " a",
        "-a",
        "_a",
        "é",
        "a" * 101,
        "con",
        "NUL.txt",
        "com1",
        "a.",
        "a:b",
        "x" * 10_000,
    ],
)
def test_names_that_must_not_become_paths_are_refused(name):
    with pytest.raises(BadName) as caught:
        slug(name)
    assert len(str(caught.value)) < 500
