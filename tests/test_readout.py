"""A linear map to texts finds what is linear, whatever the features' units."""

import numpy as np
import pytest

from vplib.evaluate import readout

RNG = np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_linear_relation_is_found_and_results_have_unit_length():
    features, turn = RNG.normal(size=(600, 8)).astype(np.float32), RNG.normal(size=(8, 5))
    targets = (features @ turn + 3.0).astype(np.float32)
    found = readout.mapped(features[:500], targets[:500], features[500:])
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
    assert (found * unit(targets[500:])).sum(1).min() > 0.999
    scaled = readout.mapped(100 * features[:500] - 7, targets[:500], 100 * features[500:] - 7)
    assert scaled == pytest.approx(found, abs=1e-4)


def test_features_that_know_nothing_give_the_mean_text():
    targets = unit(RNG.normal(size=(400, 5)) + 2).astype(np.float32)
    nothing = np.ones((400, 3), np.float32)
    found = readout.mapped(nothing, targets, nothing[:2])
    assert found == pytest.approx(unit(targets.mean(0, keepdims=True)).repeat(2, 0), abs=1e-5)


def test_more_features_than_clips_do_not_fail():
    found = readout.mapped(*(RNG.normal(size=s) for s in ((6, 40), (6, 5), (3, 40))))
    assert found.shape == (3, 5) and np.isfinite(found).all()


def test_the_mean_token_is_in_single_precision():
    tokens = np.full((2, 4096, 3), 60.0, np.float16)  # whose sum in half precision is infinite
    mean = readout.mean_token_of(lambda video: tokens)(None)
    assert mean.dtype == np.float32 and (mean == 60).all()
