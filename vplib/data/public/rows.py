"""What a reader yields: a row for each entry of the official annotations, and how fields are read."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SPLITS = {"training": "train", "validation": "val", "validate": "val", "testing": "test"}
YOUTUBE = re.compile(r"(?:[?&]v=|youtu\.be/|/embed/|/shorts/)([\w-]{11})")
CUT_CLIP = re.compile(r"(.+)_(\d+)_(\d+)")  # from the right: ids of YouTube hold _ themselves


@dataclass(slots=True, kw_only=True)
class Row:
    """An entry of the annotations, and at last a line of `metadata.jsonl` or of `skipped.csv`.

    `file` is the official name of its video, relative to the folder of videos, and `names` the ends
    of paths, without suffix, under which it is looked for (as a default the name alone). `start`
    and `end` are seconds of the video, or with `unit` "frame" in `more` frames from 0, half open;
    None: all of it. `seconds` is how long the video is by the annotations. `reason` says why the
    entry is skipped, and `sources` which entries a missing video takes with it: as a default this
    one.
    """

    source: str
    file: str
    id: str
    names: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    split: str | None = None
    more: dict = field(default_factory=dict)
    seconds: float | None = None
    sources: tuple[str, ...] = ()
    reason: str | None = None
    note: str = ""

    def record(self) -> dict:
        """The entry as the field reads it: file, id, times, texts, labels, split, and more."""
        return {
            "file_name": self.file,
            "id": self.id,
            "start": self.start,
            "end": self.end,
            "texts": self.texts,
            "labels": self.labels,
            "split": self.split,
            **self.more,
        }

    def key(self) -> int:
        """Equal for the same entry again."""
        content = json.dumps([self.record(), self.names], sort_keys=True).encode()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def part(word: str) -> str:
    """Train, val or test, as every data set calls them otherwise."""
    return SPLITS.get(word, word)


def number(value: object) -> float:
    """A time or measure, to the microsecond. Raises ValueError if it is not finite."""
    if not math.isfinite(found := float(value)):
        raise ValueError(f"{value} is no number")
    return round(found, 6)


def whole(value: object) -> int:
    """A whole number, which some copies write as 7.0. Raises ValueError for another."""
    if (found := float(value)) != int(found):
        raise ValueError(f"{value} is no whole number")
    return int(found)


def clock(text: str) -> float:
    """Seconds of `HH:MM:SS.mmm`. Raises ValueError."""
    hours, minutes, seconds = text.split(":")
    return number(3600 * int(hours) + 60 * int(minutes) + float(seconds))


def plain(text: object) -> str:
    """A caption without blanks around it; empty where there is none."""
    return text.strip() if isinstance(text, str) else ""


def youtube_id(address: str) -> str:
    """The id in an address of YouTube, or what was given."""
    found = YOUTUBE.search(address)
    return found[1] if found else address


def bouts(labels: Sequence[int], names: Mapping[int, str]) -> list[dict]:
    """Stretches of frames of one label: its name, first frame, and the frame behind the last."""
    found, at = [], 0
    for label, run in itertools.groupby(labels):
        size = len([*run])
        found.append({"label": names[label], "start_frame": at, "end_frame": at + size})
        at += size
    return found


def distinct(values: Iterable[str]) -> list[str]:
    """Sorted, each once."""
    return sorted(set(values))
