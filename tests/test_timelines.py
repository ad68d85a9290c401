"""Pictures of long videos say what the windows say, and when."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from vplib import figures, timelines
from vplib.evaluate import over_time


@pytest.fixture(autouse=True)
def closed():
    figures.style()
    yield
    plt.close("all")


def picture(won, *, seconds, stride, classes=8, length=2.0):
    """The figure of a video in whose windows these classes win."""
    times = over_time.cover(seconds, length, stride)
    values = np.full((len(times), classes), 0.02)
    values[np.arange(len(times)), won] = 0.9
    film = np.zeros((12, 8, 8, 3), np.uint8)
    names = [f"class {k}" for k in range(classes)]
    return timelines.over_time(
        times, values, names, seconds=seconds, film=film, label="probability"
    )


def bars(ax) -> list[tuple[str, float, float]]:
    """Colour, begin and end of each bar."""
    found = []
    for bar in ax.collections:
        box = bar.get_paths()[0].get_extents()
        found.append((to_hex(bar.get_facecolor()[0]), box.x0, box.x1))
    return found


def test_bars_are_as_long_as_a_class_wins_and_coloured_as_its_curve():
    fig = picture([3, 3, 1, 1, 1, 3], seconds=12.0, stride=2.0)
    _, middle, bottom = fig.axes
    color = {line.get_label(): to_hex(line.get_color()) for line in middle.lines}
    one, three = color["class 1"], color["class 3"]
    assert one != three and len(color) == len({*color.values()}) == len(timelines.SEVERAL)
    assert bars(bottom) == [(three, 0, 4), (one, 4, 10), (three, 10, 12)]
    assert middle.get_xlim() == bottom.get_xlim() == (0, 12)
    assert middle.lines[0].get_xdata().tolist() == [1, 3, 5, 7, 9, 11]


def test_overlapping_windows_part_half_way_and_gaps_stay_empty():
    fig = picture([0, 0, 1], seconds=4.0, stride=1.0)
    assert [bar[1:] for bar in bars(fig.axes[2])] == [(0, 2.5), (2.5, 4)]
    fig = picture([0, 0, 1], seconds=12.0, stride=5.0)
    assert [bar[1:] for bar in bars(fig.axes[2])] == [(0, 2), (5, 7), (10, 12)]


def test_classes_beyond_the_colours_are_light_grey_and_have_no_curve():
    won = [*range(8), 0, 1, 2, 3, 4, 5]
    fig = picture(won, seconds=28.0, stride=2.0)
    assert len(fig.axes[1].lines) == 6
    light = [bar[1:] for bar in bars(fig.axes[2]) if bar[0] == figures.LIGHT]
    assert light == [(12, 14), (14, 16)]


def test_every_curve_stands_out_from_white():
    names = [f"class {k}" for k in range(len(timelines.SEVERAL) + 2)]
    _, ax = plt.subplots()
    times = np.array([[0.0, 1.0], [1.0, 2.0]])
    timelines.curves(ax, times, np.zeros((2, len(names))), names, seconds=2.0)
    assert len(ax.lines) == len(names)
    assert all(figures.contrast(to_hex(line.get_color())) >= 3 for line in ax.lines)


@pytest.mark.parametrize(
    "seconds, scale, word",
    [(180, 1, "time (s)"), (181, 60, "time (min)"), (10801, 3600, "time (h)")],
)
def test_the_axis_has_a_unit_that_fits(seconds, scale, word):
    assert timelines.clock(seconds) == (scale, word)
    times = over_time.cover(float(seconds), seconds / 4, seconds / 4)
    _, ax = plt.subplots()
    timelines.curves(ax, times, np.zeros((4, 1)), ["a"], seconds=seconds)
    assert ax.get_xlim()[1] == seconds / scale and ax.get_xlabel() == word
    assert ax.lines[0].get_xdata()[0] == pytest.approx(seconds / 8 / scale)


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (0, "0:00"),
        (12.5, "0:12.5"),
        (59.96, "1:00"),
        (185, "3:05"),
        (3599.99, "1:00:00"),
        (3723.25, "1:02:03.2"),
    ],
)
def test_moments_are_written_as_players_show_them(seconds, shown):
    assert timelines.stamp(seconds) == shown


@pytest.mark.parametrize("frames", [1, 12])
def test_one_window_of_one_class_is_a_picture_too(frames):
    film = np.zeros((frames, 8, 8, 3), np.uint8)
    make = lambda: timelines.over_time(  # noqa: E731
        np.array([[0.0, 0.04]]), np.array([[1.0]]), ["$x^{$"], seconds=0.04, film=film, label="p"
    )
    assert figures.drawn(make()) == figures.drawn(make())  # the same bytes
    assert make().get_figheight() < 4


def test_moments_show_the_frames_of_the_best_windows():
    times = over_time.cover(9.0, 2.0, 1.0)
    similarity = np.zeros((8, 2))
    similarity[2, 0], similarity[6, 0], similarity[4, 1] = 0.5, 0.25, 0.75
    best = [np.array([2, 6]), np.array([4])]
    shown = [np.full((3, 8, 8, 3), shade, np.uint8) for shade in (10, 20, 30)]
    fig = timelines.moments(times, similarity, ["a $5", "b\x1b"], best, shown, seconds=9.0)
    strips = [
        (ax.get_title(loc="left"), int(ax.images[0].get_array()[0, 0, 0]))
        for ax in fig.axes
        if ax.images
    ]
    assert strips == [
        ("0:02 to 0:04: 0.50", 10),
        ("0:06 to 0:08: 0.25", 20),
        ("0:04 to 0:06: 0.75", 30),
    ]
    dots = [line.get_xydata().tolist() for line in fig.axes[0].lines[2:]]
    assert dots == [[[3, 0.5], [7, 0.25]], [[5, 0.75]]]
    assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == ["a $5", r"b\x1b"]
    figures.drawn(fig)
