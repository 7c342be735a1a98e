"""TransformerLens as the oracle where it is right, as a guest, and as what fails silently.

Two oracles: TransformerBridge booted from a folder (the same weights through another library's
hooks), and HookedTransformer/HookedEncoder/HookedEncoderDecoder, a second implementation, with
converted weights. "B.1" below is the table of measured silent failures in reliability.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

import interp
from interp.core.errors import EditError, NonFiniteError, SiteError
from tests.models import zoo

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

IDS = torch.tensor([[11, 7, 23, 5, 42, 17, 3], [9, 31, 6, 77, 50, 8, 12]])
TYPO = "blocks.0.hook_resid_pst"
MASKED = -1e9  # scores the mask removed: -inf there, the smallest float here

BRIDGED = {"gpt2": 58, "llama": 63, "qwen2": 63, "gemma2": 75, "neox": 51, "vit": 51, "bert": 42}
"""Family -> how many sites are compared, so that a lost name does not pass for agreement."""

KNOWN_WRONG: dict[str, dict[str, str]] = {
    "vit": {"attn.hook_attn_scores": "post-softmax: equal to its own hook_pattern"},
    "bert": {
        "attn.hook_attn_scores": "post-softmax: equal to its own hook_pattern",
        "hook_attn_out": "LN(resid_pre + attn_out), not attention's contribution",
        "hook_resid_mid": "neither the sum before the norm nor the norm's output",
        "hook_resid_post": "the norm's output, HookedEncoder's hook_normalized_resid_post",
        "hook_embed": "the sum of all embeddings after their norm, HookedEncoder's hook_full_embed",
    },
}
"""Sites that the bridge of transformer-lens 3.9 mislabels, and what they hold."""


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference, relative for values beyond 1; what the mask removed counts as equal."""
    a, b = torch.broadcast_tensors(a, b)  # one row of position embeddings serves the batch
    gone = (a < MASKED) & (b < MASKED)
    a, b = a.masked_fill(gone, 0.0), b.masked_fill(gone, 0.0)
    return float((a - b).abs().max() / b.abs().max().clamp(min=1.0))


def short(site: str) -> str:
    """`blocks.3.attn.hook_z` -> `attn.hook_z`."""
    head, _, rest = site.partition(".")
    return rest.partition(".")[2] if head == "blocks" else site


def tokenizer() -> Any:
    """One word per id: the bridge reloads its tokenizer from the folder and needs one."""
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(zoo.V)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "w1", "eos_token": "w2", "pad_token": "w0", "unk_token": "w0"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Family -> a TransformerBridge over the zoo's weights, booted once."""
    from transformer_lens.model_bridge import TransformerBridge

    booted: dict[str, Any] = {}

    def make(family: str) -> Any:
        if family not in booted:
            folder = tmp_path_factory.mktemp(family)
            zoo.make(family).save_pretrained(folder)
            tokenizer().save_pretrained(folder)
            booted[family] = TransformerBridge.boot_transformers(str(folder), device="cpu")
            if family == "gpt2":
                booted[family].set_use_attn_result(True)
        return booted[family]

    return make


@pytest.fixture(scope="module")
def bridge(boot: Callable[[str], Any]) -> Any:
    return boot("gpt2")


@pytest.fixture(scope="module")
def gpt2() -> interp.HookedModel:
    return interp.wrap(zoo.make("gpt2"))


def hooked_transformer(**more: Any) -> Any:
    """A random HookedTransformer, biases and gains included."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    sizes: dict[str, Any] = {"n_layers": 2, "d_model": 24, "n_ctx": 13, "d_head": 5, "n_heads": 4}
    sizes |= {"d_mlp": 37, "d_vocab": 101, "act_fn": "gelu", "normalization_type": "LN"}
    model = HookedTransformer(HookedTransformerConfig(**{**sizes, **more}, seed=3, device="cpu"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


# --- the same site, the same numbers -------------------------------------------------------------


def same_everywhere(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, float]:
    """Sites that both have -> their difference."""
    return {site: difference(theirs[site], ours[site]) for site in ours if site in theirs}


@pytest.mark.parametrize("family", BRIDGED)
def test_every_site_equals_the_bridges(boot: Callable[[str], Any], family: str) -> None:
    module = zoo.make(family)
    inputs = zoo.inputs(module)
    with torch.no_grad():
        output, cache = boot(family).run_with_cache(next(iter(inputs.values())))
        ours, acts = interp.wrap(module).run_with_cache(inputs, ["*", "*.hook_result"])
    assert difference(getattr(output, "logits", output), ours) < 1e-5
    found = same_everywhere(cache, acts)
    wrong = KNOWN_WRONG.get(family, {})
    compared = {site: gap for site, gap in found.items() if short(site) not in wrong}
    assert len(compared) == BRIDGED[family]
    assert not {site: gap for site, gap in compared.items() if not gap < 1e-5}
    # A site that the bridge learns to name rightly must leave the list.
    mended = {site for site, gap in found.items() if short(site) in wrong and gap < 1e-5}
    assert not mended


def test_what_the_bridge_mislabels_in_bert_is_what_the_list_says(boot: Callable[[str], Any]) -> None:
    with torch.no_grad():
        _, cache = boot("bert").run_with_cache(IDS)
        _, acts = interp.wrap(zoo.make("bert")).run_with_cache(IDS)
    p = "blocks.1."
    scores, pattern = cache[p + "attn.hook_attn_scores"], cache[p + "attn.hook_pattern"]
    assert difference(scores, pattern) == 0
    assert difference(scores.sum(-1), torch.ones(())) < 1e-5
    normalised = acts[p + "hook_normalized_resid_post"]
    assert difference(cache[p + "hook_resid_post"], normalised) < 1e-5
    assert difference(cache["hook_embed"], acts["hook_full_embed"]) < 1e-5


def test_every_bert_site_equals_hooked_encoders() -> None:
    from transformer_lens import HookedEncoder, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_bert_weights
    from transformers.models.bert.modeling_bert import BertPooler

    module = zoo.make("bert")
    cfg = HookedTransformerConfig(
        n_layers=zoo.L,
        d_model=zoo.D,
        n_ctx=zoo.C,
        d_head=zoo.DH,
        n_heads=zoo.H,
        d_mlp=zoo.M,
        d_vocab=zoo.V,
        act_fn="gelu",
        normalization_type="LN",
        attention_dir="bidirectional",
        eps=module.config.layer_norm_eps,
        use_attn_result=True,
        device="cpu",
    )
    lent = zoo.make("bert")  # the conversion insists on heads that a masked-LM model does not have
    lent.bert.pooler, lent.cls.seq_relationship = BertPooler(lent.config), nn.Linear(zoo.D, 2)
    theirs = HookedEncoder(cfg)
    theirs.load_state_dict(convert_bert_weights(lent, cfg), strict=False)
    with torch.no_grad():
        output, cache = theirs.run_with_cache(IDS)
        ours, acts = interp.wrap(module).run_with_cache(IDS, ["*", "*.hook_result"])
    embeddings = {"hook_embed", "hook_pos_embed", "hook_token_type_embed"}
    renamed = {f"embed.{site}": acts[site] for site in embeddings}
    renamed |= {f"embed.ln.{at}": acts[f"embed_ln.{at}"] for at in ("hook_scale", "hook_normalized")}
    found = same_everywhere(cache, {**acts, **renamed})
    assert difference(output, ours) < 1e-5
    assert len(found) == len(acts) == 63
    assert not {site: gap for site, gap in found.items() if not gap < 1e-5}


def test_every_t5_site_equals_hooked_encoder_decoders() -> None:
    import transformers
    from transformer_lens import HookedEncoderDecoder, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_t5_weights

    config = zoo.make("t5").config
    config.num_decoder_layers = zoo.L  # theirs knows one depth for both
    torch.manual_seed(0)
    module = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    cfg = HookedTransformerConfig(
        n_layers=zoo.L,
        d_model=zoo.D,
        n_ctx=zoo.C,
        d_head=5,
        n_heads=zoo.H,
        d_mlp=zoo.M,
        d_vocab=zoo.V,
        act_fn="relu",
        normalization_type="RMS",
        attention_dir="bidirectional",
        eps=config.layer_norm_epsilon,
        use_attn_scale=False,
        use_attn_result=True,
        device="cpu",
        positional_embedding_type="relative_positional_bias",
        tie_word_embeddings=True,
        relative_attention_max_distance=config.relative_attention_max_distance,
        relative_attention_num_buckets=config.relative_attention_num_buckets,
        decoder_start_token_id=0,
    )
    theirs = HookedEncoderDecoder(cfg)
    theirs.load_state_dict(convert_t5_weights(module, cfg), strict=False)
    with torch.no_grad():
        output, cache = theirs.run_with_cache(IDS, IDS[:, :5])
        ours, acts = interp.wrap(module).run_with_cache(IDS, decoder_input_ids=IDS[:, :5])

    def their_name(site: str) -> str:
        site = site.replace("encoder_blocks.", "encoder.").replace("decoder_blocks.", "decoder.")
        site = site.replace("self_attn.", "attn.")
        for side in ("encoder", "decoder"):
            site = site.replace(f"{side}_ln_final.", f"{side}_final_ln.")
        return site

    found = same_everywhere(cache, {their_name(site): value for site, value in acts.items()})
    assert difference(output, ours) < 1e-5
    # All but the decoder's embedding, which theirs shares a hook point with the encoder's.
    assert len(found) >= len(acts) - 1
    assert not {site: gap for site, gap in found.items() if not gap < 1e-5}


@pytest.mark.parametrize(
    "site", ["attn.hook_z", "attn.hook_pattern", "hook_attn_out", "mlp.hook_post", "hook_resid_post"]
)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_an_edit_does_what_it_does_in_the_bridge(boot: Callable[[str], Any], family: str, site: str) -> None:
    name, model = f"blocks.1.{site}", interp.wrap(zoo.make(family))
    with torch.no_grad():
        expected = boot(family).run_with_hooks(IDS, fwd_hooks=[(name, tilt)])
        assert difference(model.run_with_hooks(IDS, [(name, tilt)]), expected) < 1e-5
        assert difference(model(IDS), expected) > 1e-3


def tilt(value: Tensor, hook: Any) -> Tensor:
    """An edit that no norm can undo."""
    return value * torch.linspace(0.5, 1.5, value.shape[-1])


def test_an_edit_of_resid_mid_reaches_the_residual_branch_as_in_hooked_transformer() -> None:
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    module = zoo.make("gpt2")
    theirs = hooked_transformer(
        n_layers=zoo.L,
        d_model=zoo.D,
        n_ctx=zoo.C,
        d_head=zoo.DH,
        n_heads=zoo.H,
        d_mlp=zoo.M,
        act_fn="gelu_new",
        eps=module.config.layer_norm_epsilon,
    )
    # strict: everything but its own mask buffers comes from the zoo's model
    weights = convert_gpt2_weights(module, theirs.cfg)
    left = theirs.load_state_dict({**theirs.state_dict(), **weights})
    assert not left.missing_keys and not left.unexpected_keys
    theirs.unembed.b_U.data.zero_()
    model, site = interp.wrap(module), "blocks.1.hook_resid_mid"
    with torch.no_grad():
        assert difference(model(IDS), theirs(IDS)) < 1e-5
        expected = theirs.run_with_hooks(IDS, fwd_hooks=[(site, tilt)])
        assert difference(model.run_with_hooks(IDS, [(site, tilt)]), expected) < 1e-5


def test_the_bridge_edits_resid_mid_at_the_norms_input_only(bridge: Any) -> None:
    # Why resid_mid is not among the edits above: the bridge's site is an alias of ln2's input.
    with torch.no_grad():
        edited = bridge.run_with_hooks(IDS, fwd_hooks=[("blocks.1.hook_resid_mid", tilt)])
        alias = bridge.run_with_hooks(IDS, fwd_hooks=[("blocks.1.ln2.hook_in", tilt)])
    assert torch.equal(edited, alias)


# --- silent there, an error here (reliability.md, B.1) -------------------------------------------


def test_m1_a_typo_in_a_hook(bridge: Any, gpt2: interp.HookedModel) -> None:
    hook = (TYPO, lambda value, hook: value * 0)
    with torch.no_grad():
        assert torch.equal(bridge.run_with_hooks(IDS, fwd_hooks=[hook]), bridge(IDS))
    with pytest.raises(SiteError, match="hook_resid_post"):
        gpt2.run_with_hooks(IDS, [hook])
    with pytest.raises(SiteError, match="hook_resid_post"), gpt2.hooks([hook]):
        pass


def test_m2_a_typo_in_a_names_filter(bridge: Any, gpt2: interp.HookedModel) -> None:
    for theirs in (bridge, hooked_transformer()):
        assert len(theirs.run_with_cache(IDS, names_filter=TYPO)[1]) == 0
        half = theirs.run_with_cache(IDS, names_filter=["blocks.0.hook_resid_post", TYPO])[1]
        assert "blocks.0.hook_resid_post" in half and TYPO not in set(half)
    for wanted in (TYPO, ["blocks.0.hook_resid_post", TYPO]):
        with pytest.raises(SiteError, match="hook_resid_post"):
            gpt2.run_with_cache(IDS, wanted)


def test_m3_a_predicate_that_matches_nothing(gpt2: interp.HookedModel) -> None:
    theirs = hooked_transformer()
    hook = (lambda name: "nothing" in name, lambda value, hook: value * 0)
    with torch.no_grad():
        assert torch.equal(theirs.run_with_hooks(IDS, fwd_hooks=[hook]), theirs(IDS))
    with pytest.raises(SiteError):
        gpt2.run_with_hooks(IDS, [hook])


def test_m4_a_hook_that_returns_another_shape(boot: Callable[[str], Any], gpt2: interp.HookedModel) -> None:
    for theirs, layer in ((boot("llama"), 2), (hooked_transformer(), 1)):
        hook = (f"blocks.{layer}.hook_resid_post", lambda value, hook: value[:, :3])
        with torch.no_grad():
            assert theirs.run_with_hooks(IDS, fwd_hooks=[hook]).shape[1] == 3
        with pytest.raises(EditError, match="shape"):
            gpt2.run_with_hooks(IDS, [hook])


def test_m5_a_hook_that_returns_another_dtype(gpt2: interp.HookedModel) -> None:
    hook = ("blocks.1.hook_attn_out", lambda value, hook: value.double())
    with torch.no_grad():
        theirs = hooked_transformer()
        assert theirs.run_with_hooks(IDS, fwd_hooks=[hook]).shape == (2, 7, 101)
    with pytest.raises(EditError, match="dtype"):
        gpt2.run_with_hooks(IDS, [hook])


def test_m6_a_nan_in_the_weights() -> None:
    theirs, module = hooked_transformer(), zoo.make("gpt2")
    with torch.no_grad():
        theirs.blocks[0].mlp.W_in[0, 0] = float("nan")
        assert bool(theirs(IDS).isnan().any())
    model = interp.wrap(module)
    with torch.no_grad():
        module.transformer.h[0].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"blocks\.0"):
        model.capture(IDS, "blocks.*.hook_resid_post")


# --- guests --------------------------------------------------------------------------------------


def test_a_hooked_transformer_is_a_guest() -> None:
    theirs = hooked_transformer()
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    model = interp.wrap(theirs)
    with torch.no_grad():
        output, cache = theirs.run_with_cache(IDS)
        ours, acts = model.run_with_cache(IDS)
        assert torch.equal(output, ours)
        # Everything but hook points that are off; ln1's run once for each of q, k, v.
        assert {f"{site}#2" if ".ln1." in site else site for site in cache} <= set(acts)
        assert all(torch.equal(acts[site], cache[site.partition("#")[0]]) for site in acts)
        edit = interp.zero("blocks.1.attn.hook_z", head=2)

        def zero(value: Tensor, hook: Any) -> Tensor:
            value[:, :, 2] = 0
            return value

        expected = theirs.run_with_hooks(IDS, fwd_hooks=[(edit.site, zero)])
        assert torch.equal(model.run_with_hooks(IDS, [edit]), expected)
        assert torch.equal(model(IDS), output), "the edit stayed behind"
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())
    assert not any(point._forward_hooks for point in theirs.hook_dict.values())
    assert model.cfg.n_layers == 2
    assert torch.equal(model.W_E, theirs.W_E)
    with pytest.raises(SiteError, match="hook_resid_post"):
        model.capture(IDS, TYPO)
    lens = interp.logit_lens(model, IDS[0])
    assert lens.check().ok, lens.check()


def test_a_bridge_is_a_guest(boot: Callable[[str], Any]) -> None:
    theirs = boot("llama")
    model = interp.wrap(theirs)
    sites = ["blocks.0.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.1.hook_resid_post"]
    edit = interp.zero("blocks.1.attn.hook_z", head=1)
    native = interp.wrap(zoo.make("llama"))
    with torch.no_grad():
        output, cache = theirs.run_with_cache(IDS)
        ours, acts = model.run_with_cache(IDS, sites)
        assert torch.equal(output, ours)
        for site in sites:
            assert acts[site].shape == cache[site].shape, site
            assert torch.equal(acts[site], cache[site]), site
        edited, expected = (m.run_with_hooks(IDS, [edit]) for m in (model, native))
    assert difference(edited, expected) < 1e-5
    for wanted in (TYPO, "blocks.9.hook_resid_post", lambda name: False):
        with pytest.raises(SiteError):
            model.capture(IDS, wanted)


def test_a_hand_made_hooked_root_module_is_a_guest() -> None:
    from transformer_lens.hook_points import HookedRootModule, HookPoint

    class Squares(HookedRootModule):
        """x -> (3 x)^2, with the inside visible."""

        def __init__(self) -> None:
            super().__init__()
            self.hook_tripled, self.hook_squared = HookPoint(), HookPoint()
            self.setup()

        def forward(self, x: Tensor) -> Tensor:
            return self.hook_squared(self.hook_tripled(x * 3) ** 2)

    model, x = interp.wrap(Squares()), torch.tensor([[1.0, 2.0]])
    assert list(model.sites) == ["hook_tripled", "hook_squared"]
    output, acts = model.run_with_cache(x)
    assert output.tolist() == acts["hook_squared"].tolist() == [[9.0, 36.0]]
    assert model.run_with_hooks(x, [interp.zero("hook_tripled", index=1)]).tolist() == [[9.0, 0.0]]
    with pytest.raises(SiteError, match="hook_squared"):
        model.capture(x, "hook_sqared")


def test_load_model_boots_a_bridge_when_asked(tmp_path: Any) -> None:
    zoo.make("gpt2").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = interp.load_model(tmp_path, backend="transformer_lens")
    assert type(model.module).__name__ == "TransformerBridge"
    with torch.no_grad():
        assert difference(model(IDS), interp.load_model(tmp_path)(IDS)) < 1e-5
