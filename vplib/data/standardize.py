"""Any video as the one kind of file that training reads: upright H.264 in MP4, constant rate.

Clips are kept as they are where that does no harm. Memory does not grow with the length of a clip.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from vplib.data.container import explained
from vplib.data.video import (
    PIXELS,
    RGB,
    VideoError,
    encode,
    mean_rate,
    probe,
    read_times,
    stream_frames,
)

SMALLEST_SIDE = 16  # pixels; below that there is nothing to see
HIGHEST_RATE = 60.0  # frames per second that uneven times are brought to
REPEATS = 100  # of each frame, on average: a screen that hardly changes gets a lower rate


def standardize(
    source: bytes | Path, *, name: str, resolution: int, max_pixels: int = PIXELS
) -> tuple[bytes, dict]:
    """A video as an upright MP4 of square pixels, constant frame rate and a limited size.

    Its shorter side has at most `resolution` pixels. Reads every frame, so that no damaged file
    gets into a corpus. Returns the file and its `width`, `height` (pixels), `fps`, `frames` and
    `duration` (seconds).

    Raises VideoError if the file cannot be read or encoded, is damaged, too small or has more than
    `max_pixels` pixels in a frame.
    """
    facts = probe(source, name=name, max_pixels=max_pixels)
    if min(facts.width, facts.height) < SMALLEST_SIDE:
        raise VideoError(name, f"is only {facts.width}x{facts.height} pixels", "leave it out")
    times, end = read_times(source, name=name, max_pixels=max_pixels)
    constant, fps = even_rate(times, end, facts.fps)
    small = min(facts.width, facts.height) <= resolution
    mp4 = facts.codec == "h264" and "mp4" in facts.container.split(",")
    if small and constant and facts.plain and mp4:
        with explained(name):
            video = source if isinstance(source, bytes) else source.read_bytes()
        return video, _facts(facts.width, facts.height, fps, len(times))
    frames = stream_frames(source, name=name, resolution=resolution, max_pixels=max_pixels)
    return encoded(frames, times, end, fps, name=name)


def even_rate(times: Float[np.ndarray, " T"], end: float, promised: float) -> tuple[bool, float]:
    """Whether frames shown from `times` on, the last until `end`, come evenly, and the rate to
    store them at; `promised` is what the header says (0: nothing).
    """
    steps = np.diff(times, append=end)
    step = float(np.median(steps))
    if bool(np.all(np.abs(steps - step) < step / 4)):  # Matroska rounds to milliseconds
        return True, mean_rate(promised, len(times), end)
    # As fast as frames mostly come where they come fast, so that few are lost.
    fps = min(1 / float(np.quantile(steps, 0.25)), HIGHEST_RATE, REPEATS * len(times) / end)
    return False, max(1, round(end * fps)) / end


def encoded(
    frames: Iterator[RGB],
    times: Float[np.ndarray, " T"],
    end: float,
    fps: float,
    *,
    name: str,
) -> tuple[bytes, dict]:
    """Frames with their times as a file of a constant rate, and its facts as `standardize` has them.

    Raises VideoError if they cannot be encoded, and what `frames` raises.
    """
    repeats = constant_rate_repeats(times, end, fps)
    with explained(name, "cannot be encoded"):
        video = encode(_even(frames, repeats), fps)
    stored = probe(video, name=name)
    return video, _facts(stored.width, stored.height, fps, int(repeats.sum()))


def _facts(width: int, height: int, fps: float, frames: int) -> dict:
    return {
        "width": width,
        "height": height,
        "fps": fps,
        "frames": frames,
        "duration": frames / fps,
    }


def constant_rate_repeats(
    times: Float[np.ndarray, " T"], end: float, fps: float
) -> Int[np.ndarray, " T"]:
    """How often to show each frame at `fps` for the same course of time.

    Each frame is there from its time on and the last one until `end`, in seconds.
    """
    moments = (np.arange(max(1, round(end * fps))) + 0.5) / fps
    return np.bincount(np.searchsorted(times, moments, side="right") - 1, minlength=len(times))


def _even(frames: Iterator[RGB], repeats: Int[np.ndarray, " T"]) -> Iterator[RGB]:
    """Repeats frames and cuts an odd last row or column off."""
    for frame, count in zip(frames, repeats, strict=True):
        height, width, _ = frame.shape
        for _ in range(count):
            yield frame[: height // 2 * 2, : width // 2 * 2]
