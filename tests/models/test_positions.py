"""Positions and outputs: what "position -1" and "the output" mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from interp import wrap
from interp.core.errors import EditError, InterpError
from interp.models.hooks.interventions import along
from interp.models.hooks.sides import Side
from interp.models.outputs import main_output, single_output
from tests.models.zoo import _BERT

T: Any = transformers


def test_the_output_is_what_a_user_means() -> None:
    span = wrap(T.BertForQuestionAnswering(T.BertConfig(**_BERT)).eval())([50, 57])
    assert set(span) >= {"start_logits", "end_logits"}
    with pytest.raises(InterpError, match="start_logits, end_logits"):
        single_output(span, "a lens")
    text = {
        "vocab_size": 101,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 37,
        "max_position_embeddings": 31,
        "projection_dim": 11,
        "eos_token_id": 2,
    }
    clip = wrap(T.CLIPTextModelWithProjection(T.CLIPTextConfig(**text)).eval())
    assert clip([[50, 57, 2]]).shape == (1, 11)
    assert main_output({"loss": torch.ones(()), "scores": torch.ones(2)}).shape == (2,)
    both = {"logits_per_image": torch.ones(2, 2), "logits_per_text": torch.ones(2, 2)}
    assert main_output(both) is both


def test_positions_count_real_tokens_and_masks_are_masks() -> None:
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 1, 1, 0, 0]]).bool()
    cpu = torch.device("cpu")
    rows, plain = Side(2, 5, mask=mask), Side(2, 5)
    assert rows.index([0, 1, -1], cpu).tolist() == [[1, 3, 4], [0, 1, 2]]
    assert rows.chosen([0, -1], cpu).long().tolist() == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    chosen = torch.tensor([[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]).bool()
    assert rows.index(chosen, cpu).tolist() == [[1, 4], [0, 2]]
    assert torch.equal(rows.chosen(chosen, cpu), chosen)
    assert plain.index(np.array([1, -1]), cpu).tolist() == [1, 4]
    for bad in ([0.5], True, chosen[:, :3], [3], torch.ones(2, 5).bool()):
        for ask in (rows.index, rows.chosen):
            with pytest.raises(InterpError):
                ask(bad, cpu)
    flags = torch.zeros(7, dtype=torch.bool)
    flags[[2, 5]] = True
    assert along(flags, 7, "neuron", cpu).nonzero().flatten().tolist() == [2, 5]
    assert along(np.array([-1, 0]), 7, "neuron", cpu).nonzero().flatten().tolist() == [0, 6]
    for bad in (flags[:3], 1.0, 7, [True] * 6):
        with pytest.raises(EditError, match="neuron"):
            along(bad, 7, "neuron", cpu)
