"""Several views of a test clip, whose probabilities are averaged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int, UInt8

from vplib.data import video
from vplib.evaluate import benchmarks
from vplib.evaluate.features import Originals, features
from vplib.evaluate.tasks import Answers


def of_benchmarks(data: Mapping) -> dict[str, dict[str, int]]:
    """The `clips`, `crops` and, where frames have one, the `stride` in which the benchmark that is
    scored on the test clips of a task of `data.tasks` shows each; of tasks that have one.
    """
    found = {}
    for cell in benchmarks.cells(data.get("benchmarks", {})).values():
        look = {"clips": cell.clips or 1, "crops": cell.crops or 1}
        look |= {"stride": cell.stride} if cell.stride else {}
        for task, where in data["tasks"].items():
            if cell.task in ("label", "labels") and cell.part == where["test"]:
                found.setdefault(task, look)  # the first is that of probes
    return found


def spaced(sources: Mapping[str, Originals], data: Mapping, *, frames: int) -> dict[str, Originals]:
    """The corpora of `data.tasks`, by name, as the benchmark of each shows a single view: where it
    has a stride, `frames` so far apart, in the middle of each video.
    """
    found = dict(sources)
    for task, look in of_benchmarks(data).items():
        for part in ("train", "test") if "stride" in look else ():
            name, shown = data["tasks"][task][part], dict(frames=frames, stride=look["stride"])
            found[name] = Strided(sources[name], **shown, resolution=data["resolution"])
    return found


def strided(total: int, count: int, *, stride: int, clips: int) -> Int[np.ndarray, " N"]:
    """Which of `total` frames make `clips` clips, one after the other, each of `count` frames that
    are `stride` apart: the first begins with the video, the last ends with it, and a single one lies
    in its middle. A video that is shorter than a clip goes on with its last frame.
    """
    free = max(total - (count - 1) * stride - 1, 0)
    starts = [free // 2] if clips == 1 else np.linspace(0, free, clips).round().astype(int)
    return np.minimum(np.add.outer(starts, stride * np.arange(count)).ravel(), total - 1)


class Strided:
    """Of each video of `source` the frames that `strided` chooses, as a video of these alone."""

    def __init__(
        self, source: Originals, *, frames: int, stride: int, resolution: int, clips: int = 1
    ):
        self._source, self._resolution = source, resolution
        self._clips = dict(count=frames, stride=stride, clips=clips)

    def __len__(self) -> int:
        return len(self._source)

    def original(self, index: int) -> tuple[bytes, dict]:
        """A video file, and its metadata. Raises VideoError."""
        file, meta = self._source.original(index)
        # Only the frames that are chosen are ever decoded.
        look = dict(resolution=self._resolution, max_bytes=0)
        film = video.decode(file, name=meta["file_name"], **look)
        shown = film.frames[strided(len(film.times), **self._clips)]
        height, width = (side // 2 * 2 for side in shown.shape[1:3])
        return video.encode(shown[:, :height, :width], film.fps / self._clips["stride"]), meta


def views(
    videos: UInt8[np.ndarray, "B TC R R 3"],
    *,
    clips: int,
    crops: int,
    size: int,
    stride: int | None = None,
) -> list[UInt8[np.ndarray, "B T S S 3"]]:
    """`clips` x `crops` views of size `size`: frames that are as far apart as in a single view,
    begun at evenly spaced moments, and squares from the left end to the right one.

    Of a single crop it is the central one. Source: VideoGLUE (three crops: left, centre, right);
    its clips, of frames `stride` apart, follow each other. Without a stride they interleave, because
    a clip is all of a video then.
    """
    free = videos.shape[2] - size
    top = free // 2
    lefts = [top] if crops == 1 else np.linspace(0, free, crops).round().astype(int)
    length = videos.shape[1] // clips
    chosen = [
        slice(clip, None, clips) if stride is None else slice(clip * length, (clip + 1) * length)
        for clip in range(clips)
    ]
    return [
        videos[:, frames, top : top + size, left : left + size]
        for frames in chosen
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
    stride: int | None = None,
    **reading,
) -> Answers:
    """What the same heads say of the same clips when each is shown in several `views`: the mean of
    the probabilities.

    `answers` of `tasks.probe`, for which `encoders` (several take turns) made the features of
    `source`; with a `stride` clips follow each other, in frames so far apart. Crops are those of the
    central square of `resolution` pixels. `reading` as `features.features`, whose errors are raised.
    Raises ValueError for a resolution below the size.
    """
    if resolution < size:
        raise ValueError(
            f"there are no crops of {size} pixels in videos of {resolution}: take a larger resolution"
        )
    turns, task = [encoders] if callable(encoders) else [*encoders], answers.task

    def mean(videos):
        found = []
        for view in views(videos, clips=clips, crops=crops, size=size, stride=stride):
            tokens = [np.asarray(run(view)) for run in turns]
            found.append(
                [
                    task.probabilities(task.predict(head, tokens[k % len(turns)]))
                    for k, head in enumerate(answers.heads)
                ]
            )
        return np.mean(found, 0).swapaxes(0, 1)  # B R K

    if stride:
        look = dict(frames=frames, stride=stride, clips=clips, resolution=resolution)
        source = Strided(source, **look)
    view = dict(frames=clips * frames, size=resolution, resolution=resolution)
    found = features({"views": mean}, source, name=name, **view, **reading)
    use = np.isin(found.rows, answers.rows)
    outputs = found.values["views"][use].swapaxes(0, 1)
    return replace(answers, outputs=outputs)
