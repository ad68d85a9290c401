"""video2dataset as it really writes: captions of many forms, failed lines, tar files and folders."""

import csv
import json
import shutil
import sys
import tarfile

import pytest
from test_public import EXPECTED, read, run
from test_sources import tar_of
from test_video import moving_square

from vplib.data import shards, sources, video, webdataset
from vplib.data.public.annotations import AnnotationError

VIDEO = video.encode(moving_square(), 10)


def asked(key, *, status="success", error=None, text=None, **fields):
    """The members of a row, as video2dataset writes them: a failed one without a video."""
    about = fields | {"key": key, "status": status, "error_message": error}
    members = {f"{key}.json": json.dumps(about, indent=4).encode()}
    if status == "success":
        members[f"{key}.mp4"] = VIDEO
    if text is not None:
        members[f"{key}.txt"] = text.encode()
    return members


def source_of(root):
    return sources.WebDatasetSource(root, name="web", resolution=48)


@pytest.mark.parametrize(
    ("key", "fields", "texts"),
    [
        ("00000001", {"caption": " one ", "text": "one"}, ["one"]),
        ("00000001", {"caption": None, "text": ""}, []),
        ("00000001", {"caption": ["a", "", "b"], "text": "['a', '', 'b']"}, ["a", "b"]),
        ("00000001", {"caption": [], "text": "[]"}, []),
        ("00000001_00001", {"caption": ["a", "b"], "clips": [[1, 2]], "text": "x"}, ["b"]),
        ("00000001_00002", {"caption": ["a", "b"], "clips": [[1, 2]], "text": "x"}, []),
        ("00000001_00001", {"caption": "of all", "clips": [[1, 2]], "text": "x"}, ["of all"]),
        ("00000001_00000", {"caption": [["a", "b"], "c"], "clips": [[1, 2]]}, ["a", "b"]),
        ("00000001", {f"caption_{n}": f"c{n}" for n in (10, 2, 1)}, ["c1", "c2", "c10"]),
        ("00000001", {"caption_0": "", "caption_1": None}, []),
        (
            "00000001_00000",
            {"clip_subtitles": [{"lines": {"de": ["x"], "en": ["a", "b"]}}], "text": "{'en': []}"},
            ["a b"],
        ),
        ("00000001_00000", {"clip_subtitles": [], "text": "{}"}, []),
        ("00000001", {"text": "of the text"}, ["of the text"]),
        ("00000001", {"yt_meta_dict": {"info": {"title": "A kite"}}}, ["A kite"]),
        ("00000001", {"caption": None, "yt_meta_dict": {"info": {"title": "A kite"}}}, []),
    ],
)
def test_captions_are_those_of_the_json_and_not_their_print(tmp_path, key, fields, texts):
    source = source_of(tar_of(tmp_path / "00000.tar", asked(key, **fields)))
    meta = source.original(0)[1]
    assert source.texts() == texts[:1] and meta["text"] == (texts or [None])[0]
    assert meta.get("texts") == (texts if len(texts) > 1 else None)
    if texts:
        assert source[0].text == texts[0] and "text" not in source[0].meta
    else:
        with pytest.raises(video.VideoError, match="has no caption"):
            source[0]


def test_of_what_youtube_says_three_fields_stay_also_for_later_clips(tmp_path):
    info = {"title": "A kite", "description": "wind", "tags": ["k"], "formats": ["x" * 10_000]}
    rows = [
        {"yt_meta_dict": {"info": info, "subtitles": {}}, "caption": "a", "clips": [[0, 1]]},
        {"yt_meta_dict": {}, "caption": "b", "clips": [[1, 2]]},
    ]
    members = {}
    for number in (1, 0):
        members |= asked(f"00000007_{number:05d}", **rows[number])
    source = source_of(tar_of(tmp_path / "00000.tar", members))
    for index in range(2):
        meta = source.original(index)[1]
        assert meta["youtube"] == {"title": "A kite", "description": "wind", "tags": ["k"]}
        assert "yt_meta_dict" not in meta and meta["clips"]


def test_failed_lines_are_counted_by_their_status(tmp_path):
    members = {
        **asked("00000000", caption="a"),
        **asked("00000001", status="failed_to_download", error="gone\x1b[2J", text="b"),
        **asked("00000002", status="failed_to_subsample", error="ffmpeg"),
        **{"00000003.json": json.dumps({"status": "success", "key": "00000003"}).encode()},
        "00000004.json": b'{"caption": "of no run"}',
        "00000005.txt": b"alone",
        "00000006.json": b"[1",
    }
    source = source_of(tar_of(tmp_path / "00000.tar", members))
    assert len(source) == 1
    assert source.failed == [
        {"file": "00000.tar/00000001", "reason": "failed_to_download: gone\x1b[2J"},
        {"file": "00000.tar/00000002", "reason": "failed_to_subsample: ffmpeg"},
        {"file": "00000.tar/00000003", "reason": "missing_video"},
    ]


def test_folders_of_the_same_files_are_read_alike(tmp_path):
    members = asked("00000000", caption="a") | asked("00000001", status="failed_to_download")
    (tmp_path / "tars").mkdir()
    tar_of(tmp_path / "tars" / "00000.tar", members)
    place = tmp_path / "files" / "00000"
    place.mkdir(parents=True)
    for name, data in members.items():
        (place / name).write_bytes(data)
    (tmp_path / "files" / "00000.parquet").write_bytes(b"x")
    tars, folders = source_of(tmp_path / "tars"), source_of(tmp_path / "files")
    assert (folders[0].video, folders[0].text) == (tars[0].video, tars[0].text) == (VIDEO, "a")
    assert len(folders) == 1 and folders.failed[0]["file"] == "00000/00000001"
    assert source_of(place)[0] == folders[0]
    before = folders.fingerprint
    (place / "00000000.json").write_bytes(b'{"caption": "another"}')
    assert source_of(tmp_path / "files").fingerprint != before
    shutil.rmtree(place)
    (tmp_path / "files" / "00000.parquet").unlink()
    with pytest.raises(
        sources.SourceError, match=r"no .tar files; .* webdataset, files or parquet"
    ):
        source_of(tmp_path / "files")


def test_failed_lines_are_in_the_manifest_and_the_list(tmp_path):
    members = asked("00000000", caption="a") | asked("00000001", status="failed_to_download")
    members |= asked("00000002", status="failed_to_subsample", error="ffmpeg\x1b[2J")
    members |= asked("00000003", status="failed_to_download", error="gone: 404")
    source = source_of(tar_of(tmp_path / "00000.tar", members))
    write = dict(shard_size=2, workers=0, max_skipped_fraction=0.0)
    manifest = shards.write(source, tmp_path / "out", **write)
    assert manifest["failed"] == {"failed_to_download": 2, "failed_to_subsample": 1}
    assert manifest["records"] == 1 and not manifest["skipped"]
    listed = list(csv.DictReader((tmp_path / "out" / "skipped.csv").open()))
    assert [one["file"] for one in listed] == [f"00000.tar/0000000{n}" for n in (1, 2, 3)]
    assert listed[1]["reason"] == "failed_to_subsample: ffmpeg\\x1b[2J"
    assert shards.write(source, tmp_path / "out", **write) == manifest


@pytest.fixture
def parquet():
    pytest.importorskip("pyarrow", reason="pyarrow is absent: make test-extras")
    import pyarrow
    import pyarrow.parquet

    def write(path, rows, **options):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)

    return write


def test_parquet_files_are_read_alike(tmp_path, parquet):
    members, rows = {}, []
    for key, more in (
        ("00000000", {"caption": ["a", "b"], "text": "['a', 'b']"}),
        ("00000001", {"status": "failed_to_download", "caption": ["c"], "error": "gone"}),
        ("00000002", {"caption": ["d"], "text": "['d']"}),
    ):
        own = asked(key, **more)
        members |= own
        about = json.loads(own[f"{key}.json"])
        text = own[f"{key}.txt"].decode() if f"{key}.txt" in own else None
        rows.append(about | {"mp4": own.get(f"{key}.mp4"), "txt": text})
    (tmp_path / "tables").mkdir()
    parquet(tmp_path / "tables" / "00000.parquet", rows, row_group_size=2)
    (tmp_path / "tables" / "00000_stats.json").write_text("{}")
    tables, tars = (
        source_of(tmp_path / "tables"),
        source_of(tar_of(tmp_path / "00000.tar", members)),
    )
    assert len(tables) == len(tars) == 2
    for index in range(2):
        (video_, meta), (same, told) = tables.original(index), tars.original(index)
        assert video_ == same and meta["texts" if index == 0 else "text"]
        assert meta | {"file_name": ""} == told | {"file_name": ""}
    assert tables.failed == [
        {"file": "00000.parquet/00000001", "reason": "failed_to_download: gone"}
    ]
    assert tables[1].video == tars[1].video


def test_a_parquet_file_that_holds_no_videos_is_one_sentence(tmp_path, parquet):
    parquet(tmp_path / "00000.parquet", [{"key": "00000000", "status": "success"}])
    with pytest.raises(sources.SourceError, match=r"no column of keys or none of videos; .*\.$"):
        source_of(tmp_path)
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(sources.SourceError, match=r"parquet file cannot be read .*\.$"):
        source_of(tmp_path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(sources.SourceError, match=r"pip install pyarrow, or write tar files"):
        source_of(tmp_path)


def test_what_was_asked_for_is_written_with_what_came_of_it(tmp_path, monkeypatch, capsys):
    members = {
        **asked("00000001", status="failed_to_download", error="gone: 404"),
        **asked("00000000_00000", caption=["a", "b"], clips=[["00:00:01.500", "00:00:03.000"]]),
        **asked("00000002", caption=None),
        **asked("00000003", caption="\ud83d"),
    }
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in/00000.tar", members)
    kept, skipped = read("video2dataset", [tmp_path / "in"], {})
    assert [(one["id"], one["texts"], one["clip_in_original"]) for one in kept] == [
        ("00000000_00000", ["a"], [1.5, 3.0])
    ]
    assert skipped == [
        ("00000.tar/00000001", "failed_to_download"),
        ("00000.tar/00000002", "empty_text"),
        ("00000.tar/00000003", "unreadable_entry"),
    ]
    run(monkeypatch, "video2dataset", "--annotations", tmp_path / "in", "--out", tmp_path / "out")
    with (tmp_path / "out/asked.csv").open(newline="") as file:
        lines = [*csv.reader(file)]
    assert lines[:3] == [
        ["key", "file", "reason", "note"],
        ["00000000_00000", "00000.tar/00000000_00000.mp4", "", ""],
        ["00000001", "00000.tar/00000001", "failed_to_download", "gone: 404"],
    ]
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["all", "4", "1", "1", "3"]
    (tmp_path / "in/00000.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(AnnotationError, match="the tar file cannot be read"):
        read("video2dataset", [tmp_path / "in"], {})


@pytest.mark.skipif("video2dataset" not in EXPECTED, reason="the folder of samples is not here")
def test_the_sample_becomes_shards(tmp_path):
    folder = EXPECTED["video2dataset"].parent
    expected = json.loads(EXPECTED["video2dataset"].read_text())
    source = source_of(folder)
    manifest = shards.write(source, tmp_path, shard_size=64, workers=0, max_skipped_fraction=0.5)
    written = shards.Shards(tmp_path)
    found = {written[n].meta["file_name"]: written[n] for n in range(len(written))}
    assert found.keys() == {one["file_name"] for one in expected["records"]}
    for one in expected["records"]:
        assert found[one["file_name"]].text == one["texts"][0]
        assert found[one["file_name"]].meta.get("texts", one["texts"]) == one["texts"]
    left_out = [one["file"].removesuffix(".mp4") for one in [*source.failed, *manifest["skipped"]]]
    assert sorted(left_out) == sorted(one["source"] for one in expected["skipped"])


def test_the_first_clip_of_a_row_is_looked_for_by_its_key(tmp_path):
    members = asked("a_00003", yt_meta_dict={}, caption="a") | asked("b_1", caption="b")
    with tarfile.open(tar_of(tmp_path / "00000.tar", members)) as tar:
        assert len(tar.getnames()) == 4
    assert [sample.first for sample in webdataset.samples(tmp_path)] == [None, None]
    assert source_of(tmp_path).texts() == ["a", "b"]
