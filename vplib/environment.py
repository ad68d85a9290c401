"""The environment of runs and benchmarks and, by the Makefile, of Lab and tests: threads, memory pages, flags."""

import os
import sys

VARIABLES = {
    "NPROC": "2",  # float results depend on the number of threads
    # XLA gives its buffers back after every step: with small pages a small step on CPU takes 1.4 times as long (LOG.md).
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # huge pages where the system has them; ignored where there is no glibc
}


def prepare() -> None:
    """Set what is not set. Only processes started afterwards see all of it."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def restart() -> None:
    """Run this program again from its start, with the missing variables set; return if none is missing."""
    if VARIABLES.keys() - os.environ.keys():
        prepare()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def parse_flags() -> None:
    """Let absl read no flags: Grain's worker processes and tokamax want theirs parsed, which notebooks and plain scripts never do."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
