"""The resampler: one look of learned queries at the tokens of a video."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from vplib.model.resampler import Resampler

resample = jax.jit(lambda resampler, tokens: resampler(tokens))
weights = jax.jit(lambda resampler, tokens: resampler.weights(tokens))


def resampler(seed: int = 0, **options) -> Resampler:
    return toy.filled(lambda: Resampler(3, 8, 12, 2, rngs=nnx.Rngs(0), **options), seed)


def tokens(seed: int = 0, count: int = 7) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, count, 12)), jnp.float32)


def normed(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + bias


def test_it_is_queries_plus_attention_to_the_normalised_tokens():
    p = {name: np.asarray(x, np.float64) for name, x in toy.leaves(resampler()).items()}
    x = np.asarray(tokens(), np.float64)
    seen = normed(x, p["video_ln/scale"], p["video_ln/bias"])
    asked = normed(p["queries"], p["query_ln/scale"], p["query_ln/bias"])
    q = np.einsum("nd,dkh->knh", asked, p["query/w"]) + p["query/b"][:, None]
    k, v = (
        np.einsum("bsd,dkh->bksh", seen, p[f"{n}/w"]) + p[f"{n}/b"][:, None]
        for n in ("key", "value")
    )
    shares = np.exp(np.einsum("knh,bksh->bkns", q, k) / 2)  # heads of size 4
    shares /= shares.sum(-1, keepdims=True)
    y = np.einsum("bkns,bksh,dkh->bnd", shares, v, p["post/w"]) + p["post/b"]
    assert toy.close(resample(resampler(), tokens()), p["queries"] + y, 1e-4)
    assert toy.close(weights(resampler(), tokens()), shares)


def test_keys_are_tokens_of_the_video_alone():
    """With one token, all queries take all of it, whatever they ask."""
    model = resampler()
    y = resample(model, tokens(count=1)) - model.queries[...]
    assert toy.close(y, y[:, :1]) and not toy.close(y[0], y[1], 1e-2)
    assert weights(model, tokens(count=5)).shape == (2, 2, 3, 5)


def test_the_order_of_tokens_does_not_matter_and_their_scale_neither():
    model, x = resampler(), tokens()
    y = resample(model, x)
    assert toy.close(resample(model, x[:, ::-1]), y)
    assert toy.close(resample(model, 5 * x + 2), y, 1e-4)
    assert not toy.close(resample(model, x.at[:, 0].set(x[:, 0, ::-1])), y, 1e-2)


def test_where_attention_says_nothing_the_queries_pass():
    model = resampler()
    model.post.w[...] *= 0
    model.post.b[...] *= 0
    expected = jnp.broadcast_to(model.queries[...], (2, 3, 8))
    assert np.array_equal(resample(model, tokens()), expected)


def test_an_mlp_adds_to_what_is_there():
    plain, more = resampler(), resampler(mlp=True)
    for part in ("query", "key", "value", "post", "query_ln", "video_ln", "queries"):
        setattr(more, part, getattr(plain, part))
    y = resample(plain, tokens())
    assert toy.close(resample(more, tokens()), more.ff_layer(y))
    more.ff_layer.ffn_layer2.linear.kernel[...] *= 0
    more.ff_layer.ffn_layer2.linear.bias[...] *= 0
    assert (
        toy.close(resample(more, tokens()), y) and more.ff_layer.ffn_layer1.linear.bias.size == 32
    )


def test_half_precision_stays_half_and_heads_divide_the_width():
    y = resample(resampler(), tokens().astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert toy.close(y.astype(jnp.float32), resample(resampler(), tokens()), 0.1)
    with pytest.raises(ValueError, match=r"^a width of 8 does not divide into 3 heads: choose a"):
        Resampler(3, 8, 12, 3, rngs=nnx.Rngs(0))
