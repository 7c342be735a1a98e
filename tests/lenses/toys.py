"""Small models trained on the spot, for phenomena that need learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import interp
from interp.activations import FitConfig, fit
from interp.core.randomness import generator
from interp.models.small import SmallTransformer
from interp.models.small_config import SmallConfig

N_NAMES, N_TRAITS = 600, 8
START, IS, AND, HE, SHE = range(N_NAMES, N_NAMES + 5)
TRAITS = N_NAMES + 5
D_VOCAB = TRAITS + 2 * N_TRAITS


@dataclass
class Names:
    """A model that has learned what goes with each of 600 names."""

    model: interp.HookedModel
    gender: Tensor
    """[name] bool: what decides between HE and SHE."""

    def prompt(self, name: int, seed: int = 0) -> Tensor:
        """A sentence about a name up to where the pronoun comes."""
        return sentences(self.gender, torch.tensor([name]), seed)[0, :-1]


def attributes(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gender [name] and two traits [name 2], independent of each other."""
    draw = generator(seed, "names")
    gender = torch.rand(N_NAMES, generator=draw) < 0.5
    return gender, torch.randint(0, N_TRAITS, (N_NAMES, 2), generator=draw)


def sentences(gender: Tensor, names: Tensor, seed: int) -> Tensor:
    """START name IS trait trait AND pronoun, [sentence 7]."""
    _, traits = attributes()
    n = len(names)
    row = torch.empty(n, 7, dtype=torch.long)
    row[:, 0], row[:, 1], row[:, 2], row[:, 5] = START, names, IS, AND
    row[:, 3] = TRAITS + traits[names, 0]
    row[:, 4] = TRAITS + N_TRAITS + traits[names, 1]
    row[:, 6] = torch.where(gender[names], torch.tensor(SHE), torch.tensor(HE))
    return row


def train_names(steps: int = 250, seed: int = 0) -> Names:
    """Two layers with MLPs and layer norm; after `steps` batches of 256 it knows every name."""
    gender, _ = attributes()
    sizes = {"n_layers": 2, "d_model": 64, "d_head": 16, "n_heads": 4, "d_mlp": 128, "n_ctx": 8}
    module = SmallTransformer(
        SmallConfig(**sizes, d_vocab=D_VOCAB, act_fn="gelu", initializer_range=0.1), seed=seed
    )

    def batch(t: int) -> Tensor:
        draw = generator(seed, "sentences", t)
        return sentences(gender, torch.randint(0, N_NAMES, (256,), generator=draw), t)

    def loss(module: SmallTransformer, rows: Tensor, t: int) -> Tensor:
        logits = module(rows[:, :-1])[:, 2:]
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 3:].flatten())

    fit(module, loss, batch, FitConfig(steps=steps, lr=3e-3, lr_schedule="linear"))
    return Names(interp.wrap(module.eval(), name="names"), gender)


# --- an encoder-decoder that copies or sorts digits ---------------------------------------------

COPY, SORT, BEGIN, N_DIGITS = 10, 11, 12, 10


class Seq2Seq(nn.Module):
    """Pre-norm encoder-decoder, 4 + 2 layers of width 64: `forward((source, target))` -> logits."""

    def __init__(self, seed: int = 0, width: int = 64, length: int = 8) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.width, self.length = width, length
        self.embed, self.places = nn.Embedding(13, width), nn.Embedding(length + 1, width)
        for table in (self.embed, self.places):
            nn.init.normal_(table.weight, std=0.1)
        how = {"batch_first": True, "norm_first": True, "dropout": 0.0}
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, **how) for _ in range(4)
        )
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(width, 4, 4 * width, **how), 2, nn.LayerNorm(width)
        )
        self.head = nn.Linear(width, 13)

    def enter(self, ids: Tensor) -> Tensor:
        return self.embed(ids) + self.places.weight[: ids.shape[1]]

    def decode(self, memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        x = self.decoder(self.enter(ids), memory, tgt_mask=causal, tgt_is_causal=True)
        return self.head(x)

    def forward(self, source: Tensor, target: Tensor | None = None) -> Tensor:
        x = self.enter(source)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        start = torch.full_like(source[:, :1], BEGIN)
        return self.decode(x, None, start if target is None else target)


def digits(
    n: int, seed: int, step: int = 0, task: int | None = None, length: int = 8
) -> tuple[Tensor, Tensor]:
    """Tagged digits [n 1 + length] and their answers [n length]; `task` None mixes both."""
    draw = generator(seed, "digits", step)
    values = torch.randint(0, N_DIGITS, (n, length), generator=draw)
    tags = torch.randint(COPY, SORT + 1, (n, 1), generator=draw)
    if task is not None:
        tags = torch.full((n, 1), task)
    answers = torch.where(tags == COPY, values, values.sort(1).values)
    return torch.cat([tags, values], 1), answers


def train_seq2seq(steps: int = 360, seed: int = 0, width: int = 64, length: int = 8) -> Seq2Seq:
    """Copies and sorts after 360 steps of 96 at full size."""
    module = Seq2Seq(seed, width, length)

    def loss(module: Seq2Seq, batch: tuple[Tensor, Tensor], t: int) -> Tensor:
        source, answers = batch
        given = torch.cat([torch.full_like(answers[:, :1], BEGIN), answers[:, :-1]], 1)
        logits = module(source, given)
        return nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())

    fit(module, loss, lambda t: digits(96, seed, t, length=length),
        FitConfig(steps=steps, lr=1e-3, optimizer="adamw"))  # fmt: skip
    return module.eval()


def lens_parts(module: Seq2Seq, norm: bool = True) -> Any:
    """The module as the decoder lens takes it."""
    from interp.lenses import EncoderDecoder

    model = interp.wrap(module, name="digits")
    rows = {"embed": "layers.0.hook_in"} | {f"enc L{i}": f"layers.{i}.hook_out" for i in range(4)}
    return EncoderDecoder(model, rows, module.norm if norm else nn.Identity(), module.decode, BEGIN)


# --- a language model of topics, for position and context ---------------------------------------

N_TOPICS, N_WORDS, TOPIC_LENGTH = 5, 100, 48


def topic_texts(n: int, seed: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """Texts [n 48] of one topic each and their topics [n]: a third common words, the rest own."""
    draw = generator(seed, "topics", step)
    topics = torch.randint(0, N_TOPICS, (n,), generator=draw)
    common, own = N_WORDS // 2, N_WORDS // 2 // N_TOPICS
    words = torch.randint(0, common, (n, TOPIC_LENGTH), generator=draw)
    mine = common + topics[:, None] * own
    mine = mine + torch.randint(0, own, (n, TOPIC_LENGTH), generator=draw)
    return torch.where(torch.rand(n, TOPIC_LENGTH, generator=draw) < 0.33, words, mine), topics


def train_topics(steps: int = 150, seed: int = 0) -> interp.HookedModel:
    """Four layers with learned positions; each word's place in the text matters for the next."""
    sizes = {"n_layers": 4, "d_model": 48, "d_head": 12, "n_heads": 4, "d_mlp": 96}
    module = SmallTransformer(
        SmallConfig(**sizes, d_vocab=N_WORDS, n_ctx=TOPIC_LENGTH, act_fn="gelu"), seed=seed
    )

    def loss(module: SmallTransformer, rows: Tensor, t: int) -> Tensor:
        logits = module(rows[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    fit(module, loss, lambda t: topic_texts(32, seed, t)[0], FitConfig(steps=steps, lr=3e-3))
    return interp.wrap(module.eval(), name="topics")
