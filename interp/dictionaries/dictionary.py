"""The `Dictionary` artefact: SAEs, transcoders and skip transcoders of every activation, one class.

```python
dictionary = Dictionary(DictionaryConfig(d_in=512, d_sae=8192, k=32))
latents = dictionary.encode(x)           # [*batch d_sae]
error = dictionary.error(x)              # x - decode(encode(x))
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from interp.activations.rows import dense_numbers
from interp.core.artefact import Trained
from interp.core.errors import ConfigError, ShapeError
from interp.core.foreign import one_line
from interp.core.provenance import Provenance
from interp.core.randomness import generator
from interp.core.store import Artefact
from interp.dictionaries.checks import check_dictionary, read_latents, read_rows
from interp.dictionaries.config import TOPK_FAMILY, DictionaryConfig
from interp.dictionaries.steps import coding
from interp.models.hooks.splice import Splice

FIRST_THRESHOLD = 1e-3  # of a JumpReLU: Rajamanoharan et al. 2024, appendix


class Dictionary(Trained):
    """Sparse latents of activations and what they reconstruct. Satisfies `core.protocols.Coder`.

    Attributes:
        config: What it is.
        provenance: Model, site and data it was trained on.
        metadata: Scores, measured L0, the command that made it: what a card shows.
        encoder: [d_sae, d_in], one row per latent. Matching pursuit has none.
        W_dec: [d_sae, d_out].
        b_enc: [d_sae]; not for gated and matching pursuit.
        b_dec: [d_out].
        threshold: [d_sae]; trained for jumprelu, a buffer for batchtopk, where all zeros means
            that none was measured yet.
        b_gate, b_mag, r_mag: [d_sae], gated only.
        W_skip: [d_out, d_in], with `config.skip` only.
    """

    schema: ClassVar[str] = "dictionary/1"
    encoder: nn.Parameter
    W_dec: nn.Parameter
    b_enc: nn.Parameter
    b_dec: nn.Parameter
    b_gate: nn.Parameter
    b_mag: nn.Parameter
    r_mag: nn.Parameter
    W_skip: nn.Parameter
    threshold: Tensor

    def __init__(self, config: DictionaryConfig, seed: int = 0) -> None:
        """Unit-norm random decoder rows; the encoder of an SAE starts as their transpose.

        Raises:
            ConfigError: Settings that are wrong or contradict each other, before any work.
        """
        super().__init__()
        check_dictionary(config)
        self.config = config
        self.provenance: Provenance | None = None
        self.metadata: dict[str, Any] = {}
        self._scale: coding.Scale | None = None
        dtype, d_sae = getattr(torch, config.dtype), config.d_sae

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=dtype))

        self.W_dec = parameter(d_sae, config.width_out)
        self.b_dec = parameter(config.width_out)
        if config.activation != "matching_pursuit":
            self.encoder = parameter(d_sae, config.d_in)
        if config.activation == "gated":
            self.b_gate, self.b_mag, self.r_mag = (parameter(d_sae) for _ in range(3))
        elif config.activation != "matching_pursuit":
            self.b_enc = parameter(d_sae)
        if config.activation == "jumprelu":
            self.threshold = parameter(d_sae)
        elif config.activation == "batchtopk":
            self.register_buffer("threshold", torch.zeros(d_sae, dtype=dtype))
        if config.skip:
            self.W_skip = parameter(config.width_out, config.d_in)
        if not self.W_dec.is_meta:
            self._fill(seed)

    @classmethod
    def from_state(cls, config: DictionaryConfig, tensors: Mapping[str, Tensor]) -> Dictionary:
        """A dictionary of given numbers, copied; names and shapes as in the class docstring.

        Raises:
            ConfigError: Settings that are wrong, a tensor missing or not known.
            ShapeError: A tensor of another shape.
        """
        with torch.device("meta"):
            made = cls(config)
        expected = made.state_dict()
        if expected.keys() != tensors.keys():
            raise ConfigError(
                f"these are not the tensors of a {config.activation} dictionary",
                got=", ".join(sorted(tensors)),
                expected=", ".join(sorted(expected)),
            )
        for name, tensor in tensors.items():
            if tensor.shape != expected[name].shape:
                raise ShapeError(
                    f"{name} has another shape", got=list(tensor.shape), expected=list(expected[name].shape)
                )
        dtype = getattr(torch, config.dtype)
        own = {n: t.detach().to(dtype, copy=True).contiguous() for n, t in tensors.items()}
        made.load_state_dict(own, assign=True)
        return made

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """The encoder, one column per latent; matching pursuit reads with its decoder."""
        return (self.W_dec if self.config.activation == "matching_pursuit" else self.encoder).T

    def extra_repr(self) -> str:
        """What it is, in one line."""
        c = self.config
        k = "" if c.k is None else f", k={c.k:g}"
        out = f" -> {c.width_out}" if c.is_transcoder else ""
        where = self.site_in if self.site_in == self.site_out else f"{self.site_in} -> {self.site_out}"
        place = f", {one_line(where)}" if where else ""
        return f"{c.activation}{k}, {c.d_in} -> {c.d_sae} latents{out}{place}"

    @property
    def site_in(self) -> str:
        """Site read; "" is not tied to a model."""
        return self.config.site_in

    @property
    def site_out(self) -> str:
        """Site written."""
        return self.config.site_out or self.config.site_in

    # --- what it computes -------------------------------------------------------------------

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Latents of activations.

        A batchtopk dictionary uses its measured threshold; before one was measured it takes the
        best k per row on average over the rows given, as in training.

        Raises:
            ShapeError: Activations of another width.
        """
        config = self.config
        if config.activation in ("topk", "abstopk"):
            return coding.scatter(*self.encode_sparse(x), config.d_sae)
        if config.activation == "matching_pursuit":
            rows = self._centred(x)
            found = self.pursue(rows.reshape(-1, config.d_in))
            latents = coding.scatter(found.values, found.indices, config.d_sae)
            return latents.reshape(*rows.shape[:-1], config.d_sae)
        pre = self.preactivations(x)
        if config.activation == "gated":
            return coding.gate(pre, self.b_gate, self.b_mag, self.r_mag)
        if config.activation == "relu":
            return pre.relu()
        if config.activation == "batchtopk" and not self.threshold.any():
            return coding.batch_top(pre, config.k or 0)
        return coding.jump(pre, self.threshold)

    def encode_sparse(
        self, x: Float[Tensor, "... d_in"]
    ) -> tuple[Float[Tensor, "... k"], Int[Tensor, "... k"]]:
        """Values and indices of the k latents of each row, unordered; `encode` without the zeros.

        Raises:
            ConfigError: The activation does not keep a fixed number of latents per row.
        """
        if self.config.activation not in ("topk", "abstopk"):
            raise ConfigError(
                "the number of active latents varies from row to row",
                got=self.config.activation,
                expected="topk or abstopk",
                fix="use encode",
            )
        signed = self.config.activation == "abstopk"
        return coding.top(self.preactivations(x), int(self.config.k or 0), signed)

    def preactivations(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """What the activation function sees; for gated, the product without a bias.

        Raises:
            ConfigError: Matching pursuit, which has no single pre-activation.
            ShapeError: Activations of another width.
        """
        if self.config.activation == "matching_pursuit":
            raise ConfigError("matching pursuit has no pre-activations", fix="use encode")
        bias = None if self.config.activation == "gated" else self.b_enc
        pre = F.linear(self._centred(x), self.encoder, bias)
        return pre * self.decoder_norms if self.config.rescale_acts_by_decoder_norm else pre

    def pursue(self, rows: Float[Tensor, "n d_in"]) -> coding.Pursuit:
        """Matching pursuit of centred rows."""
        return coding.pursue(
            rows,
            self.W_dec,
            residual_threshold=self.config.residual_threshold,
            max_iterations=self.config.max_iterations,
            stop_on_duplicate=self.config.stop_on_duplicate_support,
        )

    def decode(self, z: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_out"]:
        """Activations from latents, in raw units; a skip path is not included.

        With `normalize_activations` of a kind that depends on the row, this undoes the
        normalisation of the rows encoded last.

        Raises:
            ConfigError: Such a dictionary has not encoded anything yet.
            ShapeError: Another number of latents.
        """
        z = read_latents(z, len(self.W_dec))
        if self.config.rescale_acts_by_decoder_norm:
            z = z * (1 / self.decoder_norms)  # as SAELens rounds it
        out = z @ self.W_dec
        is_tied = self.config.activation == "matching_pursuit"
        if self.config.apply_b_dec_to_input or not is_tied:
            out = out + self.b_dec
        by_row = self.config.normalize_activations in ("constant_norm_rescale", "layer_norm")
        if not by_row or self.config.is_transcoder:
            return out
        if self._scale is None:
            raise ConfigError(
                f"normalize_activations={self.config.normalize_activations!r} is undone with the "
                "scale of the rows encoded last, and none were",
                fix="encode the rows first, or call the dictionary on them",
            )
        return out * self._scale.size + self._scale.shift

    def skip(self, x: Float[Tensor, "... d_in"]) -> Tensor:
        """What the skip path adds to the reconstruction of rows x; one zero without a path."""
        return F.linear(self._flat(x), self.W_skip) if self.config.skip else x.new_zeros(())

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """The reconstruction, skip path included; of x's shape where heads were flattened."""
        x = dense_numbers(x, "a dictionary")
        out = self.decode(self.encode(x)) + self.skip(x)
        return out.reshape(x.shape) if out.numel() == x.numel() else out

    def error(
        self, x: Float[Tensor, "... d_in"], y: Float[Tensor, "... d_out"] | None = None
    ) -> Float[Tensor, "... d_out"]:
        """What is left of the target (by default x itself): y - reconstruction of x."""
        return (x if y is None else y) - self(x)

    @property
    def decoder_norms(self) -> Float[Tensor, "d_sae"]:
        """Norm of each latent's decoder row."""
        return self.W_dec.norm(dim=-1)

    # --- the same function in other units ----------------------------------------------------

    def folded(self) -> Dictionary:
        """The same function with decoder rows of unit norm; latents take up the norms.

        Raises:
            ConfigError: The choice of latents depends on the norms: topk without
                `rescale_acts_by_decoder_norm`, matching pursuit.
        """
        config, state = self.config, self._copy()
        norms = self.decoder_norms.detach().clamp_min(1e-8)
        free = config.rescale_acts_by_decoder_norm or config.activation not in TOPK_FAMILY
        if config.activation == "batchtopk":
            free = free or bool(self.threshold.any())
        if config.activation == "matching_pursuit" or not free:
            raise ConfigError(
                f"decoder norms cannot be folded into a {config.activation} dictionary",
                got=f"rescale_acts_by_decoder_norm={config.rescale_acts_by_decoder_norm}",
                fix="scaling latents would change which of them are chosen; keep it as it is",
            )
        state["W_dec"] /= norms[:, None]
        state["encoder"] *= norms[:, None]
        for name in ("b_enc", "b_gate", "b_mag"):
            if name in state:
                state[name] *= norms
        if "threshold" in state and not config.rescale_acts_by_decoder_norm:
            state["threshold"] *= norms
        return self._with(state, replace(config, rescale_acts_by_decoder_norm=False))

    def unscaled(self, scale_in: float, scale_out: float | None = None) -> Dictionary:
        """What was trained on scale_in x -> scale_out y, as a dictionary of raw x -> y.

        Latents keep their values, except with `rescale_acts_by_decoder_norm`, where they are in
        units of the output, and for matching pursuit.

        Args:
            scale_in: Factor that inputs were multiplied with.
            scale_out: The targets' factor; by default the inputs'.
        """
        config, state = self.config, self._copy()
        scale_out = scale_in if scale_out is None else scale_out
        # Matching pursuit reads with its decoder, whose rows stay: its latents take the scale.
        is_tied = config.activation == "matching_pursuit"
        for name in ("b_dec", "W_skip") if is_tied else ("b_dec", "W_skip", "W_dec"):
            if name in state:
                state[name] /= scale_out
        for name in ("encoder", "W_skip"):
            if name in state:
                state[name] *= scale_in
        if config.activation == "batchtopk" and config.rescale_acts_by_decoder_norm:
            state["threshold"] /= scale_out
        return self._with(
            state,
            replace(
                config,
                residual_threshold=config.residual_threshold / scale_in,
                normalize_activations="none"
                if config.normalize_activations == "expected_average_only_in"
                else config.normalize_activations,
            ),
        )

    # --- where it belongs --------------------------------------------------------------------

    def for_model(self, model: Any, strict: bool = True) -> Self:
        """Itself, if made for this model (a `HookedModel` or its `Provenance`).

        Raises:
            SiteError, ShapeError: The model has no such site, or one of another width.
            ProvenanceError: It was made for another model, dtype, tokenizer or BOS policy;
                `strict=False` notes it instead.
        """
        if not isinstance(model, Provenance):
            Splice.of(self, model.sites, True)
        return super().for_model(model, strict)

    def files(self) -> dict[str, Any]:
        """A folder in SAELens's layout, with more than SAELens reads."""
        from interp.dictionaries.formats import files_of

        return files_of(self)

    @classmethod
    def from_files(cls, stored: Artefact, version: int) -> Dictionary:
        """The inverse of `files`; folders of SAELens are read, too."""
        from interp.dictionaries.formats import read_folder

        return read_folder(stored)

    @classmethod
    def load(cls, directory: str | Path, *, strict: bool = True) -> Dictionary:
        """What `save`, SAELens or another library wrote: `interp.dictionaries.load` has more.

        Raises:
            StorageError, CorruptArtefact: No dictionary, or changed since.
        """
        from interp.dictionaries.formats import load

        return load(directory, strict=strict)

    # --- inside ------------------------------------------------------------------------------

    def _fill(self, seed: int) -> None:
        with torch.no_grad():
            random = torch.randn(self.W_dec.shape, generator=generator(seed, "W_dec"))
            self.W_dec.copy_(F.normalize(random, dim=1))
            if self.config.activation == "jumprelu":
                self.threshold.fill_(FIRST_THRESHOLD)
            if self.config.activation == "matching_pursuit":
                return
            if not self.config.is_transcoder:
                self.encoder.copy_(self.W_dec)
                return
            random = torch.randn(self.encoder.shape, generator=generator(seed, "W_enc"))
            self.encoder.copy_(F.normalize(random, dim=1))

    def _flat(self, x: Tensor) -> Tensor:
        """Rows in the parameters' dtype, heads side by side."""
        return read_rows(x, self.config).to(self.W_dec.dtype)

    def _centred(self, x: Tensor) -> Tensor:
        x, self._scale = coding.normalise(self._flat(x), self.config.normalize_activations)
        return x - self.b_dec if self.config.apply_b_dec_to_input else x

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}

    def _with(self, state: dict[str, Tensor], config: DictionaryConfig) -> Dictionary:
        made = Dictionary.from_state(config, state)
        made.provenance, made.metadata = self.provenance, dict(self.metadata)
        return made
