"""Planted copies of evaluation clips are found, and clips that are none are not flagged."""

import json

import numpy as np
import pytest
from test_extras import benchmark
from test_shards import contents, write
from test_video import moving_square

from vplib.data import duplicates, shards, video
from vplib.data.video import VideoError
from vplib.world import corpora

PLANTED = benchmark("duplicates")


@pytest.fixture(scope="module")
def rows():
    """What the benchmark measures, of few clips."""
    clips, others = PLANTED.world(2)
    return {row["clips"]: row for row in PLANTED.measured("world", clips, others[::2])}


@pytest.mark.parametrize("kind", PLANTED.KINDS)
def test_planted_copies_are_found(rows, kind):
    assert rows[f"copies, {kind}"]["number"] == 8
    assert float(rows[f"copies, {kind}"]["copies_percent"]) == 100


def test_clips_that_are_no_copies_are_not_flagged(rows):
    assert rows["others, of a pretraining corpus"]["number"] == 20
    assert float(rows["others, of a pretraining corpus"]["dropped_percent"]) == 0


def test_shift_and_part_of_a_copy_are_those_that_were_planted():
    frames = corpora.render(corpora.scene("motion/test", 0), resolution=64, frames=24)
    there = duplicates.pictures(video.encode(frames[:16], 8.0), name="a", rate=duplicates.RATE)
    copy = video.encode(frames[4:20, 8:60, 2:54], 8.0)
    found = duplicates.Evaluation([there]).match(duplicates.pictures(copy, name="b", rate=4.0))
    assert found.clip == 0 and found.score > 0.95
    assert found.shift == pytest.approx(0.5, abs=0.07)
    assert found.part == pytest.approx((8 / 64, 2 / 64, 52 / 64, 52 / 64), abs=0.03)


def test_pictures_average_what_frames_show():
    frames = np.zeros((3, 48, 96, 3), np.uint8)
    frames[:, :, 48:] = 255
    grey, times = duplicates.pictures(video.encode(frames, 4.0), name="a", rate=8.0)
    assert grey.shape == (3, duplicates.SIDE, duplicates.SIDE)
    assert grey[:, :, :14].max() < 3 and grey[:, :, 18:].min() > 252
    assert times.tolist() == [0.0, 0.25, 0.5]
    weights = duplicates.areas(0.25, 0.5, 10, 4)
    assert weights.sum(1) == pytest.approx(1) and weights @ np.arange(10) == pytest.approx(
        [2.625, 3.875, 5.125, 6.375], abs=0.2
    )


def test_frames_without_any_picture_match_nothing():
    black = duplicates.pictures(
        video.encode(np.zeros((8, 32, 32, 3), np.uint8), 8.0), name="a", rate=8.0
    )
    assert duplicates.Evaluation([black]).match(black) is None


def test_a_single_frame_of_an_evaluation_clip_is_a_copy_too():
    frames = corpora.render(corpora.scene("appearance/test", 1), resolution=64, frames=16)
    there = duplicates.pictures(video.encode(frames, 8.0), name="a", rate=duplicates.RATE)
    image = duplicates.pictures(video.encode(frames[9:10], 8.0), name="b", rate=4.0)
    found = duplicates.Evaluation([there]).match(image)
    assert found.still and not found.copy  # one picture says nothing of what happens


def test_the_same_scene_is_no_copy_where_something_else_happens():
    """As in two clips of one still camera."""
    ground = corpora.render(corpora.scene("motion/test", 0), resolution=64, frames=1)
    clips = np.repeat(ground[None], 3, axis=0).repeat(16, axis=1)
    for frame in range(16):
        clips[0, frame, 40:52, 2 * frame : 2 * frame + 12] = 255  # to the right
        clips[1, frame, 40:52, 40 - 2 * frame : 52 - 2 * frame] = 255  # to the left
    there, other, still = (
        duplicates.pictures(video.encode(clip, 8.0), name="a", rate=duplicates.RATE)
        for clip in clips
    )
    evaluation = duplicates.Evaluation([there])
    assert evaluation.match(there).copy and not evaluation.match(other).copy
    assert evaluation.match(other).score > duplicates.COPY  # which alone would not tell
    found = duplicates.Evaluation([still]).match(still)
    assert found.moving is None and found.still and not found.copy
    assert not evaluation.match(still).still and not evaluation.match(still).copy  # one moves


def test_two_takes_of_one_act_are_no_copies():
    """As of two people who do the same before one wall: what is where agrees, each change does not."""
    rng = np.random.default_rng(0)
    ground = corpora.render(corpora.scene("motion/test", 0), resolution=64, frames=1)[0]
    clips = np.repeat(ground[None, None], 2, axis=0).repeat(24, axis=1)
    for clip in clips:
        for frame in range(24):
            place = 2 * frame + int(rng.integers(-3, 4))
            clip[frame, 30:54, max(place, 0) : place + 16] = 255
    there, other = (
        duplicates.pictures(video.encode(clip, 8.0), name="a", rate=duplicates.RATE)
        for clip in clips
    )
    evaluation = duplicates.Evaluation([there])
    found = evaluation.match(other)
    assert found.score > duplicates.COPY and not found.copy and not found.still
    assert 0.3 < found.moving < duplicates.MOVING
    copy = evaluation.match(there)
    assert copy.copy and copy.moving > 0.95


def test_an_evaluation_clip_that_is_left_out_is_no_source():
    frames = [corpora.render(corpora.scene("motion/test", i), resolution=64) for i in range(2)]
    clips = [duplicates.pictures(video.encode(one, 8.0), name="a", rate=16.0) for one in frames]
    evaluation = duplicates.Evaluation([*clips, clips[0]])
    assert evaluation.match(clips[0]).copy and evaluation.match(clips[0], leave=[0]).clip == 2
    found = evaluation.match(clips[0], leave=[0, 2])
    assert found is None or not found.copy


class Videos:
    """A source of given videos."""

    def __init__(self, name, videos):
        self.name, self.videos, self.fingerprint = name, videos, str(len(videos))

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, index):
        meta = {"fps": 8.0, "frames": 16, "duration": 2.0}
        return shards.Clip(self.videos[index], f"clip {index}", meta)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A corpus whose clips 1 and 4 are of the evaluation, and the evaluation."""
    place = tmp_path_factory.mktemp("corpora")
    test = [corpora.render(corpora.scene("motion/test", i), resolution=32) for i in range(3)]
    train = [corpora.render(corpora.scene("ac1", i), resolution=32) for i in range(6)]
    train[1], train[4] = test[2], test[0][:, 2:30, 2:30]
    for name, frames in (("train", train), ("val", test)):
        source = Videos(name, [video.encode(one, 8.0) for one in frames])
        write(source, place / name, shard_size=4)
    return place


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["duplicates", *map(str, words)])
    duplicates.main()


def test_the_command_drops_copies_beside_the_shards_and_nothing_twice(
    prepared, monkeypatch, capsys
):
    train, before = prepared / "train", contents(prepared / "train")
    run(monkeypatch, train, "--against", prepared / "val")
    assert "2 of 6 clips dropped by duplicates; the tables of 2 shards" in capsys.readouterr().out
    tables = {name: data for name, data in contents(train).items() if name not in before}
    assert sorted(tables) == [f"train-0000{n}-of-00002.duplicates.json" for n in (0, 1)]
    first = json.loads(tables["train-00000-of-00002.duplicates.json"])
    assert [(one["record"], one["of"]) for one in first["dropped"]] == [(1, "val[2]")]
    kept = shards.Shards(train)
    assert [kept[i].text[-1] for i in range(len(kept))] == [*"0235"]
    assert kept.dropped == {1: ["duplicates"], 4: ["duplicates"]}

    def refuse(*_):
        raise AssertionError("decided twice")

    with monkeypatch.context() as patch:
        patch.setattr(duplicates.Duplicates, "__call__", refuse)
        run(patch, train, "--against", prepared / "val")
    assert "the tables of 0 shards are new" in capsys.readouterr().out
    assert contents(train).keys() == before.keys() | tables.keys()
    run(monkeypatch, prepared / "val", "--against", train)  # nothing of it is left in train
    assert "0 of 3 clips dropped" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_corpus_that_is_not_there_is_one_sentence(prepared, monkeypatch, missing):
    place = {"train": prepared / "train", "val": prepared / "val", missing: prepared / "gone"}
    with pytest.raises(SystemExit, match=r"^error: .*gone: there is no finished corpus"):
        run(monkeypatch, place["train"], "--against", place["val"])


def test_an_evaluation_clip_that_cannot_be_decoded_ends_the_step(prepared, tmp_path, monkeypatch):
    write(Videos("bad", [b"no video", video.encode(moving_square(), 8.0)]), tmp_path / "bad")
    with pytest.raises(VideoError, match=r"bad\[0\]"):
        duplicates.Duplicates([tmp_path / "bad"])
    with pytest.raises(SystemExit, match=r"error: bad\[0\]"):
        run(monkeypatch, prepared / "train", "--against", tmp_path / "bad")


def test_windows_of_one_recording_count_as_one_draw_where_they_agree():
    assert PLANTED.interval([False] * 40, [f"{n % 4}" for n in range(40)])[1] == pytest.approx(
        0.602, abs=1e-3
    )  # as 0 of 4
    apart = PLANTED.interval([True] + [False] * 99, [f"{n}" for n in range(100)])
    assert apart == pytest.approx((0.00025, 0.0545), abs=1e-4)  # as 1 of 100
    low, high = PLANTED.interval([True] * 10 + [False] * 30, [f"{n // 10}" for n in range(40)])
    assert low < 0.02 and high > 0.75  # as about 1 of 4
