"""Batches of what a locked encoder sees: tokens that are computed once, beside the texts.

`stream` mixes corpora as `pipeline.stream` does, and draws its last batches from one of them.
"""

from collections.abc import Mapping

import grain
import numpy as np
from jaxtyping import Bool, Float16, Int


class CachedCorpus:
    """Tokens and text of every clip of a corpus, by index; `images` says that all are one frame."""

    def __init__(
        self,
        tokens: Float16[np.ndarray, "C S D"],
        ids: Int[np.ndarray, "C L"],
        keep: Bool[np.ndarray, "C L"],
        *,
        images: bool = False,
    ):
        self.tokens, self.ids, self.keep, self.images = tokens, ids, keep, images

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:  # Grain puts this into its checks: must not depend on the machine
        return f"CachedCorpus{self.tokens.shape}"

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {key: getattr(self, key)[index] for key in ("tokens", "ids", "keep")}


def stream(
    corpora: Mapping[str, CachedCorpus],
    weights: Mapping[str, float],
    *,
    steps: int,
    batch: int,
    mixing: str,
    seed: int,
    image_batch: int | None = None,
    last_corpus: str | None = None,
    last_share: float = 0.0,
    index: int = 0,
    count: int = 1,
    threads: int = 2,
) -> grain.DatasetIterator:
    """An iterator of this process's share of `steps` global batches {tokens float16 (B,S,D), ids,
    keep (B,L)}.

    Shuffling, `weights`, `mixing` and the sizes of batches are as in `pipeline.stream`. The last
    `last_share` of the steps, rounded, read `last_corpus` alone. The iterator has get_state and
    set_state; equal arguments give equal batches.

    Raises ValueError for a batch that the processes do not divide or an unknown `mixing`.
    """
    image_batch = image_batch or batch
    for size in (batch, image_batch):
        if size % count:
            raise ValueError(
                f"a global batch of {size} does not divide over {count} processes: "
                "choose a multiple"
            )
    if mixing not in ("alternating", "plain"):
        raise ValueError(f"data.mixing={mixing} is not known: choose alternating or plain")
    last = round(steps * last_share) if last_corpus is not None else 0

    def shuffled(name: str, number: int) -> grain.MapDataset:
        return grain.MapDataset.source(corpora[name]).seed(seed * 1000 + number).shuffle().repeat()

    def batched(part: grain.MapDataset, images: bool = False) -> grain.MapDataset:
        return part[index::count].batch((image_batch if images else batch) // count)

    drawn = [name for name in sorted(corpora) if weights[name] > 0]
    parts, shares = [shuffled(*one[::-1]) for one in enumerate(drawn)], [weights[n] for n in drawn]
    if mixing == "alternating":
        parts = [batched(p, corpora[n].images) for p, n in zip(parts, drawn, strict=True)]
        mixed = grain.MapDataset.mix(parts, weights=shares)
    else:
        mixed = batched(grain.MapDataset.mix(parts, weights=shares))
    mixed = mixed[: steps - last]
    if last:  # in an order of its own
        alone = shuffled(last_corpus, len(drawn))
        images = corpora[last_corpus].images and mixing == "alternating"
        mixed = grain.MapDataset.concatenate([mixed, batched(alone, images)[:last]])
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8)
    return iter(mixed.to_iter_dataset(ahead))

