"""The ground floor: errors, names, the value types and the one writer. No model code, no plots.

```python
from interp.core import SiteError, Result, commit
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
