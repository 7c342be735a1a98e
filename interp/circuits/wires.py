"""A model as writers and readers of its residual stream, and the edges between them.

Nodes are named as in the literature: `embed`, `pos`, `a1.h2`, `m0` write; `a1.h2<q>`, `m0`, `logits`
read. An edge `embed->a1.h2<k>` is what that writer contributes to what that reader sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from interp.circuits.naming import edge_of
from interp.models.hooked import HookedModel
from interp.models.stream.frozen import wide
from interp.models.stream.readers import Reader, stream_readers
from interp.models.stream.writers import Stream, Writer, residual_stream

EXACT = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 6e-2, "float16": 1e-2}
"""How nearly the named embeddings must add up to the stream's beginning, relative to its largest."""


@dataclass(frozen=True)
class Group:
    """Writers or readers of one place, as a run of nodes.

    Attributes:
        start: The first one's index among the wiring's writers or readers.
        n: How many.
        depth: Where it stands in the pass; a writer reaches the readers of larger depth.
    """

    start: int
    n: int
    depth: int

    @property
    def span(self) -> slice:
        """Its nodes."""
        return slice(self.start, self.start + self.n)


@dataclass(frozen=True, eq=False)
class Wiring:
    """All writers and readers of one model, in the order of the pass.

    Attributes:
        model: The model.
        stream: Its residual stream.
        embeddings: Sites of what is added up before the first block, each a writer.
        sources: The sublayers that write, with their nodes.
        readers: What reads, with its nodes.
        parallel: Whether attention and MLP of a block read the same stream.
    """

    model: HookedModel
    stream: Stream
    embeddings: tuple[str, ...]
    sources: tuple[tuple[Writer, Group], ...]
    readers: tuple[tuple[Reader, Group], ...]
    parallel: bool

    @cached_property
    def writer_names(self) -> tuple[str, ...]:
        """`embed`, `pos`, `a0.h0`, ..., `m0`, ..."""
        names = [_embedding(site) for site in self.embeddings]
        for writer, group in self.sources:
            if writer.kind == "neuron":
                names.append(f"m{writer.layer}")
            else:
                names += [f"a{writer.layer}.h{head}" for head in range(group.n)]
        return tuple(names)

    @cached_property
    def reader_names(self) -> tuple[str, ...]:
        """`a0.h0<q>`, ..., `m0`, ..., `logits`; key and value heads are numbered by themselves."""
        names: list[str] = []
        for reader, group in self.readers:
            if reader.of_heads:
                names += [f"a{reader.layer}.h{head}<{reader.channel}>" for head in range(group.n)]
            else:
                names.append("logits" if reader.channel == "logits" else f"m{reader.layer}")
        return tuple(names)

    @cached_property
    def possible(self) -> Tensor:
        """Which writer stands before which reader, [writer reader]."""
        above = torch.zeros(len(self.writer_names), len(self.reader_names), dtype=torch.bool)
        for _, group in self.readers:
            above[: self.upstream(group), group.span] = True
        return above

    def upstream(self, group: Group) -> int:
        """How many writers stand before these readers: they are the first ones."""
        below = [source.start + source.n for _, source in self.sources if source.depth < group.depth]
        return max(below, default=len(self.embeddings))

    def contributions(self, acts: Mapping[str, Tensor]) -> Tensor:
        """What each writer added to the stream, [writer batch pos d_model], at least float32.

        Args:
            acts: Activations at `sites`.
        """
        parts = [self.embedded(site, acts) for site in self.embeddings]
        parts += [self.written(writer, acts) for writer, _ in self.sources]
        return torch.cat(parts)

    def embedded(self, site: str, acts: Mapping[str, Tensor]) -> Tensor:
        """One embedding's contribution, [1 batch pos d_model]; positions may come as one row for all."""
        return wide(acts[site]).expand_as(acts[self.stream.first])[None]

    @staticmethod
    def written(writer: Writer, acts: Mapping[str, Tensor]) -> Tensor:
        """One sublayer's contributions: [head batch pos d_model] without the bias, or [1 ...]."""
        if writer.kind == "neuron":
            return wide(acts[writer.out])[None]
        z, weight = wide(acts[writer.parts]), writer.weight
        made = (z.movedim(2, 0).flatten(1, 2) @ weight.to(z)).unflatten(1, z.shape[:2])
        if writer.post.absent:
            return made
        gained = writer.post.centre(made) / wide(acts[writer.post_scale])
        return gained if writer.post.gain is None else gained * writer.post.gain.to(gained)

    @cached_property
    def sites(self) -> list[str]:
        """What `contributions` reads."""
        names = [*self.embeddings, self.stream.first]
        for writer, _ in self.sources:
            names.append(writer.out if writer.kind == "neuron" else writer.parts)
            if writer.post_scale and writer.kind == "head":
                names.append(writer.post_scale)
        return names

    def edge(self, name: str) -> tuple[int, int]:
        """The writer and the reader that `embed->a1.h2<k>` names.

        Raises:
            ConfigError: No such edge; the nearest names are suggested.
        """
        return edge_of(name, self.writer_names, self.reader_names, self.possible)


def wiring(model: HookedModel, *, one_embedding: bool = False) -> Wiring:
    """The component graph of a model: heads (queries, keys and values apart), MLPs, embeddings, logits.

    Args:
        one_embedding: Take the stream before the first block as one writer, `embed`.

    Raises:
        ModelError: The model has no residual stream that its head reads, or its readers cannot be
            told apart.
    """
    stream, readers = residual_stream(model), stream_readers(model)
    parallel = model.cfg.style == "parallel"
    embeddings = (stream.first,) if one_embedding or not stream.embeddings else stream.embeddings
    sources: list[tuple[Writer, Group]] = []
    start = len(embeddings)
    for writer in stream.writers:
        n = writer.n_parts if writer.kind == "head" else 1
        sources.append((writer, Group(start, n, _depth(writer.layer, writer.name == "mlp", parallel))))
        start += n
    found: list[tuple[Reader, Group]] = []
    start = 0
    for reader in readers:
        depth = _depth(reader.layer, reader.channel == "mlp", parallel)
        found.append((reader, Group(start, reader.n, depth)))
        start += reader.n
    return Wiring(model, stream, embeddings, tuple(sources), tuple(found), parallel)


def _depth(layer: int, mlp: bool, parallel: bool) -> int:
    """Where a sublayer reads: two steps a block, one where attention and MLP stand side by side."""
    return 2 * layer + (1 if mlp and not parallel else 0)


def _embedding(site: str) -> str:
    return {"hook_embed": "embed", "hook_pos_embed": "pos"}.get(site.removeprefix("decoder_"), "embed")


def adds_up(wires: Wiring, acts: Mapping[str, Tensor]) -> bool:
    """Whether the stream begins as the sum of the named embeddings."""
    total = torch.stack([wide(acts[site]) for site in wires.embeddings]).sum(0)
    first = wide(acts[wires.stream.first])
    gap = (total - first).abs().max() / first.abs().max().clamp(min=1e-6)
    return bool(gap <= EXACT.get(wires.model.cfg.dtype, 6e-2))
