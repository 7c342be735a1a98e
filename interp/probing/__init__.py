"""Probing: what is readable at a site, beside its controls, and what happens when it is gone.

```python
labelled = probing.align_words(model, texts, words, labels={"upos": tags})
sweep = probing.sweep_model(model, labelled, "blocks.*.hook_resid_post")
sweep.plot()                                     # per site, with chance, controls and bands
eraser = probing.fit_eraser(rows, labels)        # LEACE
model.run_with_hooks(text, [eraser.hook("blocks.2.hook_resid_post")])
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
