"""ArrayRecord shards: clips and their captions in a few large files, made for random access.

A shard is a function of the source and a range of its indices alone, so shards can be written by any number of
processes, in any order, and again after an interruption, and come out the same to the byte.
"""

import collections
import contextlib
import csv
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import msgpack
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from vplib.data.video import VideoError

FORMAT = 1  # part of the fingerprint: raise it when the bytes of a shard change, and `write` starts afresh
FULL = ("No space left on device", "Disk quota exceeded")


class ShardError(ValueError):
    """Shards that cannot be written or read. The message is one sentence: what, where, what to do."""


class Clip(NamedTuple):
    """A video file, its caption, and facts that JSON can hold; always `fps`, `frames` and `duration` in seconds."""

    video: bytes
    text: str
    meta: dict


@runtime_checkable
class Source(Protocol):
    """Where clips come from. `fingerprint` changes whenever a clip does; a source must survive pickling."""

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip:
        """Raises VideoError for a clip that cannot be used."""


def write(
    source: Source, folder: str | Path, *, shard_size: int, workers: int, max_skipped_fraction: float, progress=None
) -> dict:
    """Writes `<name>-00000-of-00003.array_record` and so on, each with a JSON of statistics, and last `manifest.json`.

    A shard covers `shard_size` indices of the source. Clips that raise VideoError are left out and listed in the
    manifest and in `skipped.csv`. Shards that an interrupted call finished are kept. `workers` processes write at the
    same time; 0 writes in this one. `progress.update(clips, skipped=...)` is called after each shard. Returns the
    manifest.

    Raises ShardError, and writes no manifest, if the share of unusable clips exceeds `max_skipped_fraction`, if no clip
    is left, or if the disk is full.
    """
    total = len(source)
    if not re.fullmatch(r"[\w.-]+", source.name):
        raise ShardError(f"{source.name!r}: this name cannot begin a file name; use letters, digits, '.', '_' and '-'.")
    if not total:
        raise ShardError(f"{source.name}: the source holds no clips; point it at some.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps([FORMAT, source.name, source.fingerprint, total, shard_size])
    fingerprint = hashlib.sha256(settings.encode()).hexdigest()
    tasks = _tasks(source.name, total, shard_size, folder)
    (folder / "manifest.json").unlink(missing_ok=True)  # an old one must not describe what is being written
    _remove_outdated(folder, source.name, keep={path.stem for path, _ in tasks})

    shards, skipped = [], []
    with _mapped(source, fingerprint, workers) as written:
        for (_, indices), shard in zip(tasks, written(tasks), strict=True):
            shards.append(shard)
            skipped += shard["skipped"]
            if progress is not None:
                progress.update(indices.stop, skipped=len(skipped))
            if len(skipped) > max_skipped_fraction * total:  # hopeless: do not read the rest
                break
    report = folder / "skipped.csv"
    write_skipped(report, skipped)
    if len(skipped) == total or len(skipped) > max_skipped_fraction * total:
        raise ShardError(
            f"{source.name}: {len(skipped)} of the first {indices.stop} clips (of {total}) cannot be used and the "
            f"allowed share is {max_skipped_fraction:g}, so no manifest was written (first: {skipped[0]['file']} "
            f"{skipped[0]['reason']}); repair the files listed in {report} or raise data.max_skipped_fraction."
        )
    manifest = {
        "name": source.name,
        "fingerprint": fingerprint,
        "records": sum(shard["records"] for shard in shards),
        "shards": [{key: shard[key] for key in ("file", "records", "bytes")} for shard in shards],
        "statistics": _merged(shard["statistics"] for shard in shards),
        "skipped": skipped,
    }
    _write_json(folder / "manifest.json", manifest)
    return manifest


class Shards:
    """Random access to a folder that `write` filled; `shards[i]` is a Clip. Safe in threads, survives pickling.

    Raises ShardError if the folder is incomplete or a shard is damaged.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_text())
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{self.folder}: there is no finished corpus (manifest.json); prepare it first."
            ) from error
        shards = [shard for shard in self.manifest["shards"] if shard["records"]]
        for shard in shards:
            path = self.folder / shard["file"]
            size = path.stat().st_size if path.exists() else 0
            if size != shard["bytes"]:
                raise ShardError(
                    f"{path}: the shard has {size} bytes instead of {shard['bytes']}; prepare the corpus again."
                )
        damaged = f"{self.folder}: a shard is damaged; delete the folder and prepare the corpus again."
        try:
            self._records = ArrayRecordDataSource([str(self.folder / shard["file"]) for shard in shards])
        except RuntimeError as error:
            raise ShardError(damaged) from error
        if len(self) != self.manifest["records"]:  # ArrayRecord opens some damaged files as ones of 0 records
            raise ShardError(damaged)

    def original(self, index: int) -> tuple[bytes, dict]:
        """The stored video file and its metadata."""
        clip = self[index]
        return clip.video, {"file_name": f"{self.folder.name}[{index}]", **clip.meta}

    @property
    def images(self) -> bool:
        """Whether every clip is a single frame."""
        totals = self.manifest["statistics"]["totals"]
        return totals["frames"] == totals["clips"]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: there is no clip {index}, only 0 to {len(self) - 1}.")
        try:
            return Clip(**msgpack.unpackb(self._records[index]))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ShardError(
                f"{self.folder}: record {index} is damaged; delete the folder and prepare the corpus again."
            ) from error


def _tasks(name: str, total: int, shard_size: int, folder: Path) -> list[tuple[Path, range]]:
    """File and source indices of every shard."""
    starts = range(0, total, shard_size)
    return [
        (folder / f"{name}-{shard:05d}-of-{len(starts):05d}.array_record", range(start, min(start + shard_size, total)))
        for shard, start in enumerate(starts)
    ]


def _remove_outdated(folder: Path, name: str, keep: set[str]):
    """Removes what a killed process or a corpus of another size left."""
    for path in folder.iterdir():
        if re.fullmatch(rf"{re.escape(name)}-\d+-of-\d+\.(array_record|json)(\.tmp)?", path.name):
            if path.suffix == ".tmp" or path.stem not in keep:
                path.unlink()


@contextlib.contextmanager
def _mapped(source: Source, fingerprint: str, workers: int) -> Iterator[Callable[[list], Iterable[dict]]]:
    """A `map` of `_write_shard` over tasks, here or in processes; leaving early cancels what has not begun."""
    if not workers:
        yield lambda tasks: (_write_shard(source, fingerprint, *task) for task in tasks)
        return
    # spawn: forking a process that runs JAX or a notebook's threads may deadlock.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker, initargs=(source, fingerprint))
    try:
        yield lambda tasks: pool.map(_write_shard_in_worker, tasks)
    except BrokenProcessPool as error:
        raise ShardError(
            f"{source.name}: a worker process died, often for want of memory; lower `workers` and start again, "
            f"finished shards are kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(source: Source, fingerprint: str):
    """Sends the source to each process once, not with every task: its list of files may be long."""
    global _worker_arguments
    _worker_arguments = source, fingerprint


def _write_shard_in_worker(task: tuple[Path, range]) -> dict:
    return _write_shard(*_worker_arguments, *task)


def _write_shard(source: Source, fingerprint: str, path: Path, indices: range) -> dict:
    """Writes one shard and, last, its JSON of facts, unless both are there already; returns the facts."""
    facts_path = path.with_suffix(".json")
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads(facts_path.read_text())
        if facts["fingerprint"] == fingerprint and facts["bytes"] == path.stat().st_size:
            return facts
    skipped, statistics = [], []
    with _replacing(path) as temporary:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")  # one record a group: fastest random access
        try:
            for index in indices:
                try:
                    clip = source[index]
                except VideoError as error:
                    skipped.append({"file": error.name, "reason": error.problem})
                    continue
                writer.write(msgpack.packb(clip._asdict()))
                statistics.append(_statistics(clip))
        finally:
            writer.close()
    facts = {
        "file": path.name,
        "fingerprint": fingerprint,
        "records": len(statistics),
        "bytes": path.stat().st_size,
        "statistics": _merged(statistics),
        "skipped": skipped,
    }
    _write_json(facts_path, facts)
    return facts


def _statistics(clip: Clip) -> dict[str, dict]:
    """Counts that add up over clips and shards: totals, and clips by caption length, by duration and by label."""
    words = len(clip.text.split())
    seconds = clip.meta["duration"]
    totals = {"clips": 1, "frames": clip.meta["frames"], "seconds": seconds, "words": words, "bytes": len(clip.video)}
    label = clip.meta.get("label")
    labels = {} if label is None else {str(label): 1}
    return {
        "totals": totals,
        "clips_by_words": {str(words): 1},
        "clips_by_seconds": {str(round(seconds)): 1},
        "labels": labels,
    }


def _merged(statistics: Iterable[dict[str, dict]]) -> dict[str, dict]:
    sums = collections.defaultdict(collections.Counter)
    for part in statistics:
        for key, counts in part.items():
            sums[key].update(counts)
    return {key: dict(counts) for key, counts in sums.items()}


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place if all goes well and vanishes if not."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError
        if not any(sign in str(error) for sign in FULL):
            raise
        raise ShardError(
            f"{path}: the disk is full; free some space and start again, finished shards are kept."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_json(path: Path, content: dict):
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_skipped(path: Path, skipped: list[dict]) -> None:
    """The table of videos {file, reason} that were left out."""
    with _replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["file", "reason"], lineterminator="\n")
        table.writeheader()
        table.writerows(skipped)
