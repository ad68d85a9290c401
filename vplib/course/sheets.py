"""Exercises from one source: `course/exercises/*.py` to notebooks for students and for lecturers.

`python -m vplib.course.sheets` writes `course/student/` (blanks, answers as digests) and
`course/solutions/`; with `my` it copies the students' notebooks to `my/`, where git does not look
and nothing of yours is replaced.

A source is Python with cells: `# %%` code, `# %% [markdown]`, `# %% [solution]` (markdown for
lecturers alone), `# %% [setup]`. What stands between `# solution` and `# end` is the solution: in a
function a blank takes its place that raises `check.NotDone`, elsewhere `name = None`, unless the
name has a value already.
"""

import ast
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from vplib import environment, files, paths, publish
from vplib.course import check

COURSE = paths.ROOT / "course"
SOURCES = COURSE / "exercises"
USAGE = "python -m vplib.course.sheets [my]"
CELL = re.compile(r"^# %%(?: \[(\w+)\])?\n", re.MULTILINE)
SOLUTION = re.compile(r"^( *)# solution\n(.*?)^ *# end\n?", re.MULTILINE | re.DOTALL)


class SheetError(ValueError):
    """A source that cannot be made into notebooks. One sentence: which, what, what to do."""


def cells(source: str, name: str, *, solutions: bool) -> Iterator[dict]:
    """The notebook cells of a source, for students or with solutions.

    Raises SheetError for a source that does not begin with a cell, an unknown kind of cell, a
    solution that does not end, and code that is not Python.
    """
    parts = CELL.split(source)
    if parts[0].strip() or len(parts) < 3:
        raise SheetError(f"{name} must begin with a cell: put '# %% [markdown]' first")
    for kind, text in zip(parts[1::2], parts[2::2], strict=True):
        text = text.strip("\n")
        if kind == "setup":
            text = publish.SETUP.format(address="")
        elif kind in ("markdown", "solution"):
            if kind == "solution" and not solutions:
                continue
            text = "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.split("\n"))
        elif kind:
            raise SheetError(f"{name} has a cell [{kind}]: use markdown, solution, setup or none")
        else:
            text = _solved(text) if solutions else _blank(text, name)
        yield _cell(text, kind)


def notebook(source: str, name: str, *, solutions: bool) -> str:
    """A whole notebook as text, as `cells`."""
    made = list(cells(source, name, solutions=solutions))
    for k, cell in enumerate(made):
        cell["id"] = f"{name}-{k:02}"
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    whole = {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def build() -> dict[Path, str]:
    """Every notebook that the sources make, by its path. Raises SheetError as `cells`."""
    made, address = {}, publish.address(paths.NOTEBOOKS / "00_tour.ipynb")
    for source in sorted(SOURCES.glob("*.py")):
        text, name = source.read_text(encoding="utf-8"), f"{source.stem}.ipynb"
        for folder in ("student", "solutions"):
            sheet = notebook(text, source.stem, solutions=folder == "solutions")
            made[COURSE / folder / name] = publish.written(
                sheet, address, f"course/{folder}/{name}"
            )
    return made


def copy() -> list[Path]:
    """Copy the students' notebooks to `my/`, but for those that are there already."""
    made = []
    for path in sorted((COURSE / "student").glob("*.ipynb")):
        own = files.folder(paths.ROOT / "my" / "exercises") / path.name
        if not own.exists():
            # Links of the original lead from course/student; my/exercises is as deep.
            text = path.read_text(encoding="utf-8").replace("](../", "](../../course/")
            files.write(own, text.replace("](../../course/../", "](../../"))
            made.append(own)
    return made


def _cell(text: str, kind: str | None) -> dict:
    code = kind in (None, "setup")
    cell = {"cell_type": "code" if code else "markdown"}
    if code:
        cell["execution_count"] = None
    cell |= {"id": "", "metadata": {"tags": [publish.TAG]} if kind == "setup" else {}}
    if code:
        cell["outputs"] = []
    return cell | {"source": text.splitlines(keepends=True)}


def _solved(code: str) -> str:
    return SOLUTION.sub(lambda found: found[2], code + "\n").strip("\n")


def _blank(code: str, name: str) -> str:
    """Code with blanks for solutions and digests for numbers."""

    def blank(found: re.Match) -> str:
        indent, inside = found[1], found[2]
        if indent:
            return f"{indent}raise check.NotDone  # your code\n"
        names = [n.targets[0].id for n in ast.parse(inside).body if isinstance(n, ast.Assign)]
        given = {*re.findall(r"^(\w+) = ", code[: found.start()], re.MULTILINE)}
        return "".join(f"{n} = None  # your answer\n" for n in names if n not in given)

    made = SOLUTION.sub(blank, code + "\n").strip("\n")
    if re.search(r"^ *# (solution|end)$", made, re.MULTILINE):
        raise SheetError(f"{name} has a solution that does not end: put '# end' after it")
    try:
        tree = ast.parse(made)
    except SyntaxError as error:
        raise SheetError(f"{name} has code that is not Python: {error.text}") from None
    for node in tree.body:
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith("check.number("):
            return _hashed(node.value)
    return made


def _hashed(call: ast.Call) -> str:
    """A `check.number` call whose numbers are digests."""

    def value(node: ast.expr) -> float:
        return eval(compile(ast.Expression(node), "", "eval"), {"math": math, "round": round})

    number, answer, right = call.args
    given = {word.arg: word.value for word in call.keywords}
    number, step = number.value, value(given["step"])
    hints = zip(given["hints"].keys, given["hints"].values, strict=True)
    lines = "".join(
        f'        "{check.digest(number, value(wrong), step)}": {json.dumps(hint.value, ensure_ascii=False)},\n'
        for wrong, hint in hints
    )
    return (
        f'check.number(\n    "{number}",\n    {ast.unparse(answer)},\n'
        f'    "{check.digest(number, value(right), step)}",\n    step={step},\n'
        f"    hints={{\n{lines}    }},\n)"
    )


def main(words: list[str]) -> None:
    """What USAGE says."""
    environment.write_any_letter()
    if words not in ([], ["my"]):
        sys.exit(f"usage: {USAGE}")
    try:
        if words:
            made = copy()
        else:
            made = build()
            for path, text in made.items():
                files.write(files.folder(path.parent) / path.name, text)
        for path in made:
            print(paths.short(path))
    except (SheetError, files.FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
