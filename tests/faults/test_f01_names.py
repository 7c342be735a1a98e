"""F1: a mistyped site is an error before anything runs, and the right name is among three."""

import random
import string

import pytest

from interp.core.errors import SiteError
from interp.core.names import match, suggest

HOOKS = (
    "ln1.hook_scale ln1.hook_normalized ln2.hook_scale ln2.hook_normalized attn.hook_q attn.hook_k "
    "attn.hook_v attn.hook_z attn.hook_attn_scores attn.hook_pattern attn.hook_result mlp.hook_pre "
    "mlp.hook_post hook_attn_in hook_mlp_in hook_attn_out hook_mlp_out hook_resid_pre "
    "hook_resid_mid hook_resid_post hook_q_input hook_k_input hook_v_input"
).split()
SITES = [
    "hook_embed",
    "hook_pos_embed",
    *(f"blocks.{layer}.{hook}" for layer in range(12) for hook in HOOKS),
    "ln_final.hook_scale",
    "ln_final.hook_normalized",
]
LETTERS = string.ascii_lowercase + string.digits + "._"


def edit(name: str, rng: random.Random) -> str:
    """One insertion, deletion, substitution or transposition at a random place."""
    kind = rng.choice(("insert", "delete", "substitute", "transpose"))
    if kind == "insert":
        i = rng.randrange(len(name) + 1)
        return name[:i] + rng.choice(LETTERS) + name[i:]
    if kind == "transpose":
        i = rng.randrange(len(name) - 1)
        return name[:i] + name[i + 1] + name[i] + name[i + 2 :]
    i = rng.randrange(len(name))
    new = rng.choice(LETTERS) if kind == "substitute" else ""
    return name[:i] + new + name[i + 1 :]


def typo(name: str, edits: int, rng: random.Random) -> str:
    """A name `edits` random edits away that is not a site; valid names are redrawn."""
    while True:
        wrong = name
        for _ in range(edits):
            wrong = edit(wrong, rng)
        if wrong not in SITES:
            return wrong


@pytest.mark.parametrize(("edits", "target"), [(1, 0.98), (2, 0.90)])
def test_the_true_name_is_suggested(edits: int, target: float, full_count: bool) -> None:
    rng = random.Random(0)
    count = 10_000 if full_count else 1_000
    found = 0
    for _ in range(count):
        name = rng.choice(SITES)
        found += name in suggest(typo(name, edits, rng), SITES)
    assert found / count >= target, f"{found} of {count}"


def test_no_typo_is_silent(full_count: bool) -> None:
    rng = random.Random(1)
    for k in range(10_000 if full_count else 1_000):
        wrong = typo(rng.choice(SITES), 1 + k % 2, rng)
        with pytest.raises(SiteError) as caught:
            match(wrong, SITES, where="gpt2")
        assert repr(wrong) in caught.value.what
        assert caught.value.fix


@pytest.mark.parametrize(
    "nothing",
    [
        "blocks.*.hook_resid_pst",
        "decoder.*",
        "blocks.12.*",
        lambda name: "sae" in name,
        [],
        ["hook_embed", "blocks.*.hook_nothing"],
    ],
)
def test_what_matches_nothing_is_an_error(nothing: object) -> None:
    with pytest.raises(SiteError):
        match(nothing, SITES)


@pytest.mark.parametrize("layer", [-1, 12, 13, 100])
@pytest.mark.parametrize("hook", HOOKS)
def test_layers_out_of_range(layer: int, hook: str) -> None:
    with pytest.raises(SiteError, match="12 layers exist, 0 to 11"):
        match(f"blocks.{layer}.{hook}", SITES)
