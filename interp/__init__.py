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

from interp.core.frames.loaders import set_renderer_loader, set_type_loader
from interp.core.lazy import face, lazy
from interp.core.version import VERSION

__version__ = VERSION
__all__, __getattr__, __dir__ = lazy(__name__)

_WITH_RESULTS = (
    "activations",
    "tasks",
    "lenses",
    "probing",
    "attribution",
    "dictionaries",
    "circuits",
    "studies",
)


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
    """Bring the result type that a saved folder names, if a room of ours has it."""
    for room in _WITH_RESULTS:
        names = face(f"{__name__}.{room}")
        if name in names:
            import_module(names[name][0])


set_renderer_loader(_load_renderers)
set_type_loader(_load_type)
