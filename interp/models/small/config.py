"""The small transformer's configuration, read from `hooked_transformer.json`; stdlib only.

Fields carry HookedTransformerConfig's names and defaults (transformer-lens 3.9), so the same file
describes the same model there and here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from interp.core.errors import ConfigError
from interp.core.names import did_you_mean

NORMALISATIONS = ("LN", "LNPre", "RMS", "RMSPre", None)
ACTIVATIONS = tuple(
    """
    relu relu2 gelu gelu_new gelu_fast gelu_pytorch_tanh silu solu solu_ln
    """.split()
)
POSITIONS = ("standard", "rotary")
DIRECTIONS = ("causal", "bidirectional")
DTYPES = ("float32", "float64", "float16", "bfloat16")

# HookedTransformerConfig fields that say nothing about what the forward pass computes.
BOOKKEEPING = frozenset(
    set(
        """
        model_name device n_devices seed init_mode init_weights n_params tokenizer_name
        tokenizer_prepends_bos from_checkpoint checkpoint_index checkpoint_label_type
        checkpoint_value trust_remote_code use_attn_in use_hook_mlp_in use_hook_tokens
        use_split_qkv_input uses_rms_norm layer_norm_folding decoder_start_token_id
        ungroup_grouped_query_attention train_seq_length norm_topk_prob window_size attn_types
        rotary_base_local quantization_method NTK_by_parts_low_freq_factor
        NTK_by_parts_high_freq_factor NTK_by_parts_factor NTK_original_ctx_len yarn_factor
        yarn_attention_factor yarn_beta_fast yarn_beta_slow yarn_original_max_position_embeddings
        yarn_truncate yarn_global_attn_only relative_attention_max_distance
        relative_attention_num_buckets
    """.split()
    )
)

# Fields that change the computation and are not implemented: only these values pass.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "n_key_value_heads": (None,),
    "parallel_attn_mlp": (False,),
    "use_local_attn": (False,),
    "use_qk_norm": (False,),
    "clip_qkv": (None,),
    "use_logn_attn": (False,),
    "use_dynamic_ntk_rope": (False,),
    "use_NTK_by_parts_rope": (False,),
    "use_yarn_rope": (False,),
    "rotary_scaling_factor": (1.0,),
    "use_attention_sinks": (False,),
    "use_normalization_before_and_after": (False,),
    "attn_scores_soft_cap": (-1.0, 0.0, None),
    "output_logits_soft_cap": (-1.0, 0.0, None),
    "num_experts": (None,),
    "experts_per_token": (None,),
    "load_in_4bit": (False,),
    "post_embedding_ln": (False,),
    "tie_word_embeddings": (False,),
    "original_architecture": (None,),
}


@dataclass(frozen=True)
class SmallConfig:
    """Shape and arithmetic of a `SmallTransformer`.

    Raises ConfigError when a size is not positive, a choice is not among those offered, or a
    combination is impossible (rotary without a position table, softmax-linear units with a gate).
    """

    n_layers: int
    """Number of transformer blocks."""
    d_model: int
    """Width of the residual stream."""
    n_ctx: int
    """Longest sequence, in tokens."""
    d_head: int
    """Width of one attention head."""
    d_vocab: int
    """Number of input token ids."""
    n_heads: int = -1
    """Attention heads per layer; -1 means d_model // d_head."""
    d_mlp: int | None = None
    """Hidden width of the MLP; None means 4 * d_model."""
    d_vocab_out: int = -1
    """Number of output classes; -1 means d_vocab."""
    act_fn: str = "relu"
    """MLP activation, one of `ACTIVATIONS`."""
    eps: float = 1e-5
    """Added to the variance inside every norm."""
    normalization_type: str | None = "LN"
    """LN, RMS, their weightless forms LNPre and RMSPre, or None."""
    final_rms: bool = False
    """Use an RMS norm before the unembedding although the blocks use layer norm."""
    attn_only: bool = False
    """Leave out every MLP."""
    gated_mlp: bool = False
    """MLP computes act(x W_gate) * (x W_in) instead of act(x W_in)."""
    attention_dir: str = "causal"
    """causal or bidirectional."""
    use_attn_scale: bool = True
    """Divide attention scores by attn_scale; otherwise by 1."""
    attn_scale: float = -1.0
    """Divisor of the attention scores; -1 means sqrt(d_head)."""
    scale_attn_by_inverse_layer_idx: bool = False
    """Divide attention scores further by layer + 1."""
    positional_embedding_type: str = "standard"
    """standard (a learned vector added per position) or rotary."""
    rotary_dim: int | None = None
    """How many of d_head dimensions are rotated; None means all."""
    rotary_base: float = 10000.0
    """Base of the geometric series of rotary wavelengths."""
    rotary_adjacent_pairs: bool = False
    """Rotate neighbouring dimensions together (GPT-J) rather than halves (GPT-NeoX)."""
    use_attn_result: bool = False
    """Always compute per-head outputs; otherwise only when `hook_result` is hooked."""
    initializer_range: float = -1.0
    """Standard deviation of initial weights; -1 means 0.8 / sqrt(d_model)."""
    default_prepend_bos: bool = True
    """Whether text is tokenised with a beginning-of-sequence token."""
    dtype: str = "float32"
    """Floating type of the parameters."""

    def __post_init__(self) -> None:
        fill = object.__setattr__
        for name in ("n_layers", "d_model", "n_ctx", "d_head", "d_vocab"):
            _require(self._positive(name), name, getattr(self, name), "a positive integer")
        if self.n_heads == -1:
            divides = self.d_model % self.d_head == 0
            _require(divides, "d_head", self.d_head, f"a divisor of d_model = {self.d_model}")
            fill(self, "n_heads", self.d_model // self.d_head)
        if self.d_mlp is None:
            fill(self, "d_mlp", 4 * self.d_model)
        if self.d_vocab_out == -1:
            fill(self, "d_vocab_out", self.d_vocab)
        if self.attn_scale == -1.0:
            fill(self, "attn_scale", math.sqrt(self.d_head))
        if self.initializer_range < 0:
            fill(self, "initializer_range", 0.8 / math.sqrt(self.d_model))
        if self.positional_embedding_type == "rotary" and self.rotary_dim is None:
            fill(self, "rotary_dim", self.d_head)
        self._check()

    def _positive(self, name: str) -> bool:
        value = getattr(self, name)
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    def _check(self) -> None:
        for name in ("n_heads", "d_mlp", "d_vocab_out"):
            _require(self._positive(name), name, getattr(self, name), "a positive integer")
        for name, choices in (
            ("normalization_type", NORMALISATIONS),
            ("act_fn", ACTIVATIONS),
            ("positional_embedding_type", POSITIONS),
            ("attention_dir", DIRECTIONS),
            ("dtype", DTYPES),
        ):
            value = getattr(self, name)
            _require(value in choices, name, value, "one of " + ", ".join(map(str, choices)))
        _require(
            not (self.gated_mlp and self.act_fn == "solu_ln"),
            "gated_mlp",
            True,
            "False with act_fn = solu_ln, whose norm has no place in a gated MLP",
        )
        rotary = self.rotary_dim
        if self.positional_embedding_type == "rotary" and rotary is not None:
            fits = 0 < rotary <= self.d_head and rotary % 2 == 0
            _require(fits, "rotary_dim", rotary, f"even and at most d_head = {self.d_head}")
        _require(self.eps >= 0, "eps", self.eps, "zero or more")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SmallConfig:
        """The configuration described by HookedTransformerConfig fields.

        Raises ConfigError for a field HookedTransformerConfig does not have (with suggestions), a
        missing required field, and a field whose value asks for what is not implemented here.
        """
        if not isinstance(raw, Mapping):
            raise ConfigError("a model configuration is a mapping", got=type(raw).__name__)
        own = {field.name for field in fields(cls)}
        known = own | BOOKKEEPING | UNSUPPORTED.keys()
        for name, value in raw.items():
            if name not in known:
                raise ConfigError(
                    "unknown field in the model configuration",
                    got=name,
                    expected="a field of HookedTransformerConfig",
                    fix=did_you_mean(name, known),
                )
            if name in UNSUPPORTED and value not in UNSUPPORTED[name]:
                raise ConfigError(
                    f"the small transformer does not implement {name}",
                    got=f"{name} = {value!r}",
                    expected=f"{name} = {UNSUPPORTED[name][0]!r}",
                    fix="load such a model through transformer_lens and pass it to interp.wrap",
                )
        missing = [n for n in ("n_layers", "d_model", "n_ctx", "d_head", "d_vocab") if n not in raw]
        if missing:
            raise ConfigError(
                "the model configuration lacks required fields",
                got=", ".join(sorted(raw)),
                expected=", ".join(missing),
            )
        values = {name: value for name, value in raw.items() if name in own}
        if "dtype" in values:
            values["dtype"] = str(values["dtype"]).removeprefix("torch.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON and for `from_dict`."""
        return asdict(self)


def _require(holds: bool, name: str, got: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"impossible {name} in the model configuration", got=got, expected=expected)
