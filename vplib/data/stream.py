"""Some frames of a video of any length, in one pass."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vplib.data import video
from vplib.data.container import REPLACE, VideoError, decoded, opened


def picked_frames(
    source: bytes | Path,
    picked: Int[np.ndarray, " N"],
    *,
    name: str,
    resolution: int | None = None,
    enlarge: bool = False,
    max_pixels: int = video.PIXELS,
) -> Iterator[video.RGB]:
    """Those of the frames of `video.decode` whose numbers are `picked` (ascending), one by one, of a
    video of any length, in any container, in one pass and in little memory.

    Raises VideoError when a damaged frame is reached, or if there are fewer frames.
    """
    with opened(source, name, max_pixels) as (container, stream):
        convert = video._converter(stream, name, resolution, enlarge, max_pixels)
        frames = enumerate(decoded(container, stream, name))
        for number in picked.tolist():
            frame = next((frame for place, frame in frames if place == number), None)
            if frame is None:
                problem = f"ends before frame {number} of its index"
                raise VideoError(name, problem, REPLACE)
            yield convert(frame)
