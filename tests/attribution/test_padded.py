"""Padding is no part of an input: whatever form it comes in, the last real token is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import interp
from interp.attribution import attribute, measure_faithfulness
from interp.models.text.batch import TokenBatch
from tests.models import zoo
from tests.models.tokenizers import word_level

ROW, WIDTH = [4, 5, 3, 2, 6], 8
IDS = torch.tensor([ROW])
MASKS = {"right": torch.tensor([[1] * 5 + [0] * 3]), "left": torch.tensor([[0] * 3 + [1] * 5])}


def padded(side: str) -> dict[str, Tensor]:
    ids = torch.full((1, WIDTH), 9)
    ids[:, MASKS[side][0].bool()] = IDS
    return {"input_ids": ids, "attention_mask": MASKS[side]}


FORMS: dict[str, Any] = {
    "dict": lambda d: d,
    "encoding": transformers.BatchEncoding,
    "arrays": lambda d: {k: v.numpy() for k, v in d.items()},
    "lists": lambda d: {k: v.tolist() for k, v in d.items()},
    "batch": lambda d: TokenBatch(d["input_ids"], d["attention_mask"].bool()),
    "with positions": lambda d: {**d, "position_ids": (d["attention_mask"].cumsum(1) - 1).clamp(min=0)},
}


def last(out: Tensor) -> Tensor:
    return out[:, -1, 3]


@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_padded_row_is_the_row(family: str, form: str, side: str) -> None:
    model = interp.wrap(zoo.make(family), word_level(0))
    alone = attribute(model, IDS, last, method="gradient_x_input")
    given = FORMS[form](padded(side))
    found = attribute(model, given, last, method="gradient_x_input")
    assert found.value == pytest.approx(alone.value, abs=1e-5)
    assert found.tokens == alone.tokens
    torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=1e-4)
    judged = measure_faithfulness(model, [given], last, {"a": [found]})
    expected = measure_faithfulness(model, [IDS], last, {"a": [alone]})
    torch.testing.assert_close(judged.deletion, expected.deletion, atol=1e-3, rtol=1e-3)
    everything = model({"input_ids": padded(side)["input_ids"]})
    assert float(last(everything)) != pytest.approx(alone.value, abs=1e-4) or side == "left"


def test_a_padded_decoder_is_read_at_its_own_last_token() -> None:
    model = interp.wrap(zoo.make("t5"), word_level(None))
    start = torch.tensor([[0, 3, 4]])
    alone = attribute(model, {"input_ids": IDS, "decoder_input_ids": start}, last, method="gradient_x_input")
    both = {
        **padded("right"),
        "decoder_input_ids": torch.tensor([[0, 3, 4, 7, 7]]),
        "decoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
    }
    found = attribute(model, both, last, method="gradient_x_input")
    assert found.value == pytest.approx(alone.value, abs=1e-5)
    torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=1e-4)
    unmasked = {k: v for k, v in both.items() if k != "decoder_attention_mask"}
    assert attribute(model, unmasked, last, method="gradient_x_input").value != pytest.approx(alone.value)


def test_padded_embeddings_are_read_at_their_last_real_row() -> None:
    model = interp.wrap(zoo.make("llama"), word_level(0))
    rows = torch.randn(1, WIDTH, model.cfg.d_model)
    told = {"method": "gradient_x_input", "site": "blocks.1.hook_resid_pre"}
    alone = attribute(model, {"inputs_embeds": rows[:, :5]}, last, **told)
    found = attribute(model, {"inputs_embeds": rows, "attention_mask": MASKS["right"]}, last, **told)
    assert found.value == pytest.approx(alone.value, abs=1e-5)
    torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=1e-4)


def test_embeddings_padded_in_front_keep_their_columns() -> None:
    """What is masked before the first real row stays: only columns behind the last one are cut."""
    model = interp.wrap(zoo.make("llama"), word_level(0))
    rows = torch.randn(1, WIDTH, model.cfg.d_model)
    told = {"method": "gradient_x_input", "site": "blocks.1.hook_resid_pre"}
    alone = attribute(model, {"inputs_embeds": rows[:, 3:]}, last, **told)  # rotary: only distances count
    found = attribute(model, {"inputs_embeds": rows, "attention_mask": MASKS["left"]}, last, **told)
    assert found.value == pytest.approx(alone.value, abs=1e-5)
    assert len(found.scores) == WIDTH
    torch.testing.assert_close(found.scores[3:], alone.scores, atol=1e-5, rtol=1e-4)


def test_a_padded_decoder_leaves_a_text_of_its_length_whole() -> None:
    model = interp.wrap(zoo.make("t5"), word_level(None))
    text = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    alone = attribute(
        model, {**text, "decoder_input_ids": torch.tensor([[0, 3, 4]])}, last, method="gradient_x_input"
    )
    both = {
        **text,
        "decoder_input_ids": torch.tensor([[0, 3, 4, 7, 7]]),
        "decoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
    }
    found = attribute(model, both, last, method="gradient_x_input")
    assert found.tokens == alone.tokens and len(found.tokens) == 5
    torch.testing.assert_close(found.scores, alone.scores, atol=1e-5, rtol=1e-4)
