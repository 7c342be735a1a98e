"""Look inside neural networks: named sites in, honest results out, one true picture on one page.

```python
import interp

model = interp.load_model("path/to/folder")
lens = interp.logit_lens(model, "Once upon a time")
lens.plot().show()
interp.report([lens], "lens.html", title="Where the answer emerges")
```

Importing this package imports neither torch nor transformers; a name brings its room when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from interp.core.lazy import lazy
from interp.core.loaders import set_renderer_loader, set_type_loader
from interp.core.version import VERSION

if TYPE_CHECKING:  # the same names again, for editors and type checkers
    from interp.core import errors
    from interp.core.activations import Activations
    from interp.core.errors import InterpError
    from interp.core.result import Result
    from interp.lenses.logit import logit_lens
    from interp.models.folding import fold
    from interp.models.hooked import HookedModel
    from interp.models.interventions import (
        add,
        clamp,
        mean,
        patch,
        project_out,
        resample,
        steer,
        zero,
    )
    from interp.models.loading import load_model
    from interp.models.wrapping import wrap
    from interp.reports.page import report

__version__ = VERSION

_ROOMS = ("core", "models", "activations", "tasks", "lenses", "plotting", "reports", "cli")
_FACE = {
    "load_model": "interp.models:load_model",
    "wrap": "interp.models:wrap",
    "fold": "interp.models:fold",
    "HookedModel": "interp.models:HookedModel",
    "zero": "interp.models:zero",
    "mean": "interp.models:mean",
    "resample": "interp.models:resample",
    "patch": "interp.models:patch",
    "add": "interp.models:add",
    "steer": "interp.models:steer",
    "project_out": "interp.models:project_out",
    "clamp": "interp.models:clamp",
    "logit_lens": "interp.lenses:logit_lens",
    "report": "interp.reports:report",
    "Activations": "interp.core.activations:Activations",
    "Result": "interp.core.result:Result",
    "InterpError": "interp.core.errors:InterpError",
    "errors": "interp.core.errors",
}
_RESULTS = {  # type name -> module, for Result.load
    "FitReport": "interp.activations.report",
    "InductionHistory": "interp.tasks.induction",
    "LensResult": "interp.lenses.result",
}
__all__ = [*_FACE, "__version__"]
__getattr__, __dir__ = lazy(__name__, _FACE | {room: f"interp.{room}" for room in _ROOMS})


def _load_renderers(result_type: type) -> None:
    """Bring the pictures of a result type when its first `.plot()` asks for them."""
    from interp.core.errors import MissingDependency

    try:
        from interp.plotting.registry import load_renderers

        load_renderers(result_type)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "plotly":
            raise
        raise MissingDependency(
            f"Drawing a {result_type.__name__} needs plotly.", fix="pip install plotly"
        ) from error


def _load_type(name: str) -> None:
    """Bring the result type that a saved folder names, if it is one of ours."""
    if name in _RESULTS:
        import_module(_RESULTS[name])


set_renderer_loader(_load_renderers)
set_type_loader(_load_type)
