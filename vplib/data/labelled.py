"""Batches of labelled clips that were read once: rows of arrays, or of files that act like them."""

from collections.abc import Mapping

import grain
import numpy as np


class Taken(grain.transforms.Map):
    """The rows of every array that a batch of numbers asks for."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self.arrays = dict(arrays)

    def __repr__(self) -> str:  # Grain puts this into its checks: must not depend on the machine
        return f"Taken({', '.join(f'{name}{of.shape}' for name, of in self.arrays.items())})"

    def map(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(of[rows]) for name, of in self.arrays.items()}


def stream(
    arrays: Mapping[str, np.ndarray],
    *,
    batch: int,
    seed: int,
    index: int = 0,
    count: int = 1,
    threads: int = 2,
) -> grain.DatasetIterator:
    """An endless iterator of this process's share of global batches: a row of each of `arrays` a
    clip.

    Clips are shuffled anew every epoch. A batch is at most all clips. `index` of `count` processes
    gets its slice of each. The iterator has get_state and set_state; equal arguments give equal
    batches.

    Raises ValueError for a batch that the processes do not divide.
    """
    clips = len(next(iter(arrays.values())))
    batch = min(batch, clips)
    if batch % count:
        raise ValueError(
            f"a global batch of {batch} does not divide over {count} processes: choose a multiple"
        )
    order = grain.MapDataset.range(clips).seed(seed).shuffle().repeat()
    mixed = order[index::count].batch(batch // count).map(Taken(arrays))
    return iter(mixed.to_iter_dataset(grain.ReadOptions(threads, 2 * threads)))
