"""`HookedModel`: any torch model with named sites; speaks TransformerLens, mutates nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.activations import Activations
from interp.core.errors import ModelError
from interp.core.protocols import Coder
from interp.core.provenance import Provenance, fingerprint_state, versions
from interp.models.adapter import Adapter
from interp.models.budget import estimate_bytes, refuse_above
from interp.models.describe import model_map
from interp.models.inputs import Intake, Prepared, main_output, position_index
from interp.models.interventions import Intervention
from interp.models.plan import Hook, backward_hooks, collect, keeper, make_taps, start_tap
from interp.models.sites import SiteMap
from interp.models.splice import Splice
from interp.models.taps import Run, StopForward, Tap
from interp.models.tokens import TokenBatch, Tokenization
from interp.models.weights import Weights


class HookedModel:
    """A raw torch model, its sites and its tokenizer.

    Made by `load_model` and `wrap`; holds the raw module unchanged in `module`.

    Attributes:
        module: The raw model; its state dict, forward and save_pretrained stay as they were.
        sites: Names -> `Site`, in firing order; `model.sites.shape(name)` tells the axes.
        cfg: Sizes under TransformerLens's names.
        tokenization: Text <-> ids, with the BOS policy.
    """

    def __init__(
        self,
        module: nn.Module,
        adapter: Adapter,
        tokenization: Tokenization,
        intake: Intake,
        splices: tuple[Splice, ...] = (),
        *,
        rewrap: Callable[..., HookedModel],
    ) -> None:
        self.module = module
        self.adapter = adapter
        self.cfg = adapter.cfg
        self.tokenization = tokenization
        self.splices = splices
        self._intake = intake
        self._rewrap = rewrap  # `wrap`, handed in because it stands above this file
        listed = dict(adapter.sites)
        for splice in splices:
            listed = splice.insert(listed)
        where = self.cfg.model_name or type(module).__name__
        self.sites = SiteMap(listed, module, where, adapter.refused, adapter.unlisted)
        self._fingerprint: tuple[tuple[int, ...], str] | None = None

    # --- text -------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer, or None."""
        return self.tokenization.tokenizer

    def tokenize(
        self, texts: Any, prepend_bos: bool | None = None, padding_side: str = "right"
    ) -> TokenBatch:
        """Texts -> `TokenBatch(ids, mask)`, ragged batches padded; see `Tokenization.tokenize`."""
        return self.tokenization.tokenize(texts, prepend_bos, padding_side=padding_side)

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

    def to_str_tokens(self, text: Any, prepend_bos: bool | None = None) -> list[str]:
        """One text or row of ids -> its pieces."""
        return self.tokenization.to_str_tokens(text, prepend_bos)

    def to_string(self, ids: Any) -> Any:
        """Ids -> text."""
        return self.tokenization.to_string(ids)

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token."""
        return self.tokenization.to_single_token(text)

    # --- running ----------------------------------------------------------------------------

    def __call__(self, inputs: Any, *, prepend_bos: bool | None = None, **kwargs: Any) -> Any:
        """The model's output: logits [batch, pos, d_vocab] where it has them.

        Args:
            inputs: Text, ids, a TokenBatch, a tokenizer's encoding, or what the module takes.
            kwargs: Passed to the raw module (`attention_mask`, `decoder_input_ids`, ...).
        """
        ready = self._intake.prepare(inputs, kwargs, prepend_bos)
        if any(not s.error_term for s in self.splices):
            with self._run({}, ready):
                return main_output(self.module(*ready.args, **ready.kwargs))
        return main_output(self.module(*ready.args, **ready.kwargs))

    def capture(
        self,
        inputs: Any,
        sites: Any,
        *,
        positions: Any = None,
        to: Any = None,
        dtype: Any = None,
        fwd_hooks: Sequence[Hook] = (),
        grad: bool = False,
        clone: bool = False,
        max_bytes: int | None = None,
        prepend_bos: bool | None = None,
        **kwargs: Any,
    ) -> Activations:
        """Activations at `sites`, nothing else: the forward pass ends after the last of them.

        Args:
            inputs: As for calling the model.
            sites: Names, globs, predicates, or a list of them.
            positions: Keep only these; counted over each row's real tokens (-1 = its last).
            to: Device (or dtype) the kept tensors move to; `dtype` likewise.
            fwd_hooks: Interventions or (name, fn) pairs applied on the way.
            grad: Keep the graph: `torch.autograd.grad(f(acts), acts[site])` works.
            clone: Keep copies, for modules that overwrite their input in place.
            max_bytes: Refuse when the kept tensors would exceed this; half of what is free.

        Raises:
            SiteError: Before the run, for a name that matches nothing.
            HookNotFired, NonFiniteError, EditError, MemoryBudgetError: See `interp.core.errors`.
        """
        names = self.sites.resolve(sites)
        ready = self._intake.prepare(inputs, kwargs, prepend_bos)
        keep = keeper(ready, positions, to, dtype)
        if keep is None or max_bytes is not None:
            sizes = estimate_bytes(self.sites, names, ready, self.cfg.dtype)
            refuse_above(sizes, max_bytes, self.device)
        taps = make_taps(self.sites, names, fwd_hooks, grad=grad, keep=keep, clone=clone)
        graph = torch.enable_grad() if grad else torch.no_grad()
        stop = self.adapter.exact_once
        with graph, suppress(StopForward), self._run(taps, ready, stop=stop) as run:
            self.module(*ready.args, **ready.kwargs)
        run.verify()
        return self._collect(taps, names, ready, positions)

    def run_with_cache(
        self,
        inputs: Any,
        names_filter: Any = None,
        *,
        fwd_hooks: Sequence[Hook] = (),
        positions: Any = None,
        to: Any = None,
        dtype: Any = None,
        grad: bool = False,
        clone: bool = False,
        max_bytes: int | None = None,
        prepend_bos: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Any, Activations]:
        """(output, Activations) of one forward pass; arguments as for `capture`.

        With `grad=True` the activations stay on the graph of the output:
        `torch.autograd.grad(metric(output), acts[site])`. Otherwise they are detached.
        """
        names = self.sites.resolve(names_filter)
        ready = self._intake.prepare(inputs, kwargs, prepend_bos)
        keep = keeper(ready, positions, to, dtype)
        if keep is None or max_bytes is not None:
            sizes = estimate_bytes(self.sites, names, ready, self.cfg.dtype)
            refuse_above(sizes, max_bytes, self.device)
        taps = make_taps(self.sites, names, fwd_hooks, grad=grad, keep=keep, clone=clone)
        with torch.enable_grad() if grad else nullcontext(), self._run(taps, ready) as run:
            output = main_output(self.module(*ready.args, **ready.kwargs))
        run.verify()
        return output, self._collect(taps, names, ready, positions)

    def run_with_hooks(
        self,
        inputs: Any,
        fwd_hooks: Sequence[Hook] = (),
        bwd_hooks: Sequence[tuple[Any, Callable[..., Any]]] = (),
        *,
        prepend_bos: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """The output with hooks in place for this one forward pass.

        Args:
            fwd_hooks: Interventions, or (name, `fn(value, hook) -> Tensor | None`).
            bwd_hooks: (name, `fn(grad, hook)`), called when the output is differentiated.
        """
        ready = self._intake.prepare(inputs, kwargs, prepend_bos)
        taps = make_taps(self.sites, [], [*fwd_hooks, *backward_hooks(bwd_hooks)])
        with self._run(taps, ready) as run:
            output = main_output(self.module(*ready.args, **ready.kwargs))
        run.verify()
        return output

    def run_from(self, site: str, values: Tensor, inputs: Any, **kwargs: Any) -> Any:
        """The output where `site` holds `values`, [n ...]: what lies before it sees one row.

        Masks and positions of the one row must broadcast over n in the modules behind; most do.

        Args:
            values: What the site holds, any number of rows.
            inputs: One row, as for calling the model.

        Raises:
            SiteError, HookNotFired, EditError: As for `run_with_hooks`.
        """
        ready = self._intake.prepare(inputs, kwargs, None)
        with self._run(start_tap(self.sites, site, values), ready) as run:
            output = main_output(self.module(*ready.args, **ready.kwargs))
        run.verify()
        return output

    @contextmanager
    def hooks(
        self, fwd_hooks: Sequence[Hook] | Intervention = (), bwd_hooks: Sequence[Any] = ()
    ) -> Iterator[HookedModel]:
        """Hooks in place for every forward pass inside the block; removed whatever happens.

        Raises:
            HookNotFired: At the end of a block that ran the model without reaching a hook.
        """
        hooks = [fwd_hooks] if isinstance(fwd_hooks, Intervention) else fwd_hooks
        taps = make_taps(self.sites, [], [*hooks, *backward_hooks(bwd_hooks)])
        ran: list[None] = []
        counter = self.module.register_forward_pre_hook(lambda *_: ran.append(None))
        try:
            with self._run(taps, Prepared(), repeat=True) as run:
                yield self
        finally:
            counter.remove()
        if ran:
            run.verify()

    def generate(
        self,
        inputs: Any,
        max_new_tokens: int = 20,
        *,
        fwd_hooks: Sequence[Hook] = (),
        temperature: float = 0.0,
        seed: int = 0,
        prepend_bos: bool | None = None,
        return_ids: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Continue the text, with interventions in place at every step.

        Interventions with `positions` act on the prompt only; the others at every step, where the
        model sees one new token (`hook.step` counts). Greedy at temperature 0; otherwise sampled
        from (seed, step), independent of the global generator.

        Returns:
            The whole text (a list of texts for a list), or ids [batch, pos] with `return_ids`.
        """
        from interp.models.generation import generate

        ready = self._intake.prepare(inputs, {}, prepend_bos, left=True)
        taps = make_taps(self.sites, [], fwd_hooks)
        with torch.no_grad(), self._run(taps, ready, repeat=True) as run:
            ids = generate(
                self.module, self._intake, ready, max_new_tokens, temperature, seed, kwargs
            )
        run.verify()
        if return_ids or self.tokenizer is None:
            return ids
        texts = [
            self.tokenizer.decode(row, skip_special_tokens=True)
            for row in self._unpadded(ids, ready)
        ]
        return texts[0] if isinstance(inputs, str) else texts

    # --- parts of the model -----------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self._intake.device

    @property
    def W(self) -> Weights:
        """Weights by TransformerLens's names; `model.W_Q` etc. are short for `model.W.W_Q`."""
        return Weights(self.adapter, self.module)

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("W_", "b_")):
            return getattr(self.W, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

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

    # --- other models made from this one -----------------------------------------------------

    def with_coder(self, *coders: Coder, error_term: bool = True) -> HookedModel:
        """A view of this model with each coder's latents and error as sites.

        `<site>.hook_sae_acts_post` and `<site>.hook_sae_error` join `model.sites`. With
        `error_term` the splice is a no-op until one of them is edited; without it the
        reconstruction replaces the activation. Gradients reach earlier layers through the latents;
        the error is a node of its own (Marks et al. 2024).

        Raises:
            SiteError: A coder's site does not exist here.
        """
        splices = (*self.splices, *(Splice.of(c, self.sites, error_term) for c in coders))
        return HookedModel(
            self.module,
            self.adapter,
            self.tokenization,
            self._intake,
            splices,
            rewrap=self._rewrap,
        )

    def randomised(self, seed: int = 0) -> HookedModel:
        """The same architecture with fresh weights from `seed`: the null every method needs."""
        from interp.models.randomise import randomised_module

        fresh = randomised_module(self.module, seed)
        return self._rewrap(
            fresh, self.tokenizer, name=f"{self.cfg.model_name} (randomised, seed {seed})"
        )

    def to(self, target: Any) -> HookedModel:
        """A copy of the whole model on another device or in another dtype."""
        return self._rewrap(
            copy.deepcopy(self.module).to(target), self.tokenizer, name=self.cfg.model_name
        )

    # --- identity ---------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """sha256 of configuration and weights; remembered until a weight changes."""
        state = self.module.state_dict()
        key = tuple(v._version for v in state.values() if not v.is_inference())
        if self._fingerprint is None or self._fingerprint[0] != key:
            identity = {
                k: v for k, v in vars(self.cfg).items() if k not in ("model_name", "device")
            }
            self._fingerprint = (key, fingerprint_state(state, identity))
        return self._fingerprint[1]

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
        return sum(
            estimate_bytes(self.sites, self.sites.resolve(sites), ready, self.cfg.dtype).values()
        )

    def __repr__(self) -> str:
        return model_map(self.adapter, self.sites, self.tokenization)

    # --- inside -----------------------------------------------------------------------------

    def _run(
        self,
        taps: dict[str, Tap],
        ready: Prepared,
        *,
        stop: bool = False,
        repeat: bool = False,
    ) -> Run:
        every = dict(taps)
        for splice in self.splices:
            splice.attach(every, self.sites)
        return Run(
            every.values(),
            configs=self.adapter.configs,
            eager_float32=self.adapter.eager_float32,
            stop=stop,
            repeat=repeat,
            mask=ready.mask,
        )

    def _collect(
        self, taps: dict[str, Tap], names: Sequence[str], ready: Prepared, positions: Any
    ) -> Activations:
        index = None
        if positions is not None and ready.tokens is not None:
            batch, length = ready.tokens.shape
            index = position_index(positions, length, batch, ready.mask, ready.tokens.device)
        return Activations(
            collect(taps, names, ready),
            tokens=ready.tokens,
            mask=ready.mask,
            provenance=lambda: self.provenance(names),
            cfg=self.cfg,
            positions=index,
        )

    def _unpadded(self, ids: Tensor, ready: Prepared) -> Iterator[Tensor]:
        for i, row in enumerate(ids):
            lead = 0
            if ready.mask is not None and self.adapter.inputs == "tokens":
                lead = int((~ready.mask[i]).sum())
            yield row[lead:]
