"""How many directions features use: one number that falls when an encoder collapses."""

import numpy as np
from jaxtyping import Shaped


def effective_rank(features: Shaped[np.ndarray, "N D"]) -> float:
    """exp of the entropy of the singular values' shares, after the mean is taken away: D where all
    directions vary alike, 1 where one does, 0 where nothing varies.

    Source: Roy and Vetterli 2007; of encoders, RankMe (arXiv:2210.02885), which keeps the mean: our
    tokens share most of their length with it, so that it would hide the rest.
    """
    x = features.astype(np.float64)
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    if values[0] < 1e-12 * max(np.abs(x).max(), 1e-300) * len(x) ** 0.5:
        return 0.0
    share = values / values.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
