"""Animals: stand-ins for the four data sets of animal behaviour on which the paper is measured.

A body's posture is a function of *cycles*: where it is on its path, how far it reaches, how a wing
is spread, and so on. A behaviour is nothing but how fast some cycles run. Each cycle starts at a
uniformly random point, and what is added to it does not depend on that, so that all postures have
the same distribution at every instant whatever is being done: no single frame, and no moment of a
video, tells one behaviour from another. The exceptions are in POSTURES: those are seen in one frame,
as they are in nature. What animals and places look like is drawn without regard to behaviour.
`tests/test_animals.py` measures it.

Source of classes and forms: VideoPrism (arXiv:2402.13217), section 4.4; SciVid (arXiv:2507.03578).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float, UInt8

from vplib.world import corpora, creatures, drawing, records
from vplib.world.creatures import Part, turned
from vplib.world.scenes import balanced, generator
from vplib.world.untrimmed import schedule

BACKGROUND = "background"
Rates = Mapping[str, tuple[float, float]]  # cycles a second, least and most


@dataclass(frozen=True)
class Family:
    """`often`: how many of every sum(often) bouts are of each class (`kabr`: clips; `chimps`: what
    two neighbours in a clip do together).
    """

    stands_for: str
    frames: int
    fps: float
    often: Mapping[str, int]
    says: str  # the text of every video: it names no behaviour
    lengths: Mapping[str, tuple[float, float]] | None = None  # seconds of a bout
    bouts: int = 0  # in each video


FAMILIES = {
    "flies": Family(
        "Fly vs. Fly", 256, 8.0,
        {"lunge": 11, "wing_extension": 8, "wing_threat": 5, "tussle": 3, "circle": 2, "copulation": 1},
        "Two flies in a dish, seen from above.",
        {"lunge": (1.0, 2.5), "wing_extension": (1.5, 3.0), "wing_threat": (1.0, 2.5), "tussle": (1.0, 2.5),
         "circle": (1.5, 3.0), "copulation": (4.0, 7.0)}, 5,
    ),
    "mice": Family(
        "CalMS21", 256, 8.0, {"investigation": 20, "mount": 7, "attack": 3},
        "A black mouse and a white mouse in a cage, seen from above.",
        {"investigation": (1.4, 3.6), "mount": (1.2, 3.2), "attack": (1.0, 2.5)}, 5,
    ),
    "chimps": Family(
        "ChimpACT", 64, 8.0, {"nothing": 8, "grooming": 8, "playing": 4}, "Chimpanzees sit side by side.",
    ),
    "kabr": Family(
        "KABR", 32, 16.0,
        {"walk": 17, "graze": 12, "head_up": 8, "browse": 4, "occluded": 3, "trot": 2, "run": 2, "auto_groom": 2},
        "An animal of the savannah, filmed from a drone.",
    ),
}  # fmt: skip
# Of every twenty chimpanzees (a couple that grooms or plays rests).
LOCOMOTION = {"resting": 11, "moving": 6, "climbing": 3}
OBJECT = {"nothing": 12, "eating": 5, "object_play": 3}
CHIMP_LABELS = (*LOCOMOTION, "eating", "object_play", "grooming", "being_groomed", "playing")
POSTURES = {
    "flies": ("copulation",),
    "mice": ("mount",),
    "chimps": (),
    "kabr": ("graze", "browse", "head_up", "occluded"),
}

# How fast every cycle runs while nothing happens; `turn` is that of the line from one to the other.
_CALM = (0.02, 0.08)
_PAIR: Rates = {
    **dict.fromkeys(("x", "y"), (0.02, 0.05)),
    **dict.fromkeys(("turn", "face"), (0.005, 0.04)),
    **dict.fromkeys(("apart", "reach", "twist", "other_twist"), _CALM),
    **dict.fromkeys(("left", "right", "other_left", "other_right"), _CALM),
}
_CHIMP: Rates = dict.fromkeys(("along", "climb", "left", "right", "sway", "ball"), (0.01, 0.06))
_GRAZER: Rates = {
    **dict.fromkeys(("x", "y", "zoom", "neck"), (0.05, 0.15)),
    **dict.fromkeys(("tail", "scratch"), (0.0, 0.1)),
    **dict.fromkeys(("legs", "ground"), (0.0, 0.0)),
}
# And which run faster in a behaviour.
_QUICK = (1.2, 1.8)
BEHAVIOURS: dict[str, dict[str, Rates]] = {
    "flies": {
        "lunge": {"reach": _QUICK},
        "wing_threat": {"left": _QUICK, "right": _QUICK, "reach": (0.5, 0.8)},
        "wing_extension": {"left": _QUICK, "turn": (0.1, 0.16)},
        "tussle": {"turn": (0.3, 0.5), "face": (0.5, 0.8), "twist": _QUICK, "other_twist": _QUICK},
        "circle": {"turn": (0.35, 0.5)},
        "copulation": {},
    },
    "mice": {
        "investigation": {"left": _QUICK, "reach": (0.4, 0.6)},
        "mount": {"reach": _QUICK},
        "attack": {"turn": (0.4, 0.6), "face": (0.5, 0.8), "twist": _QUICK, "other_twist": _QUICK},
    },
    "chimps": {
        "moving": {"along": (0.3, 0.45)},
        "climbing": {"climb": (0.3, 0.45)},
        "eating": {"left": (0.9, 1.3)},
        "grooming": {"right": (0.9, 1.3)},
        "playing": {"sway": (0.9, 1.3)},
        "object_play": {"ball": (0.9, 1.3)},
    },
    "kabr": {
        "walk": {"legs": (0.7, 0.9), "ground": (0.10, 0.16)},
        "trot": {"legs": (1.1, 1.4), "ground": (0.28, 0.38)},
        "run": {"legs": (1.6, 1.9), "ground": (0.55, 0.75)},
        "graze": {"neck": (0.9, 1.4)},
        "browse": {"neck": (0.9, 1.4)},
        "auto_groom": {"scratch": (1.2, 1.7), "tail": (1.0, 1.5)},
    },
}
_NECKS = {"graze": (0.55, 0.85), "browse": (-1.0, -0.7), "head_up": (-1.0, -0.7)}  # radians
_ANY_NECK = (-1.0, 0.85)


class Bout(NamedTuple):
    """A behaviour from frame `start` to before frame `end`."""

    label: str
    start: int
    end: int


class Shot(NamedTuple):
    """What is drawn: the ground, and on it one animal after another, the last in front."""

    ground: str | creatures.Colour  # of `drawing.BACKGROUNDS`, or one colour
    variant: int
    tone: float
    view: Float[np.ndarray, "T 2"]
    litter: list[Part]  # that never moves, one frame of it
    animals: list[list[Part]]


# --- behaviour in time ---------------------------------------------------------------------------


def _checked(corpus: str) -> tuple[str, Family]:
    kind, _, part = corpus.partition("/")
    if kind not in FAMILIES or part not in corpora.PARTS:
        known = ", ".join(f"{name}/{part}" for name in FAMILIES for part in corpora.PARTS)
        raise ValueError(f"unknown corpus {corpus!r}: choose one of {known}")
    return kind, FAMILIES[kind]


def _drawn(often: Mapping[str, int], axis: str, corpus: str, index: int, seed: int) -> str:
    """A class: each exactly `often` in every run of as many draws."""
    every = [name for name, count in often.items() for _ in range(count)]
    return balanced(every, axis, corpus, index, seed)


def bouts(corpus: str, index: int, *, seed: int = 0) -> list[Bout]:
    """What is done when in a video of `flies` or `mice`; the rest is background.

    `corpus`: a family of FAMILIES with its part, such as "flies/train". Parts are disjoint because
    the whole name seeds the draw. Raises ValueError for an unknown name.
    """
    _, family = _checked(corpus)
    rng = generator(seed, f"{corpus}/bouts", index)
    numbers = range(index * family.bouts, (index + 1) * family.bouts)
    labels = [_drawn(family.often, "bout", corpus, number, seed) for number in numbers]
    lengths = np.array([rng.uniform(*family.lengths[label]) for label in labels])
    starts = schedule(rng, lengths, family.frames / family.fps)
    frames = np.round(np.stack([starts, starts + lengths], 1) * family.fps).astype(int)
    return [Bout(label, int(a), int(b)) for label, (a, b) in zip(labels, frames, strict=True)]


def _stretches(found: Sequence[Bout], frames: int) -> list[Bout]:
    """Bouts and the background between them."""
    ends = [0, *(bout.end for bout in found)]
    starts = [*(bout.start for bout in found), frames]
    calm = [Bout(BACKGROUND, a, b) for a, b in zip(ends, starts, strict=True)]
    return sorted([*found, *calm], key=lambda bout: bout.start)


def _cycles(
    rng: np.random.Generator,
    calm: Rates,
    stretches: Sequence[tuple[Rates, int, int]],
    family: Family,
) -> dict[str, Float[np.ndarray, " T"]]:
    """Turns of every cycle so far. Stretches: which run otherwise than calmly, from, to (frames)."""
    rates = np.zeros((family.frames, len(calm)))
    for quick, start, end in stretches:
        low, high = zip(*(quick.get(name, calm[name]) for name in calm), strict=True)
        rates[start:end] = rng.uniform(low, high) * rng.choice((-1, 1), len(calm))
    turns = rng.random(len(calm)) + (np.cumsum(rates, 0) - rates) / family.fps
    return dict(zip(calm, turns.T, strict=True))


def _wave(turns: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    return np.cos(2 * np.pi * turns)


# --- two in a dish, or in a cage -----------------------------------------------------------------


class _Pair(NamedTuple):
    """The one that acts, and the other."""

    places: Complex[np.ndarray, "2 T"]
    ahead: Complex[np.ndarray, "2 T"]
    cycles: dict[str, np.ndarray]


def _pair(rng, kind: str, found: Sequence[Bout], family: Family, size: float) -> _Pair:
    """`size`: half of a body's length, frame sides."""
    stretches = _stretches(found, family.frames)
    quick = [(BEHAVIOURS[kind].get(b.label, {}), b.start, b.end) for b in stretches]
    of = _cycles(rng, _PAIR, quick, family)
    centre = 0.5 + 0.5j + 0.05 * (_wave(of["x"]) + 1j * _wave(of["y"]))
    axis = turned(2 * np.pi * of["turn"])
    apart, reach = 0.36 + 0.04 * _wave(of["apart"]), 0.08 * (1 + _wave(of["reach"]))
    other = centre - 0.45 * apart * axis
    one = centre + (0.55 * apart - reach) * axis
    one_ahead = -axis * turned(0.6 * _wave(of["twist"]))
    other_ahead = turned(2 * np.pi * of["face"] + 0.6 * _wave(of["other_twist"]))
    for bout in found:
        if bout.label in POSTURES[kind]:  # on the other's back, half a second before and after, too
            frame = np.arange(family.frames)
            away = np.maximum(bout.start - frame, frame - (bout.end - 1)) / family.fps
            near = np.clip(1 - 2 * away, 0, 1)
            near = near * near * (3 - 2 * near)
            thrust = size * (0.75 + 0.25 * _wave(of["reach"]))
            one = one + near * (other - thrust * other_ahead - one)
            one_ahead = one_ahead * turned(near * np.angle(other_ahead / one_ahead))
    return _Pair(np.stack([one, other]), np.stack([one_ahead, other_ahead]), of)


def _flies(rng, corpus: str, index: int, seed: int) -> Shot:
    size, family = rng.uniform(0.18, 0.195), FAMILIES["flies"]
    pair = _pair(rng, "flies", bouts(corpus, index, seed=seed), family, size)
    wings = [
        [0.5 - 0.5 * _wave(pair.cycles[f"{whose}{side}"]) for side in ("left", "right")]
        for whose in ("", "other_")
    ]
    tone = rng.uniform(0.85, 1.15)
    animals = [
        creatures.fly(place, ahead, size, np.stack(wing), tone)
        for place, ahead, wing in zip(pair.places, pair.ahead, wings, strict=True)
    ]
    glass = tuple(int(value) for value in rng.uniform(0.85, 1.05) * np.array((136, 152, 150)))
    middle, east = np.array([0.5 + 0.5j]), np.ones(1, complex)
    dish = [
        Part(middle, east, 0.53, 0.53, (84, 92, 98)),
        Part(middle, east, 0.50, 0.50, glass, rim=False),
        Part(middle, east, 0.44, 0.44, tuple(min(255, v + 12) for v in glass), rim=False),
    ]
    return Shot((58, 62, 70), 0, 1.0, np.zeros((family.frames, 2)), dish, animals[::-1])


def _mice(rng, corpus: str, index: int, seed: int) -> Shot:
    size, family = rng.uniform(0.18, 0.195), FAMILIES["mice"]
    pair = _pair(rng, "mice", bouts(corpus, index, seed=seed), family, size)
    animals = [
        creatures.mouse(
            place,
            ahead,
            size,
            0.95 * _wave(pair.cycles[f"{whose}left"]),
            0.6 * _wave(pair.cycles[f"{whose}right"]),
            fur,
        )
        for place, ahead, whose, fur in zip(
            pair.places, pair.ahead, ("", "other_"), ((62, 58, 68), (244, 242, 238)), strict=True
        )
    ]
    bedding = rng.uniform(0.9, 1.05) * np.array((206, 178, 132))
    chips = [
        Part(
            np.array([complex(*rng.random(2))]),
            turned(rng.uniform(0, np.pi, 1)),
            rng.uniform(0.02, 0.035),
            0.008,
            tuple(int(v) for v in np.clip(bedding * rng.choice((0.86, 1.12)), 0, 255)),
            rim=False,
        )
        for _ in range(45)
    ]
    floor = tuple(int(value) for value in bedding)
    return Shot(floor, 0, 1.0, np.zeros((family.frames, 2)), chips, animals[::-1])


# --- several in a row ----------------------------------------------------------------------------


def chimp_labels(corpus: str, index: int, *, seed: int = 0) -> list[list[str]]:
    """What each animal of a clip of `chimps` does, from left to right, all the time.

    The groomer and the one being groomed, at its right, or the two that play, are neighbours.
    """
    rng = generator(seed, f"{corpus}/labels", index)
    count, what = 2 + int(rng.random() < 0.6), {"seed": seed, "corpus": corpus}
    social = _drawn(FAMILIES["chimps"].often, "social", index=index, **what)
    couple = int(rng.integers(count - 1))
    couple = range(couple, couple + 2) if social != "nothing" else ()
    found = []
    for place in range(count):
        numbered = what | {"index": 3 * index + place}
        moves, holds = _drawn(LOCOMOTION, "moves", **numbered), _drawn(OBJECT, "holds", **numbered)
        labels = [moves] if place not in couple else ["resting"]
        labels += [holds] if holds != "nothing" else []
        if place in couple:
            labels += ["being_groomed" if social == "grooming" and place == couple[1] else social]
        found.append(labels)
    return found


def _chimps(rng, corpus: str, index: int, seed: int) -> Shot:
    labels, family = chimp_labels(corpus, index, seed=seed), FAMILIES["chimps"]
    size = rng.uniform(0.19, 0.21) if len(labels) == 3 else rng.uniform(0.23, 0.25)
    apart, left = (0.29, 0.21) if len(labels) == 3 else (0.36, 0.32)
    animals = []
    for place, doing in enumerate(labels):
        quick = {
            key: rate for one in doing for key, rate in BEHAVIOURS["chimps"].get(one, {}).items()
        }
        of = _cycles(rng, _CHIMP, [(quick, 0, family.frames)], family)
        x = left + apart * place + rng.uniform(-0.02, 0.02) + 0.05 * _wave(of["along"])
        y = 0.52 + rng.uniform(-0.05, 0.05) + 0.09 * _wave(of["climb"])
        mouth, lap = -0.1 - 0.42j, -0.72 + 0.5j
        eats, grooms = (0.5 - 0.5 * _wave(of[side]) for side in ("left", "right"))
        hands = np.stack([lap + eats * (mouth - lap), 0.62 + 0.45j + grooms * (0.4 - 0.75j)])
        ball = 0.2j + 0.42j * _wave(of["ball"])
        fur = tuple(int(v) for v in rng.uniform(0.8, 1.1) * np.array((124, 84, 58)))
        toy = list(drawing.COLOURS.values())[rng.integers(len(drawing.COLOURS))]
        sway = 0.4 * _wave(of["sway"])
        animals.append(creatures.chimp(x + 1j * y, sway, size, hands, ball, fur, toy))
    place = ("meadow", "desert", "forest", "bricks")[rng.integers(4)]
    view = np.broadcast_to(rng.random(2), (family.frames, 2))
    tone = rng.uniform(0.92, 1.08)
    return Shot(place, int(rng.integers(drawing.VARIANTS)), tone, view, [], animals)


# --- one, followed by a camera -------------------------------------------------------------------


def behaviour(corpus: str, index: int, *, seed: int = 0) -> str:
    """What the animal of a clip of `kabr` does."""
    return _drawn(_checked(corpus)[1].often, "behaviour", corpus, index, seed)


def _kabr(rng, corpus: str, index: int, seed: int) -> Shot:
    label, family = behaviour(corpus, index, seed=seed), FAMILIES["kabr"]
    does = label
    if label == "occluded":  # behind it, anything
        does = [name for name in family.often if name != label][rng.integers(len(family.often) - 1)]
    of = _cycles(rng, _GRAZER, [(BEHAVIOURS["kabr"].get(does, {}), 0, family.frames)], family)
    facing, giraffe = int(rng.choice((-1, 1))), bool(rng.random() < 0.5)
    jitter = 0.02 * (_wave(of["x"]) + 1j * _wave(of["y"]))
    centre = 0.5 - 0.05 * facing + 0.5j + jitter
    place = centre + 0.04j * np.sin(2 * np.pi * of["legs"])
    size = rng.uniform(0.33, 0.37) * (1 + 0.08 * _wave(of["zoom"]))
    neck = rng.uniform(*_NECKS.get(does, _ANY_NECK)) + 0.2 * _wave(of["neck"])
    legs = of["legs"][0] + np.abs(of["legs"] - of["legs"][0])  # forwards
    stride = 2 * np.pi * np.stack([legs + offset for offset in (0.0, 0.5, 0.25, 0.75)])
    feet = 0.24 * np.cos(stride) - 0.1j * np.clip(-np.sin(stride), 0, 1)  # lifted on the way ahead
    scratch = 0.5 - 0.5 * _wave(of["scratch"])
    feet[0] += scratch * (0.35 - 0.3j)
    tail = 0.7 + 0.6 * _wave(of["tail"])
    rock = 0.12 * _wave(of["legs"])
    animal = creatures.grazer(place, rock, facing, size, neck, feet, tail, giraffe)
    ahead = facing * np.abs(of["ground"] - of["ground"][0])
    view = rng.random(2) + np.stack([ahead - jitter.real, -jitter.imag], 1)
    animals = [_tufts(rng, view), animal]
    if label == "occluded":
        animals.append(_bush(rng, centre))
    ground, tone = ("meadow", "desert")[rng.integers(2)], rng.uniform(0.92, 1.08)
    return Shot(ground, int(rng.integers(drawing.VARIANTS)), tone, view, [], animals)


def _tufts(rng, view: Float[np.ndarray, "T 2"]) -> list[Part]:
    """Shrubs on the ground, which passes by; what leaves on one side enters on the other."""
    east, tufts = np.ones(len(view), complex), []
    for at in rng.random((5, 2)):
        x, y = ((at - view) % 1.0 * 1.2 - 0.1).T
        green = tuple(int(v) for v in rng.uniform(0.8, 1.1) * np.array((92, 116, 58)))
        for aside in (-0.025, 0.025):
            tufts.append(Part(x + aside + 1j * y, east, 0.035, 0.035, green))
    return tufts


def _bush(rng, place: Complex[np.ndarray, " T"]) -> list[Part]:
    """Leaves that hide most of an animal at `place`."""
    east, leaves = np.ones_like(place), rng.uniform(0.85, 1.1) * np.array((64, 116, 62))
    blobs = [
        (x, y, rng.uniform(0.14, 0.2)) for x in (-0.24, -0.08, 0.08, 0.24) for y in (-0.08, 0.14)
    ]
    return [
        Part(
            place + complex(x, y) + complex(*rng.uniform(-0.04, 0.04, 2)),
            east,
            radius,
            radius,
            tuple(int(v) for v in leaves * rng.uniform(0.85, 1.15)),
        )
        for x, y, radius in blobs
    ]


# --- pixels, truth, text -------------------------------------------------------------------------

_SHOTS = {"flies": _flies, "mice": _mice, "chimps": _chimps, "kabr": _kabr}


def shot(corpus: str, index: int, *, seed: int = 0) -> Shot:
    """What is drawn of a video, before it is. Raises ValueError for an unknown name."""
    kind, _ = _checked(corpus)
    return _SHOTS[kind](generator(seed, corpus, index), corpus, index, seed)


def render(
    shot: Shot, *, resolution: int = 56, only: Sequence[int] | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """The video, or the frames whose indices are in `only`."""
    frames = np.arange(len(shot.view)) if only is None else np.asarray(only)
    if isinstance(shot.ground, str):
        canvas = drawing.backdrop(
            shot.ground, shot.variant, resolution, shot.view[frames], np.zeros(len(frames))
        )
        canvas *= np.float32(shot.tone)
    else:
        one = np.full((1, resolution, resolution, 3), shot.ground, np.float32)
        creatures.paint(one, shot.litter)
        canvas = np.repeat(one, len(frames), 0)
    for parts in shot.animals:
        creatures.paint(canvas, creatures.chosen(parts, frames))
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)


def truth(corpus: str, index: int, *, seed: int = 0) -> dict:
    """All that is true of a video, for JSON; times in seconds, boxes x0, y0, x1, y1 in [0, 1].

    Of flies and mice: `events` (label, start, end) and `frame_labels`, one a frame. Of chimpanzees:
    `boxes` (animal, frame, 4), and `box_labels`, some for each animal, which hold in every frame.
    Of KABR: `labels` with the `behaviour`.
    """
    kind, family = _checked(corpus)
    known = {"kind": kind, "caption": family.says}
    if kind == "kabr":
        return known | {"labels": {"behaviour": behaviour(corpus, index, seed=seed)}}
    if kind == "chimps":
        boxes = [creatures.box(parts) for parts in shot(corpus, index, seed=seed).animals]
        labels = chimp_labels(corpus, index, seed=seed)
        return known | {"boxes": np.round(boxes, 4).tolist(), "box_labels": labels}
    found = bouts(corpus, index, seed=seed)
    labels = [b.label for b in _stretches(found, family.frames) for _ in range(b.start, b.end)]
    events = [
        {"label": b.label, "start": b.start / family.fps, "end": b.end / family.fps} for b in found
    ]
    return known | {"events": events, "frame_labels": labels}


class Animals(records.Source):
    """A part of a family of FAMILIES, for `data.shards.write`."""

    def drawn(self, index: int) -> tuple[UInt8[np.ndarray, "T H W 3"], float, str]:
        family = _checked(self.corpus)[1]
        seen = shot(self.corpus, index, seed=self.seed)
        return render(seen, resolution=self.resolution), family.fps, family.says
