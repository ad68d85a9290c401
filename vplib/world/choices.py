"""Multiple choice about `motion` clips: five texts, of which only the motion tells which is right.

The form of NExT-QA's ATP-Hard part, whose questions no single frame answers. All options name the
same object in the same place and so are true of every frame; four of them name another motion,
drawn without regard to the right one, so that the texts alone tell nothing either.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from vplib.world import captions, corpora, scenes
from vplib.world.scenes import Scene, generator

OPTIONS = 5


class Choice(NamedTuple):
    """A question, its options as phrases and as whole sentences, and the number of the right one."""

    question: str
    phrases: list[str]
    statements: list[str]
    answer: int


def choice(corpus: str, index: int, *, seed: int = 0) -> Choice:
    """About what the target of a clip of the family `motion` does, such as of "motion/test".

    Raises ValueError for another family.
    """
    if corpus.partition("/")[0] != "motion":
        raise ValueError(f"no choices are made for {corpus!r}: take a part of motion")
    scene, rng = corpora.scene(corpus, index, seed=seed), generator(seed, f"{corpus}/choice", index)
    right = scene.objects[scene.target].motion
    others = [motion for motion in scenes.MOTION_CLASSES if motion != right]
    options = [right, *(others[k] for k in rng.permutation(len(others))[: OPTIONS - 1])]
    options = [options[k] for k in rng.permutation(OPTIONS)]
    altered = [_if_it_did(scene, motion) for motion in options]
    asked = [captions.questions(one, np.zeros((1, 2)))[-1] for one in altered]
    statements = [
        captions.describe(one, generator(seed, f"{corpus}/statement", index), motion=True, place=1)
        for one in altered
    ]
    return Choice(
        asked[0]["question"], [one["answer"] for one in asked], statements, options.index(right)
    )


def _if_it_did(scene: Scene, motion: str) -> Scene:
    """The target alone, as if it did something else; of the camera nothing is said."""
    alone = replace(scene.objects[scene.target], motion=motion)
    return replace(scene, objects=(alone,), target=0, camera="still")
