"""Settings of this room: names that import nothing but the standard library."""

from __future__ import annotations

from typing import Literal

Ablation = Literal["resample", "zero", "mean"]
EdgeMethod = Literal["eap", "eap_ig", "clean_corrupted", "mask_gradient", "exact", "information_flow"]
PathNodes = Literal["gauss", "left", "right"]
Select = Literal["top", "greedy"]
Loss = Literal["metric", "kl"]
Patched = Literal["resid_pre", "attn_out", "mlp_out", "heads", "heads_by_position"]
Direction = Literal["denoise", "noise"]
