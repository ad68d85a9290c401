"""Scores and their uncertainty. Reference numbers are of the field's own programs."""

import json
from pathlib import Path

import numpy as np
import pytest

from vplib.evaluate import metrics, precision, ranking


def golden(name: str, kind: str = "cases") -> list:
    """Cases of a golden file; None in a result is NaN."""
    path = Path(__file__).parent / "golden" / "evaluation" / f"{name}.json"
    return [pytest.param(case, id=case["name"]) for case in json.loads(path.read_text())[kind]]


def same(found, wanted) -> None:
    np.testing.assert_allclose(found, np.array(wanted, float), atol=1e-8, rtol=0)


def one_class(case) -> tuple[np.ndarray, np.ndarray]:
    return np.array(case["scores"], float)[:, None], np.array(case["labels"])[:, None]


def several_classes(case) -> tuple[np.ndarray, np.ndarray]:
    return np.array(case["scores"], float), np.array(case["labels"])


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
    drawn = metrics.bootstrap(lambda r, c: scores[r][:, c].mean(), 3, 40)
    assert metrics.between(scores.mean(), drawn) == pytest.approx(metrics.interval(scores))
    drawn = metrics.bootstrap(lambda r, c: np.median(scores[r][:, c]), 3, 40)
    value, low, high = metrics.between(0.5, drawn)
    assert value == 0.5 and low < np.median(scores) < high


# --- average precision ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden("average_precision"))
def test_average_precision_is_that_of_each_program(case):
    scores, labels = one_class(case)
    same(precision.average_precision(scores, labels)[0], case["sklearn"])
    # The programs leave the order of ties open; ours is the worst one.
    same(precision.precision_at_hits(scores, labels)[0], case["ranked_worst_tie_order"])
    if not case["ties"]:
        found = precision.interpolated_average_precision(scores, labels)
        same(found[0], case["voc_interpolated"])


@pytest.mark.parametrize("case", golden("multilabel_map"))
def test_means_over_classes_are_those_of_each_program(case):
    scores, labels = several_classes(case)
    wanted = case["sklearn"]
    of_class = precision.average_precision(scores, labels)
    same(of_class, wanted["ap"])
    same(precision.mean_average_precision(scores, labels), wanted["macro"])
    same(precision.average_precision(scores.reshape(-1, 1), labels.reshape(-1, 1)), wanted["micro"])
    same(np.average(of_class, weights=labels.sum(0)), wanted["weighted"])
    if "background" in case:
        found = precision.mean_average_precision(scores, labels, background=case["background"])
        same(found, wanted["macro_without_background"])
    same(precision.precision_at_hits(scores, labels), case["charades_plain"]["ap"])
    same(precision.precision_at_hits(scores, labels).mean(), case["charades_plain"]["map"])
    labelled = labels.any(1)
    of_class = precision.precision_at_hits(scores[labelled], labels[labelled])
    same(of_class, case["charades_official"]["ap"])
    same(precision.charades_map(scores, labels), case["charades_official"]["map"])


def test_classes_without_positives_are_skipped_where_asked_and_can_be_counted():
    scores = np.random.default_rng(0).random((30, 4))
    labels = np.random.default_rng(1).random((30, 4)) < 0.3
    labels[:, 1] = False
    assert precision.absent(labels) == [1]
    others = [0, 2, 3]
    found = precision.average_precision(scores, labels)
    assert precision.mean_average_precision(scores, labels) == pytest.approx(found.sum() / 4)
    skipped = precision.mean_average_precision(scores, labels, skip_absent=True)
    assert skipped == pytest.approx(found[others].mean())
    skipped = precision.mean_average_precision(scores, labels, background=0, skip_absent=True)
    assert skipped == pytest.approx(found[2:].mean())
    assert np.isnan(precision.charades_map(scores, labels))
    skipped = precision.charades_map(scores, labels, skip_absent=True)
    assert skipped == pytest.approx(precision.charades_map(scores[:, others], labels[:, others]))
    none = np.zeros_like(labels)
    assert np.isnan(precision.charades_map(scores, none, skip_absent=True))
    assert np.isnan(precision.mean_average_precision(scores, none, skip_absent=True))


def test_scores_of_minus_infinity_are_equal():
    scores, labels = np.full((4, 1), -np.inf), np.array([[1], [0], [0], [0]])
    assert precision.average_precision(scores, labels) == 0.25
    assert precision.precision_at_hits(scores, labels) == 0.25
    assert precision.interpolated_average_precision(scores, labels) == 0.25


def test_scores_and_labels_that_cannot_be_are_named():
    scores, labels = np.zeros((3, 2)), np.zeros((3, 2), int)
    scores[1, 0], labels[2, 1] = np.nan, 2
    with pytest.raises(ValueError, match="score of clip 1 for class 0 is not a number"):
        precision.average_precision(scores, labels)
    with pytest.raises(ValueError, match="label of clip 2 for class 1 is 2: labels are 1 or 0"):
        precision.precision_at_hits(np.zeros((3, 2)), labels)


def test_weights_count_as_copies_do():
    """Detections of videos drawn twice or not at all, among them ones of equal score."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        k, video = rng.integers(4, size=50), rng.integers(9, size=50)
        scores, hits = rng.integers(6, size=50).astype(float), rng.random((50, 3)) < 0.2
        positives, weights = np.full(4, 30), rng.integers(3, size=9)
        found = precision.ranked(k, scores, hits, video, classes=4)
        found = precision.interpolated(found, positives, weights)
        copied = [np.repeat(one, weights[video], 0) for one in (k, scores, hits, video)]
        copied = precision.ranked(*copied, classes=4)
        same(found, precision.interpolated(copied, positives, np.ones(9, int)))


def test_clips_of_equal_score_are_one_step_of_the_interpolated_form():
    labels = np.array([[1], [0], [1], [0]])
    assert precision.interpolated_average_precision(np.zeros((4, 1)), labels) == pytest.approx(0.5)
    scores = np.array([[2.0], [1], [1], [0]])  # one hit, then a hit and a miss together
    found = precision.interpolated_average_precision(scores, labels)
    assert found == pytest.approx((1 + 2 / 3) / 2)


def test_the_interpolated_form_of_several_classes_is_that_of_each():
    scores, labels = (np.random.default_rng(0).random((2, 40, 5)) * [[[9]], [[1.3]]]).round()
    labels[:, 2] = 0
    found = precision.interpolated_average_precision(scores, labels)
    for k in range(5):
        same(
            found[k : k + 1],
            precision.interpolated_average_precision(scores[:, [k]], labels[:, [k]]),
        )
    assert np.isnan(found[2]) and (found[[0, 1, 3, 4]] > 0).all()


def test_chance_of_average_precision_is_what_random_order_gives():
    rng = np.random.default_rng(0)
    labels = np.zeros((12, 3), int)
    labels[:1, 0] = labels[:5, 1] = 1
    drawn = [precision.precision_at_hits(rng.random((12, 3)), labels) for _ in range(4000)]
    chance = precision.random_precision(labels)
    assert np.mean(drawn, 0)[:2] == pytest.approx(chance[:2], abs=0.01)
    assert np.isnan(chance[2])


# --- macro accuracy ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden("macro_accuracy"))
def test_macro_accuracy_is_the_mean_recall_of_the_classes_that_occur(case):
    truth, guess, classes = np.array(case["truth"]), np.array(case["guess"]), case["classes"]
    outputs = np.eye(classes)[guess]
    same(metrics.top1(outputs, truth).mean(), case["top1"])
    same(precision.macro_accuracy(outputs, truth), case["balanced_accuracy"])
    same(case["balanced_accuracy"], case["recall_macro_all_classes_zero_division_nan"])
    recall = precision.class_recall(metrics.confusion(truth, guess, classes))
    same(recall, case["recall"])
    same(np.nan_to_num(recall).mean(), case["recall_macro_all_classes_zero_division_0"])


def test_macro_accuracy_names_a_class_that_is_out_of_range():
    with pytest.raises(ValueError, match="clip 1 is of class 3, and there are 0 to 2"):
        precision.macro_accuracy(np.eye(3), np.array([0, 3, 1]))
    with pytest.raises(ValueError, match="no clips"):
        precision.macro_accuracy(np.zeros((0, 3)), np.zeros(0, int))


# --- ranking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden("retrieval"))
def test_retrieval_both_ways_is_that_of_the_programs(case):
    similarity = np.array(case["similarity"])
    owner = np.arange(len(similarity)) // case["captions_per_video"]
    if "text_mask" in case:
        exists = np.array(case["text_mask"]) == 1
        similarity, owner = similarity[exists], owner[exists]
    right = owner[:, None] == np.arange(similarity.shape[1])
    ways = {"t2v": (similarity, right), "v2t": (similarity.T, right.T)}
    wanted = {key: value for key, value in case.items() if key[-3:] in ways}
    assert len(wanted) in (2, 4)
    for key, numbers in wanted.items():
        scores, answers = ways[key[-3:]]
        ranks = ranking.ranks(scores, answers)
        best = np.where(answers, scores, -np.inf).max(1, keepdims=True)
        tied = ((scores == best) & ~answers).any()
        found = {
            f"R{k}": 100 * ranking.recall_of_any(scores, answers, k=k).mean() for k in (1, 5, 10)
        } | {"MedR": np.median(ranks), "MedianR": np.median(ranks), "MeanR": ranks.mean()}
        for name in found.keys() & numbers.keys():
            if not tied:
                same(found[name], numbers[name])
            elif name.startswith("Me"):
                assert found[name] > numbers[name] - 1e-8
            elif key != "frozen_in_time_v2t":  # it ranks a tie at its mean place
                assert found[name] < numbers[name] + 1e-8
    for k in (1, 5, 10):
        same(
            metrics.recall_at(similarity, owner, k=k),
            ranking.recall_of_any(similarity, right, k=k),
        )


@pytest.mark.parametrize("case", golden("retrieval", "action_text_to_videos"))
def test_action_texts_to_videos_are_those_of_videocon(case):
    scores, right = np.array(case["scores"]), np.array(case["labels"]) == 1
    same(100 * ranking.action_map(scores, right).mean(), case["map"])
    for k in (1, 5, 10):
        same(100 * ranking.recall_of_any(scores, right, k=k).mean(), case[f"R{k}"])
    right[1] = False
    with pytest.raises(ValueError, match="no video is right for action text 1"):
        ranking.action_map(scores, right)


def test_any_caption_of_a_video_will_do_and_ties_and_nan_count_against_the_model():
    right = np.array([[True, True, False, False], [False, False, True, True]])
    similarity = np.array([[0.1, 0.9, 0.5, 0.2], [0.9, 0.2, 0.9, 0.1]])
    assert ranking.ranks(similarity, right).tolist() == [1, 2]
    assert ranking.ranks(np.zeros((2, 4)), right).tolist() == [3, 3]
    assert ranking.ranks(np.full((2, 4), np.nan), right).tolist() == [3, 3]
    assert ranking.ranks(similarity, right & [True, True, False, False]).tolist() == [1, 5]
    assert ranking.recall_of_any(similarity, right, k=1).tolist() == [1, 0]


def test_chance_of_recall_is_what_random_order_gives():
    rng = np.random.default_rng(0)
    right = np.zeros((2, 9), bool)
    right[0, :1] = right[1, :4] = True
    for k in (1, 3, 9):
        drawn = [ranking.recall_of_any(rng.random((2, 9)), right, k=k).mean() for _ in range(3000)]
        assert np.mean(drawn) == pytest.approx(ranking.recall_chance(right, k=k), abs=0.02)


def test_choice_is_the_option_that_is_more_similar_than_every_other():
    similarity = np.array([[0.2, 0.9, 0.1], [0.9, 0.9, 0.1], [0.2, 0.1, -np.inf], [np.nan, 0, 0]])
    assert ranking.choice(similarity, np.array([1, 0, 0, 0])).tolist() == [1, 0, 1, 0]
    assert ranking.choice_chance(similarity) == pytest.approx((1 / 3 + 1 / 3 + 1 / 2 + 1 / 3) / 4)
    for query, wrong, options in ((2, 2, 2), (0, 3, 3), (0, -1, 3)):
        answers = np.array([1, 0, 0, 0])
        answers[query] = wrong
        message = f"answer of query {query} is number {wrong}.* {options} options"
        with pytest.raises(ValueError, match=message):
            ranking.choice(similarity, answers)


def test_segments_choose_among_the_sentences_of_their_video():
    similarity = np.array([[0.5, 0.4, 0.9], [0.7, 0.6, 0.1], [0.9, 0.8, 0.1]])
    left = ranking.within_video(similarity, np.array(["a", "a", "b"]))
    assert ranking.choice(left, np.arange(3)).tolist() == [1, 0, 1]
    assert ranking.choice_chance(left) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
