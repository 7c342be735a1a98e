"""Real models in shared/data/models that no loader opens: modules built here, arrays loaded in.

Sources, licences and reference figures: shared/data/README.md and SOURCES.md.
"""

from __future__ import annotations

import json
import math
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer, load_parameters

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRACR_PROGRAMS = ("frac_prevs", "reverse", "hist", "count_a", "length")


# --- images -------------------------------------------------------------------------------------


class ResBlock(nn.Module):
    """Basic block with option A shortcut: stride and zero channels instead of a convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride = after // before
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        self.extra = (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        short = x[:, :, :: self.stride, :: self.stride]
        return self.relu2(out + F.pad(short, (0, 0, 0, 0, self.extra, self.extra)))


class ResNet20(nn.Module):
    """The CIFAR ResNet-20 of He et al. 2015."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(16), nn.ReLU()
        self.layer1 = nn.Sequential(*(ResBlock(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(ResBlock(16, 32), ResBlock(32, 32), ResBlock(32, 32))
        self.layer3 = nn.Sequential(ResBlock(32, 64), ResBlock(64, 64), ResBlock(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.relu(self.bn1(self.conv1(x))))
        return self.linear(self.layer3(self.layer2(x)).mean((2, 3)))


class CaptumCNN(nn.Module):
    """Captum's CIFAR tutorial network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool1, self.pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.relu1, self.relu2, self.relu3, self.relu4 = (nn.ReLU() for _ in range(4))
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x))).flatten(1)
        return self.fc3(self.relu4(self.fc2(self.relu3(self.fc1(x)))))


def resnet20(shared: Path) -> ResNet20:
    """Reaches 0.81 on the JPEG test images; input normalised by `RESNET_NORM`."""
    model = ResNet20()
    state = load_file(shared / "models" / "cifar-resnet20" / "model.safetensors")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return model.eval()


def captum_state(shared: Path, name: str) -> dict[str, Tensor]:
    path = shared / "models" / "captum" / f"{name}.pt"
    return torch.load(path, weights_only=True, map_location="cpu")


def captum_cnn(shared: Path) -> CaptumCNN:
    """Reaches 0.59 on the same images; input normalised by `CAPTUM_NORM`."""
    model = CaptumCNN()
    model.load_state_dict(captum_state(shared, "cifar_torchvision"))
    return model.eval()


RESNET_NORM = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAPTUM_NORM = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def cifar_images(shared: Path, per_class: int) -> tuple[Tensor, Tensor]:
    """The first `per_class` test JPEGs of each class: images in 0..1 [image 3 32 32], labels."""
    from PIL import Image

    archive = shared / "corpora" / "images" / "cifar10" / "cifar10_test_200perclass.tar"
    images, labels = [], []
    with tarfile.open(archive) as tar:
        names = sorted(member.name for member in tar.getmembers() if member.isfile())
        for label, kind in enumerate(CIFAR_CLASSES):
            for name in [n for n in names if n.split("/")[1] == kind][:per_class]:
                handle = tar.extractfile(name)
                assert handle is not None
                pixels = np.asarray(Image.open(BytesIO(handle.read())).convert("RGB"))
                images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
                labels.append(label)
    return torch.stack(images).float() / 255, torch.tensor(labels)


def normalised(images: Tensor, norm: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in norm)
    return (images - mean) / std


# --- tables -------------------------------------------------------------------------------------


class TitanicMLP(nn.Module):
    """Captum's Titanic tutorial network: 12 features to the probabilities of two outcomes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.sigmoid1 = nn.Linear(12, 12), nn.Sigmoid()
        self.linear2, self.sigmoid2 = nn.Linear(12, 8), nn.Sigmoid()
        self.linear3, self.softmax = nn.Linear(8, 2), nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.sigmoid2(self.linear2(self.sigmoid1(self.linear1(x))))
        return self.softmax(self.linear3(x))


class CaliforniaMLP(nn.Module):
    """Captum's California housing tutorial network: 8 features to one price."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(8, 100), nn.Linear(100, 50)
        self.lin3, self.lin4 = nn.Linear(50, 10), nn.Linear(10, 1)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.lin2(self.relu1(self.lin1(x))))
        return self.lin4(self.relu3(self.lin3(x)))


def titanic(shared: Path) -> TitanicMLP:
    model = TitanicMLP()
    model.load_state_dict(captum_state(shared, "titanic_model"))
    return model.eval()


def california(shared: Path) -> CaliforniaMLP:
    model = CaliforniaMLP()
    model.load_state_dict(captum_state(shared, "california_model"))
    return model.eval()


# --- recurrent ----------------------------------------------------------------------------------


class CharLSTM(nn.Module):
    """Two LSTM cells stepped over characters, so that a hook sees (and may edit) each step.

    `forward(ids [batch pos])` gives logits [batch pos 65]; reaches 1.80 nats per character.
    """

    def __init__(self, vocab: dict[str, int]) -> None:
        super().__init__()
        self.vocab = vocab
        self.embedding = nn.Embedding(65, 128)
        self.cells = nn.ModuleList([nn.LSTMCell(128, 128), nn.LSTMCell(128, 128)])
        self.head = nn.Linear(128, 65)

    def forward(self, ids: Tensor) -> Tensor:
        states: list[Any] = [None, None]
        logits = []
        for step in self.embedding(ids).unbind(1):
            for index, cell in enumerate(self.cells):
                states[index] = cell(step, states[index])
                step = states[index][0]
            logits.append(self.head(step))
        return torch.stack(logits, 1)

    def encode(self, text: str) -> Tensor:
        """Ids [1 pos]; the stored vocabulary spells U as the empty string and u as two spaces."""
        known = {**self.vocab, "U": self.vocab[""], "u": self.vocab["  "]}
        return torch.tensor([[known[c] for c in text]])


def char_lstm(shared: Path) -> CharLSTM:
    folder = shared / "models" / "char-lstm-shakespeare"
    manifest = json.loads((folder / "manifest.json").read_text())

    def array(name: str) -> Tensor:
        entry = manifest[name]
        values = np.fromfile(folder / entry["filename"], dtype="<f4")
        return torch.from_numpy(values).reshape(entry["shape"])

    model = CharLSTM(json.loads((folder / "vocab.json").read_text()))
    with torch.no_grad():
        model.embedding.weight.copy_(array("embedding"))
        model.head.weight.copy_(array("rnnlm/softmax_w").T)
        model.head.bias.copy_(array("rnnlm/softmax_b"))
        for index, cell in enumerate(model.cells):
            stem = f"rnnlm/multi_rnn_cell/cell_{index}/basic_lstm_cell/"
            # TensorFlow's gates: input, candidate, forget (bias + 1), output; torch's: i, f, g, o.
            i, j, f, o = array(stem + "weights").chunk(4, 1)
            weight = torch.cat((i, f, j, o), 1).T
            i, j, f, o = array(stem + "biases").chunk(4)
            cell.weight_ih.copy_(weight[:, :128])
            cell.weight_hh.copy_(weight[:, 128:])
            cell.bias_ih.copy_(torch.cat((i, f + 1, j, o)))
            cell.bias_hh.zero_()
    return model.eval()


# --- compiled programs ----------------------------------------------------------------------------


def tracr(shared: Path, program: str) -> tuple[SmallTransformer, dict[str, Any]]:
    """A compiled program and its description; the logits are the final residual stream."""
    folder = shared / "models" / "tracr"
    info = json.loads((folder / f"{program}.json").read_text())
    with np.load(folder / f"{program}.npz") as arrays:
        raw = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
    d_model, heads, d_head = info["d_model"], info["n_heads"], info["key_size"]
    config = SmallConfig(
        n_layers=info["n_layers"],
        d_model=d_model,
        n_ctx=len(raw["pos_embed|embeddings"]),
        d_head=d_head,
        d_vocab=len(info["vocab"]),
        d_vocab_out=d_model,
        n_heads=heads,
        d_mlp=info["mlp_hidden"],
        act_fn=info["act"],
        normalization_type=None,
        attention_dir="causal" if info["causal"] else "bidirectional",
        attn_scale=math.sqrt(d_head),
    )
    state = {
        "embed.W_E": raw["token_embed|embeddings"],
        "pos_embed.W_pos": raw["pos_embed|embeddings"],
        "unembed.W_U": torch.eye(d_model),
        "unembed.b_U": torch.zeros(d_model),
    }
    for layer in range(info["n_layers"]):
        source, target = f"transformer|layer_{layer}|", f"blocks.{layer}."
        for name, letter in (("query", "Q"), ("key", "K"), ("value", "V")):
            weight, bias = raw[f"{source}attn|{name}|w"], raw[f"{source}attn|{name}|b"]
            state[f"{target}attn.W_{letter}"] = weight.unflatten(1, (heads, d_head)).movedim(1, 0)
            state[f"{target}attn.b_{letter}"] = bias.unflatten(0, (heads, d_head))
        out = raw[f"{source}attn|linear|w"].unflatten(0, (heads, d_head))
        state[f"{target}attn.W_O"], state[f"{target}attn.b_O"] = out, raw[f"{source}attn|linear|b"]
        for number, name in ((1, "in"), (2, "out")):
            state[f"{target}mlp.W_{name}"] = raw[f"{source}mlp|linear_{number}|w"]
            state[f"{target}mlp.b_{name}"] = raw[f"{source}mlp|linear_{number}|b"]
    model = SmallTransformer(config)
    load_parameters(model, state, source=f"{program}.npz")
    return model.eval(), info
