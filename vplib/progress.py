"""Live progress of a long loop: one line, rewritten in a terminal, in Lab and under the runner.

In a notebook the line is a Jupyter display with an id, so every update replaces the one before:
Lab shows it as a bar, and the runner (`vplib.run`) prints its text to your terminal. Its last
state, the only one that a saved notebook keeps, names the step and the numbers but no times, so
the same computation leaves the same notebook.
"""

import contextlib
import html
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from io import TextIOBase
from itertools import count

from IPython import get_ipython
from IPython.display import display

DISPLAY_ID = "progress-"  # by this prefix the runner knows these displays
# Least time between two states of the line, on a screen and in a log file.
DRAW_SECONDS, LOG_SECONDS = 0.2, 30.0
_ids = count()


class Line:
    """The last line of a terminal, rewritten in place. In a log file: a new line now and then."""

    def __init__(self, stream: TextIOBase):
        self.stream = stream
        self._width = 0  # of the text on the terminal's last line now
        self._next = 0.0  # when a log file gets its next line

    def show(self, text: str, *, last: bool = False) -> None:
        """Replace the line; `last` leaves it standing and starts a new one."""
        if self.stream.isatty():
            text = text[: shutil.get_terminal_size().columns - 1]
            self.stream.write(f"\r\x1b[K{text}" + "\n" * last)
            self._width = 0 if last else len(text)
        elif last or time.monotonic() >= self._next:
            self.stream.write(f"{text}\n")
            self._next = time.monotonic() + LOG_SECONDS
        self.stream.flush()

    def clear(self) -> None:
        """Take the line away, so that something else can be printed."""
        if self._width:
            self.show("")


class Progress:
    """`with Progress(1000, "stage 1") as progress: ... progress.update(step, loss=loss)`; steps
    count from 1.

    Speed and time left leave out everything up to the first step that is finished here:
    compilation, and the steps of an earlier run that this one resumes. Numbers print with four
    digits.
    """

    def __init__(self, total: int, desc: str):
        self.total, self.desc = total, desc
        self._step, self._numbers = 0, {}
        self._begin = None  # step of the first update
        self._anchor = None  # (step, time) of the first update beyond it
        self._drawn = float("-inf")  # time of the last drawing
        shell = get_ipython()
        self._line = None if shell is not None and hasattr(shell, "kernel") else Line(sys.stderr)
        self._handle = None

    def update(self, step: int, **numbers: float) -> None:
        """Say that `step` of `total` steps are done, and the values to show beside them."""
        now = time.monotonic()
        self._step, self._numbers = step, numbers
        if self._begin is None:
            self._begin = step
        elif self._anchor is None and step > self._begin:
            self._anchor = (step, now)
        if now - self._drawn >= DRAW_SECONDS:
            self._drawn = now
            self._draw(now)

    def close(self) -> None:
        """Draw the last state, which stays."""
        if self._line:
            self._line.show(self._text(), last=True)
        else:
            self._display({"text/plain": self._text()})

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _text(self) -> str:
        numbers = "".join(f"  {name} {float(value):.4g}" for name, value in self._numbers.items())
        return f"{self.desc}  {self._step}/{self.total}{numbers}"

    def _draw(self, now: float) -> None:
        text = self._text()
        if self._anchor and self._step > self._anchor[0]:
            speed = (self._step - self._anchor[0]) / (now - self._anchor[1])
            text += f"  {speed:.3g}/s  {duration((self.total - self._step) / speed)} left"
        if self._line:
            self._line.show(text)
        else:
            bar = (
                f'<progress value="{self._step}" max="{self.total}"></progress> {html.escape(text)}'
            )
            self._display({"text/plain": text, "text/html": bar})

    def _display(self, data: dict[str, str]) -> None:
        if self._handle:
            self._handle.update(data, raw=True)
        else:
            self._handle = display(data, raw=True, display_id=f"{DISPLAY_ID}{next(_ids)}")


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 05 min`: two units at most."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


class Clock:
    """How long things of each kind took, and what those that are left will take."""

    def __init__(self):
        self.took: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def timing(self, kind: str) -> Iterator[None]:
        """Count what happens inside as one of its kind, unless it fails."""
        began = time.monotonic()
        yield
        self.took.setdefault(kind, []).append(time.monotonic() - began)

    def left(self, kinds: Sequence[str]) -> str:
        """The time left in words, from the mean of each kind; of one that was not timed yet, from
        the mean of these.
        """
        if not kinds:
            return "nothing left"
        if not self.took:
            return "time left unknown"
        means = {kind: sum(took) / len(took) for kind, took in self.took.items()}
        other = sum(means.values()) / len(means)
        return f"about {duration(sum(means.get(kind, other) for kind in kinds))} left"
