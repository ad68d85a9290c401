"""Scores and their uncertainty."""

import numpy as np
import pytest

from vplib.evaluate import metrics


def test_recall_counts_answers_among_the_most_similar_and_ties_against_the_model():
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1], [0.4, 0.4, 0.4]])
    answer = np.array([0, 1, 2, 1])
    assert metrics.recall_at(similarity, answer, k=1).tolist() == [1, 0, 0, 0]
    assert metrics.recall_at(similarity, answer, k=2).tolist() == [1, 1, 0, 0]
    assert metrics.recall_at(similarity, answer, k=3).tolist() == [1, 1, 1, 1]
    assert not metrics.recall_at(
        np.zeros((5, 5)), np.arange(5), k=4
    ).any()  # a model that says the same of all knows nothing


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        mean, low, high = metrics.interval(
            (rng.random((1, 150)) < 0.7).astype(float), seed=trial, draws=200
        )
        assert low <= mean <= high
        covered += low <= 0.7 <= high
    assert 0.89 < covered / 200 < 0.99  # 0.95, give or take


def test_intervals_know_both_clips_and_repeats_and_repeat_with_their_seed():
    clips, seeds = (
        np.tile(np.arange(100) % 2, (5, 1)).astype(float),
        np.tile([[0.4], [0.5], [0.6]], (1, 100)),
    )
    for scores in (clips, seeds):
        mean, low, high = metrics.interval(scores)
        assert low < mean - 0.05 and high > mean + 0.05
        assert metrics.interval(scores) == (mean, low, high)
    assert metrics.interval(np.full((3, 10), 0.5)) == pytest.approx((0.5, 0.5, 0.5))


def test_differences_stay_paired():
    """Two models that differ by the same amount on every clip differ surely, however unlike the
    clips are.
    """
    base = np.random.default_rng(0).random((3, 50))
    mean, low, high = metrics.interval(base + 0.01 - base)
    assert mean == pytest.approx(0.01) and high - low < 1e-9
    _, low, high = metrics.interval(base)
    assert high - low > 0.1


def test_t_intervals_are_those_of_the_textbook():
    mean, low, high = metrics.t_interval(
        np.array([1.0, 2.0, 3.0])
    )  # 4.303 standard errors, 2 degrees
    assert (mean, high - mean) == pytest.approx((2, 4.302653 / 3**0.5), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)
    five = np.array([0.4, 0.45, 0.39, 0.5, 0.41])
    half = 2.776445 * np.std(five, ddof=1) / 5**0.5
    assert metrics.t_interval(five) == pytest.approx((0.43, 0.43 - half, 0.43 + half), rel=1e-6)
    with pytest.raises(ValueError, match="two values or more, given 1"):
        metrics.t_interval(np.ones(1))


@pytest.mark.parametrize("seeds", [3, 5])
def test_t_intervals_cover_the_truth_as_often_as_they_say(seeds):
    rng = np.random.default_rng(0)
    drawn = [metrics.t_interval(0.4 + 0.05 * rng.normal(size=seeds)) for _ in range(2000)]
    assert np.mean([low <= 0.4 <= high for _, low, high in drawn]) == pytest.approx(0.95, abs=0.015)


def test_differences_of_the_same_seeds_stay_paired():
    """Two models that move together from seed to seed differ surely."""
    one = np.array([0.3, 0.5, 0.4])
    _, low, high = metrics.t_interval(one + [0.11, 0.1, 0.09] - one)
    assert 0 < low and high - low < 0.06
    _, low, high = metrics.t_interval(one)
    assert high - low > 0.4


def test_confusion_counts_truth_by_guess():
    table = metrics.confusion(np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2]), 3)
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_five_repeats_that_differ_much_make_too_narrow_an_interval():
    """As the docstring says: four times the deviation of the mean over clips, and 88% instead of
    95%.
    """
    rng, clips, covered = np.random.default_rng(0), 400, 0
    for trial in range(200):
        level = 0.5 + 4 * 0.5 / clips**0.5 * rng.normal(size=(5, 1))
        scores = (rng.random(clips) < level).astype(float)
        _, low, high = metrics.interval(scores, seed=trial, draws=200)
        covered += low <= 0.5 <= high
    assert 0.82 < covered / 200 < 0.93


def test_what_is_no_mean_over_clips_is_computed_anew_for_the_clips_of_every_draw():
    scores = np.random.default_rng(0).random((3, 40))
    drawn = metrics.bootstrap(lambda r, c: scores[r][:, c].mean(), scores.mean(), 3, 40)
    assert drawn == pytest.approx(metrics.interval(scores))
    value, low, high = metrics.bootstrap(lambda r, c: np.median(scores[r][:, c]), 0.5, 3, 40)
    assert value == 0.5 and low < np.median(scores) < high
