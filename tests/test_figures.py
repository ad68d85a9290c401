"""Figures are byte-stable, and the published numbers recompute from each other."""

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
    return tmp_path


def draw():
    figures.style()
    fig, ax = plt.subplots(figsize=(figures.COLUMN, 2))
    figures.seeds(ax, 0.0, [1.0, 2.0, 4.0])
    ax.set(xlabel="epoch", ylabel="top-1 (%)")
    return fig


def test_save_is_byte_stable(reports):
    data = pd.DataFrame({"clips": [36100000.0], "delta": [62.3 - 39.9], "unknown": [np.nan]})
    written = []
    for _ in range(2):
        fig = draw()
        figures.save(fig, "60_paper_figures-test", data=data)
        plt.close(fig)
        written.append({file.name: file.read_bytes() for file in reports.rglob("*.*")})
    assert written[0] == written[1]
    assert sorted(written[0]) == [f"60_paper_figures-test.{kind}" for kind in ("csv", "pdf", "png")]
    assert written[0]["60_paper_figures-test.csv"] == b"clips,delta,unknown\n36100000,22.4,\n"
    assert b"Date" not in written[0]["60_paper_figures-test.pdf"]


def test_save_refuses_a_name_without_origin(reports):
    with pytest.raises(ValueError, match="NN_notebook-slug"):
        figures.save(draw(), "retrieval", data=pd.DataFrame())
    assert not list(reports.iterdir())


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
    """Within rounding for all models but CLIP, whose printed end-to-end average contradicts its own row."""
    ours = published.video_glue_scores(published.numbers()).set_index("model")["vgs"]
    printed = published.numbers("T17").query("metric == 'VGS'").set_index("model")["value"]
    off = (ours[printed.index] - printed).abs()
    assert off.drop("CLIP").max() < 0.06
    assert off["CLIP"] == pytest.approx(0.2, abs=0.05)
    derived = published.numbers("T17-derived").set_index("model")["value"]
    assert ours["VideoPrism"] == pytest.approx(derived["VideoPrism"], abs=0.05)


def test_unknown_stays_empty():
    """The bars of Figure 6 were never published as numbers: NaN when read, "n/a" when drawn, empty when written."""
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


def test_headline_takes_the_largest_scale(reports):
    assert published.headline(["motion"]).empty
    (reports / "tables").mkdir()
    file = reports / "tables" / "headline.csv"
    file.write_text(
        "name,scale,value,low,high,unit,command\nb,lesson,2,,,fraction,run\na,lesson,1,,,fraction,run\n"
        "a,smoke,0,,,fraction,run\nc,study,9,,,fraction,run\n"
    )
    assert published.headline(["a", "b"])[["name", "value"]].to_numpy().tolist() == [
        ["a", 1],
        ["b", 2],
    ]
    file.write_text("name,value\na,1\n")
    with pytest.raises(ValueError, match="headline.csv"):
        published.headline(["a"])


def test_similarity_bars_mark_the_best_query():
    frames = np.zeros((4, 16, 24, 3), np.uint8)
    fig = figures.similarity_bars(
        frames, ["a red star", "a blue ring", "rain"], np.array([0.1, 0.4, -0.2])
    )
    bars = fig.axes[1].patches
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in bars]
    assert colours == [figures.LIGHT_BLUE, figures.BLUE, figures.LIGHT_BLUE]
    plt.close(fig)


def test_token_colours_tell_unlike_tokens_apart_and_keep_their_places():
    rng = np.random.default_rng(0)
    tokens = 0.01 * rng.normal(size=(3, 16, 8)) + 5
    tokens[1, 6] += 4 * np.eye(8)[2]  # one patch of the second frame
    colours, share = figures.token_colours(tokens)
    assert colours.shape == (3, 4, 4, 3) and colours.dtype == np.uint8 and 0.9 < share <= 1
    assert (colours[..., 0] == 255).sum() == 1 and colours[1, 1, 2, 0] == 255
    assert (figures.token_colours(tokens)[0] == colours).all()


def test_the_timeline_has_a_line_for_every_text_best_first():
    fig, ax = plt.subplots()
    figures.timeline(
        ax, np.arange(4.0), np.tile([0.1, 0.5, -0.2, 0.0, 0.3, 0.2], (4, 1)), list("abcdef")
    )
    assert [line.get_label() for line in ax.lines] == ["b", "e", "f", "a", "d", "c"]
    assert ax.lines[0].get_color() == figures.BLUE and ax.lines[0].get_ydata().tolist() == [0.5] * 4
    plt.close(fig)


def test_confusion_is_in_per_cent_of_the_true_class():
    fig, ax = plt.subplots()
    share = figures.confusion(ax, np.array([[3, 1], [0, 0]]), ["is_red", "blue"])
    assert share.tolist() == [[75, 25], [0, 0]] and [text.get_text() for text in ax.texts] == [
        "75",
        "25",
    ]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["is red", "blue"]
    plt.close(fig)
