"""The command line: `interp demo`, `interp lens`, `interp models`, `interp doctor`.

```python
from interp.cli import run

run(["lens", "path/to/model", "Once upon a time"])
```
"""

from interp.core.lazy import lazy

_EXPORTS = {"run": "interp.cli.main:main"}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
