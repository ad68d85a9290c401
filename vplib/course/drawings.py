"""The pictures on the slides: results of `reports/tables` and two ideas, in type for a room.

A picture is as wide as a slide, where its letters are at least 24 of 1,280 pixels high. They are written
to `course/pictures/*.svg` with the slides.
"""

import functools
import io
import textwrap

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vplib import figures, paths
from vplib.method import masking

WIDE, HIGH = 11.52, 5.3  # inches: of 1,152 pixels of a slide's 1,280, 100 each
LOW = 4.15  # of a picture with words beside it
TYPE = 18  # points: 25 of these pixels
TABLES, FIGURES = paths.ROOT / "reports" / "tables", paths.ROOT / "reports" / "figures"
PALE, GREY = figures.MID_BLUE, figures.MID
ENCODERS = {  # of the probes: name, colour, hatch
    "random_init": ("random weights", GREY, ""),
    "single_frame": ("one frame, stage 2", "white", "//"),
    "stage1": ("stage 1", PALE, ".."),
    "stage2": ("stage 2", figures.BLUE, ""),
}
ARROWS = {
    "left": "←",
    "right": "→",
    "up": "↑",
    "down": "↓",
    "orbit_clockwise": "↻",
    "orbit_counterclockwise": "↺",
    "shake_sideways": "↔",
    "shake_updown": "↕",
    "still": "•",
}


def style() -> None:
    """The look of all slides' pictures: type of TYPE points."""
    figures.style()
    words = ("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize")
    words += ("xtick.labelsize", "ytick.labelsize")
    lines = {"lines.linewidth": 3.5, "axes.linewidth": 1.2, "hatch.linewidth": 1.2}
    plt.rcParams.update(dict.fromkeys(words, TYPE) | lines)
    plt.rcParams.update({"axes.edgecolor": GREY, "xtick.major.size": 6, "ytick.major.size": 6})


def _table(name: str) -> pd.DataFrame:
    return pd.read_csv(TABLES / f"{name}_world_study.csv")


def _bars_and_strip(known: bool) -> Figure:
    """The strip of the committed figure, above the sentences; their bars if they are `known`."""
    name = "41_retrieval_zero_shot-blue_bars"
    table, picture = (
        _table(name).sort_values("text"),
        plt.imread(FIGURES / f"{name}_world_study.png")[..., :3],
    )
    blank = (picture > 0.99).all(axis=(1, 2))
    top = int(np.argmin(blank))
    strip = picture[top : top + int(np.argmax(blank[top:]))]
    used = np.flatnonzero((strip < 0.99).any(axis=(0, 2)))
    fig = plt.figure(figsize=(WIDE, HIGH if known else LOW))
    above, below = fig.subfigures(2, 1, height_ratios=[1.5, 4] if known else [1, 1.7])
    ax = above.subplots()
    ax.imshow(strip[:, used[0] : used[-1] + 1], interpolation="nearest")
    ax.set_axis_off()
    words = [textwrap.fill(text, 45 if known else 90) for text in table.text]
    ax = below.subplots()
    if known:
        best = table.similarity == table.similarity.max()
        drawn = ax.barh(
            range(len(words)), table.similarity, 0.62, color=np.where(best, figures.BLUE, PALE)
        )
        ax.bar_label(drawn, fmt="%.2f", padding=5)
        ax.set(xlabel="cosine of clip and sentence", xlim=(-0.42, 0.92))
        ax.set_yticks(range(len(words)), words)
    else:
        ax.set_yticks([])
        for k, text in enumerate(words):
            ax.annotate(f"{'abcde'[k]}   {text}", (0, k), va="center")
        ax.set(xticks=[], xlim=(0, 1), ylim=(-0.5, len(words) - 0.5))
        ax.spines[:].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    return fig


def guess() -> Figure:
    """A clip and five sentences, without the answer."""
    return _bars_and_strip(known=False)


def bars() -> Figure:
    """The same clip, with a bar a sentence."""
    return _bars_and_strip(known=True)


def _encoders(ax: Axes, table: pd.DataFrame, groups: dict[str, str]) -> None:
    """Accuracy of the ENCODERS with intervals and chance, in groups {task: words}."""
    width = 0.84 / len(ENCODERS)
    for k, (encoder, (label, color, hatch)) in enumerate(ENCODERS.items()):
        rows = table[table.encoder == encoder].set_index("task").reindex([*groups])
        at = np.arange(len(groups)) + (k - (len(ENCODERS) - 1) / 2) * width
        value, low, high = (100 * rows[c].to_numpy(float) for c in ("top1", "low", "high"))
        edge = GREY if color == "white" else "white"
        ax.bar(at, value, 0.94 * width, color=color, hatch=hatch, ec=edge, label=label)
        ends = np.stack([value - low, high - value]).clip(0)
        ax.errorbar(at, value, ends, fmt="none", ecolor=figures.DARK, elinewidth=2, capsize=5)
        if len(groups) <= 3:
            for x, y, top in zip(at, value, high, strict=True):
                ax.annotate(f"{y:.0f}", (x, top), (0, 4), textcoords="offset points", ha="center")
    for k, chance in enumerate(table.groupby("task").chance.first().reindex([*groups])):
        ax.plot([k - 0.45, k + 0.45], 2 * [100 * chance], color=figures.OURS, ls="--", lw=2.5)
    ax.plot([], [], color=figures.OURS, ls="--", lw=2.5, label="chance")
    ax.set_xticks(range(len(groups)), [*groups.values()])
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel="accuracy (%)", ylim=(0, 112), yticks=range(0, 101, 25))
    ax.legend(loc="lower center", bbox_to_anchor=(0.47, 1), ncols=3, columnspacing=1.2)


def probes() -> Figure:
    """Probes of four questions on frozen encoders."""
    fig, ax = plt.subplots(figsize=(WIDE, HIGH))
    words = {task: task for task in ("motion", "object", "colour", "background")}
    _encoders(ax, _table("40_classification_localization-probes"), words)
    return fig


def motion() -> Figure:
    """What probes read of a motion: which of nine, its axis, its sense."""
    fig, ax = plt.subplots(figsize=(WIDE, HIGH))
    both = [_table(f"40_classification_localization-{name}") for name in ("probes", "motion")]
    words = {"motion": "which motion", "axis": "its axis", "sense": "its sense"}
    _encoders(ax, pd.concat(both), words)
    return fig


def stage1() -> Figure:
    """Loss and retrieval within the batch along stage 1."""
    fig, axes = plt.subplots(1, 2, figsize=(WIDE, HIGH - 0.5))
    curve = _table("20_stage1-training")
    axes[0].plot(curve.step, curve.loss, color=figures.BLUE)
    axes[1].plot(curve.step, 100 * curve.batch_r1, color=figures.BLUE)
    for ax, words in zip(axes, ("loss (nats)", "R@1 within the batch (%)"), strict=True):
        ax.set(xlabel="step of stage 1", ylabel=words, ylim=(0, None))
        ax.xaxis.set_major_locator(plt.MaxNLocator(4))
    return fig


def stage2() -> Figure:
    """Distances along stage 2: of all tokens, of hidden ones, of the clip's vector."""
    fig, ax = plt.subplots(figsize=(WIDE, HIGH - 0.3))
    curve = _table("30_stage2-training")
    look = {
        "local_masked": ("hidden tokens", figures.OURS, "--"),
        "local": ("all tokens", figures.BLUE, "-"),
        "global": ("the clip's vector", figures.DARK, "-."),
    }
    for column, (label, color, dash) in look.items():
        ax.plot(curve.step, curve[column], color=color, ls=dash, label=label)
    ax.set(xlabel="step of stage 2", ylabel="cosine distance", ylim=(0, 1))
    ax.legend(loc="upper right")
    return fig


def corpora() -> Figure:
    """How often texts of the eight corpora are wrong, and how often they name a motion."""
    fig, axes = plt.subplots(1, 2, figsize=(WIDE, HIGH), width_ratios=[1.7, 1], sharey=True)
    table = _table("11_corpus_statistics-corpora")
    left = np.zeros(len(table))
    faults = {
        "misaligned": ("of another moment", figures.BLUE, ""),
        "off topic": ("off topic", PALE, "//"),
        "hallucinated": ("made up in part", figures.OURS, ".."),
    }
    for column, (label, color, hatch) in faults.items():
        values = 100 * table[column]
        look = dict(color=color, hatch=hatch, ec="white", label=label)
        axes[0].barh(table.corpus, values, 0.75, left=left, **look)
        left += values
    axes[1].barh(table.corpus, 100 * table["mentions motion"], 0.75, color=GREY)
    axes[0].set(xlabel="wrong texts (%)", xlim=(0, 60))
    axes[1].set(xlabel="texts naming a motion (%)", xlim=(0, 40))
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower right")
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    return fig


def confusion() -> Figure:
    """Which motions the probe after stage 2 takes for which, in per cent."""
    table = _table("40_classification_localization-confusion").set_index("true")
    fig, ax = plt.subplots(figsize=(WIDE, HIGH + 0.1))
    share = table.to_numpy()
    ax.imshow(share, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(share):
        if value >= 1.5:
            ink = "white" if value > 55 else figures.DARK
            ax.annotate(f"{value:.0f}", (column, row), ha="center", va="center", color=ink)
    names = [f"{name.replace('_', ' ')}  {ARROWS[name]}" for name in table.index]
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks(range(len(names)), [ARROWS[name] for name in table.columns], size=TYPE + 4)
    ax.tick_params(length=0)
    ax.set(xlabel="the probe says", ylabel="true motion")
    ax.spines[:].set_visible(False)
    return fig


def readouts() -> Figure:
    """Motion as several read-outs find it in the same tokens, beside what can be had at all."""
    table = _table("46_checking_the_probe-readouts")
    last = table.encoder.dropna().iloc[-1]
    found = table[(table.task == "motion") & (table.encoder == last)].set_index("probe")
    above = table[table.ceiling.notna()].set_index("ceiling")
    names = {
        "as before: 4 heads, rate 0.001, 15 epochs": "probe, as it once was",
        "as used": "probe, as used",
        "a block before pooling": "a block more",
    }
    best = {
        "end to end, with labels": "trained end to end",
        "ideal tokens": "tokens that know the place",
        "tracker": "tracker",
    }
    rows = pd.concat([found.loc[[*names]], above.loc[[*best]]])
    fig, ax = plt.subplots(figsize=(WIDE, HIGH))
    colors = [figures.BLUE] * len(names) + [GREY] * len(best)
    drawn = ax.barh([*names.values(), *best.values()], rows.value, 0.7, color=colors)
    for bar, hatch in zip(drawn, [""] * len(names) + ["//"] * len(best), strict=True):
        bar.set(hatch=hatch, ec="white")
    ends = np.stack([rows.value - rows.low, rows.high - rows.value])
    ax.errorbar(rows.value, range(len(rows)), xerr=ends, fmt="none", ecolor=figures.DARK, lw=2)
    for k, (value, high) in enumerate(zip(rows.value, rows.high, strict=True)):
        ax.annotate(f"{value:.0f}", (high, k), (6, 0), textcoords="offset points", va="center")
    ax.set(xlabel="motion, accuracy (%)", xlim=(0, 105))
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    return fig


def masks() -> Figure:
    """Three masks of eight frames; what stays visible is dark."""
    fig, axes = plt.subplots(3, 8, figsize=(WIDE, LOW))
    for line, kind in zip(axes, ("random", "tube", "bevt"), strict=True):
        look = dict(batch=1, frames=8, grid=8)
        seen = np.asarray(masking.draw_mask(kind, 0.65, jax.random.key(1), **look))[0]
        for ax, places in zip(line, np.broadcast_to(seen, (8, seen.shape[-1])), strict=True):
            shown = np.zeros(64)
            shown[places] = 1
            ax.imshow(shown.reshape(8, 8), cmap="Blues", vmin=-0.15, vmax=1.1)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(kind if kind != "bevt" else "BEVT")
    fig.supxlabel("eight frames of a clip, time runs to the right; dark: visible", size=TYPE)
    return fig


def temperature() -> Figure:
    """Five cosines, and what the softmax makes of them at three temperatures."""
    cosines = np.array([0.7, 0.5, 0.3, 0.1, -0.1])
    fig, axes = plt.subplots(1, 4, figsize=(WIDE, LOW - 0.5), sharey=True)
    panels = {"cosines": cosines}
    for tau in (1, 0.2, 0.07):
        weight = np.exp(cosines / tau)
        panels[f"share at τ = {tau:g}"] = weight / weight.sum()
    for k, (ax, (name, values)) in enumerate(zip(axes, panels.items(), strict=True)):
        drawn = ax.bar([*"abcde"], values, color=figures.BLUE if k else GREY)
        ax.bar_label(drawn, [f"{v:.1f}" if not k else f"{100 * v:.0f}%" for v in values], padding=3)
        ax.set(title=name, ylim=(-0.25, 1.08), yticks=[])
        ax.tick_params(axis="x", length=0)
        ax.spines[["left"]].set_visible(False)
    return fig


def pulls() -> Figure:
    """Pairs as arrows: wrong ones in all directions nearly cancel, right ones add up."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 24)
    wrong = np.stack([np.cos(angle), np.sin(angle)], 1)
    groups = {
        "24 wrong pairs": (wrong, figures.OURS),
        "24 right pairs": (np.tile([0.6, 0.8], (24, 1)), figures.BLUE),
    }
    fig, axes = plt.subplots(1, 4, figsize=(WIDE, 3.0), width_ratios=[1.3, 1, 1.3, 1])
    for k, (name, (arrows, color)) in enumerate(groups.items()):
        ax, total = axes[2 * k], axes[2 * k + 1]
        at = np.array([(x, y) for y in range(4) for x in range(6)])
        look = dict(color=color, angles="xy", scale_units="xy")
        ax.quiver(*at.T, *arrows.T, scale=1.5, width=0.012, pivot="mid", **look)
        ax.set(xlim=(-0.8, 5.8), ylim=(-0.8, 3.8), title=name)
        total.quiver(0, 0, *arrows.sum(0), scale=1, width=0.03, **look)
        total.set(xlim=(-8, 20), ylim=(-8, 22), title="their sum")
        for one in (ax, total):
            one.set(xticks=[], yticks=[], aspect="equal", anchor="N")
            one.spines[:].set_visible(False)
    return fig


DRAWN = {
    draw.__name__: draw
    for draw in (
        *(guess, bars, probes, motion, stage1, stage2, corpora, confusion, readouts),
        *(masks, temperature, pulls),
    )
}


@functools.cache
def svg(name: str) -> str:
    """A picture of DRAWN as SVG, its letters as outlines; the same tables give the same text."""
    text = io.StringIO()
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": name}):
        style()
        fig = DRAWN[name]()
        fig.savefig(text, format="svg", metadata={"Date": None})
        plt.close(fig)
    return text.getvalue()
