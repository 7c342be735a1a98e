"""Which model this is, and other models made from it: fingerprint, copies, moves, fresh weights.

A model's name for itself is the sha256 of its configuration and of the weights it computes with at
this moment. Tensor versions do not tell whether these changed (`.data` edits and replaced
parameters leave them alone), so their contents decide, by a checksum that costs one reading.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from interp.core.devices import read_target
from interp.core.errors import ModelError
from interp.core.protocols import Coder
from interp.core.provenance import checksum_state, fingerprint_state
from interp.core.randomness import read_seed
from interp.models.adapters.constants import settings_digest
from interp.models.adapters.effective import packed_parts, state_in_use
from interp.models.budget import refuse_copy
from interp.models.cfg import ModelConfig

_NOT_IDENTITY = ("model_name", "device")
_REMEMBERED: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()
"""Raw module -> (what its digest depends on, the digest): views of one module share it."""
# A HookedModel stands above this file: to it one is any object with these parts.
HookedModel = Any


Placement = tuple[torch.dtype, torch.device]


def placement(module: nn.Module) -> Placement | None:
    """(dtype, device) of the first parameter, None for a module without any."""
    first = _first_parameter(module)
    return None if first is None else (first.dtype, first.device)


def _first_parameter(module: nn.Module) -> Tensor | None:
    """`next(module.parameters())`, asked at every run and so without its generators."""
    for own in module._parameters.values():
        if own is not None:
            return own
    for child in module._modules.values():
        found = None if child is None else _first_parameter(child)
        if found is not None:
            return found
    return None


def current_cfg(cfg: ModelConfig, born: Placement | None, module: nn.Module) -> ModelConfig:
    """`cfg`, its dtype and device those of the weights where they moved since `born`."""
    now = placement(module)
    if now is None or now == born:
        return cfg
    return replace(cfg, dtype=str(now[0]).removeprefix("torch."), device=str(now[1]))


def fingerprint(module: nn.Module, cfg: ModelConfig) -> str:
    """sha256 of the weights in use and, behind a dash, 16 digits of what else decides the numbers.

    Computed anew only where one of them changed. Artefacts of the first versions carry the part
    before the dash alone, which still tells whether they fit.

    Raises:
        ProvenanceError: A weight has no values (meta device), or state that is no number.
    """
    identity = {k: v for k, v in vars(cfg).items() if k not in _NOT_IDENTITY}
    raw, settings = state_in_use(module, raw=True)
    settled = settings_digest(module)
    said = json.dumps([identity, settings, settled], sort_keys=True, default=str)
    key = (said, checksum_state(raw))
    held = _REMEMBERED.get(module)
    if held is not None and held[0] == key:
        return held[1]
    state, unread = state_in_use(module)
    # Nothing is added for plain models: artefacts on disk carry the digest of these two alone.
    digest = fingerprint_state(state, {**identity, "in use": unread} if unread else identity)
    digest = f"{digest}-{settled}"
    _REMEMBERED[module] = (key, digest)
    return digest


def deep_copied(model: HookedModel, memo: dict[int, Any]) -> HookedModel:
    """A whole model of its own: module, tokenizer and coders copied, sites found anew."""
    module = _copied(model.module, memo)
    fresh = model._rewrap(module, copy.deepcopy(model.tokenizer, memo), name=model.cfg.model_name)
    return _spliced(fresh, model, lambda coder: copy.deepcopy(coder, memo))


def moved(model: HookedModel, target: Any) -> HookedModel:
    """A copy of the whole model, coders included, on another device or in another dtype.

    Raises:
        ConfigError: `target` is neither a device nor a floating-point dtype.
        ModelError: Packed weights cannot change dtype; a coder cannot be moved.
    """
    target = read_target(target, weights=True)
    packed = packed_parts(model.module)
    if packed and isinstance(target, torch.dtype):
        raise ModelError(
            f"cannot move {model.cfg.model_name} to {target}: its weights are quantised",
            got=", ".join(packed[:3]),
            expected="floating-point weights",
            fix="load the model unquantised; .to(device) works",
        )
    module = _copied(model.module, {})
    fresh = model._rewrap(module.to(target), model.tokenizer, name=model.cfg.model_name)
    return _spliced(fresh, model, lambda coder: _moved_coder(coder, target))


def redrawn(model: HookedModel, seed: int) -> HookedModel:
    """The same architecture with fresh weights from `seed`, this model's coders spliced in.

    Raises:
        ConfigError: The seed is no whole number.
    """
    read_seed(seed)
    from interp.models.randomise import randomised_module

    module = randomised_module(model.module, seed)
    name = f"{model.cfg.model_name} (randomised, seed {seed})"
    return _spliced(model._rewrap(module, model.tokenizer, name=name), model, lambda coder: coder)


def not_pickled(model: HookedModel) -> ModelError:
    """Why a HookedModel does not travel by pickle, and what does."""
    return ModelError(
        f"a HookedModel is not pickled: {model.cfg.model_name or 'this model'}",
        got="pickle, torch.save or another process asked for it",
        expected="the raw module, or its folder",
        fix="send model.module (or its folder) and wrap(module, tokenizer) on the other side; "
        "in one process copy.deepcopy(model) works",
    )


def _spliced(fresh: HookedModel, model: HookedModel, make: Any) -> HookedModel:
    for splice in model.splices:
        fresh = fresh.with_coder(make(splice.coder), error_term=splice.error_term)
    return fresh


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy without our hooks; what a module derived from its weights is copied without graph."""
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # pruning, old weight norm
                memo[id(value)] = value.detach().clone()
    refuse_copy(module, f"a copy of {type(module).__name__}")
    made = copy.deepcopy(module, memo)
    _strip_our_hooks(made)
    return made


def _strip_our_hooks(module: nn.Module) -> None:
    """A copy made inside `hooks()` starts without them: they belong to the original's run."""
    for part in module.modules():
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            held: dict[int, Any] = getattr(part, name)
            for key, hook in list(held.items()):
                if getattr(hook, "__module__", "").startswith("interp.models."):
                    del held[key]
                    for flags in ("with_kwargs", "always_called"):
                        getattr(part, f"{name}_{flags}", {}).pop(key, None)


def _moved_coder(coder: Coder, target: torch.dtype | torch.device) -> Coder:
    """A copy of a coder where its model goes: by its own `to`, or tensor by tensor."""
    twin: Any = copy.deepcopy(coder)
    if callable(getattr(twin, "to", None)):
        twin = twin.to(target)
    else:
        for name, value in vars(twin).items():
            if isinstance(value, Tensor):
                whole = isinstance(target, torch.dtype) and not value.is_floating_point()
                setattr(twin, name, value if whole else value.to(target))
    weight = getattr(twin, "W_enc", None)
    fits = isinstance(weight, Tensor) and (
        weight.dtype == target if isinstance(target, torch.dtype) else weight.device.type == target.type
    )
    if not fits:
        raise ModelError(
            f"the coder at {coder.site_in!r} does not move with its model to {target}",
            got=f"{type(coder).__name__}, whose W_enc stays where it was",
            expected="a coder with a method `to(target)`, or with tensors as attributes",
            fix="move the model first, then with_coder(a coder that is already there)",
        )
    return twin
