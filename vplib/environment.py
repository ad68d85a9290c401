"""Threads, memory pages and flags of runs and benchmarks and, by the Makefile, of Lab and tests."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

VARIABLES = {
    "NPROC": "2",  # float results depend on the number of threads
    # XLA gives its buffers back after every step: with small pages a small step on CPU takes 1.4
    # times as long (LOG.md). Huge pages where the system has them; ignored where there is no glibc.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
# Keys of the configuration that change how fast a run is, what memory it takes and what it saves on
# the way, never what it computes: they do not tell runs apart, so one that was killed for want of
# memory goes on with less.
FREE = (
    "data.memory",
    "hardware.threads",
    "hardware.workers",
    "optim.checkpoint_every",
    "optim.tensorboard",
)


def prepare() -> None:
    """Set what is not set. Only processes started afterwards see all of it."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def restart() -> None:
    """Run this program again from its start, with the missing variables set; return if none is
    missing.
    """
    if VARIABLES.keys() - os.environ.keys():
        prepare()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def write_any_letter() -> None:
    """Let the terminal get escapes for letters that its locale cannot write."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def ending_with_us(group: int) -> Iterator[None]:
    """While inside, the process group `group` ends when this process does, `kill -9` included.

    On the way out, what is left of the group is killed.
    """
    guard = subprocess.Popen(  # reads until this process lets go of the pipe
        ["sh", "-c", 'cat; kill -s KILL -- "-$1"', "sh", str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        guard.kill()
        guard.communicate()


def end_with_parent() -> None:
    """End this process, and what `ending_with_us` holds, within a second of its parent's end.

    For commands that make or DVC started: killed alone, these leave their children running.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def parse_flags() -> None:
    """Let absl read no flags: Grain's worker processes and tokamax want theirs parsed, which
    notebooks and plain scripts never do.
    """
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
