"""What an attribution was asked for, in a form that files hold, and back into arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig, PairConfig
from interp.core.errors import ConfigError


def asked_for(
    baseline: Any,
    keep: Sequence[int] | None,
    prepend_bos: bool | None,
    config: AttributionConfig,
    feature_mask: Any = None,
) -> tuple[dict[str, Any], Tensor | None]:
    """The arguments of `attribute` as JSON values, and a baseline of numbers, flat, beside them."""
    named, given = _numbers_apart(baseline)
    return {
        "baseline": named,
        "keep": None if keep is None else list(keep),
        "prepend_bos": prepend_bos,
        "feature_mask": None if feature_mask is None else torch.as_tensor(feature_mask).tolist(),
        "config": asdict(config),
    }, given


def arguments(asked: dict[str, Any] | None, given: Tensor | None) -> dict[str, Any]:
    """The inverse of `asked_for`: keyword arguments of `attribute`.

    Raises:
        ConfigError: A result of the time before settings were kept.
    """
    asked = _kept(asked)
    baseline = _together(asked["baseline"], given)
    told = {**asked, "baseline": baseline, "config": AttributionConfig(**asked["config"])}
    if told.get("feature_mask") is None:  # as in files that were saved before there were any
        return {name: value for name, value in told.items() if name != "feature_mask"}
    return {**told, "feature_mask": torch.tensor(told["feature_mask"])}


def pair_asked_for(
    reference: Any, config: PairConfig, apart: Mapping[str, Any]
) -> tuple[dict[str, Any], Tensor | None]:
    """The same for `attribute_pair`.

    Args:
        apart: Arguments that no file holds, by name; None where they were not given.
    """
    named, given = _numbers_apart(reference)
    without = [name for name, value in apart.items() if value is not None]
    return {"reference": named, "config": asdict(config), "without": without}, given


def pair_arguments(asked: dict[str, Any] | None, given: Tensor | None) -> dict[str, Any]:
    """The inverse of `pair_asked_for`.

    Raises:
        ConfigError: A result of the time before settings were kept, or made with what no file holds.
    """
    asked = _kept(asked)
    if asked["without"]:
        missing = " and ".join(asked["without"])
        raise ConfigError(
            f"this attribution was made with {missing}, which no file holds",
            fix=f"attribute_pair(model, a, b, ...) with {missing} as then; the rest is in result.asked",
        )
    config = PairConfig(**asked["config"])
    return {"reference": _together(asked["reference"], given), "config": config}


def _numbers_apart(baseline: Any) -> tuple[Any, Tensor | None]:
    if not isinstance(baseline, Tensor):
        return baseline, None
    if baseline.is_floating_point():
        return {"shape": list(baseline.shape)}, baseline.detach().flatten().clone()
    return {"ids": baseline.tolist()}, None


def _together(named: Any, given: Tensor | None) -> Any:
    if not isinstance(named, dict):
        return named
    ids = named.get("ids")
    if ids is None and given is None:
        raise ConfigError("the baseline of this attribution is not in its file", got=list(named))
    return torch.tensor(ids) if given is None else given.reshape(named["shape"])


def _kept(asked: dict[str, Any] | None) -> dict[str, Any]:
    if asked is None:
        raise ConfigError(
            "this attribution does not say what made it: it was saved before settings were kept",
            fix="attribute again; it cannot be repeated from this file",
        )
    return asked
