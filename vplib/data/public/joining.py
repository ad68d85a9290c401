"""Entries of annotations meet the videos that are there: the skip rules, and a corpus as a folder."""

import contextlib
import csv
import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from vplib import files
from vplib.data.public.annotations import AnnotationError
from vplib.data.public.rows import Row
from vplib.data.public.videos import Videos

LINK = "videos"  # in the folder of a split: where the videos really are


def joined(rows: Iterable[Row], videos: Videos | None) -> Iterator[Row]:
    """The rows with the file of each, or with the reason why it is skipped.

    What the annotations alone tell comes first, then the same entry again, a missing or unreadable
    video, an empty segment (nothing is repaired), one that begins before or behind the video. An
    end behind it is cut to it. Without `videos` all of them are taken to be there.
    """
    seen, gone = set(), set()
    for row in rows:
        if row.reason is None:
            key = row.key()
            row.reason = "duplicate" if key in seen else None
            seen.add(key)
        if row.reason is None and videos is not None:
            file = videos.find(*(row.names or (_bare(row.file),)))
            if file is None:
                row.reason, row.note = "missing_video", row.file
            elif problem := videos.problem(file):
                row.reason, row.note = "unreadable_video", problem
            else:
                row.file = file
                row.seconds = videos.seconds(file) or row.seconds
            if row.reason:
                for source in row.sources or (row.source,):
                    # A video that is gone takes all its entries with it, and counts once.
                    if not row.sources or (row.split, source) not in gone:
                        gone.add((row.split, source))
                        yield replace(row, source=source)
                continue
        if row.reason is None and row.start is not None:
            frames = row.more.get("unit") == "frame"
            limit = row.seconds if not frames else videos and videos.frames(row.file)
            _cut(row, limit)
        yield row


def _cut(row: Row, limit: float | None) -> None:
    """Keeps what lies within the video, which ends at `limit` if that is known."""
    if row.start >= row.end:
        row.reason = "empty_segment"
    elif row.start < 0 or limit and max(row.start, row.more.get("keyframe", 0.0)) >= limit:
        row.reason = "outside_video"
    elif limit:
        row.end = min(row.end, limit)


def _bare(file: str) -> str:
    """The name of an official file, without folder and suffix."""
    return file.rpartition("/")[2].rpartition(".")[0]


@dataclass
class Counts:
    """What was found in a split: records, the videos they are of, entries skipped by reason."""

    records: int = 0
    videos: set[str] = field(default_factory=set)
    skipped: Counter = field(default_factory=Counter)


def counted(rows: Iterable[Row]) -> dict[str, Counts]:
    """Counts of each split, in the order in which they come."""
    found: dict[str, Counts] = {}
    for row in rows:
        count(found, row)
    return found


def count(found: dict[str, Counts], row: Row) -> None:
    """Adds a row to the counts of its split."""
    of_split = found.setdefault(row.split or "all", Counts())
    if row.reason:
        of_split.skipped[row.reason] += 1
    else:
        of_split.records += 1
        of_split.videos.add(row.file)


def write(
    rows: Iterable[Row], videos: Path, out: Path, *, one_label: bool, beside: dict
) -> dict[str, Counts]:
    """Writes joined rows as a corpus that `data=folder data.root=<out>` reads; returns counts.

    `<out>/<split>/metadata.jsonl` has a line a record: its `text` is the first of `texts` and, with
    `one_label`, its `label` the one of `labels`. `<out>/<split>/videos` is a link to the folder of
    videos. `<out>/skipped.csv` has source, reason, split and a note of every other entry, and what
    is `beside` them has a JSON of its name. The folder appears when all of it is written.

    Raises FileError if it is there already or cannot be written, and AnnotationError if no entry
    can be used.
    """
    _check_free(out)
    found: dict[str, Counts] = {}
    with _appearing(out) as place, contextlib.ExitStack() as opened:
        table = opened.enter_context(
            (place / "skipped.csv").open("w", encoding="utf-8", newline="")
        )
        skipped = csv.writer(table, lineterminator="\n")
        skipped.writerow(["source", "reason", "split", "note"])
        lines = {}
        for row in rows:
            count(found, row)
            split = row.split or "all"
            if row.reason:
                words = [row.source, row.reason, split, row.note]
                skipped.writerow([_storable(files.printable(word)) for word in words])
                continue
            if split not in lines:
                (place / split).mkdir()
                (place / split / LINK).symlink_to(videos.resolve(), target_is_directory=True)
                path = place / split / "metadata.jsonl"
                lines[split] = opened.enter_context(path.open("w", encoding="utf-8", newline="\n"))
            content = json.dumps(_line(row, one_label), ensure_ascii=False)
            lines[split].write(_storable(content) + "\n")
        if not lines:
            raise AnnotationError(f"{videos}: {nothing(found)}; check --videos and --annotations.")
        for name, content in beside.items():
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (place / f"{name}.json").write_text(_storable(text), encoding="utf-8")
    return found


def write_asked(rows: Iterable[Row], out: Path) -> dict[str, Counts]:
    """Writes `<out>/asked.csv`: key, file, reason and note of all that was asked for; those that
    came have no reason. Returns counts.

    Raises FileError as `write` does.
    """
    _check_free(out)
    found: dict[str, Counts] = {}
    with (
        _appearing(out) as place,
        (place / "asked.csv").open("w", encoding="utf-8", newline="") as table,
    ):
        asked = csv.writer(table, lineterminator="\n")
        asked.writerow(["key", "file", "reason", "note"])
        for row in rows:
            count(found, row)
            words = [row.id, row.file, row.reason or "", row.note]
            asked.writerow([_storable(files.printable(word)) for word in words])
    return found


def nothing(found: dict[str, Counts]) -> str:
    """Why there is no record at all."""
    reasons = sum((counts.skipped for counts in found.values()), Counter())
    told = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common())
    return f"no entry can be used ({told or 'the annotations hold none'})"


def _line(row: Row, one_label: bool) -> dict:
    record = {key: value for key, value in row.record().items() if value is not None}
    record["file_name"] = f"{LINK}/{row.file}"
    if row.texts:
        record["text"] = row.texts[0]
    if one_label and len(row.labels) == 1:
        record["label"] = row.labels[0]
    return record


def _storable(text: str) -> str:
    """Without half a letter (a lone surrogate), which no file in UTF-8 can hold."""
    return text.encode(errors="replace").decode()


@contextlib.contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name if all goes well, and vanishes if not."""
    files.folder(out.parent)
    host = socket.gethostname()
    for stale in out.parent.glob(f".{out.name}.{host}-*.tmp"):
        if not files.alive(int(stale.stem.rpartition("-")[2])):
            shutil.rmtree(stale, ignore_errors=True)
    place = out.with_name(f".{out.name}.{host}-{os.getpid()}.tmp")
    try:
        with files.explained(out):
            files.folder(place)
            yield place
            _take_name(place, out)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _check_free(out: Path) -> None:
    if out.exists():
        raise files.FileError(f"{out} is there already: remove it, or name another folder.")


def _take_name(place: Path, out: Path) -> None:
    try:
        place.rename(out)
    except OSError:
        _check_free(out)  # another process was faster
        raise
