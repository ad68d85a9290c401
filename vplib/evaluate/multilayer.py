"""Frozen heads on tokens of one layer, and multi-layer attention pooling (MLAP) on those of several:
one query that looks at an encoder's last layers in turn.

q_0 is learned; q_i = MLP(attention(q_{i-1}, tokens of layer i)), shallowest layer first; the class is
read from q_k. Each layer is `boxes.CrossAttention`.
Source: VideoGLUE (arXiv:2307.03166), equation 2 and figure 4.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float16, Shaped, UInt8

from vplib.evaluate import boxes, heads
from vplib.evaluate.boxes import CrossAttention
from vplib.evaluate.cache import Rows
from vplib.model import frozen
from vplib.model.attention import lecun
from vplib.model.encoders import VideoEncoder, patchify, pixels
from vplib.model.layers import Dense, LayerNorm, Stack, in_groups

LAYERS = 4  # the paper's k


# --- tokens of several layers --------------------------------------------------------------------


def layers_of(encoder: VideoEncoder, count: int = LAYERS, dtype: str = "float32") -> Callable:
    """Tokens of the last `count` layers, in half precision (2 k S D bytes a clip), shallowest first;
    an encoder for `features.features`, of which the last layer is what `features.tokens_of` gives.

    Which layers of a factorised encoder are the last four is not published. Our choice: the temporal
    ones (B, L and g have four), each followed by the encoder's last LayerNorm. Where these are fewer,
    as in our tiny and small models (two), the last spatial ones come before them, each followed by the
    spatial LayerNorm; their tokens have not met other frames. Of joint attention, the last ones. Raises
    ValueError if the encoder has fewer layers than `count`.
    """
    each = [stack.x_layers.ff_layer.ffn_layer1.linear.bias.shape[0] for stack, _ in encoder.stacks]
    if not 1 <= count <= sum(each):
        raise ValueError(
            f"the tokens of {count} layers are asked for and the encoder has {sum(each)}: take from "
            "1 to as many"
        )
    return partial(_layers, *frozen.apart(encoder, dtype), count=count, dtype=dtype)


@partial(jax.jit, static_argnames=("graph", "count", "dtype"))
def _layers(
    graph: nnx.GraphDef,
    weights: nnx.State,
    video: UInt8[Array, "B T S S 3"],
    count: int,
    dtype: str,
) -> Float16[Array, "B k N D"]:
    return last_layers(frozen.together(graph, weights), pixels(video, dtype), count).astype(
        "float16"
    )


def last_layers(
    encoder: VideoEncoder, video: Float[Array, "B T H W 3"], count: int
) -> Float[Array, "B k N D"]:
    """What `layers_of` gives, in the precision of the video."""
    x = patchify(video, encoder.patch)  # B T N P
    b, t, *_ = x.shape
    rows, columns = (side // encoder.patch for side in video.shape[2:4])
    space, time = encoder.positions(t, rows, columns)
    x = encoder.patch_projection(x) + space.astype(x.dtype)
    if hasattr(encoder, "joint_encoder"):
        x = (x + time[:, None].astype(x.dtype)).reshape(b, -1, x.shape[-1])
        _, each = _each(*encoder.stacks[0], x)
        return jnp.stack([*each[-count:]], 1)
    (over_space, space_ln), (over_time, time_ln) = encoder.stacks
    x, spatial = _each(over_space, space_ln, x)
    x = x.swapaxes(1, 2) + time.astype(x.dtype)  # B N T D
    _, temporal = _each(over_time, time_ln, x)
    last = [*spatial, *(layer.swapaxes(1, 2) for layer in temporal)][-count:]
    return jnp.stack([layer.reshape(b, -1, layer.shape[-1]) for layer in last], 1)


def _each(
    stack: Stack, norm: LayerNorm, x: Float[Array, "*A N D"]
) -> tuple[Float[Array, "*A N D"], Float[Array, "L *A N D"]]:
    """What a stack gives after its norm, and so after each of its blocks."""

    def step(x, block):
        x = in_groups(block, x, None, None, False)
        return x, norm(x)

    _, each = jax.lax.scan(step, x, stack.x_layers, unroll=True)
    return each[-1], each


# --- the head ------------------------------------------------------------------------------------


class MultilayerProbe(nnx.Module):
    """Standardisation, one cross-attention a layer, a linear classifier of the last one's output.

    Tokens of k layers lie side by side along their features, so that `mean` and `deviation` (k D,)
    are those of each layer, and `heads.fit` and `boxes.train` serve this head as they serve the one
    of one layer. The first query is learned or, with `most`, it is the regions of as many boxes in
    the last layer (our choice: no layer is named), which stand before the tokens (`boxes.BoxProbe`).
    `heads` of a summed width `inner` (D unless given) look at each layer.
    """

    def __init__(
        self,
        mean: Float[np.ndarray, " F"],
        deviation: Float[np.ndarray, " F"],
        heads: int,
        classes: int,
        *,
        layers: int,
        inner: int | None = None,
        most: int = 0,
        rngs: nnx.Rngs,
    ):
        self.mean, self.deviation = (
            nnx.Variable(jnp.asarray(mean)),
            nnx.Variable(jnp.asarray(deviation)),
        )
        width, self.most, self.count = len(mean) // layers, most, layers
        if not most:
            self.query = nnx.Param(lecun(rngs.params(), (1, width), width))
        self.layers = jax.vmap(
            lambda key: CrossAttention(width, heads, inner=inner, rngs=nnx.Rngs(key))
        )(jax.random.split(rngs.params(), layers))
        self.projection = Dense(width, classes, rngs=rngs)

    def pooled(self, inputs: Shaped[Array, "B N F"]) -> Float[Array, "B M D"]:
        """q_k of the learned query, M = 1, or of every box."""
        x = (inputs.astype(jnp.float32) - self.mean[...]) / self.deviation[...]
        each = jnp.stack(jnp.split(x, self.count, -1))  # k B N D
        if self.most:
            queries = each[-1, :, : self.most]
        else:
            queries = jnp.broadcast_to(self.query[...], (len(x), *self.query.shape))

        def look(queries, layer):
            attention, tokens = layer
            return attention(queries, tokens), None

        layers = (self.layers, each[:, :, self.most :])
        return jax.lax.scan(look, queries, layers, unroll=True)[0]

    def __call__(self, inputs: Shaped[Array, "B N F"]) -> Float[Array, "B *M K"]:
        logits = self.projection(self.pooled(inputs))
        return logits if self.most else logits[:, 0]


class MultilayerClassifier(nnx.Module):
    """An encoder and its `MultilayerProbe`: what `VideoClassifier` is to a head on one layer."""

    def __init__(self, encoder: VideoEncoder, head: MultilayerProbe):
        self.encoder, self.head = encoder, head
        # Not trained, but a part of what a file of weights has to hold.
        self.head.mean = nnx.Param(head.mean[...])
        self.head.deviation = nnx.Param(head.deviation[...])

    def __call__(self, video: Float[Array, "B T H W 3"]) -> Float[Array, "B K"]:
        layers = last_layers(self.encoder, video, self.head.count)
        return self.head(jnp.concatenate(jnp.unstack(layers, axis=1), -1))


def beside(tokens: Shaped[np.ndarray | Rows, "C k S D"]) -> Shaped[np.ndarray | Rows, "C S kD"]:
    """The layers' tokens side by side along their features: what the head takes."""
    if isinstance(tokens, Rows):
        return tokens.seen(beside)
    clips, layers, places, width = tokens.shape
    return np.moveaxis(tokens, 1, 2).reshape(clips, places, layers * width)


def train(
    tokens: Shaped[np.ndarray | Rows, "C *k S D"],
    targets: Shaped[np.ndarray, "C ..."],
    *,
    width: int | None = None,
    **recipe,
) -> nnx.Module:
    """A head trained on frozen tokens, those of `layers_of` or, without k, of one layer: MLAP, or
    `heads.Probe`; the same bytes for the same seed.

    All as `heads.train_probe`, whose recipe and errors it has.
    """
    if tokens.ndim == 3:
        return heads.train_probe(tokens, targets, width=width, **recipe)
    inputs, head = beside(tokens), partial(MultilayerProbe, layers=tokens.shape[1])
    width = width or tokens.shape[-1]
    return heads.train_probe(inputs, targets, width=width, head=head, **recipe)


def predict(
    model: nnx.Module, tokens: Shaped[np.ndarray | Rows, "C *k S D"], *, batch: int = 128
) -> Float[np.ndarray, "C K"]:
    """Logits of many clips."""
    if tokens.ndim == 3:
        return heads.predict(model, tokens, batch=batch)
    return _in_batches(heads.predict, model, tokens, batch)


def pooled(
    model: MultilayerProbe, tokens: Shaped[np.ndarray | Rows, "C k S D"], *, batch: int = 128
) -> Float[np.ndarray, "C D"]:
    """q_k of many clips or windows: what the classifier reads."""
    return _in_batches(_pooled, model, tokens, batch)


def _in_batches(run: Callable, model: MultilayerProbe, tokens: np.ndarray | Rows, batch: int):
    parts = heads.batches(tokens, batch)
    return np.concatenate([np.asarray(run(model, beside(part))) for part in parts])


@jax.jit
def _pooled(model, inputs):
    return model.pooled(inputs)[:, 0]


def train_boxes(
    tokens: Shaped[np.ndarray, "C *k S D"],
    places: Sequence[Float[np.ndarray, "_ 4"]],
    targets: Sequence[Shaped[np.ndarray, "_ K"]],
    *,
    heads: int,
    **recipe,
) -> nnx.Module:
    """As `boxes.train`, with its recipe and errors, on tokens of one layer or of several, where the
    first queries are the boxes of each clip, `places`, and not learned.
    """
    if tokens.ndim == 3:
        return boxes.train(tokens, places, targets, heads=heads, **recipe)
    if tokens.shape[-1] % heads:
        raise ValueError(
            f"{heads} heads do not divide a width of {tokens.shape[-1]}: choose a number that does"
        )
    head = partial(MultilayerProbe, layers=tokens.shape[1])
    return boxes.train(beside(tokens), places, targets, heads=heads, head=head, **recipe)


def predict_boxes(
    model: nnx.Module,
    tokens: Shaped[np.ndarray, "C *k S D"],
    places: Sequence[Float[np.ndarray, "_ 4"]],
    **grid,
) -> list[Float[np.ndarray, "_ K"]]:
    """Probability of each class for each box of each clip, as `boxes.predict`."""
    return boxes.predict(model, beside(tokens) if tokens.ndim == 4 else tokens, places, **grid)
