"""Your own videos as sources for `shards.write`: a folder with `metadata.jsonl`, or tar files."""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float, Int

from vplib.data.shards import Clip
from vplib.data.standardize import standardize
from vplib.data.video import VideoError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif")
EDGE = 2**16  # bytes at either end of a file that its digest covers


class SourceError(ValueError):
    """A folder or an archive that cannot be a source. The message is one sentence: what, where, what to do."""


class FolderSource:
    """Clips of a folder in the VideoFolder convention of Hugging Face.

    `root` holds `metadata.jsonl`, or `root/<split>/` does: one JSON object a line with `file_name` (relative to the
    folder of `metadata.jsonl`), `text`, and whatever else is to be kept, such as `label`. Frames whose shorter side
    exceeds `max_side` pixels are scaled down to it.

    Raises SourceError if a line is not as described or names a file that is not there.
    """

    def __init__(self, root: str | Path, split: str | None = None, *, name: str, max_side: int):
        self.folder = Path(root) / split if split else Path(root)
        self.name, self.max_side = name, max_side
        self._entries = _read_metadata(self.folder)
        digests = [[entry, _digest(self.folder / entry["file_name"])] for entry in self._entries]
        self.fingerprint = _fingerprint(digests, max_side)

    def __len__(self) -> int:
        return len(self._entries)

    def original(self, index: int) -> tuple[Path, dict]:
        """A video file as it is, and its line of metadata."""
        entry = self._entries[index]
        return self.folder / entry["file_name"], dict(entry)

    def __getitem__(self, index: int) -> Clip:
        meta = dict(self._entries[index])
        video, facts = standardize(self.folder / meta["file_name"], name=meta["file_name"], resolution=self.max_side)
        return Clip(video, meta.pop("text").strip(), {**meta, **facts})


class WebDatasetSource:
    """Clips of the tar files that video2dataset writes: `KEY.mp4`, its caption in `KEY.txt` or in `KEY.json`.

    `root` is a folder of tar files or one of them. All fields of the JSON are kept but its `caption`. Frames whose
    shorter side exceeds `max_side` pixels are scaled down to it.

    Raises SourceError if there is no tar file, or one is damaged. A clip without a caption raises VideoError.
    """

    def __init__(self, root: str | Path, *, name: str, max_side: int):
        self.name, self.max_side = name, max_side
        archives = sorted(Path(root).glob("*.tar")) if Path(root).is_dir() else [Path(root)]
        if not archives:
            raise SourceError(f"{root}: the folder holds no .tar files; point it at the output of video2dataset.")
        self._samples = [sample for archive in archives for sample in _index(archive)]
        if not self._samples:
            raise SourceError(f"{root}: the tar files hold no videos; expected members like KEY.mp4 and KEY.txt.")
        digests = [[sample.name, [list(member) for member in sample.members.values()]] for sample in self._samples]
        self.fingerprint = _fingerprint(digests, max_side)

    def __len__(self) -> int:
        return len(self._samples)

    def original(self, index: int) -> tuple[bytes, dict]:
        """A video file as it is, and its metadata with its caption, if any, as `text`. Raises VideoError if that is unreadable."""
        sample = self._samples[index]
        try:
            meta = dict(json.loads(sample.read(".json"))) if ".json" in sample.members else {}
            text = meta.pop("caption", None)
            text = sample.read(".txt").decode() if ".txt" in sample.members else text
        except (ValueError, TypeError) as error:
            raise VideoError(sample.name, f"has an unreadable .json or .txt ({error})", "leave it out") from error
        return sample.read(sample.suffix), {**meta, "text": text, "file_name": sample.name}

    def __getitem__(self, index: int) -> Clip:
        original, meta = self.original(index)
        name, text = meta["file_name"], meta.pop("text")
        if not isinstance(text, str) or not text.strip():
            raise VideoError(name, "has no caption", "add one to its .txt or leave it out")
        video, facts = standardize(original, name=name, resolution=self.max_side)
        return Clip(video, text.strip(), {**meta, **facts})


def _read_metadata(folder: Path) -> list[dict]:
    path = folder / "metadata.jsonl"
    if not path.is_file():
        splits = sorted(child.parent.name for child in folder.glob("*/metadata.jsonl"))
        advice = f"choose a split of {', '.join(splits)}" if splits else "write one line for each clip there"
        raise SourceError(f'{path}: there is no such file with lines like {{"file_name": ..., "text": ...}}; {advice}.')
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise SourceError(f"{where}: this is not valid JSON ({error}); correct the line.") from error
        for field in ("file_name", "text"):
            value = entry.get(field) if isinstance(entry, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise SourceError(f"{where}: there is no `{field}`; every line needs one that is not empty.")
        if not (folder / entry["file_name"]).is_file():
            raise SourceError(f"{where}: the file {entry['file_name']!r} is not there; add it or remove the line.")
        entries.append(entry)
    if not entries:
        raise SourceError(f"{path}: the file names no clips; write one line for each.")
    return entries


def _digest(path: Path) -> str:
    """Hash of a file's size and both ends: enough to notice another video, and quick for a terabyte of them."""
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(EDGE)
        file.seek(max(0, size - EDGE))
        ends += file.read(EDGE)
    return hashlib.sha256(str(size).encode() + ends).hexdigest()


def _fingerprint(content: list, max_side: int) -> str:
    # The version: another PyAV brings another encoder and so other bytes.
    return hashlib.sha256(json.dumps([content, max_side, av.__version__]).encode()).hexdigest()


class _Member(NamedTuple):
    """Where the bytes of a file lie in an archive; the checksum is of its tar header."""

    offset: int
    size: int
    modified: float
    checksum: int


class _Sample(NamedTuple):
    """The members of an archive that share a key, by suffix; `suffix` is the one of the video."""

    name: str
    archive: Path
    suffix: str
    members: dict[str, _Member]

    def read(self, suffix: str) -> bytes:
        member = self.members[suffix]
        with self.archive.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


def _index(archive: Path) -> Iterator[_Sample]:
    """The videos of a tar file, found by reading its headers only."""
    groups: dict[str, dict[str, _Member]] = {}
    try:
        with tarfile.open(archive, "r:") as tar:
            for info in tar:
                if info.isfile():
                    key, suffix = os.path.splitext(info.name)
                    member = _Member(info.offset_data, info.size, info.mtime, info.chksum)
                    groups.setdefault(key, {})[suffix.lower()] = member
    except (OSError, tarfile.TarError) as error:
        raise SourceError(f"{archive}: the tar file cannot be read ({error}); copy or download it again.") from error
    for key, members in groups.items():
        suffix = next((suffix for suffix in VIDEO_SUFFIXES if suffix in members), None)
        if suffix:
            yield _Sample(f"{archive.name}/{key}{suffix}", archive, suffix, members)
