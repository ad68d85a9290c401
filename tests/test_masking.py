"""Masks have exact counts and the shapes they promise; permutations and their gradients are what they say."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vplib.method.masking import (
    MASKS,
    partly_shuffled_orders,
    random_visible,
    raster_orders,
    shuffle_orders,
    visible_count,
)
from vplib.model.layers import permute

BATCH, FRAMES = 16, 5


@partial(jax.jit, static_argnames=("kind", "frames", "grid", "count"))
def draw(key, kind, frames, grid, count):
    return MASKS[kind](key, BATCH, frames, grid, count)


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


def test_bevt_clips_have_one_mask_in_a_run_of_at_least_half_of_the_frames_and_one_other_elsewhere():
    frames, longest = 8, []
    for seed in range(8):
        visible = np.asarray(draw(jax.random.key(seed), "bevt", frames, 4, 6))
        for clip in visible:
            masks = sorted(
                {frame.tobytes() for frame in clip}, key=[frame.tobytes() for frame in clip].count
            )
            assert len(masks) <= 2
            run = np.array([frame.tobytes() == masks[-1] for frame in clip])
            assert (run != np.roll(run, 1)).sum() in (0, 2)  # one run around the clock
            longest.append(run.sum())
    share = np.bincount(longest, minlength=9) / len(longest)
    assert (
        not share[:5].any() and abs(share[5:] - 1 / 4).max() < 0.15
    )  # uniform in (0.5, 1] clips, rounded up


def test_bevt_masks_are_blocks():
    """Neighbours are masked together more often than under a random mask of the same count, but not always."""

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


# --- permutations -----------------------------------------------------------------------------------------------------


def test_unshuffling_a_shuffle_is_the_identity():
    x = jax.random.normal(jax.random.key(0), (3, 10, 4))
    order, inverse = shuffle_orders(jax.random.key(1), 3, 10)
    shuffled = permute(x, order, inverse)
    assert (permute(shuffled, inverse, order) == x).all() and (shuffled != x).any((1, 2)).all()
    assert len({tuple(row) for row in order.tolist()}) == 3  # clips are shuffled independently


def test_shuffles_send_every_token_everywhere_equally_often():
    order, _ = shuffle_orders(jax.random.key(0), 5000, 4)
    share = (
        np.stack([np.bincount(np.asarray(order)[:, slot], minlength=4) for slot in range(4)]) / 5000
    )
    assert abs(share - 0.25).max() < 0.025  # four standard deviations


def test_a_partial_shuffle_exchanges_its_share_and_leaves_the_rest_in_place():
    visible = MASKS["bevt"](jax.random.key(0), 200, 4, 4, 6)
    raster, _ = raster_orders(visible, 64)
    for share in (0.0, 0.3, 1.0):
        order, inverse = partly_shuffled_orders(jax.random.key(1), visible, 64, jnp.float32(share))
        assert (jnp.sort(order) == jnp.arange(64)).all()  # nothing is lost or doubled
        assert (jnp.take_along_axis(order, inverse, axis=1) == jnp.arange(64)).all()
        moved = np.asarray(order != raster).mean()
        assert abs(moved - share * (1 - 1 / 64)) < 0.03 and (
            share or moved == 0
        )  # of those that move, one stays by chance
    assert (order[:100] != order[100:]).any(1).all()  # clips are shuffled independently


def test_a_whole_partial_shuffle_sends_every_token_everywhere_equally_often():
    visible = jnp.zeros((5000, 2, 1), int)  # on 2 places a frame
    order, _ = partly_shuffled_orders(jax.random.key(0), visible, 4, jnp.float32(1))
    share = (
        np.stack([np.bincount(np.asarray(order)[:, slot], minlength=4) for slot in range(4)]) / 5000
    )
    assert abs(share - 0.25).max() < 0.025  # four standard deviations


def test_the_gradient_of_a_permutation_is_that_of_plain_indexing():
    key_x, key_g, key_order = jax.random.split(jax.random.key(0), 3)
    x, g = jax.random.normal(key_x, (3, 10, 4)), jax.random.normal(key_g, (3, 10, 4))
    order, inverse = shuffle_orders(key_order, 3, 10)
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
