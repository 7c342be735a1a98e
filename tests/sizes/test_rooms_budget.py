"""Every public function, with no memory left: refused by name before a model runs, or it says why not.

The calls are those of `tests/devices`. What is not refused goes in blocks (`tests/sizes` counts their
peaks), or makes nothing that is larger than what it was given.
"""

from __future__ import annotations

from typing import Any

import pytest

from interp.core.errors import MemoryBudgetError
from interp.models import budget
from interp.models.running import Running
from tests.devices.place import Place
from tests.devices.test_devices import ROOMS

GIVEN = "makes nothing larger than its arguments"
BLOCKS = "reads weights or rows in blocks"
OWN = "runs a network of its own, not a language model's layers"
ONE = "runs the model as it is, on the caller's batch"
TINY = "a sample in the thousands at most, by its own settings"
WRITES = "disk: rows of one shard at a time"
GOES_ON: dict[str, dict[str, str]] = {
    "core": dict.fromkeys(("check_finite", "generator"), GIVEN),
    "models": {
        **dict.fromkeys(("SmallTransformer", "load_model", "wrap"), "the model itself"),
        **dict.fromkeys(("TokenBatch", "zero", "add", "steer", "clamp", "project_out", "Intervention"), ONE),
    },
    "activations": {"fit": GIVEN, **dict.fromkeys(("TokenSequences", "tokenize_texts"), "ids, no rows")},
    "tasks": {
        **dict.fromkeys(
            (
                "measure accuracy answer_probability log_probability logit_difference mass_difference "
                "preference probability_difference rank metric sentence_log_probability metric_target"
            ).split(),
            ONE,
        ),
        "train_grammar": OWN,
    },
    "dictionaries": {
        **dict.fromkeys(("Dictionary", "to_jumprelu", "check_l0", "load save"), "the dictionary itself"),
        "load_transcoders save_transcoders": "the dictionary itself",
        **dict.fromkeys(("score_absorption", "score_recovery", "SyntheticWorld", "distil"), GIVEN),
        **dict.fromkeys(("score_splitting", "score_stability"), "refuses more than 2^28 pairs"),
    },
    "lenses": {
        **dict.fromkeys(("score_identifiability", "measure_coupling", "sparse_code"), GIVEN),
        "decompose_positions": GIVEN,
        **dict.fromkeys(("compare_tables", "path_vectors", "FeatureVectors", "TunedLens"), GIVEN),
        **dict.fromkeys(("read_pairs", "neuron_atlas", "read_directions", "read_weights"), BLOCKS),
        **dict.fromkeys(("stitch_kernel", "encoder_decoder"), "embeddings alone"),
        **dict.fromkeys(("decoder_lens", "score_decoder_lens"), ONE),
        "class_lens": BLOCKS,
    },
    "probing": {
        **dict.fromkeys(
            ("score_concept_agreement", "score_concept_existence", "score_concept_location", "elude"), GIVEN
        ),
        **dict.fromkeys(("eraser_of", "random_eraser", "v_information", "structural_probe"), GIVEN),
        **dict.fromkeys(("align_spans", "align_texts", "align_words"), "ids, no rows"),
        "probe_context": OWN,
    },
    "attribution": {
        **dict.fromkeys(("attention_flow", "attention_rollout", "compare_methods"), GIVEN),
        **dict.fromkeys(("linear_head", "prune_curve", "score_units"), ONE),
    },
    "rasp": {},
    "circuits": {"wiring Wiring": "names, no numbers"},
    "studies": dict.fromkeys(
        (
            "amortize CharLSTM clamp_unit lstm_writer model_writer write_clamped benchmark_end_tasks "
            "ask_recourse ask_spurious compare_in_context eliminate_features benchmark_low_signal "
            "find_optimal_support find_unit"
        ).split(),
        OWN,
    ),
    "plotting": {},
    "reports": {},
}
"""Room -> what is not refused, and why not."""
NO_MODEL = ("plotting", "reports")
"""Rooms of results."""
PUSH = frozenset(
    """
    HookedModel fold ActivationStream train gather head_atlas find_heads align_models logit_lens
    direct_logit_attribution attribute evaluate finetune fit_eraser probe_sweep record_attention
    """.split()
)


def cases() -> list[Any]:
    """Every call that must be refused."""
    found = []
    for room, (calls, _) in ROOMS.items():
        for name in calls:
            if room not in NO_MODEL and name not in GOES_ON[room]:
                marks = [] if PUSH.intersection(name.split()) else [pytest.mark.full]
                found.append(pytest.param(room, name, id=f"{room}.{name}", marks=marks))
    return found


def test_what_goes_on_is_a_call_and_says_why() -> None:
    assert set(GOES_ON) == set(ROOMS)
    for room, reasons in GOES_ON.items():
        assert set(reasons) <= set(ROOMS[room][0]) and all(reasons.values()), room


@pytest.fixture(scope="module")
def place() -> Place:
    """Models that are there before memory runs out."""
    made = Place("cpu")
    assert all([made.model, made.encoder, made.net, made.t5, made.grammar])
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("room", "name"), cases())
def test_without_memory_a_call_is_refused_before_its_model_runs(
    room: str, name: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = list[str]()
    forward = Running._forward

    def counted(self: Any, ready: Any, wanted: Any, *rest: Any, **more: Any) -> Any:
        runs.extend(wanted)
        return forward(self, ready, wanted, *rest, **more)

    monkeypatch.setattr(Running, "_forward", counted)
    monkeypatch.setattr(budget, "SMALL", 0)
    monkeypatch.setattr(budget, "free_bytes", lambda device: 0)
    with pytest.raises(MemoryBudgetError) as refused:
        ROOMS[room][0][name](place)
    assert not runs
    said = str(refused.value)
    assert "MiB" in said and "fix:" in said and refused.value.fix
