"""Sparse dictionaries: SAEs, transcoders and skip transcoders under one class and one trainer.

```python
config = DictionaryConfig(d_in=512, d_sae=8192, activation="topk", k=32)
dictionary = Dictionary(config)
latents = dictionary.encode(activations)
```
"""

from __future__ import annotations

from interp.core.lazy import lazy

_FACE = {
    "Dictionary": "interp.dictionaries.dictionary:Dictionary",
    "DictionaryConfig": "interp.dictionaries.config:DictionaryConfig",
    "DictionaryRun": "interp.dictionaries.training:DictionaryRun",
    "TrainConfig": "interp.dictionaries.train_config:TrainConfig",
    "open_sinks": "interp.dictionaries.sinks:open_sinks",
    "run_training": "interp.dictionaries.training:run_training",
    "train": "interp.dictionaries.training:train",
    "Absorption": "interp.dictionaries.result:Absorption",
    "AbsorptionConfig": "interp.dictionaries.evaluation_config:AbsorptionConfig",
    "DictionaryReport": "interp.dictionaries.result:DictionaryReport",
    "EvaluationConfig": "interp.dictionaries.evaluation_config:EvaluationConfig",
    "Recovery": "interp.dictionaries.result:Recovery",
    "Splitting": "interp.dictionaries.result:Splitting",
    "SplittingConfig": "interp.dictionaries.evaluation_config:SplittingConfig",
    "Stability": "interp.dictionaries.result:Stability",
    "SyntheticConfig": "interp.dictionaries.evaluation_config:SyntheticConfig",
    "SyntheticWorld": "interp.dictionaries.synthetic:SyntheticWorld",
    "absorption": "interp.dictionaries.absorbing:absorption",
    "ceilings": "interp.dictionaries.recovering:ceilings",
    "evaluate": "interp.dictionaries.evaluation:evaluate",
    "feature_splitting": "interp.dictionaries.comparing:feature_splitting",
    "score_recovery": "interp.dictionaries.recovering:score_recovery",
    "stability": "interp.dictionaries.comparing:stability",
    "check_l0": "interp.dictionaries.formats.recorded:check_l0",
    "from_saelens": "interp.dictionaries.formats.saelens:from_saelens",
    "load": "interp.dictionaries.formats.opening:load",
    "load_transcoders": "interp.dictionaries.formats.circuit_tracer:load_transcoders",
    "save": "interp.dictionaries.formats.opening:save",
    "save_transcoders": "interp.dictionaries.formats.circuit_tracer:save_transcoders",
    "to_jumprelu": "interp.dictionaries.formats.thresholds:to_jumprelu",
    "DistilConfig": "interp.dictionaries.evaluation_config:DistilConfig",
    "distil": "interp.dictionaries.distilling:distil",
    "FinetuneConfig": "interp.dictionaries.evaluation_config:FinetuneConfig",
    "finetune": "interp.dictionaries.finetuning:finetune",
}
__all__ = list(_FACE)
__getattr__, __dir__ = lazy(__name__, _FACE)
