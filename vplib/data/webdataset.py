"""What video2dataset writes as a source for `shards.write`: tar files, folders of the same files, or
parquet files.
"""

import contextlib
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vplib.data import parquets
from vplib.data.entries import (
    VIDEO_SUFFIXES,
    SourceError,
    beside,
    blamed,
    caption,
    fields_of,
    fingerprint,
)
from vplib.data.shards import Clip, packed
from vplib.data.standardize import standardize
from vplib.data.video import PIXELS, VideoError, probe

APPLE = "._"  # macOS writes a file of this prefix, with its own notes, beside every file of a tar
SHARD = re.compile(r"\d{5,}")  # the name of a folder of video2dataset's layout `files`
NUMBERED = re.compile(r"caption_(\d+)")
CLIP = re.compile(r"(.+)_(\d+)")  # the key of a clip: that of its row, and its number from 0
ABOUT = ("title", "description", "tags")  # of a video of YouTube: the nearest to WTS-70M's text


class WebDatasetSource:
    """Clips of what video2dataset writes: `KEY.mp4` and what is said of it, in tar files, folders or
    parquet files.

    `root` is a folder of tar files, or of folders such as `00000`, or of parquet files alone, which
    hold videos as a column and need pyarrow, or one of these. Captions are
    those of `KEY.json` (`captions_of`) or, where it has none, the one of `KEY.txt`; the first is
    the text of a clip, and several are its `texts`. Other fields of the JSON are kept; of
    `yt_meta_dict`, which may be long, title, description and tags, as `youtube`. `KEY.cls`, a whole
    number, is the `label` of a clip whose JSON has none. What the JSON calls `file_name`, `width`,
    `height`, `fps`, `frames` or `duration` is kept as `given.width` and so on: a clip's own fields
    of these names are ours. Frames whose shorter side exceeds `resolution` pixels are scaled down
    to it.

    `failed` lists {file, reason} of all that was asked for and has no video, by its status. A clip
    without a caption or with an unreadable one raises VideoError.

    Raises SourceError if there is no tar file, or one is damaged.
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
        self._samples, self.failed = [], []
        for sample in samples(root):
            if sample.suffix:
                self._samples.append(sample)
            elif reason := sample.failure():
                self.failed.append({"file": sample.name, "reason": reason})
        if not self._samples:
            raise SourceError(
                f"{root}: the tar files hold no videos; expected members like KEY.mp4 and KEY.txt."
            )
        digests = [
            [sample.name, [[*one[1:]] for one in sample.members.values()]]
            for sample in self._samples
        ]
        self.fingerprint = fingerprint(digests, resolution, max_pixels, captions)

    def __len__(self) -> int:
        return len(self._samples)

    def texts(self) -> list[str]:
        """The captions that can be read; a clip without one is left out when shards are written."""
        found = []
        for sample in self._samples:
            with contextlib.suppress(VideoError):
                found += sample.known()[1][:1]
        return found

    def seconds(self, index: int) -> float:
        """How long a clip lasts by its header; 0 if that does not say. Raises VideoError."""
        sample = self._samples[index]
        return probe(sample.read(sample.suffix), name=sample.name).seconds

    def original(self, index: int) -> tuple[bytes, dict]:
        """A video file as it is, and its metadata with its caption, if any, as `text`.

        Raises VideoError if the metadata or the member of the archive cannot be read.
        """
        sample = self._samples[index]
        fields, texts = sample.known()
        meta = beside(
            _several(fields, texts), {"text": (texts or [None])[0], "file_name": sample.name}
        )
        return sample.read(sample.suffix), meta

    def __getitem__(self, index: int) -> Clip:
        sample = self._samples[index]
        fields, texts = sample.known()
        if self.captions and not texts:
            raise VideoError(
                sample.name, "has no caption", "add one to its .txt or leave the clip out"
            )
        with blamed(sample.name):
            video, facts = standardize(
                sample.read(sample.suffix),
                name=sample.name,
                resolution=self.resolution,
                max_pixels=self.max_pixels,
            )
        meta = beside(_several(fields, texts), {"file_name": sample.name, **facts})
        return Clip(video, (texts or [""])[0], meta)


def _several(fields: dict, texts: list[str]) -> dict:
    return fields if len(texts) < 2 else {**fields, "texts": texts}


def captions_of(fields: dict, key: str) -> list[str] | None:
    """Takes what is said of a clip out of the fields of its JSON; None if they have no captions.

    That is `caption`, a text or a list of them, or `caption_0`, `caption_1` and so on, or the lines
    of `clip_subtitles` as one text, in English if they are. video2dataset gives every clip of a row
    the whole list: it is taken to hold one caption for each of them. Blank ones do not count.
    Source: iejMac/video2dataset, data_writer.py, subsamplers/; the number in the key, our choice.
    """
    numbered = sorted(
        (int(found[1]), name) for name in fields if (found := NUMBERED.fullmatch(name))
    )
    columns = [fields.pop(name) for _, name in numbered]
    spoken, told = fields.pop("clip_subtitles", None), fields.pop("caption", columns)
    if told is columns and not columns and spoken is not None:
        told = [" ".join(filter(None, (_spoken(one) for one in spoken)))]
    elif told is columns and not columns:
        return None
    elif isinstance(told, list) and told is not columns and fields.get("clips"):
        if found := CLIP.fullmatch(key):
            told = told[int(found[2]) :][:1]
    told = [inner for one in (told if isinstance(told, list) else [told]) for inner in _listed(one)]
    return [*filter(None, map(caption, told))]


def _listed(value: object) -> list:
    return value if isinstance(value, list) else [value]


def _spoken(subtitle: dict) -> str:
    """The lines of a subtitle: in English, or in its first language."""
    lines = subtitle.get("lines") or []
    if isinstance(lines, dict):
        lines = lines.get("en") or next(iter(lines.values()), [])
    return " ".join(filter(None, map(caption, lines)))


class _Member(NamedTuple):
    """Where the bytes of a file lie in an archive, or all of a file; the checksum is of its tar
    header. In a parquet file `offset` is a row, and `columns` what is read of it.
    """

    path: Path
    offset: int
    size: int
    modified: float
    checksum: int
    sparse: bool
    columns: tuple[str, ...] = ()


class Sample(NamedTuple):
    """The members of an archive that share a key, by suffix; `suffix` is the one of the video,
    empty if there is none, and `first` the JSON of the first clip of the same row.
    """

    name: str
    key: str
    suffix: str
    members: dict[str, _Member]
    first: _Member | None = None

    def read(self, suffix: str) -> bytes:
        return self._bytes(self.members[suffix], suffix)

    def failure(self) -> str:
        """Why there is no video, for what is no clip; empty if nothing says that one was asked for."""
        if ".json" not in self.members:
            return ""
        try:
            fields = fields_of(self.read(".json"))
        except (VideoError, ValueError):
            return ""
        status, message = fields.get("status"), fields.get("error_message")
        if status in (None, "success"):
            return "" if status is None else "missing_video"
        return f"{status}: {message}" if message else f"{status}"

    def known(self) -> tuple[dict, list[str]]:
        """The fields of .json and .cls, and the captions. Raises VideoError."""
        part = ".json"
        try:
            fields = fields_of(self.read(part)) if part in self.members else {}
            about, texts = self._about(fields), captions_of(fields, self.key)
            part = ".cls"
            if part in self.members and "label" not in fields:
                fields["label"] = int(self._words(part))
                packed(fields)
            part = ".txt"
            # Where the JSON of video2dataset has captions, .txt has them as Python prints them.
            if not texts and part in self.members and (texts is None or "status" not in fields):
                texts = [*filter(None, [self._words(part)])]
            elif texts is None and "status" in fields:  # nothing was asked for but the video
                texts = [*filter(None, [caption(about.get("title"))])]
        except VideoError:
            raise
        except (ValueError, TypeError, AttributeError) as error:
            raise VideoError(
                self.name, f"has an unreadable {part} ({error})", "correct it or leave the clip out"
            ) from error
        return ({**fields, "youtube": about} if about else fields), texts or []

    def _about(self, fields: dict) -> dict:
        """What YouTube says of the video; in a row of clips the first one alone has it."""
        told = fields.pop("yt_meta_dict", None)
        if told == {} and self.first:
            told = fields_of(self._bytes(self.first, ".json")).get("yt_meta_dict")
        told = (told or {}).get("info") or {}
        return {name: told[name] for name in ABOUT if told.get(name)}

    def _bytes(self, member: _Member, suffix: str) -> bytes:
        if member.sparse:  # a few bytes may stand for terabytes
            raise VideoError(
                self.name,
                f"has a {suffix} stored as a sparse file",
                "make the archive without --sparse",
            )
        if member.columns:
            with blamed(self.name):
                return parquets.value(member.path, member.offset, member.columns)
        with blamed(self.name), member.path.open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)

    def _words(self, suffix: str) -> str:
        return self.read(suffix).decode("utf-8-sig").strip()


def samples(root: str | Path) -> Iterator[Sample]:
    """All that is in tar files or folders of video2dataset, also what has no video.

    Raises SourceError as WebDatasetSource does.
    """
    for place in _places(Path(root)):
        groups: dict[str, dict[str, _Member]] = {}
        for name, member in _members(place):
            key, suffix = os.path.splitext(name)
            groups.setdefault(key, {})[suffix.lower()] = member
        for key, members in groups.items():
            suffix = next((suffix for suffix in VIDEO_SUFFIXES if suffix in members), "")
            row = CLIP.fullmatch(key)
            first = row and groups.get(f"{row[1]}_{0:0{len(row[2])}d}", {}).get(".json")
            name = f"{place.name}/{key}{suffix}"
            yield Sample(name, key.rpartition("/")[2], suffix, members, first)


def _members(place: Path) -> Iterator[tuple[str, _Member]]:
    """Name and place of every member of a folder, a parquet file or an archive."""
    if place.is_dir():
        yield from _folder(place)
    elif place.suffix == ".parquet":
        changed = place.stat().st_mtime
        for name, row, columns in parquets.members(place):
            yield name, _Member(place, row, 0, changed, 0, False, columns)
    else:
        yield from _tar(place)


def _places(root: Path) -> list[Path]:
    """The tar files that are there, regular ones, as reading others may never end, or folders, or
    parquet files.
    """
    places = [root]
    if os.path.isdir(root):
        places = sorted(path for path in root.glob("*.tar") if not path.name.startswith(APPLE))
        if not places and SHARD.fullmatch(root.name):
            return [root]
        if not places:
            folders = [path for path in sorted(root.iterdir()) if path.is_dir()]
            if folders := [path for path in folders if SHARD.fullmatch(path.name)]:
                return folders
            if tables := sorted(root.glob("[0-9]*.parquet")):
                return tables
            raise SourceError(
                f"{root}: the folder holds no .tar files; point it at the output of video2dataset in "
                "its format webdataset, files or parquet."
            )
    for place in places:
        if not os.path.isfile(place) or not place.stat().st_size:
            raise SourceError(
                f"{place}: this is no tar file, or an empty one; point data.root at tar files."
            )
    return places


def _folder(place: Path) -> Iterator[tuple[str, _Member]]:
    for path in sorted(place.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            facts = path.stat()
            yield path.name, _Member(path, 0, facts.st_size, facts.st_mtime, 0, False)


def _tar(archive: Path) -> Iterator[tuple[str, _Member]]:
    """The files of an archive, found by reading its headers only."""
    try:
        # Names that are not UTF-8 are escaped, so that they can be stored and printed.
        with tarfile.open(archive, "r:", encoding="utf-8", errors="backslashreplace") as tar:
            for info in tar:
                if info.size < 0:  # tarfile would go back and read for ever
                    raise tarfile.ReadError(f"{info.name!r} has a size of {info.size} bytes")
                if info.isfile() and not os.path.basename(info.name).startswith(APPLE):
                    place = (info.offset_data, info.size, info.mtime, info.chksum, info.issparse())
                    yield info.name, _Member(archive, *place)
    except Exception as error:  # a damaged header raises anything
        raise SourceError(
            f"{archive}: the tar file cannot be read ({error}); copy or download it again."
        ) from error
