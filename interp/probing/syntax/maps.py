"""Attention between the words of a sentence, from attention between its tokens.

Attention FROM a word is the mean over its tokens, TO a word the sum (Clark et al. 2019, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import ConfigError, SiteError
from interp.models.hooked import HookedModel
from interp.models.text.batch import TokenBatch
from interp.probing.config import AttentionProbeConfig
from interp.probing.syntax.alignment import align_spans
from interp.tasks.labels import Labelled

PATTERNS = "blocks.*.attn.hook_pattern"


@dataclass(frozen=True, eq=False)
class WordMaps:
    """One sentence between words: its attention, its tree."""

    maps: Float[Tensor, "k w w"]
    """Attention from word to word, per map: FROM a word the mean over its tokens, TO it the sum."""
    heads: Int[Tensor, "w"]
    """Index of each word's head; w, one past the last word, for ROOT; -1 where no arc is asked for
    (skipped relations, and the root where there are no `edges`)."""
    relations: tuple[str, ...]
    """Relation of each word to its head."""
    vectors: Float[Tensor, "w d"] | None = None
    """Embedding of each word, for the probe with words."""
    group: str = ""
    """Document."""
    edges: Float[Tensor, "k w edge way"] | None = None
    """Attention between each word and the tokens that start and end the text ([CLS], [SEP]), from
    the word and to it: what speaks for ROOT. An edge without such a token is 0."""


def word_maps(
    model: HookedModel, sentences: Sequence[Labelled], config: AttentionProbeConfig
) -> list[WordMaps]:
    """Attention between words of the sentences that have a tree and are short enough.

    A word without a token of its own has no attention; its row and column are zero.

    Raises:
        SiteError: The model offers no attention patterns.
        ConfigError: No such sentence.
    """
    if "blocks.0.attn.hook_pattern" not in model.sites:
        raise SiteError("this model offers no attention patterns", got=model.cfg.model_name)
    kept = [s for s in sentences if s.heads is not None and 1 < len(s) <= config.max_words]
    if not kept:
        raise ConfigError(
            "no sentence to probe",
            got=f"{len(sentences)} sentences",
            expected=f"sentences with heads, of 2 to {config.max_words} words",
        )
    batch, places = align_spans(model, [s.text for s in kept], [s.spans for s in kept], missing="drop")
    sites = [PATTERNS, "hook_embed"] if config.word_rank else [PATTERNS]
    names = model.sites.resolve(sites)
    special = set() if model.tokenizer is None else set(model.tokenizer.all_special_ids)
    order = batch.lengths.argsort(stable=True).tolist()
    found: dict[int, WordMaps] = {}
    for start in range(0, len(order), 16):
        part = order[start : start + 16]
        width = int(batch.lengths[part].max())
        rows = batch[part]
        inputs = TokenBatch(rows.ids[:, :width], rows.mask[:, :width])
        acts = model.capture(inputs.to(model.device), names, to="cpu", dtype=torch.float32)
        layers = [acts[name] for name in names if name.endswith("hook_pattern")]
        patterns = torch.cat(layers, 1)
        for i, at in enumerate(part):
            member = _membership(places[at], width)
            mean = member / member.sum(1, keepdim=True).clamp(min=1)
            vectors = mean @ acts["hook_embed"][i] if config.word_rank else None
            maps = mean @ patterns[i] @ member.T
            own = batch[at].ids[0][batch[at].mask[0]].tolist()
            edges = _edges(patterns[i], member, [own[0] in special, own[-1] in special], len(own) - 1)
            found[at] = _tree(kept[at], maps, vectors, edges, config)
    return [found[at] for at in range(len(kept))]


def _membership(places: Sequence[tuple[int, int] | None], width: int) -> Tensor:
    """1 where a token belongs to a word, [w, tokens]."""
    member = torch.zeros(len(places), width)
    for word, place in enumerate(places):
        if place is not None:
            member[word, place[0] : place[1] + 1] = 1
    return member


def _edges(patterns: Tensor, member: Tensor, there: Sequence[bool], last: int) -> Tensor | None:
    """Attention of words [w, tokens] to and from a text's first and last token, [k w edge way]."""
    if not any(there):
        return None
    mean = member / member.sum(1, keepdim=True).clamp(min=1)
    ends = torch.tensor([0, last])
    ways = [mean @ patterns[:, :, ends], (patterns[:, ends] @ member.T).transpose(1, 2)]
    return torch.stack(ways, -1) * torch.tensor(there)[:, None]


def _tree(
    sentence: Labelled,
    maps: Tensor,
    vectors: Tensor | None,
    edges: Tensor | None,
    config: AttentionProbeConfig,
) -> WordMaps:
    found = sentence.labels.get("deprel", ["arc"] * len(sentence))
    relations = tuple("unlabelled" if r is None else r for r in found)
    heads = torch.tensor(sentence.heads)
    if edges is not None:
        heads[heads < 0] = len(heads)
    for word, relation in enumerate(relations):
        if relation.partition(":")[0] in config.skip:
            heads[word] = -1
    return WordMaps(maps, heads, relations, vectors, sentence.group, edges)
