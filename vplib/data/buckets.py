"""Corpora in a bucket (`gs://`, `s3://`, `hf://`, whatever fsspec knows): shards go in and come out.

ArrayRecord reads local files only. So a corpus in a bucket has a local stand-in: its manifest and,
from the first use of one of its clips on, the shard that holds it.
"""

import argparse
import contextlib
import hashlib
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import fsspec

from vplib import files, paths

NOTE = ".bucket"  # the file of a stand-in that says what it stands in for
_fetching = threading.Lock()


class BucketError(ValueError):
    """A bucket that cannot be read or written. One sentence: which, why, what to do."""

    def __init__(self, message: str):
        super().__init__(files.printable(message))


class Store:
    """The files of one folder, in a bucket or local, whole and by name. Survives pickling.

    Raises BucketError for whatever the service refuses, and FileNotFoundError for a file that is
    not there.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        with self._explained("reached"):
            self._system, self._path = fsspec.core.url_to_fs(self.url)

    def names(self) -> list[str]:
        """The files of the folder; none where there is no such folder."""
        with self._explained("read"):
            self._system.invalidate_cache()
            try:
                found = self._system.ls(self._path, detail=True)
            except FileNotFoundError:
                return []
            return sorted(one["name"].rpartition("/")[2] for one in found if one["type"] == "file")

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self._explained("read"):
            return self._system.cat_file(f"{self._path}/{name}")

    def read_all(self, names: Iterable[str]) -> list[bytes]:
        """Whole files, in their order, asked for at the same time where the service allows it."""
        wanted = [f"{self._path}/{name}" for name in names]
        with self._explained("read"):
            # Asked for a single file, `cat` gives its bytes instead of a dict.
            found = self._system.cat(wanted) if len(wanted) > 1 else None
            return [self._system.cat_file(one) if found is None else found[one] for one in wanted]

    def size(self, name: str) -> int:
        """Bytes of a file."""
        with self._explained("read"):
            return self._system.size(f"{self._path}/{name}")

    def get(self, name: str, path: Path) -> None:
        """Copies a file to `path`, which appears complete or not at all."""
        with files.replacing(path) as temporary, self._explained("read"):
            self._system.get_file(f"{self._path}/{name}", str(temporary))

    def put(self, path: Path, name: str) -> None:
        """Copies a file into the bucket under a name of its own, then gives it its name."""
        with self._explained("written"):
            self._system.makedirs(self._path, exist_ok=True)
            temporary = f"{self._path}/.{name}.{uuid.uuid4().hex}.tmp"
            self._system.put_file(str(path), temporary)
            self._system.mv(temporary, f"{self._path}/{name}")

    def remove(self, names: Iterable[str]) -> None:
        """Removes files; those that are not there are no error."""
        for name in names:
            with self._explained("written"), contextlib.suppress(FileNotFoundError):
                self._system.rm_file(f"{self._path}/{name}")

    @contextlib.contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except ImportError as error:  # a service whose package is not installed
            raise BucketError(f"{self.url} cannot be {done}: {error}.") from error
        except Exception as error:  # every service has errors of its own
            raise BucketError(
                f"{self.url} cannot be {done} ({type(error).__name__}: {error}); check the address, "
                "your credentials and the rights they have there."
            ) from error


def inside(place: str | Path) -> bool:
    """Whether a place is in a bucket and not a local folder."""
    return "://" in str(place)


def link(url: str, folder: Path) -> Path:
    """Makes `folder` the local stand-in of the corpus at `url`; shards come when they are used.

    A stand-in that was made before gets the present manifest and, if that is another, loses its
    shards. Raises BucketError, also where there is no finished corpus, and FileError.
    """
    try:
        manifest = Store(url).read("manifest.json")
    except FileNotFoundError as error:
        raise BucketError(
            f"{url}: there is no finished corpus (manifest.json); write it first."
        ) from error
    files.folder(folder)
    if (folder / "manifest.json").exists():
        if of(folder) is None:
            raise BucketError(f"{folder}: a corpus of its own is there; name another folder.")
        if (folder / "manifest.json").read_bytes() != manifest:
            for path in folder.glob("*.array_record"):
                path.unlink()
    files.write(folder / NOTE, url + "\n")
    files.write(folder / "manifest.json", manifest)
    return folder


def near(url: str) -> Path:
    """The stand-in, in `data/buckets/`, of a corpus that is named by its address. Raises as `link`."""
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    return link(url, paths.DATA / "buckets" / name / url.rstrip("/").rpartition("/")[2])


def of(folder: Path) -> Store | None:
    """The bucket that a folder stands in for, if any."""
    note = folder / NOTE
    return Store(note.read_text(encoding="utf-8").strip()) if note.exists() else None


def fetch(bucket: Store, path: Path, size: int) -> None:
    """Brings a shard of `size` bytes to `path` unless it is there.

    Raises BucketError if there is none of that size.
    """
    if path.exists():
        return
    with _fetching:  # of two threads that want it the second finds it
        if path.exists():
            return
        with contextlib.suppress(FileNotFoundError):
            if bucket.size(path.name) == size:
                bucket.get(path.name, path)
                return
    raise BucketError(
        f"{bucket.url}/{path.name}: there is no shard of the {size} bytes that the manifest "
        "promises; write the corpus again."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m vplib.data.buckets", description=__doc__.splitlines()[0]
    )
    parser.add_argument("url", help="of a corpus, the folder of its manifest.json")
    parser.add_argument(
        "folder", type=Path, help="what stands in for it, such as data/shards/mine/train"
    )
    given = parser.parse_args()
    try:
        link(given.url, given.folder)
    except (BucketError, files.FileError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{given.folder} stands in for {given.url}: shards come when they are first used.")


if __name__ == "__main__":
    main()
