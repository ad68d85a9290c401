"""Parquet files of video2dataset (its output format `parquet`): a row a clip, the video in a column.

They need pyarrow, which is no dependency: it is asked for where such files are.
"""

import functools
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from vplib.data.entries import VIDEO_SUFFIXES, SourceError

BYTES = (*(suffix[1:] for suffix in VIDEO_SUFFIXES), "txt", "m4a", "mp3", "wav", "flac")


def _pyarrow() -> ModuleType:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise SourceError(
            f"parquet files need pyarrow, which is not installed ({error}): pip install pyarrow, or "
            "write tar files, the format webdataset of video2dataset."
        ) from error


def members(path: Path) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """What tar files would hold as `KEY.json`, `KEY.mp4` and `KEY.txt`: name, row, columns. A row
    that did not come has no video.

    Raises SourceError without pyarrow, and for a file that is no such table or has no videos in it.
    """
    parquet = _pyarrow()
    try:
        columns = parquet.read_schema(path).names
        keys = parquet.read_table(path, columns=[c for c in ("key", "status") if c in columns])
        keys = keys.to_pydict()
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise SourceError(
            f"{path}: the parquet file cannot be read ({error}); copy or write it again."
        ) from error
    videos = [name for name in columns if f".{name}" in VIDEO_SUFFIXES]
    if "key" not in keys or not videos:
        raise SourceError(
            f"{path}: the parquet file has no column of keys or none of videos; point data.root at "
            "the output of video2dataset in its format webdataset, files or parquet."
        )
    about = tuple(name for name in columns if name not in BYTES)
    came = keys.get("status", ["success"] * len(keys["key"]))
    for row, (key, status) in enumerate(zip(keys["key"], came, strict=True)):
        yield f"{key}.json", row, about
        if status == "success":
            yield f"{key}.{videos[0]}", row, (videos[0],)
        if "txt" in columns:
            yield f"{key}.txt", row, ("txt",)


def value(path: Path, row: int, columns: tuple[str, ...]) -> bytes:
    """The bytes of a column in a row, or several columns as JSON."""
    group, start = _group(path, row)
    found = _rows(path, group, columns)[row - start]
    if len(columns) == 1 and columns[0] in BYTES:
        one = found[columns[0]]
        return one.encode() if isinstance(one, str) else bytes(one or b"")
    return json.dumps(found, default=str).encode()


@functools.lru_cache(maxsize=64)
def _ends(path: Path) -> list[int]:
    """Rows up to the end of each group."""
    facts, ends = _pyarrow().read_metadata(path), []
    for group in range(facts.num_row_groups):
        ends.append((ends[-1] if ends else 0) + facts.row_group(group).num_rows)
    return ends


def _group(path: Path, row: int) -> tuple[int, int]:
    """The group that holds a row, and its first row."""
    ends = _ends(path)
    group = next(number for number, end in enumerate(ends) if row < end)
    return group, ends[group - 1] if group else 0


@functools.lru_cache(maxsize=3)  # video, text and facts of the rows that are being read
def _rows(path: Path, group: int, columns: tuple[str, ...]) -> list[dict]:
    file = _pyarrow().ParquetFile(path)
    return file.read_row_group(group, columns=[*columns]).to_pylist()
