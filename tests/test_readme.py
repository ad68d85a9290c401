"""Pages for readers: links lead somewhere; notebooks, figures, modules and options are all there.

A link may also lead to what a run writes: the names come from the `figures.save` calls of the
notebooks, from `vplib.run` and from `vplib.results`, not from a list.
"""

import ast
import json
import re

import pytest
import toy
from test_repository import NOT_RUN
from test_video import moving_square

from vplib import config, paths
from vplib.data import video
from vplib.model import checkpoints

PAGES = [
    paths.ROOT / "README.md",
    paths.ROOT / "CONTRIBUTING.md",
    paths.ROOT / "reports" / "README.md",
    *sorted((paths.ROOT / "data_cards").glob("*.md")),
]
LINK = re.compile(r"\]\(([^()\s]+)\)")
README, MAP = PAGES[0].read_text(), PAGES[2].read_text()


def figure_names() -> list[str]:
    """A pattern for each figure that a notebook saves."""
    names = []
    for path in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        if path.stem in NOT_RUN:
            continue
        cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
        for node in ast.walk(ast.parse("\n".join("".join(cell["source"]) for cell in cells))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "results.save":
                names.append(rf"{path.stem}-{node.args[2].value}_[\w-]+_\w+")
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "figures.save":
                names.append(node.args[1].value)
    return names


FIGURES = figure_names()
WRITTEN = [rf"reports/(figures/({name})\.(png|pdf)|tables/({name})\.csv)" for name in FIGURES]
WRITTEN += [
    r"reports/tables/headline\.csv",
    rf"reports/notebooks/({'|'.join(config.names())})-\w+-\w+\.ipynb",
]


def anchors(page: str) -> set[str]:
    """What `#...` may name: GitHub's form of each heading."""
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def dead(page) -> list[str]:
    """The relative links of a page that lead nowhere."""
    found = []
    for link in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        inside = target.is_relative_to(paths.ROOT)
        written = inside and any(
            re.fullmatch(name, target.relative_to(paths.ROOT).as_posix()) for name in WRITTEN
        )
        known = not anchor or (target.is_file() and anchor in anchors(target.read_text()))
        if not inside or not (target.exists() or written) or not known:
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: paths.short(page))
def test_relative_links_lead_somewhere(page):
    assert dead(page) == []


def test_dead_links_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    good = "[a](page.md#one-title-its-form) [b](#one-title-its-form) [c](https://a.b/c) ![](reports/figures/60_paper_figures-science.png)"
    bad = "[d](gone.md) [e](#gone) [f](../page.md) ![](reports/figures/60_paper_figures-gone.png)"
    page = tmp_path / "page.md"
    page.write_text(f"# One title: its form\n{good} {bad}\n")
    assert dead(page) == [
        "gone.md",
        "#gone",
        "../page.md",
        "reports/figures/60_paper_figures-gone.png",
    ]


@pytest.mark.parametrize(
    "page", [*PAGES, paths.ROOT / "Makefile"], ids=lambda page: paths.short(page)
)
def test_files_that_are_named_exist(page):
    # N stands for what is to be filled in.
    named = re.findall(
        r"\b(?:(?:vplib|tests|benchmarks|conf)/[\w/]+\.(?:py|yaml)|notebooks/\w+\.ipynb)\b",
        page.read_text(),
    )
    assert [n for n in named if "N" not in n and not (paths.ROOT / n).is_file()] == []


@pytest.mark.parametrize("name", config.names())
def test_the_table_of_notebooks_is_complete(name):
    assert f"| [{name}](notebooks/{name}.ipynb) |" in README


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_has_its_picture_caption_and_data(figure):
    caption = rf"!\[[^\]]+\]\(figures/({figure})\.png\)\n\n\*\*(.|\n)*?\[CSV\]\(tables/\1\.csv\)"
    assert re.search(caption, MAP)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: paths.short(page))
def test_every_picture_of_a_page_has_words(page):
    assert [
        words for words in re.findall(r"!\[(.*?)\]\(", page.read_text()) if len(words) < 40
    ] == []


@pytest.mark.parametrize("figure", FIGURES)
def test_a_picture_has_the_same_words_where_it_is_made_and_where_it_is_shown(figure):
    stem = figure.partition("-")[0]
    cells = json.loads((paths.NOTEBOOKS / f"{stem}.ipynb").read_text())["cells"]
    slug = re.escape(re.sub(r"_\[.*", "", figure).partition("-")[2])
    saved = rf'\.save\(\s*(?:cfg,\s*)?fig,\s*"(?:{stem}-)?{slug}"'
    (made,) = [cell for cell in cells if re.search(saved, "".join(cell["source"]))]
    shown = re.search(rf"!\[([^\]]+)\]\(figures/{figure}\.png\)", MAP)[1]
    assert shown in made["metadata"]["alt"]


def test_the_tree_names_every_module():
    tree = README[README.index("## The repository, file by file") :]
    listed, wing = [], ""
    for line in tree.splitlines():
        if found := re.match(r"(vplib/\S*)", line):
            wing = found[1]
        elif found := re.match(r"  (\w+\.py) +\S", line):
            listed.append(wing + found[1])
    modules = [
        p.relative_to(paths.ROOT).as_posix() for p in (paths.ROOT / "vplib").rglob("[a-z]*.py")
    ]
    assert sorted(listed) == sorted(modules)


@pytest.mark.parametrize("group", config.groups())
def test_the_table_of_groups_names_every_option(group):
    row = re.search(rf"^\| `{group}` \| (.*?) \|", README, re.MULTILINE)
    assert row and sorted(re.findall(r"`(\w+)`", row[1])) == config.groups()[group]


def test_the_lines_of_python_run(tmp_path, monkeypatch):
    """On a clip of ours and a small encoder in place of the released one."""
    # The second block is OpenVINO's: test_extras.py.
    lines, _ = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "clip.mp4").write_bytes(video.encode(moving_square(), 10))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "load", lambda name: toy.encoder())
    scope = {}
    exec(lines, scope)
    assert scope["tokens"].shape == (1, 27, 16)
