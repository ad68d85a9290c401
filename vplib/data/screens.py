"""Clips in which nothing moves, and clips that show written pages: they teach little of video.

    python -m vplib.data.screens data/shards/mine/train

The paper's Anonymous-Corpus #3 was filtered by how much frame embeddings change (arXiv:2402.13217,
appendix A); how exactly is not published. What pixels say is our choice: it needs no model.
"""

import numpy as np
from jaxtyping import Float

from vplib.data import decisions, video
from vplib.data.duplicates import areas
from vplib.data.shards import Clip

LOOKS = 8  # frames of a clip
STILL = 6.0  # of 255: what no place of a clip without motion changes by
# Along each side of a frame, whose means are compared; noise of encoding vanishes there.
PLACES = 32
TILE = 12  # pixels
SMALLEST = 96  # pixels of the shorter side below which nobody can read
PAGE = 0.85  # of the tiles of a page show its ground
STROKES = 14  # changes between ground and ink along a row of pixels in a line of writing
LINES = (0.04, 0.75)  # share of such rows in a page


class Screens:
    """A step of vplib.data.decisions: drops clips without motion and those that are mostly pages of
    text. Single frames are judged as pages alone.
    """

    name = "screens"
    identity = decisions.identity(LOOKS, STILL, PLACES, TILE, SMALLEST, PAGE, STROKES, LINES)

    def __call__(self, clip: Clip, name: str) -> dict | None:
        decoded = video.decode(clip.video, name=name)
        count = min(LOOKS, len(decoded.times))
        chosen = video.uniform_indices(decoded.times, count, end=decoded.end)
        grey = decoded.frames[chosen] @ np.array([0.299, 0.587, 0.114], np.float32)
        change = greatest_change(grey)
        if count > 1 and change < STILL:
            return {"why": "static", "change": round(change, 3)}
        pages = float(np.mean([is_page(one) for one in grey]))
        if pages > 0.5:
            return {"why": "text", "frames": round(pages, 3)}
        return None


def greatest_change(grey: Float[np.ndarray, "T H W"]) -> float:
    """The most that any place changes in a clip, of 255: from its darkest to its brightest moment."""
    rows, columns = (areas(0.0, 1.0, side, min(PLACES, side)) for side in grey.shape[1:])
    return float(np.ptp(rows @ grey @ columns.T, axis=0).max())


def is_page(grey: Float[np.ndarray, "H W"]) -> bool:
    """Whether a frame is a page: lines of writing on one ground, and hardly anything else.

    Ground is uniform and of one brightness. Where a line is written, rows of pixels cross many
    strokes, as they do of few things; between lines they cross none.
    """
    if min(grey.shape) < SMALLEST:
        return False
    height, width = (side // TILE * TILE for side in grey.shape)
    tiles = grey[:height, :width].reshape(height // TILE, TILE, width // TILE, TILE)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(-1, TILE, TILE)
    low, high = np.quantile(tiles, [0.02, 0.98], axis=(1, 2))
    uniform = high - low < 16
    if not uniform.any():
        return False
    ground = np.median(tiles[uniform].mean((1, 2)))
    page = uniform & (np.abs(tiles.mean((1, 2)) - ground) < 12)
    # The ground shows in every tile of writing, between strokes and beside them.
    written = ~page & ((np.abs(tiles - ground) < 24).mean((1, 2)) > 0.25)
    ink = np.abs(grey - ground) > 40
    strokes = np.abs(np.diff(ink.astype(np.int8), axis=1)).sum(1)  # along each row of pixels
    lines = (strokes >= STROKES).mean()
    return bool((page | written).mean() >= PAGE and LINES[0] <= lines <= LINES[1])


def main() -> None:
    decisions.run(Screens, decisions.parser("vplib.data.screens", __doc__).parse_args().corpus)


if __name__ == "__main__":
    main()
