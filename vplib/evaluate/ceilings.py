"""What a task allows at best: without any learned encoder, and with one trained on its labels.

Beside a probe's score these tell a probe that cannot read from an encoder that does not know.
"""

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped, UInt8

from vplib.evaluate import heads
from vplib.model.encoders import VideoClassifier, pixels
from vplib.model.sizes import Sizes

NEIGHBOURS = 15


def track(
    videos: UInt8[np.ndarray, "C T H W 3"], colour: tuple[int, int, int], *, within: float = 60.0
) -> Float[np.ndarray, "C F"]:
    """Steps from frame to frame of the centre of all that is of one colour, x and y, in frame sides.

    Pixels count that lie at most `within` (0..255, Euclidean) from `colour`. The frame wraps
    around: centres are means on a circle, and a step is the shorter way. Frames that show nothing
    of the colour have a step of 0.
    """
    near = np.linalg.norm(videos - np.array(colour, np.float32), axis=-1) <= within  # C T H W
    turns = []
    for axis, side in ((2, videos.shape[3]), (3, videos.shape[2])):  # columns: x; rows: y
        weight = near.sum(axis)  # C T N
        angle = 2 * np.pi * (np.arange(side) + 0.5) / side
        turns.append(np.angle(weight @ np.exp(1j * angle)) / (2 * np.pi))
    steps = np.diff(np.stack(turns, -1), axis=1)
    steps = (steps + 0.5) % 1 - 0.5
    seen = near.any((2, 3))
    steps[~(seen[:, 1:] & seen[:, :-1])] = 0
    return steps.reshape(len(videos), -1)


def nearest(
    train: Float[np.ndarray, "C F"],
    labels: Int[np.ndarray, " C"],
    test: Float[np.ndarray, "Q F"],
    *,
    classes: int,
) -> Float[np.ndarray, "Q K"]:
    """Votes for each class among the NEIGHBOURS nearest training clips."""
    votes = np.empty((len(test), classes))
    for i, one in enumerate(test):
        near = np.argsort(((train - one) ** 2).sum(1), kind="stable")[:NEIGHBOURS]
        votes[i] = np.bincount(labels[near], minlength=classes)
    return votes


def ideal_tokens(places: Float[np.ndarray, "C T 2"], grid: int) -> Float[np.ndarray, "C S D"]:
    """Tokens that know all a token can about one object: its exact place at that time, on a circle
    in x and y; and which frame and which place of the grid the token itself is of.

    They hold no velocity: who reads them must compare moments.
    """
    clips, frames, _ = places.shape
    turn = 2 * np.pi * places
    where = np.concatenate([np.cos(turn), np.sin(turn)], -1)  # C T 4
    own = np.eye(frames)[:, None] + np.zeros((frames, grid**2, frames))
    place = np.eye(grid**2)[None] + np.zeros((frames, grid**2, grid**2))
    fixed = np.concatenate([own, place], -1)  # T N T+N
    tokens = np.concatenate(
        [
            np.broadcast_to(where[:, :, None], (clips, frames, grid**2, 4)),
            np.broadcast_to(fixed, (clips, *fixed.shape)),
            np.zeros((clips, frames, grid**2, -(4 + frames + grid**2) % 16)),
        ],
        -1,
    )
    return tokens.reshape(clips, frames * grid**2, -1).astype(np.float16)


def end_to_end(
    videos: UInt8[np.ndarray, "C T S S 3"],
    labels: Int[np.ndarray, " C"],
    sizes: Sizes,
    *,
    steps: int,
    batch: int,
    seed: int,
    **recipe,
) -> nnx.Module:
    """Encoder, pooling and classifier trained together on labelled clips from random weights, for
    `steps` batches at least; `recipe` as `heads.fit`.
    """
    model = _OfBytes(sizes, seed)
    return for_steps(model, videos, labels, steps=steps, batch=batch, seed=seed, **recipe)


def for_steps(
    model: nnx.Module,
    inputs: Shaped[np.ndarray, "C ..."] | tuple[Shaped[np.ndarray, "C ..."], ...],
    targets: Shaped[np.ndarray, "C ..."],
    *,
    steps: int,
    batch: int,
    **recipe,
) -> nnx.Module:
    """`heads.fit` for as many epochs as make `steps` batches at least."""
    epochs = -(-steps // (len(targets) // min(batch, len(targets))))
    return heads.fit(model, inputs, targets, epochs=epochs, batch=batch, **recipe)


class _OfBytes(nnx.Module):
    def __init__(self, sizes: Sizes, seed: int):
        self.classifier = VideoClassifier(sizes, rngs=nnx.Rngs(seed))

    def __call__(self, video: UInt8[Array, "B T S S 3"]) -> Float[Array, "B K"]:
        return self.classifier(pixels(video))
