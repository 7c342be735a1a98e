"""Dictionaries on disk: SAELens's layout as our own, and readers and writers of other libraries'.

```python
dictionary = load("runs/sae")                        # any known layout; what it is, it says itself
dictionary = load("gpt2-small-res-jb/blocks.8.hook_resid_pre", allow_download=True)
save(dictionary, "runs/sae")                         # sae_lens.SAE.load_from_disk reads it, too
```
"""

from __future__ import annotations

from interp.core.lazy import lazy

_HERE = "interp.dictionaries.formats"
_FACE = {
    "load": f"{_HERE}.opening:load",
    "load_all": f"{_HERE}.opening:load_all",
    "save": f"{_HERE}.opening:save",
    "recognise": f"{_HERE}.opening:recognise",
    "from_saelens": f"{_HERE}.saelens:from_saelens",
    "files_of": f"{_HERE}.saelens_layout:files_of",
    "read_folder": f"{_HERE}.saelens:read_folder",
    "to_jumprelu": f"{_HERE}.thresholds:to_jumprelu",
    "load_transcoders": f"{_HERE}.circuit_tracer:load_transcoders",
    "save_transcoders": f"{_HERE}.circuit_tracer:save_transcoders",
}
__all__ = list(_FACE)
__getattr__, __dir__ = lazy(__name__, _FACE)
