"""The command line: `interp demo`, `interp lens`, `interp models`, `interp doctor`.

```python
from interp.cli import run

run(["lens", "path/to/model", "Once upon a time"])
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
