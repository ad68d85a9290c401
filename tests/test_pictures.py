"""Folders of pictures are read as the videos that they were."""

import json

import numpy as np
import pytest
from miniatures import frames_of, seen
from PIL import Image

from vplib.data import pictures, shards, video
from vplib.data.sources import FolderSource, SourceError
from vplib.data.video import VideoError


def folder_of(place, count=14, **line):
    """A corpus of one folder of pictures, 1.jpg and so on."""
    inside = place / "train" / "ZG1.1"
    inside.mkdir(parents=True)
    for number, picture in enumerate(frames_of(3, count), 1):
        Image.fromarray(picture).save(inside / f"{number}.jpg", quality=95)
    (inside / ".hidden.jpg").write_bytes(b"")
    told = {"file_name": "ZG1.1", "text": "a zebra"} | line
    (place / "train" / "metadata.jsonl").write_text(json.dumps(told))
    return inside


def source_of(place):
    return FolderSource(place, "train", name="train", resolution=48)


def test_pictures_become_frames_in_the_order_of_their_numbers(tmp_path):
    folder_of(tmp_path)
    source = source_of(tmp_path)
    clip = source[0]
    shown = video.decode(clip.video, name="clip").frames
    parts = [seen(video.encode(shown[k : k + 1], 8.0)) for k in range(len(shown))]
    assert [frame for _, frame, _ in parts] == [*range(14)] and parts[0][0] == 3
    assert (clip.meta["fps"], clip.meta["frames"], clip.text) == (pictures.RATE, 14, "a zebra")
    assert source.seconds(0) == pytest.approx(14 / pictures.RATE)
    shards.write(source, tmp_path / "out", shard_size=2, workers=0, max_skipped_fraction=0)
    assert shards.Shards(tmp_path / "out")[0] == clip


@pytest.mark.parametrize(
    ("line", "first", "count"),
    [({"start": 2, "end": 5, "unit": "frame"}, 2, 3), ({"start": 0.2, "end": 0.4}, 6, 6)],
)
def test_a_stretch_of_pictures_is_a_clip(tmp_path, line, first, count):
    folder_of(tmp_path, **line)
    assert seen(source_of(tmp_path).original(0)[0]) == (3, first, count)


def test_other_pictures_are_another_corpus(tmp_path):
    inside = folder_of(tmp_path)
    before = source_of(tmp_path).fingerprint
    assert source_of(tmp_path).fingerprint == before
    (inside / "14.jpg").unlink()
    assert source_of(tmp_path).fingerprint != before


def test_bad_pictures_are_one_sentence(tmp_path):
    inside = folder_of(tmp_path, start=20, end=25, unit="frame")
    with pytest.raises(VideoError, match="begins behind the last picture of ZG1.1"):
        source_of(tmp_path)[0]
    (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "ZG1.1", "text": "x"}')
    Image.fromarray(np.zeros((16, 48, 3), np.uint8)).save(inside / "5.jpg")
    with pytest.raises(VideoError, match=r"pictures of several sizes \(5.jpg\)"):
        source_of(tmp_path)[0]
    (inside / "5.jpg").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"ZG1.1/5.jpg"):
        source_of(tmp_path)[0]
    for path in inside.iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="'ZG1.1' is not there"):
        source_of(tmp_path)
