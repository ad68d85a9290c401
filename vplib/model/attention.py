"""Softmax attention: plain, in pieces, or by a kernel that never holds all logits; projections.

Source of every detail without another: google-deepmind/videoprism, videoprism/layers.py.
"""

import logging
from collections.abc import Callable
from functools import cache
from types import ModuleType

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vplib import environment

LOGITS = 2**24  # bytes of attention logits that one sequence may hold at a time


def lecun(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    """LeCun-normal values: zero mean, variance 1 / fan_in, truncated at two deviations."""
    return jax.random.truncated_normal(key, -2, 2, shape) * (fan_in**-0.5 / 0.87962566)


def recomputed(f: Callable) -> Callable:
    """`f`, whose backward pass may compute the values inside `f` again instead of keeping them.

    For elementwise work and plain attention: reading those values, in float32, can take longer than
    computing them. Outside a scan XLA decides: unrolled, on a GPU, it kept the logits of plain
    attention (LOG.md).
    """
    return jax.checkpoint(f, prevent_cse=False)


def product(x: Float[Array, "*A M I"], y: Float[Array, "*B I N"]) -> Float[Array, "*C M N"]:
    """x y, summed and returned in float32.

    On CPU this is the only product of bfloat16 that XLA hands to a fast kernel: asked for bfloat16,
    it takes twice as long (LOG.md). Before jaxlib 0.9 there was none at all.
    """
    if environment.JAXLIB < (0, 9) and jax.default_backend() == "cpu":
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def affine(
    x: Float[Array, "*A I"], w: Float[Array, "I O"], b: Float[Array, " O"]
) -> Float[Array, "*A O"]:
    """x w + b in the dtype of x, as a product of two matrices: with more axes XLA's backward pass
    is slower on CPU."""
    flat, w = x.reshape(-1, x.shape[-1]), w.astype(x.dtype)
    if jax.default_backend() == "cpu":
        y = (product(flat, w) + b).astype(x.dtype)
    else:  # accelerators sum in float32 by themselves, and write half as much
        y = flat @ w + b.astype(x.dtype)
    return y.reshape(*x.shape[:-1], w.shape[-1])


def attend(
    q: Float[Array, "*A K Q H"],
    k: Float[Array, "*A K M H"],
    v: Float[Array, "*A K M H"],
    *,
    cap: float | None = None,
    mask: Bool[Array, "*#A #K #Q #M"] | None = None,
    kernel: str = "plain",
) -> Float[Array, "*A K Q H"]:
    """Softmax attention, softmax in float32; logits are capped as cap * tanh(logit / cap) before
    the mask.

    `q` arrives scaled. Heads come before tokens: on CPU this layout was twice as fast as
    tokens-first einsums. `kernel` (hardware.attention) names one of KERNELS, which never holds all
    logits; it serves unmasked self-attention among a multiple of 128 tokens, and the rest stays
    plain. Plain unmasked attention whose logits outgrow LOGITS takes its queries in pieces and
    recomputes them in the backward pass: a 4096-token decoder layer would keep 0.5 GB of logits a
    clip.

    Raises ValueError for an unknown kernel.
    """
    if kernel != "plain" and kernel not in KERNELS:
        raise ValueError(
            f"hardware.attention={kernel} is unknown: one of plain, {', '.join(KERNELS)}"
        )
    *_, heads, queries, _ = q.shape
    if mask is None and kernel != "plain" and q.shape == k.shape and queries % 128 == 0:
        return KERNELS[kernel](q, k, v, cap)
    logits = 4 * heads * queries * k.shape[-2]  # bytes a sequence
    if mask is not None or logits <= LOGITS:
        return recomputed(lambda q, k, v: _plain(q, k, v, cap, mask))(q, k, v)
    count = next(
        n
        for n in range(1, queries + 1)
        if queries % n == 0 and (logits <= n * LOGITS or n == queries)
    )
    pieces = jnp.moveaxis(q.reshape(*q.shape[:-2], count, queries // count, q.shape[-1]), -3, 0)
    piece = jax.checkpoint(lambda q: _plain(q, k, v, cap, None))
    return jnp.moveaxis(jax.lax.map(piece, pieces), 0, -3).reshape(*q.shape[:-1], v.shape[-1])


def _plain(q, k, v, cap, mask):
    """All logits at once. Dividing by the softmax's sum after the product with `v` spares a pass
    over the weights."""
    logits = product(q, jnp.swapaxes(k, -1, -2))
    if cap is not None:
        logits = cap * jnp.tanh(logits / cap)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    mean = product(weights.astype(v.dtype), v)
    return (mean / weights.sum(-1, keepdims=True)).astype(v.dtype)


def _splash(q, k, v, cap):
    """JAX's Pallas kernel for TPU; elsewhere interpreted, which only tests want."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    *batch, heads, tokens, _ = q.shape
    mask = splash.MultiHeadMask([splash.FullMask((tokens, tokens))] * heads)
    kernel = splash.make_splash_mha_single_device(
        mask, attn_logits_soft_cap=cap, interpret=jax.default_backend() != "tpu"
    )
    flat = [x.reshape(-1, *x.shape[-3:]) for x in (q, k, v)]
    return jax.vmap(kernel)(*flat).astype(v.dtype).reshape(*batch, heads, tokens, v.shape[-1])


@cache
def _import_tokamax() -> ModuleType:
    """tokamax, kept from reading this program's arguments as its own and from printing pages about
    shapes it is not tuned for."""
    environment.parse_flags()
    try:
        import tokamax
    except ImportError as e:
        raise ImportError(
            "hardware.attention=tokamax needs the package: pip install -e '.[kernels]', or choose "
            "hardware.attention=plain"
        ) from e
    logging.getLogger("absl").addFilter(
        lambda record: "Autotuning cache miss" not in str(record.msg)
    )
    return tokamax


def _tokamax(q, k, v, cap):
    """tokamax's flash attention (extra `kernels`) in JAX's Mosaic GPU language; on CPU its XLA
    version, which only tests want.

    Its Triton kernel is not used: it has no gradient of capped logits. Raises ImportError without
    the package, ValueError for another GPU than Hopper or data-centre Blackwell and for float32.
    """
    tokamax = _import_tokamax()
    # Tokens before heads.
    flat = [jnp.swapaxes(x.reshape(-1, *x.shape[-3:]), 1, 2) for x in (q, k, v)]
    kind = "xla" if jax.default_backend() == "cpu" else "mosaic"
    try:
        y = tokamax.dot_product_attention(
            *flat, scale=1.0, logits_soft_cap=cap, implementation=kind
        )
    except NotImplementedError as e:
        raise ValueError(
            f"hardware.attention=tokamax cannot work here ({e}): it needs a GPU of compute capability "
            "9 or 10 and hardware.dtype=bfloat16; choose hardware.attention=plain"
        ) from e
    return jnp.swapaxes(y, 1, 2).reshape(q.shape)


def _on_each_device(kernel: Callable) -> Callable:
    """`kernel` on each device's part of the batch: XLA cannot split a kernel by itself."""

    def call(q, k, v, cap):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1 or q.shape[0] % mesh.size:
            return kernel(q, k, v, cap)
        split = jax.sharding.PartitionSpec("data")
        return jax.shard_map(
            lambda *x: kernel(*x, cap), in_specs=(split,) * 3, out_specs=split, check_vma=False
        )(q, k, v)

    return call


# Values of hardware.attention, beside plain.
KERNELS = {"splash": _on_each_device(_splash), "tokamax": _on_each_device(_tokamax)}


class HeadProjection(nnx.Module):
    """One projection between a width and K heads, as released: w (D, K, H), b (K, H) or (D,)."""

    def __init__(self, width: int, heads: int, size: int, *, out: bool = False, rngs: nnx.Rngs):
        self.w = nnx.Param(
            lecun(rngs.params(), (width, heads, size), heads * size if out else width)
        )
        self.b = nnx.Param(jnp.zeros(width if out else (heads, size)))


class PerDimScale(nnx.Module):
    """Learnable query scale, one a head dimension: softplus(w) / softplus(0) / sqrt(head size)."""

    def __init__(self, size: int):
        self.per_dim_scale = nnx.Param(jnp.zeros(size))

    def __call__(self) -> Float[Array, " H"]:
        w = self.per_dim_scale[...]
        return jax.nn.softplus(w) * (1.442695041 / w.size**0.5)  # 1 / softplus(0) = 1.4427


class Attention(nnx.Module):
    """Multi-head attention; biases everywhere; queries scaled by head_dim^-0.5; `kernel` is that
    of `attend`.

    The attention pooler borrows the projections, with a learnable `scale` a dimension and its own
    `inner` width (that of all heads together; the released video-text pooler uses four times the
    model width).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        inner: int | None = None,
        scale: bool = False,
        cap: float | None = None,
        rngs: nnx.Rngs,
    ):
        size = (inner or width) // heads
        self.query = HeadProjection(width, heads, size, rngs=rngs)
        self.key = HeadProjection(width, heads, size, rngs=rngs)
        self.value = HeadProjection(width, heads, size, rngs=rngs)
        self.post = HeadProjection(width, heads, size, out=True, rngs=rngs)
        if scale:
            self.per_dim_scale = PerDimScale(size)
        self.cap, self.kernel = cap, "plain"

    def __call__(
        self,
        x: Float[Array, "*A N D"],
        mask: Bool[Array, "*#A #K #N #M"] | None = None,
        *,
        windowed: bool = False,
    ) -> Float[Array, "*A N D"]:
        """Self-attention, with one fused projection to queries, keys and values.

        `windowed`: x is a row of windows (axis -3) of N tokens, and a window's 3N keys are those
        of the window before it, its own and those of the window after it; `mask` must shut out
        what lies beyond the ends.
        """
        width, heads, size = self.query.w.shape
        parts = (self.query, self.key, self.value)
        w = jnp.concatenate([part.w[...].reshape(width, -1) for part in parts], axis=1)
        b = jnp.concatenate([part.b[...].reshape(-1) for part in parts])
        y = affine(x, w, b).reshape(*x.shape[:-1], 3, heads, size)
        q, k, v = (jnp.swapaxes(y[..., i, :, :], -2, -3) for i in range(3))  # each A K N H
        if windowed:
            k, v = (
                jnp.concatenate([jnp.roll(z, 1, axis=-4), z, jnp.roll(z, -1, axis=-4)], axis=-2)
                for z in (k, v)
            )
        y = attend(
            q * jnp.asarray(size**-0.5, q.dtype), k, v, cap=self.cap, mask=mask, kernel=self.kernel
        )
        y = jnp.swapaxes(y, -2, -3).reshape(*x.shape[:-1], heads * size)
        return affine(y, self.post.w[...].reshape(width, heads * size).T, self.post.b[...])
