"""A linear map from frozen features to the space of texts: the cheapest reading of an encoder."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

RIDGE = 1e-3  # of the sum of squares of a standardised feature


def mean_token_of(run: Callable) -> Callable:
    """The mean over all tokens that `run` gives of clips, in single precision."""
    return lambda video: np.asarray(run(video)).astype(np.float32).mean(1)


def mapped(
    inputs: Float[np.ndarray, "N D"], targets: Float[np.ndarray, "N E"], x: Float[np.ndarray, "C D"]
) -> Float[np.ndarray, "C E"]:
    """`x` through the ridge regression from `inputs` to `targets`, each result of unit length.

    Inputs are standardised by their own mean and deviation; the targets' mean is the intercept.
    """
    mean, deviation, level = inputs.mean(0), inputs.std(0) + 1e-6, targets.mean(0)
    known, asked = (inputs - mean) / deviation, (x - mean) / deviation
    square = known.T @ known + RIDGE * len(known) * np.eye(known.shape[1], dtype=known.dtype)
    found = asked @ np.linalg.solve(square, known.T @ (targets - level)) + level
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
