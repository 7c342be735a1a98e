"""Tiny random models of every family, with sizes that no axis mix-up survives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

V, D, L, H, KV, DH, M, C = 101, 24, 3, 6, 2, 4, 37, 31
"""Vocabulary, d_model, layers, heads, kv heads, d_head, d_mlp, context."""

_GQA = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": L,
    "num_attention_heads": H,
    "num_key_value_heads": KV,
    "intermediate_size": M,
    "max_position_embeddings": C,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BERT = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": L,
    "num_attention_heads": H,
    "intermediate_size": M,
    "max_position_embeddings": C,
}


def _gpt2(t: Any, **more: Any) -> Any:
    return t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=V, n_embd=D, n_layer=L, n_head=H, n_inner=M, n_positions=C, **more)
    )


def _neox(t: Any, **more: Any) -> Any:
    keep = {k: v for k, v in _GQA.items() if k != "num_key_value_heads"}
    return t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**keep, **more))


def _opt(t: Any, **more: Any) -> Any:
    sizes = {
        "vocab_size": V,
        "hidden_size": D,
        "num_hidden_layers": L,
        "num_attention_heads": H,
        "ffn_dim": M,
    }
    width = {"word_embed_proj_dim": D} | more
    return t.OPTForCausalLM(t.OPTConfig(**sizes, max_position_embeddings=C, **width))


def _t5(t: Any, **more: Any) -> Any:
    sizes = {"vocab_size": V, "d_model": D, "d_kv": 5, "d_ff": M, "num_layers": L, "num_decoder_layers": 2}
    return t.T5ForConditionalGeneration(t.T5Config(**sizes, num_heads=H, decoder_start_token_id=0, **more))


def _gemma(t: Any, kind: str, **more: Any) -> Any:
    config = getattr(t, f"{kind}Config")(**_GQA, head_dim=DH, sliding_window=3, **more)
    return getattr(t, f"{kind.removesuffix('Text')}ForCausalLM")(config)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "gpt2": _gpt2,
    "gpt2-inverse-scale": lambda t: _gpt2(t, scale_attn_by_inverse_layer_idx=True),
    "llama": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**_GQA)),
    "mistral": lambda t: t.MistralForCausalLM(t.MistralConfig(**_GQA, sliding_window=3)),
    "qwen2": lambda t: t.Qwen2ForCausalLM(t.Qwen2Config(**_GQA)),
    "qwen3": lambda t: t.Qwen3ForCausalLM(t.Qwen3Config(**_GQA, head_dim=DH)),
    "phi3": lambda t: t.Phi3ForCausalLM(t.Phi3Config(**_GQA)),
    "neox": _neox,
    "neox-sequential": lambda t: _neox(t, use_parallel_residual=False),
    "gemma2": lambda t: _gemma(t, "Gemma2", query_pre_attn_scalar=7),
    "gemma3": lambda t: _gemma(t, "Gemma3Text", query_pre_attn_scalar=7),
    "opt": _opt,
    "opt-post": lambda t: _opt(t, do_layer_norm_before=False, word_embed_proj_dim=10),
    "bert": lambda t: t.BertForMaskedLM(t.BertConfig(**_BERT)),
    "roberta": lambda t: t.RobertaForMaskedLM(t.RobertaConfig(**_BERT, pad_token_id=1)),
    "distilbert": lambda t: t.DistilBertForMaskedLM(
        t.DistilBertConfig(
            vocab_size=V, dim=D, n_layers=L, n_heads=H, hidden_dim=M, max_position_embeddings=C
        )
    ),
    "t5": _t5,
    "t5-gated": lambda t: _t5(t, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "vit": lambda t: t.ViTForImageClassification(
        t.ViTConfig(
            image_size=12,
            patch_size=4,
            hidden_size=D,
            num_hidden_layers=L,
            num_attention_heads=H,
            intermediate_size=M,
            num_labels=7,
        )
    ),
}

UNREACHED: dict[str, Callable[[Any], Any]] = {
    "gptj": lambda t: t.GPTJForCausalLM(
        t.GPTJConfig(vocab_size=V, n_embd=D, n_layer=L, n_head=H, n_inner=M, n_positions=C, rotary_dim=2)
    ),
    "codegen": lambda t: t.CodeGenForCausalLM(
        t.CodeGenConfig(vocab_size=V, n_embd=32, n_layer=L, n_head=4, n_inner=M, n_positions=C, rotary_dim=2)
    ),
    "gpt-neo": lambda t: t.GPTNeoForCausalLM(
        t.GPTNeoConfig(
            vocab_size=V,
            hidden_size=D,
            num_layers=2,
            num_heads=H,
            intermediate_size=M,
            max_position_embeddings=C,
            attention_types=[[["global", "local"], 1]],
            window_size=3,
        )
    ),
    "bloom": lambda t: t.BloomForCausalLM(t.BloomConfig(vocab_size=V, hidden_size=D, n_layer=L, n_head=H)),
    "falcon": lambda t: t.FalconForCausalLM(
        t.FalconConfig(vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=H)
    ),
    "falcon-new": lambda t: t.FalconForCausalLM(
        t.FalconConfig(
            vocab_size=V,
            hidden_size=D,
            num_hidden_layers=L,
            num_attention_heads=H,
            num_kv_heads=KV,
            new_decoder_architecture=True,
        )
    ),
    "falcon-alibi": lambda t: t.FalconForCausalLM(
        t.FalconConfig(
            vocab_size=V,
            hidden_size=D,
            num_hidden_layers=L,
            num_attention_heads=H,
            alibi=True,
            parallel_attn=False,
            multi_query=False,
        )
    ),
    "mpt": lambda t: t.MptForCausalLM(
        t.MptConfig(vocab_size=V, d_model=32, n_layers=L, n_heads=4, max_seq_len=C)
    ),
}

DECODERS = [k for k in MAKERS if k.split("-")[0] not in ("bert", "roberta", "distilbert", "t5", "vit")]


def make(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A random model of a family, every parameter drawn (norm gains and biases too)."""
    import transformers

    torch.manual_seed(seed)
    model = (MAKERS | UNREACHED)[name](transformers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.to(dtype).eval()


def inputs(model: nn.Module, batch: int = 2, pos: int = 7, seed: int = 0) -> dict[str, torch.Tensor]:
    """Keyword arguments for the raw model."""
    draw = torch.Generator().manual_seed(seed)
    config = model.config
    if config.model_type == "vit":
        dtype = next(model.parameters()).dtype
        return {"pixel_values": torch.randn(batch, 3, 12, 12, generator=draw).to(dtype)}
    ids = torch.randint(5, V, (batch, pos), generator=draw)
    if config.model_type == "t5":
        return {"input_ids": ids, "decoder_input_ids": torch.randint(5, V, (batch, 5), generator=draw)}
    return {"input_ids": ids}
