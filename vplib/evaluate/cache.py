"""Features of a corpus while they are computed: in memory, or in files that outlive the process.

A folder of files holds `about.json`, which says what the features are of; `0.bin` and so on, the
rows of each encoder, one after another; and `clips.jsonl`, a line a batch: which clips its rows are
of, and which were left out. What that file does not name is not there: a batch that was cut off is
computed again. Rows are read when they are needed, so that memory holds no more of them than that.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vplib import files

ABOUT, CLIPS = "about.json", "clips.jsonl"


class CacheError(ValueError):
    """Features on disk that cannot be used. One sentence: where, what is wrong, what to do."""

    def __init__(self, message: str):
        super().__init__(files.printable(message))


class Cache(NamedTuple):
    """Where features are kept, each corpus in a folder of its name, and which encoders they are of:
    digests of weights, dtype and whatever else they depend on.
    """

    folder: Path
    identity: Mapping[str, str]


def shared(root: Path, identity: Mapping[str, str], *more: object) -> Cache:
    """A cache in a folder of `root` for this identity, and whatever `more` tells corpora apart:
    other features have another folder, and every run finds the same ones.
    """
    told = hashlib.sha256(json.dumps([dict(identity), *more], sort_keys=True).encode())
    return Cache(root / told.hexdigest()[:16], identity)


# --- rows ----------------------------------------------------------------------------------------


class Rows:
    """An array in a file, read row by row when it is needed.

    An index of the first axis chooses rows, and reads nothing; `numpy.asarray` reads them, and so
    does a single number. `shape`, `dtype`, `ndim`, `nbytes` and `len` are those of what is chosen.
    """

    def __init__(
        self, path: Path, shape: Sequence[int], dtype: np.dtype, rows: np.ndarray, *, seen=()
    ):
        self._file = path, tuple(shape), dtype  # of a row
        self._rows, self._seen = rows, tuple(seen)
        like = self._through(np.empty((0, *shape), dtype))
        self.shape, self.dtype = (len(rows), *like.shape[1:]), like.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index) -> "Rows | np.ndarray":
        chosen = self._rows[index]
        if chosen.ndim:
            return Rows(*self._file, chosen, seen=self._seen)
        return np.asarray(Rows(*self._file, chosen[None], seen=self._seen))[0]

    def seen(self, change: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        """The same rows, which `change` is applied to whenever some are read."""
        return Rows(*self._file, self._rows, seen=[*self._seen, change])

    def _through(self, found: np.ndarray) -> np.ndarray:
        for change in self._seen:
            found = change(found)
        return found

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        path, shape, kind = self._file
        found = np.empty((len(self), *shape), kind)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        into = found.reshape(-1).view(np.uint8)
        try:
            with path.open("rb", buffering=0) as file:
                for place, row in enumerate(self._rows.tolist()):
                    file.seek(row * size)
                    if file.readinto(into[place * size : (place + 1) * size]) != size:
                        raise _damaged(path.parent)
        except OSError as error:
            raise CacheError(
                f"{path} cannot be read ({error.strerror}): compute the features again"
            ) from None
        return self._through(found).astype(dtype or self.dtype, copy=False)


# --- while they are computed ---------------------------------------------------------------------


class InMemory:
    """Features of at most `clips` clips: `add` them batch by batch. `rows` says which clips they
    are of, and `skipped`, to which others are added, which could not be read.
    """

    def __init__(self, clips: int):
        self.clips, self.rows, self.skipped, self._values = clips, [], [], {}

    def add(self, rows: Sequence[int], parts: Mapping[str, np.ndarray]) -> None:
        """Features of the next clips by each encoder."""
        begin, end = len(self.rows), len(self.rows) + len(rows)
        for of, part in parts.items():
            if of not in self._values:
                self._values[of] = np.empty((self.clips, *part.shape[1:]), part.dtype)
            self._values[of][begin:end] = part
        self.rows += rows

    def finish(self) -> dict[str, np.ndarray]:
        """All that was added."""
        return {of: part[: len(self.rows)] for of, part in self._values.items()}


class OnDisk:
    """The same in `folder`, which goes on from what is there: clip `len(rows) + len(skipped)` is
    the next one.

    `identity` says what the features depend on, in words that can be compared. Raises CacheError
    for a folder of another identity or a damaged one, and FileError if it cannot be written or has
    no room for the features of the clips that are left; what is there stays as it is.
    """

    def __init__(self, folder: Path, clips: int, identity: Mapping[str, object]):
        self.folder, self.clips = files.folder(folder), clips
        self.rows, self.skipped, self._end, self._told = [], [], 0, 0
        self._about = {"identity": json.loads(json.dumps(dict(identity))), "values": {}}
        if (folder / ABOUT).exists():
            self._resume()
            self._check_room()

    def _resume(self) -> None:
        try:
            about = json.loads((self.folder / ABOUT).read_text(encoding="utf-8"))
            there, asked = about["identity"], self._about["identity"]
            differ = [key for key in {**asked, **there} if asked.get(key) != there.get(key)]
            if differ:
                raise self._other(differ)
            log = self.folder / CLIPS
            for line in log.read_bytes().splitlines(keepends=True) if log.exists() else ():
                if not line.endswith(b"\n"):
                    break  # cut off
                told = json.loads(line)
                self.rows += told["rows"]
                self.skipped += told["skipped"]
                self._end += len(line)
        except CacheError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _damaged(self.folder) from None
        self._about, self._told = about, len(self.skipped)
        for number, size in enumerate(self._sizes()):
            path = self.folder / f"{number}.bin"
            if len(self.rows) * size > (path.stat().st_size if path.exists() else 0):
                raise _damaged(self.folder)

    def add(self, rows: Sequence[int], parts: Mapping[str, np.ndarray]) -> None:
        """As in memory; on the disk when this returns, whatever happens to the process or machine."""
        told = {
            of: {"shape": [*part.shape[1:]], "dtype": part.dtype.name} for of, part in parts.items()
        }
        first = not self._about["values"]
        if first:
            self._about["values"] = told
            files.write(self.folder / ABOUT, json.dumps(self._about, indent=1) + "\n")
        elif told != self._about["values"]:
            raise self._other(["shapes"])
        for number, (size, part) in enumerate(zip(self._sizes(), parts.values(), strict=True)):
            values = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
            _put(self.folder / f"{number}.bin", len(self.rows) * size, values)
        self.rows += rows
        self._log(rows)
        if first:
            self._check_room()

    def finish(self) -> dict[str, Rows]:
        """All that was added, in this process and before; not read yet."""
        if len(self.skipped) > self._told and self._about["values"]:
            self._log([])
        rows = np.arange(len(self.rows))
        return {
            of: Rows(self.folder / f"{number}.bin", one["shape"], np.dtype(one["dtype"]), rows)
            for number, (of, one) in enumerate(self._about["values"].items())
        }

    def _log(self, rows: Sequence[int]) -> None:
        """Say that `rows` are there, and what was skipped up to here."""
        line = json.dumps({"rows": [*rows], "skipped": self.skipped[self._told :]}).encode() + b"\n"
        _put(self.folder / CLIPS, self._end, line)
        self._end, self._told = self._end + len(line), len(self.skipped)

    def _sizes(self) -> list[int]:
        """Bytes of a clip, by each encoder."""
        return [
            int(np.prod(one["shape"], dtype=np.int64)) * np.dtype(one["dtype"]).itemsize
            for one in self._about["values"].values()
        ]

    def _check_room(self) -> None:
        left = self.clips - len(self.rows) - len(self.skipped)
        needed, free = left * sum(self._sizes()), shutil.disk_usage(self.folder).free
        if needed > free:
            raise files.FileError(
                f"{self.folder} needs {needed / 1e9:.3g} GB for the features of {left} more clips "
                f"and {free / 1e9:.3g} GB are free: free some space and start again, finished work "
                "is kept."
            )

    def _other(self, differ: Sequence[str]) -> CacheError:
        return CacheError(
            f"{self.folder} holds other features ({' and '.join(differ)} differ): delete this "
            "folder to have these computed, or keep them in another one"
        )


def _damaged(folder: Path) -> CacheError:
    return CacheError(
        f"{folder} is damaged: delete this folder to have its features computed again"
    )


def _put(path: Path, at: int, data: bytes | np.ndarray) -> None:
    """Write `data` from byte `at` of a file on, over what was cut off there. Raises FileError as
    `files.explained`.
    """
    with files.explained(path), path.open("r+b" if path.exists() else "wb") as file:
        file.seek(at)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
