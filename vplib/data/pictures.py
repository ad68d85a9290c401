"""Folders of pictures as videos: what KABR hands out instead of files."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vplib.data.cutting import LEAVE, Stretch
from vplib.data.standardize import encoded
from vplib.data.video import RGB, VideoError, decode

SUFFIXES = (".jpg", ".jpeg", ".png")
RATE = 30.0  # pictures a second: the form says none, and drones mostly film so (our choice)


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, hidden ones left, by the numbers in their names: 2.jpg before 10.jpg."""

    def order(path: Path) -> list:
        parts = re.split(r"(\d+)", path.name)
        return [int(part) if part.isdigit() else part for part in parts]

    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted((path for path in found if not path.name.startswith(".")), key=order)


def digest(folder: Path) -> str:
    """Hash of names and sizes: enough to notice other pictures. Of a folder that cannot be read, the
    reason, as of a file.
    """
    try:
        content = [f"{path.name} {path.stat().st_size}" for path in pictures(folder)]
    except OSError as error:
        return f"{error.strerror}"
    return hashlib.sha256("\n".join(content).encode()).hexdigest()


def cut(
    folder: Path, stretch: Stretch | None, *, name: str, resolution: int, max_pixels: int
) -> tuple[bytes, dict]:
    """Pictures, all or those of a stretch, as a file of RATE frames a second, and its facts as
    `standardize` has them. What differs in size from the first one is damage.

    Raises VideoError for a stretch behind the end and for a picture that cannot be read.
    """
    found = pictures(folder)
    if stretch:
        times = np.arange(len(found)) / (1.0 if stretch.frames else RATE)
        found = [path for path, at in zip(found, times, strict=True) if stretch.start <= at < stretch.end]
    if not found:
        raise VideoError(name, f"begins behind the last picture of {folder.name}", LEAVE)

    def frames() -> Iterator[RGB]:
        shape = None
        for path in found:
            one = decode(path, name=f"{name}/{path.name}", resolution=resolution, max_pixels=max_pixels)
            shape = shape or one.frames[0].shape
            if one.frames[0].shape != shape:
                raise VideoError(name, f"has pictures of several sizes ({path.name})", LEAVE)
            yield one.frames[0]

    return encoded(frames(), np.arange(len(found)) / RATE, len(found) / RATE, RATE, name=name)
