"""Your own videos as sources for `shards.write`: a folder with `metadata.jsonl`, or tar files."""

import contextlib
import os
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vplib import paths
from vplib.data import pictures
from vplib.data.cutting import Cuts, Stretch
from vplib.data.entries import (
    VIDEO_SUFFIXES,
    SourceError,
    beside,
    blamed,
    caption,
    digest,
    fields_of,
    fingerprint,
)
from vplib.data.shards import Clip
from vplib.data.standardize import standardize
from vplib.data.video import PIXELS, VideoError, probe
from vplib.data.webdataset import WebDatasetSource


def split(
    kind: str, root: str | Path, name: str, *, captions: bool = True, **reading: int
) -> "FolderSource | WebDatasetSource":
    """The part `name` (train or val) of a data set; `kind` and `root` as in `conf/data`. Where no
    `captions` are asked for, a `root` without such parts is one part as it is.
    """
    place = resolve(root)
    if captions or (place / name).is_dir():
        place = place / name
    source = FolderSource if kind == "folder" else WebDatasetSource
    return source(place, name=name, captions=captions, **reading)


def parts(data: Mapping) -> list[str]:
    """The parts of a data set's folder that trainings, tasks and benchmarks read, of those that are
    there; none for a configuration of `data` without benchmarks.

    Raises SourceError if none is there.
    """
    if not data.get("benchmarks"):
        return []
    named = [*data["corpora"], *(cell["part"] for cell in data["benchmarks"].values())]
    named += [task[part] for task in data["tasks"].values() for part in ("train", "test")]
    root = resolve(data["root"])
    found = [part for part in dict.fromkeys(named) if (root / part / "metadata.jsonl").is_file()]
    if not found:
        raise SourceError(
            f"{root}: there is none of {', '.join(dict.fromkeys(named))}; write them with "
            "python -m vplib.data.public, or correct data.root."
        )
    return found


def seconds(source: "FolderSource | WebDatasetSource", most: int = 50) -> list[float]:
    """How long clips last by their headers: of `most` of them, evenly spread; unreadable ones and
    those that do not say are left out.
    """
    found = []
    for index in sorted({len(source) * n // most for n in range(most)}):
        with contextlib.suppress(VideoError):
            found.append(source.seconds(index))
    return [one for one in found if one]


def resolve(root: str | Path) -> Path:
    """The folder that `data.root` means: from the repository on, absolute, or with `~` for home."""
    try:
        return paths.ROOT / Path(root).expanduser()
    except RuntimeError as error:
        raise SourceError(
            f"data.root={root}: there is no such user; give the whole path."
        ) from error


class FolderSource:
    """Clips of a folder in the VideoFolder convention of Hugging Face.

    `root` holds `metadata.jsonl`, or `root/<split>/` does: one JSON object a line with `file_name`
    (relative to the folder of `metadata.jsonl`), `text`, and whatever else is to be kept, such as
    `label`. Only what makes or checks captions needs a `text`. `start` and `end`, seconds of the
    file, make a clip of that part of it: frames with start <= t < end, which are decoded from the
    key frame before and encoded once, for the clip; with `unit` "frame" they are numbers of frames
    from 0. A file is hashed once and, where its clips follow each other, opened once for all. What
    a line calls `width`, `height`, `fps`, `frames` or `duration` is kept as `given.width` and so
    on: a clip's own fields of these names are measured. A `file_name` may be a folder of pictures, too
    (`vplib.data.pictures`). Frames whose shorter side exceeds
    `resolution` pixels are scaled down to it. Where no `captions` are asked for, clips need none, and without `metadata.jsonl` every video
    file in the folder and below is a clip.

    Raises SourceError if a line is not as described or names a file that is not there.
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        *,
        name: str,
        resolution: int,
        max_pixels: int = PIXELS,
        captions: bool = True,
    ):
        self.folder = Path(root) / split if split else Path(root)
        self.name, self.resolution, self.max_pixels = name, resolution, max_pixels
        self.captions = captions
        named = captions or (self.folder / "metadata.jsonl").exists()
        self._lines = _read_metadata(self.folder) if named else _found_below(self.folder)
        self._cuts = Cuts(resolution=resolution, max_pixels=max_pixels)
        found = {
            path: pictures.digest(path) if path.is_dir() else digest(path)
            for path in {line.path: None for line in self._lines}
        }
        digests = [[line.entry, found[line.path]] for line in self._lines]
        self.fingerprint = fingerprint(digests, resolution, max_pixels, captions)

    def __len__(self) -> int:
        return len(self._lines)

    def texts(self) -> list[str]:
        """Every caption. Raises SourceError, naming the line, if one is missing or empty."""
        for line in self._lines:
            if not caption(line.entry.get("text")):
                raise SourceError(
                    f"{self.folder / 'metadata.jsonl'}, line {line.number}: there is no `text`, "
                    "the caption; every line needs one that is not empty."
                )
        return [caption(line.entry["text"]) for line in self._lines]

    def seconds(self, index: int) -> float:
        """How long a clip lasts by its line or its header; 0 where neither says.

        Raises VideoError for a file that cannot be read.
        """
        line = self._lines[index]
        if line.stretch and (told := line.stretch.seconds):
            return told
        if line.path.is_dir():
            return len(pictures.pictures(line.path)) / pictures.RATE
        return probe(line.path, name=line.entry["file_name"]).seconds

    def original(self, index: int) -> tuple[Path | bytes, dict]:
        """A video file as it is, or what a line cuts out of one, and the line of metadata.

        Raises VideoError for an empty file and for a clip that cannot be cut.
        """
        line = self._lines[index]
        if line.is_cut:
            return self._cut(line)[0], dict(line.entry)
        with blamed(line.entry["file_name"]):
            if not line.path.stat().st_size:  # such as those of /proc, which block when read
                raise VideoError(
                    line.entry["file_name"], "is empty (0 bytes)", "copy it again or leave it out"
                )
        return line.path, dict(line.entry)

    def __getitem__(self, index: int) -> Clip:
        line = self._lines[index]
        meta = dict(line.entry)
        name, text = meta["file_name"], caption(meta.pop("text", None))
        if self.captions and not text:
            place = f"line {line.number} of metadata.jsonl"
            raise VideoError(name, f"has no `text` in {place}", "add a caption or leave it out")
        if line.is_cut:
            return Clip((cut := self._cut(line))[0], text, beside(meta, cut[1]))
        path, _ = self.original(index)
        with blamed(name):
            video, facts = standardize(
                path, name=name, resolution=self.resolution, max_pixels=self.max_pixels
            )
        return Clip(video, text, beside(meta, facts))

    def _cut(self, line: "_Line") -> tuple[bytes, dict]:
        name = line.entry["file_name"] + (f" {line.stretch}" if line.stretch else "")
        with blamed(name):
            if line.path.is_dir():
                look = dict(resolution=self.resolution, max_pixels=self.max_pixels)
                return pictures.cut(line.path, line.stretch, name=name, **look)
            return self._cuts.cut(line.path, line.stretch, name=name)


class _Line(NamedTuple):
    """A line of `metadata.jsonl`: its number, from 1, the file that it names, what it says, and the
    part of the file that it is about, if not all of it.
    """

    number: int
    path: Path
    entry: dict
    stretch: Stretch | None = None

    @property
    def is_cut(self) -> bool:
        """Whether its clip is made rather than read: of a part of a file, or of pictures."""
        return self.stretch is not None or self.path.is_dir()


def _read_metadata(folder: Path) -> list[_Line]:
    path = folder / "metadata.jsonl"
    try:
        content = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise SourceError(
            f"{path}: the file cannot be read ({error.strerror}); check the path and its rights."
        ) from error
    if content is None:
        splits = sorted(child.parent.name for child in folder.glob("*/metadata.jsonl"))
        advice = "write one line for each clip there"
        if splits:
            advice = f"choose a split of {', '.join(splits)}"
        raise SourceError(
            f"{path}: there is no such file with lines like "
            f'{{"file_name": ..., "text": ...}}; {advice}.'
        )
    lines, known = [], {}
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = fields_of(line)
        except ValueError as error:
            raise SourceError(f"{where}: the line {error}; correct it.") from error
        name = entry.get("file_name")
        if not isinstance(name, str) or not name.strip():
            raise SourceError(f"{where}: there is no `file_name`; every line needs one.")
        try:
            file = known.get(name) or _found(folder, name)
        except OSError as error:
            raise SourceError(
                f"{where}: the file {name!r} cannot be looked up ({error.strerror}); "
                "correct its name."
            ) from error
        if file is None:
            raise SourceError(
                f"{where}: the file {name!r} is not there; add it or remove the line."
            )
        known[name] = file
        try:
            lines.append(_Line(number, file, entry, Stretch.of(entry)))
        except ValueError as error:
            raise SourceError(f"{where}: {error}; correct the line.") from error
    if not lines:
        raise SourceError(f"{path}: the file names no clips; write one line for each.")
    return lines


def _found_below(folder: Path) -> list[_Line]:
    """The video files in a folder and below, by name; hidden ones and linked folders are left."""

    def refuse(error: OSError):
        raise SourceError(
            f"{error.filename}: the folder cannot be read ({error.strerror}); check data.root and "
            "its rights."
        ) from error

    lines = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            shown = path.suffix.lower() in VIDEO_SUFFIXES and not name.startswith(".")
            if shown and path.is_file():
                inside = os.fsencode(path.relative_to(folder).as_posix())
                # Names that are not UTF-8 are escaped, so that they can be stored and printed.
                lines.append(
                    _Line(0, path, {"file_name": inside.decode(errors="backslashreplace")})
                )
    if not lines:
        raise SourceError(
            f"{folder}: there are no video files ({', '.join(VIDEO_SUFFIXES)}), here or below; "
            "point data.root at some."
        )
    return sorted(lines, key=lambda line: line.entry["file_name"])


def _found(folder: Path, name: str) -> Path | None:
    """The regular file, or the folder of pictures, of that name, its accents composed or, as on a
    Mac, decomposed.
    """
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        path = folder / os.fsdecode(form.encode())  # UTF-8, also where the locale is another
        if path.is_file() or path.is_dir() and pictures.pictures(path):
            return path
    return None
