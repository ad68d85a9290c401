"""Heads on a frozen backbone: a MAP probe trained on cached tokens."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from vplib.model.layers import AttentionPool, Dense
from vplib.train.optimiser import schedule


class Probe(nnx.Module):
    """Standardisation, one attention pooling over all tokens, a linear classifier (the released classifier's names).

    `mean` and `deviation` (D,) of the training tokens take away what all tokens share, which says nothing (as the
    affine-free BatchNorm of linear probes does). Source: VideoPrism section 4.1 (frozen backbone, one MAP layer).
    """

    def __init__(
        self,
        mean: Float[np.ndarray, " D"],
        deviation: Float[np.ndarray, " D"],
        heads: int,
        classes: int,
        *,
        rngs: nnx.Rngs,
    ):
        width = len(mean)
        self.mean, self.deviation = (
            nnx.Variable(jnp.asarray(mean)),
            nnx.Variable(jnp.asarray(deviation)),
        )
        self.atten_pooler = AttentionPool(width, heads, rngs=rngs)
        self.projection = Dense(width, classes, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B S D"]) -> Float[Array, "B K"]:
        return self.projection(self.atten_pooler((tokens - self.mean[...]) / self.deviation[...]))


def train_probe(
    tokens: Float[np.ndarray, "C S D"],
    labels: Int[np.ndarray, " C"],
    *,
    classes: int,
    heads: int,
    epochs: int,
    batch: int,
    lr: float,
    weight_decay: float,
    seed: int,
) -> Probe:
    """A probe trained with AdamW, cosine decay after 5% warm-up, on frozen tokens; the same bytes for the same seed.

    Raises ValueError when there are fewer clips than one batch or a label is out of range.
    """
    clips = len(labels)
    if clips < batch:
        raise ValueError(
            f"{clips} labelled clips are fewer than one batch: give more clips or probe.batch={max(clips // 2, 1)}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()} but the probe has {classes} classes"
        )
    sample = tokens[:512].astype(np.float32)  # plenty: hundreds of tokens a clip
    probe = Probe(
        sample.mean((0, 1)), sample.std((0, 1)) + 1e-3, heads, classes, rngs=nnx.Rngs(seed)
    )
    graph, params, fixed = nnx.split(probe, nnx.Param, ...)
    per_epoch = clips // batch
    tx = _optimiser(lr, epochs * per_epoch, weight_decay)
    state, rng = tx.init(params), np.random.default_rng(seed)
    tokens, labels = jnp.asarray(tokens), jnp.asarray(labels)
    for _ in range(epochs):
        order = rng.permutation(clips)[: per_epoch * batch].reshape(per_epoch, batch)
        params, state = _epoch(graph, tx, params, state, fixed, tokens, labels, order)
    return nnx.merge(graph, params, fixed)


@lru_cache
def _optimiser(lr: float, steps: int, weight_decay: float) -> optax.GradientTransformation:
    """One object a recipe, so that `_epoch` compiles once for all seeds and backbones."""
    return optax.adamw(
        schedule("cosine", learning_rate=lr, steps=steps, warmup=max(steps // 20, 1)),
        weight_decay=weight_decay,
    )


@partial(jax.jit, static_argnums=(0, 1))
def _epoch(graph, tx, params, state, fixed, tokens, labels, order):
    """One pass in the given order (steps, batch): a single dispatch, since a step takes milliseconds."""

    def loss(params, x, y):
        logits = nnx.merge(graph, params, fixed)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry, rows):
        params, state = carry
        updates, state = tx.update(
            jax.grad(loss)(params, tokens[rows].astype(jnp.float32), labels[rows]), state, params
        )
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), order)[0]


def predict(
    probe: Probe, tokens: Float[np.ndarray, "C S D"], *, batch: int = 128
) -> Float[np.ndarray, "C K"]:
    """Logits of many clips."""
    return np.concatenate(
        [np.asarray(_logits(probe, tokens[i : i + batch])) for i in range(0, len(tokens), batch)]
    )


@jax.jit
def _logits(probe, x):
    return probe(x.astype(jnp.float32))
