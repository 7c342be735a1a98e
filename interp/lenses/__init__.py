"""Lenses: what every layer would say if the model stopped there.

```python
lens = interp.logit_lens(model, "Once upon a time")
lens.plot()                  # layer x position, top-1 token in every cell
lens.check()                 # the last row is the model's own output
```
"""

from __future__ import annotations

from interp.core.lazy import lazy

_FACE = {
    "logit_lens": "interp.lenses.logit:logit_lens",
    "LensResult": "interp.lenses.result:LensResult",
    "LensConfig": "interp.lenses.config:LensConfig",
}
__all__ = list(_FACE)
__getattr__, __dir__ = lazy(__name__, _FACE)
