"""Grain input pipelines: shards of encoded video to batches. Files in, numpy out; no jax here.

decode (once, kept in memory) -> sample frames -> crop -> tokenise -> batch -> mix, every step
random-access, so an iterator's whole state is one integer.
"""

import atexit
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path

import grain
import numpy as np
from jaxtyping import UInt8

from vplib import environment
from vplib.data import video
from vplib.data.shards import Shards
from vplib.data.text import Tokenizer


class ClipSource:
    """Decoded, tokenised clips of one corpus by index.

    `resolution` is the shorter side, in pixels, to which larger videos are scaled while they are
    decoded, and with `enlarge` smaller ones, too. Up to `memory` bytes of decoded frames are kept;
    of a long clip only the frames that are picked are ever decoded (video.LazyFrames).
    """

    def __init__(
        self,
        folder: Path,
        *,
        resolution: int,
        tokenizer: Tokenizer | None,
        memory: int,
        enlarge: bool = False,
    ):
        self.shards, self.resolution, self.enlarge = Shards(folder), resolution, enlarge
        self.tokenizer, self.memory = tokenizer, memory
        self._kept: dict[int, dict] = {}
        self._used = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.shards)

    def __repr__(self) -> str:  # Grain puts this into its checks: must not depend on the machine
        return f"ClipSource({self.shards.fingerprint}, {self.resolution})"

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if index in self._kept:
            return self._kept[index]
        clip = self.shards[index]
        decoded = video.decode(
            clip.video,
            name=f"{self.shards.folder.name}[{index}]",
            resolution=self.resolution,
            enlarge=self.enlarge,
        )
        item = {"frames": decoded.frames, "times": decoded.times, "end": decoded.end}
        if self.tokenizer is not None:
            ids, keep = self.tokenizer([clip.text])
            item |= {"ids": ids[0], "keep": keep[0]}
        with self._lock:
            if index not in self._kept and self._used + decoded.frames.nbytes <= self.memory:
                self._kept[index] = item
                self._used += decoded.frames.nbytes
        return item

    def __getstate__(self):  # workers start with an empty cache
        return {**self.__dict__, "_kept": {}, "_used": 0, "_lock": None}

    def __setstate__(self, state):
        self.__dict__ = {**state, "_lock": threading.Lock()}


def crop(
    frames: UInt8[np.ndarray, "T H W 3"], size: int, rng: np.random.Generator | None = None
) -> UInt8[np.ndarray, "T S S 3"]:
    """The same square in every frame: random with `rng`, else central.

    Smaller videos are repeated at their border.
    """
    short = min(frames.shape[1:3])
    if short < size:
        pad = [
            (0, 0),
            *[((max(size - n, 0) + 1) // 2, max(size - n, 0) // 2) for n in frames.shape[1:3]],
            (0, 0),
        ]
        frames = np.pad(frames, pad, mode="edge")
    free = [n - size for n in frames.shape[1:3]]
    top, left = (n // 2 if rng is None else int(rng.integers(n + 1)) for n in free)
    return frames[:, top : top + size, left : left + size]


class Sample(grain.transforms.RandomMap):
    """Frames at random moments of equal stretches of the clip, and a random crop.

    No flips: they would reverse motion. The paper names no augmentation; this is our choice.
    One-frame clips (images) stay one frame unless `tile`, which repeats them.
    """

    def __init__(self, frames: int, size: int, tile: bool = False):
        self.frames, self.size, self.tile = frames, size, tile

    def random_map(self, item: dict, rng: np.random.Generator) -> dict:
        count = self.frames if len(item["frames"]) > 1 or self.tile else 1
        picked = item["frames"][video.uniform_indices(item["times"], count, rng, end=item["end"])]
        return {
            "video": crop(picked, self.size, rng),
            **{k: item[k] for k in ("ids", "keep") if k in item},
        }


def stream(
    folders: Mapping[str, Path],
    weights: Mapping[str, float],
    *,
    frames: int,
    size: int,
    resolution: int,
    batch: int,
    mixing: str,
    seed: int,
    image_batch: int | None = None,
    tokenizer: Tokenizer | None = None,
    memory: int = 2**31,
    index: int = 0,
    count: int = 1,
    threads: int = 2,
    workers: int = 0,
    enlarge: bool = False,
) -> grain.DatasetIterator:
    """An endless iterator of this process's share of global batches.

    A batch is {video uint8 (B,T,S,S,3)} and, with a `tokenizer`, {ids, keep} (B,L).

    Each corpus is shuffled anew every epoch with its own seed and repeated. `resolution` is the
    shorter side, in pixels, of the frames that are cropped to `size`; smaller ones are scaled up
    to it only with `enlarge`. `mixing` "alternating" draws
    every batch from one corpus (alternating gradient descent, the paper's), "plain" mixes inside
    batches; `weights` are relative. `image_batch` is the size of alternating batches from a corpus
    of images (all clips are one frame), `batch` where not given; a single picture among videos is
    repeated. `index` of `count` processes gets its slice of each global batch. `workers` > 0
    decodes in processes. The iterator has get_state and set_state; equal arguments give equal
    batches whatever `threads` and `workers`.

    Raises ValueError for a batch that the processes do not divide or an unknown `mixing`.
    """
    image_batch = image_batch or batch
    for size_of_one in (batch, image_batch):
        if size_of_one % count:
            raise ValueError(
                f"a global batch of {size_of_one} does not divide over {count} processes: "
                "choose a multiple"
            )
    parts, shares = [], []
    for number, (name, folder) in enumerate(sorted(folders.items())):
        if weights[name] <= 0:
            continue
        source = ClipSource(
            folder,
            resolution=resolution,
            tokenizer=tokenizer,
            memory=memory // len(folders),
            enlarge=enlarge,
        )
        part = grain.MapDataset.source(source).seed(seed * 1000 + number).shuffle().repeat()
        # All clips of a batch are of one shape, a single picture among videos, too.
        part = part.random_map(
            Sample(frames, size, tile=mixing == "plain" or not source.shards.images)
        )
        local = (image_batch if source.shards.images else batch) // count
        parts.append(part[index::count].batch(local) if mixing == "alternating" else part)
        shares.append(weights[name])
    if mixing == "alternating":
        mixed = grain.MapDataset.mix(parts, weights=shares)
    elif mixing == "plain":
        mixed = grain.MapDataset.mix(parts, weights=shares)[index::count].batch(batch // count)
    else:
        raise ValueError(f"data.mixing={mixing} is not known: choose alternating or plain")
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8)
    dataset = mixed.to_iter_dataset(ahead)
    if workers:
        environment.parse_flags()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    iterator = iter(dataset)
    alive = weakref.ref(iterator)
    # Later, Grain fails noisily in what Python has taken apart.
    atexit.register(lambda: alive() and alive().close())
    return iterator


def read_clip(
    source: bytes | Path,
    *,
    name: str,
    frames: int,
    size: int,
    resolution: int | None = None,
    max_pixels: int = video.PIXELS,
) -> UInt8[np.ndarray, "T S S 3"]:
    """A model's view of one video of any length: frames at evenly spaced moments, central square.

    The shorter side is scaled down to `resolution` pixels before the crop to `size`; without
    `resolution` it is scaled to `size`, up or down, so that the square is as large as can be.
    Raises VideoError for a video that cannot be used, or has frames of more than `max_pixels`.
    """
    clip = video.decode(
        source,
        name=name,
        resolution=resolution or size,
        enlarge=resolution is None,
        max_pixels=max_pixels,
    )
    return crop(clip.frames[video.uniform_indices(clip.times, frames, end=clip.end)], size)
