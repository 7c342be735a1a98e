"""Tasks with known answers: data generators, prompts, labels and what a trained model must reach.

```python
from interp.tasks import InductionConfig, train_induction
model, history = train_induction(None, InductionConfig())    # seconds, with its phase change
```
"""

from interp.core.lazy import lazy

_EXPORTS = {
    "InductionConfig": "interp.tasks.config:InductionConfig",
    "InductionHistory": "interp.tasks.induction:InductionHistory",
    "held_out_blocks": "interp.tasks.induction:held_out_blocks",
    "repeated_blocks": "interp.tasks.induction:repeated_blocks",
    "train_induction": "interp.tasks.induction:train_induction",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
