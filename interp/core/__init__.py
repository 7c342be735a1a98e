"""The ground floor: errors, names, the value types and the one writer. No model code, no plots.

```python
from interp.core import SiteError, Result, commit
```
"""

from interp.core.lazy import lazy

_ERRORS = (
    "InterpError", "SiteError", "HookNotFired", "EditError", "NonFiniteError", "TokenError",
    "ConfigError", "ShapeError", "ProvenanceError", "StorageError", "CorruptArtefact", "BadName",
    "ModelError", "AdapterError", "FoldError", "MissingDependency", "MemoryBudgetError",
    "Interrupted",
)  # fmt: skip
_EXPORTS = {name: f"interp.core.errors:{name}" for name in _ERRORS} | {
    "Activations": "interp.core.activations:Activations",
    "Result": "interp.core.result:Result",
    "Check": "interp.core.result:Check",
    "Checks": "interp.core.result:Checks",
    "Provenance": "interp.core.provenance:Provenance",
    "Trained": "interp.core.artefact:Trained",
    "Coder": "interp.core.protocols:Coder",
    "Placement": "interp.core.config:Placement",
    "suggest": "interp.core.names:suggest",
    "did_you_mean": "interp.core.names:did_you_mean",
    "match": "interp.core.names:match",
    "slug": "interp.core.names:slug",
    "esc": "interp.core.escape:esc",
    "json_island": "interp.core.escape:json_island",
    "visible": "interp.core.escape:visible",
    "generator": "interp.core.randomness:generator",
    "permutation": "interp.core.randomness:permutation",
    "permuted_index": "interp.core.randomness:permuted_index",
    "check_finite": "interp.core.finite:check_finite",
    "commit": "interp.core.store:commit",
    "open_artefact": "interp.core.store:open_artefact",
    "load_tensors": "interp.core.store:load_tensors",
    "append": "interp.core.store:append",
    "read_jsonl": "interp.core.store:read_jsonl",
    "write_text": "interp.core.store:write_text",
    "lock": "interp.core.store:lock",
    "child": "interp.core.store:child",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
