"""Shards written by Apache Beam: killed and started again, and what that costs beside `shards.write`.

    python benchmarks/beam_shards.py                     2,000 tiny clips, 2 kills; 60 videos
    python benchmarks/beam_shards.py --clips 100000 --kills 12 --videos 600 --record

In an environment with `pip install -e '.[beam]'`. First, clips that cost next to nothing are written
by Beam's local runner, which is killed at random moments and started again, until it ends: every file
must be that of one undisturbed `shards.write`. Then the same clips, and one shard of them, are written by
either in turns: what a clip costs, and what the start does. Then videos of a folder are decoded, scaled and encoded
into shards by either, in turns, and decoded alone: CPU seconds of whole processes, start included. With
--record the rows go to reports/tables/beam.csv.
"""

import argparse
import csv
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from vplib import files, paths
from vplib.data import shards, video
from vplib.data.sources import FolderSource
from vplib.world import corpora

COLUMNS = ["name", "value", "low", "high", "unit", "bar", "note"]
TURNS = 3


class Tiny:
    """Clips of four frames of 16 pixels, a few different videos over and over, each with its text."""

    name, fingerprint = "tiny", "1"

    def __init__(self, count: int):
        rng = np.random.default_rng(0)
        noise = rng.integers(0, 256, (64, 4, 16, 16, 3), dtype=np.uint8)
        self.count, self.videos = count, [video.encode(frames, 8.0) for frames in noise]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> shards.Clip:
        meta = {"fps": 8.0, "frames": 4, "duration": 0.5}
        return shards.Clip(self.videos[index % 64], f"clip number {index}", meta)


def write(engine: str, what: str, folder: Path) -> None:
    """Write shards in this process; `what`: a number of tiny clips, or a folder of videos."""
    few = dict(shard_size=512, max_skipped_fraction=0.01)
    source = Tiny(int(what)) if what.isdigit() else None
    source = source or FolderSource(what, name="videos", resolution=56)
    if not what.isdigit():
        few["shard_size"] = 64
    if engine == "decoding":
        for index in range(len(source)):
            path, _ = source.original(index)
            video.decode(path, name=path.name, resolution=56)
    elif engine == "beam":
        from vplib.data import beam

        beam.write(source, folder, **few)
    else:
        shards.write(source, folder, workers=0, **few)


def started(engine: str, what: str, folder: Path) -> subprocess.Popen:
    words = [sys.executable, __file__, "--write", engine, what, str(folder)]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL)


def cpu(engine: str, what: str, folder: Path) -> float:
    """CPU seconds of a process that writes."""
    shutil.rmtree(folder, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if started(engine, what, folder).wait():
        raise SystemExit(f"error: {engine} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def killed(clips: int, kills: int, folder: Path, rng: random.Random) -> int:
    """Let Beam write, killing it within `kills` stretches of its shards; how often."""
    total, done = -(-clips // 512), 0
    for kill in range(kills):
        wanted = rng.uniform(kill, kill + 1) / kills * total
        process = started("beam", str(clips), folder)
        while process.poll() is None and len([*folder.glob(".tiny-*.source")]) < wanted:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02))  # anywhere within a shard
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        done += 1
    if started("beam", str(clips), folder).wait():
        raise SystemExit("error: the last start failed")
    return done


def videos(folder: Path, count: int) -> None:
    """Clips of the world at twice the size that is kept, as a folder with metadata.jsonl."""
    lines = []
    files.folder(folder)
    source = corpora.WorldSource("ac1", count, resolution=112)
    for index in range(count):
        clip = source[index]
        (folder / f"{index}.mp4").write_bytes(clip.video)
        lines.append(json.dumps({"file_name": f"{index}.mp4", "text": clip.text}) + "\n")
    files.write(folder / "metadata.jsonl", "".join(lines))


def row(name: str, values: list[float], unit: str, bar: str, note: str) -> dict:
    told = {"value": np.median(values), "low": min(values), "high": max(values)}
    shown = {key: f"{one:.4g}" for key, one in told.items()}
    return {"name": name, **shown, "unit": unit, "bar": bar, "note": note}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=2000, help="tiny ones")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--write", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        return write(given.write[0], given.write[1], Path(given.write[2]))
    rows, rng = [], random.Random()
    with tempfile.TemporaryDirectory(prefix="vplib-") as place:
        place, many = Path(place), str(given.clips)
        start = time.perf_counter()
        cpu("shards", many, place / "quiet")
        kills = killed(given.clips, given.kills, place / "killed", rng)
        same = contents(place / "quiet") == contents(place / "killed")
        note = f"{given.clips} tiny clips, {kills} kills, {time.perf_counter() - start:.0f} s"
        rows.append(row("killed_same_bytes", [float(same)], "1: every file the same", "1", note))
        print(f"{note}: {'the same bytes' if same else 'OTHER BYTES'}", flush=True)
        tiny = {(engine, what): [] for what in ("512", many) for engine in ("shards", "beam")}
        for turn in range(TURNS):
            for (engine, what), found in tiny.items():
                found.append(cpu(engine, what, place / engine))
                print(f"  {turn + 1}: {engine}, {what} {found[-1]:.2f} CPU s", flush=True)
        pairs = {what: (tiny["shards", what], tiny["beam", what]) for what in ("512", many)}
        start = [b - a for a, b in zip(*pairs["512"], strict=True)]
        ratios = [b / a for a, b in zip(*pairs[many], strict=True)]
        note = f"{given.clips} tiny clips, start of both included"
        rows.append(
            row("beam_over_shards_write_tiny", ratios, "times the CPU time", "<= 1.3", note)
        )
        rows.append(row("beam_start", start, "CPU s more", "", "512 tiny clips, one shard"))
        for engine in ("shards", "beam"):
            few, all_ = tiny[engine, "512"], tiny[engine, many]
            each = [1e6 * (b - a) / (given.clips - 512) for a, b in zip(few, all_, strict=True)]
            note = f"{given.clips} tiny clips, less the first 512"
            rows.append(row(f"{engine}_tiny_clip", each, "CPU microseconds a clip", "", note))
        videos(place / "videos", given.videos)
        times = {"decoding": [], "shards": [], "beam": []}
        for turn in range(TURNS):
            for engine, found in times.items():
                found.append(cpu(engine, str(place / "videos"), place / engine))
                print(f"  {turn + 1}: {engine} {found[-1]:.2f} CPU s", flush=True)
        assert contents(place / "shards") == contents(place / "beam")
    note = f"{given.videos} clips of 16 frames, 112 to 56 pixels, start included"
    ratios = [b / a for a, b in zip(times["shards"], times["beam"], strict=True)]
    rows.append(row("beam_over_shards_write", ratios, "times the CPU time", "<= 1.3", note))
    for engine, found in times.items():
        speeds = [given.videos / one for one in found]
        rows.append(row(f"{engine}_speed", speeds, "clips a second a core", "", note))
    for one in rows:
        print(f"{one['name']}: {one['value']} [{one['low']}, {one['high']}] {one['unit']}")
    if given.record:
        table = paths.REPORTS / "tables" / "beam.csv"
        with files.replacing(table) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
