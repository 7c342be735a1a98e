"""Capturing activations: us, the plain forward pass, and the peers, interleaved in one run.

    python benchmarks/capture.py                 # times: medians and ratios to the plain forward
    python benchmarks/capture.py --memory        # peak memory above the model, a process each

A GPT-2-small-shaped random model, batch 8 x 128, float32, no gradients. Peers that are not
installed are left out (nnsight is not a dependency: install it into an environment of its own).
Machines are noisy: read the ratios, not the seconds, and run it more than once.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import interp

Call = Callable[[], Any]
MIDDLE = "blocks.6.hook_resid_post"
EVERY_RESID = "blocks.*.hook_resid_post"


def gpt2(layers: int, d_model: int, heads: int, vocabulary: int) -> Any:
    """A random GPT-2 of a given shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary, n_embd=d_model, n_layer=layers, n_head=heads)
    return GPT2LMHeadModel(config).eval().requires_grad_(False)


def hooked_transformer(layers: int, d_model: int, heads: int, vocabulary: int) -> Any:
    """TransformerLens's HookedTransformer of the same shape."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=layers,
        d_model=d_model,
        n_heads=heads,
        d_head=d_model // heads,
        d_mlp=4 * d_model,
        n_ctx=1024,
        d_vocab=vocabulary,
        act_fn="gelu_new",
        normalization_type="LN",
        device="cpu",
    )
    return HookedTransformer(config).eval().requires_grad_(False)


def bridge(raw: Any, vocabulary: int) -> Any:
    """TransformerLens's TransformerBridge around the same kind of model."""
    import tempfile

    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    # The bridge reloads its tokenizer from a folder, so it needs one with a few words.
    folder = tempfile.mkdtemp()
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(50)}, unk_token="t0"))
    special = {"bos_token": "t1", "eos_token": "t2", "pad_token": "t3", "unk_token": "t0"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    raw.save_pretrained(folder)
    return TransformerBridge.boot_transformers(folder, device="cpu").eval().requires_grad_(False)


def variants(which: str, layers: int, d_model: int, heads: int, vocabulary: int, ids: Any) -> dict[str, Call]:
    """Name -> call, for `plain`, `interp`, `bridge`, `ht` or `nnsight`."""
    middle = MIDDLE if layers > 6 else f"blocks.{layers // 2}.hook_resid_post"
    if which in ("plain", "interp"):
        raw = gpt2(layers, d_model, heads, vocabulary)
        if which == "plain":
            return {"forward": lambda: raw(ids)}
        model = interp.wrap(raw)
        return {
            "one, activations only": lambda: model.capture(ids, middle),
            "one, with logits": lambda: model.run_with_cache(ids, middle),
            "all resid, with logits": lambda: model.run_with_cache(ids, EVERY_RESID),
            # TransformerLens's default set: per-head results are opt-in there and here.
            "every site": lambda: model.run_with_cache(ids),
        }
    if which == "nnsight":
        return nnsight_variants(gpt2(layers, d_model, heads, vocabulary), ids, layers)
    shape = (layers, d_model, heads, vocabulary)
    peer = hooked_transformer(*shape) if which == "ht" else bridge(gpt2(*shape), vocabulary)
    resid = lambda name: name.endswith("hook_resid_post")  # noqa: E731
    return {
        "one, activations only": lambda: peer.run_with_cache(ids, names_filter=middle),
        "one, with logits": lambda: peer.run_with_cache(ids, names_filter=middle),
        "all resid, with logits": lambda: peer.run_with_cache(ids, names_filter=resid),
        "every site": lambda: peer.run_with_cache(ids),
    }


def nnsight_variants(raw: Any, ids: Any, layers: int) -> dict[str, Call]:
    """nnsight's tracing of the same model."""
    from nnsight import NNsight

    model = NNsight(raw)

    def one() -> Any:
        with model.trace(ids):
            kept = model.transformer.h[layers // 2].output.save()
        return kept

    def every() -> Any:
        found: list[Any] = []
        with model.trace(ids):
            for block in model.transformer.h:
                found.append(block.output.save())
        return found

    return {"one, activations only": one, "one, with logits": one, "all resid, with logits": every}


def available(names: list[str]) -> list[str]:
    """The peers that are installed."""
    from importlib.util import find_spec

    needs = {"ht": "transformer_lens", "bridge": "transformer_lens", "nnsight": "nnsight"}
    return [n for n in names if n not in needs or find_spec(needs[n]) is not None]


def race(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Every call once per round, rotating the order, so that drift hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with torch.no_grad():
        for name in names:
            calls[name]()
        for turn in range(rounds):
            gc.collect()
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                start = time.perf_counter()
                kept = calls[name]()
                times[name].append(time.perf_counter() - start)
                del kept
    return times


def report(title: str, times: dict[str, list[float]], out: dict[str, Any]) -> None:
    """Median milliseconds and the ratio to the plain forward pass of the same round."""
    plain = times["plain · forward"]
    sys.stdout.write(f"\n{title}\n{'':42}{'median ms':>10}{'ratio':>8}\n")
    for name, seconds in times.items():
        ratio = statistics.median(s / p for s, p in zip(seconds, plain, strict=True))
        out[f"{title} | {name}"] = round(ratio, 3)
        sys.stdout.write(f"{name:42}{statistics.median(seconds) * 1e3:10.2f}{ratio:8.2f}\n")


def timings(rounds: int, peers: list[str]) -> dict[str, Any]:
    """Both shapes, all variants."""
    out: dict[str, Any] = {}
    shapes = {
        "GPT-2 small, batch 8 x 128": (12, 768, 12, 50257, (8, 128), rounds),
        "tiny: 4 layers, d_model 64, 1 x 8": (4, 64, 4, 1000, (1, 8), rounds * 60),
    }
    for title, (layers, width, heads, vocabulary, shape, n) in shapes.items():
        ids = torch.randint(5, 50, shape, generator=torch.Generator().manual_seed(0))
        calls = {
            f"{who} · {what}": call
            for who in peers
            for what, call in variants(who, layers, width, heads, vocabulary, ids).items()
        }
        report(title, race(calls, n), out)
    return out


def one_memory(who: str, what: str) -> int:
    """Peak bytes above the loaded, warmed-up model, in this process."""
    ids = torch.randint(5, 50, (8, 128), generator=torch.Generator().manual_seed(0))
    call = variants(who, 12, 768, 12, 50257, ids)[what]
    with torch.no_grad():
        small = variants(who, 2, 64, 2, 100, ids[:1, :4])[what]
        small()  # imports and lazy set-up happen here, outside the measurement
        gc.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kept = call()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    del kept
    return (after - before) * 1024


def memory(peers: list[str], repeats: int) -> dict[str, Any]:
    """Each variant in a process of its own: the high-water mark never falls."""
    out: dict[str, Any] = {}
    sys.stdout.write(f"\n{'peak memory above the model':42}{'MiB':>10}\n")
    for what in ("one, activations only", "all resid, with logits", "every site"):
        for who in (p for p in peers if p != "plain"):
            if who == "nnsight" and what == "every site":
                continue
            command = [sys.executable, __file__, "--one-memory", who, what]
            found = [
                int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
                for _ in range(repeats)
            ]
            out[f"memory | {who} · {what}"] = statistics.median(found)
            sys.stdout.write(f"{who + ' · ' + what:42}{statistics.median(found) / 2**20:10.0f}\n")
            sys.stdout.flush()
    return out


def main() -> None:
    """Parse the command line, run, print, and write the figures as JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", help="also print the ratios as one JSON line", action="store_true")
    parser.add_argument("--peers", nargs="*", default=["interp", "ht", "bridge", "nnsight"])
    parser.add_argument("--one-memory", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one_memory:
        sys.stdout.write(f"{one_memory(*args.one_memory)}\n")
        return
    peers = available(["plain", *args.peers])
    out = memory(peers, args.rounds) if args.memory else timings(args.rounds, peers)
    if args.json:
        sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
