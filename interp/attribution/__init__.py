"""Attribution: which positions, heads, neurons and latents made an output, and how far to trust it.

```python
found = interp.attribute(model, "Once upon a time", method="integrated_gradients")
found.plot()                 # coloured tokens; the completeness gap is in the subtitle
found.check()                # sum of scores = f(x) - f(baseline)
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
