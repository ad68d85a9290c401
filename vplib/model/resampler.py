"""A video's tokens as a few vectors that a language model takes for words."""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vplib.model import checkpoints
from vplib.model.attention import HeadProjection, affine, attend, lecun, product
from vplib.model.decoders import CausalLM
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


def prompted(
    bridge: Resampler,
    lm: CausalLM,
    tokens: Float[Array, "B S D"],
    ids: Int[Array, "B L"],
    keep: Bool[Array, "B L"],
) -> tuple[Float[Array, "B P D_lm"], Bool[Array, "B P"]]:
    """The clip as vectors, then the words of a prompt as the language model embeds them, and which
    of all are there: what `decoders.generate` goes on from.
    """
    seen = bridge(tokens.astype(jnp.float32))
    words = lm.embed(ids).astype(seen.dtype)
    there = jnp.ones(seen.shape[:2], bool)
    return jnp.concatenate([seen, words], 1), jnp.concatenate([there, keep], 1)


def load(path: str | Path) -> Resampler:
    """The resampler of a weights file (`checkpoints.save`), of the sizes that its arrays show.

    Raises CheckpointError for a file that cannot be read, of another model, or whose arrays do not
    fit each other.
    """
    weights = checkpoints.read(path)
    queries, key = weights.get("params/queries"), weights.get("params/key/w")
    if queries is None or key is None or queries.ndim != 2 or key.ndim != 3:
        raise checkpoints.CheckpointError(
            f"{path} holds no resampler: give the file that 42_captioning_qa wrote"
        )
    count, width = queries.shape
    sizes = (count, width, key.shape[0], key.shape[1])
    mlp = any(name.startswith("params/ff_layer/") for name in weights)
    model = nnx.eval_shape(lambda: Resampler(*sizes, mlp=mlp, rngs=nnx.Rngs(0)))
    checkpoints.assign(model, weights, name=str(path))
    return model
