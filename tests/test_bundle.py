"""The bundle of the class, whether a laptop is ready, and the site: what can be known without a network."""

import importlib.util
import re
import shutil
import subprocess
import sys

import pytest

from vplib import paths
from vplib.course import bundle, ready, sheets

LOCK = (paths.ROOT / "requirements.lock").read_text()


def load_pages():
    spec = importlib.util.spec_from_file_location("pages_build", paths.ROOT / "pages" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = load_pages()


@pytest.mark.parametrize("system", bundle.TARGETS)
def test_the_bundle_has_what_the_class_imports_and_no_more(system):
    names = {one.partition("==")[0] for one in bundle.wheels(bundle.TARGETS[system], "3.12")}
    assert {"jax", "jaxlib", "numpy", "flax", "jupyterlab", "hydra-core", "av"} <= names
    assert not names & {"dvc", "papermill", "grain", "array-record", "pytest", "torch"}
    assert ("pywinpty" in names) == (system == "windows") != ("pexpect" in names)
    assert ("appnope" in names) == (system == "macos")


def test_pins_follow_the_markers_of_the_lock():
    lock = "a==1 ; sys_platform == 'win32'\na==2 ; sys_platform != 'win32'\nB_c==3\n# d==4\n"
    told = {s: bundle.markers(bundle.TARGETS[s], "3.12") for s in bundle.TARGETS}
    assert bundle.pins(lock, told["windows"]) == {"a": "1", "b-c": "3"}
    assert bundle.pins(lock, told["linux"])["a"] == "2"
    with pytest.raises(bundle.BundleError, match="x is not in requirements.lock"):
        bundle.closure(["x"], {}, told["linux"])
    assert bundle.closure(["b_c"], {"b-c": "3"}, told["linux"]) == ["b-c==3"]


def test_the_bundle_takes_lessons_weights_and_tables_and_no_big_file():
    taken = set(bundle.contents())
    assert {*ready.NEEDED} <= taken
    assert not any(
        "-s1." in name
        or name.startswith(("runs/", "tests/", "course/solutions", "course/exercises"))
        for name in taken
    )
    assert sum((paths.ROOT / name).stat().st_size for name in taken) < 25e6
    for lesson in paths.NOTEBOOKS.glob("0*.ipynb"):
        assert f"notebooks/{lesson.name}" in taken


def fake_pip(monkeypatch, tmp_path):
    """A bundle of nothing but a wheel's name, in a folder of its own."""

    def fetch(wanted, target, python, folder):
        (folder / "a.whl").write_text("")

    monkeypatch.setattr(bundle, "fetch", fetch)
    monkeypatch.setattr(bundle, "DIST", tmp_path / "dist")


@pytest.mark.parametrize("system, name", [("linux", "start.sh"), ("windows", "start.bat")])
def test_a_bundle_has_its_start_and_its_site(system, name, monkeypatch, tmp_path):
    fake_pip(monkeypatch, tmp_path)
    with pytest.raises(bundle.BundleError, match="type make site first"):
        bundle.make(system, "3.12")
    (tmp_path / "dist" / "site").mkdir()
    (tmp_path / "dist" / "site" / "index.html").write_text("site")
    out = bundle.make(system, "3.12")
    shutil.unpack_archive(out, tmp_path)
    root = tmp_path / "videoprism-class"
    start = (root / name).read_bytes().decode()
    assert "3.12" in start and "@" not in start.replace("@echo", "")
    assert ("\r\n" in start) == (system == "windows")
    assert (root / "site" / "index.html").read_text() == "site" and (
        root / "wheels" / "a.whl"
    ).exists()
    assert "jax==" in (root / "wheels" / "requirements.txt").read_text()


def start(root, **variables) -> str:
    """What start.sh says, where no Python installs anything."""
    done = subprocess.run(
        ["sh", root / "start.sh", "check"],
        env={"PATH": "/usr/bin:/bin"} | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not done.stderr
    (line,) = done.stdout.splitlines()
    return line


def test_start_says_in_one_sentence_what_is_missing(tmp_path):
    other = "3.99"
    text = bundle.START_SH.replace("@PYTHON@", other).replace("@MINOR@", other.replace(".", ", "))
    (tmp_path / "start.sh").write_text(text)
    assert start(tmp_path, PY=sys.executable).startswith("this bundle is for Python 3.99")
    assert start(tmp_path, PY="/no/python").startswith("this bundle is for Python 3.99")
    mine = f"{sys.version_info[0]}.{sys.version_info[1]}"
    text = bundle.START_SH.replace("@PYTHON@", mine).replace("@MINOR@", mine.replace(".", ", "))
    (tmp_path / "start.sh").write_text(text)
    assert start(tmp_path, PY=sys.executable).startswith("the folder wheels is missing")


@pytest.mark.parametrize("words", [["linus"], ["linux", "3.9"], ["linux", "macos"]])
def test_other_systems_are_refused(words):
    with pytest.raises(SystemExit, match="usage"):
        bundle.main(words)


def test_pip_that_finds_no_wheel_is_told_in_one_sentence(monkeypatch, tmp_path):
    done = subprocess.CompletedProcess(
        [], 1, "", "note\nERROR: No matching distribution found for a==1\n"
    )
    monkeypatch.setattr(bundle.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(
        bundle.BundleError, match="no wheels: ERROR: No matching distribution found for a==1$"
    ):
        bundle.fetch(["a==1"], bundle.TARGETS["linux"], "3.12", tmp_path)


# Ready?


def test_this_clone_is_ready(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "vplib.course.ready"], cwd=paths.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"GREEN: everything is there.*\n", done.stdout)


@pytest.mark.parametrize("version", [(3, 9), (3, 10), (3, 15), (4, 0)])
def test_another_python_is_red(version):
    with pytest.raises(
        ready.NotReady,
        match=f"this is Python {version[0]}.{version[1]}, and the class needs 3.11 to 3.14",
    ):
        ready.python(version)


def test_a_missing_package_is_red(monkeypatch):
    monkeypatch.setattr(ready, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(ready.NotReady, match="^no_such_package missing: run start.sh"):
        ready.packages()


def test_a_missing_part_is_red_in_one_sentence(tmp_path, capsys):
    assert ready.main(tmp_path) == 1
    assert capsys.readouterr().out.startswith("RED: course/student/session1.ipynb is missing")
    for name in ready.NEEDED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"broken")
    assert ready.main(tmp_path) == 1
    line = capsys.readouterr().out
    assert line.startswith("RED: the weights cannot be read") and line.count("\n") == 1


# The site.


def test_links_lead_to_prints_and_folders_to_their_pages():
    shown = {"00_tour": ["reports/notebooks/00_tour-world-lesson.ipynb"]}
    text = "[a](notebooks/00_tour.ipynb) [b](data_cards/) [c](conf/) [d](https://e.f) [g](README.md#results) ![h](gone.png) [i](../x.md) [j](#k)"
    new, needed = pages.relinked(text, "README.md", shown)
    assert new == (
        "[a](reports/notebooks/00_tour-world-lesson.ipynb) [b](data_cards/README.md) c [d](https://e.f) "
        "[g](index.md#results) h i [j](#k)"
    )
    assert needed == {
        "reports/notebooks/00_tour-world-lesson.ipynb",
        "data_cards/README.md",
        "index.md",
    }
    deep, _ = pages.relinked("[a](../../notebooks/00_tour.ipynb)", "course/student/s.ipynb", shown)
    assert deep == "[a](../../reports/notebooks/00_tour-world-lesson.ipynb)"


def test_every_notebook_page_card_and_sheet_is_on_the_site():
    shown = pages.prints()
    assert {*shown} == {p.stem for p in paths.NOTEBOOKS.glob("*.ipynb")}
    contents = pages._contents(shown)
    for name in (
        *pages.pages()[1:],
        *(p for n, own in shown.items() for p in own[: 1 if n[0] == "0" else 9]),
    ):
        assert f"{name.rpartition('.')[0]}" in re.split(r"[\n<>]", contents), name
    for path in (sheets.COURSE / "student").glob("*.ipynb"):
        assert f"<course/student/{path.stem}>" in contents
    assert "solutions" not in contents
    assert pages.relinked("[a](solutions/session1.ipynb)", "course/README.md", shown)[0] == "a"


def test_faults_of_a_site_are_found(tmp_path):
    good = '<p id="x"><a href="b.html#y"></a><a href="https://c.d"></a><a href="#x"></a><img src="i.png" alt="a fig">'
    (tmp_path / "a.html").write_text(good)
    (tmp_path / "b.html").write_text('<p id="y">')
    (tmp_path / "i.png").touch()
    assert pages.faults(tmp_path) == []
    bad = '<a href="gone.html"></a><a href="b.html#z"></a><script src="https://cdn/x.js"></script><img src="i.png" alt=" ">'
    (tmp_path / "a.html").write_text(bad)
    found = "\n".join(pages.faults(tmp_path))
    for words in (
        "gone.html: it is not there",
        "b.html#z: nothing there",
        "would need a network",
        "without words",
    ):
        assert words in found
    assert found.count("\n") == 3


def test_docstrings_are_plain_text():
    lines = ["A *B and `f(x_)`s of", "T_N | y"]
    pages.plain_docstring(None, "function", "f", None, None, lines)
    assert lines == [r"A \*B and \ ``f(x_)``\ s of", r"T\_N \| y"]
