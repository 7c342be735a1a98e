"""F15: no token id, length or BOS reaches the model as a raw `IndexError`.

The oracle is the model itself: an embedding and a position table. What `check_ids` accepts they
must look up; what it refuses they would have answered with an error or, for a negative id, could
not look up. Three injected mistakes must be caught by the same oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from interp.core.errors import TokenError
from interp.models.text.tokens import Tokenization
from tests.conftest import FULL
from tests.models.tokenizers import WORDS, word_level

N = 5_000 if FULL else 500
COUNT = settings(max_examples=N, deadline=None, suppress_health_check=list(HealthCheck))
BOS = (None, 0, 5)
words = st.lists(st.sampled_from([*WORDS, "violet"]), max_size=7).map(" ".join)
id_rows = st.integers(0, 3).flatmap(
    lambda batch: st.integers(0, 9).flatmap(
        lambda pos: st.lists(
            st.lists(st.integers(-2, 13), min_size=pos, max_size=pos), min_size=batch, max_size=batch
        )
    )
)


class Lookup(nn.Module):
    """The two lookups at a model's door: an id or a position too many is an IndexError."""

    def __init__(self, d_vocab: int, n_ctx: int) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(d_vocab, 3), nn.Embedding(n_ctx, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.embed(ids) + self.positions(torch.arange(ids.shape[1]))


@cache
def reader(bos: int | None, d_vocab: int, n_ctx: int, adds: bool) -> Tokenization:
    tokenizer = word_level(bos, adds_bos=adds and bos is not None, adds_eos=adds)
    return Tokenization(tokenizer, d_vocab=d_vocab, n_ctx=n_ctx, default_prepend_bos=None, family="decoder")


def readable(ids: Tensor, d_vocab: int, n_ctx: int) -> bool:
    try:
        return Lookup(d_vocab, n_ctx)(ids).numel() > 0
    except (IndexError, RuntimeError):
        return False


def agrees(check: Callable[[Tensor], None], ids: Tensor, d_vocab: int, n_ctx: int) -> bool:
    """Whether the check accepts exactly what the model can look up."""
    try:
        check(ids)
    except TokenError:
        return not readable(ids, d_vocab, n_ctx)
    return readable(ids, d_vocab, n_ctx)


@COUNT
@given(rows=id_rows, bos=st.sampled_from(BOS), d_vocab=st.sampled_from((7, 11)))
def test_ids_are_accepted_exactly_when_the_model_can_look_them_up(
    rows: list[list[int]], bos: int | None, d_vocab: int
) -> None:
    pos = len(rows[0]) if rows else 3
    ids = torch.tensor(rows, dtype=torch.long).reshape(len(rows), pos)
    check = reader(bos, d_vocab, 6, False).check_ids
    assert agrees(check, ids, d_vocab, 6)
    bad = [(i, j, t) for i, row in enumerate(rows) for j, t in enumerate(row)]
    bad = [(i, j, t) for i, j, t in bad if not 0 <= t < d_vocab]
    if bad and pos <= 6:
        i, j, token = bad[0]
        with pytest.raises(TokenError) as caught:
            check(ids)
        told = str(caught.value)
        assert f"token id {token} at" in told and f"[{i}, {j}]" in told and str(d_vocab) in told


@COUNT
@given(
    texts=st.lists(words, max_size=3),
    bos=st.sampled_from(BOS),
    d_vocab=st.sampled_from((7, 10)),
    adds=st.booleans(),
    asked=st.sampled_from((None, True, False)),
    side=st.sampled_from(("left", "right")),
    truncate=st.booleans(),
)
def test_text_is_looked_up_or_refused(
    texts: list[str], bos: int | None, d_vocab: int, adds: bool, asked: bool | None, side: str, truncate: bool
) -> None:
    t = reader(bos, d_vocab, 5, adds)
    try:
        batch = t.tokenize(texts, asked, padding_side=side, truncate=truncate)
    except TokenError as error:
        assert error.got or error.fix
        return
    Lookup(d_vocab, 5)(batch.ids)  # padding included: no IndexError
    assert batch.mask.any(-1).all() and len(batch) == len(texts)
    if asked:
        assert all(row[0] == bos and (row[1:] != bos).all() for row in batch)
    if asked is False and bos is not None:
        assert not any((row == bos).any() for row in batch)


@COUNT
@given(
    text=words,
    written=st.integers(0, 2),
    adds=st.booleans(),
    asked=st.sampled_from((None, True, False)),
    truncate=st.booleans(),
)
def test_bos_zero_is_bos_five_relabelled(
    text: str, written: int, adds: bool, asked: bool | None, truncate: bool
) -> None:
    text = "<s> " * written + text
    outcomes = []
    for bos in (0, 5):
        t = reader(bos, 10, 5, adds)
        try:
            (row,) = t.tokenize(text, asked, truncate=truncate)
            outcomes.append(t.tokenizer.convert_ids_to_tokens(row.tolist()))
            assert t.to_str_tokens(row)[0].strip() == outcomes[-1][0]
        except TokenError as error:
            outcomes.append(error.what)
    assert outcomes[0] == outcomes[1]
    assert reader(0, 10, 5, adds).bos_policy == reader(5, 10, 5, adds).bos_policy


def _off_by_one(t: Tokenization) -> Callable[[Tensor], None]:
    loose = Tokenization(None, d_vocab=8, n_ctx=6, default_prepend_bos=None, family="other")
    return loose.check_ids


def _no_length(t: Tokenization) -> Callable[[Tensor], None]:
    loose = Tokenization(None, d_vocab=7, n_ctx=None, default_prepend_bos=None, family="other")
    return loose.check_ids


def _no_values(t: Tokenization) -> Callable[[Tensor], None]:
    return lambda ids: t.check_ids(ids, check=False)


@pytest.mark.parametrize("mistake", [_off_by_one, _no_length, _no_values])
def test_the_oracle_sees_a_check_that_is_wrong(
    mistake: Callable[[Tokenization], Callable[[Tensor], None]],
) -> None:
    check = mistake(reader(0, 7, 6, False))
    probes = [torch.tensor([[0, 7]]), torch.zeros(1, 7, dtype=torch.long), torch.tensor([[-1]])]
    assert not all(agrees(check, ids, 7, 6) for ids in probes)
    right = reader(0, 7, 6, False).check_ids
    assert all(agrees(right, ids, 7, 6) for ids in probes)


@pytest.mark.parametrize("bos", BOS)
def test_only_bos(bos: int | None) -> None:
    t = reader(bos, 10, 5, False)
    if bos is None:
        with pytest.raises(TokenError, match="no tokens"):
            t.tokenize("")
        return
    for text in ("", "<s>", "<s> <s>"):
        assert t.to_tokens(text).tolist() == [[bos]]
