"""Video files: decode them as they are meant to be seen, sample frames by time, encode H.264.

Decoding is sequential: reading every frame of a short clip is faster than seeking to some of them, since clips hold few
key frames. A damaged file is refused as a whole, because a silently shortened clip no longer matches its caption.
"""

import contextlib
import io
import itertools
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8

RGB = UInt8[np.ndarray, "H W 3"]
MEMORY = 512 * 2**20  # bytes of frames that `decode` keeps unless told otherwise


class VideoError(ValueError):
    """A video that cannot be used. The message is one sentence: which file, what is wrong, what to do."""

    def __init__(self, name: str, problem: str, advice: str):
        super().__init__(name, problem, advice)  # all three in `args`, so that the error survives pickling
        self.name, self.problem, self.advice = name, problem, advice

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}; {self.advice}."


class Video(NamedTuple):
    """Decoded frames, upright and with square pixels.

    `times` are seconds from the first frame. `fps` is the mean frame rate of the file.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    times: Float[np.ndarray, " T"]
    fps: float


class Probe(NamedTuple):
    """What the header and the first frame say.

    `width` and `height` are those of the picture as shown; `plain` is true if the stored pixels are shown as they are
    (no rotation, no flip, square pixels). `seconds` is the promised duration and `frames` the promised number of
    frames; either is 0 where the file makes no promise.
    """

    width: int
    height: int
    fps: float
    frames: int
    seconds: float
    codec: str
    container: str
    plain: bool


def decode(source: bytes | Path, *, name: str, size: int | None = None, enlarge: bool = False,
           max_bytes: int = MEMORY) -> Video:
    """All frames of a video or a picture, as RGB; those whose shorter side exceeds `size` pixels are scaled down to it.

    With `enlarge`, smaller ones are scaled up to it, too.

    A video that would need more than `max_bytes` is thinned evenly while it is read: every second frame is dropped as
    often as needed. `times` stay right.

    Raises VideoError if the file cannot be read, holds no video, or is damaged: a frame cannot be decoded, or frames
    end well before the duration that the header promises.
    """
    kept, times, step = [], [], 1
    with _opened(source, name) as (container, stream):
        for index, (time, frame) in enumerate(_read(container, stream, name, size, enlarge)):
            if index % step:
                continue
            kept.append(frame)
            times.append(time)
            if len(kept) > 1 and len(kept) * frame.nbytes > max_bytes:
                kept, times, step = kept[::2], times[::2], 2 * step
        return Video(np.stack(kept), np.array(times), mean_rate(float(stream.average_rate or 0), index + 1, time))


def stream_frames(source: bytes | Path, *, name: str, size: int | None = None) -> Iterator[tuple[float, RGB]]:
    """The frames that `decode` returns, one by one with their times in seconds: any length in little memory.

    Raises VideoError as `decode` does, for a damaged file only when the damage is reached.
    """
    with _opened(source, name) as (container, stream):
        yield from _read(container, stream, name, size)


def probe(source: bytes | Path, *, name: str) -> Probe:
    """Facts about a video without decoding more than its first frame.

    Raises VideoError if the file cannot be opened or its first frame cannot be decoded.
    """
    with _opened(source, name) as (container, stream), _explained(name):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise VideoError(name, "holds no frames", "replace the file or leave it out")
        shape = _shape(frame, stream, size=None)
        matrix = _display_matrix(frame)
        height, width = shape if matrix is None or not _turned(matrix) else shape[::-1]
        identity = matrix is None or bool(matrix[0] > 0 and matrix[4] > 0)
        plain = identity and shape == (frame.height, frame.width)
        seconds = _promised_seconds(container, stream, frame.time or 0.0) or 0.0
        rate = float(stream.average_rate or 0)
        codec = stream.codec_context.name
        return Probe(width, height, rate, stream.frames, seconds, codec, container.format.name, plain)


def mean_rate(promised: float, frames: int, last: float) -> float:
    """Mean frames per second of `frames` frames, the last of them at `last` seconds.

    It is the rate that the header promised (0: none), which is exact, unless the timestamps contradict that.
    """
    seen = (frames - 1) / last if last > 0 else promised or 1.0
    return promised if math.isclose(promised, seen, rel_tol=0.01) else seen


def uniform_indices(
    times: Float[np.ndarray, " T"], count: int, rng: np.random.Generator | None = None
) -> Int[np.ndarray, " count"]:
    """Which frames to take for `count` evenly spaced moments: right for variable frame rates, too.

    The clip is cut into `count` equal stretches of time. The frame on show at the centre of each is taken or, with
    `rng`, at a random moment in each. A clip of fewer frames than `count` repeats frames.
    """
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    offsets = 0.5 if rng is None else rng.random(count)
    moments = times[0] + (np.arange(count) + offsets) / count * (times[-1] - times[0] + interval)
    # A moment that falls on the border of two frames must not depend on rounding: it takes the later frame.
    return np.searchsorted(times, moments + 1e-4 * interval, side="right") - 1


def encode(frames: Iterable[RGB], fps: float | int) -> bytes:
    """An H.264 MP4 file of frames of one, even height and width; the same bytes on every call.

    Takes an array `T H W 3` or any iterable of frames. Colour is stored at half resolution (4:2:0). Raises ValueError
    for odd sizes and for no frames.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("encode: there are no frames; give at least one.")
    height, width, _ = first.shape
    if height % 2 or width % 2:
        raise ValueError(
            f"encode: {width}x{height} pixels are odd, H.264 (4:2:0) needs even sizes; crop or resize first."
        )
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # The same bytes every time: with several threads or with its macroblock tree, x264's output varies. Without
        # the tree, CRF 20 is as close to the frames as CRF 18 is with it.
        options = {"crf": "20", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index, frame in enumerate(itertools.chain([first], frames)):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


@contextlib.contextmanager
def _explained(name: str):
    """Turns the errors of FFmpeg into a VideoError."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise VideoError(
            name, f"is damaged or cut short ({error.strerror})", "replace the file or leave it out"
        ) from error


@contextlib.contextmanager
def _opened(source: bytes | Path, name: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its first video stream that is not a cover picture."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb"))
        except OSError as error:
            raise VideoError(
                name, f"cannot be opened ({error.strerror})", "check the path and its permissions"
            ) from error
        start = file.read(32)
        file.seek(0)
        if not start:
            raise VideoError(name, "is empty (0 bytes)", "copy the file again or leave it out")
        if start.startswith(b"version https://git-lfs"):
            raise VideoError(name, "is a Git LFS pointer, not a video", "run `git lfs pull`")
        try:
            # No protocols: a playlist posing as a video must not make FFmpeg open other files or addresses.
            container = stack.enter_context(av.open(file, options={"protocol_whitelist": "none"}))
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(name, "is not a readable video", "replace the file or leave it out") from error
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & cover]
        if not streams:
            raise VideoError(name, "holds no video stream, only sound or a cover picture", "leave it out")
        yield container, streams[0]


def _read(container, stream, name: str, size: int | None, enlarge: bool = False) -> Iterator[tuple[float, RGB]]:
    """Frames with their times from the first frame, checked for damage."""
    rate = float(stream.average_rate or 25)
    shape = matrix = promised = None
    scaler = VideoReformatter()  # one for all frames: setting it up costs more than converting a small frame (LOG.md)
    index, first, time, longest = -1, 0.0, 0.0, 1 / rate
    with _explained(name):
        for index, frame in enumerate(container.decode(stream)):
            if frame.is_corrupt:
                raise VideoError(name, f"has damaged picture data in frame {index}", "replace the file or leave it out")
            if shape is None:
                shape, matrix = _shape(frame, stream, size, enlarge), _display_matrix(frame)
                first = frame.time or 0.0
                promised = _promised_seconds(container, stream, first)
            # A bare elementary stream has no timestamps, and broken ones repeat: one frame period more, then.
            now = 0.0 if frame.time is None else frame.time - first
            if index and now <= time:
                now = time + 1 / rate
            time, longest = now, max(longest, now - time)
            picture = scaler.reformat(frame, width=shape[1], height=shape[0], format="rgb24", interpolation="BICUBIC")
            yield time, _upright(picture.to_ndarray(), matrix)
    if index < 0:
        raise VideoError(name, "holds no frames", "replace the file or leave it out")
    # Nothing says how long the last frame is on show, and headers are a little off.
    if promised and time < 0.95 * promised - 2 * longest:
        raise VideoError(name, f"ends after {time:.2f} of {promised:.2f} s", "replace the cut file or leave it out")


def _promised_seconds(container, stream, start: float) -> float | None:
    """Duration that the header promises for the stream, in seconds; None if it does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska counts from zero, even if the first frame comes later.
    if tag := stream.metadata.get("DURATION"):
        hours, minutes, seconds = map(float, tag.split(":"))
        return 3600 * hours + 60 * minutes + seconds - start
    if container.duration and len(container.streams) == 1:
        return container.duration / av.time_base - start
    return None


def _shape(frame: av.VideoFrame, stream, size: int | None, enlarge: bool = False) -> tuple[int, int]:
    """Height and width with square pixels, before rotation; shorter side at most `size`, or just that with `enlarge`."""
    height, width = frame.height, max(1, round(frame.width * float(stream.sample_aspect_ratio or 1)))
    scale = size / min(height, width) if size else 1.0
    scale = scale if enlarge else min(1.0, scale)
    return round(height * scale), round(width * scale)


def _display_matrix(frame: av.VideoFrame) -> Int[np.ndarray, " 9"] | None:
    """The 3x3 matrix by which phones say how the stored picture is to be turned or mirrored."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(matrix, np.int32)


def _turned(matrix: Int[np.ndarray, " 9"]) -> bool:
    return bool(abs(matrix[1]) > abs(matrix[0]))


def _upright(picture: RGB, matrix: Int[np.ndarray, " 9"] | None) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Applies x' = a x + c y, y' = b x + d y for quarter turns and mirrors."""
    if matrix is None:
        return picture
    a, b, _, c, d = matrix[:5]
    if _turned(matrix):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
