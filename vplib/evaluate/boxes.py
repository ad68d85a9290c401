"""Spatio-temporal localisation: which classes each box of a clip's key frame shows.

Source of every detail without another: VideoGLUE (arXiv:2307.03166) section 3.3.1 and its code
(tensorflow/models, official/projects/videoglue). Boxes are x0, y0, x1, y1 in fractions of the
frame, and belong to the clip's middle frame.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from vplib.evaluate.heads import fit
from vplib.evaluate.proposals import interpolation
from vplib.model.attention import Attention
from vplib.model.layers import Dense, FeedForward, LayerNorm, gelu

BINS = 7  # a side, of a region


def regions(
    tokens: Shaped[np.ndarray, "C S D"],
    boxes: Float[np.ndarray, "C M 4"],
    grid: tuple[int, int, int],
) -> Float[np.ndarray, "C M D"]:
    """One vector a box: tokens of a `grid` (time, height, width) averaged over time, bilinear at
    the centres of 7x7 bins of the box, and the maximum of these.

    Raises ValueError if the tokens are not those of the grid.
    """
    if tokens.shape[1] != np.prod(grid):
        raise ValueError(
            f"{tokens.shape[1]} tokens a clip are no grid of {' x '.join(map(str, grid))} in time, "
            "height and width: give the encoder's own"
        )
    found = np.empty((*boxes.shape[:2], tokens.shape[-1]), np.float32)
    for clip, (own, y, x) in enumerate(zip(tokens, *samples(boxes, grid), strict=True)):
        image = own.reshape(*grid, -1).mean(0, dtype=np.float32)  # H W D
        rows = np.einsum("myh,hwd->mywd", y, image)
        found[clip] = np.einsum("mxw,mywd->myxd", x, rows, optimize=True).max((1, 2))
    return found


def samples(
    boxes: Float[np.ndarray, "*A 4"], grid: tuple[int, int, int]
) -> tuple[Float[np.ndarray, "*A 7 H"], Float[np.ndarray, "*A 7 W"]]:
    """Weights of the rows and of the columns of a `grid` (time, height, width) at the centres of
    the 7x7 bins of each box.
    """
    within = (np.arange(BINS) + 0.5) / BINS
    y, x = (
        interpolation((low + (high - low) * within) * size - 0.5, size)
        for size, low, high in (
            (grid[1], boxes[..., 1:2], boxes[..., 3:]),
            (grid[2], boxes[..., :1], boxes[..., 2:3]),
        )
    )
    return y, x


def beside(
    tokens: Float[Array, "B S D"], y: Float[Array, "B M 7 H"], x: Float[Array, "B M 7 W"]
) -> Float[Array, "B N D"]:
    """`regions` of the boxes of `samples` (y, x) before all tokens, for gradients to flow through:
    what a head of boxes takes.
    """
    image = tokens.reshape(len(tokens), -1, y.shape[-1], x.shape[-1], tokens.shape[-1]).mean(1)
    found = jnp.einsum("bmyh,bmxw,bhwd->bmyxd", y, x, image).max((2, 3))
    return jnp.concatenate([found, tokens], 1)


class CrossAttention(nnx.Module):
    """One ordinary layer of queries that look at tokens, which stay: q + attention(norm q, norm
    tokens), then + MLP(norm). `inner` is the summed width of the heads (`width` unless given).

    Where residuals sit is not published; this is our choice. Queries are few, so keys and values
    are not formed: as in `model.layers.AttentionPool`, exact and cheaper.
    """

    def __init__(self, width: int, heads: int, *, inner: int | None = None, rngs: nnx.Rngs):
        self.query_norm, self.token_norm = LayerNorm(width), LayerNorm(width)
        self.attention = Attention(width, heads, inner=inner, rngs=rngs)
        self.ff_layer = FeedForward(width, 4 * width, gelu, rngs=rngs)

    def __call__(
        self, queries: Float[Array, "B M D"], tokens: Float[Array, "B S D"]
    ) -> Float[Array, "B M D"]:
        own, seen, part = self.query_norm(queries), self.token_norm(tokens), self.attention
        q = jnp.einsum("bmd,dkh->bmkh", own, part.query.w[...]) + part.query.b[...]
        probe = jnp.einsum("bmkh,dkh->bmkd", q * q.shape[-1] ** -0.5, part.key.w[...])
        b, m, k, d = probe.shape
        weights = jax.nn.softmax(probe.reshape(b, m * k, d) @ jnp.swapaxes(seen, -1, -2))
        mean = (weights @ seen).reshape(b, m, k, d)
        value = jnp.einsum("bmkd,dkh->bmkh", mean, part.value.w[...]) + part.value.b[...]
        looked = jnp.einsum("bmkh,dkh->bmd", value, part.post.w[...]) + part.post.b[...]
        queries = queries + looked
        return self.ff_layer(queries)


class BoxProbe(nnx.Module):
    """Standardisation, one cross-attention layer whose queries are the boxes' `regions`, a linear
    classifier.

    Its input is one array, the regions of `most` boxes before all tokens, so that
    `heads.fit` serves it as it serves `heads.Probe`. `mean` and `deviation` as there.
    """

    def __init__(
        self,
        mean: Float[np.ndarray, " D"],
        deviation: Float[np.ndarray, " D"],
        heads: int,
        classes: int,
        *,
        most: int,
        rngs: nnx.Rngs,
    ):
        self.mean, self.deviation = (
            nnx.Variable(jnp.asarray(mean)),
            nnx.Variable(jnp.asarray(deviation)),
        )
        self.most = most
        self.layer = CrossAttention(len(mean), heads, rngs=rngs)
        self.projection = Dense(len(mean), classes, rngs=rngs)

    def __call__(self, inputs: Shaped[Array, "B N D"]) -> Float[Array, "B M K"]:
        x = (inputs.astype(jnp.float32) - self.mean[...]) / self.deviation[...]
        return self.projection(self.layer(x[:, : self.most], x[:, self.most :]))


def loss(
    logits: Float[Array, "B M K"],
    targets: Float[Array, "B M K"],
    valid: Bool[Array, "B M"],
) -> Float[Array, ""]:
    """Sum over valid boxes of class-mean cross-entropy x number of classes / number of valid boxes,
    in nats.
    """
    each = optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1)
    return (each * valid).sum() / jnp.maximum(valid.sum(), 1)


def pad(
    boxes: Sequence[Float[np.ndarray, "_ 4"]], most: int
) -> tuple[Float[np.ndarray, "C M 4"], Bool[np.ndarray, "C M"]]:
    """`most` boxes a clip, and which of them are real.

    Raises ValueError for a clip that has more, and for a box that is empty or not within the frame.
    """
    padded = np.zeros((len(boxes), most, 4), np.float32)
    valid = np.zeros((len(boxes), most), bool)
    for clip, places in enumerate(boxes):
        if len(places) > most:
            raise ValueError(
                f"clip {clip} has {len(places)} boxes but the head takes {most} a clip: raise that "
                "number, or keep its best boxes"
            )
        for number, (x0, y0, x1, y1) in enumerate(places):
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError(
                    f"clip {clip}: box {number} ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is empty or not "
                    "within the frame; give x0, y0, x1, y1 in fractions of the frame, clipped to it"
                )
        padded[clip, : len(places)] = places
        valid[clip, : len(places)] = True
    return padded, valid


def train(
    tokens: Shaped[np.ndarray, "C S D"],
    boxes: Sequence[Float[np.ndarray, "_ 4"]],
    targets: Sequence[Shaped[np.ndarray, "_ K"]],
    *,
    grid: tuple[int, int, int],
    most: int,
    heads: int,
    seed: int,
    head: Callable = BoxProbe,
    **recipe,
) -> nnx.Module:
    """A `head` trained on frozen tokens, the boxes of each clip and their classes (0 or 1, several a
    box), padded to `most` boxes; the same bytes for the same seed.

    `grid` as `regions`, `recipe` as `heads.fit`. Raises ValueError for a clip without boxes, boxes
    without targets, heads that do not divide the width, and what `pad` and `regions` refuse.
    """
    if tokens.shape[-1] % heads:
        raise ValueError(
            f"{heads} heads do not divide a width of {tokens.shape[-1]}: choose a number that does"
        )
    for clip, (places, labels) in enumerate(zip(boxes, targets, strict=True)):
        if len(places) != len(labels) or not len(places):
            raise ValueError(
                f"clip {clip} has {len(places)} boxes and targets of {len(labels)}: give one row of "
                "targets a box, and leave clips without boxes out of the training"
            )
    classes = targets[0].shape[-1]
    inputs, valid = _inputs(tokens, boxes, grid, most)
    sample = tokens[:512].astype(np.float32)
    mean, deviation = sample.mean((0, 1)), sample.std((0, 1)) + 1e-3
    model = head(mean, deviation, heads, classes, most=most, rngs=nnx.Rngs(seed))
    return fit(model, inputs, pack(targets, valid), seed=seed, loss=packed_loss, **recipe)


def pack(
    targets: Sequence[Shaped[np.ndarray, "_ K"]], valid: Bool[np.ndarray, "C M"]
) -> Float[np.ndarray, "C M K+1"]:
    """The classes of each box, and last whether it is one: what `packed_loss` takes."""
    packed = np.zeros((*valid.shape, targets[0].shape[-1] + 1), np.float32)
    packed[valid] = np.pad(np.concatenate(targets), [(0, 0), (0, 1)], constant_values=1)
    return packed


def packed_loss(logits: Float[Array, "B M K"], packed: Float[Array, "B M K+1"]) -> Float[Array, ""]:
    """`loss` of targets that `pack` made."""
    return loss(logits, packed[..., :-1], packed[..., -1] > 0)


def _inputs(tokens, boxes, grid, most):
    places, valid = pad(boxes, most)
    queries = regions(tokens, places, grid).astype(tokens.dtype)
    return np.concatenate([queries, tokens], axis=1), valid


def predict(
    model: nnx.Module,
    tokens: Shaped[np.ndarray, "C S D"],
    boxes: Sequence[Float[np.ndarray, "_ 4"]],
    *,
    grid: tuple[int, int, int],
    batch: int = 128,
) -> list[Float[np.ndarray, "_ K"]]:
    """Probability of each class for each box of each clip; a clip may have no boxes.

    The score of a detection is this times the box's own. Raises ValueError for what `pad` and
    `regions` refuse.
    """
    inputs, valid = _inputs(tokens, boxes, grid, model.most)
    parts = [_probabilities(model, inputs[i : i + batch]) for i in range(0, len(inputs), batch)]
    return [own[real] for own, real in zip(np.concatenate(parts), valid, strict=True)]


@jax.jit
def _probabilities(model, inputs):
    return jax.nn.sigmoid(model(inputs))


def prior(targets: Sequence[Shaped[np.ndarray, "_ K"]]) -> Float[np.ndarray, " K"]:
    """The share of the training boxes that have each class: what can be said of any box without
    looking at it.
    """
    return np.concatenate(targets).mean(0, dtype=float)
