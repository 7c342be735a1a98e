"""Small honest folders to make hostile ones of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORDS = ["<unk>", "<pad>", "the", "cat", "sat", "a", "0", "x"]


def model_folder(folder: Path, *, shards: bool = False, pickled: bool = False) -> Path:
    """A GPT-2 of two layers with its tokenizer, as `save_pretrained` writes it."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(WORDS), n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder, **({"max_shard_size": "4KB"} if shards else {}))
    if pickled:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    tokenizer_files(folder)
    return folder


def tokenizer_files(folder: Path, **rules: Any) -> Path:
    """A word-level tokenizer; `rules` replace parts of tokenizer.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    folder.mkdir(parents=True, exist_ok=True)
    content = json.loads(made.to_str()) | rules
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Change entries of a JSON object in a file; None removes one."""
    content = json.loads(path.read_text())
    content |= changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
