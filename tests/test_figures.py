"""Figures are byte-stable, say what the data say, and draw the words of other people's data."""

import ast
import json
import subprocess
import sys
import warnings

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.colors import to_hex
from matplotlib.text import Text

from vplib import figures, files, lessons, paths

EMPTY = pd.DataFrame()
MATHEMATICS = ("Ba$$in", "it's $5, not $6", "$x_{1}$ cost", r"a \frac in $x^{$", r"$\alpha$ 100%")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def reports(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "REPORTS", tmp_path)
    return tmp_path


@pytest.fixture
def fonts(monkeypatch):
    """Only Matplotlib's own fonts; the function adds one that has nothing but the given letters."""
    manager = font_manager.fontManager
    own = matplotlib.get_data_path()
    only = [font for font in manager.ttflist if font.fname.startswith(own)]
    monkeypatch.setattr(manager, "ttflist", only)
    monkeypatch.setattr(figures, "_told", set())

    def add(path, family, letters):
        square = TTGlyphPen(None)
        for k, point in enumerate([(0, 0), (0, 800), (800, 800), (800, 0)]):
            (square.lineTo if k else square.moveTo)(point)
        square.closePath()
        builder = FontBuilder(1000)
        builder.setupGlyphOrder([".notdef", "square"])
        builder.setupCharacterMap({ord(letter): "square" for letter in letters})
        builder.setupGlyf({name: square.glyph() for name in (".notdef", "square")})
        builder.setupHorizontalMetrics({name: (900, 0) for name in (".notdef", "square")})
        builder.setupHorizontalHeader(ascent=800, descent=-200)
        builder.setupNameTable({"familyName": family, "styleName": "Regular"})
        builder.setupOS2()
        builder.setupPost()
        builder.save(path)
        manager.addfont(str(path))
        figures._families.cache_clear()

    yield add
    figures._families.cache_clear()
    figures._letters.cache_clear()


def draw(title=""):
    figures.style()
    fig, ax = plt.subplots(figsize=(figures.COLUMN, 2))
    figures.seeds(ax, 0.0, [1.0, 2.0, 4.0])
    ax.set(xlabel="epoch", ylabel="top-1 (%)", title=title)
    return fig


def content(folder):
    return {file.name: file.read_bytes() for file in folder.rglob("*.*")}


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_save_is_byte_stable(reports):
    data = pd.DataFrame({"clips": [36100000.0], "delta": [62.3 - 39.9], "unknown": [np.nan]})
    written = []
    for _ in range(2):
        figures.save(draw(), "60_paper_figures-test", data=data)
        written.append(content(reports))
    assert written[0] == written[1]
    assert sorted(written[0]) == [f"60_paper_figures-test.{kind}" for kind in ("csv", "pdf", "png")]
    assert written[0]["60_paper_figures-test.csv"] == b"clips,delta,unknown\n36100000,22.4,\n"
    assert b"Date" not in written[0]["60_paper_figures-test.pdf"]
    assert b"Software" not in written[0]["60_paper_figures-test.png"]


@pytest.mark.parametrize("name", ["retrieval", "60_paper_figures-", "60_paper_figures-a/b"])
def test_save_refuses_a_name_without_origin(reports, name):
    with pytest.raises(ValueError, match="NN_notebook-slug"):
        figures.save(draw(), name, data=EMPTY)
    assert not list(reports.iterdir())


@pytest.mark.parametrize("source", ["UCF-101", "my_Set2", "v1.5"])
def test_save_takes_the_names_that_data_have(reports, source):
    figures.save(draw(), f"10_prepare_corpus-clips_{source}_smoke", data=EMPTY)
    assert f"10_prepare_corpus-clips_{source}_smoke.png" in content(reports)


def test_a_figure_that_cannot_be_written_leaves_nothing(reports):
    (reports / "tables").write_text("a file where a folder must be")
    with pytest.raises(files.FileError, match="tables"):
        figures.save(draw(), "60_paper_figures-test", data=EMPTY)
    assert list(content(reports)) == []


def test_the_style_is_not_changed_behind_ones_back():
    """Neither by importing seaborn nor by drawing with it."""
    code = (
        "import matplotlib; before = dict(matplotlib.rcParams)\n"
        "import vplib.figures; assert before == dict(matplotlib.rcParams)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.ROOT)
    figures.style()
    before = dict(plt.rcParams)
    _, axes = plt.subplots(1, 4)
    figures.seeds(axes[0], 1.0, [1.0, 2.0])
    figures.histogram(axes[1], pd.Series(["a"]), pd.Series([1.0]), label="x", color=figures.BLUE)
    figures.intervals(axes[2], measured(), x="who", y="mean", low="low", high="high", seeds="each")
    figures.confusion(axes[3], np.array([[1]]), ["a"])
    assert dict(plt.rcParams) == before


def worded(words):
    """A figure that has `words` wherever a figure can have some."""
    fig, ax = plt.subplots()
    ax.plot([0, 1], label=words)
    ax.set(title=words, xlabel=words)
    ax.set_xticks([0], [words])
    ax.annotate(words, (0, 0))
    ax.legend(title=words)
    fig.suptitle(words)
    return fig


def shown(fig, words):
    return [text for text in fig.findobj(Text) if text.get_text() == words]


@pytest.mark.parametrize("words", MATHEMATICS)
@pytest.mark.parametrize("styled", [True, False])
def test_captions_are_never_mathematics(reports, words, styled):
    with plt.rc_context():
        figures.style() if styled else matplotlib.rcdefaults()
        fig = worded(words)
        if styled:
            fig.canvas.draw()  # as a notebook shows it
        figures.save(fig, "60_paper_figures-test", data=pd.DataFrame({words: [words]}))
        assert len(shown(fig, words)) == 8  # a tick has two labels
        assert not any(text.get_parse_math() for text in shown(fig, words))


def test_logarithmic_axes_keep_their_exponents(reports):
    figures.style()
    fig, ax = plt.subplots()
    ax.plot([1, 1000], [1, 2])
    ax.set(xscale="log", title="$5 or $6")
    figures.save(fig, "60_paper_figures-test", data=EMPTY)
    powers = [text for text in ax.get_xticklabels() if "10" in text.get_text()]
    assert powers and all(text.get_parse_math() for text in powers)
    assert not ax.title.get_parse_math() and not ax._left_title.get_parse_math()


def test_letters_that_no_font_has_are_said_once_and_without_noise(reports, fonts, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for words in ("你好", "好 \x1b[31m", "好", "two\nlines"):
            fig = worded(words)
            figures.save(fig, "60_paper_figures-test", data=EMPTY)
            assert len(shown(fig, words)) == 8
        figures.style()
        worded("你好").canvas.draw()  # as a notebook shows it
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and "\x1b" not in "".join(said)
    assert "has 你 好:" in said[0] and r"has \x1b 好:" in said[1]


def test_other_fonts_serve_only_the_texts_that_need_them(reports, fonts, tmp_path, capsys):
    figures.style()
    figures.save(draw("plain"), "60_paper_figures-plain", data=EMPTY)
    before = content(reports)
    fonts(tmp_path / "one.ttf", "Noto Sans Testing", "你")
    fonts(tmp_path / "two.ttf", "WenQuanYi Testing", "你好")
    fonts(tmp_path / "also.ttf", "WenQuanYi Also", "你")
    fonts(tmp_path / "not.ttf", "Handwriting", "你好猫")
    figures.save(draw("plain"), "60_paper_figures-plain", data=EMPTY)
    after = content(reports)
    assert all(after[name] == before[name] for name in before)
    fig = draw("你好, plain")
    figures.save(fig, "60_paper_figures-plain", data=EMPTY)
    (title,) = shown(fig, "你好, plain")
    assert title.get_fontfamily() == [figures.FONT, "Noto Sans Testing", "WenQuanYi Testing"]
    (label,) = shown(fig, "epoch")
    assert label.get_fontfamily() == [figures.FONT]
    assert capsys.readouterr().out == ""
    assert b"/Type3" in content(reports)["60_paper_figures-plain.pdf"]


@pytest.mark.parametrize(
    ("text", "width", "lines", "right"),
    [
        ("a\x1b[31mred\x1b[0m\nb\u2028\x07", 1000, 1, r"a\x1b[31mred\x1b[0m\nb\u2028\x07"),
        ("lone \ud800 surrogate", 1000, 1, r"lone \ud800 surrogate"),
        ("café – 猫 👨‍👩‍👧", 1000, 1, "café – 猫 👨‍👩‍👧"),
        ("one two three four", 8, 2, "one two\nthree …"),
        ("一二三四五六", 6, 2, "一二三\n四五六"),
        ("一二三四五六七", 8, 1, "…"),
        ("", 8, 1, ""),
    ],
)
def test_captions_are_one_line_of_plain_letters(text, width, lines, right):
    assert figures.plain(text, width, lines) == right


def test_histogram_says_every_share():
    _, ax = plt.subplots()
    bins, share = pd.Series(["$0", "1–2", "3+"]), pd.Series([12.34, 0.0, 87.66], index=[5, 6, 7])
    figures.histogram(ax, bins, share, label="words", color=figures.OURS)
    assert [bar.get_height() for bar in ax.patches] == [12.34, 0, 87.66]
    assert {to_hex(bar.get_facecolor()) for bar in ax.patches} == {figures.OURS}
    assert [text.get_text() for text in ax.texts] == ["12.3", "0.0", "87.7"]
    assert labels(ax.xaxis) == [*bins] and (ax.get_xlabel(), ax.get_ylabel()) == ("words", "")


def test_seeds_are_points_behind_their_mean():
    _, ax = plt.subplots()
    figures.seeds(ax, 3.0, [1.0, 2.0, 6.0])
    (points,), (mean,) = ax.collections, ax.lines
    assert points.get_offsets().tolist() == [[3, 1], [3, 2], [3, 6]]
    assert mean.get_xydata().tolist() == [[3, 3]] and mean.get_zorder() > points.get_zorder()


def measured():
    return pd.DataFrame(
        {
            "who": ["random\ninit", "$stage 1$", "not run"],
            "mean": [20.0, 50.0, np.nan],
            "low": [18.0, 50.0 + 1e-12, np.nan],  # a bound that rounding put on the wrong side
            "high": [23.0, 55.0, np.nan],
            "each": [[19.0, 21.0], [50.0], []],
        },
        index=[7, 3, 5],
    )


def test_intervals_are_drawn_as_given():
    _, ax = plt.subplots()
    colors = [figures.LIGHT, figures.BLUE, figures.OURS]
    figures.intervals(
        ax, measured(), x="who", y="mean", low="low", high="high", seeds="each", color=colors
    )
    bars = [bar for bar in ax.patches if np.isfinite(bar.get_height()) and bar.get_height()]
    assert [round(bar.get_x() + bar.get_width() / 2, 6) for bar in bars] == [0, 1]
    assert [bar.get_height() for bar in bars] == [20, 50]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == colors[:2]
    error, *points = ax.collections
    ends = [line[:, 1].tolist() for line in error.get_segments() if len(line)]
    assert ends == [[18, 23], [50, 55]]
    spots = [spot for point in points for spot in point.get_offsets().round().tolist()]
    assert spots == [[0, 19], [0, 21], [1, 50]]
    assert labels(ax.xaxis) == [*measured()["who"]]
    _, ax = plt.subplots()
    figures.intervals(ax, measured(), x="who", y="mean", low="low", high="high")
    assert len(ax.collections) == 1  # no points of seeds
    _, ax = plt.subplots()
    figures.intervals(ax, measured()[:0], x="who", y="mean", low="low", high="high")
    assert not ax.patches  # data without tasks


def test_similarity_bars_mark_the_best_texts():
    frames = np.zeros((4, 16, 24, 3), np.uint8)
    texts = ["a red star", "$5 or $6", "rain\x1b[0m " * 60, "snow"]
    fig = figures.similarity_bars(frames, texts, np.array([0.1, 0.4, -0.2, 0.4]))
    colours = [to_hex(bar.get_facecolor()) for bar in fig.axes[1].patches]
    assert colours == [figures.LIGHT_BLUE, figures.BLUE, figures.LIGHT_BLUE, figures.BLUE]
    words = labels(fig.axes[1].yaxis)
    assert words[:2] == texts[:2] and words[2].startswith(r"rain\x1b[0m rain")
    assert words[2].count("\n") == 3 and words[2].endswith("…")


def test_one_frame_and_one_text_are_a_picture_too(reports):
    figures.style()
    fig = figures.similarity_bars(np.zeros((1, 16, 24, 3), np.uint8), ["rain"], np.array([-0.1]))
    assert fig.get_figheight() < 3
    figures.save(fig, "44_public_weights-blue_bars", data=EMPTY)
    fig, ax = plt.subplots()
    figures.timeline(ax, np.array([0.0]), np.array([[0.3]]), ["rain"], whole=np.array([0.3]))
    figures.save(fig, "44_public_weights-frames", data=EMPTY)
    for places in (1, 4):
        colours, share = figures.token_colours(np.ones((1, places, 8)))
        assert colours.shape == (1, places**0.5, places**0.5, 3) and share == 0


def test_token_colours_tell_unlike_tokens_apart_and_keep_their_places():
    rng = np.random.default_rng(0)
    tokens = 0.01 * rng.normal(size=(3, 16, 8)) + 5
    tokens[1, 6] += 4 * np.eye(8)[2]  # one patch of the second frame
    colours, share = figures.token_colours(tokens)
    assert colours.shape == (3, 4, 4, 3) and colours.dtype == np.uint8 and 0.9 < share <= 1
    assert (colours[..., 0] == 255).sum() == 1 and colours[1, 1, 2, 0] == 255
    assert (figures.token_colours(tokens)[0] == colours).all()


def test_the_timeline_has_a_line_for_every_text_best_for_the_whole_clip_first():
    _, ax = plt.subplots()
    texts, by_frame = ["a", "b $x^{$", "c", "d", "e\n", "f"], np.tile([9, 0.5, 9, 9, 9, 9], (4, 1))
    whole = np.array([0.1, 0.5, -0.2, 0.0, 0.3, 0.2])
    figures.timeline(ax, np.arange(4.0), by_frame, texts, whole=whole)
    assert [line.get_label() for line in ax.lines] == ["b $x^{$", r"e\n", "f", "a", "d", "c"]
    assert ax.lines[0].get_color() == figures.BLUE and ax.lines[0].get_ydata().tolist() == [0.5] * 4


def test_confusion_is_in_per_cent_of_the_true_class():
    _, ax = plt.subplots()
    share = figures.confusion(ax, np.array([[3, 1], [0, 0]]), ["is_red", "$x_{1}$ cost"])
    assert share.tolist() == [[75, 25], [0, 0]]
    assert [text.get_text() for text in ax.texts] == ["75", "25"]
    assert [text.get_position() for text in ax.texts] == [(0.5, 0.5), (1.5, 0.5)]
    assert labels(ax.yaxis) == labels(ax.xaxis) == ["is red", "$x_{1}$ cost"]
    assert ax.get_ylim() == (2, 0)  # the first class on top
    for counts, words in (([95, 94, 811], ["10", "81"]), ([0, 0, 0], [])):
        _, ax = plt.subplots()
        figures.confusion(ax, np.array([counts, [0, 0, 0], [0, 0, 0]]), ["a", "b", "c"])
        assert [text.get_text() for text in ax.texts] == words


def test_confusion_of_many_classes_names_as_many_as_fit():
    _, ax = plt.subplots()
    figures.confusion(ax, np.eye(101, dtype=int), [f"class {k}" for k in range(101)])
    assert labels(ax.yaxis) == [f"class {k}" for k in range(0, 101, 2)]
    assert [tick - 0.5 for tick in ax.get_yticks()] == [*range(0, 101, 2)]


def test_words_lines_and_markers_stand_out_from_white():
    """WCAG 2.2 asks 3 to 1 of what carries meaning; LIGHT and LIGHT_BLUE are for areas."""
    assert figures.contrast("white") == 1 and figures.contrast("black") == pytest.approx(21)
    assert figures.contrast("#777777") == pytest.approx(4.48, abs=0.01)  # WCAG's own example
    for color in (*figures.INK, lessons.PALE, lessons.GREY, figures.DARK):
        assert figures.contrast(color) >= 3, color
    assert max(map(figures.contrast, (figures.LIGHT, figures.LIGHT_BLUE))) < 3


def test_areas_in_a_light_colour_have_an_outline_that_stands_out():
    figures.style()
    light = {"a": figures.LIGHT, "b": figures.LIGHT_BLUE}
    _, axes = plt.subplots(1, 4)
    axes[0].bar([0, 1], [1, 2], color=[*light.values()])
    columns = dict(x="who", y="mean", low="low", high="high")
    figures.intervals(axes[1], measured(), **columns, color=[*light.values(), figures.LIGHT])
    rows = pd.DataFrame({"x": ["q"] * 2, "who": ["a", "b"], "mean": 1.0, "low": 0.9, "high": 1.1})
    look = dict(colors=light, labels={"a": "a", "b": "b"})
    figures.grouped(axes[2], rows, x="x", hue="who", y="mean", **look)
    shares = pd.Series([40.0, 60.0])
    figures.histogram(axes[3], pd.Series(["0", "1"]), shares, label="", color=figures.LIGHT)
    for ax in axes:
        drawn = [bar for bar in ax.patches if np.isfinite(bar.get_height()) and bar.get_height()]
        assert len(drawn) >= 2
        for bar in drawn:
            assert bar.get_linewidth() > 0 and bar.get_edgecolor()[3] == 1
            assert figures.contrast(to_hex(bar.get_edgecolor())) >= 3


DRAWS = {"plot", "scatter", "hlines", "vlines", "axhline", "axvline", "text", "annotate", "step"}


@pytest.mark.parametrize("notebook", sorted(p.stem for p in paths.NOTEBOOKS.glob("*.ipynb")))
def test_no_line_marker_or_word_has_the_colour_of_an_area(notebook):
    cells = json.loads((paths.NOTEBOOKS / f"{notebook}.ipynb").read_text())["cells"]
    source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    tree, pale = ast.parse(source), {"LIGHT", "LIGHT_BLUE"}

    def named(node):
        found = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        return found | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}

    for node in ast.walk(tree):  # what is made of such a colour has it, too
        if isinstance(node, ast.Assign) and named(node.value) & pale:
            pale |= {n.id for target in node.targets for n in ast.walk(target) if hasattr(n, "id")}
        if isinstance(node, ast.For) and named(node.iter) & pale:
            pale |= {n.id for n in ast.walk(node.target) if hasattr(n, "id") and "color" in n.id}
    if notebook == "60_paper_figures":
        assert {"tier", "shades"} <= pale
    calls = [c for c in ast.walk(tree) if isinstance(c, ast.Call)]
    drawn = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr in DRAWS]
    assert notebook != "60_paper_figures" or len(drawn) > 20
    for call in drawn:
        how = [key.value for key in call.keywords if key.arg in {None, "color", "colors", "c"}]
        assert not set().union(*map(named, how)) & pale, ast.unparse(call)
