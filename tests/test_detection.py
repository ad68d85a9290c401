"""Detection in time and in frames. Reference numbers are of the field's own programs."""

import json
from pathlib import Path

import numpy as np
import pytest

from vplib.evaluate import detection
from vplib.evaluate.detection import DetectionError


def golden(name: str, kind: str = "cases") -> list:
    path = Path(__file__).parent / "golden" / "evaluation" / f"{name}.json"
    return [pytest.param(case, id=case["name"]) for case in json.loads(path.read_text())[kind]]


def same(found, wanted) -> None:
    np.testing.assert_allclose(found, np.array(wanted, float), atol=1e-8, rtol=0)


def scene(seed: int, videos: int = 12) -> tuple[dict, dict]:
    """True and predicted events; of some videos neither, of some none true."""
    rng = np.random.default_rng(seed)
    truth, predictions = {}, {}
    for v in range(videos):
        start = rng.uniform(0, 40, rng.integers(4))
        truth[f"v{v}"] = [[s, s + rng.uniform(3, 9), "abc"[rng.integers(3)]] for s in start]
        predictions[f"v{v}"] = [
            [start + rng.normal(), end + rng.normal() + 3, label, rng.random()]
            for start, end, label in truth[f"v{v}"] * 2 + [[5, 8, "a"], [1, 9, "b"]]
        ]
    return truth, predictions


# --- in time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden("activitynet_map"))
def test_events_are_scored_as_activitynet_does(case):
    matches = detection.match_segments(case["ground_truth"], case["predictions"])
    of_class = detection.average_precisions(matches)
    assert set(matches.classes) == set(case["ap"])
    for label, found in zip(matches.classes, of_class, strict=True):
        same(found, case["ap"][label])
    same(of_class.mean(0), case["map"])
    same(detection.mean_average_precision(matches), case["average_map"])


def test_drawn_videos_count_as_often_as_they_are_drawn_and_as_videos_of_their_own():
    truth, predictions = scene(0)
    matches = detection.match_segments(truth, predictions)
    recalled = detection.match_proposals(truth, predictions, most=2)
    rng = np.random.default_rng(0)
    for _ in range(5):
        drawn = rng.integers(len(truth), size=len(truth))
        names = [matches.videos[v] for v in drawn]
        copies = [
            {f"{name} {i}": part[name] for i, name in enumerate(names)}
            for part in (truth, predictions)
        ]
        again = detection.match_segments(*copies, classes=matches.classes)
        found = detection.average_precisions(matches, drawn)
        same(found, detection.average_precisions(again))
        same(
            detection.mean_average_precision(matches, drawn),
            detection.mean_average_precision(again),
        )
        share = [recalled.found[drawn].sum(0) / recalled.positives[drawn].sum()]
        same(detection.average_recall(recalled, drawn), np.mean(share))


def test_classes_that_the_drawn_videos_do_not_have_are_left_out():
    truth = {"v": [[0, 1, "a"]], "w": [[0, 1, "b"]], "empty": []}
    rows = [[0, 1, "a", 0.9], [0, 1, "c", 0.9]]
    matches = detection.match_segments(truth, {"v": rows}, classes=["a", "b", "c"])
    assert matches.classes == ["a", "b", "c"]
    assert detection.mean_average_precision(matches) == 0.5
    assert detection.mean_average_precision(matches, np.array([0, 0])) == 1
    assert np.isnan(detection.mean_average_precision(matches, np.array([2])))
    recalled = detection.match_proposals(truth, {})
    assert np.isnan(detection.average_recall(recalled, np.array([2])))


def test_of_equal_scores_the_earlier_row_takes_its_event_first():
    """Either reaches the first event; one of them the second as well, if the first is taken."""
    truth = {"v": [[0, 10, "a"], [2, 12, "a"]]}
    both, first = [0.5, 10.5, "a", 0.5], [0, 7, "a", 0.5]
    for rows, wanted in (([first, both], 1.0), ([both, first], 0.25)):
        matches = detection.match_segments(truth, {"v": rows})
        assert detection.average_precisions(matches)[0, 0] == wanted


@pytest.mark.parametrize(
    "truth, predictions, message",
    [
        ([[5, 2, "a"]], [], "event 0 of video 'v' begins at 5 and ends at 2"),
        ([[0, 1, "a"], [0, None, "a"]], [], "event 1 of video 'v' begins at 0 and ends at nan"),
        ([[0, 1, "a"]], [[3, 1, "a", 0.5]], "prediction 0 of video 'v' begins at 3 and ends at 1"),
        ([[0, 1, "a"]], [[0, 1, "z", 0.5]], "prediction 0 of video 'v' has label 'z'.* 1 classes"),
        ([[0, 1, "a"]], [[0, 1, "a", np.nan]], "prediction 0 of video 'v' has no number"),
        ([], [], "nothing of any class"),
    ],
)
def test_events_that_cannot_be_are_named(truth, predictions, message):
    with pytest.raises(DetectionError, match=message):
        detection.match_segments({"v": truth}, {"v": predictions})


def test_videos_that_are_not_evaluated_are_named():
    truth, rows = {"v": [[0, 1, "a"]]}, [[0, 1, "a", 0.5]]
    for match in (detection.match_segments, detection.match_proposals):
        assert match(truth, {"v": rows}, videos=["v", "w"]).videos == ["v", "w"]
        with pytest.raises(
            DetectionError, match="prediction|proposal has video 'x', which is none"
        ):
            match(truth, {"x": rows}, videos=["v", "w"])
        with pytest.raises(DetectionError, match="truth has video 'v'"):
            match(truth, {}, videos=["w"])


def test_recall_is_over_thresholds_and_one_proposal_may_reach_several_events():
    truth = {"v": [[0, 10, "a"], [0, 10, "b"], [50, 60]]}
    proposals = {"v": [[0, 10, 0.9], [52, 60, 0.8]]}  # tIoU 1 and .8
    recalled = detection.match_proposals(truth, proposals)
    assert detection.average_recall(recalled) == pytest.approx((7 * 3 + 3 * 2) / 3 / 10)
    recalled = detection.match_proposals(truth, proposals, most=1)
    assert detection.average_recall(recalled) == pytest.approx(2 / 3)
    with pytest.raises(DetectionError, match="no event"):
        detection.match_proposals({"v": []}, proposals)


def test_the_number_of_proposals_is_an_average_and_each_video_gives_the_same_share():
    """Ten and thirty proposals, ten a video on average: five and fifteen, the best ones."""
    truth = {"v": [[0, 10]], "w": [[0, 10]], "without events": []}
    place = {"v": 5, "w": 14}
    proposals = {
        video: [[0, 10, 1 - i / 100] if i == place[video] else [50, 60, 1 - i / 100] for i in rows]
        for video, rows in (("v", range(10)), ("w", range(30)))
    }
    proposals["v"].reverse()  # rows need no order
    recalled = detection.match_proposals(truth, proposals, most=10)
    assert recalled.found[:, 0].tolist() == [0, 1, 0]
    recalled = detection.match_proposals(truth, proposals, most=12)
    assert recalled.found[:, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize("case", golden("gtad", "soft_nms"))
def test_soft_nms_is_that_of_gtad(case):
    segments, scores = np.array(case["segments"], float), np.array(case["scores"], float)
    kept = detection.soft_nms(segments, scores, sigma=case["sigma"], keep=case["keep"])
    same(kept[0], np.reshape([one["segment"] for one in case["result"]], (-1, 2)))
    same(kept[1], [one["score"] for one in case["result"]])


# --- in frames -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", golden("ava_frame_map"))
def test_boxes_are_scored_as_ava_does(case):
    rows = case["ground_truth"], case["detections"], case["label_map"]
    matches = detection.match_boxes(*rows)
    found = detection.average_precisions(matches)[:, 0]
    same(found, [case["ap"][str(label)] for label in case["label_map"]])
    same(detection.mean_average_precision(matches), case["map"])
    matches = detection.match_boxes(*rows, empty_frames=False)
    wanted = case["map_if_frames_without_ground_truth_are_left_out"]
    same(detection.mean_average_precision(matches), wanted)


BOX = (0.1, 0.1, 0.5, 0.5)


def test_a_frame_counts_though_all_its_boxes_are_of_other_labels():
    truth = [("v", 1, *BOX, "a"), ("v", 2, *BOX, "other")]
    rows = [("v", 1, *BOX, "a", 0.5), ("v", 2, *BOX, "a", 0.9)]
    matches = detection.match_boxes(truth, rows, ["a"])
    assert detection.mean_average_precision(matches) == 0.5
    matches = detection.match_boxes(truth, rows, ["a"], empty_frames=False)
    assert detection.mean_average_precision(matches) == 1


def test_of_detections_of_one_box_the_best_hits_whatever_the_order_of_rows():
    rows = [("v", 1, *BOX, "a", 0.2), ("v", 1, *BOX, "a", 0.9)]
    for detections in (rows, rows[::-1]):
        matches = detection.match_boxes([("v", 1, *BOX, "a")], detections, ["a"])
        assert detection.mean_average_precision(matches) == 1


def test_boxes_without_extent_are_among_the_fifty():
    flat = [("v", 1, 0.5, 0.1, 0.1, 0.5, "a", 0.9)] * 50
    found = detection.match_boxes([("v", 1, *BOX, "a")], [*flat, ("v", 1, *BOX, "a", 0.1)], ["a"])
    assert detection.mean_average_precision(found) == 0
    found = detection.match_boxes(
        [("v", 1, *BOX, "a")], [*flat[1:], ("v", 1, *BOX, "a", 0.1)], ["a"]
    )
    assert detection.mean_average_precision(found) == 1


@pytest.mark.parametrize(
    "truth, rows, message",
    [
        (("v", 1, 0.5, 0.1, 0.1, 0.5, "a"), None, r"true box 0 \(video 'v', second 1, .* inverted"),
        (("v", 1, 12, 30, 40, 50, "a"), None, "true box 0 .*12, 30, 40, 50.* not inside the frame"),
        (("v", 1, None, 0, 1, 1, "a"), None, "true box 0 .*nan, 0, 1, 1.* not inside the frame"),
        (("v", 1, *BOX), None, "true box 0, .*has 6 columns instead of 2 or 7"),
        (None, ("v", 1, -0.2, 0, 1, 1, "a", 0.5), "detection 0 .*-0.2, 0, 1, 1.* not inside"),
        (None, ("v", 1, *BOX, "a"), "detection 0, .*has 7 columns instead of 8"),
        (None, ("v", 1, *BOX, "a", np.nan), "detection 0 has no number as its score"),
        (("v", 1), None, "nothing of any class"),
        (None, ("x", 1, *BOX, "a", 0.5), "detection has video 'x', which is none of the 1"),
    ],
)
def test_boxes_that_cannot_be_are_named(truth, rows, message):
    truth = truth or ("v", 1, *BOX, "a")
    with pytest.raises(DetectionError, match=message):
        detection.match_boxes([truth], [rows] if rows else [], ["a"], videos=["v"])


def test_overlap_is_that_over_what_both_cover_and_nothing_overlaps_nothing():
    one, other = np.array([[0.0, 2], [1, 1]]), np.array([[1.0, 4], [1, 1]])
    assert detection.tiou(one, other).tolist() == [[0.25, 0], [0, 0]]
    boxes = np.array([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    assert detection.iou(boxes[:1], boxes)[0] == pytest.approx([1, 1 / 7, 0])
    # Apart in both directions is apart, too, wherever the other box is.
    corners = [(x, y, x + 0.1, y + 0.1) for x in (0.1, 0.8) for y in (0.1, 0.8)]
    assert (detection.iou(np.array([[0.4, 0.4, 0.6, 0.6]]), np.array(corners)) == 0).all()
