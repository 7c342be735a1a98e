"""PEFT's models and adapter folders at the door: which can be run and read, and how they open."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

from torch import nn

from interp.core.errors import InterpError, MissingDependency, ModelError, out_of_memory
from interp.core.foreign import read_json, reason, show
from interp.core.store import check_torch, tensor_shapes
from interp.models.gate import bounded_building

ADAPTER_FILE = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def injected(module: nn.Module) -> nn.Module:
    """The model that really runs: a PeftModel's base model with its adapters in place.

    Raises:
        ModelError: Adapters that live outside the base model's modules, or that route by input.
    """
    if "peft" not in sys.modules:
        return module
    from peft import PeftMixedModel, PeftModel
    from peft.tuners.tuners_utils import BaseTuner

    while isinstance(module, (PeftModel, PeftMixedModel, BaseTuner)):
        held: Any = module
        if isinstance(module, BaseTuner):
            _refuse_routing(held, BaseTuner)
            module = held.model
        else:
            for config in held.peft_config.values():
                _refuse_outside(config)
            module = held.base_model
    known: Any = getattr(module, "peft_config", None)
    for config in known.values() if isinstance(known, dict) else ():
        _refuse_outside(config)
    return module


def _refuse_outside(config: Any) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    why = ""
    if getattr(config, "is_prompt_learning", False) or getattr(config, "is_adaption_prompt", False):
        why = "it adds tokens or keys of its own to every input"
    elif getattr(config, "alora_invocation_tokens", None):
        why = "it switches on where the input holds its invocation tokens"
    if why:
        raise ModelError(
            f"cannot wrap a model adapted by {kind}: {why}",
            got=type(config).__name__,
            expected="adapters inside the model's own modules (LoRA, IA3 and kin)",
            fix="wrap the base model, or one adapted by LoRA",
        )


def _refuse_routing(tuner: Any, plain: type) -> None:
    """Tuners with a forward pass of their own do more than the adapted modules they hold."""
    kind = type(tuner).__name__
    # AdaLoRA's only adds a loss when labels are given.
    if type(tuner).forward is not plain.forward and kind != "AdaLoraModel":
        raise ModelError(
            f"cannot wrap a model adapted by {kind}: it runs the base model in its own way",
            got=f"{kind}.forward",
            expected="adapters inside the model's own modules (LoRA, IA3 and kin)",
            fix="wrap the base model, or one adapted by LoRA",
        )


def base_of(folder: Path) -> str:
    """The base model that an adapter folder names: as a path where it is on this machine.

    Raises:
        ModelError: The file is broken, names none, or names a kind that cannot be wrapped.
    """
    try:
        config = read_json(folder / ADAPTER_FILE)
        base = config["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(
            f"cannot read {folder / ADAPTER_FILE}",
            got=reason(error, 200),
            expected="JSON with base_model_name_or_path, as save_pretrained writes it",
        ) from error
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"the adapter in {folder} does not say which model it belongs to",
            got=f"base_model_name_or_path = {show(repr(base), 120)}",
            expected="a model folder or a hub id",
            fix=f"PeftModel.from_pretrained(model, {str(folder)!r}), then wrap(...)",
        )
    _check_adapter(config, folder / ADAPTER_FILE)
    try:
        for place in (Path(base).expanduser(), folder / base):
            if place.is_dir():
                return str(place)
    except (OSError, RuntimeError, ValueError) as error:  # no such user, too long, a NUL
        raise ModelError(
            f"{folder / ADAPTER_FILE} names a base model that cannot be looked for", got=show(repr(base), 120)
        ) from error
    return base


def _check_adapter(config: Any, where: Path) -> None:
    """Ranks that weights can have, and patterns that end: PEFT tries them on every module's name.

    Raises:
        ModelError: Naming the entry.
    """
    start = config.get("init_lora_weights")
    if isinstance(start, str) and re.search(r"\d{4}", start):
        raise ModelError(
            f"{where}: a start of thousands of rounds", got=show(start, 80), expected="pissa_niter_16"
        )
    for name, value in config.items():
        if isinstance(value, list | dict) and len(value) > NAMES:
            raise ModelError(
                f"{where}: {show(name, 80)} is longer than any adapter's",
                got=f"{len(value):,} entries",
                expected=f"at most {NAMES:,}",
            )
        numbers = value.values() if isinstance(value, dict) else [value]
        for number in numbers:
            if isinstance(number, int | float) and not abs(number) <= MOST:
                raise ModelError(
                    f"{where}: {show(name, 80)} is larger than any adapter's",
                    got=show(number, 80),
                    expected=f"at most {MOST:,}",
                )
    patterns = [config.get("target_modules"), config.get("exclude_modules")]
    by_name = [config.get(name) for name in ("rank_pattern", "alpha_pattern")]
    patterns += [key for told in by_name if isinstance(told, dict) for key in told]
    for pattern in patterns:
        if isinstance(pattern, str) and not _ends(pattern):
            raise ModelError(
                f"{where} holds a pattern that may be tried for hours, or is none",
                got=show(repr(pattern), 160),
                expected="names of modules, or a pattern that repeats no group",
            )


MOST = 1 << 20
"""Largest number in an adapter's settings."""
NAMES = 10_000
"""Most modules that an adapter's settings may list: each is compared with each of the model's."""


def _ends(pattern: str) -> bool:
    """Whether a pattern is one and repeats no group, and few things without end."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return (
        len(pattern) < 2000
        and not re.search(r"\)[*+{]", pattern)
        and (len(re.findall(r"[*+]|,\}", pattern)) <= 8)
    )


def _held(folder: Path) -> tuple[int, int]:
    """How many tensors an adapter's file holds, and numbers in them; a pickle is judged first."""
    safe, pickled = (folder / name for name in _WEIGHTS)
    if safe.is_file():
        shapes = tensor_shapes(safe)
        return len(shapes), sum(math.prod(shape) for _, shape in shapes.values())
    return check_torch(pickled), pickled.stat().st_size


def with_adapter(module: nn.Module, folder: Path) -> nn.Module:
    """`module` with the adapter of `folder` in place and active; `module` itself is changed.

    Raises:
        MissingDependency: PEFT is not installed.
        ModelError: The adapter does not fit the model.
    """
    try:
        from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftConfig, PeftModel
    except ImportError as error:
        raise MissingDependency("opening an adapter folder needs peft", fix="pip install peft") from error
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise ModelError(
            f"no adapter weights in {folder}", got=f"{ADAPTER_FILE} alone", expected=" or ".join(_WEIGHTS)
        )
    try:
        held = _held(folder)
        config = PeftConfig.from_pretrained(str(folder))
        _refuse_outside(config)
        config.inference_mode = True
        kind = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(str(config.task_type), PeftModel)
        with bounded_building(*held, folder / ADAPTER_FILE):
            adapted: Any = kind(module, config)
        report = adapted.load_adapter(str(folder), "default", torch_device="cpu")
    except InterpError:
        raise
    except Exception as error:  # PEFT and what it calls raise what they like
        raise out_of_memory(error, folder) or ModelError(
            f"the adapter in {folder} does not fit {type(module).__name__}",
            got=reason(error),
            expected="an adapter made for this base model",
            fix=f"compare base_model_name_or_path in {ADAPTER_FILE}",
        ) from error
    # PEFT leaves the base model's out
    lost = [*report.unexpected_keys, *report.missing_keys]
    if lost:
        raise ModelError(
            f"the adapter in {folder} does not fit {type(module).__name__}",
            got=f"{len(lost)} parameters without a partner: {', '.join(sorted(lost)[:4])}",
            expected="every adapter weight in the file, and no others",
            fix=f"compare base_model_name_or_path in {ADAPTER_FILE}",
        )
    return injected(adapted)
