"""`wrap`: any torch model becomes a `HookedModel`, and proves that its names are right."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from typing import Any

import torch
from torch import nn

from interp.core.errors import ModelError, TokenError
from interp.core.settings import check_flags
from interp.models.adapters.adapter import Adapter, Inputs
from interp.models.adapters.effective import links_of
from interp.models.adapters.generic import module_adapter, small_adapter
from interp.models.adapters.guest import hooked_root_adapter, is_hooked_root
from interp.models.adapters.huggingface import huggingface_adapter, is_huggingface
from interp.models.adapters.once import Once, alone
from interp.models.adapters.peft import injected
from interp.models.adapters.proof import prove, runs
from interp.models.hooked import HookedModel
from interp.models.identity import placement
from interp.models.padding import prove_padding
from interp.models.small.model import SmallTransformer
from interp.models.text.intake import intake_of
from interp.models.text.tokens import Tokenization, load_tokenizer

_TEXT_KIND = {"tokens": "decoder", "encoder_decoder": "encoder-decoder"}


def wrap(module: Any, tokenizer: Any = None, *, name: str = "", check: bool = True) -> HookedModel:
    """Name the sites of a model that is already in memory. The model is not changed.

    Args:
        module: A Hugging Face model, our small transformer, a TransformerLens HookedTransformer,
            TransformerBridge or HookedRootModule, or any nn.Module. A HookedModel comes back as is.
            Of a PeftModel the base model that carries the adapters is wrapped: what it computes
            with is read and run, and follows `set_adapter`, `disable_adapter` and merging.
        tokenizer: A Hugging Face tokenizer, or the folder of one; None to work with ids.
        name: What to call it in errors, pictures and provenance.
        check: Prove the adapter (a few tiny forward passes): here that the model runs; when sites
            are first used, that its output is unchanged under hooks and that every site fires once
            and means what its name says; when somebody first pads, where padding changes nothing.

    Raises:
        ModelError: `module` is not a torch module, or carries adapters that are no part of it
            (prompt and prefix tuning).
        TokenError: `tokenizer` is none, and no folder of one.
    """
    check_flags(check=check)
    if isinstance(module, HookedModel):
        return module
    if not isinstance(module, nn.Module):
        raise ModelError(
            "wrap needs a torch module",
            got=type(module).__name__,
            expected="nn.Module",
            fix="interp.load_model(path) opens a folder",
        )
    _refuse_lifeless(module, check)
    module = injected(module)
    tokenizer = _tokenizer(tokenizer)
    adapter = _adapter(module, name or _name_of(module))
    if tokenizer is None and is_hooked_root(module):
        tokenizer = getattr(module, "tokenizer", None)
    model = _assemble(module, adapter, tokenizer, check)
    if not check or (adapter.inputs in ("any", "choices") and adapter.probe is None):
        return model
    frame = model._frame
    frame.tree.refresh()
    adapter.hooks = frozenset(key for there in frame.tree.hooks for key in there)
    if adapter.exact_once and alone(module, runs, model):
        adapter.proof = Once(prove, module)
    model._intake.padding.proof = Once(
        partial(prove_padding, module, frame, model.cfg.dtype, adapter.hooks), module
    )
    return model


def _refuse_lifeless(module: nn.Module, runs: bool) -> None:
    """Refuse what cannot be run with hooks, or not at all.

    Raises:
        ModelError: A compiled program of TorchScript; weights without values.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            "a TorchScript module runs without Python, so no hook reaches its inside",
            got=type(module).__name__,
            expected="the nn.Module that it was scripted or traced from",
        )
    weights = module.named_parameters() if runs else ()
    empty = next((name for name, weight in weights if weight.is_meta), None)
    # accelerate keeps weights elsewhere and brings them when their module runs.
    if empty is not None and not any(hasattr(part, "_hf_hook") for part in module.modules()):
        raise ModelError(
            f"the weights of {type(module).__name__} have no values",
            got=f"{empty} on the meta device",
            fix="module.to_empty(device='cpu') and load_state_dict(...), or from_pretrained",
        )


def _tokenizer(given: Any) -> Any:
    """A tokenizer as it is, or from its folder."""
    read = load_tokenizer(fspath(given)) if isinstance(given, str | PathLike) else given
    if given is not None and not hasattr(read, "get_vocab"):
        raise TokenError(
            "wrap needs a tokenizer, or the folder of one",
            got=repr(given)[:80],
            expected="a Hugging Face tokenizer, a folder with its files, or None",
            fix="transformers.AutoTokenizer.from_pretrained(...)",
        )
    return read


def _name_of(module: nn.Module) -> str:
    path = getattr(getattr(module, "config", None), "_name_or_path", "")
    return str(path) or type(module).__name__


def _adapter(module: nn.Module, name: str) -> Adapter:
    if isinstance(module, SmallTransformer):
        return small_adapter(module, name)
    if is_hooked_root(module):
        return hooked_root_adapter(module, name)
    if is_huggingface(module):
        known = huggingface_adapter(module, name)
        if known is not None:
            if type(module).__name__.endswith("ForMultipleChoice"):
                known.inputs, known.exact_once = "choices", False
                known.notes.append("its sites are not proved: it reads several choices per question")
            return known
        config: Any = module.config
        adapter = module_adapter(module, name, family=str(config.model_type))
        main = getattr(module, "main_input_name", "input_ids")
        if main in inspect.signature(module.forward).parameters:
            # Speech, time series and tables are read as they are.
            two = getattr(config, "is_encoder_decoder", False) and hasattr(module, "get_encoder")
            text: Inputs = "encoder_decoder" if two else "tokens"
            kinds: dict[str, Inputs] = {"pixel_values": "pixels", "input_ids": text}
            adapter.inputs = kinds.get(main, "any")
        adapter.notes.append(
            "no table row for this architecture: sites are named by module path, none by meaning"
        )
        return adapter
    return module_adapter(module, name)


def _assemble(module: nn.Module, adapter: Adapter, tokenizer: Any, check: bool) -> HookedModel:
    cfg = adapter.cfg
    text = _TEXT_KIND.get(adapter.inputs, "other")
    if text == "decoder" and not cfg.causal and cfg.style:
        text = "encoder"
    tokenization = Tokenization(
        tokenizer,
        d_vocab=cfg.d_vocab or None,
        n_ctx=cfg.n_ctx or None,
        default_prepend_bos=cfg.default_prepend_bos,
        family=text,
    )
    first = next(module.parameters(), None)
    device = torch.device("cpu") if first is None or first.is_meta else first.device
    mapped = getattr(module, "hf_device_map", None)
    if mapped:
        device = _first_device(mapped, device)
    intake = intake_of(module, adapter, tokenization, device=device, huggingface=is_huggingface(module))
    adapter.cfg = replace(cfg, default_prepend_bos=tokenization.bos_policy != "none")
    adapter.born, adapter.links = placement(module), links_of(module)
    # Copies are proved exactly if the model was.
    return HookedModel(module, adapter, tokenization, intake, rewrap=partial(wrap, check=check))


def _first_device(mapped: dict[str, Any], fallback: torch.device) -> torch.device:
    """Where accelerate wants inputs: the device of the first mapped part that is one."""
    for place in mapped.values():
        if place not in ("disk", "cpu", "meta"):
            return torch.device(place)
    return torch.device("cpu") if fallback.type == "meta" else fallback
