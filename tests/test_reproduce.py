"""`make reproduce`: what DVC needs is said in one sentence, and nothing outlives it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_run import gone

from vplib import files, paths, reproduce, results
from vplib.reproduce import main


@pytest.fixture
def sleeping():
    """`sleeping("dvc")` starts a process with that word in its command and returns its number."""
    started = []

    def start(*words: str) -> int:
        command = [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)", *words]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        started[-1].stdout.readline()
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def repository(out, monkeypatch):
    """A repository whose pipeline is one stage, `slow@lesson`, that writes its process number and
    sleeps.
    """
    (out / ".dvc").mkdir()
    (out / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (out / ".dvc/.gitignore").write_text("/tmp\n")
    (out / "slow.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path('began').write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    (out / "dvc.yaml").write_text(
        "stages:\n  slow:\n    matrix: {scale: [study]}\n    cmd: python slow.py\n"
        "  config_figures: {cmd: 'true'}\n  60_paper_figures: {cmd: 'true'}\n"
    )
    subprocess.run(["git", "init", "-q", out], check=True)
    monkeypatch.setattr(paths, "ROOT", out)
    monkeypatch.setattr(reproduce, "MAIN", ("slow",))
    return out


def held(repository: Path, process: int) -> Path:
    entry = {"pid": process, "cmd": "/somewhere/dvc repro slow@study"}
    rwlock = repository / ".dvc/tmp/rwlock"
    rwlock.parent.mkdir(exist_ok=True)
    rwlock.write_text(json.dumps({"write": {"/x": entry}, "read": {"/y": [entry]}}))
    return rwlock


def stopped(repository: Path, words: list[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(words)
    assert "\n" not in str(end.value)
    return str(end.value)


def test_a_copy_without_git_names_the_remedy(repository, monkeypatch):
    (repository / ".git").rename(repository / "git")
    assert "has no .git: clone the repository, or type: git init" in stopped(
        repository, ["run", "study"]
    )
    assert "has no .git" in stopped(repository, ["verify", "study"])
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "which you may not: copy it" in stopped(repository, ["run", "study"])
    monkeypatch.setattr(paths, "OUT", repository / "elsewhere")
    assert "unset VPLIB_OUT" in stopped(repository, ["run", "study"])
    assert "usage" in stopped(repository, ["run"])


def test_nothing_to_compare_with_is_one_sentence(repository, monkeypatch):
    said = stopped(repository, ["verify", "study"])
    assert (
        said.startswith("error: git has no committed reports/tables/headline.csv")
        and "HEAD" in said
    )
    monkeypatch.setenv("PATH", "")
    assert "there is no program 'git'" in stopped(repository, ["verify", "study"])


def test_the_holder_of_the_pipeline_is_named(repository, sleeping, monkeypatch):
    monkeypatch.setattr(reproduce, "_dvc", lambda words: 1)
    with files.locked(repository / ".dvc/tmp", doing="reproducing study"):
        said = stopped(repository, ["run", "study"])
    assert f"in use (process {os.getpid()} on " in said and "reproducing study" in said
    other = sleeping("dvc")
    held(repository, other)
    said = stopped(repository, ["run", "study"])
    assert f"process {other} (dvc repro slow@study) works here" in said


def test_what_the_dead_hold_is_dropped(repository, sleeping, monkeypatch):
    monkeypatch.setattr(reproduce, "_dvc", lambda words: 1)
    rwlock = held(repository, sleeping())  # got the number of a DVC that was killed
    assert stopped(repository, ["run", "study"]) == "1" and not rwlock.exists()
    ended = subprocess.Popen(["true"])
    ended.wait()
    rwlock = held(repository, ended.pid)
    assert stopped(repository, ["run", "study"]) == "1" and not rwlock.exists()
    rwlock.write_text('{"write": {"/x"')
    assert stopped(repository, ["run", "study"]) == "1" and not rwlock.exists()


def test_a_stop_ends_with_one_line(repository, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "_dvc", lambda words: -signal.SIGKILL)
    assert stopped(repository, ["run", "study"]).startswith(
        "error: DVC was stopped (signal 9): the"
    )

    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "_dvc", interrupted)
    assert stopped(repository, ["run", "study"]) == "130"
    assert capsys.readouterr().err == "\nstopped: the same command goes on from here\n"


@pytest.mark.parametrize("victim", ["reproduce", "dvc"])
def test_no_stage_outlives_a_kill(victim, repository):
    """The stage ends with the program that started DVC, and with DVC."""
    script = (
        "import pathlib, sys\nfrom vplib import paths, reproduce\n"
        f"paths.ROOT = paths.OUT = pathlib.Path({str(repository)!r})\n"
        "reproduce.MAIN = ('slow',)\nreproduce.main(['run', 'study'])"
    )
    home = Path(reproduce.__file__).parents[1]
    ours = subprocess.Popen(
        [sys.executable, "-c", script], cwd=home, stderr=subprocess.PIPE, text=True
    )
    while not (repository / "began").exists() or not (repository / "began").read_text():
        assert ours.poll() is None
        time.sleep(0.1)
    stage = int((repository / "began").read_text())
    dvc = os.getpgid(stage)
    assert dvc not in (ours.pid, os.getpgid(0))
    os.kill({"reproduce": ours.pid, "dvc": dvc}[victim], signal.SIGKILL)
    said = ours.communicate(timeout=60)[1]
    assert victim == "reproduce" or "DVC was stopped (signal 9)" in said
    assert gone(stage) and gone(dvc)


@pytest.mark.parametrize(
    ("fresh", "row"), [(True, "reproduce_minutes"), (False, "reproduce_again_seconds")]
)
def test_the_time_is_recorded(fresh, row, repository, monkeypatch):
    notebook = paths.RUNS / "slow/world-study-none-s0/notebook.ipynb"
    notebook.parent.mkdir(parents=True)
    monkeypatch.setattr(reproduce, "_dvc", lambda words: fresh and notebook.touch() or 0)
    main(["run", "study"])
    assert [(r["name"], r["command"]) for r in results.read()] == [(row, "make study")]
