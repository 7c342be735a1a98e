"""F26: what a full cache will hold is known beforehand, kept to, and given back."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

CHILD = """
import gc, json
import torch, transformers, interp

torch.set_num_threads(1)
config = transformers.GPT2Config(vocab_size=100, n_embd=256, n_layer=8, n_head=8, n_positions=256)
model = interp.wrap(transformers.GPT2LMHeadModel(config).eval().requires_grad_(False))
ids = torch.randint(5, 100, (6, 256), generator=torch.Generator().manual_seed(0))

def resident(name="VmRSS"):
    # VmHWM belongs to this address space; getrusage's maximum is inherited from the parent process
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

model.run_with_cache(ids[:1])  # what is loaded once, kernels and libraries, is not the cache's
gc.collect()
before = resident()
estimate = model.estimate(ids)
output, acts = model.run_with_cache(ids)
peak = resident("VmHWM") - before
held = sum(t.numel() * t.element_size() for t in acts.values())
del output, acts
for _ in range(2):
    model.run_with_cache(ids)
gc.collect()
start = resident()
for _ in range({repeats}):
    model.run_with_cache(ids)
gc.collect()
print(json.dumps([estimate, held, peak, start, resident()]))
"""


@pytest.mark.full
def test_the_estimate_holds_and_nothing_is_kept(full_count: bool) -> None:
    code = CHILD.replace("{repeats}", str(100 if full_count else 2))
    # A fixed threshold: freed tensors go back to the system instead of staying with the allocator.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    estimate, held, peak, start, end = json.loads(done.stdout.splitlines()[-1])
    assert estimate > 150 * 2**20  # large enough to measure
    assert abs(estimate - held) <= 0.1 * held
    assert peak <= 1.2 * estimate
    assert end <= 1.01 * start
