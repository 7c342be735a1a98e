"""The tuned lens: one affine map per layer, so that the head reads every layer as it reads its own.

The residual stream drifts: what a direction means in layer 1 is not what it means at the end. The
lens learns x + A_l x + b_l per layer, from the identity (the logit lens), by KL to the model's own
output. Source: Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned
Lens" (arXiv 2303.08112), equations 5 to 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from interp.activations.config import FitConfig, StreamConfig, TextConfig
from interp.activations.loop import Callback, fit
from interp.activations.report import FitReport
from interp.activations.stream import ActivationStream
from interp.activations.text import token_sequences
from interp.core.artefact import Trained, fill
from interp.core.errors import ModelError
from interp.core.provenance import Provenance
from interp.core.settings import check_options
from interp.core.store import Artefact
from interp.lenses.config import TunedLensConfig
from interp.lenses.reading import log_probs, passed_on, read_rows, stream_rows
from interp.lenses.result import LensResult
from interp.models.hooked import HookedModel

WEIGHTS, CONFIG = "tuned_lens.safetensors", "tuned_lens.json"


class TunedLens(Trained):
    """An affine map for every row but the last, which is the model's own output.

    Args:
        rows: Row name -> site of the residual stream, bottom to top, without the last.
        d_model: Width of the stream.
        provenance: The model and text it was made for.
        dtype: Of the maps; single precision also for half-precision models.
    """

    schema: ClassVar[str] = "tuned-lens/1"
    provenance: Provenance

    def __init__(
        self,
        rows: Mapping[str, str],
        d_model: int,
        provenance: Provenance,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.rows: dict[str, str] = dict(rows)
        self.provenance = provenance  # pyright: ignore[reportIncompatibleVariableOverride]
        self.maps: nn.ModuleList = nn.ModuleList(nn.Linear(d_model, d_model, dtype=dtype) for _ in rows)
        self._at = {site: i for i, site in enumerate(self.rows.values())}
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @classmethod
    def identity(cls, model: HookedModel) -> TunedLens:
        """The lens before training: equal to the logit lens of this model.

        Raises:
            ModelError: The model has no residual stream and head over tokens, or has a decoder
                that reads an encoder.
        """
        if model.cfg.n_decoder_layers:
            raise ModelError(
                "a tuned lens is trained on models that read one text",
                got=f"{model.cfg.model_name}, an encoder-decoder",
                fix="interp.lenses.decoder_lens reads these",
            )
        rows = dict(list(stream_rows(model, "resid").items())[:-1])
        known = model.provenance(rows.values(), d_in=model.cfg.d_model)
        dtype = torch.float64 if model.cfg.dtype == "float64" else torch.float32
        return cls(rows, model.cfg.d_model, known, dtype).to(model.device)

    def forward(self, site: str, x: Tensor) -> Tensor:
        """The stream at `site` [..., d_model] as the last layer would hold it, same dtype."""
        if site not in self._at:
            return x
        one: Any = self.maps[self._at[site]]
        wide = x.to(one.weight.dtype)
        return (wide + one(wide)).to(x.dtype)

    def files(self) -> dict[str, Any]:
        """The maps, the rows and where they came from."""
        meta = {"rows": self.rows, "provenance": self.provenance.to_json()}
        return {WEIGHTS: self.state_dict(), CONFIG: meta}

    @classmethod
    def from_files(cls, stored: Artefact, version: int) -> Self:
        """The inverse of `files`."""
        meta, state = stored.json(CONFIG), stored.tensors(WEIGHTS)
        first = next(iter(state.values()))
        origin = Provenance.from_json(meta["provenance"])
        lens = cls(meta["rows"], first.shape[-1], origin, first.dtype)
        fill(lens, state, stored.directory)
        return lens


def tuned_lens(
    model: HookedModel,
    inputs: Any,
    lens: TunedLens | str | Path,
    *,
    k: int = 5,
    target: Any = None,
    strict: bool = True,
    **kwargs: Any,
) -> LensResult:
    """Read every layer through a trained lens; arguments as for `logit_lens`.

    Args:
        lens: A `TunedLens`, or the folder of a saved one.
        strict: Refuse a lens made for another model; otherwise the result's provenance notes it.

    Raises:
        ProvenanceError: The lens was made for another model.
        TokenError: More than one text, or a target that is not one token.
    """
    passed_on(model, inputs, kwargs, tuned_lens)
    if not isinstance(lens, TunedLens):
        lens = TunedLens.load(lens)
    known = lens.check_model(model, strict=strict)
    lens = lens.to(model.device)
    result = read_rows(
        model,
        inputs,
        stream_rows(model, "resid"),
        lambda site, x: model.unembed(model.ln_final(lens(site, x))),
        kind="tuned",
        k=k,
        target=target,
        **kwargs,
    )
    if result.provenance is None or not known.notes:
        return result
    return replace(result, provenance=replace(result.provenance, notes=known.notes))


def train_tuned_lens(
    model: HookedModel,
    data: Any,
    config: TunedLensConfig | None = None,
    *,
    out: Path | str | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> tuple[TunedLens, FitReport]:
    """Train a lens for a model on text.

    Args:
        data: Text as `tokenize_texts` reads it, or `TokenSequences`.
        config: Steps, rate, tokens per step.
        out: A run folder with checkpoints; None trains without.
        callbacks: For `fit`.
        settings: Further fields of `FitConfig`.

    Returns:
        The lens, and how the training went: the loss is the KL to the model's output in nats,
        summed over rows; `kl <row>` in its records.

    Raises:
        ConfigError: Less text than one batch, `n_ctx` beside ids of another length, or settings that
            cannot be.
        ModelError: The model has no residual stream and head over tokens.
    """
    check_options("train_tuned_lens", settings, [f.name for f in fields(FitConfig)])
    config = config or TunedLensConfig()
    lens = TunedLens.identity(model)
    tokens = token_sequences(model, data, TextConfig(n_ctx=config.n_ctx))
    last = list(stream_rows(model, "resid").values())[-1]
    stream = ActivationStream(
        model,
        [*lens.rows.values(), last],
        tokens,
        StreamConfig(batch_size=config.batch_tokens, seed=config.seed),
    )
    lens.provenance = replace(lens.provenance, data_fingerprint=tokens.fingerprint)
    how = FitConfig(
        **{
            "steps": config.steps,
            "lr": 0.64 / model.cfg.d_model if config.lr is None else config.lr,
            "lr_schedule": "linear",
            "lr_warmup": min(20, config.steps // 10),
            "weight_decay": config.weight_decay,
            "seed": config.seed,
            **settings,
        }
    )
    record = {"tuned_lens": asdict(config), "provenance": lens.provenance.to_json()}
    report = fit(lens, _Step(model, last), stream.batch, how, out=out, callbacks=callbacks, record=record)
    return lens, report


class _Step:
    """KL of every row to the model's output; row by row, so that one row's logits are held."""

    def __init__(self, model: HookedModel, last: str) -> None:
        self.model, self.last = model, last

    def __call__(
        self, lens: TunedLens, batch: Mapping[str, Tensor], t: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        model = self.model
        with torch.no_grad():
            final = log_probs(model.unembed(model.ln_final(batch[self.last])))
            p = final.exp()
        found: dict[str, Tensor] = {}
        for row, one in zip(lens.rows.items(), lens.maps, strict=True):
            name, site = row
            log_q = log_probs(model.unembed(model.ln_final(lens(site, batch[site]))))
            kl = (p * (final - log_q)).sum(-1).mean()
            # Gradients of the maps alone: the model's own weights collect none.
            parameters = list(one.parameters())
            for parameter, grad in zip(parameters, torch.autograd.grad(kl, parameters), strict=True):
                parameter.grad = grad
            found[f"kl {name}"] = kl.detach()
        return torch.stack(list(found.values())).sum(), found
