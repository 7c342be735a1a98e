"""Edits and attention against numpy: each case tells one line of their formulas from a near miss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import interp
from interp.models.hooks.attention import attention
from interp.models.text.batch import TokenBatch
from tests.models import zoo

IDS = torch.tensor([[11, 7, 23, 5, 42], [9, 31, 6, 77, 50]])
RESID = "blocks.0.hook_resid_post"


@pytest.mark.parametrize("name", ["hook_k", "hook_v", "hook_rot_k"])
def test_a_head_of_a_grouped_model_is_its_key_value_head(name: str) -> None:
    model = interp.wrap(zoo.make("llama"))
    kv_heads, site = model.cfg.n_kv_heads, f"blocks.1.attn.{name}"
    assert 1 < kv_heads < model.cfg.n_heads
    logits = []
    for head in range(kv_heads):
        before = model.capture(IDS, site)[site]
        edited, acts = model.run_with_hooks(IDS, [interp.zero(site, head=head)]), None
        with model.hooks([interp.zero(site, head=head)]):
            acts = model.capture(IDS, site)[site]
        expected = before.numpy(force=True).copy()
        expected[:, :, head] = 0
        np.testing.assert_array_equal(acts.numpy(force=True), expected)
        logits.append(edited)
    assert all(not torch.allclose(a, b) for i, a in enumerate(logits) for b in logits[:i])
    ran: list[str] = []
    first = ("blocks.0.hook_resid_pre", lambda value, hook: ran.append(hook.name))
    with pytest.raises(interp.InterpError, match="head="):
        model.run_with_hooks(IDS, [first, interp.zero(site, head=kv_heads)])
    assert not ran, "refused before anything runs"


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mean_of_activations_is_that_of_the_real_tokens(side: str) -> None:
    model = interp.wrap(zoo.make("gpt2"))
    rows = [[11, 7, 23, 5, 42], [9, 31], [6, 77, 50]]
    ids, mask = torch.full((3, 5), 2), torch.zeros(3, 5, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(5 - len(row), 5) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = torch.tensor(row), True
    alone = [model.capture(torch.tensor([row]), RESID)[RESID][0].numpy(force=True) for row in rows]
    reference = model.capture(TokenBatch(ids, mask), RESID)
    with model.hooks([interp.mean(RESID, reference)]):
        found = model.capture(IDS, RESID)[RESID].numpy(force=True)
    expected = np.concatenate(alone).mean(0)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=2e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_each_rows_own_tokens(side: str) -> None:
    """Position 1 and the last one of rows of 5 and 3 tokens, padded on either side."""
    model = interp.wrap(zoo.make("gpt2"))
    ids, mask = torch.tensor([[11, 7, 23, 5, 42], [2, 2, 6, 77, 50]]), torch.ones(2, 5, dtype=torch.bool)
    mask[1, :2] = False
    if side == "right":
        ids[1], mask[1] = ids[1].roll(-2), mask[1].roll(-2)
    with model.hooks([interp.zero(RESID, positions=[1, -1])]):
        found = model.capture(TokenBatch(ids, mask), RESID)[RESID]
    touched = (found == 0).all(-1) & mask
    expected = [[0, 1, 0, 0, 1], [0, 0, 0, 1, 1] if side == "left" else [0, 1, 1, 0, 0]]
    np.testing.assert_array_equal(touched.numpy(), np.array(expected, dtype=bool))


def test_dependent_directions_are_one_span_and_nothing_beyond_it() -> None:
    model = interp.wrap(zoo.make("gpt2", dtype=torch.float64))
    d = model.cfg.d_model
    rng = np.random.default_rng(0)
    v, w = rng.normal(size=(2, d))
    rows = np.stack([v, 2 * v, w, v - 3 * w, np.zeros(d)])
    before = model.capture(IDS, RESID)[RESID].numpy(force=True)
    with model.hooks([interp.project_out(RESID, torch.tensor(rows))]):
        found = model.capture(IDS, RESID)[RESID].numpy(force=True)
    flat = before.reshape(-1, d)
    weights, *_ = np.linalg.lstsq(np.stack([v, w], 1), flat.T, rcond=None)
    expected = (flat - weights.T @ np.stack([v, w])).reshape(before.shape)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("kind", ["boolean", "additive", "infinite"])
def test_attention_under_a_mask_is_the_formula(kind: str) -> None:
    """softmax(q·k / sqrt(d)) over what may be seen, for two groups of three heads each."""
    query, key, value = drawn(2, 6, 5, 7), drawn(2, 2, 5, 7, seed=1), drawn(2, 2, 5, 7, seed=2)
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    seen[3:, 1] = False
    masks = {
        "boolean": seen,
        "additive": torch.zeros(5, 5).masked_fill(~seen, torch.finfo(torch.float32).min).double(),
        "infinite": torch.zeros(5, 5).masked_fill(~seen, -torch.inf).double(),
    }
    z, pattern = attention(nn.Identity().eval(), query, key, value, masks[kind][None, None])
    q, k, v = (x.numpy() for x in (query, key, value))
    for head in range(6):
        scores = np.where(seen, np.exp(q[:, head] @ k[:, head // 3].transpose(0, 2, 1) / 7**0.5), 0)
        expected = scores / scores.sum(-1, keepdims=True)
        np.testing.assert_allclose(pattern[:, head].numpy(), expected, atol=1e-12)
        np.testing.assert_allclose(z[:, :, head].numpy(), expected @ v[:, head // 3], atol=1e-12)


def test_dropout_acts_in_training_only_and_after_the_pattern() -> None:
    query, key, value = drawn(3, 4, 5, 7), drawn(3, 4, 5, 7, seed=1), drawn(3, 4, 5, 7, seed=2)
    module = nn.Identity().eval()
    calm, pattern = attention(module, query, key, value, None, dropout=0.5)
    np.testing.assert_allclose(calm.numpy(), (pattern @ value).transpose(1, 2).numpy(), atol=1e-12)
    module.train()
    torch.manual_seed(5)
    noisy, same = attention(module, query, key, value, None, dropout=0.5)
    assert torch.equal(same, pattern)
    # What is left of the pattern is doubled: solved for, as there are fewer keys than values.
    kept = np.linalg.lstsq(value.numpy().transpose(0, 1, 3, 2)[0, 0], noisy.numpy()[0, :, 0].T, rcond=None)[
        0
    ].T
    ratio = kept / pattern[0, 0].numpy()
    assert np.minimum(np.abs(ratio), np.abs(ratio - 2)).max() < 1e-9
    assert 0 < (np.abs(ratio) < 1e-9).mean() < 1
