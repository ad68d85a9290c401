"""Damaged clips, on which a head that learned from whole ones is tested; and what that costs it."""

import zlib

import numpy as np
from jaxtyping import Float, Int, UInt8

from vplib.evaluate import heads
from vplib.evaluate.tasks import Answers, Metric, Task

# How strong each is, at three severities. Our choice: from hardly seen to hard for a person.
SEVERITIES = {
    "frame_drop": (0.25, 0.5, 0.75),  # share of the frames that show the one before them
    "noise": (16.0, 32.0, 64.0),  # standard deviation of every pixel's colours, of 255
    "blur": (0.02, 0.04, 0.08),  # standard deviation in frame sides
    "occlusion": (0.3, 0.45, 0.6),  # side of a grey square that hides a part, in frame sides
}
GREY = 128


def damaged(
    videos: UInt8[np.ndarray, "C T H W 3"],
    kind: str,
    severity: int,
    *,
    clips: Int[np.ndarray, " C"],
) -> UInt8[np.ndarray, "C T H W 3"]:
    """The clips of these numbers, damaged in a way of SEVERITIES: `severity` 1, 2 or 3.

    What is drawn (which frames, which noise, where the square is, all the time) depends on the kind
    and the clip's number alone: a stronger severity does more of the same. Raises ValueError for an
    unknown kind or severity.
    """
    strengths = SEVERITIES.get(kind, ())
    if not 1 <= severity <= len(strengths):
        raise ValueError(
            f"there is no damage {kind!r} of severity {severity}: choose one of "
            f"{', '.join(SEVERITIES)}, of severity 1 to 3"
        )
    strength, name = strengths[severity - 1], zlib.crc32(kind.encode())
    found = np.empty_like(videos)
    for one, (video, clip) in enumerate(zip(videos, clips, strict=True)):
        found[one] = _DAMAGE[kind](video, strength, np.random.default_rng([name, clip]))
    return found


def _drop(video: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The first frame always stays: before it there is none."""
    later = 1 + rng.permutation(len(video) - 1)[: round(share * (len(video) - 1))]
    shown = np.arange(len(video))
    shown[later] = 0
    return video[np.maximum.accumulate(shown)]


def _noise(video: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return _bytes(video + np.float32(deviation) * rng.standard_normal(video.shape, np.float32))


def _blur(video: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian, up and down and across; what lies beyond an edge is like the edge."""
    for axis in (1, 2):
        side = video.shape[axis]
        reach = int(3 * deviation * side) + 1
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (deviation * side)) ** 2)
        at = np.clip(np.arange(side)[:, None] + np.arange(-reach, reach + 1), 0, side - 1)
        matrix = np.zeros((side, side), np.float32)
        np.add.at(matrix, (np.arange(side)[:, None], at), weights / weights.sum())
        video = np.moveaxis(np.tensordot(matrix, np.float32(video), (1, axis)), 0, axis)
    return _bytes(video)


def _occlude(video: np.ndarray, side: float, rng: np.random.Generator) -> np.ndarray:
    hidden, place = video.copy(), rng.random(2)
    size = np.array(video.shape[1:3])
    span = np.round(side * size).astype(int)
    y, x = np.round(place * (size - span)).astype(int)
    hidden[:, y : y + span[0], x : x + span[1]] = GREY
    return hidden


def _bytes(video: Float[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    return (video + 0.5).clip(0, 255).astype(np.uint8)


_DAMAGE = {"frame_drop": _drop, "noise": _noise, "blur": _blur, "occlusion": _occlude}


# --- what it costs -------------------------------------------------------------------------------


def relative_loss(whole: Answers, damaged: Answers) -> Answers:
    """What share of the top-1 that the same heads have on the same whole clips is lost: a row by
    `tasks.row`, whose interval is over clips and seeds.

    0 where the heads name no whole clip rightly. Above 0 also where nothing but luck is lost: at
    chance it is 1 - chance / top-1 of the whole clips.
    """
    right = np.stack([whole.scores(), damaged.scores()], 2)  # R C 2
    task = Task({"relative_loss": Metric(_lost, lambda *_: 0.0)}, heads.predict)
    return Answers(task, right, whole.targets, whole.classes)


def _lost(right: Float[np.ndarray, "C 2"], targets: np.ndarray) -> float:
    before, after = right.mean(0)
    return float(1 - after / before) if before else 0.0
