"""What runs read and write has one name each, and the headline table is what the runs said."""

import csv
import hashlib
import importlib.util
import json
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from vplib import config, environment, figures, paths, results

ROW = {
    "name": "motion_top1",
    "value": 0.38712345,
    "low": 1.379e-16,
    "high": 0.4,
    "unit": "fraction",
}


@pytest.fixture
def run(out):
    """`run("seed=1")` is the configuration of 40 at these choices, with its folder made."""
    return lambda words="": config.load("40_classification_localization", words)


def table(place, name="headline"):
    return list(csv.DictReader((place / "tables" / f"{name}.csv").open()))


def tables(out, folder="reports/tables"):
    return [(out / folder / f"{name}.csv").read_bytes() for name in ("headline", "seeds")]


def test_folders_are_named_as_the_configuration_composes_them(run, out):
    cfg = run("seed=3 ablation=no_shuffle")
    assert cfg.tag == paths.tag("world", "lesson", "no_shuffle", 3)
    first = results.run(cfg, "20_stage1")
    assert first == out / "runs/20_stage1/world-lesson-none-s3"
    assert config.load("20_stage1", "seed=3").out == str(first)
    assert results.weights(cfg, "30_stage2", ablation=cfg.ablation) == (
        out / "runs/30_stage2/world-lesson-no_shuffle-s3/weights.npz"
    )


def test_given_weights_and_vocabularies_come_first(run, out):
    given = run("weights=runs/mine/weights.npz data.tokenizer=data/c4.model tag=mine")
    assert results.weights(given, "30_stage2") == out / "runs/mine/weights.npz"
    assert results.vocabulary(given) == paths.ROOT / "data/c4.model"
    (out / "exported").mkdir()
    folder = run("weights=exported tag=exported")
    assert results.weights(folder, "30_stage2") == out / "exported"
    released = run("weights=google/videoprism-base-f16r288 tag=released")
    assert results.weights(released, "30_stage2") == "google/videoprism-base-f16r288"
    assert results.vocabulary(released) == out / "data/shards/world-lesson/tokenizer.model"


OTHERS = ["ablation=no_shuffle", "tag=mine", "scale=smoke", "seed=1 probe.epochs=2"]


@pytest.mark.parametrize("words", OTHERS)
def test_what_is_no_repeat_of_the_reference_runs_stays_out_of_reports(run, out, words):
    results.record(run(), [ROW])
    committed = tables(out)
    cfg = run(words)
    results.record(cfg, [ROW | {"name": "other"}])
    results.build("world")
    assert tables(out) == committed
    assert [row["name"] for row in table(results.reports(cfg))] == ["other"]
    assert [row["name"] for row in table(results.reports(cfg), "seeds")] == ["other"]
    assert [*results.rows(cfg)] == ["other"]


def test_an_ablation_without_its_reference_is_no_record(run, out):
    results.record(run("ablation=no_shuffle"), [ROW])
    results.build("world")
    assert table(out / "reports") == table(out / "reports", "seeds") == []


def test_runs_of_a_sweep_have_a_table_of_their_own(out):
    for name in ("20_stage1", "49_baselines"):
        results.record(config.load(name, "scale=sweep"), [ROW | {"name": name}])
    results.build("world")
    assert [row["name"] for row in table(out / "reports", "seeds")] == ["49_baselines"]
    cfg = config.load("20_stage1", "scale=sweep")
    assert results.reports(cfg) == out / "runs/20_stage1/world-sweep-none-s0/reports"
    results.record(config.load("20_stage1", ""), [ROW | {"name": "other scale"}])
    assert len(table(out / "reports", "seeds")) == 2


def test_another_seed_changes_its_rows_and_the_mean_and_nothing_else(run, out):
    results.record(run(), [ROW | {"value": 0.2}, ROW | {"name": "only", "value": 0.7}])
    before, figure = table(out / "reports", "seeds"), results.reports(run("seed=1"))
    results.record(run("seed=1"), [ROW | {"value": 0.4}])
    seeds = table(out / "reports", "seeds")
    assert [(r["name"], r["seed"], r["value"]) for r in seeds] == [
        ("motion_top1", "0", "0.2"),
        ("motion_top1", "1", "0.4"),
        ("only", "0", "0.7"),
    ]
    assert [row for row in seeds if row["seed"] == "0"] == before
    assert not (figure / "tables").exists() and figure != out / "reports"
    motion, only = table(out / "reports")
    half = 12.7062 * 0.1  # t of one degree of freedom, times the standard error
    assert [motion[k] for k in ("value", "seeds", "interval")] == [
        "0.3",
        "2",
        "training seeds (t, n=2)",
    ]
    assert float(motion["low"]) == pytest.approx(0.3 - half, rel=1e-3)
    assert float(motion["high"]) == pytest.approx(0.3 + half, rel=1e-3)
    assert motion["command"].endswith("40_classification_localization seed=0,1")
    assert (only["seeds"], only["interval"]) == ("1", "clips and probe seeds (bootstrap)")
    assert results.rows(run("seed=1"))["motion_top1"]["value"] == 0.4
    assert results.rows(run())["motion_top1"]["value"] == 0.2
    assert float(results.rows(run())["motion_top1"]["high"]) == 0.4


def test_seeds_that_say_the_same_have_no_interval(run, out):
    for seed in range(5):
        words = f"seed={seed} data.memory=1e9" if seed == 4 else f"seed={seed}"  # speed only
        chance = {"name": "chance", "value": 1 / 9, "unit": "fraction"}
        results.record(run(words), [chance, chance | {"name": "loss", "value": 1.0 + seed}])
    chance, loss = table(out / "reports")
    assert (chance["value"], chance["seeds"], chance["low"], chance["interval"]) == (
        "0.1111",
        "5",
        "",
        "",
    )
    assert (loss["value"], loss["seeds"], loss["interval"]) == ("3", "5", "training seeds (t, n=5)")


def test_the_order_of_runs_changes_no_byte(run, out):
    def made(order):
        for seed in order:
            results.record(run(f"seed={seed}"), [ROW | {"value": 0.1 * seed}])
        return tables(out)

    assert made([0, 1, 2]) == made([2, 0, 1])


def test_times_are_those_of_seed_0_with_their_machine(run, out, monkeypatch):
    monkeypatch.setattr(
        environment, "machine", lambda: {"processor": "Abacus 3", "threads": "2", "jax": "1"}
    )
    for words in ("", "seed=1"):
        results.record(run(words), [{"name": "wait", "value": 2, "unit": "seconds"}], timing=True)
    (row,) = table(out / "reports")
    assert (row["machine"], row["seeds"], row["interval"]) == ("Abacus 3, 2 threads", "", "")
    assert table(out / "reports", "seeds") == []
    kept = out / "runs/40_classification_localization/world-lesson-none-s0/machine.json"
    assert json.loads(kept.read_text())["jax"] == "1"


def test_what_is_shown_says_which_interval_it_is(run, capsys):
    results.record(run(), [ROW])
    results.record(run(), [{"name": "wait", "value": 2, "unit": "seconds"}], timing=True)
    results.show()
    said = capsys.readouterr().out
    assert "fraction; clips and probe seeds (bootstrap)\n" in said and "88%" in said
    assert f"seconds; {environment.machine()['processor']}" in said
    assert "training seeds are means" not in said
    results.record(run("seed=1"), [ROW | {"value": 0.5}])
    results.show()
    said = capsys.readouterr().out
    assert "training seeds (t, n=2)\n" in said and "say nothing of other clips" in said
    assert "88%" not in said


def test_numbers_of_every_seed_are_committed_and_no_weights():
    place = "runs/20_stage1/world-lesson-none-s3"
    files = ["config.yaml", "metrics.json", "machine.json", "code.json", "timings.json"]
    files += ["weights.npz", "notebook.ipynb", "state/1"]
    found = subprocess.run(
        ["git", "check-ignore", *(f"{place}/{file}" for file in files)],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert found == [f"{place}/{file}" for file in files[-3:]]


def test_stage_1_of_a_sweep_is_kept_where_its_stage_2_looks_for_it():
    """In half precision, small enough for git, so that a clone goes on from there."""
    names = ("none-s4", "plain_mixing-s0")
    files = [f"runs/20_stage1/world-sweep-{name}/weights.npz" for name in names]
    files += ["runs/30_stage2/world-sweep-none-s0/weights.npz"]
    found = subprocess.run(
        ["git", "check-ignore", *files], cwd=paths.ROOT, capture_output=True, text=True
    ).stdout.split()
    assert found == files[1:]
    assert config.check("20_stage1", "scale=sweep").stage1.half


def test_the_committed_tables_are_what_the_committed_runs_said(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "RUNS", paths.ROOT / "runs")
    monkeypatch.setattr(paths, "REPORTS", tmp_path)
    results.build("world")
    assert tables(tmp_path, "tables") == tables(paths.ROOT)


def test_the_table_is_what_reference_runs_said_sorted_with_their_commands(run, out):
    for words in ("scale=study", ""):
        results.record(run(words), [ROW, ROW | {"name": "a_chance", "low": None, "high": None}])
    results.record(run(), [{"name": "wait", "value": 2, "unit": "seconds"}], timing=True)
    rows = table(out / "reports")
    names = [("a_chance", "lesson"), ("a_chance", "study"), ("motion_top1", "lesson")]
    names += [("motion_top1", "study"), ("wait", "lesson")]
    assert [(row["name"], row["scale"]) for row in rows] == names
    assert rows[2] == {
        "name": "motion_top1",
        "scale": "lesson",
        "value": "0.3871",
        "low": "0",  # not 1.379e-16
        "high": "0.4",
        "unit": "fraction",
        "interval": "clips and probe seeds (bootstrap)",
        "seeds": "1",
        "machine": "",
        "weights": "",
        "command": "python -m vplib.run 40_classification_localization",
    }
    assert rows[0]["low"] == "" and rows[1]["command"].endswith("localization scale=study")


def test_what_a_run_no_longer_says_is_gone_and_equal_rows_are_equal_bytes(run, out):
    cfg = run()
    results.record(cfg, [ROW | {"name": name} for name in ("b", "a")])
    first = (out / "reports/tables/headline.csv").read_bytes()
    results.record(cfg, [ROW | {"name": name} for name in ("a", "b")])
    assert (out / "reports/tables/headline.csv").read_bytes() == first
    results.record(cfg, [ROW | {"name": "a"}])
    assert [row["name"] for row in table(out / "reports")] == ["a"]


def test_numbers_of_a_run_are_what_dvc_reads(run):
    cfg = run()
    results.record(cfg, [ROW])
    content = json.loads((paths.OUT / "runs" / cfg.name / cfg.tag / "metrics.json").read_text())
    assert content["rows"]["motion_top1"]["value"] == pytest.approx(0.387123)


def test_figures_carry_source_and_scale(run, out, monkeypatch):
    saved = []
    monkeypatch.setattr(
        figures, "save", lambda fig, name, **rest: saved.append((name, rest["place"]))
    )
    results.save(run(), plt.figure(), "probes", data=pd.DataFrame())
    results.save(run("seed=1"), plt.figure(), "probes", data=pd.DataFrame())
    results.record(run(), [ROW])  # a seed that is recorded is no reference, either
    assert results.is_recorded(run("seed=1")) and not results.is_reference(run("seed=1"))
    name = "40_classification_localization-probes_world_lesson"
    own = out / "runs/40_classification_localization/world-lesson-none-s1/reports"
    assert saved == [(name, out / "reports"), (name, own)]


def test_other_sources_have_a_table_of_their_own():
    assert results.table("world") == "headline" and results.table("UCF-101") == "headline_UCF-101"
    assert results.table("UCF-101", "seeds") == "seeds_UCF-101"
    cfg = {"name": "45_own_classifier", "source": "folder", "scale": "lesson", "seed": 0}
    assert results.is_reference(OmegaConf.create(cfg | {"tag": "folder-lesson-none-s0"}))


def test_a_benchmark_records_its_rows_beside_those_of_runs(run, out, monkeypatch):
    monkeypatch.setattr(environment, "restart", lambda: None)
    spec = importlib.util.spec_from_file_location("cost", paths.ROOT / "benchmarks/visible_cost.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    times = np.array([1.0, 2.0, 4.0])
    monkeypatch.setattr(benchmark, "measure", lambda *_, **__: (2 * times, times, 0.35))
    monkeypatch.setattr(sys, "argv", ["visible_cost.py", "--record"])
    results.record(run(), [ROW])
    benchmark.main()
    names = ["motion_top1", "visible_cost_ratio", "visible_cost_ratio_base_tokens"]
    assert [row["name"] for row in table(out / "reports")] == names
    row = table(out / "reports")[1]
    assert (row["value"], row["interval"]) == ("0.5", "repeated timings")


def test_rows_say_which_weights_they_are_of(run, out, tmp_path):
    def weights(seed):
        file = tmp_path / f"{seed}.npz"
        file.write_bytes(b"weights %d" % seed)
        return file

    for seed in (0, 1):
        results.record(run(f"seed={seed}"), [ROW], weights=weights(seed))
    digests = [hashlib.sha256(b"weights %d" % seed).hexdigest() for seed in (0, 1)]
    assert [row["weights"] for row in results.read("seeds")] == digests
    assert results.read()[0]["weights"] == " ".join(digest[:12] for digest in digests)
    results.record(run(), [ROW], weights="google/videoprism-base-f16r288")
    assert results.read("seeds")[0]["weights"] == "google/videoprism-base-f16r288"
