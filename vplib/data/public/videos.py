"""Which videos are there, found by name however folders and suffixes are, each looked at once."""

import itertools
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from vplib.data.public.annotations import AnnotationError
from vplib.data.sources import VIDEO_SUFFIXES
from vplib.data.video import VideoError, probe

SUFFIXES = (*VIDEO_SUFFIXES, ".seq")  # the last of Piotr's toolbox, which FFmpeg cannot read
PICTURES = (".jpg", ".jpeg", ".png")


class Videos:
    """The videos of a folder by their path relative to it, each with its seconds if known.

    A file is opened when it is first asked for, and never again.
    """

    def __init__(self, seconds: Mapping[str, float | None], root: Path | None = None):
        self._known: dict[str, tuple[float | None, int | None, str]] = {}
        self._root, self._named = root, {}
        for file, length in seconds.items():
            self._named.setdefault(_stem(file), []).append(file)
            if root is None:
                self._known[file] = length, None, ""

    @classmethod
    def below(cls, folder: Path, *, pictures: bool = False) -> "Videos":
        """The video files in a folder and below or, of `pictures`, the folders that hold some.

        Hidden ones and linked folders are left. Raises AnnotationError for a folder that cannot be
        read or holds none.
        """

        def refuse(error: OSError):
            raise AnnotationError(
                f"{error.filename}: the folder cannot be read ({error.strerror}); check --videos."
            ) from error

        found = []
        for place, folders, names in os.walk(folder, onerror=refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inside = Path(place).relative_to(folder)
            seen = [name for name in sorted(names) if not name.startswith(".")]
            if not pictures:
                found += [inside / name for name in seen if _has(name, SUFFIXES)]
            elif any(_has(name, PICTURES) for name in seen):
                found.append(inside)
        if not found:
            kind = "folders of pictures" if pictures else f"video files ({', '.join(SUFFIXES)})"
            raise AnnotationError(f"{folder}: there are no {kind}, here or below; check --videos.")
        names = [os.fsencode(path.as_posix()).decode(errors="replace") for path in found]
        return cls(dict.fromkeys(names), None if pictures else folder)

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(self._named.values())

    def find(self, *names: str) -> str | None:
        """The video whose path without suffix ends in the first of `names` that there is.

        Of several the first by kind of file (as in SUFFIXES), then by path.
        """
        for name in map(_composed, names):
            whole = f"/{name}"
            fits = [
                file
                for file in self._named.get(name.rpartition("/")[2], ())
                if f"/{_composed(_bare(file))}".endswith(whole)
            ]
            if fits:
                return min(fits, key=lambda file: (_rank(file), file))
        return None

    def seconds(self, file: str) -> float | None:
        """How long a video is; None where its header does not say, or it cannot be read."""
        return self._probed(file)[0]

    def frames(self, file: str) -> int | None:
        """How many frames it has; None as in `seconds`."""
        return self._probed(file)[1]

    def problem(self, file: str) -> str:
        """Why a video cannot be read, one sentence; empty if it can."""
        return self._probed(file)[2]

    def _probed(self, file: str) -> tuple[float | None, int | None, str]:
        if file not in self._known:
            try:
                found = probe(self._root / file, name=file)
                self._known[file] = round(found.seconds, 6) or None, found.frames or None, ""
            except VideoError as error:
                self._known[file] = None, None, str(error)
        return self._known[file]


def _has(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes)


def _bare(file: str) -> str:
    """Without the suffix of a video: `ZG0001.1` has none."""
    return file.rpartition(".")[0] if _has(file, SUFFIXES) else file


def _stem(file: str) -> str:
    return _composed(_bare(file).rpartition("/")[2])


def _composed(name: str) -> str:
    """Accents as in the annotations, also where a Mac has taken them apart."""
    return unicodedata.normalize("NFC", name)


def _rank(file: str) -> int:
    return next((n for n, suffix in enumerate(SUFFIXES) if _has(file, (suffix,))), len(SUFFIXES))
