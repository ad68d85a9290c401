"""Clips cut out of long files: how often each file is opened, memory, and clips a second.

    python benchmarks/long_files.py --files 100 --clips 10000 --record

Draws files of 64x36 pixels, a key frame every 10 seconds, names clips of two seconds of them as
`vplib.data.public` does, and writes shards in this process. Memory is compared over the second half
of the clips: in the first one libraries and buffers fill up. With --record the rows go to
reports/tables/cutting.csv.
"""

import argparse
import builtins
import collections
import contextlib
import csv
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil

from vplib import files, paths
from vplib.data import shards, video
from vplib.data.sources import FolderSource

SECONDS, FPS = 2.0, 10.0


def corpus(folder: Path, count: int, clips: int) -> None:
    """`count` files with `clips` lines of metadata, file by file."""
    each = clips // count
    frames = int((each * SECONDS / 2 + SECONDS) * FPS)
    (folder / "train").mkdir(parents=True)
    lines = []
    for number in range(count):
        tile = np.random.default_rng(number).integers(0, 256, (9, 16 + frames, 3), np.uint8)
        shown = (tile[:, k : k + 16].repeat(4, 0).repeat(4, 1) for k in range(frames))
        (folder / "train" / f"{number:04d}.mp4").write_bytes(video.encode(shown, FPS))
        # Every second half of a clip is the first half of the next.
        for start in np.arange(each) * SECONDS / 2:
            entry = {"file_name": f"{number:04d}.mp4", "text": f"clip {len(lines)}"}
            lines.append(json.dumps(entry | {"start": float(start), "end": float(start + SECONDS)}))
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def opens(folder: Path) -> Iterator[collections.Counter]:
    """Counts how often each video of a folder is opened, whoever does."""
    found, plain, of_path = collections.Counter(), builtins.open, Path.open

    def count(file) -> None:
        if isinstance(file, str | Path) and Path(file).suffix == ".mp4":
            found[Path(file).relative_to(folder).name] += 1

    def opened(file, *args, **kwargs):
        count(file)
        return plain(file, *args, **kwargs)

    def path_opened(path, *args, **kwargs):
        count(path)
        return of_path(path, *args, **kwargs)

    builtins.open, Path.open = opened, path_opened
    try:
        yield found
    finally:
        builtins.open, Path.open = plain, of_path


class Memory:
    """Resident memory, in megabytes, after each shard."""

    def __init__(self):
        self.seen, self._process = [], psutil.Process()

    def update(self, clips: int, **_) -> None:
        self.seen.append((clips, self._process.memory_info().rss / 1e6))
        print(f"{clips} clips, {self.seen[-1][1]:.0f} MB", flush=True)


def measured(count: int, clips: int, place: Path) -> list[dict]:
    """Rows of the table."""
    corpus(place, count, clips)
    memory, began = Memory(), time.process_time()
    with opens(place) as seen:
        source = FolderSource(place, "train", name="train", resolution=36)
        manifest = shards.write(
            source,
            place / "shards",
            shard_size=max(clips // 40, 1),
            workers=0,
            max_skipped_fraction=0.0,
            progress=memory,
        )
    cpu = time.process_time() - began
    half = [mb for done, mb in memory.seen if done >= clips // 2]
    assert manifest["records"] == clips and len(seen) == count
    note = f"{clips} clips of {SECONDS:g} s out of {count} files"
    rows = [
        ("opened", max(seen.values()), "times, the most of a file", "<= 2"),
        (
            "memory_growth",
            round(max(half) - half[0], 2),
            "MB over the second half of the clips",
            "",
        ),
        ("memory", round(max(mb for _, mb in memory.seen), 1), "MB at most", ""),
        ("speed", round(clips / cpu, 2), "clips a CPU second", ""),
    ]
    return [
        dict(zip(("name", "value", "unit", "bar"), row, strict=True)) | {"note": note}
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--record", action="store_true", help="write reports/tables/cutting.csv")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = measured(given.files, given.clips, Path(place))
    for row in rows:
        print(row)
    if given.record:
        with files.replacing(paths.ROOT / "reports" / "tables" / "cutting.csv") as temporary:
            with temporary.open("w", newline="") as table:
                writer = csv.DictWriter(table, [*rows[0]], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
