"""Probing: what is readable at a site, beside its controls, and what happens when it is gone.

```python
labelled = probing.align_words(model, texts, words, labels={"upos": tags})
sweep = probing.sweep_model(model, labelled, "blocks.*.hook_resid_post")
sweep.plot()                                     # per site, with chance, controls and bands
eraser = probing.fit_eraser(rows, labels)        # LEACE
model.run_with_hooks(text, [eraser.hook("blocks.2.hook_resid_post")])
```
"""

from __future__ import annotations

from interp.core.lazy import lazy

_FACE = {
    "AmnesicResult": "interp.probing.result:AmnesicResult",
    "AttentionProbeConfig": "interp.probing.config:AttentionProbeConfig",
    "AttentionProbeResult": "interp.probing.result:AttentionProbeResult",
    "CharLSTM": "interp.probing.recurrent:CharLSTM",
    "ClampedWriting": "interp.probing.findings:ClampedWriting",
    "CodeLengths": "interp.probing.result:CodeLengths",
    "ContextProbeConfig": "interp.probing.config:ContextProbeConfig",
    "ContextProbes": "interp.probing.findings:ContextProbes",
    "EludeResult": "interp.probing.findings:EludeResult",
    "EraseConfig": "interp.probing.config:EraseConfig",
    "Eraser": "interp.probing.erasure:Eraser",
    "ErasureAudit": "interp.probing.result:ErasureAudit",
    "InContextResult": "interp.probing.findings:InContextResult",
    "LabelledTokens": "interp.probing.alignment:LabelledTokens",
    "Moments": "interp.probing.spectrum:Moments",
    "NeuronAblation": "interp.probing.findings:NeuronAblation",
    "OptimalConfig": "interp.probing.config:OptimalConfig",
    "OptimalSupport": "interp.probing.result:OptimalSupport",
    "Probe": "interp.probing.probe:Probe",
    "ProbeConfig": "interp.probing.config:ProbeConfig",
    "ProbeSweep": "interp.probing.result:ProbeSweep",
    "PruningCurve": "interp.probing.result:PruningCurve",
    "SparseConfig": "interp.probing.config:SparseConfig",
    "SparseSweep": "interp.probing.result:SparseSweep",
    "StructuralConfig": "interp.probing.config:StructuralConfig",
    "StructuralResult": "interp.probing.result:StructuralResult",
    "UnitResult": "interp.probing.findings:UnitResult",
    "VInformation": "interp.probing.result:VInformation",
    "ablate_neurons": "interp.probing.ablating:ablate_neurons",
    "align_spans": "interp.probing.alignment:align_spans",
    "align_texts": "interp.probing.alignment:align_texts",
    "align_words": "interp.probing.alignment:align_words",
    "amnesic": "interp.probing.auditing:amnesic",
    "attention_probe": "interp.probing.attending:attention_probe",
    "audit_erasure": "interp.probing.auditing:audit_erasure",
    "clamp_unit": "interp.probing.recurrent:clamp_unit",
    "clamped_writing": "interp.probing.generating:clamped_writing",
    "code_length": "interp.probing.information:code_length",
    "compare_in_context": "interp.probing.incontext:compare_in_context",
    "concept_agreement": "interp.probing.concepts:concept_agreement",
    "concept_existence": "interp.probing.concepts:concept_existence",
    "concept_location": "interp.probing.concepts:concept_location",
    "elude": "interp.probing.concepts:elude",
    "eraser_of": "interp.probing.erasure:eraser_of",
    "find_unit": "interp.probing.units:find_unit",
    "fit_eraser": "interp.probing.erasure:fit_eraser",
    "gather": "interp.probing.gathering:gather",
    "lstm_writer": "interp.probing.generating:lstm_writer",
    "model_writer": "interp.probing.generating:model_writer",
    "optimal_support": "interp.probing.optimal:optimal_support",
    "probe_context": "interp.probing.context_weights:probe_context",
    "probe_sweep": "interp.probing.sweeping:probe_sweep",
    "prune_neurons": "interp.probing.sparse:prune_neurons",
    "random_eraser": "interp.probing.erasure:random_eraser",
    "sparse_sweep": "interp.probing.sparse:sparse_sweep",
    "split_rows": "interp.probing.splits:split_rows",
    "structural_probe": "interp.probing.structural:structural_probe",
    "sweep_model": "interp.probing.gathering:sweep_model",
    "train_probe": "interp.probing.probe:train_probe",
    "v_information": "interp.probing.information:v_information",
}
__all__ = list(_FACE)
__getattr__, __dir__ = lazy(__name__, _FACE)
