"""`load_model`: a bundled name, a folder, or (only when asked) the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from interp.core.devices import read_device, read_device_map, read_float
from interp.core.errors import ConfigError, CorruptArtefact, InterpError, ModelError, out_of_memory
from interp.core.foreign import one_line, show
from interp.core.names import did_you_mean
from interp.core.settings import check_flags, check_options
from interp.core.store import load_tensors
from interp.models.adapters.peft import ADAPTER_FILE, base_of, with_adapter
from interp.models.gate import (
    Inspected,
    bounded_building,
    inspect_folder,
    model_class,
    refused,
    verify_manifest,
)
from interp.models.hooked import HookedModel
from interp.models.hub import fetched, options_checked
from interp.models.small.model import CONFIG_FILE, load_small
from interp.models.text.tokens import load_tokenizer
from interp.models.wrapping import wrap


class NotHere(ModelError):
    """A model that is not on this machine; `near` suggests the bundled name that may be meant."""

    near: str = ""


def bundled_models() -> dict[str, Path]:
    """Models that ship with the package: name -> folder."""
    root = Path(str(resources.files("interp.models"))) / "bundled"
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return {f.name: f for f in folders if (f / CONFIG_FILE).is_file() or (f / "config.json").is_file()}


def load_model(
    name: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    allow_download: bool = False,
    backend: str = "interp",
    **options: Any,
) -> HookedModel:
    """Open a model; offline unless `allow_download`.

    Args:
        name: A bundled model, a Hugging Face folder, a folder with hooked_transformer.json and
            model.safetensors, an adapter folder of PEFT (adapter_config.json) whose base model is
            found, or a hub id (with `allow_download=True`).
        dtype: Of the weights, e.g. "bfloat16"; as stored when absent.
        device, device_map: Where to put it; `device_map` goes to transformers/accelerate.
        backend: "transformer_lens" boots a TransformerBridge, for its weight processing.
        options: For `from_pretrained`: attn_implementation, quantization_config, max_memory, ...

    Returns:
        A HookedModel in evaluation mode with frozen weights.

    Raises:
        ModelError: Naming what is missing, where it was looked for, and the offline alternative.
        ConfigError: An option that is not read here, a device that this machine does not have.
    """
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        known = ", ".join(bundled_models())
        raise ModelError("load_model needs a name or a folder", got=repr(name)[:80], expected=known)
    check_flags(allow_download=allow_download)
    text = os.fspath(name)
    folder = bundled_models().get(text, Path(text).expanduser())
    if backend not in ("interp", "transformer_lens"):
        raise ModelError(f"no backend {backend!r}", got=backend, expected="interp or transformer_lens")
    dtype = None if dtype is None else read_float(dtype)
    device = _one_place(device, device_map)
    options_checked(options)
    try:
        local = folder.is_dir()
    except (OSError, ValueError) as error:  # too long, NUL
        raise _not_here(text if len(text) < 100 else f"{text[:100]}...") from error
    if not local and not allow_download:
        raise _not_here(text)
    if local and (folder / CONFIG_FILE).is_file():
        _refuse_for_small(text, backend, device_map, options)
        verify_manifest(folder)
        module = load_small(folder)
        module.to(device=device, dtype=dtype)
        return _finish(module, _tokenizer(folder), text)
    if local and backend == "interp" and (folder / ADAPTER_FILE).is_file():
        opened = {"dtype": dtype, "device_map": device_map, "device": device}
        return _adapted(folder, text, allow_download, opened, options)
    if local and not (folder / "config.json").is_file():
        found = ", ".join(sorted(f.name for f in folder.iterdir())[:8]) or "nothing"
        raise ModelError(
            f"{text} is not a model folder",
            got=f"a folder with {found}",
            expected=f"config.json + weights (Hugging Face), or {CONFIG_FILE} + model.safetensors",
        )
    if not local:
        with _network(allow_download):
            folder = fetched(text)
    found = inspect_folder(folder)
    source = str(folder)
    if backend == "transformer_lens":
        from interp.models.guest import boot_bridge

        _refuse_unread("the transformer_lens backend", device_map, options)
        return boot_bridge(source, device=device, dtype=dtype, name=text)
    with _network(False):
        module = _pretrained(found, source, dtype, device_map, options)
        tokenizer = load_tokenizer(source, verified=True, config=module.config)
    if device is not None:
        module = module.to(device)
    return _finish(module, tokenizer, text)


def _one_place(device: Any, device_map: Any) -> torch.device | None:
    """The device, where no map says more.

    Raises:
        ConfigError: Both, or one that this machine does not have.
    """
    if device_map is None:
        return None if device is None else read_device(device, meta=False)
    read_device_map(device_map)
    if device is None:
        return None
    both = f"device={str(device)!r} and device_map={device_map!r}"
    raise ConfigError("a model goes to one place", got=both[:160], fix="one of them")


def _adapted(
    folder: Path, name: str, download: bool, opened: dict[str, Any], options: dict[str, Any]
) -> HookedModel:
    """An adapter folder: its base model, then the adapter on top of it."""
    source = base_of(folder)
    local = Path(source).is_dir()
    if not local and not download:
        raise ModelError(
            f"the base model of the adapter in {name} is not on this machine",
            got=f"base_model_name_or_path = {source!r}",
            expected=f"a folder, as it is or seen from {folder}",
            fix=f"write the base model's folder into {ADAPTER_FILE}, or "
            f"load_model({name!r}, allow_download=True)",
        )
    with _network(download and not local):
        base = Path(source) if local else fetched(source)
        found = inspect_folder(base)
    with _network(False):
        module = _pretrained(found, str(base), opened["dtype"], opened["device_map"], options)
        module = with_adapter(module, folder)
        own = any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer_config.json"))
        tokenizer = load_tokenizer(str(folder) if own else str(base), verified=not own)
    if opened["device"] is not None:
        module = module.to(opened["device"])
    return _finish(module, tokenizer, name)


def _finish(module: torch.nn.Module, tokenizer: Any, name: str) -> HookedModel:
    module.eval().requires_grad_(False)
    short = Path(name).name or name
    try:
        model = wrap(module, tokenizer, name=short)
    except InterpError:
        raise
    except Exception as error:  # the settings of a stranger: its own code says what it likes
        raise out_of_memory(error, short) or _cannot_run(short, one_line(error)) from error
    unproved = model._adapter.unproved  # not `adapter`: that would prove it
    if unproved:
        raise _cannot_run(short, unproved)
    return model


def _cannot_run(short: str, why: str) -> ModelError:
    return ModelError(
        f"{short} was opened, but cannot run",
        got=why,
        expected="settings with which its forward pass works",
        fix="look at config.json for values that no trained model has",
    )


def _tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder, verified=True)


def _refuse_for_small(text: str, backend: str, device_map: Any, options: dict[str, Any]) -> None:
    """What means something for the folders of transformers only.

    Raises:
        ModelError: TransformerLens boots no such folder.
        ConfigError: An option that nothing here would read.
    """
    if backend != "interp":
        raise ModelError(
            f"{text} cannot be booted by TransformerLens",
            got=f"a folder with {CONFIG_FILE}, which interp runs itself under the same names",
            expected="a folder with config.json, as transformers writes it",
            fix=f"load_model({text!r})",
        )
    _refuse_unread(f"a model described by {CONFIG_FILE}", device_map, options)


def _refuse_unread(where: str, device_map: Any, options: dict[str, Any]) -> None:
    given = {**options, **({} if device_map is None else {"device_map": device_map})}
    if given:
        raise ConfigError(
            f"{where} has no use for {next(iter(given))}",
            got=", ".join(f"{k}={v!r}" for k, v in given.items())[:200],
            expected="device and dtype",
        )


def _not_here(text: str) -> ModelError:
    known = bundled_models()
    # A hub's name is no misspelt bundled one.
    near = did_you_mean(text, known) if get_close_matches(text, known, cutoff=0.5) else ""
    names, place, is_file = ", ".join(known), Path(text).expanduser(), False
    with suppress(OSError, ValueError):  # too long, NUL
        is_file = place.is_file()
    if is_file:
        return ModelError(
            f"{text!r} is a file, not a model folder",
            got=place.name,
            expected="the folder of a model: its configuration beside its weights",
            fix=f"load_model({str(place.parent)!r}), if the model's config.json lies there",
        )
    looked = f"the folder {place.absolute()} and the bundled models"
    near = near and f"{near} or: "
    error = NotHere(
        f"no model {text!r} on this machine",
        got=f"looked for {looked}" + (f" ({names})" if names else ""),
        expected="a bundled name or an existing model folder",
        fix=f"{near}load_model({text!r}, allow_download=True) asks the Hugging Face hub",
    )
    error.near = near
    return error


def _pretrained(
    found: Inspected, source: str, dtype: torch.dtype | None, device_map: Any, options: dict[str, Any]
) -> torch.nn.Module:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel

    more = {**options, "local_files_only": True, "trust_remote_code": False}
    if device_map is not None:
        more["device_map"] = device_map
    try:
        with _shown():
            config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        named = found.architecture
        cls = model_class(named) or AutoModel
        packed = "quantization_config" in found.config or "quantization_config" in options
        where = Path(source) / "config.json"
        with _silent_bars(), _shown(), bounded_building(found.tensors, found.numbers, where, packed):
            if isinstance(device_map, dict):
                check_options("device_map", device_map, _parts_of(cls, config))
            module, report = cls.from_pretrained(
                source, config=config, dtype=dtype or "auto", output_loading_info=True, **more
            )
    except SafetensorError as error:
        raise _unreadable(source, error) from error
    except InterpError:
        raise
    except Exception as error:  # every layer of transformers, torch and safetensors raises its own
        raise refused(source, error) from error
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"the weights in {source} do not fill {type(module).__name__}",
            got=f"{len(missing)} missing: {', '.join(missing[:4])}",
            expected="every parameter in the file; random ones are never made up",
            fix=f"open it as the architecture it was saved from (config.json says {named})",
        )
    return module


def _parts_of(cls: Any, config: Any) -> set[str]:
    """What a device map may name: modules and parameters, known before any weight is read."""
    with torch.device("meta"):
        empty = cls.from_config(config) if hasattr(cls, "from_config") else cls._from_config(config)
    return {path for path, _ in (*empty.named_modules(), *empty.named_parameters())}


def _unreadable(source: str, error: Exception) -> ModelError:
    """transformers does not say which weight file is broken: ask each."""
    for path in sorted(Path(source).glob("*.safetensors")):
        try:
            load_tensors(path)
        except CorruptArtefact as broken:
            return ModelError(
                broken.what, got=broken.got or one_line(error), expected=broken.expected, fix=broken.fix
            )
    return ModelError(f"cannot read the weights in {source}", got=one_line(error))


@contextmanager
def _silent_bars() -> Iterator[None]:
    """transformers draws progress bars for loading; ours are drawn by the CLI."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


_COLOURS = re.compile("\x1b\\[[0-9;]*m")


@contextmanager
def _shown() -> Iterator[None]:
    """transformers logs names that stand in the files: they are bounded, and none acts."""
    from transformers.utils import logging

    def reveal(record: Any) -> bool:
        record.msg, record.args = show(_COLOURS.sub("", record.getMessage()), 4_000), ()
        return True

    handlers = logging.get_logger("transformers").handlers
    for handler in handlers:
        handler.addFilter(reveal)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(reveal)


@contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Offline is the default: environment switches of the hub client, restored afterwards."""
    if allowed:
        yield
        return
    keys = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    before = {k: os.environ.get(k) for k in keys}
    os.environ.update(dict.fromkeys(keys, "1"))
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
