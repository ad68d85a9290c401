"""Annotation files as they come: found by name, and read with whatever is wrong in one sentence."""

import codecs
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from vplib import files

CHUNK = 2**20  # letters of a long JSON file that are read at once
BLANKS = re.compile(r"[ \t\r\n]*")
DELIMITERS = (",", ";", "\t", " ")


class AnnotationError(ValueError):
    """Annotations that cannot be read. One sentence: what, where, what to do."""

    def __init__(self, message: str):
        super().__init__(files.printable(message))


class Annotations:
    """The annotation files of a data set: files, or folders that hold them at any depth.

    `place` is the file, and where there are lines, the line, that was read last.

    Raises AnnotationError if one of `paths` is not there.
    """

    def __init__(self, name: str, paths: Sequence[str | Path]):
        self.name, self.paths, self.place = name, [Path(path) for path in paths], ""
        self._files: list[tuple[Path, Path, int]] = []  # root, file, how many folders below it
        for path in self.paths:
            if path.is_file():
                self._files.append((path.parent, path, 0))
                continue
            if not path.is_dir():
                raise AnnotationError(
                    f"{path}: there is no such annotation file or folder; check --annotations."
                )
            found = [
                Path(place, name)
                for place, _, names in os.walk(path)
                for name in names
                if not name.startswith(".")
            ]
            self._files += [
                (path, file, len(file.relative_to(path).parts)) for file in sorted(found)
            ]

    def find(self, *patterns: str) -> list[Path]:
        """The files whose path ends as a pattern says (`labels/*.json`); of each pattern those that
        lie highest, so that copies and variants in folders below do not count twice.
        """
        found = {}
        for pattern in patterns:
            fits = [(depth, file) for _, file, depth in self._files if file.match(pattern)]
            highest = min((depth for depth, _ in fits), default=0)
            found |= dict.fromkeys(file for depth, file in fits if depth == highest)
        return [*found]

    def need(self, *patterns: str) -> list[Path]:
        """As `find`. Raises AnnotationError if there is none."""
        if found := self.find(*patterns):
            return found
        raise AnnotationError(
            f"{', '.join(map(str, self.paths))}: there is no {' or '.join(patterns)}; "
            f"give the official annotation files of {self.name}."
        )

    def inside(self, file: Path) -> Path:
        """The path of a file below the folder that was given."""
        return next(file.relative_to(root) for root, one, _ in self._files if one == file)

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """The lines of a text that are not blank, stripped, each with its number from 1."""
        with self._opened(path) as file:
            for number, line in enumerate(self._read(path, file), 1):
                self.place = f"{path}, line {number}"
                if line := line.strip():
                    yield number, line

    def records(self, path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
        """The records of a CSV without a header, values stripped, each with its first line."""
        with self._opened(path) as file:
            taken: list[str] = []

            def physical() -> Iterator[str]:
                for line in self._read(path, file):
                    taken.append(line)
                    yield line

            reader = csv.reader(physical(), delimiter=delimiter)
            number = 1
            while True:
                taken.clear()
                self.place = f"{path}, line {number}"
                try:
                    values = next(reader, None)
                except csv.Error as error:
                    raise AnnotationError(
                        f"{self.place}: the line cannot be read ({error}); correct it."
                    ) from error
                if values is None:
                    return
                # A quote that is never closed would swallow the rest of the file as one caption.
                if len(taken) > 1 and sum(line.count('"') for line in taken) % 2:
                    raise AnnotationError(
                        f"{self.place}: a quote is opened and not closed; download the file again."
                    )
                if any(value.strip() for value in values):
                    yield number, [value.strip() for value in values]
                number += len(taken)

    def table(
        self, path: Path, *columns: str, delimiter: str = ","
    ) -> Iterator[tuple[int, dict[str, str]]]:
        """The rows of a CSV with a header that has at least these `columns`, each with its line.

        Other delimiters than the official one are understood. Raises AnnotationError for another
        header and for a row of another length.
        """
        lacking, records, header = [*columns], iter(()), []
        for sign in (delimiter, *DELIMITERS):
            found = self.records(path, sign)
            _, names = next(found, (1, []))
            if len(missing := [name for name in columns if name not in names]) < len(lacking):
                lacking, records, header = missing, found, names
        if lacking:
            raise AnnotationError(
                f"{path}: the first line has no {', '.join(lacking)}; "
                f"give the official file of {self.name}."
            )
        for number, values in records:
            if len(values) != len(header):
                raise AnnotationError(
                    f"{path}, line {number}: there are {len(values)} values for {len(header)} "
                    "columns; download the file again or correct the line."
                )
            yield number, dict(zip(header, values, strict=True))

    def header(self, path: Path) -> list[str]:
        """The first record of a CSV."""
        return next(self.records(path), (1, []))[1]

    def json(self, path: Path):
        """What a JSON file holds. Raises AnnotationError."""
        self.place = str(path)
        with self._opened(path) as file:
            try:
                return json.loads("".join(self._read(path, file)))
            except (ValueError, RecursionError) as error:
                raise self._no_json(error) from error

    def json_lines(self, path: Path) -> Iterator[tuple[int, dict]]:
        """The objects of a JSON Lines file, also a compressed one, each with its line."""
        for number, line in self.lines(path):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._no_json(error) from error
            yield number, entry

    def entries(self, path: Path, depth: int = 1) -> Iterator[tuple[str, object]]:
        """Key and value of what a JSON object holds, one by one: of gigabytes in little memory.

        With `depth` 2, of the objects that it holds.
        """
        self.place = str(path)
        with self._opened(path) as file:
            stream = _Stream(_Letters(self._read(path, file, CHUNK)))
            try:
                yield from _members(stream, depth)
                if stream.peek():
                    raise ValueError("there is more behind its end")
            except (json.JSONDecodeError, RecursionError) as error:
                raise self._no_json(error) from error

    def _no_json(self, error: Exception) -> AnnotationError:
        return AnnotationError(
            f"{self.place}: this is not valid JSON ({error}); download the official file of "
            f"{self.name} again."
        )

    def _opened(self, path: Path):
        try:
            with path.open("rb") as file:
                start = file.read(2)
            if start == b"\x1f\x8b":
                return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            wide = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            return path.open(encoding="utf-16" if wide else "utf-8-sig", newline="")
        except OSError as error:
            raise AnnotationError(
                f"{path}: the file cannot be read ({error.strerror}); check its rights."
            ) from error

    def _read(self, path: Path, file: io.TextIOBase, letters: int = 0) -> Iterator[str]:
        """Its lines, or stretches of so many `letters`."""
        try:
            yield from iter(lambda: file.read(letters), "") if letters else file
        except UnicodeError as error:
            raise AnnotationError(
                f"{self.place or path}: the file is not UTF-8 ({error.reason}); convert it to UTF-8."
            ) from error
        except (OSError, EOFError, zlib.error) as error:
            raise AnnotationError(
                f"{self.place or path}: the file is damaged or cut short ({error}); "
                "download it again."
            ) from error


class _Letters:
    """Text that comes in pieces, read by number of letters."""

    def __init__(self, pieces: Iterator[str]):
        self._pieces = pieces

    def read(self, least: int) -> str:
        found, size = [], 0
        while size < least and (piece := next(self._pieces, "")):
            found.append(piece)
            size += len(piece)
        return "".join(found)


class _Stream:
    """JSON of which only what is being read is in memory."""

    def __init__(self, letters: _Letters):
        self._letters, self._text, self._at = letters, "", 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next letter that is no blank; empty at the end."""
        while True:
            self._at = BLANKS.match(self._text, self._at).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, letter: str) -> None:
        if (found := self.peek()) != letter:
            raise ValueError(f"{found or 'its end'} stands where {letter} must be")
        self._at += 1

    def value(self):
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            # A number at the end of what was read may go on.
            if end < len(self._text) or not self._more():
                self._at = end
                return value

    def _more(self) -> bool:
        """Twice as much each time, so that a long value is not decoded again and again."""
        left = self._text[self._at :]
        new = self._letters.read(max(CHUNK, len(left)))
        self._text, self._at = left + new, 0
        return bool(new)


def _members(stream: _Stream, depth: int) -> Iterator[tuple[str, object]]:
    stream.take("{")
    while stream.peek() != "}":
        key = stream.value()
        stream.take(":")
        if depth > 1:
            yield from _members(stream, depth - 1)
        else:
            yield str(key), stream.value()
        if stream.peek() != "}":
            stream.take(",")
    stream.take("}")
