"""Captions of one's own videos, by a bridge trained on their own captions.

    python benchmarks/own_captions.py FOLDER            prints the table
    python benchmarks/own_captions.py FOLDER --record   also writes reports/tables/own_captions.csv

FOLDER has `train/` and `val/` with a metadata.jsonl each, whose lines have `file_name` and `text`.
`42_captioning_qa` at `lesson` trains a language model on the training captions, freezes it, and then the
bridge from the shipped `study` stage 2, with training seeds 0 to 2; the captions of `val` are scored
beside those of the same bridge from random weights, from the middle frame alone, and from no video, and
beside the best constant caption. Nothing is chosen on `val`. A stopped run continues.
"""

import argparse
import csv
import io
import json
from pathlib import Path

from own_videos import WEIGHTS, run

from vplib import files, paths

COLUMNS = ["sees", "seed", "cider", "low", "high", "unit", "train", "val"]
SEEN = {
    "stage2": "study stage 2",
    "single_frame": "study stage 2, middle frame",
    "random_init": "random weights",
    "text_only": "no video",
    "constant": "constant caption",
}


def main() -> None:
    parser = argparse.ArgumentParser(usage="python benchmarks/own_captions.py FOLDER [--record]")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    count = {
        part: len((asked.folder / part / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
        for part in ("train", "val")
    }
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for seed in range(3):
        folder = run(
            "42_captioning_qa",
            "data=folder",
            f"data.root={asked.folder.resolve()}",
            f"weights={WEIGHTS}",
            f"seed={seed}",
            f"tag={paths.tag('folder', 'lesson', seed=seed)}",
        )
        rows = json.loads((folder / "metrics.json").read_text())["rows"]
        for name, words in SEEN.items():
            row = rows[f"captioning_cider_{name}"]
            shown = {"cider": "value", "low": "low", "high": "high"}
            shown = {key: f"{row[of]:.4g}" for key, of in shown.items()}
            writer.writerow({"sees": words, "seed": seed, "unit": row["unit"]} | shown | count)
    print(table.getvalue(), end="")
    if asked.record:
        files.write(paths.REPORTS / "tables" / "own_captions.csv", table.getvalue())


if __name__ == "__main__":
    main()
