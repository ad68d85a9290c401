"""Heads on a frozen backbone: a MAP probe trained on cached tokens; and what trains them."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, Shaped

from vplib.evaluate.cache import Rows
from vplib.model.layers import AttentionPool, Block, Dense
from vplib.train.optimiser import schedule

# Bytes, so that memory is bounded however large the tokens of a clip are: of what is computed with
# at a time, and of the clips whose tokens are standardised by. Those of our own models are smaller.
PART, SAMPLE = 2**26, 2**28


class Probe(nnx.Module):
    """Standardisation, one attention pooling over all tokens, a linear classifier (the released
    classifier's names).

    `heads` of a summed width `inner` (that of the tokens unless given) pool. With `block`, a
    transformer block before the pooling lets tokens be compared with each other: a second readout,
    which tells what the first one cannot read from what is not there. `mean` and `deviation` (D,)
    of the training tokens take away what all tokens share, which says nothing (as the affine-free
    BatchNorm of linear probes does). Source: VideoPrism section 4.1 (frozen backbone, one MAP
    layer).
    """

    def __init__(
        self,
        mean: Float[np.ndarray, " D"],
        deviation: Float[np.ndarray, " D"],
        heads: int,
        classes: int,
        *,
        inner: int | None = None,
        block: bool = False,
        rngs: nnx.Rngs,
    ):
        width = len(mean)
        self.mean, self.deviation = (
            nnx.Variable(jnp.asarray(mean)),
            nnx.Variable(jnp.asarray(deviation)),
        )
        if block:
            self.block = Block(width, 4, 4 * width, cap=None, rngs=rngs)
        self.atten_pooler = AttentionPool(width, heads, inner=inner, rngs=rngs)
        self.projection = Dense(width, classes, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B S D"]) -> Float[Array, "B K"]:
        x = (tokens.astype(jnp.float32) - self.mean[...]) / self.deviation[...]
        x = self.block(x) if hasattr(self, "block") else x
        return self.projection(self.atten_pooler(x))


class LateFusion(Probe):
    """A probe of tokens that an encoder of images gives for each of `frames`, frame by frame: each
    frame's get a learned vector of its own before the pooling, else nothing tells their order.

    Source: VideoGLUE (arXiv:2307.03166), appendix C.2, of image models.
    """

    def __init__(self, mean: Float[np.ndarray, " D"], *args, frames: int, **kwargs):
        super().__init__(mean, *args, **kwargs)
        self.temporal_pos_emb = nnx.Param(jnp.zeros((frames, len(mean))))

    def __call__(self, tokens: Float[Array, "B S D"]) -> Float[Array, "B K"]:
        frames = len(self.temporal_pos_emb[...])
        time = jnp.repeat(self.temporal_pos_emb[...], tokens.shape[1] // frames, axis=0)
        # In the units of standardised tokens, which `Probe` makes of these.
        return super().__call__(tokens.astype(jnp.float32) + self.deviation[...] * time)


def train_probe(
    tokens: Float[np.ndarray | Rows, "C S D"],
    targets: Shaped[np.ndarray, "C ..."],
    *,
    classes: int,
    heads: int,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    width: int | None = None,
    block: bool = False,
    head: Callable | None = None,
    loss: Callable = optax.softmax_cross_entropy_with_integer_labels,
) -> nnx.Module:
    """A probe trained as in `fit`, on frozen tokens; the same bytes for the same seed.

    `heads` of a summed `width` pool, after a `block` if asked for: see `Probe`, in whose place
    another `head` of its arguments may be trained. `loss` takes logits (B, K) and targets: numbers
    of classes, or what another loss of optax wants. Raises ValueError if the number of a class is
    out of range or the heads do not divide their width.
    """
    if (width or tokens.shape[-1]) % heads:
        raise ValueError(
            f"{heads} heads do not divide a width of {width or tokens.shape[-1]}: choose probe.heads "
            "that do, or give probe.width"
        )
    if targets.dtype.kind == "i" and (targets.min() < 0 or targets.max() >= classes):
        raise ValueError(
            f"targets run from {targets.min()} to {targets.max()} "
            f"but the probe has {classes} classes"
        )
    some = min(512, fitting(tokens, SAMPLE))  # plenty: hundreds of tokens a clip
    sample = np.asarray(tokens[:some]).astype(np.float32)
    mean, deviation = sample.mean((0, 1)), sample.std((0, 1)) + 1e-3
    make = head or partial(Probe, block=block)
    return fit(
        make(mean, deviation, heads, classes, inner=width, rngs=nnx.Rngs(seed)),
        tokens,
        targets,
        epochs=epochs,
        batch=batch,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        seed=seed,
        loss=loss,
    )


def fit(
    model: nnx.Module,
    inputs: Shaped[np.ndarray | Rows, "C ..."] | tuple[Shaped[np.ndarray | Rows, "C ..."], ...],
    targets: Shaped[np.ndarray, "C ..."],
    *,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    loss: Callable = optax.softmax_cross_entropy_with_integer_labels,
) -> nnx.Module:
    """`model`, whose parameters were trained on arrays, in memory or in files: AdamW, cosine decay
    after 5% warm-up.

    `loss` takes the model's output and targets. Every epoch has an order of its own, drawn by
    `seed`; what does not fill a batch is left out of it. A batch is at most all inputs, which are
    one array or several that belong together. The gradient of one of more than PART bytes is the
    mean of those of equal pieces, which is the same where the loss is a mean over clips.
    """
    batch = min(batch, len(targets))
    per_epoch, most = len(targets) // batch, fitting(inputs, PART)
    graph, params, fixed = nnx.split(model, nnx.Param, ...)
    tx, rates = _optimiser(weight_decay), iter(_rates(learning_rate, epochs * per_epoch))
    state, rng = tx.init(params), np.random.default_rng(seed)
    pieces = next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= most)
    for _ in range(epochs):
        order = rng.permutation(len(targets))[: per_epoch * batch].reshape(per_epoch, batch)
        for rows in order:
            state.hyperparams["learning_rate"] = next(rates)
            total = None
            for piece in np.split(rows, pieces):
                given = taken((inputs, targets), piece)  # while the one before is computed with
                jax.block_until_ready((params, total))  # else dozens wait in memory
                if pieces == 1:
                    params, state = _step(graph, tx, loss, params, state, fixed, *given)
                else:
                    total = _add(graph, loss, params, fixed, *given, total)
            if pieces > 1:
                params, state = _update(tx, total, pieces, params, state)
    return nnx.merge(graph, params, fixed)


@lru_cache
def _optimiser(weight_decay: float) -> optax.GradientTransformation:
    """One object a recipe, told its rate at every step: `_step` compiles once for all numbers of
    clips, epochs, seeds and backbones.
    """
    fixed = ("b1", "b2", "eps", "eps_root", "weight_decay")
    told = optax.inject_hyperparams(optax.adamw, static_args=fixed)
    return told(learning_rate=0.0, weight_decay=weight_decay)


@lru_cache
def _rates(learning_rate: float, steps: int) -> Float[np.ndarray, " T"]:
    rate = schedule("cosine", learning_rate=learning_rate, steps=steps, warmup=max(steps // 20, 1))
    return np.asarray(jax.jit(jax.vmap(rate))(jnp.arange(steps)))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _step(graph, tx, loss, params, state, fixed, x, y):
    return _update(tx, _add(graph, loss, params, fixed, x, y, None), 1, params, state)


@partial(jax.jit, static_argnums=(0, 1))
def _add(graph, loss, params, fixed, x, y, total):
    """The gradient of the mean loss, and `total` if there is one."""

    def mean_loss(params):
        return loss(nnx.merge(graph, params, fixed)(x), y).mean()

    found = jax.grad(mean_loss)(params)
    return found if total is None else jax.tree.map(jnp.add, total, found)


@partial(jax.jit, static_argnums=(0, 2))
def _update(tx, total, pieces, params, state):
    """What a step does with a sum of gradients of so many pieces of a batch."""
    grads = total if pieces == 1 else jax.tree.map(lambda x: x / pieces, total)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def predict(
    model: nnx.Module,
    inputs: Shaped[np.ndarray | Rows, "C ..."] | tuple[Shaped[np.ndarray | Rows, "C ..."], ...],
    *,
    batch: int = 128,
) -> Float[np.ndarray, "C ..."]:
    """What a probe, or another model of one argument, says of many clips; inputs as in `fit`."""
    return np.concatenate([np.asarray(_outputs(model, x)) for x in batches(inputs, batch)])


def batches(inputs: PyTree, batch: int) -> Iterator[PyTree]:
    """Inputs of a model in order, of at most `batch` clips and about PART bytes."""
    size = min(batch, fitting(inputs, PART))
    for i in range(0, len(jax.tree.leaves(inputs)[0]), size):
        yield taken(inputs, slice(i, i + size))


def taken(inputs: PyTree, rows: Int[np.ndarray, " B"] | slice) -> PyTree:
    """These rows of all arrays, read if they lie in a file."""
    return jax.tree.map(lambda whole: np.asarray(whole[rows]), inputs)


def fitting(inputs: PyTree, most: int) -> int:
    """How many clips have `most` bytes in all arrays together; at least one."""
    each = sum(part.nbytes // max(len(part), 1) for part in jax.tree.leaves(inputs))
    return max(most // max(each, 1), 1)


@jax.jit
def _outputs(model, x):
    return model(x)
