"""The errors the house raises on purpose: what happened, got, expected, and how to fix it.

The command line prints these four lines and exits 2; nothing else in `interp` formats errors.
"""

from __future__ import annotations

from interp.core.foreign import reason, show

WHAT, PART = 1_000, 4_000
"""Longest first sentence, and longest other part, in characters."""


class InterpError(Exception):
    """An error that explains itself.

    Values come from files and requests of anybody, so each part is bounded and what would act on a
    terminal or hide in it is made visible (`core.foreign.show`).

    Args:
        what: One sentence naming the thing that is wrong.
        got: The offending value, as the user wrote it.
        expected: What would have been accepted.
        fix: The next thing to try.
    """

    def __init__(self, what: str, *, got: object = None, expected: object = None, fix: object = None) -> None:
        self.what: str = show(what, WHAT)
        super().__init__(self.what)
        self.got: str | None = None if got is None else show(got, PART)
        self.expected: str | None = None if expected is None else show(expected, PART)
        self.fix: str | None = None if fix is None else show(fix, PART)

    def __str__(self) -> str:
        lines = [self.what]
        for label in ("got", "expected", "fix"):
            text = getattr(self, label)
            if text is not None:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _rebuild, (type(self), self.what, self.got, self.expected, self.fix)


def _rebuild(
    kind: type[InterpError], what: str, got: str | None, expected: str | None, fix: str | None
) -> InterpError:
    """Errors cross process borders (workers, subprocess tests) with all four parts."""
    return kind(what, got=got, expected=expected, fix=fix)


class SiteError(InterpError, KeyError):
    """A site, hook or cache key that does not exist."""

    def __str__(self) -> str:
        return InterpError.__str__(self)


class HookNotFired(InterpError):
    """A requested hook did not fire, or fired more often than the request allows."""


class EditError(InterpError):
    """A hook returned something that cannot stand for the activation it replaces."""


class NonFiniteError(InterpError, ArithmeticError):
    """NaN or infinity where numbers were expected."""


class TokenError(InterpError, ValueError):
    """Text or token ids that the model cannot read."""


class TokenWarning(UserWarning):
    """Text that the model reads otherwise than it was written: unknown words, nothing at all."""

    def __init__(self, what: str) -> None:
        super().__init__(show(what, WHAT))


class DataWarning(UserWarning):
    """Rows that decide more than they should, or of which less is known than it seems."""

    def __init__(self, what: str) -> None:
        super().__init__(show(what, WHAT))


class ConfigError(InterpError, ValueError):
    """A configuration with an unknown key, a wrong type or an impossible value."""


class ShapeError(InterpError, ValueError):
    """An array whose axes contradict its declaration."""


class ProvenanceError(InterpError):
    """An artefact applied to a model, site or tokenizer it was not made for."""


class StorageError(InterpError, OSError):
    """A file or folder that cannot be written, read or replaced."""

    def __str__(self) -> str:
        return InterpError.__str__(self)


class CorruptArtefact(StorageError):
    """Stored bytes that do not match their manifest."""


class BadName(StorageError):
    """A name that must not become a path."""


class ModelError(InterpError):
    """A model that cannot be loaded or asked for what it does not have."""


class WeightError(ModelError, AttributeError):
    """A weight that the model does not have, or holds in a form that cannot be read.

    An AttributeError as well, so that `hasattr(model, "W_pos")` tells whether there is one.
    """


class AdapterError(ModelError):
    """The adapter disagrees with the raw model; loading is refused."""


class FoldError(ModelError):
    """Weights that cannot be folded exactly."""


class MissingDependency(InterpError, ImportError):
    """An optional package that the request needs."""


class MemoryBudgetError(InterpError, MemoryError):
    """A request whose estimated memory exceeds the budget."""


def out_of_memory(
    error: BaseException,
    where: object,
    fix: str = "end other programs, or read it on a machine with more memory",
) -> MemoryBudgetError | None:
    """What to raise where memory does not hold something: a file that it does not hold is not damaged.

    None where the error is another one.
    """
    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if not (on_host or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):
        return None
    return MemoryBudgetError(f"{where} needs more memory than there is", got=reason(error), fix=fix)


class Interrupted(InterpError):
    """A run stopped by a signal after committing a checkpoint.

    Attributes:
        code: The exit code of the signal, 128 + its number: 143 for SIGTERM, 130 for SIGINT.
    """

    code: int = 130
