"""Planted copies of evaluation clips: how many are found, and how many other clips are flagged.

    python benchmarks/duplicates.py                                      10 clips of each family: a minute
    python benchmarks/duplicates.py --clips 60 --videos FOLDER --record

Evaluation clips of four families of the world are copied: encoded anew in fewer pixels, cropped to 75
to 100% of either side, shifted by up to half of their length (the copy goes on after the original has
ended), or all of that. A copy is found if it is traced to its original. Clips of the pretraining
corpora are none of theirs. With --videos the same is done with the clips of a folder whose
metadata.jsonl names the `recording` of each: whole clips and windows of a second, begun every half, are
held against the clips of all other recordings, and whole clips against the others of their own, which
is counted apart. What is dropped is called a copy, or still where hardly anything changes, so that only
the picture says that it may be one. Intervals of both together are over recordings: windows of one are no
independent draws. --record writes reports/tables/duplicates.csv.
"""

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import av
import numpy as np
from scipy.stats import beta

from vplib import files, paths
from vplib.data import video
from vplib.data.duplicates import CHECKED, RATE, Evaluation, pictures
from vplib.world import corpora

COLUMNS = ["source", "clips", "number", "recordings", "copies_percent", "still_percent"]
COLUMNS += ["dropped_percent", "low", "high", "bar", "clips_a_second"]
FAMILIES = ("motion/test", "appearance/test", "retrieval/test", "multilabel/test")
OTHERS = ("ac1", "wts70m", "yt180m", "internvid", "ac3")
KINDS = ("encoded anew", "cropped", "shifted", "all three")
FPS = 8.0
WINDOW, STEP = 1.0, 0.5  # seconds, of real clips


class Clip(NamedTuple):
    """An evaluation clip: frames, of which the first `length` are it, and what it is cut out of."""

    frames: np.ndarray
    length: int
    fps: float
    recording: str


class Other(NamedTuple):
    """A clip that is no copy: its kind, its file, what it is cut out of, and the numbers of the
    evaluation clips that it is not held against.
    """

    kind: str
    make: Callable[[], bytes]
    recording: str
    leave: list[int] = []


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


def world(count: int) -> tuple[list[Clip], list[Other]]:
    """Evaluation clips of the world, each a recording, and clips of pretraining corpora."""

    def rendered(corpus: str, index: int, frames: int) -> np.ndarray:
        return corpora.render(corpora.scene(corpus, index), resolution=56, frames=frames)

    clips = [
        Clip(rendered(one, i, 24), 16, FPS, f"{one} {i}") for one in FAMILIES for i in range(count)
    ]
    others = [
        Other(
            "of a pretraining corpus",
            lambda c=one, i=i: video.encode(rendered(c, i, 16), FPS),
            f"{one} {i}",
        )
        for one in OTHERS
        for i in range(4 * count)
    ]
    return clips, others


def real(folder: Path) -> tuple[list[Clip], list[Other]]:
    """The clips of a folder, and again, as they are and in windows, as others."""
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    clips, others = [], []
    for one in map(json.loads, lines):
        found = video.decode(folder / one["file_name"], name=one["file_name"])
        clips.append(Clip(found.frames, len(found.frames), found.fps, one["recording"]))
    for number, clip in enumerate(clips):
        own = [n for n, one in enumerate(clips) if one.recording == clip.recording]
        length = round(WINDOW * clip.fps)
        starts = np.arange(0, clip.length - length + 1, STEP * clip.fps).round().astype(int)
        stretches = [(0, clip.length), *((start, start + length) for start in starts)]
        for start, end in stretches:
            make = partial(video.encode, scaled(clip.frames[start:end], 1.0), clip.fps)
            kind = "of another recording" + (", a window" if start or end < clip.length else "")
            others.append(Other(kind, make, clip.recording, own))
        if len(own) > 1:
            rest = sorted({*range(len(clips))} - {*own} | {number})
            make = partial(video.encode, scaled(clip.frames, 1.0), clip.fps)
            others.append(Other("of the same recording", make, clip.recording, rest))
    return clips, others


def interval(dropped: list[bool], recordings: list[str]) -> tuple[float, float]:
    """A 95% interval of the share that is dropped: of as many independent draws as there are
    recordings, or with several clips each as their spread over recordings is worth.
    """
    of = defaultdict(list)
    for one, recording in zip(dropped, recordings, strict=True):
        of[recording].append(one)
    share, most = float(np.mean(dropped)), len(dropped)
    draws = float(len(of))
    if 0 < share < 1 and 1 < len(of) < most:
        error = [sum(mine) - share * len(mine) for mine in of.values()]
        spread = len(of) / (len(of) - 1) * np.square(error).sum() / most**2
        draws = float(np.clip(share * (1 - share) / spread, len(of), most))
    low = beta.ppf(0.025, share * draws, draws - share * draws + 1) if share else 0.0
    high = beta.ppf(0.975, share * draws + 1, draws - share * draws) if share < 1 else 1.0
    return float(low), float(high)


def measured(source: str, clips: list[Clip], others: list[Other], seed: int = 0) -> Iterator[dict]:
    """A row for each kind of copy and of other clips."""
    rng = np.random.default_rng(seed)
    evaluation = Evaluation(
        [
            pictures(
                video.encode(scaled(one.frames[: one.length], 1.0), one.fps),
                name="original",
                rate=RATE,
            )
            for one in clips
        ]
    )
    told, seconds = defaultdict(list), defaultdict(float)

    def ask(kind: str, file: bytes, recording: str, *, of: int | None = None, leave=()):
        start = time.process_time()
        found = evaluation.match(pictures(file, name="clip", rate=CHECKED), leave=leave)
        seconds[kind] += time.process_time() - start
        copy = bool(found and found.copy and of in (None, found.clip))
        told[kind].append((copy, bool(found and found.still), recording))

    for number, (frames, length, fps, recording) in enumerate(clips):
        for kind in KINDS:
            file = planted(frames, kind, length, fps, rng)
            ask(f"copies, {kind}", file, recording, of=number)
    for kind, make, recording, leave in others:
        ask(f"others, {kind}", make(), recording, leave=leave)
    for kind, seen in told.items():
        copies, still, recordings = map(list, zip(*seen, strict=True))
        dropped = [a or b for a, b in zip(copies, still, strict=True)]
        low, high = interval(dropped, recordings)
        shares = {"copies_percent": np.mean(copies), "still_percent": np.mean(still)}
        shares |= {"dropped_percent": np.mean(dropped), "low": low, "high": high}
        shown = {key: f"{100 * value:.4g}" for key, value in shares.items()}
        shown |= {"clips_a_second": f"{len(seen) / seconds[kind]:.4g}"}
        bar = ">= 95" if kind.startswith("copies") else "" if "same" in kind else "<= 1"
        counts = {"number": len(seen), "recordings": len({*recordings})}
        yield {"source": source, "clips": kind, "bar": bar} | counts | shown


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
