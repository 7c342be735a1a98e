"""How numbers are spelled in files, and how people write that there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence

from interp.core.foreign import DIGITS

LARGEST = 3.4e38
"""Beyond it a number is infinite in float32, in which probes read labels."""
_WHOLE = re.compile(r"-?\d+")
_NUMBER = re.compile(r"-?\d+(\.\d*)?([eE][-+]?\d+)?")
_NONE = re.compile(
    r"[-+]?(?:nan(?:\(\w*\))?|1?\.?#?(?:inf|ind|qnan|nan)|infinity|∞|#?n/?a!?|null|none|\?"
    r"|[-+\d.]+e\+?\d{3,})",
    re.I,
)


def is_number(value: object) -> bool:
    """Whether it is a number, or text that spells one, that is finite in float32."""
    if isinstance(value, str):
        return bool(_NUMBER.fullmatch(value)) and len(value) <= 4 * DIGITS and abs(float(value)) <= LARGEST
    return isinstance(value, int | float) and abs(value) <= LARGEST


def is_none(value: object) -> bool:
    """Whether it is left empty, or spells a number that nobody measured: nan, inf, n/a, null, ?"""
    return value in ("", None) or bool(_NONE.fullmatch(str(value).strip()))


def numbers_of(values: Sequence[object]) -> tuple[int, ...] | tuple[float, ...] | None:
    """A column as whole numbers if all of it is, else as floats; None if any of it is neither."""
    for pattern, convert in ((_WHOLE, int), (_NUMBER, float)):
        if all(
            pattern.fullmatch(v) and len(v) <= DIGITS if isinstance(v, str) else isinstance(v, int | convert)
            for v in values
        ) and all(map(is_number, values)):
            return tuple(map(convert, values))  # type: ignore[arg-type]
    return None
