"""Means over classes: average precision, in three forms, and macro accuracy; in numpy.

The forms differ only in ties and in whether precision may rise with recall: scikit-learn's
(`average_precision`), the one of ranked lists (`precision_at_hits`: Charades, VideoCon), and that
of detections (`interpolated_average_precision`: Pascal VOC, ActivityNet, AVA). Where order within
ties would matter it counts against the model.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vplib.evaluate.metrics import confusion


def average_precision(
    scores: Float[np.ndarray, "C K"], labels: Shaped[np.ndarray, "C K"]
) -> Float[np.ndarray, " K"]:
    """Of each class, in [0, 1]: precision summed where recall grows, clips of equal score in one
    step; 0 for a class without positives.

    `labels` are 1 or 0 (several a clip, or none). The same score for all gives the share of
    positives. Raises ValueError for another label or a score that is not a number. Source:
    scikit-learn `average_precision_score`.
    """
    hits = _hits(scores, labels)
    of_class = np.bincount(hits.k, hits.found / hits.places, minlength=len(hits.positives))
    return of_class / np.maximum(hits.positives, 1)


def precision_at_hits(
    scores: Float[np.ndarray, "C K"], labels: Shaped[np.ndarray, "C K"]
) -> Float[np.ndarray, " K"]:
    """Of each class, in [0, 1]: mean, over its positives, of the precision of the list that ends
    there; NaN for a class without positives.

    Without ties it is `average_precision`. The official programs leave the order of ties to their
    sort; ours puts positives last. `labels` and errors as there. Source: gsig/charades-algorithms
    (pytorch/utils/map.py); Hritikbansal/videocon (src/calc_ssv2.py).
    """
    hits = _hits(scores, labels)
    precision = hits.number / (hits.number + hits.places - hits.found)
    of_class = np.bincount(hits.k, precision, minlength=len(hits.positives))
    return of_class / np.where(hits.positives > 0, hits.positives, np.nan)


def interpolated_average_precision(
    scores: Float[np.ndarray, "C K"], labels: Shaped[np.ndarray, "C K"]
) -> Float[np.ndarray, " K"]:
    """Of each class, in [0, 1]: area under the best precision that a recall, or a higher one, is
    reached with; NaN for a class without positives.

    Clips of equal score are one step. Source: activitynet/ActivityNet (Evaluation/utils.py, after
    the VOC 2011 kit).
    """
    clips, classes = scores.shape
    hits, k = (labels == 1).T.reshape(-1, 1), np.repeat(np.arange(classes), clips)
    rows = ranked(k, scores.T.ravel(), hits, np.zeros_like(k), classes=classes)
    return interpolated(rows, (labels == 1).sum(0), np.ones(1, int))[:, 0]


class Ranked(NamedTuple):
    """R detections, class after class and by falling score; H of them hit at any of T thresholds."""

    video: Int[np.ndarray, " R"]
    first: Int[np.ndarray, " K"]  # detections before each class
    first_hit: Int[np.ndarray, " K"]  # those that hit
    at: Int[np.ndarray, " H"]  # number of the detection
    k: Int[np.ndarray, " H"]  # its class
    hit: Bool[np.ndarray, "H T"]
    end: Int[np.ndarray, " H"]  # detections up to the end of its tie
    end_hit: Int[np.ndarray, " H"]  # those that hit


def ranked(
    k: Int[np.ndarray, " R"],
    scores: Float[np.ndarray, " R"],
    hits: Bool[np.ndarray, "R T"],
    video: Int[np.ndarray, " R"],
    *,
    classes: int,
) -> Ranked:
    """Detections of class `k` in order, once for all draws of videos."""
    order = np.lexsort((-scores, k))
    k, scores, hits, video = k[order], scores[order], hits[order], video[order]
    at, numbers = np.flatnonzero(hits.any(1)), np.arange(classes)
    ends = np.flatnonzero(np.append((scores[1:] != scores[:-1]) | (k[1:] != k[:-1]), True))
    end = ends[np.searchsorted(ends, at)] + 1
    first, first_hit = np.searchsorted(k, numbers), np.searchsorted(k[at], numbers)
    return Ranked(
        video, first, first_hit, at, k[at], hits[at], end, np.searchsorted(at, end, side="left")
    )


def interpolated(
    rows: Ranked, positives: Int[np.ndarray, " K"], weights: Int[np.ndarray, " V"]
) -> Float[np.ndarray, "K T"]:
    """Average precision as `interpolated_average_precision`, of K classes at T thresholds, with
    each video counted `weights` times, `positives` with them.
    """
    weight = weights[rows.video]
    seen = np.append(0, np.cumsum(weight))
    gain = rows.hit * weight[rows.at, None]  # H T
    found = np.vstack([np.zeros(gain.shape[1], int), np.cumsum(gain, 0)])
    seen = seen[rows.end] - seen[rows.first[rows.k]]
    found = found[rows.end_hit] - found[rows.first_hit[rows.k]]
    # Between two hits precision falls, so the best one is at a hit. Classes on steps of 1, from the
    # last one up, so that one maximum from the right stays within each class.
    step = (len(positives) - 1 - rows.k)[:, None]
    precision = found / np.maximum(seen, 1)[:, None] + step
    best = np.maximum.accumulate(precision[::-1], 0)[::-1] - step
    of_class = rows.k == np.arange(len(positives))[:, None]  # K H
    return (of_class @ (gain * best)) / np.where(positives > 0, positives, np.nan)[:, None]


def mean_average_precision(
    scores: Float[np.ndarray, "C K"],
    labels: Shaped[np.ndarray, "C K"],
    *,
    background: int | None = None,
    skip_absent: bool = False,
) -> float:
    """Mean of `average_precision` over classes, in [0, 1]; `background` is no member of the mean,
    but its clips are negatives of all others.

    A class without positives counts 0, as in scikit-learn, or is skipped (`absent` says which; NaN
    if all are). Source: VideoPrism appendix H (Fly vs. Fly, CalMS21, ChimpACT).
    """
    of_class = average_precision(scores, labels)
    use = np.arange(labels.shape[1]) != background
    if skip_absent:
        use &= (labels == 1).any(0)
    return float(of_class[use].mean()) if use.any() else float("nan")


def charades_map(
    scores: Float[np.ndarray, "C K"],
    labels: Shaped[np.ndarray, "C K"],
    *,
    skip_absent: bool = False,
) -> float:
    """Mean of `precision_at_hits` over classes, in [0, 1], by the official rule: clips without any
    label are no negatives, they are left out.

    A class without positives makes it NaN, as officially, or is skipped (`absent` says which; NaN
    if all are). Source: gsig/charades-algorithms (pytorch/utils/map.py, charades_map).
    """
    labelled = (labels == 1).any(1)
    of_class = precision_at_hits(scores[labelled], labels[labelled])
    use = ~np.isnan(of_class) if skip_absent else np.full(len(of_class), True)
    return float(of_class[use].mean()) if use.any() else float("nan")


def absent(labels: Shaped[np.ndarray, "C K"]) -> list[int]:
    """The numbers of the classes without positives."""
    return np.flatnonzero(~(labels == 1).any(0)).tolist()


def random_precision(labels: Shaped[np.ndarray, "C K"]) -> Float[np.ndarray, " K"]:
    """What `precision_at_hits` of each class is on average for clips in random order, exactly: a
    little above the share of positives; NaN for a class without positives.
    """
    clips, positives = len(labels), (labels == 1).sum(0)
    # At place i a positive has, before it, (i - 1) places that are hits as often as the others.
    before = np.arange(clips) / np.arange(1, clips + 1)
    chance = (np.sum(1 - before) + np.sum(before) * (positives - 1) / max(clips - 1, 1)) / clips
    return np.where(positives > 0, chance, np.nan)


def class_recall(table: Int[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
    """The share of each class's clips that is found, from a `confusion`; NaN where it has none."""
    clips = table.sum(1)
    return np.where(clips > 0, np.diag(table), np.nan) / np.maximum(clips, 1)


def macro_accuracy(outputs: Float[np.ndarray, "C K"], targets: Int[np.ndarray, " C"]) -> float:
    """Mean over classes of the share of their clips whose largest output is the target's, in [0, 1].

    Classes without clips are skipped: `class_recall` is NaN for these (our choice: scikit-learn's
    `balanced_accuracy_score`, not its `recall_score`). Raises ValueError for no clips or a target
    out of range. Source: KABR (macro accuracy).
    """
    if not len(targets):
        raise ValueError("there are no clips to take a macro accuracy of")
    classes = outputs.shape[1]
    out = (targets < 0) | (targets >= classes)
    if out.any():
        clip = int(out.argmax())
        raise ValueError(
            f"clip {clip} is of class {targets[clip]}, and there are 0 to {classes - 1}"
        )
    return float(np.nanmean(class_recall(confusion(targets, outputs.argmax(1), classes))))


class _Hits(NamedTuple):
    """The H positives in the rankings of their classes, class after class."""

    k: np.ndarray  # class
    number: np.ndarray  # among the positives of the class, from 1
    found: np.ndarray  # positives up to the end of its tie
    places: np.ndarray  # places up to there
    positives: np.ndarray  # of each of the K classes


def _hits(scores: np.ndarray, labels: np.ndarray) -> _Hits:
    hit = labels == 1
    if np.isnan(scores).any():
        clip, k = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f"the score of clip {clip} for class {k} is not a number")
    if not (hit | (labels == 0)).all():
        clip, k = np.argwhere(~hit & (labels != 0))[0]
        raise ValueError(
            f"the label of clip {clip} for class {k} is {labels[clip, k]}: labels are 1 or 0"
        )
    clips, classes = scores.shape
    # One list, class after class: a bootstrap does this thousands of times.
    order = (np.argsort(-scores.T, axis=1) + clips * np.arange(classes)[:, None]).ravel()
    score = scores.T.ravel()[order].reshape(classes, clips)
    at = np.flatnonzero(hit.T.ravel()[order])
    last = np.ones((classes, clips), bool)
    last[:, :-1] = score[:, 1:] != score[:, :-1]
    ends = np.flatnonzero(last)
    end = ends[np.searchsorted(ends, at)]
    k = at // max(clips, 1)
    positives = np.bincount(k, minlength=classes)
    before = (np.cumsum(positives) - positives)[k]  # positives of earlier classes
    number = np.arange(1, len(at) + 1) - before
    found = np.searchsorted(at, end, side="right") - before
    return _Hits(k, number, found, end + 1 - clips * k, positives)
