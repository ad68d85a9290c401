"""A sweep runs each training once, goes on where it was stopped, and says what there is."""

import ast
import hashlib
import json
import os
import random
import shlex
import sys

import pytest
import yaml
from omegaconf import OmegaConf

from vplib import chains, config, finished, paths, progress, results, run, sweep
from vplib.chains import Step
from vplib.sweep import Run

PAIRS = [("none", 0), ("no_shuffle", 0), ("stage1_continued", 0), ("extra_clips", 0)]


class Runs:
    """Runs that leave what real ones leave, whose weights follow from those they build on."""

    def __init__(self):
        self.started, self.stop, self.fails, self.loads = [], -1, set(), False

    def point(self) -> None:
        """A moment at which the process may be killed."""
        self.stop -= 1
        if self.stop == 0:
            raise KeyboardInterrupt

    def __call__(self, name, words, publish=False):
        self.point()
        choice = dict(word.split("=") for word in words)
        own = Step(name, choice["ablation"])
        cfg = sweep.composed(choice["scale"], Run(own, int(choice["seed"])))
        if self.loads:  # as real runs do; it takes a third of a second
            cfg = config.load(name, words)
        self.started.append(f"{name[:2]} {cfg.ablation} s{cfg.seed}")
        if self.started[-1] in self.fails:
            raise run.RunError(f"{name} failed")
        folder, steps = paths.OUT / cfg.runs / name / cfg.tag, chains.steps(cfg.ablation)
        (folder / "state").mkdir(parents=True, exist_ok=True)
        if not self.loads:
            (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, sort_keys=True))
        command = shlex.join(["python", "-m", "vplib.run", name, *words])
        self.point()
        digest = hashlib.sha256(f"{own} {cfg.seed}".encode())
        for step in steps[: steps.index(own)]:
            digest.update((results.run(cfg, *step_of(step)) / "weights.npz").read_bytes())
        if name != chains.SCORES:
            (folder / "weights.npz").write_bytes(digest.digest())
        self.point()
        value = digest.digest()[0] / 256
        rows = [
            {
                "name": f"{who}.motion.top1",
                "value": value,
                "low": 0.0,
                "high": 1.0,
                "unit": "fraction",
            }
            for who in ("final", "stage1")
        ]
        told = dict(scale=cfg.scale, seed=cfg.seed, command=command)
        results.write(folder, rows, **told, weights=digest.hexdigest())
        self.point()


def step_of(step):
    return step.notebook, step.ablation


@pytest.fixture
def runs(out, monkeypatch):
    found = Runs()
    monkeypatch.setattr(run, "run", found)
    own = results.run
    monkeypatch.setattr(
        results, "run", lambda cfg, name, ablation: own(cfg, name, ablation=ablation)
    )
    versions = {}
    reached = lambda name: {name: versions.get(name, "1")}  # noqa: E731
    reached.cache_clear = lambda: None
    monkeypatch.setattr(finished, "reached", reached)
    found.versions = versions
    return found


def went(runs, pairs=PAIRS) -> list[str]:
    runs.started.clear()
    assert sweep.sweep("sweep", pairs) == []
    return [*runs.started]


def left(out) -> dict[str, bytes]:
    """All that a sweep leaves but what names a process."""
    files = [f for f in out.rglob("*") if f.is_file() and f.name not in (".lock", ".holder")]
    return {f.relative_to(out).as_posix(): f.read_bytes() for f in files}


ALL = ["20 none s0", "30 none s0", "52 none s0", "30 no_shuffle s0", "52 no_shuffle s0"]
ALL += ["20 stage1_continued s0", "52 stage1_continued s0"]
ALL += ["20 public_corpora s0", "30 extra_clips s0", "52 extra_clips s0"]


def test_real_runs_leave_what_is_finished(runs, out):
    """The configuration that `config.load` writes is the one that is looked for."""
    runs.loads = True
    assert went(runs, PAIRS[:2]) == ALL[:5] and went(runs, PAIRS[:2]) == []


def test_every_training_runs_once_and_a_row_that_is_added_recomputes_none(runs, capsys):
    assert went(runs) == ALL
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "10 runs are left of 4 chains"
    assert said[1].startswith("[1/10] 20_stage1 none seed 0; about ")
    assert said[-1] == "[10/10] 52_scores extra_clips seed 0; nothing left"
    assert went(runs) == []
    more = [("public_corpora", 0), ("none", 1)]
    added = [
        "30 public_corpora s0",
        "52 public_corpora s0",
        "20 none s1",
        "30 none s1",
        "52 none s1",
    ]
    assert went(runs, [*PAIRS, *more]) == added


def test_what_changed_is_made_anew_with_all_that_builds_on_it(runs):
    went(runs)
    runs.versions["30_stage2"] = "2"
    assert went(runs) == [one for one in ALL if one[:2] != "20" and "continued" not in one]
    runs.versions["52_scores"] = "2"
    assert went(runs) == [one for one in ALL if one.startswith("52")]
    runs.versions["20_stage1"] = "2"
    assert went(runs) == ALL
    assert went(runs) == []


def test_what_was_built_on_an_earlier_stage_1_is_made_anew_later(runs):
    went(runs)
    runs.versions["20_stage1"] = "2"
    assert went(runs, [("none", 0)]) == ALL[:3]
    assert went(runs)[:2] == ["30 no_shuffle s0", "52 no_shuffle s0"]
    assert went(runs) == []


def test_a_clone_goes_on_from_the_files_that_git_keeps(runs, out):
    went(runs)
    for file in out.rglob("weights.npz"):
        if file.parent.name != "world-sweep-none-s0" or file.parents[1].name != "20_stage1":
            file.unlink()
    assert went(runs) == []  # scores are there
    assert went(runs, [*PAIRS, ("no_global", 0)]) == ["30 no_global s0", "52 no_global s0"]
    for file in out.rglob("weights.npz"):
        file.unlink()
    anew = ["20 none s0", "30 no_local s0", "52 no_local s0"]
    assert went(runs, [*PAIRS, ("no_local", 0)]) == anew
    assert went(runs) == []  # what was made anew is what it was


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_five_moments_it_ends_with_the_same_bytes(seed, runs, out):
    went(runs)
    whole, draw = left(out), random.Random(seed)
    for file in sorted(out.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    for _ in range(5):
        runs.stop = draw.randrange(1, 12)
        with pytest.raises(KeyboardInterrupt):
            sweep.sweep("sweep", PAIRS)
    runs.stop = -1
    went(runs)
    assert left(out) == whole


def test_what_was_stopped_is_not_finished(runs, out):
    went(runs)
    runs.versions["30_stage2"] = "2"
    runs.stop = 2  # within the first run
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep("sweep", PAIRS)
    runs.versions["30_stage2"] = "1"  # as if the change were taken back
    assert went(runs)[:2] == ["30 none s0", "52 none s0"]


def test_a_failure_stops_what_builds_on_it_and_nothing_else(runs, capsys):
    runs.fails.add("30 no_shuffle s0")
    assert sweep.sweep("sweep", PAIRS) == ["30_stage2 failed"]
    assert runs.started == [one for one in ALL if one != "52 no_shuffle s0"]
    runs.fails.clear()
    assert went(runs) == ["30 no_shuffle s0", "52 no_shuffle s0"]


def test_a_folder_of_another_configuration_is_never_overwritten(runs, out):
    went(runs)
    file = out / "runs/30_stage2/world-sweep-none-s0/config.yaml"
    file.write_text(file.read_text().replace("mask_ratio: 0.65", "mask_ratio: 0.6"))
    assert sweep.state("sweep", "none", 0) == "changed"
    runs.loads = True
    with pytest.raises(config.ConfigError, match="belongs to another configuration .*mask_ratio"):
        sweep.sweep("sweep", PAIRS)


def test_two_sweeps_do_not_run_at_once(runs, out, monkeypatch):
    inside = []

    def second(name, words, publish=False):
        with pytest.raises(OSError, match="in use .*sweeping"):
            sweep.sweep("sweep", PAIRS)
        inside.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", second)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep("sweep", PAIRS)
    assert inside == ["20_stage1"]


def test_the_state_of_every_chain_is_shown(runs, out):
    pairs = [*PAIRS, ("none", 1)]
    runs.stop = 4 * 3 + 3  # within 30 of no_shuffle
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep("sweep", PAIRS)
    runs.stop = -1
    place = out / "runs/20_stage1/world-sweep-stage1_continued-s0"
    place.mkdir(parents=True)
    (place / ".holder").write_text(f"process {os.getpid()} on here, running 20_stage1\n")
    assert sweep.status("sweep", pairs).splitlines() == [
        "ablation          s0        s1",
        "none              done      -",
        "no_shuffle        20 begun",
        "stage1_continued  runs 20",
        "extra_clips       -",
        "1 of 5 done at scale=sweep",
    ]
    (place / ".holder").unlink()
    went(runs)
    runs.versions["20_stage1"] = "2"
    assert sweep.state("sweep", "none", 0) == "changed"


def test_the_table_has_a_row_for_each_seed_encoder_and_task_in_the_order_of_the_sweep(runs, out):
    went(runs, [("extra_clips", 0), ("none", 1), ("none", 0)])
    trial = out / "runs/52_scores/world-sweep-none-mine"
    trial.mkdir()
    kept = out / "runs/52_scores/world-sweep-none-s0/metrics.json"
    (trial / "metrics.json").write_text(kept.read_text())  # of a tag of its own
    first = sweep.write().read_bytes()
    rows = results.read(sweep.TABLE)
    assert [*rows[0]] == sweep.COLUMNS
    known = [(row["ablation"], row["seed"], row["encoder"]) for row in rows]
    assert known == [
        (ablation, seed, who)
        for ablation, seed in (("none", "0"), ("none", "1"), ("extra_clips", "0"))
        for who in ("final", "stage1")
    ]
    content = json.loads(kept.read_text())
    assert float(rows[0]["value"]) == pytest.approx(content["rows"]["final.motion.top1"]["value"])
    assert rows[0]["weights"] == content["weights"]
    assert rows[0]["command"].endswith("52_scores scale=sweep ablation=none seed=0")
    assert sweep.write().read_bytes() == first


def test_words_choose_ablations_and_seeds():
    assert sweep.chosen(["ablation=none,umt", "seed=range(2)"]) == (
        "sweep",
        [("none", 0), ("umt", 0), ("none", 1), ("umt", 1)],
    )
    assert sweep.chosen(["seed=2,1", "ablation=tube_55,umt", "scale=smoke"]) == (
        "smoke",
        [("umt", 2), ("umt", 1), ("tube_55", 2), ("tube_55", 1)],
    )
    scale, pairs = sweep.chosen([])
    assert scale == "sweep" and len(pairs) == 5 * len(sweep.SWEPT)
    first = len(sweep.CORE)
    for seed in range(5):  # balanced at any time, `none` first
        assert pairs[first * seed :][:first] == [(name, seed) for name in sweep.CORE]
    assert sorted(sweep.SWEPT) == config.groups()["ablation"]  # nothing is forgotten


def test_baselines_of_49_are_trainings_of_the_sweep(out):
    """The same folders, so that none is trained twice."""
    cells = json.loads((paths.NOTEBOOKS / "49_baselines.ipynb").read_text())["cells"]
    source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    named = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    (told,) = [node.value for node in named if getattr(node.targets[0], "id", "") == "TRAINED"]
    swept = {step for name in sweep.CORE for step in chains.trainings(name)}
    cfg = config.load("49_baselines", "seed=3")
    for step in {Step(*one) for own in ast.literal_eval(told).values() for one in own}:
        assert step in swept
        folder = results.run(cfg, step.notebook, ablation=step.ablation)
        assert folder == paths.OUT / sweep.composed(cfg.scale, Run(step, cfg.seed)).out


def test_the_pipeline_has_the_five_seed_part():
    stage = yaml.safe_load((paths.ROOT / "dvc.yaml").read_text())["stages"]["sweep"]
    own = stage["matrix"]
    assert own["ablation"] == [*sweep.CORE] and len(own["seed"]) == 5
    (told,) = stage["metrics"][0]
    where = told.replace("${item.ablation}", "none").replace("${item.seed}", "3")
    cfg = sweep.composed("sweep", Run(Step(chains.SCORES, "none"), 3))
    assert where == f"{cfg.out}/metrics.json"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "stage2.steps=4"], "a sweep has no 'stage2.steps'"),
        (["run", "scale=smoke,sweep"], "a sweep has one scale, given smoke and sweep"),
        (["status", "ablation=no_shufle"], "ablation=no_shufle is no option.*no_shuffle"),
        (["status", "seed=x"], "seed must be a whole number"),
        (["runs"], "usage: "),
        (["table", "seed=1"], "usage: "),
    ],
)
def test_a_mistake_is_one_sentence(words, message, out):
    with pytest.raises(SystemExit, match=message) as end:
        sweep.main(words)
    assert "\n" not in str(end.value)


def test_a_stop_ends_with_what_goes_on(runs, capsys, monkeypatch):
    monkeypatch.setattr(os, "nice", lambda by: 0)
    runs.stop = 1
    with pytest.raises(SystemExit) as end:
        sweep.main(["run", "ablation=none", "seed=0"])
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("\nstopped: the same command goes on from here\n")
    runs.stop, runs.fails = -1, {"20 none s0"}
    with pytest.raises(SystemExit, match="error: 1 runs failed:\n20_stage1 failed"):
        sweep.main(["run", "ablation=none", "seed=0"])
    runs.fails.clear()
    sweep.main(["run", "ablation=none", "seed=0"])
    assert capsys.readouterr().out.endswith("1 of 1 done at scale=sweep\n")


def test_a_run_is_composed_as_the_configuration_composes_it():
    for step in chains.steps("no_shuffle"):
        words = ["scale=sweep", f"ablation={step.ablation}", "seed=3"]
        assert sweep.composed("sweep", Run(step, 3)) == config.check(step.notebook, words)


def test_several_runs_of_one_notebook_skip_what_is_finished(runs, monkeypatch, capsys):
    words = ["30_stage2", "scale=sweep", "ablation=none,no_shuffle", "seed=range(2)"]
    monkeypatch.setattr(sys, "argv", ["run", *words])
    went(runs, [("none", 0), ("no_shuffle", 0)])
    went(runs, [("none", 1)])
    capsys.readouterr()
    runs.started.clear()
    run.main()
    assert runs.started == ["30 no_shuffle s1"]
    said = capsys.readouterr().err.splitlines()
    assert said == ["1 of 4 runs are left", "[1/1] world-sweep-no_shuffle-s1; nothing left"]
    assert went(runs, [("no_shuffle", 1)]) == ["52 no_shuffle s1"]


def test_time_left_is_told_from_runs_of_the_same_kind(monkeypatch):
    now = iter([0.0, 100.0, 100.0, 400.0, 400.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    clock = progress.Clock()
    assert clock.left(["a"]) == "time left unknown"
    for kind in "ab":
        with clock.timing(kind):
            pass
    with pytest.raises(KeyError), clock.timing("a"):
        raise KeyError  # one that failed tells nothing
    assert clock.left(["a", "b", "b"]) == "about 11 min 40 s left"
    assert clock.left(["c"]) == "about 3 min 20 s left" and clock.left([]) == "nothing left"
