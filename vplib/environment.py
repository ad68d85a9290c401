"""What a process that computes finds in its environment, on every road: runs, benchmarks and, by the Makefile, Lab and tests."""

import os
import sys

VARIABLES = {
    "NPROC": "2",  # float results depend on the number of threads
    # XLA gives its buffers back after every step: without huge pages, half of a small step on CPU is page faults.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # elsewhere than with glibc it means nothing
}


def prepare() -> None:
    """Set what is not set. Only processes started afterwards see all of it."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def restart() -> None:
    """Start this script again with what is not set; returns at once where nothing is missing."""
    if VARIABLES.keys() - os.environ.keys():
        prepare()
        os.execv(sys.executable, [sys.executable, *sys.argv])
