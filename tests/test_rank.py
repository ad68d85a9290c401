"""The effective rank of features whose directions are known."""

import numpy as np
import pytest

from vplib.evaluate.rank import effective_rank

RNG = np.random.default_rng(0)


def spread(values, clips=4000):
    """Features of these deviations along turned axes."""
    turn = np.linalg.qr(RNG.normal(size=(len(values), len(values))))[0]
    base = np.linalg.qr(RNG.normal(size=(clips, len(values))))[0]
    base -= base.mean(0)
    return (np.linalg.qr(base)[0] * values) @ turn


@pytest.mark.parametrize("used", [1, 3, 8])
def test_as_many_directions_as_vary_alike(used):
    x = spread(np.r_[np.ones(used), np.zeros(8 - used)])
    assert effective_rank(x) == pytest.approx(used, rel=1e-6)
    assert effective_rank(1e3 * x + 50) == pytest.approx(used, rel=1e-4)  # what all share is gone


def test_unequal_directions_count_less_and_nothing_counts_nothing():
    share = np.array([0.7, 0.2, 0.1])
    wanted = np.exp(-(share * np.log(share)).sum())
    assert effective_rank(spread(share)) == pytest.approx(wanted, rel=1e-6)
    assert effective_rank(np.full((9, 4), 7.3, np.float16)) == 0
