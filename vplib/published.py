"""The numbers that the paper published, what follows from them, and how ours stand beside them.

The paper's are read from `reports/published/`, ours from `reports/tables/`; none is typed here. An
empty cell in a CSV means unknown: it stays NaN, is drawn as "n/a" and never enters a difference.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes

from vplib import figures, paths, results
from vplib.figures import BLUE, DARK, MID, OURS, PALETTE

SCALES = ("smoke", "lesson", "sweep", "study", "paper")  # the dial, from small to large


FAMILIES = {
    "T2": "VideoGLUE",
    "T3": "Zero-shot retrieval",
    "T4a": "Zero-shot classification",
    "T4b": "Zero-shot classification",
    "T4c": "Zero-shot classification",
    "T4d": "Zero-shot classification",
    "T4e": "Zero-shot classification",
    "T19": "Zero-shot classification",
    "T5": "Zero-shot captioning",
    "T6": "Zero-shot QA",
    "T7": "CV for science",
}


TASKS = {
    "zero-shot retrieval t2v": "ZST2V",
    "zero-shot retrieval v2t": "ZSV2T",
    "zero-shot classification": "ZSC",
    "zero-shot captioning": "ZSCap",
    "zero-shot QA": "ZSQA",
    "science VC": "VC",
    "science STAL": "STAL",
}


GROUPS = (
    ("Kinetics-400", "MiT"),
    ("SSv2", "Diving48"),
    ("Charades",),
    ("ActivityNet-v1.3",),
    ("AVA", "AVA-Kinetics"),
)


ADAPTATIONS = {"T13": "frozen", "T14": "mlap", "T15": "adapter", "T16": "e2e"}


def numbers(table: str | None = None) -> pd.DataFrame:
    """All published results, or those of one table ("T2", "F7"); an unknown value is NaN.

    Raises ValueError if there is no such table.
    """
    frame = pd.read_csv(paths.ROOT / "reports" / "published" / "published_results.csv")
    frame["note"] = frame["note"].fillna("")
    if table is None:
        return frame
    if table not in set(frame["table"]):
        raise ValueError(
            f"no table {table!r} in reports/published/published_results.csv; see its first column"
        )
    return frame[frame["table"] == table].reset_index(drop=True)


def cell(of: Mapping) -> pd.DataFrame:
    """What the paper printed of its own models for an entry of `data.benchmarks`: `model`, `size` and
    `value`, among others.
    """
    frame = numbers(of["table"])
    ours = frame["model"].isin(["VideoPrism", "VideoPrism+PaLM-2"])
    for column, key in (("benchmark", "row"), ("task", "kind"), ("metric", "metric")):
        ours &= frame[column] == of[key]
    return frame[ours].reset_index(drop=True)


def benchmarks(source: str) -> dict[str, dict]:
    """The cells of the paper's tables that a data set is asked for, by name, also in a notebook that
    trains, whose configuration has none; none of another source.
    """
    told = yaml.safe_load((paths.CONF / "data" / f"{source}.yaml").read_text(encoding="utf-8"))
    return told.get("benchmarks", {})


def beside(cfg: Mapping) -> None:
    """Prints, of a data set of the paper, what it printed there and how it read the clips."""
    for name, of in benchmarks(cfg["source"]).items():
        rows = cell(of)
        pairs = zip(model_label(rows), rows["value"], strict=True)
        values = ", ".join(f"{model} {value:g}" for model, value in pairs)
        how = f"{of['frames'] or 'unknown'} frames"
        how += f", every {of['stride']}" if of["stride"] else ""
        how += f", {of['clips']} x {of['crops']} views" if of["clips"] else ""
        print(f"{name} in the paper ({of['row']}, {of['metric']}; {how}): {values}.")


def corpora() -> pd.DataFrame:
    """The corpora of the paper (Tables 1, 8 and 20): one row each; an unknown count is NaN."""
    return pd.read_csv(paths.ROOT / "reports" / "published" / "corpora.csv")


def headline(names: list[str]) -> pd.DataFrame:
    """Our rows of `reports/tables/headline.csv` of these names, at the largest scale; maybe none.

    Its column `each` has the value of every training seed, from `seeds.csv`. Raises ValueError if a
    table has other columns than `results` writes, or the record not the seeds of a mean.
    """
    frame = _table("headline", results.COLUMNS)
    frame = frame[frame["name"].isin(names) & frame["scale"].isin(SCALES)]
    largest = max(frame["scale"], key=SCALES.index, default=None)
    frame = frame[frame["scale"] == largest]
    frame = frame.loc[frame["name"].map(names.index).sort_values().index].reset_index(drop=True)
    record = _table("seeds", results.RECORD)
    each = record[record["scale"] == largest].groupby("name")["value"].agg(list)
    frame["each"] = [each.get(name, []) for name in frame["name"]]
    for row in frame.itertuples():
        if row.seeds > 0 and len(row.each) != row.seeds:  # a time has no seeds
            raise ValueError(
                f"reports/tables/seeds.csv has {len(row.each)} seeds of {row.name} at {largest}, "
                f"its mean has {row.seeds:g}: python -m vplib.reproduce tables"
            )
    return frame


def _table(name: str, columns: list[str]) -> pd.DataFrame:
    found = results.read(name)
    if found and [*found[0]] != columns:
        raise ValueError(
            f"{paths.REPORTS / 'tables' / name}.csv has the columns {[*found[0]]} instead of "
            f"{columns}: python -m vplib.reproduce tables"
        )
    frame = pd.DataFrame(found, columns=columns)
    numbers = [column for column in ("value", "low", "high", "seeds") if column in columns]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    return frame


def model_label(frame: pd.DataFrame) -> pd.Series:
    """Model and size in one word, as the paper prints them: "VideoPrism-g", "UMT-L"."""
    short = frame["model"] + "-" + frame["size"].fillna("").astype(str)
    return short.str.rstrip("-").str.replace(
        "VideoPrism+PaLM-2-B+", "VideoPrism-B + PaLM-2 ", regex=False
    )


def deltas(results: pd.DataFrame) -> pd.DataFrame:
    """VideoPrism minus the best previous foundation model on each benchmark, recomputed.

    VideoPrism is g, or B with the 8B language model; the baseline is the best of any size, without
    rows noted "gray" (extra modalities, or a language model that was tuned) and without domain
    experts. Source: VideoPrism, Figure 2.
    """
    frame = results[results["table"].isin(FAMILIES) & ~results["metric"].isin(["R@5", "top5"])]
    frame = frame[
        ~frame["note"].str.contains("gray") & (frame["model"] != "Domain experts")
    ].dropna(subset="value")
    frame = frame.assign(label=model_label(frame), task=frame["task"].replace(TASKS))
    frame["family"] = frame["table"].map(FAMILIES)
    prism = frame["model"].str.startswith("VideoPrism")
    ours, rest = frame[prism & frame["size"].isin(["g", "B+8B"])], frame[~prism]
    best = rest.loc[rest.groupby(["family", "benchmark", "task"])["value"].idxmax()]
    both = ours.merge(best, on=["family", "benchmark", "task", "metric"], suffixes=("", "_best"))
    both["delta"] = (both["value"] - both["value_best"]).round(1)
    columns = [
        "family",
        "benchmark",
        "task",
        "metric",
        "label",
        "value",
        "label_best",
        "value_best",
        "delta",
    ]
    return both[columns].sort_values("delta", ascending=False, kind="stable").reset_index(drop=True)


def average(scores: Mapping[str, float] | pd.Series, groups: Sequence[Sequence[str]]) -> float:
    """Mean over groups of tasks of the groups' means; a group that lacks a score does not count."""
    known = [group for group in groups if all(name in scores for name in group)]
    return float(np.mean([np.mean([scores[name] for name in group]) for group in known]))


def videoglue_score(averages: Sequence[float], costs: Sequence[float]) -> float:
    """sum_i(S_i / log10 C_i) / sum_i(1 / log10 C_i): the average S_i of each adaptation, weighed by
    its cost C_i. Source: VideoGLUE (arXiv:2307.03166), VideoPrism section 3.1.

    Published costs are in GFLOPs. Scores of costs in another unit are not comparable. Raises
    ValueError for a cost of 1 or below, which the formula cannot weigh: it divides by zero there,
    and below it the weight is negative.
    """
    if min(costs) <= 1:
        raise ValueError(
            f"a cost of {min(costs):g} has no weight in the VideoGLUE score: count in a smaller unit, "
            "and name it"
        )
    weights = [1 / math.log10(cost) for cost in costs]
    return float(np.dot(averages, weights) / np.sum(weights))


def video_glue_scores(results: pd.DataFrame) -> pd.DataFrame:
    """VideoGLUE score (VGS) of each model, and the four task averages and costs behind it.

    VGS = sum_i(S_i / log10 C_i) / sum_i(1 / log10 C_i) over the adaptations i. S_i averages five
    task groups (four where temporal localisation was not run); C_i is the cost, in GFLOPs of
    training. Source: VideoPrism, Tables 13-17.
    """
    rows = []
    for (model, size), part in results[results["table"].isin(ADAPTATIONS)].groupby(
        ["model", "size"], sort=False
    ):
        row = {"model": model, "size": size}
        for table, adaptation in ADAPTATIONS.items():
            value = part[part["table"] == table].set_index("benchmark")["value"]
            row[f"score_{adaptation}"] = average(value, GROUPS)
            row[f"gflops_{adaptation}"] = value["VideoGLUE"]
        parts = ([row[f"{of}_{way}"] for way in ADAPTATIONS.values()] for of in ("score", "gflops"))
        rows.append(row | {"vgs": videoglue_score(*parts)})
    return pd.DataFrame(rows)


def bars(ax: Axes, table: pd.DataFrame, *, gain: pd.Series, hollow: tuple[str, ...] = ()) -> None:
    """Grouped bars: a group per row, a colour per column (a model); NaN is drawn as a small "n/a".

    gain: per row, the number written above the last bar, with its sign.
    hollow: columns that the paper shows in gray and does not compare with, as outlines with their
    names inside.
    """
    width = 0.84 / len(table.columns)
    upright = {"textcoords": "offset points", "rotation": 90, "ha": "center", "size": 4.5}
    for k, model in enumerate(table.columns):
        x = np.arange(len(table)) + (k - (len(table.columns) - 1) / 2) * width
        if model in hollow:
            ax.bar(x, table[model], 0.85 * width, fc="white", ec=MID, lw=0.6)
        else:
            color = PALETTE[model] if model in PALETTE else PALETTE[model.rsplit("-", 1)[0]]
            ax.bar(x, table[model], 0.92 * width, color=color, label=model)
        for at, value in zip(x, table[model], strict=True):
            if np.isnan(value) or model in hollow:
                text = "n/a" if np.isnan(value) else model
                ax.annotate(
                    text, (at, 0), (0, 2), color=MID if np.isnan(value) else DARK, **upright
                )
    # Here x is where the last bars stand.
    for at, top, value in zip(x, table.iloc[:, -2:].max(axis=1), gain, strict=True):
        if not np.isnan(value):
            above = {"textcoords": "offset points", "ha": "center", "size": 5.5, "color": BLUE}
            ax.annotate(f"{value:+.1f}", (at, top), (0, 2), **above)
    ax.set_xticks(range(len(table)), table.index)
    ax.tick_params(axis="x", length=0)


def ours(ax: Axes, labels: dict[str, str], *, ylabel: str) -> pd.DataFrame:
    """Draw our own measurements (headline name -> tick label) in a panel of their own; returns them
    as published rows.

    Where there are several training seeds, each is a point beside the bar of their mean. The title
    says what the intervals are over. Apart from published bars on purpose: the embedded world is a
    toy, its values compare with none.
    """
    frame = headline(list(labels))
    if frame.empty:
        not_run(ax)
    else:
        factor = np.where(frame["unit"] == "fraction", 100.0, 1.0)
        shown = frame[["value", "low", "high"]].mul(factor, axis=0)
        shown["label"] = frame["name"].map(labels)
        points = zip(factor, frame["each"], strict=True)
        shown["each"] = [[f * v for v in each] if len(each) > 1 else [] for f, each in points]
        columns = dict(x="label", y="value", low="low", high="high", seeds="each")
        figures.intervals(ax, shown, **columns, color=OURS)
        ax.tick_params(axis="x", labelsize=5.5)
        ax.set_ylabel(ylabel)
        over = [f"95%: {words}" for words in frame["interval"].unique() if words]
        note = [f"ours, scale={frame['scale'][0]}", "(toy world: not comparable)"]
        over += ["points: training seeds"] if any(shown["each"].map(len)) else []
        note += [figures.plain(words, 30, lines=2) for words in over]
        ax.set_title("\n".join(note), color=OURS, size=5.5)
    rows = frame.rename(
        columns={"name": "benchmark", "scale": "size", "unit": "metric", "command": "source"}
    )
    each = frame["each"].map(lambda values: " ".join(f"{value:.6g}" for value in values))
    columns = ["table", "benchmark", "metric", "size", "value", "low", "high", "interval", "each"]
    return rows.assign(table="ours", each=each)[[*columns, "source"]]


def not_run(ax: Axes) -> None:
    """An empty panel that says why it is empty."""
    ax.text(
        0.5, 0.5, "ours: not yet run", transform=ax.transAxes, ha="center", va="center", color=OURS
    )
    ax.set_axis_off()


def deviations(first: Mapping, second: Mapping, *, images: float) -> list[str]:
    """In words, what the configurations of two runs, of stage 1 and stage 2, have otherwise than
    the paper; nothing for a run as published.

    `images`: the share of stage 1's batches that are images. Sizes, steps, batches and rates are
    not named: those of a small run all differ. Source: VideoPrism sections 3 and 4.1, tables 9 to 11.
    """
    learned, method, model = second["optim"], second["stage2"], first["model"]
    depth = second["model"]["decoder"]["layers"]
    steps = f"{method['shuffle_warmup']:,} of {method['steps']:,} steps"
    found = {
        "from random weights (paper: from CoCa)": not first["weights"],
        f"images in {images:.0%} of stage 1's batches (paper: unknown)": images > 0,
        f"{model['temporal_layers']} temporal layers (paper: 4)": model["temporal_layers"] != 4,
        f"decoders of depth {depth} (paper: 4)": depth != 4,
        "AdamW (paper: Adafactor)": learned["optimiser"] != "adafactor",
        "stage 2's token targets normalised per clip (paper: as they are)": method[
            "normalise_targets"
        ],
        f"shuffling warmed up over {steps} (paper: all from the start)": method["shuffle_warmup"],
        f"{method['mask']} masks (paper: BEVT)": method["mask"] != "bevt",
        "no token loss": not method["local_loss"],
        "no global loss": not method["global_loss"],
        "no token shuffling": not method["shuffle_tokens"],
        "token loss on masked tokens only": method["masked_only"],
    }
    return [words for words, differs in found.items() if differs]
