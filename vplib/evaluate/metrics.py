"""Scores and their uncertainty, in numpy."""

import numpy as np
from jaxtyping import Float, Int


def recall_at(
    similarity: Float[np.ndarray, "Q M"], k: int, answer: Int[np.ndarray, " Q"] | None = None
) -> Float[np.ndarray, " Q"]:
    """1 where the answer (default: candidate q of query q) is among the k most similar candidates, else 0.

    Ties count against the model: a candidate as similar as the answer ranks before it.
    """
    answer = np.arange(len(similarity)) if answer is None else answer
    own = similarity[np.arange(len(similarity)), answer]
    return ((similarity >= own[:, None]).sum(1) <= k).astype(float)


def interval(
    scores: Float[np.ndarray, "R C"], *, seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Mean and its 95% bootstrap interval over R repeats (probe seeds) and C test clips, both resampled.

    For a difference of two models on the same seeds and clips pass the difference of their scores: it stays paired.
    """
    rng = np.random.default_rng(seed)
    repeats, clips = scores.shape
    means = np.empty(draws)
    for i in range(draws):
        weight = np.bincount(rng.integers(clips, size=clips), minlength=clips) / clips
        means[i] = (scores[rng.integers(repeats, size=repeats)] @ weight).mean()
    low, high = np.percentile(means, [2.5, 97.5])
    mean = float(scores.mean())
    return (
        mean,
        min(float(low), mean),
        max(float(high), mean),
    )  # equal scores: rounding must not turn them about


def confusion(
    truth: Int[np.ndarray, " C"], guess: Int[np.ndarray, " C"], classes: int
) -> Int[np.ndarray, "K K"]:
    """Counts by (true, predicted) class."""
    return np.bincount(truth * classes + guess, minlength=classes**2).reshape(classes, classes)
