"""Lessons have all their parts, code that can be read aloud, and pictures for a room and in words."""

import ast
import json
import re
import xml.etree.ElementTree as ElementTree

import jax
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from vplib import figures, lessons, paths

LESSONS = sorted(paths.NOTEBOOKS.glob("0*.ipynb"))
PICTURES = sorted((paths.NOTEBOOKS / "pictures").glob("*.svg"))
README = (paths.ROOT / "README.md").read_text(encoding="utf-8")
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def cells(path, kind: str) -> list[dict]:
    """The cells of a kind; of code, those that are read aloud: not the one that installs vplib."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        cell
        for cell in found
        if cell["cell_type"] == kind and "setup" not in cell["metadata"].get("tags", [])
    ]


def text(path) -> str:
    return "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))


@each_lesson
def test_a_lesson_has_its_parts_in_this_order(path):
    parts = ["**Question.**", "**Objectives.**", "**Needs.**", "**Minutes.**", "**Reads**"]
    parts += ["**Change something.**", "$$", "> **Predict.**", "## Findings"]
    parts += ["## Check yourself", "## What is often misunderstood", "## Exercises"]
    parts += ["## References", "**Our choice"]
    page, at = text(path), 0
    for part in parts:
        assert part in page[at:], f"{part} is missing, or stands too early"
        at = page.index(part, at)


@each_lesson
def test_a_lesson_has_enough_of_everything(path):
    page = text(path)

    def section(start: str, end: str) -> str:
        return page[page.index(start) : page.index(end, page.index(start))]

    assert len(re.findall(r"^- ", section("**Objectives.**", "**Needs.**"), re.M)) == 3
    check = section("## Check yourself", "## What is often")
    assert check.count("<details><summary>") == check.count("</summary>\n") >= 3
    assert len(re.findall(r'^- \*"', section("## What is often", "## Exercises"), re.M)) >= 3
    assert len(re.findall(r"^\d\. ", section("## Exercises", "## References"), re.M)) >= 3
    references = section("## References", "**Our choice")
    assert len(re.findall(r"^- .*(?:\n  .*)*\]\(https://.*(?:\n  .*)*: ", references, re.M)) >= 3
    assert page.count("$$") % 2 == 0 and page.count("> **Predict.**") >= 2
    assert page.count("<details>") == page.count("</details>")


@each_lesson
def test_a_lesson_says_the_time_that_the_readme_says(path):
    """Once for all scales: a lesson does not look at the scale."""
    row = next(line for line in README.splitlines() if line.startswith(f"| [{path.stem}]"))
    (took,) = {cell.strip() for cell in row.split("|")[3:6]}
    assert f" · run {took} on two CPU cores · work " in text(path)


@each_lesson
def test_code_can_be_read_aloud(path):
    for cell in cells(path, "code"):
        lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
        assert len(lines) <= 12, "\n".join(lines)
        assert [line for line in lines if len(line) > 88] == []
        assert not re.search(r"\bplt\.|matplotlib|seaborn", "".join(lines)), "draw in vplib.lessons"


@each_lesson
def test_a_lesson_begins_with_its_diagram(path):
    first = "".join("".join(cell["source"]) for cell in cells(path, "code")[:4])
    assert f'lessons.diagram("{path.stem}")' in first


def drawing(source: str) -> list[str]:
    """Functions of `lessons` that a cell calls and that leave a picture."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [
        f.attr for f in calls if isinstance(f, ast.Attribute) and ast.unparse(f.value) == "lessons"
    ]
    return [name for name in names if name not in ("style", "diagram")]


@each_lesson
def test_every_picture_of_a_lesson_has_words(path):
    for cell in cells(path, "code"):
        source = "".join(cell["source"])
        assert bool(drawing(source)) == bool(cell["metadata"].get("alt")), source
        assert len(cell["metadata"].get("alt", "x" * 40)) >= 40


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_diagram_is_a_drawing_with_words(path):
    shown = lessons.diagram(path.stem)._repr_mimebundle_()
    root = ElementTree.fromstring(shown["image/svg+xml"])
    space = root.tag.removesuffix("svg")
    title, words = (root.find(f"{space}{part}") for part in ("title", "desc"))
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == [title.get("id"), words.get("id")]
    assert shown["text/plain"] == words.text and len(words.text) > 200
    sizes = [float(node.get("font-size")) for node in root.iter(f"{space}text")]
    assert min(sizes) >= 13
    assert not [
        k for node in root.iter() for k in node.attrib if "href" in k
    ]  # nothing from elsewhere
    used = "".join("".join(cell["source"]) for file in LESSONS for cell in cells(file, "code"))
    assert f'lessons.diagram("{path.stem}")' in used


def test_a_diagram_that_is_missing_is_one_sentence():
    with pytest.raises(
        ValueError, match="there is no drawing notebooks/pictures/gone.svg: take it"
    ):
        lessons.diagram("gone")


def test_a_diagram_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lessons.diagram("00_tour").svg.startswith("<svg")


def test_devices_are_counted_before_they_are_used():
    """In a kernel that has used JAX, simulated devices come too late: one sentence."""
    jax.devices()
    (cell,) = (
        cell
        for cell in cells(paths.NOTEBOOKS / "05_scaling_out.ipynb", "code")
        if "jax_num_cpu_devices" in "".join(cell["source"])
    )
    with pytest.raises(SystemExit, match="restart the kernel, run from the top"):
        exec("".join(cell["source"]), {})


def contrast(color: str) -> float:
    """With white, as WCAG 2 defines it."""
    parts = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(color)]
    return 1.05 / (np.dot(parts, (0.2126, 0.7152, 0.0722)) + 0.05)


def test_colours_of_lessons_stand_out():
    assert contrast("#ffffff") == pytest.approx(1) and contrast("#000000") == pytest.approx(21)
    used = (lessons.PALE, lessons.GREY, figures.BLUE, figures.OURS, figures.DARK)
    assert min(map(contrast, used)) >= 3


def test_type_is_for_a_room():
    lessons.style()
    lessons.bars(np.zeros((3, 8, 8, 3), np.uint8), ["a" * 200, "b"], np.array([0.5, -0.4]))
    lessons.curves({"a": ([0, 1], [1.0, 0.5])}, ylabel="distance", levels={"level": 0.7})
    sizes = {
        label.get_fontsize()
        for number in plt.get_fignums()
        for label in plt.figure(number).findobj(matplotlib.text.Text)
        if label.get_text()
    }
    assert min(sizes) >= 10


def test_bars_have_the_values_and_the_best_is_dark():
    values = np.array([-0.2, 0.6, 0.1])
    lessons.bars(np.zeros((4, 8, 8, 3), np.uint8), ["a", "b", "c"], values)
    drawn = [p for ax in plt.gcf().axes for p in ax.patches]
    assert [p.get_width() for p in drawn] == values.tolist()
    dark = [p.get_facecolor()[:3] == to_rgb(figures.BLUE) for p in drawn]
    assert dark == [False, True, False]


def test_patches_lie_where_they_were_cut():
    frame = np.random.default_rng(0).random((6, 6, 3)).astype(np.float32)
    cut = [frame[r : r + 3, c : c + 3].reshape(-1) for r in (0, 3) for c in (0, 3)]
    lessons.patches(frame, np.stack(cut), 3)
    whole, apart, rows, _ = plt.gcf().axes
    shown = apart.images[0].get_array()
    assert np.array_equal(np.delete(np.delete(shown, [3, 4], 0), [3, 4], 1), frame)
    assert np.array_equal(rows.images[0].get_array(), np.stack(cut))
    assert np.array_equal(whole.images[0].get_array(), frame)


def test_places_are_arranged_as_in_the_frame():
    pairs = np.arange(16.0).reshape(4, 4) / 16
    lessons.tables([("places", pairs, True), ("moments", pairs, False)])
    shown = plt.gcf().axes[0].images[0].get_array()
    for place in range(4):
        row, column = divmod(place, 2)
        square = shown[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert np.array_equal(square, pairs[place].reshape(2, 2))
    assert np.array_equal(plt.gcf().axes[1].images[0].get_array(), pairs)


def test_a_step_of_training_is_forward_and_backward():
    lessons.costs({"m": {"teacher": (2e9, 0.0), "student": (1e9, 2e9)}})
    ends = {}
    for bar in plt.gcf().axes[0].patches:
        row = round(bar.get_y() + bar.get_height() / 2)
        ends[row] = max(ends.get(row, 0), bar.get_x() + bar.get_width())
    assert ends == {0: 2, 1: 3}


def test_influence_uses_one_scale_for_all_rows():
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    rows = {"a": np.full((2, 4), 0.01), "b": np.eye(2, 4)}
    lessons.influence(frames, rows, token=(1, 2))
    shown = [ax.images[0] for ax in plt.gcf().axes[2:6]]
    assert {image.get_clim() for image in shown} == {(0.0, 1.0)}
    outlined = [ax for ax in plt.gcf().axes[:6] if ax.patches]
    assert len(outlined) == 3 and outlined[0].patches[0].get_xy() == (-0.5, 1.5)


def test_the_corpus_of_most_clips_is_dark():
    rows = {"plain": np.array([[0, 1], [1, 1]]), "alternating": np.array([[0, 0], [1, 1]])}
    lessons.batches(rows, ["left", "right"])
    for ax, row in zip(plt.gcf().axes, rows.values(), strict=True):
        dark = [p.get_facecolor()[:3] == to_rgb(figures.BLUE) for p in ax.patches]
        assert dark == (row.reshape(-1) == 1).tolist()
        assert [t.get_text() for t in ax.texts] == ["ab"[k] for k in row.reshape(-1)]


def test_pieces_lie_where_the_devices_hold_them():
    held = {"rows": {"0": (slice(0, 2), slice(None)), "1": (slice(2, 4), slice(None))}}
    held["copy"] = {"0": (slice(None), slice(None)), "1": (slice(None), slice(None))}
    lessons.pieces(held, (4, 6))
    rows, copy = plt.gcf().axes
    assert [p.get_xy() + (p.get_width(), p.get_height()) for p in rows.patches] == [
        (0, 0, 6, 2),
        (0, 2, 6, 2),
    ]
    assert [t.get_text() for t in copy.texts] == ["0 to 1"] and len(copy.patches) == 1


def test_rates_have_a_point_a_seed_and_their_mean():
    values = np.array([[0.0, 2.0], [3.0, 5.0]])
    lessons.by_rate((0.0, 0.5), {"loss": values}, {"loss": [0, 1]}, {"loss": 4.0})
    *points, mean, _, _ = plt.gcf().axes[0].lines
    assert [line.get_ydata().tolist() for line in points] == values.T.tolist()
    assert mean.get_ydata().tolist() == [1.0, 4.0] and mean.get_xdata().tolist() == [0.0, 50.0]


def test_slots_show_places_and_mask_tokens():
    lessons.slots({"shuffle": np.array([-1, 2, -1, 0])}, 2)
    found, empty = plt.gcf().axes[0].lines
    assert found.get_xdata().tolist() == [1, 3] and found.get_ydata().tolist() == [2, 0]
    assert empty.get_xdata().tolist() == [0, 2]
