"""The losses at points where their values are known, and against their plain forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from vplib.method.losses import continuation, contrastive, cosine_distance
from vplib.method.speaking import reading_loss
from vplib.model.decoders import Decoder, LanguageSizes
from vplib.model.encoders import normalise

loss = jax.jit(contrastive, static_argnames="chunk")


def unit(seed: int, batch: int = 12, width: int = 8):
    return normalise(jax.random.normal(jax.random.key(seed), (batch, width)))


@pytest.mark.parametrize("chunk", [0, 3])
def test_contrastive_is_log_b_when_nothing_can_be_told_apart(chunk):
    same = jnp.broadcast_to(unit(0, 1), (12, 8))
    assert float(loss(same, same, 20.0, chunk=chunk)) == pytest.approx(np.log(12), abs=1e-5)


@pytest.mark.parametrize("chunk", [0, 3])
def test_contrastive_is_the_mean_cross_entropy_of_both_directions(chunk):
    video, text = unit(0), unit(1)
    logits = 5 * np.asarray(video @ text.T, np.float64)
    to_text = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    to_video = logits - np.log(np.exp(logits).sum(0, keepdims=True))
    expected = -(np.trace(to_text) + np.trace(to_video)) / 24
    assert float(loss(video, text, 5.0, chunk=chunk)) == pytest.approx(expected, rel=1e-5)
    assert float(loss(text, video, 5.0, chunk=chunk)) == pytest.approx(expected, rel=1e-5)


def test_contrastive_vanishes_for_perfect_pairs():
    perfect = jnp.eye(8)
    assert loss(perfect, perfect, 100.0) < 1e-6


@pytest.mark.parametrize("chunk", [1, 4])
def test_chunks_change_neither_value_nor_gradients(chunk):
    video, text = unit(0), unit(1)
    dense, chunked = (
        jax.jit(jax.value_and_grad(lambda v, t, s, c=c: contrastive(v, t, s, chunk=c), (0, 1, 2)))
        for c in (0, chunk)
    )
    for scale in (5.0, 100.0):
        for a, b in zip(
            *(jax.tree.leaves(run(video, text, scale)) for run in (dense, chunked)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale)


def test_chunks_that_do_not_divide_the_batch_are_one_sentence():
    with pytest.raises(
        ValueError, match=r"^a batch of 12 does not divide into chunks of 5: choose a divisor$"
    ):
        contrastive(unit(0), unit(1), jnp.float32(1.0), chunk=5)


def test_cosine_distance_runs_from_zero_to_two_whatever_the_scale():
    x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    y = jax.random.normal(jax.random.key(1), (3, 5, 8))
    np.testing.assert_allclose(cosine_distance(x, x), 0, atol=1e-6)
    np.testing.assert_allclose(cosine_distance(x, -x), 2, atol=1e-6)
    distance = cosine_distance(x, y)
    assert distance.shape == (3, 5) and distance.min() >= 0 and distance.max() <= 2
    np.testing.assert_allclose(distance, 1 - (normalise(x) * normalise(y)).sum(-1), atol=1e-6)
    np.testing.assert_allclose(cosine_distance(0.1 * x, 100 * y), distance, atol=1e-5)


def test_gradients_are_finite_at_zero_vectors():
    zero, x = jnp.zeros(8), jnp.arange(8.0)
    run = jax.jit(jax.value_and_grad(cosine_distance, (0, 1)))
    for a, b in ((zero, x), (x, zero), (zero, zero)):
        value, gradients = run(a, b)
        assert value == 1 and all(np.isfinite(g).all() for g in gradients)
    assert np.isfinite(jax.jacobian(normalise)(zero)).all() and not normalise(zero).any()


# --- language models -----------------------------------------------------------------------------

SIZES = LanguageSizes(width=16, layers=1, heads=2, mlp=32, vocabulary=24, context=12)


@pytest.fixture(scope="module")
def lm() -> Decoder:
    return toy.filled(lambda: Decoder(SIZES, rngs=nnx.Rngs(0)))


def read(lm, ids, keep, said):
    nothing = {"told": jnp.zeros((len(ids), 1), int), "bags": jnp.zeros((len(ids), 1, 1), bool)}
    return jax.jit(reading_loss)(lm, {"ids": ids, "keep": keep, "said": said} | nothing)[0]


def test_reading_is_the_mean_cross_entropy_of_what_is_said_and_has_something_before_it(lm):
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 24, (3, 6)), jnp.int32)
    keep = jnp.asarray([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0]], bool)
    logits = np.asarray(jax.jit(lambda lm: lm(lm.embed(ids), keep))(lm), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    pairs = [(0, i) for i in range(1, 6)] + [(1, 1), (2, 2), (2, 3)]
    expected = -np.mean([logp[row, i - 1, ids[row, i]] for row, i in pairs])
    assert float(read(lm, ids, keep, keep)) == pytest.approx(expected, abs=1e-5)
    expected = -np.mean([logp[row, i - 1, ids[row, i]] for row, i in pairs if i >= 2])
    late = jnp.arange(6) >= 2
    assert float(read(lm, ids, keep, keep & late)) == pytest.approx(expected, abs=1e-5)
    found = jax.jit(continuation)(
        lm, lm.embed(ids[:2, :1]), keep[:2, :1], ids[:2, 1:], keep[:2, 1:], keep[:2, 1:]
    )
    expected = -np.mean([logp[row, i - 1, ids[row, i]] for row, i in pairs[:6]])
    assert float(found) == pytest.approx(expected, abs=1e-5)


def test_reading_is_the_log_of_the_vocabulary_when_all_are_alike(lm):
    flat = jax.tree.map(jnp.copy, lm)
    flat.token_emb.emb_var[...] *= 0
    ids = jnp.ones((2, 6), jnp.int32)
    assert float(read(flat, ids, ids > 0, ids > 0)) == pytest.approx(np.log(24), abs=1e-5)
    assert float(read(lm, ids, ids == 0, ids > 0)) == 0  # nothing is kept
