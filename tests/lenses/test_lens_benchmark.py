"""The lens benchmark: ranks by hand, concepts that are there and concepts that are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import interp
from interp.core.errors import ConfigError, ProvenanceError, StorageError
from interp.core.result import Result
from interp.lenses import LensBenchmark, LensPrompt, TunedLens, benchmark_lenses, load_lens_prompts
from tests.models import zoo

OWN = [
    ("Once upon a", "time"),
    ("The little girl was very", "happy"),
    ("She wanted to", "play"),
    ('He said, "Thank', "you"),
    ("They lived in a big", "house"),
]


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> interp.HookedModel:
    return interp.load_model(shared_data / "models" / "stories260k")


def test_all_prompts_of_the_benchmark_are_read(shared_data: Path) -> None:
    prompts = load_lens_prompts(shared_data / "tasks" / "lens_eval")
    tasks = {prompt.task for prompt in prompts}
    assert tasks == {"association", "multihop", "multilingual", "order-ops", "poetry", "typo"}
    assert len(prompts) > 300 and all(prompt.intermediates for prompt in prompts)
    mars = next(prompt for prompt in prompts if prompt.name == "mars-color")
    assert (mars.target, mars.intermediates) == ("red", ("Mars",))


def test_ranks_by_hand(stories: interp.HookedModel) -> None:
    prompts = [LensPrompt(text, "own", text, (word,)) for text, word in OWN]
    found = benchmark_lenses(stories, prompts)
    text, word = OWN[0]
    lens = interp.logit_lens(stories, text, k=stories.cfg.d_vocab)
    ids = {int(stories.to_tokens(s, prepend_bos=False)[0, 0]) for s in (f" {word}", word)}
    blank = {i for i in ids if not stories.to_string([i]).strip()}
    for row in range(len(found.components)):
        order = lens.ids_top[row]
        expected = (
            min(int((order[p] == i).nonzero()[0]) for p in range(len(order)) for i in ids - blank)
            if ids - blank
            else None
        )
        if expected is not None:
            assert int(found.rank[0, row, 0]) <= expected
    assert found.items[0] == text and found.skipped == ()


def test_what_the_model_is_about_to_say_is_seen_and_another_prompts_word_less(
    stories: interp.HookedModel, tmp_path: Path
) -> None:
    prompts = [LensPrompt(text, "own", text, (word,)) for text, word in OWN]
    found = benchmark_lenses(stories, prompts, {"same": TunedLens.identity(stories)})
    seen, control = found.seen(5), found.seen_control(5)
    assert float(seen[0, -1]) >= 0.8 and float(seen[0, -1] - control[0, -1]) >= 0.4
    assert torch.equal(found.rank[0], found.rank[1])  # an untrained lens is the logit lens
    null = benchmark_lenses(stories.randomised(0), prompts)
    assert float((null.seen(5) - null.seen_control(5)).abs().max()) <= 0.4
    found.save(tmp_path / "it")
    again = Result.load(tmp_path / "it")
    assert isinstance(again, LensBenchmark) and torch.equal(again.rank, found.rank)
    assert len(again.plot(k=5).data) == 4


@pytest.mark.full
def test_the_benchmark_runs_on_a_real_model(stories: interp.HookedModel, shared_data: Path) -> None:
    prompts = load_lens_prompts(shared_data / "tasks" / "lens_eval")
    found = benchmark_lenses(stories, prompts)
    assert len(found.items) + len(found.skipped) == len(prompts)
    # A 260 k model of children's stories knows no such concepts: seen as often as the control.
    gap = (found.seen(10) - found.seen_control(10)).abs().max()
    assert float(gap) < 0.15, found.seen(10)


def test_bad_requests_are_explained(stories: interp.HookedModel, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no prompts"):
        load_lens_prompts(tmp_path)
    (tmp_path / "lens-eval-x.json").write_text('{"items": [{"name": "a"}]}')
    with pytest.raises(StorageError, match="not of this form"):
        load_lens_prompts(tmp_path)
    items = '{"name": "a", "prompt": "b", "intermediates": ["c"]}, {"name": "d", "prompt": "e"}'
    (tmp_path / "lens-eval-x.json").write_text(f'{{"items": [{items}]}}')
    with pytest.raises(ConfigError, match=r"items\[1\].intermediates: missing"):
        load_lens_prompts(tmp_path)
    gpt2 = interp.wrap(zoo.make("gpt2"))
    prompt = LensPrompt("a", "t", "a b", ("c",))
    with pytest.raises(ConfigError, match="needs prompts"):
        benchmark_lenses(gpt2, [prompt])
    with pytest.raises(ConfigError, match="needs prompts"):
        benchmark_lenses(stories, [])
    with pytest.raises(ProvenanceError):
        benchmark_lenses(stories, [prompt], {"other": TunedLens.identity(gpt2)})
    found = benchmark_lenses(stories, [prompt, prompt])
    with pytest.raises(ConfigError, match="no prompt is of this task"):
        found.seen(task="u")
