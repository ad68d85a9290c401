"""ArrayRecord shards: clips and their captions in a few large files, made for random access.

A shard is a function of the source and a range of its indices alone, so shards can be written by
any number of processes, in any order, and again after an interruption, and come out the same to
the byte.
"""

import bisect
import collections
import contextlib
import csv
import errno
import hashlib
import importlib
import io
import itertools
import json
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, runtime_checkable

import msgpack

from vplib import files
from vplib.data import buckets
from vplib.data.video import VideoError

FORMAT = 2  # raise it when the bytes of a shard change: shards of another are written again


class ShardError(ValueError):
    """Shards that cannot be written or read. One sentence: what, where, what to do."""

    def __init__(self, message: str):
        super().__init__(files.printable(message))


def _array_record(part: str) -> ModuleType:
    """A part of the package, imported where shards are read or written: lessons need none.

    Raises ShardError where there is none.
    """
    try:
        return importlib.import_module(f"array_record.python.array_record_{part}")
    except ImportError as error:
        raise ShardError(
            f"shards need the package array_record, which is not installed ({error}) and has none "
            "for Windows: there use WSL; the notebooks 00 to 03 and 44, and 45 on your own videos, work without it."
        ) from error


class Clip(NamedTuple):
    """A video file, its caption, and facts that JSON can hold.

    The facts always have `fps`, `frames` and `duration` (seconds).
    """

    video: bytes
    text: str
    meta: dict


@runtime_checkable
class Source(Protocol):
    """Where clips come from; it survives pickling. `fingerprint` changes whenever a clip might. One
    that knows what was asked for and never came lists it in `failed`, as {file, reason}.
    """

    name: str
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip:
        """Raises VideoError for a clip that cannot be used; any other error is our mistake."""


def packed(content: object) -> bytes:
    """`content` as a shard holds it. Raises ValueError if it could not be stored or read again."""
    try:
        data = msgpack.packb(content)
        msgpack.unpackb(data)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    return data


def write(
    source: Source,
    folder: str | Path,
    *,
    shard_size: int,
    workers: int,
    max_skipped_fraction: float,
    progress=None,
) -> dict:
    """Writes `<name>-00000-of-00003.array_record` and so on, and last `manifest.json`.

    A shard covers `shard_size` indices of the source and has a JSON of statistics beside it, and a
    hidden stamp of what it was written from. DVC ignores stamps, so that code which writes equal
    bytes makes nothing run again. A clip that raises anything is left out and listed with its cause
    in the manifest and `skipped.csv`, where what the source calls `failed` follows, which the manifest
    counts by the first word of the reason; only lack of memory and a full disk end the writing. Shards
    that an interrupted call finished are kept, but for those of a source with another `fingerprint`
    and those where another error than VideoError was raised: that may be mended by now. `workers`
    processes write at the same time; 0 writes in this one. `progress.update(clips, skipped=...)` is
    called after each shard. Returns the manifest; its `fingerprint` is a digest of all records.

    Raises ShardError, and writes no manifest, if the share of clips left out exceeds
    `max_skipped_fraction` or is 1, and FileError if the folder cannot be written or another process
    is writing to it.
    """
    total, folder = len(source), Path(folder)
    origin, tasks = plan(source, shard_size)
    with files.locked(folder, doing="writing shards"):
        with files.explained(folder):
            for name in outdated(source.name, os.listdir(folder), tasks):
                (folder / name).unlink(missing_ok=True)
        shards, skipped, seen = [], 0, 0
        with _mapped(source, origin, folder, workers) as written:
            for (_, indices), shard in zip(tasks, written(tasks), strict=True):
                shards.append(shard)
                skipped += len(shard["skipped"])
                seen = indices.stop
                if progress is not None:
                    progress.update(seen, skipped=skipped)
                if skipped > max_skipped_fraction * total:  # hopeless: do not read the rest
                    break
        return finish(source, shards, folder, max_skipped_fraction, seen=seen)


def plan(source: Source, shard_size: int) -> tuple[str, list[tuple[str, range]]]:
    """What `write` does, task by task: a digest of all that decides the bytes of shards, and file
    name and source indices of each.

    Raises ShardError for a source whose name cannot begin a file name and for one without clips.
    """
    total = len(source)
    if not re.fullmatch(r"[\w.-]+", source.name):
        raise ShardError(
            f"{source.name!r}: this name cannot begin a file name; "
            "use letters, digits, '.', '_' and '-'."
        )
    if not total:
        raise ShardError(f"{source.name}: the source holds no clips; point it at some.")
    settings = json.dumps([FORMAT, source.name, source.fingerprint, total, shard_size])
    starts = range(0, total, shard_size)
    tasks = [
        (
            f"{source.name}-{shard:05d}-of-{len(starts):05d}.array_record",
            range(start, min(start + shard_size, total)),
        )
        for shard, start in enumerate(starts)
    ]
    return hashlib.sha256(settings.encode()).hexdigest(), tasks


def finish(
    source: Source,
    shards: list[dict],
    folder: Path,
    max_skipped_fraction: float,
    *,
    seen: int,
    place: str | Path | None = None,
) -> dict:
    """Writes `skipped.csv` and then `manifest.json` of the shards of the first `seen` clips, from
    the facts that `write_shard` returned, in order; returns the manifest.

    `place` is what messages call the folder. Raises ShardError, and writes no manifest, as `write`.
    """
    total, skipped = len(source), [clip for shard in shards for clip in shard["skipped"]]
    failed = [{**one, "reason": files.printable(one["reason"])} for one in getattr(source, "failed", [])]
    write_skipped(folder / "skipped.csv", [*skipped, *failed])
    if len(skipped) == total or len(skipped) > max_skipped_fraction * total:
        raise ShardError(
            f"{source.name}: {len(skipped)} of the first {seen} clips (of {total}) cannot be "
            f"used and the allowed share is {max_skipped_fraction:g}, so no manifest was "
            f"written (first: {skipped[0]['file']} {skipped[0]['reason']}); repair the files "
            f"listed in {place or folder}/skipped.csv or raise data.max_skipped_fraction."
        )
    manifest = _manifest(source.name, shards)
    if failed:
        reasons = collections.Counter(clip["reason"].partition(":")[0] for clip in failed)
        manifest["failed"] = dict(sorted(reasons.items()))
    _write_json(folder / "manifest.json", manifest)
    return manifest


def _manifest(name: str, shards: list[dict]) -> dict:
    return {
        "name": name,
        "fingerprint": _digest(bytes.fromhex(shard["digest"]) for shard in shards),
        "records": sum(shard["records"] for shard in shards),
        "shards": [{key: shard[key] for key in ("file", "records", "bytes")} for shard in shards],
        "statistics": _merged(shard["statistics"] for shard in shards),
        "skipped": [clip for shard in shards for clip in shard["skipped"]],
    }


class Shards:
    """Random access to a folder that `write` filled; `shards[i]` is a Clip.

    A folder in a bucket, or one that stands in for it (vplib.data.buckets), has its shards fetched
    when they are first used. What a table beside a shard drops (vplib.data.decisions) is not there,
    unless `whole`. Safe in threads, survives pickling. Raises ShardError if the folder is incomplete,
    a shard is damaged or everything is dropped, and BucketError.
    """

    def __init__(self, folder: str | Path, *, whole: bool = False):
        self.folder = buckets.near(str(folder)) if buckets.inside(folder) else Path(folder)
        self._bucket = buckets.of(self.folder)
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_bytes())
            shards = [shard for shard in self.manifest["shards"] if shard["records"]]
            promised = {self.folder / shard["file"]: shard["bytes"] for shard in shards}
            counts = [shard["records"] for shard in shards]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ShardError(
                f"{self.folder}: there is no finished corpus (manifest.json); prepare it first."
            ) from error
        self._promised, self._ends = [*promised.items()], [*itertools.accumulate(counts)]
        for path, size in promised.items() if self._bucket is None else ():
            found = path.stat().st_size if path.exists() else 0
            if found != size:
                raise ShardError(
                    f"{path}: the shard has {found} bytes instead of {size}; "
                    "prepare the corpus again."
                )
        damaged = (
            f"{self.folder}: a shard is damaged; delete the folder and prepare the corpus again."
        )
        names = [*map(str, promised)]
        if self._bucket is not None:  # with their counts, they are not opened before they are used
            names = [f"{name}[0:{count}]" for name, count in zip(names, counts, strict=True)]
        try:
            self._records = _array_record("data_source").ArrayRecordDataSource(names)
        except RuntimeError as error:
            raise ShardError(damaged) from error
        # ArrayRecord opens some damaged files as ones of 0 records.
        if len(self._records) != self.manifest["records"]:
            raise ShardError(damaged)
        self.dropped = {} if whole else dropped(self.folder, self.manifest)
        self._kept = range(len(self._records))
        if self.dropped:
            self._kept = [record for record in self._kept if record not in self.dropped]
        if not self._kept:
            raise ShardError(
                f"{self.folder}: tables beside the shards drop every clip; remove those that do."
            )

    def original(self, index: int) -> tuple[bytes, dict]:
        """The stored video file and its metadata."""
        clip = self[index]
        return clip.video, {"file_name": f"{self.folder.name}[{index}]", **clip.meta}

    @property
    def images(self) -> bool:
        """Whether every clip is a single frame."""
        totals = self.manifest["statistics"]["totals"]
        return totals["frames"] == totals["clips"]

    @property
    def fingerprint(self) -> str:
        """A digest of all clips that are there."""
        known = self.manifest["fingerprint"]
        return _digest([f"{known} {sorted(self.dropped)}".encode()]) if self.dropped else known

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: there is no clip {index}, only 0 to {len(self) - 1}.")
        record = self._kept[index]
        if self._bucket is not None:
            buckets.fetch(self._bucket, *self._promised[bisect.bisect_right(self._ends, record)])
        try:
            return Clip(**msgpack.unpackb(self._records[record]))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ShardError(
                f"{self.folder}: record {record} is damaged; "
                "delete the folder and prepare the corpus again."
            ) from error


def table_of(file: str, step: str) -> str:
    """The name of the table beside a shard in which a step says what it drops."""
    return f"{Path(file).stem}.{step}.json"


def dropped(folder: Path, manifest: dict) -> dict[int, list[str]]:
    """The records that tables beside shards drop, with the steps that do; tables of another corpus
    than the manifest's do not count. Raises ShardError for a damaged table.
    """
    found, start = collections.defaultdict(list), 0
    for shard in manifest["shards"]:
        for path in sorted(folder.glob(table_of(shard["file"], "*"))):
            try:
                table = json.loads(path.read_bytes())
                if table["corpus"] == manifest["fingerprint"]:
                    for one in table["dropped"]:
                        found[start + one["record"]].append(table["step"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ShardError(f"{path}: the table is damaged; remove it.") from error
        start += shard["records"]
    return dict(found)


def outdated(name: str, found: Iterable[str], tasks: Iterable[tuple[str, range]]) -> list[str]:
    """The files among `found` that a plan of these tasks does not keep: the manifest, which must
    not describe what is being written, and what a killed process or a corpus of another size left.
    """
    keep = {Path(file).stem for file, _ in tasks}
    shard = rf"\.?({re.escape(name)}-\d+-of-\d+)\.(array_record|json|source|\w+\.json)"

    def stale(file: str) -> bool:
        here = re.fullmatch(shard, file)
        return bool(here and here[1] not in keep or re.fullmatch(rf"\.?{shard}\.(.+\.)?tmp", file))

    return [file for file in found if file == "manifest.json" or stale(file)]


@contextlib.contextmanager
def _mapped(
    source: Source, origin: str, folder: Path, workers: int
) -> Iterator[Callable[[list], Iterable[dict]]]:
    """A `map` of `write_shard` over tasks, here or in processes.

    Leaving early cancels what has not begun.
    """
    if not workers:
        yield lambda tasks: (write_shard(source, origin, folder, *task) for task in tasks)
        return
    # spawn: forking a process that runs JAX or a notebook's threads may deadlock.
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(source, origin, folder),
    )
    try:
        yield lambda tasks: pool.map(_write_shard_in_worker, tasks)
    except BrokenProcessPool as error:
        raise ShardError(
            f"{source.name}: a worker process died, often for want of memory; "
            "lower `workers` and start again, finished shards are kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(source: Source, origin: str, folder: Path):
    """Sends the source to each process once, not with every task: its list of files may be long."""
    global _worker_arguments
    _worker_arguments = source, origin, folder
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    """A killed parent closes no queue: its workers would wait for it for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_shard_in_worker(task: tuple[str, range]) -> dict:
    return write_shard(*_worker_arguments, *task)


def stamp_of(file: str) -> str:
    """The name of the hidden file that says what a shard was written from."""
    return f".{Path(file).stem}.source"


def kept(origin: str, facts: bytes, stamp: bytes, size: int) -> dict | None:
    """What the JSON beside a shard says, if the stamp says that it is of this origin, and of these
    bytes: shards that DVC or a person put there have no stamp, or another's. `size`: the shard's.
    """
    with contextlib.suppress(ValueError, KeyError, TypeError):
        known = json.loads(facts)
        if stamp.decode() == _stamped(origin, known) and known["bytes"] == size:
            return known
    return None


def write_shard(source: Source, origin: str, folder: Path, file: str, indices: range) -> dict:
    """Writes one shard of a plan, its JSON of facts and, last, its stamp, unless they are there and
    of this origin; returns the facts. Raises FileError, and MemoryError.
    """
    path, stamp = folder / file, folder / stamp_of(file)
    facts_path = path.with_suffix(".json")
    with contextlib.suppress(OSError):
        there = facts_path.read_bytes(), stamp.read_bytes(), path.stat().st_size
        if facts := kept(origin, *there):
            return facts
    skipped, statistics, digests, mistakes = [], [], [], False
    with files.replacing(path) as temporary:
        stamp.unlink(missing_ok=True)
        # One record a group: fastest random access.
        writer = _array_record("module").ArrayRecordWriter(str(temporary), "group_size:1")
        try:
            for index in indices:
                try:
                    clip = source[index]
                    record, counts = packed(clip._asdict()), _statistics(clip)
                except Exception as error:
                    if isinstance(error, MemoryError) or _full(error):
                        raise
                    mistakes |= not isinstance(error, VideoError)
                    skipped.append(_excuse(error, f"{source.name}[{index}]"))
                    continue
                writer.write(record)
                statistics.append(counts)
                digests.append(hashlib.sha256(record).digest())
        finally:
            writer.close()
    facts = {
        "file": path.name,
        "digest": _digest(digests),
        "records": len(statistics),
        "bytes": path.stat().st_size,
        "statistics": _merged(statistics),
        "skipped": skipped,
    }
    _write_json(facts_path, facts)
    if not mistakes:
        files.write(stamp, _stamped(origin, facts))
    return facts


def _stamped(origin: str, facts: dict) -> str:
    return f"{origin} {facts['digest']}\n"


def _digest(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _full(error: Exception) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def _excuse(error: Exception, name: str) -> dict[str, str]:
    """Why a clip is left out; `name` is for errors that do not say which file they are about."""
    if isinstance(error, VideoError):
        return {"file": files.printable(error.name), "reason": files.printable(error.problem)}
    return {"file": name, "reason": files.printable(f"{type(error).__name__}: {error}")}


def _statistics(clip: Clip) -> dict[str, dict]:
    """Counts that add up over clips and shards: totals, and clips by words, seconds and label."""
    words = len(clip.text.split())
    seconds = clip.meta["duration"]
    totals = {
        "clips": 1,
        "frames": clip.meta["frames"],
        "seconds": seconds,
        "words": words,
        "bytes": len(clip.video),
    }
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


def _write_json(path: Path, content: dict):
    files.write(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def write_skipped(path: Path, skipped: list[dict]) -> None:
    """The table of videos {file, reason} that were left out. Raises FileError."""
    lines = io.StringIO(newline="")
    table = csv.DictWriter(lines, ["file", "reason"], lineterminator="\n")
    table.writeheader()
    table.writerows(skipped)
    files.write(path, lines.getvalue())
