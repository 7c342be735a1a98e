"""The neuron atlas of a whole model: its time over that of its matrix products alone, its memory.

    python benchmarks/neuron_atlas.py                       # GPT-2-small shape, two rounds
    python benchmarks/neuron_atlas.py --layers 2 --rounds 3 # a shorter look
    python benchmarks/neuron_atlas.py --memory              # peak memory of the whole process

A random model: 12 layers, d_model 768, d_mlp 3072, 50,257 tokens, both sides of every neuron
(73,728 directions, 5.7 TFLOP). Atlas and bare products alternate in one process, with the same
blocks. Ratios are of CPU seconds: wall time on a shared machine measures the neighbours.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import interp
from interp.lenses import TokenTableConfig, neuron_atlas

VOCABULARY = 50_257


def gpt2(layers: int) -> Any:
    """A random GPT-2 of small's widths."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_layer=layers)
    return interp.wrap(GPT2LMHeadModel(config).eval().requires_grad_(False), check=False)


def products(model: Any, rows: int) -> None:
    """Nothing but every direction times the vocabulary, block by block, results thrown away."""
    vectors = model.W_U.detach()
    for name in ("W_in", "W_out"):
        for weight in getattr(model, name).detach():
            directions = weight.T if name == "W_in" else weight
            for start in range(0, len(directions), rows):
                directions[start : start + rows].contiguous() @ vectors


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--block-mib", type=int, default=TokenTableConfig().block_mib)
    parser.add_argument("--memory", action="store_true", help="one atlas, then the peak")
    args = parser.parse_args()
    model, config = gpt2(args.layers), TokenTableConfig(block_mib=args.block_mib)
    rows = args.block_mib * 2**20 // (VOCABULARY * 4)
    if args.memory:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        table = neuron_atlas(model, config)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        line = f"{len(table.names)} directions: peak {after / 2**10:.0f} MiB of the whole process"
        sys.stdout.write(f"{line}, {(after - before) / 2**10:.0f} MiB above the loaded model\n")
        return
    ratios = []
    for turn in range(args.rounds):
        wall, cpu = {}, {}
        order = ["products", "atlas"] if turn % 2 == 0 else ["atlas", "products"]
        for what in order:
            start = time.perf_counter(), time.process_time()
            neuron_atlas(model, config) if what == "atlas" else products(model, rows)
            wall[what] = time.perf_counter() - start[0]
            cpu[what] = time.process_time() - start[1]
        ratios.append(cpu["atlas"] / cpu["products"])
        sys.stdout.write(
            f"atlas {cpu['atlas']:.1f} s of CPU ({wall['atlas']:.1f} s), products alone "
            f"{cpu['products']:.1f} s ({wall['products']:.1f} s), ratio {ratios[-1]:.3f}\n"
        )
        sys.stdout.flush()
    sys.stdout.write(f"median ratio {statistics.median(ratios):.3f}\n")


if __name__ == "__main__":
    main()
