"""Planted copies of evaluation clips: how many are found, and how many other clips are flagged.

    python benchmarks/duplicates.py                                      10 clips of each family: a minute
    python benchmarks/duplicates.py --clips 60 --videos FOLDER --record

Evaluation clips of four families of the world are copied: encoded anew in fewer pixels, cropped to 75
to 100% of either side, shifted by up to half of their length (the copy goes on after the original has
ended), or all of that. A copy is found if it is traced to its original. Clips of the pretraining
corpora are none of theirs. With --videos the same is done with every second clip of a folder whose
metadata.jsonl names the `recording` of each; clips of other recordings must not be flagged, other
clips of the same one are counted apart. --record writes reports/tables/duplicates.csv.
"""

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import numpy as np
from scipy.stats import binomtest

from vplib import files, paths
from vplib.data import video
from vplib.data.duplicates import CHECKED, RATE, Evaluation, Match, pictures
from vplib.world import corpora

COLUMNS = ["source", "clips", "number", "flagged_percent", "low", "high", "bar", "clips_a_second"]
FAMILIES = ("motion/test", "appearance/test", "retrieval/test", "multilabel/test")
OTHERS = ("ac1", "wts70m", "yt180m", "internvid", "ac3")
KINDS = ("encoded anew", "cropped", "shifted", "all three")
FPS = 8.0


def scaled(frames: np.ndarray, share: float) -> np.ndarray:
    """Frames in fewer pixels, of even sizes."""
    height, width = (max(16, round(side * share / 2) * 2) for side in frames.shape[1:3])
    return np.stack(
        [
            av.VideoFrame.from_ndarray(np.ascontiguousarray(one), format="rgb24")
            .reformat(width=width, height=height, format="rgb24", interpolation="BICUBIC")
            .to_ndarray()
            for one in frames
        ]
    )


def planted(frames: np.ndarray, kind: str, length: int, fps: float, rng) -> bytes:
    """A copy of the first `length` frames, or of as many later ones."""
    every = kind == KINDS[-1]
    start = int(rng.integers(1, length // 2 + 1)) if every or kind == "shifted" else 0
    copy = frames[start : start + length]
    if every or kind == "cropped":
        share, (height, width) = rng.uniform(0.75, 1), copy.shape[1:3]
        top, left = (int(rng.integers(side - int(side * share) + 1)) for side in (height, width))
        copy = copy[:, top : top + int(height * share), left : left + int(width * share)]
    smaller = rng.uniform(0.5, 1) if every or kind == "encoded anew" else 1.0
    return video.encode(scaled(copy, smaller), fps)


def world(count: int) -> tuple[list, list]:
    """(frames, length, fps) of evaluation clips, and makers of (kind, file) of others."""

    def rendered(corpus: str, index: int, frames: int) -> np.ndarray:
        return corpora.render(corpora.scene(corpus, index), resolution=56, frames=frames)

    clips = [(rendered(one, i, 24), 16, FPS) for one in FAMILIES for i in range(count)]
    others = [
        ("of a pretraining corpus", lambda c=one, i=i: video.encode(rendered(c, i, 16), FPS))
        for one in OTHERS
        for i in range(4 * count)
    ]
    return clips, others


def real(folder: Path) -> tuple[list, list]:
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    facts = [json.loads(line) for line in lines]
    clips, known = [], {one["recording"] for one in facts[::2]}
    for one in facts[::2]:
        found = video.decode(folder / one["file_name"], name=one["file_name"])
        clips.append((found.frames, len(found.frames), found.fps))
    others = [
        (
            f"of {'the same' if one['recording'] in known else 'another'} recording",
            (folder / one["file_name"]).read_bytes,
        )
        for one in facts[1::2]
    ]
    return clips, others


def measured(
    source: str, clips: list, others: list[tuple[str, Callable[[], bytes]]], seed: int = 0
) -> Iterator[dict]:
    """A row for each kind of copy and of other clips."""
    rng = np.random.default_rng(seed)
    evaluation = Evaluation(
        [
            pictures(video.encode(scaled(frames[:length], 1.0), fps), name="original", rate=RATE)
            for frames, length, fps in clips
        ]
    )
    flagged, seconds = defaultdict(list), defaultdict(float)

    def asked(kind: str, file: bytes) -> Match | None:
        start = time.process_time()
        found = evaluation.match(pictures(file, name="clip", rate=CHECKED))
        seconds[kind] += time.process_time() - start
        return found if found and found.copy else None

    for number, (frames, length, fps) in enumerate(clips):
        for kind in KINDS:
            match = asked(f"copies, {kind}", planted(frames, kind, length, fps, rng))
            flagged[f"copies, {kind}"].append(match is not None and match.clip == number)
    for kind, make in others:
        flagged[f"others, {kind}"].append(asked(f"others, {kind}", make()) is not None)
    for kind, seen in flagged.items():
        interval = binomtest(sum(seen), len(seen)).proportion_ci()
        bar = ">= 95" if kind.startswith("copies") else "" if "same" in kind else "<= 1"
        shares = 100 * np.mean(seen), 100 * interval.low, 100 * interval.high
        told = dict(zip(("flagged_percent", "low", "high"), shares, strict=True))
        speed = len(seen) / seconds[kind]
        yield {"source": source, "clips": kind, "number": len(seen), "bar": bar} | {
            key: f"{value:.4g}" for key, value in (told | {"clips_a_second": speed}).items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=10, help="of each family")
    parser.add_argument("--videos", type=Path, metavar="FOLDER")
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    sets = {"embedded world": world(given.clips)}
    if given.videos:
        sets["real video"] = real(given.videos)
    rows = [row for source, found in sets.items() for row in measured(source, *found)]
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items() if value), flush=True)
    if given.record:
        table = paths.REPORTS / "tables" / "duplicates.csv"
        with files.replacing(table) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
