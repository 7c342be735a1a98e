"""One door: from what a user passes to what the raw module takes.

Every public function reads its inputs here, so a text, a list of ids and a tokenizer's encoding
mean the same everywhere: ids, mask and positions are said once, every keyword is read or refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from inspect import Signature
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from interp.core.errors import TokenError
from interp.models.adapters.adapter import Inputs
from interp.models.text import beside
from interp.models.text.batch import TokenBatch, too_long
from interp.models.text.forms import EXPECTED, ids_of, is_text, numbers, read_value, unpack
from interp.models.text.keywords import check_keywords
from interp.models.text.masks import both, cached_keys, cut, read_mask
from interp.models.text.positions import position_ids, shifted, sides
from interp.models.text.prepared import Padding, Prepared
from interp.models.text.tokens import Tokenization


@dataclass(frozen=True)
class Intake:
    """How one model wants its inputs.

    Attributes:
        accepted: Keywords that the raw module reads.
        where: The raw module's class, for errors.
        order: Names of the forward's parameters, for arguments given by position.
        main: The parameter that a bare input goes to.
        dtype: Of the model's parameters: arrays and lists of numbers are read in it.
        position_offset: Added to position ids (RoBERTa counts from its padding index).
        start: The decoder's first token id (encoder-decoders).
        shifts: Whether a module without decoder ids makes them of its input, as BART does.
        padding: What padding does to the model; see `padding_proved`.
        tables: How far the model's tables of positions and segments reach.
        signature: Of the raw module's forward; None where nobody knows.
    """

    kind: Inputs
    tokenization: Tokenization
    accepted: frozenset[str]
    device: torch.device
    huggingface: bool = False
    causal: bool = True
    where: str = "the module"
    order: tuple[str, ...] = ()
    main: str = "input_ids"
    dtype: torch.dtype | None = None
    position_offset: int = 0
    start: int | None = None
    shifts: bool = False
    padding: Padding = field(default_factory=Padding)
    tables: beside.Tables = field(default_factory=beside.Tables)
    signature: Signature | None = None

    def prepare(
        self,
        inputs: Any,
        extra: Mapping[str, Any],
        prepend_bos: bool | None,
        left: bool = False,
        truncate: bool = False,
        known: Iterable[str] = (),
        elsewhere: Mapping[str, str] = MappingProxyType({}),
    ) -> Prepared:
        """Arguments for the raw module.

        Args:
            inputs: Text, list of texts, messages, ids [pos] or [batch, pos] (lists, numpy, tensor),
                a `TokenBatch`, pixels, a dict of keyword arguments (a tokenizer's encoding), or
                (any module) a tensor, array or tuple.
            extra: Further keyword arguments for the raw module.
            prepend_bos: For text; None = the model's default. True beside ids is refused.
            left: Pad ragged texts on the left (generation).
            truncate: Cut rows to the context instead of refusing them.
            known: The calling method's own keywords, to suggest for misspelt ones.
            elsewhere: Those of other methods -> one that takes it.

        Raises:
            ConfigError: A keyword that is neither ours nor the module's.
            TokenError: Inputs that the model cannot read.
        """
        if extra:
            check_keywords(extra, self.accepted, known, self.where, elsewhere)
        given = {k: v for k, v in extra.items() if v is not None}
        main: Any = unpack(inputs)
        named = isinstance(main, Mapping)
        if named:
            given, main = self._opened(main, given)
        if prepend_bos:
            beside.check_bos(main)
        if not self._is_tokens(main, named):
            return self._from_numbers(main, given)
        mask = given.pop("attention_mask", None)
        ids, mask = self.batch(main, mask, prepend_bos, left, truncate)
        return self._from_tokens(ids, mask, given, named)

    @property
    def reads_ids(self) -> bool:
        """Whether the module takes token ids."""
        tokens = self.kind in ("tokens", "encoder_decoder")
        return tokens and (not self.huggingface or "input_ids" in self.accepted)

    def padding_proved(self) -> Padding:
        """What padding does to the model: found out when it is first asked, by whoever pads first."""
        if self.padding.proof is not None:
            self.padding.proof.settle(self)
        return self.padding

    def _opened(self, inputs: Mapping[str, Any], extra: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """A dict's main input and the rest of it, each key read by the module or refused."""
        given = {str(k): v for k, v in inputs.items() if v is not None}
        twice = [name for name in given if name in extra]
        if twice:
            raise TokenError(f"{twice[0]} is given twice", got="in the dict and by keyword")
        # Tokenizers add it for models that have no such table; all zeros say nothing.
        kind = given.get("token_type_ids")
        if kind is not None and "token_type_ids" not in self.accepted and not _any(kind):
            del given["token_type_ids"]
        positional = self.kind == "tokens" and not self.huggingface
        check_keywords(given, {*self.accepted, "input_ids"} if positional else self.accepted, (), self.where)
        main = None if self.kind == "any" and "input_ids" not in given else "input_ids"
        main = main if main in given else self.main if self.kind != "any" else None
        value: Any = unpack(given.pop(main)) if main in given else None
        return {**given, **extra}, value

    def _is_tokens(self, inputs: Any, named: bool) -> bool:
        """Whether inputs are text or ids; `named` says that they came as a dict's main value."""
        if inputs is None:
            return False
        if self.kind != "any":
            return self.reads_ids
        return named or isinstance(inputs, TokenBatch) or is_text(inputs)

    # --- models of tokens -------------------------------------------------------------------

    def batch(
        self,
        inputs: Any,
        mask: Any = None,
        prepend_bos: bool | None = None,
        left: bool = False,
        truncate: bool = False,
    ) -> tuple[Tensor, Any]:
        """Ids [batch, pos], checked, and the mask that belongs to them (None: all real).

        Args:
            inputs: Text or ids in any form but a dict.
            mask: The `attention_mask` given beside them.
        """
        if isinstance(inputs, TokenBatch):
            if mask is None:
                mask = inputs.mask if inputs.padded else None
            elif inputs.padded:
                mask = both(inputs.mask, mask, self)
            ids = inputs.ids
        elif is_text(inputs):
            side = "left" if left else "right"
            texts = self.tokenization.tokenize(inputs, prepend_bos, side, truncate)
            ids = texts.ids
            if texts.padded:
                mask = texts.mask if mask is None else both(texts.mask, mask, self)
        else:
            ids, mask = ids_of(inputs, mask)
        limit = self.tokenization.n_ctx
        if truncate and limit is not None and ids.dim() == 2 and ids.shape[1] > limit:
            ids, mask = cut(ids, mask, limit)
        # Reading values back from a GPU would wait for it at every call.
        self.tokenization.check_ids(ids, check=not ids.is_cuda)
        return ids, mask

    def read(
        self,
        inputs: Any,
        *,
        attention_mask: Any = None,
        prepend_bos: bool | None = None,
        truncate: bool = False,
        padding_side: str = "right",
    ) -> TokenBatch:
        """Any form of text or ids as a `TokenBatch`, for who works with rows before running them.

        Raises:
            TokenError: Inputs that are no text and no ids; a dict that says more than ids and mask.
        """
        main, mask = unpack(inputs), attention_mask
        if isinstance(main, Mapping):
            extra = {} if mask is None else {"attention_mask": mask}
            given, main = self._opened(main, extra)
            mask = given.pop("attention_mask", None)
            if "token_type_ids" in given and not _any(given["token_type_ids"]):
                del given["token_type_ids"]  # one segment: what the model assumes by itself
            if given or main is None:
                raise TokenError(
                    "only token ids and their mask can be read here",
                    got=", ".join(given) or "a dict without input_ids",
                    expected="input_ids, attention_mask",
                )
        if prepend_bos:
            beside.check_bos(main)
        ids, mask = self.batch(main, mask, prepend_bos, padding_side == "left", truncate)
        if mask is None:
            return TokenBatch.of(ids)
        full, given_mask = read_mask(mask, ids.shape, 0, self)
        if given_mask.dim() == 4:
            raise TokenError("rows need a mask [batch, pos]", got=tuple(given_mask.shape))
        return TokenBatch(ids, full.to(ids.device))

    def _from_tokens(self, ids: Tensor, mask: Any, given: dict[str, Any], named: bool) -> Prepared:
        kwargs = {k: read_value(v, self.dtype, self.device) for k, v in given.items()}
        ids = ids.to(self.device)
        if kwargs:
            beside.check_beside(kwargs, ids.shape[0], ids.shape[1], self.tables)
            beside.check_said_once(kwargs)
            beside.check_encoder_mask(kwargs)
        if len(ids) > 1 and self.padding.alone:
            raise TokenError(
                f"{self.where} takes one row at a time: {self.padding.alone}",
                got=f"{len(ids)} rows",
                fix="one row at a time; or give it what it misses, and wrap it again",
            )
        ready = Prepared(kwargs=kwargs, tokens=ids, cached=cached_keys(kwargs))
        ready.given_positions = "position_ids" in kwargs
        ready.given_decoder = "decoder_input_ids" in kwargs
        decoder = self.kind == "encoder_decoder" or "decoder_input_ids" in kwargs
        cached = 0 if decoder else ready.cached  # an encoder's keys are not in the decoder's cache
        if cached:
            self._fits(ids, cached)
        if mask is not None:
            self._mask(ready, mask, ids.shape, cached)
        ids = ids if ready.tokens is None else ready.tokens
        if decoder:
            self._decoder(ready)
        if self.huggingface or (self.kind == "any" and named):
            kwargs["input_ids"] = ids
        else:
            ready.args = (ids,)
        if self.huggingface and "use_cache" in self.accepted:
            kwargs.setdefault("use_cache", False)
        return ready

    def _fits(self, ids: Tensor, cached: int) -> None:
        limit = self.tokenization.n_ctx
        if limit is not None and cached + ids.shape[1] > limit:
            raise too_long(cached + ids.shape[1], limit, "the cached and the new text", "less text")

    def _mask(self, ready: Prepared, mask: Any, shape: torch.Size, cached: int, side: str = "") -> None:
        """Read a mask, hand it on, and say the positions that follow from it."""
        if mask is None:
            return
        name = f"{side}attention_mask"
        full, given = read_mask(mask, shape, cached, self, name)
        real = None
        if not bool(full.all()):
            self._allow(sides(full), side.replace("_", " "))
            # A new token may be all that is padding, or none of it be: the mask says which.
            real = full[:, full.shape[1] - shape[1] :]
            self._fill(ready, real, side)
            if "position_ids" in self.accepted and "position_ids" not in ready.kwargs and not side:
                self._place(ready, full, cached)
        if side:
            ready.decoder_mask = real
        else:
            ready.mask = real
        if real is not None or given.dim() == 4:
            if name not in self.accepted:
                if self.kind == "any" or not self.causal or sides(full) - {"right"}:
                    raise TokenError(
                        f"{self.where} takes no {name}, so it would read padding as text",
                        got="a padded batch",
                        fix="rows of one length, or one row at a time",
                    )
                return  # padding behind the text reaches no token of a causal model
            ready.kwargs[name] = given

    def _fill(self, ready: Prepared, real: Tensor, side: str) -> None:
        """Padding at the ends as the model's own padding id, for heads that look for it."""
        if self.padding.fill is None or side or ready.tokens is None:
            return
        count = real.long().cumsum(-1)
        ends = ~real & ((count == 0) | (count == count[:, -1:]))
        ready.tokens = ready.tokens.masked_fill(ends, self.padding.fill)

    def _place(self, ready: Prepared, full: Tensor, cached: int) -> None:
        """Padding before a real token: count positions from each row's first real one."""
        if self.huggingface and self.padding.placed and shifted(full):
            ready.kwargs["position_ids"] = position_ids(full, cached) + self.position_offset

    def _allow(self, found: set[str], side: str) -> None:
        refused = self.padding_proved().refused
        for place in sorted(found):
            reason = refused.get(side + place)
            if reason:
                at = "with holes in the mask" if place == "holes" else f"padded on the {place}"
                fix = "one row at a time"
                if place != "right" and side + "right" not in refused:
                    fix = "pad on the right: model.tokenize(texts, padding_side='right')"
                raise TokenError(reason, got=f"a batch {at}", fix=fix)

    def _decoder(self, ready: Prepared, rows: int | None = None) -> None:
        """The decoder's ids and mask; `rows`: of an encoder's output that stands for the text."""
        kwargs = ready.kwargs
        encoded = rows is not None
        if rows is None:
            read = ready.tokens if ready.tokens is not None else kwargs.get(self.main)
            rows = len(read) if isinstance(read, Tensor) else None
        if "decoder_input_ids" not in kwargs and "decoder_inputs_embeds" not in kwargs:
            if "labels" in kwargs or (self.shifts and not encoded):
                return  # the module makes them itself, of the labels or the text
            if self.start is None:
                raise TokenError(
                    "an encoder-decoder needs decoder_input_ids",
                    fix="model(text, decoder_input_ids=ids), or set config.decoder_start_token_id",
                )
            kwargs["decoder_input_ids"] = torch.full((rows or 1, 1), self.start, device=self.device)
        mask = kwargs.pop("decoder_attention_mask", None)
        ids = kwargs.get("decoder_input_ids")
        if ids is None:
            beside.check_embeds(
                "decoder_inputs_embeds", kwargs["decoder_inputs_embeds"], self.dtype, self.tables
            )
            return
        ids, mask = ids_of(ids, mask)
        self.tokenization.check_ids(ids, check=not ids.is_cuda)
        beside.check_decoder_rows(ids, rows)
        kwargs["decoder_input_ids"] = ready.decoder_tokens = ids = ids.to(self.device)
        self._mask(ready, mask, ids.shape, ready.cached, "decoder_")

    def _from_encoded(self, ready: Prepared) -> Prepared:
        """The decoder alone, on what an encoder made before."""
        shape = beside.check_encoded(ready.kwargs["encoder_outputs"], self.dtype, self.tables)
        self._mask(ready, ready.kwargs.pop("attention_mask", None), shape, 0)
        self._decoder(ready, shape[0])
        if self.huggingface and "use_cache" in self.accepted:
            ready.kwargs.setdefault("use_cache", False)
        return ready

    # --- models of numbers ------------------------------------------------------------------

    def _from_numbers(self, inputs: Any, given: dict[str, Any]) -> Prepared:
        kwargs = {k: read_value(v, self.dtype, self.device) for k, v in given.items()}
        ready = Prepared(kwargs=kwargs)
        if inputs is None:
            if not kwargs:
                raise TokenError("no inputs given", got="None", expected=EXPECTED)
            if self.kind == "encoder_decoder" and "encoder_outputs" in kwargs:
                return self._from_encoded(ready)
            embeds = kwargs.get("inputs_embeds")
            if embeds is None and self.reads_ids:
                raise TokenError("no token ids given", got=f"only {', '.join(kwargs)}")
            if self.kind in ("tokens", "encoder_decoder") and embeds is not None:
                ready.cached = cached_keys(kwargs)
                beside.check_embeds("inputs_embeds", embeds, self.dtype, self.tables, ready.cached)
                beside.check_beside(kwargs, embeds.shape[0], embeds.shape[1], self.tables)
                self._mask(ready, kwargs.pop("attention_mask", None), embeds.shape[:2], ready.cached)
            if self.huggingface and "use_cache" in self.accepted:
                kwargs.setdefault("use_cache", False)
            return ready
        if self.kind == "choices":
            choices = inputs if is_text(inputs) else numbers(inputs, None, self.device)
            beside.check_choices(choices, self.tokenization, self.where)
        elif is_text(inputs):
            raise TokenError(
                "this model reads numbers, not text",
                got=repr(inputs)[:80],
                fix="wrap(module, tokenizer=...), or tensors",
            )
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        read = tuple(numbers(a, self.dtype, self.device) for a in args)
        if self.kind == "any":
            ready.args = read
            if self.signature is not None:
                beside.check_call(self.signature, read, kwargs, self.where)
            return ready
        kwargs[self.main] = read[0]
        beside.check_image_mask(kwargs.get("attention_mask"), read[0])
        if self.start is not None and "decoder_input_ids" in self.accepted:
            self._decoder(ready)
        return ready


def _any(value: Any) -> bool:
    try:
        return bool(torch.as_tensor(value).any())
    except (TypeError, ValueError, RuntimeError):  # rows of different length
        return any(map(_any, value))
