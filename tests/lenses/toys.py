"""Small models trained on the spot, for phenomena that need learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import interp
from interp.activations import FitConfig, fit
from interp.core.randomness import generator
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer

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
    """Pre-norm encoder-decoder, 4 + 2 layers of width 64: `forward((source, target))` -> logits.

    `gradual`: embeddings of deviation 1 rather than .1, encoder layers that begin by adding
    nothing, and dropout, so that training changes the stream little by little.
    """

    def __init__(self, seed: int = 0, width: int = 64, length: int = 8, gradual: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.width, self.length = width, length
        self.embed, self.places = nn.Embedding(13, width), nn.Embedding(length + 1, width)
        for table in (self.embed, self.places):
            nn.init.normal_(table.weight, std=0.1)
        how = {"batch_first": True, "norm_first": True, "dropout": 0.1 if gradual else 0.0}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 4, 4 * width, **how) for _ in range(4))
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(width, 4, 4 * width, **how), 2, nn.LayerNorm(width)
        )
        self.head = nn.Linear(width, 13)
        if gradual:
            for table in (self.embed, self.places):
                nn.init.normal_(table.weight, std=1.0)
            for layer in self.layers:
                nn.init.zeros_(layer.self_attn.out_proj.weight)
                nn.init.zeros_(layer.linear2.weight)

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


def train_seq2seq(
    steps: int = 360, seed: int = 0, width: int = 64, length: int = 8, copy_first: int = 0
) -> Seq2Seq:
    """Copies and sorts after 360 steps of 96 at full size.

    With `copy_first` the first steps hold copying only and the model is a gradual one: what sorting
    needs is then added to a stream from which the decoder reads copies already.
    """
    module = Seq2Seq(seed, width, length, gradual=copy_first > 0)

    def batch(t: int) -> tuple[Tensor, Tensor]:
        return digits(96, seed, t, COPY if t < copy_first else None, length)

    def loss(module: Seq2Seq, batch: tuple[Tensor, Tensor], t: int) -> Tensor:
        source, answers = batch
        given = torch.cat([torch.full_like(answers[:, :1], BEGIN), answers[:, :-1]], 1)
        logits = module(source, given)
        return nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten())

    shape = "linear" if copy_first else "constant"
    fit(module, loss, batch, FitConfig(steps=steps, lr=1e-3, lr_schedule=shape, optimizer="adamw"))
    return module.eval()


def lens_parts(module: Seq2Seq, norm: bool = True) -> Any:
    """The module as the decoder lens takes it."""
    from interp.lenses import EncoderDecoder

    model = interp.wrap(module, name="digits")
    rows = {"embed": "layers.0.hook_in"} | {f"enc L{i}": f"layers.{i}.hook_out" for i in range(4)}
    return EncoderDecoder(model, rows, module.norm if norm else nn.Identity(), module.decode, BEGIN)


# --- a language model of topics, for position and context ---------------------------------------

N_TOPICS, N_WORDS, TOPIC_LENGTH = 5, 100, 48
CLOCK = 15
"""How many common words may stand at one place."""


def topic_texts(n: int, seed: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """Texts [n 48] of one topic each and their topics [n].

    Half of the words are the topic's own; the other half are common words that tell the place in
    the text, fifteen of fifty at each, so that positions have something smooth to say.
    """
    draw = generator(seed, "topics", step)
    topics = torch.randint(0, N_TOPICS, (n,), generator=draw)
    common, own = N_WORDS // 2, N_WORDS // 2 // N_TOPICS
    place = torch.arange(TOPIC_LENGTH) / (TOPIC_LENGTH - 1) * (common - CLOCK)
    words = place.round().long() + torch.randint(0, CLOCK, (n, TOPIC_LENGTH), generator=draw)
    mine = common + topics[:, None] * own
    mine = mine + torch.randint(0, own, (n, TOPIC_LENGTH), generator=draw)
    return torch.where(torch.rand(n, TOPIC_LENGTH, generator=draw) < 0.5, words, mine), topics


def train_topics(steps: int = 250, seed: int = 0) -> interp.HookedModel:
    """Four layers with learned positions that begin at zero."""
    sizes = {"n_layers": 4, "d_model": 60, "d_head": 12, "n_heads": 5, "d_mlp": 120}
    module = SmallTransformer(
        SmallConfig(**sizes, d_vocab=N_WORDS, n_ctx=TOPIC_LENGTH, act_fn="gelu"), seed=seed
    )
    with torch.no_grad():
        module.get_submodule("pos_embed").get_parameter("W_pos").zero_()

    def loss(module: SmallTransformer, rows: Tensor, t: int) -> Tensor:
        logits = module(rows[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    config = FitConfig(steps=steps, lr=3e-3, lr_schedule="linear", optimizer="adamw")
    fit(module, loss, lambda t: topic_texts(32, seed, t)[0], config)
    return interp.wrap(module.eval(), name="topics")


# --- two language models of one corpus, and a classifier of one of them --------------------------

CHAINS, CHAIN_WORDS, FILLERS, CHAIN_LENGTH = 8, 12, 24, 24
YES, NO = CHAINS * CHAIN_WORDS + FILLERS, CHAINS * CHAIN_WORDS + FILLERS + 1


def chain_texts(n: int, seed: int, step: int = 0) -> tuple[Tensor, Tensor]:
    """Texts [n 24] of one topic each and their topics [n]; every word has three successors."""
    world = generator(0, "chains")
    after = torch.randint(0, CHAIN_WORDS, (CHAINS, CHAIN_WORDS, 3), generator=world)
    filler_after = torch.randint(0, FILLERS, (FILLERS, 3), generator=world)
    draw = generator(seed, "chain texts", step)

    def some(high: int) -> Tensor:
        return torch.randint(0, high, (n,), generator=draw)

    topics, word, filler, texts = some(CHAINS), some(CHAIN_WORDS), some(FILLERS), []
    for _ in range(CHAIN_LENGTH):
        own = torch.rand(n, generator=draw) < 0.6
        word = torch.where(own, after[topics, word, some(3)], word)
        filler = torch.where(own, filler, filler_after[filler, some(3)])
        texts.append(torch.where(own, topics * CHAIN_WORDS + word, CHAINS * CHAIN_WORDS + filler))
    return torch.stack(texts, 1), topics


def train_chains(seed: int, steps: int = 200, n_layers: int = 4) -> Any:
    """A GPT-2 of width 48 with tied embeddings; seeds differ in weights and in texts."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    module = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=NO + 1,
            n_positions=CHAIN_LENGTH,
            n_embd=48,
            n_layer=n_layers,
            n_head=4,
            bos_token_id=None,
            eos_token_id=None,
            **drop,
        )
    )

    def loss(module: Any, rows: Tensor, t: int) -> Tensor:
        logits = module(rows).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    config = FitConfig(
        steps=steps,
        lr=3e-3,
        lr_schedule="linear",
        lr_warmup=min(20, steps),
        optimizer="adamw",
        weight_decay=0.01,
    )
    fit(module, loss, lambda t: chain_texts(48, seed + 10, t)[0], config)
    return module.eval()


def tune_chains(module: Any, steps: int = 150) -> Any:
    """The last three layers and the final norm taught to say YES after topics 0 to 3, else NO."""
    import copy

    module = copy.deepcopy(module).train()
    first = module.config.n_layer - 3
    for name, parameter in module.named_parameters():
        layer = int(name.split(".")[2]) if ".h." in name else -1
        parameter.requires_grad_(layer >= first or "ln_f" in name)

    def loss(module: Any, batch: tuple[Tensor, Tensor], t: int) -> Tensor:
        texts, topics = batch
        answers = torch.where(topics < CHAINS // 2, YES, NO)
        return nn.functional.cross_entropy(module(texts).logits[:, -1], answers)

    config = FitConfig(steps=steps, lr=1e-3, lr_schedule="linear", optimizer="adamw")
    fit(module, loss, lambda t: chain_texts(48, 77, t), config)
    return module.eval()


# --- a vision transformer on digits -------------------------------------------------------------


@dataclass
class Digits:
    """A classifier of 8 x 8 digits and what it has not seen."""

    model: interp.HookedModel
    pixels: Tensor
    """Held-out images, [image 1 8 8]."""
    labels: Tensor
    """Their digits, [image]."""


def train_digits(steps: int = 600) -> Digits:
    """A ViT of four layers, width 48, on scikit-learn's digits; 97 % held out at 600 steps."""
    from sklearn.datasets import load_digits
    from transformers import ViTConfig, ViTForImageClassification

    data: Any = load_digits()
    pixels = torch.tensor(data.images).float()[:, None] / 8 - 1
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=generator(0, "digits"))
    seen, rest = order[:1400], order[1400:]
    torch.manual_seed(0)
    module = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=96,
            num_labels=10,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )

    def loss(module: Any, index: Tensor, t: int) -> Tensor:
        logits = module(pixel_values=pixels[index]).logits
        return nn.functional.cross_entropy(logits, labels[index])

    def batch(t: int) -> Tensor:
        return seen[torch.randint(0, len(seen), (64,), generator=generator(0, "batch", t))]

    settings = {"lr_schedule": "linear", "lr_warmup": 20, "optimizer": "adamw"}
    fit(module, loss, batch, FitConfig(steps=steps, lr=2e-3, **settings))
    return Digits(interp.wrap(module.eval(), name="digits ViT"), pixels[rest], labels[rest])
