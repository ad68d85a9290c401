"""Scores and their uncertainty, in numpy."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy import special


def top1(
    outputs: Float[np.ndarray, "C K"], targets: Int[np.ndarray, " C"]
) -> Float[np.ndarray, " C"]:
    """1 where the largest output is the target's, else 0."""
    return (outputs.argmax(1) == targets).astype(float)


def recall_at(
    similarity: Float[np.ndarray, "Q M"], answer: Int[np.ndarray, " Q"], *, k: int
) -> Float[np.ndarray, " Q"]:
    """1 where the answer is among the k most similar candidates, else 0.

    Ties count against the model: a candidate as similar as the answer ranks before it.
    """
    own = similarity[np.arange(len(similarity)), answer]
    return ((similarity >= own[:, None]).sum(1) <= k).astype(float)


def interval(
    scores: Float[np.ndarray, "R C"], *, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Mean and its 95% bootstrap interval over R repeats (probe seeds) and C clips, both resampled.

    For a difference of two models on the same seeds and clips pass the difference of their scores:
    it stays paired. Few repeats make it too narrow where they differ much: of intervals over five
    repeats that deviate four times as much as the mean over clips does, 88% cover the truth
    (simulated; a test repeats it).
    """
    repeats, clips = scores.shape

    def measure(rows, columns):
        weight = np.bincount(columns, minlength=clips) / clips
        return (scores[rows] @ weight).mean()

    drawn = bootstrap(measure, repeats, clips, seed=seed, draws=draws)
    return between(float(scores.mean()), drawn)


def bootstrap(
    measure: Callable[[Int[np.ndarray, " R"], Int[np.ndarray, " C"]], float],
    repeats: int,
    clips: int,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> Float[np.ndarray, " draws"]:
    """What `measure` says of the numbers of drawn repeats and of drawn clips. Draws of equal numbers
    of repeats and clips are the same, so that differences of two of these are paired.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty(draws)
    for i in range(draws):
        columns = rng.integers(clips, size=clips)
        drawn[i] = measure(rng.integers(repeats, size=repeats), columns)
    return drawn


def between(value: float, drawn: Float[np.ndarray, " draws"]) -> tuple[float, float, float]:
    """`value` and the 95% interval of what was drawn."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    # Where all scores are equal, rounding must not put a bound on the wrong side of the value.
    return value, min(float(low), value), max(float(high), value)


def t_interval(values: Float[np.ndarray, " S"]) -> tuple[float, float, float]:
    """Mean and its 95% t interval over S independent repeats, such as training seeds.

    For a difference of two models of the same seeds pass the difference of each seed: it stays
    paired. It holds what differs between the repeats, not what they share, such as test clips.
    Raises ValueError for fewer than two values.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"a t interval needs two values or more, given {count}")
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(special.stdtrit(count - 1, 0.975)) * deviation / count**0.5
    return mean, mean - half, mean + half


def confusion(
    truth: Int[np.ndarray, " C"], guess: Int[np.ndarray, " C"], classes: int
) -> Int[np.ndarray, "K K"]:
    """Counts by (true, predicted) class."""
    return np.bincount(truth * classes + guess, minlength=classes**2).reshape(classes, classes)
