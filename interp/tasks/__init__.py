"""Tasks with known answers: data generators, prompts, labels and what a trained model must reach.

```python
from interp.tasks import load_labels, load_task, measure
task = load_task("ioi_prompts.json")                         # or a bundled name, see names()
task.sample(3)                                               # prints as text
measure(model, task).plot()
load_labels("en_ewt-ud-dev.conllu.gz").counts("upos")

from interp.tasks import InductionConfig, train_induction
model, history = train_induction(None, InductionConfig())    # seconds, with its phase change
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
