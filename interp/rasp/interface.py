"""What goes into a compiled program and what comes out: strings to ids, logits to values."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import ConfigError, CorruptArtefact, ShapeError, StorageError, TokenError
from interp.core.foreign import one_line, read_json
from interp.core.names import did_you_mean
from interp.rasp.interpreter import read_string
from interp.rasp.language import Value

PROGRAM_FILE = "program.json"


@dataclass(frozen=True)
class Interface:
    """Vocabulary and output values of a compiled program; id 0 is the start token."""

    vocabulary: tuple[Value, ...]
    """The tokens with ids 1, 2, ..."""
    max_length: int
    """Longest string in tokens."""
    outputs: tuple[Value, ...] | None
    """The category of each logit; None where the first logit is a number (beside it stands a 1)."""

    def encode(self, inputs: Sequence[str | Sequence[Value]]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, [string position] each, start token first, padded at the end.

        Raises:
            TokenError: No list of strings, an unknown token, a string that is too long.
        """
        if isinstance(inputs, str):
            raise TokenError("a batch is a list of strings", got=repr(inputs)[:80], fix='["abc", "ba"]')
        strings = [read_string(string) for string in inputs]
        place = {token: i + 1 for i, token in enumerate(self.vocabulary)}
        longest = max(map(len, strings), default=0)
        if longest > self.max_length:
            raise TokenError(
                "a string is too long for the compiled program",
                got=f"{longest} tokens",
                expected=f"at most {self.max_length}",
                fix=f"compile with CompileConfig(max_length={longest})",
            )
        ids = torch.zeros(len(strings), longest + 1, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, string in enumerate(strings):
            unknown = next((token for token in string if token not in place), None)
            if unknown is not None:
                known = [str(token) for token in self.vocabulary]
                raise TokenError(
                    "a token is not in the program's vocabulary",
                    got=repr(unknown),
                    expected=", ".join(known[:40]),
                    fix=did_you_mean(str(unknown), known) or None,
                )
            ids[i, 1 : len(string) + 1] = torch.tensor([place[token] for token in string], dtype=torch.long)
            mask[i, : len(string) + 1] = 1
        return ids, mask

    def decode(self, logits: Tensor, lengths: Sequence[int] | None = None) -> list[list[Value]]:
        """The value at every position behind the start token.

        A category is one where its logit is positive (1/2 against -1/2), None where none is; a number is
        the first logit.

        Args:
            logits: [string position output], the start token's among them.
            lengths: Tokens of each string; the full width where absent.

        Raises:
            ShapeError: Logits of another shape.
        """
        width = 2 if self.outputs is None else len(self.outputs)
        if logits.ndim != 3 or logits.shape[2] != width:
            raise ShapeError(
                "logits of another program", got=list(logits.shape), expected=f"[string position {width}]"
            )
        lengths = [logits.shape[1] - 1] * len(logits) if lengths is None else lengths
        if len(lengths) != len(logits):
            raise ShapeError("one length per string", got=len(lengths), expected=len(logits))
        if self.outputs is None:
            return [row[1 : n + 1, 0].tolist() for row, n in zip(logits, lengths, strict=True)]
        best = logits.max(-1)
        chosen = torch.where(best.values > 0.0, best.indices, -1).tolist()
        names = (*self.outputs, None)
        return [[names[i] for i in row[1 : n + 1]] for row, n in zip(chosen, lengths, strict=True)]

    def strings(self, max_length: int | None = None, *, least: int = 0) -> list[tuple[Value, ...]]:
        """Every string of `least` to `max_length` tokens (the longest there are where absent)."""
        longest = self.max_length if max_length is None else min(max_length, self.max_length)
        return [s for n in range(least, longest + 1) for s in product(self.vocabulary, repeat=n)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values.

        Raises:
            ConfigError: A token or value that JSON cannot hold.
        """
        return {
            "vocabulary": [to_json(v) for v in self.vocabulary],
            "max_length": self.max_length,
            "outputs": None if self.outputs is None else [to_json(v) for v in self.outputs],
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Interface:
        """What `to_dict` gave."""
        outputs = raw["outputs"]
        return cls(
            vocabulary=tuple(map(from_json, raw["vocabulary"])),
            max_length=int(raw["max_length"]),
            outputs=None if outputs is None else tuple(map(from_json, outputs)),
        )


def load_interface(folder: str | Path) -> Interface:
    """The vocabulary and outputs of a program that was saved; the model itself opens by `load_model`.

    Raises:
        StorageError: No such folder or file.
        CorruptArtefact: A file that says something else.
    """
    path = Path(folder) / PROGRAM_FILE
    if not path.is_file():
        raise StorageError("not a saved program: a file is missing", got=folder, expected=PROGRAM_FILE)
    try:
        return Interface.from_dict(read_json(path)["interface"])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtefact(f"{path} describes no program", got=one_line(error)) from error


def to_json(value: Value) -> Any:
    """A token or category as JSON: tuples as lists, fractions as objects."""
    if isinstance(value, tuple):
        return [to_json(part) for part in value]
    if isinstance(value, Fraction):
        return {"numerator": value.numerator, "denominator": value.denominator}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ConfigError(
        "a value cannot be saved", got=repr(value)[:80], expected="text, numbers or tuples of them"
    )


def from_json(value: Any) -> Value:
    """What `to_json` gave."""
    if isinstance(value, list):
        return tuple(map(from_json, value))
    if isinstance(value, Mapping):
        return Fraction(value["numerator"], value["denominator"])
    if not isinstance(value, Hashable):
        raise TypeError(type(value).__name__)
    return value
