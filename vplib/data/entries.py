"""What a source says of a clip: the fields of its JSON, its caption, and what a file is known by."""

import codecs
import contextlib
import hashlib
import io
import json
import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import av

from vplib import files
from vplib.data.shards import packed
from vplib.data.video import VideoError

VIDEO_SUFFIXES = tuple(
    f".{suffix}" for suffix in "mp4 mov m4v mkv webm avi mpg mpeg ts gif".split()
)
EDGE = 2**16  # bytes at either end of a file that its digest covers
DEEPEST = 100  # levels of a metadata line
RULES = 3  # part of the fingerprint: raise it when a clip of the same file comes out differently


class SourceError(ValueError):
    """A folder or an archive that cannot be a source. One sentence: what, where, what to do."""

    def __init__(self, message: str):
        super().__init__(files.printable(message))


@contextlib.contextmanager
def blamed(name: str) -> Iterator[None]:
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


def caption(text: object) -> str:
    """`text` without spaces around it; empty if it is no text."""
    return text.strip() if isinstance(text, str) else ""


def beside(fields: dict, ours: dict) -> dict:
    """All of `fields` and `ours`; a name that both have is ours, and theirs is kept in `given`."""
    if not fields.keys() & ours.keys():
        return {**fields, **ours}
    given = {key: value for key, value in fields.items() if key in ours or key == "given"}
    kept = {key: value for key, value in fields.items() if key not in given}
    return {**kept, "given": given, **ours}


def fields_of(data: bytes) -> dict:
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


def fingerprint(content: list, resolution: int, max_pixels: int, captions: bool) -> str:
    # The version: another PyAV brings another encoder and so other bytes.
    settings = [resolution, max_pixels, *([] if captions else ["bare"])]
    decided = json.dumps([RULES, content, *settings, av.__version__])
    return hashlib.sha256(decided.encode()).hexdigest()
