"""Layers as released: offset LayerNorm, capped attention, scanned pre-LN blocks, pooling.

Attribute names equal the released checkpoint's path parts, so a flattened module is its checkpoint.
Source of every detail without another: google-deepmind/videoprism, videoprism/layers.py.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float, Int

from vplib.model.attention import Attention, affine, lecun, product, recomputed

LOGIT_CAP = 50.0  # of the released models' attention logits
CACHE = 2**23  # bytes of activations that a CPU's last-level cache surely holds


class LayerNorm(nnx.Module):
    """LayerNorm whose scale is stored as its offset from one: y = x_hat * (1 + scale) + bias;
    statistics in float32."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.zeros(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "*A D"]) -> Float[Array, "*A D"]:
        def norm(x, scale, bias):
            y = x.astype(jnp.float32)
            mean = y.mean(-1, keepdims=True)
            variance = jnp.square(y - mean).mean(-1, keepdims=True)
            y = (y - mean) * jax.lax.rsqrt(variance + 1e-6) * (1 + scale) + bias
            return y.astype(x.dtype)

        return recomputed(norm)(x, self.scale[...], self.bias[...])


def _kernel(key: Array, shape: tuple[int, int], dtype: object) -> Float[Array, "I O"]:
    """What `nnx.Linear` begins with; a function of the module, so that equal models compare equal."""
    return lecun(key, shape, shape[0]).astype(dtype)


class Dense(nnx.Module):
    """Affine map with the released nesting `linear/{kernel,bias}`."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(inputs, outputs, kernel_init=_kernel, rngs=rngs)

    def __call__(self, x: Float[Array, "*A I"]) -> Float[Array, "*A O"]:
        return affine(x, self.linear.kernel[...], self.linear.bias[...])


def gelu(x: Array) -> Array:
    """Exact GELU, of the vision stacks, in float32. By erf: the erfc of `jax.nn.gelu` costs more
    on CPU and differs by 1e-6."""

    def exact(x):
        y = x.astype(jnp.float32)
        return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)

    return recomputed(exact)(x)


def add_norms(module: nnx.Module, width: int, norm: str) -> None:
    """The LayerNorms of one residual branch: `pre` has one, before it; `primer_hybrid` (LvT-g's
    text) one after it, too."""
    if norm == "primer_hybrid":
        module.pre_layer_norm, module.post_layer_norm = LayerNorm(width), LayerNorm(width)
    else:
        module.layer_norm = LayerNorm(width)


def branch(
    module: nnx.Module, transform: Callable, x: Float[Array, "*A N D"]
) -> Float[Array, "*A N D"]:
    """transform(x) between the norms that `module` has."""
    if hasattr(module, "post_layer_norm"):
        return module.post_layer_norm(transform(module.pre_layer_norm(x)))
    return transform(module.layer_norm(x))


class FeedForward(nnx.Module):
    """Pre-LN two-layer MLP with its residual."""

    def __init__(
        self, width: int, hidden: int, activation: Callable, *, norm: str = "pre", rngs: nnx.Rngs
    ):
        add_norms(self, width, norm)
        self.ffn_layer1 = Dense(width, hidden, rngs=rngs)
        self.ffn_layer2 = Dense(hidden, width, rngs=rngs)
        self.activation = activation

    def __call__(
        self, x: Float[Array, "*A N D"], keep: Bool[Array, "*#A #N"] | None = None
    ) -> Float[Array, "*A N D"]:
        """Tokens that are not kept (padding) pass through, as released. An `adapter`, where one was
        put in (`adapters.join`), stands beside the MLP."""

        def mlp(x):
            y = self.ffn_layer2(self.activation(self.ffn_layer1(x)))
            if hasattr(self, "adapter"):
                y = y + self.adapter(x)
            return y if keep is None else jnp.where(keep[..., None], y, 0)

        return x + branch(self, mlp, x)


class Block(nnx.Module):
    """Pre-LN transformer block: attention and MLP, each with its residual."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        activation: Callable = gelu,
        cap: float | None = LOGIT_CAP,
        norm: str = "pre",
        rngs: nnx.Rngs,
    ):
        add_norms(self, width, norm)
        self.self_attention = Attention(width, heads, cap=cap, rngs=rngs)
        self.ff_layer = FeedForward(width, hidden, activation, norm=norm, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*A N D"],
        mask: Bool[Array, "*#A #K #N #M"] | None = None,
        keep: Bool[Array, "*#A #N"] | None = None,
        *,
        windowed: bool = False,
    ) -> Float[Array, "*A N D"]:
        x = x + branch(self, lambda y: self.self_attention(y, mask, windowed=windowed), x)
        return self.ff_layer(x, keep)


def in_groups(
    block: Block,
    x: Float[Array, "*A N D"],
    mask: Bool[Array, "*#A #K #N #M"] | None,
    keep: Bool[Array, "*#A #N"] | None,
    windowed: bool,
) -> Float[Array, "*A N D"]:
    """block(x, mask, keep, windowed=windowed), on CPU for a few sequences at a time.

    Sequences do not see each other, so any grouping is exact. One whose hidden activations stay in
    the cache is a third faster at the released base size; accelerators have no such cache and want
    all the work at once.
    """
    tied = 3 if windowed else 2  # axes within which tokens see each other
    free, inner = x.shape[:-tied], x.shape[-tied:-1]
    count, hidden = math.prod(free), block.ff_layer.ffn_layer1.linear.kernel.shape[-1]
    bytes_each = math.prod(inner) * hidden * x.dtype.itemsize
    groups = next(
        (g for g in range(1, count) if count % g == 0 and count // g * bytes_each <= CACHE), count
    )
    if groups == 1 or jax.default_backend() != "cpu":
        return block(x, mask, keep, windowed=windowed)
    rows = {"x": x}
    if mask is not None:
        rows["mask"] = jnp.broadcast_to(mask, (*x.shape[:-2], *mask.shape[-3:]))
    if keep is not None:
        rows["keep"] = jnp.broadcast_to(keep, x.shape[:-1])
    rows = {
        name: row.reshape(groups, count // groups, *row.shape[len(free) :])
        for name, row in rows.items()
    }
    return jax.lax.map(lambda row: block(**row, windowed=windowed), rows).reshape(x.shape)


class Stack(nnx.Module):
    """`layers` equal blocks with parameters stacked on axis 0 and scanned, as in the released
    checkpoints.

    `remat` recomputes each block in the backward pass: memory of one block instead of all, for a
    third more work. Without it the blocks run unrolled, which spares the copies into and out of a
    loop's stacked arrays (LOG.md). Of the first `still` blocks, and of all before them, no gradient
    is computed.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        hidden: int,
        *,
        rngs: nnx.Rngs,
        **block,
    ):
        keys = jax.random.split(rngs.params(), layers)
        self.x_layers = jax.vmap(
            lambda key: Block(width, heads, hidden, rngs=nnx.Rngs(key), **block)
        )(keys)
        self.remat, self.still = False, 0

    def __call__(
        self,
        x: Float[Array, "*A N D"],
        mask: Bool[Array, "*#A #K #N #M"] | None = None,
        keep: Bool[Array, "*#A #N"] | None = None,
        *,
        windowed: bool = False,
    ) -> Float[Array, "*A N D"]:
        """Every block with the same mask, kept tokens and windows, as `Attention` and
        `FeedForward` take them."""
        alone = jax.default_backend() != "cpu" and jax.device_count() == 1

        def step(x, block):
            # Unrolled on an H200, XLA else laid features out before tokens and transposed at every
            # norm. On several devices the constraint would gather all activations.
            if alone:
                x = with_layout_constraint(x, Layout(tuple(range(x.ndim))))
            return in_groups(block, x, mask, keep, windowed), None

        step, layers = jax.checkpoint(step) if self.remat else step, self.x_layers
        if self.still:
            first = jax.tree.map(lambda w: jax.lax.stop_gradient(w[: self.still]), layers)
            layers = jax.tree.map(lambda w: w[self.still :], layers)
            x = jax.lax.stop_gradient(jax.lax.scan(step, x, first, unroll=not self.remat)[0])
        return jax.lax.scan(step, x, layers, unroll=not self.remat)[0]


class AttentionPool(nnx.Module):
    """MAP head: one learnable query cross-attends to all tokens, then LayerNorm; no residual, no
    MLP, no logit cap."""

    def __init__(self, width: int, heads: int, *, inner: int | None = None, rngs: nnx.Rngs):
        self.pooling_attention_query = nnx.Param(lecun(rngs.params(), (1, width), width))
        self.pooling_attention = Attention(width, heads, inner=inner, scale=True, rngs=rngs)
        self.pooling_attention_layer_norm = LayerNorm(width)

    def __call__(self, x: Float[Array, "*A N D"]) -> Float[Array, "*A D"]:
        """One query a head, so keys and values need not be formed: q (W x) = (q W) x, and sum a (W
        x) = W (sum a x).

        Exact (the key bias is the same for all tokens, which softmax ignores) and cheaper by the
        head size.
        """
        pool = self.pooling_attention
        query = (
            jnp.einsum("d,dkh->kh", self.pooling_attention_query[...][0], pool.query.w[...])
            + pool.query.b[...]
        )
        probe = jnp.einsum("kh,dkh->dk", query * pool.per_dim_scale(), pool.key.w[...])
        logits = product(x, probe.astype(x.dtype))  # A N K
        weights = jax.nn.softmax(logits, axis=-2).astype(x.dtype)
        mean = product(jnp.swapaxes(weights, -1, -2), x)  # A K D
        value = jnp.einsum("...kd,dkh->...kh", mean, pool.value.w[...]) + pool.value.b[...]
        y = jnp.einsum("...kh,dkh->...d", value, pool.post.w[...]) + pool.post.b[...]
        return self.pooling_attention_layer_norm(y.astype(x.dtype))


def one_hot_rows(table: Float[Array, "N D"], index: Int[Array, "*A"]) -> Float[Array, "*A D"]:
    """table[index] as a small matrix product, whose gradient is a matrix product too (a gather's
    is a serial scatter)."""
    return jax.nn.one_hot(index, table.shape[0], dtype=table.dtype) @ table


@jax.custom_vjp
def permute(
    x: Float[Array, "B S D"], order: Int[Array, "B S"], inverse: Int[Array, "B S"]
) -> Float[Array, "B S D"]:
    """x[b, order[b, s]]; `inverse` is the inverse permutation.

    The gradient is a gather by the inverse: the default one is a serial scatter on CPU and costs
    more than a block.
    """
    return jnp.take_along_axis(x, order[..., None], axis=1)


permute.defvjp(
    lambda x, order, inverse: (permute(x, order, inverse), (order, inverse)),
    lambda saved, g: (permute(g, saved[1], saved[0]), None, None),
)
