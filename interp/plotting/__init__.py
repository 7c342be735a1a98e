"""Pictures: a result, or plain arrays, to a plotly figure (or an HTML token strip).

```python
figure = result.plot(colour="kl")                      # any Result; options as in its config
figure = interp.plotting.head_heatmap(scores, "Induction", Quantity("induction score"))
```

Every picture says in its subtitle what is measured, in which unit and what a higher value means;
labels go through `labels`, colours through `theme`.
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
