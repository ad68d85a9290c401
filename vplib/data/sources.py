"""Your own videos as sources for `shards.write`: a folder with `metadata.jsonl`, or tar files."""

import codecs
import contextlib
import hashlib
import io
import json
import math
import os
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av

from vplib import files, paths
from vplib.data.shards import Clip, packed
from vplib.data.standardize import standardize
from vplib.data.video import PIXELS, VideoError, probe

VIDEO_SUFFIXES = tuple(
    f".{suffix}" for suffix in "mp4 mov m4v mkv webm avi mpg mpeg ts gif".split()
)
EDGE = 2**16  # bytes at either end of a file that its digest covers
DEEPEST = 100  # levels of a metadata line
RULES = 2  # part of the fingerprint: raise it when a clip of the same file comes out differently
APPLE = "._"  # macOS writes a file of this prefix, with its own notes, beside every file of a tar


class SourceError(ValueError):
    """A folder or an archive that cannot be a source. One sentence: what, where, what to do."""

    def __init__(self, message: str):
        super().__init__(files.printable(message))


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


def seconds(source: "FolderSource | WebDatasetSource", most: int = 50) -> list[float]:
    """How long clips last by their headers: of `most` of them, evenly spread; unreadable ones and
    those that do not say are left out.
    """
    found = []
    for index in sorted({len(source) * n // most for n in range(most)}):
        with contextlib.suppress(VideoError):
            original, meta = source.original(index)
            found.append(probe(original, name=meta["file_name"]).seconds)
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
    `label`. Only what makes or checks captions needs a `text`. What a line calls `width`, `height`,
    `fps`, `frames` or `duration` is kept as `given.width` and so on: a clip's own fields of these
    names are measured. Frames whose shorter side exceeds `resolution` pixels are scaled down to it.
    Where no `captions` are asked for, clips need none, and without `metadata.jsonl` every video
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
        digests = [[line.entry, digest(line.path)] for line in self._lines]
        self.fingerprint = _fingerprint(digests, resolution, max_pixels, captions)

    def __len__(self) -> int:
        return len(self._lines)

    def texts(self) -> list[str]:
        """Every caption. Raises SourceError, naming the line, if one is missing or empty."""
        for line in self._lines:
            if not _caption(line.entry.get("text")):
                raise SourceError(
                    f"{self.folder / 'metadata.jsonl'}, line {line.number}: there is no `text`, "
                    "the caption; every line needs one that is not empty."
                )
        return [_caption(line.entry["text"]) for line in self._lines]

    def original(self, index: int) -> tuple[Path, dict]:
        """A video file as it is, and its line of metadata. Raises VideoError for an empty file."""
        line = self._lines[index]
        with _blamed(line.entry["file_name"]):
            if not line.path.stat().st_size:  # such as those of /proc, which block when read
                raise VideoError(
                    line.entry["file_name"], "is empty (0 bytes)", "copy it again or leave it out"
                )
        return line.path, dict(line.entry)

    def __getitem__(self, index: int) -> Clip:
        path, meta = self.original(index)
        name, text = meta["file_name"], _caption(meta.pop("text", None))
        if self.captions and not text:
            line = f"line {self._lines[index].number} of metadata.jsonl"
            raise VideoError(name, f"has no `text` in {line}", "add a caption or leave it out")
        with _blamed(name):
            video, facts = standardize(
                path, name=name, resolution=self.resolution, max_pixels=self.max_pixels
            )
        return Clip(video, text, _beside(meta, facts))


class WebDatasetSource:
    """Clips of the tar files that video2dataset writes: `KEY.mp4` and its caption.

    `root` is a folder of tar files or one of them. The caption is `KEY.txt` or, where that is
    missing or empty, `caption` in `KEY.json`, whose other fields are kept. `KEY.cls`, a whole
    number, is the `label` of a clip whose JSON has none. What the JSON calls `file_name`, `width`,
    `height`, `fps`, `frames` or `duration` is kept as `given.width` and so on: a clip's own fields
    of these names are ours. Frames whose shorter side exceeds `resolution` pixels are scaled down
    to it.

    Raises SourceError if there is no tar file, or one is damaged. A clip without a caption or with
    an unreadable one raises VideoError.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        name: str,
        resolution: int,
        max_pixels: int = PIXELS,
        captions: bool = True,
    ):
        self.name, self.resolution, self.max_pixels = name, resolution, max_pixels
        self.captions = captions
        self._samples = [sample for archive in _archives(Path(root)) for sample in _index(archive)]
        if not self._samples:
            raise SourceError(
                f"{root}: the tar files hold no videos; expected members like KEY.mp4 and KEY.txt."
            )
        digests = [[sample.name, [*map(list, sample.members.values())]] for sample in self._samples]
        self.fingerprint = _fingerprint(digests, resolution, max_pixels, captions)

    def __len__(self) -> int:
        return len(self._samples)

    def texts(self) -> list[str]:
        """The captions that can be read; a clip without one is left out when shards are written."""
        found = []
        for sample in self._samples:
            with contextlib.suppress(VideoError):
                found.append(_caption(sample.known()[1]))
        return [text for text in found if text]

    def original(self, index: int) -> tuple[bytes, dict]:
        """A video file as it is, and its metadata with its caption, if any, as `text`.

        Raises VideoError if the metadata or the member of the archive cannot be read.
        """
        sample = self._samples[index]
        fields, text = sample.known()
        meta = _beside(fields, {"text": text, "file_name": sample.name})
        return sample.read(sample.suffix), meta

    def __getitem__(self, index: int) -> Clip:
        sample = self._samples[index]
        fields, text = sample.known()
        if self.captions and not _caption(text):
            raise VideoError(
                sample.name, "has no caption", "add one to its .txt or leave the clip out"
            )
        with _blamed(sample.name):
            video, facts = standardize(
                sample.read(sample.suffix), name=sample.name, resolution=self.resolution, max_pixels=self.max_pixels
            )
        return Clip(video, _caption(text), _beside(fields, {"file_name": sample.name, **facts}))


@contextlib.contextmanager
def _blamed(name: str) -> Iterator[None]:
    """Makes whatever reading or encoding a clip raises a VideoError; lack of memory passes."""
    try:
        yield
    except (VideoError, MemoryError):
        raise
    except Exception as error:
        raise VideoError(
            name,
            f"cannot be read or encoded ({type(error).__name__}: {error})",
            "replace the file or leave it out",
        ) from error


def _caption(text: object) -> str:
    """`text` without spaces around it; empty if it is no text."""
    return text.strip() if isinstance(text, str) else ""


def _beside(fields: dict, ours: dict) -> dict:
    """All of `fields` and `ours`; a name that both have is ours, and theirs is kept in `given`."""
    if not fields.keys() & ours.keys():
        return {**fields, **ours}
    given = {key: value for key, value in fields.items() if key in ours or key == "given"}
    kept = {key: value for key, value in fields.items() if key not in given}
    return {**kept, "given": given, **ours}


def _fields(data: bytes) -> dict:
    """A JSON object that a shard can hold, its `label` without needless spaces.

    Raises ValueError with what is wrong, as the end of a sentence.
    """
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except ValueError as error:
        raise ValueError(f"is not UTF-8 ({error})") from error
    try:
        fields = json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError("is no JSON object, which would be {...}")
    try:
        if _depth(fields) > DEEPEST:  # which could not be sent to another process
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        packed(fields)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot be stored ({error})") from error
    if isinstance(label := fields.get("label"), str):
        # One class must not become two by what nobody sees.
        fields["label"] = unicodedata.normalize("NFC", " ".join(label.split()))
        if not fields["label"]:
            raise ValueError("has an empty `label`")
    return fields


def _no_number(word: str):
    raise ValueError(f"{word} is no JSON number")


def _finite(word: str) -> float:
    if not math.isfinite(value := float(word)):
        raise ValueError(f"{word} is too large a number")
    return value


def _depth(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, inside), default=0)


class _Line(NamedTuple):
    """A line of `metadata.jsonl`: its number, from 1, the file that it names, and what it says."""

    number: int
    path: Path
    entry: dict


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
    lines = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = _fields(line)
        except ValueError as error:
            raise SourceError(f"{where}: the line {error}; correct it.") from error
        name = entry.get("file_name")
        if not isinstance(name, str) or not name.strip():
            raise SourceError(f"{where}: there is no `file_name`; every line needs one.")
        try:
            file = _found(folder, name)
        except OSError as error:
            raise SourceError(
                f"{where}: the file {name!r} cannot be looked up ({error.strerror}); "
                "correct its name."
            ) from error
        if file is None:
            raise SourceError(
                f"{where}: the file {name!r} is not there; add it or remove the line."
            )
        lines.append(_Line(number, file, entry))
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
                lines.append(_Line(0, path, {"file_name": inside.decode(errors="backslashreplace")}))
    if not lines:
        raise SourceError(
            f"{folder}: there are no video files ({', '.join(VIDEO_SUFFIXES)}), here or below; "
            "point data.root at some."
        )
    return sorted(lines, key=lambda line: line.entry["file_name"])


def _found(folder: Path, name: str) -> Path | None:
    """The regular file of that name, its accents composed or, as on a Mac, decomposed."""
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        path = folder / os.fsdecode(form.encode())  # UTF-8, also where the locale is another
        if path.is_file():
            return path
    return None


def digest(video: bytes | Path) -> str:
    """Hash of a file's size and both ends: enough to notice another video, quick for terabytes.

    Of a file that cannot be opened, the reason: such a clip is left out when its turn comes.
    """
    try:
        inside = isinstance(video, bytes)
        size = len(video) if inside else video.stat().st_size
        if not size:
            return ""
        with io.BytesIO(video) if inside else video.open("rb") as file:
            ends = file.read(EDGE)
            file.seek(max(0, size - EDGE))
            ends += file.read(EDGE)
    except OSError as error:
        return f"{error.strerror}"
    return hashlib.sha256(str(size).encode() + ends).hexdigest()


def _fingerprint(content: list, resolution: int, max_pixels: int, captions: bool) -> str:
    # The version: another PyAV brings another encoder and so other bytes.
    settings = [resolution, max_pixels, *([] if captions else ["bare"])]
    decided = json.dumps([RULES, content, *settings, av.__version__])
    return hashlib.sha256(decided.encode()).hexdigest()


class _Member(NamedTuple):
    """Where the bytes of a file lie in an archive; the checksum is of its tar header."""

    offset: int
    size: int
    modified: float
    checksum: int
    sparse: bool


class _Sample(NamedTuple):
    """The members of an archive that share a key, by suffix; `suffix` is the one of the video."""

    name: str
    archive: Path
    suffix: str
    members: dict[str, _Member]

    def read(self, suffix: str) -> bytes:
        member = self.members[suffix]
        if member.sparse:  # a few bytes may stand for terabytes
            raise VideoError(
                self.name,
                f"has a {suffix} stored as a sparse file",
                "make the archive without --sparse",
            )
        with _blamed(self.name), self.archive.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def known(self) -> tuple[dict, str | None]:
        """The fields of .json and .cls, and the caption, if any. Raises VideoError."""
        part = ".json"
        try:
            fields = _fields(self.read(part)) if part in self.members else {}
            text, part = fields.pop("caption", None), ".cls"
            if part in self.members and "label" not in fields:
                fields["label"] = int(self._words(part))
                packed(fields)
            part = ".txt"
            text = (self._words(part) if part in self.members else "") or text
        except VideoError:
            raise
        except ValueError as error:
            raise VideoError(
                self.name, f"has an unreadable {part} ({error})", "correct it or leave the clip out"
            ) from error
        return fields, text

    def _words(self, suffix: str) -> str:
        return self.read(suffix).decode("utf-8-sig").strip()


def _archives(root: Path) -> list[Path]:
    """The tar files that are there: regular ones, as reading others may never end."""
    archives = [root]
    if os.path.isdir(root):
        archives = sorted(path for path in root.glob("*.tar") if not path.name.startswith(APPLE))
        if not archives:
            raise SourceError(
                f"{root}: the folder holds no .tar files; point it at the output of video2dataset."
            )
    for archive in archives:
        if not os.path.isfile(archive) or not archive.stat().st_size:
            raise SourceError(
                f"{archive}: this is no tar file, or an empty one; point data.root at tar files."
            )
    return archives


def _index(archive: Path) -> Iterator[_Sample]:
    """The videos of a tar file, found by reading its headers only."""
    groups: dict[str, dict[str, _Member]] = {}
    try:
        # Names that are not UTF-8 are escaped, so that they can be stored and printed.
        with tarfile.open(archive, "r:", encoding="utf-8", errors="backslashreplace") as tar:
            for info in tar:
                if info.size < 0:  # tarfile would go back and read for ever
                    raise tarfile.ReadError(f"{info.name!r} has a size of {info.size} bytes")
                if info.isfile() and not os.path.basename(info.name).startswith(APPLE):
                    key, suffix = os.path.splitext(info.name)
                    groups.setdefault(key, {})[suffix.lower()] = _Member(
                        info.offset_data, info.size, info.mtime, info.chksum, info.issparse()
                    )
    except Exception as error:  # a damaged header raises anything
        raise SourceError(
            f"{archive}: the tar file cannot be read ({error}); copy or download it again."
        ) from error
    for key, members in groups.items():
        suffix = next((suffix for suffix in VIDEO_SUFFIXES if suffix in members), None)
        if suffix:
            yield _Sample(f"{archive.name}/{key}{suffix}", archive, suffix, members)
