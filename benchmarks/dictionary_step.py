"""One training step of a dictionary: us, the encoder's GEMM alone, and the peers, interleaved.

    python benchmarks/dictionary_step.py                # times, ratios to the GEMM and to peers
    python benchmarks/dictionary_step.py --memory       # peak memory of three steps, a process each
    python benchmarks/dictionary_step.py --crossover    # where dense products beat sparse ones
    MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 python benchmarks/...
                                                        # a tuned allocator for everybody

A step is what a user's run does: loss, gradients, decoder projection and clipping where the
library does them, Adam, dead-latent counts; ours is `interp.dictionaries.train`'s own loop,
finite guard included. Random rows and weights, float32; relu, jumprelu and gated get biases at
which `--density` of the latents is active. Peers that are not installed are left out
(eai-sparsify and dictionary-learning are no dependencies: install them elsewhere and add that
folder to PYTHONPATH). Machines are noisy: read the ratios, not the seconds; the CPU columns do
not see other people's load.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

Call = Callable[[], Any]
OURS = ("topk", "batchtopk", "relu", "jumprelu", "gated", "transcoder")
PEERS = {
    "saelens": ("sae_lens", ("topk", "batchtopk", "relu", "jumprelu", "gated")),
    "sparsify": ("sparsify", ("topk", "transcoder")),
    "dictionary_learning": ("dictionary_learning", ("topk", "batchtopk")),
}
LR = 1e-7  # the work of an update without its effect: the density stays as it was set


class Shape:
    """Sizes and one batch; targets are the inputs except for a transcoder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.n, self.d, self.m, self.k = args.batch, args.d_in, args.d_sae, args.k
        self.density = args.density
        source = torch.Generator().manual_seed(0)
        self.x = torch.randn(self.n, self.d, generator=source)
        self.y = torch.randn(self.n, self.d, generator=source)
        self.rows = torch.randn(self.m, self.d, generator=source)
        self.rows /= self.rows.norm(dim=1, keepdim=True)
        some = self.x[:512] @ self.rows.T
        self.bound = float(some.flatten()[:1_000_000].quantile(1 - self.density))


def gemm(shape: Shape) -> Call:
    """The encoder's product into memory that is there already: no TopK step does less."""
    out = torch.empty(shape.n, shape.m)
    return lambda: torch.mm(shape.x, shape.rows.T, out=out)


def interp_step(shape: Shape, kind: str) -> Call:
    """A step of our training loop."""
    from interp.activations.loop import Run
    from interp.dictionaries import training
    from interp.dictionaries.initialising import Sample
    from interp.dictionaries.train_config import TrainConfig
    from interp.dictionaries.trainee import Trainee

    is_transcoder = kind == "transcoder"
    config = TrainConfig(
        d_sae=shape.m,
        activation="topk" if is_transcoder else kind,
        k=float(shape.k),
        batch_size=shape.n,
        steps=10**6,
        lr=LR,
        lr_schedule="constant",
        lr_warmup=0,
        sparsity_warmup=0,
        log_every=10**6,
        bandwidth=0.05,
        scale=False,
        dead_after=2**31 - 1,
    )
    sample = Sample(shape.x, shape.y if is_transcoder else shape.x)
    trainee = Trainee(config, "x", "y" if is_transcoder else "x", sample)
    trainees = torch.nn.ModuleDict({"0": trainee})
    with torch.no_grad():
        d = trainee.dictionary
        d.encoder.copy_(shape.rows)
        d.W_dec.copy_(shape.rows)
        if kind in ("relu", "gated"):
            for name in ("b_enc",) if kind == "relu" else ("b_gate", "b_mag"):
                getattr(d, name).fill_(-shape.bound)
        if kind == "jumprelu":
            d.threshold.fill_(shape.bound)
            d.b_enc.zero_()
        d.b_dec.zero_()
    run = Run(trainees, training._optimizer(trainees, config), config.loop(), None)
    run.step_fn, run.callbacks = training._step, [training.Upkeep()]
    run.batches = lambda t: {"x": shape.x, "y": shape.y}
    run.schedule = lambda t: 1.0
    t = run.prepare()

    def call() -> None:
        nonlocal t
        run.step(t, 0.0, None)
        t += 1

    return call


def saelens_step(shape: Shape, kind: str) -> Call:
    """A step of SAELens's SAETrainer with its defaults."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.sae_trainer import SAETrainer

    name = "standard" if kind == "relu" else kind
    make, config = get_sae_training_class(name)
    more = {"k": shape.k} if kind in ("topk", "batchtopk") else {}
    sae = make(config(d_in=shape.d, d_sae=shape.m, **more))
    with torch.no_grad():
        sae.W_enc.copy_(shape.rows.T)
        sae.W_dec.copy_(shape.rows)
        if kind in ("relu", "gated"):
            for bias in ("b_enc",) if kind == "relu" else ("b_gate", "b_mag"):
                getattr(sae, bias).fill_(-shape.bound)
        if kind == "jumprelu":
            sae.threshold.fill_(shape.bound)
    settings = SAETrainerConfig(
        total_training_samples=shape.n * 10**6, train_batch_size_samples=shape.n, lr=LR, lr_end=LR
    )
    trainer = SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))

    def call() -> None:
        trainer.step(shape.x)
        trainer.n_training_steps += 1

    return call


def sparsify_step(shape: Shape, kind: str) -> Call:
    """The body of sparsify's `Trainer.fit`, with torch's Adam (its 8-bit one needs a GPU)."""
    from sparsify import SparseCoder, SparseCoderConfig

    is_transcoder = kind == "transcoder"
    coder = SparseCoder(shape.d, SparseCoderConfig(num_latents=shape.m, k=shape.k, transcode=is_transcoder))
    with torch.no_grad():
        coder.encoder.weight.copy_(shape.rows)
        coder.W_dec.copy_(shape.rows)
    optimizer = torch.optim.Adam(coder.parameters(), lr=LR)
    idle = torch.zeros(shape.m, dtype=torch.long)
    target = shape.y if is_transcoder else shape.x

    def call() -> None:
        if not is_transcoder:
            coder.set_decoder_norm_to_unit_norm()
        fired = torch.zeros(shape.m, dtype=torch.bool)
        variance = (target - target.mean(0)).pow(2).sum()
        out = coder(x=shape.x, y=target, dead_mask=None, total_variance=variance)
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + out.multi_topk_fvu / 8).backward()
        if not is_transcoder:
            coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            idle.add_(shape.n)
            idle[fired] = 0

    return call


def dictionary_learning_step(shape: Shape, kind: str) -> Call:
    """`update` of dictionary_learning's trainer."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    made = (TopKTrainer if kind == "topk" else BatchTopKTrainer)(
        steps=10**6,
        activation_dim=shape.d,
        dict_size=shape.m,
        k=shape.k,
        layer=0,
        lm_name="-",
        lr=LR,
        device="cpu",
        warmup_steps=0,
        seed=0,
    )
    step = 0

    def call() -> None:
        nonlocal step
        step += 1
        made.update(step, shape.x)

    return call


MAKERS: dict[str, Callable[[Shape, str], Call]] = {
    "interp": interp_step,
    "saelens": saelens_step,
    "sparsify": sparsify_step,
    "dictionary_learning": dictionary_learning_step,
}


def available(kinds: list[str]) -> list[tuple[str, str]]:
    """(library, kind) of ours and of the peers that are installed."""
    found = [("interp", kind) for kind in OURS if kind in kinds]
    for peer, (package, theirs) in PEERS.items():
        if find_spec(package) is not None:
            found += [(peer, kind) for kind in theirs if kind in kinds]
    return found


def race(calls: dict[str, Call], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of every call once per round, rotating the order."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    names = list(calls)
    for call in calls.values():
        call()
    for turn in range(rounds):
        gc.collect()
        shift = turn * 3 % len(names)
        for name in names[shift:] + names[:shift]:
            wall, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return times


def report(times: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Medians, ratios to the GEMM of the same round, and how many times faster ours is."""
    out: dict[str, Any] = {}
    head = f"{'':32}{'ms':>8}{'x GEMM':>8}{'ours':>7}   {'CPU ms':>8}{'x GEMM':>8}{'ours':>7}"
    sys.stdout.write(f"\n{head}\n")
    for name, found in times.items():
        ours = times.get(f"interp · {name.split(' · ')[-1]}", found)
        row = []
        for i in (0, 1):
            seconds = [one[i] for one in found]
            against = [s / g[i] for s, g in zip(seconds, times["gemm"], strict=True)]
            faster = [s / o[i] for s, o in zip(seconds, ours, strict=True)]
            row += [statistics.median(v) for v in (seconds, against, faster)]
        keys = ("wall", "wall_x_gemm", "wall_ours", "cpu", "cpu_x_gemm", "cpu_ours")
        out[name] = dict(zip(keys, (round(v, 4) for v in row), strict=True))
        wall, cpu = row[:3], row[3:]
        cells = [f"{r[0] * 1e3:8.0f}{r[1]:8.2f}{r[2]:7.2f}" for r in (wall, cpu)]
        sys.stdout.write(f"{name:32}{cells[0]}   {cells[1]}\n")
    return out


def one_memory(shape: Shape, library: str, kind: str) -> int:
    """Peak bytes of three steps above the weights, in this process (Linux)."""
    call = MAKERS[library](shape, kind)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is held
    before = high_water()
    for _ in range(3):
        call()
    return high_water() - before


def high_water() -> int:
    """Most bytes this process held since the mark was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def memory(kinds: list[str], argv: list[str]) -> dict[str, Any]:
    """Each step in a process of its own: the high-water mark never falls."""
    out: dict[str, Any] = {}
    sys.stdout.write(f"\n{'peak memory above the weights':32}{'MiB':>8}\n")
    for library, kind in available(kinds):
        command = [sys.executable, __file__, *argv, "--one-memory", library, kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        out[f"{library} · {kind}"] = found = int(done.stdout.split()[-1])
        sys.stdout.write(f"{library + ' · ' + kind:32}{found / 2**20:8.0f}\n")
        sys.stdout.flush()
    return out


def crossover(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a ReLU step by share of active latents, sparse and dense; and where they meet."""
    from interp.dictionaries import Dictionary, DictionaryConfig
    from interp.dictionaries.steps import sparse
    from interp.dictionaries.steps.table import TrainLoss, make_step

    shape = Shape(args)
    d = Dictionary(DictionaryConfig(d_in=shape.d, d_sae=shape.m, activation="relu"))
    with torch.no_grad():
        d.encoder.copy_(shape.rows)
        d.W_dec.copy_(shape.rows)
        pre = shape.x[:256] @ shape.rows.T
    weight = TrainLoss(coefficient=torch.tensor(0.1), dead=torch.zeros(shape.m, dtype=torch.bool))
    step = make_step(d, weight)
    rows, changeover = [], sparse.CROSSOVER
    for density in (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.36):
        d.b_enc.data.fill_(-float(pre.flatten()[:1_000_000].quantile(1 - density)))

        def call(bound: float) -> Any:
            sparse.CROSSOVER = bound
            return step(shape.x, shape.x)

        times = race({"sparse": lambda: call(2.0), "dense": lambda: call(-1.0)}, args.rounds)
        found = {k: statistics.median(cpu for _, cpu in v) for k, v in times.items()}
        rows.append({"density": density, **found})
        sys.stdout.write(
            f"density {density:6.3f}   sparse {found['sparse'] * 1e3:7.0f} CPU ms   "
            f"dense {found['dense'] * 1e3:7.0f}\n"
        )
        sys.stdout.flush()
    meets = next((r["density"] for r in rows if r["sparse"] > r["dense"]), None)
    sys.stdout.write(f"sparse is slower from a density of about {meets}\n")
    if args.figure is not None:
        draw(rows, args.figure, changeover)
    return {"rows": rows, "crossover": meets}


def draw(rows: list[dict[str, float]], path: Path, changeover: float) -> None:
    """Both curves as a page, with the share at which the library changes over."""
    import plotly.graph_objects as go

    from interp.core.frames.quantity import Quantity
    from interp.plotting import theme

    quantity = Quantity("CPU time per step", "s", f"slower; interp changes over at {changeover:.0%}")
    figure = theme.figure("A ReLU step: where dense products become faster", quantity, 760, 460)
    densities = [row["density"] for row in rows]
    for name in ("sparse", "dense"):
        figure.add_trace(go.Scatter(x=densities, y=[row[name] for row in rows], name=name))
    figure.add_vline(x=changeover, line_dash="dot")
    figure.update_xaxes(
        title="share of active latents",
        type="log",
        tickvals=densities,
        ticktext=[f"{density:.1%}" for density in densities],
    )
    figure.update_yaxes(title=quantity.axis, rangemode="tozero")
    figure.write_html(path, include_plotlyjs=True)


def main() -> None:
    """Parse the command line, run, print, and write the figures as JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, value in {"batch": 4096, "d-in": 512, "d-sae": 8192, "k": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--density", type=float, default=0.008)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", nargs="*", default=list(OURS))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--crossover", action="store_true")
    parser.add_argument("--figure", type=Path, help="with --crossover: an HTML page of the curves")
    parser.add_argument("--json", help="also print everything as a line of JSON", action="store_true")
    parser.add_argument("--one-memory", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    if args.one_memory:
        sys.stdout.write(f"{one_memory(Shape(args), *args.one_memory)}\n")
        return
    if args.memory:
        out = memory(args.kinds, [a for a in sys.argv[1:] if a not in ("--memory", "--json")])
    elif args.crossover:
        out = crossover(args)
    else:
        shape = Shape(args)
        calls = {"gemm": gemm(shape)}
        for library, kind in available(args.kinds):
            calls[f"{library} · {kind}"] = MAKERS[library](shape, kind)
        out = report(race(calls, args.rounds))
    if args.json:
        sys.stdout.write(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
