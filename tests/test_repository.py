"""What must hold for the files of the repository as they are committed."""

import importlib.util
import json
import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatch
from itertools import product

import pytest
import yaml

from vplib import config, paths
from vplib.run import PRINT_BYTES

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
LISTED = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=paths.ROOT,
    capture_output=True,
    text=True,
    check=True,
).stdout.split("\0")
FILES = [paths.ROOT / name for name in LISTED if name and (paths.ROOT / name).is_file()]
BINARY = {".png", ".pdf", ".npz", ".mp4", ".array_record", ".model"}


def test_notebooks_and_configurations_share_their_names():
    assert [file.stem for file in NOTEBOOKS] == config.names()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_results(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert not any({"papermill", "execution"} & {*cell["metadata"]} for cell in cells)
    tagged = [
        "".join(cell["source"]) for cell in code if "parameters" in cell["metadata"].get("tags", [])
    ]
    assert len(tagged) == 1 and 'overrides = ""' in tagged[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_load_the_configuration_of_their_name(path):
    source = "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text())["cells"])
    assert f'config.load("{path.stem}", overrides)' in source


def test_conda_installs_the_lock():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    python, pip, packages = yaml.safe_load((paths.ROOT / "environment.yml").read_text())[
        "dependencies"
    ]
    assert python.startswith(f"python{project['requires-python']},<") and pip == "pip"
    assert packages["pip"] == ["--requirement requirements.lock", "--editable ."]


def test_the_lock_pins_every_direct_dependency_for_every_python():
    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
    lock = (paths.ROOT / "requirements.lock").read_text()
    nowhere = r"(?: ; sys_platform != 'win32')?"  # a condition on Windows alone: lessons run there
    pinned = set(re.findall(rf"^([\w.-]+)==[\w.]+{nowhere}$", lock, re.MULTILINE))
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert {re.match(r"[\w.-]+", line)[0] for line in asked} <= pinned
    assert "torch" not in pinned  # the extra `torch` stays outside: see pyproject.toml
    assert "://" not in lock and not re.search(r"^-", lock, re.MULTILINE)


def test_the_lock_pins_one_version_of_each_package():
    """Two versions, each for some Pythons, would give two results: see pyproject.toml."""
    lock = (paths.ROOT / "requirements.lock").read_text()
    names = re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= {"soupsieve"}  # of Lab alone; the newest needs Python 3.11.5


def test_make_help_names_every_target():
    makefile = (paths.ROOT / "Makefile").read_text()
    shown = subprocess.run(
        ["make", "help"], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^  make ([\w-]+)", shown, re.MULTILINE) == targets(makefile)


def targets(makefile: str) -> list[str]:
    return re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()


def test_commands_of_the_readme_exist(out):
    """Every line of every bash block is looked at: an unknown program fails, too."""
    blocks = re.findall(
        r"^```bash\n(.*?)^```", (paths.ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    commands = [words for words in (shlex.split(line, comments=True) for line in lines) if words]
    assert commands
    for words in commands:
        if words[0] == "make":
            known = targets((paths.ROOT / "Makefile").read_text())
            assert [word for word in words[1:] if "=" not in word and word not in known] == []
        elif words[0].endswith("python") and words[1] != "-m":
            assert (paths.ROOT / words[1]).is_file(), words
        elif words[0].endswith("python"):
            assert importlib.util.find_spec(words[2]), words
            if words[2] in ("vplib.run", "vplib.config"):
                # Composing for a GPU needs one (test_environment); any machine can for its CPU.
                name, *overrides = [
                    word.replace("hardware=gpu", "hardware=cpu")
                    for word in words[3:]
                    if not word.startswith("-")
                ]
                for run in config.expand(overrides):
                    config.load(name, run)
        else:
            known = {"git", "cd", "conda", "pip", "source", "papermill", "dvc", "hf"}
            assert words[0] in known, words


def test_commands_of_the_notebooks_compose_beside_the_committed_runs(out):
    """As a reader types them in a clone, whose run folders hold the committed configurations."""
    for file in (paths.ROOT / "runs").rglob("config.yaml"):
        place = out / file.relative_to(paths.ROOT).parent
        place.mkdir(parents=True)
        (place / "config.yaml").write_bytes(file.read_bytes())
    found = []
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text())["cells"]:
            if cell["cell_type"] == "markdown":
                found += re.findall(r"`python -m vplib\.run ([^`]+)`", "".join(cell["source"]))
    assert found
    for words in map(shlex.split, found):
        for run in config.expand(words[1:]):
            config.load(words[0], run)


SWEEP = ("49_baselines",)  # look at the trainings of the sweep, not of a lesson
NOT_RUN = (
    "50_ablations",
    "51_scaling",
    "52_scores",
    "53_mechanisms",
)  # but at smoke; the map of the paper says so


@pytest.mark.parametrize("name", NOT_RUN)
def test_what_was_not_run_is_said(name):
    page = (paths.ROOT / "reports" / "README.md").read_text()
    assert re.search(rf"^\|.*`{name}`.*`not yet`", page, re.MULTILINE)
    assert not (paths.RUNS / name).exists()


@pytest.mark.parametrize("name", sorted({*config.names()} - {*NOT_RUN}))
def test_every_notebook_has_a_print_without_stray_output(name):
    scale = "sweep" if name in SWEEP else "lesson"
    print_ = paths.ROOT / "reports" / "notebooks" / f"{name}-world-{scale}.ipynb"
    assert print_.is_file(), f"python -m vplib.run {name} scale={scale} --print"
    for cell in json.loads(print_.read_text())["cells"]:
        for output in cell.get("outputs", []):
            assert output["output_type"] in ("stream", "display_data", "execute_result")
            assert output.get("name") != "stderr"
            shown = "".join(output.get("data", {}).get("text/plain", ""))
            assert not re.match(r"\[?<matplotlib|\(?array\(|Text\(", shown), shown


PRINTS = sorted((paths.ROOT / "reports" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", PRINTS, ids=lambda path: path.stem)
def test_a_print_has_the_words_of_its_notebook_and_words_for_its_pictures(path):
    source = paths.NOTEBOOKS / f"{re.sub(r'-(world|folder)-.*', '', path.stem)}.ipynb"
    original, printed = (json.loads(file.read_text())["cells"] for file in (source, path))

    def texts(cells: list[dict], kind: str) -> list[str]:
        told = {"setup", "parameters", "injected-parameters"}
        return [
            "".join(cell["source"])
            for cell in cells
            if cell["cell_type"] == kind and not told & {*cell["metadata"].get("tags", [])}
        ]

    if texts(original, "code") == texts(printed, "code"):  # else it is of an older notebook
        assert texts(original, "markdown") == texts(printed, "markdown")
    pictures = [
        cell
        for cell in printed
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    ]
    assert all(len(cell["metadata"].get("alt", "")) >= 40 for cell in pictures)


def test_files_are_small():
    large = {file.name: file.stat().st_size for file in FILES if file.stat().st_size > PRINT_BYTES}
    assert not large


def test_no_file_names_a_folder_of_somebodys_machine():
    found = []
    for file in FILES:
        if file.suffix not in BINARY:
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                if re.search(r"(?<![\w.*])/(home|root|work)/", line):
                    found.append(f"{paths.short(file)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def declared() -> set[str]:
    """Every output, metric and dependency that `dvc.yaml` names, outputs first."""
    named = set()
    for stage in yaml.safe_load((paths.ROOT / "dvc.yaml").read_text())["stages"].values():
        matrix = stage.get("matrix", {})
        for values in product(*matrix.values()):
            for entry in [*stage.get("outs", []), *stage.get("metrics", [])]:
                name = entry if isinstance(entry, str) else next(iter(entry))
                for key, value in zip(matrix, values, strict=True):
                    name = name.replace(f"${{item.{key}}}", value)
                named.add(name)
    return named


def test_every_committed_result_is_an_output_of_the_pipeline_or_says_why_not():
    page = (paths.ROOT / "reports" / "README.md").read_text()
    section = page[page.index("These are not:") : page.index("## Figures of the paper")]
    excepted = [f"reports/{p}" for p in re.findall(r"`((?:figures|tables)/\S+?)`", section)]
    files = [f.relative_to(paths.ROOT).as_posix() for f in FILES]
    results = [f for f in files if f.startswith(("reports/figures/", "reports/tables/"))]
    loose = set(results) - declared()
    assert [f for f in loose if not any(fnmatch(f, pattern) for pattern in excepted)] == []
    assert [p for p in excepted if not any(fnmatch(f, p) for f in loose)] == []


def test_in_a_fresh_clone_every_stage_runs():
    """Each has an output that git does not hold: its executed notebook."""
    for name in config.names():
        notebooks = {f for f in declared() if re.fullmatch(rf"runs/{name}/.*/notebook.ipynb", f)}
        assert notebooks or name[0] == "0" or name in NOT_RUN, name
        assert not notebooks & set(LISTED)


def test_a_stage_depends_on_its_configuration_and_on_the_code_it_reaches():
    stages = yaml.safe_load((paths.ROOT / "dvc.yaml").read_text())["stages"]
    for name in config.names():
        if name in stages:
            run = (
                "world-${item.scale}-none-s0"
                if "matrix" in stages[name]
                else "world-lesson-none-s0"
            )
            assert {f"runs/{name}/{run}/config.yaml", f"runs/{name}/{run}/code.json"} <= {
                *stages[name]["deps"]
            }
            assert not any(dep.startswith(("vplib", "notebooks")) for dep in stages[name]["deps"])


def test_the_extras_for_accelerators_bring_their_jax():
    extras = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert [extras[name][0].split("[")[1][:4].strip("]") for name in ("cuda", "tpu")] == [
        "cuda",
        "tpu",
    ]
