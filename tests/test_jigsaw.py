"""What a decoder's slots attend to and answer, on decoders and targets whose truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx
from test_stages import PAPER

from vplib.method import jigsaw, stages
from vplib.method.masking import draw_mask
from vplib.model.encoders import by_frame
from vplib.model.layers import Stack

KEY = jax.random.key(3)
FRAMES, PLACES = toy.SIZES.frames, toy.SIZES.places
SLOTS = FRAMES * PLACES


def seen(batch: int = 4):
    """Tokens of visible places, and these places."""
    drawn = draw_mask("bevt", 0.65, KEY, batch=batch, frames=FRAMES, grid=toy.SIZES.grid)
    visible = by_frame(drawn, FRAMES)
    shape = (batch, visible[0].size, toy.SIZES.width)
    return jax.random.normal(KEY, shape), visible


def test_weights_are_those_that_a_block_attends_with():
    stack = toy.filled(lambda: Stack(2, 8, 2, 16, cap=2.0, rngs=nnx.Rngs(0)))
    x = jax.random.normal(KEY, (3, 5, 8))
    weights = jigsaw.attention(stack, x)
    assert weights.shape == (2, 3, 2, 5, 5)
    assert weights.sum(-1) == pytest.approx(1, abs=1e-5)
    block = jax.tree.map(lambda leaf: leaf[0], stack.x_layers)
    own, y = block.self_attention, block.layer_norm(x)
    value = jnp.einsum("bnd,dkh->bknh", y, own.value.w[...]) + own.value.b[...][:, None]
    mixed = jnp.einsum("bknh,dkh->bnd", weights[0] @ value, own.post.w[...]) + own.post.b[...]
    assert np.allclose(mixed, own(y), atol=1e-5)
    second = jax.tree.map(lambda leaf: leaf[1:], stack.x_layers)
    alone = toy.filled(lambda: Stack(1, 8, 2, 16, cap=2.0, rngs=nnx.Rngs(0)))
    alone.x_layers = second
    assert np.allclose(jigsaw.attention(alone, block(x))[0], weights[1], atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_slots_are_looked_at_as_the_decoder_fills_them(share, monkeypatch):
    decoder, (tokens, visible), looked = toy.stage2().local_decoder, seen(), []
    own = jigsaw.attention
    monkeypatch.setattr(jigsaw, "attention", lambda stack, x: looked.append(x) or own(stack, x))
    jigsaw.own_attention(decoder, tokens, visible, share=share, key=KEY)
    answers = decoder(tokens, visible, share=share, key=KEY)
    assert np.allclose(decoder.output(decoder.stack(looked[0])), answers, atol=1e-4)


def test_a_slot_that_hands_its_token_on_is_right_only_where_nothing_is_shuffled(monkeypatch):
    decoder, (tokens, visible) = toy.stage2().local_decoder, seen(8)
    one = jnp.eye(SLOTS)[None, None, None].repeat(8, 1)
    monkeypatch.setattr(jigsaw, "attention", lambda stack, x: one)  # every slot looks at itself
    found = {
        share: jigsaw.own_attention(decoder, tokens, visible, share=share, key=KEY)
        for share in (0.0, 1.0)
    }
    assert found[0.0][0] == found[0.0][1] == 1
    assert found[1.0][0] < 4 / SLOTS and found[1.0][1] < 4 / SLOTS


def test_attention_that_looks_at_nothing_pays_every_token_the_same():
    decoder, (tokens, visible) = toy.stage2().local_decoder, seen()
    block = decoder.stack.transformers_stack.x_layers.self_attention
    block.key.w[...] = jnp.zeros_like(block.key.w[...])
    block.key.b[...] = jnp.zeros_like(block.key.b[...])
    paid, _ = jigsaw.own_attention(decoder, tokens, visible, share=1.0, key=KEY)
    assert paid == pytest.approx(1 / SLOTS, rel=1e-4)


def test_answers_are_placed_among_the_visible_places_of_their_clip():
    _, visible = seen(16)
    target = jax.random.normal(KEY, (16, SLOTS, 6))
    assert jigsaw.placed(3 * target, target, visible) == 1  # lengths do not count
    own = stages.in_raster(visible, PLACES)
    moved = target.at[jnp.arange(16)[:, None], own].set(
        jnp.take_along_axis(target, jnp.roll(own, 1, axis=1)[..., None], axis=1)
    )
    assert jigsaw.placed(moved, target, visible) == 0
    hidden = target.at[jnp.arange(16)[:, None], own].add(0) * 0 + 1
    hidden = hidden.at[jnp.arange(16)[:, None], own].set(
        jnp.take_along_axis(target, own[..., None], axis=1)
    )
    assert jigsaw.placed(hidden, target, visible) == 1  # other places do not count
    other = jax.random.normal(jax.random.key(9), target.shape)
    assert jigsaw.placed(other, target, visible) == pytest.approx(1 / own.shape[1], abs=0.08)


def test_a_trained_stage_is_looked_at_by_whole_batches(monkeypatch):
    stage, teacher = toy.stage2(), toy.video_text(1)
    size = toy.SIZES.size
    video = np.random.default_rng(0).integers(0, 256, (7, FRAMES, size, size, 3), np.uint8)
    settings = {**PAPER, "shuffle_warmup": 100}  # after which all is shuffled
    found = jigsaw.placing(stage, teacher, video, settings, batch=3, key=KEY)
    told = []
    for start in (0, 3):
        key = jax.random.fold_in(KEY, start)
        chosen = {name: settings[name] for name in jigsaw.SETTINGS}
        clips = {"video": jnp.asarray(video[start : start + 3])}
        _, _, compared = stages.distil(stage, clips, teacher, **chosen, key=key, step=10**6)
        gap = stages.cosine_distance(compared["local"], compared["local_target"])
        seen_ = compared["masked"] == 0
        told.append((gap[seen_].mean(), gap[~seen_].mean()))
    assert [found.visible, found.masked] == pytest.approx(np.mean(told, axis=0), rel=1e-4)
    assert found.attention.shape == found.most.shape == (1,) and 0 <= found.placed <= 1
    with pytest.raises(ValueError, match="7 clips are less than a batch of 8"):
        jigsaw.placing(stage, teacher, video, settings, batch=8, key=KEY)
