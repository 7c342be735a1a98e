"""Models with named sites: `load_model`, `wrap`, `HookedModel`, interventions, folding.

```python
model = interp.load_model("path/to/folder")
logits, acts = model.run_with_cache("Once upon a time", "blocks.*.hook_resid_post")
model.run_with_hooks("Once upon a time", [interp.zero("blocks.0.attn.hook_z", head=1)])
```
"""

from __future__ import annotations

from interp.core.lazy import lazy

_FACE = {
    "load_model": "interp.models.loading:load_model",
    "bundled_models": "interp.models.loading:bundled_models",
    "wrap": "interp.models.wrapping:wrap",
    "HookedModel": "interp.models.hooked:HookedModel",
    "fold": "interp.models.folding:fold",
    "SmallTransformer": "interp.models.small:SmallTransformer",
    "SmallConfig": "interp.models.small_config:SmallConfig",
    "TokenBatch": "interp.models.tokens:TokenBatch",
    "Intervention": "interp.models.interventions:Intervention",
    **{
        verb: f"interp.models.interventions:{verb}"
        for verb in ("zero", "mean", "resample", "patch", "add", "steer", "project_out", "clamp")
    },
}
__all__ = list(_FACE)
__getattr__, __dir__ = lazy(__name__, _FACE)
