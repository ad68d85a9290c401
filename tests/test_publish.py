"""Where the repository lives: in every notebook, for Colab, and in the README."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from vplib import paths, publish

NOTEBOOKS = sorted((paths.ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def copy(tmp_path):
    for folder in ("notebooks", "reports/notebooks", "course/student", "course/solutions"):
        shutil.copytree(paths.ROOT / folder, tmp_path / folder)
    shutil.copy(paths.ROOT / "README.md", tmp_path)
    return tmp_path


def cells(path):
    return json.loads(path.read_text())["cells"]


def test_an_address_reaches_every_notebook_print_and_the_readme(copy):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.suffix in (".ipynb", ".md")}
    changed = publish.publish("some.one/a-name", copy)
    assert {*changed} == {*before}
    for path in copy.rglob("*.ipynb"):
        first = "".join(cells(path)[0]["source"])
        place = path.relative_to(copy).as_posix()
        if not place.startswith("course"):
            name = next(p.name for p in NOTEBOOKS if path.stem.startswith(p.stem))
            place = f"notebooks/{name}"
        assert first.startswith("# ") and first.count("Open in Colab") == 1
        assert f"/github/some.one/a-name/blob/main/{place})" in first
    assert (
        (copy / "README.md")
        .read_text()
        .splitlines()[2]
        .startswith("[![tests](https://github.com/some.one/a-name/")
    )
    assert publish.publish("some.one/a-name", copy) == []  # once is enough
    publish.publish("other/place", copy)
    assert not any(b"some.one" in p.read_bytes() for p in before)
    publish.publish("", copy)
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    "address", ["a", "a/b/c", "a/b'; rm -rf", "https://github.com/a/b", 'a/"b']
)
def test_what_is_no_address_is_refused(copy, address):
    with pytest.raises(ValueError, match="is no address: give OWNER/NAME"):
        publish.publish(address, copy)


def test_all_notebooks_have_the_setup_cell_of_one_address():
    found = {
        "".join(cell["source"])
        for path in NOTEBOOKS
        for cell in cells(path)
        if publish.TAG in cell["metadata"].get("tags", [])
    }
    (source,) = found
    address = source.partition('"')[2].partition('"')[0]
    assert source == publish.SETUP.format(address=address)


def setup(tmp_path, address: str, **variables: str) -> subprocess.CompletedProcess:
    """The cell in a Python that has no vplib, with a git and a pip that only tell."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("git", "pip"):
        (tools / name).write_text(
            f'#!/bin/sh\necho {name} "$@"\n[ {name} = pip ] || (mkdir -p clone/vplib && touch clone/vplib/__init__.py)\n'
        )
        (tools / name).chmod(0o755)
    cell = publish.SETUP.format(address=address) + "\nimport vplib\nprint(vplib.__file__)"
    env = {"PATH": f"{tools}:{os.environ['PATH']}"} | variables
    return subprocess.run(
        [sys.executable, "-S", "-c", cell], cwd=tmp_path, env=env, capture_output=True, text=True
    )


def test_in_colab_the_first_cell_fetches_and_installs(tmp_path):
    done = setup(tmp_path, "some.one/a-name", COLAB_RELEASE_TAG="release")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "git clone -q https://github.com/some.one/a-name clone",
        "pip install -q -e clone",
        str(tmp_path / "clone" / "vplib" / "__init__.py"),
    ]


@pytest.mark.parametrize(
    "address, variables", [("some.one/a-name", {}), ("", {"COLAB_RELEASE_TAG": "release"})]
)
def test_elsewhere_it_says_what_to_do(tmp_path, address, variables):
    done = setup(tmp_path, address, **variables)
    assert done.returncode and not done.stdout
    assert done.stderr.strip() == "vplib is not installed: type pip install -e . in a clone of it"
