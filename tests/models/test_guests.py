"""TransformerLens guests of every kind: hook points, weights and heads as they are by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.core.errors import HookNotFired, InterpError, ModelError, SiteError
from interp.lenses.heads.atlas import head_atlas
from interp.lenses.heads.weights import find_heads
from tests.models import zoo
from tests.models.by_hand import gap
from tests.models.test_oracle_transformer_lens import tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

IDS = torch.tensor([[11, 7, 23, 5, 42], [9, 31, 6, 77, 50]])
CAP = 1.0


def hooked(kind: str = "HookedTransformer", **more: Any) -> Any:
    """A random guest of prime and unequal sizes, every parameter drawn."""
    import transformer_lens

    sizes = {"n_layers": 2, "d_model": 24, "n_ctx": 13, "d_head": 4, "n_heads": 6, "d_mlp": 37}
    sizes |= {"d_vocab": 101, "act_fn": "gelu", "normalization_type": "LN", "device": "cpu"}
    cfg = transformer_lens.HookedTransformerConfig(**{**sizes, **more})
    model = getattr(transformer_lens, kind)(cfg)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model.eval()


_BOTH = {"attention_dir": "bidirectional"}
_T5 = _BOTH | {
    "relative_attention_max_distance": 16,
    "relative_attention_num_buckets": 8,
    "positional_embedding_type": "relative_positional_bias",
}
KINDS: dict[str, Callable[[], Any]] = {
    "plain": hooked,
    "capped": lambda: hooked(output_logits_soft_cap=CAP),
    "grouped": lambda: hooked(n_key_value_heads=2),
    "capped and grouped": lambda: hooked(
        output_logits_soft_cap=CAP,
        n_key_value_heads=3,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=4,
        gated_mlp=True,
        attn_scores_soft_cap=2.0,
    ),
    "norms behind": lambda: hooked(
        output_logits_soft_cap=CAP, normalization_type="RMS", use_normalization_before_and_after=True
    ),
    "parallel": lambda: hooked(parallel_attn_mlp=True),
    "no norm": lambda: hooked(normalization_type=None),
    "attention only": lambda: hooked(attn_only=True, d_mlp=None),
    "split inputs": lambda: hooked(use_split_qkv_input=True, use_attn_result=True),
    "encoder": lambda: hooked("HookedEncoder", **_BOTH),
    "encoder and decoder": lambda: hooked("HookedEncoderDecoder", tie_word_embeddings=False, **_T5),
    "tied encoder and decoder": lambda: hooked("HookedEncoderDecoder", tie_word_embeddings=True, **_T5),
}
DECODERS = [k for k in KINDS if "encoder" not in k]


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Family -> (TransformerBridge, the zoo's model with the same weights)."""
    from transformer_lens.model_bridge import TransformerBridge

    made: dict[str, Any] = {}

    def boot(family: str) -> Any:
        if family not in made:
            module: Any = zoo.make(family)
            if family == "gemma2":
                module.config.final_logit_softcapping = CAP
            folder = tmp_path_factory.mktemp(family)
            module.save_pretrained(folder)
            tokenizer().save_pretrained(folder)
            made[family] = TransformerBridge.boot_transformers(str(folder), device="cpu"), module
        return made[family]

    return boot


def more_of(kind: str) -> dict[str, Any]:
    return {"decoder_input": IDS[:, :3]} if "decoder" in kind else {}


def by_point(module: Any, more: dict[str, Any]) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """The output, and what each hook point gave at each call, by plain torch hooks."""
    seen: dict[str, list[Tensor]] = {}

    def note(name: str) -> Any:
        return lambda point, args, out: seen.setdefault(name, []).append(out.clone())

    handles = [p.register_forward_hook(note(n)) for n, p in module.hook_dict.items()]
    try:
        with torch.no_grad():
            return module(IDS, **more), seen
    finally:
        for handle in handles:
            handle.remove()


def edited(module: Any, more: dict[str, Any], site: str, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """The output where one call of one hook point gives something else."""
    name, _, number = site.partition("#")
    calls = 0

    def hook(point: Any, args: Any, out: Tensor) -> Tensor | None:
        nonlocal calls
        calls += 1
        return edit(out.clone()) if calls - 1 == int(number or 0) else None

    handle = module.hook_dict[name].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return module(IDS, **more)
    finally:
        handle.remove()


def calls_of(seen: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, values in seen.items():
        several = len(values) > 1
        named |= {f"{name}#{i}" if several else name: v for i, v in enumerate(values)}
    return named


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_of_every_hook_point_is_a_site(kind: str) -> None:
    module = KINDS[kind]()
    model, more = interp.wrap(module), more_of(kind)
    output, seen = by_point(module, more)
    wanted = calls_of(seen)
    assert set(model.sites) == set(wanted), "before any run of the user's"
    off = set(module.hook_dict) - set(seen)
    assert set(model.adapter.refused) == off
    with torch.no_grad():
        ours, acts = model.run_with_cache(IDS, **more)
        assert torch.equal(ours, output)
        assert set(acts) == set(wanted) and not acts.silent
        assert all(torch.equal(acts[n], v) for n, v in wanted.items())
        _, everything = model.run_with_cache(IDS, "*", **more)
        assert set(everything) == set(wanted)
        for name in list(wanted)[::7]:
            alone = model.capture(IDS, name, **more)
            assert torch.equal(alone[name], wanted[name]), name
    for name in off:
        with pytest.raises(SiteError, match="switched off"):
            model.capture(IDS, name, **more)


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", KINDS)
def test_edits_are_what_they_are_by_hand(kind: str) -> None:
    module = KINDS[kind]()
    model, more = interp.wrap(module), more_of(kind)
    output, seen = by_point(module, more)
    wanted, moved = calls_of(seen), 0
    sites = list(wanted) if kind in ("plain", "encoder") else list(wanted)[::3]

    def halve(value: Tensor, hook: Any) -> None:
        value *= 0.5

    def last(value: Tensor, site: Any) -> Tensor:
        axis = site.axes.split().index("pos")
        value.movedim(axis, 0)[-1] = 0
        return value

    with torch.no_grad():
        for name in sites:
            site = model.sites[name]
            pairs: list[Any] = [(interp.zero(name), torch.zeros_like), ((name, halve), lambda v: v * 0.5)]
            # Scores and norms of a decoder with a text of its own count along that text.
            if "pos" in site.axes.split() and "decoder" not in kind:
                pairs.append((interp.zero(name, positions=-1), lambda v, s=site: last(v, s)))
            for hook, hand in pairs:
                theirs = edited(module, more, name, hand)
                if not bool(theirs.isfinite().all()):  # a scale of zero
                    continue
                ours = model.run_with_hooks(IDS, [hook], **more)
                assert gap(ours, theirs) == 0, (name, hook)
                moved += gap(ours, output) > 1e-6
    assert moved > len(sites)


def test_a_bare_name_of_a_repeated_point_says_which_calls_there_are() -> None:
    model = interp.wrap(hooked())
    with pytest.raises(HookNotFired, match="3 times") as error:
        model.capture(IDS, "blocks.0.ln1.hook_scale")
    assert "'blocks.0.ln1.hook_scale#2'" in str(error.value)
    with pytest.raises(InterpError, match="did not fire"):
        model.capture(IDS, "blocks.0.ln1.hook_scale#3")
    acts = model.capture(IDS, ["blocks.0.ln1.hook_scale#0", "blocks.0.ln1.hook_scale#1"])
    patch = interp.patch("blocks.0.ln1.hook_scale#1", acts)
    with torch.no_grad():
        assert torch.equal(model.run_with_hooks(IDS, [patch]), model(IDS))


# --- heads and weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_gives_the_guests_own_logits_or_is_not_offered(kind: str) -> None:
    module = KINDS[kind]()
    model, more = interp.wrap(module), more_of(kind)
    if kind == "tied encoder and decoder":  # scales the stream between norm and unembedding
        assert any("no `unembed`" in note for note in model.adapter.notes)
        with pytest.raises(ModelError, match="no unembedding"):
            model.unembed(torch.zeros(1, 1, 24))
        return
    prefix = "decoder" if "decoder" in kind else "blocks"
    what = "normalized_resid_post" if kind == "encoder" else "resid_post"
    site = f"{prefix}.1.hook_{what}"
    with torch.no_grad():
        logits, acts = model.run_with_cache(IDS, site, **more)
        assert gap(model.unembed(model.ln_final(acts[site])), logits) < 1e-5
        if "capped" in kind:
            bare = module.unembed(model.ln_final(acts[site]))
            assert float(logits.abs().max()) < CAP < float(bare.abs().max())


@pytest.mark.parametrize("kind", DECODERS)
def test_lenses_and_decompositions_agree_with_the_guests_logits(kind: str) -> None:
    model = interp.wrap(KINDS[kind]())
    assert interp.logit_lens(model, IDS[0]).check().ok
    found = interp.direct_logit_attribution(model, IDS[0], target=5)
    assert found.check().ok, found.check()
    logits = model(IDS[:1])[0, :, 5].detach()
    total = found.total.float()
    capped = CAP * torch.tanh(total / CAP) if model.cfg.final_softcap else total
    assert gap(capped, logits) < 1e-4


@pytest.mark.parametrize("kind", ["grouped", "capped and grouped"])
def test_grouped_weights_are_one_per_group_and_heads_are_read_from_them(kind: str) -> None:
    module = KINDS[kind]()
    model = interp.wrap(module)
    assert model.cfg.n_kv_heads == model.W_K.shape[1] == {"grouped": 2}.get(kind, 3)
    spread = model.cfg.n_heads // model.cfg.n_kv_heads
    for name in ("W_K", "W_V", "b_K", "b_V"):
        held = getattr(model, name).detach()
        assert torch.equal(held.repeat_interleave(spread, 1), getattr(module, name)), name
    assert head_atlas(model, IDS[0]).check().ok
    read = find_heads(model)
    # By hand, from the guest's own expanded weights.
    assert read.eigenvalues is not None
    embed, unembed = module.W_E.detach(), module.W_U.detach()
    for layer in range(2):
        for head in range(6):
            block = module.blocks[layer].attn
            value, out = block.W_V[head].detach(), block.W_O[head].detach()
            eigenvalues = torch.linalg.eigvals(out @ unembed @ embed @ value)
            by_hand = eigenvalues.sum().real / eigenvalues.abs().sum()
            assert abs(float(read.eigenvalues[layer, head]) - float(by_hand)) < 1e-3


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_bridge_is_whole_or_says_what_it_lacks(bridge: Any, family: str) -> None:
    theirs, module = bridge(family)
    guest, native = interp.wrap(theirs), interp.wrap(module)
    with torch.no_grad():
        logits, acts = guest.run_with_cache(IDS)
        assert gap(logits, native(IDS)) < 1e-5
        assert set(acts) == set(guest.sites) and not acts.silent
        site = f"blocks.{zoo.L - 1}.hook_resid_post"
        assert gap(guest.unembed(guest.ln_final(acts[site])), logits) < 1e-5
    assert interp.logit_lens(guest, IDS[0]).check().ok
    for name in (
        "W_Q",
        "W_K",
        "W_V",
        "W_O",
        "b_Q",
        "b_K",
        "b_V",
        "b_O",
        "W_in",
        "b_in",
        "W_out",
        "b_out",
        "W_U",
        "b_U",
    ):
        ours = getattr(native, name).detach()
        assert getattr(guest, name).shape == ours.shape, name
        assert gap(getattr(guest, name), ours) < 1e-6, name
    if family == "gemma2":  # its table is not scaled, what enters the stream is
        with pytest.raises(ModelError, match="no W_E"):
            _ = guest.W_E
    else:
        assert gap(guest.W_E, native.W_E) == 0
        assert gap(find_heads(guest).copying, find_heads(native).copying) < 1e-4
    assert interp.direct_logit_attribution(guest, IDS[0], target=5).check().ok


def test_a_guest_stops_at_a_layer_as_it_does_by_itself() -> None:
    module = hooked()
    model = interp.wrap(module)
    with torch.no_grad():
        for layer in (0, 1, 2, -1):
            assert torch.equal(model(IDS, stop_at_layer=layer), module(IDS, stop_at_layer=layer))
