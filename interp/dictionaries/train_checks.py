"""What the settings of a training say together, refused before any work is done."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from interp.core.blocks import blocks_of, owners_of
from interp.core.errors import ConfigError
from interp.core.names import slug
from interp.dictionaries.checks import check_dictionary
from interp.dictionaries.config import PENALISED, TOPK_FAMILY, Activation
from interp.dictionaries.train_config import PASS, TrainConfig

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
_PLAIN = TrainConfig()
_IN_BLOCKS = tuple(
    f"{block}.{setting}" for block in blocks_of(TrainConfig) for setting in dataclasses.asdict(_PLAIN)[block]
)
TEXT = tuple(
    path
    for path in _IN_BLOCKS
    if path.startswith(("stream.", "text.")) and path not in ("stream.batch_size", "stream.seed")
)
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
        for path in _IN_BLOCKS:
            ours, theirs = value_of(configs[0], path), value_of(config, path)
            if path.startswith(PASS) and path != "fit.lr" and ours != theirs:
                raise ConfigError(
                    f"dictionaries trained in one pass must agree on {own_name(path)}",
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
    _check_penalty(config)
    for setting in unread(config):
        readers = _READERS[setting]
        raise ConfigError(
            f"a {config.activation} dictionary does not read {setting}",
            got=f"{setting}={value_of(config, setting)!r}",
            expected=f"activation {' or '.join(readers)}",
            fix=f"leave it out: {setting}={value_of(_PLAIN, setting)!r}",
        )
    for setting, other in _TOGETHER.items():
        if _is_given(config, setting) and not _is_given(config, other):
            raise ConfigError(
                f"{setting} counts only together with {other}",
                got=f"{setting}={value_of(config, setting)!r}, {other}=None",
                fix=f"{other}=..., or neither of the two",
            )
    _check_schedules(config)
    _check_sites(config)
    rows = config.stream.batch_size
    if config.activation == "batchtopk" and config.k * rows < 1:
        raise ConfigError(
            "no latent of a whole batch would be active",
            got=f"k={config.k:g}, batch_size={rows}",
            expected="k * batch_size of at least 1",
            fix=f"k={1 / rows:g} or more, or batch_size={math.ceil(1 / config.k)}",
        )
    if config.encoder_scale == 0:
        raise ConfigError("an encoder of zeros never fires", got="encoder_scale=0")
    if config.k_start is not None and not config.k <= config.k_start <= config.d_sae:
        raise ConfigError(
            "k comes down from k_start", got=config.k_start, expected=f"k={config.k} to d_sae={config.d_sae}"
        )
    if config.activation == "matching_pursuit" and config.decoder_norm == "free":
        raise ConfigError("matching pursuit needs unit decoder rows", got="decoder_norm='free'")
    if config.fit.on_nonfinite == "skip":
        raise ConfigError(
            "a dictionary counts the latents of every row: a step cannot be left out afterwards",
            got="on_nonfinite='skip'",
            fix="on_nonfinite='stop': the run goes on from its last checkpoint",
        )


def _check_penalty(config: TrainConfig) -> None:
    """The number of active latents is steered by a penalty or it is k.

    Raises:
        ConfigError: An l0 that cannot be reached.
    """
    l0, weight = config.penalty.l0, config.penalty.sparsity
    if l0 is None:
        return
    if config.activation not in PENALISED:
        raise ConfigError(
            f"a {config.activation} dictionary has its number of active latents from k",
            got=f"l0={l0}",
            fix=f"k={l0}, or {', '.join(PENALISED)}",
        )
    if not 0 < l0 < config.d_sae:
        raise ConfigError("l0 is out of range", got=l0, expected=f"above 0, below d_sae={config.d_sae}")
    if not weight > 0:
        raise ConfigError("a steered penalty starts above 0", got=f"sparsity={weight}")


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
    return config.changed({name: value_of(_PLAIN, name) for name in names})


def own_name(path: str) -> str:
    """A block's setting as it is given outside of the block, where it can be."""
    block, _, name = path.partition(".")
    return name if (block, name) in owners_of(TrainConfig).get(name, ()) else path


def value_of(config: TrainConfig, setting: str) -> Any:
    """What a config says, by a setting's own name or by `block.name`."""
    block, _, name = setting.rpartition(".")
    return getattr(getattr(config, block) if block else config, name)


def refuse_unread(config: TrainConfig, own: Mapping[str, Any], kind: str) -> None:
    """Rows that exist already are not made of text; a source with an order of its own keeps it.

    Args:
        config: What was asked for.
        own: What the source has by itself, as `own_settings` tells: that may be asked for, too.
        kind: What the source is, for the error.

    Raises:
        ConfigError: Naming the first setting that would not be read.
    """
    for path in (*TEXT, "stream.seed"):
        value = value_of(config, path)
        if _is_given(config, path) and own.get(path) != value:
            order = path == "stream.seed"
            setting = "data_seed" if order else own_name(path)
            raise ConfigError(
                f"{setting} says {'in which order rows come' if order else 'how text becomes rows'}, "
                "and these are rows already",
                got=f"{setting}={value!r}, data: {kind}",
                expected=f"{setting}={own[path]!r}, as the data are" if path in own else None,
                fix=f"leave it out: {setting}={value_of(_PLAIN, path)!r}",
            )


def as_used(config: TrainConfig, own: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training as its data had them; those that nothing read are left out.

    Args:
        config: What was asked for.
        own: What the source has by itself, as `own_settings` tells.

    Returns:
        Setting or block -> value: what `TrainConfig.of` reads.
    """
    told = dataclasses.asdict(config)
    for path, value in own.items():
        block, _, name = path.partition(".")
        told[block][name] = value
    if "text.n_ctx" not in own:
        del told["text"]
    for path in TEXT:
        block, _, name = path.partition(".")
        if block == "stream" and path not in own:
            del told[block][name]
    return told


def _is_given(config: TrainConfig, setting: str) -> bool:
    return value_of(config, setting) != value_of(_PLAIN, setting)


def _check_schedules(config: TrainConfig) -> None:
    """Whatever takes a number of steps comes to its end within the run.

    Raises:
        ConfigError: Naming the first that does not.
    """
    config.loop()
    steps, last = config.fit.steps, int(0.75 * config.fit.steps)
    for setting, most in (("sparsity_warmup", steps), ("k_anneal", steps), ("resample_every", last)):
        value = value_of(config, setting)
        if value is not None and value > most:
            raise ConfigError(
                f"{setting} does not fit the run",
                got=f"{setting}={value}, steps={steps}",
                expected=f"at most {most}"
                + (": latents are resampled in the first three quarters" if most == last else ""),
                fix=f"{setting}={max(1, most // 2)}, or steps={2 * value}",
            )
