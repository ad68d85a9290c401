"""Models and batches of test size, and clips that say which ones they are."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vplib.data import shards, video
from vplib.method.stages import Stage1, Stage2
from vplib.model.encoders import VideoClassifier, VideoEncoder, VideoText
from vplib.model.sizes import DecoderSizes, Sizes

# Tests compile more than they compute: this makes them twice as fast.
jax.config.update("jax_disable_most_optimizations", True)

SIZES = Sizes(
    size=12,
    patch=4,
    frames=3,
    width=16,
    spatial_layers=1,
    temporal_layers=1,
    heads=2,
    mlp=32,
    text_layers=1,
    pooler_inner=32,
    decoder=DecoderSizes(width=16, layers=1, heads=2, mlp=32),
    vocabulary=24,
    classes=5,
)


def filled(make, seed: int = 0):
    """The module that `make()` builds, with noise in every parameter: new ones have zero biases,
    which hide mistakes.

    Only shapes are computed: initialising a model takes seconds, for dozens of small compilations.
    """
    graph, params = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(seed)
    noise = jax.tree.map(
        lambda leaf: jnp.asarray(0.25 * rng.normal(size=leaf.shape), leaf.dtype), params
    )
    return nnx.merge(graph, noise)


def encoder(seed: int = 0, **changes) -> VideoEncoder:
    return filled(lambda: VideoEncoder(replace(SIZES, **changes), rngs=nnx.Rngs(0)), seed)


def video_text(seed: int = 0, **changes) -> VideoText:
    return filled(lambda: VideoText(replace(SIZES, **changes), rngs=nnx.Rngs(0)), seed)


def classifier(seed: int = 0) -> VideoClassifier:
    return filled(lambda: VideoClassifier(SIZES, rngs=nnx.Rngs(0)), seed)


def stage1(seed: int = 0, **changes) -> Stage1:
    return Stage1(video_text(seed, **changes))


def stage2(
    seed: int = 0, *, local_loss: bool = True, global_loss: bool = True, pixels: bool = False
) -> Stage2:
    return filled(
        lambda: Stage2(
            encoder(),
            SIZES,
            teacher=SIZES,
            local_loss=local_loss,
            global_loss=global_loss,
            pixels=pixels,
            rngs=nnx.Rngs(0),
        ),
        seed,
    )


def pixels(seed: int, clips: int, frames: int = 3, size: int = 12) -> jax.Array:
    """Random videos in [0, 1]."""
    return jnp.asarray(
        np.random.default_rng(seed).random((clips, frames, size, size, 3), dtype=np.float32)
    )


def batch(seed: int, clips: int = 8, frames: int = 3, size: int = 12) -> dict[str, np.ndarray]:
    """Random bytes with random captions of 1 to 6 tokens."""
    rng = np.random.default_rng(seed)
    keep = np.arange(6) < rng.integers(1, 7, (clips, 1))
    frames = rng.integers(0, 256, (clips, frames, size, size, 3), dtype=np.uint8)
    return {
        "video": frames,
        "ids": (rng.integers(3, 24, (clips, 6)) * keep).astype(np.int32),
        "keep": keep,
    }


class Batches(Iterator):
    """Batch k is `make(k)`; the state is k, as a Grain iterator's."""

    def __init__(self, make=batch):
        self.make, self.drawn, self.next = make, 0, 0

    def __next__(self):
        self.drawn += 1
        self.next += 1
        return self.make(self.next - 1)

    def get_state(self):
        return {"next_index": self.next}

    def set_state(self, state):
        self.next = state["next_index"]


def leaves(model: nnx.Module) -> dict[str, jax.Array]:
    """Every parameter by its path."""
    return {
        "/".join(map(str, path)): value[...]
        for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


class Marked:
    """A corpus of clips that say which they are: red is the corpus' number, green the clip's, blue
    the place and frame."""

    def __init__(self, name: str, number: int, *, clips: int = 8, frames: int = 6, size: int = 16):
        self.name, self.number, self.clips, self.frames, self.size = (
            name,
            number,
            clips,
            frames,
            size,
        )
        self.fingerprint = f"{name}-{number}-{clips}-{frames}-{size}"

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, index: int) -> shards.Clip:
        frames = np.empty((self.frames, self.size, self.size, 3), np.uint8)
        frames[..., 0], frames[..., 1] = 24 + 16 * self.number, 24 + 16 * index
        frames[..., 2] = 60 + 8 * np.arange(self.frames)[:, None, None] + 6 * np.arange(self.size)
        meta = {"fps": 8.0, "frames": self.frames, "duration": self.frames / 8}
        return shards.Clip(video.encode(frames, 8.0), CAPTIONS[index], meta)


CAPTIONS = [
    "a red square",
    "a blue circle",
    "two green stars",
    "one ring turns",
    "a cross falls",
    "nothing moves",
    "a red star",
    "the blue ring",
]


def write(source, folder: Path) -> Path:
    """The shards of a corpus, in this process."""
    shards.write(source, folder, shard_size=100, workers=0, max_skipped_fraction=0.0)
    return folder


def marks(videos: np.ndarray) -> list[tuple[int, int]]:
    """(corpus, clip) numbers of each clip of a batch of `Marked` ones, from its mean colour."""
    mean = videos.astype(float).mean((1, 2, 3))[:, :2]
    return [tuple(row) for row in np.round((mean - 24) / 16).astype(int).tolist()]


def close(a, b, tolerance: float = 1e-5) -> bool:
    return bool(jnp.abs(jnp.asarray(a) - jnp.asarray(b)).max() <= tolerance)
