"""A whole training run with the model in the loop: ours against SAELens's runners.

    python benchmarks/dictionary_run.py                     # 1 and 8 dictionaries
    python benchmarks/dictionary_run.py --steps 8 --count 1

TopK dictionaries (d_sae 4096, k 32) on the middle of a random 4-layer, 256-wide GPT-2 that reads
random tokens, 4096 rows per step. Every case runs in a process of its own, so that its peak memory
is its own; the order rotates from round to round. What is timed is the call that trains, model and
tokens being there already: wall and CPU seconds, and peak memory above what was there before.
Eight SAELens runs are eight times the one that is measured. Machines are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

VOCABULARY, SITE = 1000, "blocks.2.hook_resid_post"
Train = Callable[[], Any]


def ours(args: argparse.Namespace, n: int) -> Train:
    """One pass for n dictionaries."""
    from transformers import GPT2Config, GPT2LMHeadModel

    import interp
    from interp.dictionaries import TrainConfig, train

    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=args.d_model, n_layer=4, n_head=4, n_positions=args.n_ctx
    )
    model = interp.wrap(GPT2LMHeadModel(config).eval(), name="random GPT-2")
    ids = _tokens(args)
    configs = [
        TrainConfig(
            site=SITE,
            name=f"k{i}",
            d_sae=args.d_sae,
            k=args.k,
            steps=args.steps,
            seed=i,
            batch_size=args.batch,
            buffer_sequences=args.buffer,
            exclude_bos=False,
            forward_sequences=32,
            lr=3e-4,
        )
        for i in range(n)
    ]
    return lambda: train(configs, ids, model=model)


def saelens(args: argparse.Namespace, n: int) -> Train:
    """SAELens's runner for one, its MultiSAETrainingRunner for several."""
    from sae_lens import (
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        MultiSAETrainingRunner,
        MultiSAETrainingRunnerConfig,
        TopKTrainingSAEConfig,
    )

    shared: dict[str, Any] = {
        "model_name": "random",
        "dataset_path": "",
        "streaming": False,
        "prepend_bos": False,
        "context_size": args.n_ctx,
        "training_tokens": args.steps * args.batch,
        "train_batch_size_tokens": args.batch,
        "store_batch_size_prompts": 32,
        "n_batches_in_buffer": max(64, args.buffer),
        "n_checkpoints": 0,
        "checkpoint_path": None,
        "output_path": None,
        "n_eval_batches": 1,
        "lr": 3e-4,
        "logger": LoggingConfig(log_to_wandb=False),
        "device": "cpu",
    }
    made = {f"k{i}": TopKTrainingSAEConfig(d_in=args.d_model, d_sae=args.d_sae, k=args.k) for i in range(n)}
    given: dict[str, Any] = {"override_dataset": _dataset(_tokens(args)), "override_model": _hooked(args)}
    if n == 1:
        config = LanguageModelSAERunnerConfig(sae=made["k0"], hook_name=SITE, **shared)
        return LanguageModelSAETrainingRunner(config, **given).run
    several = MultiSAETrainingRunnerConfig(saes=made, hook_names=SITE, **shared)
    return MultiSAETrainingRunner(several, **given).run


def _tokens(args: argparse.Namespace) -> torch.Tensor:
    n = args.steps * args.batch // args.n_ctx + 2 * args.buffer
    source = torch.Generator().manual_seed(0)
    return torch.randint(VOCABULARY, (n, args.n_ctx), generator=source)


def _dataset(ids: torch.Tensor) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"tokens": ids.tolist()}).with_format("torch")


def _hooked(args: argparse.Namespace) -> Any:
    """A HookedTransformer of the same shape; SAELens asks its tokenizer for special tokens."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    return HookedTransformer(
        HookedTransformerConfig(
            n_layers=4,
            d_model=args.d_model,
            n_ctx=args.n_ctx,
            d_head=args.d_model // 4,
            n_heads=4,
            d_vocab=VOCABULARY,
            act_fn="gelu_new",
            normalization_type="LN",
        )
    )


MAKERS = {"interp": ours, "saelens": saelens}


def one(args: argparse.Namespace, library: str, n: int) -> dict[str, float]:
    """Train in this process: wall and CPU seconds, and the peak above what was there before."""
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    call = MAKERS[library](args, n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def measure(args: argparse.Namespace, argv: list[str]) -> dict[str, dict[str, float]]:
    """Medians over rounds of every case, each in a process of its own."""
    cases = [(library, n) for n in args.count for library in MAKERS]
    found: dict[str, list[dict[str, float]]] = {f"{lib} x {n}": [] for lib, n in cases}
    for turn in range(args.rounds):
        shift = turn % len(cases)
        for library, n in cases[shift:] + cases[:shift]:
            command = [sys.executable, __file__, *argv, "--one", library, str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{library} x {n}:\n{done.stderr[-3000:]}")
            found[f"{library} x {n}"].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }


def show(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """Print the table; the ratios, theirs over ours in CPU seconds."""
    for name, row in found.items():
        sys.stdout.write(
            f"{name:16} {row['wall']:8.1f} s wall {row['cpu']:8.1f} s CPU {row['MiB']:8.0f} MiB\n"
        )
    ratios: dict[str, float] = {}
    for name, row in found.items():
        library, _, n = name.partition(" x ")
        if library != "saelens":
            continue
        mine = found[f"interp x {n}"]
        label = "the SAELens runner" if n == "1" else "MultiSAETrainingRunner"
        ratios[f"{n}: {label} / ours"] = row["cpu"] / mine["cpu"]
        if n != "1" and "saelens x 1" in found:
            ratios[f"{n}: {n} SAELens runs / ours"] = int(n) * found["saelens x 1"]["cpu"] / mine["cpu"]
    for name, value in ratios.items():
        sys.stdout.write(f"{name:40} {value:6.2f}\n")
    return ratios


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    defaults = {
        "steps": 16,
        "batch": 4096,
        "d-model": 256,
        "d-sae": 4096,
        "k": 32,
        "n-ctx": 128,
        "buffer": 64,
        "rounds": 3,
        "threads": 2,
    }
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--count", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    if args.one is not None:
        found = one(args, args.one[0], int(args.one[1]))
        sys.stdout.write("\n" + json.dumps(found) + "\n")
        return
    found = measure(args, sys.argv[1:])
    ratios = show(found)
    if args.json is not None:
        args.json.write_text(json.dumps({"cases": found, "ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
