"""Training states on disk: a step's folder appears whole, with checksums, or not at all."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from vplib import files
from vplib.model.checkpoints import CheckpointError

ARRAYS, RECORD, SUMS = "arrays", "record.json", "checksums.json"  # in the folder of a step


class Record(NamedTuple):
    """What is saved beside the arrays: whose state it is, where its input stands, and its log so
    far.
    """

    step: int
    identity: str
    iterator: dict
    tables: dict[str, str]  # file name -> content


class States:
    """The two newest states of a training in `folder`/<step>; writing one goes on while training
    does.

    In a pod, every process calls every method; the first one decides and writes all but its share
    of the arrays.
    """

    def __init__(self, folder: Path):
        self.folder, self.kept = folder.absolute(), []  # steps that can be used
        self._arrays = ocp.StandardCheckpointer()
        self._thread, self._saving = ThreadPoolExecutor(1), None

    def newest(self, identity: str, steps: int) -> Record | None:
        """The newest state that is whole; none: training starts at step 0.

        A damaged one is named and not used. States of another `identity` are moved to `folder`.old,
        which holds those of one training. Raises CheckpointError when all are damaged or the newest
        is beyond `steps`.
        """
        step = self._choose(identity, steps) if jax.process_index() == 0 else 0
        if jax.process_count() > 1:
            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        self.kept = [step] if step else []
        return self._record(step) if step else None

    def restore(self, step: int, like: PyTree) -> PyTree:
        """The arrays of a step, with the shapes and places of `like`. Raises CheckpointError when
        they have others.
        """
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        try:
            return self._arrays.restore(self._place(step) / ARRAYS, wanted)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the training state in {self.folder} is of another model or optimiser "
                f"({str(error).splitlines()[0][:200]}): give this run a tag= of its own"
            ) from None

    def save(self, record: Record, arrays: PyTree) -> None:
        """Begin to write a state, after the one before it is written. Raises FileError if that or
        this fails.
        """
        self.wait()
        with self._whole(record.step) as part:
            self._arrays.save(part / ARRAYS, arrays)  # returns when the arrays may change
        self._saving = self._thread.submit(self._finish, record)

    def wait(self) -> None:
        """Return when the last state is written. Raises FileError if it cannot be."""
        saving, self._saving = self._saving, None
        if saving:
            saving.result()

    def close(self) -> None:
        """Let go of threads, when the last state is written or has failed."""
        with contextlib.suppress(Exception):  # who must know calls `wait` before
            self.wait()
        self._thread.shutdown()
        self._arrays.close()

    def _finish(self, record: Record) -> None:
        with self._whole(record.step) as part:
            self._arrays.wait_until_finished()
            if jax.process_index():
                return
            text = json.dumps(record._asdict())
            (part / RECORD).write_text(text, encoding="utf-8")
            inside = sorted(path for path in part.rglob("*") if path.is_file())
            sums = {path.relative_to(part).as_posix(): _digest(path) for path in inside}
            (part / SUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
            place = self._place(record.step)
            if place.exists():  # a damaged one, which was not used
                shutil.rmtree(place)
            os.replace(part, place)
            self.kept = [*self.kept, record.step][-2:]
            for step in set(self._steps()) - set(self.kept):
                shutil.rmtree(self._place(step))

    @contextlib.contextmanager
    def _whole(self, step: int) -> Iterator[Path]:
        """The folder of a state that is being written; if that fails, it goes and leaves its space
        to others.
        """
        part = self.folder / f"{step}.part"
        try:
            with files.explained(self.folder):
                yield part
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def _choose(self, identity: str, steps: int) -> int:
        for unfinished in self.folder.glob("*.part"):
            shutil.rmtree(unfinished, ignore_errors=True)
        found, faults = self._steps(), []
        for step in found:
            fault = self._fault(step)
            if fault is None:
                break
            faults.append(f"the training state {self._place(step)} is damaged ({fault})")
        else:
            if any((self._place(step) / SUMS).exists() for step in found):
                raise CheckpointError(
                    f"{faults[0]} and there is no other to go on from: delete "
                    f"{self.folder} to start afresh"
                )
            if found:
                self._set_aside(f"{self.folder} holds no training state that this code can read")
            return 0
        for fault in faults:
            print(f"{fault}: training goes on from step {step}", file=sys.stderr)
        if self._record(step).identity != identity:
            self._set_aside(
                f"the training state in {self.folder} is of another configuration, data or code"
            )
            return 0
        if step > steps:
            raise CheckpointError(
                f"the training state in {self.folder} is of step {step}, beyond the {steps} steps of "
                "this run: give this run a tag= of its own"
            )
        for old in [other for other in found if other < step][1:]:  # left by a kill after a save
            shutil.rmtree(self._place(old))
        return step

    def _fault(self, step: int) -> str | None:
        """What is wrong with a state on disk, or nothing."""
        place = self._place(step)
        try:
            sums = json.loads((place / SUMS).read_text(encoding="utf-8"))
            for name in [RECORD, *sums]:
                if _digest(place / name) != sums[name]:
                    return f"{name} has changed"
            is_of = self._record(step).step
        except OSError as error:
            return f"{Path(error.filename or SUMS).name}: {error.strerror}"
        except (ValueError, KeyError, TypeError, RecursionError):
            return f"{SUMS} is not what was written"
        return None if is_of == step else f"it is the one of step {is_of}"

    def _set_aside(self, why: str) -> None:
        old = self.folder.with_name(f"{self.folder.name}.old")
        with files.explained(old):
            if old.exists():
                shutil.rmtree(old)
            old.mkdir()
            for step in reversed(self._steps()):  # the newest last: if this is stopped, it is left
                os.replace(self._place(step), old / str(step))
        print(f"{why}: it is kept in {old}, and training starts afresh", file=sys.stderr)

    def _record(self, step: int) -> Record:
        return Record(**json.loads((self._place(step) / RECORD).read_text(encoding="utf-8")))

    def _place(self, step: int) -> Path:
        return self.folder / str(step)

    def _steps(self) -> list[int]:
        """The steps that have a folder, the newest first."""
        names = (path.name for path in self.folder.iterdir() if path.is_dir())
        return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


@contextlib.contextmanager
def opened(folder: Path, *, doing: str) -> Iterator[States]:
    """The states in `folder`, for this training alone; all are written when the block ends.

    Raises FileError if another process trains there or the folder cannot be written.
    """
    first = jax.process_index() == 0
    logger = logging.getLogger("absl")
    with files.locked(folder, doing=doing) if first else contextlib.nullcontext():
        states = States(folder)
        logger.addFilter(_news)
        try:
            yield states
            states.wait()
        finally:
            states.close()
            logger.removeFilter(_news)


def saved(folder: Path) -> tuple[int, PyTree]:
    """The newest whole state in `folder`: its step, and its arrays as nested dictionaries.

    Raises CheckpointError where there is none, FileError while a training writes there.
    """
    with opened(folder, doing="reading") as states:
        whole = [step for step in states._steps() if states._fault(step) is None]
        if not whole:
            raise CheckpointError(
                f"{folder} holds no training state: a training leaves it on its machine, so train again"
            )
        return whole[0], ocp.StandardCheckpointer().restore(states._place(whole[0]) / ARRAYS)


def _news(record: logging.LogRecord) -> bool:
    """False for tracebacks that Orbax logs when a save fails: the error is raised, too."""
    return not (record.exc_info and "orbax" in record.pathname)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
