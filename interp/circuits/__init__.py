"""Circuits: which edges of a model carry an answer, found, measured and held against the truth.

```python
prompts = interp.tasks.grammar_task("indirect-object").sample(20)
scores = circuits.score_edges(model, prompts)            # EAP-IG; method="exact" measures every edge
curve = circuits.faithfulness_curve(model, prompts, scores)
circuit = circuits.select_edges(scores, 44)
circuits.measure_circuit(model, prompts, circuit)        # the metric with everything else ablated
```
"""

from interp.core.lazy import lazy

__all__, __getattr__, __dir__ = lazy(__name__)
