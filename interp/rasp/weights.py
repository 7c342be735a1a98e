"""From a plan to the weights of an exact transformer.

Every s-op has its own directions in the residual stream, one per category or one for a number, under
the name `s-op:value`. A head's scores are scale times the selector's 0 or 1; the start token stands
at half of it, so that a position that selects nothing looks there, where all values are 0 (or at the
whole of it, to count). An MLP looks combinations of categories up, one neuron each, and turns numbers
into steps, two neurons per step. Nothing reads an axis of its own accord: the basis may be turned.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from interp.core.randomness import generator
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer, load_parameters
from interp.rasp.config import CompileConfig
from interp.rasp.interpreter import called
from interp.rasp.language import Elementwise, Fill, Indices, Linear, ProgramError, SOp, Tokens, Value
from interp.rasp.plan import START, Head, Plan


class Neuron(NamedTuple):
    """relu of a weighted sum of directions and a bias, written to directions."""

    reads: dict[int, float]
    bias: float
    writes: dict[int, float]


class Basis:
    """Where each s-op stands in the residual stream, before the basis is turned."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.names: list[str] = ["start"]
        self.first: dict[SOp, int] = {START: 0}
        taken: set[str] = set()
        for sop in plan.writers:
            if sop is START:
                continue
            name = next(n for n in _numbered(sop.name) if n not in taken)
            taken.add(name)
            self.first[sop] = len(self.names)
            values = plan.domains[sop] if sop.dtype == "categorical" else None
            self.names += [name] if values is None else [f"{name}:{value}" for value in values]

    def at(self, sop: SOp) -> slice:
        """The directions of an s-op."""
        width = 1 if sop is START else self.plan.width(sop)
        return slice(self.first[sop], self.first[sop] + width)

    def place(self, sop: SOp, value: Value) -> int:
        """The direction of one category."""
        return self.first[sop] + self.plan.domains[sop].index(value)

    def written(self, sop: SOp, value: Value, times: float = 1.0) -> dict[int, float]:
        """What is written for a value: one direction, a number, or nothing."""
        if value is None:
            return {}
        if sop.dtype == "numerical":
            return {self.first[sop]: float(value) * times}  # type: ignore[arg-type]
        return {self.place(sop, value): times}


def build(plan: Plan, config: CompileConfig) -> tuple[SmallTransformer, list[str], Tensor]:
    """The transformer of a plan, and its named directions.

    Returns:
        Model; name of each direction; their vectors [direction d_model], float64.
    """
    basis = Basis(plan)
    d_model = len(basis.names)
    neurons = [[n for sop in mlp for n in _neurons(sop, basis)] for mlp in plan.mlps]
    heads = [head for layer in plan.heads for head in layer]
    shape = SmallConfig(
        n_layers=plan.n_layers,
        d_model=d_model,
        n_ctx=plan.max_length + 1,
        d_head=max([1, *(max(_key_width(h), _value_width(h, plan)) for h in heads)]),
        d_vocab=len(plan.vocabulary) + 1,
        n_heads=plan.n_heads,
        d_mlp=max(1, *map(len, neurons)),
        d_vocab_out=plan.width(plan.program) + (plan.program.dtype == "numerical"),
        normalization_type=None,
        attention_dir="bidirectional",
        attn_scale=1.0,
        default_prepend_bos=False,
        dtype=config.dtype,
    )
    model = SmallTransformer(shape)
    turned = _rotation(d_model, config) if config.rotate else torch.eye(d_model, dtype=torch.float64)
    state = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in model.named_parameters()}
    _embed(state, plan, basis)
    for layer, (row, mlp) in enumerate(zip(plan.heads, neurons, strict=True)):
        for h, head in enumerate(row):
            _attend(state, f"blocks.{layer}.attn.", h, head, basis, config.score_scale)
        _mlp(state, f"blocks.{layer}.mlp.", mlp)
    _unembed(state, plan, basis)
    for name in state:
        kind = name.rpartition(".")[2]
        if kind in ("W_E", "W_pos", "W_O", "W_out"):
            state[name] = state[name] @ turned
        elif kind in ("W_Q", "W_K", "W_V", "W_in", "W_U"):
            state[name] = turned.T @ state[name]
    load_parameters(model, state)
    return model.requires_grad_(False).eval(), basis.names, turned


def _numbered(name: str) -> Iterator[str]:
    yield name
    n = 1
    while True:
        n += 1
        yield f"{name}_{n}"


def _rotation(d_model: int, config: CompileConfig) -> Tensor:
    """A random orthogonal matrix, uniform: QR of normal numbers, signs by the diagonal of R."""
    source = generator(config.seed, "residual basis")
    q, r = torch.linalg.qr(torch.randn(d_model, d_model, generator=source, dtype=torch.float64))
    return q * r.diagonal().sign()


def _embed(state: dict[str, Tensor], plan: Plan, basis: Basis) -> None:
    state["embed.W_E"][0, 0] = 1.0
    for sop in basis.first:
        if isinstance(sop, Tokens):
            state["embed.W_E"][1:, basis.at(sop)] = torch.eye(len(plan.vocabulary), dtype=torch.float64)
        elif isinstance(sop, Indices):
            state["pos_embed.W_pos"][1:, basis.at(sop)] = torch.eye(plan.max_length, dtype=torch.float64)


def _unembed(state: dict[str, Tensor], plan: Plan, basis: Basis) -> None:
    """A category as one half against minus one half; a number beside a constant 1.

    So there is always something to compare with, also where a program says None or 0.
    """
    width = plan.width(plan.program)
    state["unembed.W_U"][basis.at(plan.program), :width] = torch.eye(width, dtype=torch.float64)
    if plan.program.dtype == "numerical":
        state["unembed.b_U"][1] = 1.0
    else:
        state["unembed.b_U"][:] = -0.5


def _key_width(head: Head) -> int:
    return min(head.selects.shape) + 1


def _value_width(head: Head, plan: Plan) -> int:
    return sum(1 if sop is START else plan.width(sop) for sop in head.values)


def _attend(state: dict[str, Tensor], place: str, h: int, head: Head, basis: Basis, scale: float) -> None:
    """Scores over the smaller of the two sets of values; the last dimension holds the start's own."""
    selects = torch.from_numpy(head.selects)
    small = min(selects.shape)
    eye = torch.eye(small, dtype=torch.float64)
    per_key = selects.shape[1] == small
    W_Q, W_K = state[f"{place}W_Q"][h], state[f"{place}W_K"][h]
    W_Q[basis.at(head.queries), :small] = scale * (selects if per_key else eye)
    W_K[basis.at(head.keys), :small] = eye if per_key else selects.T
    state[f"{place}b_Q"][h, small] = scale * (1.0 if head.counts else 0.5)
    W_K[0, small] = 1.0
    W_V, W_O = state[f"{place}W_V"][h], state[f"{place}W_O"][h]
    first = 0
    for sop in head.values:
        width = 1 if sop is START else basis.plan.width(sop)
        eye = torch.eye(width, dtype=torch.float64)
        W_V[basis.at(sop), first : first + width] = eye
        for output in head.outputs:
            if (START if head.counts else output.inputs[2]) is sop:
                W_O[first : first + width, basis.at(output)] = eye
        first += width


def _mlp(state: dict[str, Tensor], place: str, neurons: list[Neuron]) -> None:
    for i, neuron in enumerate(neurons):
        for direction, weight in neuron.reads.items():
            state[f"{place}W_in"][direction, i] += weight
        state[f"{place}b_in"][i] = neuron.bias
        for direction, weight in neuron.writes.items():
            state[f"{place}W_out"][i, direction] += weight


def _neurons(sop: SOp, basis: Basis) -> Iterator[Neuron]:
    """The neurons of one elementwise operation; those that would write nothing are left out."""
    if isinstance(sop, Linear):
        kinds = _sum(sop, basis)
    elif isinstance(sop, Fill):
        kinds = _filled(sop, basis)
    elif not isinstance(sop, Elementwise):
        raise ProgramError("unknown kind of elementwise s-op", got=type(sop).__name__)
    elif sop.sources[0].dtype == "numerical":
        kinds = _stepped(sop, basis)
    else:
        kinds = _looked_up(sop, basis)
    return (neuron for neuron in kinds if any(neuron.writes.values()))


def _looked_up(sop: Elementwise, basis: Basis) -> Iterator[Neuron]:
    """One neuron per combination of categories: on where all of it is there."""
    for row in product(*(basis.plan.domains[source] for source in sop.sources)):
        reads: dict[int, float] = {}
        for source, value in zip(sop.sources, row, strict=True):
            place = basis.place(source, value)
            reads[place] = reads.get(place, 0.0) + 1.0
        yield Neuron(reads, 1.0 - len(row), basis.written(sop, called(sop, row)))


def _stepped(sop: Elementwise, basis: Basis) -> Iterator[Neuron]:
    """The first value's answer, and at each further value the difference to the one before.

    A step rises over the middle half between two values, so a number that is off by less than a
    quarter of their distance gives the same answer.
    """
    source = sop.sources[0]
    numbers = [float(value) for value in basis.plan.domains[source]]  # type: ignore[arg-type]
    answers = [called(sop, (value,)) for value in basis.plan.domains[source]]
    yield Neuron({0: -1.0}, 1.0, basis.written(sop, answers[0]))
    most = max(1.0, *map(abs, numbers))
    for low, high, before, after in zip(numbers, numbers[1:], answers, answers[1:], strict=False):
        if before == after:
            continue
        slope = 2.0 / (high - low)
        silence = -(slope * 2.0 * most + 2.0)
        writes = basis.written(sop, after)
        for place, weight in basis.written(sop, before, -1.0).items():
            writes[place] = writes.get(place, 0.0) + weight
        for sign, bias in ((1.0, 0.5), (-1.0, 1.5)):
            reads = {basis.first[source]: slope, 0: silence}
            yield Neuron(reads, -slope * low - bias, {place: sign * w for place, w in writes.items()})


def _filled(sop: Fill, basis: Basis) -> Iterator[Neuron]:
    """Each category as it is, and the value where there is none and no start token."""
    for value in basis.plan.domains[sop.source]:
        yield Neuron({basis.place(sop.source, value): 1.0}, 0.0, basis.written(sop, value))
    places = [basis.place(sop.source, value) for value in basis.plan.domains[sop.source]]
    yield Neuron({**dict.fromkeys(places, -1.0), 0: -1.0}, 1.0, basis.written(sop, sop.value))


def _sum(sop: Linear, basis: Basis) -> Iterator[Neuron]:
    """Its positive part less its negative part, both silent at the start token."""
    reads: dict[int, float] = {}
    for source, weight in sop.terms:
        reads[basis.first[source]] = reads.get(basis.first[source], 0.0) + float(weight)
    most = sum(
        abs(float(weight)) * max(abs(float(value)) for value in basis.plan.domains[source])  # type: ignore[arg-type]
        for source, weight in sop.terms
    )
    for sign in (1.0, -1.0):
        signed = {place: sign * weight for place, weight in reads.items()}
        yield Neuron({**signed, 0: -most - 1.0}, 0.0, basis.written(sop, 1, sign))
