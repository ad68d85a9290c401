"""Features of a whole corpus, videos and texts, by a frozen model, a batch of clips at a time."""

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float16, Int, UInt8

from vplib import code, environment, files
from vplib.data import pipeline, shards
from vplib.data.sources import SourceError, digest
from vplib.data.text import Tokenizer
from vplib.data.video import PIXELS, VideoError
from vplib.evaluate.cache import Cache, InMemory, OnDisk, Rows
from vplib.model import checkpoints, frozen
from vplib.model.encoders import (
    VideoClassifier,
    VideoEncoder,
    VideoText,
    by_images,
    normalise,
    pixels,
)
from vplib.progress import Progress


@runtime_checkable
class Originals(Protocol):
    """Videos: `original(i)` is a file, or its bytes, and a dictionary with `file_name` and
    whatever is known.

    `shards.Shards`, `sources.FolderSource` and `sources.WebDatasetSource` are such.
    """

    def __len__(self) -> int: ...

    def original(self, index: int) -> tuple[bytes | Path, dict]: ...


class First(NamedTuple):
    """The first `count` videos of a source; None: all."""

    source: Originals
    count: int | None

    def __len__(self) -> int:
        return min(self.count or len(self.source), len(self.source))

    def original(self, index: int) -> tuple[bytes | Path, dict]:
        return self.source.original(index)


class Features(NamedTuple):
    """What `features` found: a row of each encoder's `values` for every clip that could be read."""

    values: dict[str, np.ndarray | Rows]
    rows: Int[np.ndarray, " C"]  # which clips of the source those are
    skipped: list[dict]  # {file, reason} of the others


def features(
    encoders: Mapping[str, Callable],
    source: Originals,
    *,
    name: str,
    out: Path,
    frames: int,
    size: int,
    resolution: int | None = None,
    max_pixels: int = PIXELS,
    batch: int,
    max_skipped_fraction: float,
    cache: Cache | None = None,
) -> Features:
    """Features of every clip of `source`, by each of `encoders`, in one pass over the videos.

    An encoder is a compiled function of uint8 clips (B,T,S,S,3), such as `tokens_of` gives. Clips
    are read by `pipeline.read_clip`, `batch` at a time, and never kept. Those that cannot be are
    listed in `out/skipped-<name>.csv`. With a `cache` the values are `Rows` of files in its folder
    `name`, where a killed process goes on and equal videos are not encoded again.

    Raises SourceError if more than `max_skipped_fraction` of the clips cannot be read, or none is
    left, CheckpointError if a feature is not finite, MemoryError if a device's memory is too small,
    and for a cache CacheError and FileError, as `OnDisk`.
    """
    view = dict(frames=frames, size=size, resolution=resolution, max_pixels=max_pixels)
    with _kept(cache, encoders, source, name, view) as kept:
        with Progress(len(source), name) as progress:
            if start := len(kept.rows) + len(kept.skipped):
                progress.update(start, skipped=len(kept.skipped))
            for found, videos in _batches(source, batch, kept.skipped, view, start):
                each = ((of, encoded(run, videos, of, name)) for of, run in encoders.items())
                kept.add(found, {of: part[: len(found)] for of, part in each})
                progress.update(found[-1] + 1, skipped=len(kept.skipped))
        values = kept.finish()
    leave_out(kept.skipped, kept.rows, source, name, out, max_skipped_fraction)
    return Features(values, np.array(kept.rows), kept.skipped)


@contextlib.contextmanager
def _kept(
    cache: Cache | None, encoders: Mapping, source: Originals, name: str, view: dict
) -> Iterator[InMemory | OnDisk]:
    """Where `features` puts what it finds; a folder is held meanwhile."""
    if cache is None:
        yield InMemory(len(source))
        return
    told = {"videos": fingerprint(source), "view": view, "encoders": [*encoders]}
    told["code"] = code.of(pipeline.read_clip, *encoders.values())
    with files.locked(cache.folder / name, doing=f"encoding {name}"):
        yield OnDisk(cache.folder / name, len(source), {**cache.identity, **told})


def encoded(
    run: Callable, videos: UInt8[np.ndarray, "B T S S 3"], encoder: str, name: str
) -> np.ndarray:
    """Features of a batch. Raises CheckpointError if one is not finite, MemoryError if a device's
    memory is too small.
    """
    with environment.enough_memory("take a smaller eval.batch or hardware.dtype=bfloat16"):
        part = np.asarray(run(videos))
    if not np.isfinite(part).all():
        raise checkpoints.CheckpointError(
            f"{encoder} makes numbers of {name} that are not finite: its weights are damaged or too "
            "large for half precision; fetch or train them again"
        )
    return part


def leave_out(
    skipped: list[dict],
    rows: Sequence[int],
    source: Originals,
    name: str,
    out: Path,
    max_skipped_fraction: float,
) -> None:
    """List the videos that were not read in `out/skipped-<name>.csv`.

    Raises SourceError if those are more than `max_skipped_fraction` of `source`, or none was read.
    """
    report = out / f"skipped-{name}.csv"
    if skipped:
        shards.write_skipped(report, skipped)
    else:
        report.unlink(missing_ok=True)  # of an earlier start
    if len(skipped) > max_skipped_fraction * len(source) or not rows:
        raise SourceError(
            f"{len(skipped)} of {len(source)} videos cannot be used and the allowed share is "
            f"{max_skipped_fraction:g} (first: {skipped[0]['file']} {skipped[0]['reason']}); "
            f"repair the files listed in {report}, or give data.max_skipped_fraction=0.05 "
            "tag=again."
        )


def _batches(
    source: Originals, batch: int, skipped: list[dict], view: dict, start: int
) -> Iterator[tuple[list[int], UInt8[np.ndarray, "B T S S 3"]]]:
    """Numbers and frames of the clips from `start` on that can be read, the others added to
    `skipped`.

    The last batch repeats its last clip, so that all have one shape, and encoders compile once.
    """

    def read(index: int) -> np.ndarray | VideoError:
        try:
            original, meta = source.original(index)
            return pipeline.read_clip(original, name=meta["file_name"], **view)
        except VideoError as error:
            return error

    rows, videos, ahead, pool = [], [], deque(), ThreadPoolExecutor(2)
    try:
        for index in range(start, len(source)):
            # The next batch is read while this one is encoded.
            ahead += (
                pool.submit(read, i)
                for i in range(index + len(ahead), min(index + 2 * batch, len(source)))
            )
            found = ahead.popleft().result()
            if isinstance(found, VideoError):
                skipped.append({"file": found.name, "reason": found.problem})
            else:
                rows.append(index)
                videos.append(found)
            if len(videos) == batch or (videos and index == len(source) - 1):
                yield rows, np.stack(videos + videos[-1:] * (batch - len(videos)))
                rows, videos = [], []
    finally:
        pool.shutdown(cancel_futures=True)


def metadata(source: Originals) -> list[dict | None]:
    """What is known of each clip; None where that cannot be read, which `features` reports."""
    known = []
    for index in range(len(source)):
        try:
            known.append(source.original(index)[1])
        except VideoError:
            known.append(None)
    return known


def fingerprint(source: Originals) -> str:
    """A digest of the names and contents of all videos, of which size and both ends are looked at;
    what else is known of them, such as labels, does not count.
    """
    found = hashlib.sha256()
    for index in range(len(source)):
        try:
            original, meta = source.original(index)
            told = [meta["file_name"], digest(original)]
        except VideoError as error:
            told = [str(error)]
        found.update(json.dumps(told).encode())
    return found.hexdigest()


# --- encoders ------------------------------------------------------------------------------------


def encoder_of(model: VideoEncoder | VideoText | VideoClassifier) -> VideoEncoder:
    """The video part of whatever was loaded."""
    return getattr(model, "vision_encoder", getattr(model, "encoder", model))


def precision(asked: str, *, own: bool) -> str:
    """The dtype that a frozen encoder computes in, for `asked` of hardware.dtype.

    `auto` is bfloat16 for videos of one's `own` where this machine multiplies such numbers by
    itself, and float32 for those whose results are committed: they must not depend on the machine.
    """
    if asked != "auto":
        return asked
    fast = jax.default_backend() != "cpu" or environment.multiplies_bfloat16()
    return "bfloat16" if own and fast else "float32"


def tokens_of(encoder: VideoEncoder, dtype: str = "float32") -> Callable:
    """All tokens of a clip, in half precision (2 S D bytes a clip), computed in `dtype`."""
    return partial(_tokens, *frozen.apart(encoder, dtype), dtype=dtype)


def tokens_by_images_of(encoder: VideoEncoder) -> Callable:
    """Tokens of every frame as an image of its own, as an encoder of images gives them (late
    fusion): see `heads.LateFusion`.
    """
    return partial(_tokens, *frozen.apart(encoder, "float32"), dtype="float32", images=True)


def single_frame_tokens_of(encoder: VideoEncoder) -> Callable:
    """Tokens of the clip's middle frame shown in every frame: what appearance alone can tell."""
    return of_middle_frame(tokens_of(encoder))


def of_middle_frame(run: Callable) -> Callable:
    """`run` of clips whose middle frame is shown in every frame."""

    def encode(video):
        middle = video.shape[1] // 2
        return run(np.repeat(video[:, middle : middle + 1], video.shape[1], axis=1))

    return encode


def embeddings_of(model: VideoText) -> Callable:
    """One vector of unit length a clip."""
    return partial(_embeddings, model)


# Weights are arguments of these: one program serves all encoders of a size.


@partial(jax.jit, static_argnames=("graph", "dtype", "images"))
def _tokens(
    graph: nnx.GraphDef,
    weights: nnx.State,
    video: UInt8[Array, "B T S S 3"],
    dtype: str,
    images: bool = False,
) -> Float16[Array, "B N D"]:
    encoder, seen = frozen.together(graph, weights), pixels(video, dtype)
    return (by_images(encoder, seen) if images else encoder(seen)).astype("float16")


@jax.jit
def _embeddings(model: VideoText, video: UInt8[Array, "B T S S 3"]) -> Float[Array, "B E"]:
    return model.encode_video(pixels(video))


# --- texts ---------------------------------------------------------------------------------------


def video_text(weights: Path | str, tokenizer: Tokenizer, *, half: bool = False) -> VideoText:
    """The video-text model of a released name or a file, whose text table has the tokeniser's
    pieces; `half` as in `checkpoints.load`.

    Raises CheckpointError for weights of another kind or vocabulary.
    """
    model = checkpoints.load(weights, half=half)
    if not isinstance(model, VideoText):
        raise checkpoints.no_text_encoder(weights)
    pieces = model.text_encoder.token_emb.emb_var.shape[0]
    if pieces != tokenizer.size:
        raise checkpoints.other_vocabulary(weights, pieces, tokenizer.size)
    return model


def embed_texts(
    model: VideoText, tokenizer: Tokenizer, texts: list[str], *, batch: int = 128
) -> Float[np.ndarray, "Q E"]:
    """Unit-length embeddings of any number of texts."""
    outputs = []
    for i in range(0, len(texts), batch):
        ids, keep = tokenizer(texts[i : i + batch] + [""] * max(0, i + batch - len(texts)))
        outputs.append(np.asarray(_embed_texts(model, ids, keep)))
    return np.concatenate(outputs)[: len(texts)]


@jax.jit
def _embed_texts(model: VideoText, ids: Array, keep: Array) -> Float[Array, "B E"]:
    return model.encode_text(ids, keep)


def class_embeddings(
    model: VideoText, tokenizer: Tokenizer, prompts: list[list[str]]
) -> Float[np.ndarray, "K E"]:
    """One unit-length vector a class: the mean of its prompts' embeddings.

    Source: VideoPrism section 4.2 uses CLIP's prompt set; taking the mean is our choice, as CLIP
    did.
    """
    flat = embed_texts(model, tokenizer, [p for group in prompts for p in group])
    ends = np.cumsum([len(group) for group in prompts])[:-1]
    return np.asarray(normalise(jax.numpy.stack([part.mean(0) for part in np.split(flat, ends)])))
