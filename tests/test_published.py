"""The published numbers recompute from each other, and ours stand beside them as what they are."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from vplib import figures, paths, published


@pytest.fixture
def reports(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "REPORTS", tmp_path)
    (tmp_path / "tables").mkdir()
    return tmp_path


def test_deltas_equal_figure_2():
    ours = published.deltas(published.numbers())
    both = ours.merge(published.numbers("F2"), on=["benchmark", "task"], suffixes=("", "_printed"))
    assert len(ours) == len(both) == 33
    np.testing.assert_allclose(both["delta"], both["value_printed"], atol=1e-9)
    assert (both["delta"] > 0).sum() == 31


def test_deltas_leave_out_gray_rows_and_domain_experts():
    ours = published.deltas(published.numbers())
    assert not ours["label_best"].str.contains("IMP-MoE|mPLUG|ImageBind|expert").any()


def test_video_glue_score_equals_table_17():
    """Within rounding for all models but CLIP, whose printed end-to-end average is another."""
    ours = published.video_glue_scores(published.numbers()).set_index("model")["vgs"]
    printed = published.numbers("T17").query("metric == 'VGS'").set_index("model")["value"]
    off = (ours[printed.index] - printed).abs()
    assert off.drop("CLIP").max() < 0.06
    assert off["CLIP"] == pytest.approx(0.2, abs=0.05)
    derived = published.numbers("T17-derived").set_index("model")["value"]
    assert ours["VideoPrism"] == pytest.approx(derived["VideoPrism"], abs=0.05)


def test_unknown_stays_empty():
    """The bars of Figure 6 were never published as numbers: NaN when read, "n/a" when drawn."""
    frame = published.numbers("F6")
    assert (
        frame["value"].isna().sum()
        == (frame["note"].str.contains("not available as numbers")).sum()
        == 21
    )
    table = pd.DataFrame({"CLIP-B": [np.nan, 1.0], "VideoPrism-B": [2.0, 3.0]}, index=["a", "b"])
    fig, ax = plt.subplots()
    published.bars(ax, table, gain=table.iloc[:, 1] - table.iloc[:, 0])
    assert [text.get_text() for text in ax.texts] == ["n/a", "+2.0"]
    plt.close(fig)


def test_published_names_an_unknown_table():
    with pytest.raises(ValueError, match="'T99'"):
        published.numbers("T99")


HEADLINE = """name,scale,value,low,high,unit,interval,seeds,machine,weights,command
b,lesson,2,1.5,3,points,clips (bootstrap),1,,,run
a,lesson,0.25,0.2,0.3,fraction,"training seeds (t, n=3)",3,,,run
a,smoke,0,,,fraction,,1,,,run
a,my-own,7,,,fraction,,1,,,run
c,study,9,,,fraction,,1,,,run
time,lesson,9,,,minutes,,,Abacus,,run
"""
SEEDS = """name,scale,seed,value,low,high,unit,weights,command
a,lesson,0,0.24,,,fraction,,run
a,lesson,1,0.26,,,fraction,,run
a,lesson,2,0.25,,,fraction,,run
a,smoke,0,0,,,fraction,,run
b,lesson,0,2,,,points,,run
c,study,0,9,,,fraction,,run
"""


@pytest.fixture
def tables(reports):
    (reports / "tables" / "headline.csv").write_text(HEADLINE)
    (reports / "tables" / "seeds.csv").write_text(SEEDS)
    return reports / "tables"


def test_headline_takes_the_largest_scale_and_every_seed(tables):
    frame = published.headline(["a", "b"])
    assert frame[["name", "value"]].to_numpy().tolist() == [["a", 0.25], ["b", 2]]
    assert frame["low"].tolist() == [0.2, 1.5] and frame["interval"][0].startswith("training")
    assert frame["each"].tolist() == [[0.24, 0.26, 0.25], [2]]
    assert published.headline(["b", "a"])["name"].tolist() == ["b", "a"]
    assert published.headline(["time"])["each"].tolist() == [[]]


def test_no_table_is_no_row_and_another_table_names_the_remedy(reports, tables):
    (tables / "headline.csv").write_text("name,value\na,1\n")
    with pytest.raises(ValueError, match="headline.csv has the columns .*reproduce tables$"):
        published.headline(["a"])
    (tables / "headline.csv").unlink()
    assert published.headline(["a"]).empty


def test_a_mean_without_its_seeds_is_named(tables):
    (tables / "seeds.csv").write_text(SEEDS.replace("a,lesson,1,0.26,,,fraction,,run\n", ""))
    with pytest.raises(ValueError, match="has 2 seeds of a at lesson, its mean has 3"):
        published.headline(["a"])


def test_ours_is_drawn_in_per_cent_and_returned_as_it_was(tables):
    figures.style()
    _, (left, right) = plt.subplots(1, 2)
    rows = published.ours(left, {"a": "A", "b": "B"}, ylabel="top-1 (%)")
    assert [bar.get_height() for bar in left.patches] == [25, 2]
    assert {matplotlib.colors.to_hex(bar.get_facecolor()) for bar in left.patches} == {figures.OURS}
    assert [label.get_text() for label in left.get_xticklabels()] == ["A", "B"]
    _, points = left.collections  # the intervals, then the seeds of the one mean
    assert points.get_offsets()[:, 1].tolist() == [24, 26, 25]
    title = left.get_title("left").splitlines()
    assert title[0] == "ours, scale=lesson" and left.get_ylabel() == "top-1 (%)"
    assert title[2:] == [
        "95%: training seeds (t, n=3)",
        "95%: clips (bootstrap)",
        "points: training seeds",
    ]
    assert rows[["benchmark", "value", "size", "each"]].to_numpy().tolist() == [
        ["a", 0.25, "lesson", "0.24 0.26 0.25"],
        ["b", 2, "lesson", "2"],
    ]
    assert rows["interval"].tolist() == ["training seeds (t, n=3)", "clips (bootstrap)"]
    assert published.ours(right, {"nothing": "N"}, ylabel="").empty
    assert [text.get_text() for text in right.texts] == ["ours: not yet run"]
    plt.close("all")


def test_deviations_name_what_a_run_has_otherwise_than_the_paper():
    second = {
        "optim": {"optimiser": "adafactor"},
        "model": {"decoder": {"layers": 4}},
        "stage2": {
            "mask": "bevt",
            "steps": 1000,
            "shuffle_warmup": 0,
            "local_loss": True,
            "global_loss": True,
            "shuffle_tokens": True,
            "masked_only": False,
            "normalise_targets": False,
        },
    }
    first = {"weights": "coca.npz", "model": {"temporal_layers": 4}}
    assert published.deviations(first, second, images=0) == []
    small = {"weights": None, "model": {"temporal_layers": 2}}
    second["stage2"] |= {"shuffle_warmup": 250, "normalise_targets": True, "global_loss": False}
    second["model"]["decoder"]["layers"] = 1
    said = published.deviations(small, second | {"optim": {"optimiser": "adamw"}}, images=0.5)
    assert len(said) == 8 and "images in 50% of stage 1's batches (paper: unknown)" in said
    assert "shuffling warmed up over 250 of 1,000 steps (paper: all from the start)" in said
