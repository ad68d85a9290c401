"""Pictures of long videos: what their windows say, over time."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vplib import figures

# Of curves and bars, in order; others are light grey. They differ in lightness, as figures.PALETTE.
SEVERAL = (
    figures.BLUE,
    figures.OURS,
    "#009e73",
    figures.MID_BLUE,
    "#cc79a7",
    figures.DARK,
)


def over_time(
    times: Float[np.ndarray, "W 2"],
    values: Float[np.ndarray, "W K"],
    names: Sequence[str],
    *,
    seconds: float,
    film: UInt8[np.ndarray, "N S S 3"],
    label: str,
) -> Figure:
    """A video of so many seconds: a film strip, `values` of its windows as curves, and bars in the
    colour of whose value is the largest.

    The names that win most often have the curves, as many as SEVERAL has colours; bars of others
    are light grey. `times` is when windows begin and end.
    """
    won = values.argmax(1)
    order = np.lexsort((-values.mean(0), -np.bincount(won, minlength=len(names))))[: len(SEVERAL)]
    heights = [(figures.PAGE - 0.5) / len(film), 1.5, 0.3]
    heights[0] = min(heights[0], 1.2)
    fig, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(figures.PAGE, sum(heights) + 0.5), height_ratios=heights
    )
    figures.film_strip(top, film)
    top.set_anchor("S")
    scale = curves(middle, times, values[:, order], [names[k] for k in order], seconds=seconds)
    middle.set(ylabel=label, xlabel="")
    middle.tick_params(labelbottom=False)
    color = dict(zip(order.tolist(), SEVERAL, strict=False))
    for k, begin, width in _stretches(times, won):
        spot = (begin / scale, width / scale)
        bottom.broken_barh([spot], (0, 1), facecolor=color.get(k, figures.LIGHT))
    bottom.set(xlim=middle.get_xlim(), ylim=(0, 1), xlabel=clock(seconds)[1], yticks=[])
    bottom.set_ylabel("class", rotation=0, ha="right", va="center")
    return fig


def clock(seconds: float) -> tuple[int, str]:
    """The unit in which an axis shows a video of so many seconds: how many seconds it has, and its
    label.
    """
    if seconds <= 180:
        return 1, "time (s)"
    return (60, "time (min)") if seconds <= 3 * 3600 else (3600, "time (h)")


def curves(
    ax: Axes,
    times: Float[np.ndarray, "W 2"],
    values: Float[np.ndarray, "W K"],
    names: Sequence[str],
    *,
    seconds: float,
) -> int:
    """A curve a name through the centres of windows, in the colours of SEVERAL, then grey;
    returns the seconds of the axis' unit.
    """
    scale, word = clock(seconds)
    look = dict(marker="o", ms=2.5) if len(times) <= 60 else dict(lw=0.8)
    for k, name in enumerate(names):
        color = SEVERAL[k] if k < len(SEVERAL) else figures.MID
        shown = figures.plain(name, 30, lines=3)
        ax.plot(times.mean(1) / scale, values[:, k], color=color, label=shown, **look)
    ax.set(xlim=(0, seconds / scale), xlabel=word)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.7)
    return scale


def _stretches(
    times: Float[np.ndarray, "W 2"], won: Int[np.ndarray, " W"]
) -> list[tuple[int, float, float]]:
    """(who, begin, length) of stretches of windows that one has won; overlapping ones are parted
    half-way between their centres.
    """
    centres = times.mean(1)
    middles = (centres[1:] + centres[:-1]) / 2
    begins = np.maximum(times[:, 0], np.append(0.0, middles))
    ends = np.minimum(times[:, 1], np.append(middles, np.inf))
    found = []
    for who, begin, end in zip(won.tolist(), begins.tolist(), ends.tolist(), strict=True):
        if found and found[-1][0] == who and begin - sum(found[-1][1:]) < 1e-6:
            begin = found.pop()[1]
        found.append((who, begin, end - begin))
    return found


def moments(
    times: Float[np.ndarray, "W 2"],
    similarity: Float[np.ndarray, "W Q"],
    texts: Sequence[str],
    best: Sequence[Int[np.ndarray, " _"]],
    shown: Sequence[UInt8[np.ndarray, "N S S 3"]],
    *,
    seconds: float,
) -> Figure:
    """Similarity of texts and windows over time and, below, the windows that are the `best` of each
    text, which dots mark above; `shown` are frames of each of them, in the same order.
    """
    many, left = max(map(len, best)), iter(shown)
    heights = [2.0] + [0.8] * len(texts)
    fig = plt.figure(figsize=(figures.PAGE, sum(heights)))
    above, *rows = fig.subfigures(1 + len(texts), 1, height_ratios=heights)
    ax = above.subplots()
    scale = curves(ax, times, similarity, texts, seconds=seconds)
    ax.set_ylabel("cosine similarity\nof window and text")
    for k, (row, text, places) in enumerate(zip(rows, texts, best, strict=True)):
        color = ax.lines[k].get_color()
        at = times[places].mean(1) / scale
        ax.plot(at, similarity[places, k], "o", ms=5, color=color, label="_")
        said, *strips = row.subplots(1, 1 + many, width_ratios=[1] + [1.4] * many)
        said.text(0, 0.5, figures.plain(text, 24, lines=4), va="center", size=6.5)
        said.plot([-0.04] * 2, [0.1, 0.9], color=color, lw=2, clip_on=False)
        said.set(xlim=(0, 1), ylim=(0, 1))
        for spot in (said, *strips):
            spot.set_axis_off()
        for spot, place in zip(strips, places, strict=False):
            figures.film_strip(spot, next(left))
            span = " to ".join(map(stamp, times[place]))
            spot.set_title(f"{span}: {similarity[place, k]:.2f}", size=6)
    return fig


def stamp(seconds: float) -> str:
    """A moment of a video as players show it: `0:12.5`, `3:05`, `1:02:03`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    shown = f"{rest:04.1f}".removesuffix(".0")
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"


class Seen(NamedTuple):
    """A video of so many seconds, its `film`, and `rows` {who, start, end, label} of what is `truth`
    and what `stage2` says of it: of `names` over time, or without these of all of it.
    """

    name: str
    film: UInt8[np.ndarray, "N H W 3"]
    seconds: float
    names: Sequence[str]
    rows: Sequence[Mapping]


def ethogram(seen: Sequence[Seen]) -> Figure:
    """Film strips; below those with names who does what when, the truth in grey above what is said
    in blue, and below the others both in words.
    """
    timed, others = [one for one in seen if one.names], [one for one in seen if not one.names]
    ratios = [2.3] * bool(timed) + [1.0] * bool(others)
    fig = plt.figure(figsize=(figures.PAGE, 4.0 * sum(ratios) / 3.3))
    parts = iter(fig.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False).ravel())
    if timed:
        axes = next(parts).subplots(2, len(timed), height_ratios=(1, 2.1), squeeze=False).T
        for one, (above, below) in zip(timed, axes, strict=True):
            _strip(above, one)
            for row in one.rows:
                if row["label"] in one.names:
                    offset, color = _LOOK[row["who"]]
                    bar = [(row["start"], row["end"] - row["start"])]
                    place = (one.names.index(row["label"]) + offset, 0.34)
                    below.broken_barh(bar, place, color=color, lw=0)
            names = [figures.plain(name.replace("_", " "), 30) for name in one.names]
            below.set_yticks(range(len(names)), names, size=6)
            below.tick_params(axis="y", length=0)
            below.set(xlabel="time (s)", ylim=(len(names) - 0.5, -0.5), xlim=(0, one.seconds))
    if others:
        axes = next(parts).subplots(1, len(others), squeeze=False)[0]
        for one, ax in zip(others, axes, strict=True):
            _strip(ax, one)
            lines = []
            for who, word in (("truth", "truth"), ("stage2", "said")):
                each = [row["label"] or "nothing" for row in one.rows if row["who"] == who]
                lines.append(figures.plain(f"{word}: {' | '.join(each)}".replace("_", " "), 200))
            ax.text(0, -0.08, "\n".join(lines), transform=ax.transAxes, va="top", size=5)
    return fig


_LOOK = {
    "truth": (-0.36, figures.MID),
    "stage2": (0.04, figures.BLUE),
}  # of bars: where, and colour


def _strip(ax: Axes, one: Seen) -> None:
    figures.film_strip(ax, one.film)
    ax.set_title(f"{one.name}, {one.seconds:g} s", size=7)
