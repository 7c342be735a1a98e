"""Activations: what a model computed at named sites, with the tokens, mask and provenance it needs.

```python
acts = model.capture("Mary gave John", "blocks.*.hook_resid_post")
acts["resid_post", -1]      # [batch pos d_model], TransformerLens's short keys
acts.flat("blocks.1.hook_resid_post")   # [real tokens, d_model], no padding
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from interp.core.devices import read_device, read_target
from interp.core.errors import ShapeError, SiteError
from interp.core.foreign import LINE, one_line
from interp.core.names import expand, unknown
from interp.core.provenance import Provenance
from interp.core.residual import Key, ResidualStacks
from interp.core.store import commit, open_artefact

SCHEMA = "activations/1"

_KEY_BY_QUERY = ("hook_pattern", "hook_attn_scores")  # [batch head query key]: no token axis 1


class Activations(ResidualStacks):
    """A read-only mapping from site to tensor.

    Tensors are `[batch pos ...]`, except attention scores and patterns, `[batch head query key]`.
    A key is a site's full name or TransformerLens's short form: `"embed"`, `("resid_post", 3)`,
    `("pattern", 0)`, `("resid_post", -1)` (needs `cfg`), `("scale", 2, "ln1")`.

    Args:
        tensors: Site to tensor; not copied.
        tokens: Token ids of the whole input, int64 [batch pos].
        mask: True where a token is real and not padding, bool [batch pos]; None when
            nothing is padding.
        provenance: The model and sites that the tensors came from, or a function that makes it
            when somebody asks (hashing a model's weights takes longer than a small forward pass).
        cfg: The model's config: anything with `n_layers` (and `attn_only`, `style`).
        positions: The positions along which tensors run when only some were captured: int64
            [kept], or [batch kept] where rows differ. Tokens and mask stay whole.
        decoder_tokens, decoder_mask, decoder_positions: The same for the sites of a decoder that
            reads a text of its own (names that begin with "decoder").
        batched: Whether tensors have a batch axis; False after `remove_batch_dim`.
        silent: Sites of the model that this run did not reach, when everything was asked for,
            each with the reason.

    Raises:
        ShapeError: Tokens, mask and positions contradict each other.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        provenance: Provenance | Callable[[], Provenance] | None = None,
        cfg: Any = None,
        positions: Tensor | None = None,
        decoder_tokens: Tensor | None = None,
        decoder_mask: Tensor | None = None,
        decoder_positions: Tensor | None = None,
        batched: bool = True,
        silent: Mapping[str, str] | None = None,
    ) -> None:
        self._tensors = dict(tensors)
        self.tokens = tokens
        self.mask = mask
        self._provenance = provenance
        self.cfg = cfg
        self.positions = positions
        self.decoder_tokens = decoder_tokens
        self.decoder_mask = decoder_mask
        self.decoder_positions = decoder_positions
        self.batched = batched
        self.silent: dict[str, str] = dict(silent or {})
        self._kept = _kept(tokens, mask, positions)
        self._decoder_kept = _kept(decoder_tokens, decoder_mask, decoder_positions)

    @property
    def provenance(self) -> Provenance | None:
        """The model and sites that the tensors came from; None when not recorded."""
        if callable(self._provenance):
            self._provenance = self._provenance()
        return self._provenance

    # -------------------------------------------------------------- a mapping

    def __getitem__(self, key: Key) -> Tensor:
        """The tensor at a site.

        Raises:
            SiteError: The site was not captured; names the three nearest that were.
        """
        try:
            return self._tensors[key]  # type: ignore[index]
        except (KeyError, TypeError):
            name = self.name(key)
        try:
            return self._tensors[name]
        except KeyError:
            if name in self.silent:
                raise SiteError(
                    f"{name!r} was not reached in this run: {self.silent[name]}",
                    got=name,
                    fix="an input that reaches it; acts.silent names all that were not reached",
                ) from None
            raise unknown(name, self._tensors, where="these activations") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        try:
            return self.name(key) in self._tensors  # type: ignore[arg-type]
        except SiteError:
            return False

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {list(t.shape)}" for name, t in list(self.items())[:3])
        more = f", ... {len(self)} sites" if len(self) > 3 else ""
        unseen = f"; {len(self.silent)} silent" if self.silent else ""
        return one_line(f"Activations({shown}{more}{unseen})", LINE)

    def name(self, key: Key) -> str:
        """The full site name of a key, whether captured or not.

        Raises:
            SiteError: The key is neither a string nor `(name, layer[, sublayer])`, or its layer
                does not exist.
        """
        if isinstance(key, str):
            return key if key in self._tensors else expand(key)
        short = layer = sublayer = None
        if isinstance(key, tuple) and 1 <= len(key) <= 3:
            short, layer, sublayer = (*key, None, None)[:3]
        well_formed = (
            isinstance(short, str)
            and (layer is None or (isinstance(layer, int) and not isinstance(layer, bool)))
            and (sublayer is None or isinstance(sublayer, str))
        )
        if not well_formed:
            raise SiteError(
                "this is not an activation's key",
                got=repr(key),
                expected="a site name, or (short name, layer) or (short name, layer, sublayer)",
                fix='for example acts["resid_post", 3] or acts["scale", 2, "ln1"]',
            )
        if layer is not None and layer < 0:
            n_layers = self._n_layers()
            if layer < -n_layers:
                raise SiteError(
                    f"layer {layer} is out of range",
                    got=repr(key),
                    expected=f"{n_layers} layers exist, {-n_layers} to {n_layers - 1}",
                )
            layer += n_layers
        return expand(short, layer, sublayer)

    # -------------------------------------------------------------- copies

    def to(
        self,
        target: torch.device | torch.dtype | str | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Activations:
        """The same on a device or in a dtype (integers and booleans keep theirs).

        A new dtype is noted in the provenance.

        Raises:
            ConfigError: No such device on this machine, no such dtype.
        """
        target = None if target is None else read_target(target)
        if isinstance(target, torch.dtype):
            dtype = target
        else:
            device = target if device is None else read_device(device)

        def move(t: Tensor) -> Tensor:
            return t.to(device=device, dtype=dtype if t.is_floating_point() else None)

        moved = self._with(
            {name: move(t) for name, t in self.items()},
            **{key: None if t is None else t.to(device=device) for key, t in self._index().items()},
        )
        if dtype is not None and moved.provenance is not None:
            name = str(dtype).removeprefix("torch.")
            moved._provenance = replace(moved.provenance, dtype=name)
        return moved

    def detach(self) -> Activations:
        """The same, cut from the autograd graph; storage is shared."""
        return self._with({name: t.detach() for name, t in self.items()})

    def _with(self, tensors: dict[str, Tensor], **index: Tensor | None) -> Activations:
        return type(self)(
            tensors,
            provenance=self._provenance,
            cfg=self.cfg,
            batched=self.batched,
            silent=self.silent,
            **{**self._index(), **index},
        )

    def _index(self) -> dict[str, Tensor | None]:
        own = ("tokens", "mask", "positions")
        return {name: getattr(self, name) for name in (*own, *(f"decoder_{n}" for n in own))}

    def remove_batch_dim(self) -> Activations:
        """The same for the one row there is, without its axis: `[pos ...]`.

        Raises:
            ShapeError: Several rows.
        """
        for name, t in self.items():
            if self.batched and (t.ndim == 0 or t.shape[0] != 1):
                raise ShapeError(
                    "remove_batch_dim needs a single row",
                    got=f"{name!r} {list(t.shape)}",
                    fix="run one text, or keep the batch axis",
                )
        bare = self._with({n: t[0] if self.batched else t for n, t in self.items()})
        bare.batched = False
        return bare

    # -------------------------------------------------------------- tokens

    @property
    def kept_mask(self) -> Bool[Tensor, "batch kept"] | None:
        """The mask at the captured positions; None when none was given."""
        return self._kept

    def flat(self, site: Key) -> Shaped[Tensor, "real_token ..."]:
        """Rows of real tokens at a site, batch-major, padding left out.

        Raises:
            ShapeError: The site is an attention pattern or score (two token axes), or its tensor
                does not begin with the mask's batch and positions.
        """
        name = self.name(site)
        t = self[name] if self.batched else self[name][None]
        decoder = name.startswith("decoder") and self.decoder_tokens is not None
        if name.endswith(_KEY_BY_QUERY):
            raise ShapeError(
                f"{name!r} has two token axes and no rows",
                got=f"[batch head query key] = {list(t.shape)}",
                expected="a site [batch pos ...]",
                fix="index the tensor and use .kept_mask",
            )
        if t.ndim < 2:
            raise ShapeError(f"{name!r} has no batch and position axes", got=list(t.shape))
        whole = self.decoder_tokens if decoder else self.tokens
        whole = self.mask if whole is None else whole
        if whole is not None and t.shape[0] == 1:
            t = t.expand(whole.shape[0], *t.shape[1:])  # one row stands for all (positions)
        kept = self._decoder_kept if decoder else self._kept
        if kept is None:
            return t.flatten(0, 1)
        if t.shape[:2] != kept.shape:
            raise ShapeError(
                f"{name!r} does not run along the tokens",
                got=list(t.shape),
                expected=f"[{kept.shape[0]}, {kept.shape[1]}, ...]",
            )
        return t.flatten(0, 1) if self._no_padding[decoder] else t[kept.to(t.device)]

    @cached_property
    def _no_padding(self) -> tuple[bool, bool]:
        both = (self._kept, self._decoder_kept)
        return tuple(kept is None or bool(kept.all()) for kept in both)  # type: ignore[return-value]

    # -------------------------------------------------------------- disk

    def save(self, directory: str | Path, *, overwrite: bool = False) -> Path:
        """Write tensors, tokens, mask, positions, provenance and the plain values of `cfg`.

        Raises:
            StorageError: The folder exists and `overwrite` is false, or the disk refuses.
        """
        plain = (bool, int, float, str, type(None))
        cfg = None if self.cfg is None else vars(self.cfg)
        meta = {
            "sites": list(self),
            "batched": self.batched,
            "silent": self.silent,
            "provenance": None if self.provenance is None else self.provenance.to_json(),
            "cfg": None if cfg is None else {k: v for k, v in cfg.items() if isinstance(v, plain)},
        }
        files: dict[str, Any] = {
            "activations.json": meta,
            "activations.safetensors": {name: t.detach() for name, t in self.items()},
            "inputs.safetensors": {k: t for k, t in self._index().items() if t is not None},
        }
        return commit(directory, files, overwrite=overwrite, schema=SCHEMA)

    @classmethod
    def load(cls, directory: str | Path) -> Activations:
        """What `save` wrote.

        Raises:
            CorruptArtefact: The bytes do not match their manifest.
            StorageError: There is no such folder, or it holds something else.
        """
        artefact = open_artefact(directory, schema=SCHEMA)
        meta = artefact.json("activations.json")
        tensors = artefact.tensors("activations.safetensors")
        origin, cfg = meta["provenance"], meta["cfg"]
        return cls(
            {site: tensors[site] for site in meta["sites"]},
            **artefact.tensors("inputs.safetensors"),
            provenance=None if origin is None else Provenance.from_json(origin),
            cfg=None if cfg is None else SimpleNamespace(**cfg),
            batched=meta.get("batched", True),
            silent=meta.get("silent"),
        )


def _kept(tokens: Tensor | None, mask: Tensor | None, positions: Tensor | None) -> Tensor | None:
    """Check tokens, mask and positions against each other; the mask where tensors run."""
    for label, t in (("tokens", tokens), ("mask", mask)):
        if t is not None and t.ndim != 2:
            raise ShapeError(f"{label} must be [batch pos]", got=list(t.shape))
    if mask is None:
        return None
    if mask.dtype != torch.bool:
        raise ShapeError("the mask must be boolean", got=mask.dtype, expected="True for a real token")
    if tokens is not None and tokens.shape != mask.shape:
        raise ShapeError(
            "tokens and mask differ in shape", got=f"tokens {list(tokens.shape)}, mask {list(mask.shape)}"
        )
    if positions is None:
        return mask
    where = positions.to(mask.device)
    if where.ndim == 1:
        return mask[:, where]
    if where.ndim != 2 or where.shape[0] != mask.shape[0]:
        raise ShapeError(
            "positions must be [kept] or [batch kept]",
            got=list(where.shape),
            expected=f"[kept] or [{mask.shape[0]}, kept]",
        )
    return mask.gather(1, where % mask.shape[1])
