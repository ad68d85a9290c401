"""Untrimmed videos: background, in which now and then an object does something for some seconds.

`untrimmed` has ActivityNet's form (a minute; its events are of one class, seldom of two), `moments`
that of ActivityNet Captions and Charades-STA (half a minute; every event of another class, so that
its sentence fits no other). Scenes are those of `scenes`, whose argument holds here, too: an event
adds a displacement that does not depend on where the object was, so no single frame, and no moment
of the video, tells its class. What things look like is drawn without regard to the class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8

from vplib.world import captions, corpora, records, scenes
from vplib.world.scenes import Object, Phase, Scene, balanced, generator

FPS = 8.0  # every event begins and ends with a frame
CLASSES = tuple(motion for motion in scenes.MOTION_CLASSES if motion != "still")
SECOND_CLASS = 0.25  # probability that a video of several events of a class has one of another
COUNTS = (0.5, 0.35, 0.15)  # how often a video has one, two, three objects; one of them acts
PIECES = (3.0, 8.0)  # seconds that the object rests or wanders between events, at a time
WANDER = (0.04, 0.10)  # frame sides a second: a third of the slowest event at most
_CHUNK = 64  # frames drawn at a time: more do not fit into the processor's cache


@dataclass(frozen=True)
class Family:
    """How long its videos are and what happens in them; times in seconds."""

    stands_for: str
    seconds: float
    counts: tuple[float, ...]  # how often a video has one, two, three... events
    lengths: tuple[float, float]  # of an event; its logarithm is uniform
    most: float  # of all events together
    distinct: bool  # every event is of another class


FAMILIES = {
    "untrimmed": Family(
        "ActivityNet", 64.0, (0.15, 0.2, 0.25, 0.25, 0.15), (3.0, 16.0), 31.0, False
    ),
    "moments": Family("Charades-STA", 32.0, (0.0, 0.0, 0.5, 0.5), (3.0, 6.0), 20.0, True),
}


def schedule(
    rng: np.random.Generator, lengths: Float[np.ndarray, " N"], seconds: float, *, gap: float = 1.0
) -> Float[np.ndarray, " N"]:
    """Starts of stretches of these lengths, in order, in `seconds`: any arrangement is as likely
    as any other that leaves `gap` before, between and after them.
    """
    free = seconds - lengths.sum() - gap * (len(lengths) + 1)
    gaps = gap + free * rng.dirichlet(np.ones(len(lengths) + 1))[:-1]
    return np.cumsum(gaps) + np.cumsum(lengths) - lengths


def scene(corpus: str, index: int, *, seed: int = 0) -> Scene:
    """`corpus`: a family of FAMILIES with its part, such as "untrimmed/train".

    Parts are disjoint because the whole name seeds the draw. Raises ValueError for an unknown name.
    """
    kind, _, part = corpus.partition("/")
    if kind not in FAMILIES or part not in corpora.PARTS:
        known = ", ".join(f"{name}/{part}" for name in FAMILIES for part in corpora.PARTS)
        raise ValueError(f"unknown corpus {corpus!r}: choose one of {known}")
    family, rng = FAMILIES[kind], generator(seed, corpus, index)
    subject = scenes.general(rng, kind, counts=COUNTS)
    things = [
        replace(thing, motion="wander", sizes=scenes.DISTRACTOR_SIZE, phases=(_calm(rng, 0.0, 1),))
        for thing in subject.objects
    ]
    first = balanced(CLASSES, "event", corpus, index, seed)
    things[-1] = replace(
        things[-1],
        motion=first,
        sizes=scenes.TARGET_SIZE,
        phases=tuple(_story(rng, _planned(rng, family, first), family.seconds)),
    )
    return replace(subject, objects=tuple(things), target=len(things) - 1)


def _planned(rng, family: Family, first: str) -> list[tuple[str, float, float]]:
    """Class, start and end of the events."""
    count = 1 + int(rng.choice(len(family.counts), p=family.counts))
    others = [name for name in CLASSES if name != first]
    others = [others[k] for k in rng.permutation(len(others))]
    labels = [first] * count
    if family.distinct:
        labels = [first, *others][:count]
    elif count > 1 and rng.random() < SECOND_CLASS:
        few = 1 + int(rng.integers(count // 2))
        labels[:few] = others[:1] * few
    while (lengths := np.exp(rng.uniform(*np.log(family.lengths), count))).sum() > family.most:
        pass
    starts = schedule(rng, lengths, family.seconds)
    times = np.round(np.stack([starts, starts + lengths], 1) * FPS) / FPS
    labels = [labels[k] for k in rng.permutation(count)]
    return [(label, float(a), float(b)) for label, (a, b) in zip(labels, times, strict=True)]


def _story(rng, planned: Sequence[tuple[str, float, float]], seconds: float) -> list[Phase]:
    """What the object does from the beginning to the end of the video."""
    phases, now = [], 0.0
    for label, start, end in [*planned, ("", seconds, seconds)]:
        while now < start:
            phases.append(_calm(rng, now, 0.5))
            now += round(rng.uniform(*PIECES) * FPS) / FPS
        if label:
            mechanism, direction, speeds = scenes.MOTIONS[label]
            speed = rng.uniform(*speeds)
            phases.append(Phase(label, start, mechanism, speed, direction, rng.random()))
        now = end
    return phases


def _calm(rng, start: float, wandering: float) -> Phase:
    """Resting or, with the probability `wandering`, slow wandering."""
    if rng.random() >= wandering:
        return Phase("", start, "still", 0.0, 0.0)
    speed, heading = rng.uniform(*WANDER), rng.uniform(0, 2 * np.pi)
    return Phase("", start, "wander", speed, heading, rng.random())


# --- pixels, truth, text -------------------------------------------------------------------------


def render(
    scene: Scene, *, resolution: int = 56, only: Sequence[int] | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """The video, or the frames whose indices are in `only`."""
    frames = round(FAMILIES[scene.kind].seconds * FPS)
    wanted = range(frames) if only is None else list(only)
    chunks = [wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK)]
    return np.concatenate(
        [
            corpora.render(scene, resolution=resolution, frames=frames, fps=FPS, only=chunk)
            for chunk in chunks
        ]
    )


def events(scene: Scene) -> list[dict]:
    """Label, start and end (seconds) of every event, in order."""
    phases = scene.objects[scene.target].phases
    ends = [phase.start for phase in phases[1:]] + [FAMILIES[scene.kind].seconds]
    return [
        {"label": phase.motion, "start": phase.start, "end": end}
        for phase, end in zip(phases, ends, strict=True)
        if phase.motion
    ]


def sentences(corpus: str, index: int, *, seed: int = 0) -> list[str]:
    """What happens in each event: who does what, and where; of the object that acts alone."""
    subject, rng = scene(corpus, index, seed=seed), generator(seed, f"{corpus}/text", index)
    alone: Object = subject.objects[subject.target]
    return [
        captions.describe(
            replace(
                subject, objects=(replace(alone, motion=event["label"]),), target=0, camera="still"
            ),
            rng,
            motion=True,
            place=1.0,
        )
        for event in events(subject)
    ]


def paragraph(corpus: str, index: int, *, seed: int = 0) -> str:
    """All sentences of a video."""
    return " ".join(sentences(corpus, index, seed=seed))


def truth(corpus: str, index: int, *, seed: int = 0) -> dict:
    """All that is true of a video, for JSON; times in seconds.

    Each of `events` has a `sentence`. The label `event` is the class of most of them (of one of
    them, where all differ), `events` are all that occur.
    """
    subject = scene(corpus, index, seed=seed)
    said, main = sentences(corpus, index, seed=seed), subject.objects[subject.target]
    found = [
        event | {"sentence": sentence}
        for event, sentence in zip(events(subject), said, strict=True)
    ]
    return {
        "kind": subject.kind,
        "events": found,
        "caption": " ".join(said),
        "labels": {
            "event": main.motion,
            "events": sorted({event["label"] for event in found}),
            "object": main.shape,
            "colour": main.colour,
            "background": subject.background,
            "camera": subject.camera,
        },
    }


class Untrimmed(records.Source):
    """A part of a family of FAMILIES, for `data.shards.write`."""

    def drawn(self, index: int) -> tuple[UInt8[np.ndarray, "T H W 3"], float, str]:
        frames = render(scene(self.corpus, index, seed=self.seed), resolution=self.resolution)
        return frames, FPS, paragraph(self.corpus, index, seed=self.seed)
