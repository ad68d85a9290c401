"""Several views of a test clip, whose probabilities are averaged."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from vplib.evaluate.features import Originals, features
from vplib.evaluate.tasks import Answers


def views(
    videos: UInt8[np.ndarray, "B TC R R 3"], *, clips: int, crops: int, size: int
) -> list[UInt8[np.ndarray, "B T S S 3"]]:
    """`clips` x `crops` views of size `size`: frames that are as far apart as in a single view,
    begun at evenly spaced moments, and squares from the left end to the right one.

    Of a single crop it is the central one. Source: VideoGLUE (three crops: left, centre, right);
    its clips of long videos follow each other, those of ours interleave, because a clip is all of a
    video here.
    """
    free = videos.shape[2] - size
    top = free // 2
    lefts = [top] if crops == 1 else np.linspace(0, free, crops).round().astype(int)
    return [
        videos[:, clip::clips, top : top + size, left : left + size]
        for clip in range(clips)
        for left in lefts
    ]


def multi_view(
    answers: Answers,
    encoders: Callable | Sequence[Callable],
    source: Originals,
    *,
    clips: int,
    crops: int,
    name: str,
    frames: int,
    size: int,
    resolution: int,
    **reading,
) -> Answers:
    """What the same heads say of the same clips when each is shown in several `views`: the mean of
    the probabilities.

    `answers` of `tasks.probe`, for which `encoders` (several take turns) made the features of
    `source`; crops are those of the central square of `resolution` pixels. `reading` as
    `features.features`, whose errors are raised. Raises ValueError for a resolution below the size.
    """
    if resolution < size:
        raise ValueError(
            f"there are no crops of {size} pixels in videos of {resolution}: take a larger resolution"
        )
    turns, task = [encoders] if callable(encoders) else [*encoders], answers.task

    def mean(videos):
        found = []
        for view in views(videos, clips=clips, crops=crops, size=size):
            tokens = [np.asarray(run(view)) for run in turns]
            found.append(
                [
                    task.probabilities(task.predict(head, tokens[k % len(turns)]))
                    for k, head in enumerate(answers.heads)
                ]
            )
        return np.mean(found, 0).swapaxes(0, 1)  # B R K

    view = dict(frames=clips * frames, size=resolution, resolution=resolution)
    found = features({"views": mean}, source, name=name, **view, **reading)
    use = np.isin(found.rows, answers.rows)
    outputs = found.values["views"][use].swapaxes(0, 1)
    return replace(answers, outputs=outputs)
