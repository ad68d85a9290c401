"""Statistics over training seeds: those of scipy, and what is known of them by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vplib import comparisons

ONE = np.array([0.52, 0.55, 0.49, 0.61, 0.58])
OTHER = np.array([0.40, 0.47, 0.41, 0.44, 0.50])


def test_a_paired_difference_is_scipys():
    found, known = comparisons.paired(ONE, OTHER), stats.ttest_rel(ONE, OTHER)
    interval = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.value == pytest.approx(0.106) and found.seeds == 5
    gaps = ONE - OTHER
    assert found.deviation == pytest.approx(gaps.std(ddof=1))
    assert found.effect == pytest.approx(gaps.mean() / gaps.std(ddof=1) * 0.8)  # 1 - 3 / 15


def test_pairing_takes_away_what_the_seeds_share():
    """Of seeds that differ much in both, the differences are as certain as before."""
    shift = np.array([0.0, 0.3, -0.2, 0.1, 0.4])
    assert comparisons.paired(ONE + shift, OTHER + shift) == pytest.approx(
        comparisons.paired(ONE, OTHER)
    )
    back = comparisons.paired(OTHER, ONE)
    assert (back.value, back.low) == pytest.approx((-0.106, -comparisons.paired(ONE, OTHER).high))


def test_equal_differences_have_no_effect_size():
    same = comparisons.paired(np.full(3, 0.5), np.full(3, 0.25))
    assert (same.value, same.low, same.high, same.p) == (0.25, 0.25, 0.25, 0.0)
    assert math.isnan(same.effect)
    assert comparisons.paired(ONE, ONE).p == 1.0


def test_one_seed_is_not_enough():
    for call in (lambda: comparisons.paired(ONE[:1], OTHER[:1]), lambda: detect(1.0, 1)):
        with pytest.raises(ValueError, match="given 1"):
            call()


detect = comparisons.detectable


@pytest.mark.parametrize("count", [2, 3, 5, 10, 30])
def test_what_is_detectable_is_found_as_often_as_it_says(count):
    """Power from scipy's noncentral t, both sides; then tried."""
    smallest, limit = detect(2.0, count), stats.t.ppf(0.975, count - 1)
    centre = smallest / 2.0 * count**0.5
    upper = stats.nct.sf(limit, count - 1, centre)
    assert upper == pytest.approx(0.8, abs=1e-6)
    drawn = np.random.default_rng(0).normal(smallest, 2.0, (4000, count))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / count**0.5)
    assert (t > limit).mean() == pytest.approx(0.8, abs=0.02) and (t < -limit).sum() == 0


def test_more_seeds_and_less_spread_show_smaller_differences():
    assert detect(1.0, 5) == pytest.approx(1.682, abs=2e-3)  # the known value of five pairs
    assert detect(1.0, 10) < detect(1.0, 5) < detect(1.0, 3)
    assert detect(3.0, 5) == pytest.approx(3 * detect(1.0, 5))
    assert detect(1.0, 5, power=0.9) > detect(1.0, 5)


def test_holm_adjusts_step_by_step():
    assert comparisons.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparisons.holm([0.6, 0.5]) == [1.0, 1.0] and comparisons.holm([]) == []
    rng, level, false = np.random.default_rng(1), 0.05, 0
    for _ in range(2000):  # ten tests of nothing: one false finding or more in 5% of cases
        false += min(comparisons.holm(rng.random(10).tolist())) < level
    assert false / 2000 == pytest.approx(level, abs=0.015)


def scores(**values: list[float]) -> pd.DataFrame:
    """Rows of a sweep, in an order of their own: "ablation__encoder" -> a task's seeds."""
    rows = [
        dict(zip(("ablation", "encoder"), name.split("__"), strict=True))
        | {"seed": seed, "task": "finds", "metric": metric, "value": value + (metric == "r5")}
        for name, own in values.items()
        for seed, value in enumerate(own)
        for metric in ("r5", "r1")
    ]
    return pd.DataFrame(rows[::-1])


def test_the_table_pairs_the_seeds_that_both_have():
    rows = scores(a__final=[0.5, 0.6, 0.8], b__final=[0.4, 0.4], b__stage1=[0.1, 0.2, 0.3])
    assert comparisons.each(rows, "finds", "b.stage1").to_dict() == pytest.approx(
        {0: 10, 1: 20, 2: 30}
    )
    pairs = [("a", "b"), ("b", "b.stage1"), ("a", "c")]
    found = comparisons.table(rows, pairs, ["finds", "other"], seeds=5).set_index("whose")
    assert found["value"].to_dict() == pytest.approx({"a": 15, "b": 25})
    assert found["seeds"].to_dict() == {"a": 2, "b": 2} and found.loc["b", "minus"] == "b.stage1"
    least = comparisons.detectable(found.loc["a", "deviation"], 5)
    assert found.loc["a", "could_detect"] == pytest.approx(least)
    assert comparisons.table(rows, [("a", "c")], ["finds"], seeds=5).empty
