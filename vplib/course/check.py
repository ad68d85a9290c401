"""What the check cells of the exercises do: say in one sentence whether an answer is right.

Nothing here stops a notebook: an answer that is missing, of another type or wrong gets its
sentence, and the next cell runs. No network, no account.
"""

import hashlib
import json
import math
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np

from vplib import files

SESSIONS = {
    "session1": "first",
    "session2": "second",
    "session3": "third",
    "session4": "fourth",
    "session5": "fifth",
}
DONE, WRONG, OPEN, TODO = "done", "wrong", "open", "not done yet"
WORDS = 30  # a written answer has at least so many
TEXT = 20_000  # and at most so many characters


class NotDone(NotImplementedError):
    """What a blank raises."""


@dataclass(frozen=True)
class Case:
    """What a function of an exercise has to do.

    inputs: tuples of arguments. right: gives the wanted result; None where only properties count.
    wrong: usual mistakes, each a function and the hint that it earns; tests feed them to the check.
    properties: each takes the student's function and returns a hint, or None if it holds.
    """

    right: Callable | None
    inputs: Callable[[], Sequence[tuple]] = tuple
    wrong: Sequence[tuple[Callable, str]] = ()
    properties: Sequence[Callable] = ()
    tolerance: float = 1e-4


@dataclass
class Sheet:
    """The answers to one session's exercises so far."""

    name: str
    numbers: list[str]
    cases: dict[str, Case]
    started: float = field(default_factory=time.monotonic)
    results: dict[str, dict] = field(default_factory=dict)


_sheet = Sheet("", [], {})


def begin(name: str, count: int = 10) -> None:
    """Start the sheet of a session with `count` exercises; what was checked before is forgotten."""
    global _sheet
    if name not in SESSIONS:
        raise ValueError(f"{name} is no session: one of {', '.join(SESSIONS)}")
    cases = import_module(f"vplib.course.{SESSIONS[name]}").CASES
    _sheet = Sheet(name, [f"{name[-1]}.{k + 1}" for k in range(count)], cases)
    print(f"{name}: {count} exercises; the last cell but one says how far you are")


def digest(number: str, value: float, step: float) -> str:
    """What stands in a student's notebook for an answer: it does not give the number away."""
    return hashlib.sha256(f"vplib {number} {round(value / step)}".encode()).hexdigest()[:12]


def number(
    number: str,
    value: object,
    right: float | str,
    *,
    step: float,
    hints: dict[float | str, str],
) -> None:
    """Check a number against `right`, to within a `step`; `hints` has usual wrong ones.

    Both are numbers in a solution and digests in a student's notebook.
    """
    if value is None:
        return _say(number, TODO, "not done yet: write your number in place of None")
    try:
        if isinstance(value, bool | str) or np.size(value) != 1:
            raise TypeError
        given = float(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        kind = f"{type(value).__name__}{f' of shape {np.shape(value)}' if np.shape(value) else ''}"
        return _say(number, WRONG, f"the answer must be one number, yours is a {kind}")
    if not math.isfinite(given) or abs(given) > 1e15:
        return _say(number, WRONG, f"{given} is no answer: look for a division by zero or a log")

    def hashed(value):
        return value if isinstance(value, str) else digest(number, value, step)

    if hashed(right) in {digest(number, given + k * step, step) for k in (-1, 0, 1)}:
        return _say(number, DONE, f"{given:,.10g} is right")
    mine = digest(number, given, step)
    for wrong, hint in hints.items():
        if hashed(wrong) == mine:
            return _say(number, WRONG, f"not {given:,.10g}: {hint}")
    _say(
        number, WRONG, f"{given:,.10g} is not it, and no usual mistake: show your neighbour the way"
    )


def function(number: str, given: object) -> None:
    """Check a function of the exercise `number` against its case."""
    case = _sheet.cases.get(number)
    if case is None:
        where = _sheet.name or "no session"
        return print(
            f"{number} is no function of {where}: run the first cell, check.begin(...), again"
        )
    if not callable(given):
        kind = type(given).__name__
        return _say(number, WRONG, f"this checks a function, and yours is a {kind}: write def ...")
    try:
        problem = _compare(case, given) or next(
            (hint for holds in case.properties if (hint := holds(given))), None
        )
    except NotDone:
        return _say(number, TODO, "not done yet: replace the line that begins with raise")
    except Exception as error:
        return _say(number, WRONG, _stopped(error))
    _say(number, WRONG if problem else DONE, problem or "your function is right")


def written(number: str, text: object) -> None:
    """Keep a written answer for the lecturer."""
    if text is None or (isinstance(text, str) and not text.strip()):
        return _say(number, TODO, "not done yet: write your answer between the quotes")
    if not isinstance(text, str):
        return _say(number, WRONG, f"the answer must be text in quotes, not {type(text).__name__}")
    if len(text) > TEXT:
        return _say(number, WRONG, f"{len(text):,} characters are too many: at most {TEXT:,}")
    count = len(text.split())
    if count < WORDS:
        return _say(number, WRONG, f"{count} words are few: say why, in at least {WORDS}")
    _say(number, OPEN, f"kept ({count} words); your lecturer reads it", text=text.strip())


def summary() -> None:
    """How far the sheet is: "7 of 10 done, 2 open, to do: 1.6"."""
    by = {n: _sheet.results.get(n, {"status": TODO})["status"] for n in _sheet.numbers}
    done, opened = (sum(s == kind for s in by.values()) for kind in (DONE, OPEN))
    left = [n for n, status in by.items() if status not in (DONE, OPEN)]
    todo = f", to do: {', '.join(left)}" if left else ""
    print(f"{_sheet.name}: {done} of {len(by)} done, {opened} open{todo}")


def hand_in(student: object = "", folder: str | Path = ".") -> None:
    """Write `handin-<session>[-<student>].json` into `folder`, for `python -m vplib.course.grade`.

    student: a number or nickname of letters, digits, `.`, `_` and `-`; none is needed. The file is
    a note, no proof: whoever can write a notebook can write it.
    """
    if not _sheet.name:
        return print("nothing is checked yet: run the notebook from its first cell")
    if not isinstance(student, str) or not re.fullmatch(r"[\w.-]{0,40}", student, re.ASCII):
        return print(
            f"{student!r} will not do for a file's name: at most 40 letters, digits, '.', '_', '-'"
        )
    told = {
        "session": _sheet.name,
        "student": student,
        "minutes": round((time.monotonic() - _sheet.started) / 60, 1),
        "results": {n: _sheet.results.get(n, {"status": TODO, "tries": 0}) for n in _sheet.numbers},
    }
    path = Path(folder) / f"handin-{_sheet.name}{f'-{student}' if student else ''}.json"
    try:
        files.write(path, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    except FileNotFoundError:
        return print(f"there is no folder {folder}: make it, or leave folder= out")
    except files.FileError as error:
        return print(error)
    print(f"{path.name} is written: hand it in")


def _say(number: str, status: str, sentence: str, **more) -> None:
    """Print the sentence and keep the result."""
    before = _sheet.results.get(number, {"tries": 0})
    tries = before["tries"] + (status != TODO)
    _sheet.results[number] = {"status": status, "tries": tries} | more
    mark = {DONE: "✓", OPEN: "✓", WRONG: "✗", TODO: "·"}[status]
    print(files.printable(f"{mark} {number} {sentence}"))


def _compare(case: Case, given: Callable) -> str | None:
    """What is wrong with the results of `given`, or None."""
    for arguments in case.inputs() if case.right else ():
        wanted = np.asarray(case.right(*_copied(arguments)))
        result = given(*_copied(arguments))
        if result is None:
            return "your function returns nothing: end it with return"
        result = np.asarray(result)
        if result.dtype == object or not np.issubdtype(result.dtype, np.number):
            return f"your function must return numbers, yours returns {type(result).__name__} of {result.dtype}"
        if _equal(result, wanted, case.tolerance):
            continue
        for wrong, hint in case.wrong:
            with np.errstate(all="ignore"):
                if _equal(result, np.asarray(wrong(*_copied(arguments))), case.tolerance):
                    return hint
        if result.shape != wanted.shape:
            return f"your result has shape {result.shape}, wanted is {wanted.shape}"
        if not np.isfinite(result).all():
            return "your result is not finite: look for a log of 0, a division by 0, a large exp"
        return (
            f"the largest difference from the right result is {np.abs(result - wanted).max():.2g}"
        )
    return None


def _copied(arguments: tuple) -> tuple:
    """Arguments that a function may write into."""
    return tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arguments)


def _equal(result: np.ndarray, wanted: np.ndarray, tolerance: float) -> bool:
    return result.shape == wanted.shape and np.allclose(
        result, wanted, rtol=tolerance, atol=tolerance, equal_nan=True
    )


def _stopped(error: Exception) -> str:
    """One sentence for an exception of the student's code, with the line of their cell."""
    lines = [
        f.lineno for f in traceback.extract_tb(error.__traceback__) if "vplib" not in f.filename
    ]
    at = f" (line {lines[-1]} of its cell)" if lines else ""
    text = " ".join(str(error).split())[:200]
    return f"your function stopped with {type(error).__name__}: {text}{at}"
