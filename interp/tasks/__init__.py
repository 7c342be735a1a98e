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

_EXPORTS = {
    "Prompt": "interp.tasks.prompts:Prompt",
    "Prompts": "interp.tasks.prompts:Prompts",
    "PromptBatch": "interp.tasks.prompts:PromptBatch",
    "Task": "interp.tasks.task:Task",
    "names": "interp.tasks.catalogue:names",
    "load_task": "interp.tasks.files:load_task",
    "load_labels": "interp.tasks.files:load_labels",
    "Labelled": "interp.tasks.labels:Labelled",
    "LabelledCorpus": "interp.tasks.labels:LabelledCorpus",
    "LabelledTexts": "interp.tasks.labels:LabelledTexts",
    "TaskReport": "interp.tasks.behaviour:TaskReport",
    "measure": "interp.tasks.behaviour:measure",
    "metric": "interp.tasks.metrics:metric",
    "sentence_log_probability": "interp.tasks.metrics:sentence_log_probability",
    "logit_difference": "interp.tasks.metrics:logit_difference",
    "probability_difference": "interp.tasks.metrics:probability_difference",
    "mass_difference": "interp.tasks.metrics:mass_difference",
    "answer_probability": "interp.tasks.metrics:answer_probability",
    "log_probability": "interp.tasks.metrics:log_probability",
    "accuracy": "interp.tasks.metrics:accuracy",
    "preference": "interp.tasks.metrics:preference",
    "rank": "interp.tasks.metrics:rank",
    "grammar_names": "interp.tasks.grammar.asking:grammar_names",
    "grammar_task": "interp.tasks.grammar.asking:grammar_task",
    "grammar_batch": "interp.tasks.grammar.corpus:batch",
    "GrammarConfig": "interp.tasks.config:GrammarConfig",
    "GrammarTraining": "interp.tasks.config:GrammarTraining",
    "train_grammar": "interp.tasks.grammar.training:train_grammar",
    "InductionConfig": "interp.tasks.config:InductionConfig",
    "InductionHistory": "interp.tasks.induction:InductionHistory",
    "held_out_blocks": "interp.tasks.induction:held_out_blocks",
    "repeated_blocks": "interp.tasks.induction:repeated_blocks",
    "train_induction": "interp.tasks.induction:train_induction",
}
__all__ = list(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
