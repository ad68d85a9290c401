"""Your own videos as sources: what is kept, what is encoded anew, and what is said about bad folders."""

import io
import json
import pickle
import tarfile

import av
import pytest
from test_video import CLIPS, make, make_sound, moving_square, needs_clips

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
    return sources.FolderSource(root, split, name="mine", max_side=48)


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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"file_name": "a.mp4", "text": "no end', "not valid JSON"),
        ('["a.mp4", "a caption"]', "no `file_name`"),
        ('{"text": "a caption"}', "no `file_name`"),
        ('{"file_name": "a.mp4"}', "no `text`"),
        ('{"file_name": "a.mp4", "text": " "}', "no `text`"),
        ('{"file_name": "gone.mp4", "text": "a caption"}', "'gone.mp4' is not there"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, line, expected):
    root = folder_of(tmp_path, [("a.mp4", video.encode(moving_square(), 10), {"text": "a clip"})])
    with (root / "metadata.jsonl").open("a") as file:
        file.write(line + "\n")
    message = complaint(root)
    assert message.startswith(f"{root / 'metadata.jsonl'}, line 2: ") and expected in message


def test_the_fingerprint_follows_captions_videos_and_size(tmp_path):
    data = video.encode(moving_square(), 10)
    entry = ("a.mp4", data, {"text": "a clip"})
    first = source_of(folder_of(tmp_path / "one", [entry])).fingerprint
    assert source_of(folder_of(tmp_path / "copy", [entry])).fingerprint == first
    other_text = folder_of(tmp_path / "text", [("a.mp4", data, {"text": "another"})])
    other_video = folder_of(tmp_path / "video", [("a.mp4", data[:-1] + b"x", {"text": "a clip"})])
    assert len({first, source_of(other_text).fingerprint, source_of(other_video).fingerprint}) == 3
    assert sources.FolderSource(tmp_path / "one", name="mine", max_side=24).fingerprint != first


def test_video2dataset_archives_give_clips_with_captions_from_text_or_json(tmp_path):
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
    source = pickle.loads(pickle.dumps(sources.WebDatasetSource(tmp_path, name="web", max_side=48)))
    assert [source[index].text for index in range(3)] == ["from text", "from json", "two dots"]
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
            sources.WebDatasetSource(tmp_path, name="web", max_side=48)
        return str(caught.value)

    assert "holds no .tar files" in complain()
    path = tar_of(tmp_path / "0.tar", {"0.txt": b"no video"})
    assert "hold no videos" in complain()
    tar_of(path, {"0.txt": b"a clip", "0.mp4": video.encode(moving_square(40), 10)})
    path.write_bytes(path.read_bytes()[:2500])
    assert f"{path}: the tar file cannot be read" in complain()
    path.write_bytes(b"not an archive" * 100)
    assert f"{path}: the tar file cannot be read" in complain()


@needs_clips
def test_real_clips_become_shards_that_decode_as_their_captions_say(tmp_path):
    manifest = write(sources.FolderSource(CLIPS, "val", name="clips", max_side=144), tmp_path)
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
