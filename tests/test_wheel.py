"""What is built from the repository works where the repository is not."""

import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import toy
from test_video import moving_square

from vplib import paths
from vplib.data import video
from vplib.evaluate import classify


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files in its source
    bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(paths.ROOT / "vplib", source / "vplib", ignore=bytecode)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(paths.ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", folder, source], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_module_and_nothing_else(site):
    ours = {p.relative_to(paths.ROOT).as_posix() for p in (paths.ROOT / "vplib").rglob("*.py")}
    assert {p.relative_to(site).as_posix() for p in (site / "vplib").rglob("*.py")} == ours
    assert {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")} == {"vplib"}


def test_predict_works_from_a_wheel(site, tmp_path):
    classifier = toy.classifier()
    classify.save(classifier, list("abcde"), tmp_path, encoder="toy")
    (tmp_path / "a.mp4").write_bytes(video.encode(moving_square(), 10))
    show = (
        "import sys, runpy; sys.path[:0] = [sys.argv[1]]; import vplib; assert vplib.__file__.startswith(sys.argv[1]);"
        "sys.argv = ['predict', '.', 'a.mp4']; runpy.run_module('vplib.predict', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", show, str(site)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shares = [
        float(part.rsplit(" ", 1)[1][:-1])
        for part in done.stdout.strip().split(": ")[1].split(", ")
    ]
    assert done.stdout.startswith("a.mp4: ") and len(shares) == 3 and np.all(np.diff(shares) <= 0)
