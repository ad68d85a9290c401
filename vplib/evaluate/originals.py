"""Videos of a public benchmark as `features.Originals`: whole, cut out, or around key frames."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from vplib.data import pictures, pipeline, video
from vplib.data.cutting import ROUNDING, Cuts, Stretch
from vplib.data.video import PIXELS, Probe


class Cut:
    """Videos of `folder`, or what `stretches` cut out of each; `metas` say which, by `file_name`,
    and whatever else is known.
    """

    def __init__(
        self,
        folder: Path,
        metas: Sequence[Mapping],
        stretches: Sequence[Stretch] | None = None,
        *,
        resolution: int,
        max_pixels: int = PIXELS,
    ):
        self.folder, self.metas, self.stretches = folder, metas, stretches
        self._look = dict(resolution=resolution, max_pixels=max_pixels)
        self._cuts = Cuts(**self._look)

    def __len__(self) -> int:
        return len(self.metas)

    def original(self, index: int) -> tuple[bytes | Path, dict]:
        """A file or what is cut out of it, and its metadata. Raises VideoError."""
        meta = dict(self.metas[index])
        name, stretch = meta["file_name"], self.stretches and self.stretches[index]
        path = self.folder / name
        if path.is_dir():
            return pictures.cut(path, stretch, name=name, **self._look)[0], meta
        if stretch:
            return self._cuts.cut(path, stretch, name=f"{name} {stretch}")[0], meta
        return path, meta


class Around:
    """Clips around the key frame of each of `metas`: its `moment` in seconds of the file or, with
    `unit` "frame", its number.

    A clip has `frames` frames, evenly spread over `span` frames of the video, and the middle one
    (frames // 2) is the key frame; before its beginning and behind its end a video repeats its first
    and its last frame. So that all people are seen, the longer side is scaled to `size` pixels, and
    the shorter one is filled up by repeating the border (our choice): see `placed`.
    """

    def __init__(
        self,
        folder: Path,
        metas: Sequence[Mapping],
        *,
        frames: int,
        span: int,
        size: int,
        max_pixels: int = PIXELS,
    ):
        self.folder, self.metas = folder, metas
        self.frames, self.size, self.step = frames, size, span / frames
        self._max_pixels = max_pixels
        self._film = lru_cache(4)(self._opened)

    def __len__(self) -> int:
        return len(self.metas)

    def original(self, index: int) -> tuple[bytes, dict]:
        """A video file of the clip, and its metadata. Raises VideoError."""
        meta = dict(self.metas[index])
        film = self._film(meta["file_name"])
        key = meta["moment"]
        if meta.get("unit") != "frame":
            key = np.searchsorted(film.times, key + ROUNDING, side="right") - 1
        picked = int(key) + np.round((np.arange(self.frames) - self.frames // 2) * self.step)
        shown = film.frames[np.clip(picked, 0, len(film.times) - 1).astype(int)]
        return video.encode(pipeline.crop(shown, self.size), film.fps / self.step), meta

    def _opened(self, name: str) -> video.Video:
        """A film of which only the frames that are asked for are ever decoded."""
        path, look = self.folder / name, dict(name=name, max_pixels=self._max_pixels)
        sides = _sides(video.probe(path, **look))
        short = max(1, round(self.size * min(sides) / max(sides)))
        return video.decode(path, resolution=short, enlarge=True, max_bytes=0, **look)


def placed(place: Sequence[float], width: int, height: int) -> list[float]:
    """A box x0, y0, x1, y1 of a frame, in fractions of it, in fractions of the square that `Around`
    shows of it; clipped to the frame.
    """
    long = max(width, height)
    sides = (width, height) * 2
    inside = np.clip(np.asarray(place, float), 0, 1)
    return [0.5 + (at - 0.5) * side / long for at, side in zip(inside, sides, strict=True)]


def _sides(found: Probe) -> tuple[int, int]:
    return found.width, found.height
