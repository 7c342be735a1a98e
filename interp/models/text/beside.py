"""What is given beside ids or embeddings: it must fit them and the model's tables, before the run.

Positions and segments are looked up in tables like ids; embeddings stand for ids; a cache belongs to
the rows that filled it. A module would answer each of them with an error of its own from deep inside.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from inspect import Signature
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import InterpError, TokenError
from interp.core.foreign import one_line
from interp.models.text.batch import short
from interp.models.text.forms import is_text
from interp.models.text.keywords import FEWER_LOGITS
from interp.models.text.tokens import Tokenization


@dataclass(frozen=True)
class Tables:
    """How far one model's tables reach; None: it has none, or nobody can tell.

    Attributes:
        positions: Position ids lie below.
        segments: Token type ids lie below.
        width: Numbers per embedded token.
        longest: Tokens that fit, cached ones included.
    """

    positions: int | None = None
    segments: int | None = None
    width: int | None = None
    longest: int | None = None

    @classmethod
    def of(cls, module: nn.Module, longest: int | None) -> Tables:
        """The tables of a raw module, found by the names that transformers gives them."""
        found: dict[str, int] = {}
        for path, part in module.named_modules():
            if not isinstance(part, nn.Embedding):
                continue
            name = path.rpartition(".")[2]
            if name == "wpe" or "position" in name:
                found.setdefault("positions", part.num_embeddings - getattr(part, "offset", 0))
            elif "token_type" in name:
                found.setdefault("segments", part.num_embeddings)
        try:
            words: Any = module.get_input_embeddings()  # type: ignore[operator]
        except (AttributeError, NotImplementedError, TypeError):
            words = None
        if "segments" not in found and hasattr(words, "num_embeddings"):
            found["segments"] = words.num_embeddings  # GPT-2 looks segments up among its words
        width = getattr(words, "embedding_dim", None)
        return cls(found.get("positions"), found.get("segments"), width, longest)


def check_beside(kwargs: Mapping[str, Any], batch: int, pos: int, tables: Tables) -> None:
    """Refuse what does not fit the [batch, pos] tokens that it is given with.

    Raises:
        TokenError: Naming the argument, its shape or value, and what would fit.
    """
    for name, limit in (("position_ids", tables.positions), ("token_type_ids", tables.segments)):
        if kwargs.get(name) is not None:
            _check_ids(name, kwargs[name], batch, pos, limit)
    for name in FEWER_LOGITS:
        if kwargs.get(name) is not None:
            _check_kept(name, kwargs[name], pos)
    for name in ("past_key_values", "past_kv_cache"):
        if kwargs.get(name) is not None:
            _check_cache(name, kwargs[name], batch)


def check_embeds(name: str, value: Any, dtype: torch.dtype | None, tables: Tables, cached: int = 0) -> None:
    """Refuse embeddings that the model could not have made of ids.

    Raises:
        TokenError: Naming their shape or dtype, and the model's.
    """
    width = tables.width
    fits = isinstance(value, Tensor) and value.dim() == 3 and (width is None or value.shape[-1] == width)
    if not fits or value.numel() == 0:
        raise TokenError(
            f"{name} must hold one vector per token",
            got=f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else short(value),
            expected=f"[batch, pos, {'d_model' if width is None else width}]",
        )
    if dtype is not None and value.dtype != dtype:
        raise TokenError(
            f"{name} must have the model's dtype", got=value.dtype, expected=dtype, fix=f"{name}.to({dtype})"
        )
    if tables.longest is not None and cached + value.shape[1] > tables.longest:
        raise TokenError(
            f"{name} holds more tokens than the model's context",
            got=f"{cached + value.shape[1]} tokens",
            expected=f"at most n_ctx = {tables.longest}",
        )


def check_encoded(value: Any, dtype: torch.dtype | None, tables: Tables) -> torch.Size:
    """The [batch, pos] of what an encoder made, given for its text; refused where it is none.

    Raises:
        TokenError: Naming what was given, and what an encoder returns.
    """
    first = value[0] if isinstance(value, tuple | list) and value else None
    first = getattr(value, "last_hidden_state", first)
    if not isinstance(first, Tensor) or isinstance(value, Tensor):
        raise TokenError(
            "encoder_outputs is what the encoder returned",
            got=f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else short(value),
            expected="a tuple that begins with its last hidden state [batch, pos, d_model]",
            fix="encoder_outputs=(memory,)",
        )
    check_embeds("encoder_outputs", first, dtype, tables)
    return first.shape[:2]


def check_said_once(kwargs: Mapping[str, Any]) -> None:
    """Refuse beside token ids what stands for them: one of the two would not be read.

    Raises:
        TokenError: Embeddings, or what an encoder returned.
    """
    for other in ("inputs_embeds", "encoder_outputs"):
        if other in kwargs:
            raise TokenError(
                "a text is given twice",
                got=f"token ids and {other}",
                fix=f"model({{{other!r}: ...}}) alone, with decoder_input_ids where there is a decoder",
            )


def check_encoder_mask(kwargs: Mapping[str, Any]) -> None:
    """Refuse a mask of what an encoder returned, where nothing that one returned is given.

    Raises:
        TokenError: `encoder_attention_mask` without `encoder_hidden_states`.
    """
    if "encoder_attention_mask" in kwargs and "encoder_hidden_states" not in kwargs:
        raise TokenError(
            "encoder_attention_mask is about encoder_hidden_states, and there are none",
            got="one without the other",
            fix="attention_mask= for the text itself, or both",
        )


def check_bos(inputs: Any) -> None:
    """Only text is given a BOS: ids are taken as they are, whatever they begin with.

    Raises:
        TokenError: One was asked for beside something else.
    """
    if not is_text(inputs):
        raise TokenError(
            "prepend_bos=True is for text: ids and numbers are taken as they are",
            got=type(inputs).__name__,
            fix="model.to_tokens(text, prepend_bos=True) makes ids that begin with it",
        )


def check_decoder_rows(ids: Tensor, rows: int | None) -> None:
    """Refuse decoder ids [batch, pos] of other rows than the encoder reads, where that is known.

    Raises:
        TokenError: Naming their shape.
    """
    if rows is not None and len(ids) != rows:
        raise TokenError(
            "the decoder's text needs a row for each that the encoder read",
            got=f"decoder_input_ids of shape {tuple(ids.shape)}",
            expected=f"({rows}, pos)",
            fix="decoder_input_ids.expand(rows, -1) writes one text for all" if len(ids) == 1 else None,
        )


def check_image_mask(mask: Any, images: Any) -> None:
    """A mask of an image's patches, [batch, patch], has a row for each image.

    Raises:
        TokenError: Naming both shapes.
    """
    if isinstance(mask, Tensor) and isinstance(images, Tensor) and mask.shape[:1] != images.shape[:1]:
        raise TokenError(
            "attention_mask must have a row for each image",
            got=tuple(mask.shape),
            expected=f"({len(images)}, patches and class token)",
        )


def check_choices(ids: Any, tokenization: Tokenization, where: str) -> None:
    """Refuse what is no [batch, choice, pos] of ids in the vocabulary.

    Raises:
        TokenError: Another shape, or ids that the model does not have.
    """
    if not isinstance(ids, Tensor) or ids.dim() != 3:
        raise TokenError(
            f"{where} reads several choices per question",
            got=f"shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__,
            expected="ids [batch, choice, pos]",
            fix="model.tokenize(choices).ids[None] are the choices of one question",
        )
    tokenization.check_ids(ids.flatten(0, 1), check=not ids.is_cuda)


def check_call(signature: Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str) -> None:
    """Refuse inputs with which a module of the user's own cannot be called.

    Raises:
        TokenError: An argument is missing, or there are too many.
    """
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TokenError(
            f"{where} cannot be called with these inputs: {error}",
            got=f"{len(args)} inputs" + "".join(f", {name}=" for name in kwargs),
            expected=f"forward({', '.join(signature.parameters)})",
            fix="model((first, second)), or model(first, name=second)",
        ) from error


def _check_ids(name: str, value: Any, batch: int, pos: int, limit: int | None) -> None:
    whole = isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32)
    shape = tuple(value.shape) if whole else ()
    # Some models count along several axes: [axis, batch, pos].
    if (
        not whole
        or shape[-1:] != (pos,)
        or len(shape) > 3
        or (len(shape) > 1 and shape[-2] not in (1, batch))
    ):
        raise TokenError(
            f"{name} must be whole numbers in the shape of the tokens",
            got=f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else short(value),
            expected=(batch, pos),
        )
    if limit is None or value.is_cuda:  # reading values back from a GPU would wait for it
        return
    low, high = value.aminmax()
    if low < 0 or high >= limit:
        raise TokenError(
            f"{name} has an entry that the model has no row for",
            got=int(low if low < 0 else high),
            expected=f"0 to {limit - 1}",
        )


def _check_kept(name: str, value: Any, pos: int) -> None:
    if isinstance(value, Tensor) and value.dim() == 1 and not value.is_floating_point():
        good = value.is_cuda or bool(((value < pos) & (value >= -pos)).all())
    else:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not good:
        raise TokenError(
            f"{name} is how many of the last positions get logits, or their indices",
            got=short(value),
            expected=f"a whole number, or a tensor of positions below {pos}",
        )


def _check_cache(name: str, cache: Any, batch: int) -> None:
    """A cache of transformers, or of TransformerLens, filled by as many rows."""
    entries = getattr(cache, "entries", None)
    if name == "past_kv_cache":
        known, keys = isinstance(entries, list), [getattr(e, "past_keys", None) for e in entries or ()]
    else:
        own = getattr(cache, "self_attention_cache", cache)
        known = hasattr(cache, "get_seq_length")
        keys = [getattr(layer, "keys", None) for layer in getattr(own, "layers", ())]
    held = next((len(k) for k in keys if isinstance(k, Tensor) and k.numel()), batch)
    if not known or held != batch:
        raise TokenError(
            f"{name} is no cache of these rows",
            got=f"a cache of {held} rows" if known else short(cache),
            expected=f"a cache object, filled by {batch} rows" if known else "a cache object",
            fix="transformers.DynamicCache()" if name == "past_key_values" else None,
        )


def refuse_dtypes(error: Exception, given: Iterable[Any], dtype: torch.dtype | None) -> None:
    """What torch says of numbers that a module cannot compute with, in words of what was given.

    Which types a module takes, only the module knows: it is asked, and its refusal is read here.

    Args:
        error: What the forward pass raised.
        given: The inputs.
        dtype: What the model computes in.

    Raises:
        TokenError: The error is one of types, and an input has another type than the model.
    """
    if isinstance(error, InterpError) or not _OF_TYPES.search(str(error)):
        return
    tensors = [value for value in given if isinstance(value, Tensor)]
    if not tensors or dtype is None:
        return
    odd = next((x for x in tensors if x.dtype != dtype or x.layout != torch.strided), tensors[0])
    sparse, as_it_is = odd.layout != torch.strided, odd.dtype == dtype
    wanted = "x.long(), if these are ids" if as_it_is else f"x.to({dtype})"
    raise TokenError(
        "the model cannot compute with inputs of this type",
        got=f"{odd.layout if sparse else odd.dtype} {list(odd.shape)}; torch: {one_line(error, 200)}",
        expected="another type" if as_it_is else f"{dtype}, which the model computes in",
        fix="x.to_dense()" if sparse else wanted,
    ) from error


_OF_TYPES = re.compile(r"type|not implemented for|storage|layout|[Ss]parse")
"""Words of torch's errors about dtypes and layouts."""
