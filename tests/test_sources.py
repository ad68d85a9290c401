"""Your own videos as sources: what is kept, what is left out, what is said about bad folders."""

import codecs
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import unicodedata
from pathlib import Path

import av
import pytest
from test_video import CLIPS, make, make_sound, moving_square, needs_clips

from vplib import paths
from vplib.data import shards, sources, video


def folder_of(root, entries):
    """A VideoFolder of (file name, bytes, other fields)."""
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for file_name, data, fields in entries:
        (root / file_name).parent.mkdir(exist_ok=True)
        (root / file_name).write_bytes(data)
        lines.append(json.dumps({"file_name": file_name, **fields}))
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


def tar_of(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def source_of(root, split=None):
    return sources.FolderSource(root, split, name="mine", resolution=48)


def complaint(root, split=None):
    with pytest.raises(sources.SourceError) as caught:
        source_of(root, split)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def write(source, folder, workers=0):
    return shards.write(source, folder, shard_size=2, workers=workers, max_skipped_fraction=0.5)


def test_a_plain_h264_clip_is_kept_byte_for_byte_with_its_fields(tmp_path):
    data = video.encode(moving_square(), 10)
    fields = {"text": " a square \n", "label": "square", "recording": "one"}
    clip = source_of(folder_of(tmp_path, [("clips/a.mp4", data, fields)]))[0]
    assert clip.video == data and clip.text == "a square"
    assert clip.meta == {
        "file_name": "clips/a.mp4",
        "label": "square",
        "recording": "one",
        "width": 64,
        "height": 48,
        "fps": 10.0,
        "frames": 12,
        "duration": 1.2,
    }


def test_broken_files_of_a_folder_are_skipped_and_named(tmp_path):
    good = video.encode(moving_square(), 10)
    files = {
        "a.mp4": good,
        "b.mp4": b"",
        "c.mp4": make_sound(),
        "d.mp4": b"text",
        "e.mp4": make(moving_square())[:900],
    }
    files |= {f"good_{index}.mp4": good for index in range(4)}
    root = folder_of(
        tmp_path / "videos", [(name, data, {"text": "a clip"}) for name, data in files.items()]
    )
    manifest = write(source_of(root), tmp_path / "alone")
    assert manifest["records"] == 5
    assert [entry["file"] for entry in manifest["skipped"]] == ["b.mp4", "c.mp4", "d.mp4", "e.mp4"]
    assert write(source_of(root), tmp_path / "two", workers=2) == manifest
    for path in (tmp_path / "alone").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_splits_are_sub_folders_and_must_be_chosen(tmp_path):
    for split in ("train", "val"):
        folder_of(tmp_path / split, [("a.mp4", video.encode(moving_square(), 10), {"text": split})])
    assert source_of(tmp_path, "val")[0].text == "val"
    assert "choose a split of train, val" in complaint(tmp_path)
    assert "test/metadata.jsonl" in complaint(tmp_path, "test")


def test_an_empty_folder_is_named(tmp_path):
    assert f"{tmp_path / 'metadata.jsonl'}: there is no such file" in complaint(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n")
    assert "names no clips" in complaint(tmp_path)
    assert r"no\x1b[2Jne\nhere/metadata.jsonl: " in complaint(tmp_path / "no\x1b[2Jne\nhere")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"file_name": "a.mp4", "text": "no end', "not valid JSON"),
        ('["a.mp4", "a caption"]', "no JSON object"),
        ('{"text": "a caption"}', "no `file_name`"),
        ('{"file_name": "gone.mp4"}', "'gone.mp4' is not there"),
        ('{"file_name": "clips"}', "'clips' is not there"),  # a folder
        ('{"file_name": "pipe"}', "'pipe' is not there"),  # reading it would never end
        ('{"file_name": "\\u001b[2J.mp4"}', r"'\x1b[2J.mp4' is not there"),
        ('{"file_name": "' + "x" * 300 + '.mp4"}', "File name too long"),
        ('{"file_name": "a.mp4", "label": " "}', "an empty `label`"),
        ('{"file_name": "a.mp4", "text": "nice day \\ud83d"}', "surrogates not allowed"),
        ('{"file_name": "a.mp4", "views": 18446744073709551616}', "out of range"),
        ('{"file_name": "a.mp4", "score": NaN}', "NaN is no JSON number"),
        ('{"file_name": "a.mp4", "x": ' + "[" * 100_000, "recursion"),
        (b'{"file_name": "caf\xe9.mp4"}', "not UTF-8"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "bytes",
)
def test_a_bad_line_is_named_with_its_number(tmp_path, line, expected):
    root = folder_of(tmp_path, [("a.mp4", b"a video", {"text": "a clip"})])
    (root / "clips").mkdir()
    os.mkfifo(root / "pipe")
    with (root / "metadata.jsonl").open("ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())
    message = complaint(root)
    assert message.startswith(f"{root / 'metadata.jsonl'}, line 2: ") and expected in message


def test_captions_are_asked_for_only_where_they_are_needed(tmp_path):
    entries = [(f"{index}.mp4", b"a video", {"text": "a clip"}) for index in range(2)]
    root = folder_of(tmp_path / "some", [*entries, ("2.mp4", b"a video", {"text": " "})])
    source = source_of(root)
    assert source.original(2) == (root / "2.mp4", {"file_name": "2.mp4", "text": " "})
    with pytest.raises(video.VideoError, match=r"2.mp4: has no `text` in line 3 of metadata.jsonl"):
        source[2]
    with pytest.raises(sources.SourceError, match=r"metadata.jsonl, line 3: there is no `text`"):
        source.texts()
    assert source_of(folder_of(tmp_path / "all", entries)).texts() == ["a clip", "a clip"]
    (tmp_path / "all/1.mp4").write_bytes(b"")
    with pytest.raises(video.VideoError, match=r"^1.mp4: is empty \(0 bytes\); "):
        source_of(tmp_path / "all").original(1)


def test_labels_that_look_the_same_are_the_same(tmp_path):
    labels = ["caf\u00e9 bar", " cafe\u0301  bar\u00a0", 3]
    entries = [(f"{index}.mp4", b"a video", {"label": label}) for index, label in enumerate(labels)]
    source = source_of(folder_of(tmp_path, entries))
    assert [source.original(index)[1]["label"] for index in range(3)] == [labels[0], labels[0], 3]


def test_fields_with_names_of_ours_are_kept_apart(tmp_path):
    data = video.encode(moving_square(), 10)
    fields = {"text": "a square", "fps": 50, "frames": "many", "views": 3}
    source = source_of(folder_of(tmp_path, [("a.mp4", data, fields)]))
    assert source.original(0)[1]["fps"] == 50
    meta = source[0].meta
    assert meta["given"] == {"fps": 50, "frames": "many"} and meta["views"] == 3
    assert (meta["fps"], meta["frames"]) == (10, 12)
    path = tar_of(
        tmp_path / "0.tar",
        {
            "a.mp4": data,
            "a.json": b'{"caption": "a", "file_name": "mine.mp4", "given": 1, "duration": "9s"}',
        },
    )
    meta = sources.WebDatasetSource(path, name="web", resolution=48)[0].meta
    assert meta["given"] == {"file_name": "mine.mp4", "duration": "9s", "given": 1}
    assert (meta["file_name"], meta["duration"]) == ("0.tar/a.mp4", 1.2)


@pytest.mark.parametrize(("stored", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_of_file_names_may_be_composed_or_not(tmp_path, stored, named):
    name = "\u00e9t\u00e9/\u1e9b\u0323.mp4"
    root = folder_of(tmp_path, [(unicodedata.normalize(stored, name), b"a video", {})])
    entry = {"file_name": unicodedata.normalize(named, name)}
    (root / "metadata.jsonl").write_text(json.dumps(entry))
    path, meta = source_of(root).original(0)
    assert path.read_bytes() == b"a video" and meta == entry


def test_a_byte_order_mark_is_no_text(tmp_path):
    root = folder_of(tmp_path, [("a.mp4", b"a video", {"text": "a clip"})])
    lines = (root / "metadata.jsonl").read_bytes()
    (root / "metadata.jsonl").write_bytes(codecs.BOM_UTF8 + lines)
    assert source_of(root).texts() == ["a clip"]


def test_whatever_a_clip_raises_leaves_out_that_clip(tmp_path, monkeypatch):
    good = video.encode(moving_square(), 10)
    names = ["a.mp4", "b.mp4", "c.mp4"]
    root = folder_of(tmp_path / "videos", [(name, good, {"text": "a clip"}) for name in names])
    path_open, convert = Path.open, sources.standardize

    def refuse(path, *arguments, **options):
        if path.name == "a.mp4":
            raise PermissionError(13, "Permission denied")
        return path_open(path, *arguments, **options)

    def fail(path, *, name, **options):
        if name == "b.mp4":
            raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "a title\x1b[2J in Latin-1")
        path.open().close()
        return convert(path, name=name, **options)

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(sources, "standardize", fail)
    manifest = shards.write(
        source_of(root), tmp_path / "out", shard_size=2, workers=0, max_skipped_fraction=0.7
    )
    assert [clip["file"] for clip in manifest["skipped"]] == ["a.mp4", "b.mp4"]
    reasons = [clip["reason"] for clip in manifest["skipped"]]
    assert "PermissionError" in reasons[0] and r"a title\x1b[2J in Latin-1" in reasons[1]
    assert manifest["records"] == 1


def test_files_are_read_as_utf8_whatever_the_locale(tmp_path):
    data = video.encode(moving_square(), 10)
    folder_of(tmp_path, [("a.mp4", data, {})])
    os.rename(tmp_path / "a.mp4", os.fsencode(tmp_path) + "/\u732b.mp4".encode())
    line = {"file_name": "\u732b.mp4", "text": "tr\u00e8s bon", "label": "\u00e9"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line, ensure_ascii=False), "utf-8")
    code = (
        "from vplib.data import shards, sources\n"
        f"source = sources.FolderSource({str(tmp_path)!r}, name='mine', resolution=48)\n"
        "for _ in range(2):\n"  # the second time, the shard is known
        f"    shards.write(source, {str(tmp_path / 'out')!r}, shard_size=2, workers=0,"
        " max_skipped_fraction=0)\n"
        f"read = shards.Shards({str(tmp_path / 'out')!r})\n"
        "print(ascii([read[0].text, *read.manifest['statistics']['labels']]))"
    )
    plain = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONPATH": str(paths.ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True)
    assert ran.stdout == ascii(["tr\u00e8s bon", "\u00e9"]) + "\n", ran.stderr


def test_the_root_may_be_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.resolve("~/videos") == tmp_path / "videos"
    assert sources.resolve("data/videos") == paths.ROOT / "data/videos"
    assert sources.resolve("/videos") == Path("/videos")
    with pytest.raises(
        sources.SourceError, match="data.root=~nobody-here/a: there is no such user"
    ):
        sources.resolve("~nobody-here/a")


def test_the_fingerprint_follows_captions_videos_and_size(tmp_path):
    data = video.encode(moving_square(), 10)
    entry = ("a.mp4", data, {"text": "a clip"})
    first = source_of(folder_of(tmp_path / "one", [entry])).fingerprint
    assert source_of(folder_of(tmp_path / "copy", [entry])).fingerprint == first
    other_text = folder_of(tmp_path / "text", [("a.mp4", data, {"text": "another"})])
    other_video = folder_of(tmp_path / "video", [("a.mp4", data[:-1] + b"x", {"text": "a clip"})])
    assert len({first, source_of(other_text).fingerprint, source_of(other_video).fingerprint}) == 3
    assert sources.FolderSource(tmp_path / "one", name="mine", resolution=24).fingerprint != first


def test_video2dataset_archives_give_clips_with_captions_from_json_or_text(tmp_path):
    data = video.encode(moving_square(), 10)
    webm = make(moving_square(), codec="libvpx-vp9", container="webm")
    about = {"key": "1", "caption": "from json", "url": "u", "label": 3}
    tar_of(
        tmp_path / "00000.tar",
        {"0.mp4": data, "0.txt": b"from text\n", "0.json": json.dumps(about).encode()},
    )
    members = {
        "1.mp4": data,
        "1.json": json.dumps(about).encode(),
        "2.txt": b"no video",
        "v.2.webm": webm,
    }
    tar_of(
        tmp_path / "00001.tar",
        {**members, "v.2.txt": b"two dots", "3.mp4": data, "4.mp4": data, "4.json": b"[1"},
    )
    source = pickle.loads(
        pickle.dumps(sources.WebDatasetSource(tmp_path, name="web", resolution=48))
    )
    assert [source[index].text for index in range(3)] == ["from json", "from json", "two dots"]
    assert source[0].video == data and source[0].meta["file_name"] == "00000.tar/0.mp4"
    assert source[1].meta | {"key": "1", "url": "u", "label": 3, "frames": 12} == source[1].meta
    assert "caption" not in source[0].meta
    assert av.open(io.BytesIO(source[2].video)).streams.video[0].codec_context.name == "h264"
    manifest = write(source, tmp_path / "out")
    assert manifest["records"] == 3
    assert [entry["file"] for entry in manifest["skipped"]] == [
        "00001.tar/3.mp4",
        "00001.tar/4.mp4",
    ]
    assert (
        "no caption" in manifest["skipped"][0]["reason"]
        and "unreadable" in manifest["skipped"][1]["reason"]
    )


def test_bad_archives_are_named(tmp_path):
    def complain():
        with pytest.raises(sources.SourceError) as caught:
            sources.WebDatasetSource(tmp_path, name="web", resolution=48)
        return str(caught.value)

    assert "holds no .tar files" in complain()
    with pytest.raises(sources.SourceError, match="this is no tar file"):
        sources.WebDatasetSource(tmp_path / ("x" * 300), name="web", resolution=48)
    path = tar_of(tmp_path / "0.tar", {"0.txt": b"no video"})
    assert "hold no videos" in complain()
    tar_of(path, {"0.txt": b"a clip", "0.mp4": video.encode(moving_square(40), 10)})
    path.write_bytes(path.read_bytes()[:2500])
    assert f"{path}: the tar file cannot be read" in complain()
    path.write_bytes(b"not an archive" * 100)
    assert f"{path}: the tar file cannot be read" in complain()
    path.unlink()
    os.mkfifo(path)
    assert f"{path}: this is no tar file" in complain()


def raw_member(name, size, **fields):
    """A tar header that may say anything, and no data."""
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def test_a_member_of_negative_size_does_not_read_for_ever(tmp_path):
    (tmp_path / "0.tar").write_bytes(raw_member("0.mp4", -512) + bytes(1024))
    with pytest.raises(sources.SourceError, match=r"0.tar: the tar file .*-512 bytes.*again\.$"):
        sources.WebDatasetSource(tmp_path, name="web", resolution=48)


def test_files_that_macos_adds_to_archives_are_no_data(tmp_path):
    members = {"._0.mp4": b"notes", "0.mp4": b"a video", "._0.txt": b"notes", "0.txt": b"a clip"}
    tar_of(tmp_path / "0.tar", members | {"sub/._1.mp4": b"notes"})
    (tmp_path / "._0.tar").write_bytes(b"notes")
    source = sources.WebDatasetSource(tmp_path, name="web", resolution=48)
    assert len(source) == 1 and source.texts() == ["a clip"]


def test_members_beside_a_video_are_read_as_they_were_meant(tmp_path):
    mark = codecs.BOM_UTF8
    members = {
        "0.json": mark + b'{"caption": "from json"}',
        "0.txt": mark + b" \n",
        "1.txt": mark + b"a clip",
        "1.cls": b"3\n",
        "2.json": b'{"label": " cat "}',
        "2.cls": b"3",
    }
    path = tar_of(tmp_path / "0.tar", members | {f"{index}.mp4": b"video" for index in range(3)})
    source = sources.WebDatasetSource(path, name="web", resolution=48)
    known = [source.original(index)[1] for index in range(3)]
    assert [meta["text"] for meta in known] == ["from json", "a clip", None]
    assert [meta.get("label") for meta in known] == [None, 3, "cat"]


@pytest.mark.parametrize(
    ("member", "data", "expected"),
    [
        ("a.json", b'[["caption", "a clip"], [1, "one"]]', ".json (is no JSON object"),
        ("a.json", b"[" * 100_000, ".json (is not valid JSON"),
        ("a.json", b'{"caption": "\\ud83d"}', ".json (cannot be stored"),
        ("a.json", b'{"caption": "a clip", "views": 18446744073709551616}', "out of range"),
        ("a.json", b'{"caption": "a clip", "label": ""}', ".json (has an empty `label`)"),
        ("a.cls", b"cat", ".cls (invalid"),
        ("a.cls", b"18446744073709551616", ".cls (Integer value out of range)"),
        ("a.txt", b"caf\xe9", ".txt ("),
    ],
)
def test_an_unreadable_member_leaves_out_its_clip(tmp_path, member, data, expected):
    path = tar_of(tmp_path / "0.tar", {"a.mp4": b"a video", "a.txt": b"a clip", member: data})
    source = sources.WebDatasetSource(path, name="web", resolution=48)
    for use in (source.original, source.__getitem__):
        with pytest.raises(video.VideoError) as caught:
            use(0)
        assert caught.value.name == "0.tar/a.mp4" and expected in caught.value.problem
    assert source.texts() == []


def test_hostile_members_are_named_or_ignored_and_nothing_leaves_the_folder(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"a secret")
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in/0.tar", {"../up.mp4": b"up", str(tmp_path / "root.mp4"): b"root"})
    with tarfile.open(tmp_path / "in/0.tar", "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link{kind[0]}.mp4")
            info.type, info.linkname = kind, str(secret)
            tar.addfile(info)
    data = (tmp_path / "in/0.tar").read_bytes().rstrip(b"\0")
    data += bytes(-len(data) % 512) + raw_member("caf\udce9.mp4", 0)
    data += raw_member("holes.mp4", 0, type=tarfile.GNUTYPE_SPARSE) + bytes(1024)
    (tmp_path / "in/0.tar").write_bytes(data)
    source = sources.WebDatasetSource(tmp_path / "in", name="web", resolution=48)
    found = {source._samples[index].name: index for index in range(len(source))}
    assert [*found] == [
        "0.tar/../up.mp4",
        f"0.tar/{tmp_path}/root.mp4",
        r"0.tar/caf\xe9.mp4",
        "0.tar/holes.mp4",
    ]
    assert source.original(0)[0] == b"up"
    with pytest.raises(video.VideoError, match="holes.mp4: .* a sparse file"):
        source.original(3)
    (tmp_path / "in/0.tar").unlink()
    (tmp_path / "in").rmdir()
    assert sorted(tmp_path.rglob("*")) == before


@needs_clips
def test_real_clips_become_shards_that_decode_as_their_captions_say(tmp_path):
    manifest = write(sources.FolderSource(CLIPS, "val", name="clips", resolution=144), tmp_path)
    told = {
        line["file"]: line
        for line in map(json.loads, (CLIPS / "captions.jsonl").read_text().splitlines())
    }
    read = shards.Shards(tmp_path)
    assert manifest["skipped"] == [] and len(read) == sum(file.startswith("val/") for file in told)
    for index in range(0, len(read), 4):
        clip = read[index]
        facts = told["val/" + clip.meta["file_name"]]
        assert clip.meta["duration"] == pytest.approx(facts["duration"], rel=0.02)
        assert clip.meta["frames"] == facts["frames"]
        assert min(clip.meta["width"], clip.meta["height"]) == min(
            facts["width"], facts["height"], 144
        )
        assert len(video.decode(clip.video, name="clip").frames) == facts["frames"]


@pytest.mark.parametrize("line", ['{"x": ' + "[" * 300 + "]" * 300 + "}", '{"x": 1e999}'])
def test_lines_that_no_process_can_be_sent_or_no_json_can_hold_are_named(tmp_path, line):
    entry = json.loads('{"file_name": "a.mp4", "text": "a clip"}')
    folder_of(tmp_path, [("a.mp4", video.encode(moving_square(), 10), entry)])
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write(line.replace("{", '{"file_name": "a.mp4", "text": "b", ', 1) + "\n")
    assert "metadata.jsonl, line 2: " in complaint(tmp_path)
