"""One dictionary of every make, with random numbers in every tensor."""

from __future__ import annotations

from typing import Any

import torch

from interp.core.provenance import Provenance
from interp.dictionaries import Dictionary, DictionaryConfig

D, M, OUT = 13, 53, 17
SITE = "blocks.1.hook_resid_post"
INTO, ONTO = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
_TRANSCODER = {"d_out": OUT, "apply_b_dec_to_input": False, "site_in": INTO, "site_out": ONTO}
MAKES: dict[str, dict[str, Any]] = {
    "standard": {"activation": "relu"},
    "standard, b_dec not subtracted": {"activation": "relu", "apply_b_dec_to_input": False},
    "topk": {"activation": "topk", "k": 7},
    "topk, rescaled": {"activation": "topk", "k": 7, "rescale_acts_by_decoder_norm": True},
    "abstopk": {"activation": "abstopk", "k": 5},
    "batchtopk": {"activation": "batchtopk", "k": 6.5},
    "batchtopk, rescaled": {"activation": "batchtopk", "k": 7, "rescale_acts_by_decoder_norm": True},
    "matryoshka": {"activation": "batchtopk", "k": 7, "groups": (11, 29, M)},
    "jumprelu": {"activation": "jumprelu"},
    "gated": {"activation": "gated"},
    "matching pursuit": {"activation": "matching_pursuit", "max_iterations": 5},
    "transcoder": {"activation": "relu", **_TRANSCODER},
    "skip transcoder": {"activation": "relu", "skip": True, **_TRANSCODER},
    "jumprelu transcoder": {"activation": "jumprelu", **_TRANSCODER},
    "jumprelu skip transcoder": {"activation": "jumprelu", "skip": True, **_TRANSCODER},
    "batchtopk transcoder": {"activation": "batchtopk", "k": 7, **_TRANSCODER},
    "layer_norm": {"activation": "relu", "normalize_activations": "layer_norm"},
    "constant norm": {"activation": "topk", "k": 7, "normalize_activations": "constant_norm_rescale"},
    "hook_z": {"activation": "topk", "k": 7, "reshape": "hook_z", "site_in": "blocks.0.attn.hook_z"},
    "bfloat16": {"activation": "relu", "dtype": "bfloat16"},
    "float64": {"activation": "gated", "dtype": "float64"},
}
"""Makes that sae-lens has, too."""
OURS: dict[str, dict[str, Any]] = {
    "topk transcoder": {"activation": "topk", "k": 7, **_TRANSCODER},
    "topk skip transcoder": {"activation": "topk", "k": 7, "skip": True, **_TRANSCODER},
    "gated transcoder": {"activation": "gated", **_TRANSCODER},
    "batchtopk, no threshold yet": {"activation": "batchtopk", "k": 7},
}
"""Makes that it has not."""


def make(name: str, seed: int = 0, **changes: Any) -> Dictionary:
    """A dictionary of that make, with changes to its config."""
    settings = {"d_in": D, "d_sae": M, "site_in": SITE, **(MAKES | OURS)[name], **changes}
    dictionary = Dictionary(DictionaryConfig(**settings))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in dictionary.state_dict().items():
            noise = torch.randn(tensor.shape, generator=draw)
            if key == "threshold":
                noise = noise.abs() + 0.1
                if "no threshold" in name:
                    noise = torch.zeros_like(noise)
            tensor.copy_(noise / 3)
        if ("batchtopk" in name and "no threshold" not in name) or name == "matryoshka":
            dictionary.threshold.fill_(1.25)
        if name == "matching pursuit":
            dictionary.W_dec.div_(dictionary.W_dec.norm(dim=-1, keepdim=True))
    sites = tuple(dict.fromkeys((dictionary.site_in, dictionary.site_out)))
    dictionary.provenance = Provenance(
        "tiny", "f" * 64, sites, D, "float32", True, "a" * 64, "none", "d" * 64
    )
    dictionary.metadata = {"l0": 7.5, "scores": {"fvu": 0.25}, "command": "interp train"}
    return dictionary


def rows(n: int = 101, seed: int = 3) -> torch.Tensor:
    """Activations [n, D]."""
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))
