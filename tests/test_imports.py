"""Who may import whom, and how long a module and a function may be. Imports are read as text."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from vplib import paths

LIBRARY = paths.ROOT / "vplib"
BASE = {"paths", "files", "environment", "progress", "code"}
WINGS = {  # a wing and what it may import beside itself and the base
    "model": set(),
    "method": {"model"},
    "train": {"model"},
    "data": set(),
    "world": {"data"},
    "evaluate": {"model", "data", "train"},
}
HARNESS = {
    *("config", "rules", "run", "figures", "timelines", "lessons"),
    *("chains", "results", "published", "reproduce"),
    *("finished", "sweep", "comparisons", "claims", "beside"),
    *("tpu", "publish", "quoted"),
}
COMMANDS = {
    "scores": {"results"},
    "cards": {"model", "scores", "config"},
    "export": {"model", "cards", "shipped"},
    "predict": {"evaluate", "model", "data", "figures", "timelines"},
    "caption": {"evaluate", "model", "data"},
    "croissant": {"data", "world"},
    "shipped": {"model", "data", "results", "cards"},
    "scaling": {"chains", "sweep", "comparisons", "model", "method", "world"},
    "course": {"model", "method", "data", "world", "publish", "figures"},
}
OWNERS = {  # package -> the only modules that import it
    "hydra": {"config"},
    "papermill": {"run"},
    "dvc": set(),
    "grain": {"data.pipeline", "data.cached", "data.labelled"},
    "array_record": {"data.shards"},
    "av": {"data"},
    "fsspec": {"data.buckets"},
    "apache_beam": {"data.beam"},
    "sentencepiece": {"data.text"},
    "orbax": {"train.states"},
}
MODULES = {
    ".".join(path.relative_to(LIBRARY).with_suffix("").parts): path
    for path in sorted(LIBRARY.rglob("*.py"))
    if path.name != "__init__.py"
}


def imports(name: str) -> set[str]:
    """Dotted names of what a module imports, anywhere in it; ours without `vplib.`."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = (node.module or "").removeprefix("vplib").lstrip(".")
            for alias in node.names if (node.module or "").startswith("vplib") else []:
                full = f"{inner}.{alias.name}".lstrip(".")
                found.add(full if full in MODULES else inner)
            if not (node.module or "").startswith("vplib"):
                found.add(node.module)
    return found


OURS = {name: {used for used in imports(name) if used in MODULES} for name in MODULES}


def allowed(name: str, used: str) -> bool:
    wing, other = name.split(".")[0], used.split(".")[0]
    if wing in BASE:
        return other in BASE
    if other in BASE or wing == other:
        return True
    if wing in WINGS:
        return other in WINGS[wing]
    if wing in COMMANDS:
        return other in COMMANDS[wing]
    return other in HARNESS or used == "evaluate.metrics"  # means and intervals, in numpy


@pytest.mark.parametrize("name", MODULES)
def test_the_arrows_between_wings(name):
    assert {used for used in OURS[name] if not allowed(name, used)} == set()


def test_every_module_has_its_place():
    places = {name.split(".")[0] for name in MODULES}
    assert places == BASE | set(WINGS) | HARNESS | set(COMMANDS)


def test_no_circles():
    left = {name: set(used) - {name} for name, used in OURS.items()}
    while free := [name for name, used in left.items() if not used & left.keys()]:
        for name in free:
            del left[name]
    assert not left


@pytest.mark.parametrize("package", OWNERS)
def test_libraries_have_one_door(package):
    users = {name for name in MODULES if any(u.split(".")[0] == package for u in imports(name))}
    assert all(
        any(name == owner or name.startswith(f"{owner}.") for owner in OWNERS[package])
        for name in users
    ), users


@pytest.mark.parametrize(
    "name",
    ["00_tour", "01_tokens", "02_contrastive", "03_masking_and_shuffling", "05_scaling_out"],
)
def test_a_lesson_that_reads_no_shard_needs_no_reader(name):
    cells = json.loads((paths.NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    used = [line for line in code.splitlines() if line.startswith(("from vplib", "import vplib"))]
    show = (
        "import sys\n" + "\n".join(used) + "\nfrom vplib.world import corpora\n"
        "corpora.clip('ac1', 0)\nreaders = {'grain', 'array_record', 'av', 'papermill', 'orbax'}\n"
        "print(readers & {module.split('.')[0] for module in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", show], cwd=paths.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("wing", [*WINGS, "course"])
def test_a_wing_says_what_lives_there_and_holds_no_code(wing):
    tree = ast.parse((LIBRARY / wing / "__init__.py").read_text())
    assert len(tree.body) == 1 and ast.get_docstring(tree)
    modules = [name.split(".")[1] for name in MODULES if name.startswith(f"{wing}.")]
    assert [name for name in modules if name not in ast.get_docstring(tree)] == []


@pytest.mark.parametrize("name", MODULES)
def test_modules_and_functions_are_short(name):
    source = MODULES[name].read_text(encoding="utf-8")
    assert source.count("\n") <= 500
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno + 1 > 80] == []


def test_notebooks_import_no_private_names():
    for path in paths.NOTEBOOKS.glob("*.ipynb"):
        cells = [c for c in json.loads(Path(path).read_text())["cells"] if c["cell_type"] == "code"]
        for node in ast.walk(ast.parse("\n".join("".join(c["source"]) for c in cells))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert not node.attr.startswith("_"), f"{path.name}: {node.value.id}.{node.attr}"
