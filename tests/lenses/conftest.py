"""Models that several files of this room train once."""

from __future__ import annotations

import pytest

from tests.lenses import toys


@pytest.fixture(scope="session")
def digits(full_count: bool) -> toys.Digits:
    """A four-layer ViT on 8 x 8 digits, and the digits it has not seen."""
    return toys.train_digits(600 if full_count else 130)
