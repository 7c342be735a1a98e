"""Recurrent layers, step by step: their fused kernels hide gates that have rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.attribution.methods.primitives import Primitives, live

Step = Callable[[Tensor, Any, list[Any]], Any]


class Recurrent(Primitives):
    """Cells and layers by torch's own equations; packed sequences have no rule."""

    def on_lstm_cell(
        self, input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None
    ) -> tuple[Tensor, Tensor]:
        """One step of an LSTM."""
        return self._lstm_step(input, tuple(hx), [w_ih, w_hh, b_ih, b_hh])

    def on_gru_cell(
        self, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None
    ) -> Tensor:
        """One step of a GRU."""
        return self._gru_step(input, hx, [w_ih, w_hh, b_ih, b_hh])

    def on_rnn_tanh_cell(
        self, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None
    ) -> Tensor:
        """One step of a plain network."""
        return self._plain_step(torch.tanh)(input, hx, [w_ih, w_hh, b_ih, b_hh])

    def on_rnn_relu_cell(
        self, input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None
    ) -> Tensor:
        """The same with a ReLU."""
        return self._plain_step(torch.relu)(input, hx, [w_ih, w_hh, b_ih, b_hh])

    def on_lstm(self, input: Tensor, hx: Any, params: Any, *options: Any) -> Any:
        """An LSTM of any depth and direction."""
        return self._layers(self._lstm_step, input, hx, params, options)

    def on_gru(self, input: Tensor, hx: Any, params: Any, *options: Any) -> Any:
        """A GRU of any depth and direction."""
        return self._layers(self._gru_step, input, hx, params, options)

    def on_rnn_tanh(self, input: Tensor, hx: Any, params: Any, *options: Any) -> Any:
        """A plain network of any depth and direction."""
        return self._layers(self._plain_step(torch.tanh), input, hx, params, options)

    def on_rnn_relu(self, input: Tensor, hx: Any, params: Any, *options: Any) -> Any:
        """The same with a ReLU."""
        return self._layers(self._plain_step(torch.relu), input, hx, params, options)

    def _affine(self, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
        return self.linear(F.linear, x, weight, bias) if live(x) else F.linear(x, weight, bias)

    def _lstm_step(self, x: Tensor, state: Any, weights: list[Any]) -> tuple[Tensor, Tensor]:
        h, c = state
        w_ih, w_hh, b_ih, b_hh, *projection = weights
        gates = self._affine(x, w_ih, b_ih) + self._affine(h, w_hh, b_hh)
        i, f, g, o = gates.chunk(4, -1)
        i, f, o = (self.gate(part) for part in (i, f, o))
        c = self.multiply(f, c) + self.multiply(i, self.entrywise(torch.tanh, g))
        h = self.multiply(o, self.entrywise(torch.tanh, c))
        return (self._affine(h, projection[0], None) if projection else h), c

    def _gru_step(self, x: Tensor, h: Tensor, weights: list[Any]) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = weights
        r_x, z_x, n_x = self._affine(x, w_ih, b_ih).chunk(3, -1)
        r_h, z_h, n_h = self._affine(h, w_hh, b_hh).chunk(3, -1)
        r, z = (self.gate(part) for part in (r_x + r_h, z_x + z_h))
        n = self.entrywise(torch.tanh, n_x + self.multiply(r, n_h))
        return n + self.multiply(z, h - n)

    def _plain_step(self, act: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def step(x: Tensor, h: Tensor, weights: list[Any]) -> Tensor:
            w_ih, w_hh, b_ih, b_hh = weights
            return self.entrywise(act, self._affine(x, w_ih, b_ih) + self._affine(h, w_hh, b_hh))

        return step

    def _layers(self, step: Any, x: Tensor, start: Any, params: Any, options: tuple[Any, ...]) -> Any:
        if len(options) != 6 or not isinstance(params, tuple | list):
            return NotImplemented  # a packed sequence
        biases, depth, dropout, training, both, batch_first = options
        if (isinstance(start, Tensor) and not start.is_floating_point()) or (training and dropout):
            return NotImplemented
        cells = isinstance(start, tuple | list)
        states = [list(part.unbind(0)) for part in (start if cells else (start,))]
        per = len(params) // (depth * (2 if both else 1))
        steps = x.unbind(1 if batch_first else 0)
        last: list[Any] = []
        for layer in range(depth):
            found = []
            for way in range(2 if both else 1):
                at = layer * (2 if both else 1) + way
                given = list(params[at * per : (at + 1) * per])
                weights = given if biases else [*given[:2], None, None, *given[2:]]
                state = tuple(part[at] for part in states) if cells else states[0][at]
                outs = []
                for item in reversed(steps) if way else steps:
                    state = step(item, state, weights)
                    outs.append(state[0] if cells else state)
                found.append(outs[::-1] if way else outs)
                last.append(state)
            steps = tuple(torch.cat(pair, -1) for pair in zip(*found, strict=True))
        out = torch.stack(steps, 1 if batch_first else 0)
        if not cells:
            return out, torch.stack(last)
        return out, torch.stack([h for h, _ in last]), torch.stack([c for _, c in last])
