"""Temporal candidates and proposals: resampling, targets, choice, a prior; in numpy.

Of T positions, candidate (start s, duration d) runs from s/T to (s + d)/T of the video and is valid
if s + d <= T. Maps have a row a duration (d - 1) and a column a start. Segments are (start, end) in
fractions of the video.
Source of every detail without another: frostinassiky/gtad, branch anet (ActivityNet).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

CLASSES = 2  # of a video, that each of its proposals is emitted with


class Targets(NamedTuple):
    """What the maps of one video, or of several, shall say."""

    start: Float[np.ndarray, "*B T"]
    end: Float[np.ndarray, "*B T"]
    iou: Float[np.ndarray, "*B T T"]


def interpolation(at: Float[np.ndarray, "*A"], size: int) -> Float[np.ndarray, "*A N"]:
    """Weights of `size` values, which lie at 0, 1, 2, ..., in their linear interpolation at `at`.

    Up to one beyond either end there is the end's value, further out zero.
    """
    near = np.clip(at, 0, size - 1)[..., None]
    weights = np.maximum(1 - np.abs(near - np.arange(size)), 0)
    return (weights * ((at >= -1) & (at <= size))[..., None]).astype(np.float32)


def resample(
    features: Shaped[np.ndarray, "N D"], positions: int, *, name: str = "the video"
) -> Float[np.ndarray, "T D"]:
    """One vector a position from one a window: linear, half-pixel centres, no corner alignment.

    Raises ValueError if there is no window.
    """
    if not len(features):
        raise ValueError(
            f"{name} is shorter than one window, so it has no features: leave it out, or choose "
            "shorter windows"
        )
    at = (np.arange(positions) + 0.5) * len(features) / positions - 0.5
    return interpolation(at, len(features)) @ features.astype(np.float32)


def valid(positions: int) -> Bool[np.ndarray, "T T"]:
    """Which candidates end within the video."""
    first = np.arange(positions)
    return first[:, None] + 1 + first <= positions


def targets(
    segments: Float[np.ndarray, "E 2"], positions: int, *, name: str = "the video"
) -> Targets:
    """Start, end and overlap that the true `segments`, clipped to the video, ask for; in [0, 1].

    `start` (`end`) of position t: the share of [t - 0.5, t + 1.5]/T that lies within 1.5/T of a
    true start (end). `iou`: highest overlap of a candidate, valid or not, with a true segment.
    Rounded to 8 decimals, so that what lies exactly on a threshold does so in float32 too. Raises
    ValueError for an event that ends before it begins, or lies outside of the video.
    """
    for number, (start, end) in enumerate(segments):
        if not start < end:
            raise ValueError(
                f"{name}: event {number} ends at {end:g} but begins at {start:g}, in fractions of "
                "the video; correct its times"
            )
        if not (end > 0 and start < 1):
            raise ValueError(
                f"{name}: event {number} ({start:g} to {end:g}) is outside of the video, which runs "
                "from 0 to 1; give its times as fractions of the duration"
            )
    begin, stop = (np.clip(segments, 0, 1) * positions).T[..., None, None]  # E 1 1, in positions
    first = np.arange(positions)

    def covered(low, high, a, b):
        return np.maximum(np.minimum(high, b) - np.maximum(low, a), 0)

    def near(edge):
        share = covered(first - 0.5, first + 1.5, edge - 1.5, edge + 1.5) / 2
        return share.max(0, initial=0)[0]

    duration = first[:, None] + 1
    shared = covered(first, first + duration, begin, stop)
    iou = (shared / (duration + stop - begin - shared)).max(0, initial=0)
    return Targets(*(part.round(8).astype(np.float32) for part in (near(begin), near(stop), iou)))


def boundaries(
    start: Float[np.ndarray, " T"], end: Float[np.ndarray, " T"]
) -> tuple[Bool[np.ndarray, " T"], Bool[np.ndarray, " T"]]:
    """The positions at which proposals may start, and those at which they may end.

    Strict local peaks and all above half of the maximum; a start at the first position always and
    at the last never, an end the other way round.
    """
    chosen = []
    for scores in (start, end):
        kept = scores > scores.max() / 2
        inner = scores[1:-1]
        kept[1:-1] |= (inner > scores[:-2]) & (inner > scores[2:])
        chosen.append(kept)
    starts, ends = chosen
    starts[0], starts[-1], ends[0], ends[-1] = True, False, False, True
    return starts, ends


def proposals(
    start: Float[np.ndarray, " T"],
    end: Float[np.ndarray, " T"],
    regression: Float[np.ndarray, "T T"],
    classification: Float[np.ndarray, "T T"],
) -> tuple[Float[np.ndarray, "P 2"], Float[np.ndarray, " P"]]:
    """Segments from every chosen start to every later chosen end; the product of both maps scores.

    An end is a position, so none is after (T - 1)/T.
    """
    starts, ends = boundaries(start, end)
    s, e = np.nonzero(np.triu(starts[:, None] & ends, 1))
    scores = regression[e - s - 1, s] * classification[e - s - 1, s]
    return np.stack([s, e], 1) / len(start), scores


def prior(
    segments: Sequence[Float[np.ndarray, "_ 2"]], positions: int
) -> tuple[Float[np.ndarray, "P 2"], Float[np.ndarray, " P"]]:
    """What can be proposed for any video without looking at it, from those of the training videos.

    A candidate's score is the share of the training videos in which it would be a hit, mean over
    tIoU .5:.05:.95; those with none are left out. Our choice: no source has such a baseline.
    """
    overlaps = np.stack(
        [targets(one, positions, name=f"video {i}").iou for i, one in enumerate(segments)]
    )
    share = np.mean([overlaps >= 0.5 + 0.05 * k - 1e-6 for k in range(10)], axis=(0, 1))
    row, s = np.nonzero(valid(positions) & (share > 0))
    return np.stack([s, s + row + 1], 1) / positions, share[row, s]


def classified(
    segments: Float[np.ndarray, "P 2"],
    scores: Float[np.ndarray, " P"],
    probabilities: Float[np.ndarray, " K"],
    classes: Sequence[str],
) -> list[tuple[float, float, str, float]]:
    """Rows (start, end, class, score): each proposal of a video, after soft-NMS, with the two best
    classes of the whole video, scores multiplied.

    `probabilities` are a video-level classifier's, or shares of the training labels.
    """
    best = np.argsort(-probabilities, kind="stable")[:CLASSES]
    return [
        (float(start), float(end), classes[k], float(score * probabilities[k]))
        for (start, end), score in zip(segments, scores, strict=True)
        for k in best
    ]
