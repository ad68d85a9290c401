"""Any video as the one kind of file that training reads: upright H.264 in MP4, square pixels, a constant frame rate.

Clips are kept as they are where that does no harm.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from vplib.data.video import RGB, VideoError, encode, mean_rate, probe, stream_frames

SMALLEST_SIDE = 16  # pixels; below that there is nothing to see


def standardize(source: bytes | Path, *, name: str, max_side: int) -> tuple[bytes, dict]:
    """A video as an upright MP4 of square pixels, constant frame rate and a shorter side of at most `max_side` pixels.

    Reads every frame, so that no damaged file gets into a corpus. Returns the file and its `width`, `height` (pixels),
    `fps`, `frames` and `duration` (seconds).

    Raises VideoError if the file cannot be read, is damaged or too small.
    """
    facts = probe(source, name=name)
    if min(facts.width, facts.height) < SMALLEST_SIDE:
        raise VideoError(name, f"is only {facts.width}x{facts.height} pixels", "leave it out")
    # Tiny frames: this pass is for the times and for finding damage.
    times = np.array([time for time, _ in stream_frames(source, name=name, size=SMALLEST_SIDE)])
    steps = np.diff(times)
    interval = float(np.median(steps)) if len(steps) else 0.0
    constant = bool(np.all(np.abs(steps - interval) < interval / 4))  # Matroska rounds times to milliseconds
    fps = mean_rate(facts.fps, len(times), float(times[-1])) if constant else 1 / interval

    small = min(facts.width, facts.height) <= max_side
    if small and constant and facts.plain and facts.codec == "h264" and "mp4" in facts.container.split(","):
        video = source if isinstance(source, bytes) else source.read_bytes()
        width, height, count = facts.width, facts.height, len(times)
    else:
        if times[-1] * fps > 100 * len(times):  # a wrong timestamp could ask for years of one frame
            raise VideoError(name, f"shows only {len(times)} frames in {times[-1]:.0f} s", "repair its timestamps")
        repeats = constant_rate_repeats(times, fps)
        count = int(repeats.sum())
        video = encode(_even(stream_frames(source, name=name, size=max_side), repeats), fps)
        stored = probe(video, name=name)
        width, height = stored.width, stored.height
    return video, {"width": width, "height": height, "fps": fps, "frames": count, "duration": count / fps}


def constant_rate_repeats(times: Float[np.ndarray, " T"], fps: float) -> Int[np.ndarray, " T"]:
    """How often to show each frame, if it is there from its time on, for the same course of time at `fps`.

    The last frame is on show for one interval, as nothing says when it ends.
    """
    moments = np.arange(round(times[-1] * fps) + 1) / fps
    shown = np.searchsorted(times, moments + 0.5 / fps, side="right") - 1
    return np.bincount(shown, minlength=len(times))


def _even(frames: Iterator[tuple[float, RGB]], repeats: Int[np.ndarray, " T"]) -> Iterator[RGB]:
    """Repeats frames and cuts an odd last row or column off."""
    for (_, frame), count in zip(frames, repeats, strict=True):
        height, width, _ = frame.shape
        for _ in range(count):
            yield frame[: height // 2 * 2, : width // 2 * 2]
