"""Nothing but how motion changes tells which way time runs, and in the other families nothing does."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from test_world import interval, nearest, ridge

from vplib.data import shards, video
from vplib.evaluate.features import Originals, metadata
from vplib.world import arrow, families, scenes
from vplib.world.arrow import DIRECTIONS, PHYSICS

TRAIN, TEST = 800, 400


@pytest.fixture(scope="module")
def found():
    """Shots, the last TEST of the test part, and whether they are played backwards."""
    shots = [arrow.shot("arrow/train", i) for i in range(TRAIN)]
    shots += [arrow.shot("arrow/test", i) for i in range(TEST)]
    return shots, np.array([DIRECTIONS.index(shot.direction) for shot in shots])


def played(shot):
    return shot.poses[:: 1 if shot.direction == "forwards" else -1]


def accuracy(probe, rows, classes) -> float:
    rows = np.float64(rows)
    guessed = probe(rows[:TRAIN], classes[:TRAIN], rows[TRAIN:])
    return (guessed == classes[TRAIN:]).mean()


def test_clips_depend_on_nothing_but_seed_part_and_index():
    subject = arrow.shot("arrow/test", 3)
    frames = arrow.render(subject, resolution=32)
    assert frames.shape == (16, 32, 32, 3) and frames.dtype == np.uint8
    again = arrow.render(arrow.shot("arrow/test", 3), resolution=32, only=[9, 2])
    assert (again == frames[[9, 2]]).all()
    others = [
        ("arrow/train", 3, 0),
        ("arrow/validation", 3, 0),
        ("arrow/test", 4, 0),
        ("arrow/test", 3, 1),
    ]
    seen = {arrow.render(arrow.shot(*of[:2], seed=of[2]), resolution=32).tobytes() for of in others}
    assert len(seen | {frames.tobytes()}) == 5
    known = arrow.truth("arrow/test", 3)
    assert json.loads(json.dumps(known)) == known and known["labels"]["arrow"] == subject.direction
    for name in ("arrow/dev", "left/train", "arrow"):
        with pytest.raises(
            ValueError, match=f"^unknown corpus '{name}': choose one of arrow/train"
        ):
            arrow.shot(name, 0)


def test_a_clip_played_backwards_is_its_frames_in_the_other_order():
    for index in range(4):
        subject = arrow.shot("arrow/train", index)
        other = DIRECTIONS[1 - DIRECTIONS.index(subject.direction)]
        turned = arrow.render(subject._replace(direction=other), resolution=32)
        assert (turned[::-1] == arrow.render(subject, resolution=32)).all()
        assert arrow.caption(subject) == arrow.caption(subject._replace(direction=other))


def test_directions_are_balanced_in_every_kind_of_physics(found):
    shots, _ = found
    counts = Counter((shot.physics, shot.direction) for shot in shots[:TRAIN])
    assert counts == {(one, way): TRAIN // 8 for one in PHYSICS for way in DIRECTIONS}


def test_things_lose_their_energy(found):
    """In the order of the physics the second half has less motion, for every clip that shows it."""
    for physics in PHYSICS:
        poses = np.stack([shot.poses for shot in found[0] if shot.physics == physics])
        steps = np.diff(poses, axis=1)[..., :3]
        steps[..., :2] = (steps[..., :2] + 0.5) % 1 - 0.5
        if physics == "bounce":  # up and down
            steps = steps[..., 1:2]
        speed = np.abs(steps).sum(-1)
        early, late = speed[:, :7].sum(1), speed[:, 8:].sum(1)
        assert (early > late).mean() > 0.97, physics
        assert early.mean() > 2 * late.mean()


def test_a_ball_flies_on_parabolas_and_never_falls_through_the_ground():
    t = np.linspace(0, 2, 2001)
    for seed in range(20):
        height = arrow._bounces(np.random.default_rng(seed), t)
        assert height.min() >= 0 and height.max() <= 0.45 and np.abs(np.diff(height)).max() < 0.003
        inside = (height[:-2] > 0.02) & (height[2:] > 0.02)
        falling = np.diff(height, 2)[inside] / (t[1] ** 2)  # the same gravity in every flight
        assert falling.max() < 0 and np.ptp(falling) < 0.02 * abs(falling.mean())


def test_what_is_braked_stops_and_never_turns():
    for seed in range(20):
        way = arrow._braked(np.random.default_rng(seed), (0.5, 0.8), np.linspace(0, 2, 201))[:, 0]
        steps = np.diff(way)
        assert (
            (steps >= -1e-12).all() and (np.diff(steps) < 1e-9).all() and np.ptp(way[-30:]) < 1e-9
        )


@pytest.mark.parametrize("frame", [0, 8, 15])
@pytest.mark.parametrize("what", ["state", "picture"])
def test_no_single_frame_tells(found, frame, what):
    shots, classes = found

    def state(shot):
        x, y, angle, size = played(shot)[frame]
        turns = 2 * np.pi * np.array((x, y)), angle * np.arange(1, 3)
        return np.concatenate([*(f(turn) for turn in turns for f in (np.cos, np.sin)), [size]])

    def picture(shot):
        pixels = arrow.render(shot, resolution=32, only=[frame])[0]
        return pixels.reshape(8, 4, 8, 4, 3).mean((1, 3)).ravel()

    rows = [(state if what == "state" else picture)(shot) for shot in shots]
    low, high = interval(TEST, 0.5)
    for probe in (ridge, nearest):
        score = accuracy(probe, rows, classes)
        print(f"{what}, frame {frame}, {probe.__name__}: {score:.3f} ({low:.3f} to {high:.3f})")
        assert low < score < high


def test_how_motion_changes_tells(found):
    """Positive control: the same probes succeed when they are given speeds."""
    shots, classes = found
    steps = np.diff([played(shot) for shot in shots], axis=1)[..., :3]
    steps[..., :2] = (steps[..., :2] + 0.5) % 1 - 0.5
    assert accuracy(nearest, np.abs(steps).reshape(len(shots), -1), classes) > 0.9


@pytest.mark.parametrize("motion", scenes.MOTION_CLASSES)
def test_motions_of_the_other_families_run_backwards_as_one_of_them(motion):
    """A reversed `left` is a `right`, a reversed orbit one in the other sense."""
    t, rng = np.linspace(0, 2, 33), np.random.default_rng(0)
    phase = scenes._phase(rng, motion)
    path = scenes.displacement(phase, t)
    back = path[::-1] - path[-1]
    opposite = {a: b for pair in scenes.KINDS if len(pair) == 2 for a, b in (pair, pair[::-1])}
    other = opposite.get(motion, motion)
    mechanism, direction, _ = scenes.MOTIONS[other]
    turns = -(phase.phase + phase.speed * t[-1]) + 0.5 * motion.startswith("shake")
    turned = replace(
        phase, motion=other, mechanism=mechanism, direction=float(direction), phase=turns
    )
    np.testing.assert_allclose(scenes.displacement(turned, t), back, atol=1e-9)


def test_its_shards_know_what_is_true(tmp_path):
    source = families.source("arrow/test", 3, seed=0, resolution=32, frames=8, fps=4.0)
    shards.write(source, tmp_path / "it", shard_size=9, workers=0, max_skipped_fraction=0.0)
    corpus = families.known(shards.Shards(tmp_path / "it"))
    assert isinstance(corpus, Originals) and "arrow" in families.NAMES
    known = metadata(corpus)
    assert [one["labels"] for one in known] == [
        arrow.truth("arrow/test", i)["labels"] for i in range(3)
    ]
    assert known[0]["fps"] == 8.0 and known[0]["frames"] == 16
    seen = video.decode(corpus.original(1)[0], name="1", resolution=32)
    drawn = arrow.render(arrow.shot("arrow/test", 1), resolution=32)
    assert np.abs(seen.frames.astype(int) - drawn).mean() < 8
