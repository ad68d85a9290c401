"""Statistics over training seeds: paired differences, what they could have shown, many at once.

Seeds are the repeats: two trainings of the same seed saw the same batches and masks as far as they
can, so differences are taken seed by seed. All seeds share their test clips; of other clips these
intervals say nothing (`metrics.interval`, of each run, does).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import special

from vplib.evaluate import metrics


class Difference(NamedTuple):
    """Mean of paired differences and its 95% t interval, in the units of what was compared; their
    standard deviation; Hedges' g; the two-sided p of a paired t test; how many seeds.
    """

    value: float
    low: float
    high: float
    deviation: float
    effect: float
    p: float
    seeds: int


def paired(
    one: Float[np.ndarray, " S"], other: Float[np.ndarray, " S"] | float = 0.0
) -> Difference:
    """`one` minus `other`, seed by seed, of at least two seeds.

    The effect is the mean over the deviation of the differences, times Hedges' factor for few
    seeds, 1 - 3 / (4 (S - 1) - 1) (Source: Hedges 1981). Where all differences are equal there is
    no deviation: the effect is NaN, and p is 1 for no difference, else 0. Raises ValueError for
    fewer than two seeds.
    """
    gaps = np.asarray(one, float) - other
    value, low, high = metrics.t_interval(gaps)
    count, deviation = len(gaps), float(np.std(gaps, ddof=1))
    if np.ptp(gaps) == 0:
        return Difference(value, low, high, 0.0, math.nan, float(value == 0), count)
    t = value / (deviation / count**0.5)
    p = 2 * float(special.stdtr(count - 1, -abs(t)))
    effect = value / deviation * (1 - 3 / (4 * (count - 1) - 1))
    return Difference(value, low, high, deviation, effect, p, count)


def detectable(deviation: float, count: int, *, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest true difference that a paired t test of `count` seeds finds with this `power`,
    two-sided at `level`, where differences of seeds have this `deviation`, in its unit.

    Found in the wrong direction is not counted: at a power of 0.8 that as good as never happens (a
    test tries). Raises ValueError for fewer than two seeds.
    """
    if count < 2:
        raise ValueError(f"a paired t test needs two seeds or more, given {count}")
    limit = special.stdtrit(count - 1, 1 - level / 2)
    return float(special.nctdtrinc(count - 1, 1 - power, limit)) * deviation / count**0.5


def holm(p: Sequence[float]) -> list[float]:
    """Each p of many tests adjusted so that, at any level, at least one false finding among all is
    no more likely than the level. Source: Holm 1979.
    """
    found, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        found[index] = worst
    return found


FIRST = ("top1", "map", "r1")  # the metric of each task that differences are taken of


def each(scores: pd.DataFrame, task: str, whose: str) -> pd.Series:
    """Of rows of a sweep (`vplib.sweep.rows`), a task's first metric of every seed of
    "ablation.encoder", `final` unless another encoder is named: in per cent, by seed.
    """
    ablation, _, encoder = whose.partition(".")
    own = scores[(scores["ablation"] == ablation) & (scores["task"] == task)]
    own = own[(own["encoder"] == (encoder or "final")) & own["metric"].isin(FIRST)]
    return 100 * own.sort_values("seed").set_index("seed")["value"].astype(float)


def between(one: pd.Series, other: pd.Series) -> Difference | None:
    """The paired difference over the seeds that both have; None for fewer than two."""
    seeds = one.index.intersection(other.index)
    if len(seeds) < 2:
        return None
    return paired(one[seeds].to_numpy(), other[seeds].to_numpy())


def table(
    scores: pd.DataFrame, pairs: Sequence[tuple[str, str]], tasks: Sequence[str], *, seeds: int
) -> pd.DataFrame:
    """A row for every task and pair (whose, minus) of "ablation.encoder" with two seeds or more: its
    Difference, in points, and what as many `seeds` with its deviation could detect.
    """
    found = []
    for whose, minus in pairs:
        for task in tasks:
            if known := between(each(scores, task, whose), each(scores, task, minus)):
                least = {"could_detect": detectable(known.deviation, seeds)}
                found.append(
                    {"whose": whose, "minus": minus, "task": task} | known._asdict() | least
                )
    columns = ["whose", "minus", "task", *Difference._fields, "could_detect"]
    return pd.DataFrame(found, columns=columns)
