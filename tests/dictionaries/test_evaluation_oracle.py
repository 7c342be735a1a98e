"""Oracle: the figures of sae-lens's evals where the definitions agree, on the same model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from interp.dictionaries import Dictionary, DictionaryConfig, evaluate
from interp.models import wrap
from tests.models.zoo import MAKERS, D, V

SITE = "blocks.1.hook_resid_post"
BOS = 1


class AsTransformerLens:
    """The few calls that sae-lens makes of a HookedTransformer, answered by a `HookedModel`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cfg = SimpleNamespace(device="cpu")

    def __call__(self, tokens: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._both(self.model(tokens), tokens)

    def run_with_hooks(
        self, tokens: torch.Tensor, *, fwd_hooks: Any, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hooks = [(n, lambda value, hook, f=f: f(value, hook=hook)) for n, f in fwd_hooks]
        return self._both(self.model.run_with_hooks(tokens, hooks), tokens)

    def run_with_cache(self, tokens: torch.Tensor, *, names_filter: Any, **_: Any) -> Any:
        return None, {name: self.model.capture(tokens, name)[name] for name in names_filter}

    @staticmethod
    def _both(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        said = logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
        return logits, -said


@torch.no_grad()
def test_the_figures_are_those_of_sae_lens(tmp_path: Path) -> None:
    import sae_lens
    from sae_lens import evals
    from sae_lens.training.activation_scaler import ActivationScaler

    torch.manual_seed(0)
    model = wrap(MAKERS["llama"](transformers).eval())
    model.tokenization.bos_id = BOS
    tokens = torch.randint(3, V, (7, 13))
    tokens[:, 0] = BOS
    tokens[3, 6] = BOS  # a document ends in the middle
    dictionary = Dictionary(DictionaryConfig(d_in=D, d_sae=53, k=5, site_in=SITE))
    dictionary.save(tmp_path / "sae")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae")
    report = evaluate(dictionary, model, tokens)
    store: Any = SimpleNamespace(get_batch_tokens=lambda n: tokens, context_size=13)
    like: Any = AsTransformerLens(model)
    metrics, features = evals.get_sparsity_and_variance_metrics(
        theirs, like, store, ActivationScaler(), 1, True, True, True, True, 7, {}, [BOS]
    )
    ours = {
        "l0": report.l0,
        "l1": report.l1,
        "mse": report.mse,
        "cossim": report.cosine,
        "l2_ratio": report.norm_ratio,
        "explained_variance": report.explained_variance,
        "relative_reconstruction_bias": report.shrinkage,
    }
    for name, value in ours.items():
        assert float(value) == pytest.approx(metrics[name], rel=1e-5), name
    assert abs(metrics["explained_variance_legacy"] - report.explained_variance) > 1e-3
    assert report.density.tolist() == pytest.approx(features["feature_density"], abs=1e-6)
    found = evals.get_downstream_reconstruction_metrics(
        theirs, like, store, ActivationScaler(), True, True, 1, 7, [BOS]
    )
    assert report.loss("intact") == pytest.approx(found["ce_loss_without_sae"], abs=1e-5)
    assert report.loss("spliced") == pytest.approx(found["ce_loss_with_sae"], abs=1e-5)
    # theirs ablates BOS, too, which ours leaves alone
    assert report.loss("zero") != pytest.approx(found["ce_loss_with_ablation"], abs=1e-4)
