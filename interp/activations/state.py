"""Module and optimizer as flat dicts of tensors, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers on the CPU, tied ones each with a copy of their own.

    Raises:
        ConfigError: The module keeps state that is not a tensor (`get_extra_state`).
    """
    weights: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"{name} is state that is not a tensor",
                got=type(value).__name__,
                expected="parameters and buffers; register_buffer keeps a counter",
            )
        weights[name] = value.detach().to("cpu", copy=True).contiguous()
    return weights


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Copy stored weights into the module, in place.

    Raises:
        ConfigError: A name, shape or dtype differs; nothing was copied.
    """
    own = module.state_dict()
    for name in own.keys() ^ weights.keys():
        raise ConfigError(
            f"{where} does not fit the module: {name} is only in one of them",
            got=name,
            fix=did_you_mean(name, own.keys() ^ {name}) or None,
        )
    for name, value in weights.items():
        stored = f"{list(value.shape)} {value.dtype}"
        wanted = f"{list(own[name].shape)} {own[name].dtype}"
        if stored != wanted:
            raise ConfigError(f"{where}: {name} has another shape", got=stored, expected=wanted)
    module.load_state_dict(dict(weights))


def moments_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as `<parameter name>:<key>` on the CPU; numbers as float64."""
    names = names_of(module, optimizer)
    moments: dict[str, Tensor] = {}
    for parameter, name in names.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                kind = None if isinstance(value, Tensor) else torch.float64
                tensor = torch.as_tensor(value, dtype=kind).detach()
                moments[f"{name}:{key}"] = tensor.to("cpu", copy=True).contiguous()
    return moments


def load_moments(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    moments: Mapping[str, Tensor],
    groups: list[dict[str, Any]],
) -> None:
    """Inverse of `moments_of`: dtypes stay as stored, devices follow the parameter.

    Raises:
        ConfigError: Moments of a parameter that this optimizer does not train, or other shapes; an
            optimizer of other settings than `groups` (from `groups_of`) says.
    """
    if len(groups) != len(optimizer.param_groups) or not all(isinstance(g, dict) for g in groups):
        raise ConfigError(
            "the checkpoint was made with other groups of parameters",
            got=len(groups),
            expected=len(optimizer.param_groups),
        )
    by_name = {name: p for p, name in names_of(module, optimizer).items()}
    on_device = {
        p for g in optimizer.param_groups for p in g["params"] if g.get("fused") or g.get("capturable")
    }
    for label, value in moments.items():
        name, _, key = label.rpartition(":")
        if name not in by_name:
            raise ConfigError(
                f"the checkpoint has moments of {name}, which the optimizer does not train",
                fix=did_you_mean(name, by_name) or "use the optimizer of the run that is resumed",
            )
        parameter = by_name[name]
        if value.dim() and value.shape != parameter.shape:
            raise ConfigError(
                f"the checkpoint has moments of another shape: {label}",
                got=tuple(value.shape),
                expected=tuple(parameter.shape),
            )
        stays = key == "step" and parameter not in on_device  # torch counts on the host there
        optimizer.state[parameter][key] = value if stays else value.to(parameter.device)
    for own, stored in zip(groups_of(optimizer), groups, strict=True):
        differ = [key for key in {*own, *stored} if own.get(key) != stored.get(key)]
        if differ:
            key = min(differ)
            raise ConfigError(
                f"the checkpoint was made with another {key}",
                got=str(stored.get(key, "nothing"))[:80],
                expected=own.get(key, "nothing"),
                fix="the optimizer of the run that is resumed",
            )


def groups_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The numbers in each parameter group; the learning rate is left out, as it derives from t."""
    skip = ("params", "lr", "initial_lr")
    return [
        {k: v for k, v in group.items() if k not in skip and isinstance(v, int | float)}
        for group in optimizer.param_groups
    ]


def names_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[nn.Parameter, str]:
    """Each trained parameter's name in the module, in the optimizer's order.

    Raises:
        ConfigError: The optimizer trains something that the module does not hold.
    """
    known = {p: name for name, p in module.named_parameters()}
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in trained:
        if parameter not in known:
            raise ConfigError(
                "the optimizer trains a parameter that is not in the module",
                got=f"a parameter of shape {list(parameter.shape)}",
                fix="put every trained module into one nn.ModuleDict",
            )
    return {p: known[p] for p in trained}
