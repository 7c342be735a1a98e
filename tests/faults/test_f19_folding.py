"""F19: a folded model is the same model, or folding is refused by name.

Random tiny models of every family (sizes, grouping, gates, biases, ties, norms, dtypes) are folded
under random flags; log-probabilities before and after must agree to 1e-5 (float32) or 1e-10
(float64), and a refusal must be one that was due. Two families do parts of a float64 model in
float32, where folding is not exact and has to be refused: Gemma applies the gains of its norms
there, Bloom takes its softmax there, whose rows then do not sum to one closely enough to move a
value bias. The null: folds that forget one matrix, W_gate among them, fail the same check.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from interp.core.errors import FoldError
from interp.models.adapters.norms import norm_parts
from interp.models.folding import fold as folding
from interp.models.folding.parts import FoldNorm
from interp.models.hooked import HookedModel
from interp.models.small.config import SmallConfig
from interp.models.small.layers import Norm
from interp.models.small.model import SmallTransformer
from interp.models.wrapping import wrap

BOUND = {torch.float32: 1e-5, torch.float64: 1e-10}
DEFAULTS = {"fold_ln": True, "fold_value_biases": True} | dict.fromkeys(
    ("center_writing_weights", "center_unembed")
)
V, M, C = 53, 37, 19
"""Vocabulary, width of the MLP, context."""


@dataclass(frozen=True)
class Case:
    """One random model with the facts that decide what may be done to it."""

    family: str
    module: nn.Module
    dtype: torch.dtype
    layer_norm: bool = True
    """Every reader of the residual stream is a LayerNorm, and no norm writes into it."""
    against: str = ""
    """Why norms cannot be folded, as a pattern of the refusal."""
    softcap: bool = False


def sizes(rng: random.Random) -> dict[str, int]:
    heads, d_head = rng.choice([(2, 6), (3, 4), (4, 6), (6, 4)])
    kv = rng.choice([k for k in (1, 2, 3, 6) if heads % k == 0])
    return dict(heads=heads, kv=kv, d_head=d_head, d=heads * d_head, layers=rng.randint(1, 3))  # noqa: C408


def draw(module: nn.Module, dtype: torch.dtype, seed: int) -> nn.Module:
    """Weights of a size that trained models have: log-probabilities stay of order ten."""
    source = torch.Generator().manual_seed(seed)
    module = module.to(dtype).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            parameter.copy_(0.2 * noise)
        for part in module.modules():
            gain = getattr(part, "w" if isinstance(part, Norm) else "weight", None)
            if gain is None or not (isinstance(part, Norm) or norm_parts(part)):
                continue
            offset = 0.0 if norm_parts(part) and norm_parts(part).plus_one else 1.0
            gain.add_(offset + 0.2 * torch.randn(gain.shape, generator=source))
    return module


def grouped(rng: random.Random, s: dict[str, int]) -> dict[str, Any]:
    return {
        "vocab_size": V,
        "hidden_size": s["d"],
        "num_hidden_layers": s["layers"],
        "num_attention_heads": s["heads"],
        "num_key_value_heads": s["kv"],
        "intermediate_size": M,
        "max_position_embeddings": C,
        "tie_word_embeddings": rng.random() < 0.5,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def llama_like(rng: random.Random, dtype: torch.dtype) -> Case:
    s = sizes(rng)
    name = rng.choice(["Llama", "Mistral", "Qwen2", "Qwen3", "Phi3"])
    fields = grouped(rng, s)
    if name == "Llama":
        fields |= {"attention_bias": rng.random() < 0.5, "mlp_bias": rng.random() < 0.5}
    if name == "Qwen3":
        fields |= {"head_dim": s["d_head"], "attention_bias": rng.random() < 0.5}
    config = getattr(hf, f"{name}Config")(**fields)
    module = getattr(hf, f"{name}ForCausalLM")(config)
    return Case(name.lower(), module, dtype, layer_norm=False)


def gemma(rng: random.Random, dtype: torch.dtype) -> Case:
    s, two = sizes(rng), rng.random() < 0.5
    kind = "Gemma2" if two else "Gemma3Text"
    own = {"head_dim": s["d_head"], "sliding_window": 3, "query_pre_attn_scalar": 7}
    cap = rng.choice([None, 30.0]) if two else None
    config = getattr(hf, f"{kind}Config")(
        **grouped(rng, s), **own, **({"final_logit_softcapping": cap} if two else {})
    )
    module = (hf.Gemma2ForCausalLM if two else hf.Gemma3ForCausalLM)(config)
    return Case(kind.lower(), module, dtype, layer_norm=False, softcap=cap is not None)


def gpt2(rng: random.Random, dtype: torch.dtype) -> Case:
    s = sizes(rng)
    shape = {"vocab_size": V, "n_embd": s["d"], "n_layer": s["layers"], "n_head": s["heads"]}
    tie = {"tie_word_embeddings": rng.random() < 0.5}
    return Case("gpt2", hf.GPT2LMHeadModel(hf.GPT2Config(**shape, n_inner=M, n_positions=C, **tie)), dtype)


def neox(rng: random.Random, dtype: torch.dtype) -> Case:
    s = sizes(rng)
    fields = {k: v for k, v in grouped(rng, s).items() if k != "num_key_value_heads"}
    flags = {k: rng.random() < 0.5 for k in ("use_parallel_residual", "attention_bias")}
    return Case("gpt_neox", hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**fields, **flags)), dtype)


def opt(rng: random.Random, dtype: torch.dtype) -> Case:
    s, pre = sizes(rng), rng.random() < 0.7
    config = hf.OPTConfig(
        vocab_size=V,
        hidden_size=s["d"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        ffn_dim=M,
        max_position_embeddings=C,
        word_embed_proj_dim=rng.choice([s["d"], 10]),
        do_layer_norm_before=pre,
        enable_bias=rng.random() < 0.7,
        layer_norm_elementwise_affine=rng.random() < 0.8,
        tie_word_embeddings=rng.random() < 0.5,
    )
    against = "" if pre else "cannot fold post-norm"
    return Case("opt", hf.OPTForCausalLM(config), dtype, layer_norm=pre, against=against)


def encoder(rng: random.Random, dtype: torch.dtype) -> Case:
    s, name = sizes(rng), rng.choice(["Bert", "Roberta", "DistilBert"])
    fields = {k: v for k, v in grouped(rng, s).items() if k != "num_key_value_heads"}
    if name == "DistilBert":
        fields = {"vocab_size": V, "dim": s["d"], "n_layers": s["layers"], "n_heads": s["heads"]}
        fields |= {"hidden_dim": M, "max_position_embeddings": C}
    module = getattr(hf, f"{name}ForMaskedLM")(getattr(hf, f"{name}Config")(**fields))
    return Case(name.lower(), module, dtype, layer_norm=False, against="cannot fold post-norm")


def t5(rng: random.Random, dtype: torch.dtype) -> Case:
    s = sizes(rng)
    config = hf.T5Config(
        vocab_size=V,
        d_model=s["d"],
        d_kv=5,
        d_ff=M,
        num_layers=s["layers"],
        num_decoder_layers=rng.randint(1, 2),
        num_heads=s["heads"],
        feed_forward_proj=rng.choice(["relu", "gated-gelu"]),
        tie_word_embeddings=rng.random() < 0.5,
        decoder_start_token_id=0,
    )
    return Case("t5", hf.T5ForConditionalGeneration(config), dtype, layer_norm=False)


def vit(rng: random.Random, dtype: torch.dtype) -> Case:
    s = sizes(rng)
    config = hf.ViTConfig(
        image_size=12,
        patch_size=4,
        hidden_size=s["d"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        intermediate_size=M,
        num_labels=7,
        qkv_bias=rng.random() < 0.5,
    )
    return Case("vit", hf.ViTForImageClassification(config), dtype)


def parallel(rng: random.Random, dtype: torch.dtype) -> Case:
    """One norm for attention and MLP (GPT-J, CodeGen, Falcon), fused in three more layouts."""
    s, name = sizes(rng), rng.choice(["gptj", "codegen", "falcon"])
    if name == "falcon":
        new = rng.random() < 0.5
        config = hf.FalconConfig(
            vocab_size=V,
            hidden_size=s["d"],
            num_hidden_layers=s["layers"],
            num_attention_heads=s["heads"],
            num_kv_heads=s["kv"] if new else None,
            new_decoder_architecture=new,
            num_ln_in_parallel_attn=rng.choice([1, 2]) if new else None,
            parallel_attn=new or rng.random() < 0.5,
            multi_query=rng.random() < 0.5,
            bias=rng.random() < 0.5,
        )
        return Case(name, hf.FalconForCausalLM(config), dtype)
    heads, d = (4, 4 * s["d_head"]) if name == "codegen" else (s["heads"], s["d"])
    shape = {"vocab_size": V, "n_embd": d, "n_layer": s["layers"], "n_head": heads}
    shape |= {"n_inner": M, "n_positions": C, "rotary_dim": 2}
    kind = "GPTJ" if name == "gptj" else "CodeGen"
    return Case(name, getattr(hf, f"{kind}ForCausalLM")(getattr(hf, f"{kind}Config")(**shape)), dtype)


def alibi(rng: random.Random, dtype: torch.dtype) -> Case:
    s = sizes(rng)
    if rng.random() < 0.5:
        config = hf.MptConfig(vocab_size=V, d_model=24, n_layers=s["layers"], n_heads=4, max_seq_len=C)
        return Case("mpt", hf.MptForCausalLM(config), dtype)
    flag = rng.random() < 0.3
    config = hf.BloomConfig(
        vocab_size=V,
        hidden_size=s["d"],
        n_layer=s["layers"],
        n_head=s["heads"],
        apply_residual_connection_post_layernorm=flag,
    )
    against = "residual branch starts after the norm" if flag else ""
    return Case("bloom", hf.BloomForCausalLM(config), dtype, layer_norm=False, against=against)


def gpt_neo(rng: random.Random, dtype: torch.dtype) -> Case:
    s = sizes(rng)
    config = hf.GPTNeoConfig(
        vocab_size=V,
        hidden_size=s["d"],
        num_layers=2,
        num_heads=s["heads"],
        intermediate_size=M,
        max_position_embeddings=C,
        attention_types=[[["global", "local"], 1]],
        window_size=3,
    )
    return Case("gpt_neo", hf.GPTNeoForCausalLM(config), dtype)


def small(rng: random.Random, dtype: torch.dtype) -> Case:
    s = sizes(rng)
    norm = rng.choice(["LN", "LN", "LNPre", "RMS", "RMS", "RMSPre", None])
    gated, only = rng.random() < 0.4, rng.random() < 0.2
    rms_end = norm in ("LN", "LNPre") and rng.random() < 0.2
    fields = {
        "n_layers": s["layers"],
        "d_model": s["d"] - 1,
        "n_heads": s["heads"],
        "d_head": s["d_head"],
        "d_mlp": M,
        "d_vocab": V,
        "n_ctx": C,
        "act_fn": rng.choice(["gelu", "silu"] if gated else ["gelu", "relu", "solu_ln"]),
        "normalization_type": norm,
        "final_rms": rms_end,
        "gated_mlp": gated,
        "attn_only": only,
        "positional_embedding_type": rng.choice(["standard", "rotary"]),
        "attention_dir": rng.choice(["causal", "bidirectional"]),
    }
    module = SmallTransformer(SmallConfig.from_dict(fields))
    against = "has no bias that could take up" if norm == "LN" and gated and not only else ""
    centred = norm in ("LN", "LNPre") and not rms_end
    return Case("small", module, dtype, layer_norm=centred, against=against)


MAKERS: tuple[Callable[[random.Random, torch.dtype], Case], ...] = (
    llama_like,
    gpt2,
    small,
    gemma,
    neox,
    opt,
    t5,
    parallel,
    vit,
    encoder,
    alibi,
    gpt_neo,
    small,
    llama_like,
)


def case(i: int) -> Case:
    """Case i: families in turn, everything else drawn from i alone."""
    rng = random.Random(i)
    torch.manual_seed(i)
    dtype = rng.choice(list(BOUND))
    made = MAKERS[i % len(MAKERS)](rng, dtype)
    return replace(made, module=draw(made.module, dtype, i))


def flags(i: int) -> dict[str, Any]:
    rng = random.Random(-1 - i)
    three: tuple[bool | None, ...] = (None, None, True, False)
    return {
        "fold_ln": rng.random() < 0.85,
        "center_writing_weights": rng.choice(three),
        "center_unembed": rng.choice(three),
        "fold_value_biases": rng.random() < 0.8,
    }


def due(made: Case, chosen: dict[str, Any]) -> str:
    """The refusal that must come, as a pattern; "" when the fold is exact."""
    if chosen["center_writing_weights"] and not made.layer_norm:
        return "cannot centre the writing weights"
    if chosen["center_unembed"] and made.softcap:
        return "cannot centre the unembedding: its logits are soft-capped"
    if chosen["fold_ln"] and made.against:
        return made.against
    inside = {"gemma": "fold_ln", "bloom": "fold_value_biases"}
    step = next((flag for name, flag in inside.items() if made.family.startswith(name)), None)
    unexact = made.dtype == torch.float64 and step is not None and chosen[step]
    return "its code computes in float32 inside" if unexact else ""


def given(made: Case, seed: int) -> Any:
    source = torch.Generator().manual_seed(seed)
    if made.family == "vit":
        return {"pixel_values": torch.randn(2, 3, 12, 12, generator=source).to(made.dtype)}
    ids = torch.randint(3, V, (2, 7), generator=source)
    return {"input_ids": ids, "decoder_input_ids": ids[:, 1:]} if made.family == "t5" else ids


def gap(a: HookedModel, b: HookedModel, inputs: Any) -> float:
    def log_probs(model: HookedModel) -> Tensor:
        with torch.no_grad():
            return model(inputs).log_softmax(-1)

    before, after = log_probs(a), log_probs(b)
    assert before.std() > 0.1
    return float((after - before).abs().max())


def test_folded_is_the_same_model_or_refused_by_name(full_count: bool) -> None:
    count = 300 if full_count else 30
    outcomes: Counter[str] = Counter()
    worst = dict.fromkeys(BOUND, 0.0)
    for i in range(count):
        made = case(i)
        chosen, model = flags(i), wrap(made.module)
        expected, where = due(made, chosen), f"case {i}: {made.family} {made.dtype}"
        try:
            folded = folding.fold(model, **chosen)
        except FoldError as error:
            assert expected and re.search(expected, str(error)), f"{where}: {error}"
            outcomes[expected] += 1
            continue
        assert not expected, f"{where} {chosen}: {expected!r} was due"
        difference = gap(model, folded, given(made, i))
        assert difference <= BOUND[made.dtype], f"{where} {chosen}: {difference:.1e}"
        worst[made.dtype] = max(worst[made.dtype], difference)
        outcomes["folded"] += 1
    assert outcomes.total() == count
    assert outcomes["folded"] >= 0.6 * count, outcomes
    assert outcomes["cannot fold post-norm"] > 0, outcomes
    assert outcomes["its code computes in float32 inside"] > 0 or not full_count, outcomes
    assert all(difference > 0 for difference in worst.values())


def forget(monkeypatch: pytest.MonkeyPatch, rng: random.Random, gate: bool) -> list[str]:
    """Make the fold leave out one reader of one norm (the gate, if asked); names what it was."""
    forgotten: list[str] = []
    true_fold = folding._fold_norm

    def wrong(norm: FoldNorm) -> None:
        names = [r.name for r in norm.readers]
        found = [n for n in names if re.search(r"gate_proj|wi_0|W_gate", n)]
        pick = found if gate else [rng.choice(names)]
        if forgotten or not pick or norm.read()[0] is None:
            return true_fold(norm)
        forgotten.append(pick[0])
        true_fold(replace(norm, readers=tuple(r for r in norm.readers if r.name != pick[0])))
        return None

    monkeypatch.setattr(folding, "_fold_norm", wrong)
    return forgotten


@pytest.mark.parametrize("gate", [True, False], ids=["W_gate forgotten", "one matrix forgotten"])
def test_null_a_forgotten_matrix_fails_the_same_check(full_count: bool, gate: bool) -> None:
    wanted, tried, i = (40 if full_count else 6), 0, 0
    while tried < wanted:
        i += 1
        made = case(i)
        if due(made, DEFAULTS):
            continue
        model = wrap(made.module)
        with pytest.MonkeyPatch.context() as patch:
            forgotten = forget(patch, random.Random(i), gate)
            try:
                folding.fold(model)
                caught = ""
            except FoldError as error:
                caught = str(error)
            if not forgotten:
                continue
            assert "computes something else" in caught, f"case {i}: {forgotten}"
            forgotten.clear()
            patch.setattr(folding, "_prove_equal", lambda *_: None)
            wrong = folding.fold(model)
        tried += 1
        difference = gap(model, wrong, given(made, i))
        assert difference > 100 * BOUND[made.dtype], f"case {i}: {forgotten} {difference:.1e}"
