"""How cost grows: one size varied at a time on random models, CPU seconds and peak bytes.

    python benchmarks/scale.py                # every analysis, a few minutes on two cores
    python benchmarks/scale.py --only lens    # those whose name contains it

The exponent is that of the last octave: 1 is linear. Peaks are what torch's allocator held at once
above model and inputs, temporaries of its kernels included; they are exact and the same everywhere.
Seconds are process time: read their exponents, not the seconds. "Fits" is the size at which the peak,
grown on by its last exponent, fills 24 or 80 GiB beside the model: an extrapolation, by far.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import interp
from interp.attribution.budget import SHARES, held_bytes
from interp.attribution.methods.table import METHODS
from interp.dictionaries import Dictionary, DictionaryConfig, FinetuneConfig, evaluate, finetune
from interp.lenses import head_atlas, neuron_atlas, read_pairs, split_second_order

SITE = "blocks.1.hook_resid_post"


class Growth(NamedTuple):
    """One analysis and the size that is varied."""

    name: str
    size: str
    steps: tuple[int, ...]
    run: Callable[[int], Callable[[], Any]]
    """What is measured, of what is made before."""


@cache
def decoder(
    layers: int = 4, d_model: int = 64, vocabulary: int = 1_000, n_ctx: int = 1_024, dtype: str = "float32"
) -> interp.HookedModel:
    """A random GPT-2 of a given shape."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_embd=d_model,
        n_layer=layers,
        n_head=4,
        n_positions=n_ctx,
        bos_token_id=0,
        eos_token_id=0,
    )
    module = transformers.GPT2LMHeadModel(config).to(getattr(torch, dtype)).eval().requires_grad_(False)
    return interp.wrap(module)


def ids(n: int, rows: int = 1) -> Tensor:
    """Random tokens [rows n]."""
    return torch.randint(3, 1_000, (rows, n), generator=torch.Generator().manual_seed(0))


@cache
def dictionary(model: interp.HookedModel) -> Dictionary:
    """An untrained dictionary of the model's second layer."""
    made = Dictionary(DictionaryConfig(d_in=model.cfg.d_model, d_sae=256, k=8, site_in=SITE))
    made.provenance = model.provenance([SITE], d_in=model.cfg.d_model)
    return made


def _judged(vocabulary: int) -> Callable[[], Any]:
    model = decoder(2, vocabulary=vocabulary)
    return lambda: evaluate(dictionary(model), model, ids(128, 4))


def _tuned(vocabulary: int) -> Callable[[], Any]:
    model = decoder(2, vocabulary=vocabulary)
    how = FinetuneConfig(steps=1, batch_sequences=4)
    return lambda: finetune(dictionary(model), model, ids(128, 4), how)


def _attributed(method: str, vocabulary: int = 1_000) -> Callable[[int], Callable[[], Any]]:
    def of_tokens(n: int) -> Callable[[], Any]:
        model = decoder(2, vocabulary=vocabulary)
        return lambda: interp.attribute(model, ids(n)[0], 7, method=method)

    return of_tokens


def _of_vocabulary(vocabulary: int) -> Callable[[], Any]:
    model = decoder(2, vocabulary=vocabulary)
    return lambda: interp.attribute(model, ids(64)[0], 7)


GROWTHS = (
    Growth("logit lens", "tokens", (128, 256, 512), lambda n: _lens(n, 50_000)),
    Growth("logit lens", "vocabulary", (16_000, 64_000, 128_000), lambda v: _lens(128, v)),
    Growth("evaluate a dictionary", "vocabulary", (16_000, 32_000, 64_000), _judged),
    Growth("finetune a dictionary", "vocabulary", (16_000, 32_000, 64_000), _tuned),
    Growth("integrated gradients", "vocabulary", (8_000, 32_000, 64_000), _of_vocabulary),
    Growth("integrated gradients", "tokens", (32, 64, 128), _attributed("integrated_gradients")),
    Growth("occlusion", "tokens", (64, 128, 256), _attributed("occlusion")),
    Growth("deeplift", "tokens", (64, 128, 256), _attributed("deeplift")),
    Growth("direct logit attribution", "layers", (4, 8, 16), lambda n: _direct(n)),
    Growth("second order", "layers", (4, 8, 16), lambda n: _second(n)),
    Growth("neuron atlas", "layers", (4, 8, 16), lambda n: _atlas(n)),
    Growth("head atlas", "tokens", (128, 256, 512), lambda n: _heads(n)),
    Growth("pairs of tokens (OV, one head)", "vocabulary", (4_000, 8_000, 16_000), lambda v: _pairs(v)),
    Growth("full cache", "tokens", (128, 256, 512), lambda n: _cache(n)),
)


def _lens(n: int, vocabulary: int) -> Callable[[], Any]:
    model = decoder(2, vocabulary=vocabulary)
    return lambda: interp.logit_lens(model, ids(n))


def _direct(layers: int) -> Callable[[], Any]:
    model = decoder(layers, d_model=256, dtype="bfloat16")
    return lambda: interp.direct_logit_attribution(model, ids(32))


def _second(layers: int) -> Callable[[], Any]:
    model = decoder(layers)
    return lambda: split_second_order(model, ids(32), 7, layer=0)


def _atlas(layers: int) -> Callable[[], Any]:
    model = decoder(layers, d_model=256)
    return lambda: neuron_atlas(model)


def _heads(n: int) -> Callable[[], Any]:
    model = decoder()
    return lambda: head_atlas(model, ids(n))


def _pairs(vocabulary: int) -> Callable[[], Any]:
    model = decoder(2, vocabulary=vocabulary)
    return lambda: read_pairs(model, "OV", heads=[(0, 0)])


def _cache(n: int) -> Callable[[], Any]:
    model = decoder()
    return lambda: model.run_with_cache(ids(n), return_type=None)


def measured(run: Callable[[], Any]) -> tuple[float, int]:
    """CPU seconds (the less of two) and peak bytes."""
    run()
    seconds = []
    for _ in range(2):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = peak = 0
    events: Any = seen.profiler
    for event in events.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return min(seconds), peak


def exponent(steps: tuple[int, ...], values: list[float]) -> float:
    """Growth over the last step, as a power of the size."""
    return math.log(max(values[-1], 1e-9) / max(values[-2], 1e-9)) / math.log(steps[-1] / steps[-2])


def largest(steps: tuple[int, ...], peaks: list[float], gib: int) -> str:
    """The size whose peak fills so many GiB, two digits; a peak that does not grow is no bound."""
    growth = exponent(steps, peaks)
    if growth < 0.05:
        return "any"
    size = steps[-1] * (gib * 2**30 / peaks[-1]) ** (1 / growth)
    return f"{float(f'{min(size, 1e9):.1e}'):,.0f}" if size < 1e9 else "over 10^9"


def lines(only: str) -> Iterator[str]:
    """The table, a row per analysis."""
    yield "| analysis | varied | sizes | CPU s | exponent | peak MiB | exponent | fits 24 GiB | fits 80 GiB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for growth in GROWTHS:
        if only not in growth.name:
            continue
        found = [measured(growth.run(step)) for step in growth.steps]
        seconds, peaks = [s for s, _ in found], [float(p) for _, p in found]
        told = (
            growth.name,
            growth.size,
            ", ".join(f"{step:,}" for step in growth.steps),
            ", ".join(f"{s:.2f}" for s in seconds),
            f"{exponent(growth.steps, seconds):.2f}",
            ", ".join(f"{p / 2**20:.1f}" for p in peaks),
            f"{exponent(growth.steps, peaks):.2f}",
            *(largest(growth.steps, peaks, gib) for gib in (24, 80)),
        )
        yield f"| {' | '.join(told)} |"


def eight_billion() -> interp.HookedModel:
    """The shapes of an 8-billion-parameter Llama in bfloat16, without its weights."""
    config = transformers.LlamaConfig(
        vocab_size=128_256,
        hidden_size=4_096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        module: torch.nn.Module = transformers.LlamaForCausalLM(config)
        return interp.wrap(module.bfloat16().eval(), check=False)


def lengths() -> Iterator[str]:
    """The longest input whose single row an attribution of an 8B model lets through, by its own budget."""
    yield "| what a method keeps | methods | tokens in 24 GiB | tokens in 80 GiB |"
    yield "|---|---|---|---|"
    model = eight_billion()
    weights = sum(p.numel() * p.element_size() for p in model.module.parameters())
    for kept, share in SHARES.items():
        methods = ", ".join(name for name, row in METHODS.items() if row.keeps == kept)
        fits = []
        for gib in (24, 80):
            pos = 1
            while sum(held_bytes(model, 2 * pos, "hook_embed", share).values()) < gib * 2**30 - weights:
                pos *= 2
            fits.append(f"{pos:,}")
        yield f"| {kept} | {methods} | {' | '.join(fits)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="part of an analysis's name")
    for line in lines(parser.parse_args().only):
        print(line, flush=True)
    print()
    for line in lengths():
        print(line)
