"""Small modules of no family: maps, batch statistics, tuples, dicts, cells, a part used thrice."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.models.program.places import Place


class ConvNet(nn.Module):
    """A map, batch statistics, a ReLU that overwrites its input, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
        self.relu, self.conv2 = nn.ReLU(inplace=True), nn.Conv2d(5, 4, 2)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(36, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.relu(self.bn(self.conv1(x))))
        return self.head(self.drop(x.flatten(1)))


class Both(nn.Module):
    """Two tensors from one."""

    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.a, self.b, self.as_dict = nn.Linear(6, 6), nn.Linear(6, 6), as_dict

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | dict[str, Tensor]:
        first, second = torch.tanh(self.a(x)), torch.relu(self.b(x))
        return {"first": first, "second": second} if self.as_dict else (first, second)


class BothNet(nn.Module):
    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.both, self.drop, self.out = Both(as_dict), nn.Dropout(0.3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.both(x)
        first, second = found.values() if isinstance(found, dict) else found
        return self.out(self.drop(first * second + first))


class CellNet(nn.Module):
    """Two LSTM cells stepped along the input, so that each runs once per step."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(6, 6), nn.LSTMCell(6, 6)])
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        states: list[tuple[Tensor, Tensor] | None] = [None, None]
        outputs = []
        for step in x.unbind(1):
            for i, cell in enumerate(self.cells):
                state = states[i] = cell(step, states[i])
                step = state[0]
            outputs.append(self.head(step))
        return torch.stack(outputs, 1)


class Thrice(nn.Module):
    """One block applied three times, as in ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = x + torch.tanh(self.block(x))
        return self.head(x)


def make_net(name: str) -> nn.Module:
    """A net in float64 with drawn weights and statistics."""
    torch.manual_seed(3)
    net: nn.Module = {
        "conv": ConvNet,
        "tuple": lambda: BothNet(False),
        "dict": lambda: BothNet(True),
        "cells": CellNet,
        "thrice": Thrice,
    }[name]()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = torch.randn(5) * 0.3
            part.running_var = torch.rand(5) + 0.5
    return net.double()


NETS: dict[str, tuple[tuple[int, ...], dict[str, Place]]] = {
    "conv": (
        (3, 6, 6),
        {
            "conv1.hook_in": Place("conv1", "in", "c"),
            "conv1.hook_out": Place("conv1", "out", "c"),
            "bn.hook_out": Place("bn", "out", "?"),
            "conv2.hook_in": Place("conv2", "in", "?"),
            "conv2.hook_out": Place("conv2", "out", "c"),
            "head.hook_in": Place("head", "in", "s"),
        },
    ),
    "tuple": ((3, 6), {"both.hook_in": Place("both", "in", "?"), "both.hook_out": Place("both", "out", "?")}),
    "dict": ((6,), {"both.hook_in": Place("both", "in", "s"), "both.hook_out": Place("both", "out", "s")}),
    "cells": (
        (4, 6),
        {
            **{f"cells.0.hook_out#{k}": Place("cells.0", "out", "s") for k in range(4)},
            **{f"cells.1.hook_in#{k}": Place("cells.1", "in", "s") for k in (0, 2)},
            **{f"cells.1.hook_c#{k}": Place("cells.1", "pair", "s") for k in (1, 3)},
        },
    ),
    "thrice": (
        (2, 6),
        {
            **{f"block.hook_out#{k}": Place("block", "out", "?") for k in range(3)},
            **{f"block.hook_in#{k}": Place("block", "in", "?") for k in (0, 2)},
        },
    ),
}
"""Per net: the shape of one row, and its sites."""
