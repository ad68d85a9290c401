"""Ceilings see what they are said to see."""

from dataclasses import replace

import numpy as np
import toy

from vplib.evaluate import ceilings, heads

RED = (168, 8, 12)


def moving(step: float, clips: int = 3, frames: int = 4, side: int = 20) -> np.ndarray:
    """A red square of 4 pixels that goes `step` pixels a frame to the right, around the border."""
    videos = np.full((clips, frames, side, side, 3), 200, np.uint8)
    for clip in range(clips):
        for frame in range(frames):
            columns = (15 + clip + round(step * frame) + np.arange(4)) % side
            videos[clip, frame, 5:9, columns] = RED
    return videos


def test_the_tracker_follows_one_colour_around_the_border():
    for step in (3, -2):  # seven frames: once around, wherever the circle is cut
        found = ceilings.track(moving(step, frames=7), RED).reshape(3, 6, 2)
        np.testing.assert_allclose(found[..., 0], step / 20, atol=1e-6)
        np.testing.assert_allclose(found[..., 1], 0, atol=1e-6)


def test_frames_without_the_colour_are_no_step():
    videos = moving(3)
    videos[:, 1] = 200
    found = ceilings.track(videos, RED).reshape(3, 3, 2)
    assert (found[:, :2] == 0).all() and (found[:, 2, 0] > 0.1).all()


def test_votes_are_those_of_the_nearest():
    train = np.concatenate([np.zeros((20, 2)), np.ones((20, 2))])
    votes = ceilings.nearest(train, np.arange(40) // 20, np.array([[0.1, 0], [1, 0.9]]), classes=3)
    assert votes.tolist() == [[15, 0, 0], [0, 15, 0]]


def test_ideal_tokens_tell_place_moment_and_where_the_object_is():
    places = np.random.default_rng(0).random((2, 3, 2))
    tokens = ceilings.ideal_tokens(places, 2).astype(np.float32)
    assert tokens.shape[:2] == (2, 12) and tokens.shape[2] % 16 == 0
    grid = tokens.reshape(2, 3, 4, -1)
    angle = np.arctan2(grid[:, :, 0, 2:4], grid[:, :, 0, :2]) / (2 * np.pi) % 1
    np.testing.assert_allclose(angle, places, atol=2e-3)
    assert len(np.unique(grid[0, :, :, 4:].reshape(12, -1), axis=0)) == 12  # each token has its own
    assert (grid[0, :, :, 4:] == grid[1, :, :, 4:]).all()


def test_an_encoder_learns_from_labels_end_to_end():
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    videos = rng.integers(0, 100, (32, 3, 12, 12, 3), dtype=np.uint8)
    videos += (100 * labels).astype(np.uint8)[:, None, None, None, None]
    sizes = replace(toy.SIZES, classes=2)
    recipe = dict(steps=30, batch=8, learning_rate=3e-3, weight_decay=0.0, seed=0)
    model = ceilings.end_to_end(videos, labels, sizes, **recipe)
    assert (heads.predict(model, videos).argmax(1) == labels).mean() > 0.9
