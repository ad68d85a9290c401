import contextlib
import errno
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest

from vplib import config, environment, files, paths, progress, run
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
    assert sorted(file.name for file in first.parent.iterdir()) == [
        ".lock",
        "config.yaml",
        "notebook.ipynb",
    ]


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
        ".lock",
        "config.yaml",
        "notebook.ipynb",
    ]


def test_any_path_will_do_and_a_good_run_is_quiet(write_notebook, out, monkeypatch, capfd):
    """Braces are papermill's fields elsewhere, and long folders leave no room for the names of
    sockets.
    """
    write_notebook(
        "import os, tempfile; print(os.environ['VPLIB_HELD'], tempfile.gettempdir())",
        f"import atexit; atexit.register(open, {str(out / 'asked')!r}, 'w')",
    )
    monkeypatch.setattr(paths, "OUT", out / "{a}")
    (out / ("long" * 20)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(out / ("long" * 20)))
    target = run.run("90_toy")
    shown = capfd.readouterr()
    held, temporary = shown.out.rsplit(maxsplit=1)
    assert target.parent == out / "{a}/runs/90_toy/world-lesson-none-s0" == Path(held)
    assert len(temporary) < 60 and not Path(temporary).exists()
    assert not (out / "asked").exists()  # a kernel that is asked to leave prints seeming faults
    assert [line.split()[0] for line in shown.err.splitlines()] == ["90_toy", "cell", "90_toy"]


def test_a_folder_serves_one_run_at_a_time(write_notebook, out):
    write_notebook(f"open({str(out / 'started')!r}, 'w')")
    with (
        files.locked(out / "runs/90_toy/world-lesson-none-s0", doing="running 90_toy"),
        pytest.raises(files.FileError, match=r"is in use \(process \d+ on .*, running 90_toy\)"),
    ):
        run.run("90_toy")
    assert not (out / "started").exists()


def test_a_full_disk_is_one_sentence(write_notebook, out, monkeypatch):
    write_notebook()
    config.load("90_toy")
    notebook = nbformat.v4.new_notebook()
    monkeypatch.setattr(run, "_execute", lambda *_: (notebook, None))
    monkeypatch.setattr(os, "replace", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(
        SystemExit, match="^error: .*notebook.ipynb cannot be written: the disk is full"
    ):
        monkeypatch.setattr(sys, "argv", ["run", "90_toy"])
        run.main()
    assert [*out.glob("runs/**/*notebook*")] == []


def raising(error: BaseException):
    def function(*_: object, **__: object) -> None:
        raise error

    return function


def test_a_stop_ends_with_what_goes_on(out, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run", "30_stage2"])
    monkeypatch.setattr(run, "run", raising(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as end:
        run.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "\nstopped: the same command goes on from here\n"


def gone(process: int) -> bool:
    """Whether a process ends within ten seconds (one that nobody has asked for its code counts as
    ended).
    """
    for _ in range(100):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        if not files.alive(process):
            return True
        time.sleep(0.1)
    return False


def test_workers_end_with_their_kernel(write_notebook, capsys):
    write_notebook(
        "import os, signal, subprocess\n"
        "print('worker', subprocess.Popen(['sleep', '60']).pid, flush=True)",
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    with pytest.raises(RunError, match="the kernel died"):
        run.run("90_toy")
    assert gone(int(re.search(r"worker (\d+)", capsys.readouterr().out)[1]))


@pytest.mark.parametrize(
    ("child", "tie"),
    [
        (
            "subprocess.Popen(['sleep', '60'], start_new_session=True)",
            "environment.ending_with_us(child.pid).__enter__()",
        ),
        (
            "subprocess.Popen([sys.executable, '-c', 'from vplib import environment; import time;"
            " environment.end_with_parent(); print(flush=True); time.sleep(60)'], stdout=-1)",
            "child.stdout.readline()",
        ),
    ],
    ids=["a group that is held", "a child that follows"],
)
def test_children_end_with_a_killed_parent(child, tie):
    script = (
        "import subprocess, sys, time\nfrom vplib import environment\n"
        f"child = {child}\n{tie}\nprint(child.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=paths.ROOT, stdout=subprocess.PIPE, text=True
    )
    process = int(parent.stdout.readline())
    assert files.alive(process)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(process)


def test_what_killed_runs_left_is_removed(tmp_path, monkeypatch):
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    ended = subprocess.Popen(["true"])
    ended.wait()
    with run._short_folder() as folder:
        assert folder.parent == place
        stale = folder.with_name(re.sub(rf"-{os.getpid()}-", f"-{ended.pid}-", folder.name))
        stale.mkdir()
        with run._short_folder() as other:
            assert other != folder and folder.exists() and not stale.exists()
    assert [*place.iterdir()] == []
    place.rmdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RunError, match="set TMPDIR to a folder of yours"), run._short_folder():
        pass


def test_plain_papermill_takes_the_same_string(write_notebook, out):
    write_notebook(
        "from vplib import config\nprint(config.load('02_contrastive', overrides).command, end='')"
    )
    source, made = paths.NOTEBOOKS / "90_toy.ipynb", out / "made.ipynb"
    notebook = nbformat.read(source, 4)
    notebook.metadata = nbformat.read(paths.ROOT / "notebooks/02_contrastive.ipynb", 4).metadata
    nbformat.write(notebook, source)
    words = ["--no-progress-bar", "-p", "overrides", "seed=3 tag=x"]
    command = [sys.executable, "-m", "papermill", source, made, *words]
    subprocess.run(command, cwd=paths.ROOT, check=True)
    (printed,) = nbformat.read(made, 4).cells[-1].outputs
    assert printed.text == "python -m vplib.run 02_contrastive seed=3 tag=x"


def test_a_print_keeps_the_words_of_its_pictures():
    told = {"alt": "a red ball", "tags": ["parameters"], "jupyter": {}}
    cells = [nbformat.v4.new_code_cell("1", metadata=told), nbformat.v4.new_markdown_cell("text")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    run._normalise(notebook, clean=True)
    kept = {"alt": "a red ball", "tags": ["parameters"]}
    assert [cell.metadata for cell in notebook.cells] == [kept, {}]


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
    assert command(monkeypatch, "--print", "30_stage2", "tag=a") == [("30_stage2", "tag=a", True)]
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
        (["--print", "30_stage2", "seed=3"], "error: --print is for seed 0, given seed=3"),
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


@pytest.mark.parametrize("kind", ["x86_64", "aarch64"])
def test_lab_and_tests_have_the_same_environment_as_runs(tmp_path, kind):
    """What the Makefile exports is `environment.VARIABLES`, also on another kind of processor."""
    (tmp_path / "uname").write_text(f"#!/bin/sh\necho {kind}\n")
    (tmp_path / "uname").chmod(0o755)
    makefile = (paths.ROOT / "Makefile").read_text()
    known = set(re.findall(r"^export (\w+)", makefile, re.MULTILINE)) | {*environment.VARIABLES}
    bare = {name: value for name, value in os.environ.items() if name not in known}
    bare["PATH"] = f"{tmp_path}{os.pathsep}{bare['PATH']}"
    made = subprocess.run(
        ["make", "--silent", "--file=Makefile", "--file=-", "shown"],
        input="shown:\n\t@env\n",
        env=bare,
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    exported = dict(line.split("=", 1) for line in made.splitlines() if "=" in line)
    show = (
        f"import json, platform; platform.machine = lambda: {kind!r}; "
        "from vplib import environment; print(json.dumps(environment.VARIABLES))"
    )
    shown = subprocess.check_output([sys.executable, "-c", show], env=bare, cwd=paths.ROOT)
    variables = json.loads(shown)
    assert {name: exported[name] for name in known & exported.keys()} == variables
    assert ("XLA_FLAGS" in variables) == (kind == "x86_64")


def test_runs_and_benchmarks_set_the_variables_that_are_missing(tmp_path):
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
    assert runner.stdout == " ".join(environment.VARIABLES.values()) + "\n"
    others = {name: f"my-{name}" for name in environment.VARIABLES}
    others |= {"NPROC": "3", "GLIBC_TUNABLES": "glibc.malloc.check=0"}
    all_but = [{k: v for k, v in others.items() if k != name} for name in others]
    for given, starts in ((others, 1), ({}, 2), *((some, 2) for some in all_but)):
        done = subprocess.run(
            [sys.executable, script, "word"],
            env=bare | given,
            capture_output=True,
            text=True,
            check=True,
        )
        expected = " ".join((environment.VARIABLES | given).values())
        assert done.stdout == "start\n" * starts + f"{expected} word\n"


def test_letters_that_the_terminal_cannot_write_are_escaped(write_notebook, tmp_path):
    write_notebook("print('caf\u00e9 \u4f60')")
    words = [
        sys.executable,
        "-c",
        "import sys, pathlib; from vplib import paths, run; "
        f"paths.CONF, paths.NOTEBOOKS = map(pathlib.Path, ({str(paths.CONF)!r}, {str(paths.NOTEBOOKS)!r})); "
        "sys.argv = ['run', '90_toy']; run.main()",
    ]
    ascii_only = os.environ | {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
    done = subprocess.run(words, cwd=paths.ROOT, env=ascii_only, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("caf")
