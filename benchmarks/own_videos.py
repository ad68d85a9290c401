"""What adapting buys on a folder of one's own videos: four ways of fine-tuning, and stage 2 first.

    python benchmarks/own_videos.py FOLDER            prints the table
    python benchmarks/own_videos.py FOLDER --record   also writes reports/tables/own_videos.csv

FOLDER has `train/` and `val/` with a metadata.jsonl each. Classes with fewer than five training clips
or none to test are left out, as nothing can be learned or said of them. The shipped `study` stage 2 is
adapted by `45_own_classifier` in its four ways, each with three repeats; then `30_stage2` continues
masked distillation on all training clips, without labels, with training seeds 0 to 2, and a frozen
probe follows each. Nothing is chosen on the test clips: recipes are those of conf/base.yaml. A stopped
run continues.
"""

import argparse
import csv
import io
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vplib import files, paths

WEIGHTS = "reports/weights/study-stage2.npz"
COLUMNS = [
    "weights",
    "adaptation",
    "seed",
    "value",
    "low",
    "high",
    "unit",
    "train",
    "test",
    "classes",
]
FEWEST = 5


def usable(folder: Path, place: Path) -> dict[str, int]:
    """A copy of FOLDER at `place` with the classes that can be learned; how many clips, and classes."""
    parts = {
        part: [
            json.loads(line) for line in (folder / part / "metadata.jsonl").open(encoding="utf-8")
        ]
        for part in ("train", "val")
    }
    count = {part: Counter(one["label"] for one in rows) for part, rows in parts.items()}
    known = {name for name, n in count["train"].items() if n >= FEWEST and count["val"][name]}
    sizes = {"classes": len(known)}
    for part, rows in parts.items():
        kept = [one for one in rows if one["label"] in known]
        sizes[part] = len(kept)
        for one in kept:
            target = place / part / one["file_name"]
            if not target.exists():
                files.folder(target.parent)
                shutil.copy(folder / part / one["file_name"], target)
        told = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in kept)
        files.write(place / part / "metadata.jsonl", told)
    return {"train": sizes["train"], "test": sizes["val"], "classes": sizes["classes"]}


def run(notebook: str, *words: str) -> Path:
    """The folder of a finished run; one that is finished is not run again."""
    (tag,) = [word.removeprefix("tag=") for word in words if word.startswith("tag=")]
    folder = paths.RUNS / notebook / tag
    if not (folder / "metrics.json").is_file():
        subprocess.run([sys.executable, "-m", "vplib.run", notebook, *words], check=True)
    return folder


def probe(videos: Path, weights: str, adaptation: str, name: str) -> dict:
    """The row of a run of `45_own_classifier`."""
    folder = run(
        "45_own_classifier",
        "data=folder",
        f"data.root={videos}",
        f"weights={weights}",
        f"probe.adaptation={adaptation}",
        "probe.seeds=3",
        "hardware.dtype=float32",
        f"tag=own-{name}-{adaptation}",
    )
    (row,) = json.loads((folder / "metrics.json").read_text())["rows"].values()
    return {"adaptation": adaptation} | {key: row[key] for key in ("value", "low", "high", "unit")}


def main() -> None:
    parser = argparse.ArgumentParser(usage="python benchmarks/own_videos.py FOLDER [--record]")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()
    videos, rows = paths.DATA / "own_videos", []
    sizes = usable(asked.folder, videos)
    for adaptation in ("frozen", "mlap", "adapter", "end_to_end"):
        rows.append(
            {"weights": "study stage 2", "seed": ""} | probe(videos, WEIGHTS, adaptation, "study")
        )
    for seed in range(3):
        trained = run(
            "30_stage2",
            "data=folder",
            f"data.root={asked.folder.resolve()}",
            f"weights={WEIGHTS}",
            f"seed={seed}",
            f"tag=own-s{seed}",
        )
        row = probe(videos, paths.short(trained / "weights.npz"), "frozen", f"adapted{seed}")
        rows.append({"weights": "after stage 2 on these videos", "seed": seed} | row)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        shown = {key: f"{row[key]:.4g}" for key in ("value", "low", "high")}
        writer.writerow(row | shown | sizes)
    print(table.getvalue(), end="")
    if asked.record:
        files.write(paths.REPORTS / "tables" / "own_videos.csv", table.getvalue())


if __name__ == "__main__":
    main()
