"""Tables of the paper as dots, with ours in the same form beside them."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from vplib import comparisons
from vplib.evaluate import metrics
from vplib.figures import BLUE, MID, OURS

WAYS = {"ZST2V": "text to video, ", "ZSV2T": "video to text, "}  # tasks in words


def table(
    axes: Collection[Axes],
    variants: Mapping[str, tuple[Mapping | None, str | None]],
    *,
    frame: pd.DataFrame,
    benchmarks: Sequence[Mapping],
    tasks: Mapping[str, str],
    scores: pd.DataFrame,
) -> pd.DataFrame:
    """A table of the paper as dots, ours in the same form: a row a variant, a panel a benchmark of
    `frame`, then a panel a task of `scores` (rows of a sweep; task -> axis label). Returns all dots
    as rows.

    A variant is (columns of its published rows, "ablation.encoder" of ours), None for one that is
    not there; a benchmark is the columns that tell it. Ours are means with 95% t intervals over
    training seeds, each seed a small dot; words stand for what is missing.
    """
    axes, found = [*axes], []
    for ax, where in zip(axes, benchmarks, strict=False):
        part = frame[np.logical_and.reduce([frame[k] == v for k, v in where.items()])]
        for place, (label, (keys, _)) in enumerate(variants.items()):
            own = part if keys else part[:0]
            for column, value in (keys or {}).items():
                own = own[own[column] == value]
            value = own["value"].mean() if len(own) == 1 else math.nan
            _dot(ax, place, value, words="not published", color=BLUE)
            told = {"table": frame["table"].iloc[0], "benchmark": where["benchmark"]}
            told["metric"] = part["metric"].iloc[0]
            found.append(told | {"variant": label, "value": value})
        metric = found[-1]["metric"].replace("top1", "top-1")
        way = WAYS.get(where.get("task", ""), "")
        ax.set_xlabel(f"{where['benchmark']}\n{way}{metric} (%)", size=6)
    for ax, (task, words) in zip(axes[len(benchmarks) :], tasks.items(), strict=True):
        for place, (label, (_, whose)) in enumerate(variants.items()):
            each = comparisons.each(scores, task, whose).tolist() if whose else []
            value, low, high = interval(each)
            missing = "not yet run" if whose else "not here"
            _dot(ax, place, value, (low, high), each, words=missing, color=OURS)
            told = {"table": "ours", "benchmark": task, "metric": words, "variant": label}
            told |= {"value": value, "low": low, "high": high}
            found.append(told | {"each": " ".join(f"{v:.6g}" for v in each)})
        ax.set_xlabel(f"ours\n{words} (%)", color=OURS, size=6)
    for ax in axes:
        ax.margins(x=0.3)
        ax.locator_params(axis="x", nbins=3)
        ax.set_ylim(len(variants) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.tick_params(axis="x", labelsize=6)
    axes[0].set_yticks(range(len(variants)), variants, size=6)
    return pd.DataFrame(found)


def interval(each: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% t interval of seeds; without an interval for one, NaN for none."""
    if len(each) < 2:
        value = float(each[0]) if len(each) else math.nan
        return value, math.nan, math.nan
    return metrics.t_interval(np.asarray(each, float))


def _dot(
    ax: Axes,
    place: float,
    value: float,
    ends: tuple[float, float] = (math.nan, math.nan),
    each: Sequence[float] = (),
    *,
    words: str,
    color: str,
) -> None:
    """A value in a row of a panel with its number, its interval and its seeds; or words."""
    if math.isnan(value):
        ax.annotate(words, (0.03, place), xycoords=("axes fraction", "data"), va="center", size=5)
        ax.texts[-1].set_color(MID)
        return
    ax.plot(each, [place] * len(each), ".", color=color, ms=2, alpha=0.5)
    if not math.isnan(ends[0]):
        ax.plot(ends, [place, place], color=color, lw=0.8)
    ax.plot(value, place, "o", color=color, ms=4)
    ax.annotate(
        f"{value:.1f}", (value, place), (0, 3), textcoords="offset points", ha="center", size=5
    )
