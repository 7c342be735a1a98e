"""A character LSTM built from cells, so that any step of any unit can be read and edited."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.core.errors import ConfigError, ShapeError
from interp.core.randomness import generator

State = list[tuple[Tensor, Tensor]]
"""(hidden, cell) per layer, each [batch, d]."""
Edit = Callable[[int, int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(step, layer, hidden, cell) -> (hidden, cell), after the cell and before the next layer."""


class CharLSTM(nn.Module):
    """Embedding, stacked `nn.LSTMCell`s, a linear head over characters.

    Attributes:
        embedding: `nn.Embedding` [d_vocab, d].
        cells: One `nn.LSTMCell` per layer.
        head: `nn.Linear` to d_vocab.
    """

    def __init__(self, d_vocab: int, d: int, n_layers: int = 1, d_embed: int | None = None) -> None:
        super().__init__()
        width = d_embed or d
        self.embedding: nn.Embedding = nn.Embedding(d_vocab, width)
        self.cells: nn.ModuleList = nn.ModuleList(nn.LSTMCell(d if i else width, d) for i in range(n_layers))
        self.head: nn.Linear = nn.Linear(d, d_vocab)
        self.d = d

    def start(self, batch: int) -> State:
        """Zero states."""
        zero = self.head.weight.new_zeros(batch, self.d)
        return [(zero, zero) for _ in self.cells]

    def step(
        self, ids: Int[Tensor, "batch"], state: State, t: int = 0, edit: Edit | None = None
    ) -> tuple[Float[Tensor, "batch v"], State]:
        """One character further: logits of the next one, and the new states."""
        x = self.embedding(ids)
        new: State = []
        for layer, (cell, (h, c)) in enumerate(zip(self.cells, state, strict=True)):
            h, c = cell(x, (h, c))
            if edit is not None:
                h, c = edit(t, layer, h, c)
            new.append((h, c))
            x = h
        return self.head(x), new

    def forward(
        self, ids: Int[Tensor, "batch pos"], edit: Edit | None = None
    ) -> Float[Tensor, "batch pos v"]:
        """Logits after every character."""
        return self.run(ids, edit)[0]

    def run(
        self, ids: Int[Tensor, "batch pos"], edit: Edit | None = None
    ) -> tuple[Float[Tensor, "batch pos v"], Float[Tensor, "layer batch pos d"]]:
        """Logits, and tanh of the cells after every character: the units of the paper."""
        state, logits, cells = self.start(len(ids)), [], []
        for t in range(ids.shape[1]):
            out, state = self.step(ids[:, t], state, t, edit)
            logits.append(out)
            cells.append(torch.stack([c.tanh() for _, c in state]))
        return torch.stack(logits, 1), torch.stack(cells, 2)

    @torch.no_grad()
    def generate(
        self,
        ids: Int[Tensor, "batch pos"],
        n: int,
        *,
        edit: Edit | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Int[Tensor, "batch longer"]:
        """Continue by n characters, with the edit in place at every step; greedy at 0."""
        state, rows = self.start(len(ids)), list(ids.T)
        logits = self.head.weight.new_zeros(len(ids), self.head.out_features)
        for t in range(ids.shape[1]):
            logits, state = self.step(ids[:, t], state, t, edit)
        for t in range(ids.shape[1], ids.shape[1] + n):
            if temperature == 0:
                chosen = logits.argmax(-1)
            else:
                chances = (logits / temperature).softmax(-1)
                draw = generator(seed, "char lstm", t, chances.device)
                chosen = torch.multinomial(chances, 1, generator=draw)[:, 0]
            rows.append(chosen)
            logits, state = self.step(chosen, state, t, edit)
        return torch.stack(rows, 1)


def clamp_unit(layer: int, unit: int | Sequence[int], value: float | Sequence[float]) -> Edit:
    """An edit that holds tanh(cell) of units at values in (-1, 1), at every step.

    The hidden state follows: its output gate is what it was.

    Args:
        layer: Which of the stacked cells.
        unit: One unit, or several.
        value: One value for all of them, or one each.

    Raises:
        ConfigError: A value that tanh never takes, or another number of values than units.
    """
    units = [unit] if isinstance(unit, int) else list(unit)
    values = [value] * len(units) if isinstance(value, int | float) else list(value)
    if len(values) != len(units) or not all(-1 < v < 1 for v in values):
        raise ConfigError(
            "tanh of a cell",
            got=f"{values} for {len(units)} units",
            expected="between -1 and 1, one number or one per unit",
        )
    held = torch.tensor(values, dtype=torch.float64)

    def edit(step: int, at: int, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        del step
        if at != layer:
            return h, c
        before = c[:, units].tanh()
        gate = torch.where(before.abs() > 1e-6, h[:, units] / before, 0.5)
        h, c = h.clone(), c.clone()
        c[:, units] = torch.atanh(held).to(c)
        h[:, units] = gate * held.to(h)
        return h, c

    return edit


def from_tensorflow(arrays: Mapping[str, Tensor], forget_bias: float = 1.0) -> CharLSTM:
    """A CharLSTM from the arrays of TensorFlow's MultiRNNCell of BasicLSTMCells.

    Args:
        arrays: "embedding" [v, e], "softmax_w" [d, v], "softmax_b" [v], and per layer i
            "kernel_i" [input + d, 4 d] with gates in the order i, j, f, o, "bias_i" [4 d].
        forget_bias: Added to the forget gate, as BasicLSTMCell does.

    Raises:
        ShapeError: Arrays that do not fit together.
    """
    layers = sum(name.startswith("kernel_") for name in arrays)
    d, v = arrays["softmax_w"].shape
    width = arrays["embedding"].shape[1]
    model = CharLSTM(v, d, layers, width)
    with torch.no_grad():
        model.embedding.weight.copy_(arrays["embedding"])
        model.head.weight.copy_(arrays["softmax_w"].T)
        model.head.bias.copy_(arrays["softmax_b"])
        for i, cell in enumerate(model.cells):
            kernel, bias = arrays[f"kernel_{i}"], arrays[f"bias_{i}"].clone()
            wide = (d if i else width) + d
            if kernel.shape != (wide, 4 * d):
                raise ShapeError(f"kernel_{i}", got=tuple(kernel.shape), expected=(wide, 4 * d))
            bias[2 * d : 3 * d] += forget_bias
            order = torch.cat([torch.arange(g * d, (g + 1) * d) for g in (0, 2, 1, 3)])  # i f g o
            turned = kernel[:, order].T
            parts = dict(cell.named_parameters())
            parts["weight_ih"].copy_(turned[:, : wide - d])
            parts["weight_hh"].copy_(turned[:, wide - d :])
            parts["bias_ih"].copy_(bias[order])
            parts["bias_hh"].zero_()
    return model
