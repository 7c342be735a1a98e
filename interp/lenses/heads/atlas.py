"""What every head looks at, measured on texts and on repeated random tokens.

Clark et al. 2019, "What Does BERT Look At?" (arXiv 1906.04341); Olsson et al. 2022, "In-context
Learning and Induction Heads".
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ModelError, TokenError
from interp.core.randomness import generator
from interp.lenses.config import HeadAtlasConfig
from interp.lenses.heads.result import HeadAtlas
from interp.lenses.heads.weights import eigen_shares
from interp.models.hooked import HookedModel
from interp.models.text.reading import probe_texts

ON_REPEATS = ("duplicate", "induction")


@torch.no_grad()
def head_atlas(model: HookedModel, inputs: Any = None, config: HeadAtlasConfig | None = None) -> HeadAtlas:
    """Statistics of every head.

    Args:
        model: A decoder or an encoder with attention patterns as sites.
        inputs: A text, texts, ids [batch pos] or a TokenBatch; random tokens when absent.
        config: Lengths, number of random sequences, seed.

    Raises:
        ModelError: The model offers no attention patterns.
        TokenError: No text of two tokens.
    """
    config = config or HeadAtlasConfig()
    names = pattern_sites(model)
    sums: dict[str, Tensor] = {}
    n_texts = n_queries = 0
    worst, sinks = 0.0, names[0].replace("hook_pattern", "hook_attn_sink") in model.sites
    ids = random_repeats(model, config) if inputs is None else token_rows(model, inputs, config)
    for row in ids:
        marks = punctuation(model, row)
        found = _of_every_head(model, row, names, lambda p, marks=marks: text_statistics(p, marks, sinks))
        worst = max(worst, float(found.pop("row_error").max()))
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value
        n_texts, n_queries = n_texts + 1, n_queries + len(row)
    values = {name: total / n_texts for name, total in sums.items()}
    values |= _on_repeats(model, config, names)
    shape = (len(names), model.cfg.n_heads)
    fields: dict[str, Any] = dict.fromkeys(ON_REPEATS)
    fields |= {name: value[:-1].reshape(shape) for name, value in values.items()}
    return HeadAtlas(
        **fields,
        copying=eigen_shares(model),
        uniform={name: float(value[-1]) for name, value in values.items()},
        n_texts=n_texts,
        n_queries=n_queries,
        row_error=worst,
        provenance=model.provenance(names),
    )


def pattern_sites(model: HookedModel) -> list[str]:
    """The attention-pattern site of every layer.

    Raises:
        ModelError: There are none by that name (no transformer, an encoder-decoder, attention
            that cannot be seen).
    """
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    if not names or any(name not in model.sites for name in names):
        raise ModelError(
            f"{model.cfg.model_name} offers no attention patterns",
            got=f"family {model.cfg.family}",
            expected="sites blocks.*.attn.hook_pattern",
        )
    return names


def head_patterns(model: HookedModel, row: Tensor, names: Sequence[str]) -> Tensor:
    """Attention of all heads on one sequence: [layer * head, query, key], at least float32."""
    return torch.cat(list(layer_patterns(model, row, names)))


def layer_patterns(model: HookedModel, row: Tensor, names: Sequence[str]) -> Iterator[Tensor]:
    """Attention on one sequence, one layer after the other: [head, query, key], at least float32."""
    acts = model.capture(row[None], list(names))
    for name in names:
        patterns = acts[name][0]
        yield patterns if patterns.dtype == torch.float64 else patterns.float()


def token_rows(model: HookedModel, texts: Any, config: HeadAtlasConfig) -> Iterator[Tensor]:
    """Ids [pos] of every text, shortened to `config.max_tokens`; the last token of an encoder's
    text ([SEP]) stays.

    Raises:
        TokenError: No text has two tokens.
    """
    batch = model.read(texts, truncate=True)
    most = min(config.max_tokens, model.cfg.n_ctx or config.max_tokens)
    rows = [row for row in batch if len(row) > 1]
    if not rows:
        raise TokenError("attention needs texts of two tokens or more", got=f"{len(batch)} texts")
    for row in rows:
        if len(row) > most:
            row = row[:most] if model.cfg.causal else torch.cat([row[: most - 1], row[-1:]])
        yield row


def uniform(n: int, causal: bool) -> Tensor:
    """A head that attends to all visible keys alike, [1 query key], float64."""
    seen = torch.ones(n, n, dtype=torch.float64)
    seen = seen.tril() if causal else seen
    return (seen / seen.sum(-1, keepdim=True))[None]


def _of_every_head(
    model: HookedModel, row: Tensor, names: Sequence[str], statistics: Callable[[Tensor], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Statistics of one sequence, [layer * head + 1]: the last entry is of `uniform`."""
    found = [statistics(patterns) for patterns in layer_patterns(model, row, names)]
    like = next(iter(found[0].values()))
    found.append(statistics(uniform(len(row), model.cfg.causal).to(like)))
    return {name: torch.cat([each[name] for each in found]) for name in found[0]}


def text_statistics(patterns: Tensor, is_punctuation: Tensor, sinks: bool = False) -> dict[str, Tensor]:
    """The statistics of one text.

    Args:
        patterns: [head query key].
        is_punctuation: Which keys are, [key].
        sinks: A sink takes its share of every row (GPT-OSS): rows sum to 1 at most.

    Returns:
        Name -> [head]; `row_error` is how far a row's sum is from 1.
    """
    over = patterns.sum(-1) - 1
    return {
        "row_error": (over.clamp(min=0) if sinks else over.abs()).amax(-1),
        "previous": patterns.diagonal(-1, -2, -1).mean(-1),
        "next": patterns.diagonal(1, -2, -1).mean(-1),
        "self_token": patterns.diagonal(0, -2, -1).mean(-1),
        "first": patterns[:, 1:, 0].mean(-1),
        "last": patterns[:, :-1, -1].mean(-1),
        "punctuation": patterns[:, :, is_punctuation].sum(-1).mean(-1),
        "entropy": -torch.special.xlogy(patterns, patterns).sum(-1).mean(-1),
    }


def repeat_statistics(patterns: Tensor, start: int, block: int) -> dict[str, Tensor]:
    """Attention in the second copy of a block that begins at `start` and is `block` long.

    Args:
        patterns: [... query key].

    Returns:
        duplicate: to the same token, `block` before; induction: to the token after that one.
    """

    def to_offset(offset: int) -> Tensor:
        queries = torch.arange(start + block, start + 2 * block, device=patterns.device)
        return patterns[..., queries, queries - offset].mean(-1)

    return {"duplicate": to_offset(block), "induction": to_offset(block - 1)}


def punctuation(model: HookedModel, row: Tensor) -> Tensor:
    """Which tokens are punctuation (Unicode category P throughout), [pos]; specials are not."""
    flags = torch.zeros(len(row), dtype=torch.bool, device=row.device)
    if model.tokenizer is None:
        return flags
    special = set(model.tokenizer.all_special_ids)
    for i, (piece, token) in enumerate(zip(model.to_str_tokens(row), row.tolist(), strict=True)):
        text = piece.strip().lstrip("▁Ġ")
        marks = bool(text) and all(unicodedata.category(c).startswith("P") for c in text)
        flags[i] = marks and token not in special
    return flags


def random_repeats(model: HookedModel, config: HeadAtlasConfig) -> list[Tensor]:
    """Random tokens, a block repeated once, between the model's own special tokens; ids [pos]."""
    before, after = _frame(model)
    block = _block(model, config, len(before) + len(after))
    special = set(model.tokenizer.all_special_ids) if model.tokenizer is not None else set()
    plain = torch.tensor([i for i in range(model.cfg.d_vocab) if i not in special])
    rows = []
    for index in range(config.n_random):
        source = generator(config.seed, "repeated tokens", index)
        draw = plain[torch.randperm(len(plain), generator=source)[:block]].to(model.device)
        rows.append(torch.cat([before, draw, draw, after]))
    return rows


def _on_repeats(model: HookedModel, config: HeadAtlasConfig, names: Sequence[str]) -> dict[str, Tensor]:
    """Induction and duplicate-token scores [head]; nothing where no block of two tokens fits."""
    before, after = _frame(model)
    block = _block(model, config, len(before) + len(after))
    if block < 2:
        return {}
    sums: dict[str, Tensor] = {}
    for row in random_repeats(model, config):
        found = _of_every_head(model, row, names, lambda p: repeat_statistics(p, len(before), block))
        for name, value in found.items():
            sums[name] = sums.get(name, 0) + value
    return {name: total / config.n_random for name, total in sums.items()}


def _frame(model: HookedModel) -> tuple[Tensor, Tensor]:
    """The special ids that the tokenizer puts before and after a text."""
    empty = torch.zeros(0, dtype=torch.long, device=model.device)
    if model.tokenizer is None:
        return empty, empty
    for text in probe_texts(model.tokenizer):
        row = next(iter(model.tokenization.tokenize([text], quiet=True))).to(model.device)
        special = torch.tensor([i in set(model.tokenizer.all_special_ids) for i in row.tolist()])
        inner = (~special).nonzero().flatten()
        if len(inner):  # a word that a closed vocabulary knows
            return row[: int(inner[0])], row[int(inner[-1]) + 1 :]
    return empty, empty


def _block(model: HookedModel, config: HeadAtlasConfig, specials: int) -> int:
    """Length of the repeated block: as wished, or what context and vocabulary allow."""
    context = model.cfg.n_ctx or 2 * config.block + specials
    return max(0, min(config.block, (context - specials) // 2, _n_plain(model)))


def _n_plain(model: HookedModel) -> int:
    special = set(model.tokenizer.all_special_ids) if model.tokenizer is not None else set()
    return model.cfg.d_vocab - len({i for i in special if i < model.cfg.d_vocab})
