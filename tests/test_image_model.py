"""Image models to start from: captions are written word by word; a spatial stack stays."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx

from vplib.method import image_model, stages
from vplib.method.image_model import CoCa, caption_loss, coca_loss
from vplib.train import loop, optimiser

KEY = jax.random.key(0)
RUN = partial(coca_loss, captions=2.0, key=KEY)


def made(seed: int = 0) -> CoCa:
    return toy.filled(lambda: CoCa(toy.video_text(), toy.SIZES, rngs=nnx.Rngs(0)), seed)


def images(index: int = 0, clips: int = 4) -> dict:
    return jax.tree.map(jnp.asarray, toy.batch(index, clips=clips, frames=1))


def inputs(length: int = 4):
    rng = np.random.default_rng(0)
    tokens, words = (jnp.asarray(rng.normal(size=(2, n, 16)), jnp.float32) for n in (5, length))
    return tokens, words, jnp.asarray(rng.integers(24, size=(2, length)), jnp.int32)


def test_a_caption_is_written_word_by_word():
    """As if it had been decoded so: each word from the image and the words before it alone."""
    decoder, (tokens, words, ids) = made().decoder, inputs()
    each = []
    for word in range(4):
        before = jnp.concatenate([tokens, words[:, :word]], axis=1)
        last = decoder(before, jnp.ones(before.shape[:2], bool))[:, -1]
        each.append(jnp.take_along_axis(jax.nn.log_softmax(last), ids[:, word, None], axis=1))
    each = -jnp.concatenate(each, axis=1)
    keep = jnp.array([[True] * 4, [True, True, False, False]])
    found = caption_loss(decoder, tokens, words, ids, keep)
    assert float(found) == pytest.approx(float((each * keep).sum() / 6), rel=1e-4)
    assert float(caption_loss(decoder, tokens, words, ids, keep & False)) == 0


def test_no_word_knows_itself_or_what_follows():
    decoder, (tokens, words, ids) = made().decoder, inputs()
    keep = jnp.arange(4) < jnp.array([[3], [3]])
    run = jax.grad(lambda t, w: caption_loss(decoder, t, w, ids, keep), argnums=(0, 1))
    of_tokens, of_words = jax.jit(run)(tokens, words)
    assert of_tokens.any((0, 2)).all()
    assert of_words.any((0, 2)).tolist() == [True, True, False, False]


def test_what_the_text_encoder_says_of_words_is_said_of_those_before():
    encoder, given = toy.video_text().text_encoder, images()
    found = encoder.words(given["ids"], given["keep"])
    assert found.shape == (4, 7, 16)
    assert (found[:, -1] == encoder(given["ids"], given["keep"])).all()
    other = given["ids"].at[:, 3].set((given["ids"][:, 3] + 1) % 24)
    changed = encoder.words(other, jnp.ones_like(given["keep"]))
    same = changed == encoder.words(given["ids"], jnp.ones_like(given["keep"]))
    assert same.all((0, 2)).tolist() == [True] * 3 + [False] * 4


def test_the_loss_is_that_of_stage_1_plus_twice_that_of_captions():
    stage, given = made(), images()
    value, numbers = jax.jit(RUN)(stage, given)
    plain = partial(stages.stage1_loss, drop_ratio=0.5, key=KEY)
    first, told = jax.jit(plain)(stage, given)
    assert float(numbers["contrastive"]) == pytest.approx(float(first), rel=1e-4)
    assert float(value) == pytest.approx(float(first + 2 * numbers["caption"]), rel=1e-4)
    for name in told:
        assert float(numbers[name]) == pytest.approx(float(told[name]), rel=1e-4)
    gradients = [
        toy.leaves(jax.jit(jax.grad(lambda s, w=w: coca_loss(s, given, captions=w)[0]))(stage))
        for w in (0.0, 2.0)
    ]
    moved = {n for n, leaf in gradients[0].items() if not toy.close(leaf, gradients[1][n], 1e-6)}
    for part in ("vision_encoder", "text_encoder", "decoder"):
        assert any(part in name for name in moved)


def test_clips_are_refused():
    with pytest.raises(ValueError, match=r"^stage1\.captions is of images, .* the weight 0$"):
        RUN(made(), jax.tree.map(jnp.asarray, toy.batch(0)))


class Stop(Exception):
    pass


def train(out, stop: int | None = None, *, frozen: bool = False):
    """A CoCa on images or, `frozen`, a stage 1 on clips."""

    def draw(index):
        if index == stop:
            raise Stop
        return toy.batch(index, frames=3 if frozen else 1)

    rate = optimiser.schedule("linear", learning_rate=1e-2, steps=6, warmup=1)
    tx = optimiser.optimiser("adamw", rate, weight_decay=0.1, clip=1.0)
    tx = optax.chain(tx, stages.temperature_floor())
    tx = optax.chain(tx, image_model.frozen_space()) if frozen else tx
    own = dict(steps=6, tx=tx, seed=0, out=out, every=2, checkpoint_every=2)
    if frozen:
        loss = partial(stages.stage1_loss, drop_ratio=0.5)
        return loop.fit(toy.stage1(), loss, toy.Batches(draw), **own)
    return loop.fit(made(), partial(coca_loss, captions=2.0), toy.Batches(draw), **own)


def test_stopped_it_ends_as_if_it_never_stopped(tmp_path):
    whole = train(tmp_path / "a")
    with pytest.raises(Stop):
        train(tmp_path / "b", stop=5)
    one, other = toy.leaves(whole), toy.leaves(train(tmp_path / "b"))
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
    logs = [(tmp_path / name / "metrics.csv").read_bytes() for name in "ab"]
    assert logs[0] == logs[1] and b"caption" in logs[0]


def test_a_spatial_stack_stays_and_all_else_learns(tmp_path):
    before, after = toy.leaves(toy.stage1()), toy.leaves(train(tmp_path, frozen=True))
    parts = ("patch_projection", "spatial_pos_emb", "spatial_encoder", "spatial_ln")
    for name, value in before.items():
        stays = "vision_encoder" in name and name.split("/")[2] in parts
        if not name.endswith("key/b") or stays:  # softmax knows nothing of some of those
            assert (value == after[name]).all() == stays, name
