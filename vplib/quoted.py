"""`python -m vplib.quoted`: numbers of the headline table where pages quote them.

A page says `<!--q NAME SCALE-->` before a number and `<!--/q-->` after it, `<!--q TASK ONE minus OTHER-->`
for a difference of the sweep (as in `reports/claims.yaml`), or `<!--q table-->` around the README's
table of results; what stands between is written from `reports/tables/`. What is not there is "not yet
run", so a page may be written before its numbers.
"""

import csv
import re
import sys
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from vplib import claims, comparisons, environment, files, paths

REPORTS = paths.ROOT / "reports"
HEADLINE = REPORTS / "tables" / "headline.csv"
MARK = re.compile(r"<!--q ([^>]*?)-->.*?<!--/q-->", re.DOTALL)
SCALES = ("lesson", "study")  # columns of the README's table
MISSING = "not yet run"
TABLE = {  # what the README's table calls a row of the headline table
    "Motion, probe on stage 2": "motion_stage2_top1",
    "· minus stage 1": "motion_stage2_minus_stage1",
    "· minus random weights": "motion_stage2_minus_random",
    "Object, probe on stage 2": "object_stage2_top1",
    "Object, minus stage 1": "object_stage2_minus_stage1",
    "Two motions in their order, minus stage 1": "fine_motion_stage2_minus_stage1",
    "Several motions, minus stage 1": "multilabel_stage2_minus_stage1",
    "Events in videos of a minute, minus stage 1": "localisation_temporal_stage2_minus_stage1",
    "What each box does, minus stage 1": "localisation_spatiotemporal_stage2_minus_stage1",
    "Right clip of 256 first for a text, stage 2 after LiT": "retrieval_t2v_r1",
    "· stage 1": "retrieval_t2v_stage1_r1",
    "Object and colour named without labels": "zero_shot_appearance_top1",
    "Captions: CIDEr-D (0 to 10), minus no video": "captioning_cider_stage2_minus_text_only",
    "Answers: what things look like, stage 2": "qa_appearance_stage2_top1",
    "· minus no video": "qa_appearance_stage2_minus_text_only",
    "· motion, minus no video": "qa_motion_stage2_minus_text_only",
    "· what belongs to what, minus no video": "qa_bound_stage2_minus_text_only",
    "Behaviour of flies, minus a specialist": "science_flies_minus_specialist",
    "· mice": "science_mice_minus_specialist",
    "· chimps": "science_chimps_minus_specialist",
    "· kabr": "science_kabr_minus_specialist",
}


class QuoteError(ValueError):
    """A mark that cannot be filled. One sentence: where, what is wrong, what to do."""


def rows(path: Path = HEADLINE) -> dict[tuple[str, str], dict]:
    """The headline table by name and scale."""
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["name"], row["scale"]): row for row in csv.DictReader(file)}


def told(row: dict | None) -> str:
    """A row in words: "71.7% [68.9, 74.4]"; MISSING for none."""
    if row is None:
        return MISSING
    value, *ends = (Decimal(row[k]) for k in ("value", "low", "high") if row[k])
    if row["unit"] not in ("fraction", "points"):
        return f"{value:.3g}" + (f" [{ends[0]:.3g}, {ends[1]:.3g}]" if ends else "")
    share = row["unit"] == "fraction"
    shown = [
        f"{(100 * x if share else x).quantize(Decimal('0.1'), ROUND_HALF_UP):{'' if share else '+'}}"
        for x in (value, *ends)
    ]
    return shown[0] + ("%" if share else "") + (f" [{shown[1]}, {shown[2]}]" if ends else "")


def difference(task: str, one: str, other: str) -> str:
    """A paired difference of two ablations over their training seeds, in words."""
    scores, _ = claims.tables(REPORTS)
    found = comparisons.between(*(comparisons.each(scores, task, whose) for whose in (one, other)))
    if found is None:
        return MISSING
    shown = {k: str(v) for k, v in found._asdict().items()}
    return f"{told(shown | {'unit': 'points'})} ({found.seeds} seeds)"


def table(known: dict) -> str:
    """The README's table of results."""
    lines = [
        "| Per cent, differences in points; 95% intervals | "
        + " | ".join(f"`{s}`" for s in SCALES)
        + " |",
        "|---|---|---|",
    ]
    for words, name in TABLE.items():
        lines.append(f"| {words} | {' | '.join(told(known.get((name, s))) for s in SCALES)} |")
    return "\n".join(lines)


def filled(text: str, known: dict, *, where: str) -> str:
    """A page with every mark filled. Raises QuoteError for a mark that says neither a row nor table."""

    def fill(found: re.Match) -> str:
        words = found[1].split()
        if words == ["table"]:
            inside = f"\n\n{table(known)}\n\n"
        elif len(words) == 2 and words[1] in (*SCALES, "sweep"):
            inside = told(known.get(tuple(words)))
        elif len(words) == 4 and words[2] == "minus":
            inside = difference(words[0], words[1], words[3])
        else:
            raise QuoteError(
                f"{where}: <!--q {found[1]}--> must be a name and a scale, a difference, or table"
            )
        return f"<!--q {found[1]}-->{inside}<!--/q-->"

    if text.count("<!--q ") != len(MARK.findall(text)):
        raise QuoteError(f"{where} has a mark that does not end: put <!--/q--> after it")
    return MARK.sub(fill, text)


def pages(root: Path = paths.ROOT) -> list[Path]:
    """The pages that may quote."""
    return [root / "README.md", *sorted((root / "course").rglob("*.md"))]


def main(words: list[str]) -> None:
    """What the module says."""
    environment.write_any_letter()
    if words:
        sys.exit("usage: python -m vplib.quoted")
    try:
        known = rows()
        for path in pages():
            text = path.read_text(encoding="utf-8")
            if (new := filled(text, known, where=paths.short(path))) != text:
                files.write(path, new)
                print(paths.short(path))
    except (OSError, QuoteError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
