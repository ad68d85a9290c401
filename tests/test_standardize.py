"""Any video becomes upright H.264 of a constant rate, its course of time kept, or is refused."""

import numpy as np
import pytest
from test_video import CLIPS, make, moving_square, needs_clips, odd_files

from vplib.data import standardize, video


def left_edges(frames):
    """Where the white square begins in each frame: its number."""
    return (frames[:, frames.shape[1] // 2].min(axis=2) > 150).argmax(axis=1)


def test_large_clips_are_scaled_down_to_the_side_asked_for():
    data, facts = standardize.standardize(
        video.encode(moving_square(), 10), name="a.mp4", resolution=24
    )
    assert (facts["width"], facts["height"], facts["frames"], facts["fps"]) == (32, 24, 12, 10)
    assert video.decode(data, name="a").frames.shape == (12, 24, 32, 3)
    assert (
        data
        == standardize.standardize(video.encode(moving_square(), 10), name="a.mp4", resolution=24)[
            0
        ]
    )


@pytest.mark.parametrize(
    "data",
    [
        make(moving_square(), codec="ffv1", container="matroska", pixels="bgr0"),
        make(moving_square(12, 49, 65), codec="libvpx-vp9", container="webm"),
        make(moving_square(), prepare=lambda stream: stream.set_display_rotation(180)),
    ],
    ids=["lossless", "odd size", "turned"],
)
def test_other_files_become_upright_h264_of_even_size(data):
    made, facts = standardize.standardize(data, name="a", resolution=480)
    seen = video.probe(made, name="a")
    assert seen.codec == "h264" and seen.plain and (seen.width, seen.height) == (64, 48)
    assert facts["frames"] == 12 and facts["fps"] == pytest.approx(10)
    before, after = (
        video.decode(data, name="before").frames[:, :48, :64],
        video.decode(made, name="after").frames,
    )
    assert np.abs(before.astype(int) - after).mean() < 8


def test_a_variable_frame_rate_becomes_constant_and_keeps_the_course_of_time():
    times = [0, 100, 200, 300, 800, 900, 1600]
    made, facts = standardize.standardize(
        make(moving_square(7), times=times), name="phone", resolution=48
    )
    decoded = video.decode(made, name="phone")
    assert (
        facts["fps"] == pytest.approx(10)
        and facts["frames"] == 17
        and facts["duration"] == pytest.approx(1.7)
    )
    np.testing.assert_allclose(np.diff(decoded.times), 0.1, atol=1e-3)
    # The left edge of the white square.
    squares = (decoded.frames[:, 24].min(axis=2) > 150).argmax(axis=1)
    assert squares[[0, 3, 7, 8, 9, 15, 16]].tolist() == [0, 3, 3, 4, 5, 5, 6]


def test_repeats_are_one_for_each_frame_at_a_constant_rate_despite_rounded_times():
    times = np.round(np.arange(1000) * 1001 / 15000, 3)  # as Matroska stores them
    assert (standardize.constant_rate_repeats(times, 1000 * 1001 / 15000, 15000 / 1001) == 1).all()


def test_a_single_frame_is_a_clip_and_a_tiny_picture_is_not():
    _, facts = standardize.standardize(video.encode(moving_square(1), 10), name="a", resolution=48)
    assert facts["frames"] == 1 and facts["duration"] == pytest.approx(0.1)
    with pytest.raises(video.VideoError, match="a: is only 2x2 pixels"):
        standardize.standardize(
            video.encode(np.zeros((3, 2, 2, 3), np.uint8), 10), name="a", resolution=48
        )


def test_repeats_follow_uneven_times_and_lose_none_of_the_slides():
    times = np.array([0.0, 3.0, 5.0, 9.0])
    assert standardize.constant_rate_repeats(times, 15.0, 1.0).tolist() == [3, 2, 4, 6]
    data = make(moving_square(4), times=[0, 3000, 5000, 9000], last=6000, options={"bf": "0"})
    made, facts = standardize.standardize(data, name="slides", resolution=48)
    assert facts["duration"] == pytest.approx(15)
    squares = left_edges(video.decode(made, name="slides").frames)
    assert sorted(set(squares)) == [0, 1, 2, 3]


@pytest.mark.parametrize("max_bytes", [video.MEMORY, 1])
def test_a_last_frame_that_stands_is_repeated(max_bytes):
    data = make(moving_square(12), last=5000, options={"bf": "0"})
    made, facts = standardize.standardize(data, name="held", resolution=48)
    assert (facts["frames"], facts["fps"]) == (61, pytest.approx(10))
    assert facts["duration"] == pytest.approx(6.1)
    decoded = video.decode(made, name="held", max_bytes=max_bytes)
    assert left_edges(decoded.frames[:]).tolist() == [*range(11), *[11] * 50]


def test_a_screen_that_hardly_changes_is_brought_to_a_bounded_rate():
    times = [second * 1000 + 17 * burst for second in range(0, 500, 100) for burst in range(6)]
    data = make(moving_square(30), times=times, last=100_000, options={"bf": "0"})
    made, facts = standardize.standardize(data, name="screen", resolution=16)
    assert facts["frames"] <= standardize.REPEATS * 30
    assert facts["duration"] == pytest.approx(500.1, abs=0.1)
    assert len(set(left_edges(video.decode(made, name="screen").frames))) >= 5  # of each burst


def test_frames_a_millisecond_apart_do_not_set_the_rate():
    times = [66 * pair + one for pair in range(40) for one in (0, 1)]
    data = make(moving_square(80, 48, 160), times=times, container="matroska", options={"bf": "0"})
    _, facts = standardize.standardize(data, name="pairs", resolution=48)
    assert facts["fps"] <= 61 and facts["duration"] == pytest.approx(2.6, abs=0.1)


@pytest.mark.parametrize(
    ("times", "last"), [([0, 100, 200, 900_000], None), ([0], 1_024_000), ([0, 601_000], 100)]
)
def test_times_that_cannot_be_true_are_refused_as_decoding_refuses_them(times, last):
    data = make(moving_square(len(times)), times=times, last=last)
    messages = []
    for use in (
        video.decode,
        lambda data, name: standardize.standardize(data, name=name, resolution=48),
    ):
        with pytest.raises(video.VideoError) as caught:
            use(data, name="a")
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "repair its timestamps" in messages[0]


def test_what_the_encoder_refuses_is_a_refusal_of_that_file():
    wide = np.zeros((2, 16, 17_000, 3), np.uint8)  # more than H.264 allows
    data = make(wide, codec="ffv1", container="matroska", pixels="bgr0")
    with pytest.raises(video.VideoError, match="^a: cannot be encoded .*; .*leave it out.$"):
        standardize.standardize(data, name="a", resolution=48)


def test_frames_larger_than_the_limit_are_refused():
    with pytest.raises(video.VideoError, match="more than data.max_pixels=3000;"):
        standardize.standardize(
            video.encode(moving_square(), 10), name="a", resolution=48, max_pixels=3000
        )


def test_frames_are_encoded_as_they_are_read(monkeypatch):
    """However long the video: no more than one frame is there at a time."""
    alive = []

    def stream(*args, **settings):
        for frame in video.stream_frames(*args, **settings):
            alive.append(1)
            yield frame
            alive.append(-1)

    def encode(frames, fps):
        for _ in frames:
            assert sum(alive) == 1
        return video.encode(moving_square(), fps)

    monkeypatch.setattr(standardize, "stream_frames", stream)
    monkeypatch.setattr(standardize, "encode", encode)
    standardize.standardize(video.encode(moving_square(40), 10), name="a", resolution=24)
    assert sum(map(abs, alive)) == 80


@needs_clips
@pytest.mark.parametrize("facts", odd_files, ids=[facts["file"] for facts in odd_files])
def test_odd_real_files_are_standardized_or_refused(facts):
    path, expected = CLIPS / facts["file"], facts["expected"]
    if expected["decodable"] != "yes" or expected["attached_pic"] or expected["display_width"] == 1:
        with pytest.raises(video.VideoError):
            standardize.standardize(path, name=facts["file"], resolution=96)
        return
    data, told = standardize.standardize(path, name=facts["file"], resolution=96)
    decoded = video.decode(data, name=facts["file"])
    assert decoded.frames.shape == (told["frames"], told["height"], told["width"], 3)
    assert min(told["width"], told["height"]) <= 96 and decoded.fps == pytest.approx(told["fps"])
    if facts["kind"] != "variable-frame-rate":
        assert told["frames"] == expected["frames_decoded"]
