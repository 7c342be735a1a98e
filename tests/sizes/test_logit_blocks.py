"""Logits in blocks: the same numbers as all at once, and memory that does not grow with the text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import interp
from interp.core.errors import TokenError
from interp.dictionaries import Dictionary, DictionaryConfig, FinetuneConfig, evaluate, finetune
from interp.dictionaries.scores.config import EvaluationConfig
from interp.lenses import score_lenses
from interp.models.stream import blocks
from tests.models import zoo
from tests.support.allocations import peak_bytes

SITE = "blocks.1.hook_resid_post"
BLOCK = 2**20


def model_of(vocabulary: int, n_ctx: int = 512, layers: int = 3) -> interp.HookedModel:
    """GPT-2's shape: nearly all of it is vocabulary."""
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_embd=16,
        n_layer=layers,
        n_head=2,
        n_positions=n_ctx,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    return interp.wrap(transformers.GPT2LMHeadModel(config).eval().requires_grad_(False))


def dictionary_of(model: interp.HookedModel, site: str = SITE) -> Dictionary:
    made = Dictionary(DictionaryConfig(d_in=model.cfg.d_model, d_sae=37, k=5, site_in=site), seed=1)
    made.provenance = model.provenance([site], d_in=model.cfg.d_model)
    return made


def ids_of(model: interp.HookedModel, rows: int, length: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(3, model.cfg.d_vocab, (rows, length), generator=draw)


def lens_numbers(found: Any) -> dict[str, Tensor]:
    names = ("probs_top", "ids_top", "entropy", "kl", "target_prob", "target_rank")
    return {name: getattr(found, name) for name in names}


# --- identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bert", "t5"])
@pytest.mark.parametrize("target", [None, 7, "each"])
def test_a_lens_reads_the_same_in_blocks(family: str, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = interp.wrap(zoo.make(family))
    ids: Any = torch.randint(5, zoo.V, (1, 9), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :6]} if family == "t5" else ids
    aim = list(range(5, 11 if family == "t5" else 14)) if target == "each" else target
    whole = interp.logit_lens(model, given, target=aim)
    monkeypatch.setattr(blocks, "BLOCK", 3 * zoo.V * 4)  # three positions
    parts = interp.logit_lens(model, given, target=aim)
    for name, value in lens_numbers(whole).items():
        torch.testing.assert_close(lens_numbers(parts)[name], value, rtol=1e-5, atol=1e-6)
    assert parts.targets == whole.targets and parts.check().ok


@pytest.mark.thin(3)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "t5"])
@pytest.mark.parametrize("positions", [None, -1, [1, 3]])
def test_a_decomposition_reads_the_same_in_blocks(
    family: str, positions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = interp.wrap(zoo.make(family))
    ids: Any = torch.randint(5, zoo.V, (1, 9), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :6]} if family == "t5" else ids
    n = (6 if family == "t5" else 9) if positions is None else 2 if isinstance(positions, list) else 1
    each = torch.arange(5, 5 + n)
    targets = [None, 7, (7, 9), ([7, 8], [9]), each, each.tolist(), (each, each + 1), torch.randn(zoo.V)]
    whole = [interp.direct_logit_attribution(model, given, t, positions=positions) for t in targets]
    monkeypatch.setattr(blocks, "BLOCK", 2 * zoo.V * 4)  # two positions
    for target, one in zip(targets, whole, strict=True):
        found = interp.direct_logit_attribution(model, given, target, positions=positions)
        for name in ("values", "total", "output"):
            torch.testing.assert_close(getattr(found, name), getattr(one, name), rtol=1e-5, atol=1e-5)
        assert (found.targets, found.reading, found.positions) == (one.targets, one.reading, one.positions)
        assert found.check().ok
    with pytest.raises(TokenError, match=r"(?s)12 of them.*1 or " + str(n)):
        interp.direct_logit_attribution(model, given, torch.arange(12), positions=positions)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_real_token_is_checked_against_the_model(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where most logits are not made, the lens is still held to the model's own where they are."""
    model = interp.wrap(zoo.make("gpt2"))
    ids = torch.randint(5, zoo.V, (1, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, [0, 1] if side == "left" else [7, 8]] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    whole = interp.logit_lens(model, given)
    monkeypatch.setattr(blocks, "BLOCK", zoo.V * 4)
    torch.testing.assert_close(interp.logit_lens(model, given).kl, whole.kl, rtol=1e-5, atol=1e-6)
    seen: list[Any] = []

    def louder(module: Any, args: Any, output: Any) -> Any:
        seen.append(output.logits.shape)
        output.logits = output.logits * 1.5
        return output

    model.module.register_forward_hook(louder)  # behind what was proved at load
    assert not interp.logit_lens(model, given).check().ok
    assert seen[0][1] == 1


def test_edits_are_seen_in_every_logit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit behind the last stream changes what the model says, so its logits are all made."""
    model = interp.wrap(zoo.make("gpt2"))
    ids = torch.randint(5, zoo.V, (1, 9), generator=torch.Generator().manual_seed(0))

    def shift(value: Tensor, hook: Any) -> Tensor:
        return value + 1.0

    edits = [("ln_final.hook_normalized", shift)]
    whole = interp.logit_lens(model, ids, fwd_hooks=edits)
    monkeypatch.setattr(blocks, "BLOCK", zoo.V * 4)
    torch.testing.assert_close(
        interp.logit_lens(model, ids, fwd_hooks=edits).kl, whole.kl, rtol=1e-5, atol=1e-6
    )
    assert float(whole.kl[-1].min()) > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("site", [SITE, "blocks.0.hook_mlp_out"])
def test_evaluation_and_finetuning_are_the_same_in_blocks(
    family: str, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = interp.wrap(zoo.make(family))
    ids = torch.randint(5, zoo.V, (5, 11), generator=torch.Generator().manual_seed(0))
    made = dictionary_of(model, site)

    def figures() -> tuple[Any, Any]:
        report = evaluate(made, model, ids)
        tuned, run = finetune(made, model, ids, FinetuneConfig(steps=2, batch_sequences=4))
        return report, (tuned.W_dec.detach(), run.series("kl")[1])

    report, (tuned, kl) = figures()
    monkeypatch.setattr(blocks, "BLOCK", 4 * zoo.V * 4)
    in_blocks, (again, kl_again) = figures()
    assert in_blocks.summary() == pytest.approx(report.summary(), rel=1e-5, abs=1e-7)
    torch.testing.assert_close(again, tuned, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.tensor(kl_again), torch.tensor(kl), rtol=1e-4, atol=1e-6)


def test_a_dictionary_behind_the_last_stream_is_evaluated_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = interp.wrap(zoo.make("gpt2"))
    ids = torch.randint(5, zoo.V, (3, 9), generator=torch.Generator().manual_seed(0))
    made = dictionary_of(model, "ln_final.hook_normalized")
    whole = evaluate(made, model, ids).summary()
    monkeypatch.setattr(blocks, "BLOCK", zoo.V * 4)
    assert evaluate(made, model, ids).summary() == pytest.approx(whole, rel=1e-5, abs=1e-7)
    assert whole["kl_spliced"] > 1e-3


# --- bounds ------------------------------------------------------------------------------------


def peaks(run: Any, lengths: tuple[int, ...] = (64, 256)) -> list[int]:
    run(lengths[0])  # what is made once
    return [peak_bytes(lambda n=n: run(n)) for n in lengths]


def test_a_lens_holds_a_few_blocks_whatever_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    model = model_of(20_000)
    few, many = peaks(lambda n: interp.logit_lens(model, ids_of(model, 1, n)))
    assert few < 6 * BLOCK and many < 6.5 * BLOCK  # all logits of 256 tokens are 20 blocks


def test_a_decomposition_holds_a_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    model = model_of(20_000)
    few, many = peaks(lambda n: interp.direct_logit_attribution(model, ids_of(model, 1, n), 7))
    assert few < 9 * BLOCK and many < 10 * BLOCK


def test_scores_of_lenses_hold_a_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    model = model_of(20_000)
    few, many = peaks(lambda n: score_lenses(model, ids_of(model, 4, n)))
    assert few < 6 * BLOCK and many < 7 * BLOCK


def test_evaluation_holds_a_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    model = model_of(20_000)
    made = dictionary_of(model)
    config = EvaluationConfig(batch_sequences=4)
    few, many = peaks(lambda n: evaluate(made, model, ids_of(model, 4, n), config))
    assert few < 8 * BLOCK and many < 10 * BLOCK


def test_finetuning_holds_a_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    model = model_of(20_000)
    made = dictionary_of(model)
    config = FinetuneConfig(steps=1, batch_sequences=4)
    few, many = peaks(lambda n: finetune(made, model, ids_of(model, 4, n), config))
    assert few < 10 * BLOCK and many < 12 * BLOCK


@pytest.mark.full
def test_the_bounds_of_a_large_vocabulary() -> None:
    """[1, pos, d_vocab] is 250 MiB: a lens holds .7 of it, evaluation and finetuning as little."""
    model = model_of(128_000)
    table = 512 * 128_000 * 4
    made = dictionary_of(model)
    ids = ids_of(model, 2, 512)
    lens = peak_bytes(lambda: interp.logit_lens(model, ids[:1]))
    judged = peak_bytes(lambda: evaluate(made, model, ids, EvaluationConfig(batch_sequences=2)))
    config = FinetuneConfig(steps=1, batch_sequences=2)
    tuned = peak_bytes(lambda: finetune(made, model, ids, config))
    assert lens < 0.8 * table and judged < 1.5 * table and tuned < 3 * table, asdict(made.config)
