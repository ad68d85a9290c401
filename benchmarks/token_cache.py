"""Memory and time of a probe that is trained on tokens in files, at the released base size.

    python benchmarks/token_cache.py                       1,000 clips of random numbers: 6.3 GB of disk
    python benchmarks/token_cache.py --compare             also against tokens in memory: 6.3 GB more
    python benchmarks/token_cache.py --videos FOLDER       encodes the clips of a folder with metadata.jsonl

A probe as that of `45_own_classifier` (12 heads, batches of 64 clips of 4,096 tokens of 768 numbers)
is trained for two epochs; bar: at most 4 GB of memory. Peaks are of this process (resident, without
the pages of files that the system keeps); before every training the system is asked to drop those,
so that the first epoch reads the disk. With --compare the two take turns after one that does not
count. With --videos the encoder is a base model with random weights, in float32 and batches of 8,
and once more, when all are there. Minutes on 2 CPU cores; videos take 5 s a clip.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vplib import environment

environment.restart()  # as in every run, before jax starts

import jax
import numpy as np
from common import turns
from flax import nnx

from vplib.data.sources import FolderSource
from vplib.evaluate import classify, features, heads
from vplib.evaluate.cache import Cache, OnDisk, Rows
from vplib.model import checkpoints
from vplib.model.encoders import VideoEncoder

BASE = checkpoints.sizes_of(checkpoints.RELEASED["videoprism_public_v1_base"])
SHAPE = (BASE.frames * BASE.places, BASE.width)
RECIPE = dict(heads=BASE.heads, batch=64, learning_rate=3e-3, weight_decay=0.01, seed=0)


def peak() -> str:
    """The most memory that this process has held so far."""
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.2f} GB"


def written(folder: Path, clips: int) -> Rows:
    """Random tokens of so many clips, in files."""
    rng, kept = np.random.default_rng(0), OnDisk(folder, clips, {})
    for begin in range(0, clips, 8):
        rows = [*range(begin, min(begin + 8, clips))]
        tokens = rng.standard_normal((len(rows), *SHAPE), np.float32).astype(np.float16)
        kept.add(rows, {"tokens": tokens})
    return kept.finish()["tokens"]


def train(tokens: Rows | np.ndarray, labels: np.ndarray, epochs: int) -> nnx.State:
    """The parameters of a trained probe."""
    probe = heads.train_probe(tokens, labels, classes=10, epochs=epochs, **RECIPE)
    return nnx.state(probe, nnx.Param)


def forget(folder: Path) -> None:
    """Ask the system to drop what it keeps of the files in memory."""
    for path in folder.glob("*.bin"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def random_clips(folder: Path, clips: int, epochs: int, repeats: int) -> None:
    start, labels = time.perf_counter(), np.arange(clips) % 10
    tokens = written(folder, clips)
    took = time.perf_counter() - start
    print(f"{clips} clips, {tokens.nbytes / 1e9:.2f} GB written in {took:.1f} s; {peak()}")

    def from_files():
        forget(folder)
        return train(tokens, labels, epochs)

    start = time.perf_counter()
    jax.block_until_ready(from_files())
    took = time.perf_counter() - start
    print(f"{epochs} epochs from files in {took:.1f} s, compiling included; {peak()}")
    if repeats:
        held = np.asarray(tokens)
        runs = {"files": from_files, "memory": lambda: train(held, labels, epochs)}
        times = turns(runs, repeats)
        ratios = times["files"] / times["memory"]
        print(
            f"time from files / from memory: {np.median(ratios):.2f} "
            f"[{ratios.min():.2f}, {ratios.max():.2f}]; {peak()} with all tokens in memory"
        )


class First:
    """The first clips of a source."""

    def __init__(self, source: FolderSource, clips: int):
        self.source, self.clips = source, min(clips, len(source))

    def __len__(self) -> int:
        return self.clips

    def original(self, index: int) -> tuple[Path, dict]:
        return self.source.original(index)


def real_clips(folder: Path, videos: Path, clips: int, batch: int) -> None:
    encoder = VideoEncoder(BASE, rngs=nnx.Rngs(0))
    source = First(FolderSource(videos, name=videos.name, resolution=BASE.size), clips)
    identity = {"weights": checkpoints.digest(checkpoints.flatten(encoder))}
    settings = dict(name="videos", out=folder, batch=batch, max_skipped_fraction=0.5)
    for again in (False, True):
        start = time.perf_counter()
        found = features.features(
            {"tokens": features.tokens_of(encoder)},
            source,
            **classify.view(encoder),
            **settings,
            cache=Cache(folder, identity),
        )
        took, tokens = time.perf_counter() - start, found.values["tokens"]
        print(
            f"{len(tokens)} clips, {tokens.nbytes / 1e6:.1f} MB, {len(found.skipped)} left out, in "
            f"{took:.2f} s{' when all are there' * again}; {peak()}"
        )
    jax.block_until_ready(train(tokens, np.arange(len(tokens)) % 10, 3))
    print(f"three epochs on them; {peak()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="turns of --compare")
    parser.add_argument("--videos", type=Path, metavar="FOLDER")
    parser.add_argument("--batch", type=int, default=8, help="clips of --videos encoded at a time")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vplib-") as folder:
        if given.videos:
            real_clips(Path(folder), given.videos, given.clips, given.batch)
        else:
            repeats = given.repeats if given.compare else 0
            random_clips(Path(folder), given.clips, given.epochs, repeats)


if __name__ == "__main__":
    main()
