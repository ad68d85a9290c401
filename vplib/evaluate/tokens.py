"""Tokens of whole training corpora by a locked encoder, computed once, in memory or in a file."""

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Float16, UInt8

from vplib import environment, files
from vplib.data import pipeline
from vplib.data.cached import CachedCorpus
from vplib.data.shards import Shards
from vplib.data.text import Tokenizer
from vplib.model import checkpoints
from vplib.model.encoders import VideoEncoder, pixels
from vplib.progress import Progress


def cache(
    encoder: VideoEncoder,
    folders: Mapping[str, Path],
    tokenizer: Tokenizer,
    *,
    frames: int,
    size: int,
    resolution: int,
    batch: int,
    mixing: str,
    memory: float,
    out: Path,
    dtype: str = "float32",
) -> dict[str, CachedCorpus]:
    """Every clip of the corpora in `folders` as the tokens that `encoder` makes of its central view
    (`pipeline.read_clip`), in half precision, 2 S D bytes a clip, beside its text.

    Images are clips of one frame, whose time table is cropped as in stage 1; with `mixing` "plain",
    where all clips of a batch are of one shape, they are repeated. `batch` clips are encoded at a
    time, in `dtype`. If all tokens are more than `memory` bytes they lie in a file in the folder
    `out` that vanishes with this process.

    Raises VideoError for a clip that cannot be read, CheckpointError if a token is not finite,
    FileError if there is no room for the file, and MemoryError if a device's memory is too small.
    """
    corpora = {name: Shards(folder) for name, folder in folders.items()}
    counts = {
        name: 1 if shards.images and mixing == "alternating" else frames
        for name, shards in corpora.items()
    }
    places, width = encoder.grid**2, encoder.spatial_pos_emb.emb_var.shape[1]
    shapes = {name: (len(corpora[name]), n * places, width) for name, n in counts.items()}
    room = 2 * sum(map(math.prod, shapes.values()))
    empty = np.empty if room <= memory else partial(_mapped, files.folder(out))
    found, done = {}, 0
    with Progress(sum(map(len, corpora.values())), "tokens") as progress:
        for name, shards in corpora.items():
            tokens, texts = empty(shapes[name], np.float16), []
            view = dict(frames=counts[name], size=size, resolution=resolution)
            for videos, said in _batches(shards, batch, view):
                rows = slice(len(texts), len(texts) + len(said))
                with environment.enough_memory("take a smaller eval.batch"):
                    tokens[rows] = np.asarray(_tokens(encoder, videos, dtype=dtype))[: len(said)]
                if not np.isfinite(tokens[rows]).all():
                    raise checkpoints.CheckpointError(
                        f"the locked encoder makes numbers of {name} that are not finite: its "
                        "weights are damaged or too large for half precision; train them again"
                    )
                texts += said
                progress.update(done + len(texts))
            done += len(texts)
            found[name] = CachedCorpus(tokens, *tokenizer(texts), images=shards.images)
    return found


def _batches(
    shards: Shards, batch: int, view: dict
) -> Iterator[tuple[UInt8[np.ndarray, "B T S S 3"], list[str]]]:
    """All clips in order, and their texts. The last batch repeats its last clip, so that all have
    one shape, and has fewer texts."""

    def read(index: int) -> tuple[np.ndarray, str]:
        clip = shards[index]
        name = f"{shards.folder.name}[{index}]"
        return pipeline.read_clip(clip.video, name=name, **view), clip.text

    with ThreadPoolExecutor(2) as pool:
        for start in range(0, len(shards), batch):
            part = range(start, min(start + batch, len(shards)))
            videos, texts = zip(*pool.map(read, part), strict=True)
            yield np.stack(videos + videos[-1:] * (batch - len(part))), [*texts]


def _mapped(out: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array in a file without a name, which the system removes when this process ends.

    Raises FileError where the disk has no room: writing to a mapped page that has no place
    would kill the process without a word.
    """
    with files.explained(out):
        if shutil.disk_usage(out).free < math.prod(shape) * np.dtype(dtype).itemsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=out) as file:
            return np.memmap(file, dtype, "w+", shape=shape)


@partial(jax.jit, static_argnames="dtype")
def _tokens(
    encoder: VideoEncoder, video: UInt8[Array, "B T S S 3"], dtype: str
) -> Float16[Array, "B N D"]:
    return encoder(pixels(video, dtype), crop=video.shape[1] == 1).astype("float16")
