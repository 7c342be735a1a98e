"""What an attribution was asked for, in a form that files hold, and back into arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from interp.attribution.config import AttributionConfig
from interp.core.errors import ConfigError


def asked_for(
    baseline: Any,
    keep: Sequence[int] | None,
    prepend_bos: bool | None,
    config: AttributionConfig,
    feature_mask: Any = None,
) -> tuple[dict[str, Any], Tensor | None]:
    """The arguments of `attribute` as JSON values, and a baseline of numbers, flat, beside them."""
    given = None
    if isinstance(baseline, Tensor):
        if baseline.is_floating_point():
            given = baseline.detach().flatten().clone()
            baseline = {"shape": list(baseline.shape)}
        else:
            baseline = {"ids": baseline.tolist()}
    return {
        "baseline": baseline,
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
    if asked is None:
        raise ConfigError(
            "this attribution does not say what made it: it was saved before settings were kept",
            fix="attribute again; it cannot be repeated from this file",
        )
    baseline = asked["baseline"]
    if isinstance(baseline, dict):
        ids = baseline.get("ids")
        if ids is None and given is None:
            raise ConfigError("the baseline of this attribution is not in its file", got=list(asked))
        baseline = torch.tensor(ids) if given is None else given.reshape(baseline["shape"])
    told = {**asked, "baseline": baseline, "config": AttributionConfig(**asked["config"])}
    if told.get("feature_mask") is None:  # as in files that were saved before there were any
        return {name: value for name, value in told.items() if name != "feature_mask"}
    return {**told, "feature_mask": torch.tensor(told["feature_mask"])}
