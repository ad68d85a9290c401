"""Records of the families that `corpora` does not hold: files for shards, and what is true of each."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from vplib import code

if TYPE_CHECKING:
    from vplib.data.shards import Clip, Shards


@dataclass(frozen=True)
class Source:
    """A part of a family, such as "flies/train", as a source for `data.shards.write`.

    A subclass says with `drawn` how its videos come about.
    """

    corpus: str
    count: int
    seed: int = 0
    resolution: int = 56

    def drawn(self, index: int) -> tuple[UInt8[np.ndarray, "T H W 3"], float, str]:
        """Frames, frames a second and text of one video."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return self.corpus.replace("/", "-")

    @property
    def fingerprint(self) -> str:
        """Of the arguments and of the code that draws and writes; a digest, not of the videos."""
        return hashlib.sha256(f"{self!r} {code.of(type(self))}".encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> "Clip":
        # PyAV and ArrayRecord, which pictures and texts do not need.
        from vplib.data import shards, video

        if not 0 <= index < self.count:
            raise IndexError(f"video {index} of {self.corpus}, which has {self.count}")
        frames, fps, text = self.drawn(index)
        meta = {"corpus": self.corpus, "index": index, "seed": self.seed}  # `Known` finds the rest
        meta |= {"fps": fps, "frames": len(frames), "duration": len(frames) / fps}
        return shards.Clip(video.encode(frames, fps), text, meta)


class Known:
    """Shards of such a family as `evaluate.features.Originals`: videos, and what is true of each.

    `truth` is that of the family's module; it is asked for each video by the identity in its record.
    """

    def __init__(self, shards: "Shards", truth: Callable[..., dict]):
        self.shards, self.truth = shards, truth

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> "Clip":
        return self.shards[index]

    def original(self, index: int) -> tuple[bytes, dict]:
        """The stored video file, and its metadata with all of `truth`."""
        file, meta = self.shards.original(index)
        return file, meta | self.truth(meta["corpus"], meta["index"], seed=meta["seed"])
