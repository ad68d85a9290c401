"""The arrow of time: clips of things that lose their energy, half of them played backwards.

The other families are symmetric under reversal: a reversed `left` is a `right`, a reversed orbit is
one in the other sense (`tests/test_arrow.py`). Here a thrown ball bounces ever lower, what slides or
spins is braked by friction, a swing dies down; backwards they gain energy out of nothing, which is
all that tells the two apart. The frame is a torus without a floor, and an object starts at a
uniformly random place and angle that what it does later does not depend on, so that in every frame
place and angle have the same distribution, forwards and backwards: no single frame tells. The
background stands still. Whether a clip is played backwards is drawn from a stream of its own, and
each half of the balanced classes has all kinds of physics.

Source of the question: Pickup et al., Seeing the Arrow of Time (CVPR 2014); of the physics: our choice.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from vplib.world import corpora, drawing, records
from vplib.world.scenes import TARGET_SIZE, balanced, generator

FRAMES, FPS = 16, 8.0
PHYSICS = ("bounce", "brake", "swing", "spin")
DIRECTIONS = ("forwards", "backwards")
SAYS = {"bounce": "bounces", "brake": "slides", "swing": "swings", "spin": "spins"}


class Shot(NamedTuple):
    """A clip before it is drawn. `poses`: x, y, angle and size in the order of the physics."""

    physics: str
    direction: str
    shape: str
    colour: str
    background: str
    variant: int
    view: Float[np.ndarray, " 2"]
    poses: Float[np.ndarray, "T 4"]


def _labels(corpus: str, index: int, seed: int) -> tuple[str, str]:
    """Physics and direction: every pair once in each run of eight clips."""
    pairs = [f"{physics} {direction}" for physics in PHYSICS for direction in DIRECTIONS]
    physics, direction = balanced(pairs, "arrow", corpus, index, seed).split()
    return physics, direction


def shot(corpus: str, index: int, *, seed: int = 0) -> Shot:
    """`corpus`: "arrow/train" or another of its parts, which are disjoint because the whole name
    seeds the draw. Raises ValueError for an unknown name.
    """
    family, _, part = corpus.partition("/")
    if family != "arrow" or part not in corpora.PARTS:
        known = ", ".join(f"arrow/{name}" for name in corpora.PARTS)
        raise ValueError(f"unknown corpus {corpus!r}: choose one of {known}")
    rng = generator(seed, corpus, index)
    physics, direction = _labels(corpus, index, seed)
    start = np.array((*rng.random(2), rng.uniform(0, 2 * np.pi), rng.uniform(*TARGET_SIZE)))
    poses = start + _displacement(physics, rng, np.arange(FRAMES) / FPS)
    poses[:, :2] %= 1
    looks = (drawing.SHAPES, tuple(drawing.COLOURS), drawing.BACKGROUNDS)
    shape, colour, background = (str(rng.choice(values)) for values in looks)
    variant, view = int(rng.integers(drawing.VARIANTS)), rng.random(2)
    return Shot(physics, direction, shape, colour, background, variant, view, poses)


def _displacement(
    physics: str, rng: np.random.Generator, t: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T 4"]:
    """What the pose gains in time, in seconds: frame sides and radians."""
    gain, heading = np.zeros((len(t), 4)), rng.uniform(0, 2 * np.pi)
    match physics:
        case "brake":
            gain[:, :2] = _braked(rng, (0.5, 0.8), t) * (np.cos(heading), np.sin(heading))
        case "spin":
            gain[:, 2] = rng.choice((-1, 1)) * 2 * np.pi * _braked(rng, (0.3, 0.45), t)[:, 0]
        case "swing":
            waves = np.exp(-t / rng.uniform(0.5, 0.8)) * np.cos(
                2 * np.pi * (rng.uniform(0.8, 1.2) * t + rng.random())
            )
            gain[:, :2] = 0.25 * waves[:, None] * (np.cos(heading), np.sin(heading))
        case "bounce":
            gain[:, 0] = rng.choice((-1, 1)) * rng.uniform(0.1, 0.2) * t
            gain[:, 1] = -_bounces(rng, t)
    return gain


def _braked(
    rng: np.random.Generator, speeds: tuple[float, float], t: Float[np.ndarray, " T"]
) -> Float[np.ndarray, "T 1"]:
    """The way of something that friction stops within the clip, from a speed a second."""
    speed, stop = rng.uniform(*speeds), rng.uniform(1.1, 1.7)
    until = np.minimum(t, stop)
    return (speed * (until - until**2 / (2 * stop)))[:, None]


def _bounces(rng: np.random.Generator, t: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    """Heights of a ball, each flight lower than the one before; it begins somewhere in the first."""
    height, kept = rng.uniform(0.35, 0.45), rng.uniform(0.5, 0.65)  # of speed, at the ground
    flight = rng.uniform(0.8, 1.0)  # seconds of the first
    flights = flight * kept ** np.arange(30)
    starts = np.concatenate([[0], np.cumsum(flights)])
    now = np.minimum(t + rng.uniform(0, 0.6) * flight, starts[-1] - 1e-9)
    number = np.searchsorted(starts, now, side="right") - 1
    share = (now - starts[number]) / flights[number]
    return height * kept ** (2 * number) * 4 * share * (1 - share)


def render(
    shot: Shot, *, resolution: int = 56, only: Sequence[int] | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """The clip as it is played, or the frames whose indices are in `only`."""
    poses = shot.poses[:: 1 if shot.direction == "forwards" else -1]
    poses = poses[slice(None) if only is None else list(only)]
    view, still = np.broadcast_to(shot.view, (len(poses), 2)), np.zeros(len(poses))
    canvas = drawing.backdrop(shot.background, shot.variant, resolution, view, still)
    drawing.draw(canvas, shot.shape, shot.colour, "plain", poses)
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)


def caption(shot: Shot) -> str:
    """What is seen, without a word on the direction."""
    return f"A {shot.colour} {shot.shape} {SAYS[shot.physics]}."


def truth(corpus: str, index: int, *, seed: int = 0) -> dict:
    """All that is true of a clip, for JSON."""
    known = shot(corpus, index, seed=seed)
    return {
        "kind": "arrow",
        "caption": caption(known),
        "labels": {
            "arrow": known.direction,
            "physics": known.physics,
            "object": known.shape,
            "colour": known.colour,
            "background": known.background,
        },
    }


class Arrow(records.Source):
    """A part of the family, for `data.shards.write`."""

    def drawn(self, index: int) -> tuple[UInt8[np.ndarray, "T H W 3"], float, str]:
        seen = shot(self.corpus, index, seed=self.seed)
        return render(seen, resolution=self.resolution), FPS, caption(seen)
