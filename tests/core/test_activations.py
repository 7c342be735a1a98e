"""Activations answer TransformerLens's keys, keep padding out, and take the stream apart."""

import importlib
import timeit
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.core.activations import Activations
from interp.core.errors import ConfigError, CorruptArtefact, ModelError, ShapeError, SiteError, StorageError
from interp.core.provenance import Provenance

BATCH, POS, HEADS, D_HEAD, D_MODEL, LAYERS = 2, 7, 3, 5, 11, 3


def make(**kwargs):
    """Activations with every site of a small transformer, all numbers different."""
    g = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=g)

    tensors = {"hook_embed": draw(BATCH, POS, D_MODEL), "hook_pos_embed": draw(1, POS, D_MODEL)}
    for layer in range(LAYERS):
        block = f"blocks.{layer}."
        for name in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
            tensors[f"{block}hook_{name}"] = draw(BATCH, POS, D_MODEL)
        tensors[f"{block}attn.hook_z"] = draw(BATCH, POS, HEADS, D_HEAD)
        tensors[f"{block}attn.hook_pattern"] = draw(BATCH, HEADS, POS, POS)
        tensors[f"{block}ln1.hook_scale"] = draw(BATCH, POS, 1)
    kwargs.setdefault("cfg", SimpleNamespace(n_layers=LAYERS, attn_only=False))
    return Activations(tensors, **kwargs)


def padded(**kwargs):
    """Row 0 is padded on the right by two, row 1 on the left by three."""
    mask = torch.ones(BATCH, POS, dtype=torch.bool)
    mask[0, 5:] = False
    mask[1, :3] = False
    return make(tokens=torch.arange(BATCH * POS).view(BATCH, POS), mask=mask, **kwargs)


# ------------------------------------------------------------------ keys


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("blocks.1.hook_resid_post", "blocks.1.hook_resid_post"),
        ("embed", "hook_embed"),
        (("embed",), "hook_embed"),
        (("resid_post", 1), "blocks.1.hook_resid_post"),
        (("resid_post", -1), "blocks.2.hook_resid_post"),
        (("resid_post", -3), "blocks.0.hook_resid_post"),
        (("pattern", 0), "blocks.0.attn.hook_pattern"),
        (("attn", 0), "blocks.0.attn.hook_pattern"),
        (("z", 2, "attn"), "blocks.2.attn.hook_z"),
        (("scale", 2, "ln1"), "blocks.2.ln1.hook_scale"),
        ("scale2ln1", "blocks.2.ln1.hook_scale"),
        (("embed", None), "hook_embed"),
    ],
)
def test_keys(key, name):
    acts = make()
    assert acts[key] is acts._tensors[name]
    assert key in acts
    assert acts.name(key) == name


def test_is_a_mapping_in_the_given_order():
    acts = make()
    assert len(acts) == 2 + LAYERS * 8
    assert next(iter(acts)) == "hook_embed"
    assert list(acts)[-1] == "blocks.2.ln1.hook_scale"
    assert dict(acts).keys() == acts.keys()


@pytest.mark.parametrize(
    ("key", "fragment"),
    [
        ("blocks.0.hook_resid_pst", "did you mean 'blocks.0.hook_resid_post'"),
        (("resid_pst", 0), "did you mean 'blocks.0.hook_resid_post'"),
        (("resid_post", 3), "3 layers exist, 0 to 2"),
        (("resid_post", -4), "3 layers exist, -3 to 2"),
        ("embd", "did you mean 'hook_embed'"),
    ],
)
def test_wrong_keys_say_what_was_meant(key, fragment):
    with pytest.raises(SiteError, match=r"[\s\S]*") as caught:
        make()[key]
    assert fragment in str(caught.value)
    assert key not in make()


@pytest.mark.parametrize("key", [(), ("resid_post", 1.0), ("resid_post", True), (3, 1), tuple("abcd")])
def test_malformed_keys(key):
    with pytest.raises(SiteError, match="not an activation's key"):
        make()[key]
    assert key not in make()


def test_negative_layers_need_to_know_the_model():
    acts = make(cfg=SimpleNamespace())
    with pytest.raises(SiteError, match="cfg"):
        acts["resid_post", -1]


def test_indexing_is_cheap():
    acts = make()
    plain = min(timeit.repeat(lambda: acts["hook_embed"], number=1000, repeat=5)) / 1000
    short = min(timeit.repeat(lambda: acts["resid_post", 1], number=1000, repeat=5)) / 1000
    assert plain < 20e-6  # 0.2 us here without runtime type checks
    assert short < 60e-6


# ------------------------------------------------------------------ tokens


def test_flat_leaves_padding_out_in_batch_order():
    acts = padded()
    t = acts["resid_post", 1]
    assert torch.equal(acts.flat("blocks.1.hook_resid_post"), torch.cat([t[0, :5], t[1, 3:]]))
    assert acts.flat(("z", 0)).shape == (9, HEADS, D_HEAD)


def test_flat_without_mask_is_a_view_of_everything():
    acts = make()
    rows = acts.flat("hook_embed")
    assert torch.equal(rows, acts["hook_embed"].reshape(BATCH * POS, D_MODEL))
    assert rows.data_ptr() == acts["hook_embed"].data_ptr()


def test_flat_with_nothing_padded_copies_nothing():
    acts = make(mask=torch.ones(BATCH, POS, dtype=torch.bool))
    assert acts.flat("hook_embed").data_ptr() == acts["hook_embed"].data_ptr()
    assert acts.flat("hook_embed").shape == (BATCH * POS, D_MODEL)


def test_flat_spreads_a_single_row_over_the_batch():
    acts = padded()
    t = acts["hook_pos_embed"][0]
    assert torch.equal(acts.flat("hook_pos_embed"), torch.cat([t[:5], t[3:]]))
    unpadded = make(tokens=acts.tokens)
    assert torch.equal(unpadded.flat("hook_pos_embed"), torch.cat([t, t]))


@given(
    mask=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4),
    kept=st.lists(st.integers(-5, 4), min_size=1, max_size=7),
    per_row=st.booleans(),
)
def test_padding_rows_never_appear_in_flat(mask, kept, per_row):
    mask = torch.tensor(mask)
    batch = len(mask)
    # each value says where it came from
    whole = torch.arange(batch * 5).view(batch, 5)
    positions = torch.tensor(kept)
    if per_row:
        positions = torch.stack([positions.roll(row) for row in range(batch)])
        values = whole.gather(1, positions % 5)
    else:
        values = whole[:, positions]
    acts = Activations({"hook_x": values[..., None]}, tokens=whole, mask=mask, positions=positions)
    rows = acts.flat("hook_x")[:, 0]
    real = set(whole[mask].tolist())
    expected = [value for value in values.flatten().tolist() if value in real]
    assert rows.tolist() == expected


def test_flat_refuses_what_has_no_token_rows():
    with pytest.raises(ShapeError, match="two token axes"):
        padded().flat(("pattern", 0))
    odd = Activations({"hook_x": torch.zeros(BATCH, POS + 1, 3)}, mask=padded().mask)
    with pytest.raises(ShapeError, match="does not run along the tokens"):
        odd.flat("hook_x")
    with pytest.raises(ShapeError):
        Activations({"hook_x": torch.zeros(3)}).flat("hook_x")


@pytest.mark.parametrize(
    "kwargs",
    [
        {"tokens": torch.zeros(2, 7, dtype=torch.long), "mask": torch.ones(2, 5).bool()},
        {"mask": torch.ones(2, 7).bool(), "positions": torch.zeros(3, 2, dtype=torch.long)},
        {"mask": torch.ones(2, 7)},
        {"mask": torch.ones(7).bool()},
        {"tokens": torch.zeros(7, dtype=torch.long)},
    ],
)
def test_contradicting_tokens_are_refused(kwargs):
    with pytest.raises(ShapeError):
        make(**kwargs)


def test_positions_keep_the_mask_in_step():
    acts = padded(positions=torch.tensor([0, -1]))
    assert acts.kept_mask.tolist() == [[True, False], [False, True]]


# ------------------------------------------------------------------ copies


def test_to_moves_floats_and_leaves_integers():
    acts = padded(positions=torch.arange(POS))
    moved = acts.to(torch.float64)
    assert {t.dtype for t in moved.values()} == {torch.float64}
    assert moved.tokens.dtype == torch.int64
    assert moved.mask.dtype == torch.bool
    assert acts["hook_embed"].dtype == torch.float32
    assert moved.cfg is acts.cfg
    meta = acts.to("meta")
    everything = [*meta.values(), meta.tokens, meta.mask, meta.positions]
    assert all(t.is_meta for t in everything)
    assert all(
        t.is_meta and t.dtype == torch.float16 for t in acts.to(device="meta", dtype=torch.float16).values()
    )


def test_a_new_dtype_is_noted_in_the_provenance():
    acts = padded(provenance=Provenance("tiny", "aa11", dtype="float32"))
    assert acts.to(torch.bfloat16).provenance.dtype == "bfloat16"
    assert acts.to("cpu").provenance.dtype == acts.provenance.dtype == "float32"


def test_detach_cuts_the_graph():
    acts = Activations({"hook_x": torch.ones(1, 2, 3, requires_grad=True) * 2})
    assert acts["hook_x"].requires_grad
    assert not acts.detach()["hook_x"].requires_grad


# ------------------------------------------------------------------ stacks


def test_stack():
    acts = make()
    stacked = acts.stack("resid_post")
    assert stacked.shape == (LAYERS, BATCH, POS, D_MODEL)
    assert torch.equal(stacked[2], acts["resid_post", 2])
    assert torch.equal(acts.stack("scale", sublayer="ln1")[1], acts["scale", 1, "ln1"])
    assert torch.equal(acts.stack("z", layers=[2, 0])[0], acts["z", 2])


def test_stack_does_not_skip_layers_silently():
    acts = make()
    some = Activations({k: acts[k] for k in acts if "blocks.1" not in k}, cfg=acts.cfg)
    with pytest.raises(SiteError, match=r"blocks\.1\.hook_resid_post"):
        some.stack("resid_post")


def test_post_norm_models_have_no_sum():
    acts = make(cfg=SimpleNamespace(n_layers=LAYERS, style="post"))
    with pytest.raises(ModelError, match="post-norm"):
        acts.decompose_resid()
    with pytest.raises(ModelError, match="post-norm"):
        acts.stack_head_results(incl_remainder=True, W_O=[torch.zeros(1)] * 3)
    assert acts.accumulated_resid().shape[0] == LAYERS + 1


@pytest.mark.parametrize("layer", [4, -2, 17])
@pytest.mark.parametrize("method", ["accumulated_resid", "decompose_resid", "stack_head_results"])
def test_layers_out_of_range(method, layer):
    with pytest.raises(SiteError, match="3 layers exist"):
        getattr(make(), method)(layer)


def test_what_is_missing_is_named():
    acts = make()
    with pytest.raises(SiteError, match=r"W_O=model\.W_O"):
        acts.stack_head_results()
    with pytest.raises(SiteError, match="before layer 0"):
        acts.stack_head_results(0)
    with pytest.raises(SiteError, match="hook_embed"):
        acts.decompose_resid(0, incl_embeds=False)
    with pytest.raises(SiteError, match="hook_resid_mid"):
        only_pre = {"blocks.0.hook_resid_pre": torch.zeros(1, 2, 3)}
        Activations(only_pre, cfg=acts.cfg).accumulated_resid(incl_mid=True)


def test_bad_modes_are_refused():
    # past the runtime type check of tests, as a notebook would
    decompose = Activations.decompose_resid
    decompose = getattr(decompose, "__wrapped__", decompose)
    with pytest.raises(ConfigError, match="did you mean 'mlp'"):
        decompose(make(), mode="mpl")


# ------------------------------------------------------------------ against TransformerLens


@pytest.fixture(scope="module", params=["full", "attn_only"])
def oracle(request):
    """A tiny HookedTransformer's cache, and ours over the same tensors."""
    lens = importlib.import_module("transformer_lens")  # slow: only when these tests run
    cfg = lens.HookedTransformerConfig(
        n_layers=LAYERS,
        d_model=D_MODEL,
        n_ctx=POS,
        d_head=D_HEAD,
        n_heads=HEADS,
        d_mlp=13,
        d_vocab=17,
        act_fn="gelu_new",
        normalization_type="LN",
        attn_only=request.param == "attn_only",
        seed=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = lens.HookedTransformer(cfg)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)  # biases too: the remainder must hold b_O
    tokens = torch.randint(0, 17, (BATCH, POS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    return model, cache, Activations(dict(cache.cache_dict), tokens=tokens, cfg=model.cfg)


def same(ours, theirs):
    (a, a_labels), (b, b_labels) = ours, theirs
    assert a_labels == b_labels
    assert torch.allclose(a, b, atol=1e-5)


LAYER_CHOICES = [None, -1, 0, 1, LAYERS]


@pytest.mark.parametrize("layer", LAYER_CHOICES)
@pytest.mark.parametrize("incl_mid", [False, True])
@pytest.mark.parametrize("mlp_input", [False, True])
def test_accumulated_resid_as_transformer_lens(oracle, layer, incl_mid, mlp_input):
    model, cache, acts = oracle
    kwargs = {"incl_mid": incl_mid, "mlp_input": mlp_input, "return_labels": True}
    end = LAYERS if layer in (None, -1) else layer
    if model.cfg.attn_only and ((incl_mid and end) or (mlp_input and end < LAYERS)):
        with pytest.raises(SiteError, match="hook_resid_mid"):
            acts.accumulated_resid(layer, **kwargs)
        return
    same(acts.accumulated_resid(layer, **kwargs), cache.accumulated_resid(layer, **kwargs))


@pytest.mark.parametrize("layer", LAYER_CHOICES)
@pytest.mark.parametrize("mode", ["all", "mlp", "attn"])
@pytest.mark.parametrize("incl_embeds", [False, True])
def test_decompose_resid_as_transformer_lens(oracle, layer, mode, incl_embeds):
    model, cache, acts = oracle
    if not incl_embeds and (layer == 0 or (mode == "mlp" and model.cfg.attn_only)):
        with pytest.raises(SiteError, match="nothing to decompose"):
            acts.decompose_resid(layer, mode=mode, incl_embeds=False)
        return
    kwargs = {"mode": mode, "incl_embeds": incl_embeds, "return_labels": True}
    same(acts.decompose_resid(layer, **kwargs), cache.decompose_resid(layer, **kwargs))


def test_decompose_to_the_mlp_input_as_transformer_lens(oracle):
    model, cache, acts = oracle
    ours = acts.decompose_resid(1, mlp_input=True, return_labels=True)
    same(ours, cache.decompose_resid(1, mlp_input=True, return_labels=True))
    after_attention = "resid_post" if model.cfg.attn_only else "resid_mid"
    assert torch.allclose(ours[0].sum(0), acts[after_attention, 1], atol=1e-5)


def test_the_decomposition_sums_to_the_stream_of_transformer_lens(oracle):
    _, _, acts = oracle
    for layer in range(LAYERS):
        parts = acts.decompose_resid(layer)
        assert torch.allclose(parts.sum(0), acts["resid_pre", layer], atol=1e-5)
    assert torch.allclose(acts.decompose_resid().sum(0), acts["resid_post", -1], atol=1e-5)


@pytest.mark.parametrize("layer", [None, -1, 1, LAYERS])
@pytest.mark.parametrize("incl_remainder", [False, True])
def test_stack_head_results_as_transformer_lens(oracle, layer, incl_remainder):
    model, cache, acts = oracle
    kwargs = {"return_labels": True, "incl_remainder": incl_remainder}
    ours = acts.stack_head_results(layer, W_O=model.W_O.detach(), **kwargs)
    theirs = cache.stack_head_results(layer, **kwargs)
    same(ours, theirs)
    captured = Activations(dict(cache.cache_dict), cfg=model.cfg)  # now holds hook_result
    assert ("result", 0) in captured
    same(captured.stack_head_results(layer, **kwargs), theirs)


def test_remainder_before_the_first_layer_as_transformer_lens(oracle):
    """TransformerLens wraps round to the last layer here."""
    _, _, acts = oracle
    stacked = acts.stack_head_results(0, incl_remainder=True)
    assert torch.equal(stacked, acts["resid_pre", 0][None])


# ------------------------------------------------------------------ disk


def test_save_and_load(tmp_path):
    provenance = Provenance("tiny", "aa11", sites=("hook_embed",), prepend_bos=True)
    acts = padded(provenance=provenance, positions=torch.arange(POS))
    where = acts.save(tmp_path / "acts")
    back = Activations.load(where)
    assert list(back) == list(acts)
    assert all(torch.equal(back[name], acts[name]) for name in acts)
    for name in ("tokens", "mask", "positions"):
        assert torch.equal(getattr(back, name), getattr(acts, name))
    assert back.provenance == provenance
    assert torch.equal(back["resid_post", -1], acts["resid_post", -1])
    assert torch.equal(back.decompose_resid(), acts.decompose_resid())


def test_save_takes_shared_strided_and_grad_tensors(tmp_path):
    t = torch.randn(2, 3, 5, dtype=torch.bfloat16)
    acts = Activations(
        {
            "blocks.0.hook_resid_post": t,
            "blocks.1.hook_resid_pre": t,  # the same memory, as in a real model
            "hook_embed": t.transpose(1, 2),
            "hook_grad": torch.ones(1, 2, requires_grad=True) * 2,
        }
    )
    back = Activations.load(acts.save(tmp_path / "acts"))
    assert all(torch.equal(back[name], acts[name]) for name in acts)
    assert back.tokens is back.mask is back.provenance is back.cfg is None


def test_existing_folders_are_kept_and_damage_is_seen(tmp_path):
    where = make().save(tmp_path / "acts")
    with pytest.raises(StorageError):
        make().save(where)
    make().to(torch.float64).save(where, overwrite=True)
    assert Activations.load(where)["embed"].dtype == torch.float64
    file = where / "activations.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptArtefact):
        Activations.load(where)
    with pytest.raises(StorageError):
        Activations.load(tmp_path / "nowhere")
