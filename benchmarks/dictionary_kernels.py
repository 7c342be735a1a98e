"""The sparse products of a step on a GPU: torch's against the Triton kernels, interleaved.

    python benchmarks/dictionary_kernels.py            # says so and ends where there is no GPU

The kernels wait in `benchmarks/kernels` for somebody to measure them; where they win, they belong
into `interp/dictionaries/steps/sparse.py`. Shapes are those of `dictionary_step.py`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

Call = Callable[[], torch.Tensor]


def products(n: int, d: int, m: int, k: int, dtype: torch.dtype) -> dict[str, tuple[Call, Call]]:
    """Name -> (torch's, ours), on the same random entries."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks.kernels import sparse_products as kernels
    from interp.dictionaries.steps.sparse import SparseEntries

    draw = torch.Generator("cuda").manual_seed(0)
    W, G = (torch.randn(rows, d, generator=draw, device="cuda", dtype=dtype) for rows in (m, n))
    index = torch.rand(n, m, generator=draw, device="cuda").topk(k, -1).indices
    flat = (index + torch.arange(n, device="cuda")[:, None] * m).sort(-1).values.flatten()
    entries = SparseEntries(flat, n, m)
    values = torch.randn(len(flat), generator=draw, device="cuda", dtype=dtype)
    order, row, offsets = entries._by_column
    return {
        "decode": (
            lambda: entries.decode(values, W),
            lambda: kernels.weighted_rows(entries.column, W, entries.offsets, values),
        ),
        "dot": (lambda: entries.dot(G, W), lambda: kernels.dots(entries.row, entries.column, G, W)),
        "outer": (
            lambda: entries.outer(values, G),
            lambda: kernels.weighted_rows(row, G, offsets, values[order]),
        ),
    }


def milliseconds(call: Call) -> float:
    """One call by the device's own clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def main() -> None:
    """Measure and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in {"batch": 4096, "d-in": 512, "d-sae": 8192, "k": 32, "rounds": 30}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.stdout.write("no GPU here: nothing measured\n")
        return
    dtype = getattr(torch, args.dtype)
    for name, both in products(args.batch, args.d_in, args.d_sae, args.k, dtype).items():
        gap = float((both[0]() - both[1]()).abs().max())  # and both are compiled
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(args.rounds):
            for call, found in zip(both, times, strict=True):
                found.append(milliseconds(call))
        torch_ms, ours_ms = map(statistics.median, times)
        sys.stdout.write(
            f"{name:8} torch {torch_ms:8.3f} ms   triton {ours_ms:8.3f} ms   "
            f"torch / triton {torch_ms / ours_ms:5.2f}   largest difference {gap:.1e}\n"
        )


if __name__ == "__main__":
    main()
