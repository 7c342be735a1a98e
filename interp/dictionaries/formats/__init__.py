"""Dictionaries on disk: SAELens's layout as our own, and readers and writers of other libraries'.

```python
dictionary = load("runs/sae")                        # any known layout; what it is, it says itself
dictionary = load("gpt2-small-res-jb/blocks.8.hook_resid_pre", allow_download=True)
save(dictionary, "runs/sae")                         # sae_lens.SAE.load_from_disk reads it, too
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
