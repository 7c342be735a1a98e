"""Lenses: what every layer would say if the model stopped there.

```python
lens = interp.logit_lens(model, "Once upon a time")
lens.plot()                  # layer x position, top-1 token in every cell
lens.check()                 # the last row is the model's own output
```
"""

from __future__ import annotations

from interp.core.lazy import lazy

_FACE = {
    "logit_lens": "interp.lenses.logit:logit_lens",
    "LensResult": "interp.lenses.result:LensResult",
    "LensConfig": "interp.lenses.config:LensConfig",
    "direct_logit_attribution": "interp.lenses.direct:direct_logit_attribution",
    "observable": "interp.lenses.readout:observable",
    "Decomposition": "interp.lenses.decomposition:Decomposition",
    "tuned_lens": "interp.lenses.tuned:tuned_lens",
    "train_tuned_lens": "interp.lenses.tuned:train_tuned_lens",
    "TunedLens": "interp.lenses.tuned:TunedLens",
    "TunedLensConfig": "interp.lenses.config:TunedLensConfig",
    "score_lenses": "interp.lenses.scores:score_lenses",
    "LensScores": "interp.lenses.scores:LensScores",
    "decoder_lens": "interp.lenses.decoder:decoder_lens",
    "score_decoder_lens": "interp.lenses.decoder:score_decoder_lens",
    "encoder_decoder": "interp.lenses.decoder:encoder_decoder",
    "EncoderDecoder": "interp.lenses.decoder:EncoderDecoder",
    "DecoderScores": "interp.lenses.decoder_scores:DecoderScores",
    "class_lens": "interp.lenses.classes:class_lens",
    "identifiability": "interp.lenses.classes:identifiability",
    "ClassLensResult": "interp.lenses.classes:ClassLensResult",
    "position_context": "interp.lenses.positions:position_context",
    "decompose_positions": "interp.lenses.positions:decompose_positions",
    "PositionContext": "interp.lenses.positions:PositionContext",
    "attention_parts": "interp.lenses.positions_attention:attention_parts",
    "AttentionParts": "interp.lenses.positions_attention:AttentionParts",
    "second_order": "interp.lenses.indirect:second_order",
    "second_order_directions": "interp.lenses.indirect:second_order_directions",
    "SecondOrder": "interp.lenses.indirect:SecondOrder",
    "neuron_directions": "interp.lenses.indirect_many:neuron_directions",
    "sparse_code": "interp.lenses.indirect_many:sparse_code",
    "ablate_second_order": "interp.lenses.indirect_many:ablate_second_order",
    "NeuronDirections": "interp.lenses.indirect_many:NeuronDirections",
    "SparseCode": "interp.lenses.indirect_many:SparseCode",
    "SecondOrderAblation": "interp.lenses.indirect_many:SecondOrderAblation",
    "benchmark_lenses": "interp.lenses.benchmark:benchmark_lenses",
    "load_lens_prompts": "interp.lenses.benchmark:load_lens_prompts",
    "LensBenchmark": "interp.lenses.benchmark:LensBenchmark",
    "LensPrompt": "interp.lenses.benchmark:LensPrompt",
    "propagate": "interp.lenses.propagation:propagate",
    "path_vectors": "interp.lenses.propagation:path_vectors",
    "score_tokens": "interp.lenses.propagation:score_tokens",
    "coupling": "interp.lenses.features:coupling",
    "FeatureVectors": "interp.lenses.features:FeatureVectors",
    "TokenScores": "interp.lenses.features:TokenScores",
    "TokenTable": "interp.lenses.tokens_table:TokenTable",
    "TokenTableConfig": "interp.lenses.config:TokenTableConfig",
    "neuron_atlas": "interp.lenses.weights:neuron_atlas",
    "read_directions": "interp.lenses.weights:read_directions",
    "read_weights": "interp.lenses.weights:read_weights",
    "ActiveOverlap": "interp.lenses.weights_active:ActiveOverlap",
    "active_overlap": "interp.lenses.weights_active:active_overlap",
    "AttentionRecord": "interp.lenses.heads_record:AttentionRecord",
    "record_attention": "interp.lenses.heads_record:record_attention",
    "HeadDistances": "interp.lenses.heads_distance:HeadDistances",
    "SyntaxScores": "interp.lenses.heads_syntax:SyntaxScores",
    "head_distances": "interp.lenses.heads_distance:head_distances",
    "syntax_scores": "interp.lenses.heads_syntax:syntax_scores",
    "PairTable": "interp.lenses.weights_pairs:PairTable",
    "read_pairs": "interp.lenses.weights_pairs:read_pairs",
    "Alignment": "interp.lenses.weights_compare:Alignment",
    "ClampEffect": "interp.lenses.weights_clamp:ClampEffect",
    "NeuronAgreement": "interp.lenses.weights_compare:NeuronAgreement",
    "align_models": "interp.lenses.weights_compare:align_models",
    "clamp_neuron": "interp.lenses.weights_clamp:clamp_neuron",
    "compare_tables": "interp.lenses.weights_compare:compare_tables",
    "run_stitched": "interp.lenses.weights_compare:run_stitched",
    "stitch_kernel": "interp.lenses.weights_compare:stitch_kernel",
    "HeadAtlas": "interp.lenses.heads_result:HeadAtlas",
    "HeadAtlasConfig": "interp.lenses.config:HeadAtlasConfig",
    "WeightHeads": "interp.lenses.heads_weights:WeightHeads",
    "head_atlas": "interp.lenses.heads:head_atlas",
    "heads_from_weights": "interp.lenses.heads_weights:heads_from_weights",
}
__all__ = list(_FACE)
__getattr__, __dir__ = lazy(__name__, _FACE)
