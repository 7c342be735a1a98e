"""A linear head for encoders that have none, so that a class score can be attributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from interp.attribution.towers import pooled
from interp.core.errors import ConfigError
from interp.models.hooked import HookedModel
from interp.models.stream.target import Target
from interp.models.text.forms import unpack


def linear_head(
    model: HookedModel, inputs: Any, labels: Sequence[int], *, pooling: str = "mean"
) -> tuple[Target, float]:
    """Logistic regression on pooled embeddings, two classes; the target is its logit.

    Returns:
        The target (log odds of the larger label), and its accuracy on the texts it was fitted on.

    Raises:
        ConfigError: Not exactly two labels.
    """
    from sklearn.linear_model import LogisticRegression

    inputs = list(unpack(inputs))
    if len(set(labels)) != 2 or len(labels) != len(inputs):
        raise ConfigError(
            "a linear head needs texts of two classes",
            got=f"{len(inputs)} texts, labels {sorted(set(labels))[:5]}",
        )
    pool = pooled(pooling)
    with torch.no_grad():
        rows = torch.cat([pool(model(text)) for text in inputs])
    told = rows.double().cpu().numpy()
    fitted = LogisticRegression(max_iter=2_000).fit(told, list(labels))
    weight = torch.tensor(fitted.coef_[0]).to(rows)
    bias = float(fitted.intercept_[0])

    def read(out: Tensor) -> Tensor:
        return pool(out) @ weight + bias

    accuracy = float(fitted.score(told, list(labels)))
    return Target(f"log odds of label {max(labels)}", read), accuracy
