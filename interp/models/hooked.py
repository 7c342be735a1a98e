"""`HookedModel`: any torch model with named sites; speaks TransformerLens, mutates nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
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
from interp.models.inputs import Intake, Prepared
from interp.models.outputs import Ending
from interp.models.passes import Frame, Run, StopForward, entries_of, training
from interp.models.plan import (
    backward_hooks,
    collect,
    hook_list,
    keeper,
    kept_positions,
    refuse_placeless,
    requests,
    silent,
    start_request,
)
from interp.models.sites import SiteMap
from interp.models.splice import Splice
from interp.models.taps import Request
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

    def __call__(
        self,
        inputs: Any,
        *,
        return_type: Any = "logits",
        stop_at_layer: int | None = None,
        prepend_bos: bool | None = None,
        truncate: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The model's output: logits [batch, pos, d_vocab] where it has them.

        Args:
            inputs: Text, texts, ids [pos] or [batch, pos] (list, numpy, tensor), a TokenBatch, a
                dict of keyword arguments, or whatever the raw module takes.
            return_type: "logits", "loss" (mean next-token cross-entropy, nats), "both" or None.
            stop_at_layer: Return the residual stream before this block; nothing behind it runs.
            prepend_bos: For text: None = the model's own policy.
            truncate: For text: cut what is longer than the model's context.
            kwargs: Named parameters of the raw module (`attention_mask`, `decoder_input_ids`, ...).

        Raises:
            TokenError: Inputs that the model cannot read.
            ConfigError: A keyword that nobody takes, with the nearest that somebody does.
        """
        ready = self._read(inputs, kwargs, prepend_bos, truncate)
        return self._forward(ready, {}, Ending(self, return_type, stop_at_layer))

    def capture(
        self,
        inputs: Any,
        sites: Any,
        *,
        positions: Any = None,
        to: Any = None,
        dtype: Any = None,
        fwd_hooks: Any = (),
        grad: bool = False,
        clone: bool = False,
        max_bytes: int | None = None,
        remove_batch_dim: bool = False,
        prepend_bos: bool | None = None,
        truncate: bool = False,
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
            remove_batch_dim: Drop the batch axis of the one row.

        Raises:
            SiteError: Before the run, for a name that matches nothing.
            HookNotFired, NonFiniteError, EditError, MemoryBudgetError: See `interp.core.errors`.
        """
        names = self.sites.resolve(sites)
        ready = self._read(inputs, kwargs, prepend_bos, truncate)
        wanted = self._wanted(
            names, ready, fwd_hooks, positions, to, dtype, grad, clone, max_bytes, sites is None
        )
        with torch.enable_grad() if grad else torch.no_grad():
            self._forward(ready, wanted, Ending(self, None, None), stop=self.adapter.exact_once)
        return self._collect(wanted, names, ready, positions, remove_batch_dim)

    def run_with_cache(
        self,
        inputs: Any,
        names_filter: Any = None,
        *,
        fwd_hooks: Any = (),
        positions: Any = None,
        to: Any = None,
        dtype: Any = None,
        grad: bool = False,
        clone: bool = False,
        max_bytes: int | None = None,
        return_type: Any = "logits",
        stop_at_layer: int | None = None,
        remove_batch_dim: bool = False,
        prepend_bos: bool | None = None,
        truncate: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, Activations]:
        """(output, Activations) of one forward pass; arguments as for `capture` and for calling.

        With `grad=True` the activations stay on the graph of the output:
        `torch.autograd.grad(metric(output), acts[site])`. Otherwise they are detached.
        """
        ending = Ending(self, return_type, stop_at_layer)
        names = ending.names(self, names_filter)
        ready = self._read(inputs, kwargs, prepend_bos, truncate)
        everything = names_filter is None
        wanted = self._wanted(
            names, ready, fwd_hooks, positions, to, dtype, grad, clone, max_bytes, everything
        )
        with torch.enable_grad() if grad else nullcontext():
            output = self._forward(ready, wanted, ending)
        return output, self._collect(wanted, names, ready, positions, remove_batch_dim)

    def run_with_hooks(
        self,
        inputs: Any,
        fwd_hooks: Any = (),
        bwd_hooks: Any = (),
        *,
        return_type: Any = "logits",
        stop_at_layer: int | None = None,
        prepend_bos: bool | None = None,
        truncate: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The output with hooks in place for this one forward pass; other arguments as for calling.

        Args:
            fwd_hooks: Interventions, or (name, `fn(value, hook) -> Tensor | None`): what is
                returned replaces the activation, and so does what `fn` wrote into `value`.
            bwd_hooks: (name, `fn(grad, hook)`), called when the output is differentiated.
        """
        ready = self._read(inputs, kwargs, prepend_bos, truncate)
        wanted = requests(self.sites, [], [*hook_list(fwd_hooks), *backward_hooks(bwd_hooks)])
        return self._forward(ready, wanted, Ending(self, return_type, stop_at_layer))

    def run_from(self, site: str, values: Tensor, inputs: Any, **kwargs: Any) -> Any:
        """The output where `site` holds `values`, [n ...]: what lies before it sees one row.

        Masks and positions of the one row must broadcast over n in the modules behind; most do.

        Args:
            values: What the site holds, any number of rows.
            inputs: One row, as for calling the model.

        Raises:
            SiteError, HookNotFired, EditError: As for `run_with_hooks`.
        """
        ready = self._read(inputs, kwargs)
        wanted = start_request(self.sites, site, values)
        return self._forward(ready, wanted, Ending(self, "logits", None))

    @contextmanager
    def hooks(self, fwd_hooks: Any = (), bwd_hooks: Any = ()) -> Iterator[HookedModel]:
        """Hooks in place for every forward pass inside the block; removed whatever happens.

        Each forward is a pass of its own: positions, call numbers and draws begin anew. Blocks
        nest, the outer one's hooks acting first; other threads see nothing of them.

        Raises:
            HookNotFired: At the end of a block that ran the model without reaching a hook.
        """
        hooks = [*hook_list(fwd_hooks), *backward_hooks(bwd_hooks)]
        run = Run(self._frame, requests(self.sites, [], hooks), self.splices, many=True)
        with run:
            yield self
        if run.completed:
            run.verify()

    @contextmanager
    def in_training_mode(self) -> Iterator[HookedModel]:
        """Forwards inside leave every module in its own mode: dropout and batch statistics act.

        Everywhere else a pass runs in evaluation mode and gives modules back as they were.
        """
        with training():
            yield self

    def generate(
        self,
        inputs: Any,
        max_new_tokens: int = 20,
        *,
        fwd_hooks: Any = (),
        temperature: float = 0.0,
        seed: int = 0,
        prepend_bos: bool | None = None,
        truncate: bool = False,
        return_ids: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Continue the text, with interventions in place at every step.

        Equal to the loop that runs the model, appends a token and runs it again with the same
        interventions: those with `positions` act on the prompt's tokens, the others on every
        token, new ones included (`hook.step` counts). Greedy at temperature 0; otherwise sampled
        from (seed, step), independent of the global generator.

        Args:
            max_new_tokens: 0 gives the prompt back.
            temperature: Decides alone whether tokens are drawn.
            return_ids: Ids [batch, pos] instead of text, padded as the prompt is, on the left.
            kwargs: Options of `transformers.GenerationConfig` (`num_beams`, `top_k`, `top_p`,
                `eos_token_id`, `use_cache`, ...) for Hugging Face models.

        Returns:
            The whole text (a list of texts for a list), or ids [batch, pos] with `return_ids`.

        Raises:
            ConfigError: An option that nobody takes, or that contradicts `temperature`.
            TokenError: A prompt that leaves no room in the model's context.
        """
        from interp.models.generation import generate

        ready = self._read(inputs, {}, prepend_bos, truncate, left=True)
        wanted = requests(self.sites, [], fwd_hooks)
        run = Run(self._frame, wanted, self.splices, many=True, generating=True)
        with torch.no_grad():
            ids, mask = generate(self, ready, run, max_new_tokens, temperature, seed, kwargs)
        if run.completed:
            run.verify()
        if return_ids or self.tokenizer is None:
            return ids
        texts = [
            self.tokenizer.decode(row[real], skip_special_tokens=True)
            for row, real in zip(ids, mask, strict=True)
        ]
        return texts[0] if isinstance(inputs, str) and len(texts) == 1 else texts

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

    @property
    def two_sided(self) -> bool:
        """Whether an encoder and a decoder read texts of their own."""
        return self.adapter.inputs == "encoder_decoder"

    @property
    def is_language_model(self) -> bool:
        """Whether the output at each position is about the next token."""
        causal = self.cfg.causal or self.adapter.inputs != "tokens"
        return causal and self.adapter.inputs == "tokens" and self.adapter.unembed is not None

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
        view = self
        for coder in coders:
            splices = (*view.splices, Splice.of(coder, view.sites, error_term))
            view = HookedModel(
                self.module,
                self.adapter,
                self.tokenization,
                self._intake,
                splices,
                rewrap=self._rewrap,
            )
        return view

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

    @cached_property
    def _frame(self) -> Frame:
        base = getattr(self.module, "base_model", None)
        encoder = getattr(self.module, "get_encoder", None) if self.two_sided else None
        extra: list[Any] = [base, encoder() if callable(encoder) else None]
        return Frame(
            self.module,
            entries_of(self.module, extra),
            self.adapter.configs,
            self.adapter.eager_float32,
            self.two_sided,
        )

    def _read(
        self,
        inputs: Any,
        kwargs: dict[str, Any],
        prepend_bos: bool | None = None,
        truncate: bool = False,
        left: bool = False,
    ) -> Prepared:
        return self._intake.prepare(inputs, kwargs, prepend_bos, left=left, truncate=truncate)

    def _wanted(
        self,
        names: list[str],
        ready: Prepared,
        fwd_hooks: Any,
        positions: Any,
        to: Any,
        dtype: Any,
        grad: bool,
        clone: bool,
        max_bytes: int | None,
        sweep: bool,
    ) -> dict[str, Request]:
        refuse_placeless(self.sites, names, positions)
        keep = keeper(positions, to, dtype)
        if keep is None or max_bytes is not None:
            sizes = estimate_bytes(self.sites, names, ready, self.cfg.dtype)
            refuse_above(sizes, max_bytes, self.device)
        return requests(
            self.sites,
            names,
            fwd_hooks,
            grad=grad,
            keep=keep,
            clone=clone,
            sweep=sweep and not self.adapter.exact_once,
        )

    def _forward(
        self, ready: Prepared, wanted: dict[str, Request], ending: Ending, stop: bool = False
    ) -> Any:
        """One forward pass that serves `wanted`, and what it returns."""
        wanted = ending.join(self, wanted)
        run = Run(self._frame, wanted, self.splices, stop=stop or ending.site is not None)
        raw = None
        with suppress(StopForward), run:
            raw = self.module(*ready.args, **ready.kwargs)
        run.verify()
        return ending.result(raw, wanted, ready)

    def _collect(
        self,
        wanted: dict[str, Request],
        names: Sequence[str],
        ready: Prepared,
        positions: Any,
        remove_batch_dim: bool,
    ) -> Activations:
        tensors = collect(wanted, names, ready)
        self.sites.learn(r.site for r in wanted.values() if r.first and r.reached)
        index: dict[str, Any] = {"tokens": ready.tokens, "mask": ready.mask}
        if self.two_sided:
            index |= {"decoder_tokens": ready.decoder_tokens, "decoder_mask": ready.decoder_mask}
        if positions is not None:
            index |= kept_positions(positions, ready, self._frame)
        acts = Activations(
            tensors,
            provenance=lambda: self.provenance(names),
            cfg=self.cfg,
            silent=silent(wanted),
            **index,
        )
        return acts.remove_batch_dim() if remove_batch_dim else acts
