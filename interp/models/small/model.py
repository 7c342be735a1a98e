"""One compact transformer for bundled, compiled and algorithmic models.

It computes what transformer-lens 3.9's HookedTransformer computes (equal in tests), with its
parameter names and its hook points, and reads the same two files: `hooked_transformer.json` and
`model.safetensors`. Equations: Vaswani et al. 2017 in the notation of Elhage et al. 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.core.errors import ConfigError, InterpError, ModelError, TokenError, out_of_memory
from interp.core.foreign import one_line, read_json, reason
from interp.core.names import did_you_mean
from interp.core.randomness import generator
from interp.core.store import load_tensors
from interp.models.gate import bounded_building
from interp.models.small.config import SmallConfig
from interp.models.small.layers import Block, Embed, HookPoint, PosEmbed, Unembed, causal_triangle, norm

CONFIG_FILE = "hooked_transformer.json"
WEIGHTS_FILE = "model.safetensors"
# HookedTransformer stores these tables beside its parameters; they follow from the configuration.
DERIVED_BUFFERS = ("attn.mask", "attn.IGNORE", "attn.rotary_sin", "attn.rotary_cos")


class SmallTransformer(nn.Module):
    """The transformer a `SmallConfig` describes, its weights drawn from `seed`.

    With `seed=None` they hold anything: for weights that are loaded next.

    `model(ids)` with ids [batch pos] gives logits [batch pos d_vocab_out].
    """

    def __init__(self, cfg: SmallConfig, seed: int | None = 0) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed: Embed = Embed(cfg)
        self.hook_embed: HookPoint = HookPoint()
        if cfg.positional_embedding_type == "standard":
            self.pos_embed: PosEmbed = PosEmbed(cfg)
            self.hook_pos_embed: HookPoint = HookPoint()
        self.blocks: nn.ModuleList = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.n_layers))
        self.ln_final: nn.Module = norm(cfg, cfg.d_model, final=True)
        self.unembed: Unembed = Unembed(cfg)
        if seed is not None:
            self.init_weights(seed)
        self.to(getattr(torch, cfg.dtype))

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Normal weights of deviation `initializer_range`, zero biases: GPT-2 as HookedTransformer.

        The values depend on the seed alone, not on torch's global generator.
        """
        source = generator(seed, "small-transformer weights")
        for name, parameter in self.named_parameters():
            kind = name.rpartition(".")[2]
            if kind.startswith("W_"):
                draw = torch.randn(parameter.shape, generator=source)
                parameter.copy_(draw * self.cfg.initializer_range)
            else:
                parameter.fill_(1.0 if kind == "w" else 0.0)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Logits [batch pos d_vocab_out].

        Args:
            input_ids: Token ids [batch pos].
            attention_mask: [batch pos], non-zero for real tokens. Padding is never attended to, and
                positions count real tokens only, so a padded batch equals one text at a time;
                logits at padding mean nothing.
            position_ids: [batch pos], instead of those that follow from the mask.

        Raises TokenError for ids outside the vocabulary, sequences beyond n_ctx and masks or
        positions of another shape.
        """
        positions = self._positions(input_ids, attention_mask, position_ids)
        residual = self.hook_embed(self.embed(input_ids))
        rotation = None
        if self.cfg.positional_embedding_type == "standard":
            residual = residual + self.hook_pos_embed(self.pos_embed(positions))
        else:
            rotation = self._rotation(positions, residual.dtype)
        causal = self.cfg.attention_dir == "causal"
        allowed = None if attention_mask is None else _allowed(attention_mask.bool(), causal)
        for block in self.blocks:
            residual = block(residual, allowed, causal, rotation)
        return self.unembed(self.ln_final(residual))

    def _positions(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """Position ids [batch pos], after the checks that keep indexing errors away from users."""
        if ids.ndim != 2 or ids.dtype.is_floating_point or ids.dtype == torch.bool:
            got = f"{ids.dtype} of shape {list(ids.shape)}"
            raise TokenError("token ids must be integers [batch, pos]", got=got)
        for name, given in (("attention_mask", mask), ("position_ids", positions)):
            if given is not None and given.shape != ids.shape:
                raise TokenError(
                    f"{name} must have the shape of the token ids",
                    got=list(given.shape),
                    expected=list(ids.shape),
                )
        self._check_range("token id", ids, self.cfg.d_vocab)
        if positions is None and mask is not None:
            positions = (mask.bool().cumsum(1) - 1).clamp(min=0)
        elif positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        self._check_range("position", positions, self.cfg.n_ctx)
        return positions

    @staticmethod
    def _check_range(what: str, values: Tensor, bound: int) -> None:
        if values.numel() == 0:
            return
        low, high = (int(end) for end in torch.aminmax(values))
        if low < 0 or high >= bound:
            raise TokenError(
                f"{what} out of range",
                got=low if low < 0 else high,
                expected=f"0 to {bound - 1}",
                fix="shorten the text" if what == "position" else "use the model's own tokenizer",
            )

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Sines and cosines [batch pos 1 rotary_dim] of every position's angles."""
        cfg = self.cfg
        width = cfg.rotary_dim or cfg.d_head
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        pair = torch.arange(width // 2, dtype=exact, device=positions.device)
        wavelength = cfg.rotary_base ** (pair / (width / 2))
        angles = positions.to(exact)[:, :, None, None] / wavelength
        if cfg.rotary_adjacent_pairs:
            angles = angles.repeat_interleave(2, -1)
        else:
            angles = torch.cat((angles, angles), -1)
        return angles.sin().to(dtype), angles.cos().to(dtype)


def _allowed(mask: Tensor, causal: bool) -> Tensor:
    """Where a query may look, [batch 1 query key], from the mask of real tokens [batch pos].

    A padding position may look at itself: a row without any key would be NaN, also in gradients.
    """
    length = mask.shape[1]
    allowed = mask[:, None, None, :]
    if causal:
        allowed = allowed & causal_triangle(length, mask.device)
    return allowed | torch.eye(length, dtype=torch.bool, device=mask.device)


def load_small(folder: str | Path) -> SmallTransformer:
    """The model stored in `folder` as `hooked_transformer.json` and `model.safetensors`.

    Raises ModelError when a file is absent or a parameter is missing, unexpected or misshapen,
    ConfigError for a configuration we do not implement, StorageError for unreadable bytes.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ModelError(
                "not a small-transformer folder: a file is missing",
                got=folder,
                expected=f"{CONFIG_FILE} and {WEIGHTS_FILE}",
            )
    try:
        raw = read_json(folder / CONFIG_FILE)
    except ValueError as error:
        raise ConfigError(f"{folder / CONFIG_FILE} is not valid JSON", got=one_line(error)) from error
    tensors = load_tensors(folder / WEIGHTS_FILE)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    try:
        with bounded_building(len(tensors), numbers, folder / CONFIG_FILE):
            model = SmallTransformer(SmallConfig.from_dict(raw), seed=None)
    except InterpError:
        raise
    except Exception as error:  # a value of another type than its name says
        raise out_of_memory(error, folder) or ConfigError(
            f"{folder / CONFIG_FILE} describes no model that can be built", got=reason(error)
        ) from error
    load_parameters(model, tensors, source=str(folder / WEIGHTS_FILE))
    return model.eval()


@torch.no_grad()
def load_parameters(
    model: SmallTransformer, tensors: Mapping[str, Tensor], *, source: str = "the state dict"
) -> None:
    """Copy every parameter from `tensors`; HookedTransformer's own buffers are ignored.

    Raises ModelError naming what is missing, unexpected or misshapen, before anything is copied.
    """
    own = dict(model.named_parameters())
    given = {n: t for n, t in tensors.items() if not n.endswith(DERIVED_BUFFERS)}
    missing, extra = [n for n in own if n not in given], [n for n in given if n not in own]
    if missing or extra:
        problems = [f"missing {n}" for n in missing] + [f"unexpected {n}" for n in extra]
        raise ModelError(
            f"{source} does not fit the configuration",
            got="; ".join(problems[:8]) + (f"; {len(problems) - 8} more" if problems[8:] else ""),
            expected=f"the {len(own)} parameters that {CONFIG_FILE} implies",
            fix=did_you_mean(extra[0], own) if extra else "compare n_layers, attn_only, norms",
        )
    for name, parameter in own.items():
        if given[name].shape != parameter.shape:
            raise ModelError(
                f"{name} in {source} has the wrong shape",
                got=list(given[name].shape),
                expected=list(parameter.shape),
                fix=f"compare the sizes in {CONFIG_FILE}",
            )
    for name, parameter in own.items():
        parameter.copy_(given[name])


def small_files(model: SmallTransformer) -> dict[str, Any]:
    """The two files `load_small` reads, as `store.commit` takes them."""
    tensors = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters()}
    return {CONFIG_FILE: model.cfg.to_dict(), WEIGHTS_FILE: tensors}
