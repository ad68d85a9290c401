"""G-TAD: graph temporal action detection on a frozen encoder's window features.

Source of every detail without another: G-TAD (arXiv:1911.11462), frostinassiky/gtad, branch anet.
Features are one vector a window of a video; `proposals` has the candidates, their targets, and
what follows the maps.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from vplib.evaluate.proposals import Targets, interpolation, resample, targets, valid
from vplib.model.attention import lecun
from vplib.model.layers import Dense, one_hot_rows
from vplib.train.optimiser import schedule

NEIGHBOURS = 3  # in feature space, itself among them
CONTEXT = 4  # bins of the features averaged over the neighbours
TRUNK_GROUPS, GROUP_WIDTH = 4, 4
EPSILON = 1e-6  # in logarithms
HIGH, MEDIUM, POSITIVE, BOUNDARY = 0.7, 0.3, 0.9, 0.5  # overlaps above these


class Scores(NamedTuple):
    """Probabilities of every position and predicted overlaps of every candidate; those that are not
    valid are 0.
    """

    start: Float[Array, "B T"]
    end: Float[Array, "B T"]
    regression: Float[Array, "B T T"]
    classification: Float[Array, "B T T"]


# --- the network ---------------------------------------------------------------------------------


class Convolution(nnx.Module):
    """Convolution over time (axis -2) by an odd `kernel`, zeros around; channels in `groups`."""

    def __init__(self, inputs: int, outputs: int, *, groups: int, kernel: int = 1, rngs: nnx.Rngs):
        shape = (kernel, groups, inputs // groups, outputs // groups)
        self.w = nnx.Param(lecun(rngs.params(), shape, kernel * shape[2]))
        self.b = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "*A T I"]) -> Float[Array, "*A T O"]:
        kernel, groups, *_ = self.w.shape
        *outer, positions, _ = x.shape
        padded = jnp.pad(x, [(0, 0)] * len(outer) + [(kernel // 2,) * 2, (0, 0)])
        seen = jnp.stack([padded[..., k : k + positions, :] for k in range(kernel)], -2)
        y = jnp.einsum(
            "...kgi,kgio->...go",
            seen.reshape(*outer, positions, kernel, groups, -1),
            self.w[...],
        )
        return y.reshape(*outer, positions, -1) + self.b[...]


def neighbours(x: Float[Array, "B T D"]) -> Float[Array, "B T N D"]:
    """The features of the positions with the most similar features, each position's own among
    them.
    """
    square = jnp.square(x).sum(-1)
    # Minus the squared distance, but for what is the same for all neighbours of a position.
    near = 2 * x @ jnp.swapaxes(x, -1, -2) - square[:, None]  # B T T
    return jax.vmap(one_hot_rows)(x, jax.lax.top_k(jax.lax.stop_gradient(near), NEIGHBOURS)[1])


class GraphBlock(nnx.Module):
    """Residual, a branch along time and one to the neighbours in feature space, then ReLU."""

    def __init__(self, width: int, groups: int, *, rngs: nnx.Rngs):
        inner = groups * GROUP_WIDTH
        self.time_in = Dense(width, inner, rngs=rngs)
        self.time = Convolution(inner, inner, groups=groups, kernel=3, rngs=rngs)
        self.time_out = Dense(inner, width, rngs=rngs)
        self.pair_in = Dense(2 * width, inner, rngs=rngs)
        self.pair = Convolution(inner, inner, groups=groups, rngs=rngs)
        self.pair_out = Dense(inner, width, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        relu = jax.nn.relu
        along = self.time_out(relu(self.time(relu(self.time_in(x)))))
        near = neighbours(x)
        own = jnp.broadcast_to(x[:, :, None], near.shape)
        pairs = self.pair_in(jnp.concatenate([near, own], -1))  # B T N inner
        across = self.pair_out(relu(self.pair(relu(pairs)))).max(-2)
        return relu(along + x + across)


def alignment(positions: int, bins: int) -> Float[np.ndarray, "C K T"]:
    """Weights of T positions in K bins of each valid candidate, widened by half its length on
    either side.

    Candidates are in the order of `valid`. A bin is the mean of as many points as it has
    positions, begun ones too.
    """
    rows = []
    for duration in range(1, positions + 1):
        length = 2 * duration - 1  # from the centre of the first position to that of the last
        points = -(-length // bins)
        within = (np.arange(bins * points) + 0.5) * length / (bins * points) - duration / 2
        at = np.arange(positions - duration + 1)[:, None] + within
        weights = interpolation(at, positions)
        rows.append(weights.reshape(len(at), bins, points, positions).mean(2))
    return np.concatenate(rows)


class GTAD(nnx.Module):
    """Features at T `positions` to scores of starts, of ends and of all candidates.

    Defaults are the paper's. `width` and the D features must be multiples of 4; `hidden` and
    `map_width` are those of the layers on each candidate, which has `bins` from within. `mean` and
    `deviation` (D,) of the training features standardise, as in `heads.Probe`; G-TAD does not.

    Aligning and the first layer are both linear, so the layer comes first: the same numbers, and
    several times cheaper since there are fewer positions than candidates. Raises ValueError for
    sizes that do not go together.
    """

    def __init__(
        self,
        mean: Float[np.ndarray, " D"],
        deviation: Float[np.ndarray, " D"],
        *,
        positions: int = 100,
        width: int = 256,
        groups: int = 32,
        bins: int = 32,
        hidden: int = 512,
        map_width: int = 128,
        rngs: nnx.Rngs,
    ):
        if len(mean) % TRUNK_GROUPS or width % TRUNK_GROUPS or positions < NEIGHBOURS:
            raise ValueError(
                f"G-TAD with {len(mean)} features, width {width} and {positions} positions cannot "
                f"be: the first two must be multiples of {TRUNK_GROUPS}, and the last at least "
                f"{NEIGHBOURS}"
            )
        self.positions, self.bins = positions, bins
        self.mean, self.deviation = (
            nnx.Variable(jnp.asarray(mean)),
            nnx.Variable(jnp.asarray(deviation)),
        )
        self.trunk = Convolution(len(mean), width, groups=TRUNK_GROUPS, kernel=3, rngs=rngs)
        self.trunk_graph = GraphBlock(width, groups, rngs=rngs)
        self.start_graph = GraphBlock(width, groups, rngs=rngs)
        self.start = Dense(width, 1, rngs=rngs)
        self.end_graph = GraphBlock(width, groups, rngs=rngs)
        self.end = Dense(width, 1, rngs=rngs)
        self.map_graph = GraphBlock(width, groups, rngs=rngs)
        parts = [alignment(positions, count) for count in (bins, CONTEXT)]
        self.align = nnx.Variable(jnp.concatenate(parts, axis=1))  # C K T
        shape = (bins + CONTEXT, width, hidden)
        self.map_in = nnx.Param(lecun(rngs.params(), shape, shape[0] * width))
        self.map_in_bias = nnx.Param(jnp.zeros(hidden))
        self.map_1 = Dense(hidden, map_width, rngs=rngs)
        self.map_2 = Dense(map_width, map_width, rngs=rngs)
        self.map_3 = Dense(map_width, map_width, rngs=rngs)
        self.map_out = Dense(map_width, 2, rngs=rngs)

    def __call__(self, features: Float[Array, "B T D"]) -> Scores:
        relu, sigmoid = jax.nn.relu, jax.nn.sigmoid
        x = (features - self.mean[...]) / self.deviation[...]
        base = self.trunk_graph(relu(self.trunk(x)))
        start = sigmoid(self.start(self.start_graph(base)))[..., 0]
        end = sigmoid(self.end(self.end_graph(base)))[..., 0]
        x = self.map_graph(base)
        w = jnp.split(self.map_in[...], [self.bins])
        parts = [
            jnp.einsum("btd,kdh->bkth", part, of)
            for part, of in zip((x, neighbours(x).mean(2)), w, strict=True)
        ]
        y = jnp.einsum("ckt,bkth->bch", self.align[...], jnp.concatenate(parts, 1))
        y = y + self.map_in_bias[...]  # B C hidden
        for layer in (self.map_1, self.map_2, self.map_3, self.map_out):
            y = layer(relu(y))
        cells = valid(self.positions)
        maps = jnp.zeros((len(y), *cells.shape, 2)).at[:, *np.nonzero(cells)].set(sigmoid(y))
        return Scores(start, end, maps[..., 0], maps[..., 1])


# --- the loss ------------------------------------------------------------------------------------


def balanced(
    probability: Float[Array, "*A"], positive: Bool[Array, "*A"], negative: Bool[Array, "*A"]
) -> Float[Array, ""]:
    """Cross-entropy in nats, all positives together weighing as much as all negatives; what is
    neither does not count.

    A class that does not occur gives nothing (our choice: the source has NaN there).
    """

    def mean(probability, where):
        total = -(jnp.log(probability + EPSILON) * where).sum()
        return total / jnp.maximum(where.sum(), 1)

    return (mean(probability, positive) + mean(1 - probability, negative)) / 2


def drawn(iou: Float[Array, "*A"], *, key: Array) -> Bool[Array, "*A"]:
    """The candidates that the regression learns from: all of high overlap, and of the medium and of
    the low ones about as many each, drawn at random; none without overlap.

    A band that has fewer is taken whole (our choice: the source then draws from the whole map).
    """
    high = iou > HIGH
    medium = (iou > MEDIUM) & ~high
    low = (iou > 0) & (iou <= MEDIUM)
    draw = jax.random.uniform(key, iou.shape)
    kept = high
    for band in (medium, low):
        kept |= band & (draw < high.sum() / jnp.maximum(band.sum(), 1))
    return kept


def regression_loss(
    predicted: Float[Array, "*A"], iou: Float[Array, "*A"], kept: Bool[Array, "*A"]
) -> Float[Array, ""]:
    """Half the mean squared error over the kept candidates; 0 if there are none."""
    return (jnp.square(predicted - iou) * kept).sum() / jnp.maximum(kept.sum(), 1) / 2


def loss(scores: Scores, truth: Targets, *, key: Array) -> Float[Array, ""]:
    """Start + end + classification + 10 x regression, over the valid candidates of a batch."""
    cells = valid(truth.iou.shape[-1])
    iou = truth.iou * cells
    starts, ends = (part > BOUNDARY for part in (truth.start, truth.end))
    return (
        balanced(scores.start, starts, ~starts)
        + balanced(scores.end, ends, ~ends)
        + balanced(scores.classification, iou > POSITIVE, (iou <= POSITIVE) & cells)
        + 10 * regression_loss(scores.regression, iou, drawn(iou, key=key))
    )


# --- training and use ----------------------------------------------------------------------------


def train(
    features: Sequence[Shaped[np.ndarray, "_ D"]],
    segments: Sequence[Float[np.ndarray, "_ 2"]],
    *,
    positions: int,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    **sizes,
) -> GTAD:
    """A head trained on the windows' features (N, D) of each video and its true segments (E, 2).

    AdamW, cosine decay after 5% warm-up (VideoGLUE: batch 32, 10 epochs, learning rate not
    published; G-TAD: Adam at 4e-3). What does not fill a batch is left out of an epoch; a batch is
    at most all videos. `sizes` as `GTAD`. The same bytes for the same seed. Raises ValueError for a
    video without windows, and for an event that ends before it begins or is outside of its video.
    """
    names = [f"training video {number}" for number in range(len(features))]
    each = [targets(one, positions, name=name) for one, name in zip(segments, names, strict=True)]
    truth = Targets(*map(np.stack, zip(*each, strict=True)))
    inputs = np.stack(
        [resample(one, positions, name=name) for one, name in zip(features, names, strict=True)]
    )
    mean, deviation = inputs.mean((0, 1)), inputs.std((0, 1)) + 1e-3
    model = GTAD(mean, deviation, positions=positions, rngs=nnx.Rngs(seed), **sizes)
    graph, params, fixed = nnx.split(model, nnx.Param, ...)
    batch = min(batch, len(inputs))
    per_epoch = len(inputs) // batch
    tx = _optimiser(learning_rate, epochs * per_epoch, weight_decay)
    state, rng, key = tx.init(params), np.random.default_rng(seed), jax.random.key(seed)
    for epoch in range(epochs):
        order = rng.permutation(len(inputs))[: per_epoch * batch].reshape(per_epoch, batch)
        for step, rows in enumerate(order, epoch * per_epoch):
            here, draw = Targets(*(part[rows] for part in truth)), jax.random.fold_in(key, step)
            params, state = _step(graph, tx, params, state, fixed, inputs[rows], here, draw)
    return nnx.merge(graph, params, fixed)


@lru_cache
def _optimiser(
    learning_rate: float, steps: int, weight_decay: float
) -> optax.GradientTransformation:
    """One object a recipe, so that `_step` compiles once for all seeds and encoders."""
    rate = schedule("cosine", learning_rate=learning_rate, steps=steps, warmup=max(steps // 20, 1))
    return optax.adamw(rate, weight_decay=weight_decay)


@partial(jax.jit, static_argnums=(0, 1))
def _step(graph, tx, params, state, fixed, features, truth, key):
    def of(params):
        return loss(nnx.merge(graph, params, fixed)(features), truth, key=key)

    updates, state = tx.update(jax.grad(of)(params), state, params)
    return optax.apply_updates(params, updates), state


def predict(
    model: GTAD, features: Sequence[Shaped[np.ndarray, "_ D"]], *, batch: int = 32
) -> Scores:
    """Scores (numpy) of many videos from their windows' features; `proposals` reads them.

    Raises ValueError for a video without windows.
    """
    inputs = np.stack(
        [
            resample(one, model.positions, name=f"video {number}")
            for number, one in enumerate(features)
        ]
    )
    parts = [_scores(model, inputs[i : i + batch]) for i in range(0, len(inputs), batch)]
    return jax.tree.map(lambda *part: np.concatenate(part), *parts)


@jax.jit
def _scores(model, features):
    return model(features)
