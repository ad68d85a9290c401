"""`python -m vplib.course.grade FOLDER [TABLE]`: hand-in files to a table, a row a file.

The table (grades.csv in FOLDER unless you name another) has the numbers of exercises done, open and left,
the minutes, a column of status and tries for each exercise, and every written answer for you to
read with the rubric of the solutions. A file that is no hand-in is named and left out.
"""

import csv
import io
import json
import sys
from pathlib import Path

from vplib import environment, files
from vplib.course.check import DONE, OPEN, SESSIONS, TEXT, TODO, WRONG

MOST = 1_000_000  # bytes of a hand-in file


class GradeError(ValueError):
    """What cannot be graded. One sentence: which file, what is wrong, what to do."""


def read(path: Path) -> dict:
    """One row of the table. Raises GradeError for a file that `check.hand_in` did not write."""
    again = "ask for it again: its last cell writes it"
    try:
        if path.stat().st_size > MOST:
            raise GradeError(f"{path.name} has more than {MOST:,} bytes: {again}")
        told = json.loads(path.read_text(encoding="utf-8"))
        row = {
            "file": path.name,
            "session": told["session"],
            "student": _text(told["student"]),
            "minutes": float(told["minutes"]),
        }
        results = {_text(n): _result(r) for n, r in told["results"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, GradeError):
            raise
        raise GradeError(f"{path.name} is no hand-in: {again}") from None
    if told["session"] not in SESSIONS:
        raise GradeError(f"{path.name} is of no session of this course: {again}")
    status = [r["status"] for r in results.values()]
    row |= {"done": status.count(DONE), "open": status.count(OPEN)}
    row["left"] = len(status) - row["done"] - row["open"]
    row |= {n: f"{r['status']} ({r['tries']})" for n, r in results.items()}
    return row | {f"{n} text": r["text"] for n, r in results.items() if "text" in r}


def table(folder: Path) -> tuple[str, list[str]]:
    """The hand-ins of a folder as CSV, and a sentence for each file that was left out.

    Raises GradeError if the folder holds none.
    """
    found = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not found:
        raise GradeError(f"{folder} holds no hand-ins (*.json): name the folder where they are")
    rows, left_out = [], []
    for path in found:
        try:
            rows.append(read(path))
        except GradeError as error:
            left_out.append(str(error))
    known = [*("file", "session", "student", "minutes", "done", "open", "left")]
    numbers = sorted({n for row in rows for n in row} - {*known}, key=_order)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*known, *numbers], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({k: _plain(v) for k, v in row.items()} for row in rows)
    return text.getvalue(), left_out


def _result(told: dict) -> dict:
    if told["status"] not in (DONE, WRONG, OPEN, TODO):
        raise ValueError
    result = {"status": told["status"], "tries": int(told["tries"])}
    return result | ({"text": _text(told["text"])} if "text" in told else {})


def _text(value: str) -> str:
    if not isinstance(value, str) or len(value) > TEXT:
        raise ValueError
    return value


def _plain(value: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _order(name: str) -> tuple:
    number, _, text = name.partition(" ")
    parts = [int(p) if p.isdecimal() else 0 for p in number.split(".")]
    return bool(text), parts, name


def main(words: list[str]) -> None:
    """What the module says."""
    environment.write_any_letter()
    if not 1 <= len(words) <= 2 or words[0].startswith("-"):
        sys.exit("usage: python -m vplib.course.grade FOLDER [TABLE]")
    folder = Path(words[0]).expanduser()
    out = Path(words[1]).expanduser() if words[1:] else folder / "grades.csv"
    try:
        text, left_out = table(folder)
        files.write(out, text)
    except (GradeError, files.FileError) as error:
        sys.exit(f"error: {error}")
    except FileNotFoundError:
        sys.exit(f"error: there is no folder {out.parent}: make it first")
    print(f"{out}: {text.count(chr(10)) - 1} lines")
    for sentence in left_out:
        print(f"left out: {files.printable(sentence)}", file=sys.stderr)
    sys.exit(1 if left_out else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
