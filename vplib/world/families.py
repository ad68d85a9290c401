"""Every family of evaluation under its name: who writes its videos, and what is true of them."""

from vplib.data.shards import Shards
from vplib.world import animals, arrow, asking, corpora, records, untrimmed
from vplib.world.scenes import EVALS

NAMES = (*EVALS, *untrimmed.FAMILIES, *animals.FAMILIES, "arrow", "asked")


def source(
    corpus: str, count: int, *, seed: int, resolution: int, frames: int, fps: float
) -> corpora.WorldSource | records.Source:
    """`count` videos of a family's part, such as "motion/train", for `data.shards.write`.

    `frames` and `fps` are those of the families of short clips; the others have their own. Raises
    ValueError for an unknown family.
    """
    family, look = corpus.partition("/")[0], dict(seed=seed, resolution=resolution)
    if family in EVALS:
        return corpora.WorldSource(corpus, count, **look, frames=frames, fps=fps)
    if family in untrimmed.FAMILIES:
        return untrimmed.Untrimmed(corpus, count, **look)
    if family in animals.FAMILIES:
        return animals.Animals(corpus, count, **look)
    if family == "arrow":
        return arrow.Arrow(corpus, count, **look)
    if family == "asked":
        return asking.Asked(corpus, count, **look)
    raise ValueError(f"unknown family {family!r}: choose one of {', '.join(NAMES)}")


def known(shards: Shards) -> corpora.Known | records.Known:
    """Videos of a family's part, with all that is true of each."""
    family = shards[0].meta["corpus"].partition("/")[0]
    if family in untrimmed.FAMILIES:
        return records.Known(shards, untrimmed.truth)
    if family in animals.FAMILIES:
        return records.Known(shards, animals.truth)
    if family == "arrow":
        return records.Known(shards, arrow.truth)
    if family == "asked":
        return records.Known(shards, asking.truth)
    return corpora.Known(shards)
