"""The scaling study: what grows along an axis, what it costs, and fits whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from vplib import chains, comparisons, config, paths, scaling, sweep
from vplib.chains import Step
from vplib.sweep import Run

WHAT = {"motion": "motion"}


def chain(ablation: str):
    return sweep.composed("sweep", Run(Step(chains.STAGE2, ablation), 0))


def scored(gain: float, seeds: int = 2) -> pd.DataFrame:
    """Rows of a sweep: stage 1 at 0.2 whatever its size, stage 2 better by `gain` a doubling."""
    rows = []
    for axis, ablations in scaling.AXES.items():
        first = scaling.amount("sweep", axis, ablations[0])
        for name in ablations if axis == "size" else set(ablations[:1]) - {"none"}:
            more = np.log2(scaling.amount("sweep", axis, name) / first)
            for seed in range(seeds):
                for encoder, value in (("stage1", 0.2), ("final", 0.5 + gain * more + seed / 100)):
                    told = {"ablation": name, "seed": seed, "encoder": encoder, "task": "motion"}
                    rows.append(told | {"metric": "top1", "value": value})
    return pd.DataFrame(rows, columns=sweep.COLUMNS)


@pytest.mark.parametrize("axis", scaling.AXES)
def test_one_thing_grows_along_an_axis_and_the_rest_stays(axis):
    names = scaling.AXES[axis]
    amounts = [scaling.amount("sweep", axis, name) for name in names]
    assert amounts == sorted(amounts) and len({*amounts}) == len(names) and "none" in names
    assert {*names} <= {*sweep.SWEPT}
    plain = chain("none")
    for name in set(names) - {"none"}:
        cfg = chain(name)
        same = {"size": ("data", "stage2", "optim"), "data": ("model", "stage2", "optim")}
        for section in same.get(axis, ("model", "data", "optim")):
            assert cfg[section] == plain[section]
        if axis == "data":
            assert cfg.data.corpora == plain.data.corpora and cfg.data.shards != plain.data.shards
            assert cfg.data.images / cfg.data.clips == plain.data.images / plain.data.clips
        if axis == "size":
            assert cfg.model.decoder == plain.model.decoder


@pytest.mark.parametrize(("name", "times"), [("steps_double", 2), ("steps_triple", 3)])
def test_more_steps_are_more_of_both_stages_and_nothing_else(name, times):
    for stage, section in zip(chains.NOTEBOOKS[:2], ("stage1", "stage2"), strict=True):
        plain, cfg = (
            config.check(stage, f"scale=sweep ablation={a}")[section] for a in ("none", name)
        )
        assert {key for key in plain if plain[key] != cfg[key]} == {"times"}
        assert cfg.times == times * plain.times


def test_a_sample_costs_its_part_of_all():
    for step in chains.trainings("none"):
        known = scaling.cost("sweep", step)
        assert known.sample * known.samples * known.steps == pytest.approx(known.all)
    stage1 = config.check(chains.STAGE1, "scale=sweep").stage1
    half = (stage1.batch + stage1.image_batch) / 2  # images are half of the batches
    assert scaling.cost("sweep", Step(chains.STAGE1, "none")).samples == half
    double = scaling.cost("sweep", Step(chains.STAGE2, "steps_double"))
    single = scaling.cost("sweep", Step(chains.STAGE2, "none"))
    assert double.all == pytest.approx(2 * single.all) and double.sample == single.sample


def test_a_line_is_found_whatever_the_level_of_a_seed():
    amounts = np.array([1.0, 2.0, 8.0] * 2)
    seeds = np.repeat([3, 7], 3)
    found = scaling.slope(amounts, 5 * np.log2(amounts) + 40 * seeds, seeds)
    assert found.value == pytest.approx(5) and found.low == pytest.approx(5, abs=1e-6)
    assert (found.points, found.seeds) == (6, 2)
    uneven = scaling.slope(amounts[:5], (5 * np.log2(amounts) + 40 * seeds)[:5], seeds[:5])
    assert uneven.value == pytest.approx(5)
    assert scaling.slope(np.ones(6), np.arange(6.0), seeds) is None  # nothing grows
    assert scaling.slope(amounts[:2], amounts[:2], seeds[:2]) is None  # a line through two points


def test_the_interval_of_a_slope_holds_the_truth_in_95_of_100_cases():
    rng, held = np.random.default_rng(0), 0
    amounts, seeds = np.array([1.0, 4.0, 16.0] * 2), np.repeat([0, 1], 3)
    for _ in range(4000):
        levels = 10 * rng.normal(size=2)
        found = scaling.slope(
            amounts, 2 * np.log2(amounts) + levels[seeds] + rng.normal(size=6), seeds
        )
        held += found.low < 2 < found.high
    assert held / 4000 == pytest.approx(0.95, abs=0.012)


def test_points_and_slopes_of_both_stages_and_of_what_stage_2_adds():
    found = scaling.points(scored(0.04), "sweep", WHAT)
    size = found[found["axis"] == "size"]
    assert len(size) == 3 * 2 * 2 and [*size["ablation"].unique()] == ["size_32", "none", "size_96"]
    spent = size.groupby("stage")["operations"].max()
    assert spent["stage 2"] > spent["stage 1"]
    none = size.query("ablation == 'none' and stage == 'stage 2'")["operations"].iloc[0]
    whole = [scaling.cost("sweep", step).all for step in chains.trainings("none")]
    assert none == pytest.approx(sum(whole))
    fits = scaling.slopes(found).set_index(["axis", "what"])["value"]
    assert fits["size"].to_dict() == pytest.approx(
        {"stage 1": 0, "stage 2": 4, "stage 2 - stage 1": 4}, abs=1e-6
    )
    assert scaling.slopes(found[found["ablation"] == "none"]).empty  # one amount of each alone
    nothing = scaling.points(pd.DataFrame(columns=sweep.COLUMNS), "sweep", WHAT)
    assert nothing.empty and scaling.slopes(nothing).empty
    assert comparisons.each(scored(0.04), "motion", "size_32").tolist() == pytest.approx([50, 51])


def test_speeds_are_of_the_trainings_that_left_them(out):
    for seed, rates in ((0, [1.0, 8.0, 10.0, 9.0]), (1, [20.0])):
        place = out / f"runs/30_stage2/world-sweep-size_32-s{seed}"
        place.mkdir(parents=True)
        rows = [f"{n},0,{rate}" for n, rate in enumerate(rates)]
        (place / "speed.csv").write_text(
            "\n".join(["step,input_wait_fraction,steps_per_second", *rows])
        )
    found = scaling.speeds("sweep")
    batch = chain("size_32").stage2.batch
    assert found["seconds"].tolist() == pytest.approx([1 / 9 / batch, 1 / 20 / batch])
    assert found["seed"].tolist() == [0, 1] and {*found["ablation"]} == {"size_32"}
    assert (
        found["operations"].iloc[0] == scaling.cost("sweep", Step(chains.STAGE2, "size_32")).sample
    )


def test_the_study_is_a_part_of_the_sweep_that_comes_last():
    own = {name for names in scaling.AXES.values() for name in names} - {"none"}
    assert {*sweep.SWEPT[-len(own) :]} == own
    assert (paths.NOTEBOOKS / "51_scaling.ipynb").is_file()
