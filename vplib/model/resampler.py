"""A video's tokens as a few vectors that a language model takes for words."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vplib.model.attention import HeadProjection, affine, attend, lecun, product
from vplib.model.layers import FeedForward, LayerNorm, gelu


class Resampler(nnx.Module):
    """Learned queries attend to a video's tokens once: queries + attention(LN queries, LN tokens).

    Unlike Flamingo's, it has one layer, a norm for either side, and no queries among the keys. Keys
    and values are projected from the encoder's width, so nothing comes before them. `mlp` adds a
    residual MLP of four times the width, of which the paper says nothing.
    Source: VideoPrism (arXiv:2402.13217) section 4.3 and appendix G; Flamingo (arXiv:2204.14198).
    Heads and first values are our choice.
    """

    def __init__(
        self,
        queries: int,
        width_lm: int,
        width_video: int,
        heads: int,
        *,
        mlp: bool = False,
        rngs: nnx.Rngs,
    ):
        if width_lm % heads:
            raise ValueError(
                f"a width of {width_lm} does not divide into {heads} heads: choose a divisor"
            )
        size = width_lm // heads
        self.queries = nnx.Param(lecun(rngs.params(), (queries, width_lm), width_lm))
        self.query_ln, self.video_ln = LayerNorm(width_lm), LayerNorm(width_video)
        self.query = HeadProjection(width_lm, heads, size, rngs=rngs)
        self.key = HeadProjection(width_video, heads, size, rngs=rngs)
        self.value = HeadProjection(width_video, heads, size, rngs=rngs)
        self.post = HeadProjection(width_lm, heads, size, out=True, rngs=rngs)
        if mlp:
            self.ff_layer = FeedForward(width_lm, 4 * width_lm, gelu, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B S D"]) -> Float[Array, "B N D_lm"]:
        """N vectors of the language model's width for each clip's tokens."""
        q, k, v = self._heads(tokens)
        y = jnp.swapaxes(attend(q, k, v), -2, -3)  # B N K H
        width, heads, size = self.post.w.shape
        y = y.reshape(*y.shape[:2], heads * size)
        y = affine(y, self.post.w[...].reshape(width, -1).T, self.post.b[...])
        x = self.queries[...].astype(tokens.dtype) + y
        return self.ff_layer(x) if hasattr(self, "ff_layer") else x

    def weights(self, tokens: Float[Array, "B S D"]) -> Float[Array, "B K N S"]:
        """How much each query's heads take of each token; the sum over tokens is 1."""
        q, k, _ = self._heads(tokens)
        return jax.nn.softmax(product(q, jnp.swapaxes(k, -1, -2)))

    def _heads(self, tokens):
        """Scaled queries (B K N H), keys and values (B K S H)."""

        def project(x, part):
            width, heads, size = part.w.shape
            y = affine(x, part.w[...].reshape(width, -1), part.b[...].reshape(-1))
            return jnp.swapaxes(y.reshape(*x.shape[:-1], heads, size), -2, -3)

        seen = self.video_ln(tokens)
        q = project(self.query_ln(self.queries[...].astype(tokens.dtype)), self.query)
        q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        # The same queries for every clip; attention wants as many as clips.
        q = jnp.broadcast_to(q, (len(tokens), *q.shape))
        return q, project(seen, self.key), project(seen, self.value)
