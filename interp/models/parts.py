"""What a wrapped model is, before it runs: its text, its weights, its head, its name for itself."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.core.errors import ModelError, WeightError
from interp.core.names import did_you_mean
from interp.core.provenance import Provenance, versions
from interp.models import identity
from interp.models.adapters.adapter import Adapter, Inputs
from interp.models.adapters.huggingface import writes_text
from interp.models.adapters.weights import Weights
from interp.models.budget import estimate_bytes
from interp.models.cfg import ModelConfig
from interp.models.describe import model_map
from interp.models.hooks.sites import SiteMap
from interp.models.hooks.splice import Splice
from interp.models.text.batch import TokenBatch
from interp.models.text.inputs import Intake
from interp.models.text.tokens import Tokenization


class Parts:
    """The standing parts of a wrapped model; `HookedModel` adds the running.

    Attributes:
        module: The raw model; its state dict, forward and save_pretrained stay as they were.
        tokenization: Text <-> ids, with the BOS policy.
    """

    def __init__(
        self,
        module: nn.Module,
        adapter: Adapter,
        tokenization: Tokenization,
        intake: Intake,
        splices: tuple[Splice, ...] = (),
    ) -> None:
        self.module = module
        self._adapter = adapter
        self.tokenization = tokenization
        self._intake = intake
        self.splices = splices
        self._sites: SiteMap | None = None

    @property
    def adapter(self) -> Adapter:
        """What is known about the raw model, proved: the first who asks runs the proof."""
        if self._adapter.proof is not None:
            self._adapter.proof.settle(self)
        return self._adapter

    @property
    def sites(self) -> SiteMap:
        """Names -> `Site`, in firing order, those that hold what they say.

        Raises:
            AdapterError: When first asked, and from then on: the output changes under hooks.
            ModelError: Modules were exchanged before anybody had asked.
        """
        proof = self._adapter.proof
        if proof is not None and not proof.settle(self):
            return self._site_map()  # nothing is known so far: somebody may learn it later
        if self._sites is None:
            self._sites = self._site_map()
        return self._sites

    def _site_map(self) -> SiteMap:
        adapter = self._adapter
        listed = dict(adapter.sites)
        for splice in self.splices:
            listed = splice.insert(listed)
        where = adapter.cfg.model_name or type(self.module).__name__
        return SiteMap(listed, self.module, where, adapter.refused, adapter.unlisted)

    # --- text -------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        return self.tokenization.tokenizer

    def tokenize(
        self, texts: Any, prepend_bos: bool | None = None, padding_side: str = "right", truncate: bool = False
    ) -> TokenBatch:
        """Texts -> `TokenBatch(ids, mask)`, ragged batches padded; see `Tokenization.tokenize`."""
        return self.tokenization.tokenize(texts, prepend_bos, padding_side, truncate)

    def read(self, inputs: Any, **options: Any) -> TokenBatch:
        """Inputs in any form as a `TokenBatch`; options as for `Intake.read`."""
        return self._intake.read(inputs, **options)

    @property
    def keywords(self) -> frozenset[str]:
        """Keywords of the raw module that any call with inputs may carry."""
        return self._intake.accepted

    def to_tokens(self, texts: Any, prepend_bos: bool | None = None) -> Tensor:
        """Texts of one length -> ids [batch, pos] on the model's device."""
        return self.tokenization.to_tokens(texts, prepend_bos).to(self.device)

    def to_str_tokens(self, text: Any, prepend_bos: bool | None = None) -> list[Any]:
        """One text or row of ids -> its pieces; a list of texts -> a list of them for each."""
        return self.tokenization.to_str_tokens(text, prepend_bos)

    def to_string(self, ids: Any) -> Any:
        """Ids -> text."""
        return self.tokenization.to_string(ids)

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token."""
        return self.tokenization.to_single_token(text)

    # --- parts of the model -----------------------------------------------------------------

    @property
    def cfg(self) -> ModelConfig:
        """Sizes under TransformerLens's names; dtype and device are those of the weights now."""
        return identity.current_cfg(self._adapter.cfg, self._adapter.born, self.module)

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._intake.device

    @property
    def W(self) -> Weights:
        """Weights by TransformerLens's names; `model.W_Q` etc. are short for `model.W.W_Q`."""
        return Weights(self.adapter, self.module)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith(("W_", "b_")):
            raise WeightError(
                f"model.{name} is read from the model, not kept beside it",
                got=f"{name} = {type(value).__name__}",
                fix="write into the module's own parameter (model.module)",
            )
        super().__setattr__(name, value)

    if TYPE_CHECKING:  # an editor that knew `__getattr__` would take any misspelt method for right
        W_E: Tensor
        W_pos: Tensor
        W_U: Tensor
        b_U: Tensor
        W_Q: Tensor
        W_K: Tensor
        W_V: Tensor
        W_O: Tensor
        b_Q: Tensor
        b_K: Tensor
        b_V: Tensor
        b_O: Tensor
        W_in: Tensor
        W_gate: Tensor
        W_out: Tensor
        b_in: Tensor
        b_out: Tensor
    else:

        def __getattr__(self, name: str) -> Any:
            if name.startswith(("W_", "b_")):
                return getattr(self.W, name)
            hint = "" if name.startswith("_") else _instead(self, name)
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    @property
    def two_sided(self) -> bool:
        """Whether an encoder and a decoder read texts of their own."""
        return self._adapter.inputs == "encoder_decoder"

    @property
    def is_language_model(self) -> bool:
        """Whether the output at each position is about the next token."""
        if self._adapter.inputs != "tokens":
            return False
        if self.adapter.unembed is not None:
            return self.cfg.causal
        return writes_text(self.module) and not getattr(self.module.config, "is_encoder_decoder", True)

    @property
    def reads(self) -> Inputs:
        """What a forward pass takes: tokens, an encoder's and a decoder's, pixels, or anything."""
        return self._adapter.inputs

    @property
    def has_head(self) -> bool:
        """Whether `unembed` gives logits from a residual stream."""
        return self.adapter.unembed is not None

    @property
    def head(self) -> nn.Module | None:
        """The module that unembeds; None where the head is several, or there is none."""
        return self.adapter.unembed_module

    @property
    def head_pools_first(self) -> bool:
        """Whether the head reads position 0 only (a class token)."""
        return self.adapter.pools_first

    @property
    def final_norm(self) -> nn.Module | None:
        """The module before the head; None where there is none."""
        return self.adapter.ln_final

    def ln_final(self, resid: Tensor) -> Tensor:
        """The final norm, [..., d_model] -> [..., d_model]; the identity where there is none."""
        return resid if self.adapter.ln_final is None else self.adapter.ln_final(resid)

    def unembed(self, normalized: Tensor) -> Tensor:
        """Normalised residual stream -> logits, by the model's own head (soft cap included).

        Raises:
            ModelError: The model has no head that reads the residual stream.
        """
        if self.adapter.unembed is None:
            raise ModelError(
                f"{self.cfg.model_name} has no unembedding",
                got=type(self.module).__name__,
                expected="a language-model or classifier head",
                fix="load the architecture with its head (…ForCausalLM, …ForMaskedLM)",
            )
        return self.adapter.unembed(normalized)

    # --- identity ---------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """sha256 of configuration and of the weights in use, however they were changed."""
        return identity.fingerprint(self.module, self.cfg)

    def provenance(self, sites: Iterable[str] = (), **more: Any) -> Provenance:
        """Where a number came from: this model, these sites, this tokenizer, these versions."""
        return Provenance(
            model=self.cfg.model_name,
            model_fingerprint=self.fingerprint(),
            sites=tuple(sites),
            **{
                "dtype": self.cfg.dtype,
                "prepend_bos": self.tokenization.bos_policy != "none",
                "tokenizer_hash": self.tokenization.hash,
                "versions": versions(),
                **more,
            },
        )

    def estimate(self, inputs: Any, sites: Any = None, **kwargs: Any) -> int:
        """Bytes that `capture(inputs, sites)` would keep."""
        ready = self._intake.prepare(inputs, kwargs, None)
        return sum(estimate_bytes(self.sites, self.sites.resolve(sites), ready, self.cfg.dtype).values())

    def __repr__(self) -> str:
        return model_map(self.adapter, self.sites, self.tokenization)


_INSTEAD = {
    "add_hook": "with model.hooks([(site, fn)]): ...",
    "reset_hooks": "nothing: hooks end with their `with model.hooks(...)` block",
    "eval": "nothing: a pass always runs in evaluation mode",
    "train": "with model.in_training_mode(): ...",
    "half": "model.to('float16')",
    "cuda": "model.to('cuda')",
    "cpu": "model.to('cpu')",
}
"""What stands here for methods of torch and TransformerLens that change a model in place."""


def _instead(model: Parts, name: str) -> str:
    """What an attribute that is not here may have been meant for, as the end of a sentence."""
    if name in _INSTEAD:
        return f"; instead: {_INSTEAD[name]}"
    if hasattr(vars(model).get("module"), name):
        return f"; the torch module has: model.module.{name}"
    names = [n for n in dir(type(model)) if not n.startswith("_")]
    near = did_you_mean(name, names) if get_close_matches(name, names) else ""
    return f"; {near}" if near else ""
