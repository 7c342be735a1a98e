"""What an attribution makes on its way is known before it runs: rows are halved, or it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import interp
from interp.attribution import budget as rooms
from interp.attribution.methods.table import METHODS
from interp.core.errors import MemoryBudgetError
from interp.models import budget
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from tests.support.allocations import peak_bytes

V, ROWS = 200, 8


def model_of(family: str, n_ctx: int = 512, vocabulary: int = V, layers: int = 3) -> interp.HookedModel:
    """A random model that is wide enough for its activations to count."""
    torch.manual_seed(0)
    wide = {"vocab_size": vocabulary, "num_hidden_layers": layers, "max_position_embeddings": n_ctx}
    shape = {**wide, "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4}
    module: Any
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=64, n_layer=layers, n_head=4, n_positions=n_ctx
        )
        module = transformers.GPT2LMHeadModel(config)
    elif family == "llama":
        module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, num_key_value_heads=2))
    elif family == "gemma2":
        more = {"num_key_value_heads": 2, "head_dim": 16, "attn_implementation": "eager"}
        module = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**shape, **more))
    elif family == "bert":
        module = transformers.BertForMaskedLM(transformers.BertConfig(**shape))
    else:
        config = SmallConfig(n_layers=layers, d_model=64, n_ctx=n_ctx, d_head=16, d_vocab=vocabulary)
        module = SmallTransformer(config)
    return interp.wrap(module.eval().requires_grad_(False))


def ids_of(n: int) -> Tensor:
    return torch.randint(5, V, (n,), generator=torch.Generator().manual_seed(0))


def quick(method: str, n: int) -> dict[str, Any]:
    """Settings that send some full batches and no more."""
    if "samples" in METHODS[method].reads:
        return {"samples": max(2 * ROWS, 2 * n)}  # kernel SHAP asks for two coalitions a player
    if "max_forward" in METHODS[method].reads:
        return {"feature_mask": (torch.arange(n) * 2 * ROWS) // n}
    if method == "layer_conductance":
        return {"site": "blocks.1.mlp.hook_post", "max_nodes": 4 * ROWS}
    return {"max_nodes": 4 * ROWS} if "max_nodes" in METHODS[method].reads else {}


def positive(out: Tensor) -> Tensor:
    return out[:, -1].softmax(-1)[:, 7]


SEEN = [
    ("gpt2", 64, "integrated_gradients"),
    ("gpt2", 256, "deeplift"),
    ("llama", 256, "deeplift_reveal_cancel"),
    ("llama", 256, "occlusion"),
    ("gemma2", 256, "integrated_gradients"),
    ("bert", 256, "attn_lrp"),
    ("small", 256, "gradient_x_input"),
]
LEFT = ("captum_deeplift", "attention_flow")
"""Captum's runs on few models; a flow takes minutes, its memory is that of the patterns."""
FAMILIES = ("gpt2", "llama", "gemma2", "bert", "small")
ALL = [(f, n, m) for f in FAMILIES for n in (64, 256) for m in METHODS if m not in LEFT]
CASES = [*SEEN, *(pytest.param(*one, marks=pytest.mark.full) for one in ALL if one not in SEEN)]


@pytest.mark.parametrize(("family", "n", "method"), CASES)
def test_the_estimate_bounds_what_is_allocated(
    family: str, n: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From above, and not by more than what separates families and torch's versions."""
    model, said = model_of(family), list[float]()

    def record(what: str, row: Any, beside: Any, rows: int, *rest: Any) -> int:
        said.append(rows * sum(row.values()) + sum(beside.values()))
        return rows

    monkeypatch.setattr(rooms, "rows_that_fit", record)
    target = positive if method == "functional_information" else 7
    peak = peak_bytes(
        lambda: interp.attribute(model, ids_of(n), target, method=method, rows=ROWS, **quick(method, n))
    )
    assert peak <= max(said) <= (6 if n > 64 else 8) * peak  # what does not grow weighs more in short texts


def passes_of(model: interp.HookedModel) -> list[int]:
    """How many rows every pass of the model has had so far; grows."""
    rows: list[int] = []
    model.module.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(args[0] if args else kwargs["input_ids"])),
        with_kwargs=True,
    )
    return rows


def with_free(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(budget, "SMALL", 0)
    monkeypatch.setattr(budget, "free_bytes", lambda device: int(free))


@pytest.mark.parametrize("method", ["integrated_gradients", "smoothgrad", "occlusion", "shapley"])
def test_rows_are_halved_until_they_fit_and_the_scores_stay(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = model_of("small", layers=1), ids_of(12)
    rows = passes_of(model)
    how = {"method": method, "rows": ROWS, **quick(method, 12)}
    whole = interp.attribute(model, ids, 7, **how)
    assert max(rows) == ROWS
    said = list[float]()
    fitting = rooms.rows_that_fit

    def record(what: str, row: Any, beside: Any, *rest: Any) -> int:
        said[:] = [sum(row.values()), sum(beside.values())]
        return fitting(what, row, beside, *rest)

    monkeypatch.setattr(rooms, "rows_that_fit", record)
    interp.attribute(model, ids, 7, **how)
    rows.clear()
    with_free(monkeypatch, 2 * (said[1] + 2 * said[0]) + 2)  # half of it holds two rows
    fewer = interp.attribute(model, ids, 7, **how)
    assert max(rows) == 2
    assert fewer.n_forward == whole.n_forward
    torch.testing.assert_close(fewer.scores, whole.scores, rtol=1e-5, atol=1e-6)


WORDS = r"(?s)128 positions.*an estimated \d+ MiB; most in "


@pytest.mark.parametrize("method", METHODS)
def test_a_row_that_does_not_fit_is_refused_before_any_runs(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = model_of("llama"), ids_of(128)
    rows = passes_of(model)
    with_free(monkeypatch, 2**19)
    site = {"site": "blocks.1.mlp.hook_post"} if method == "layer_conductance" else {}
    for target in (7, (7, 9), None, positive):
        with pytest.raises(
            MemoryBudgetError, match=r"(?s)128 positions.*an estimated \d+ MiB; most in "
        ) as said:
            interp.attribute(model, ids, target, method=method, **site)
        assert "an input of at most" in str(said.value) and "a site further up" in str(said.value)
    assert not rows


def test_a_refusal_names_the_method_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = model_of("llama"), ids_of(400)
    with_free(monkeypatch, 3e7)
    with pytest.raises(MemoryBudgetError, match=r"(?s)scores and patterns.*method='integrated_gradients'"):
        interp.attribute(model, ids, 7, method="deeplift")
    interp.attribute(model, ids, 7, method="integrated_gradients", max_nodes=8)


def test_logits_count_where_the_target_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token at the last position reads one row of them; a loss over the text all."""
    model, ids = model_of("llama", vocabulary=20_000), ids_of(128)
    with_free(monkeypatch, 24e6)
    interp.attribute(model, ids, 7, max_nodes=8)
    with pytest.raises(MemoryBudgetError, match=r"most in logits"):
        interp.attribute(model, ids, interp.models.text_loss(ids), max_nodes=8)


def test_a_token_as_target_asks_for_its_logits_alone() -> None:
    """Reading what the target may be makes no table of every position's logits."""
    model, ids = model_of("llama", vocabulary=20_000), ids_of(256)
    interp.attribute(model, ids, 7, method="saliency")
    for target in (7, None):
        used = peak_bytes(lambda t=target: interp.attribute(model, ids, t, method="saliency"))
        assert used < 256 * 20_000 * 4


@pytest.mark.parametrize("free", [2**14, 2**22])
def test_a_pair_is_refused_or_goes_in_fewer_tangents(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("bert", layers=2)
    encoder = interp.wrap(model.module.bert)
    texts = ids_of(7), ids_of(9).flip(0)
    how = {"reference": "zero", "tolerance": 1.0, "max_nodes": 16}
    whole = interp.attribution.attribute_pair(encoder, *texts, **how)
    rows = passes_of(encoder)
    with_free(monkeypatch, free)
    if free < 2**20:
        with pytest.raises(MemoryBudgetError, match="attribute_pair over 7 positions"):
            interp.attribution.attribute_pair(encoder, *texts, **how)
        assert not rows
    else:
        fewer = interp.attribution.attribute_pair(encoder, *texts, **how)
        torch.testing.assert_close(fewer.scores, whole.scores, rtol=1e-5, atol=1e-6)


def test_faithfulness_is_refused_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = model_of("llama"), ids_of(64)
    found = {"saliency": [interp.attribute(model, ids, 7, method="saliency")]}
    rows = passes_of(model)
    with_free(monkeypatch, 2**14)
    with pytest.raises(MemoryBudgetError):
        interp.attribution.measure_faithfulness(model, [ids], 7, found)
    assert not rows
