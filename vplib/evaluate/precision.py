"""Average precision and its means over classes, in numpy.

Three forms, which differ only in ties and in whether precision may rise with recall: scikit-learn's
(`average_precision`), the one of ranked lists (`precision_at_hits`: Charades, VideoCon), and that
of detections (`interpolated_average_precision`: Pascal VOC, ActivityNet, AVA). Where order within
ties would matter it counts against the model.
"""

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped


def average_precision(
    scores: Float[np.ndarray, "C K"], labels: Shaped[np.ndarray, "C K"]
) -> Float[np.ndarray, " K"]:
    """Of each class, in [0, 1]: precision summed where recall grows, clips of equal score in one
    step; 0 for a class without positives.

    `labels` are 1 or 0 (several a clip, or none). The same score for all gives the share of
    positives. Raises ValueError for another label or a score that is not a number. Source:
    scikit-learn `average_precision_score`.
    """
    hit, _, found, end = _ranked(scores, labels)
    return (hit * (found / end)).sum(1) / np.maximum(hit.sum(1), 1)


def precision_at_hits(
    scores: Float[np.ndarray, "C K"], labels: Shaped[np.ndarray, "C K"]
) -> Float[np.ndarray, " K"]:
    """Of each class, in [0, 1]: mean, over its positives, of the precision of the list that ends
    there; NaN for a class without positives.

    Without ties it is `average_precision`. The official programs leave the order of ties to their
    sort; ours puts positives last. `labels` and errors as there. Source: gsig/charades-algorithms
    (pytorch/utils/map.py); Hritikbansal/videocon (src/calc_ssv2.py).
    """
    hit, count, found, end = _ranked(scores, labels)
    total = np.where(hit.any(1), hit.sum(1), np.nan)
    return (hit * (count / np.maximum(count + end - found, 1))).sum(1) / total


def interpolated_average_precision(
    scores: Float[np.ndarray, " R"],
    hits: Bool[np.ndarray, "R T"],
    *,
    positives: float,
    weights: Num[np.ndarray, " R"] | None = None,
) -> Float[np.ndarray, " T"]:
    """Of one class at T thresholds, in [0, 1]: area under the precision that a recall, or a higher
    one, is reached with; NaN without positives.

    R detections, each of which hits at some thresholds; there are `positives` to be hit. A weight
    counts a detection several times, or 0: that is how a bootstrap draws. Detections of equal score
    are one step. Source: activitynet/ActivityNet (Evaluation/utils.py, after the VOC 2011 kit).
    """
    if not positives:
        return np.full(hits.shape[1], np.nan)
    order = np.argsort(-scores, kind="stable")  # linear in R where they are in order already
    scores, hits = scores[order], hits[order]
    weights = np.ones(len(scores), int) if weights is None else weights[order]
    seen = np.cumsum(weights)
    # Precision between two hits is below that at the first of them, so hits are enough.
    rows = np.flatnonzero(hits.any(1))
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    end = ends[np.searchsorted(ends, rows)]  # where the tie of each of these rows ends
    gain = hits[rows] * weights[rows, None]  # H T
    found = np.cumsum(gain, 0)[np.searchsorted(rows, end, side="right") - 1]
    precision = found / np.maximum(seen[end], 1)[:, None]
    best = np.maximum.accumulate(precision[::-1], 0)[::-1]
    return (gain * best).sum(0) / positives


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


def _ranked(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """At each place of the ranking of each class (K C): whether it is a hit; hits up to it; hits,
    and places, up to the end of its tie.
    """
    if np.isnan(scores).any():
        clip, k = np.argwhere(np.isnan(scores))[0]
        raise ValueError(f"the score of clip {clip} for class {k} is not a number")
    hits = labels == 1
    if not (hits | (labels == 0)).all():
        clip, k = np.argwhere(~hits & (labels != 0))[0]
        raise ValueError(
            f"the label of clip {clip} for class {k} is {labels[clip, k]}: labels are 1 or 0"
        )
    order = np.argsort(-scores.T, axis=1)
    score = np.take_along_axis(scores.T, order, 1)
    hit = np.take_along_axis(hits.T, order, 1)
    count = np.cumsum(hit, 1)
    places = np.arange(1, len(scores) + 1)
    last = np.ones_like(hit)
    last[:, :-1] = score[:, 1:] != score[:, :-1]
    end = np.where(last, places, len(scores))[:, ::-1]
    end = np.minimum.accumulate(end, 1)[:, ::-1]
    return hit, count, np.take_along_axis(count, end - 1, 1), end
