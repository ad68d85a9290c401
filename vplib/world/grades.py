"""How right the captions of the corpora are, and clips of the world that no corpus holds."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8

from vplib.progress import Progress
from vplib.world import corpora
from vplib.world.scenes import generator

GRADES = {"wrong": 0.0, "partial": 0.5, "right": 1.0}  # our choice
UNHELD = 1_000_000_000  # the number of a clip that is in no corpus, whatever its size


def grade(text_truth: Mapping[str, object]) -> str:
    """One of GRADES for a clip's `text_truth`: its text is wrong if it is about another clip or about
    nothing in the world, partial if one thing in it is invented. What it leaves out does not count.
    """
    if text_truth["misaligned"] or text_truth["off_topic"]:
        return "wrong"
    return "partial" if text_truth["hallucinated"] else "right"


def unheld(
    names: Sequence[str], count: int, *, seed: int, resolution: int, frames: int, fps: float
) -> tuple[UInt8[np.ndarray, "C 1 H W 3"], list[str]]:
    """A frame at a random moment of each of `count` clips that no corpus holds, and their texts,
    which are harvested as those of the corpora `names` are, with all their faults; the corpora in
    turn.
    """
    shown, said = [], []
    with Progress(count, "clips that no corpus holds") as progress:
        for number in range(count):
            index, name = UNHELD + number // len(names), names[number % len(names)]
            moment = int(generator(seed, f"{name}/moment", index).integers(frames))
            scene = corpora.scene(name, index, seed=seed)
            look = dict(resolution=resolution, frames=frames, fps=fps)
            shown.append(corpora.render(scene, only=[moment], **look))
            said.append(corpora.text(name, index, seed=seed)[0])
            progress.update(number + 1)
    return np.stack(shown), said
