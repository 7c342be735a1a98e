"""The class-embedding lens: every layer's tokens read with a classifier's own rows.

A vision transformer's head has one row per class; each token of each layer, through the final norm,
is scored against them. Source: Vilas, Schaumlöffel and Roig 2023, "Analyzing Vision Transformers
for Image Classification in Class Embedding Space" (NeurIPS, arXiv 2310.18969).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.checks import Check, Checks
from interp.core.errors import ConfigError, ModelError, ShapeError
from interp.core.result import Result
from interp.core.settings import check_choice
from interp.lenses.config import Components
from interp.lenses.reading import log_probs, passed_on
from interp.models.hooked import HookedModel
from interp.models.outputs import single_output
from interp.models.stream.blocks import row_blocks

LOGIT_TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 0.1}


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassLensResult(Result):
    """What each token of each layer says about the class of its image."""

    identifiability: Float[Tensor, "layer image pos"]
    """1 − rank of the right class / number of classes; 1 = top, about 0.5 by chance."""
    prob: Float[Tensor, "layer image pos"]
    """Probability of the right class."""
    predicted: Int[Tensor, "layer image pos"]
    """Likeliest class."""
    answer: Int[Tensor, " image"]
    """The right class of each image."""
    classes: tuple[str, ...]
    """Names of the classes."""
    components: tuple[str, ...]
    """Row names, bottom (embedding) to top."""
    special: int
    """How many tokens come before the patches (1: the class token)."""
    grid: tuple[int, int]
    """Patches down and across; (0, 0) when the tokens are no image."""
    gap: float
    """Largest difference of the last row's logits, where the head reads, from the model's."""
    tolerance: float
    """Bound on the gap, by dtype."""

    def check(self) -> Checks:
        """The last row at the class token is the model's own output."""
        return Checks([Check.at_most("last row = model output", self.gap, self.tolerance)])

    def by_layer(self) -> dict[str, Tensor]:
        """Mean identifiability per layer, of the class token and of the patches, each [layer]."""
        parts = {
            "class token": self.identifiability[:, :, : self.special],
            "patches": self.identifiability[:, :, self.special :],
        }
        return {name: part.mean((1, 2)) for name, part in parts.items() if part.shape[2]}

    def accuracy(self) -> Float[Tensor, "layer pos"]:
        """Share of images whose class is top-1 at each token."""
        return (self.predicted == self.answer[:, None]).to(self.prob.dtype).mean(1)

    def patch_map(self, image: int, field: str = "identifiability") -> Float[Tensor, "layer y x"]:
        """One image's patches where they lie.

        Raises:
            ConfigError: The tokens are no image, there is no such image, or no such field.
        """
        if not self.grid[0] or field not in ("identifiability", "prob"):
            raise ConfigError(
                "there is no map of this",
                got=field if self.grid[0] else "tokens that are no image",
                expected="identifiability or prob of image patches",
            )
        if not 0 <= image < len(self.answer):
            raise ConfigError("no such image", got=image, expected=f"0 to {len(self.answer) - 1}")
        return getattr(self, field)[:, image, self.special :].unflatten(1, self.grid)


def class_lens(
    model: HookedModel,
    inputs: Any,
    answers: Sequence[int] | Tensor,
    *,
    components: Components = "resid",
    classes: Sequence[str] | None = None,
    rows: Mapping[str, str] | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    special: int = 1,
    **kwargs: Any,
) -> ClassLensResult:
    """Read every token of every layer with the head's class rows.

    Args:
        model: A vision transformer with a classifier; with `rows` and `decode` any classifier.
        inputs: Images [image channel y x], or what the model takes.
        answers: The right class of each image.
        components: "resid" for embedding and layers, "all" for attention and MLP outputs too.
        classes: Names of the classes.
        rows: Row name -> site, bottom to top, of another model; activations [image pos d], or maps
            [image d y x], whose places become positions.
        decode: [..., d] -> logits [..., class]; norm and bias included.
        special: Tokens before the patches; 0 where the head averages over all.
        kwargs: For `run_with_cache`.

    Raises:
        ModelError: No stream and head by name, and no `rows` and `decode`.
        ConfigError: Unknown components, or only one of `rows` and `decode`.
        ShapeError: Answers that do not fit images or classes.
    """
    check_choice("components", components, Components)
    if (rows is None) != (decode is None):
        raise ConfigError("rows and decode belong together", got="one of them")
    if rows is None or decode is None:
        rows, decode = _own_rows(model, components), lambda x: model.unembed(model.ln_final(x))
    passed_on(model, inputs, kwargs, class_lens)
    with torch.no_grad():
        output, acts = model.run_with_cache(inputs, list(rows.values()), **kwargs)
        own = single_output(output, "a class lens")
        answer = torch.as_tensor(answers, device=own.device).long()
        _check_answers(answer, own, classes)
        columns: dict[str, list[Tensor]] = {n: [] for n in ("identifiability", "prob", "predicted")}
        gap, shape = 0.0, (0, 0)
        for site in rows.values():
            x = acts[site]
            if x.ndim == 4:
                shape = (x.shape[2], x.shape[3])
                x = x.flatten(2).movedim(1, 2)
            # The model's own head reads one token of each image; all of them go in blocks.
            parts = [
                _measure(decode(x[part]), answer[part], own[part], special)
                for part in row_blocks(len(x), x.shape[1] * own.shape[-1], own.dtype.itemsize)
            ]
            gap = max(float(part.pop("gap")) for part in parts)  # the last row's is what stays
            for name in columns:
                columns[name].append(torch.cat([part[name] for part in parts]))
    n_patches = columns["prob"][0].shape[1] - special
    side = round(n_patches**0.5)
    square = (side, side) if side**2 == n_patches and model.reads == "pixels" else (0, 0)
    return ClassLensResult(
        **{name: torch.stack(values) for name, values in columns.items()},
        answer=answer,
        classes=tuple(classes or map(str, range(own.shape[-1]))),
        components=tuple(rows),
        special=special,
        grid=shape if shape[0] else _grid(model, n_patches) or square,
        gap=gap,
        tolerance=LOGIT_TOLERANCE.get(model.cfg.dtype, 1e-5) * max(1.0, float(own.abs().max())),
        labels={"layer": list(rows)},
        provenance=model.provenance(rows.values()),
    )


def score_identifiability(logits: Tensor, answer: Tensor) -> Tensor:
    """1 − rank/n of the right class, [...]; ties share their ranks.

    Args:
        logits: [... class].
        answer: Class ids, broadcast over [...].
    """
    at = logits.gather(-1, answer.expand(logits.shape[:-1])[..., None])
    above, equal = (logits > at).sum(-1), (logits == at).sum(-1) - 1
    return 1.0 - (above + equal / 2) / logits.shape[-1]


def _measure(logits: Tensor, answer: Tensor, own: Tensor, special: int) -> dict[str, Tensor]:
    """The numbers of one row from logits [image pos class]; `own` are the model's, [image class]."""
    read = logits[:, 0] if special else logits.mean(1)
    log_p, right = log_probs(logits), answer[:, None]
    index = right.expand(logits.shape[:-1])[..., None]
    return {
        "identifiability": score_identifiability(log_p, right).to(log_p.dtype),
        "prob": log_p.gather(-1, index)[..., 0].exp(),
        "predicted": log_p.argmax(-1),
        "gap": (read - own).abs().max(),
    }


def _own_rows(model: HookedModel, components: Components) -> dict[str, str]:
    cfg = model.cfg
    if not model.has_head or not cfg.n_layers or cfg.style == "post":
        raise ModelError(
            f"{cfg.model_name or type(model.module).__name__} has no head on a residual stream",
            got=type(model.module).__name__,
            expected="a vision transformer loaded with its classifier",
            fix="name the sites and the head: class_lens(..., rows={...}, decode=...)",
        )
    rows = {"embed": "blocks.0.hook_resid_pre"}
    for layer in range(cfg.n_layers):
        if components == "all":
            rows[f"L{layer} attn"] = f"blocks.{layer}.hook_attn_out"
            rows[f"L{layer} mlp"] = f"blocks.{layer}.hook_mlp_out"
        rows[f"L{layer} post"] = f"blocks.{layer}.hook_resid_post"
    return rows


def _check_answers(answer: Tensor, own: Tensor, classes: Sequence[str] | None) -> None:
    n_images, n_classes = own.shape[0], own.shape[-1]
    if own.ndim != 2 or answer.shape != (n_images,):
        raise ShapeError(
            "every image needs one right class",
            got=f"answers {list(answer.shape)}, output {list(own.shape)}",
            expected="answers [image], output [image class]",
        )
    if int(answer.min()) < 0 or int(answer.max()) >= n_classes:
        raise ShapeError(
            "a right class does not exist",
            got=f"{int(answer.min())} to {int(answer.max())}",
            expected=f"0 to {n_classes - 1}",
        )
    if classes is not None and len(classes) != n_classes:
        raise ShapeError("class names do not fit", got=len(classes), expected=n_classes)


def _grid(model: HookedModel, n_patches: int) -> tuple[int, int] | None:
    """Patches down and across, from a Hugging Face configuration."""
    config = getattr(model.module, "config", None)
    size, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    if size is None or patch is None:
        return None
    height, width = size if isinstance(size, Sequence) else (size, size)
    down, across = patch if isinstance(patch, Sequence) else (patch, patch)
    grid = (height // down, width // across)
    return grid if grid[0] * grid[1] == n_patches else None
