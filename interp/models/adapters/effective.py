"""What a module computes with: one place that knows adapters and quantisation.

`plain(module)` answers with a module whose `weight` and `bias` are the ones in use: the module
itself nearly always; for an adapter of PEFT (LoRA and kin: Hu et al. 2021) the base layer with its
active adapters merged, on copies; for torch's quantised layers the dequantised matrix. Everything
that reads a weight goes through here, so what cannot be read is refused here.
"""

from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp.core.errors import ModelError, ProvenanceError, WeightError

_HOOKS = tuple(
    """
    _forward_hooks _forward_pre_hooks _forward_hooks_with_kwargs _forward_hooks_always_called
    _forward_pre_hooks_with_kwargs _backward_hooks _backward_pre_hooks
    """.split()
)
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Between an adapted layer and its merged twin, relative to the largest output."""


class Dequantised(nn.Module):
    """The matrix (and bias) that a quantised layer stands for."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(weight, requires_grad=False)
        self.bias: nn.Parameter | None = None if bias is None else nn.Parameter(bias, requires_grad=False)


def plain(module: nn.Module | None) -> Any:
    """The module whose weight and bias are those `module` computes with.

    Raises:
        WeightError: An adapter that no single matrix can stand for.
    """
    if module is None:
        return None
    if is_adapted(module):
        return _without_adapter(module)
    if _is_torch_quantised(module):
        weight: Any = module.weight
        bias: Any = getattr(module, "bias", None)
        shift: Any = bias() if callable(bias) else bias
        matrix: Tensor = weight()
        matrix = matrix.dequantize() if matrix.is_quantized else matrix.float()
        return Dequantised(matrix, None if shift is None else shift.detach())
    return module


def is_adapted(module: nn.Module) -> bool:
    """Whether `module` is one of PEFT's layers around another module; PEFT is never imported."""
    return isinstance(module, _peft_classes())


def adapted_parts(module: nn.Module) -> list[str]:
    """Paths of the adapted layers in a model, without those inside others."""
    return [path for path, _ in _outermost(module)] if _peft_classes() else []


def packed_parts(module: nn.Module) -> list[str]:
    """Paths of modules whose weights are quantised or packed, so that their dtype is fixed."""

    def packed(part: nn.Module) -> bool:
        held: Any = part._parameters.get("weight")
        whole = isinstance(held, Tensor) and not (held.is_floating_point() or held.is_complex())
        return whole or _is_torch_quantised(part)

    return [path or "the model" for path, part in module.named_modules() if packed(part)]


class Links(NamedTuple):
    """What stands where in a tree of modules: two lists, so that one comparison tells."""

    now: list[Any]
    """Each module's live dict of children."""
    then: list[dict[str, Any]]
    """Copies of those dicts, made when the tree was read."""


def links_of(module: nn.Module) -> Links:
    """What stands where in a tree of modules now."""
    parts = list(module.modules())
    return Links([p._modules for p in parts], [dict(p._modules.items()) for p in parts])


def refuse_replaced(links: Links, name: str) -> None:
    """Names found at `wrap` point at modules; they must still stand where they stood.

    Raises:
        ModelError: A module was replaced since (an adapter added, say): sites and weights would
            silently be those of the part that no longer decides.
    """
    if links.now == links.then:  # at every run
        return
    for siblings, then in zip(*links, strict=True):
        here = dict(siblings.items())
        for key, child in then.items():
            now = here.get(key)
            if now is child:
                continue
            raise ModelError(
                f"modules of {name} were replaced after it was wrapped",
                got=f"{key!r} is now {type(now).__name__}, was {type(child).__name__}",
                expected="the modules that its sites were found in",
                fix="wrap(model.module, model.tokenizer) again",
            )


def state_in_use(module: nn.Module, raw: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors a model computes with under the names they have without adapters, and the rest.

    A model with its adapter switched off is its base model, one with its adapter active is what
    merging gives. Adapters that cannot be merged stand for themselves: their tensors, and in the
    second value their settings; what else the state holds that is no tensor goes there, too.

    Args:
        raw: The adapters' own tensors and settings instead: cheap, and changed whenever they are.
    """
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {}
    outer = dict(_outermost(module)) if _peft_classes() else {}
    if raw:
        rest = {path: _settings(part) for path, part in outer.items()}
        outer = {}
    for name, value in module.state_dict().items():
        if not any(name.startswith(f"{path}.") for path in outer):
            _flatten(name, value, tensors, rest)
    for path, part in outer.items():
        try:
            held: Any = plain(part)
        except WeightError:
            held, rest[path] = part, _settings(part)
        for name, value in held.state_dict().items():
            _flatten(f"{path}.{name}", value, tensors, rest)
    return tensors, rest


def _peft_classes() -> tuple[type, ...]:
    """Without the package in memory nothing can be adapted by it."""
    if "peft" not in sys.modules:
        return ()
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return BaseTunerLayer, AuxiliaryTrainingWrapper


def _is_torch_quantised(module: nn.Module) -> bool:
    where = type(module).__module__
    return where.startswith("torch.ao.nn.quantized") and callable(getattr(module, "weight", None))


def _outermost(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    inside = None
    for path, part in module.named_modules(remove_duplicate=False):
        if inside is not None and path.startswith(inside):
            continue
        if is_adapted(part):
            inside = f"{path}." if path else ""
            yield path, part


def _flatten(name: str, value: Any, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    """Quantised and packed values as the plain tensors they consist of."""
    if isinstance(value, Tensor) and value.is_quantized:
        tensors[name] = value.int_repr()
        if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            rest[f"{name}.scale"] = [value.q_scale(), value.q_zero_point()]
        else:
            tensors[f"{name}.scales"] = value.q_per_channel_scales()
            tensors[f"{name}.zeros"] = value.q_per_channel_zero_points()
    elif isinstance(value, Tensor):
        tensors[name] = value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _flatten(f"{name}.{key}", part, tensors, rest)
    elif isinstance(value, (tuple, list)):
        for i, part in enumerate(value):
            _flatten(f"{name}.{i}", part, tensors, rest)
    elif value is None or isinstance(value, (str, bytes, bool, int, float, torch.dtype)):
        rest[name] = str(value)
    else:
        raise ProvenanceError(
            f"cannot fingerprint {name!r}: it is no tensor",
            got=type(value).__name__,
            expected="tensors, numbers and text in the module's state",
            fix="give the module a state_dict of tensors",
        )


def _settings(layer: nn.Module) -> dict[str, str]:
    """What decides, beside tensors, how an adapted layer computes: active, merged, scaling ..."""
    known = (str, bool, int, float, list, tuple, set, dict)
    return {
        f"{path}.{name}": repr(sorted(value) if isinstance(value, set) else value)
        for path, part in layer.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, known)
        and name not in ("_parameters", "_buffers", "_modules", "training", *_HOOKS)
    }


# --- adapters -----------------------------------------------------------------------------------


def _without_adapter(layer: Any) -> Any:
    """The plain module that an adapted one amounts to, in evaluation mode."""
    kind = type(layer).__name__
    if hasattr(layer, "original_module"):
        if layer.disable_adapters or any(a not in layer._adapters for a in layer.active_adapters):
            return plain(layer.original_module)
        if hasattr(layer, "modules_to_save"):
            active = layer.active_adapters
            return plain(layer.modules_to_save[active[0]] if active else layer.original_module)
        if hasattr(layer, "token_adapter"):
            return plain(layer.token_adapter)
        raise _unreadable(kind, "a kind of adapter that is not known here")
    base = layer.get_base_layer()
    weight: Any = getattr(base, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise _unreadable(kind, f"it sits on a quantised {type(base).__name__}")
    if any(p.is_meta for p in layer.parameters()):
        raise _unreadable(kind, "it is offloaded and not in memory")
    twin: Any = _twin(layer, base).eval()
    x = _probe(base)
    if x is None:
        raise _unreadable(kind, f"it sits on {type(base).__name__}, not on a linear map")
    with torch.no_grad():
        try:
            wanted = twin.forward(x)
            _settle(twin)
        except Exception as error:  # PEFT refuses in many ways: whatever it says is the cause
            said = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise _unreadable(kind, said) from error
        merged = twin.get_base_layer()
        found = merged.forward(x)
    scale = wanted.abs().max().float().clamp(min=1e-6)
    gap = float((wanted - found).abs().max().float() / scale)
    if not gap <= _TOLERANCE.get(weight.dtype, 1e-1):
        raise _unreadable(kind, f"merged it computes something else, off by {gap:.1e}")
    return merged


def _settle(layer: Any) -> None:
    """Merge (or take out) what is active, layer around layer."""
    tuner = _peft_classes()[0]
    while isinstance(layer, tuner):
        here: Any = layer
        if here.disable_adapters:
            if here.merged:
                here.unmerge()
        elif not here.merged:
            here.merge(safe_merge=True)
        layer = here.base_layer


def _probe(base: Any) -> Tensor | None:
    """A few inputs that tell one linear map (or table, or norm) from another."""
    weight = base.weight
    draw = torch.Generator().manual_seed(0)
    if isinstance(base, nn.Embedding):
        return torch.randint(weight.shape[0], (4, 5), generator=draw).to(weight.device)
    if type(base).__name__ == "Conv1D":
        width = weight.shape[0]
    elif isinstance(base, nn.Linear) or weight.dim() == 1:
        width = weight.shape[-1]
    else:
        return None
    return torch.randn(3, width, generator=draw).to(weight)


def _twin(layer: nn.Module, base: nn.Module) -> nn.Module:
    """A copy that shares the adapters' tensors, owns the base layer's, and has no hooks."""
    new: Any = copy.copy(layer)
    for name, value in vars(layer).items():
        if type(value) in (list, dict, set):
            new.__dict__[name] = copy.copy(value)
    for name in _HOOKS:
        if name in vars(layer):
            new.__dict__[name] = OrderedDict()
    new._modules = {k: None if part is None else _twin(part, base) for k, part in layer._modules.items()}
    new._buffers = dict(layer._buffers)
    new._parameters = dict(layer._parameters)
    if layer is base:
        for name, value in layer._parameters.items():
            if value is not None:
                fresh = nn.Parameter(value.detach().clone(), requires_grad=False)
                new._parameters[name] = fresh
    return new


def _unreadable(kind: str, why: str) -> WeightError:
    return WeightError(
        f"no single matrix stands for this adapter ({kind})",
        got=why,
        expected="an adapter that is linear in the weights (LoRA and kin), on floating point",
        fix="read the weights with the adapter disabled, or of merge_and_unload(); activations work as it is",
    )
