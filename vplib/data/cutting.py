"""Clips out of long videos: only what is cut out is decoded, and a file stays open for the next."""

import contextlib
import ctypes
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vplib.data import container as containers
from vplib.data import video
from vplib.data.container import VideoError, explained, opened, timeline
from vplib.data.standardize import SMALLEST_SIDE, encoded, even_rate

OPEN = 4  # files that are kept open: lines of a corpus mostly come file by file
ROUNDING = 1e-6  # seconds: a frame at 0.3 s belongs to what begins at 0.3 s
LEAVE = "correct its line or leave it out"


class Stretch(NamedTuple):
    """A part of a video: seconds, or numbers of frames from 0; `end` is outside."""

    start: float
    end: float  # inf: to the end of the video
    frames: bool

    @classmethod
    def of(cls, entry: dict) -> "Stretch | None":
        """What `start`, `end` and `unit` of a line of metadata say; None if there are no times.

        Raises ValueError, as a part of a sentence, for times that no video has.
        """
        given = [entry.get("start"), entry.get("end")]
        if given == [None, None]:
            return None
        start, end = 0 if given[0] is None else given[0], math.inf if given[1] is None else given[1]
        numbers = all(type(one) in (int, float) for one in (start, end))
        if not numbers or not 0 <= start < end:
            raise ValueError(
                f"`start` {given[0]!r} and `end` {given[1]!r} must be seconds with 0 <= start < end"
            )
        return cls(float(start), float(end), entry.get("unit") == "frame")

    def __str__(self) -> str:
        return f"from {self.start:g} to {self.end:g}{' (frames)' if self.frames else ' s'}"

    @property
    def seconds(self) -> float:
        """How long it is; 0 if that depends on the video."""
        return 0.0 if self.frames or self.end == math.inf else self.end - self.start


class LongVideo:
    """A video file of any length, kept open; memory for its index of frames only.

    H.264, H.265, AV1 and VP9 in MP4 or Matroska are indexed without decoding, once, and a clip
    costs its own frames and those from the key frame before it. Any other file is decoded from its
    beginning, for every clip.

    Raises VideoError as `video.decode` does.
    """

    def __init__(self, path: Path, *, name: str, max_pixels: int = video.PIXELS):
        self._path, self._max_pixels, self._stack = path, max_pixels, contextlib.ExitStack()
        try:
            source = self._stack.enter_context(opened(path, name, max_pixels))
            self._container, self._stream = source
            if 0 < min(self._stream.width, self._stream.height) < SMALLEST_SIDE:
                size = f"{self._stream.width}x{self._stream.height}"
                raise VideoError(name, f"is only {size} pixels", "leave it out")
            with explained(name):
                index = containers.index(*source)
                if index:
                    self._stamps, hold, self._keys = index
                    self.times, self.end = timeline(self._stamps, hold, *source, name)
            if not index:
                self._stamps = None
                self.times, self.end = video.read_times(path, name=name, max_pixels=max_pixels)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def cut(self, stretch: Stretch, *, name: str, resolution: int) -> tuple[bytes, dict]:
        """The frames with start <= t < end, at least the one on show at `start`, as a file of a
        constant rate whose shorter side has at most `resolution` pixels; and its facts as
        `standardize` has them.

        Raises VideoError for a stretch behind the end and for damage in it.
        """
        if stretch.frames:
            first, last = int(stretch.start), int(min(stretch.end, len(self.times)))
            behind = first >= len(self.times)
        else:
            moments = np.array([stretch.start, stretch.end]) - ROUNDING
            first, last = np.searchsorted(self.times, moments).tolist()
            first, behind = min(first, max(0, last - 1)), stretch.start >= self.end
        if behind:
            raise VideoError(name, f"begins behind the end of the file ({self.end:.2f} s)", LEAVE)
        times, until = self.times[first:last], self.end
        if last < len(self.times):
            until = float(self.times[last])
        if not stretch.frames:
            # A last frame that is on show for long ends with the clip, any other is shown in full.
            step = (
                containers.median(np.diff(times)) if len(times) > 1 else self.end / len(self.times)
            )
            if times[0] < stretch.start - ROUNDING:  # no frame begins in it
                times, step = np.array([stretch.start]), 0.0
            until = min(until, max(stretch.end, float(times[-1]) + step))
        times, end = times - times[0], until - float(times[0])
        rate = float(self._stream.average_rate or 0)
        frames = self._frames(first, last, name=name, resolution=resolution)
        return encoded(frames, times, end, even_rate(times, end, rate)[1], name=name)

    def _frames(self, first: int, last: int, *, name: str, resolution: int) -> Iterator[video.RGB]:
        limit = self._max_pixels
        if self._stamps is None:
            frames = video.stream_frames(
                self._path, name=name, resolution=resolution, max_pixels=limit
            )
            yield from itertools.islice(frames, first, last)
            return
        convert = video._converter(self._stream, name, resolution, False, limit)
        wanted = iter(self._stamps[first:last])
        due = next(wanted)
        with explained(name):
            key = int(self._keys[np.searchsorted(self._keys, due, side="right") - 1])
            self._container.seek(key, stream=self._stream)
            for frame in self._container.decode(self._stream):
                if frame.pts is not None and frame.pts < due:
                    continue
                if frame.pts != due or frame.is_corrupt:
                    break
                yield convert(frame)
                if (due := next(wanted, None)) is None:
                    return
        raise VideoError(name, "is damaged: it shows other frames than its index says", LEAVE)


class Cuts:
    """Cuts clips out of files, of which the last few stay open. Safe in threads, and survives
    pickling: then none is open.
    """

    def __init__(self, *, resolution: int, max_pixels: int):
        self._resolution, self._max_pixels = resolution, max_pixels
        self._open: OrderedDict[Path, LongVideo | VideoError] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self):
        return _cuts, (self._resolution, self._max_pixels)

    def cut(self, path: Path, stretch: Stretch, *, name: str) -> tuple[bytes, dict]:
        """As `LongVideo.cut`. Raises VideoError."""
        with self._lock:
            if path not in self._open:
                while len(self._open) >= OPEN:
                    _, oldest = self._open.popitem(last=False)
                    if isinstance(oldest, LongVideo):
                        oldest.close()
                        _give_back()
                try:
                    found = LongVideo(path, name=name, max_pixels=self._max_pixels)
                except VideoError as error:  # nor is a bad file opened for each of its clips
                    found = error
                self._open[path] = found
            self._open.move_to_end(path)
            found = self._open[path]
            if isinstance(found, VideoError):
                raise VideoError(name, found.problem, found.advice)
            return found.cut(stretch, name=name, resolution=self._resolution)


def _give_back() -> None:
    """Returns what a closed file leaves unused to the system: up to a megabyte, which the allocator
    would keep in pieces, of each of a corpus's files. Other systems than glibc's do without.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _cuts(resolution: int, max_pixels: int) -> Cuts:
    return Cuts(resolution=resolution, max_pixels=max_pixels)
