"""A looped transformer that runs SUBLEQ programs (Giannou et al., *Looped Transformers as Programmable
Computers*, ICML 2023): the state is the sequence, one pass of the block is one instruction.

Positions: a scratchpad, an empty place, the memory cells, the instructions. Each cell and instruction has
an address of signs; the scratchpad holds the address of the next instruction. A block has three layers:

1. the scratchpad fetches the instruction at that address: addresses a, b, c and the next one's;
2. it reads mem[a] and mem[b]; the MLP subtracts, wraps around, and sees whether the result is <= 0;
3. the cell at address b reads the result; the MLP stores it, moves the address on, wipes the scratchpad.

A position without an address to look for looks at the empty place. Scores differ by so much that the
softmax is exactly one-hot, and numbers are whole: after any number of loops the memory is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from interp.core.settings import read_count
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer, load_parameters
from interp.rasp.language import ProgramError

LAYERS = 3
"""Layers of the block."""
SCALE = 1000.0
"""Score per matching sign; exp(-1000) is 0 in every floating type."""
FIRST = 2
"""Position of the first memory cell, behind the scratchpad and the empty place."""


class Instruction(NamedTuple):
    """`mem[b] -= mem[a]; if mem[b] <= 0: goto c`, with cells and instructions counted from 0."""

    a: int
    b: int
    c: int


@dataclass(frozen=True, eq=False)
class SubleqMachine:
    """A SUBLEQ program as a block to be applied again and again."""

    block: SmallTransformer
    """Embedding, the three layers, and the memory value as the only logit."""
    n_cells: int
    """Memory cells of the program."""
    bits: int
    """Width of a number, in two's complement."""

    def encode(self, memory: Sequence[int]) -> Tensor:
        """Token ids [1 position] of a memory: a value is its own number, everything else is 0.

        Raises:
            ProgramError: Another number of cells, or a value that does not fit.
        """
        values = list(memory)
        _check_memory(values, self.n_cells, self.bits)
        ids = torch.full((1, self.block.cfg.n_ctx), 1 << (self.bits - 1))
        ids[0, FIRST : FIRST + self.n_cells] += torch.tensor(values)
        return ids

    @torch.no_grad()
    def run(self, memory: Sequence[int], loops: int) -> list[int]:
        """The memory after some instructions: one loop each, none once the program has ended.

        Raises:
            ProgramError: A memory that does not fit.
            ConfigError: A number of loops that is none.
        """
        ids = self.encode(memory)
        positions = torch.arange(ids.shape[1])[None]
        residual = self.block.embed(ids) + self.block.pos_embed(positions)
        for _ in range(read_count("loops", loops, 0)):
            for layer in self.block.blocks:
                residual = layer(residual, None, False, None)
        return self.decode(self.block.unembed(residual))

    def decode(self, logits: Tensor) -> list[int]:
        """The memory in the logits [1 position 1].

        Raises:
            ProgramError: A cell that holds no whole number.
        """
        cells = logits[0, FIRST : FIRST + self.n_cells, 0]
        if not torch.equal(cells, cells.round()):
            raise ProgramError(
                "the memory holds no whole numbers", got=cells.tolist(), fix="weights as they were made"
            )
        return [int(value) for value in cells.tolist()]

    def unrolled(self, loops: int) -> SmallTransformer:
        """The same as a plain transformer of 3 x loops layers with equal weights.

        Raises:
            ConfigError: A number of loops that is none.
        """
        loops = read_count("loops", loops)
        raw = self.block.cfg.to_dict() | {"n_layers": LAYERS * loops}
        state: dict[str, Tensor] = {}
        for name, tensor in self.block.named_parameters():
            if not name.startswith("blocks."):
                state[name] = tensor
                continue
            layer, rest = name.removeprefix("blocks.").split(".", 1)
            for loop in range(loops):
                state[f"blocks.{LAYERS * loop + int(layer)}.{rest}"] = tensor
        deep = SmallTransformer(SmallConfig.from_dict(raw), seed=None)
        load_parameters(deep, state)
        return deep.requires_grad_(False).eval()


def run_subleq(
    instructions: Sequence[tuple[int, int, int]], memory: Sequence[int], steps: int, *, bits: int = 8
) -> list[int]:
    """The memory after some instructions, by a plain interpreter.

    A program ends where it jumps, or runs, past its last instruction.

    Args:
        instructions: (a, b, c) each: `mem[b] -= mem[a]; if mem[b] <= 0: goto c`.
        memory: Whole numbers of `bits` bits in two's complement; differences wrap around.
        steps: Most instructions to run.
        bits: Width of a number.

    Raises:
        ProgramError: An address that does not exist, a value that does not fit.
        ConfigError: A number of steps that is none.
    """
    cells = list(memory)
    program = _checked(instructions, len(cells), bits)
    _check_memory(cells, len(cells), bits)
    half, here = 1 << (bits - 1), 0
    for _ in range(read_count("steps", steps, 0)):
        if here == len(program):
            break
        a, b, c = program[here]
        cells[b] = (cells[b] - cells[a] + half) % (2 * half) - half
        here = c if cells[b] <= 0 else here + 1
    return cells


def subleq_machine(
    instructions: Sequence[tuple[int, int, int]], n_cells: int, *, bits: int = 8
) -> SubleqMachine:
    """A looped transformer for one SUBLEQ program; the memory is its input.

    Args:
        instructions: (a, b, c) each, as `run_subleq` takes them.
        n_cells: Memory cells.
        bits: Width of a number, 2 to 12.

    Raises:
        ProgramError: No instruction, an address that does not exist, another width.
    """
    n_cells = read_count("n_cells", n_cells)
    program = _checked(instructions, n_cells, bits)
    places = _Places(n_cells, len(program), bits)
    shape = SmallConfig(
        n_layers=LAYERS,
        d_model=places.d_model,
        n_ctx=places.n_ctx,
        d_head=4 * places.signs + 1,
        d_vocab=1 << bits,
        n_heads=2,
        d_mlp=14 * places.signs + 14,
        d_vocab_out=1,
        normalization_type=None,
        attention_dir="bidirectional",
        attn_scale=1.0,
        default_prepend_bos=False,
    )
    model = SmallTransformer(shape)
    state = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    _memory(state, places, program)
    f = places.field
    fetched = [("A", "fA"), ("B", "fB"), ("C", "fC"), ("next", "fN")]
    _head(state, 0, 0, places, "pc", "address", fetched)
    _head(state, 1, 0, places, "fA", "address", [("mem", "va")])
    _head(state, 1, 1, places, "fB", "address", [("mem", "vb")])
    _head(state, 2, 0, places, "address", "fB", [("result", "wv"), ("scratch", "wf")])
    _subtract(_Neurons(state, 1), f, bits)
    _store(_Neurons(state, 2), f, bits)
    state["unembed.W_U"][f["mem"], 0] = 1.0
    load_parameters(model, state)
    return SubleqMachine(model.requires_grad_(False).eval(), n_cells, bits)


class _Places:
    """Positions of the sequence, their addresses, and fields of the residual stream."""

    def __init__(self, n_cells: int, n_instructions: int, bits: int) -> None:
        self.zero = FIRST + n_cells  # a cell of its own that stays 0, for the end of the program
        self.program = self.zero + 1
        self.n_ctx = self.program + n_instructions + 1
        self.signs = max(2, (self.n_ctx - 1).bit_length())
        self.bits = bits
        one, many = "scratch empty mem va vb result le wv wf", "address A B C next pc fA fB fC fN"
        self.field: dict[str, slice] = {}
        self.d_model = 0
        for names, width in ((one, 1), (many, self.signs)):
            for name in names.split():
                self.field[name] = slice(self.d_model, self.d_model + width)
                self.d_model += width

    def address(self, position: int) -> Tensor:
        """The signs of a position."""
        return torch.tensor([1.0 if position >> i & 1 else -1.0 for i in range(self.signs)])


def _memory(state: dict[str, Tensor], places: _Places, program: list[Instruction]) -> None:
    """Tokens are values; positions hold addresses, the program, and where it begins."""
    f, table = places.field, state["pos_embed.W_pos"]
    half = 1 << (places.bits - 1)
    state["embed.W_E"][:, f["mem"]] = torch.arange(-half, half, dtype=torch.float32)[:, None]
    table[0, f["scratch"]] = 1.0
    table[1, f["empty"]] = 1.0
    table[0, f["pc"]] = places.address(places.program)
    for position in range(FIRST, places.n_ctx):
        table[position, f["address"]] = places.address(position)
    end = places.n_ctx - 1
    for i, (a, b, c) in enumerate(program):
        row = table[places.program + i]
        row[f["A"]], row[f["B"]] = places.address(FIRST + a), places.address(FIRST + b)
        row[f["C"]] = places.address(places.program + c)
        row[f["next"]] = places.address(places.program + i + 1)
    for name, position in (("A", places.zero), ("B", places.zero), ("C", end), ("next", end)):
        table[end, f[name]] = places.address(position)


def _head(
    state: dict[str, Tensor],
    layer: int,
    h: int,
    places: _Places,
    query: str,
    key: str,
    moves: list[tuple[str, str]],
) -> None:
    """Look where the key equals the query, sign by sign; else at the empty place, one sign short of it."""
    f, signs, place = places.field, places.signs, f"blocks.{layer}.attn."
    eye = torch.eye(signs)
    state[f"{place}W_Q"][h, f[query], :signs] = SCALE * eye
    state[f"{place}W_K"][h, f[key], :signs] = eye
    state[f"{place}b_Q"][h, signs] = SCALE * (signs - 1)
    state[f"{place}W_K"][h, f["empty"], signs] = 1.0
    first = 0
    for source, target in moves:
        width = f[source].stop - f[source].start
        state[f"{place}W_V"][h, f[source], first : first + width] = torch.eye(width)
        state[f"{place}W_O"][h, first : first + width, f[target]] = torch.eye(width)
        first += width


class _Neurons:
    """The neurons of one layer's MLP, one after the other."""

    def __init__(self, state: dict[str, Tensor], layer: int) -> None:
        self.W_in = state[f"blocks.{layer}.mlp.W_in"]
        self.b_in = state[f"blocks.{layer}.mlp.b_in"]
        self.W_out = state[f"blocks.{layer}.mlp.W_out"]
        self.n = 0

    def add(self, reads: dict[int, float], bias: float, writes: dict[int, float]) -> None:
        for place, weight in reads.items():
            self.W_in[place, self.n] += weight
        self.b_in[self.n] = bias
        for place, weight in writes.items():
            self.W_out[self.n, place] += weight
        self.n += 1

    def copy(self, reads: dict[int, float], bias: float, gate: dict[int, float], target: int) -> None:
        """A signed sum, where the gate's bias and weights do not press it below 0."""
        for sign in (1.0, -1.0):
            signed = {place: sign * weight for place, weight in reads.items()}
            for place, weight in gate.items():
                signed[place] = signed.get(place, 0.0) + weight
            self.add(signed, bias, {target: sign})


def _subtract(mlp: _Neurons, f: dict[str, slice], bits: int) -> None:
    """result = vb - va, wrapped around; le = 1 where it is <= 0. Steps between whole numbers."""
    va, vb, scratch = (f[name].start for name in ("va", "vb", "scratch"))
    result, le = f["result"].start, f["le"].start
    half, much = float(1 << (bits - 1)), float(1 << (bits + 2))
    mlp.copy({vb: 1.0, va: -1.0}, 0.0, {}, result)

    def step(sign: float, low: float, writes: dict[int, float]) -> None:
        """1 where sign x (vb - va) >= low, at the scratchpad."""
        reads = {vb: sign, va: -sign, scratch: much}
        mlp.add(reads, 1.0 - low - much, writes)
        mlp.add(reads, -low - much, {place: -weight for place, weight in writes.items()})

    step(1.0, half, {result: -2.0 * half, le: 1.0})
    step(-1.0, half + 1.0, {result: 2.0 * half, le: -1.0})
    step(-1.0, 0.0, {le: 1.0})


def _store(mlp: _Neurons, f: dict[str, slice], bits: int) -> None:
    """mem takes wv where wf is 1; pc takes c where le is 1 and the next address else; the rest is wiped."""
    much = float(1 << (bits + 2))
    mem, wv, wf, le = (f[name].start for name in ("mem", "wv", "wf", "le"))
    mlp.copy({wv: 1.0, mem: -1.0}, -much, {wf: much}, mem)
    for pc, jump, following in zip(*(range(f[n].start, f[n].stop) for n in ("pc", "fC", "fN")), strict=True):
        mlp.copy({pc: -1.0}, 0.0, {}, pc)
        mlp.copy({jump: 1.0}, -2.0, {le: 2.0}, pc)
        mlp.copy({following: 1.0}, 0.0, {le: -2.0}, pc)
    for name in ("fA", "fB", "fC", "fN", "va", "vb", "result", "le", "wv", "wf"):
        for place in range(f[name].start, f[name].stop):
            mlp.copy({place: -1.0}, 0.0, {}, place)


def _checked(instructions: Sequence[tuple[int, int, int]], n_cells: int, bits: int) -> list[Instruction]:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 12:
        raise ProgramError("numbers of another width", got=bits, expected="bits from 2 to 12")
    program = [Instruction(*instruction) for instruction in instructions]
    if not program:
        raise ProgramError("a SUBLEQ program has an instruction", got=0, fix="[(a, b, c), ...]")
    for i, (a, b, c) in enumerate(program):
        for name, address, bound in (("a", a, n_cells - 1), ("b", b, n_cells - 1), ("c", c, len(program))):
            if not 0 <= address <= bound:
                raise ProgramError(
                    f"instruction {i} names what does not exist",
                    got=f"{name} = {address}",
                    expected=f"0 to {bound}",
                )
    return program


def _check_memory(values: list[int], n_cells: int, bits: int) -> None:
    if len(values) != n_cells:
        raise ProgramError(
            "a memory of another size", got=f"{len(values)} cells", expected=f"{n_cells} cells"
        )
    half = 1 << (bits - 1)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not -half <= value < half:
            raise ProgramError(
                "a value does not fit", got=repr(value), expected=f"whole, {-half} to {half - 1}"
            )
