"""A procedural video world of known truth: clip i of corpus c is a pure function of (seed, c, i).

Pretraining corpora differ in how their *text* was harvested, as the paper's do (VideoPrism,
arXiv:2402.13217, Table 1); evaluation families differ in which *scenes* they hold
(`vplib.world.scenes`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from vplib import code
from vplib.world import captions, drawing, scenes
from vplib.world.scenes import EVALS, Scene, balanced, generator, poses

if TYPE_CHECKING:
    from vplib.data.shards import Clip, Shards


@dataclass(frozen=True)
class Corpus:
    """A pretraining corpus: what it stands for, how its text comes about (probabilities a clip)."""

    stands_for: str
    text_source: str
    description: str
    motion: float  # the text says how things move
    elsewhere: float = 0.0  # the text is about another clip
    reach: int = 1  # how many clips away that one may be
    hallucinated: float = 0.0  # one attribute is wrong
    off_topic: float = 0.0  # the text is about nothing in the world
    images: bool = False  # clips of one frame


CORPORA = {
    "ac1": Corpus("Anonymous-Corpus #1", "manual", "accurate captions written by people", motion=0.3),
    "wts70m": Corpus("WTS-70M", "metadata", "tags and title words, partly off-topic", motion=0.1, off_topic=0.25),
    "yt180m": Corpus("YT-Temporal-180M", "speech", "talk, half of it about a neighbouring clip", 0.2, elsewhere=0.5),
    "ac2": Corpus("Anonymous-Corpus #2", "speech", "talk, a third of it about a neighbouring clip", 0.2, elsewhere=0.3),
    "videocc": Corpus("VideoCC", "image caption", "a caption of one frame, a fifth of them from another clip", 0.0,
                      elsewhere=0.2, reach=1000),
    "internvid": Corpus("InternVid", "model", "fluent machine captions that invent", 0.2, hallucinated=0.15),
    "ac3": Corpus("Anonymous-Corpus #3", "model", "better machine captions", 0.2, hallucinated=0.08),
    "webli": Corpus("WebLI", "alt text", "images with their alt-text", 0.0, images=True),
}  # fmt: skip
ACCURATE = Corpus("", "caption", "the full truth in a sentence", motion=1.0)  # evaluation families
# Of an evaluation family: what probes learn from, what recipes are chosen on, and what is looked at
# once, at the end.
PARTS = ("train", "validation", "test")


def scene(corpus: str, index: int, *, seed: int = 0) -> Scene:
    """`corpus`: one of CORPORA, or a family of EVALS with its part, such as "motion/train".

    Parts are disjoint because the whole name seeds the draw. Raises ValueError for an unknown name.
    """
    family, _, part = corpus.partition("/")
    rng = generator(seed, corpus, index)
    if corpus in CORPORA:
        return scenes.general(
            rng, corpus, counts=scenes.IMAGE_COUNTS if CORPORA[corpus].images else scenes.COUNTS
        )
    if family in EVALS and part in PARTS:
        return EVALS[family](
            rng, family, lambda axis, values: balanced(values, axis, corpus, index, seed)
        )
    known = ", ".join((*CORPORA, *(f"{name}/{PARTS[0]}" for name in EVALS)))
    also = " or /".join(PARTS[1:])
    raise ValueError(f"unknown corpus {corpus!r}: choose one of {known} (or /{also})")


# --- pixels, truth, text -------------------------------------------------------------------------


def render(
    scene: Scene,
    *,
    resolution: int = 64,
    frames: int = 16,
    fps: float = 8.0,
    only: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "T H W 3"]:
    """The clip, or the frames whose indices are in `only`."""
    seconds = np.arange(frames)[slice(None) if only is None else list(only)] / fps
    canvas = drawing.backdrop(
        scene.background, scene.variant, resolution, scenes.view(scene, seconds), seconds
    )
    canvas *= np.array(scene.tone, np.float32)
    for thing, pose in zip(scene.objects, poses(scene, seconds), strict=True):
        drawing.draw(canvas, thing.shape, thing.colour, thing.texture, pose)
    return (canvas + 0.5).clip(0, 255).astype(np.uint8)


def labels(scene: Scene) -> dict:
    """The classes of a clip: the part of its truth that needs no trajectory."""
    main = scene.objects[scene.target]
    return {
        "object": main.shape,
        "colour": main.colour,
        "texture": main.texture,
        "motion": main.motion,
        "background": scene.background,
        "camera": scene.camera,
        "motions": sorted(
            {word for thing in scene.objects for word in thing.motion.split("_then_")}
        ),
        "interaction": scene.interaction,
    }


def truth(scene: Scene, *, frames: int = 16, fps: float = 8.0) -> dict:
    """All that is true of a clip, for JSON; boxes x0, y0, x1, y1 in [0, 1], times in seconds."""
    seconds, length = np.arange(frames) / fps, frames / fps
    pose = poses(scene, seconds)
    main = scene.objects[scene.target]
    starts = [phase.start for phase in main.phases] + [length]
    words = main.motion.split("_then_")
    events = [
        {
            "label": word,
            "start": round(float(min(a, length)), 4),
            "end": round(float(min(b, length)), 4),
        }
        for word, a, b in zip(words, starts, starts[1:], strict=False)
    ]
    if scene.interaction:
        events = [{"label": scene.interaction, "start": 0.0, "end": length}]
    return {
        "kind": scene.kind,
        "objects": [
            {
                "shape": thing.shape,
                "colour": thing.colour,
                "texture": thing.texture,
                "size_word": thing.size,
                "motion": thing.motion,
                "boxes": drawing.box(thing.shape, p).round(4).tolist(),
            }
            for thing, p in zip(scene.objects, pose, strict=True)
        ],
        "target": scene.target,
        "background": scene.background,
        "camera": scene.camera,
        "events": events,
        "caption": captions.caption(scene),
        "captions_reference": captions.references(scene),
        "qa": captions.questions(scene, pose[:, 0, :2]),
        "labels": labels(scene),
    }


def text(corpus: str, index: int, *, seed: int = 0) -> tuple[str, dict]:
    """The text of a clip, and what is wrong with it: its `text_truth`."""
    done, rng = _faults(corpus, index, seed)
    subject = scene(corpus, done["describes"], seed=seed)
    if corpus not in CORPORA:
        return captions.caption(subject), done
    if done["hallucinated"]:
        subject = captions.hallucinate(subject, rng)
    written = captions.write(
        CORPORA[corpus].text_source,
        subject,
        rng,
        motion=done["mentions_motion"],
        off_topic=done["off_topic"],
    )
    return written, done


def text_truth(corpus: str, index: int, *, seed: int = 0) -> dict:
    """What is wrong with the text of a clip, and which clip it describes."""
    return _faults(corpus, index, seed)[0]


def _faults(corpus: str, index: int, seed: int) -> tuple[dict, np.random.Generator]:
    rng, rules = generator(seed, f"{corpus}/text", index), CORPORA.get(corpus, ACCURATE)
    rates = {
        "misaligned": rules.elsewhere,
        "hallucinated": rules.hallucinated,
        "mentions_motion": rules.motion,
        "off_topic": rules.off_topic,
    }
    done = {key: bool(rng.random() < rate) for key, rate in rates.items()}
    done["mentions_motion"] &= not done["off_topic"]
    away = int(rng.integers(1, rules.reach + 1)) if done["misaligned"] else 0
    return done | {"describes": index + away}, rng


def clip(
    corpus: str,
    index: int,
    *,
    seed: int = 0,
    resolution: int = 64,
    frames: int = 16,
    fps: float = 8.0,
) -> tuple[UInt8[np.ndarray, "T H W 3"], str, dict]:
    """Frames, text and truth of one clip; image corpora have one frame, whatever `frames`."""
    if corpus in CORPORA and CORPORA[corpus].images:
        frames = 1
    subject = scene(corpus, index, seed=seed)
    written, done = text(corpus, index, seed=seed)
    known = truth(subject, frames=frames, fps=fps) | {"text_truth": done}
    return render(subject, resolution=resolution, frames=frames, fps=fps), written, known


def distinct(corpus: str, count: int, *, seed: int = 0) -> list[int]:
    """The first `count` clips whose captions all differ, for retrieval."""
    chosen: dict[str, int] = {}
    index = 0
    while len(chosen) < count:
        chosen.setdefault(captions.caption(scene(corpus, index, seed=seed)), index)
        index += 1
    return list(chosen.values())


@dataclass(frozen=True)
class WorldSource:
    """A corpus as a source for `data.shards.write`; `unlike`: clips whose captions all differ."""

    corpus: str
    count: int
    seed: int = 0
    resolution: int = 64
    frames: int = 16
    fps: float = 8.0
    unlike: bool = False

    @cached_property
    def indices(self) -> Sequence[int]:
        return (
            distinct(self.corpus, self.count, seed=self.seed) if self.unlike else range(self.count)
        )

    @property
    def name(self) -> str:
        return self.corpus.replace("/", "-")

    @property
    def fingerprint(self) -> str:
        """Of the arguments and of the code that draws and writes; a digest, not of the clips."""
        return hashlib.sha256(f"{self!r} {code.of(WorldSource)}".encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[bytes, str, dict]:
        # PyAV and ArrayRecord, which pictures and texts do not need.
        from vplib.data import shards, video

        if not 0 <= index < self.count:
            raise IndexError(f"clip {index} of {self.corpus}, which has {self.count}")
        number = self.indices[index]
        still = self.corpus in CORPORA and CORPORA[self.corpus].images
        frames = render(
            scene(self.corpus, number, seed=self.seed),
            resolution=self.resolution,
            frames=1 if still else self.frames,
            fps=self.fps,
        )
        written, _ = text(self.corpus, number, seed=self.seed)
        # Who it is, not what is true of it: `Known` finds that out, and a new fact or question
        # changes no record.
        identity = {"corpus": self.corpus, "index": number, "seed": self.seed}
        length = {
            "fps": float(self.fps),
            "frames": len(frames),
            "duration": len(frames) / self.fps,
        }
        return shards.Clip(video.encode(frames, self.fps), written, identity | length)


class Known:
    """Shards of the world as `evaluate.features.Originals`: videos, and what is true of each.

    The truth is recomputed from the identity that a record holds, when it is first asked for.
    """

    def __init__(self, shards: "Shards"):
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> "Clip":
        return self.shards[index]

    def original(self, index: int) -> tuple[bytes, dict]:
        """The stored video file, and its metadata with all of `truth` and its `text_truth`."""
        file, meta = self.shards.original(index)
        return file, _Facts(meta)


class _Facts(dict):
    """A record's metadata; what else is true of the clip joins it when it is asked for."""

    def __init__(self, meta: dict):
        super().__init__(meta)
        self._corpus, self._index, self._seed = (meta[key] for key in ("corpus", "index", "seed"))

    def __missing__(self, key: str):
        clip = self._corpus, self._index
        if key == "text_truth":
            found = {key: text_truth(*clip, seed=self._seed)}
        elif key == "labels":  # in a fraction of the time of all
            found = {key: labels(scene(*clip, seed=self._seed))}
        else:
            subject = scene(*clip, seed=self._seed)
            found = truth(subject, frames=self["frames"], fps=self["fps"])
        self.update(found)
        return found[key]

    def get(self, key: str, default=None):
        try:
            return self[key]
        except KeyError:
            return default
