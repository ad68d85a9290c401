"""Croissant metadata of the embedded world: what it says is what is there."""

import hashlib
import json

import pytest
from test_shards import Toy, write

from vplib import croissant
from vplib.data import shards
from vplib.world import corpora, families

URL = "https://example.org/world"
LOOK = dict(resolution=16, frames=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    for source in (
        corpora.WorldSource("ac1", 5, **LOOK),
        corpora.WorldSource("webli", 3, **LOOK),
        families.source("motion/test", 4, seed=0, fps=8.0, **LOOK),
    ):
        write(source, place / source.name, shard_size=2)
    return place


def references(node):
    """Every {"@id": ...} that names another part of the description."""
    if isinstance(node, dict):
        if node.keys() == {"@id"}:
            yield node["@id"]
        for key, value in node.items():
            yield from () if key == "@context" else references(value)
    elif isinstance(node, list):
        for one in node:
            yield from references(one)


def defined(node):
    if isinstance(node, dict):
        if "@id" in node and "@type" in node:
            yield node["@id"]
        for key, value in node.items():
            yield from () if key == "@context" else defined(value)
    elif isinstance(node, list):
        for one in node:
            yield from defined(one)


def test_every_shard_is_described_and_nothing_else(folder):
    told = croissant.metadata(folder, URL)
    listed = {one["@id"]: one for one in told["distribution"] if one["@type"] == "cr:FileObject"}
    there = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.array_record")}
    assert listed.keys() == there.keys() and len(there) == 7
    for name, path in there.items():
        assert listed[name]["contentUrl"] == name
        assert listed[name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert listed[name]["contentSize"] == f"{path.stat().st_size} B"


def test_the_table_of_corpora_is_what_the_code_and_the_shards_say(folder):
    (table,) = croissant.metadata(folder, URL)["recordSet"]
    rows = {row["corpora/name"]: row for row in table["data"]}
    assert {name: row["corpora/clips"] for name, row in rows.items()} == {
        "ac1": 5,
        "motion-test": 4,
        "webli": 3,
    }
    assert (
        rows["webli"]["corpora/stands_for"] == "WebLI" and rows["webli"]["corpora/seconds"] == 0.375
    )
    assert rows["motion-test"]["corpora/part"] == "test"
    fields = {field["@id"] for field in table["field"]}
    assert all(row.keys() == fields for row in rows.values())


def test_names_are_unique_and_lead_somewhere(folder):
    told = croissant.metadata(folder, URL)
    names = [*defined(told)]
    assert len(names) == len({*names}) and {*references(told)} <= {*names}
    assert told == croissant.metadata(folder, URL)
    assert told["license"] and told["url"] == URL and "pure function" in told["description"]


def test_the_command_writes_it_beside_the_corpora(folder, monkeypatch):
    monkeypatch.setattr("sys.argv", ["croissant", str(folder), "--url", URL])
    croissant.main()
    assert json.loads((folder / "croissant.json").read_text()) == croissant.metadata(folder, URL)


def test_what_is_not_the_world_is_refused(tmp_path, monkeypatch):
    with pytest.raises(shards.ShardError, match=r"there is no corpus; run 10_prepare_corpus .*\.$"):
        croissant.metadata(tmp_path, URL)
    write(Toy(), tmp_path / "toy")
    monkeypatch.setattr("sys.argv", ["croissant", str(tmp_path), "--url", URL])
    with pytest.raises(SystemExit, match=r"error: .*toy: this is no corpus of the world; .*\.$"):
        croissant.main()
    assert not (tmp_path / "croissant.json").exists()


def test_mlcroissant_finds_no_error_and_reads_the_table(folder):
    mlcroissant = pytest.importorskip(
        "mlcroissant", reason="mlcroissant is absent: make test-extras"
    )
    told = mlcroissant.Dataset(croissant.metadata(folder, URL))
    assert not told.metadata.ctx.issues.errors
    # Nothing written by this repository holds a date.
    assert all("datePublished" in one for one in told.metadata.ctx.issues.warnings)
    assert len([*told.records("corpora")]) == 3
