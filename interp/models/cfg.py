"""The model's numbers, under HookedTransformerConfig's field names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every analysis may ask about a model. Sizes that do not exist are 0.

    Attributes:
        model_name: Folder, hub or class name.
        family: Row of the architecture table, e.g. "Llama"; "module" for any other nn.Module.
        n_layers: Blocks (T5: encoder blocks; `n_decoder_layers` beside it).
        d_model: Width of the residual stream.
        n_heads, n_kv_heads, d_head: Attention heads, key/value heads (GQA), width of a head.
        d_mlp: Neurons per MLP.
        d_vocab, d_vocab_out: Input tokens; logits per position.
        n_ctx: Longest sequence, 0 when unbounded.
        act_fn: Name of the MLP nonlinearity.
        normalization_type: "LN", "RMS" or None.
        positional: "standard", "rotary", "relative" or "alibi".
        style: "pre", "post" (norm after the sum) or "parallel" (attention beside the MLP).
        causal: Whether a position sees only itself and earlier ones.
        attn_only: No MLPs.
        gated_mlp: SwiGLU and kin.
        final_softcap: Soft cap on the logits (Gemma-2), 0 for none.
        default_prepend_bos: What `to_tokens` does when not told.
        dtype, device: Of the parameters, as text.
    """

    model_name: str = ""
    family: str = "module"
    n_layers: int = 0
    n_decoder_layers: int = 0
    d_model: int = 0
    n_heads: int = 0
    n_kv_heads: int = 0
    d_head: int = 0
    d_mlp: int = 0
    d_vocab: int = 0
    d_vocab_out: int = 0
    n_ctx: int = 0
    act_fn: str = ""
    normalization_type: str | None = None
    positional: str = ""
    style: str = ""
    causal: bool = False
    attn_only: bool = False
    gated_mlp: bool = False
    final_softcap: float = 0.0
    default_prepend_bos: bool | None = None
    dtype: str = ""
    device: str = ""

    @property
    def parallel_attn_mlp(self) -> bool:
        """TransformerLens's flag for attention and MLP side by side."""
        return self.style == "parallel"
