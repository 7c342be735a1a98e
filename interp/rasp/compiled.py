"""A program as a transformer that computes it exactly (Lindner et al., *Tracr*, NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.store import commit
from interp.models.hooked import HookedModel
from interp.models.small.model import SmallTransformer, small_files
from interp.models.wrapping import wrap
from interp.rasp.config import CompileConfig
from interp.rasp.edges import TRUTH_FILE, EdgeTruth
from interp.rasp.interface import PROGRAM_FILE, Interface, to_json
from interp.rasp.language import SOp, Value, read_sop
from interp.rasp.plan import Plan, plan
from interp.rasp.weights import build


@dataclass(frozen=True, eq=False, kw_only=True)
class CompiledProgram:
    """A program, its layout and its transformer."""

    program: SOp
    """The program as it was written."""
    plan: Plan
    """Which head and MLP computes what."""
    config: CompileConfig
    module: SmallTransformer
    """The transformer; bidirectional, start token (id 0) first, no norm."""
    interface: Interface
    """Strings to ids, logits to values."""
    names: tuple[str, ...]
    """Each direction of the residual stream as `s-op:category` or `s-op`; the first marks the start."""
    directions: Float[Tensor, "direction d_model"]
    """Vector of each name, orthonormal; the identity unless the basis was turned."""

    @cached_property
    def model(self) -> HookedModel:
        """The transformer with named sites."""
        return wrap(self.module, name="compiled program")

    @torch.no_grad()
    def run(self, inputs: Sequence[str | Sequence[Value]]) -> list[list[Value]]:
        """What the transformer says at every position of some strings.

        Args:
            inputs: Strings, or lists of tokens.

        Raises:
            TokenError: An unknown token, a string that is too long.
        """
        ids, mask = self.interface.encode(inputs)
        return self.interface.decode(self.module(ids, mask), (mask.sum(1) - 1).tolist())

    def direction(self, name: str) -> Float[Tensor, " d_model"]:
        """One direction of the residual stream by its name.

        Raises:
            SiteError: No such name, with the nearest.
        """
        from interp.core.names import unknown

        if name not in self.names:
            raise unknown(name, self.names, what="direction")
        return self.directions[self.names.index(name)]

    def save(
        self, directory: str | Path, *, truths: Sequence[EdgeTruth] = (), overwrite: bool = False
    ) -> Path:
        """Write what `interp.load_model` opens, with the program's interface and directions beside it.

        Args:
            directory: The folder to make.
            truths: From `edge_truth`, to lie beside the model; `load_truths` reads them.
            overwrite: Replace a folder that this wrote before.

        Raises:
            StorageError: It exists, or cannot be written.
            ConfigError: A token or category that JSON cannot hold.
        """
        told = {
            "interface": self.interface.to_dict(),
            "directions": list(self.names),
            "vectors": "directions.safetensors",
            "distractors": list(self.plan.distractors),
            "heads": {
                f"a{layer}.h{h}": [to_json(sop.name) for sop in head.outputs]
                for layer, row in enumerate(self.plan.heads)
                for h, head in enumerate(row)
            },
        }
        files: dict[str, Any] = {
            **small_files(self.module),
            PROGRAM_FILE: told,
            "directions.safetensors": {"directions": self.directions},
        }
        if truths:
            files[TRUTH_FILE] = [truth.to_dict() for truth in truths]
        return commit(directory, files, overwrite=overwrite, schema="compiled_program")


def compile_program(
    program: SOp, vocabulary: Sequence[Value], config: CompileConfig | None = None
) -> CompiledProgram:
    """A transformer that computes a program on every string of its vocabulary, up to rounding.

    A category's logit is 1/2, those of the others -1/2; a number is the first logit, the second is 1.
    Errors: in float32 below 1e-6, in a turned basis 1e-3 (numbers 1e-2, since the softmax amplifies
    what rounding does to scores); in float64 below 1e-10. Position 0 is the start token, whose output
    means nothing.

    Args:
        program: An s-op.
        vocabulary: The tokens: text, one character a token, or a list.
        config: Longest string, distractor heads, a turned basis, floating type, seed.

    Raises:
        ProgramError: A vocabulary that is none, a function without a value where it needs one, more
            values than can stand side by side.
        ConfigError: A setting out of bounds.
    """
    config = config or CompileConfig()
    laid = plan(read_sop(program, "a program"), vocabulary, config)
    module, names, directions = build(laid, config)
    numerical = laid.program.dtype == "numerical"
    interface = Interface(
        vocabulary=laid.vocabulary,
        max_length=laid.max_length,
        outputs=None if numerical else laid.domains[laid.program],
    )
    return CompiledProgram(
        program=program,
        plan=laid,
        config=config,
        module=module,
        interface=interface,
        names=tuple(names),
        directions=directions,
    )
