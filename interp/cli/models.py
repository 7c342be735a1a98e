"""`interp models [MODEL]`: what is bundled, or the map of one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from interp.cli.config import OUT, Common
from interp.cli.opening import open_model
from interp.cli.places import announce
from interp.core.config import Placement

NONE_BUNDLED = (
    "No model lies in this installation (interp/models/bundled is missing).\n"
    "Any folder works: a Hugging Face model, or hooked_transformer.json + model.safetensors.\n"
    "  interp models FOLDER"
)


@dataclass(frozen=True, kw_only=True)
class Models(Common):
    """List the bundled models, or print the map of one model: its sites and their shapes.

    What is printed is also written: to interp-out/models.txt.
    """

    model: Annotated[Positional[str | None], arg(metavar="[MODEL]")] = None
    """A bundled model's name, or a folder with a model. Nothing lists what is bundled."""
    placement: Placement = field(default_factory=Placement)

    def run(self) -> int:
        """Print and write the list or the map; returns the exit code."""
        text = listing() if self.model is None else str(open_model(self.model, self.placement))
        print(text)

        from interp.core.store import write_text

        write_text(OUT / "models.txt", text + "\n", overwrite=True)
        announce(OUT / "models.txt")
        return 0


def listing() -> str:
    """The bundled models, one per line with the first sentence of their card."""
    from interp.models import bundled_models

    found = bundled_models()
    if not found:
        return NONE_BUNDLED
    return "\n".join(f"{name:<20} {_first_line(found[name])}" for name in found)


def _first_line(folder: Path) -> str:
    """The first line of prose of a model's card."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.exists() else []
    return next((line for line in lines if line.strip() and not line.startswith(("#", "-"))), "")
