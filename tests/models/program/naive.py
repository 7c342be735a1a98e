"""What a program should give: each row alone, its forward done by hand, tokens appended one by one.

The reference never pads where it computes in float64: a row of a ragged batch is run by itself,
and its positions are Python's numbers. In other dtypes rounding depends on the shape, so there the
batch is run as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import torch
from torch import Tensor

from interp.core.randomness import generator
from tests.models.program.coders import Coder, Plain, Staged
from tests.models.program.edits import Edit, Layout, by_hand
from tests.models.program.hand import Float64, Fn, Forward, Job
from tests.models.program.subjects import Subject, raw_inputs

LATENTS, ERROR = "hook_sae_acts_post", "hook_sae_error"
TIE = 1e-9
"""Far above what rounding in float64 leaves, far below what weights drawn at random differ by."""
View = tuple[str, bool] | None
"""Which coder, with or without its error term; None for the model itself."""


@dataclass(eq=False)
class Active:
    """What one `hooks()` block or one call brings to a forward."""

    view: View
    edits: list[Edit]


@dataclass
class Text:
    """A batch of texts as the user gives it.

    Attributes:
        rows: Real tokens (or one seed per row, for models of numbers).
        columns: Where they stand in the batch.
        length: Columns of the batch.
        decoder: The decoder's, for models with two sides.
    """

    rows: list[list[int]]
    columns: list[list[int]]
    length: int
    decoder: Text | None = None

    @property
    def mask(self) -> Tensor:
        mask = torch.zeros(len(self.rows), self.length, dtype=torch.bool)
        for row, columns in enumerate(self.columns):
            mask[row, columns] = True
        return mask

    def ids(self, padding: int) -> Tensor:
        """[row, column], with any token where nothing is."""
        ids = torch.full((len(self.rows), self.length), padding)
        for row, (tokens, columns) in enumerate(zip(self.rows, self.columns, strict=True)):
            ids[row, columns] = torch.tensor(tokens)
        return ids

    def alone(self, row: int) -> Layout:
        """One row without its padding."""
        return Layout([row], [list(range(len(self.rows[row])))], [self.columns[row]], self.length)

    def together(self) -> Layout:
        """The batch as it is."""
        return Layout(list(range(len(self.rows))), self.columns, self.columns, self.length)


@dataclass
class Answer:
    """What a forward gives, row by row: real tokens only."""

    output: list[Tensor] = field(default_factory=list)
    kept: dict[str, list[Tensor]] = field(default_factory=dict)
    gradient: Tensor | None = None


def exactly(model: Subject) -> Any:
    """Float64 throughout, for the families that would leave it."""
    return Float64() if model.wide else contextlib.nullcontext()


# --- coders -------------------------------------------------------------------------------------


class HandSplice:
    """One coder in one forward: out = decode(latents) + error, the error held fixed."""

    def __init__(self, coder: Coder, error_term: bool, fns: dict[str, list[Fn]]) -> None:
        self.coder, self.error_term, self.fns = coder, error_term, fns
        plain = isinstance(coder, Plain)
        self.into = (coder.site_in,) if plain else coder.sites_in
        self.out = (coder.site_out,) if plain else coder.sites_out
        self.x: dict[str, Tensor] = {}
        self.old: dict[str, Tensor] = {}
        self.new: dict[str, Tensor] = {}
        self.edited = False

    def read(self, site: str) -> Fn:
        def take(value: Tensor) -> Tensor:
            if site == self.into[0]:
                self.x, self.old, self.new, self.edited = {}, {}, {}, False
            self.x[site] = value.flatten(2)
            if isinstance(self.coder, Staged):
                latents = self.coder.encode_at(site, self.x[site])
            elif len(self.x) < len(self.into):
                return value
            elif isinstance(self.coder, Plain):
                latents = self.coder.encode(self.x[site])
            else:
                latents = self.coder.encode(self.x)
            self.old[site] = self.new[site] = latents
            for fn in self.fns.get(f"{site}.{LATENTS}", []):
                after = fn(self.new[site])
                self.edited |= after is not self.new[site]
                self.new[site] = after
            return value

        return take

    def write(self, site: str) -> Fn:
        def put(value: Tensor) -> Tensor:
            out = self._decode(self.new, site)
            if not self.error_term:
                return out.reshape(value.shape)
            rest = (value.flatten(2) - self._decode(self.old, site)).detach()
            changed = self.edited
            for fn in self.fns.get(f"{site}.{ERROR}", []):
                after = fn(rest)
                changed |= after is not rest
                rest = after
            return (out + rest).reshape(value.shape) if changed else value

        return put

    def _decode(self, latents: dict[str, Tensor], site: str) -> Tensor:
        if isinstance(self.coder, Staged):
            return self.coder.decode_at(site, latents)
        (last,) = latents.values()
        if not isinstance(self.coder, Plain):
            return self.coder.decode(last)[site]
        out = self.coder.decode(last)
        skip: Callable[[Tensor], Tensor] | None = getattr(self.coder, "skip", None)
        return out if skip is None else out + skip(self.x[self.into[0]])


# --- one forward --------------------------------------------------------------------------------


def jobs(
    model: Subject,
    active: Sequence[Active],
    layouts: dict[str, Layout],
    keep: Sequence[str],
    kept: dict[str, Tensor],
    view: View = None,
    on_path: bool = False,
) -> list[Job]:
    """Everything that happens in one forward, in order: coders write, edits outer first, coders
    read, values are kept. `on_path`: what is kept of a coder lies on the graph of the output, so
    that the coder stands in the model as if it were edited."""

    def fn(edit: Edit) -> Fn:
        side = "decoder" if edit.site.startswith("decoder") else "encoder"
        return lambda value: by_hand(edit, value, layouts[side])

    def keeping(name: str) -> Fn:
        def look(value: Tensor) -> Tensor:
            kept[name] = value.clone()  # a later module may write into it
            return value.view_as(value) if on_path and "hook_sae" in name else value

        return look

    before: list[Job] = []
    after: list[Job] = []
    for key in dict.fromkeys(a.view for a in active if a.view is not None):
        inner: dict[str, list[Fn]] = {}
        for edit in (e for a in active if a.view == key for e in a.edits):
            if "hook_sae" in edit.site:
                inner.setdefault(edit.site, []).append(fn(edit))
        for name in keep if key == view else ():
            if "hook_sae" in name:
                inner.setdefault(name, []).append(keeping(name))
        splice = HandSplice(model.view(key)[1], key[1], inner)
        for site in splice.into:
            to = before if site in splice.out else after
            to.append((site, None, splice.read(site)))
        before += [(site, None, splice.write(site)) for site in splice.out]
    edits = [e for a in active for e in a.edits if "hook_sae" not in e.site]
    middle = [(e.site, _call(e.site), fn(e)) for e in edits]
    last = [(n, _call(n), keeping(n)) for n in keep if "hook_sae" not in n]
    return [*before, *middle, *after, *last]


def _call(site: str) -> int | None:
    return int(site.partition("#")[2]) if "#" in site else None


def forward(
    model: Subject,
    text: Text,
    active: Sequence[Active],
    keep: Sequence[str] = (),
    view: View = None,
    gradient: bool = False,
    on_path: bool = False,
) -> Answer:
    """The forward of every row."""
    answer = Answer(kept={name: [] for name in keep})
    together = model.dtype is not torch.float64
    parameter = next(model.hand.parameters())
    for row in range(1 if together else len(text.rows)):
        layout = text.together() if together else text.alone(row)
        layouts = {"encoder": layout}
        if text.decoder is not None:
            layouts["decoder"] = text.decoder.alone(row)
        kept: dict[str, Tensor] = {}
        todo = jobs(model, active, layouts, keep, kept, view, on_path)
        given = _inputs(model, text, row, together)
        with exactly(model), torch.set_grad_enabled(gradient):
            found = main(Forward(model.hand, model.places, todo)(**given))
            if gradient:
                answer.gradient = _sum(answer.gradient, found, parameter)
        for name, parts in answer.kept.items():
            parts += [kept[name].detach()[i] for i in range(len(kept[name]))]
        answer.output += [found.detach()[i] for i in range(len(found))]
    return answer


def _sum(before: Tensor | None, found: Tensor, parameter: Tensor) -> Tensor:
    (new,) = (
        torch.autograd.grad(found.square().sum(), parameter, allow_unused=True, materialize_grads=True)
        if found.requires_grad
        else (torch.zeros_like(parameter),)
    )
    return new if before is None else before + new


def _inputs(model: Subject, text: Text, row: int, together: bool) -> dict[str, Any]:
    if not together:
        decoder = None if text.decoder is None else [text.decoder.rows[row]]
        return raw_inputs(model, [text.rows[row]], decoder)
    if model.kind != "tokens":
        return raw_inputs(model, text.rows)
    given: dict[str, Any] = {"input_ids": text.ids(3)}
    if not bool(text.mask.all()):
        given["attention_mask"] = text.mask.long()
    return given


def main(raw: Any) -> Tensor:
    """The logits of whatever a raw module returns."""
    return getattr(raw, "logits", raw)


# --- one token after another --------------------------------------------------------------------


@dataclass(frozen=True)
class Writing:
    """How a text is continued."""

    n: int
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[int, ...] = ()
    beams: int = 1
    samples: int = 1
    top_k: int = 0


@dataclass
class Continued:
    """The new tokens of one row, and what `last_site` held of each step's last token."""

    tokens: list[int]
    held: list[Tensor] = field(default_factory=list)


def last_site(model: Subject) -> str:
    """The residual stream behind the last block."""
    return [n for n in model.places if n.endswith("hook_resid_post")][-1]


def written(model: Subject, text: Text, active: Sequence[Active], how: Writing) -> list[Continued]:
    """Every row: run, take a token, append it, run again."""
    with torch.no_grad(), exactly(model):
        if how.beams > 1:
            return [_beams(model, text, row, active, how) for row in range(len(text.rows))]
        return [
            _row(model, text, row, active, how, row * how.samples + sample)
            for row in range(len(text.rows))
            for sample in range(how.samples)
        ]


def _layouts(model: Subject, text: Text, row: int, copies: int) -> dict[str, Layout]:
    prompt = text.alone(row)
    if copies > 1:
        prompt = Layout([row] * copies, prompt.here * copies, prompt.given * copies, text.length)
    if model.kind != "sides":
        return {"encoder": prompt}
    start = Layout([row] * copies, [[0]] * copies, [[0]] * copies, 1)
    return {"encoder": prompt, "decoder": start}


def _row(
    model: Subject, text: Text, row: int, active: Sequence[Active], how: Writing, which: int
) -> Continued:
    sides = model.kind == "sides"
    layouts = _layouts(model, text, row, 1)
    prompt = [0] if sides else list(text.rows[row])
    new: list[int] = []
    held: list[Tensor] = []
    site = last_site(model)
    for step in range(how.n):
        given = (
            raw_inputs(model, [text.rows[row]], [prompt + new])
            if sides
            else raw_inputs(model, [prompt + new])
        )
        kept: dict[str, Tensor] = {}
        todo = jobs(model, active, layouts, [site], kept)
        scores = main(Forward(model.hand, model.places, todo)(**given))[0, -1]
        held.append(kept[site][0, -1])
        if how.temperature > 0:
            source = generator(how.seed, "generate", step)
            size = (len(text.rows) * how.samples, scores.shape[-1])
            noise = torch.rand(size, generator=source, dtype=torch.float64)[which]
            scores = scores / how.temperature
            if how.top_k:
                scores[scores < scores.sort(descending=True).values[how.top_k - 1]] = -torch.inf
            scores = scores - torch.log(-torch.log(noise))
        _reject_ties(scores[None], 1)
        new.append(int(scores.argmax()))
        if new[-1] in how.stop:
            break
    return Continued(new, held)


def _beams(model: Subject, text: Text, row: int, active: Sequence[Active], how: Writing) -> Continued:
    """Beam search is transformers' own; the hooks are made by hand, there is no cache."""
    from transformers import GenerationConfig

    todo = jobs(model, active, _layouts(model, text, row, how.beams), (), {})
    ids = torch.tensor([text.rows[row]])
    config = GenerationConfig(
        max_new_tokens=how.n,
        num_beams=how.beams,
        do_sample=False,
        use_cache=False,
        eos_token_id=list(how.stop) or None,
        pad_token_id=0,
        decoder_start_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    raw: Any = model.hand

    def run(**given: Any) -> Any:
        return raw.generate(**given, generation_config=config)

    found = Forward(model.hand, model.places, todo, run)(input_ids=ids, attention_mask=torch.ones_like(ids))
    for scores in found.scores:
        _reject_ties(scores, how.beams)
    return Continued(found.sequences[0, 1 if model.kind == "sides" else ids.shape[1] :].tolist())


def _reject_ties(scores: Tensor, n: int) -> None:
    """No program where the n best of a row are not decided: a last bit would choose among them."""
    best = scores.sort(-1, descending=True).values[:, : n + 1]
    if bool((best[:, :-1] - best[:, 1:] < TIE).any()):
        hypothesis.reject()
