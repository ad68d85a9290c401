"""Quizzes from one source: `course/quiz/*.yaml` to Markdown for people and GIFT for Moodle.

`python -m vplib.course.quiz` writes both beside each source. A question has one right answer and two
or more wrong ones; each says why.
"""

import hashlib
import re
import sys
from pathlib import Path

import yaml

from vplib import environment, files, paths

QUIZZES = paths.ROOT / "course" / "quiz"


class QuizError(ValueError):
    """A source that is no quiz. One sentence: which question, what is wrong."""


def read(text: str, name: str) -> list[dict]:
    """The questions: `ask`, `right` (answer, why) and `wrong` (a list of the same).

    Raises QuizError.
    """
    try:
        quiz = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise QuizError(f"{name} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(quiz, list) or not quiz:
        raise QuizError(f"{name} must be a list of questions, each with ask, right and wrong")
    for k, one in enumerate(quiz, 1):
        if not isinstance(one, dict) or {*one} != {"ask", "right", "wrong"}:
            raise QuizError(f"{name}, question {k} must have ask, right and wrong, and no more")
        answers = [one["right"], *one["wrong"]]
        if len(one["wrong"]) < 2 or any(not isinstance(a, list) or len(a) != 2 for a in answers):
            raise QuizError(
                f"{name}, question {k} needs one right and two wrong answers, each [answer, why]: "
                "put texts with a comma into quotes"
            )
        if len({str(a) for a, _ in answers}) < len(answers):
            raise QuizError(f"{name}, question {k} has an answer twice")
    return quiz


def _mixed(one: dict) -> list[tuple[bool, str, str]]:
    """The answers, whether right, in an order that has nothing to do with it."""
    answers = [(True, *one["right"]), *((False, *wrong) for wrong in one["wrong"])]
    key = lambda a: hashlib.sha256(f"{one['ask']} {a[1]}".encode()).digest()  # noqa: E731
    return [(right, str(answer), str(why)) for right, answer, why in sorted(answers, key=key)]


def markdown(quiz: list[dict], title: str) -> str:
    """Questions first, answers after them, so that a page can be projected."""
    ask, tell = [], []
    for k, one in enumerate(quiz, 1):
        ask.append(f"**{k}.** {one['ask']}\n")
        tell.append(f"**{k}.**\n")
        for letter, (right, answer, why) in zip("abcdef", _mixed(one), strict=False):
            ask.append(f"- {letter}) {answer}")
            tell.append(f"- {letter}) {'**right.** ' if right else ''}{why}")
        ask.append("")
        tell.append("")
    return "\n".join([f"# {title}", "", *ask, "## Answers", "", *tell]).rstrip() + "\n"


def gift(quiz: list[dict], title: str) -> str:
    """The same for Moodle's import, with the reason as feedback to each answer."""
    lines = [f"// {title}", ""]
    for k, one in enumerate(quiz, 1):
        lines.append(f"::{title} {k}::[markdown]{_escaped(one['ask'])} {{")
        for right, answer, why in _mixed(one):
            lines.append(f"  {'=' if right else '~'}{_escaped(answer)}#{_escaped(why)}")
        lines += ["}", ""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return re.sub(r"([~=#{}:\\])", r"\\\1", text)


def build() -> dict[Path, str]:
    """Every page that the sources make, by its path. Raises QuizError."""
    made = {}
    for path in sorted(QUIZZES.glob("*.yaml")):
        quiz = read(path.read_text(encoding="utf-8"), path.name)
        title = f"Quiz {path.stem.removeprefix('session')}"
        made[path.with_suffix(".md")] = markdown(quiz, title)
        made[path.with_suffix(".gift")] = gift(quiz, title)
    return made


def main(words: list[str]) -> None:
    """What the module says."""
    environment.write_any_letter()
    if words:
        sys.exit("usage: python -m vplib.course.quiz")
    try:
        for path, text in build().items():
            files.write(path, text)
            print(paths.short(path))
    except (QuizError, files.FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
