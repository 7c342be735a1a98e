"""Named neurons taken away in the model: one language suffers, the other does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import interp
from interp.core.errors import ConfigError, InterpError, SiteError
from interp.models.text.batch import TokenBatch
from interp.probing.ablating import Replacement, ablate_neurons
from interp.probing.config import SparseConfig
from interp.probing.sparse import sparse_sweep
from tests.probing.languages import texts, trained
from tests.probing.rows import small

SITE = "blocks.0.mlp.hook_post"


def named(model: interp.HookedModel, seed: int) -> tuple[Any, dict[str, TokenBatch], float]:
    """The k = 1 probe's neuron, held-out texts by language, and its F1."""
    ids, language = texts(300, seed, -1)
    rows = model.capture(ids, SITE)[SITE][:, 1:]
    flat = language[:, None].expand(-1, rows.shape[1]).flatten()
    groups = torch.arange(300)[:, None].expand(-1, rows.shape[1]).flatten()
    config = SparseConfig(ks=(1,), n_shuffles=0)
    sweep = sparse_sweep({SITE: rows.flatten(0, 1)}, flat, config, groups=groups)
    _, neurons, f1 = sweep.best(1)
    parts = {str(i): TokenBatch.of(ids[language == i]) for i in (0, 1)}
    return neurons, parts, f1


def test_the_neuron_of_a_language_serves_that_language(full_count: bool) -> None:
    for seed in range(3 if full_count else 1):
        model = trained(seed)
        neurons, parts, f1 = named(model, seed)
        found = ablate_neurons(model, parts, SITE, neurons, n_random=12)
        effect, others = found.effect, found.random_effects.mean(0)
        figures = f"F1 {f1:.3f}, effect {effect.tolist()}, others {others.tolist()}"
        assert f1 > 0.75, figures
        assert float(effect.max()) > 0.02, figures
        assert float(effect.max()) >= 5 * abs(float(effect.min())), figures
        assert float(others.max()) < 5 * float(others.min()), figures  # they serve both


def test_ablation_is_what_a_hook_would_do() -> None:
    model = interp.wrap(small(d_vocab=23))
    ids = torch.randint(23, (7, 11))
    parts = {"a": TokenBatch.of(ids[:3]), "b": TokenBatch.of(ids[3:])}
    acts = model.capture(ids, SITE)[SITE]
    average = acts.flatten(0, 1).mean(0)
    cases: list[tuple[Replacement, Tensor]] = [("zero", torch.zeros(37)), ("mean", average)]
    for replacement, value in cases:

        def edit(old: Tensor, hook: Any, value: Tensor = value) -> Tensor:
            new = old.clone()
            new[..., [3, 5]] = value[[3, 5]]
            return new

        found = ablate_neurons(model, parts, SITE, (3, 5), replacement=replacement, n_random=2)
        with torch.no_grad():
            logits = model.run_with_hooks(ids[:3], [(SITE, edit)])
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:3, 1:].flatten())
        assert float(found.ablated[:3].mean()) == pytest.approx(float(loss), abs=1e-5)
        assert float(found.intact[:3].mean()) != pytest.approx(float(loss), abs=1e-5)
        rise = float((found.ablated[:3] - found.intact[:3]).mean())
        assert float(found.effect[0]) == pytest.approx(rise, abs=1e-6)
        assert found.random_effects.shape == (2, 2) and found.groups == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"texts": {}}, ConfigError, "texts and one site"),
        ({"site": "blocks.*.mlp.hook_post"}, ConfigError, "one site"),
        ({"site": "blocks.0.mlp.hook_pst"}, SiteError, "hook_post"),
        ({"neurons": (37,)}, ConfigError, "neurons to ablate"),
        ({"neurons": ()}, ConfigError, "neurons to ablate"),
        ({"neurons": range(30)}, ConfigError, "as many others"),
        ({"replacement": "median"}, ConfigError, "replacement"),
    ],
)
def test_bad_requests_are_explained(change: Any, kind: type[InterpError], words: str) -> None:
    model = interp.wrap(small(d_vocab=23))
    batch = {"a": TokenBatch.of(torch.zeros(2, 5, dtype=torch.int64))}
    given = {"texts": batch, "site": SITE, "neurons": (1,), "replacement": "zero"} | change
    plain = getattr(ablate_neurons, "__wrapped__", ablate_neurons)  # past the type checker
    with pytest.raises(kind, match=words):
        plain(model, given["texts"], given["site"], given["neurons"], replacement=given["replacement"])
