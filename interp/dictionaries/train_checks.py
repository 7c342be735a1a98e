"""What the settings of a training say together, refused before any work is done."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from interp.core.errors import ConfigError
from interp.core.names import slug
from interp.dictionaries.checks import check_dictionary
from interp.dictionaries.config import PENALISED, TOPK_FAMILY, Activation
from interp.dictionaries.train_config import SHARED, TrainConfig

_PURSUIT: Activation = "matching_pursuit"
_READERS: dict[str, tuple[Activation, ...]] = {
    "k": (*TOPK_FAMILY, _PURSUIT),
    "k_start": TOPK_FAMILY,
    "k_anneal": TOPK_FAMILY,
    "auxk_alpha": TOPK_FAMILY,
    "sparsity": PENALISED,
    "sparsity_warmup": PENALISED,
    "lp": ("relu",),
    "lp_final": ("relu",),
    "bandwidth": ("jumprelu",),
    "max_iterations": (_PURSUIT,),
    "residual_threshold": (_PURSUIT,),
    "tied": (*TOPK_FAMILY, *PENALISED),
    "encoder_scale": (*TOPK_FAMILY, *PENALISED),
    "autocast": (*TOPK_FAMILY, *PENALISED),
}
"""Settings that only dictionaries of some activations read."""
_TOGETHER = {"k_anneal": "k_start", "resample_similar": "resample_every"}
"""Settings that count only beside another one."""
TEXT = ("n_ctx", "exclude_bos", "buffer_sequences", "forward_sequences")
"""Settings of how text becomes rows: of no use where there are rows already."""


def check_configs(configs: Sequence[TrainConfig]) -> list[str]:
    """Refuse configs that are wrong or cannot share one pass; the dictionaries' names.

    Raises:
        ConfigError: The field, what it holds, what it may hold.
        BadName: A name that no folder can have.
    """
    if not configs:
        raise ConfigError("no config to train", got="an empty sequence")
    for config in configs:
        check_config(config)
        for field in SHARED:
            ours, theirs = getattr(configs[0], field), getattr(config, field)
            if ours != theirs:
                raise ConfigError(
                    f"dictionaries trained in one pass must agree on {field}",
                    got=f"{ours!r} and {theirs!r}",
                    fix="the same value, or a run of its own",
                )
    names = [config.name or str(i) for i, config in enumerate(configs)]
    for name in names:
        slug(name)
        if "." in name or names.count(name) > 1:
            raise ConfigError("a dictionary's name must be its own, without a dot", got=name, fix="name=...")
    return names


def check_config(config: TrainConfig) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ConfigError: The field, what it holds, what it may hold.
    """
    if not isinstance(config, TrainConfig):
        raise ConfigError("not a training config", got=type(config).__name__)
    is_transcoder = bool(config.site_out) and config.site_out != config.site
    check_dictionary(config.dictionary(1, 1, "in", "out" if is_transcoder or config.skip else "in"))
    if config.l0 is not None and config.activation not in PENALISED:
        raise ConfigError(
            f"a {config.activation} dictionary has its number of active latents from k",
            got=f"l0={config.l0}",
            fix=f"k={config.l0}, or {', '.join(PENALISED)}",
        )
    if config.l0 is not None and not 0 < config.l0 < config.d_sae:
        raise ConfigError(
            "l0 is out of range", got=config.l0, expected=f"above 0, below d_sae={config.d_sae}"
        )
    if config.l0 is not None and not config.sparsity > 0:
        raise ConfigError("a steered penalty starts above 0", got=f"sparsity={config.sparsity}")
    for setting in unread(config):
        readers = _READERS[setting]
        raise ConfigError(
            f"a {config.activation} dictionary does not read {setting}",
            got=f"{setting}={getattr(config, setting)!r}",
            expected=f"activation {' or '.join(readers)}",
            fix=f"leave it out: {setting}={_DEFAULTS[setting]!r}",
        )
    for setting, other in _TOGETHER.items():
        if _is_given(config, setting) and not _is_given(config, other):
            raise ConfigError(
                f"{setting} counts only together with {other}",
                got=f"{setting}={getattr(config, setting)!r}, {other}=None",
                fix=f"{other}=..., or neither of the two",
            )
    _check_schedules(config)
    _check_sites(config)
    if config.activation == "batchtopk" and config.k * config.batch_size < 1:
        raise ConfigError(
            "no latent of a whole batch would be active",
            got=f"k={config.k:g}, batch_size={config.batch_size}",
            expected="k * batch_size of at least 1",
            fix=f"k={1 / config.batch_size:g} or more, or batch_size={math.ceil(1 / config.k)}",
        )
    if config.encoder_scale == 0:
        raise ConfigError("an encoder of zeros never fires", got="encoder_scale=0")
    if config.k_start is not None and not config.k <= config.k_start <= config.d_sae:
        raise ConfigError(
            "k comes down from k_start", got=config.k_start, expected=f"k={config.k} to d_sae={config.d_sae}"
        )
    if config.activation == "matching_pursuit" and config.decoder_norm == "free":
        raise ConfigError("matching pursuit needs unit decoder rows", got="decoder_norm='free'")


def _check_sites(config: TrainConfig) -> None:
    """A dictionary reads one site and writes one: a pattern names several.

    Raises:
        ConfigError: A glob.
    """
    for setting in ("site", "site_out"):
        name = getattr(config, setting)
        if any(mark in name for mark in "*?["):
            raise ConfigError(
                f"{setting} is one site, and this is a pattern",
                got=f"{setting}={name!r}",
                expected="a name such as blocks.3.hook_resid_post",
                fix="one config for each name of model.sites.resolve(pattern): train takes a list of them",
            )


def unread(config: TrainConfig) -> list[str]:
    """Settings that were changed and that dictionaries of this activation do not read."""
    readers = dict(_READERS)
    if config.max_iterations is not None:
        readers["k"] = TOPK_FAMILY
    return [
        name for name, known in readers.items() if config.activation not in known and _is_given(config, name)
    ]


def at_defaults(config: TrainConfig, names: Collection[str]) -> TrainConfig:
    """The same config with these settings as if nobody had given them."""
    return dataclasses.replace(config, **{name: _DEFAULTS[name] for name in names})


def refuse_unread(config: TrainConfig, own: Mapping[str, Any], kind: str) -> None:
    """Rows that exist already are not made of text; a source with an order of its own keeps it.

    Args:
        config: What was asked for.
        own: What the source has by itself, as `own_settings` tells: that may be asked for, too.
        kind: What the source is, for the error.

    Raises:
        ConfigError: Naming the first setting that would not be read.
    """
    for setting in (*TEXT, "data_seed"):
        value = getattr(config, setting)
        if _is_given(config, setting) and own.get(setting) != value:
            why = "in which order rows come" if setting == "data_seed" else "how text becomes rows"
            raise ConfigError(
                f"{setting} says {why}, and these are rows already",
                got=f"{setting}={value!r}, data: {kind}",
                expected=f"{setting}={own[setting]!r}, as the data are" if setting in own else None,
                fix=f"leave it out: {setting}={_DEFAULTS[setting]!r}",
            )


def as_used(config: TrainConfig, own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training as its data had them; those that nothing read are left out."""
    told = dataclasses.asdict(config) | dict(own)
    return {name: value for name, value in told.items() if name in own or name not in TEXT}


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


def _is_given(config: TrainConfig, setting: str) -> bool:
    return getattr(config, setting) != _DEFAULTS[setting]


def _check_schedules(config: TrainConfig) -> None:
    """Whatever takes a number of steps comes to its end within the run.

    Raises:
        ConfigError: Naming the first that does not.
    """
    config.fit()
    last = int(0.75 * config.steps)
    for setting, most in (
        ("sparsity_warmup", config.steps),
        ("k_anneal", config.steps),
        ("resample_every", last),
    ):
        value = getattr(config, setting)
        if value is not None and value > most:
            raise ConfigError(
                f"{setting} does not fit the run",
                got=f"{setting}={value}, steps={config.steps}",
                expected=f"at most {most}"
                + (": latents are resampled in the first three quarters" if most == last else ""),
                fix=f"{setting}={max(1, most // 2)}, or steps={2 * value}",
            )
