"""Clips of a corpus that are copies of evaluation clips, found by what their frames look like.

    python -m vplib.data.duplicates data/shards/mine/train --against data/shards/mine/val

A copy may be encoded anew, smaller, cropped (at least VIEWS' smallest part of either side is left)
or shifted in time (FEWEST frames or more are shared). Frames become small grey pictures. Correlations
of coarse ones with several crops of every frame of the evaluation clips propose where a clip may come
from; there the crop and the shift are fitted. Pictures that correlate say that the scene is the same, and
changes from one picture to the next that correlate, too, that the same happens in it: two takes of
one scene have the former. Where hardly anything changes nobody can tell takes from copies: a clip that
shows the picture of an evaluation clip is dropped then, too, and called `still`.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vplib.data import decisions, video
from vplib.data.shards import Clip, Shards

RULES = 2  # part of the identity: raise it when another clip would be found
SIDE = 32  # pixels of the pictures, whatever the shape of the frame
COARSE = 8  # pixels of the pictures that propose
RATE, CHECKED = 16.0, 4.0  # pictures a second of an evaluation clip, of a clip that is checked
PROPOSING = 8.0  # of the former, those whose crops are compared with all clips
FEWEST, MOST = 4, 128  # pictures of a clip that have to be shared; that are taken of one
# Top, left and side of what a copy may show of a frame, as shares of it; the fit goes on from there.
VIEWS = [(0.0, 0.0, 1.0)] + [
    (top, left, side)
    for side, steps in ((0.85, 3), (0.72, 4))
    for top, left in itertools.product(np.linspace(0, 1 - side, steps).tolist(), repeat=2)
]
WHOLE = (0.0, 0.0, 1.0, 1.0)
FINE = 24  # pixels of the pictures that decide
PROPOSED, STARTS = 4, 3  # evaluation clips that are fitted to one clip; views of each to start from
PROPOSES = 0.75  # mean correlation of coarse pictures
COPY = 0.85  # mean correlation of fitted pictures
MOVING = 0.8  # correlation of the changes from one of them to the next
STILL = 0.97  # mean correlation of fitted pictures of clips in which too little changes to compare
CHANGES = 1.5  # of 255, root mean square: less from one picture to the next is noise of encoding


class Pictures(NamedTuple):
    """Grey pictures of a clip, and their times in seconds."""

    grey: Float[np.ndarray, "T P P"]
    times: Float[np.ndarray, " T"]


class Match(NamedTuple):
    """The evaluation clip that a clip shows: `score` is the mean correlation of their pictures,
    `moving` that of the changes from each to the next, which a still camera leaves apart (None where
    too little changes in both), `shift` the seconds from its beginning to the clip's, `part` its
    top, left, height and width
    that the clip shows, as shares.
    """

    clip: int
    score: float
    moving: float | None
    shift: float
    part: tuple[float, float, float, float]

    @property
    def copy(self) -> bool:
        """Whether it is one: the same scene, and the same happens in it."""
        return self.moving is not None and self.score >= COPY and self.moving >= MOVING

    @property
    def still(self) -> bool:
        """Whether it is the same picture, in which hardly anything happens: a copy or another take."""
        return self.moving is None and self.score >= STILL


def pictures(file: bytes | Path, *, name: str, rate: float) -> Pictures:
    """Raises VideoError for a video that cannot be decoded."""
    clip = video.decode(file, name=name, resolution=2 * SIDE)
    seconds = clip.end - clip.times[0]
    count = int(np.clip(round(seconds * rate), min(8, len(clip.times)), MOST))
    chosen = np.unique(video.uniform_indices(clip.times, count, end=clip.end))
    grey = clip.frames[chosen] @ np.array([0.299, 0.587, 0.114], np.float32)
    rows, columns = (areas(0.0, 1.0, side, SIDE) for side in grey.shape[1:])
    return Pictures(rows @ grey @ columns.T, clip.times[chosen])


@lru_cache(maxsize=4096)
def areas(start: float, size: float, pixels: int, count: int) -> Float[np.ndarray, "N P"]:
    """Weights that average `pixels` pixels over `count` equal stretches of a part of them."""
    edges = (start + size * np.arange(count + 1) / count) * pixels
    places = np.arange(pixels)
    covered = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    covered = covered.clip(0)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)


def _unit(grey: Float[np.ndarray, "*N P P"]) -> Float[np.ndarray, "*N PP"]:
    """Pictures as vectors whose products are correlations; nearly uniform ones are 0."""
    flat = grey.reshape(*grey.shape[:-2], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    length = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.where(length > 2 * flat.shape[-1] ** 0.5, flat / np.maximum(length, 1e-9), 0)


def _small(
    grey: Float[np.ndarray, "T P P"], part: Sequence[float], count: int = FINE
) -> Float[np.ndarray, "T Q Q"]:
    """A part of pictures in `count` x `count` pixels."""
    top, left, height, width = part
    rows, columns = areas(top, height, SIDE, count), areas(left, width, SIDE, count)
    return rows @ grey @ columns.T


def _part(
    grey: Float[np.ndarray, "T P P"], part: Sequence[float], count: int
) -> Float[np.ndarray, "T QQ"]:
    """The same as vectors whose products are correlations."""
    return _unit(_small(grey, part, count))


class Evaluation:
    """The evaluation clips that a corpus must not hold."""

    def __init__(self, clips: Sequence[Pictures]):
        self.clips = [*clips]
        coarse = [
            _part(clip.grey[:: _every(clip)], (top, left, side, side), COARSE)
            for clip in self.clips
            for top, left, side in VIEWS
        ]
        self._coarse = np.concatenate(coarse).astype(np.float32)
        # Where the pictures of each clip and view begin.
        self._starts = np.cumsum([0, *map(len, coarse)])[:-1]

    def match(self, clip: Pictures, *, leave: Collection[int] = ()) -> Match | None:
        """The likeliest source of a clip, none of the numbers in `leave`; None where no picture is
        like one of an evaluation clip.
        """
        proposed = self._proposed(clip, [*leave])
        found = [self._fitted(clip, *divmod(one, len(VIEWS))) for one in proposed]
        return max(
            filter(None, found), key=lambda one: (one.copy, one.still, one.score), default=None
        )

    def _proposed(self, clip: Pictures, leave: list[int]) -> list[int]:
        """The likeliest clips with their views, numbered as _starts."""
        alike = _part(clip.grey, WHOLE, COARSE) @ self._coarse.T
        best = np.maximum.reduceat(alike, self._starts, axis=1)
        need = min(FEWEST, len(best))
        likely = np.sort(best, axis=0)[-need:].mean(0).reshape(-1, len(VIEWS))
        likely[leave] = -1
        views = np.argsort(-likely, axis=1, kind="stable")[:, :STARTS]
        order = np.argsort(-likely.max(1), kind="stable")[:PROPOSED]
        return [
            int(one * len(VIEWS) + view)
            for one in order
            for view in views[one]
            if likely[one, view] >= PROPOSES
        ]

    def _fitted(self, clip: Pictures, number: int, view: int) -> Match | None:
        """Goes from a view to the best part beside it, in steps that become finer, and to the best
        shift.
        """
        there, (top, left, side) = self.clips[number], VIEWS[view]
        part, own = (top, left, side, side), _part(clip.grey, WHOLE, FINE)

        def alike(part: tuple) -> Float[np.ndarray, "T T2"]:
            return own @ _part(there.grey, part, FINE).T

        shift, score = _best_shift(alike(part), clip.times, there.times)
        if shift is None:
            return None
        pairs = _pairs(clip.times, there.times, shift)
        for step in (0.08, 0.04, 0.02, 0.01):
            while True:
                tried = {
                    one: float(
                        (own[pairs[0]] * _part(there.grey[pairs[1]], one, FINE)).sum(1).mean()
                    )
                    for one in _neighbours(part, step)
                }
                best = max(tried, key=tried.get)
                if tried[best] <= score + 1e-3:
                    break
                part, score = best, tried[best]
            shift, score = _best_shift(alike(part), clip.times, there.times)
            pairs = _pairs(clip.times, there.times, shift)
        return Match(number, score, _moving(clip, there, pairs, part), shift, part)


def _every(clip: Pictures) -> int:
    """Which pictures propose: PROPOSING a second are enough, all of a video of few frames."""
    if len(clip.times) < 2:
        return 1
    return max(1, round(1 / PROPOSING / float(np.diff(clip.times).mean())))


def _pairs(
    own: Float[np.ndarray, " T"], there: Float[np.ndarray, " T2"], shift: float
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Pictures of a clip and those of another that are on show `shift` seconds later."""
    half = np.diff(there).mean() / 2 if len(there) > 1 else np.inf
    moments = own + shift
    inside = np.flatnonzero((moments >= there[0] - half) & (moments <= there[-1] + half))
    return inside, np.abs(there[None] - moments[inside, None]).argmin(1)


def _moving(
    clip: Pictures,
    there: Pictures,
    pairs: tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]],
    part: tuple,
) -> float | None:
    """Correlation of the changes from each picture to the next in both."""
    own, other = (
        np.diff(_small(pictures.grey[chosen], shown), axis=0)
        for pictures, chosen, shown in zip((clip, there), pairs, (WHOLE, part), strict=True)
    )
    sizes = [float(np.sqrt(np.square(one).mean())) if one.size else 0.0 for one in (own, other)]
    if max(sizes) < CHANGES:
        return None
    return float((own * other).mean()) / max(sizes[0] * sizes[1], 1e-9)


def _best_shift(
    alike: Float[np.ndarray, "T T2"],
    own: Float[np.ndarray, " T"],
    there: Float[np.ndarray, " T2"],
) -> tuple[float | None, float]:
    """The shift at which pictures are most alike, and how much; none where too few are shared."""
    need, best = min(FEWEST, *alike.shape), (None, -1.0)
    for shift in np.unique(np.round(there[None] - own[:, None], 3)).tolist():
        pairs = _pairs(own, there, shift)
        if len(pairs[0]) >= need and (score := float(alike[pairs].mean())) > best[1]:
            best = shift, score
    return best


def _neighbours(part: tuple, step: float) -> Iterator[tuple]:
    """Parts that lie a step away or are a step larger or smaller, inside the frame."""
    for axis, change in itertools.product((0, 1), (-step, step)):
        moved = [*part]
        moved[axis] += change
        sized = [*part]
        sized[axis + 2] += change
        grown = [*part]
        grown[axis] -= change
        grown[axis + 2] += change
        for one in (moved, sized, grown):
            top, left, height, width = one
            if min(top, left) >= -1e-9 and max(top + height, left + width) <= 1 + 1e-9:
                if min(height, width) >= 0.6:
                    yield tuple(round(max(value, 0.0), 4) for value in one)


class Duplicates:
    """A step of vplib.data.decisions: drops copies of clips of the evaluation corpora `against`."""

    name = "duplicates"

    def __init__(self, against: Sequence[Path]):
        corpora = [Shards(folder) for folder in against]
        self._names = [(corpus.folder.name, i) for corpus in corpora for i in range(len(corpus))]
        rules = [RULES, RATE, CHECKED, PROPOSING, FEWEST, len(VIEWS), PROPOSES]
        rules += [COPY, MOVING, STILL, CHANGES]
        self.identity = decisions.identity(rules, *(corpus.fingerprint for corpus in corpora))
        self._evaluation = Evaluation(
            [
                pictures(corpus[i].video, name=f"{corpus.folder.name}[{i}]", rate=RATE)
                for corpus in corpora
                for i in range(len(corpus))
            ]
        )

    def __call__(self, clip: Clip, name: str) -> dict | None:
        match = self._evaluation.match(pictures(clip.video, name=name, rate=CHECKED))
        if match is None or not (match.copy or match.still):
            return None
        corpus, index = self._names[match.clip]
        found = {"why": "copy" if match.copy else "still", "of": f"{corpus}[{index}]"}
        found |= {"score": match.score, "moving": match.moving}
        found |= {"seconds": match.shift}
        return found | dict(zip(("top", "left", "height", "width"), match.part, strict=True))


def main() -> None:
    parser = decisions.parser("vplib.data.duplicates", __doc__)
    parser.add_argument("--against", type=Path, nargs="+", required=True, help="evaluation corpora")
    given = parser.parse_args()
    decisions.run(lambda: Duplicates(given.against), given.corpus)


if __name__ == "__main__":
    main()
