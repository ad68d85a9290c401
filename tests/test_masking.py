"""Masks have the counts and shapes they promise; permutations and their gradients are exact."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vplib.method import masking
from vplib.method.masking import (
    MASKS,
    draw_mask,
    random_visible,
    raster_orders,
    shuffle_orders,
    visible_count,
)
from vplib.model.encoders import by_frame
from vplib.model.layers import permute

BATCH, FRAMES = 16, 5


@partial(jax.jit, static_argnames=("kind", "frames", "grid", "count"))
def draw(key, kind, frames, grid, count):
    return by_frame(MASKS[kind](key, BATCH, frames, grid, count), frames)


def places(visible: np.ndarray, grid: int) -> np.ndarray:
    """B T V place numbers as a picture: True (B, T, grid, grid) where visible."""
    return np.eye(grid * grid, dtype=bool)[visible].any(2).reshape(*visible.shape[:2], grid, grid)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("grid", "ratio", "count"), [(4, 0.65, 6), (5, 0.99, 1), (2, 0.0, 4)])
def test_every_mask_shows_exactly_as_many_places_in_every_frame_in_order(kind, grid, ratio, count):
    assert visible_count(grid * grid, ratio) == count
    for seed in range(3):
        visible = np.asarray(draw(jax.random.key(seed), kind, FRAMES, grid, count))
        assert visible.shape == (BATCH, FRAMES, count)
        assert visible.min() >= 0 and visible.max() < grid * grid
        assert (np.diff(visible, axis=-1) > 0).all()  # in increasing order, hence also distinct


def test_an_unknown_mask_is_one_sentence():
    known = ", ".join(MASKS)
    with pytest.raises(ValueError, match=rf"^stage2\.mask=rows is unknown: one of {known}$"):
        draw_mask("rows", 0.5, jax.random.key(0), batch=2, frames=3, grid=4)


def test_visible_counts_are_rounded_and_never_zero():
    assert visible_count(256, 0.65) == 90 and visible_count(256, 0.5) == 128  # the paper's ratios
    assert visible_count(9, 0.5) == 5 and visible_count(9, 0.99) == 1 and visible_count(9, 0.0) == 9


@pytest.mark.parametrize("kind", MASKS)
def test_masks_differ_between_clips_and_keys_and_repeat_with_their_key(kind):
    first, again, other = (
        np.asarray(draw(jax.random.key(seed), kind, FRAMES, 4, 6)) for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()
    assert len({clip.tobytes() for clip in first}) > BATCH / 2


def test_tubes_are_the_same_in_every_frame_and_random_masks_are_not():
    tube, loose = (
        np.asarray(draw(jax.random.key(0), kind, FRAMES, 4, 6)) for kind in ("tube", "random")
    )
    assert (tube == tube[:, :1]).all()
    assert (loose != loose[:, :1]).any((1, 2)).all()


def test_random_masks_show_every_place_equally_often():
    visible = np.asarray(random_visible(jax.random.key(0), 4000, 9, 3))
    share = np.bincount(visible.ravel(), minlength=9) / 4000
    assert abs(share - 1 / 3).max() < 0.03  # four standard deviations


@pytest.mark.parametrize(("frames", "lengths"), [(8, [4, 5, 6, 7, 8]), (5, [3, 4, 5])])
def test_bevt_clips_have_one_mask_in_a_run_of_at_least_half_of_the_frames_and_one_other_elsewhere(
    frames, lengths
):
    drawn = jax.jit(lambda key: MASKS["bevt"](key, 2000, frames, 4, 6))(jax.random.key(0))
    visible = np.asarray(drawn)
    same = (visible[:, :, None] == visible[:, None]).all(-1)  # B T T: frames of equal masks
    assert ((1 / same.sum(2)).sum(1) < 2.5).all()  # one or two masks a clip
    changes = (visible != np.roll(visible, 1, axis=1)).any(2).sum(1)
    assert set(changes) == {0, 2}  # one run around the clock
    share = np.bincount(same.sum(2).max(1), minlength=frames + 1) / len(visible)
    assert not share[: lengths[0]].any()
    assert abs(share[lengths] - 1 / len(lengths)).max() < 0.04  # four standard deviations


def test_bevt_masks_are_blocks():
    """Neighbours are masked together more often than under a random mask, but not always."""

    def agreement(kind):
        picture = np.concatenate(
            [places(np.asarray(draw(jax.random.key(seed), kind, 2, 8, 32)), 8) for seed in range(4)]
        )
        return (
            (picture[..., 1:] == picture[..., :-1]).mean()
            + (picture[..., 1:, :] == picture[..., :-1, :]).mean()
        ) / 2

    assert 0.45 < agreement("random") < 0.52
    assert 0.65 < agreement("bevt") < 0.95


def test_it_is_the_masked_places_that_form_blocks():
    """A few masked places lie in one block; as few visible ones are what no block covered."""

    def spread(few: str):
        visible = draw(jax.random.key(0), "bevt", 2, 8, 56 if few == "masked" else 8)
        picture = places(np.asarray(visible), 8)
        chosen = (picture if few == "visible" else ~picture).reshape(-1, 8, 8)
        boxes = [np.ptp(np.argwhere(frame), axis=0) + 1 for frame in chosen]
        return np.mean([height * width for height, width in boxes])  # of their bounding boxes

    assert spread("masked") < 28 < 36 < spread("visible")


# --- permutations --------------------------------------------------------------------------------


def test_ranks_are_those_of_a_stable_sort():
    some = np.random.default_rng(0).random((6, 40)) < np.linspace(0, 1, 6)[:, None]  # none to all
    order = np.argsort(~some, axis=1, kind="stable")
    assert (masking._ranks(jnp.asarray(some)) == np.argsort(order, axis=1)).all()


VISIBLE = MASKS["bevt"](jax.random.key(0), 200, 4, 4, 6)  # of 4 frames of 4 x 4 places
SHARES = (0, 1, jnp.float32(0), jnp.float32(0.3), jnp.float32(1))  # a number, or known to the step


@pytest.mark.parametrize("share", SHARES, ids=repr)
def test_a_shuffle_exchanges_its_share_and_leaves_the_rest_in_raster_order(share):
    raster, _ = raster_orders(VISIBLE, 64)
    order, inverse = shuffle_orders(jax.random.key(1), VISIBLE, 64, share)
    assert (jnp.sort(order) == jnp.arange(64)).all()  # nothing is lost or doubled
    assert (jnp.take_along_axis(order, inverse, axis=1) == jnp.arange(64)).all()
    moved, share = np.asarray(order != raster).mean(), float(share)
    assert abs(moved - share * (1 - 1 / 64)) < 0.03  # of those that move, one stays by chance
    assert share or moved == 0
    same = (order[:100] == order[100:]).all(1)
    assert not same.any()  # neither masks nor shuffles of clips are the same


@pytest.mark.parametrize("share", [1, jnp.float32(1)], ids=repr)
def test_a_full_shuffle_sends_every_token_everywhere_equally_often(share):
    visible = jnp.zeros((5000, 2, 1), int)  # on 2 places a frame
    order, _ = shuffle_orders(jax.random.key(0), visible, 4, share)
    often = (
        np.stack([np.bincount(np.asarray(order)[:, slot], minlength=4) for slot in range(4)]) / 5000
    )
    assert abs(often - 0.25).max() < 0.025  # four standard deviations


def test_unshuffling_a_shuffle_is_the_identity():
    x = jax.random.normal(jax.random.key(0), (200, 64, 4))
    order, inverse = shuffle_orders(jax.random.key(1), VISIBLE, 64, 1)
    shuffled = permute(x, order, inverse)
    assert (permute(shuffled, inverse, order) == x).all() and (shuffled != x).any((1, 2)).all()


def test_the_gradient_of_a_permutation_is_that_of_plain_indexing():
    key_x, key_g, key_order = jax.random.split(jax.random.key(0), 3)
    x, g = jax.random.normal(key_x, (3, 64, 4)), jax.random.normal(key_g, (3, 64, 4))
    order, inverse = shuffle_orders(key_order, VISIBLE[:3], 64, 1)
    ours = jax.grad(lambda x: (permute(x, order, inverse) * g).sum())(x)
    plain = jax.grad(lambda x: (jnp.take_along_axis(x, order[..., None], axis=1) * g).sum())(x)
    assert (ours == plain).all() and (ours != g).any()


def test_raster_order_puts_visible_tokens_at_their_places_and_masks_elsewhere():
    visible = jnp.array([[[0, 3], [1, 2]], [[2, 3], [0, 3]]])  # B T V, on 4 places a frame
    tokens = jnp.arange(10.0, 18.0).reshape(2, 4, 1)
    x = jnp.concatenate([tokens, jnp.zeros((2, 4, 1))], axis=1)
    order, inverse = raster_orders(visible, 8)
    assert permute(x, order, inverse)[..., 0].tolist() == [
        [10, 0, 0, 11, 0, 12, 13, 0],
        [0, 0, 14, 15, 16, 0, 0, 17],
    ]
    assert (permute(permute(x, order, inverse), inverse, order) == x).all()
