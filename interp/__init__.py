"""Look inside neural networks: named sites in, honest results out, one true picture on one page.

```python
import interp

model = interp.load_model("path/to/folder")
lens = interp.logit_lens(model, "Once upon a time")
lens.plot().show()
interp.report([lens], "lens.html", title="Where the answer emerges")
```

Importing this package imports neither torch nor transformers; a name brings its room when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from interp.core.lazy import lazy
from interp.core.loaders import set_renderer_loader, set_type_loader
from interp.core.version import VERSION

if TYPE_CHECKING:  # the same names again, for editors and type checkers
    from interp.attribution.attributing import attribute, attribute_generated
    from interp.attribution.pairing import attribute_pair
    from interp.core import errors
    from interp.core.activations import Activations
    from interp.core.errors import InterpError
    from interp.core.result import Result
    from interp.lenses.direct import direct_logit_attribution
    from interp.lenses.logit import logit_lens
    from interp.lenses.tuned import train_tuned_lens, tuned_lens
    from interp.models.folding import fold
    from interp.models.hooked import HookedModel
    from interp.models.interventions import (
        add,
        clamp,
        mean,
        patch,
        project_out,
        resample,
        steer,
        zero,
    )
    from interp.models.loading import load_model
    from interp.models.wrapping import wrap
    from interp.reports.page import report
    from interp.tasks.behaviour import measure
    from interp.tasks.files import load_labels, load_task

__version__ = VERSION

_ROOMS = (
    "core", "models", "activations", "tasks", "lenses", "probing", "attribution",
    "dictionaries", "plotting", "reports", "cli",
)  # fmt: skip
_FACE = {
    "load_model": "interp.models:load_model",
    "wrap": "interp.models:wrap",
    "fold": "interp.models:fold",
    "HookedModel": "interp.models:HookedModel",
    "zero": "interp.models:zero",
    "mean": "interp.models:mean",
    "resample": "interp.models:resample",
    "patch": "interp.models:patch",
    "add": "interp.models:add",
    "steer": "interp.models:steer",
    "project_out": "interp.models:project_out",
    "clamp": "interp.models:clamp",
    "load_task": "interp.tasks:load_task",
    "load_labels": "interp.tasks:load_labels",
    "measure": "interp.tasks:measure",
    "attribute": "interp.attribution:attribute",
    "attribute_generated": "interp.attribution:attribute_generated",
    "attribute_pair": "interp.attribution:attribute_pair",
    "logit_lens": "interp.lenses:logit_lens",
    "tuned_lens": "interp.lenses:tuned_lens",
    "train_tuned_lens": "interp.lenses:train_tuned_lens",
    "direct_logit_attribution": "interp.lenses:direct_logit_attribution",
    "report": "interp.reports:report",
    "Activations": "interp.core.activations:Activations",
    "Result": "interp.core.result:Result",
    "InterpError": "interp.core.errors:InterpError",
    "errors": "interp.core.errors",
}
_RESULTS = {  # type name -> module, for Result.load
    "Attribution": "interp.attribution.result",
    "GeneratedAttribution": "interp.attribution.result",
    "PairAttribution": "interp.attribution.result",
    "Agreement": "interp.attribution.trust_result",
    "Faithfulness": "interp.attribution.trust_result",
    "EndTask": "interp.attribution.trust_result",
    "LowSignal": "interp.attribution.trust_result",
    "Elimination": "interp.attribution.trust_result",
    "Amortised": "interp.attribution.trust_result",
    "RelevancePruning": "interp.attribution.trust_result",
    "GroundTruth": "interp.attribution.trust_result",
    "FitReport": "interp.activations.report",
    "InductionHistory": "interp.tasks.induction",
    "TaskReport": "interp.tasks.behaviour",
    "LensResult": "interp.lenses.result",
    "TokenTable": "interp.lenses.tokens_table",
    "AttentionRecord": "interp.lenses.heads_record",
    "HeadDistances": "interp.lenses.heads_distance",
    "SyntaxScores": "interp.lenses.heads_syntax",
    "PairTable": "interp.lenses.weights_pairs",
    "Alignment": "interp.lenses.weights_compare",
    "ClampEffect": "interp.lenses.weights_clamp",
    "ActiveOverlap": "interp.lenses.weights_active",
    "NeuronAgreement": "interp.lenses.weights_compare",
    "HeadAtlas": "interp.lenses.heads_result",
    "WeightHeads": "interp.lenses.heads_weights",
    "Decomposition": "interp.lenses.decomposition",
    "LensScores": "interp.lenses.scores",
    "LensBenchmark": "interp.lenses.benchmark",
    "SecondOrder": "interp.lenses.indirect",
    "NeuronDirections": "interp.lenses.indirect_many",
    "SparseCode": "interp.lenses.indirect_many",
    "SecondOrderAblation": "interp.lenses.indirect_many",
    "AttentionParts": "interp.lenses.positions_attention",
    "PositionContext": "interp.lenses.positions",
    "ClassLensResult": "interp.lenses.classes",
    "DecoderScores": "interp.lenses.decoder_scores",
    "FeatureVectors": "interp.lenses.features",
    "TokenScores": "interp.lenses.features",
    "AmnesicResult": "interp.probing.result",
    "AttentionProbeResult": "interp.probing.result",
    "CodeLengths": "interp.probing.result",
    "ErasureAudit": "interp.probing.result",
    "OptimalSupport": "interp.probing.result",
    "ProbeSweep": "interp.probing.result",
    "PruningCurve": "interp.probing.result",
    "SparseSweep": "interp.probing.result",
    "StructuralResult": "interp.probing.result",
    "EludeResult": "interp.probing.findings",
    "InContextResult": "interp.probing.findings",
    "ClampedWriting": "interp.probing.findings",
    "ContextProbes": "interp.probing.findings",
    "NeuronAblation": "interp.probing.findings",
    "UnitResult": "interp.probing.findings",
    "VInformation": "interp.probing.result",
    "Absorption": "interp.dictionaries.result",
    "DictionaryReport": "interp.dictionaries.result",
    "Recovery": "interp.dictionaries.result",
    "Splitting": "interp.dictionaries.result",
    "Stability": "interp.dictionaries.result",
}
__all__ = [*_FACE, "__version__"]
__getattr__, __dir__ = lazy(__name__, _FACE | {room: f"interp.{room}" for room in _ROOMS})


def _load_renderers(result_type: type) -> None:
    """Bring the pictures of a result type when its first `.plot()` asks for them."""
    from interp.core.errors import MissingDependency

    try:
        from interp.plotting.registry import load_renderers

        load_renderers(result_type)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "plotly":
            raise
        raise MissingDependency(
            f"Drawing a {result_type.__name__} needs plotly.", fix="pip install plotly"
        ) from error


def _load_type(name: str) -> None:
    """Bring the result type that a saved folder names, if it is one of ours."""
    if name in _RESULTS:
        import_module(_RESULTS[name])


set_renderer_loader(_load_renderers)
set_type_loader(_load_type)
