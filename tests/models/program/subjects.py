"""The models that programs run on: one copy for the package, one that only hands touch."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

import interp
from interp.models.small.config import SmallConfig
from interp.models.small.model import SmallTransformer
from tests.models import zoo
from tests.models.program.coders import Coder, Plain, Several, Skipping, Staged
from tests.models.program.hand import Float64, Forward, use_attention_by_hand
from tests.models.program.nets import NETS, make_net
from tests.models.program.places import ROWS, Place, places_of
from tests.models.program.places_t5 import t5_places

SMALL: dict[str, dict[str, Any]] = {
    "small": {},
    "small-rotary": {
        "positional_embedding_type": "rotary",
        "normalization_type": "RMS",
        "gated_mlp": True,
        "act_fn": "silu",
        "rotary_dim": 4,
    },
    "small-attn-only": {"attn_only": True, "normalization_type": None},
    "small-bidirectional": {"attention_dir": "bidirectional", "use_attn_result": True},
}
GUESTS = ("guest",)
FAMILIES = (*zoo.MAKERS, *zoo.UNREACHED)
EXACT = (*FAMILIES, *SMALL, *GUESTS, *NETS)
"""Every subject in float64."""
ROUNDED = tuple(name for name in (*FAMILIES, *SMALL) if not name.startswith("t5") and name != "opt-post")
"""Those that also run in float32 and bfloat16."""
# Families that compute something in float32 whatever their dtype.
IN_FLOAT32 = ("llama", "mistral", "qwen", "phi3", "gemma", "t5", "gptj", "codegen", "gpt-neo")
IN_FLOAT32 += ("bloom", "mpt", "falcon")


def each(name: str) -> int:
    """Programs per model at a push; two sides and two masks need more of them."""
    return 24 if name.startswith("t5") else 8


@dataclass(eq=False)
class Subject:
    """One model.

    Attributes:
        hooked: Under test.
        hand: The same weights, another module; only `hand.Forward` runs it.
        kind: What it reads: tokens, sides (an encoder's and a decoder's), pixels, rows.
        row: Shape of one row, for pixels and rows.
        shapes: Sizes of each site behind batch and tokens (or behind the batch).
        wide: Whether `hand.Float64` is needed.
    """

    name: str
    hooked: interp.HookedModel
    hand: nn.Module
    places: dict[str, Place]
    kind: str
    dtype: torch.dtype
    row: tuple[int, ...] = ()
    wide: bool = False
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    views: dict[Any, tuple[interp.HookedModel, Coder]] = field(default_factory=dict)

    @property
    def left(self) -> bool:
        """Whether it reads texts padded on the left."""
        return self.name not in ("distilbert", "guest")

    @property
    def generates(self) -> bool:
        """Whether `generate` continues its texts."""
        first = self.name.split("-")[0]
        silent = ("bert", "roberta", "distilbert", "vit", *NETS)
        return first not in silent and self.name != "small-bidirectional"

    @property
    def own_generate(self) -> bool:
        """Whether the raw module is one that transformers generates with."""
        return self.name in FAMILIES

    def view(self, key: tuple[str, bool]) -> tuple[interp.HookedModel, Coder]:
        """A view with a coder: (shape of coder, error_term)."""
        if key not in self.views:
            with torch.inference_mode(False):
                coder = self.coder(key[0])
                self.views[key] = self.hooked.with_coder(cast(Any, coder), error_term=key[1]), coder
        return self.views[key]

    def coder(self, shape: str) -> Coder:
        """One of this model's coders."""
        post, mid, out = (self._sites(s) for s in ("resid_post", "resid_mid", "mlp_out"))
        wide = self.shapes[post[0]][-1]
        if shape == "same":
            return Plain(post[0], post[0], wide, wide)
        if shape == "heads":
            z = next(s for s in self.places if s.endswith("hook_z"))
            n, d = self.shapes[z]
            return Plain(z, z, n * d, n * d)
        if shape == "skipping":
            return Skipping(mid[1], out[1], wide, wide)
        if shape == "several":
            return Several((mid[0], mid[1]), (out[1], post[1]), wide, wide)
        return Staged((mid[0], mid[1]), (out[0], out[1]), wide, wide)

    @property
    def coder_shapes(self) -> list[str]:
        """The shapes of coder that fit here."""
        if self.kind not in ("tokens", "sides") or not self._sites("resid_post"):
            return []
        more = ["skipping", "several", "staged"] if self._sites("resid_mid") else []
        return ["same", "heads", *more]

    def _sites(self, part: str) -> list[str]:
        return [s for s in self.places if s.endswith(f"hook_{part}") and not s.startswith("decoder")]


@cache
def subject(name: str, dtype: str = "float64", copied: str = "") -> Subject:
    """A subject, made once per process; `copied` runs a deepcopy or a `.to()` of the model."""
    kind: torch.dtype = getattr(torch, dtype)
    raw, places = _raw(name)
    raw = raw.to(kind)
    hand = copy.deepcopy(raw).eval()
    if (kind is torch.float64 and name in ROWS and ROWS[name].inside) or name.startswith("t5"):
        use_attention_by_hand(hand)
    wide = kind is torch.float64 and name.startswith(IN_FLOAT32)
    # Under `Float64` from the start: the proof of padding runs the model, and transformers' own
    # masks of float64 overflow in the float32 softmax of Bloom, MPT and Gemma-2.
    with Float64() if wide else contextlib.nullcontext():
        hooked = interp.wrap(raw)
        if copied == "deepcopy":
            hooked = copy.deepcopy(hooked)
        elif copied:
            hooked = hooked.to(kind)
    if copied:
        # Whatever still reads the original's weights reads zeros.
        with torch.no_grad():
            for parameter in raw.parameters():
                parameter.zero_()
    what = "tokens"
    if name.startswith("t5"):
        what = "sides"
    elif name == "vit":
        what = "pixels"
    elif name in NETS:
        what = "rows"
    row = (3, 12, 12) if name == "vit" else NETS[name][0] if name in NETS else ()
    made = Subject(name, hooked, hand, places, what, kind, row, wide)
    made.places = {n: p for n, p in places.items() if n.partition("#")[0] in hooked.sites}
    missing = set(places) - set(made.places)
    assert not missing, f"{name} lacks {sorted(missing)}"
    _measure(made)
    return made


def _raw(name: str) -> tuple[nn.Module, dict[str, Place]]:
    if name in NETS:
        return make_net(name), NETS[name][1]
    if name in SMALL:
        return _small(**SMALL[name])
    if name in GUESTS:
        return _guest()
    raw = zoo.make(name, 0, torch.float64)
    return raw, t5_places() if name.startswith("t5") else places_of(ROWS[name])


def _small(**more: Any) -> tuple[nn.Module, dict[str, Place]]:
    sizes = {"n_layers": 2, "d_model": 12, "n_ctx": 31, "d_head": 4, "d_vocab": zoo.V}
    config = SmallConfig(**{**sizes, "n_heads": 3, "d_mlp": 11, **more})
    raw = SmallTransformer(config, seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in raw.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    axes = {
        "hook_q": "h",
        "hook_k": "h",
        "hook_v": "h",
        "hook_z": "h",
        "hook_result": "h",
        "hook_rot_q": "h",
        "hook_rot_k": "h",
        "hook_pattern": "a",
        "hook_attn_scores": "a",
        "hook_scale": "1",
    }
    places = {
        path: Place(path, "out", axes.get(path.rpartition(".")[2], "d"))
        for path, part in raw.named_modules()
        if type(part).__name__ == "HookPoint"
        and path.rpartition(".")[2] not in ("hook_q_input", "hook_k_input", "hook_v_input")
    }
    return raw, places


def _guest() -> tuple[nn.Module, dict[str, Place]]:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=2,
        d_model=12,
        n_ctx=31,
        d_head=4,
        n_heads=3,
        d_mlp=11,
        d_vocab=zoo.V,
        act_fn="gelu",
        seed=1,
        dtype=torch.float64,
        device="cpu",
    )
    raw = HookedTransformer(config)
    places: dict[str, Place] = {}
    for layer in range(2):
        stem = f"blocks.{layer}"
        for part in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
            places[f"{stem}.hook_{part}"] = Place(f"{stem}.hook_{part}", "out")
        for part in ("q", "k", "v", "z"):
            places[f"{stem}.attn.hook_{part}"] = Place(f"{stem}.attn.hook_{part}", "out", "h")
        places[f"{stem}.attn.hook_pattern"] = Place(f"{stem}.attn.hook_pattern", "out", "a")
        places[f"{stem}.mlp.hook_post"] = Place(f"{stem}.mlp.hook_post", "out")
    return raw, places


def _measure(made: Subject) -> None:
    """Sizes of each site, from one plain forward."""

    def look(name: str, place: Place) -> Any:
        def keep(value: Tensor) -> Tensor:
            skip = 1 if place.axes in "csa?" else 2
            made.shapes[name] = tuple(value.shape[skip:])
            return value

        return keep

    jobs = [(name, None, look(name, place)) for name, place in made.places.items()]
    with torch.no_grad():
        Forward(made.hand, made.places, jobs)(**raw_inputs(made, [[5, 6, 7]], [[5, 6]]))


def raw_inputs(
    made: Subject, rows: list[list[int]], decoder_rows: list[list[int]] | None = None
) -> dict[str, Any]:
    """Keyword arguments of the raw module for rows of one length."""
    if made.kind in ("pixels", "rows"):
        values = torch.stack([pixels(made, row[0]) for row in rows])
        return {"pixel_values" if made.kind == "pixels" else "x": values}
    ids = torch.tensor(rows)
    if made.kind == "sides":
        return {"input_ids": ids, "decoder_input_ids": torch.tensor(decoder_rows)}
    return {"input": ids} if made.name in GUESTS else {"input_ids": ids}


def pixels(made: Subject, seed: int) -> Tensor:
    """One row of numbers for a model without tokens."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(made.row, generator=source, dtype=torch.float64).to(made.dtype)
