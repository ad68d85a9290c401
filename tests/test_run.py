import io
import os
import re
import subprocess
import sys

import nbformat
import pytest

from vplib import environment, paths, progress, run
from vplib.config import ConfigError
from vplib.run import RunError

NOISY = """
import sys, time, warnings
from vplib import paths
from vplib.progress import Progress
with Progress(30, "training") as live:
    for step in range(1, 31):
        time.sleep(0.02)
        live.update(step, loss=1 / step)
        if step == 15:
            print("half way", paths.ROOT / "vplib", paths.OUT / "runs", object())
warnings.warn("noise")
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_equal_runs_leave_equal_notebooks(write_notebook, out, capsys):
    write_notebook(NOISY, "overrides")
    first = run.run("90_toy", ["seed=3"], publish=True)
    shown = capsys.readouterr()
    assert (
        "half way" in shown.out
        and "training  30/30  loss 0.03333" in shown.err
        and "noise" in shown.err
    )
    assert first == out / "runs/90_toy/world-lesson-none-s3/notebook.ipynb"
    assert first.read_bytes() == paths.PRINTS.joinpath("90_toy-world-lesson.ipynb").read_bytes()

    text = first.read_text()
    before = first.read_bytes()
    assert run.run("90_toy", ["seed=3"]).read_bytes() == before
    assert "training  30/30  loss 0.03333" in text and "29/30" not in text and " left" not in text
    assert "half way vplib runs <object object>" in text
    assert str(paths.ROOT) not in text and str(out) not in text
    assert "noise" not in text.replace('warnings.warn(\\"noise\\")', "")
    assert "'seed=3'" in text
    assert sorted(file.name for file in first.parent.iterdir()) == ["config.yaml", "notebook.ipynb"]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (
            "raise ValueError('the clip is too short')",
            "90_toy failed at In [4]: ValueError: the clip is too short\n",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "90_toy failed: the kernel died",
        ),
    ],
)
def test_a_failing_cell_is_named_and_its_notebook_kept(cell, words, write_notebook, out):
    write_notebook("print('before')", cell, "print('after')")
    with pytest.raises(RunError) as error:
        run.run("90_toy")
    assert words in str(error.value)
    assert str(error.value).endswith("runs/90_toy/world-lesson-none-s0/notebook.ipynb")
    cells = nbformat.read(out / "runs/90_toy/world-lesson-none-s0/notebook.ipynb", 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert outputs[0].text == "before\n"
    assert "after" not in str(outputs)
    assert sorted(file.name for file in (out / "runs/90_toy/world-lesson-none-s0").iterdir()) == [
        "config.yaml",
        "notebook.ipynb",
    ]


def test_a_print_has_a_largest_size(out, monkeypatch):
    (out / "notebook.ipynb").write_text("x" * 200)
    monkeypatch.setattr(run, "PRINT_BYTES", 100)
    with pytest.raises(RunError, match="notebook.ipynb has .* MB, a print at most .* MB"):
        run._publish(out / "notebook.ipynb", paths.PRINTS / "90_toy.ipynb")
    assert not paths.PRINTS.exists()


def test_a_notebook_must_have_its_parameter(write_notebook):
    with pytest.raises(ConfigError, match="there is no notebook '91_toy'.*it is one of .*90_toy"):
        run.run("91_toy")
    with pytest.raises(RunError, match="notebooks/90_toy.ipynb is missing"):
        run.run("90_toy")
    write_notebook(parameters="seed = 0")
    with pytest.raises(
        RunError, match="must have one cell tagged 'parameters' that says overrides"
    ):
        run.run("90_toy")


def test_inline_needs_no_kernel(write_notebook, capsys, monkeypatch):
    monkeypatch.chdir(paths.ROOT)
    write_notebook("import os; print(overrides, os.getpid())")
    run.run_inline("90_toy", ["seed=3", "tag=a"])
    words = capsys.readouterr().out.split()
    assert words[:2] == ["seed=3", "tag=a"]
    assert words[2] == str(__import__("os").getpid())
    write_notebook("raise KeyError('gone')")
    with pytest.raises(KeyError, match="gone"):
        run.run_inline("90_toy")


def command(monkeypatch, *words):
    """The runs that `python -m vplib.run words...` would start."""
    started = []
    monkeypatch.setattr(sys, "argv", ["run", *words])
    monkeypatch.setattr(
        run, "run", lambda name, overrides, publish: started.append((name, *overrides, publish))
    )
    run.main()
    return started


def test_command_starts_the_runs_of_a_sweep(out, monkeypatch):
    assert command(monkeypatch, "30_stage2") == [("30_stage2", False)]
    assert command(monkeypatch, "--print", "30_stage2", "seed=3") == [("30_stage2", "seed=3", True)]
    assert command(monkeypatch, "30_stage2", "seed=1,2", "ablation=none,no_global") == [
        ("30_stage2", "seed=1", "ablation=none", False),
        ("30_stage2", "seed=1", "ablation=no_global", False),
        ("30_stage2", "seed=2", "ablation=none", False),
        ("30_stage2", "seed=2", "ablation=no_global", False),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["30_stage2", "seed=1,x"], "error: seed must be a whole number"),
        (
            ["30_stage2", "seed=1,2", "tag=a"],
            "error: runs/30_stage2/a belongs to another configuration",
        ),
        (["--print", "30_stage2", "seed=1,2"], "error: --print takes one run, given 2"),
        (["31_stage3"], "error: there is no notebook '31_stage3'"),
    ],
)
def test_command_checks_every_run_before_the_first(words, message, out, monkeypatch):
    with pytest.raises(SystemExit, match=message):
        assert command(monkeypatch, *words) is None


def test_a_terminal_shows_one_rewritten_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Progress(10, "training") as live:
        for step in range(0, 11, 5):
            live.update(step, loss=2.0)
    lines = sys.stderr.getvalue().split("\r\x1b[K")
    assert lines == [
        "",
        "training  0/10  loss 2",
        "training  5/10  loss 2",
        "training  10/10  loss 2  5/s  0 s left",
        "training  10/10  loss 2\n",
    ]


def test_a_log_file_gets_a_line_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    line = progress.Line(log)
    for now[0] in range(1, 100):
        line.show(f"{now[0]} s")
    line.show("the end", last=True)
    assert log.getvalue().split("\n") == ["1 s", "31 s", "61 s", "91 s", "the end", ""]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds, words):
    assert progress.duration(seconds) == words


def test_a_bad_configuration_starts_nothing(write_notebook, out):
    write_notebook("open('started', 'w')")
    with pytest.raises(ConfigError):
        run.run("90_toy", ["sed=1"])
    assert not (out / "runs").exists()


def test_runs_benchmarks_lab_and_tests_have_the_same_environment(tmp_path):
    makefile = (paths.ROOT / "Makefile").read_text()
    assert (
        dict(re.findall(r"^export (\w+) \?= (.+)$", makefile, re.MULTILINE))
        == environment.VARIABLES
    )
    script = tmp_path / "script.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(paths.ROOT)!r})\nfrom vplib import environment\n"
        "print('start', flush=True)\nenvironment.restart()\n"
        "print(*(os.environ[name] for name in environment.VARIABLES), *sys.argv[1:])\n"
    )
    bare = {name: value for name, value in os.environ.items() if name not in environment.VARIABLES}
    show = "import os; from vplib import environment, run; print(*(os.environ[name] for name in environment.VARIABLES))"
    runner = subprocess.run(
        [sys.executable, "-c", show],
        env=bare,
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert runner.stdout.split() == [*environment.VARIABLES.values()]
    for given, starts in (
        ({}, 2),
        ({"NPROC": "3"}, 2),
        ({"NPROC": "3", "GLIBC_TUNABLES": "glibc.malloc.check=0"}, 1),
    ):
        done = subprocess.run(
            [sys.executable, script, "word"],
            env=bare | given,
            capture_output=True,
            text=True,
            check=True,
        )
        expected = " ".join((environment.VARIABLES | given).values())
        assert done.stdout == "start\n" * starts + f"{expected} word\n"
