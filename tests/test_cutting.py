"""Clips out of long videos are the frames that decoding all of it shows there, and cost no more."""

import builtins
import gc
import json
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from test_extras import benchmark
from test_video import make, moving_square

from vplib.data import container, cutting, shards, sources, video
from vplib.data.cutting import Cuts, LongVideo, Stretch

FRAMES = 60  # 6 s at 10 frames a second


def numbered(count=FRAMES, height=48, width=64):
    """Frames that say their number in the brightness of 8 stripes, so that none can be mistaken."""
    frames = np.full((count, height, width, 3), 60, np.uint8)
    for index in range(count):
        for bit in range(8):
            frames[index, :, 8 * bit : 8 * bit + 8] = 220 if index >> bit & 1 else 30
    return frames


def numbers(frames):
    found = [
        [frame[8:-8, 8 * bit + 2 : 8 * bit + 6].mean() > 120 for bit in range(8)]
        for frame in frames
    ]
    return [sum(bit << place for place, bit in enumerate(bits)) for bits in found]


KINDS = {  # codec, container, options: many key frames, few, B-frames, open groups of pictures
    "h264": ("libx264", "mp4", {"g": "12", "bf": "3"}),
    "open": ("libx264", "matroska", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "long": ("libx264", "mp4", {"g": "250"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "20", "deadline": "realtime", "cpu-used": "8"}),
    "mpeg4": ("mpeg4", "avi", {"g": "12"}),
}


def film(tmp_path, kind="h264", **options):
    codec, format_, coding = KINDS[kind]
    path = tmp_path / f"{kind}.{format_}"
    path.write_bytes(
        make(numbered(), codec=codec, container=format_, options={**coding, **options})
    )
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_the_frames_that_lie_between_its_times(tmp_path, kind):
    path = film(tmp_path, kind)
    whole = video.decode(path, name="film")
    long = LongVideo(path, name="film")
    assert long.times.tolist() == whole.times.tolist() and long.end == whole.end
    for start, end in [
        (3.05, 3.95),
        (0.0, 0.5),
        (5.5, 99.0),
        (1.2, 2.4),
        (3.0, 3.0001),
        (0.3, 0.6),
    ]:
        data, facts = long.cut(Stretch(start, end, False), name="clip", resolution=48)
        inside = np.flatnonzero((whole.times >= start - 1e-6) & (whole.times < end - 1e-6))
        assert numbers(video.decode(data, name="clip").frames) == inside.tolist()
        assert facts["frames"] == len(inside) and facts["fps"] == pytest.approx(10, rel=1e-3)
    long.close()


def test_a_clip_between_two_frames_is_the_one_on_show(tmp_path):
    long = LongVideo(film(tmp_path), name="film")
    data, facts = long.cut(Stretch(3.02, 3.08, False), name="clip", resolution=48)
    assert numbers(video.decode(data, name="clip").frames) == [30] and facts["frames"] == 1
    long.close()


def test_numbers_of_frames_are_exact(tmp_path):
    long = LongVideo(film(tmp_path), name="film")
    data, facts = long.cut(Stretch(7, 12, True), name="clip", resolution=24)
    assert numbers(video.decode(data, name="clip", resolution=48, enlarge=True).frames) == [
        *range(7, 12)
    ]
    assert (facts["width"], facts["height"], facts["duration"]) == (32, 24, 0.5)
    long.close()


def test_a_frame_that_stays_ends_with_its_clip(tmp_path):
    path = tmp_path / "slides.mp4"
    path.write_bytes(make(numbered(3), times=[0, 2000, 9000], last=1000))
    long = LongVideo(path, name="slides")
    for start, end, seconds in [(3.0, 4.5, 1.5), (0.0, 4.5, 4.5), (1.0, 99.0, long.end - 2.0)]:
        facts = long.cut(Stretch(start, end, False), name="clip", resolution=48)[1]
        assert facts["duration"] == pytest.approx(seconds, abs=0.2)
    long.close()


def test_what_lies_behind_the_end_is_named(tmp_path):
    long = LongVideo(film(tmp_path), name="film")
    for stretch in (Stretch(6.0, 7.0, False), Stretch(60, 61, True)):
        with pytest.raises(video.VideoError, match=r"begins behind the end of the file \(6.00 s\)"):
            long.cut(stretch, name="clip", resolution=48)
    long.close()


def test_damage_leaves_out_the_clips_that_it_touches(tmp_path):
    path = film(tmp_path, "h264")
    data = bytearray(path.read_bytes())
    begun = data.index(b"mdat")
    middle = begun + int.from_bytes(data[begun - 4 : begun], "big") // 2
    data[middle : middle + 60] = bytes(60)
    path.write_bytes(bytes(data))
    cuts, good = Cuts(resolution=48, max_pixels=video.PIXELS), 0
    for start in range(6):
        try:
            clip, _ = cuts.cut(
                path, Stretch(float(start), start + 1.0, False), name=f"clip {start}"
            )
        except video.VideoError as error:
            assert error.name == f"clip {start}"
        else:
            assert numbers(video.decode(clip, name="clip").frames) == [
                *range(10 * start, 10 * start + 10)
            ]
            good += 1
    assert 1 <= good < 6


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"start": 3, "end": 3}, "`start` 3 and `end` 3 must be seconds with 0 <= start < end"),
        ({"start": -1, "end": 3}, "must be seconds"),
        ({"start": "00:01", "end": 3}, "must be seconds"),
        ({"start": True, "end": 3}, "must be seconds"),
        ({"end": 0}, "must be seconds"),
    ],
)
def test_times_that_no_video_has_are_named_with_their_line(tmp_path, times, expected):
    with pytest.raises(sources.SourceError, match=r"metadata.jsonl, line 1: ") as caught:
        source_of(folder_of(tmp_path, [times]))
    assert expected in str(caught.value)


def folder_of(root, parts, name="film.mp4"):
    """A corpus of clips of one film, six seconds of numbered frames."""
    root.mkdir(exist_ok=True)
    if not (root / name).exists():
        (root / name).write_bytes(make(numbered(), options={"g": "12", "bf": "3"}))
    lines = [
        json.dumps({"file_name": name, "text": f"clip {n}", **part}) for n, part in enumerate(parts)
    ]
    with (root / "metadata.jsonl").open("a") as file:
        file.write("\n".join(lines) + "\n")
    return root


def source_of(root):
    return sources.FolderSource(root, name="films", resolution=24)


def test_lines_with_times_become_clips_and_others_the_file(tmp_path):
    parts = [
        {"start": 1.0, "end": 2.0, "duration": 6.0},
        {"start": 5},
        {"start": None, "end": None},
        {},
    ]
    source = source_of(folder_of(tmp_path, parts))
    first = source[0]
    assert first.text == "clip 0" and (first.meta["start"], first.meta["end"]) == (1.0, 2.0)
    assert first.meta["duration"] == 1.0 and first.meta["given"] == {"duration": 6.0}
    assert min(first.meta["width"], first.meta["height"]) == 24
    assert [source[n].meta["frames"] for n in range(4)] == [10, 10, 60, 60]
    original, meta = source.original(0)
    assert original == first.video and meta["text"] == "clip 0"
    assert source.original(2)[0] == tmp_path / "film.mp4"
    assert sources.seconds(source)[0] == 1.0 and sources.seconds(source)[-1] == pytest.approx(6.0)
    assert source.texts() == [f"clip {n}" for n in range(4)]


def test_the_fingerprint_follows_the_times(tmp_path):
    one = source_of(folder_of(tmp_path / "a", [{"start": 1.0, "end": 2.0}])).fingerprint
    assert one == source_of(folder_of(tmp_path / "b", [{"start": 1.0, "end": 2.0}])).fingerprint
    assert one != source_of(folder_of(tmp_path / "c", [{"start": 1.0, "end": 2.5}])).fingerprint


def opens(monkeypatch):
    """Counts how often each file is opened, whoever does."""
    seen, path_open, plain = {}, Path.open, open

    def counted(path, *arguments, **options):
        seen[Path(path).name] = seen.get(Path(path).name, 0) + 1
        return path_open(Path(path), *arguments, **options)

    monkeypatch.setattr(Path, "open", counted)
    monkeypatch.setattr(container, "open", counted, raising=False)
    assert plain is open
    return seen


def test_a_film_of_many_clips_is_opened_twice_and_written_the_same_again(tmp_path, monkeypatch):
    for film_ in range(3):
        parts = [{"start": n / 20, "end": n / 20 + 0.4} for n in range(30)]
        folder_of(tmp_path / "in", parts, name=f"{film_}.mp4")
    with monkeypatch.context() as patched:
        seen = opens(patched)
        source = source_of(tmp_path / "in")
        settings = {"shard_size": 16, "max_skipped_fraction": 0}
        manifest = shards.write(source, tmp_path / "one", workers=0, **settings)
        assert manifest["records"] == 90
        assert {seen[f"{film_}.mp4"] for film_ in range(3)} == {2}  # hashed, and cut
    assert shards.write(source, tmp_path / "two", workers=2, **settings) == manifest
    read = shards.Shards(tmp_path / "one")
    for index in (0, 29, 30, 89):
        start = source.original(index)[1]["start"]
        found = numbers(
            video.decode(read[index].video, name="clip", resolution=48, enlarge=True).frames
        )
        assert found[0] == int(np.ceil(10 * start - 1e-6))


def test_the_benchmark_of_long_files_counts_what_is_opened(tmp_path):
    rows = {row["name"]: row["value"] for row in benchmark("long_files").measured(3, 24, tmp_path)}
    assert rows["opened"] == 2 and rows["speed"] > 0 and open is builtins.open
    assert len(shards.Shards(tmp_path / "shards")) == 24


def test_a_bad_film_is_opened_twice_too_and_leaves_out_its_clips_alone(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/bad.mp4").write_bytes(b"no video at all")
    folder_of(tmp_path / "in", [{"start": n, "end": n + 1} for n in range(5)], name="bad.mp4")
    folder_of(tmp_path / "in", [{"start": n, "end": n + 1} for n in range(5)], name="good.mp4")
    seen = opens(monkeypatch)
    manifest = shards.write(
        source_of(tmp_path / "in"),
        tmp_path / "out",
        shard_size=64,
        workers=0,
        max_skipped_fraction=0.5,
    )
    assert seen["bad.mp4"] == 2 and manifest["records"] == 5
    assert [one["file"] for one in manifest["skipped"]] == [
        f"bad.mp4 from {n} to {n + 1} s" for n in range(5)
    ]


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path):
    path = film(tmp_path)
    cuts = Cuts(resolution=48, max_pixels=video.PIXELS)
    clip = 3 * numbered(1).nbytes

    def held():
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    def cut(count):
        for n in range(count):
            cuts.cut(path, Stretch(n % 5 + 0.0, n % 5 + 0.3, False), name="clip")

    cut(6)
    gc.collect()
    gc.freeze()  # what other tests left
    tracemalloc.start()
    try:
        before = held()
        cut(60)
        assert held() - before < 10 * clip  # of 60
        tracemalloc.reset_peak()
        cut(1)
        assert tracemalloc.get_traced_memory()[1] - before < 20 * clip
    finally:
        tracemalloc.stop()
        gc.unfreeze()


def test_files_are_closed_again_and_a_source_can_be_sent_to_a_process(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(
        cutting.LongVideo,
        "close",
        lambda self, close=LongVideo.close: (closed.append(1), close(self)),
    )
    cuts = Cuts(resolution=24, max_pixels=video.PIXELS)
    data = video.encode(moving_square(), 10)
    for number in range(cutting.OPEN + 3):
        (tmp_path / f"{number}.mp4").write_bytes(data)
        cuts.cut(tmp_path / f"{number}.mp4", Stretch(0.0, 0.5, False), name="clip")
    assert len(closed) == 3 and len(cuts._open) == cutting.OPEN
    again = pickle.loads(pickle.dumps(cuts))
    stretch = Stretch(0.0, 0.5, False)
    assert again.cut(tmp_path / "0.mp4", stretch, name="x") == cuts.cut(
        tmp_path / "0.mp4", stretch, name="x"
    )
