"""Prompts with known answers: text a person can read, and one aligned batch a model can run.

A corrupted prompt differs from its clean one in what decides the answer and in nothing else, token
for token; whoever patches activations between the two relies on it, so it is checked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

from interp.core.errors import ConfigError, TokenError
from interp.core.escape import esc
from interp.core.foreign import one_line
from interp.tasks.batch import PromptBatch, tokenized
from interp.tasks.prompt import Prompt

if TYPE_CHECKING:
    import pandas as pd

    from interp.models.hooked import HookedModel

__all__ = ["Prompt", "PromptBatch", "Prompts"]

SHOWN = 5


class Prompts(Sequence[Prompt]):
    """Prompts in order, with the name of what they test.

    Args:
        prompts: The prompts.
        name: What they test, for headings.
        ids: The texts are token ids separated by spaces (`"3 0 1 2"`), for models without text.
    """

    def __init__(self, prompts: Sequence[Prompt], name: str = "", *, ids: bool = False) -> None:
        self._prompts = tuple(prompts)
        self.name = name
        self.ids = ids

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> Prompts: ...
    def __getitem__(self, index: int | slice) -> Prompt | Prompts:
        if isinstance(index, slice):
            return Prompts(self._prompts[index], self.name, ids=self.ids)
        return self._prompts[index]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self._prompts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prompts):
            return NotImplemented
        return (self._prompts, self.ids) == (other._prompts, other.ids)

    __hash__: ClassVar[None] = None  # type: ignore[assignment]  # prompts hold dictionaries

    @property
    def clean(self) -> list[str]:
        """The clean texts."""
        return [prompt.clean for prompt in self]

    @property
    def corrupted(self) -> list[str]:
        """The corrupted texts.

        Raises:
            ConfigError: A prompt has none.
        """
        texts = [prompt.corrupted for prompt in self if prompt.corrupted is not None]
        if len(texts) < len(self):
            raise ConfigError(
                f"{len(self) - len(texts)} of {len(self)} prompts have no corrupted text",
                got=self.name or "these prompts",
            )
        return texts

    def templates(self) -> dict[str, Prompts]:
        """The prompts of each template, in order of first appearance."""
        groups: dict[str, list[Prompt]] = {}
        for prompt in self:
            groups.setdefault(prompt.template, []).append(prompt)
        return {name: Prompts(group, self.name, ids=self.ids) for name, group in groups.items()}

    def tokenize(
        self,
        model: HookedModel,
        *,
        prepend_bos: bool | None = None,
        first_token: bool = False,
        drop: bool = False,
        aligned: bool = True,
    ) -> PromptBatch:
        """One right-padded batch: clean, corrupted, and the ids of answers and distractors.

        Clean and corrupted prompts share the padded width. An answer is the id of its text as one
        token, or of what it adds to its own prompt as one token.

        Args:
            model: Whose tokenizer and BOS policy apply.
            prepend_bos: As in `model.tokenize`; None = the model's policy.
            first_token: An answer of several tokens stands as its first; which ones is recorded in
                `PromptBatch.shortened`. Answers and distractors must differ in it.
            drop: An answer of several tokens is left out as long as its prompt keeps another one
                (EAP-IG's treatment of verb lists).
            aligned: Refuse pairs of unequal length. False: pairs are whole sentences to be scored.

        Raises:
            TokenError: Unequal lengths (both token strings shown), an answer of several tokens
                (shown), an answer or a word that the tokenizer does not know, or the same first
                token for an answer and a distractor.
            ConfigError: No prompts, or some have corrupted texts and some have not.
        """
        return tokenized(
            self._prompts,
            model,
            ids=self.ids,
            prepend_bos=prepend_bos,
            first_token=first_token,
            drop=drop,
            aligned=aligned,
        )

    def fitting(self, model: HookedModel, **options: Any) -> Prompts:
        """The prompts that `tokenize(model, **options)` accepts, each by itself.

        Public data sets were cut for one tokenizer; this cuts them for another.
        """
        kept = []
        for prompt in self:
            try:
                tokenized([prompt], model, ids=self.ids, **options)
            except TokenError:
                continue
            kept.append(prompt)
        return Prompts(kept, self.name, ids=self.ids)

    # --- as text ------------------------------------------------------------------------------

    def __repr__(self) -> str:
        templates = len({prompt.template for prompt in self})
        plural = "" if len(self) == 1 else "s"
        head = f"{len(self)} prompt{plural}" + (f" of {self.name}" if self.name else "")
        if templates > 1:
            head += f", {templates} templates"
        shown = "\n\n".join(str(prompt) for prompt in self._prompts[:SHOWN])
        head = one_line(head)
        more = f"\n\n... and {len(self) - SHOWN} more" if len(self) > SHOWN else ""
        return f"{head}\n\n{shown}{more}" if shown else head

    def to_frame(self) -> pd.DataFrame:
        """One row per prompt: template, clean, corrupted, answers, distractors, each variable.

        Several answers are joined by ` | `; a variable whose name is taken gets a `_` in front.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for prompt in self:
            row: dict[str, Any] = {
                "template": prompt.template,
                "clean": prompt.clean,
                "corrupted": prompt.corrupted,
                "answers": " | ".join(prompt.answers),
                "distractors": " | ".join(prompt.distractors),
            }
            taken = set(row)
            row |= {f"_{k}" if k in taken else k: v for k, v in prompt.variables.items()}
            rows.append(row)
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """The first prompts as a table, everything escaped."""
        frame = self[: 2 * SHOWN].to_frame()
        frame = frame.fillna("").map(esc)
        return frame.set_axis([esc(name) for name in frame], axis=1).to_html(escape=False)

    # --- as a file ----------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the prompts in this package's JSON format; `load_task` reads it (docs/tasks.md).

        Raises:
            StorageError: The file exists and `overwrite` is False, or the disk refuses.
        """
        import json

        from interp.core.store import write_text

        rows = [{k: v for k, v in _plain(p).items() if v not in (None, [], "", {})} for p in self]
        content: dict[str, Any] = {"name": self.name, "prompts": rows}
        if self.ids:
            content["ids"] = True
        text = json.dumps(content, indent=1, ensure_ascii=False)
        return write_text(path, text + "\n", overwrite=overwrite)


def _plain(prompt: Prompt) -> dict[str, Any]:
    """JSON values of one prompt."""
    values = asdict(prompt)
    return values | {name: list(values[name]) for name in ("answers", "distractors")}
