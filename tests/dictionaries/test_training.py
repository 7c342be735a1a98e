"""Training finds what was planted, lands on the L0 asked for, and saves what it trained."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from interp.activations import Callback
from interp.core.errors import BadName, ConfigError
from interp.core.randomness import generator
from interp.dictionaries.dictionary import Dictionary
from interp.dictionaries.initialising import Sample
from interp.dictionaries.resampling import resample
from interp.dictionaries.scores.recovery import score_recovery
from interp.dictionaries.scores.synthetic import SyntheticConfig, SyntheticWorld
from interp.dictionaries.steps import topk
from interp.dictionaries.train_config import TrainConfig
from interp.dictionaries.trainee import Trainee
from interp.dictionaries.training import clip_dictionary, run_training, train
from tests.activations.toys import unchecked
from tests.dictionaries.small import D, features, planted, same_module, small

WIDE: dict[str, Any] = {"steps": 600, "batch_size": 256, "lr": 5e-3, "log_every": 5}


def fvu(dictionary: Dictionary, x: Tensor, y: Tensor | None = None) -> float:
    y = x if y is None else y
    with torch.no_grad():
        return float(dictionary.error(x, y).pow(2).sum() / (y - y.mean(0)).pow(2).sum())


# --- what was planted is found -----------------------------------------------------------------


def rules(n: int = 32, d: int = 64) -> tuple[Tensor, Tensor]:
    """Encoder and decoder directions of an MLP of known rules, each orthonormal."""
    draw = generator(23, "rules")
    return tuple(  # type: ignore[return-value]
        torch.linalg.qr(torch.randn(d, n, generator=draw)).Q.T.contiguous() for _ in "ed"
    )


def planted_mlp(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """y = sum over rules of relu(e x - 1) d; each fires on one row in six."""
    reads, writes = rules()
    x = torch.randn(rows, 64, generator=generator(seed, "mlp"))
    return x, (x @ reads.T - 1).relu() @ writes


def test_a_transcoder_recovers_the_rules_of_a_planted_mlp() -> None:
    x, y = planted_mlp(20_000)
    config = small(d_sae=64, activation="batchtopk", k=5.1, steps=800, batch_size=512, lr=5e-3)
    found = train(config, (x, y))
    reads, writes = rules()
    by_encoder = F.normalize(found.encoder.detach(), dim=1) @ reads.T
    by_decoder = F.normalize(found.W_dec.detach(), dim=1) @ writes.T
    both = torch.minimum(by_encoder, by_decoder).amax(0)
    assert int((both >= 0.95).sum()) >= 30, both.sort().values[:4]
    held = planted_mlp(2_000, seed=1)
    assert fvu(found, *held) < 0.05


def test_shuffled_pairs_teach_a_transcoder_nothing() -> None:
    x, y = planted_mlp(20_000)
    y = y[torch.randperm(len(y), generator=generator(0, "shuffle"))]
    found = train(small(d_sae=64, k=5, steps=200, batch_size=512), (x, y))
    assert fvu(found, *planted_mlp(2_000, seed=1)) > 0.97


def test_a_skip_path_takes_what_is_linear() -> None:
    x, y = planted_mlp(5_000)
    y = y + x @ torch.randn(64, 64, generator=generator(0, "linear")) / 8
    config = small(d_sae=64, k=5, steps=200, batch_size=512, lr=5e-3)
    plain = train(config, (x, y))
    skip = train(dataclasses.replace(config, skip=True), (x, y))
    with_skip, without = fvu(skip, x, y), fvu(plain, x, y)
    assert with_skip < without / 2, (with_skip, without)


# --- the number of active latents --------------------------------------------------------------


@pytest.mark.thin(3)
@pytest.mark.parametrize("steps", [300, 600])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "gated"])
def test_l0_lands_where_it_was_asked_to(activation: Any, steps: int) -> None:
    """On the way it stays near, too: the last measure on rows corrects little."""
    x = planted(20_000)
    asked = small(activation=activation, d_sae=53, l0=3.0, **(WIDE | {"steps": steps}))
    made = run_training(asked, x)
    found = made.dictionaries["0"]
    with torch.no_grad():
        l0 = float((found.encode(planted(4_000, seed=0)) != 0).sum(1).float().mean())
    assert l0 == pytest.approx(3.0, rel=0.05)
    assert made.report.series("l0")[1][-5:] == pytest.approx([3.0] * 5, rel=0.4)


@pytest.mark.full
@pytest.mark.parametrize("l0", [4.0, 8.0, 16.0])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "gated"])
def test_l0_lands_in_larger_worlds(activation: Any, l0: float) -> None:
    """512 latents, 64 dimensions, 300 steps, held-out rows."""
    x = planted(60_000, d=64, n=256, p=0.03)
    config = small(
        activation=activation, d_sae=512, l0=l0, steps=300, batch_size=1024, lr=3e-3, init_rows=4096
    )
    found = train(config, x[:50_000])
    with torch.no_grad():
        landed = float((found.encode(x[50_000:]) != 0).sum(1).float().mean())
    assert landed == pytest.approx(l0, rel=0.05)


def test_thresholds_of_dead_latents_come_down_until_they_fire() -> None:
    x = planted(2_000)
    config = small(activation="jumprelu", dead_after=100, steps=9)
    trainee = Trainee(config, "input", "input", Sample(x, x))
    with torch.no_grad():
        trainee.dictionary.threshold[[3, 11]] = 5.0
    before = trainee.dictionary.threshold.detach().clone()
    for t in range(3):
        trainee.step({"input": x[t * 100 :][:100]}, t)
        trainee.hold()
    assert trainee.dead.nonzero().flatten().tolist() == [3, 11]
    after = trainee.dictionary.threshold.detach()
    assert (after[[3, 11]] < 0.95 * before[[3, 11]]).all()
    assert torch.equal(after[~trainee.dead], before[~trainee.dead]), "no update was made"


def test_pursuit_stops_at_the_residual_asked_for() -> None:
    x = planted(700)
    l0 = []
    for threshold in (1e-2, 2.0):
        config = small(activation="matching_pursuit", k=9, residual_threshold=threshold)
        found = train(config, x)
        l0.append(float((found.encode(x) != 0).sum(1).float().mean()))
        unit = float((x - x.mean(0)).pow(2).mean().sqrt())
        assert found.config.residual_threshold == pytest.approx(threshold * unit, rel=0.1)
    assert l0[1] < 0.7 * l0[0]


@pytest.mark.full
def test_gates_cannot_escape_the_penalty_where_decoder_norms_are_free() -> None:
    """With the decoder held fixed for the gates its norms fall and L0 stays at a multiple."""
    x = planted(20_000)
    l0 = {}
    for norm in ("unit", "free"):
        found = train(small(activation="gated", d_sae=53, decoder_norm=norm, **WIDE), x)
        l0[norm] = float((found.encode(x) != 0).sum(1).float().mean())
    assert l0["free"] < 1.5 * l0["unit"], l0


def test_without_a_target_the_penalty_stays_as_given() -> None:
    made = run_training(small(activation="relu", sparsity=2.0), planted(700))
    assert all("sparsity" not in record for record in made.report.records)


def test_the_threshold_of_batchtopk_gives_the_same_average_outside_training() -> None:
    x = planted(20_000)
    found = train(small(activation="batchtopk", k=2.5, d_sae=53, **WIDE), x)
    assert found.threshold.any()
    with torch.no_grad():
        l0 = float((found.encode(x[:7]) != 0).sum(1).float().mean())
        all_rows = float((found.encode(x) != 0).sum(1).float().mean())
    assert all_rows == pytest.approx(2.5, rel=0.05)
    assert l0 != 2.5, "a row is encoded by itself"


def test_k_comes_down_from_k_start() -> None:
    made = run_training(small(k=2, k_start=9, k_anneal=20, auxk_alpha=0.0), planted(700))
    _, l0 = made.report.series("l0")
    assert l0[0] > 8.5 and l0[10] == pytest.approx(5.5, abs=0.6) and max(l0[20:]) <= 2


def test_p_anneals_over_the_second_half() -> None:
    config = small(activation="relu", lp=1.0, lp_final=0.5, steps=100)
    assert [config.lp_at(t) for t in (0, 49, 50, 75, 100)] == [1, 1, 1, 0.75, 0.5]


# --- weights ------------------------------------------------------------------------------------


def test_what_is_trained_on_scaled_rows_is_the_same_function_of_raw_rows() -> None:
    x = 40 * planted(700) + 9
    for activation in ("topk", "batchtopk", "relu", "jumprelu", "gated", "matching_pursuit"):
        for norm in ("unit", "free"):
            if (activation, norm) == ("matching_pursuit", "free"):
                continue
            config = small(activation=activation, decoder_norm=norm, steps=30)
            seen: dict[str, Any] = {}

            class Look(Callback):
                def after_step(self, module: Any, t: int, seen: Any = seen) -> None:
                    seen["trainee"] = module["0"]

            raw = run_training(config, x, callbacks=[Look()]).dictionaries["0"]
            trainee = seen["trainee"]
            if activation == "batchtopk":  # its cut is measured on raw rows, at the very end
                trainee.dictionary.threshold.fill_(0.7)
                raw = trainee.finished()
            with torch.no_grad():
                expected = trainee.dictionary(x * trainee.scale_in) / trainee.scale_out
                torch.testing.assert_close(raw(x), expected, rtol=1e-4, atol=1e-2)
                norms = raw.decoder_norms
            torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-4, atol=1e-4)
            assert not raw.config.rescale_acts_by_decoder_norm


def test_unit_rows_stay_unit_and_their_gradient_is_perpendicular() -> None:
    class Look(Callback):
        def __init__(self) -> None:
            self.along: list[float] = []

        def after_backward(self, module: Any, t: int) -> None:
            d = module["0"].dictionary
            self.along.append(float((d.W_dec.grad * d.W_dec.detach()).sum(1).abs().max()))

        def after_step(self, module: Any, t: int) -> None:
            norms = module["0"].dictionary.decoder_norms
            torch.testing.assert_close(norms, torch.ones_like(norms))

    look = Look()
    run_training(small(steps=5), planted(700), callbacks=[look])
    assert max(look.along) < 1e-5
    look.along.clear()
    with pytest.raises(AssertionError):
        run_training(small(steps=5, decoder_norm="free"), planted(700), callbacks=[look])
    assert max(look.along) > 1e-4


def test_gradients_are_clipped_per_dictionary() -> None:
    d = Dictionary(small().dictionary(D, D, "", ""))
    for p in d.parameters():
        p.grad = torch.ones_like(p)
    clip_dictionary(d, 0.5)
    total = torch.cat([p.grad.flatten() for p in d.parameters() if p.grad is not None]).norm()
    assert float(total) == pytest.approx(0.5, rel=1e-5)
    clip_dictionary(d, 9.0)
    total = torch.cat([p.grad.flatten() for p in d.parameters() if p.grad is not None]).norm()
    assert float(total) == pytest.approx(0.5, rel=1e-5)
    d.b_dec.grad = torch.full_like(d.b_dec, 1e38)
    clip_dictionary(d, 0.5)
    assert float(d.b_dec.grad[0]) > 1e37, "what the finite guard must see is not hidden"


def test_bf16_autocast_trains_nearly_as_well() -> None:
    x = planted(5_000)
    config = small(d_sae=53, steps=200, batch_size=256, lr=5e-3)
    full = train(config, x)
    low = train(dataclasses.replace(config, autocast="bfloat16"), x)
    assert not same_module(full, low)
    assert low.W_dec.dtype == torch.float32
    assert fvu(low, x) < 1.15 * fvu(full, x)


# --- dead latents -------------------------------------------------------------------------------


def make_dead(activation: Any = "topk") -> tuple[Trainee, torch.optim.Optimizer, Tensor]:
    x = planted(300)
    trainee = Trainee(small(activation=activation), "input", "input", Sample(x, x))
    optimizer = torch.optim.Adam(trainee.dictionary.parameters(), lr=1e-3)
    trainee.step({"input": x}, 0)
    optimizer.step()
    trainee.dead[[3, 11]] = True
    return trainee, optimizer, x


@pytest.mark.parametrize("activation", ["topk", "jumprelu", "gated", "matching_pursuit"])
def test_dead_latents_take_directions_of_badly_reconstructed_rows(activation: Any) -> None:
    trainee, optimizer, x = make_dead(activation)
    d = trainee.dictionary
    before = d.W_dec.detach().clone()
    scaled = x * trainee.scale_in
    # pursuit reads what is left of a row, the others read the row
    aimed = d.error(scaled, scaled) if activation == "matching_pursuit" else scaled - d.b_dec
    aimed = F.normalize(aimed.detach(), dim=1)
    assert resample(trainee, optimizer, 7) == 2
    changed = (d.W_dec.detach() != before).any(1).nonzero().flatten().tolist()
    assert changed == [3, 11]
    assert ((d.W_dec[[3, 11]].detach() @ aimed.T).amax(1) > 0.9999).all()
    assert not trainee.dead.any() and not trainee.idle[[3, 11]].any()
    state = optimizer.state[d.W_dec]
    assert not state["exp_avg"][[3, 11]].any() and state["exp_avg"][[4, 12]].any()
    assert resample(trainee, optimizer, 8) == 0


def test_of_two_latents_of_one_direction_the_idler_is_resampled() -> None:
    trainee, optimizer, _ = make_dead()
    d = trainee.dictionary
    trainee.dead.fill_(False)
    trainee.idle.zero_()
    trainee.idle[5] = 9
    with torch.no_grad():
        d.W_dec[5], d.W_dec[20] = d.W_dec[8], -d.W_dec[8]  # opposite is another feature
        d.W_dec[30] = d.W_dec[31]
    before = d.W_dec.detach().clone()
    assert resample(trainee, optimizer, 7) == 0
    trainee.config = dataclasses.replace(trainee.config, resample_similar=0.95)
    assert resample(trainee, optimizer, 7) == 2
    changed = (d.W_dec.detach() != before).any(1).nonzero().flatten().tolist()
    assert changed == [5, 31], "5 was idle for longer; 30 and 31 alike"
    assert resample(trainee, optimizer, 8) == 0


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1])
def test_pursuit_without_repetitions_finds_more_features(seed: int) -> None:
    """Two latents of one feature stay two: neither is ever dead."""
    shape = SyntheticConfig(d=32, n_features=128, p_first=0.04, p_last=0.01, seed=seed)
    world = SyntheticWorld(shape)
    x = torch.cat([world.batch(t, 512) for t in range(40)])
    base = small(
        activation="matching_pursuit",
        d_sae=128,
        max_iterations=8,
        residual_threshold=0.6,
        steps=500,
        batch_size=512,
        lr=1e-2,
        scale=False,
    )
    once = dataclasses.replace(base, resample_every=50, resample_similar=0.9)
    twice, one = (score_recovery(train(c, x), world, with_ceiling=False) for c in (base, once))
    assert one.dead == twice.dead == 0
    assert float(one.uniqueness) > float(twice.uniqueness) + 0.01
    assert float(one.cosine.mean()) > float(twice.cosine.mean()) + 0.01
    assert float(one.f1.mean()) > float(twice.f1.mean()) + 0.02


def test_what_is_too_similar_needs_a_time_to_be_resampled() -> None:
    x = planted(300)
    with pytest.raises(ConfigError, match="only together"):
        train(small(resample_similar=0.9), x)
    with pytest.raises(ConfigError, match="resample_similar is out of range"):
        train(small(resample_similar=1.5, resample_every=5), x)


def test_resampling_draws_from_seed_and_step_alone() -> None:
    rows = []
    for step in (7, 7, 8):
        trainee, optimizer, _ = make_dead()
        torch.manual_seed(len(rows))
        resample(trainee, optimizer, step)
        rows.append(trainee.dictionary.W_dec[[3, 11]].detach())
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_auxk_brings_latents_back(monkeypatch: pytest.MonkeyPatch) -> None:
    x = planted(20_000)
    base = small(d_sae=151, k=2, dead_after=4_000, **(WIDE | {"steps": 300}))
    dead, left = {}, {}
    for alpha in (0.0, 1 / 32):
        found = train(dataclasses.replace(base, auxk_alpha=alpha), x)
        with torch.no_grad():
            dead[alpha] = int((found.encode(x) == 0).all(0).sum())
        left[alpha] = fvu(found, x)
    assert dead == pytest.approx({0.0: 9, 1 / 32: 4}, abs=2), dead
    assert dead[1 / 32] <= dead[0.0] - 3, dead
    assert left[1 / 32] < left[0.0], left
    # As Gao et al. write it, the dead count at their own size.
    monkeypatch.setattr(topk, "best_multiple", lambda made, left: torch.ones(()))
    found = train(base, x)
    with torch.no_grad():
        plain = int((found.encode(x) == 0).all(0).sum())
    assert plain == pytest.approx(32, abs=4), plain


def test_resampling_brings_latents_back() -> None:
    x = planted(20_000)
    base = small(d_sae=151, k=2, dead_after=4_000, auxk_alpha=0.0, **(WIDE | {"steps": 300}))

    def dead(config: TrainConfig) -> int:
        with torch.no_grad():
            return int((train(config, x).encode(x) == 0).all(0).sum())

    without = dead(base)
    assert without >= 5
    assert dead(dataclasses.replace(base, resample_every=50)) < without


# --- the record ---------------------------------------------------------------------------------


def test_metadata_tells_how_it_was_trained() -> None:
    made = run_training(small(name="mine"), planted(700))
    told = made.dictionaries["mine"].metadata["training"]
    assert told["config"]["d_sae"] == 37 and told["rows"] == 40 * 53
    assert told["last"]["fvu"] == made.report.series("fvu")[1][-1]
    measured = fvu(made.dictionaries["mine"], planted(700))
    assert told["last"]["fvu"] == pytest.approx(measured, rel=0.3), "an FVU of real units"


@pytest.mark.parametrize(
    ("configs", "error"),
    [
        ([], ConfigError),
        ([small(name="a"), small(name="a")], ConfigError),
        ([small(name="a.b")], ConfigError),
        ([small(name="../a")], BadName),
        ([small(), small(steps=7)], ConfigError),
        ([small(l0=3.0)], ConfigError),
        ([small(activation="relu", l0=99.0)], ConfigError),
        ([small(k_start=2)], ConfigError),
        ([small(encoder_scale=0)], ConfigError),
        ([small(skip=True, activation="matching_pursuit")], ConfigError),
        ([small(groups=(7, 20))], ConfigError),
    ],
)
def test_configs_that_cannot_be_are_refused(configs: list[TrainConfig], error: type) -> None:
    with pytest.raises(error):
        run_training(configs, planted(99))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("encoder_scale", -0.1),
        ("residual_threshold", -1.0),
        ("steps", 0),
        ("d_sae", 2**40),
        ("n_ctx", 1),
        ("betas", (0.9, 1.0)),
        ("lr", math.nan),
        ("activation", "topp"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_when_it_is_made(setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=setting):
        unchecked(TrainConfig)(**{setting: value})
    with pytest.raises(ConfigError, match=setting):
        unchecked(TrainConfig.of)({setting: value})


def test_features_are_recovered() -> None:
    """The usual sanity check: planted directions come back as decoder rows."""
    config = small(d_sae=40, activation="batchtopk", k=2.3, k_start=8, k_anneal=400, **WIDE)
    best = (train(config, planted(20_000)).W_dec.detach() @ features().T).amax(0)
    assert float(best.mean()) > 0.9, best.sort().values[:9]  # random unit rows: 0.6
