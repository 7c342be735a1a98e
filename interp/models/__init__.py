"""Models with named sites: `load_model`, `wrap`, `HookedModel`, interventions, folding.

```python
model = interp.load_model("path/to/folder")
logits, acts = model.run_with_cache("Once upon a time", "blocks.*.hook_resid_post")
model.run_with_hooks("Once upon a time", [interp.zero("blocks.0.attn.hook_z", head=1)])
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
