"""Training curves: which keys, resumed runs, smoothing against the direct sum."""

from __future__ import annotations

import numpy as np
import pytest

from interp.core.errors import ConfigError
from interp.plotting.config import CurvesConfig
from interp.plotting.training import smooth, training_curves

RECORDS = [
    {"step": step, "tokens": 7 * step, "loss": 3.0 - step / 10, "note": "x", "done": True}
    | ({"l0": 11.0} if step % 2 else {})
    for step in range(13)
]


def test_smoothing_equals_the_direct_weighted_mean() -> None:
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.uniform(0, 10, 31)), rng.normal(size=31)
    y[5] = np.nan
    weights = 0.5 ** (np.abs(x[:, None] - x) / 0.7) * np.isfinite(y)
    expected = (weights * np.nan_to_num(y)).sum(1) / weights.sum(1)
    np.testing.assert_allclose(smooth(x, y, 0.7), expected, rtol=1e-12)


def test_smoothing_leaves_constants_alone_and_all_nan_nan() -> None:
    x = np.arange(7.0)
    np.testing.assert_allclose(smooth(x, np.full(7, 2.5), 3.0), 2.5)
    assert np.isnan(smooth(x, np.full(7, np.nan), 3.0)).all()


def test_numeric_keys_are_drawn_and_counters_are_not() -> None:
    fig = training_curves(RECORDS)
    assert [a.text for a in fig.layout.annotations] == ["loss", "l0"]
    assert len(fig.data) == 4  # raw and smoothed
    np.testing.assert_allclose(fig.data[0].y, [r["loss"] for r in RECORDS])
    assert len(fig.data[2].y) == 6  # a record may lack a metric


def test_panels_share_their_horizontal_axis() -> None:
    fig = training_curves(RECORDS)
    assert fig.layout.xaxis2.matches == "x"
    assert fig.layout.xaxis.domain[1] < fig.layout.xaxis2.domain[0]


def test_a_resumed_run_joins_and_the_later_record_counts() -> None:
    again = [{"step": 6, "loss": 99.0}, {"step": 13, "loss": 1.0}]
    trace = training_curves([*RECORDS, *again], ["loss"], config=CurvesConfig(smoothing=0.0)).data[0]
    assert list(trace.x) == list(range(14))
    assert trace.y[6] == 99.0


def test_log_axis_leaves_out_zero() -> None:
    fig = training_curves(RECORDS, ["loss"], config=CurvesConfig(x="tokens", log_x=True))
    assert fig.layout.xaxis.type == "log"
    assert min(fig.data[0].x) == 7


def test_log_y_where_asked() -> None:
    fig = training_curves(RECORDS, config=CurvesConfig(log_y=("l0",)))
    assert (fig.layout.yaxis.type, fig.layout.yaxis2.type) == ("linear", "log")


@pytest.mark.parametrize(
    ("records", "metrics", "config", "said"),
    [
        ([], None, None, "no records"),
        (RECORDS, ["los"], None, "loss"),
        (RECORDS, None, CurvesConfig(x="epochs"), "epochs"),
        ([{"step": 1}], None, None, "counters only"),
        (RECORDS, ["note"], None, "note"),
    ],
)
def test_refusals_name_what_there_is(
    records: list[dict[str, object]], metrics: object, config: object, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        training_curves(records, metrics, config=config)  # type: ignore[arg-type]
