"""Figures: one style, one way to save, and the forms that several notebooks draw.

Captions, labels and texts come from people's data: they are drawn letter by letter, never read as
mathematics, in whatever fonts of the machine have their letters.
"""

import functools
import io
import math
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float, Int, UInt8
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from vplib import files, paths

COLUMN, PAGE = 3.25, 6.75  # figure widths, inches
BLUE, LIGHT_BLUE, OURS, DARK, MID, LIGHT = (
    "#1a66d6",
    "#8fbaf0",
    "#d55e00",
    "#3c4043",
    "#80868b",
    "#dadce0",
)
# LIGHT and LIGHT_BLUE are for areas, which `style` outlines; lines, markers and words in a lighter
# blue have this one.
MID_BLUE = "#4f8be0"
INK = (
    BLUE,
    MID_BLUE,
    OURS,
    DARK,
    MID,
)  # for lines, markers and words: 3 to 1 against white, or more
FONT = "DejaVu Sans"  # part of Matplotlib: figures look the same everywhere
OTHER_FONTS = (  # beginnings of the families that are asked for letters that FONT lacks, best first
    "Noto Sans CJK SC",
    "Noto Sans",
    "Source Han Sans",
    "WenQuanYi",
    "PingFang",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Emoji",
    "Symbola",
    "Segoe UI",
    "Droid Sans Fallback",
    "Arial Unicode",
)
# Warnings of every drawing of a letter that no font has: `save` says it once.
MISSING = r"Glyph .* missing|.* does not support \w+ natively"
# Blue is VideoPrism, vermilion is ours, muted colours are the rest. Neighbours in a figure also
# differ in lightness: they survive a grey print and the common colour-vision deficiencies.
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
    """Set the look of every figure: small sans-serif type, open axes, no grid, `$` a letter."""
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
            "patch.force_edgecolor": True,
            "patch.edgecolor": MID,
            "patch.linewidth": 0.5,
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "axes.titlelocation": "left",
            "axes.axisbelow": True,
            "font.family": FONT,
            "text.parse_math": False,
        }
    )
    warnings.filterwarnings("ignore", MISSING, UserWarning)


def contrast(color: str) -> float:
    """How a colour stands out from white, 1 to 21; what carries meaning needs 3.

    Source: WCAG 2.2, relative luminance and contrast ratio.
    """
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return 1.05 / (float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05)


def save(fig: Figure, name: str, *, data: pd.DataFrame, place: Path | None = None) -> None:
    """Write `figures/<name>.png`, `.pdf` and `tables/<name>.csv`: a figure never without its data.

    place: `reports/` unless given; `results.save` knows where a run's figures belong.

    The same figure and data give the same bytes: no dates, no versions, floats of ten digits.
    Raises ValueError unless the name is `<NN_notebook>-<slug>` (its prefix is how a reader finds
    the origin; the slug has letters, digits and _ - .), FileError where nothing can be written.
    """
    if not re.fullmatch(r"\d\d_[a-z0-9_]+-[\w.-]+", name):
        raise ValueError(
            f"figure name {name!r} is not NN_notebook-slug; example: 60_paper_figures-retrieval"
        )
    place, pictures, table = place or paths.REPORTS, drawn(fig), rows(data)
    drawings, tables = files.folder(place / "figures"), files.folder(place / "tables")
    for kind, picture in pictures.items():
        files.write(drawings / f"{name}.{kind}", picture)
    files.write(tables / f"{name}.csv", table)


def drawn(fig: Figure) -> dict[str, bytes]:
    """The figure as `png` and as `pdf`; the same figure gives the same bytes."""
    png, pdf = io.BytesIO(), io.BytesIO()
    undated = {"CreationDate": None, "Creator": None, "Producer": None}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MISSING, UserWarning)
        kind = 3 if _settle(fig) else 42  # as 42 the PostScript outlines of some fonts vanish
        fig.savefig(png, format="png", dpi=150, metadata={"Software": None})
        with plt.rc_context({"pdf.fonttype": kind}):
            fig.savefig(pdf, format="pdf", metadata=undated)
    return {"png": png.getvalue(), "pdf": pdf.getvalue()}


def rows(data: pd.DataFrame) -> str:
    """A table as the text of a CSV file, with floats of ten digits."""
    return data.to_csv(index=False, float_format="%.10g", lineterminator="\n")


def _settle(fig: Figure) -> bool:
    """Draw, so that every format sees the same positions, with the fonts that the texts need.

    Returns whether any text needs another than FONT. Names the letters that no font has, each once.
    """
    for text in fig.findobj(Text):
        text.set_parse_math(False)
    fig.canvas.draw()
    own, other, lacking = [], [], set()
    for text in fig.findobj(Text):
        words = text.get_text()
        if words.startswith(r"$\mathdefault{"):  # Matplotlib's own, on logarithmic axes
            text.set_parse_math(True)
            own.append(text)
        elif strange := set(words) - {"\n"} - _letters(FONT):
            text.set_fontfamily([FONT, *_families(frozenset(strange))])
            lacking |= strange.difference(*map(_letters, text.get_fontfamily()))
            other.append(text)
    if own or other:
        fig.canvas.draw()
    if lacking - _told:
        _told.update(lacking)
        print(
            f"No installed font has {plain(' '.join(sorted(lacking)), 60)}: figures show boxes for "
            "such letters; install a font that has them, for example Noto Sans CJK."
        )
    return bool(other)


_told: set[str] = set()  # the letters that were named


@functools.cache
def _families(letters: frozenset[str]) -> list[str]:
    """Installed families that together have these letters, as far as any has them, best first."""
    found = []
    for start in OTHER_FONTS:
        for family in sorted({font.name for font in font_manager.fontManager.ttflist}):
            if letters and family.startswith(start) and letters & _letters(family):
                found.append(family)
                letters -= _letters(family)
    return found


@functools.cache
def _letters(family: str) -> frozenset[str]:
    path = font_manager.findfont(font_manager.FontProperties(family=family))
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))


def plain(text: str, width: int = 1000, lines: int = 1) -> str:
    """A caption, label or text as figures show it: in `lines` of `width` columns at most.

    A wide letter (Chinese, Japanese, Korean, emoji) takes two columns. Control characters and line
    breaks are escaped; "…" stands for what is cut off.
    """
    control = {"Cc", "Cs", "Zl", "Zp"}
    shown = "".join(repr(c)[1:-1] if unicodedata.category(c) in control else c for c in text)
    padded = "".join(c + "\0" * (unicodedata.east_asian_width(c) in "WF") for c in shown)
    wrapped = textwrap.fill(padded, width, max_lines=lines, placeholder=" …")
    return wrapped.replace("\0", "")


def histogram(ax: Axes, bins: pd.Series, share: pd.Series, *, label: str, color: str) -> None:
    """Shares in per cent of named bins, each with its value above."""
    at = range(len(share))
    bar = dict(native_scale=True, width=0.75, saturation=1, edgecolor=MID, lw=0.5)
    sns.barplot(x=at, y=[*share], color=color, **bar, ax=ax)
    ax.bar_label(ax.containers[-1], fmt="%.1f", size=6, padding=1)
    ax.set_xticks(at, bins, size=5.5)
    ax.set(xlabel=label, ylabel="", ylim=(0, 1.12 * share.max() or 1))


def seeds(ax: Axes, x: float, values: list[float], *, color: str = BLUE) -> None:
    """One condition: a point per seed, and the mean as a short bar across them."""
    where = dict(x=[x] * len(values), y=values, native_scale=True, color=color, ax=ax)
    sns.stripplot(**where, jitter=False, size=3, alpha=0.5, zorder=1)
    sns.pointplot(**where, errorbar=None, marker="_", markersize=9, markeredgewidth=2)


def intervals(
    ax: Axes,
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    low: str,
    high: str,
    seeds: str | None = None,
    color: str | Sequence[str] = BLUE,
) -> None:
    """A bar a row with its 95% interval, as given, and left of it a point for every seed.

    x, y, low, high, seeds: columns with the words below a bar, its height, the ends of its interval
    and the list of its seeds' values, in one unit; what is NaN is not drawn.
    color: of all bars, or one a row.
    """
    at, height = np.arange(len(frame)), frame[y].to_numpy(float)
    colors = [color] * len(frame) if isinstance(color, str) else [*color]
    bar = dict(native_scale=True, width=0.65, saturation=1, edgecolor=MID, lw=0.5, legend=False)
    sns.barplot(x=at, y=height, hue=at, palette=colors, **bar, ax=ax)
    ends = np.stack([height - frame[low], frame[high] - height]).clip(0)
    ax.errorbar(at, height, ends, fmt="none", ecolor=DARK, elinewidth=0.8, capsize=2)
    if seeds:
        long = (
            pd.DataFrame({"x": at - 0.18, "y": [*frame[seeds]]}).explode("y").dropna().astype(float)
        )
        point = dict(size=2, facecolor="none", edgecolor=DARK, linewidth=0.5)
        sns.stripplot(long, x="x", y="y", native_scale=True, jitter=False, **point, ax=ax)
    ax.set_xticks(at, frame[x])
    ax.tick_params(axis="x", length=0)
    ax.set(xlabel="", ylabel="", xlim=(-0.6, len(frame) - 0.4))


def grouped(
    ax: Axes,
    frame: pd.DataFrame,
    *,
    x: str,
    hue: str,
    y: str,
    colors: Mapping[str, str],
    labels: Mapping[str, str],
) -> None:
    """Bars in groups, each with its 95% interval in columns `low` and `high`: a group for every
    value of `x`, in it a bar for every value of `hue` that `colors` has, in that order.

    labels: what the legend calls them.
    """
    groups, width = list(dict.fromkeys(frame[x])), 0.8 / len(colors)
    for k, (name, color) in enumerate(colors.items()):
        some = frame[frame[hue] == name].set_index(x).reindex(groups)
        at = np.arange(len(groups)) + (k - (len(colors) - 1) / 2) * width
        ax.bar(at, some[y], 0.94 * width, color=color, label=labels[name])
        ends = np.stack([some[y] - some["low"], some["high"] - some[y]]).clip(0)
        ax.errorbar(at, some[y], ends, fmt="none", ecolor=DARK, elinewidth=0.6)
    ax.set_xticks(range(len(groups)), groups)
    ax.tick_params(axis="x", length=0)


def film_strip(ax: Axes, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
    """The frames of one clip side by side, time running to the right."""
    gap = np.full((frames.shape[1], max(1, frames.shape[2] // 24), 3), 255, np.uint8)
    strip = [part for frame in frames for part in (frame, gap)][:-1]
    ax.imshow(np.concatenate(strip, axis=1), interpolation="nearest")
    ax.set_axis_off()


def boxes(
    ax: Axes,
    frame: UInt8[np.ndarray, "H W 3"],
    places: Float[np.ndarray, "N 4"],
    said: Sequence[tuple[str, float]],
    true: Sequence[tuple[str, ...]],
) -> None:
    """A frame with boxes x0, y0, x1, y1 in fractions of it: what is `said` of each and how sure, blue
    where it is one of its `true` labels.
    """
    ax.imshow(frame, extent=(0, 1, 1, 0))
    ax.set_axis_off()
    told = []
    for (x0, y0, x1, y1), (guess, score), labels in zip(places, said, true, strict=True):
        color = BLUE if guess in labels else OURS
        ax.add_patch(plt.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=color, lw=1.5))
        name = plain(guess, 30)
        told.append(f"{name} {score:.2f} (true: {plain(', '.join(labels), 40)})")
        look = dict(size=5, color="white", va="bottom", backgroundcolor=color)
        ax.text(x0, y0, f" {name} {score:.2f}", **look)
    ax.set_title("\n".join(told), size=5)


def similarity_bars(
    frames: UInt8[np.ndarray, "T H W 3"], texts: list[str], similarity: Float[np.ndarray, " Q"]
) -> Figure:
    """The blog's picture: a strip of frames, and below it a blue bar per text, as long as its
    similarity, a cosine in [-1, 1]. The best text, or all that are equally good, is dark blue.
    """
    count, height, width, _ = frames.shape
    wrapped = [plain(text, 60, lines=4) for text in texts]
    lines = max(text.count("\n") + 1 for text in wrapped)
    heights = [  # inches: the strip fills the page, unless its frames are few
        min(PAGE * height / (count * width), 2),
        0.45 + 0.16 * (lines + 0.6) * len(texts),
    ]
    fig = plt.figure(figsize=(PAGE, sum(heights)))
    top, bottom = (part.subplots() for part in fig.subfigures(2, 1, height_ratios=heights))
    film_strip(top, frames)
    color = np.where(similarity == similarity.max(), BLUE, LIGHT_BLUE)
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
    ax: Axes,
    times: Float[np.ndarray, " T"],
    similarity: Float[np.ndarray, "T Q"],
    texts: list[str],
    *,
    whole: Float[np.ndarray, " Q"],
) -> None:
    """Similarity of every frame and text over time (s); the best for the `whole` clip is dark blue,
    as in `similarity_bars`.
    """
    order = np.argsort(-whole, kind="stable")
    styles = [(BLUE, "-"), (OURS, "--"), (DARK, "-."), (MID, ":"), (MID_BLUE, (0, (5, 1)))] + [
        (MID, "-")
    ] * max(0, len(texts) - 5)
    for (color, line), k in zip(styles[: len(texts)], order, strict=True):
        ax.plot(
            times,
            similarity[:, k],
            ls=line,
            color=color,
            marker="o",
            ms=2.5,
            label=plain(texts[k], 44, lines=3),
        )
    ax.set(xlabel="time (s)", ylabel="cosine similarity\nof frame and text")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), labelspacing=0.7)


def token_colours(tokens: Float[np.ndarray, "T N D"]) -> tuple[UInt8[np.ndarray, "T G G 3"], float]:
    """Tokens as colours, one pixel a patch, and the share of their variance that the colours show.

    Red, green and blue are the three largest principal components over all frames, each from its
    2nd to its 98th percentile.
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
    scores = np.pad(x @ directions.T, ((0, 0), (0, 3 - len(directions))))  # if tokens are fewer
    low, high = np.percentile(scores, [2, 98], axis=0)
    shown = np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1)
    grid = math.isqrt(places)
    share = float((spread[:3] ** 2).sum() / max((spread**2).sum(), 1e-12))
    return np.round(255 * shown).astype(np.uint8).reshape(frames, grid, grid, 3), share


def confusion(
    ax: Axes, counts: Int[np.ndarray, "K K"], classes: list[str]
) -> Float[np.ndarray, "K K"]:
    """The matrix in % of each true class, which is returned; cells of 9.5% or more say how much."""
    share = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    look = dict(cmap="Blues", vmin=0, vmax=100, cbar=False, square=True, linewidths=0.3)
    bare = dict(xticklabels=False, yticklabels=False)
    draw = functools.partial(sns.heatmap, share, **look, **bare, ax=ax)
    draw()
    draw(mask=share < 9.5, annot=True, fmt=".0f", annot_kws={"size": 5})
    ax.tick_params(length=0)
    every = -(-len(classes) // 60)  # more names would overlap
    at = np.arange(len(classes))[::every]
    words = [plain(re.sub(r"(?<=\w)_(?=\w)", " ", classes[k]), 32) for k in at]
    ax.set_xticks(at + 0.5, words, rotation=60, ha="right", size=5.5)
    ax.set_yticks(at + 0.5, words, rotation=0, size=5.5)
    ax.set_xlabel("predicted")
    return share
