"""What the record says of encoders, as a model card tells it: results of the hub's form, and tables."""

from pathlib import Path
from typing import NamedTuple

from huggingface_hub import EvalResult

from vplib import results

DATASET = "embedded-world"
ENCODERS = {"random_init": "random weights", "stage1": "stage 1", "stage2": "stage 2"}


class Measure(NamedTuple):
    """Something that is measured of every encoder, and its rows of the record."""

    what: str
    family: str  # of the embedded world
    task: str  # of the hub
    metric: str
    rows: str  # {} is the encoder; of what answers to text, `stage1_`, or nothing for stage 2
    guessing: str = ""  # the row of what one gets without looking


_PROBE, _TEXTS, _NAMED = "video-classification", "text-video-retrieval", "zero-shot-classification"
_MAP = "mean average precision"
MEASURES = [Measure(*told) for told in (
    ("motion of one of several objects: probe, top-1",
     "motion", _PROBE, "accuracy", "motion_{}_top1", "motion_chance"),
    ("two motions in their order: probe, top-1",
     "fine_motion", _PROBE, "accuracy", "fine_motion_{}_top1", "fine_motion_chance"),
    ("foreground object: probe, top-1",
     "appearance", _PROBE, "accuracy", "object_{}_top1", "object_chance"),
    ("all motions of a clip: probe, mAP",
     "multilabel", _PROBE, _MAP, "multilabel_{}_map", "multilabel_chance"),
    ("text to video: recall at 1", "retrieval", _TEXTS, "recall at 1", "retrieval_t2v_{}r1"),
    ("video to text: recall at 1", "retrieval", _TEXTS, "recall at 1", "retrieval_v2t_{}r1"),
    ("foreground object, named without labels: top-1",
     "appearance", _NAMED, "accuracy", "zero_shot_object_{}top1", "object_chance"),
    ("motion, named without labels: top-1",
     "motion", _NAMED, "accuracy", "zero_shot_motion_{}top1", "motion_chance"),
    ("events of a minute: mAP", "untrimmed", "temporal-localisation", _MAP,
     "localisation_temporal_{}_map", "localisation_temporal_prior_map"),
    ("who does what in given boxes: mAP", "boxes", "spatiotemporal-localisation", _MAP,
     "localisation_spatiotemporal_{}_map", "localisation_spatiotemporal_prior_map"),
    ("behaviour of drawn flies: mAP",
     "flies", _PROBE, _MAP, "science_flies_{}_map", "science_flies_chance"),
    ("behaviour of drawn mice: mAP",
     "mice", _PROBE, _MAP, "science_mice_{}_map", "science_mice_chance"),
    ("behaviour of drawn chimpanzees: mAP",
     "chimps", _PROBE, _MAP, "science_chimps_{}_map", "science_chimps_chance"),
    ("behaviour of a drawn animal that is followed: accuracy, mean of classes",
     "kabr", _PROBE, "accuracy", "science_kabr_{}_macro", "science_kabr_chance"),
)]  # fmt: skip


def row_of(measure: Measure, encoder: str) -> str:
    """The name in the record of what `measure` says of an encoder, whether or not it was measured."""
    if "{}_" in measure.rows:
        return measure.rows.format(encoder)
    return measure.rows.format("" if encoder == "stage2" else f"{encoder}_")


def cell(row: dict | None) -> str:
    """A value of the record as it stands there, with its interval."""
    if not row:
        return ""
    return f"{row['value']} [{row['low']}, {row['high']}]" if row["low"] else row["value"]


def evaluation(place: Path, scales: list[str]) -> str:
    """A table for each scale, from `tables/headline.csv` in the folder `place`."""
    found = {(row["name"], row["scale"]): row for row in results.read(place=place)}
    parts = []
    for scale in scales:
        lines, commands = [], {}
        for measure in MEASURES:
            shown = [found.get((row_of(measure, encoder), scale)) for encoder in ENCODERS]
            if shown[-1] is None:
                continue
            commands |= {row["command"]: None for row in shown if row}
            guess = found.get((measure.guessing, scale))
            seeds = ", ".join(sorted({row["seeds"] for row in shown if row}))
            lines.append([measure.what, *map(cell, (guess, *shown)), seeds])
        if lines:
            head = ["measured", "guessing", *ENCODERS.values(), "training seeds"]
            told = "".join(f"{command}\n" for command in commands)
            parts.append(f"### `{scale}`\n\n{table(head, lines)}\n```bash\n{told}```\n")
    if not parts:
        return "Not measured.\n"
    return "\n".join([_EVALUATED, *parts])


_EVALUATED = """\
On held-out clips of the embedded world, whose encoder is frozen: probes and heads are trained on its tokens, retrieval and naming take the
text tower. Fractions, with 95% intervals: over training seeds (t) where there are several, and then the mean over them; else over
test clips and probe seeds (bootstrap), of training seed 0. Guessing is chance, or a prior that sees no video. From
`reports/tables/headline.csv` of the repository, by the commands below each table; the header of this page has single files, from `seeds.csv` there.
"""


def model_index(place: Path, entries: dict[str, dict]) -> list[EvalResult]:
    """What the record, `tables/seeds.csv` in the folder `place`, says of each of these files."""
    record, found = record_of(place), []
    for file, entry in entries.items():
        for measure in MEASURES if entry["stage"] in ENCODERS else []:
            name = row_of(measure, entry["stage"])
            row = record.get((name, entry["scale"], str(entry["seed"])))
            if not row:
                continue
            told = {"row": name, "scale": entry["scale"], "training_seed": entry["seed"]}
            if row["low"]:
                told["interval"] = [float(row["low"]), float(row["high"])]
            found.append(
                EvalResult(
                    task_type=measure.task,
                    dataset_type=DATASET,
                    dataset_name="Embedded world",
                    dataset_config=measure.family,
                    dataset_split="test",
                    metric_type=measure.metric,
                    metric_name=measure.what,
                    metric_value=float(row["value"]),
                    metric_config=file,
                    metric_args=told,
                )
            )
    return found


def record_of(place: Path) -> dict[tuple[str, str, str], dict]:
    """Rows of the record by name, scale and training seed."""
    return {(row["name"], row["scale"], row["seed"]): row for row in results.read("seeds", place)}


def scored(record: dict, entry: dict) -> str:
    """Whose scores the record has for a shipped file: it names the file of stage 2 by its sha256."""
    if entry["stage"] != "stage2":
        return "its run's, unrounded" if entry["stage"] == "stage1" else ""
    names = {row_of(measure, "stage2") for measure in MEASURES}
    seen = {
        row["weights"]
        for (name, scale, seed), row in record.items()
        if name in names and (scale, seed) == (entry["scale"], str(entry["seed"]))
    } - {""}
    others = ", ".join(f"`{one[:12]}`" for one in sorted(seen - {entry["sha256"]}))
    return " and ".join(filter(None, ["this file" if entry["sha256"] in seen else "", others]))


def durations(place: Path, scales: list[str]) -> str:
    """Durations that were measured, with their machines."""
    lines = [
        f"- `{row['command']}`, `{row['scale']}`: {row['value']} {row['unit']} on {row['machine']}.\n"
        for row in results.read(place=place)
        if row["unit"] == "minutes" and row["scale"] in scales
    ]
    rest = "Everything else, energy and emissions among it, was not measured.\n"
    return "".join([*lines, "\n" if lines else "", rest])


def table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
