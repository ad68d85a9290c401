"""The claims board: `python -m vplib.claims` writes `reports/CLAIMS.md` from `reports/claims.yaml`.

Published numbers come from `reports/published/` by key, ours from `reports/tables/sweep.csv` and
`seeds.csv`; none is typed. A verdict follows from an interval over training seeds by one rule, or
from the published tables alone.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from vplib import comparisons, config, environment, files, paths, published, results, sweep
from vplib.comparisons import Difference

LEAST = 5  # training seeds of a verdict
RULE = (
    f"over at least {LEAST} training seeds, with a paired 95% t interval: *supported* where all of it "
    "lies where the claim says, *not supported* where all of it lies elsewhere, else *inconclusive*"
)


class Outcome(NamedTuple):
    """What was found of one test of a claim: in points; `difference` is None where nothing was run."""

    difference: Difference | None
    verdict: str
    command: str
    rows: str
    scale: str = ""


def claims() -> list[dict]:
    """The groups of `reports/claims.yaml`, with `tests` a list for every claim.

    Raises ValueError for a claim that is neither tested, computed nor said to be untestable.
    """
    groups = yaml.safe_load((paths.ROOT / "reports" / "claims.yaml").read_text(encoding="utf-8"))
    for claim in (claim for group in groups for claim in group["claims"]):
        claim.setdefault("tests", [])
        if not (claim["tests"] or "compute" in claim or "untestable" in claim):
            raise ValueError(f"claim {claim['id']} says not how it is decided")
    return groups


# --- published numbers ---------------------------------------------------------------------------


def number(keys: Mapping[str, str]) -> float:
    """The one published value with these columns, minus that with those that `minus` changes.

    Raises ValueError unless exactly one row of published_results.csv has them and a value.
    """
    keys, minus = dict(keys), keys.get("minus")
    keys.pop("minus", None)
    rows = published.numbers(keys["table"])
    for column, value in keys.items():
        rows = rows[rows[column] == value]
    if len(rows) != 1 or rows["value"].isna().any():
        raise ValueError(f"{len(rows)} rows of published_results.csv, or an empty one, are {keys}")
    value = float(rows["value"].iloc[0])
    return round(value - number(keys | minus), 6) if minus else value


def _published(claim: Mapping) -> str:
    words, told = {"ZST2V": "text to video", "ZSV2T": "video to text", "ZSC": "zero-shot"}, []
    for keys in claim.get("published", []):
        parts = [
            keys["benchmark"],
            words.get(keys.get("task")),
            keys.get("note", "").rpartition(" ")[2],
        ]
        told.append(f"{' '.join(filter(None, parts))} {number(keys):+.1f}")
    return ", ".join(told) or "-"


# --- our experiments -----------------------------------------------------------------------------


def outcomes(test: Mapping, scores: pd.DataFrame, record: pd.DataFrame) -> list[Outcome]:
    """What our runs say of one test, a row of the record at each scale that has it, the largest
    first. `scores` is `sweep.csv`, `record` is `seeds.csv`.
    """
    if "sweep" in test:
        asked = test["sweep"]
        pair = [asked[side] for side in ("one", "other")]
        one, other = (comparisons.each(scores, asked["task"], whose) for whose in pair)
        swept = ",".join(dict.fromkeys(whose.partition(".")[0] for whose in pair))
        command = f"python -m vplib.sweep run 'ablation={swept}' 'seed=range({LEAST})'"
        rows = f"{asked['task']}: {asked['one']} - {asked['other']} {_expected(asked)}"
        return [_outcome(one, other, asked, (command, rows, "sweep"))]
    asked = test["record"]
    rows = asked["row"] + (f" - {asked['minus']}" if "minus" in asked else "")
    rows += f" {_expected(asked)}"
    own = record[record["name"] == asked["row"]]
    scales = sorted({*own["scale"]}, key=published.SCALES.index, reverse=True)
    found = []
    for scale in scales:
        one = _record(record, asked["row"], scale)
        other = _record(record, asked["minus"], scale) if "minus" in asked else one * 0
        command = own[own["scale"] == scale]["command"].iloc[0]
        found.append(_outcome(one, other, asked, (command, rows, scale)))
    return found or [Outcome(None, "not yet run", "", rows)]


def _outcome(
    one: pd.Series, other: pd.Series, asked: Mapping, told: tuple[str, str, str]
) -> Outcome:
    found = comparisons.between(one, other)
    if found is None:
        alone = len(one.index.intersection(other.index)) == 1
        return Outcome(None, "inconclusive (1 seed)" if alone else "not yet run", *told)
    return Outcome(found, verdict(found, asked), *told)


def _expected(asked: Mapping) -> str:
    return {"above": "> 0", "below": "< 0"}.get(asked["expect"]) or f"within ±{asked['points']}"


def verdict(found: Difference, asked: Mapping) -> str:
    """By RULE; `asked` expects the difference `above` 0, `below` it or `within` so many `points`."""
    if found.seeds < LEAST:
        return f"inconclusive ({found.seeds} seeds)"
    end = {"above": (0, math.inf), "below": (-math.inf, 0)}
    least, most = end.get(asked["expect"]) or (-asked["points"], asked["points"])
    if least < found.low and found.high < most:
        return "supported"
    if found.high < least or found.low > most:
        return "not supported"
    return "inconclusive"


def _record(record: pd.DataFrame, row: str, scale: str) -> pd.Series:
    """A row of the record, of each seed at a scale, in points."""
    own = record[(record["name"] == row) & (record["scale"] == scale)].set_index("seed")
    return own["value"] * (100 if (own["unit"] == "fraction").all() else 1)


# --- what follows from the published tables ------------------------------------------------------


def _deltas(*families: str) -> pd.DataFrame:
    found = published.deltas(published.numbers())
    return found[found["family"].isin(families)] if families else found


def wins() -> tuple[bool, str]:
    """More benchmarks than any other number of the editions."""
    found = _deltas()["delta"]
    return bool(
        (found > 0).sum() >= 30
    ), f"{(found > 0).sum()} of {len(found)} in the later edition"


def corpus_size() -> tuple[bool, str]:
    """Sums over the corpora of Table 1."""
    rows = published.corpora().query("role == 'pretraining' and quality.notna()")
    high = rows["quality"] == "High"
    sums = [rows[mask]["n_clips"].sum() / 1e6 for mask in (high, ~high)]
    holds = [round(sums[0]), int(sums[1])] == [36, 582]
    return holds, f"rows of Table 1 add up to {sums[0]:.1f} and {sums[1]:.1f} million"


def similarity_spread() -> tuple[bool, str]:
    """No bin of the histogram holds most clips; corpora differ in their mean."""
    bins = published.numbers("F5").query("benchmark.str.contains('CLIP similarity')")["value"]
    means = published.corpora()["grounding_score"].dropna()
    told = f"largest bin {bins.max():.1f}% of clips; means by corpus {means.min():g} to {means.max():g}"
    return bool(bins.max() < 50), told


def videoglue_best() -> tuple[bool, str]:
    """Against the best of all others on each benchmark."""
    found = _deltas("VideoGLUE")["delta"]
    told = f"{(found > 0).sum()} of {len(found)} benchmarks, by {found.min():+.1f} to {found.max():+.1f}"
    return bool((found > 0).all()), told


def no_second() -> tuple[bool, str]:
    """Whose model comes next behind VideoPrism."""
    found = _deltas("VideoGLUE")["label_best"].str.rpartition("-")[0].value_counts()
    told = ", ".join(f"{name} {count}" for name, count in found.items())
    return len(found) > 1, f"best of the others on so many of {found.sum()} benchmarks: {told}"


def language_most() -> tuple[bool, str]:
    """Retrieval, zero-shot classification, captioning and question answering."""
    families = [name for name in dict.fromkeys(published.FAMILIES.values()) if "ero-shot" in name]
    found = _deltas(*families)["delta"]
    return bool((found > 0).mean() > 0.5), f"best on {(found > 0).sum()} of {len(found)}"


def domain_experts() -> tuple[bool, str]:
    """Table 7, g against models made for each data set; CRIM13 has none."""
    found = published.numbers("Blog-science").set_index("benchmark")["value"]
    return bool((found > 0).all()), ", ".join(f"{name} {v:+.1f}" for name, v in found.items())


def alternating() -> tuple[bool, str]:
    """Table 22: the four cells of two corpora."""
    rows = published.numbers("T22")
    two = "VideoPrism Stage 1: InternVid + YT-Temporal-180M"
    gaps = [
        rows[rows["model"] == name].set_index(["benchmark", "task"])["value"]
        for name in (two, f"{two} (mixed)")
    ]
    found = gaps[0] - gaps[1]
    return bool((found > 0).all()), f"{(found > 0).sum()} of {len(found)} cells are higher"


def generated_best() -> tuple[bool, str]:
    """R@1 of a stage 1 of each corpus alone, by how the text was made."""
    rows = published.corpora().dropna(subset="avg_zs_r1").sort_values("avg_zs_r1", ascending=False)
    best = rows.head(2)
    told = ", ".join(f"{r['name']} {r['avg_zs_r1']:.1f}" for _, r in rows.head(3).iterrows())
    small = rows["n_clips"].rank(ascending=False).loc[best.index].min() > 1
    return bool(best["text_source"].str.contains("generated").all() and small), f"R@1: {told}"


def umt_score() -> tuple[bool, str]:
    """Of Table 17, printed."""
    scores = published.numbers("T17").query("metric == 'VGS'").set_index("model")["value"]
    gains = {name: 100 * (scores["VideoPrism*"] / scores[name] - 1) for name in ("UMT", "VATT")}
    told = ", ".join(f"over {name} {gain:.1f}%" for name, gain in gains.items())
    return bool(round(gains["UMT"], 1) == 13.6), told


def text_gains() -> tuple[bool, str]:
    """Of Tables 3 and 4."""
    found = _deltas().set_index(["benchmark", "task"])["delta"]
    named = {
        "ActivityNet t2v": next(
            v for k, v in found.items() if "ActivityNet" in k[0] and k[1] == "ZST2V"
        ),
        "v2t": next(v for k, v in found.items() if "ActivityNet" in k[0] and k[1] == "ZSV2T"),
        "SSv2-Events": next(v for k, v in found.items() if "Events" in k[0]),
    }
    holds = named["ActivityNet t2v"] == 9.5 and named["SSv2-Events"] == 4.4
    return holds, ", ".join(f"{name} {value:+.1f}" for name, value in named.items())


COMPUTED = {
    function.__name__: function
    for function in (
        *(wins, corpus_size, similarity_spread, videoglue_best, no_second, language_most),
        *(domain_experts, alternating, generated_best, umt_score, text_gains),
    )
}


# --- the board -----------------------------------------------------------------------------------


def board(scores: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row for every test of a claim, and for every claim that is computed or cannot be tested;
    with other `scores` than those of `sweep.csv`, where they are given.

    Columns: group, claim, said, where, published, rows, scale, command, verdict, and of a test
    value, low, high, deviation (points), seeds, effect, p, holm (p adjusted over all tests of the
    board), detectable (points).
    """
    committed, record = tables()
    scores, found = committed if scores is None else scores, []
    for group in claims():
        for claim in group["claims"]:
            own = {"group": group["group"], "claim": claim["id"], "published": _published(claim)}
            own |= {key: claim[key] for key in ("said", "where")}
            if "compute" in claim:
                holds, told = COMPUTED[claim["compute"]]()
                said = "recomputed: " + ("holds" if holds else "does not hold")
                found.append(own | {"verdict": said, "rows": told})
            for test in claim["tests"]:
                found += [own | _row(one) for one in outcomes(test, scores, record)]
            if "untestable" in claim:
                found.append(own | {"verdict": "not testable here", "rows": claim["untestable"]})
    columns = ["group", "claim", "said", "where", "published", "rows", "scale", "command"]
    numbers = ["value", "low", "high", "deviation", "seeds", "effect", "p", "holm", "detectable"]
    frame = pd.DataFrame(found).reindex(columns=[*columns, "verdict", *numbers])
    known = frame["p"].notna()
    frame.loc[known, "holm"] = comparisons.holm(frame.loc[known, "p"].tolist())
    return frame


def tables(place: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`sweep.csv` and `seeds.csv` of the reports in `place` (default: those of runs), with numbers
    as such; without rows where there is no file.
    """
    found = []
    for name, columns in ((sweep.TABLE, sweep.COLUMNS), ("seeds", results.RECORD)):
        frame = pd.DataFrame(results.read(name, place), columns=columns)
        found.append(frame.assign(**{key: pd.to_numeric(frame[key]) for key in ("seed", "value")}))
    return found[0], found[1]


def _row(one: Outcome) -> dict:
    told = {"verdict": one.verdict, "command": one.command, "rows": one.rows, "scale": one.scale}
    if one.difference is None:
        return told
    known = one.difference
    least = comparisons.detectable(known.deviation, known.seeds)
    return told | known._asdict() | {"detectable": least}


def page(frame: pd.DataFrame) -> str:
    """The board as Markdown."""
    tests = frame[frame["command"].notna() & (frame["command"] != "")]
    counts = frame["verdict"].str.partition(" (")[0].value_counts()
    enough = int((tests["seeds"] >= LEAST).sum())
    survive = tests[tests["verdict"].isin(["supported", "not supported"]) & (tests["holm"] < 0.05)]
    lines = [
        "# The claims board",
        "",
        "Written by `python -m vplib.claims` from [claims.yaml](claims.yaml), "
        "[published/](published/) and [tables/](tables/); nothing here is typed. Every empirical "
        "sentence of the blog post and every ablation claim of the paper: what was published, what "
        "a small controlled world says, and a verdict. Claims are paraphrases, in our words, with "
        "the place where the source says so: none is a quotation.",
        "",
        f"**Rule.** {RULE[0].upper()}{RULE[1:]}. Fewer seeds decide nothing. *Recomputed*: from the "
        "published tables alone. *Not testable here*: with the reason. *Not yet run*: the command is "
        "there.",
        "",
        "**Ours** are differences in points, mean [95% interval] over training seeds, in a toy world: "
        "directions compare with the paper, sizes do not. *g* is Hedges' effect size of paired "
        "differences; *could detect* the smallest true difference that so many seeds find in 80% of "
        "cases, two-sided at 5%. All seeds share their test clips. Predictions stand in claims.yaml.",
        "",
        f"**Many comparisons.** {len(tests)} tests stand here, {enough} of them with {LEAST} seeds or "
        f"more; at 5% one in twenty of true nulls is found by luck. Of the verdicts that are decided, "
        f"{len(survive)} have p below 5% after Holm's adjustment over all tests that were run "
        "(column *p*, adjusted); the others should be read as hints.",
        "",
        "**Now:** " + ", ".join(f"{count} {name}" for name, count in counts.items()) + ".",
    ]
    for group in claims():
        own = frame[frame["group"] == group["group"]]
        lines += ["", f"## {group['group']}", "", group["about"], ""]
        claim = "Claim, paraphrased" if group.get("paraphrase") else "Claim"
        lines += [
            f"| {claim} | Where | Published | What was looked at | Ours | g | p | Could detect | "
            "Verdict |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        before = None
        for row in own.itertuples():
            first = row.claim != before
            cells = [row.said, row.where, row.published] if first else ["", "", ""]
            lines.append(_line([*cells, row.rows, *_numbers(row), row.verdict]))
            before = row.claim
    lines += [
        "",
        "## The experiments",
        "",
        "One command each; what is finished is not run again.",
        "",
    ]
    lines += ["```bash"]
    lines += [*dict.fromkeys(tests["command"])]
    return "\n".join([*lines, "```", ""])


def _numbers(row: object) -> list[str]:
    if np.isnan(row.value):
        return ["-"] * 4
    shown = (
        f"{row.value:+.1f} [{row.low:+.1f}, {row.high:+.1f}], {row.seeds:.0f} seeds, `{row.scale}`"
    )
    return [shown, f"{row.effect:.1f}", f"{row.holm:.3f}", f"{row.detectable:.1f}"]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def main(words: list[str]) -> None:
    """Write the board; no words are taken."""
    if words:
        sys.exit("usage: python -m vplib.claims")
    environment.write_any_letter()
    target = paths.REPORTS / "CLAIMS.md"
    try:
        files.folder(target.parent)
        files.write(target, page(board()))
    except (config.ConfigError, files.FileError) as error:
        sys.exit(f"error: {error}")
    print(paths.short(target))


if __name__ == "__main__":
    main(sys.argv[1:])
