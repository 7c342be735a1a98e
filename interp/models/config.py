"""How to open a model, as the command line takes it; stdlib only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LoadConfig:
    """Where the model is and how it is opened."""

    model: str
    """A bundled model, a model folder, or a hub id (with allow_download)."""
    dtype: str | None = None
    """float32, float64, bfloat16 or float16; as stored when absent."""
    device: str | None = None
    """cpu, cuda, cuda:1, mps; cpu when absent."""
    allow_download: bool = False
    """Ask the Hugging Face hub for what is not on this machine."""
