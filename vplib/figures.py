"""Figures: one style, one way to save, and the published numbers that the comparison figures are drawn from.

Numbers reported by the paper are read from `reports/published/`, ours from `reports/tables/`; none is typed here.
An empty cell in a CSV means unknown: it stays NaN, is drawn as "n/a" and never enters a difference.
"""

import math
import os
import re
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vplib import paths

COLUMN, PAGE = 3.25, 6.75  # figure widths, inches
BLUE, LIGHT_BLUE, OURS, DARK, MID, LIGHT = (
    "#1a66d6",
    "#8fbaf0",
    "#d55e00",
    "#3c4043",
    "#80868b",
    "#dadce0",
)
# Blue is VideoPrism, vermilion is ours, muted colours are the rest. Neighbours in a figure also differ in lightness,
# so the figures survive a grey print and the common colour-vision deficiencies.
PALETTE = {
    "VideoPrism-B": LIGHT_BLUE,
    "VideoPrism-g": BLUE,
    "CLIP": "#dcdcdc",
    "VATT": "#c9b78f",
    "InternVideo": "#a3ad9c",
    "UMT": "#74797e",
    "VideoMAE-v2": "#dcdcdc",
    "CoCa": "#dcdcdc",
    "VideoCoCa": "#c9b78f",
    "Singularity": "#efe6d2",
    "DeCap": "#efe6d2",
    "FrozenBiLM": "#efe6d2",
    "Flamingo-3B": "#a3ad9c",
    "Flamingo-9B": "#74797e",
    "VideoPrism-B + PaLM-2 1B": LIGHT_BLUE,
    "VideoPrism-B + PaLM-2 8B": BLUE,
}


def style() -> None:
    """Set the look of every figure of the repository: small sans-serif type, open axes, no grid."""
    plt.rcParams.update(
        {
            "font.size": 7,
            "axes.titlesize": 7,
            "axes.labelsize": 7,
            "xtick.labelsize": 6.5,
            "ytick.labelsize": 6.5,
            "legend.fontsize": 6.5,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": MID,
            "axes.linewidth": 0.6,
            "xtick.color": DARK,
            "ytick.color": DARK,
            "text.color": DARK,
            "axes.labelcolor": DARK,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "lines.linewidth": 1.2,
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "axes.titlelocation": "left",
            "axes.axisbelow": True,
            "pdf.fonttype": 42,
            "font.family": "DejaVu Sans",
        }
    )


def save(fig: Figure, name: str, *, data: pd.DataFrame, place: Path | None = None) -> None:
    """Write `figures/<name>.png` and `.pdf`, and `tables/<name>.csv` in `place`: a figure never without its data.

    `place` is `reports/` unless given (`results.reports` says where a run's results belong).

    The same figure and data give the same bytes: no dates, no versions, floats with ten significant digits.
    Raises ValueError unless the name is `<NN_notebook>-<slug>`, because the prefix is how a reader finds the origin.
    """
    if not re.fullmatch(r"\d\d_[a-z0-9_]+-[a-z0-9_]+", name):
        raise ValueError(
            f"figure name {name!r} is not NN_notebook-slug; example: 60_paper_figures-retrieval"
        )
    place = place or paths.REPORTS
    figures, tables = place / "figures", place / "tables"
    figures.mkdir(parents=True, exist_ok=True)
    tables.mkdir(parents=True, exist_ok=True)
    fig.canvas.draw()  # settles the layout once, so that every format sees the same positions
    writers = {
        figures / f"{name}.png": lambda path: fig.savefig(
            path, format="png", dpi=150, metadata={"Software": None}
        ),
        figures / f"{name}.pdf": lambda path: fig.savefig(
            path, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
        ),
        tables / f"{name}.csv": lambda path: data.to_csv(
            path, index=False, float_format="%.10g", lineterminator="\n"
        ),
    }
    for path, write in writers.items():
        part = path.with_name(path.name + ".part")
        write(part)
        os.replace(part, path)


def histogram(ax: Axes, bins: pd.Series, share: pd.Series, *, label: str, color: str) -> None:
    """Shares in per cent of named bins, each with its value above."""
    ax.bar(range(len(share)), share, 0.75, color=color)
    for k, value in enumerate(share):
        ax.annotate(
            f"{value:.1f}", (k, value), (0, 2), textcoords="offset points", ha="center", size=6
        )
    ax.set_xticks(range(len(share)), bins, size=5.5)
    ax.set(xlabel=label, ylim=(0, 1.12 * share.max()))


def seeds(
    ax: Axes, x: float, values: list[float], *, color: str = BLUE, label: str | None = None
) -> None:
    """One condition: a point per seed, and the mean as a short bar across them."""
    ax.plot([x] * len(values), values, "o", ms=3, mfc="none", mec=color, mew=0.7, alpha=0.7)
    ax.plot(
        [x - 0.2, x + 0.2],
        [np.mean(values)] * 2,
        color=color,
        lw=2,
        label=label,
        solid_capstyle="butt",
    )


def film_strip(ax: Axes, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
    """The frames of one clip side by side, time running to the right."""
    gap = np.full((frames.shape[1], max(1, frames.shape[2] // 24), 3), 255, np.uint8)
    strip = [part for frame in frames for part in (frame, gap)][:-1]
    ax.imshow(np.concatenate(strip, axis=1), interpolation="nearest")
    ax.set_axis_off()


def similarity_bars(
    frames: UInt8[np.ndarray, "T H W 3"], texts: list[str], similarity: Float[np.ndarray, " Q"]
) -> Figure:
    """The blog's picture: a strip of frames, and below it one blue bar per text query, as long as its similarity.

    similarity: cosine in [-1, 1]. The best query is dark blue, the others are light.
    """
    count, height, width, _ = frames.shape
    wrapped = [textwrap.fill(text, 60) for text in texts]
    lines = max(text.count("\n") + 1 for text in wrapped)
    heights = [
        PAGE * height / (count * width),
        0.45 + 0.16 * (lines + 0.6) * len(texts),
    ]  # inches: the strip fills the page
    fig = plt.figure(figsize=(PAGE, sum(heights)))
    top, bottom = (part.subplots() for part in fig.subfigures(2, 1, height_ratios=heights))
    film_strip(top, frames)
    color = [BLUE if k == int(np.argmax(similarity)) else LIGHT_BLUE for k in range(len(texts))]
    bottom.barh(range(len(texts)), similarity, 0.7, color=color)
    for k, value in enumerate(similarity):
        bottom.annotate(
            f"{value:.2f}",
            (max(value, 0), k),
            (3, 0),
            textcoords="offset points",
            va="center",
            size=6,
        )
    bottom.set_yticks(range(len(texts)), wrapped)
    bottom.invert_yaxis()
    bottom.tick_params(axis="y", length=0)
    bottom.set_xlabel("cosine similarity of clip and text")
    bottom.set_xlim(
        min(0.0, float(np.min(similarity)) * 1.1), max(0.05, float(np.max(similarity)) * 1.15)
    )
    return fig


def timeline(
    ax: Axes, times: Float[np.ndarray, " T"], similarity: Float[np.ndarray, "T Q"], texts: list[str]
) -> None:
    """Similarity of every frame and every text over time (s); the text that is best on average is dark."""
    order = np.argsort(-similarity.mean(0), kind="stable")
    styles = [(BLUE, "-"), (OURS, "--"), (DARK, "-."), (MID, ":"), (LIGHT_BLUE, (0, (5, 1)))] + [
        (LIGHT, "-")
    ] * max(0, len(texts) - 5)
    for (color, line), k in zip(styles[: len(texts)], order, strict=True):
        ax.plot(
            times,
            similarity[:, k],
            ls=line,
            color=color,
            marker="o",
            ms=2.5,
            label=textwrap.fill(texts[k], 44),
        )
    ax.set(xlabel="time (s)", ylabel="cosine similarity\nof frame and text")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.7)


def token_colours(tokens: Float[np.ndarray, "T N D"]) -> tuple[UInt8[np.ndarray, "T G G 3"], float]:
    """Tokens as colours, one pixel a patch: their three largest principal components over all frames as red, green and
    blue, each from its 2nd to its 98th percentile; and the share of the variance that the three have.

    Tokens of similar content have similar colours; the colours themselves mean nothing.
    """
    frames, places, width = tokens.shape
    x = tokens.reshape(-1, width).astype(np.float64)
    x = x - x.mean(0)
    _, spread, directions = np.linalg.svd(x, full_matrices=False)
    directions = (
        directions[:3]
        * np.sign(directions[:3, np.abs(directions[:3]).argmax(1)].diagonal())[:, None]
    )
    scores = x @ directions.T
    low, high = np.percentile(scores, [2, 98], axis=0)
    shown = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    grid = math.isqrt(places)
    share = float((spread[:3] ** 2).sum() / max((spread**2).sum(), 1e-12))
    return np.round(255 * shown).astype(np.uint8).reshape(frames, grid, grid, 3), share


def confusion(
    ax: Axes, counts: Int[np.ndarray, "K K"], classes: list[str]
) -> Float[np.ndarray, "K K"]:
    """The matrix in % of each true class, which is returned; shares of 9.5% and more are written into their cells."""
    share = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for i, j in np.argwhere(share >= 9.5):
        ax.annotate(
            f"{share[i, j]:.0f}",
            (j, i),
            ha="center",
            va="center",
            size=5,
            color="white" if share[i, j] > 55 else DARK,
        )
    words = [name.replace("_", " ") for name in classes]
    ax.set_xticks(range(len(words)), words, rotation=60, ha="right", size=5.5)
    ax.set_yticks(range(len(words)), words, size=5.5)
    ax.set_xlabel("predicted")
    return share
