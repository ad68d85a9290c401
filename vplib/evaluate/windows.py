"""Long videos as rows of clips of equal length: features of every window, in one pass."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from vplib.data import pipeline, video
from vplib.data.video import PIXELS, VideoError
from vplib.evaluate.features import Originals, encoded, leave_out
from vplib.progress import Progress


class Windows(NamedTuple):
    """What `features` found: for each encoder and each video that could be read, a row a window."""

    values: dict[str, list[np.ndarray]]
    starts: list[Float[np.ndarray, " W"]]  # seconds
    ends: Float[np.ndarray, " V"]  # of the videos, in seconds
    rows: Int[np.ndarray, " V"]  # which videos of the source those are
    skipped: list[dict]  # {file, reason} of the others


def starts(seconds: float, length: float, stride: float) -> Float[np.ndarray, " W"]:
    """When each window begins, in seconds: every `stride`, as long as the window ends in the video.

    Source: VideoGLUE's windows for temporal localisation, which follow each other (stride = length).
    Raises ValueError for a video shorter than a window.
    """
    if seconds < length - 1e-6:
        raise ValueError(
            f"lasts {seconds:g} s, less than a window of {length:g} s: leave it out, or take "
            "shorter windows"
        )
    return np.arange(int((seconds - length) / stride + 1e-6) + 1) * stride


def nearest(
    starts: Float[np.ndarray, " W"], length: float, times: Float[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """The window whose centre is nearest to each of the times, in seconds; the earlier one of two."""
    centres = starts + length / 2
    return np.abs(times[:, None] - centres).round(6).argmin(1)


def features(
    encoders: Mapping[str, Callable],
    source: Originals,
    *,
    name: str,
    out: Path,
    length: float,
    stride: float,
    frames: int,
    size: int,
    resolution: int | None = None,
    max_pixels: int = PIXELS,
    batch: int,
    max_skipped_fraction: float,
) -> Windows:
    """Features of every window of every video of `source`, by each of `encoders`.

    A window of `length` seconds begins every `stride` seconds (`starts`); its clip is `frames`
    evenly spaced frames, scaled and cropped as in `pipeline.read_clip`. Encoders are as in
    `evaluate.features`, and so is what is done with videos that cannot be read; one that is shorter
    than a window is such a video. Raises SourceError, CheckpointError and MemoryError as there.
    """

    def cut(row: int, seconds: float) -> Float[np.ndarray, "W 2"]:
        begin = starts(seconds, length, stride)
        return np.stack([begin, begin + length], 1)

    view = dict(frames=frames, size=size, resolution=resolution, max_pixels=max_pixels)
    skipping = dict(batch=batch, max_skipped_fraction=max_skipped_fraction)
    return stretches(encoders, source, cut, name=name, out=out, **view, **skipping)


def stretches(
    encoders: Mapping[str, Callable],
    source: Originals,
    cut: Callable[[int, float], Float[np.ndarray, "W 2"]],
    *,
    name: str,
    out: Path,
    frames: int,
    size: int,
    resolution: int | None = None,
    max_pixels: int = PIXELS,
    batch: int,
    max_skipped_fraction: float,
) -> Windows:
    """The same of any stretches of time: `cut(row, seconds)` says when those of a video of so many
    seconds begin and end.

    A video for which it raises ValueError ("what is wrong: what to do") is one that cannot be read.
    """
    values, began, ends, rows, skipped = {of: [] for of in encoders}, [], [], [], []
    view = dict(frames=frames, size=size, resolution=resolution, max_pixels=max_pixels)
    with Progress(len(source), name) as progress:
        for row, read in _videos(source, cut, view):
            if isinstance(read, VideoError):
                skipped.append({"file": read.name, "reason": read.problem})
            else:
                rows.append(row)
                clips, begin, end = read
                began.append(begin)
                ends.append(end)
                for encoder, run in encoders.items():
                    values[encoder].append(in_batches(run, clips, batch, encoder, name))
            progress.update(row + 1, skipped=len(skipped))
    leave_out(skipped, rows, source, name, out, max_skipped_fraction)
    return Windows(values, began, np.array(ends), np.array(rows), skipped)


def in_batches(
    run: Callable, clips: UInt8[np.ndarray, "W T S S 3"], batch: int, encoder: str, name: str
) -> np.ndarray:
    """Features of clips of corpus `name`, by an encoder; the last batch repeats its last clip."""
    parts = []
    for begin in range(0, len(clips), batch):
        part = clips[begin : begin + batch]
        full = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        parts.append(encoded(run, full, encoder, name)[: len(part)])
    return np.concatenate(parts)


def _videos(
    source: Originals, cut: Callable, view: dict
) -> Iterator[tuple[int, "VideoError | tuple[np.ndarray, np.ndarray, float]"]]:
    """Each video's windows, when they begin, and when it ends; the next is read meanwhile."""

    def read(index: int):
        try:
            original, meta = source.original(index)
            return _windows(original, meta["file_name"], partial(cut, index), **view)
        except VideoError as error:
            return error

    ahead, pool = deque(), ThreadPoolExecutor(2)
    try:
        for index in range(len(source)):
            ahead += (
                pool.submit(read, i) for i in range(index + len(ahead), min(index + 3, len(source)))
            )
            yield index, ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _windows(
    original: bytes | Path,
    name: str,
    cut: Callable[[float], np.ndarray],
    *,
    frames: int,
    size: int,
    resolution: int | None,
    max_pixels: int,
) -> tuple[UInt8[np.ndarray, "W T S S 3"], Float[np.ndarray, " W"], float]:
    whole = video.decode(
        original,
        name=name,
        resolution=resolution or size,
        enlarge=resolution is None,
        max_pixels=max_pixels,
    )
    seconds = float(whole.end - whole.times[0])
    try:
        times = cut(seconds)
    except ValueError as error:
        raise VideoError(name, *str(error).split(": ", 1)) from None
    shown, clips = whole.times - whole.times[0], []
    for start, end in times:
        moments = start + (np.arange(frames) + 0.5) / frames * (end - start)
        # As `video.uniform_indices`: a moment on the border of two frames takes the later one.
        picked = np.searchsorted(shown, moments + 1e-6, side="right") - 1
        clips.append(pipeline.crop(whole.frames[picked], size))
    return np.stack(clips), times[:, 0], seconds
