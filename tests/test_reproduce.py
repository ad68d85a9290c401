"""`make reproduce`: what DVC needs is said in one sentence, and nothing outlives it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from test_run import gone

from vplib import environment, files, paths, reproduce, results, run
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
    for words in (["run"], ["seeds", "study"], ["seeds", "study", "few"], ["tables", "study"]):
        assert "usage" in stopped(repository, words)


def test_nothing_to_compare_with_is_one_sentence(repository, monkeypatch):
    said = stopped(repository, ["verify", "study"])
    assert (
        said.startswith("error: git has no committed reports/tables/seeds.csv") and "HEAD" in said
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


@pytest.fixture
def measured(repository, monkeypatch):
    """`measured(0.4, seed=1)` is what that run of stage 1 says; seeds 0 to 2 are committed."""
    monkeypatch.setattr(environment, "machine", lambda: dict(MACHINE))
    monkeypatch.setattr(reproduce, "_dvc", lambda words: 0)

    def measure(value, seed=0, loss=2.0):
        rows = [
            {"name": "top1", "value": value, "low": 0.3, "high": 0.4, "unit": "fraction"},
            {"name": "loss", "value": loss, "unit": "nats"},
            {"name": "chance", "value": 0.1, "unit": "fraction"},
        ]
        out = paths.RUNS / "20_stage1" / paths.tag("world", "study", seed=seed)
        words = f"python -m vplib.run 20_stage1 scale=study seed={seed}"
        results.write(out, rows, scale="study", seed=seed, command=words)
        results.build("world")

    for seed in range(3):
        measure(0.35 + 0.1 * seed, seed, loss=2.0 + 0.1 * seed)
    git = ["git", "-C", repository, "-c", "user.name=a", "-c", "user.email=b"]
    subprocess.run([*git, "add", "reports", "runs"], check=True)
    subprocess.run([*git, "commit", "-qm", "results"], check=True)
    return measure


MACHINE = {"processor": "Abacus 3", "flags": "beads", "threads": "2"}
SAME = "same processor kind as the committed results: equal bytes expected"


def test_verify_compares_seed_0_alone(measured, capsys):
    measured(0.9, seed=1)  # a run of another seed since, which moves the mean
    reproduce.verify("study")
    said = capsys.readouterr().out
    assert f"3 rows equal to the last digit, 0 within tolerance, 0 different\n{SAME}\n" in said
    measured(0.49, loss=2.3)  # within 0.35 +- 0.15; within the widened interval over seeds
    reproduce.verify("study")
    assert "1 rows equal to the last digit, 2 within tolerance" in capsys.readouterr().out
    measured(0.51, loss=9.0)
    with pytest.raises(SystemExit) as end:
        reproduce.verify("study")
    assert str(end.value).splitlines() == [
        "loss: committed 2, now 9",
        "top1: committed 0.35, now 0.51",
    ]


def test_verify_says_what_differs_between_the_machines(measured, monkeypatch, capsys):
    monkeypatch.setattr(environment, "machine", lambda: MACHINE | {"processor": "Abacus 4"})
    measured(0.35)
    reproduce.verify("study")
    said = capsys.readouterr().out
    assert "processor (committed: Abacus 3, here: Abacus 4)\n" in said and SAME not in said
    assert "beads" not in said and "within tolerance are expected" in said


def test_processors_alike_in_what_counts_are_expected_to_agree():
    there = {"processor": "A", "flags": "avx2 avx512f", "caches": "L1d 32K", "threads": "2"}
    other = there | {"processor": "B", "flags": "avx2", "caches": "L1d 48K"}
    said = "equal weights expected, and scores that may differ a little: processor (committed: A"
    assert said in reproduce._case(there, other)
    for change in ({"flags": "sse4_2"}, {"threads": "4"}):
        assert "within tolerance" in reproduce._case(there, other | change)


def test_verify_needs_rows_of_seed_0(measured, repository):
    said = stopped(repository, ["verify", "paper"])
    assert "seeds.csv has no row of seed 0 at paper: commit" in said


def test_the_machine_names_what_bits_depend_on(monkeypatch):
    monkeypatch.setenv("NPROC", "3")
    told = environment.machine()
    assert told["threads"] == "3" and told["processor"] and told["jax"].count(".") >= 2
    assert all(type(value) is str and value for value in told.values())
    assert {"flags", "caches", "python", "jaxlib", "flax", "numpy"} < {*told}


@pytest.fixture
def seeds(repository, monkeypatch):
    """What `reproduce.seeds` started since it was last emptied; runs leave what real ones leave."""
    started, fails, versions = [], [], {}

    def execute(name, words):
        seed = int(words[1].partition("=")[2])
        started.append((name[:2], seed))
        if (name[:2], seed) in fails:
            raise run.RunError(f"{name} failed")
        out = paths.RUNS / name / paths.tag("world", "study", seed=seed)
        row = {"name": name, "value": seed, "unit": "fraction"}
        words = f"python -m vplib.run {name} scale=study seed={seed}"
        results.write(out, [row], scale="study", seed=seed, command=words)
        (out / "weights.npz").touch()
        results.build("world")

    monkeypatch.setattr(run, "run", execute)
    monkeypatch.setattr(reproduce, "_code", lambda name: versions.get(name, "1"))
    (repository / "data/shards/world-study").mkdir(parents=True)
    return started, fails, versions


def test_seeds_are_run_in_order_and_what_is_finished_is_skipped(seeds, repository):
    started, fails, versions = seeds
    names = ("20", "30", "31", "40", "41", "42", "43", "47")
    whole = [(name, seed) for seed in (1, 2) for name in names]
    main(["seeds", "study", "3"])
    assert started == whole
    started.clear()
    main(["seeds", "study", "3"])
    assert started == []
    versions["30_stage2"] = "2"  # what builds on it is made anew, what it builds on is not
    fails.append(("40", 1))
    assert stopped(repository, ["seeds", "study", "3"]) == (
        "error: 40_classification_localization failed"
    )
    assert started == [("30", 1), ("31", 1), ("40", 1)]
    kept = [(r["name"], r["seed"]) for r in results.read("seeds")]
    assert ("40_classification_localization", "1") not in kept  # of other code
    started.clear(), fails.clear()
    main(["seeds", "study", "3"])
    assert started == [(name, 1) for name in names[3:]] + [(name, 2) for name in names[1:]]
    versions["41_retrieval_zero_shot"] = "2"  # what is measured stands alone
    started.clear()
    main(["seeds", "study", "3"])
    assert started == [("41", 1), ("41", 2)]
    started.clear()
    (paths.RUNS / "20_stage1/world-study-none-s2/weights.npz").unlink()  # as in a clone
    main(["seeds", "study", "3"])
    assert started == whole[8:]


def test_seeds_need_the_shards_and_a_scale(seeds, repository):
    (repository / "data/shards/world-study").rmdir()
    said = stopped(repository, ["seeds", "study", "3"])
    assert said.endswith(
        "data/shards/world-study is missing, which all seeds share: make study first"
    )
    assert stopped(repository, ["seeds", "large", "3"]).startswith(
        "error: scale=large is no option"
    )


def test_the_main_job_is_all_that_dvc_has_at_both_scales_but_what_takes_longest():
    stages = yaml.safe_load((paths.ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    both = {"matrix": {"scale": ["lesson", "study"]}}
    found = {name for name, stage in stages.items() if both.items() <= stage.items()}
    assert found == {*reproduce.MAIN, "46_checking_the_probe", "48_adaptation"}


def test_a_notebook_whose_mean_lacks_seeds_is_named_once(seeds, capsys):
    for seed in (0, 1, 2):
        for name in reproduce.SEEDED:
            if not (seed and name == "30_stage2"):
                run.run(name, ["scale=study", f"seed={seed}"])
    main([])
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == (
        "30_stage2 of seed 1,2 at study is missing from the means: "
        "python -m vplib.run 30_stage2 scale=study seed=1,2"
    )
    assert sum("missing" in line for line in said) == 1
    for seed in (1, 2):
        run.run("30_stage2", ["scale=study", f"seed={seed}"])
    elsewhere = paths.RUNS / "49_baselines" / paths.tag("world", "sweep")  # no main job
    row = {"name": "b", "value": 1, "unit": "fraction"}
    results.write(elsewhere, [row], scale="sweep", command="python -m vplib.run 49_baselines")
    main(["tables"])
    assert "missing" not in capsys.readouterr().out
