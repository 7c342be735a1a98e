"""Attribution: which positions, heads, neurons and latents made an output, and how far to trust it.

```python
found = interp.attribute(model, "Once upon a time", method="integrated_gradients")
found.plot()                 # coloured tokens; the completeness gap is in the subtitle
found.check()                # sum of scores = f(x) - f(baseline)
```
"""

from __future__ import annotations

from interp.core.lazy import lazy

_T, _R = "interp.attribution.targets", "interp.attribution.result"
_FACE = {
    "attribute": "interp.attribution.attributing:attribute",
    "attribute_methods": "interp.attribution.attributing:attribute_methods",
    "attribute_generated": "interp.attribution.attributing:attribute_generated",
    "attribute_pair": "interp.attribution.pairing:attribute_pair",
    "attribute_pairs": "interp.attribution.pairing:attribute_pairs",
    "attention_rollout": "interp.attribution.attending:attention_rollout",
    "attention_flow": "interp.attribution.attending:attention_flow",
    "linear_head": "interp.attribution.heads:linear_head",
    "agreement": "interp.attribution.agreeing:agreement",
    "faithfulness": "interp.attribution.perturbing:faithfulness",
    "recourse": "interp.attribution.endtask:recourse",
    "spurious": "interp.attribution.endtask:spurious",
    "endtask_benchmark": "interp.attribution.endtask:endtask_benchmark",
    "low_signal": "interp.attribution.lowsignal:low_signal",
    "eliminate_features": "interp.attribution.lowsignal:eliminate_features",
    "LowSignalConfig": "interp.attribution.lowsignal:LowSignalConfig",
    "amortize": "interp.attribution.amortising:amortize",
    "ground_truth": "interp.attribution.deciding:ground_truth",
    "unit_relevance": "interp.attribution.pruning:unit_relevance",
    "prune_curve": "interp.attribution.pruning:prune_curve",
    **{
        name: f"interp.attribution.trust_result:{name}"
        for name in (
            "Agreement",
            "Faithfulness",
            "EndTask",
            "LowSignal",
            "Elimination",
            "Amortised",
            "RelevancePruning",
            "GroundTruth",
        )
    },
    "METHODS": "interp.attribution.methods:METHODS",
    "Attribution": f"{_R}:Attribution",
    "GeneratedAttribution": f"{_R}:GeneratedAttribution",
    "PairAttribution": f"{_R}:PairAttribution",
    "AttributionConfig": "interp.attribution.config:AttributionConfig",
    "PairConfig": "interp.attribution.config:PairConfig",
    "TrustConfig": "interp.attribution.config:TrustConfig",
    "Target": f"{_T}:Target",
    "token_logit": f"{_T}:token_logit",
    "token_log_prob": f"{_T}:token_log_prob",
    "logit_difference": f"{_T}:logit_difference",
    "class_score": f"{_T}:class_score",
    "text_loss": f"{_T}:text_loss",
    "activation": f"{_T}:activation",
    "projection": f"{_T}:projection",
    "continuation_log_prob": f"{_T}:continuation_log_prob",
}
__all__ = list(_FACE)
__getattr__, __dir__ = lazy(__name__, _FACE)
