"""Questions about videos: clips of which each answer needs the video, and some its motion.

Text alone is at chance: whatever a question names, its answer is drawn without regard to it, and
all answers of a kind are equally frequent (tested). Shapes, colours and motions of a clip are
distinct, so a question names one object. Three kinds of clips in turn: some objects that each do
something else (what, who and how many), one that changes what it does (in which order), and two
that do something together.

Kinds of questions: `appearance` and `count` can be told from a frame; `motion`, `order` and
`together` cannot; `bound` asks what the thing looks like that moves in a certain way, among others
that move otherwise (the form of the blog's example); `place` asks which of two is further left.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from vplib.world import captions, corpora, records, scenes
from vplib.world.scenes import FINE_CLASSES, MOTION_CLASSES, Phase, Scene, balanced, generator

FPS = 8.0
KINDS = ("appearance", "count", "place", "motion", "bound", "order", "together")
TURNS = (
    "several",
    "order",
    "several",
    "together",
    "several",
)  # kinds of clips, one after the other
COUNTS = ("1", "2", "3")  # objects of `several`
CHANGES = (0.8, 1.2)  # seconds at which the one object does something else


def scene(corpus: str, index: int, *, seed: int = 0) -> Scene:
    """`corpus`: "asked/train" or another of its parts, which are disjoint because the whole name
    seeds the draw. Raises ValueError for an unknown name.
    """
    family, _, part = corpus.partition("/")
    if family != "asked" or part not in corpora.PARTS:
        known = ", ".join(f"asked/{name}" for name in corpora.PARTS)
        raise ValueError(f"unknown corpus {corpus!r}: choose one of {known}")
    rng, kind = generator(seed, corpus, index), TURNS[index % len(TURNS)]
    turn = index // len(TURNS) * TURNS.count(kind) + TURNS[: index % len(TURNS)].count(kind)

    def label(axis: str, values) -> str:
        return balanced(values, axis, corpus, turn, seed)

    if kind == "together":
        return scenes.EVALS["behaviour"](rng, "asked", label)
    if kind == "order":
        motions = label("order", FINE_CLASSES).split("_then_")
        return _moving(scenes.general(rng, "asked", counts=(1, 0, 0)), [motions], rng)
    count = label("count", COUNTS)
    subject = scenes.general(rng, "asked", counts=[float(one == count) for one in COUNTS])
    motions = [[str(name)] for name in rng.permutation(MOTION_CLASSES)[: len(subject.objects)]]
    return _moving(subject, motions, rng)


def _moving(subject: Scene, motions: list[list[str]], rng: np.random.Generator) -> Scene:
    """The scene with other motions: one or two of each object, in this order."""
    things = []
    for thing, names in zip(subject.objects, motions, strict=True):
        starts = (0.0, rng.uniform(*CHANGES))[: len(names)]
        phases = []
        for name, start in zip(names, starts, strict=True):
            mechanism, direction, speeds = scenes.MOTIONS[name]
            phases.append(
                Phase(name, start, mechanism, rng.uniform(*speeds), direction, rng.random())
            )
        things.append(replace(thing, motion="_then_".join(names), phases=tuple(phases)))
    return replace(subject, objects=tuple(things))


def questions(subject: Scene) -> list[dict]:
    """All that is asked of a clip of this family: {question, answer, kind}, a kind of KINDS."""
    starts = scenes.poses(subject, np.zeros(1))[:, 0, :2]
    several = not subject.interaction and "_then_" not in subject.objects[0].motion
    found = []
    for one in captions.questions(subject, starts) + captions.bound(subject):
        kind = one["kind"]
        if one["question"].startswith("what pattern") or (kind == "count" and not several):
            continue  # whose answers are not equally frequent
        if kind == "motion" and subject.interaction:
            kind = "together"
        found.append(one | {"kind": "place" if kind == "spatial" else kind})
    return found


def truth(corpus: str, index: int, *, seed: int = 0) -> dict:
    """All that is true of a clip, for JSON; `qa` are `questions`."""
    subject = scene(corpus, index, seed=seed)
    return corpora.truth(subject, fps=FPS) | {"qa": questions(subject)}


class Asked(records.Source):
    """A part of the family, for `data.shards.write`."""

    def drawn(self, index: int) -> tuple[UInt8[np.ndarray, "T H W 3"], float, str]:
        subject = scene(self.corpus, index, seed=self.seed)
        frames = corpora.render(subject, resolution=self.resolution, fps=FPS)
        return frames, FPS, captions.caption(subject)
