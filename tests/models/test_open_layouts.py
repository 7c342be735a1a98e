"""Folders as transformers itself writes them: sharded, tied, with and without what lies beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import interp
from interp.core.errors import InterpError
from tests.models import kinds
from tests.models.kinds import FULL
from tests.models.test_open_stacks import given, main

PUSH = ["gemma:tied", "gpt-oss:sinks", "whisper:speech", "clip:both", "mamba:plain"]
MORE = ["mixtral:top-2", "olmo2:gqa", "bart:scaled", "umt5:gated", "modernbert:local", "albert:shared"]
MORE += ["deit:classes", "dinov3:plain", "granite:multiplied", "gpt-bigcode:multi-query", "m2m-100:scaled"]


def saved(name: str, folder: Path) -> tuple[Any, Any]:
    """(the raw model, inputs), with its folder in shards."""
    raw: Any = kinds.make(name)
    raw.save_pretrained(folder, max_shard_size="20KB")
    return raw, given(raw, torch.float32)


@pytest.mark.parametrize("name", PUSH + MORE if FULL else PUSH)
def test_what_save_pretrained_writes_reads_back_equal(name: str, tmp_path: Path) -> None:
    raw, inputs = saved(name, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1  # sharded
    assert (tmp_path / "model.safetensors.index.json").is_file()
    model = interp.load_model(tmp_path)
    expected = main(interp.wrap(raw)(inputs))  # the last bits depend on where tensors lie
    assert torch.allclose(main(model(inputs)), expected, atol=1e-5)
    assert (
        set(model.sites) == set(interp.wrap(raw).sites)
        and model.fingerprint() == interp.wrap(raw).fingerprint()
    )
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    again = interp.load_model(tmp_path)
    assert torch.allclose(main(again(inputs)), expected, atol=1e-5)


def test_tied_heads_are_one_tensor_again(tmp_path: Path) -> None:
    saved("gemma:tied", tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert "lm_head.weight" not in index["weight_map"]
    module: Any = interp.load_model(tmp_path).module
    assert module.lm_head.weight is module.model.embed_tokens.weight


def test_a_chat_template_comes_along(tmp_path: Path) -> None:
    saved("gemma:tied", tmp_path)
    words = {f"w{i}": i for i in range(kinds.V)}
    from tokenizers import Tokenizer, models, pre_tokenizers

    core = Tokenizer(models.WordLevel({**words, "<unk>": len(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    held: Any = interp.load_model(tmp_path).tokenizer
    said = held.apply_chat_template([{"role": "user", "content": "w7"}], tokenize=False)
    assert said.split() == ["user", "w7"]


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_device_map_computes_the_same(place: str, tmp_path: Path) -> None:
    raw, inputs = saved("gemma:tied", tmp_path / "model")
    parts = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    parts |= {f"model.layers.{i}": place if i == 1 else "cpu" for i in range(3)}
    more = {"offload_folder": str(tmp_path / "offload")} if place == "disk" else {}
    model = interp.load_model(tmp_path / "model", device_map=parts, **more)
    output, acts = model.run_with_cache(inputs)
    with torch.no_grad():
        assert torch.allclose(output, raw(**inputs).logits, atol=1e-5)
    alone = interp.wrap(raw).run_with_cache(inputs)[1]
    for site in ("blocks.1.hook_resid_mid", "blocks.1.attn.hook_pattern", "blocks.2.attn.hook_z"):
        assert torch.allclose(acts[site], alone[site], atol=1e-5), site
    if place == "disk":
        with pytest.raises(InterpError, match="offload"):
            _ = model.W_Q
    else:
        assert torch.equal(model.W_Q, interp.wrap(raw).W_Q)


@pytest.mark.parametrize("bits", [4, 8])
def test_what_a_library_must_read_is_refused_in_one_line_without_it(bits: int, tmp_path: Path) -> None:
    """bitsandbytes is no dependency: its layouts need it, and say so before weights are read."""
    saved("gemma:tied", tmp_path)
    config = transformers.BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    with pytest.raises(InterpError, match="bitsandbytes") as told:
        interp.load_model(tmp_path, quantization_config=config)
    assert "\n" not in str(told.value).split("\n  ")[0] and "Traceback" not in str(told.value)
