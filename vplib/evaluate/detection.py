"""Temporal and spatio-temporal detection: overlap, matching, mAP, average recall, soft-NMS; numpy.

Two steps: detections are matched with the truth once (`match_segments`, `match_boxes`,
`match_proposals`), then a number is taken of all videos or of any drawn ones, each as often as it is
drawn (`mean_average_precision`, `average_recall`). A bootstrap over videos only repeats the second;
with the same `videos` given to both models, their draws are paired.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vplib.evaluate.precision import Ranked, interpolated, ranked

TIOU = np.linspace(0.5, 0.95, 10)  # thresholds of temporal detection
IOU = np.array([0.5])  # of boxes
MOST = 50  # detections that are read of a frame


class DetectionError(ValueError):
    """Events, boxes or detections that cannot be. One sentence: whose, which row, what is wrong."""


class Matches(NamedTuple):
    """Detections of V videos and K classes, matched; `positives` are the true events, or boxes."""

    videos: list[str]
    classes: list[Hashable]
    positives: Int[np.ndarray, "V K"]
    ranked: Ranked


class Recalled(NamedTuple):
    """How many of the true events of V videos were proposed, at T thresholds."""

    videos: list[str]
    positives: Int[np.ndarray, " V"]
    found: Int[np.ndarray, "V T"]


# --- overlap -------------------------------------------------------------------------------------


def tiou(
    one: Float[np.ndarray, "N 2"], other: Float[np.ndarray, "M 2"]
) -> Float[np.ndarray, "N M"]:
    """Overlap of segments (start, end) over what they cover together, in [0, 1]."""
    start, end = np.maximum(one[:, None, 0], other[:, 0]), np.minimum(one[:, None, 1], other[:, 1])
    both = np.maximum(end - start, 0)
    return _over_union(both, one[:, 1] - one[:, 0], other[:, 1] - other[:, 0])


def iou(one: Float[np.ndarray, "N 4"], other: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """Overlap of boxes (x1, y1, x2, y2) over what they cover together, in [0, 1]."""
    low = np.maximum(one[:, None, :2], other[:, :2])
    sides = np.maximum(np.minimum(one[:, None, 2:], other[:, 2:]) - low, 0)  # N M 2
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (one, other)]
    return _over_union(sides[..., 0] * sides[..., 1], *areas)


def _over_union(both: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    union = one[:, None] + other - both
    return np.divide(both, union, out=np.zeros_like(union), where=union > 0)


# --- matching ------------------------------------------------------------------------------------


def match_segments(
    truth: Mapping[str, Sequence[Sequence]],
    predictions: Mapping[str, Sequence[Sequence]],
    *,
    videos: Sequence[str] | None = None,
    classes: Sequence[Hashable] | None = None,
) -> Matches:
    """Predicted events, rows (start, end, label, score) of each video, matched with true ones, rows
    (start, end, label), at tIoU .5:.05:.95, by the rule of ActivityNet.

    In each video and class, predictions by falling score (the earlier row first where it is equal)
    take the free true event with which their tIoU is highest, provided that it reaches the
    threshold, or the next best; the others are false. `videos` are all that are evaluated, with or
    without events, and `classes` all that can be predicted. Without them, as officially, those are
    the videos of truth and predictions, so that what is predicted in a video without truth is false,
    and the labels of the truth.
    Raises DetectionError for an event that ends before it begins, a score that is not a number,
    an unknown label or video, or no true event at all. Source: activitynet/ActivityNet
    (Evaluation/eval_detection.py).
    """
    videos = _known(videos, {"truth": truth, "prediction": predictions})
    if classes is None:
        classes = list(dict.fromkeys(row[2] for rows in truth.values() for row in rows))
    found = []
    for number, video in enumerate(videos):
        events, rows = truth.get(video, ()), predictions.get(video, ())
        there, where = _segments("event", video, events), _segments("prediction", video, rows)
        scores = _scores("prediction", video, rows)
        of_truth = _numbers("event", video, [row[2] for row in events], classes)
        of_rows = _numbers("prediction", video, [row[2] for row in rows], classes)
        for k in {*of_truth, *of_rows}:
            these = np.flatnonzero(of_rows == k)
            these = these[np.argsort(-scores[these], kind="stable")]
            true = there[of_truth == k]
            hit = _match(tiou(where[these], true), TIOU, second_choice=True)
            found.append((number, k, len(true), scores[these], hit))
    return _matches(videos, list(classes), found)


def match_boxes(
    truth: Sequence[Sequence],
    detections: Sequence[Sequence],
    classes: Sequence[Hashable],
    *,
    videos: Sequence[str] | None = None,
    empty_frames: bool = True,
) -> Matches:
    """Detected boxes, rows (video, second, x1, y1, x2, y2, label, score), matched with true ones,
    the same without a score, at IoU .5, by the rule of AVA. Coordinates are fractions of the frame.

    A true row (video, second) alone is a frame without boxes. Rows of labels that are not in
    `classes` (AVA's label map) vanish; so do detections in frames that the truth does not name, all
    but the 50 best of a frame (the earlier row where scores are equal), and of these the boxes
    without extent. In each frame and class, detections by falling score take the true box with
    which their IoU is highest, provided that it reaches .5 and is free; unlike segments they have
    no second choice. Without `empty_frames`, frames without a true box of any of `classes` are not
    scored, as in VideoGLUE. `videos` are all that are evaluated; without it they are those of the
    truth, and detections in others vanish too.
    Raises DetectionError for a box that is not inside its frame, a true one that is inverted, a row
    of another length, a score that is not a number, a video that is not one of `videos`, or no true
    box at all. Source: activitynet/ActivityNet (Evaluation/get_ava_performance.py).
    """
    there, where = _boxes("true box", truth, (2, 7)), _boxes("detection", detections, (8,))
    scores = np.array([row[7] for row in detections], float)
    if np.isnan(scores).any():
        raise DetectionError(f"detection {np.isnan(scores).argmax()} has no number as its score")
    by_video = [dict.fromkeys(row[0] for row in rows) for rows in (truth, detections)]
    if videos is None:
        videos = list(by_video[0])
    else:
        videos = _known(videos, dict(zip(("truth", "detection"), by_video, strict=True)))
    frames = defaultdict(lambda: ([], []))
    for row, (video, second, *rest) in enumerate(truth):
        events, _ = frames[video, float(second)]
        if rest and rest[4] in classes:
            events.append(row)
    for row, (video, second, *rest) in enumerate(detections):
        if (video, float(second)) in frames and rest[4] in classes:
            frames[video, float(second)][1].append(row)
    found, number = [], {video: v for v, video in enumerate(videos)}
    for (video, _), (events, rows) in frames.items():
        if not events and not empty_frames:
            continue
        rows = np.array(rows, int)[np.argsort(-scores[rows], kind="stable")][:MOST]
        rows = rows[(where[rows, 2:] > where[rows, :2]).all(1)]
        of_truth = _numbers("true box", video, [truth[row][6] for row in events], classes)
        of_rows = _numbers("detection", video, [detections[row][6] for row in rows], classes)
        for k in {*of_truth, *of_rows}:
            these, true = rows[of_rows == k], there[events][of_truth == k]
            hit = _match(iou(where[these], true), IOU, second_choice=False)
            found.append((number[video], k, len(true), scores[these], hit))
    return _matches(videos, list(classes), found)


def match_proposals(
    truth: Mapping[str, Sequence[Sequence]],
    proposals: Mapping[str, Sequence[Sequence]],
    *,
    most: int = 100,
    videos: Sequence[str] | None = None,
) -> Recalled:
    """Which true events, rows that begin (start, end), some proposal reaches, at tIoU .5:.05:.95;
    proposals are rows (start, end, ..., score), whatever their class.

    As in the proposal task of ActivityNet, `most` is an average: every video gives the same share
    of its proposals, the best ones, rounded down, so that there are at most `most` for each video
    that has events. One proposal may reach several events. `videos` and errors as in
    `match_segments`. Source: activitynet/ActivityNet (Evaluation/eval_proposal.py).
    """
    videos = _known(videos, {"truth": truth, "proposal": proposals})
    total = sum(len(proposals.get(video, ())) for video in videos)
    share = most * sum(len(truth.get(video, ())) > 0 for video in videos) / max(total, 1)
    positives, found = [], []
    for video in videos:
        events = _segments("event", video, truth.get(video, ()))
        rows = proposals.get(video, ())
        where, scores = _segments("proposal", video, rows), _scores("proposal", video, rows)
        best = np.argsort(-scores, kind="stable")[: int(len(rows) * share)]
        reached = tiou(where[best], events).max(0, initial=0)
        positives.append(len(events))
        found.append((reached[:, None] >= TIOU).sum(0))
    if not sum(positives):
        raise DetectionError("the truth has no event, so there is nothing to propose")
    return Recalled(videos, np.array(positives), np.array(found))


def _matches(videos: list[str], classes: list[Hashable], found: Sequence[tuple]) -> Matches:
    """Joined from parts: number of the video and of the class, true events, scores, hits (P T)."""
    positives = np.zeros((len(videos), len(classes)), int)
    for video, k, count, *_ in found:
        positives[video, k] += count
    if not positives.any():
        raise DetectionError("the truth has nothing of any class, so there is nothing to detect")
    counts = [len(scores) for *_, scores, _ in found]
    rows = ranked(
        np.repeat([k for _, k, *_ in found], counts),
        np.concatenate([scores for *_, scores, _ in found]),
        np.concatenate([hit for *_, hit in found]),
        np.repeat([video for video, *_ in found], counts),
        classes=len(classes),
    )
    return Matches(videos, classes, positives, rows)


def _match(overlap: np.ndarray, thresholds: np.ndarray, *, second_choice: bool) -> np.ndarray:
    """Which of P detections, the best first, hit (P T), by their overlap with E events (P E)."""
    hit = np.zeros((len(overlap), len(thresholds)), bool)
    free = np.ones((len(thresholds), overlap.shape[1]), bool)
    for row in np.flatnonzero(overlap.max(1, initial=0) >= thresholds[0]):
        # Of equal overlaps the official programs take the last event, and the first box.
        order = np.argsort(overlap[row], kind="stable")[::-1]
        order = order if second_choice else overlap[row].argmax(keepdims=True)
        open_to = free[:, order] & (overlap[row, order] >= thresholds[:, None])  # T E
        hit[row] = open_to.any(1)
        free[hit[row], order[open_to.argmax(1)[hit[row]]]] = False
    return hit


def _known(videos: Sequence[str] | None, parts: Mapping[str, Mapping]) -> list[str]:
    """All videos, in order; of these names only, if given."""
    found = dict.fromkeys(video for part in parts.values() for video in part)
    if videos is None:
        return list(found)
    for what, part in parts.items():
        if unknown := set(part) - set(videos):
            name = min(unknown, key=str)
            raise DetectionError(
                f"the {what} has video {name!r}, which is none of the {len(videos)} evaluated: "
                "name it among them, or take it out"
            )
    return list(videos)


def _numbers(what: str, video: str, labels: Sequence, classes: Sequence[Hashable]) -> np.ndarray:
    number = {label: k for k, label in enumerate(classes)}
    for row, label in enumerate(labels):
        if label not in number:
            raise DetectionError(
                f"{what} {row} of video {video!r} has label {label!r}, which is none of the "
                f"{len(number)} classes"
            )
    return np.array([number[label] for label in labels], int)


def _segments(what: str, video: str, rows: Sequence[Sequence]) -> np.ndarray:
    found = np.array([row[:2] for row in rows], float).reshape(-1, 2)
    bad = ~(np.isfinite(found).all(1) & (found[:, 1] >= found[:, 0]))
    if bad.any():
        row = int(bad.argmax())
        raise DetectionError(
            f"{what} {row} of video {video!r} begins at {found[row, 0]:g} and ends at "
            f"{found[row, 1]:g}: an event ends after it begins"
        )
    return found


def _scores(what: str, video: str, rows: Sequence[Sequence]) -> np.ndarray:
    found = np.array([row[-1] for row in rows], float)
    if np.isnan(found).any():
        row = int(np.isnan(found).argmax())
        raise DetectionError(f"{what} {row} of video {video!r} has no number as its score")
    return found


def _boxes(what: str, rows: Sequence[Sequence], columns: tuple[int, ...]) -> np.ndarray:
    """Zeros for a row without a box."""
    found = np.zeros((len(rows), 4))
    for row, values in enumerate(rows):
        if len(values) not in columns:
            raise DetectionError(
                f"{what} {row}, {list(values)}, has {len(values)} columns instead of "
                f"{' or '.join(map(str, columns))}"
            )
        found[row] = values[2:6] if len(values) > 2 else 0
    outside = ~((found >= 0) & (found <= 1)).all(1)
    inverted = (found[:, 2:] < found[:, :2]).any(1) & (what == "true box")
    for wrong, why in (
        (outside, "is not inside the frame: give fractions of its width and height, in [0, 1]"),
        (inverted, "is inverted: x1, y1 is its upper left corner and x2, y2 the lower right one"),
    ):
        if wrong.any():
            row = int(wrong.argmax())
            corners = ", ".join(f"{x:g}" for x in found[row])
            video, second = rows[row][:2]
            raise DetectionError(
                f"{what} {row} (video {video!r}, second {second}, box {corners}) {why}"
            )
    return found


# --- numbers -------------------------------------------------------------------------------------


def average_precisions(
    matches: Matches, videos: Int[np.ndarray, " D"] | None = None
) -> Float[np.ndarray, "K T"]:
    """Interpolated average precision of each class at each threshold, in [0, 1]: of all videos or
    of those of these numbers, each as often as it is named. NaN for a class that they do not have;
    0 for one that is never detected.
    """
    weights = _weights(videos, len(matches.videos))
    return interpolated(matches.ranked, weights @ matches.positives, weights)


def mean_average_precision(matches: Matches, videos: Int[np.ndarray, " D"] | None = None) -> float:
    """Mean over classes that the videos have, and over thresholds, in [0, 1]: ActivityNet's average
    mAP, AVA's frame mAP. NaN if the videos have no class.
    """
    found = average_precisions(matches, videos)
    found = found[~np.isnan(found).any(1)]
    return float(found.mean()) if len(found) else float("nan")


def average_recall(recalled: Recalled, videos: Int[np.ndarray, " D"] | None = None) -> float:
    """Mean over thresholds of the share of true events that were proposed, in [0, 1]: AR@100 after
    `match_proposals(most=100)`. Of all videos or of those of these numbers; NaN if they have none.
    """
    weights = _weights(videos, len(recalled.videos))
    positives = int(weights @ recalled.positives)
    return float((weights @ recalled.found).mean() / positives) if positives else float("nan")


def _weights(videos: np.ndarray | None, count: int) -> np.ndarray:
    return np.ones(count, int) if videos is None else np.bincount(videos, minlength=count)


def soft_nms(
    segments: Float[np.ndarray, "N 2"],
    scores: Float[np.ndarray, " N"],
    *,
    sigma: float = 0.8,
    keep: int = 100,
) -> tuple[Float[np.ndarray, "M 2"], Float[np.ndarray, " M"]]:
    """The best segments and their scores, best first: of those left the best is taken, and the
    scores of all that overlap it are multiplied by exp(-tIoU^2 / sigma), until `keep` are taken or
    one is left.

    As in the original the last one left is never taken, so nothing is of a single segment. Source:
    frostinassiky/gtad (branch anet, gtad_postprocess.py).
    """
    order = np.argsort(-scores, kind="stable")
    segments, scores = segments[order], scores[order].astype(float)
    taken, kept = [], []
    left = np.ones(len(scores), bool)
    while left.sum() > 1 and len(taken) < keep:
        best = int(np.where(left, scores, -np.inf).argmax())
        left[best] = False
        taken.append(best)
        kept.append(scores[best])
        overlap = tiou(segments[best : best + 1], segments)[0]
        scores = scores * np.exp(-(overlap**2) / sigma)
    return segments[taken], np.array(kept, float)
