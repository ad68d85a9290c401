"""What all tests share: results in a temporary folder, annotations of vplib checked at run time.

This happens before vplib is imported: `vplib.paths` reads VPLIB_OUT, and jaxtyping rewrites modules
as they load.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ["VPLIB_OUT"] = tempfile.mkdtemp(prefix="vplib-")
os.environ.setdefault("NPROC", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one test compiled, no other compiles again, nor a kernel, nor (xdist) the other process.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["VPLIB_OUT"] + "/compiled")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
atexit.register(shutil.rmtree, os.environ["VPLIB_OUT"], ignore_errors=True)

import jaxtyping  # noqa: E402
from beartype import BeartypeConf, beartype  # noqa: E402

# An int will do where a float is asked for.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
jaxtyping.install_import_hook("vplib", "conftest.typechecker")

import jax  # noqa: E402
import nbformat  # noqa: E402
import pytest  # noqa: E402

from vplib import paths  # noqa: E402

MAPS = Path("/proc/self/maps")


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def pytest_collection_modifyitems(items: list) -> None:
    """The file that takes longest comes first, so that of two processes none waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(scope="module", autouse=True)
def _forget():
    """Drop compiled programs before their parts of memory are more than Linux allows a process
    (65,530; the next compilation would end it), or two such processes more than a laptop has.
    """
    yield
    if MAPS.exists() and (MAPS.read_text().count("\n") > 30_000 or resident() > 3e9):
        jax.clear_caches()


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh OUT for one test, here and in the kernels that it starts."""
    monkeypatch.setenv("VPLIB_OUT", str(tmp_path))
    before = paths.OUT
    for name in ("OUT", "RUNS", "DATA", "REPORTS", "PRINTS"):
        monkeypatch.setattr(paths, name, tmp_path / getattr(paths, name).relative_to(before))
    return tmp_path


@pytest.fixture
def write_notebook(out: Path, monkeypatch: pytest.MonkeyPatch):
    """`write_notebook("print(overrides)", ...)` makes these cells the notebook `90_toy`."""
    shutil.copytree(paths.CONF, out / "conf")
    (out / "conf" / "90_toy.yaml").write_text("defaults: [base, _self_]\nname: 90_toy\nuses: []\n")
    (out / "notebooks").mkdir()
    monkeypatch.setattr(paths, "CONF", out / "conf")
    monkeypatch.setattr(paths, "NOTEBOOKS", out / "notebooks")

    def write(*cells: str, parameters: str = 'overrides = ""') -> None:
        first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
        nbformat.write(notebook, paths.NOTEBOOKS / "90_toy.ipynb")

    return write
