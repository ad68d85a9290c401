"""What happens in the procedural world: objects, trajectories, scenes of every evaluation family.

No single frame tells a motion of the `motion` family. The frame is a torus, and every object starts
at a uniformly random position, at a random small tilt and at a uniformly random point of its size
range. Each motion of the family adds a displacement of position that does not depend on that start,
so position, tilt and size have the same distribution at every instant, whatever the motion.
(`grow`, `shrink`, `pulse` and the spins break this for size or angle, by nature; the family does
not use them.) `tests/test_world.py` measures it.

The objects are large, boldly outlined and mostly without texture because a small encoder learns
shape late or never from others (measured: LOG.md).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from vplib.world import drawing
from vplib.world.drawing import BACKGROUNDS, COLOURS, SHAPES, TEXTURES

# What sets the difficulty. Sizes in frame sides, speeds in frame sides a second. Speeds and the
# times at which a motion changes are chosen for clips of two seconds.
LONE_SIZE = (0.60, 0.85)  # the only object of a clip
GROUP_SIZE = (0.40, 0.52)  # one of several
COUNTS = (0.6, 0.3, 0.1)  # how often a clip has one, two, three objects
IMAGE_COUNTS = (0.9, 0.1, 0.0)  # the same of a web image, most of which are pictures of one thing
FOREGROUND_SIZE, BYSTANDER_SIZE = (0.60, 0.85), (0.18, 0.26)  # `appearance`
TARGET_SIZE, DISTRACTOR_SIZE = (0.44, 0.56), (0.26, 0.36)  # `motion`
PLAIN = 0.55  # share of objects without texture
DISTRACTORS = (1, 2)  # `motion`: fewest and most
TILT = 0.25  # radians from upright, at most, at the start
CAMERA_PROBABILITY = 0.5  # that the camera moves
PAN_SPEED = (0.10, 0.20)

# Motion -> mechanism, its direction (a heading in radians, or +1 for clockwise), and the range of
# its speed: frame sides a second for drift and zigzag, turns (cycles) a second for the others.
_DRIFT, _SPIN, _ORBIT, _SHAKE = (0.25, 0.45), (0.20, 0.40), (0.25, 0.45), (1.2, 1.8)
MOTIONS = {
    "left": ("drift", np.pi, _DRIFT),
    "right": ("drift", 0.0, _DRIFT),
    "up": ("drift", -np.pi / 2, _DRIFT),
    "down": ("drift", np.pi / 2, _DRIFT),
    "spin_clockwise": ("spin", 1.0, _SPIN),
    "spin_counterclockwise": ("spin", -1.0, _SPIN),
    "orbit_clockwise": ("orbit", 1.0, _ORBIT),
    "orbit_counterclockwise": ("orbit", -1.0, _ORBIT),
    "shake_sideways": ("shake", 0.0, _SHAKE),
    "shake_updown": ("shake", np.pi / 2, _SHAKE),
    "pulse": ("swell", 1.0, (0.6, 0.9)),
    "still": ("still", 0.0, (0.0, 0.0)),
    "zigzag": ("zigzag", 0.0, (0.28, 0.40)),
    "bounce": ("bounce", 0.0, (0.9, 1.3)),
    "grow": ("swell", 1.0, (0.20, 0.24)),
    "shrink": ("swell", 1.0, (0.20, 0.24)),
}
MOTION_CLASSES = (
    "left",
    "right",
    "up",
    "down",
    "orbit_clockwise",
    "orbit_counterclockwise",
    "shake_sideways",
    "shake_updown",
    "still",
)
# The same classes by kind and axis, and the pairs that differ in their sense alone.
SENSES = (("left", "right"), ("up", "down"))
KINDS = (
    *SENSES,
    ("orbit_clockwise", "orbit_counterclockwise"),
    ("shake_sideways",),
    ("shake_updown",),
    ("still",),
)
_STEPS = ("left", "right", "spin_clockwise", "spin_counterclockwise")
FINE_CLASSES = tuple(f"{a}_then_{b}" for a in _STEPS for b in _STEPS if a != b)
_EVENTS = tuple(m for m in MOTIONS if m not in ("grow", "shrink", "pulse"))
INTERACTIONS = ("chase", "flee", "circle", "collide", "ignore", "side_by_side")
CAMERAS = ("pan_left", "pan_right", "pan_up", "pan_down", "shake")


@dataclass(frozen=True)
class Phase:
    """One motion from `start` (seconds) on."""

    motion: str
    start: float
    mechanism: str
    speed: float
    direction: float
    phase: float = 0.0  # of an oscillation, in cycles


@dataclass(frozen=True)
class Object:
    """What it looks like and where it is at time zero; lengths in frame sides, y downwards."""

    shape: str
    colour: str
    texture: str
    motion: str
    x: float
    y: float
    angle: float  # radians, clockwise
    sizes: tuple[float, float]
    swell: float  # where in the size range, as a cycle: 0 smallest, 1/2 largest, 1 smallest
    phases: tuple[Phase, ...]

    @property
    def size(self) -> str:
        """Its size in a word; `changing` where it is part of the motion."""
        if self.motion in ("pulse", "grow", "shrink"):
            return "changing"
        size = _size(self.sizes, self.swell)
        return "small" if size < 0.40 else "large" if size > 0.65 else "medium"


@dataclass(frozen=True)
class Scene:
    kind: str  # the corpus, or the family of the evaluation set
    objects: tuple[Object, ...]  # later ones in front
    target: int
    background: str
    variant: int
    view: tuple[float, float]
    tone: tuple[float, float, float]  # brightness of the red, green and blue of the background
    camera: str
    pan: Phase
    interaction: str = ""


# --- trajectories --------------------------------------------------------------------------------


def displacement(phase: Phase, t: np.ndarray) -> Float[np.ndarray, "T 4"]:
    """x, y, angle and swell gained `t` seconds into a phase; zero at t = 0, so that phases join."""
    gain = np.zeros((len(t), 4))
    ahead = np.array((np.cos(phase.direction), np.sin(phase.direction)))
    aside = np.array((-ahead[1], ahead[0]))

    def wave(function, amplitude, rate=1.0):
        turn = 2 * np.pi * (phase.phase + rate * phase.speed * t)
        return amplitude * (function(turn) - function(2 * np.pi * phase.phase))[:, None]

    match phase.mechanism:
        case "drift":
            gain[:, :2] = phase.speed * t[:, None] * ahead
        case "wander":
            gain[:, :2] = phase.speed * t[:, None] * ahead + wave(np.sin, 0.12, 2.0) * aside
        case "zigzag":
            gain[:, :2] = (
                phase.speed * t[:, None] * ahead
                + wave(lambda turn: np.arcsin(np.sin(turn)), 0.07, 4) * aside
            )
        case "shake":
            gain[:, :2] = wave(np.sin, 0.09) * ahead
        case "bounce":
            gain[:, 1:2] = wave(lambda turn: -np.abs(np.sin(turn / 2)), 0.28)
        case "orbit":
            gain[:, 0:1] = wave(np.cos, 0.2)
            gain[:, 1:2] = wave(np.sin, 0.2) * phase.direction
        case "spin":
            gain[:, 2] = 2 * np.pi * phase.direction * phase.speed * t
        case "swell":
            gain[:, 3] = phase.speed * t
        case "jitter":
            gain[:, 0:1], gain[:, 1:2] = wave(np.sin, 0.02), wave(np.sin, 0.02, 1.37)
    return gain


def _size(sizes: tuple[float, float], swell: float | np.ndarray) -> float | np.ndarray:
    """A triangle wave between the two sizes: uniform over the range when the cycle is uniform."""
    return sizes[0] + (sizes[1] - sizes[0]) * (1 - np.abs(1 - 2 * (swell % 1)))


def view(scene: Scene, t: np.ndarray) -> Float[np.ndarray, "T 2"]:
    """Where the camera looks: x, y of the frame's corner on the background, frame sides."""
    return np.array(scene.view) + displacement(scene.pan, t)[:, :2]


def poses(scene: Scene, seconds: Float[np.ndarray, " T"]) -> Float[np.ndarray, "objects T 4"]:
    """x, y in [0, 1), angle (radians, clockwise) and size of every object seen, in frame sides."""
    camera = displacement(scene.pan, seconds)
    result = []
    for thing in scene.objects:
        ends = [phase.start for phase in thing.phases[1:]] + [np.inf]
        pose = np.array((thing.x, thing.y, thing.angle, thing.swell)) - camera
        for phase, end in zip(thing.phases, ends, strict=True):
            pose = pose + displacement(phase, np.clip(seconds - phase.start, 0, end - phase.start))
        pose[:, :2] %= 1
        pose[:, 3] = _size(thing.sizes, pose[:, 3])
        result.append(pose)
    return np.stack(result)


# --- sampling ------------------------------------------------------------------------------------


def generator(seed: int, name: str, index: int) -> np.random.Generator:
    """Random numbers of one clip and one purpose: this is what makes a corpus random-access."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), index])


def balanced(values: Sequence[str], axis: str, corpus: str, index: int, seed: int) -> str:
    """Every value once in each run of len(values) clips, in an order drawn anew for each run."""
    block, place = divmod(index, len(values))
    return values[generator(seed, f"{corpus}/{axis}", block).permutation(len(values))[place]]


def _phase(rng: np.random.Generator, motion: str, start: float = 0.0) -> Phase:
    mechanism, direction, speeds = MOTIONS[motion]
    if motion == "zigzag":
        direction = rng.choice((0.0, np.pi))
    return Phase(motion, start, mechanism, rng.uniform(*speeds), float(direction), rng.random())


def _object(
    rng, shape, colour, sizes, motions: Sequence[str], place=None, starts: Sequence[float] = (0.0,)
) -> Object:
    phases = tuple(
        _phase(rng, motion, start) for motion, start in zip(motions, starts, strict=True)
    )
    swell = rng.random()
    if motions[0] in ("grow", "shrink"):
        swell = 0.04 * swell + 0.5 * (motions[0] == "shrink")
    x, y = rng.random(2) if place is None else place
    angle = rng.uniform(-TILT, TILT)
    texture = "plain" if rng.random() < PLAIN else str(rng.choice(TEXTURES[1:]))
    return Object(shape, colour, texture, "_then_".join(motions), x, y, angle, sizes, swell, phases)


def _apart(rng: np.random.Generator, count: int) -> Float[np.ndarray, "count 2"]:
    """Starts that do not overlap: a jittered lattice on the torus, itself placed uniformly."""
    lattice = np.arange(count)[:, None] * np.array((1, (count - 1) * rng.choice((-1, 1)))) / count
    return (lattice + rng.random(2) + rng.uniform(-0.06, 0.06, (count, 2))) % 1


def _pick(rng: np.random.Generator, values: Sequence[str], count: int) -> list[str]:
    return [values[k] for k in rng.permutation(len(values))[:count]]


def _scene(
    rng,
    kind: str,
    objects: Sequence[Object],
    *,
    target=0,
    background="",
    camera_probability=CAMERA_PROBABILITY,
    **more,
):
    camera = str(rng.choice(CAMERAS))
    if rng.random() >= camera_probability:
        camera = "still"
    if camera.startswith("pan"):
        pan = replace(_phase(rng, camera[4:]), speed=rng.uniform(*PAN_SPEED))
    else:
        pan = Phase(
            camera,
            0.0,
            "jitter" if camera == "shake" else "still",
            rng.uniform(1.0, 1.6),
            0.0,
            rng.random(),
        )
    tone = rng.uniform(0.92, 1.08) * rng.uniform(0.97, 1.03, 3)
    place, variant = background or str(rng.choice(BACKGROUNDS)), int(rng.integers(drawing.VARIANTS))
    return Scene(
        kind,
        tuple(objects),
        target,
        place,
        variant,
        tuple(rng.random(2)),
        tuple(tone),
        camera,
        pan,
        **more,
    )


def general(
    rng, kind: str, fewest: int = 1, sequences: float = 0.0, counts: Sequence[float] = COUNTS
) -> Scene:
    """One to three objects with distinct shapes and colours; every attribute drawn independently.

    `sequences`: the probability that an object changes its motion once.
    """
    count = max(fewest, int(rng.choice((1, 2, 3), p=counts)))
    sizes = LONE_SIZE if count == 1 else GROUP_SIZE
    shapes, colours, places = (
        _pick(rng, SHAPES, count),
        _pick(rng, tuple(COLOURS), count),
        _apart(rng, count),
    )
    things = []
    for shape, colour, place in zip(shapes, colours, places, strict=True):
        motions, starts = [str(rng.choice(tuple(MOTIONS)))], [0.0]
        if rng.random() < sequences:
            motions, starts = _pick(rng, _EVENTS, 2), [0.0, rng.uniform(0.7, 1.3)]
        things.append(_object(rng, shape, colour, sizes, motions, place, starts))
    return _scene(rng, kind, things)


def _appearance(rng, kind, label) -> Scene:
    shape, colour = label("object", SHAPES), label("colour", tuple(COLOURS))
    others = [s for s in SHAPES if s != shape], [c for c in COLOURS if c != colour]
    things = [
        _object(
            rng,
            str(rng.choice(others[0])),
            str(rng.choice(others[1])),
            BYSTANDER_SIZE,
            _pick(rng, _EVENTS, 1),
        )
        for _ in range(rng.integers(2))
    ]
    things.append(_object(rng, shape, colour, FOREGROUND_SIZE, [str(rng.choice(tuple(MOTIONS)))]))
    return _scene(
        rng, kind, things, target=len(things) - 1, background=label("background", BACKGROUNDS)
    )


def _motion(rng, kind, label) -> Scene:
    """What does the red star do? Nothing else is red or a star; the others move as they like."""
    count = int(rng.integers(DISTRACTORS[0], DISTRACTORS[1] + 1))
    shapes = _pick(rng, [s for s in SHAPES if s != "star"], count)
    colours = _pick(rng, [c for c in COLOURS if c != "red"], count)
    things = [
        _object(rng, shape, colour, DISTRACTOR_SIZE, _pick(rng, MOTION_CLASSES, 1))
        for shape, colour in zip(shapes, colours, strict=True)
    ]
    things.append(_object(rng, "star", "red", TARGET_SIZE, [label("motion", MOTION_CLASSES)]))
    return _scene(rng, kind, things, target=count)


def _fine_motion(rng, kind, label) -> Scene:
    motions = label("motion", FINE_CLASSES).split("_then_")
    thing = _object(
        rng,
        str(rng.choice(SHAPES)),
        str(rng.choice(tuple(COLOURS))),
        LONE_SIZE,
        motions,
        starts=(0.0, rng.uniform(0.8, 1.2)),
    )
    return _scene(rng, kind, [thing])


def _events(rng, kind, label) -> Scene:
    starts = (
        (0.0, rng.uniform(0.6, 1.4))
        if rng.random() < 0.5
        else (0.0, *rng.uniform((0.5, 1.2), (0.8, 1.5)))
    )
    motions = _pick(rng, _EVENTS, len(starts))
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(tuple(COLOURS)))
    return _scene(rng, kind, [_object(rng, shape, colour, LONE_SIZE, motions, starts=starts)])


def _behaviour(rng, kind, label) -> Scene:
    """Two agents, from `places`; each follows its phases: (start, mechanism, speed, direction)."""
    interaction, heading = label("interaction", INTERACTIONS), rng.uniform(0, 2 * np.pi)
    ahead = np.array((np.cos(heading), np.sin(heading)))
    aside, bend, start = np.array((-ahead[1], ahead[0])), rng.random(), rng.random(2)
    path = Phase("", 0.0, "wander", rng.uniform(0.3, 0.4), heading, bend)
    first, places = [path], [start, start]
    match interaction:
        case "chase":  # the second takes the same path, `lag` seconds later
            lag = np.array([rng.uniform(0.9, 1.1)])
            second = [replace(path, phase=bend - 2 * path.speed * lag[0])]
            places[1] = start + displacement(path, -lag)[0, :2]
        case "side_by_side":
            second, places[1] = [path], start + 0.3 * aside
        case "ignore":
            turn = heading + rng.choice((-1, 1)) * rng.uniform(1.7, 2.8)
            second, places = [replace(path, direction=turn, phase=rng.random())], _apart(rng, 2)
        case "circle":
            way = rng.choice((-1.0, 1.0))
            first = [Phase("", 0.0, "orbit", rng.uniform(0.3, 0.45), way, bend)]
            second = [replace(first[0], phase=bend + 0.5)]
            turn = 2 * np.pi * bend
            places[1] = start - 0.4 * np.array((np.cos(turn), way * np.sin(turn)))
        case "flee":  # the first waits until the second comes near, then runs
            when = rng.uniform(0.6, 0.9)
            first = [Phase("", 0.0, "still", 0.0, 0.0), Phase("", when, "drift", 0.5, heading)]
            second = [Phase("", 0.0, "drift", 0.22, heading)]
            places[1] = start - (0.24 + 0.22 * when) * ahead
        case "collide":  # towards each other, touch, and back
            when, speed = rng.uniform(0.8, 1.2), rng.uniform(0.2, 0.28)
            first = [
                Phase("", 0.0, "drift", speed, heading),
                Phase("", when, "drift", speed, heading + np.pi),
            ]
            second = [replace(p, direction=p.direction + np.pi) for p in first]
            places[1] = start + (0.17 + 2 * speed * when) * ahead
    agents = []
    looks = zip(
        _pick(rng, SHAPES, 2), _pick(rng, tuple(COLOURS), 2), places, (first, second), strict=True
    )
    for shape, colour, place, phases in looks:
        agent = _object(rng, shape, colour, BYSTANDER_SIZE, ["still"], place)
        agents.append(replace(agent, motion=interaction, phases=tuple(phases)))
    return _scene(rng, kind, agents, camera_probability=0.0, interaction=interaction)


# Evaluation families: what builds a scene from (rng, kind, label), where label(axis, values) draws
# a balanced class.
EVALS = {
    "appearance": _appearance,
    "motion": _motion,
    "fine_motion": _fine_motion,
    "multilabel": lambda rng, kind, label: general(rng, kind, fewest=2),
    "events": _events,
    "boxes": lambda rng, kind, label: general(rng, kind, fewest=2),
    "retrieval": lambda rng, kind, label: general(rng, kind),
    "captioning": lambda rng, kind, label: general(rng, kind),
    "qa": lambda rng, kind, label: general(rng, kind, sequences=0.4),
    "behaviour": _behaviour,
}
