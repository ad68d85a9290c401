"""Files appear complete or not at all, and one process at a time works in a folder."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock
import psutil

_CAUSES = {  # what the system says, and what to do
    errno.ENOSPC: ("the disk is full", "free some space and start again, finished work is kept"),
    errno.EDQUOT: ("your quota of disk space is used up", "free some space and start again"),
    errno.EFBIG: ("the file is larger than is allowed", "raise the limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "name a folder of yours with VPLIB_OUT=<path>"),
    errno.EACCES: ("you may not write there", "change its rights, or name a folder with VPLIB_OUT"),
    errno.EPERM: ("you may not write there", "change its rights, or name a folder with VPLIB_OUT"),
    errno.ENOTDIR: ("a part of the path is a file", "move that file, or name another folder"),
    errno.EISDIR: ("a folder is where a file must be", "move that folder"),
    errno.EEXIST: ("a file is where a folder must be", "move that file, or name another folder"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one, for example with tag=..."),
}

HELD = "VPLIB_HELD"  # the environment variable by which a runner tells its kernel what it holds


class FileError(OSError):
    """A file or folder that cannot be written. One sentence: which, why, what to do."""


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the system refuses while `path` is being written into a FileError; others pass.

    Libraries that report such causes as a RuntimeError (ArrayRecord, TensorStore) are understood,
    too.
    """
    try:
        yield
    except FileError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        code = getattr(error, "errno", None)
        if code is None:
            code = next((c for c in _CAUSES if os.strerror(c) in str(error)), None)
        if code not in _CAUSES:
            raise
        problem, advice = _CAUSES[code]
        raise FileError(f"{path} cannot be written: {problem}; {advice}.") from error


def folder(path: Path) -> Path:
    """`path` as a folder that exists. Raises FileError when it cannot be made."""
    try:
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # such as below /proc
        raise FileError(f"{path} cannot be made: there is no such place; name another.") from error
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place if all goes well and vanishes if not.

    What a killed process left of an earlier attempt is removed. Raises FileError as `explained`.
    """
    path, host = Path(path), socket.gethostname()
    for stale in path.parent.glob(f".{path.name}.{host}-*.tmp"):
        if not alive(int(stale.stem.rpartition("-")[2])):
            stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{host}-{os.getpid()}.tmp")
    try:
        with explained(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def printable(text: object) -> str:
    """One line, with what could steer a terminal shown as escapes such as \\x1b."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def write(path: Path, content: str | bytes) -> None:
    """Write a whole file, text as UTF-8. Raises FileError as `explained`."""
    with replacing(path) as temporary:
        data = content.encode() if isinstance(content, str) else content
        temporary.write_bytes(data)


@contextlib.contextmanager
def locked(place: Path, *, doing: str) -> Iterator[None]:
    """Hold the folder `place` while this process is `doing` something there.

    The system lets go when the process dies. A folder that HELD names is held already, by the
    runner that started this process. Raises FileError at once, naming the holder, if another
    process holds it.
    """
    if os.environ.get(HELD) == str(place):
        yield
        return
    folder(place)
    lock, note = filelock.FileLock(place / ".lock", timeout=0), place / ".holder"
    try:
        with explained(place):
            lock.acquire()
    except filelock.Timeout:
        holder = note.read_text(encoding="utf-8").strip() if note.exists() else ""
        raise FileError(
            f"{place} is in use ({holder or 'another process'}): wait until that ends, or stop it first."
        ) from None
    try:
        with explained(note):
            who = f"process {os.getpid()} on {socket.gethostname()}, {doing}\n"
            note.write_text(who, encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    return psutil.pid_exists(process)  # os.kill(process, 0) would end it on Windows
