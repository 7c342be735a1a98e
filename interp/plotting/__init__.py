"""Pictures: a result, or plain arrays, to a plotly figure (or an HTML token strip).

```python
figure = result.plot(colour="kl")                      # any Result; options as in its config
figure = interp.plotting.head_heatmap(scores, "Induction", Quantity("induction score"))
```

Every picture says in its subtitle what is measured, in which unit and what a higher value means;
labels go through `labels`, colours through `theme`.
"""

from interp.core.lazy import lazy

_EXPORTS = {
    "AttentionConfig": "interp.plotting.config:AttentionConfig",
    "CurvesConfig": "interp.plotting.config:CurvesConfig",
    "DecompositionConfig": "interp.plotting.config:DecompositionConfig",
    "HeadMapConfig": "interp.plotting.config:HeadMapConfig",
    "LensConfig": "interp.plotting.config:LensConfig",
    "Quantity": "interp.plotting.config:Quantity",
    "TokenStrip": "interp.plotting.tokens:TokenStrip",
    "AttentionView": "interp.plotting.attention_view:AttentionView",
    "attention_page": "interp.plotting.attention_view:attention_page",
    "attention_patterns": "interp.plotting.attention:attention_patterns",
    "bars": "interp.plotting.basics:bars",
    "head_heatmap": "interp.plotting.heads:head_heatmap",
    "heatmap": "interp.plotting.basics:heatmap",
    "lens_heatmap": "interp.plotting.lenses:lens_heatmap",
    "lines": "interp.plotting.basics:lines",
    "load_renderers": "interp.plotting.registry:load_renderers",
    "plot_result": "interp.plotting.generic:plot_result",
    "training_curves": "interp.plotting.training:training_curves",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
