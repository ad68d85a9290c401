"""Every corpus has a data card, and the cards say what the published table says."""

import pandas as pd
import pytest
import yaml

from vplib import paths
from vplib.data.public import registry
from vplib.world import corpora

FOLDER = paths.ROOT / "data_cards"
SECTIONS = [
    "Description",
    "Access and how to obtain",
    "Licence",
    "How captions were made",
    "Published statistics",
    "Known limits",
    "Privacy",
    "Our stand-in",
    "Citation",
]
OWN_SECTIONS = [
    "Description",
    "Access and how to obtain",
    "Licence",
    "How captions were made",
    "Statistics",
    "Known limits",
    "Privacy",
    "What it stands in for",
    "Citation",
]
KEYS = {
    "pretty_name",
    "license",
    "access",
    "redistributable",
    "language",
    "caption_source",
    "published",
    "used_in",
    "stand_in",
}
BENCHMARK_SECTIONS = [
    *SECTIONS[:3],
    "How annotations were made",
    "Published statistics",
    "What the paper used",
    *SECTIONS[5:7],
    "Our miniature",
    "Citation",
]
BENCHMARK_KEYS = KEYS - {"caption_source", "stand_in"} | {"annotation_source", "miniature"}
CORPORA = pd.read_csv(paths.ROOT / "reports" / "published" / "corpora.csv").query(
    "role == 'pretraining'"
)


def read(file):
    """Header and section titles of a card."""
    _, header, body = file.read_text().split("---\n", 2)
    return yaml.safe_load(header), [
        line[3:] for line in body.splitlines() if line.startswith("## ")
    ]


EVERY = {file.stem: read(file) for file in sorted(FOLDER.glob("[a-z]*.md"))}
CARDS = {
    header["pretty_name"]: (header, sections)
    for header, sections in EVERY.values()
    if "miniature" not in header
}
OWN, _ = CARDS["Embedded world"]


@pytest.mark.parametrize("row", CORPORA.to_dict("records"), ids=CORPORA["name"])
def test_published_corpus(row):
    header, sections = CARDS[row["name"]]
    assert set(header) == KEYS
    assert sections == SECTIONS
    published = header["published"]
    for key, column in (("clips", "n_clips"), ("videos", "n_videos")):
        assert published[key] == (None if pd.isna(row[column]) else row[column])
    assert (published["source"], published["confidence"]) == (row["source"], row["confidence"])
    assert header["access"] in ({"public", "gated"} if row["public"] == "yes" else {"private"})
    assert header["caption_source"] in {"human", "asr", "model", "metadata", "alt-text"}
    assert header["used_in"] == [stage for stage in ("stage1", "stage2") if row[stage] == "yes"]
    assert corpora.CORPORA[header["stand_in"]].stands_for == row["name"]


@pytest.mark.parametrize("row", CORPORA.to_dict("records"), ids=CORPORA["name"])
def test_statistics_are_the_published_ones(row):
    """The numbers of a card's table, in the order of the columns of corpora.csv."""
    card = next(
        file for file in FOLDER.glob("[a-z]*.md") if read(file)[0]["pretty_name"] == row["name"]
    )
    cells = [
        line.split(" | ")
        for line in card.read_text().splitlines()
        if line.startswith("| ") and "arXiv" in line
    ]
    columns = [
        "n_clips",
        "n_videos",
        "clips_printed",
        "videos_printed",
        "domain",
        "text_source",
        "quality",
        "noun_verb_ratio",
        "pct_with_humans",
        "optical_flow_px",
        "grounding_score",
        "avg_zs_r1",
    ]
    assert len(cells) == len(columns)
    for (_, said, source), column in zip(cells, columns, strict=True):
        assert source.removesuffix(" |") == row["source"]
        if pd.isna(row[column]):
            assert said == "unknown"
        elif isinstance(row[column], str):
            assert said == row[column]
        else:
            assert float(said) == row[column]


def test_every_stand_in_has_a_card():
    named = [header["stand_in"] for header, _ in CARDS.values() if header is not OWN]
    assert sorted(named) == sorted(OWN["stands_in"]) == sorted(corpora.CORPORA)


def test_own_card_has_sections_and_no_counts():
    header, sections = CARDS["Embedded world"]
    assert sections == OWN_SECTIONS
    assert "published" not in header


# --- benchmarks ----------------------------------------------------------------------------------

COUNTS = pd.read_csv(paths.ROOT / "reports" / "published" / "annotations.csv", dtype=str)
CONF = {
    file.stem: yaml.safe_load(file.read_text()).get("benchmarks", {})
    for file in (paths.ROOT / "conf" / "data").glob("*.yaml")
}
BENCHMARKS = {name for name, (header, _) in EVERY.items() if "miniature" in header}


def test_every_benchmark_has_a_card_and_every_card_its_benchmark():
    used = {name for name in BENCHMARKS if EVERY[name][0]["used_in"]}
    assert used == {name for name, cells in CONF.items() if cells}
    assert BENCHMARKS - used == {"msvd", "thumos14"}  # read, too, but none of the paper's
    assert BENCHMARKS <= registry.DATA_SETS.keys() and len(BENCHMARKS) == 24


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_benchmark_card(name):
    header, sections = EVERY[name]
    assert set(header) == BENCHMARK_KEYS and sections == BENCHMARK_SECTIONS
    assert header["used_in"] == [*CONF.get(name, {})]
    assert header["access"] in {"public", "gated", "private", "unknown"}
    assert header["annotation_source"] in {"human", "rule"}
    assert all((paths.ROOT / header[key]).is_file() for key in ("published", "miniature"))
    text = (FOLDER / f"{name}.md").read_text()
    assert f"python -m vplib.data.public {name}`" in " ".join(text.split())
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    order = ["split", "unit", "count", "source", "confidence"]
    counts = COUNTS[COUNTS["name"] == name][order].to_numpy().tolist()
    assert [row for row in cells if len(row) == 5][1:] == counts


@pytest.mark.parametrize("name", sorted(name for name in BENCHMARKS if CONF.get(name)))
def test_a_card_says_what_the_configuration_says(name):
    text = (FOLDER / f"{name}.md").read_text()
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    told = {row[0]: row[1:] for row in cells if len(row) == 7}
    for cell, of in CONF[name].items():
        frames, stride = ("unknown" if of[k] is None else str(of[k]) for k in ("frames", "stride"))
        views = "unknown" if of["clips"] is None else f"{of['clips']} x {of['crops']}"
        row = f"{of['table']}, {of['row']} ({of['kind']})"
        assert told[cell] == [row, of["metric"], of["part"], frames, stride, views]


def test_readme_links_every_card():
    text = (FOLDER / "README.md").read_text()
    assert all(f"({file.name})" in text for file in FOLDER.glob("[a-z]*.md"))
