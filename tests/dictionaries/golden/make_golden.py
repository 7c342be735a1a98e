"""Writes the golden files beside it with the real libraries. Not part of the suite: see README.md.

PYTHONPATH=<unpacked wheels> python make_golden.py
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
D, M, K = 13, 29, 5
# What the libraries import for training and for models, none of which is used here.
UNUSED = ("nnsight", "wandb", "zstandard", "datasets", "accelerate", "schedulefree", "umap")


class Stand(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages that are imported but not used."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.partition(".")[0] in UNUSED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        class Anything(ModuleType):
            __path__ = ()

            def __getattr__(self, name: str) -> Any:
                if name.startswith("__"):
                    raise AttributeError(name)
                return MagicMock()

        return Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


sys.meta_path.insert(0, Stand())


def noise(module: nn.Module, seed: int) -> None:
    """Random numbers in every parameter, none at its initial value."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) / 3)
            if "threshold" in name:
                parameter.abs_().add_(0.05)


def rows() -> Tensor:
    return torch.randn(31, D, generator=torch.Generator().manual_seed(11))


def expect(folder: Path, latents: Tensor, out: Tensor) -> None:
    """What the library itself computes, beside what it saved."""
    found = {"x": rows(), "latents": latents.detach(), "out": out.detach()}
    whole = {name: t.contiguous().clone() for name, t in found.items()}
    save_file(whole, folder / "expected.safetensors")


def sparsify() -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    makes = {
        "layers.3": {},
        "layers.3.mlp": {"transcode": True, "skip_connection": True},
        "h.1.mlp": {"transcode": True},
        "groupmax": {"activation": "groupmax", "k": 1},
    }
    for seed, (name, settings) in enumerate(makes.items()):
        coder = SparseCoder(D, SparseCoderConfig(**{"num_latents": M, "k": K, **settings}))
        noise(coder, seed)
        folder = HERE / "sparsify" / name
        coder.save_to_disk(folder)
        top, indices, _ = coder.encode(rows())
        latents = torch.zeros(len(rows()), M).scatter_(1, indices, top)
        expect(folder, latents, coder(rows()).sae_out)


def dictionary_learning() -> None:
    from dictionary_learning import trainers
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
    from dictionary_learning.utils import load_dictionary

    common = {
        "steps": 9000,
        "activation_dim": D,
        "dict_size": M,
        "layer": 2,
        "device": "cpu",
        "lm_name": "EleutherAI/pythia-70m",
        "submodule_name": "resid_post_layer_2",
    }
    makes = {
        "AutoEncoder": (StandardTrainerAprilUpdate, {}),
        "GatedAutoEncoder": (trainers.GatedSAETrainer, {}),
        "AutoEncoderTopK": (trainers.TopKTrainer, {"k": K}),
        "BatchTopKSAE": (trainers.BatchTopKTrainer, {"k": K}),
        "MatryoshkaBatchTopKSAE": (MatryoshkaBatchTopKTrainer, {"k": K, "group_fractions": [0.3, 0.7]}),
        "JumpReluAutoEncoder": (trainers.JumpReluTrainer, {}),
    }
    for seed, (name, (kind, settings)) in enumerate(makes.items()):
        trainer = kind(**{**common, **settings})
        noise(trainer.ae, seed)
        if name in ("AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            trainer.ae.threshold.fill_(0.6)
        folder = HERE / "dictionary_learning" / name
        folder.mkdir(parents=True, exist_ok=True)
        config = {"trainer": trainer.config, "buffer": {"ctx_len": 128}}
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        torch.save({k: v.cpu() for k, v in trainer.ae.state_dict().items()}, folder / "ae.pt")
        loaded, _ = load_dictionary(str(folder), "cpu")
        latents = loaded.encode(rows())
        expect(folder, latents, loaded.decode(latents))


def circuit_tracer() -> None:
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet

    for name, is_jump, skip in (("relu", False, False), ("jumprelu_skip", True, True)):
        layers = {}
        for layer in range(2):
            function = JumpReLU(torch.rand(M) + 0.1, 0.1) if is_jump else nn.functional.relu
            layers[layer] = SingleLayerTranscoder(
                D, M, function, layer, skip_connection=skip, device=torch.device("cpu"), dtype=torch.float32
            )
            noise(layers[layer], layer)
        whole = TranscoderSet(layers, "ln2.hook_normalized", "hook_mlp_out", scan="golden")
        folder = HERE / "circuit_tracer" / name
        whole.to_safetensors(str(folder))
        config = {
            "model_name": "google/gemma-2-2b",
            "model_kind": "transcoder_set",
            "scan": "golden",
            "feature_input_hook": whole.feature_input_hook,
            "feature_output_hook": whole.feature_output_hook,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        x = rows().expand(2, -1, -1)
        latents = whole.encode(x)
        expect(folder, latents, whole.decode(latents, x))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    sparsify()
    dictionary_learning()
    circuit_tracer()
