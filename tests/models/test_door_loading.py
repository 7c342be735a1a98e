"""The door of loading: devices that are here, options that somebody reads, folders of each backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import unwrap  # without the checks of types that these tests run under
from pathlib import Path
from typing import Any

import pytest
import torch

from interp import load_model
from interp.core.activations import Activations
from interp.core.errors import ConfigError, InterpError, ModelError
from interp.models.hooked import HookedModel
from interp.models.loading import bundled_models
from interp.models.text.batch import TokenBatch
from tests.models import zoo

N = "blocks.1.hook_resid_post"


@cache
def tiny() -> HookedModel:
    return load_model("tiny-grammar")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("llama")
    zoo.make("llama").save_pretrained(place)
    return place


ABSENT = [f"cuda:{torch.cuda.device_count()}", "gpu", "gpu9", "", True, 1.5, [0]]
GOES: dict[str, Callable[[Any], Any]] = {
    "model.to": lambda device: tiny().to(device),
    "load_model": lambda device: unwrap(load_model)("tiny-grammar", device=device),
    "capture": lambda device: tiny().capture("The cat", N, to=device),
    "Activations.to": lambda device: unwrap(Activations.to)(tiny().capture("The cat", N), device),
    "TokenBatch.to": lambda device: unwrap(TokenBatch.to)(TokenBatch.of(torch.ones(1, 2).long()), device),
}


@pytest.mark.parametrize("device", ABSENT, ids=repr)
@pytest.mark.parametrize("where", GOES)
def test_a_device_that_is_not_here_is_refused_alike(where: str, device: Any) -> None:
    with pytest.raises(ConfigError, match="device") as caught:
        GOES[where](device)
    assert "cpu" in str(caught.value.expected)


def test_devices_and_dtypes_in_every_form() -> None:
    for device in ("cpu", torch.device("cpu")):
        for where in GOES.values():
            where(device)
    acts = tiny().capture("The cat", N, to="float64")
    assert acts[N].dtype == torch.float64 and acts.to("float32")[N].dtype == torch.float32
    assert load_model("tiny-grammar", dtype="float64").cfg.dtype == "float64"
    for target in ("meta", "float23", "int64", None):
        with pytest.raises(ConfigError):
            tiny().to(target)
    for dtype in (3, "float23", "int64"):
        with pytest.raises(ConfigError, match="dtype"):
            unwrap(load_model)("tiny-grammar", dtype=dtype)


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"dtyp": "float32"}, "'dtype'"),
        ({"torch_dtype": "float32"}, "dtype="),
        ({"load_in_8bit": True}, "quantization_config="),
        ({"revision": "main"}, "interp.wrap"),
        ({"attn_implementation": "spda"}, "'sdpa'"),
        ({"quantization_config": 3}, "BitsAndBytesConfig"),
    ],
    ids=str,
)
def test_options_that_nobody_reads_are_refused(folder: Path, options: dict[str, Any], fix: str) -> None:
    for name in (folder, "tiny-grammar"):
        with pytest.raises(ConfigError, match=next(iter(options))) as caught:
            load_model(name, **options)
        assert fix in str(caught.value.fix)


def test_options_that_somebody_reads_are_used(folder: Path) -> None:
    model = load_model(folder, attn_implementation="eager")
    config: Any = model.module.config
    assert config._attn_implementation == "eager"
    for unread in ({"attn_implementation": "eager"}, {"device_map": "auto"}):
        with pytest.raises(ConfigError, match="no use"):
            load_model("tiny-grammar", **unread)
    with pytest.raises(ConfigError, match="no use"):
        load_model(folder, backend="transformer_lens", attn_implementation="eager")


@pytest.mark.parametrize("name", [None, 3, "", b"tiny"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ModelError, match="a name or a folder"):
        unwrap(load_model)(name)


def test_transformer_lens_boots_no_folder_of_ours() -> None:
    place = bundled_models()["tiny-grammar"]
    with pytest.raises(ModelError, match="TransformerLens") as caught:
        load_model(place, backend="transformer_lens")
    assert caught.value.fix == f"load_model({str(place)!r})"
    assert load_model(place).cfg.n_layers == tiny().cfg.n_layers


def test_a_fix_of_the_command_line_is_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    from interp.cli.main import main

    assert main(["lens", "nofolder", "x"]) == 2
    said = capsys.readouterr().err
    assert "hf download nofolder" in said and "allow_download" not in said
    with pytest.raises(InterpError) as caught:
        load_model("nofolder")
    assert "allow_download=True" in str(caught.value.fix)


MAPS: list[Any] = [
    "foo",
    "atuo",
    {"": "foo"},
    {"x": "cpu"},
    {3: "cpu"},
    ["cpu"],
    {},
    True,
    1.5,
    "cuda:99",
    {"": 99},
    "meta",
    torch.device("meta"),
    {"": "meta"},
]


@pytest.mark.parametrize("place", MAPS, ids=repr)
def test_a_device_map_is_a_plan_a_device_or_goes_from_modules_to_devices(place: Any, folder: Path) -> None:
    with pytest.raises(ConfigError, match="device") as caught:
        load_model(folder, device_map=place)
    assert "config.json" not in str(caught.value)


def test_unknown_modules_in_a_device_map_are_refused_before_the_weights_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.models import loading

    def no_weights(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(loading.model_class("LlamaForCausalLM"), "from_pretrained", no_weights)
    with pytest.raises(ConfigError, match="device_map") as caught:
        load_model(folder, device_map={"modle": "cpu"})
    assert "'model'" in str(caught.value)


def test_device_maps_that_are_right_load_the_same_weights(folder: Path) -> None:
    expected = load_model(folder).fingerprint()
    for place in ("auto", "cpu", torch.device("cpu"), {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}):
        assert load_model(folder, device_map=place).fingerprint() == expected
    with pytest.raises(ConfigError, match="one place"):
        load_model(folder, device_map="cpu", device="cpu")
