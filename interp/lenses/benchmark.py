"""Prompts whose answer passes through a concept that is never written: does a lens see it?

"The color of the planet fourth from the Sun is" needs Mars. A lens sees the concept at a row when
one of its tokens ranks high there at some position; the control asks for another prompt's concept.
Prompts: `lens_eval` of ToonTalk/jlens-tinystories (Apache-2.0): association, multihop,
multilingual, order of operations, poetry, typos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import ConfigError, StorageError, TokenError
from interp.core.foreign import read_json, reason
from interp.core.result import Result
from interp.lenses.reading import log_probs, stream_rows
from interp.lenses.tuned import TunedLens
from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class LensPrompt:
    """One prompt of the benchmark."""

    name: str
    """Name of the item."""
    task: str
    """File it is from, as `multihop`."""
    prompt: str
    """Text of the prompt."""
    intermediates: tuple[str, ...]
    """Concepts that the answer needs and the text does not say."""
    target: str | None = None
    """The answer, where there is one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LensBenchmark(Result):
    """The best rank of each prompt's concepts at each row of each lens, over all positions."""

    rank: Int[Tensor, "lens row item"]
    """0 = likeliest; the best over concepts, over both spellings (with and without space before),
    and over positions. A concept of several tokens counts by its first."""
    control: Int[Tensor, "lens row item"]
    """Best rank of the concepts of the next prompt of the same task."""
    lenses: tuple[str, ...]
    """Names of the lenses."""
    components: tuple[str, ...]
    """Names of the rows, bottom to top."""
    items: tuple[str, ...]
    """Names of the prompts."""
    tasks: tuple[str, ...]
    """Task of each prompt."""
    skipped: tuple[str, ...]
    """Prompts longer than the model reads."""

    def seen(self, k: int = 10, task: str | None = None) -> Float[Tensor, "lens row"]:
        """Share of prompts whose concept is among the top k at a row.

        Raises:
            ConfigError: No prompt is of this task.
        """
        return self._share(self.rank, k, task)

    def seen_control(self, k: int = 10, task: str | None = None) -> Float[Tensor, "lens row"]:
        """The same share for the concepts of other prompts: what chance and frequency give."""
        return self._share(self.control, k, task)

    def _share(self, ranks: Tensor, k: int, task: str | None) -> Tensor:
        chosen = [i for i, t in enumerate(self.tasks) if task is None or t == task]
        if not chosen:
            raise ConfigError(
                "no prompt is of this task", got=task, expected=", ".join(sorted(set(self.tasks)))
            )
        return (ranks[..., chosen] < k).float().mean(-1)


def load_lens_prompts(folder: str | Path) -> list[LensPrompt]:
    """All `lens-eval-*.json` of a folder.

    Raises:
        StorageError: No such file there, or one that is not of this form.
    """
    files = sorted(Path(folder).glob("lens-eval-*.json"))
    if not files:
        raise StorageError("no prompts of the lens benchmark here", got=folder, expected="lens-eval-*.json")
    found = []
    for file in files:
        task = file.stem.removeprefix("lens-eval-")
        try:
            items = read_json(file)["items"]
            found += [
                LensPrompt(
                    item["name"], task, item["prompt"], tuple(item["intermediates"]), item.get("target")
                )
                for item in items
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{file} is not of this form",
                got=reason(error),
                expected='{"items": [{"name", "prompt", "intermediates"}, ...]}',
            ) from error
    return found


def benchmark_lenses(
    model: HookedModel,
    prompts: Sequence[LensPrompt],
    lenses: Mapping[str, TunedLens] | None = None,
    *,
    strict: bool = True,
) -> LensBenchmark:
    """The logit lens beside trained ones on prompts with unwritten concepts.

    Args:
        model: A model with a tokenizer.
        prompts: At least two of every task, for the control.
        lenses: Name -> trained lens.
        strict: Refuse lenses made for another model.

    Raises:
        ConfigError: No prompts, or no tokenizer.
        ProvenanceError: A lens made for another model.
    """
    if model.tokenizer is None or not prompts:
        raise ConfigError("the benchmark needs prompts and a model that reads text")
    every: dict[str, TunedLens] = {"logit": TunedLens.identity(model), **(lenses or {})}
    for lens in every.values():
        lens.check_model(model, strict=strict)
        lens.to(model.device)
    rows = stream_rows(model, "resid")
    wanted = [_first_tokens(model, prompt.intermediates) for prompt in prompts]
    found: list[Tensor] = []
    kept, skipped = [], []
    for i, prompt in enumerate(prompts):
        try:
            acts = model.capture(prompt.prompt, list(rows.values()))
        except TokenError:
            skipped.append(prompt.name)
            continue
        kept.append(prompt)
        other = wanted[_next_of_task(prompts, i)]
        found.append(_ranks(model, every, rows, acts, (wanted[i], other)))
    if not kept:
        raise ConfigError("every prompt is longer than the model reads", got=len(skipped))
    ranks = torch.stack(found, -1)  # [2 lens row item]
    return LensBenchmark(
        rank=ranks[0],
        control=ranks[1],
        lenses=tuple(every),
        components=tuple(rows),
        items=tuple(prompt.name for prompt in kept),
        tasks=tuple(prompt.task for prompt in kept),
        skipped=tuple(skipped),
        labels={"lens": list(every), "row": list(rows)},
        provenance=model.provenance(rows.values()),
    )


def _ranks(
    model: HookedModel,
    lenses: Mapping[str, TunedLens],
    rows: Mapping[str, str],
    acts: Any,
    wanted: tuple[Tensor, Tensor],
) -> Tensor:
    """Best ranks of the two sets of tokens, [2 lens row]."""
    found = torch.empty(2, len(lenses), len(rows), dtype=torch.long)
    with torch.no_grad():
        for i, lens in enumerate(lenses.values()):
            for j, site in enumerate(rows.values()):
                log_q = log_probs(model.unembed(model.ln_final(lens(site, acts[site]))))[0]
                for which, ids in enumerate(wanted):
                    at = log_q[:, ids.to(log_q.device)]
                    rank = (log_q[:, None] > at[..., None]).sum(-1)
                    found[which, i, j] = rank.min()
    return found


def _first_tokens(model: HookedModel, texts: Sequence[str]) -> Tensor:
    """First token of every text, as a word of its own and as it stands."""
    first = []
    for text in texts:
        for spelled in (f" {text}", text):
            ids = model.to_tokens(spelled, prepend_bos=False)[0]
            pieces = [i for i in ids.tolist() if model.to_string([i]).strip()]
            first += pieces[:1]
    return torch.tensor(sorted(set(first)))


def _next_of_task(prompts: Sequence[LensPrompt], i: int) -> int:
    """The next prompt of the same task, around the end."""
    same = [j for j, prompt in enumerate(prompts) if prompt.task == prompts[i].task]
    return same[(same.index(i) + 1) % len(same)]
