"""One vocabulary: every public function says model, inputs, target, site, rows, labels alike.

`f(model, inputs, target=None, *, site | sites, layer | layers, positions, config, seed)`. A word that
stands for one of ours elsewhere is refused here with ours; what is really something else is listed
with its reason.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.architecture.source import PACKAGE

ROOMS = [
    room for room in (p.name for p in PACKAGE.iterdir() if (p / "__init__.pyi").is_file()) if room != "cli"
]
OURS = {
    "rows": "x X features feats states matrix samples_matrix",
    "labels": "y targets truth_labels classes_of",
    "inputs": "input prompt prompts text texts tokens sentence sentences batch_of_text",
    "batch_size": "bs batch n_batch texts_per_pass chunk chunk_size minibatch",
    "k": "top_k topk top n_top num",
    "site": "at where hook hook_name hook_point site_name act_name source_site",
    "layer": "layer_idx layer_index block",
    "positions": "pos position_ids token_positions",
    "seed": "random_seed rng random_state",
    "config": "cfg conf settings_of params",
    "dictionary": "sae autoencoder",
    "name": "label_name title_of",
    "out": "out_dir output output_dir save_to save_dir",
    "n_random": "n_controls num_random",
}
SAID = {word: ours for ours, words in OURS.items() for word in words.split()}
"""Word -> ours."""
OTHERWISE = {
    "core.match where": "where one matches: the place that an error names",
    "core.write_text text": "what is written, nothing that a model reads",
    "dictionaries.evaluate targets": "what a transcoder should give, a matrix beside its input",
    "dictionaries.from_saelens sae": "SAELens's own object",
    "lenses.benchmark_lenses prompts": "LensPrompts: a prompt with its answers by depth",
    "lenses.decompose_positions states": "one tensor [layer context pos d], no rows",
    "lenses.score_syntax sentences": "labelled sentences of a treebank",
    "probing.align_words sentences": "labelled sentences of a treebank",
    "probing.attention_probe sentences": "labelled sentences of a treebank",
    "probing.align_spans texts": "strings in which spans are counted by character",
    "probing.align_texts texts": "strings with labels, from which inputs are made",
    "tasks.sentence_log_probability tokens": "the TokenBatch that the logits are of",
    "plotting.attention_patterns tokens": "names along both axes",
    "plotting.lines x": "the axis",
    **{
        f"tasks.{metric} batch": "a PromptBatch: prompts with their answers"
        for metric in """accuracy answer_probability log_probability logit_difference mass_difference
        metric_target preference probability_difference rank""".split()
    },
}
FIRST = {
    "dictionaries.finetune": "dictionary",
    "dictionaries.evaluate": "dictionary",
    "dictionaries.run_training": "config",
    "dictionaries.train": "config",
}
"""Functions about something else than the model, which then stands first."""
KEYWORDS = {
    "groups",
    "batch_size",
    "positions",
    "n_random",
    "prepend_bos",
    "callbacks",
    "resume",
    "provenance",
}
"""Said by name, whatever their default; `seed`, `overwrite` and `out` where they have one."""


VERBS = set(
    """ablate add aggregate align amortize append ask attribute audit benchmark called check clamp commit
    compare compile decompose did_you_mean discover distil eliminate elude esc evaluate find
    finetune fit fold from gather interpret list load lock match measure open patch plot pool probe
    project propagate prune read record report resample run save score select split steer suggest
    sweep to tokenize train wrap write zero""".split()
)
"""First words of functions; `called`, `esc` and the like are whole names."""
NOUNS = {
    "the method's name in its field": """attention_flow attention_probe attention_rollout class_lens
        code_length decoder_lens direct_logit_attribution logit_lens sparse_code sparse_sweep
        structural_probe tuned_lens v_information""",
    "what is made is called by its name: values, targets, edits, vectors, writers": """activation child
        class_score computed continuation_log_prob contrast edge_truth encoder_decoder eraser_of
        faithfulness_curve generator grammar_batch grammar_task held_out_blocks
        json_island library linear_head lstm_writer mean measured metric metric_target model_writer
        path_vectors permutation permuted_index places program_budget projection random_eraser
        random_program repeated_blocks second_order_directions slug stitch_kernel subleq_machine
        text_loss token_log_prob token_logit visible wiring""",
    "an overview, as its command is called": "bundled_models head_atlas neuron_atlas neuron_directions",
    "a metric is called by the quantity it gives": """accuracy answer_probability log_probability
        logit_difference mass_difference preference probability_difference rank sentence_log_probability""",
    "the language of RASP, and programs as the papers call them": """double_histogram dyck1 dyck2
        fraction_previous histogram induction induction_share length most_frequent reverse selector_width
        sequence_map sort""",
    "a figure is called by what it shows": """attention_page attention_patterns bars head_heatmap heatmap
        lens_heatmap lines training_curves""",
}
"""Why a function may be called by a noun -> the functions. All others begin with a verb."""


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """(room.name, function) of every room's table, and of the package's own."""
    for room in ROOMS:
        face = importlib.import_module(f"interp.{room}")
        for name in face.__all__:
            value = getattr(face, name)
            if inspect.isfunction(value):
                yield f"{room}.{name}", value


FUNCTIONS = dict(public())


def faults(name: str, function: Callable[..., Any]) -> list[str]:
    """What of a signature is not in our words, or not in our order."""
    parameters = inspect.signature(function).parameters
    words, found = list(parameters), []
    by_place = [w for w, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    for word in words:
        if word in SAID and f"{name} {word}" not in OTHERWISE:
            found.append(f"{word}: say {SAID[word]}")
    start = [w for w in words if w not in ("encoder", FIRST.get(name))]
    if "model" in by_place and start[0] != "model":
        found.append("model stands first")
    if "inputs" in words and "second" not in words and start[:2].count("inputs") == 0:
        found.append("inputs follow the model")
    if (
        "target" in by_place
        and "inputs" in by_place
        and by_place.index("target") != by_place.index("inputs") + 1
    ):
        found.append("target follows the inputs, or is said by name")
    if "config" in by_place and words[0] != "config" and by_place[-1] != "config":
        found.append("config is the last that need not be named")
    if "rows" in by_place and "labels" in by_place and by_place.index("labels") < by_place.index("rows"):
        found.append("labels follow the rows")
    for word, parameter in parameters.items():
        optional = parameter.default is not parameter.empty
        named = word in KEYWORDS or (word in ("seed", "overwrite", "out") and optional)
        if named and word in by_place and not name.startswith("core."):
            found.append(f"{word} is said by name")
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_speaks_our_words(name: str) -> None:
    assert faults(name, FUNCTIONS[name]) == []


def test_functions_are_verbs() -> None:
    nouns = {name for names in NOUNS.values() for name in names.split()}
    named = {name.partition(".")[2] for name in FUNCTIONS}
    assert nouns <= named, nouns - named
    first = {name: name.split("_")[0] for name in named - nouns}
    assert {name for name, word in first.items() if word not in VERBS and name not in VERBS} == set()
    assert not {word for word in VERBS if word not in first.values() and word not in named}, "verbs of nobody"
    assert not nouns & {name for name in named if name.split("_")[0] in VERBS}


def test_what_is_said_otherwise_exists() -> None:
    for entry in OTHERWISE:
        name, word = entry.split()
        assert word in SAID and word in inspect.signature(FUNCTIONS[name]).parameters, entry
    assert set(FIRST) <= set(FUNCTIONS)
    assert len(FUNCTIONS) > 180
    assert not set(SAID) & set(OURS)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, labels: 0,
        lambda inputs, model: 0,
        lambda model, target, inputs: 0,
        lambda model, inputs, layer, target: 0,
        lambda model, inputs, top_k=5: 0,
        lambda rows, labels, config=None, name="": 0,
        lambda labels, rows: 0,
        lambda model, inputs, seed=0: 0,
        lambda model, texts: 0,
    ],
)
def test_other_words_and_other_orders_are_found(function: Callable[..., Any]) -> None:
    assert faults("lenses.some", function)
    assert not faults("lenses.some", lambda model, inputs, target=None, *, site, seed=0: 0)


NO_HISTORY = {"probing.train_probe", "probing.fit_eraser", "dictionaries.train", "dictionaries.distil"}
"""Solved in closed form or to convergence; or, for `dictionaries.train`, what `run_training` tells."""


def test_what_trains_returns_the_artefact_with_its_history() -> None:
    found = {}
    for name, function in FUNCTIONS.items():
        verb = name.partition(".")[2].split("_")[0]
        if verb in ("train", "fit", "finetune", "distil") and not name.startswith("activations."):
            found[name] = str(inspect.signature(function).return_annotation)
    assert len(found) > 6 and set(found) >= NO_HISTORY
    for name, said in found.items():
        assert name in NO_HISTORY or re.fullmatch(r"tuple\[\w+, (FitReport|\w+History)\]", said), (name, said)
