"""What runs read and write has one name each, and the headline table is what the runs said."""

import csv
import importlib.util
import json
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
    released = run("weights=google/videoprism-base-f16r288 tag=released")
    assert results.weights(released, "30_stage2") == "google/videoprism-base-f16r288"
    assert results.vocabulary(released) == out / "data/shards/world-lesson/tokenizer.model"


@pytest.mark.parametrize("words", ["seed=1", "ablation=no_shuffle", "tag=mine", "scale=smoke"])
def test_only_reference_runs_write_to_reports(run, out, words):
    results.record(run(), [ROW])
    committed = (out / "reports/tables/headline.csv").read_bytes()
    cfg = run(words)
    results.record(cfg, [ROW | {"name": "other"}])
    assert (out / "reports/tables/headline.csv").read_bytes() == committed
    assert [row["name"] for row in table(results.reports(cfg))] == ["other"]
    assert [*results.rows(cfg)] == ["other"]


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
        "command": "python -m vplib.run 40_classification_localization",
    }
    assert rows[0]["low"] == "" and rows[1]["command"].endswith("localization scale=study")
    assert results.timed() == {"wait"}


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
    name = "40_classification_localization-probes_world_lesson"
    own = out / "runs/40_classification_localization/world-lesson-none-s1/reports"
    assert saved == [(name, out / "reports"), (name, own)]


def test_other_sources_have_a_table_of_their_own():
    assert results.table("world") == "headline" and results.table("UCF-101") == "headline_UCF-101"
    cfg = OmegaConf.create({"source": "folder", "scale": "lesson", "tag": "folder-lesson-none-s0"})
    assert results.is_reference(cfg)


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
    assert table(out / "reports")[1]["value"] == "0.5"
