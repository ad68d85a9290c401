"""Video files: decode them as they are meant to be seen, sample frames by time, encode H.264.

A short clip is decoded from end to end, which is faster than seeking, since it holds few key
frames, and refused as a whole if it is damaged: a silently shortened clip no longer matches its
caption. Of a long one (LazyFrames) only the frames asked for are decoded.
"""

import contextlib
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Int, UInt8

from vplib.data import container as containers
from vplib.data.container import VideoError, decoded, opened, timeline

RGB = UInt8[np.ndarray, "H W 3"]
MEMORY = 256 * 2**20  # bytes of frames that `decode` keeps; a longer clip is decoded on demand
PIXELS = 8192 * 4320  # of the largest frame that is decoded


class Video(NamedTuple):
    """Decoded frames, upright and with square pixels.

    `times` are seconds from the first frame, and at `end` the last one is no longer on show. `fps`
    is the mean frame rate of the file.
    """

    frames: "UInt8[np.ndarray, 'T H W 3'] | LazyFrames"
    times: Float[np.ndarray, " T"]
    end: float
    fps: float


class Probe(NamedTuple):
    """What the header and the first frame say.

    `width` and `height` are those of the picture as shown; `plain` is true if the stored pixels are
    shown as they are (no rotation, no flip, square pixels). `seconds` is the promised duration and
    `frames` the promised number of frames; either is 0 where the file makes no promise.
    """

    width: int
    height: int
    fps: float
    frames: int
    seconds: float
    codec: str
    container: str
    plain: bool


def decode(
    source: bytes | Path,
    *,
    name: str,
    resolution: int | None = None,
    enlarge: bool = False,
    max_bytes: int = MEMORY,
    max_pixels: int = PIXELS,
) -> Video:
    """All frames of a video or a picture, as RGB.

    Those whose shorter side exceeds `resolution` pixels are scaled down to it; with `enlarge`,
    smaller ones are scaled up to it. If they would need more than `max_bytes`, `frames` is a
    LazyFrames.

    Raises VideoError if the file cannot be read, holds no video, has more than `max_pixels` pixels
    in a frame, times that cannot be true, or is damaged: a frame cannot be decoded, or frames end
    well before the duration that the header promises.
    """
    kept, stamps, hold = [], [], 0
    with opened(source, name, max_pixels) as (container, stream):
        scaling = {"resolution": resolution, "enlarge": enlarge, "max_pixels": max_pixels}
        convert = _converter(stream, name, **scaling)
        height, width = _scaled(stream.height, stream.width, resolution, enlarge)
        if containers.promised_frames(container, stream) * height * width * 3 <= max_bytes:
            for frame in decoded(container, stream, name):
                stamps.append(frame.pts)
                hold = frame.duration
                kept.append(convert(frame))
                if len(kept) > 1 and len(kept) * kept[0].nbytes > max_bytes:
                    break  # longer than the header says
            else:
                times, end = timeline(stamps, hold, container, stream, name)
                fps = mean_rate(float(stream.average_rate or 0), len(times), end)
                return Video(np.stack(kept), times, end, fps)
    frames = LazyFrames(source, name=name, **scaling)
    return Video(frames, frames.times, frames.end, frames.fps)


class LazyFrames:
    """The frames of a long video, decoded when asked for: `frames[indices]` is an array `T H W 3`.

    H.264, H.265, AV1 and VP9 in MP4 or Matroska are decoded from the key frame before each frame
    asked for, to the same pixels as from the beginning; there, only those stretches, the index and
    the promised duration are checked for damage. Any other file is read as a whole, each time.
    Raises VideoError as `decode` does.
    """

    def __init__(self, source: bytes | Path, *, name: str, max_pixels: int = PIXELS, **scaling):
        self._source, self._name, self._max_pixels = source, name, max_pixels
        self._scaling = {**scaling, "max_pixels": max_pixels}
        with opened(source, name, max_pixels) as (container, stream):
            rate, index = float(stream.average_rate or 0), containers.index(container, stream)
            if index:
                self._stamps, hold, self._keys = index
                self.times, self.end = timeline(self._stamps, hold, container, stream, name)
        if not index:
            self._stamps = self._keys = None
            self.times, self.end = read_times(source, name=name, max_pixels=max_pixels)
        self.fps = mean_rate(rate, len(self), self.end)

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, index) -> UInt8[np.ndarray, "..."]:
        index = np.arange(len(self))[index]
        wanted, places = np.unique(index, return_inverse=True)
        frames = (self._keys is not None and self._sought(wanted)) or self._read(wanted)
        return np.stack(frames)[places.reshape(index.shape)]

    @property
    def nbytes(self) -> int:
        """Bytes of memory held: an index, and the encoded video if it was given as bytes."""
        return 48 * len(self) + (len(self._source) if isinstance(self._source, bytes) else 0)

    def _sought(self, wanted: Int[np.ndarray, " N"]) -> list[RGB] | None:
        """The frames by seeking; None if anything on the way is not as the index says."""
        found, at = [], None
        with (
            opened(self._source, self._name, self._max_pixels) as (container, stream),
            contextlib.suppress(av.error.FFmpegError),
        ):
            convert = _converter(stream, self._name, **self._scaling)
            for stamp in (self._stamps[place] for place in wanted):
                key = int(self._keys[np.searchsorted(self._keys, stamp, side="right") - 1])
                if at is None or key > at:
                    container.seek(key, stream=stream)
                    frames, at = container.decode(stream), None
                while at is None or at < stamp:
                    frame = next(frames, None)
                    if frame is None or frame.pts is None or frame.is_corrupt:
                        return None
                    at = frame.pts
                if at != stamp:
                    return None
                found.append(convert(frame))
            return found
        return None

    def _read(self, wanted: Int[np.ndarray, " N"]) -> list[RGB]:
        """The frames by decoding everything."""
        found, chosen, count = [], set(wanted.tolist()), 0
        with opened(self._source, self._name, self._max_pixels) as (container, stream):
            convert = _converter(stream, self._name, **self._scaling)
            for count, frame in enumerate(decoded(container, stream, self._name), start=1):
                if count - 1 in chosen:
                    found.append(convert(frame))
        if count != len(self):
            problem = f"shows {count} frames where its index has {len(self)}"
            raise VideoError(self._name, problem, containers.REPLACE)
        return found


def read_times(
    source: bytes | Path, *, name: str, max_pixels: int = PIXELS
) -> tuple[Float[np.ndarray, " T"], float]:
    """`times` and `end` as in Video, by decoding every frame and keeping none.

    Raises VideoError as `decode` does.
    """
    stamps, hold = [], 0
    with opened(source, name, max_pixels) as (container, stream):
        for frame in decoded(container, stream, name):
            stamps.append(frame.pts)
            hold = frame.duration
        return timeline(stamps, hold, container, stream, name)


def stream_frames(
    source: bytes | Path,
    *,
    name: str,
    resolution: int | None = None,
    max_pixels: int = PIXELS,
) -> Iterator[RGB]:
    """The frames that `decode` returns, one by one: any length in little memory.

    Raises VideoError when a damaged frame is reached; what times tell, only `read_times` checks.
    """
    with opened(source, name, max_pixels) as (container, stream):
        convert = _converter(stream, name, resolution, False, max_pixels)
        for frame in decoded(container, stream, name):
            yield convert(frame)


def probe(source: bytes | Path, *, name: str, max_pixels: int = PIXELS) -> Probe:
    """Facts about a video without decoding more than its first frame.

    Raises VideoError if the file cannot be opened or its first frame cannot be decoded.
    """
    with opened(source, name, max_pixels) as (container, stream):
        frame = next(decoded(container, stream, name))
        shape = _shape(frame, stream, name, None, False, max_pixels)
        matrix = _display_matrix(frame)
        height, width = shape if matrix is None or not _turned(matrix) else shape[::-1]
        identity = matrix is None or bool(matrix[0] > 0 and matrix[4] > 0)
        end = containers.promised_end(container, stream) or 0.0
        return Probe(
            width=width,
            height=height,
            fps=float(stream.average_rate or 0),
            frames=stream.frames,
            seconds=max(0.0, end - (frame.time or 0.0)),
            codec=stream.codec_context.name,
            container=container.format.name,
            plain=identity and shape == (frame.height, frame.width),
        )


def mean_rate(promised: float, frames: int, seconds: float) -> float:
    """Mean frames per second of `frames` frames in `seconds` seconds.

    It is the rate that the header promised (0: none), which is exact, unless the timestamps
    contradict that.
    """
    seen = frames / seconds
    return promised if math.isclose(promised, seen, rel_tol=0.01) else seen


def uniform_indices(
    times: Float[np.ndarray, " T"],
    count: int,
    rng: np.random.Generator | None = None,
    *,
    end: float | None = None,
) -> Int[np.ndarray, " count"]:
    """Which frames to take for `count` evenly spaced moments: right for variable rates, too.

    The clip is cut into `count` equal stretches of time. The frame on show at the centre of each is
    taken or, with `rng`, at a random moment in each. A clip of fewer frames than `count` repeats
    frames. `end` is when the last frame is no longer on show, by default one interval after it
    began.
    """
    step = containers.median(np.diff(times)) if len(times) > 1 else 1.0
    seconds = times[-1] - times[0] + step if end is None else end - times[0]
    offsets = 0.5 if rng is None else rng.random(count)
    moments = times[0] + (np.arange(count) + offsets) / count * seconds
    # A moment on the border of two frames must not depend on rounding: it takes the later frame.
    return np.searchsorted(times, moments + 1e-4 * step, side="right") - 1


def encode(frames: Iterable[RGB], fps: float | int) -> bytes:
    """An H.264 MP4 file of frames of one, even height and width; the same bytes on every call.

    Takes an array `T H W 3` or any iterable of frames. Colour is stored at half resolution (4:2:0).
    Raises ValueError for odd sizes and for no frames.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError("encode: there are no frames; give at least one.")
    height, width, _ = first.shape
    if height % 2 or width % 2:
        raise ValueError(
            f"encode: {width}x{height} pixels are odd, H.264 (4:2:0) needs even sizes; "
            "crop or resize first."
        )
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        # The same bytes every time: with several threads or with its macroblock tree, x264's output
        # varies. "veryfast" takes two fifths of the time of the default, and with CRF 18 is as close
        # to the frames as that with 20, in a fifth more bytes (LOG.md).
        options = {"preset": "veryfast", "crf": "18", "threads": "1", "x264-params": "mbtree=0"}
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options=options
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for index, frame in enumerate(itertools.chain([first], frames)):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def _converter(
    stream: av.VideoStream, name: str, resolution: int | None, enlarge: bool, max_pixels: int
) -> Callable[[av.VideoFrame], RGB]:
    """A function from decoded frames to RGB, upright, all of the size of the first."""
    scaler = VideoReformatter()  # one for all: setting it up costs more than a small frame (LOG.md)
    shape = matrix = None

    def convert(frame: av.VideoFrame) -> RGB:
        nonlocal shape, matrix
        if shape is None:
            shape = _shape(frame, stream, name, resolution, enlarge, max_pixels)
            matrix = _display_matrix(frame)
        picture = scaler.reformat(
            frame, width=shape[1], height=shape[0], format="rgb24", interpolation="BICUBIC"
        )
        return _upright(picture.to_ndarray(), matrix)

    return convert


def _shape(
    frame: av.VideoFrame,
    stream: av.VideoStream,
    name: str,
    resolution: int | None,
    enlarge: bool,
    max_pixels: int,
) -> tuple[int, int]:
    """Height and width with square pixels, before rotation, scaled as `decode` says."""
    width = max(1, round(frame.width * containers.aspect(stream)))
    height, width = _scaled(frame.height, width, resolution, enlarge)
    containers.check_pixels(name, width, height, 1.0, max_pixels)
    return height, width


def _scaled(height: int, width: int, resolution: int | None, enlarge: bool) -> tuple[int, int]:
    scale = resolution / min(height, width) if resolution and height and width else 1.0
    scale = scale if enlarge else min(1.0, scale)
    return round(height * scale), round(width * scale)


def _display_matrix(frame: av.VideoFrame) -> Int[np.ndarray, " 9"] | None:
    """The 3x3 matrix by which phones say how the stored picture is to be turned or mirrored."""
    data = SideDataContainer.__new__(SideDataContainer)
    # PyAV stops at what it has no name for: EXIF, whose orientation FFmpeg puts before it.
    with contextlib.suppress(ValueError):
        data.__init__(frame)
    matrix = data.get("DISPLAYMATRIX")
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
