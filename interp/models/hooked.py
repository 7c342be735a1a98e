"""`HookedModel`: any torch model with named sites; speaks TransformerLens, mutates nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.activations import Activations
from interp.core.protocols import Coder, CoderOfSites
from interp.core.settings import check_flags
from interp.models import identity
from interp.models.adapters.adapter import Adapter
from interp.models.adapters.effective import refuse_replaced
from interp.models.endings import Ending
from interp.models.hooks.passes import training
from interp.models.hooks.plan import (
    Keeping,
    backward_hooks,
    hook_list,
    kept_positions,
    requests,
    start_request,
)
from interp.models.hooks.runs import Run
from interp.models.hooks.splice import Splice
from interp.models.running import Running
from interp.models.text.gate import one_error
from interp.models.text.inputs import Intake
from interp.models.text.tokens import Tokenization


class HookedModel(Running):
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
        super().__init__(module, adapter, tokenization, intake, splices)
        self._rewrap = rewrap  # `wrap`, handed in because it stands above this file

    # --- running ----------------------------------------------------------------------------

    def __call__(
        self,
        inputs: Any,
        return_type: Any = "logits",
        *,
        stop_at_layer: int | None = None,
        prepend_bos: bool | None = None,
        truncate: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The model's output: logits [batch, pos, d_vocab] where it has them.

        Args:
            inputs: Text, texts, ids [pos] or [batch, pos] (list, numpy, tensor), a TokenBatch, a
                dict of keyword arguments, or whatever the raw module takes.
            return_type: "logits", "loss" (mean next-token cross-entropy, nats; with `labels=` the
                module's own loss of them), "both" or None.
            stop_at_layer: Return the residual stream before this block; nothing behind it runs.
            prepend_bos: For text: None = the model's own policy; ids are taken as they are.
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
        ready = self._read(inputs, kwargs, prepend_bos, truncate, method="capture")
        keeping = Keeping(positions, to, dtype, grad, clone, max_bytes, sites is None, remove_batch_dim)
        wanted = self._wanted(names, ready, fwd_hooks, keeping)
        where = kept_positions(positions, ready, self._frame)
        with nullcontext() if torch.is_grad_enabled() == grad else torch.set_grad_enabled(grad):
            self._forward(ready, wanted, Ending(self, None, None), stop=self.adapter.exact_once)
        return self._collect(wanted, names, ready, where, remove_batch_dim)

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
        ready = self._read(inputs, kwargs, prepend_bos, truncate, method="run_with_cache")
        keeping = Keeping(
            positions, to, dtype, grad, clone, max_bytes, names_filter is None, remove_batch_dim
        )
        wanted = self._wanted(names, ready, fwd_hooks, keeping)
        where = kept_positions(positions, ready, self._frame)
        with torch.enable_grad() if grad else nullcontext():
            output = self._forward(ready, wanted, ending)
        return output, self._collect(wanted, names, ready, where, remove_batch_dim)

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
        ready = self._read(inputs, kwargs, prepend_bos, truncate, method="run_with_hooks")
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
        refuse_replaced(self._adapter.links, self._adapter.cfg.model_name)
        hooks = [*hook_list(fwd_hooks), *backward_hooks(bwd_hooks)]
        run = Run(self._frame, requests(self.sites, [], hooks), self.splices)
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

        check_flags(return_ids=return_ids)
        ready = self._read(inputs, {}, prepend_bos, truncate, left=not self.two_sided)
        wanted = requests(self.sites, [], fwd_hooks)
        run = Run(self._frame, wanted, self.splices, generating=True)
        with torch.no_grad():
            ids, mask = generate(self, ready, run, max_new_tokens, temperature, seed, kwargs)
        if run.completed:
            run.verify()
        if return_ids or self.tokenizer is None:
            return ids
        with one_error("the tokenizer cannot write what was generated as text"):
            texts = [
                self.tokenizer.decode(row[real], skip_special_tokens=True)
                for row, real in zip(ids, mask, strict=True)
            ]
        return texts[0] if isinstance(inputs, str) and len(texts) == 1 else texts

    # --- other models made from this one -----------------------------------------------------

    def with_coder(self, *coders: Coder | CoderOfSites, error_term: bool = True) -> HookedModel:
        """A view of this model with each coder's latents and error as sites.

        `<site>.hook_sae_acts_post` and `<site>.hook_sae_error` join `model.sites`. With
        `error_term` the splice is a no-op until one of them is edited; without it the
        reconstruction replaces the activation. Gradients reach earlier layers through the latents;
        the error is a node of its own (Marks et al. 2024).

        Raises:
            SiteError: A coder's site does not exist here, or another coder's latents stand there.
        """
        check_flags(error_term=error_term)
        view = self
        for coder in coders:
            view = self._view((*view.splices, Splice.of(coder, view.sites, error_term)))
            len(view.sites)  # refuses two coders at one place, here rather than at its first run
        return view

    def _view(self, splices: tuple[Splice, ...]) -> HookedModel:
        parts = (self.module, self._adapter, self.tokenization, self._intake)
        return HookedModel(*parts, splices, rewrap=self._rewrap)

    def randomised(self, seed: int = 0) -> HookedModel:
        """The same architecture with fresh weights from `seed`: the null every method needs."""
        return identity.redrawn(self, seed)

    def to(self, target: Any) -> HookedModel:
        """A copy of the whole model, coders included, on another device or in another dtype."""
        return identity.moved(self, target)

    def __deepcopy__(self, memo: dict[int, Any]) -> HookedModel:
        """A whole model of its own: weights, tokenizer and coders."""
        return identity.deep_copied(self, memo)

    def __copy__(self) -> HookedModel:
        """A view: another object over the same weights."""
        return self._view(self.splices)

    def __reduce__(self) -> Any:
        raise identity.not_pickled(self)
