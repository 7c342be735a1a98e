"""What every section of the demo looks at: one model, one text, one repeated random sequence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.cli.opening import open_model
from interp.core.config import Placement
from interp.core.errors import ModelError
from interp.core.randomness import generator

if TYPE_CHECKING:
    from interp.models.hooked import HookedModel

BLOCK = 10
BUNDLED = "tiny-grammar"
TEXT = "When Mary and John went to the park, John gave a book to"
"""What the bundled model reads: it should answer Mary."""
STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
"""What any other model reads, unless told otherwise."""


@dataclass
class Scene:
    """The model of the demo, and what the sections share about it."""

    model: HookedModel
    inputs: str | Tensor
    """The text to read, or ids [1, pos] where the model has no tokenizer."""
    subtitle: str
    seed: int
    is_bundled: bool = False
    """The model is `tiny-grammar`, whose tasks and corpus are known."""

    @property
    def has_patterns(self) -> bool:
        """Whether there are attention probabilities to show, and room for a repetition."""
        return "blocks.0.attn.hook_pattern" in self.model.sites and self.block > 1

    @property
    def block(self) -> int:
        """Length of the block that is repeated: `BLOCK`, or what vocabulary and context allow."""
        cfg = self.model.cfg
        return min(BLOCK, cfg.d_vocab, (cfg.n_ctx or 2 * BLOCK) // 2)

    @cached_property
    def ids(self) -> Tensor:
        """The text as token ids, [1, pos]."""
        return self.inputs if isinstance(self.inputs, Tensor) else self.model.to_tokens(self.inputs)

    @cached_property
    def tokens(self) -> list[str]:
        """The tokens of the text, one string per position."""
        return self.model.to_str_tokens(self.ids[0])

    @cached_property
    def repeated(self) -> Tensor:
        """A block of different random tokens and its repetition, ids [1, 2 * block]."""
        return repeated_block(self.model.cfg.d_vocab, self.seed, self.block)

    @cached_property
    def repetition(self) -> Tensor:
        """Attention patterns on a block read twice, [layer head query key], 2 * block positions."""
        if not self.is_bundled:
            return patterns(self.model, self.repeated)
        # In its own words, `Words: a b c; a b c`: the separator counts as the block's first token.
        from interp.tasks.grammar.words import NAMES

        draw = torch.randperm(len(NAMES), generator=generator(self.seed, "demo list"))
        words = "".join(NAMES[i] for i in draw[: self.block - 1].tolist()).strip()
        ids = self.model.to_tokens(f"Words: {words}; {words}")
        kept = [0, *range(ids.shape[1] - 2 * self.block + 1, ids.shape[1])]
        return patterns(self.model, ids)[..., kept, :][..., kept]

    @cached_property
    def patterns(self) -> Tensor:
        """Attention patterns on the text, [layer head query key]."""
        return patterns(self.model, self.ids)

    @property
    def summary(self) -> str:
        """The first paragraph of the page."""
        if not self.is_bundled:
            return "What one model predicts layer by layer, and where each of its heads looks."
        return (
            "A small language model that ships with the package, trained on generated English-like "
            "text: what it does is known, so what is found inside it can be checked. It reads "
            f"“{self.inputs}” and answers with the name that was mentioned once."
        )


def patterns(model: HookedModel, ids: Tensor) -> Tensor:
    """Attention probabilities of all layers on one sequence, [layer head query key]."""
    acts = model.capture(ids, "blocks.*.attn.hook_pattern")
    return torch.stack([acts["pattern", layer][0] for layer in range(model.cfg.n_layers)])


def repeated_block(d_vocab: int, seed: int, length: int = BLOCK) -> Tensor:
    """`length` different random ids, twice, [1, 2 * length]; depends on its arguments only."""
    block = torch.randperm(d_vocab, generator=generator(seed, "demo block"))[:length]
    return torch.cat([block, block])[None]


def set_scene(
    model: str | None, text: str | None, seed: int, placement: Placement, *, truncate: bool = False
) -> Scene:
    """Open the named model, or the bundled one, to read the text."""
    name = model or BUNDLED
    opened = open_model(name, placement)
    from interp.models import bundled_models

    own = name in bundled_models() and name == BUNDLED
    if text is None:
        text = TEXT if own else STORY
    scene = _scene_of(opened, Path(name).resolve().name, text, seed, own)
    if truncate and isinstance(scene.inputs, str):
        cut = opened.read(scene.inputs, truncate=True).ids.to(opened.device)
        scene = replace(scene, inputs=cut)
    return scene


def _scene_of(model: HookedModel, name: str, text: str, seed: int, own: bool) -> Scene:
    """The text for a model that reads text; as many random ids as fit for one without tokenizer."""
    if model.reads == "pixels" or model.cfg.d_vocab == 0:
        raise ModelError(
            "the demo reads token sequences",
            got=f"{name}, a model of family {model.cfg.family}",
            expected="a language model or a text encoder",
            fix="interp models FOLDER prints its map; interp.load_model opens it in a notebook",
        )
    if model.tokenizer is not None:
        return Scene(model, text, f"{name} · {text[:120]}", seed, own)
    length = min(BLOCK, model.cfg.d_vocab, max((model.cfg.n_ctx or 2 * BLOCK) // 2, 1))
    ids = repeated_block(model.cfg.d_vocab, seed, length)
    return Scene(model, ids, f"{name} · {length} random tokens, twice", seed)
