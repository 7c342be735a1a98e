"""Lenses: what every layer would say if the model stopped there.

```python
lens = interp.logit_lens(model, "Once upon a time")
lens.plot()                  # layer x position, top-1 token in every cell
lens.check()                 # the last row is the model's own output
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
