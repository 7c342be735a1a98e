"""In a bounded address space every analysis finishes or is refused before its model runs; none is killed.

The bound is the kernel's (RLIMIT_AS), set in a child after its imports; the model is random.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.children import HANG

ROOT = Path(__file__).parents[2]
ANALYSES = (
    "logit_lens direct_logit_attribution integrated_gradients deeplift occlusion head_atlas neuron_atlas"
).split()
CHILD = """
import resource, sys
import torch, transformers
import interp
import interp.attribution, interp.lenses
from interp.core.errors import MemoryBudgetError
from interp.models.running import Running

names, vocabulary, n, heads, layers, width, space, whole = sys.argv[1], *map(int, sys.argv[2:9])
torch.set_num_threads(1)
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
    num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=n,
)
model = interp.wrap(transformers.LlamaForCausalLM(config).eval().requires_grad_(False))
ids = torch.randint(5, vocabulary, (n,), generator=torch.Generator().manual_seed(0))
interp.attribute(model, ids[:4], 7)  # what is imported at the first use
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = space if whole else used + space
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

runs = []
forward = Running._forward
Running._forward = lambda self, *a, **k: (runs.append(1), forward(self, *a, **k))[1]
groups = torch.arange(n) * 16 // n
calls = {
    "logit_lens": lambda: interp.logit_lens(model, ids),
    "direct_logit_attribution": lambda: interp.direct_logit_attribution(model, ids, 7),
    "integrated_gradients": lambda: interp.attribute(model, ids, 7, max_nodes=64, tolerance=0.1),
    "deeplift": lambda: interp.attribute(model, ids, 7, method="deeplift"),
    "occlusion": lambda: interp.attribute(model, ids, 7, method="occlusion", feature_mask=groups),
    "head_atlas": lambda: interp.lenses.head_atlas(model, ids[None]),
    "neuron_atlas": lambda: interp.lenses.neuron_atlas(model),
}
for name in names.split(","):
    runs.clear()
    try:
        calls[name]()
        print("ENDED", name, "finished", flush=True)
    except MemoryBudgetError as error:
        said = "before" if not runs else "during"
        print("ENDED", name, "refused", said, str(error).replace(chr(10), ";"), flush=True)
"""


def ends(names: list[str], *sizes: int) -> dict[str, str]:
    """How each analysis ended, by name, in one child."""
    found = subprocess.run(
        [sys.executable, "-c", CHILD, ",".join(names), *map(str, sizes)],
        capture_output=True,
        text=True,
        timeout=HANG,
        cwd=ROOT,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2_000:]
    told = [line.split(maxsplit=2)[1:] for line in found.stdout.splitlines() if line.startswith("ENDED")]
    return dict(told)


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds addresses on Linux")
def test_little_address_space_kills_nothing() -> None:
    """512 MiB above the model: deeplift's patterns need more, everything else goes in blocks."""
    found = ends(ANALYSES, 8_000, 768, 8, 2, 32, 2**29, 0)
    assert list(found) == ANALYSES
    lifted = found.pop("deeplift")
    assert lifted.startswith("refused before") and "method='integrated_gradients'" in lifted
    assert all(end == "finished" for end in found.values()), found


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds addresses on Linux")
@pytest.mark.parametrize("name", ANALYSES)
def test_four_gibibytes_hold_or_refuse_a_large_model(name: str) -> None:
    """8 layers, a vocabulary of 256,000, 2,048 tokens."""
    found = ends([name], 256_000, 2_048, 4, 8, 128, 2**32, 1)
    assert found[name] == "finished" or found[name].startswith("refused before")
