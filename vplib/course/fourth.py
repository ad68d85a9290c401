"""What session 4 checks: records, items by their number, turns of corpora, processes, the shortcut."""

import numpy as np

from vplib.course.check import Case


def bounds(sizes, k):
    """Where record k begins and ends in a file of records of these sizes (bytes)."""
    ends = np.cumsum(sizes)
    return np.array([ends[k] - sizes[k], ends[k]])


def _late(sizes, k):
    ends = np.cumsum([*sizes, 0])
    return np.array([ends[k], ends[k + 1]])


def _wrapped(sizes, k):
    ends = np.cumsum(sizes)
    return np.array([ends[k - 1], ends[k]])


def clips_of(items, n, seed):
    """The clip of each item: place `i mod n` of the permutation of its epoch."""
    orders = {e: np.random.default_rng((seed, e)).permutation(n) for e in {i // n for i in items}}
    return np.array([orders[i // n][i % n] for i in items])


def _one_order(items, n, seed):
    return np.random.default_rng(seed).permutation(n)[np.asarray(items) % n]


def _by_chance(items, n, seed):
    return np.array([np.random.default_rng((seed, i)).integers(n) for i in items])


def turns(count, weights):
    """The corpus of each of `count` batches: always the one that is furthest behind its share."""
    return _behind(count, np.array(weights) / np.sum(weights), 1)


def _behind(count, share, ahead):
    given, order = np.zeros(len(share)), []
    for k in range(count):
        order.append(int(np.argmax((k + ahead) * share - given)))
        given[order[-1]] += 1
    return np.array(order)


def own_items(step, batch, index, count):
    """The items of global batch `step` that process `index` of `count` reads."""
    return np.arange(step * batch, (step + 1) * batch)[index::count]


def _blocks(step, batch, index, count):
    return step * batch + np.arange(batch // count) + index * (batch // count)


def _whole_each(step, batch, index, count):
    return (step * batch + np.arange(batch)) * count + index


def style_loss(corpora):
    """Loss (nats) of an encoder that knows the corpus of a clip and nothing else."""
    return np.log(np.bincount(corpora)[corpora]).mean()


CASES = {
    "4.4": Case(
        right=bounds,
        inputs=lambda: [([7, 3, 9, 4], 2), ([7, 3, 9, 4], 3), ([7, 3, 9, 4], 0)],
        wrong=[
            (_late, "you begin where record k ends: it begins where record k - 1 ends"),
            (
                lambda sizes, k: np.array([np.cumsum(sizes)[k] - sizes[k], sizes[k]]),
                "the second number is the place where the record ends, not its length",
            ),
            (_wrapped, "for k = 0 there is no record before: ends[-1] is that of the last one"),
        ],
    ),
    "4.5": Case(
        right=clips_of,
        inputs=lambda: [(list(range(20)), 8, 3), ([30, 5, 17, 5], 8, 0)],
        wrong=[
            (
                lambda items, n, seed: np.asarray(items) % n,
                "nothing is shuffled: take place i mod n of the epoch's permutation",
            ),
            (_one_order, "every epoch has the same order: make the generator of (seed, epoch)"),
            (
                _by_chance,
                "drawn for each item, a clip comes twice in an epoch and another never: permute",
            ),
        ],
    ),
    "4.6": Case(
        right=turns,
        inputs=lambda: [(12, [2, 1, 1]), (12, [1, 2, 1]), (16, [5, 3])],
        wrong=[
            (
                lambda count, weights: np.arange(count) % len(weights),
                "this is one after the other: it leaves the weights out",
            ),
            (
                lambda count, weights: _behind(count, np.array(weights), 1),
                "weights must be shares: divide them by their sum",
            ),
            (
                lambda count, weights: _behind(count, np.array(weights) / np.sum(weights), 0),
                "count the batch that is now given: after it there are k + 1",
            ),
        ],
    ),
    "4.7": Case(
        right=own_items,
        inputs=lambda: [(3, 8, 1, 4), (0, 8, 0, 2)],
        wrong=[
            (
                lambda step, batch, index, count: np.arange(batch)[index::count],
                "step is left out: a resumed run would begin again",
            ),
            (_blocks, "these are neighbours: process index takes items index, index + count, ..."),
            (
                _whole_each,
                "batch is the size of the global batch: a process reads batch / count of it",
            ),
        ],
    ),
    "4.8": Case(
        right=style_loss,
        inputs=lambda: [(np.array([0, 0, 0, 1, 2, 2, 0, 0]),), (np.zeros(16, int),)],
        wrong=[
            (
                lambda corpora: np.log(len(corpora)),
                "that is the loss of one who knows nothing: the corpus rules some texts out",
            ),
            (
                lambda corpora: np.log(len(np.unique(corpora))),
                "that is a guess among corpora: the guess is among the clips of the own corpus",
            ),
            (
                lambda corpora: np.log(len(corpora)) - style_loss(corpora),
                "that is what knowing the corpus saves: wanted is what is left to pay",
            ),
        ],
    ),
}
