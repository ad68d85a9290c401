"""One video of any length: what its windows are, show and cost, and which of them are peaks."""

import tracemalloc

import numpy as np
import pytest
from test_video import make, moving_square
from test_windows import FPS, Videos, run, shown

from vplib.data import pipeline, stream, video
from vplib.data.video import VideoError
from vplib.evaluate import over_time
from vplib.model.checkpoints import CheckpointError


@pytest.mark.parametrize("length, stride", [(2.0, 2.0), (2.0, 0.7), (1.5, 1.5), (2.0, 5.0)])
@pytest.mark.parametrize("seconds", [0.04, 1.0, 2.0, 3.99, 4.0, 60.03, 3599.996])
def test_windows_cover_a_video_of_any_length(seconds, length, stride):
    times = over_time.cover(seconds, length, stride)
    assert times[0, 0] == 0 and times[-1, 1] <= seconds + 1e-6
    np.testing.assert_allclose(np.diff(times, axis=1), min(length, seconds))
    assert (np.diff(times[:, 0]) > 0).all()
    regular = times[: len(times) - 1 if stride <= length else None, 0]
    np.testing.assert_allclose(regular, np.arange(len(regular)) * stride)
    if stride <= length:  # no gaps, to the end
        assert (times[1:, 0] <= times[:-1, 1] + 1e-6).all()
        assert times[-1, 1] == pytest.approx(seconds)
    elif seconds >= length:
        assert seconds - times[-1, 0] < stride + length


def along(source, **change):
    settings = dict(length=2.0, stride=1.0, frames=4, size=8, batch=3)
    given = dict(name="a.mp4", encoder="frames") | settings | change
    return over_time.along(shown, source, **given)


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("length, stride", [(2.0, 1.0), (2.0, 2.0), (1.0, 0.25), (1.0, 1.5)])
def test_streaming_shows_what_decoding_a_whole_video_shows(tmp_path, length, stride, batch):
    source = Videos(40)
    whole = run(source, tmp_path, length=length, stride=stride)
    found = along(source.original(0)[0], length=length, stride=stride, batch=batch)
    expected = whole.values["frames"][0]
    assert (found.values[: len(expected)] == expected).all()
    assert (found.times[: len(expected), 0] == whole.starts[0]).all()
    assert found.seconds == whole.ends[0] == 5


@pytest.mark.parametrize(
    "codec, container, pixels",
    [
        ("libx264", "mp4", "yuv420p"),
        ("libx264", "mpegts", "yuv420p"),
        ("mjpeg", "avi", "yuvj420p"),
    ],
)
@pytest.mark.parametrize("resolution", [None, 20])
def test_a_video_that_is_one_window_is_seen_as_it_is_at_once(codec, container, pixels, resolution):
    file = make(moving_square(12), codec=codec, container=container, pixels=pixels)
    seen, view = [], dict(name="a", frames=4, size=16, resolution=resolution)
    for length in (60.0, 1.2):
        found = over_time.along(
            lambda clips: seen.append(clips) or np.zeros((len(clips), 1)),
            file,
            encoder="none",
            length=length,
            stride=length,
            batch=1,
            **view,
        )
        assert found.times.round(6).tolist() == [[0, 1.2]]
    expected = pipeline.read_clip(file, **view)
    assert len(seen) == 2 and all((clips[0] == expected).all() for clips in seen)
    assert found.film.shape == (12, 16, 16, 3) and (found.film[1] == expected[0]).all()


def test_the_end_of_a_video_is_seen():
    found = along(Videos(37).original(0)[0], stride=2.0)  # 4.625 s
    assert found.times.tolist() == [[0, 2], [2, 4], [2.625, 4.625]]
    assert found.values[-1].tolist() == [23, 27, 31, 35]


def test_no_more_than_two_batches_are_read_before_one_is_encoded(monkeypatch):
    """A window is 4 frames of its own; the next batch is read while one is encoded."""
    read, calls, picked = [], [], stream.picked_frames

    def counted(*words, **settings):
        for frame in picked(*words, **settings):
            read.append(1)
            yield frame

    def encode(clips):
        calls.append(len(read))
        return shown(clips)

    monkeypatch.setattr(stream, "picked_frames", counted)
    monkeypatch.setattr(over_time, "FILM", 1)
    grey = [np.full((16, 16, 3), 6 * (k % 40), np.uint8) for k in range(400)]
    view = dict(length=2.0, stride=2.0, frames=4, size=8, batch=2)
    over_time.along(encode, video.encode(grey, FPS), name="a", encoder="a", **view)
    assert len(calls) == 13 and len(read) == 101
    assert all(count <= 1 + 4 * 2 * (k + 2) for k, count in enumerate(calls))


def test_memory_does_not_grow_with_the_length_of_a_video():
    def most(frames):
        file = video.encode((np.full((64, 64, 3), k % 250, np.uint8) for k in range(frames)), FPS)
        view = dict(length=2.0, stride=1.0, frames=8, size=64, batch=2)
        tracemalloc.start()
        over_time.along(lambda clips: clips[:, 0, 0, 0], file, name="a", encoder="a", **view)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(64)  # what is loaded once
    short, long = most(160), most(1600)
    clip = 8 * 64 * 64 * 3
    assert long - short < 8 * clip  # of 180 windows more


def test_damage_on_the_way_and_numbers_that_are_not_finite_are_told():
    frames = np.random.default_rng(0).integers(0, 255, (80, 48, 64, 3), np.uint8)
    data = bytearray(make(frames, options={"g": "5", "bf": "0"}))
    start = data.index(b"mdat") + len(data) // 2
    data[start : start + 2000] = bytes(2000)
    with pytest.raises(VideoError, match=r"^a\.mp4: "):
        along(bytes(data))
    with pytest.raises(VideoError, match="no.mp4: is not a readable video"):
        along(b"no video", name="no.mp4")
    with pytest.raises(CheckpointError, match="of a.mp4 that are not finite"):
        over_time.along(
            lambda clips: np.full(len(clips), np.nan),
            Videos(40).original(0)[0],
            name="a.mp4",
            encoder="it",
            length=2.0,
            stride=2.0,
            frames=4,
            size=8,
            batch=1,
        )


def test_a_file_that_shows_fewer_frames_than_it_says_is_refused():
    file, picked = Videos(16).original(0)[0], np.array([3, 3, 15, 16])
    found = stream.picked_frames(file, picked[[0, 2]], name="a")
    assert [round(frame.mean() / 6) for frame in found] == [3, 15]
    with pytest.raises(VideoError, match="a: ends before frame 16 of its index; replace"):
        list(stream.picked_frames(file, picked[2:], name="a"))


def test_peaks_are_the_best_windows_of_their_surroundings():
    times = over_time.cover(12.0, 2.0, 1.0)  # 11 windows
    values = np.array([0, 1, 2, 9, 8, 1, 0, 3, 3, 0, 5.0])
    assert over_time.peaks(times, values, most=9).tolist() == [3, 10, 7]
    assert over_time.peaks(times, values, most=2).tolist() == [3, 10]
    assert over_time.peaks(times[:1], values[:1], most=3).tolist() == [0]
    apart = over_time.cover(22.0, 2.0, 2.0)  # here 8 is no peak: its neighbour is 9
    assert over_time.peaks(apart, values, most=9).tolist() == [3, 10, 7]
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.random(11)
        found = over_time.peaks(times, values, most=11)
        assert found[0] == values.argmax() and (np.diff(values[found]) < 0).all()
        assert (np.diff(np.sort(found)) >= 2).all()
