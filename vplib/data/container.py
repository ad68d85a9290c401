"""What lies in a video file: its stream, its frames, when each is on show; opened without trust.

Used by `video` alone.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float, Int

STREAMS = 64  # of one file that are looked at
LONGEST_HOLD = 600.0  # seconds that one frame may be on show: a longer gap is a wrong clock
LONGEST_GAP = 10.0  # the same where recordings with clocks of their own may be joined (MPEG-TS)
HIGHEST_RATE = 1000.0  # frames per second
# Here each packet is a frame, and all frames from a key frame on are exact.
SEEKABLE_CODECS = {"h264", "hevc", "av1", "vp9"}
SEEKABLE_CONTAINERS = {"mov", "matroska"}
JOINABLE, UNTIMED = av.format.Flags.ts_discont.value, av.format.Flags.no_timestamps.value
REPLACE = "replace the file or leave it out"


class VideoError(ValueError):
    """A video that cannot be used. One sentence: which file, what is wrong, what to do."""

    def __init__(self, name: str, problem: str, advice: str):
        super().__init__(name, problem, advice)  # all three in `args`: the error survives pickling
        self.name, self.problem, self.advice = name, problem, advice

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}; {self.advice}."


@contextlib.contextmanager
def explained(name: str, problem: str = "is damaged or cut short") -> Iterator[None]:
    """Turns whatever a file makes its reader or encoder raise into a VideoError of that file.

    Lack of memory passes, as it is no fault of the file.
    """
    try:
        yield
    except VideoError:
        raise
    except Exception as error:
        # FFmpeg's own "out of memory" is nearly always a wrong size in the file.
        if isinstance(error, MemoryError) and not isinstance(error, av.error.FFmpegError):
            raise
        cause = " ".join(str(getattr(error, "strerror", None) or error).split())[:100]
        raise VideoError(name, f"{problem} ({cause})", REPLACE) from error


@contextlib.contextmanager
def opened(
    source: bytes | Path, name: str, max_pixels: int
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and the stream that players show.

    Whatever reading them raises, also in the body of the `with`, becomes a VideoError.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise VideoError(name, "is not a file", "name a video file")
        try:
            file = stack.enter_context(
                io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")
            )
            start = file.read(32)
            file.seek(0)
        except (OSError, ValueError) as error:  # the latter: a zero byte in the path
            problem = f"cannot be opened ({getattr(error, 'strerror', error)})"
            raise VideoError(name, problem, "check the path and its permissions") from error
        if not start:
            raise VideoError(name, "is empty (0 bytes)", "copy the file again or leave it out")
        if start.startswith(b"version https://git-lfs"):
            raise VideoError(name, "is a Git LFS pointer, not a video", "run `git lfs pull`")
        limits = {"max_pixels": str(max_pixels)}
        # No protocols: a playlist posing as a video must not make FFmpeg open files or addresses.
        options = {"protocol_whitelist": "none", "max_streams": str(STREAMS), **limits}
        with explained(name):
            try:
                container = av.open(file, options=options, metadata_errors="replace")
            except av.error.FFmpegError as error:
                problem = "is not a readable video"
                if isinstance(error, MemoryError):  # FFmpeg's word for either
                    problem = f"holds more than {STREAMS} streams or impossible sizes"
                raise VideoError(name, problem, REPLACE) from error
            stack.enter_context(container)
            stream = _shown(container.streams, name)
            stream.codec_context.options = limits  # also for a size that changes on the way
            check_pixels(name, stream.width, stream.height, aspect(stream), max_pixels)
        unknown = "" if stream.width else " or its frames exceed data.max_pixels"
        with explained(name, f"is damaged or cut short{unknown}"):
            yield container, stream


def _shown(streams: av.container.streams.StreamContainer, name: str) -> av.VideoStream:
    """What players choose: a film before a picture, then FFmpeg's favourite, then the default, the
    largest, the longest.
    """
    kinds = av.stream.Disposition
    cover = kinds.attached_pic | kinds.timed_thumbnails
    films = [stream for stream in streams.video if not stream.disposition & cover]
    if not films:
        problem = "holds no video stream, only sound or a cover picture"
        raise VideoError(name, problem, "leave it out")
    films = [stream for stream in films if stream.codec_context]
    if not films:
        raise VideoError(name, "is coded in a way that FFmpeg cannot read", "convert it to H.264")
    if len(films) == 1:
        return films[0]
    # It has counted frames where the header does not: Matroska's and AVI's pictures have one.
    favourite = streams.best("video")

    def rank(stream):
        default = bool(stream.disposition & kinds.default)
        seconds = float((stream.duration or 0) * stream.time_base)
        film, largest = stream.frames != 1, stream.width * stream.height
        return film, stream is favourite, default, largest, seconds

    return max(films, key=rank)


def aspect(stream: av.VideoStream) -> float:
    """Width of a pixel in heights."""
    return float(stream.sample_aspect_ratio or 1)


def check_pixels(name: str, width: int, height: int, pixel_aspect: float, max_pixels: int) -> None:
    """Raises VideoError for a frame that is too large, as stored or with square pixels."""
    shown = round(width * max(1.0, pixel_aspect))
    if shown * height > max_pixels:
        problem = f"has frames of {shown}x{height} pixels, more than data.max_pixels={max_pixels}"
        raise VideoError(name, problem, "scale it down or leave it out")


def decoded(
    container: av.container.InputContainer, stream: av.VideoStream, name: str
) -> Iterator[av.VideoFrame]:
    """All frames in viewing order, at least one; their `duration` is 0 where it is not known.

    Raises VideoError when damage is reached.
    """
    count, whole, newest, by_decoding = 0, None, None, _durations_follow_decoding(container)
    for packet in container.demux(stream):
        whole = packet.is_keyframe if whole is None else whole
        newest = packet.pts if packet.size else newest
        leading = not whole and not count  # what precedes the first key frame of a recording
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if leading:
                continue
            raise
        for frame in frames:
            if leading and not count and not frame.key_frame:
                continue
            if frame.is_corrupt:
                raise VideoError(name, f"has damaged picture data in frame {count}", REPLACE)
            if by_decoding and frame.pts != newest:
                frame.duration = 0
            count += 1
            yield frame
    if not count:
        raise VideoError(name, "holds no frames", REPLACE)


def _durations_follow_decoding(container: av.container.InputContainer) -> bool:
    """Whether a stored duration leads to the next frame to be decoded, not to be shown (MP4)."""
    return "mov" in container.format.name.split(",")


def index(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[int], int, Int[np.ndarray, " K"]] | None:
    """Timestamps of all frames, duration of the last one, and timestamps of key frames, in ticks.

    Found without decoding; None where only decoding can tell.
    """
    if stream.codec_context.codec.canonical_name not in SEEKABLE_CODECS:
        return None
    if SEEKABLE_CONTAINERS.isdisjoint(container.format.name.split(",")):
        return None
    seen, keys = {}, []
    for packet in container.demux(stream):
        if not packet.size:
            continue
        odd = packet.pts is None or packet.is_discard or packet.is_corrupt
        if odd or packet.pts in seen or not (packet.is_keyframe or keys):
            return None
        seen[packet.pts] = packet.duration or 0
        if packet.is_keyframe:
            keys.append(packet.pts)
    if not seen or min(seen) != keys[0]:
        return None
    last, newest = max(seen), next(reversed(seen))
    known = last == newest or not _durations_follow_decoding(container)
    return sorted(seen), seen[last] if known else 0, np.array(sorted(keys))


def timeline(
    stamps: list[int | None],
    hold: int | None,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    name: str,
) -> tuple[Float[np.ndarray, " T"], float]:
    """Seconds from the first frame at which each frame comes on show, and at which the last ends.

    `stamps` are the stored times in viewing order and `hold` is the duration of the last frame, in
    ticks. The header's rate counts where stored times say nothing: there are none, they run
    backwards (AVI keeps the order of decoding), or all are equal. Frames of one and the same time
    share the gap to the next.

    Raises VideoError for times that cannot be true (jumps, a frame on show for minutes, thousands
    of frames in a second), and if frames end well before the promise of the header.
    """
    rate, tick = float(stream.guessed_rate or stream.average_rate or 25), stream.time_base
    flags, first = container.format.flags, 0.0
    longest = LONGEST_GAP if flags & JOINABLE else LONGEST_HOLD
    told = not flags & UNTIMED and None not in stamps
    if told:
        times = np.array(stamps, np.float64) * tick.numerator / tick.denominator
        first = float(times[0])
        times = times - first
        steps = np.diff(times)
        for far in np.flatnonzero(np.abs(steps) > longest)[:1]:
            problem = f"has times that jump by {steps[far]:+.0f} s after frame {far}"
            raise VideoError(name, problem, "cut it there or repair its timestamps")
        told = len(times) == 1 or bool((steps >= 0).all() and times[-1] > 0)
    if not told:
        times, hold = np.arange(len(stamps)) / rate, 0
        steps = np.diff(times)
    step = median(steps) if len(steps) else 1 / rate
    held = (hold or 0) * tick.numerator / tick.denominator
    # A constant rate is seen the same whatever its last duration was rounded to.
    held = held if held and abs(held - step) > step / 4 else step
    end = float(times[-1] + held)
    if len(steps) and not steps.all():
        begun = np.flatnonzero(np.diff(times, prepend=-1.0))
        times = np.interp(np.arange(len(times)), [*begun, len(times)], [*times[begun], end])
    if held > longest:
        problem = f"shows its last frame for {held:.0f} s"
        raise VideoError(name, problem, "repair its timestamps or leave it out")
    if len(times) > max(1, HIGHEST_RATE * end):
        problem = f"shows {len(times)} frames in {end:.2g} s"
        raise VideoError(name, problem, "repair its timestamps or leave it out")
    promised = (promised_end(container, stream) or 0.0) - max(0.0, first)
    if end + max(held, steps.max(initial=0.0)) < 0.95 * promised:  # headers are a little off
        problem = f"ends after {end:.2f} of {promised:.2f} s"
        raise VideoError(name, problem, "replace the cut file or leave it out")
    return times, end


def median(values: Float[np.ndarray, " N"]) -> float:
    """As NumPy's, which takes longer than the rest of what is done for a small clip."""
    ordered = np.sort(values)
    return float(ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def promised_end(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """When the stream ends by its header, in seconds on its own clock; None if it does not say."""
    if stream.duration and stream.duration > 0:
        ticks, tick = (stream.start_time or 0) + stream.duration, stream.time_base
        return ticks * tick.numerator / tick.denominator
    # Matroska counts from zero, even if the first frame comes later.
    with contextlib.suppress(ValueError):
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        told = 3600 * float(hours) + 60 * float(minutes) + float(seconds)
        return told if 0 < told < math.inf else None
    if container.duration and container.duration > 0 and len(container.streams) == 1:
        return container.duration / av.time_base
    return None


def promised_frames(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """Number of frames by the header, 0 if it does not say."""
    if stream.frames:
        return stream.frames
    start = float((stream.start_time or 0) * stream.time_base)
    seconds = max(0.0, (promised_end(container, stream) or 0.0) - start)
    return round(seconds * float(stream.average_rate or 0))
