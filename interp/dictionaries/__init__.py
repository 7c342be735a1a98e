"""Sparse dictionaries: SAEs, transcoders and skip transcoders under one class and one trainer.

```python
config = DictionaryConfig(d_in=512, d_sae=8192, activation="topk", k=32)
dictionary = Dictionary(config)
latents = dictionary.encode(activations)
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
