"""Real models reach the figures their README gives, opened by us or wrapped as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import interp
from tests.models import builders

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def open_small(shared: Path, name: str) -> interp.HookedModel:
    return interp.load_model(str(shared / "models" / name))


# --- the four small transformers ------------------------------------------------------------------


def test_modular_addition_is_right_on_all_pairs(shared_data: Path) -> None:
    model = open_small(shared_data, "modular-addition")
    a, b = torch.meshgrid(torch.arange(113), torch.arange(113), indexing="ij")
    ids = torch.stack((a, b, torch.full_like(a, 113)), -1).reshape(-1, 3)
    with torch.no_grad():
        answer = torch.cat([model(part)[:, -1].argmax(-1) for part in ids.split(4096)])
    assert (answer == (ids[:, 0] + ids[:, 1]) % 113).all()


def test_modular_addition_embeds_numbers_on_five_circles(shared_data: Path) -> None:
    """Nanda et al. 2023: five frequencies hold most of the embedding's Fourier power."""
    embedding = open_small(shared_data, "modular-addition").W_E[:113].double()
    power = torch.fft.rfft(embedding, dim=0).abs().square().sum(1)
    power[1:] *= 2  # a real signal's negative frequencies
    share = power[1:] / power[1:].sum()
    assert set((share.topk(5).indices + 1).tolist()) == {23, 6, 37, 41, 39}
    assert share.topk(5).values.sum() == pytest.approx(0.83, abs=0.02)


def test_induction_predicts_the_second_copy(shared_data: Path) -> None:
    """Token 0 in front, then 40 random tokens twice; means over 256 blocks (README: one trial)."""
    model = open_small(shared_data, "induction")
    block = torch.randint(1, 128, (256, 40), generator=torch.Generator().manual_seed(3))
    ids = torch.cat((torch.zeros(256, 1, dtype=torch.long), block, block), 1)
    with torch.no_grad():
        logits, acts = model.run_with_cache(ids, "blocks.*.attn.hook_pattern")
    loss = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    assert loss[:, :40].mean() == pytest.approx(5.48, abs=0.25)
    assert loss[:, 41:].mean() == pytest.approx(3.45, abs=0.05)
    previous = acts["pattern", 0].diagonal(-1, 2, 3).mean((0, 2))
    follows = acts["pattern", 1].diagonal(-39, 2, 3)[..., 2:].mean((0, 2))
    assert int(previous.argmax()) == 2
    assert set(follows.topk(3).indices.tolist()) == {1, 2, 3}
    assert follows[1:].min() > 3 * follows[0]


@pytest.mark.parametrize("name", ["modular-addition", "induction", "digit-addition", "brackets"])
def test_trained_weights_compute_what_hooked_transformer_computes(name: str, shared_data: Path) -> None:
    import transformer_lens as lens

    folder = shared_data / "models" / name
    fields = json.loads((folder / "hooked_transformer.json").read_text())
    reference = lens.HookedTransformer(
        lens.HookedTransformerConfig(**fields, device="cpu", dtype=torch.float64)
    )
    state = load_file(folder / "model.safetensors")
    assert not reference.load_state_dict(state, strict=False).unexpected_keys
    reference.double()
    model = interp.load_model(str(folder), dtype="float64")
    source = torch.Generator().manual_seed(6)
    ids = torch.randint(0, fields["d_vocab"], (5, fields["n_ctx"]), generator=source)
    with torch.no_grad():
        assert (model(ids) - reference(ids)).abs().max() <= 1e-10


def test_digit_addition_is_nearly_exact(shared_data: Path, full_count: bool) -> None:
    model = open_small(shared_data, "digit-addition")
    source = torch.Generator().manual_seed(4)
    n = 10_000 if full_count else 1_000
    a, b = torch.randint(0, 100_000, (2, n), generator=source)

    def digits(number: Tensor, places: int) -> Tensor:
        return number[:, None] // 10 ** torch.arange(places - 1, -1, -1) % 10

    plus, equals = torch.full((n, 1), 10), torch.full((n, 1), 11)
    total = digits(a + b, 6)
    ids = torch.cat((digits(a, 5), plus, digits(b, 5), equals, total), 1)
    with torch.no_grad():
        predicted = model(ids)[:, 11:17].argmax(-1)
    assert (predicted == total).all(1).float().mean() == pytest.approx(0.98, abs=0.012)


def test_brackets_are_classified(shared_data: Path, full_count: bool) -> None:
    model = open_small(shared_data, "brackets")
    pairs = json.loads((shared_data / "models" / "brackets" / "brackets_data.json").read_text())
    pairs = pairs[: 10_000 if full_count else 1_000]
    ids = torch.ones(len(pairs), 42, dtype=torch.long)
    for row, (text, _) in enumerate(pairs):
        spelled = [0, *(3 if c == "(" else 4 for c in text), 2]
        ids[row, : len(spelled)] = torch.tensor(spelled)
    balanced = torch.tensor([label for _, label in pairs])
    mask = ids != 1
    with torch.no_grad():
        logits = [
            model(part, attention_mask=seen)[:, 0]
            for part, seen in zip(ids.split(500), mask.split(500), strict=True)
        ]
    right = (torch.cat(logits).argmax(-1).bool() == balanced).float().mean()
    assert right >= (0.9995 if full_count else 0.999)
    with torch.no_grad():  # the mask matters: without it the padding is read
        unmasked = model(ids[:500])[:, 0].argmax(-1).bool() == balanced[:500]
    assert unmasked.float().mean() < 0.999


# --- modules we do not know -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(shared_data: Path, full_count: bool) -> tuple[Tensor, Tensor]:
    return builders.cifar_images(shared_data, 200 if full_count else 20)


CNNS = {
    "resnet20": (builders.resnet20, builders.RESNET_NORM, 0.81, "layer2.0.conv1.hook_out"),
    "captum": (builders.captum_cnn, builders.CAPTUM_NORM, 0.59, "conv2.hook_out"),
}


@pytest.mark.parametrize("name", CNNS)
def test_image_networks_reach_their_accuracy_wrapped(
    name: str, shared_data: Path, images: tuple[Tensor, Tensor], full_count: bool
) -> None:
    build, norm, accuracy, site = CNNS[name]
    module = build(shared_data)
    model = interp.wrap(module)
    inputs, labels = builders.normalised(images[0], norm), images[1]
    with torch.no_grad():
        plain = module(inputs)
        logits, acts = model.run_with_cache(inputs, site)
        blind = model.run_with_hooks(inputs, fwd_hooks=[(site, lambda x, hook: x * 0)])
    assert torch.equal(logits, plain)
    reached = float((plain.argmax(-1) == labels).float().mean())
    assert reached == pytest.approx(accuracy, abs=0.006 if full_count else 0.07)
    assert acts[site].shape[0] == len(labels)
    assert (blind.argmax(-1) == labels).float().mean() < reached - 0.2


@pytest.mark.parametrize("name", ["titanic", "california"])
def test_table_networks_are_wrapped(name: str, shared_data: Path) -> None:
    module = getattr(builders, name)(shared_data)
    model = interp.wrap(module)
    first = next(m for m in module.modules() if isinstance(m, torch.nn.Linear))
    inputs = torch.randn(7, first.in_features, generator=torch.Generator().manual_seed(2))
    site = "linear1.hook_out" if name == "titanic" else "lin1.hook_out"
    with torch.no_grad():
        output, acts = model.run_with_cache(inputs, site)
        assert torch.equal(output, module(inputs))
        by_hand = inputs @ first.weight.T + first.bias
    assert (acts[site] - by_hand).abs().max() <= 1e-5
    assert output.std() > 1e-3  # trained, not constant
    if name == "titanic":
        assert (output.sum(1) - 1).abs().max() <= 1e-6


def test_char_lstm_reads_shakespeare(shared_data: Path) -> None:
    """1.27 nats per character (the README counts 1.80, without the odd spelling of u and U)."""
    module = builders.char_lstm(shared_data)
    text = (shared_data / "corpora" / "tinyshakespeare.txt").read_text()
    ids = module.encode(text[:3_000])
    with torch.no_grad():
        loss = F.cross_entropy(module(ids)[0, :-1], ids[0, 1:])
    assert loss == pytest.approx(1.265, abs=0.01)


def test_char_lstm_is_wrapped_and_one_step_can_be_edited(shared_data: Path) -> None:
    module = builders.char_lstm(shared_data)
    model = interp.wrap(module)
    ids = module.encode("ROMEO:\nWhat say you")
    with torch.no_grad():
        plain = module(ids)
        assert torch.equal(model(ids), plain)
        forget = [("cells.1.hook_c#5", lambda c, hook: c * 0)]
        edited = model.run_with_hooks(ids, fwd_hooks=forget)
        removed = model(ids)
    change = (edited - plain).abs().amax((0, 2))
    assert change[:6].max() == 0.0  # hidden state and logits of that step were made before
    assert change[6] > 0.1
    assert torch.equal(removed, plain)


@pytest.mark.parametrize("program", builders.TRACR_PROGRAMS)
def test_compiled_programs_reproduce_every_record(program: str, shared_data: Path) -> None:
    module, info = builders.tracr(shared_data, program)
    model = interp.wrap(module)
    last = f"blocks.{info['n_layers'] - 1}.hook_resid_post"
    for record in info["records"]:
        ids, expected = torch.tensor([record["tokens"]]), torch.tensor(record["resid"])
        with torch.no_grad():
            output, acts = model.run_with_cache(ids, last)
        assert (acts[last] - expected).abs().max() <= 1e-5
        assert (output - expected).abs().max() <= 1e-5
        assert answers(output[0, 1:], info, shared_data, program) == pytest.approx(record["want"], abs=1e-4)


def answers(residual: Tensor, info: dict[str, Any], shared: Path, program: str) -> list[float]:
    """What the program says at each position [pos d_model]: a number, or its one-hot's name."""
    truth = json.loads((shared / "models" / "tracr" / "truth.json").read_text())
    names = [n for n in truth[program]["output_dims"] if "selector_width" not in n]
    values = residual[:, [info["residual_labels"].index(name) for name in names]]
    if info["out_map"] is None:
        return values[:, 0].tolist()
    return [float(names[i].rpartition(":")[2]) for i in values.argmax(1).tolist()]
