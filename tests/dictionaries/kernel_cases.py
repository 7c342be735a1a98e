"""What `test_kernels.py` runs: every product of `SparseEntries`, plain and by the kernels."""

from __future__ import annotations

import itertools
import sys

import torch

from benchmarks.kernels import sparse_products as kernels
from interp.dictionaries.steps import sparse
from interp.dictionaries.steps.sparse import SparseEntries

BOUND = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}


def compiled() -> None:
    """Machine code for two generations of GPUs, in three precisions."""
    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

    arguments = {
        "_weighted_rows": "index:i32 weights:x offsets:i32 matrix:x out:x",
        "_dots": "left:i32 right:i32 a:x b:x out:x",
    }
    for name, kind, capability in itertools.product(arguments, ("fp32", "bf16", "fp64"), (80, 90)):
        pairs = (pair.split(":") for pair in arguments[name].split())
        signature = {key: f"*{kind if what == 'x' else what}" for key, what in pairs}
        signature |= dict.fromkeys(("n", "d") if name == "_dots" else ("d",), "i32")
        source = ASTSource(getattr(kernels, name), signature)
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert made.asm["cubin"]


def equal() -> None:
    """Every product, plain and by the kernels."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = itertools.product((1, 5, 33), (1, 7, 130), ((), (9, 40)), (torch.float32, torch.float64))
    for n, d, groups, dtype in shapes:
        draw = torch.Generator().manual_seed(n * 1000 + d)
        m = 40
        on = torch.rand(n, m, generator=draw) < 0.2
        on[:, 3] = False  # a latent that never fires, and a row without any
        on[0] = False
        flat = on.view(-1).nonzero().squeeze(1).to(device)
        entries = SparseEntries(flat, n, m, groups)
        rows = n * max(1, len(groups))

        def drawn(*size: int) -> torch.Tensor:
            return torch.randn(*size, generator=draw).to(device, dtype)  # noqa: B023

        values, W, G = drawn(len(flat)), drawn(m, d), drawn(rows, d)
        order, row, offsets = entries._by_column
        pairs = {
            "decode": (
                entries.decode(values, W),
                kernels.weighted_rows(entries.column, W, entries.offsets, values),
            ),
            "dot": (entries.dot(G, W), kernels.dots(entries.row, entries.column, G, W)),
            "outer": (
                entries.outer(values, G),
                kernels.weighted_rows(row, G, offsets, values.index_select(0, order)),
            ),
        }
        for name, (plain, ours) in pairs.items():
            assert plain.shape == ours.shape, (name, plain.shape, ours.shape)
            if not plain.numel():
                continue
            gap = float((plain - ours).abs().max() / plain.abs().max().clamp_min(1))
            assert gap <= BOUND[dtype], (name, n, d, groups, dtype, gap)
    assert sparse.TRITON is False


if __name__ == "__main__":
    {"equal": equal, "compiled": compiled}[sys.argv[1]]()
    print(sys.argv[1])
