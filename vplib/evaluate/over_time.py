"""One video of any length, window by window: features of every window, and where they are largest.

`windows` keeps all clips of a video, for encoders that take turns; here a batch of them is kept.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from vplib import files
from vplib.data import pipeline, stream, video
from vplib.data.video import PIXELS
from vplib.evaluate import windows
from vplib.progress import Progress

FILM = 12  # frames of a film strip


class Along(NamedTuple):
    """What `along` found in one video: a row a window."""

    values: Shaped[np.ndarray, "W ..."]
    times: Float[np.ndarray, "W 2"]  # when each window begins and ends, in seconds
    seconds: float  # of the video
    film: UInt8[np.ndarray, "N S S 3"]  # frames at evenly spaced moments, to be looked at


def cover(seconds: float, length: float, stride: float) -> Float[np.ndarray, "W 2"]:
    """When windows begin and end, in seconds: those of `windows.starts`, and where these leave no
    gaps (stride <= length) a last one that ends with the video, so that it is seen to its end.

    A video shorter than a window is one window.
    """
    length = min(length, seconds)
    begin = windows.starts(seconds, length, stride)
    if stride <= length and begin[-1] + length < seconds - 1e-6:
        begin = np.append(begin, seconds - length)
    return np.stack([begin, begin + length], 1)


def along(
    run: Callable,
    source: bytes | Path,
    *,
    name: str,
    encoder: str,
    length: float,
    stride: float,
    frames: int,
    size: int,
    resolution: int | None = None,
    max_pixels: int = PIXELS,
    batch: int,
) -> Along:
    """What the compiled `run` makes of the windows (`cover`) of one video, in memory that does not
    grow with its length: a batch of windows is encoded while the next one is read.

    Frames, their crop and `encoder` as in `windows.features`; a window of a whole video shows what
    `pipeline.read_clip` does. Frames that overlapping windows share are kept once. Raises
    VideoError, and what `evaluate.features.encoded` raises.
    """
    timed = video.LazyFrames(source, name=name, max_pixels=max_pixels)
    times = cover(timed.end, length, stride)
    picks = _on_show(timed.times, times, frames)
    film = dict.fromkeys(_on_show(timed.times, np.array([[0.0, timed.end]]), FILM)[0].tolist())
    numbers = np.unique(np.append(picks, [*film]))

    def squares() -> Iterator[tuple[int, UInt8[np.ndarray, "S S 3"]]]:
        scaling = {"resolution": resolution or size, "enlarge": resolution is None}
        shown = stream.picked_frames(source, numbers, name=name, max_pixels=max_pixels, **scaling)
        for number, frame in zip(numbers.tolist(), shown, strict=True):
            square = pipeline.crop(frame[None], size)[0].copy()  # the rest may go
            if number in film:
                film[number] = square
            yield number, square

    values, done, reader = [], 0, _batches(squares(), picks, batch)
    with (
        Progress(len(times), files.printable(Path(name).name)) as progress,
        ThreadPoolExecutor(1) as pool,
    ):
        ahead = pool.submit(next, reader, None)
        while (clips := ahead.result()) is not None:
            ahead = pool.submit(next, reader, None)
            values.append(windows.in_batches(run, clips, batch, encoder, name))
            done += len(clips)
            progress.update(done)
    return Along(np.concatenate(values), times, timed.end, np.stack([*film.values()]))


def peaks(
    times: Float[np.ndarray, "W 2"], values: Float[np.ndarray, " W"], *, most: int
) -> Int[np.ndarray, " P"]:
    """At most `most` windows whose value no neighbour and no overlapping window exceeds, the best
    first; no two are neighbours or overlap.
    """
    start, end = times.T
    found = []
    for k in np.argsort(-values, kind="stable").tolist():
        near = (start < end[k] - 1e-6) & (end > start[k] + 1e-6)
        near[max(k - 1, 0) : k + 2] = True
        if values[k] >= values[near].max() and not near[found].any():
            found.append(k)
        if len(found) == most:
            break
    return np.array(found, int)


def _on_show(
    shown: Float[np.ndarray, " F"], times: Float[np.ndarray, "W 2"], count: int
) -> Int[np.ndarray, "W {count}"]:
    """The frames on show at the centres of `count` equal parts of each stretch; each comes when
    `shown` says, in seconds.

    As in `windows.features`: a moment on the border of two frames takes the later one.
    """
    start, end = times[:, :1], times[:, 1:]
    moments = start + (np.arange(count) + 0.5) / count * (end - start)
    return np.searchsorted(shown, moments + 1e-6, side="right") - 1


def _batches(
    squares: Iterator[tuple[int, UInt8[np.ndarray, "S S 3"]]],
    picks: Int[np.ndarray, "W T"],
    batch: int,
) -> Iterator[UInt8[np.ndarray, "B T S S 3"]]:
    """Clips of the frames `picks`, `batch` at a time; frames of no later window are let go."""
    kept, clips = {}, []
    for window in picks.tolist():
        kept = {number: square for number, square in kept.items() if number >= window[0]}
        while window[-1] not in kept:
            number, square = next(squares)
            kept[number] = square
        clips.append(np.stack([kept[number] for number in window]))
        if len(clips) == batch:
            yield np.stack(clips)
            clips = []
    if clips:
        yield np.stack(clips)
    for _ in squares:  # to the end: the last frames of the film
        pass
