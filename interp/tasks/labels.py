"""Text with labels that a person gave it: per word (parts of speech, heads) or per text (truth).

Readers of the file formats make these (`load_labels`); probes consume them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import ConfigError
from interp.core.foreign import LINE, one_line
from interp.core.names import did_you_mean
from interp.core.settings import check_choice, check_flags
from interp.tasks.spelled import LARGEST, is_none, is_number, numbers_of

if TYPE_CHECKING:
    import pandas as pd

Label = str | int | float
ROOT = -1
"""Head of a word that no other word governs."""


@dataclass(frozen=True)
class Labelled:
    """One sentence, its words and what is known about each.

    Raises:
        ConfigError: A span does not hold its word, lengths differ, or a head points nowhere.
    """

    text: str
    """The sentence as written."""
    words: tuple[str, ...]
    """Words as the annotators cut them."""
    spans: tuple[tuple[int, int], ...]
    """Where each word stands: `text[start:end]`. Words cut from one written form that they do not
    spell out ("à" + "le" from "au") share its span."""
    labels: Mapping[str, tuple[str | None, ...]]
    """Layer name ("upos") -> one label per word, None where the source gives none."""
    heads: tuple[int, ...] | None = None
    """Index of each word's syntactic head, -1 for the root; None where the source has no trees."""
    group: str = ""
    """The document; train and test sets are split between documents."""
    id: str = ""
    """The sentence's name in the source."""

    def __post_init__(self) -> None:
        where = f"sentence {self.id or self.text[:60]!r}"
        sizes = {name: len(layer) for name, layer in self.labels.items()}
        sizes |= {"spans": len(self.spans)}
        sizes |= {} if self.heads is None else {"heads": len(self.heads)}
        for name, size in sizes.items():
            if size != len(self.words):
                raise ConfigError(
                    f"{where}: one entry of {name} per word", got=size, expected=len(self.words)
                )
        for index, (word, span) in enumerate(zip(self.words, self.spans, strict=True)):
            self._check_span(where, index, word, span)
        for index, head in enumerate(self.heads or ()):
            if not ROOT <= head < len(self.words) or head == index:
                raise ConfigError(
                    f"{where}: word {index} ({self.words[index]!r}) has an impossible head",
                    got=head,
                    expected=f"another word, 0 to {len(self.words) - 1}, or -1 for the root",
                )
        self._check_tree(where)

    def _check_tree(self, where: str) -> None:
        settled: set[int] = set()
        for word in range(len(self.heads or ())):
            way: dict[int, None] = {}
            while self.heads and word != ROOT and word not in settled:
                if word in way:
                    raise ConfigError(
                        f"{where}: heads that lead back to their own word",
                        got=" -> ".join(repr(self.words[at]) for at in [*way][:10]),
                        expected="a tree: every word below the root",
                    )
                way[word] = None
                word = self.heads[word]
            settled |= way.keys()

    def _check_span(self, where: str, index: int, word: str, span: tuple[int, int]) -> None:
        start, end = span
        begins = self.spans[index - 1][0] if index else 0
        inside = 0 <= begins <= start < end <= len(self.text)
        shared = span in (
            self.spans[index - 1] if index else None,
            self.spans[index + 1] if index + 1 < len(self.spans) else None,
        )
        if inside and (self.text[start:end] == word or shared):
            return
        raise ConfigError(
            f"{where}: the span of word {index} does not hold it",
            got=f"[{start}, {end}] = {self.text[max(start, 0) : max(end, 0)]!r}",
            expected=f"{word!r}, inside a text of {len(self.text)} characters, in order",
        )

    def __len__(self) -> int:
        return len(self.words)

    def __str__(self) -> str:
        return self.text


class LabelledCorpus(Sequence[Labelled]):
    """Sentences with labels per word, in order of the source.

    Args:
        sentences: The records.
        name: What they are, for headings.
    """

    def __init__(self, sentences: Sequence[Labelled], name: str = "") -> None:
        self._sentences = tuple(sentences)
        self.name = name

    def __len__(self) -> int:
        return len(self._sentences)

    @overload
    def __getitem__(self, index: int) -> Labelled: ...
    @overload
    def __getitem__(self, index: slice) -> LabelledCorpus: ...
    def __getitem__(self, index: int | slice) -> Labelled | LabelledCorpus:
        if isinstance(index, slice):
            return LabelledCorpus(self._sentences[index], self.name)
        return self._sentences[index]

    def __iter__(self) -> Iterator[Labelled]:
        return iter(self._sentences)

    @property
    def layers(self) -> tuple[str, ...]:
        """The label layers that every sentence has, in the source's order."""
        if not self._sentences:
            return ()
        shared = set.intersection(*(set(sentence.labels) for sentence in self))
        return tuple(name for name in self._sentences[0].labels if name in shared)

    @property
    def n_words(self) -> int:
        """Words in all sentences."""
        return sum(map(len, self))

    @property
    def groups(self) -> tuple[str, ...]:
        """The documents, in order of first appearance."""
        return tuple(dict.fromkeys(sentence.group for sentence in self))

    def counts(self, layer: str) -> dict[str, int]:
        """How often each label of a layer occurs, most frequent first; None is left out.

        Raises:
            ConfigError: No such layer.
        """
        if layer not in self.layers:
            raise _no_layer(layer, self.layers, self.name)
        found = Counter(label for sentence in self for label in sentence.labels[layer] if label is not None)
        return dict(found.most_common())

    def to_frame(self) -> pd.DataFrame:
        """One row per word: sentence, word index, word, start, end, head, group, each layer."""
        import pandas as pd

        rows = [
            {
                "sentence": at,
                "index": index,
                "word": word,
                "start": sentence.spans[index][0],
                "end": sentence.spans[index][1],
                "head": None if sentence.heads is None else sentence.heads[index],
                "group": sentence.group,
                **{name: layer[index] for name, layer in sentence.labels.items()},
            }
            for at, sentence in enumerate(self)
            for index, word in enumerate(sentence.words)
        ]
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        head = f"{self.name or 'corpus'}: {len(self):,} sentences, {self.n_words:,} words"
        layers = ", ".join(self.layers) or "none"
        return one_line(f"{head}, {len(self.groups):,} documents; layers {layers}", LINE)


@dataclass(frozen=True, repr=False)
class LabelledTexts:
    """Whole texts with a label each.

    Raises:
        ConfigError: Columns of unequal length.
    """

    texts: tuple[str, ...]
    """The texts."""
    labels: tuple[Label, ...]
    """One label per text: a class (text or integer) or a number."""
    groups: tuple[str, ...] = ()
    """The subject, document or topic of each text, where the source names one; splits between
    groups keep a subject out of both sides. Empty: no groups."""
    name: str = ""
    """What they are, for headings."""
    target: str = "label"
    """What the labels say: `truth`, `latitude`."""
    columns: Mapping[str, tuple[Label, ...]] = field(default_factory=dict)
    """Everything else the source says about each text, by column; `with_labels` makes one of them
    the labels."""
    seconds: tuple[str, ...] = ()
    """The second text of each pair, for pairs (sentence similarity). Empty: single texts."""

    def __post_init__(self) -> None:
        sizes = {"labels": len(self.labels)}
        sizes |= {name: len(column) for name, column in self.columns.items()}
        sizes |= {"groups": len(self.groups)} if self.groups else {}
        sizes |= {"seconds": len(self.seconds)} if self.seconds else {}
        for name, size in sizes.items():
            if size != len(self.texts):
                raise ConfigError(
                    f"{self.name or 'texts'}: one entry of {name} per text",
                    got=size,
                    expected=len(self.texts),
                )

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[tuple[str, Label]]:
        return zip(self.texts, self.labels, strict=True)

    def __getitem__(self, rows: slice) -> LabelledTexts:
        """Some of the texts."""
        return self.take(range(len(self))[rows])

    def take(self, rows: Sequence[int]) -> LabelledTexts:
        """The texts at these indices, in this order."""
        return LabelledTexts(
            texts=tuple(self.texts[i] for i in rows),
            labels=tuple(self.labels[i] for i in rows),
            groups=tuple(self.groups[i] for i in rows) if self.groups else (),
            name=self.name,
            target=self.target,
            columns={k: tuple(v[i] for i in rows) for k, v in self.columns.items()},
            seconds=tuple(self.seconds[i] for i in rows) if self.seconds else (),
        )

    @property
    def classes(self) -> tuple[Label, ...]:
        """The different labels, sorted."""
        return tuple(sorted(set(self.labels), key=lambda label: (str(type(label)), label)))

    def with_labels(self, column: str, *, missing: str = "refuse", as_text: bool = False) -> LabelledTexts:
        """The same texts, another column as their labels; the old labels become a column.

        Args:
            missing: What a text is whose entry is empty, or no number among numbers: "refuse", or
                "drop", which leaves it out.
            as_text: The entries are words, whatever they look like.

        Raises:
            ConfigError: No such column; entries that label nothing, by their row.
        """
        check_choice("missing", missing, ("refuse", "drop"))
        check_flags(as_text=as_text)
        if column not in self.columns:
            raise _no_layer(column, self.columns, self.name)
        columns = {k: v for k, v in self.columns.items() if k != column}
        given = self.columns[column]
        found = replace(
            self,
            labels=tuple(map(str, given)) if as_text else given,
            target=column,
            columns={self.target: self.labels, **columns},
        )
        empty = set(_unlabelled(given, as_text))
        if not empty:
            return found
        first = min(empty)
        if missing == "refuse":
            raise ConfigError(
                f"{self.name or 'texts'}: column {column!r} does not label every text",
                got=f"{given[first]!r} in row {first} ({self.texts[first][:60]!r}), {len(empty):,} in all",
                fix='missing="drop" leaves them out; as_text=True if the labels are words',
            )
        kept = found.take([row for row in range(len(self)) if row not in empty])
        numbers = None if as_text else numbers_of(kept.labels)
        return kept if numbers is None else replace(kept, labels=numbers)

    def numbers(self, *names: str) -> Float[Tensor, "text column"]:
        """Numeric columns side by side, float32: `data.numbers("latitude", "longitude")`.

        Args:
            names: Columns, or the target's name; none = the labels alone.

        Raises:
            ConfigError: No such column, or one that is not numbers.
        """
        known = {**self.columns, self.target: self.labels}
        chosen: list[list[float]] = []
        for name in names or (self.target,):
            if name not in known:
                raise _no_layer(name, known, self.name)
            wrong = next((v for v in known[name] if isinstance(v, str) or not abs(v) <= LARGEST), None)
            if wrong is not None:
                raise ConfigError(
                    f"column {name!r} is not numbers", got=repr(wrong), expected=f"up to {LARGEST:.2g}"
                )
            chosen.append([float(value) for value in known[name]])
        return torch.tensor(chosen).T

    def to_frame(self) -> pd.DataFrame:
        """One row per text: text, (second,) label under its own name, group, other columns."""
        import pandas as pd

        parts: dict[str, Sequence[Label]] = {"text": self.texts}
        parts |= {"second": self.seconds} if self.seconds else {}
        parts |= {self.target: self.labels}
        parts |= {"group": self.groups} if self.groups else {}
        return pd.DataFrame({**parts, **self.columns})

    def __repr__(self) -> str:
        kinds = len(set(self.labels))
        what = f"{kinds} values" if kinds > 20 else f"classes {', '.join(map(str, self.classes))}"
        return one_line(f"{self.name or 'texts'}: {len(self):,} texts; {self.target} ({what})", LINE)


def _unlabelled(labels: Sequence[Label], as_text: bool) -> Iterator[int]:
    """Rows of a column whose entry is empty, or is no number where half or more are."""
    numbers = 0 if as_text else sum(map(is_number, labels))
    for row, label in enumerate(labels):
        lone = numbers and not is_number(label) and (2 * numbers >= len(labels) or is_none(label))
        if label == "" or lone:
            yield row


def _no_layer(name: str, known: Mapping[str, object] | Sequence[str], where: str) -> ConfigError:
    listed = list(known)
    return ConfigError(
        f"no labels {name!r}" + (f" in {where}" if where else ""),
        expected=", ".join(listed) or "nothing: there are no labels",
        fix=did_you_mean(name, listed) or None,
    )
