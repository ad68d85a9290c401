"""`make class`: the course as one file that installs without a network.

`python -m vplib.course.bundle [SYSTEM] [PYTHON]` writes `dist/videoprism-class-SYSTEM.tar`: exercises,
lessons, weights, tables, slides, the site of `make site`, the wheels that they need, in the versions of
requirements.lock, for one system (linux, macos, windows) and one Python, and `start.sh` or
`start.bat`. `--look` only says what it would take, and asks the registry whether the wheels exist.
"""

import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vplib import environment, files, paths

DIST = paths.ROOT / "dist"
USAGE = "python -m vplib.course.bundle [--look] [linux | macos | windows] [3.11 ... 3.14]"
SYSTEM = {"Linux": "linux", "Darwin": "macos", "Windows": "windows"}.get(platform.system(), "linux")
TAKEN = (  # of what git knows
    *("vplib/", "conf/", "course/", "notebooks/0", "reports/published/", "reports/tables/"),
    *("reports/weights/README.md", "reports/weights/manifest.json", "reports/notebooks/0"),
    *("README.md", "LOG.md", "LICENSE", "CITATION.cff", "pyproject.toml", "requirements.lock"),
)
BUILT = {"antlr4-python3-runtime"}  # pure Python, published as source alone: its wheel is made here
KEPT = re.compile(r"course/(solutions|exercises)/|course/(README|session\d)\.md")  # the lecturer's
WEIGHTS = re.compile(r"reports/weights/(lesson|study)-(stage[12]\.npz|vocabulary\.model)")


class BundleError(ValueError):
    """A bundle that cannot be made. One sentence: what is missing, what to do."""


class Target(NamedTuple):
    """A system as pip and as the markers of requirements name it."""

    platforms: tuple[str, ...]
    markers: dict[str, str]


TARGETS = {
    "linux": Target(
        tuple(f"manylinux_2_{k}_x86_64" for k in (28, 27, 17)) + ("manylinux2014_x86_64",),
        {
            "sys_platform": "linux",
            "platform_system": "Linux",
            "os_name": "posix",
            "platform_machine": "x86_64",
        },
    ),
    "macos": Target(
        tuple(f"macosx_{k}_0_{kind}" for k in (14, 13, 12, 11) for kind in ("arm64", "universal2")),
        {
            "sys_platform": "darwin",
            "platform_system": "Darwin",
            "os_name": "posix",
            "platform_machine": "arm64",
        },
    ),
    "windows": Target(
        ("win_amd64",),
        {
            "sys_platform": "win32",
            "platform_system": "Windows",
            "os_name": "nt",
            "platform_machine": "AMD64",
        },
    ),
}

START_SH = """\
#!/bin/sh
# Installs without a network into .class (once), looks whether all is well, opens the exercises.
cd "$(dirname "$0")" || exit 1
PY=${PY:-$(command -v python@PYTHON@ || command -v python3)}
"$PY" -c 'import sys; sys.exit(sys.version_info[:2] != (@MINOR@))' 2>/dev/null || {
  echo "this bundle is for Python @PYTHON@, which was not found: install it, or say where it is: PY=/path/to/python sh start.sh"; exit 1; }
[ -f wheels/requirements.txt ] || { echo "the folder wheels is missing: unpack the bundle again into an empty folder"; exit 1; }
if [ "$(cat .class/place 2>/dev/null)" != "$PWD" ]; then
  echo "installing, once: about a minute"
  "$PY" -m venv --clear .class && .class/bin/python -m pip install -q --no-index --find-links wheels -r wheels/requirements.txt || {
    echo "the installation failed, see above: unpack the bundle again into an empty folder"; exit 1; }
  echo "$PWD" > "$(.class/bin/python -c 'import site; print(site.getsitepackages()[0])')/vplib.pth"
  echo "$PWD" > .class/place
fi
.class/bin/python -m vplib.course.ready || exit 1
.class/bin/python -m vplib.course.sheets my
[ "$1" = check ] || exec .class/bin/jupyter lab my/exercises/session1.ipynb
"""
START_BAT = """\
@echo off
rem Installs without a network into .class (once), looks whether all is well, opens the exercises.
cd /d "%~dp0"
py -@PYTHON@ -c "pass" 2>nul || (echo this bundle is for Python @PYTHON@, which was not found: install it & exit /b 1)
if not exist wheels\\requirements.txt (echo the folder wheels is missing: unpack the bundle again into an empty folder & exit /b 1)
if not exist .class\\ok (
  echo installing, once: a few minutes
  py -@PYTHON@ -m venv --clear .class
  .class\\Scripts\\python -m pip install -q --no-index --find-links wheels -r wheels\\requirements.txt || (
    echo the installation failed, see above: unpack the bundle again into an empty folder & exit /b 1)
  echo %CD%> .class\\Lib\\site-packages\\vplib.pth
  echo ok> .class\\ok
)
.class\\Scripts\\python -m vplib.course.ready || exit /b 1
.class\\Scripts\\python -m vplib.course.sheets my
if not "%1"=="check" .class\\Scripts\\jupyter lab my\\exercises\\session1.ipynb
"""


def markers(target: Target, python: str) -> dict[str, str]:
    """What markers of requirements ask for, on a system."""
    told = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    told |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    return target.markers | told


def pins(lock: str, told: dict[str, str]) -> dict[str, str]:
    """Every package of a lock file and its version, where markers are `told` so."""
    lines = [Requirement(line) for line in lock.splitlines() if line and line[0] not in "#-"]
    return {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in lines
        if one.marker is None or one.marker.evaluate(told)
    }


def closure(names: list[str], known: dict[str, str], told: dict[str, str]) -> list[str]:
    """`names` and all they need, as `name==version` of the lock (`pins`), where markers are `told` so.

    What a package needs is asked of the installed one; one that is not installed here, as those for
    other systems, is taken to need nothing more. Raises BundleError for what the lock has not.
    """
    left, seen = [Requirement(name) for name in names], {}
    while left:
        one = left.pop()
        name, extras = canonicalize_name(one.name), frozenset(one.extras)
        if extras <= seen.get(name, frozenset()) and name in seen:
            continue
        if name not in known:
            raise BundleError(
                f"{name} is not in requirements.lock: the lock and course/requirements.txt differ"
            )
        seen[name] = seen.get(name, frozenset()) | extras
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            if need.marker is None or any(
                need.marker.evaluate(told | {"extra": extra}) for extra in ("", *seen[name])
            ):
                left.append(need)
    return [f"{name}=={known[name]}" for name in sorted(seen)]


def wheels(target: Target, python: str) -> list[str]:
    """Every package of the bundle as `name==version`. Raises BundleError as `closure`."""
    told = markers(target, python)
    lock = (paths.ROOT / "requirements.lock").read_text(encoding="utf-8")
    return closure(asked(), pins(lock, told), told)


def asked() -> list[str]:
    """The packages of course/requirements.txt."""
    text = (paths.ROOT / "course" / "requirements.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def fetch(wanted: list[str], target: Target, python: str, folder: Path) -> None:
    """Put the wheels for a system into `folder`. Raises BundleError for what has none there."""
    built = [one for one in wanted if one.partition("==")[0] in BUILT]
    words = [
        "download",
        "--only-binary=:all:",
        "--implementation",
        "cp",
        "--python-version",
        python,
    ]
    words += [part for name in (*target.platforms, "any") for part in ("--platform", name)]
    _pip(words, [one for one in wanted if one not in built], "-d", folder)
    if built:
        _pip(["wheel"], built, "-w", folder)


def _pip(words: list[str], wanted: list[str], into: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", *words, "-q", "--no-deps", into, str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = files.printable(said[-1] if said else done.stderr[-200:])
        raise BundleError(f"pip fetched no wheels: {why}")


def contents() -> list[str]:
    """What the bundle takes of the repository. Raises BundleError for slides that were not made."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BundleError(f"git knows no files of {paths.ROOT}: make the bundle in a clone")
    listed = [name for name in done.stdout.split("\0") if (paths.ROOT / name).is_file()]
    return [
        n for n in listed if (n.startswith(TAKEN) and not KEPT.match(n)) or WEIGHTS.fullmatch(n)
    ]


def make(system: str, python: str) -> Path:
    """Write the bundle for a system and a Python. Raises BundleError, FileError."""
    target, out = TARGETS[system], files.folder(DIST) / f"videoprism-class-{system}.tar"
    wanted = wheels(target, python)
    if not (DIST / "site" / "index.html").is_file():
        raise BundleError("there is no site in dist/site: type make site first")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "videoprism-class"
        for name in contents():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(paths.ROOT / name, root / name)
        shutil.copytree(DIST / "site", root / "site")
        (root / "wheels").mkdir()
        fetch(wanted, target, python, root / "wheels")
        (root / "wheels" / "requirements.txt").write_text(
            "\n".join(wanted) + "\n", encoding="utf-8"
        )
        name, text = ("start.bat", START_BAT) if system == "windows" else ("start.sh", START_SH)
        text = text.replace("@PYTHON@", python).replace("@MINOR@", python.replace(".", ", "))
        newline = "\r\n" if system == "windows" else "\n"
        (root / name).write_text(text, encoding="utf-8", newline=newline)
        with files.replacing(out) as temporary, tarfile.open(temporary, "w") as tar:
            tar.add(root, root.name)
    return out


def look(system: str, python: str) -> str:
    """Whether every wheel for a system exists, without keeping any."""
    wanted = wheels(TARGETS[system], python)
    with tempfile.TemporaryDirectory() as folder:
        fetch(wanted, TARGETS[system], python, Path(folder))
        size = sum(p.stat().st_size for p in Path(folder).iterdir())
    return f"{system}, Python {python}: {len(wanted)} wheels, {size / 1e6:.0f} MB"


def main(words: list[str]) -> None:
    """What USAGE says."""
    environment.write_any_letter()
    only, words = "--look" in words, [w for w in words if w != "--look"]
    system = next((w for w in words if w in TARGETS), SYSTEM)
    python = next((w for w in words if re.fullmatch(r"3\.1[1-4]", w)), f"3.{sys.version_info[1]}")
    if not {*words} <= {system, python}:
        sys.exit(f"usage: {USAGE}")
    try:
        if only:
            print(look(system, python))
        else:
            out = make(system, python)
            print(
                f"{paths.short(out)}  {out.stat().st_size / 1e6:.0f} MB, for {system} with Python {python}"
            )
    except (BundleError, files.FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
