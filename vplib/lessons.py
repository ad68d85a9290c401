"""The lessons' drawings: diagrams, and pictures that a room can read.

A lesson computes; what it computed is drawn here, in type of 12 points and colours that differ in
lightness and stand out from white by three to one or more. Every function draws one figure, which
the notebook then shows; `diagram` shows a drawing of `notebooks/pictures`.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib import patheffects
from matplotlib.axes import Axes

from vplib import figures, paths

WIDE = 9.0  # inches: as wide as a notebook shows at 100 dots an inch
PALE, GREY = "#4f8be0", "#767b82"  # beside figures.BLUE and DARK: 3 to 1 against white, or more
HIDDEN = 205  # of 255: what stands for a hidden patch
OUTLINE = (patheffects.Stroke(linewidth=4, foreground="black"), patheffects.Normal())


def style() -> None:
    """The look of all figures, for a room: large type, thick lines."""
    figures.style()
    sizes = ("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize")
    ticks = ("xtick.labelsize", "ytick.labelsize")
    widths = ("axes.linewidth", "xtick.major.width", "ytick.major.width")
    plt.rcParams.update(dict.fromkeys(sizes, 12) | dict.fromkeys(ticks, 11))
    plt.rcParams.update(dict.fromkeys(widths, 1) | {"lines.linewidth": 2, "image.cmap": "Blues"})


class Diagram:
    """A drawing of `notebooks/pictures`, with its description for those who cannot see it."""

    def __init__(self, svg: str):
        self.svg = svg
        self.words = html.unescape(re.search(r"<desc[^>]*>(.*?)</desc>", svg, re.DOTALL)[1])

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"image/svg+xml": self.svg, "text/plain": self.words}


def diagram(name: str) -> Diagram:
    """The drawing `name`. Raises ValueError where there is none."""
    path = Path(paths.NOTEBOOKS) / "pictures" / f"{name}.svg"
    if not path.is_file():
        raise ValueError(f"there is no drawing {paths.short(path)}: take it from a clone")
    return Diagram(path.read_text(encoding="utf-8"))


def _bare(*axes: Axes) -> None:
    for ax in axes:
        ax.set(xticks=[], yticks=[])


def _lattice(ax: Axes, side: int, every: int) -> None:
    """Thin lines between patches of `every` pixels in a picture of `side` pixels."""
    lines = np.arange(0, side + 1, every) - 0.5
    ax.set(xticks=lines, yticks=lines, xticklabels=[], yticklabels=[])
    ax.grid(color="white", lw=0.8)
    ax.tick_params(length=0)


def _in_words(ax: Axes) -> None:
    """Heights of a logarithmic axis as plain numbers."""
    ax.yaxis.set_major_formatter(lambda height, _: f"{height:,.12g}")
    ax.minorticks_off()


def frames_in_rows(
    rows: Mapping[str, UInt8[np.ndarray, "T H W 3"] | Float[np.ndarray, "T H W 3"]],
    *,
    every: int = 0,
) -> None:
    """One row of frames a name; `every`: pixels of a patch, where patches are to be seen."""
    count, (height, width) = len(next(iter(rows.values()))), next(iter(rows.values())).shape[1:3]
    size = (WIDE, 1.02 * len(rows) * WIDE / count * height / width)
    fig, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False)
    for line, (name, frames) in zip(axes, rows.items(), strict=True):
        for ax, frame in zip(line, frames, strict=True):
            ax.imshow(frame, interpolation="nearest")
            _lattice(ax, height, every) if every else _bare(ax)
        line[0].set_ylabel(name)


# --- 00_tour --------------------------------------------------------------------------------------


def boxes(
    frames: UInt8[np.ndarray, "T H W 3"], objects: Sequence[Mapping], moments: Sequence[int]
) -> None:
    """The frames at `moments`, and around each object its true box: white, lined with black."""
    side, count = frames.shape[2], len(moments)
    fig, axes = plt.subplots(1, count, figsize=(WIDE, 1.02 * WIDE / count))
    for ax, moment in zip(axes, moments, strict=True):
        ax.imshow(frames[moment], interpolation="nearest")
        _bare(ax)
        for thing in objects:
            x0, y0, x1, y1 = side * np.array(thing["boxes"][moment])
            box = plt.Rectangle(
                (x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec="white", lw=1.5
            )
            box.set_path_effects(OUTLINE)
            ax.add_patch(box)


def patches(frame: Float[np.ndarray, "H W 3"], cut: Float[np.ndarray, "N P"], patch: int) -> None:
    """A frame, its patches apart, and each patch as a row of numbers."""
    grid, step = len(frame) // patch, patch + 2
    apart = np.ones((grid * step - 2, grid * step - 2, 3))
    for n, square in enumerate(cut):
        top, left = step * (n // grid), step * (n % grid)
        apart[top : top + patch, left : left + patch] = square.reshape(patch, patch, 3)
    fig, axes = plt.subplots(1, 3, figsize=(WIDE, 2.7), width_ratios=[1, 1.1, 2.6])
    axes[0].imshow(frame, interpolation="nearest")
    axes[1].imshow(apart, interpolation="nearest")
    image = axes[2].imshow(cut, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    _bare(*axes)
    for ax, name in zip(axes, ("one frame", "its patches", "each patch as a row"), strict=True):
        ax.set_title(name)
    axes[2].set(xlabel=f"{cut.shape[1]} numbers of a patch", ylabel="patch")
    fig.colorbar(image, ax=axes[2], label="brightness", ticks=(0, 1))


def bars(
    frames: UInt8[np.ndarray, "T H W 3"], texts: Sequence[str], similarity: Float[np.ndarray, " Q"]
) -> None:
    """A strip of frames, and a bar a text, as long as its cosine with the clip; the longest dark."""
    count, height, width, _ = frames.shape
    heights = min(WIDE * height / (count * width), 2), 0.9 + 0.62 * len(texts)
    fig = plt.figure(figsize=(WIDE, sum(heights)))
    top, ax = (part.subplots() for part in fig.subfigures(2, 1, height_ratios=heights))
    figures.film_strip(top, frames)
    best = similarity == similarity.max()
    drawn = ax.barh(range(len(texts)), similarity, 0.7, color=np.where(best, figures.BLUE, PALE))
    ax.bar_label(drawn, fmt="%.2f", padding=4)
    ax.set_yticks(range(len(texts)), [figures.plain(text, 52, lines=3) for text in texts], size=10)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    low, high = min(0.0, 1.7 * float(similarity.min())), 1.15 * max(0.05, float(similarity.max()))
    ax.set(xlabel="cosine of clip and sentence", xlim=(low, high))


def components(frames: UInt8[np.ndarray, "T H W 3"], scores: Float[np.ndarray, "T N 2"]) -> None:
    """A clip, and below it its tokens along two directions, each from dark (low) to light (high)."""
    count, grid = len(frames), math.isqrt(scores.shape[1])
    fig, axes = plt.subplots(3, count, figsize=(WIDE, 3.06 * WIDE / count))
    low, high = np.quantile(scores, (0.02, 0.98), axis=(0, 1))
    for t in range(count):
        axes[0, t].imshow(frames[t], interpolation="nearest")
        for k in range(2):
            square = scores[t, :, k].reshape(grid, grid)
            axes[k + 1, t].imshow(
                square, cmap="cividis", vmin=low[k], vmax=high[k], interpolation="nearest"
            )
    _bare(*axes.flat)
    for ax, name in zip(axes[:, 0], ("clip", "first", "second"), strict=True):
        ax.set_ylabel(name)


# --- 01_tokens ------------------------------------------------------------------------------------


def influence(
    frames: UInt8[np.ndarray, "T H W 3"],
    rows: Mapping[str, Float[np.ndarray, "T N"]],
    *,
    token: tuple[int, int] | None = None,
) -> None:
    """A clip, and below it rows of shares by patch, as square roots so that small ones show.

    token: frame and place of what is outlined, if anything.
    """
    count, side = len(frames), frames.shape[1]
    grid = math.isqrt(next(iter(rows.values())).shape[1])
    patch, top = side // grid, max(np.sqrt(shares).max() for shares in rows.values())
    fig, axes = plt.subplots(
        1 + len(rows), count, figsize=(WIDE, 1.02 * (1 + len(rows)) * WIDE / count)
    )
    for t in range(count):
        axes[0, t].imshow(frames[t], interpolation="nearest")
        for ax, shares in zip(axes[1:, t], rows.values(), strict=True):
            square = np.sqrt(shares[t]).reshape(grid, grid)
            extent = (-0.5, side - 0.5, side - 0.5, -0.5)
            image = ax.imshow(square, cmap="Blues", vmin=0, vmax=top, extent=extent)
        for ax in axes[:, t]:
            _lattice(ax, side, patch)
            if token and token[0] == t:
                corner = (patch * (token[1] % grid) - 0.5, patch * (token[1] // grid) - 0.5)
                ax.add_patch(plt.Rectangle(corner, patch, patch, fill=False, ec=figures.OURS, lw=3))
    for ax, name in zip(axes[:, 0], ("clip", *rows), strict=True):
        ax.set_ylabel(name)
    fig.colorbar(image, ax=axes[1:], label="root of the share")


def tables(panels: Sequence[tuple[str, Float[np.ndarray, "S S"], bool]]) -> None:
    """Cosines of all pairs of positions; of places, each small square shows one place's cosines
    with all, arranged as in the frame.

    panels: name, cosines, and whether they are of places.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(WIDE, 1.2 + WIDE / len(panels)))
    for ax, (name, pairs, places) in zip(axes, panels, strict=True):
        side = math.isqrt(len(pairs)) if places else 1
        if places:
            pairs = pairs.reshape(side, side, side, side).swapaxes(1, 2).reshape(pairs.shape)
        image = ax.imshow(pairs, cmap="RdBu", vmin=-1, vmax=1)
        for line in np.arange(1, side) * side - 0.5:
            ax.axhline(line, color=figures.DARK, lw=1)
            ax.axvline(line, color=figures.DARK, lw=1)
        ax.set_title(figures.plain(name, 16, lines=2))
        _bare(ax)
    fig.colorbar(image, ax=axes, label="cosine", ticks=(-1, 0, 1), shrink=0.6)


# --- 02_contrastive -------------------------------------------------------------------------------


def shares(
    names: Sequence[str],
    cosine: Float[np.ndarray, "B B"],
    panels: Mapping[str, Float[np.ndarray, "B B"]],
) -> None:
    """Cosines of clips (rows) and texts (columns), and what each text's share in a row becomes."""
    fig, axes = plt.subplots(1, 1 + len(panels), figsize=(WIDE, 3.4), sharey=True)
    for ax, (title, values) in zip(axes, {"cosine": cosine, **panels}.items(), strict=True):
        image = ax.imshow(values, cmap="Blues", vmin=0, vmax=1)
        ax.set(title=title, xlabel="text", xticks=[])
        ax.tick_params(length=0)
    axes[0].set_yticks(range(len(names)), [figures.plain(name, 28) for name in names], size=10)
    fig.colorbar(image, ax=axes, label="cosine; share", ticks=(0, 0.5, 1), shrink=0.6)


def by_rate(
    rates: Sequence[float],
    panels: Mapping[str, Float[np.ndarray, "R K"]],
    dashed: Mapping[str, Sequence[float]] = {},
    chance: Mapping[str, float] = {},
) -> None:
    """A panel a quantity over the share of wrong texts: a point a seed, their mean as a line.

    dashed, chance: curves and levels to compare with, by the panel's name.
    """
    fig, axes = plt.subplots(1, len(panels), figsize=(WIDE, 3.2), squeeze=False)
    percent = [100 * rate for rate in rates]
    for ax, (name, values) in zip(axes[0], panels.items(), strict=True):
        ax.plot(percent, values, "o", color=PALE, ms=5)
        ax.plot(percent, values.mean(1), color=figures.BLUE)
        if name in dashed:
            ax.plot(percent, dashed[name], color=figures.DARK, ls="--")
        if name in chance:
            ax.axhline(chance[name], color=GREY, ls=":")
            ax.annotate("chance", (percent[0], chance[name]), va="bottom")
        ax.set(xlabel="wrong texts (%)", ylabel=name, ylim=(0, None), xticks=percent)


# --- 03_masking_and_shuffling ---------------------------------------------------------------------


def costs(parts: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Operations of one training step on one clip (GFLOP): a bar a part, forward dark, backward
    lighter; a panel a model.
    """
    fig, axes = plt.subplots(1, len(parts), figsize=(WIDE, 2.8), sharey=True, squeeze=False)
    for ax, (model, bars_) in zip(axes[0], parts.items(), strict=True):
        forward, backward = (np.array([bar[k] for bar in bars_.values()]) / 1e9 for k in range(2))
        ax.barh([*bars_], forward, color=figures.BLUE, label="forward")
        ax.barh(
            [*bars_], backward, left=forward, color=PALE, hatch="//", ec="white", label="backward"
        )
        for row, total in enumerate(forward + backward):
            ax.annotate(
                f" {total:,.0f}" if total >= 100 else f" {total:.2g}", (total, row), va="center"
            )
        ax.set(xlabel=f"GFLOP of one clip\n{model}", xlim=(0, 1.25 * (forward + backward).max()))
        ax.tick_params(axis="y", length=0)
    axes[0, 0].invert_yaxis()
    axes[0, -1].legend(loc="lower right")


def slots(rows: Mapping[str, Int[np.ndarray, " S"]], visible: int) -> None:
    """For each slot of the decoder, the place that its token comes from (-1: a mask token)."""
    fig, axes = plt.subplots(1, len(rows), figsize=(WIDE, 3.4), sharey=True, squeeze=False)
    for ax, (name, origin) in zip(axes[0], rows.items(), strict=True):
        found, empty = np.flatnonzero(origin >= 0), np.flatnonzero(origin < 0)
        ax.plot(found, origin[found], "o", ms=4, color=figures.BLUE, label=f"{visible} visible")
        ax.plot(empty, np.full(len(empty), -len(origin) // 12), "|", color=GREY, label="mask token")
        ax.set(xlabel=f"slot of the decoder, {name}")
    axes[0, 0].set_ylabel("place it comes from")
    axes[0, 0].legend(loc="upper left")


def curves(
    steps: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    ylabel: str,
    levels: Mapping[str, float] = {},
) -> None:
    """Lines {name: (steps, values)} that differ in lightness and dashes, and named levels."""
    fig, ax = plt.subplots(figsize=(WIDE, 3.6))
    looks = [(figures.BLUE, "-"), (figures.OURS, "--"), (figures.DARK, "-."), (PALE, ":")]
    for (name, (x, y)), (color, dash) in zip(steps.items(), looks, strict=False):
        ax.plot(x, y, color=color, ls=dash, label=name)
    for name, level in levels.items():
        ax.axhline(level, color=GREY, lw=1.2)
        ax.annotate(
            name, (0.98, level), xycoords=("axes fraction", "data"), va="bottom", ha="right"
        )
    ax.set(xlabel="step", ylabel=ylabel)
    if steps:
        ax.legend()


# --- 04_input_pipeline ----------------------------------------------------------------------------


def numbers(rows: Mapping[str, Int[np.ndarray, " n"]]) -> None:
    """Rows of numbers in boxes, shaded by size, such as the clips of two epochs."""
    longest = max(map(len, rows.values()))
    fig, ax = plt.subplots(figsize=(WIDE, 0.7 + 0.42 * len(rows)))
    top = max(int(row.max()) for row in rows.values())
    for y, row in enumerate(rows.values()):
        for x, value in enumerate(row):
            shade = plt.get_cmap("Blues")(0.1 + 0.75 * value / max(top, 1))
            ax.add_patch(plt.Rectangle((x, y), 0.94, 0.9, fc=shade))
            ink = "white" if value > 0.6 * top else figures.DARK
            ax.annotate(f"{value}", (x + 0.47, y + 0.48), ha="center", va="center", color=ink)
    ax.set(xlim=(0, longest), ylim=(len(rows), 0), xticks=[])
    ax.set_yticks(np.arange(len(rows)) + 0.45, [*rows])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def growth(lines: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str) -> None:
    """Curves over 0, 1, 2 and so on, with logarithmic heights."""
    fig, ax = plt.subplots(figsize=(WIDE, 3.4))
    looks = [(figures.OURS, "--"), (figures.BLUE, "-")]
    for (name, y), (color, dash) in zip(lines.items(), looks, strict=False):
        ax.plot(range(len(y)), y, color=color, ls=dash, label=name)
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    _in_words(ax)
    ax.legend()


def batches(rows: Mapping[str, Int[np.ndarray, "K B"]], names: Sequence[str]) -> None:
    """Batches as columns of clips, a letter a corpus; the corpus that has most clips is dark."""
    count, size = next(iter(rows.values())).shape
    most = np.bincount(np.concatenate([row.reshape(-1) for row in rows.values()])).argmax()
    fig, axes = plt.subplots(len(rows), 1, figsize=(WIDE, 0.5 + 2.1 * len(rows)))
    for ax, (name, row) in zip(np.atleast_1d(axes), rows.items(), strict=True):
        for k, corpora in enumerate(row):
            for clip, corpus in enumerate(corpora):
                dark = corpus == most
                box = dict(fc=figures.BLUE if dark else "#dbe7fa", ec="white")
                ax.add_patch(plt.Rectangle((1.25 * k, clip), 1, 1, **box))
                ink = "white" if dark else figures.DARK
                where = (1.25 * k + 0.5, clip + 0.52)
                ax.annotate("abcdefghij"[corpus], where, ha="center", va="center", color=ink)
        ax.set(xlim=(0, 1.25 * count), ylim=(size, 0), ylabel=name, xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    words = [f"{letter} {name}" for letter, name in zip("abcdefghij", names, strict=False)]
    fig.supxlabel(
        figures.plain("batches, one after another; " + ", ".join(words), 110, lines=2), size=11
    )


def bars_of(
    groups: Mapping[str, Mapping[str, float]],
    *,
    ylabel: str,
    levels: Mapping[str, float] = {},
    log: bool = False,
) -> None:
    """Bars, a group of neighbours a name, and levels to compare with; a few groups with values.

    log: logarithmic heights.
    """
    fig, ax = plt.subplots(figsize=(WIDE, 3.6))
    names = list(next(iter(groups.values())))
    looks = [(figures.BLUE, ""), (PALE, "//"), (GREY, ""), (figures.DARK, "..")]
    width = 0.8 / len(names)
    for k, (name, (color, hatch)) in enumerate(zip(names, looks, strict=False)):
        at = np.arange(len(groups)) + (k - (len(names) - 1) / 2) * width
        values = [group[name] for group in groups.values()]
        drawn = ax.bar(at, values, 0.92 * width, color=color, hatch=hatch, ec="white", label=name)
        if len(groups) <= 4:
            ax.bar_label(drawn, fmt="%.3g", padding=2, size=10)
    for name, level in levels.items():
        ax.axhline(level, color=GREY, ls=":")
        ax.annotate(
            name, (0.99, level), xycoords=("axes fraction", "data"), va="bottom", ha="right"
        )
    ax.set_xticks(range(len(groups)), [*groups])
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel=ylabel, yscale="log" if log else "linear")
    if log:
        _in_words(ax)
    ax.margins(y=0.15)
    if len(names) > 1:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(names))


# --- 05_scaling_out -------------------------------------------------------------------------------


def pieces(parts: Mapping[str, Mapping[str, tuple[slice, ...]]], shape: tuple[int, int]) -> None:
    """Which part of a matrix each device holds: a panel an array, a rectangle a device."""
    fig, axes = plt.subplots(1, len(parts), figsize=(WIDE, 3.2), squeeze=False)
    for ax, (name, held) in zip(axes[0], parts.items(), strict=True):
        together: dict[tuple, list[str]] = {}
        for device, (rows, columns) in held.items():
            top, bottom, _ = rows.indices(shape[0])
            left, right, _ = columns.indices(shape[1])
            together.setdefault((top, bottom, left, right), []).append(device)
        for k, ((top, bottom, left, right), who) in enumerate(together.items()):
            shade = plt.get_cmap("Blues")(0.15 + 0.3 * (k % 2))
            size = right - left, bottom - top
            ax.add_patch(plt.Rectangle((left, top), *size, fc=shade, ec="white", lw=2))
            words = who[0] if len(who) == 1 else f"{who[0]} to {who[-1]}"
            ax.annotate(words, ((left + right) / 2, (top + bottom) / 2), ha="center", va="center")
        ax.set(xlim=(0, shape[1]), ylim=(shape[0], 0), title=name, xticks=[], yticks=[])
        ax.set(xlabel=f"{shape[1]} columns", ylabel=f"{shape[0]} rows")


def roofline(devices: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> None:
    """Seconds of the parts of a step over the number of devices, both logarithmic."""
    fig, ax = plt.subplots(figsize=(WIDE, 3.8))
    looks = [(figures.BLUE, "-"), (figures.OURS, "--"), (figures.DARK, "-."), (PALE, ":")]
    for (name, y), (color, dash) in zip(seconds.items(), looks, strict=False):
        ax.plot(devices, y, color=color, ls=dash, marker="o", label=name)
    ax.set(xlabel="devices", ylabel="seconds of a step", xscale="log", yscale="log")
    ax.set_xticks(devices, [f"{count:,}" for count in devices])
    _in_words(ax)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
