"""One text whose continuation is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from interp.core.errors import ConfigError
from interp.core.foreign import show

SHOWN_ANSWERS = 4


@dataclass(frozen=True)
class Prompt:
    """One text whose continuation is known.

    Raises:
        ConfigError: A field has another type than declared, or there is no text.
    """

    clean: str
    """The text that the model continues."""
    corrupted: str | None = None
    """The text with what decides the answer exchanged; token for token as long as `clean`."""
    answers: tuple[str, ...] = ()
    """Right continuations of `clean`, as text: `" Mary"`, with the space where one belongs."""
    distractors: tuple[str, ...] = ()
    """Wrong continuations that a model without the ability might prefer: `" John"`."""
    template: str = ""
    """Name of the pattern it was made from; accuracies are reported per template."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What filled the pattern, and whatever else the source says: name -> text."""
    read_at: int | None = None
    """Token position at which the answer is read; None = at the last real token."""

    def __post_init__(self) -> None:
        for name in ("answers", "distractors"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ConfigError(
                    f"a prompt's {name} are a tuple of texts", got=repr(value), fix=f"({value!r},)"
                )
            object.__setattr__(self, name, tuple(value))
        # by type, at C speed: agreement prompts have thousands of verbs for answers
        texts = (self.clean, self.corrupted or "", self.template)
        kinds = {*map(type, texts), *map(type, self.answers), *map(type, self.distractors)}
        if not all(issubclass(kind, str) for kind in kinds):
            got = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise ConfigError("prompts and answers are text", got=got)
        if self.clean == "" or self.corrupted == "":
            raise ConfigError("a prompt without text", got=f"answers {list(self.answers)}")

    def __str__(self) -> str:
        lines = [f"clean      {show(repr(self.clean))}"]
        if self.corrupted is not None:
            lines.append(f"corrupted  {show(repr(self.corrupted))}")
        if self.answers:
            lines.append(f"answer     {_listed(self.answers)}")
        if self.distractors:
            lines.append(f"not        {_listed(self.distractors)}")
        return "\n".join(lines)


def _listed(texts: Sequence[str]) -> str:
    shown = show(", ".join(map(repr, texts[:SHOWN_ANSWERS])))
    rest = len(texts) - SHOWN_ANSWERS
    return shown if rest <= 0 else f"{shown}, ... ({rest} more)"
