"""Dictionary settings are checked before any work is done."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp.activations.rows import dense_numbers
from interp.core.errors import ConfigError, ShapeError
from interp.core.settings import check_fields
from interp.dictionaries.config import TOPK_FAMILY, DictionaryConfig

_LEAST: dict[str, int] = {
    "d_in": 1,
    "d_sae": 1,
    "d_out": 1,
    "k": 0,
    "residual_threshold": 0,
    "max_iterations": 1,
    "bandwidth": 0,
    "lp": 0,
}


def check_dictionary(config: DictionaryConfig) -> None:
    """Refuse settings that are wrong or contradict each other.

    Raises:
        ConfigError: The field, what it holds, what it may hold.
    """
    check_fields(config, _LEAST)
    _check_k(config)
    in_topk_family = config.activation in TOPK_FAMILY
    if config.rescale_acts_by_decoder_norm and not in_topk_family:
        raise ConfigError(
            "rescale_acts_by_decoder_norm belongs to the topk family",
            got=config.activation,
            expected=", ".join(TOPK_FAMILY),
        )
    if config.is_transcoder and config.apply_b_dec_to_input:
        raise ConfigError(
            "b_dec of a transcoder belongs to its output and cannot be subtracted from its input",
            got="apply_b_dec_to_input=True",
            fix="set apply_b_dec_to_input=False",
        )
    if config.is_transcoder and config.activation == "matching_pursuit":
        raise ConfigError(
            "matching pursuit reads with its decoder, so it cannot be a transcoder",
            got=f"d_out={config.d_out}, site_out={config.site_out!r}",
        )
    if config.skip and not config.is_transcoder:
        raise ConfigError(
            "a skip path copies the input of an SAE past its latents",
            got="skip=True",
            fix="give d_out or site_out, or leave skip out",
        )
    if config.groups:
        _check_groups(config)


def _check_k(config: DictionaryConfig) -> None:
    wants_k = config.activation in TOPK_FAMILY
    if not wants_k:
        if config.k is not None:
            raise ConfigError(
                f"a {config.activation} dictionary has no k",
                got=config.k,
                expected=f"k=None, or activation one of {', '.join(TOPK_FAMILY)}",
            )
        return
    if config.k is None or not 0 < config.k <= config.d_sae:
        raise ConfigError(
            f"a {config.activation} dictionary needs k, its number of active latents",
            got=config.k,
            expected=f"above 0, at most d_sae = {config.d_sae}",
        )
    if config.activation != "batchtopk" and config.k != int(config.k):
        raise ConfigError(
            "k must be a whole number", got=config.k, fix="batchtopk takes a fractional average"
        )


def _check_groups(config: DictionaryConfig) -> None:
    groups = config.groups
    if list(groups) != sorted({g for g in groups if g > 0}) or groups[-1] != config.d_sae:
        raise ConfigError(
            "groups are the widths of nested prefixes",
            got=groups,
            expected=f"increasing numbers ending in d_sae = {config.d_sae}",
        )
    if config.activation == "matching_pursuit":
        raise ConfigError("matching pursuit has no groups", got=groups, fix="leave groups out")


def read_rows(x: Any, config: DictionaryConfig) -> Tensor:
    """Activations [..., d_in], heads side by side.

    Raises:
        ShapeError: No numbers, or another width.
    """
    x, width = dense_numbers(x, "a dictionary"), config.d_in
    if config.reshape == "hook_z" and x.ndim > 1 and x.shape[-1] != width:
        x = x.flatten(-2)
    if x.shape[-1:] != (width,):
        raise ShapeError("the dictionary reads another width", got=tuple(x.shape), expected=f"[..., {width}]")
    return x


def read_latents(z: Any, n: int) -> Tensor:
    """Latents [..., n].

    Raises:
        ShapeError: No numbers, or another number of latents.
    """
    z = dense_numbers(z, "a dictionary")
    if z.shape[-1:] != (n,):
        raise ShapeError(
            "the dictionary has another number of latents", got=tuple(z.shape), expected=f"[..., {n}]"
        )
    return z
