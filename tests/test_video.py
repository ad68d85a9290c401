"""Video decoding, sampling by time and encoding, on files made here and on odd real ones."""

import io
import json
import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from vplib.data import video

CLIPS = Path(__file__).parents[2] / "shared" / "clips"
ODD = CLIPS / "odd" / "manifest.jsonl"
odd_files = [json.loads(line) for line in ODD.read_text().splitlines()] if ODD.exists() else []
needs_clips = pytest.mark.skipif(not odd_files, reason="the folder of real clips is not here")


def moving_square(count=12, height=48, width=64):
    """Four coloured quarters, so that every turn shows, and a white square that moves one pixel a frame."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, : height // 2, : width // 2] = (200, 40, 40)
    frames[:, : height // 2, width // 2 :] = (40, 200, 40)
    frames[:, height // 2 :, : width // 2] = (40, 40, 200)
    for index in range(count):
        frames[index, 20:28, index : index + 8] = 255
    return frames


def make(
    frames,
    *,
    times=None,
    codec="libx264",
    container="mp4",
    pixels="yuv420p",
    prepare=lambda stream: None,
):
    """A video file; `times` are the milliseconds at which frames are shown, 100 ms apart by default."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for frame, time in zip(frames, times or range(0, 100 * len(frames), 100), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return file.getvalue()


def make_sound():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        sound.sample_rate = 16000
        output.mux(stream.encode(sound))
        output.mux(stream.encode())
    return file.getvalue()


def refusal(source, name="clip.mp4"):
    """The message of the refusal, after checking that it is one sentence that begins with the file's name."""
    with pytest.raises(video.VideoError) as caught:
        video.decode(source, name=name)
    message = str(caught.value)
    assert (
        message.startswith(f"{name}: ")
        and message.endswith(".")
        and "\n" not in message
        and "; " in message
    )
    return message


def test_encoding_gives_the_same_bytes_again_and_decoding_nearly_the_same_frames():
    frames = moving_square()
    data = video.encode(frames, 15)
    assert data == video.encode(iter(frames), 15)
    decoded = video.decode(data, name="clip")
    assert decoded.frames.shape == frames.shape and decoded.fps == 15
    np.testing.assert_allclose(decoded.times, np.arange(12) / 15, atol=1e-6)
    assert (
        np.abs(decoded.frames.astype(int) - frames).mean() < 6
    )  # lossy, and colour at half resolution


def test_what_was_in_memory_before_does_not_change_the_bytes():
    frames = (
        np.random.default_rng(0)
        .integers(0, 255, (12, 24, 40, 3), np.uint8)
        .repeat(4, 1)
        .repeat(4, 2)
    )
    seen = set()
    for rubbish in range(8):
        blocks = [
            np.full(size, 31 * rubbish, np.uint8) for size in (300, 4000, 9000, 50000, 130000) * 20
        ]
        del blocks[::2]
        seen.add(
            (
                video.encode(frames, 10),
                video.encode(frames[:, :34, :50], 10),
                video.encode(frames[:, :64, :64], 10),
            )
        )
    assert len(seen) == 1


def test_encoding_keeps_a_rate_that_is_no_whole_number():
    assert video.decode(
        video.encode(moving_square(), 30000 / 1001), name="clip"
    ).fps == pytest.approx(30000 / 1001)


@pytest.mark.parametrize(
    "frames", [np.zeros((2, 5, 4, 3), np.uint8), np.zeros((0, 4, 4, 3), np.uint8)]
)
def test_encoding_refuses_odd_sizes_and_no_frames(frames):
    with pytest.raises(ValueError, match="even sizes|no frames"):
        video.encode(frames, 10)


def test_bytes_and_paths_decode_alike_and_streaming_gives_the_same_frames(tmp_path):
    path = tmp_path / "ein Clip é.mp4"
    path.write_bytes(video.encode(moving_square(), 10))
    a, b = video.decode(path, name="a"), video.decode(path.read_bytes(), name="b")
    np.testing.assert_array_equal(a.frames, b.frames)
    times, frames = zip(*video.stream_frames(path, name="c"), strict=True)
    np.testing.assert_array_equal(a.frames, frames)
    np.testing.assert_array_equal(a.times, times)


def test_size_shrinks_the_shorter_side_and_never_enlarges():
    data = video.encode(moving_square(), 10)
    assert video.decode(data, name="clip", resolution=24).frames.shape == (12, 24, 32, 3)
    assert video.decode(data, name="clip", resolution=480).frames.shape == (12, 48, 64, 3)


def test_long_videos_are_thinned_evenly_to_the_memory_allowed():
    data = video.encode(moving_square(count=40), 10)
    decoded = video.decode(data, name="clip", max_bytes=12 * 48 * 64 * 3)
    assert 6 <= len(decoded.frames) <= 12 and decoded.fps == 10
    np.testing.assert_allclose(np.diff(decoded.times), 0.4, atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_and_mirror_flags_are_applied(degrees, mirrored):
    frames = moving_square(2)
    data = make(frames, prepare=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored))
    expected = np.rot90(frames, degrees // 90, axes=(1, 2))
    expected = expected[:, :, ::-1] if mirrored else expected
    decoded = video.decode(data, name="phone")
    assert decoded.frames.shape == expected.shape
    assert np.abs(decoded.frames.astype(int) - expected).mean() < 8
    facts = video.probe(data, name="phone")
    assert (facts.height, facts.width) == expected.shape[1:3] and facts.plain == (
        degrees == 0 and not mirrored
    )


def test_stretched_pixels_become_square():
    def stretch(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    data = make(moving_square(3), prepare=stretch)
    assert video.decode(data, name="dvd").frames.shape == (3, 48, 128, 3)
    assert not video.probe(data, name="dvd").plain


@pytest.mark.parametrize(
    ("codec", "container", "pixels", "height", "width"),
    [
        ("libx264", "mp4", "yuv420p10le", 48, 64),
        ("libx264", "mp4", "yuv444p", 97, 131),
        ("ffv1", "matroska", "gray", 48, 64),
        ("libvpx-vp9", "webm", "yuv420p", 97, 131),
        ("mjpeg", "avi", "yuvj420p", 48, 64),
    ],
)
def test_other_codecs_and_pixel_formats_become_rgb(codec, container, pixels, height, width):
    data = make(moving_square(5, height, width), codec=codec, container=container, pixels=pixels)
    decoded = video.decode(data, name="clip")
    assert decoded.frames.shape == (5, height, width, 3) and decoded.fps == pytest.approx(10)


def test_variable_frame_rate_keeps_the_times():
    times = [0, 100, 200, 900, 1000, 1700]
    decoded = video.decode(make(moving_square(6), times=times), name="clip")
    np.testing.assert_allclose(decoded.times, np.array(times) / 1000, atol=1e-3)


def test_one_frame_and_a_still_picture_are_videos_of_one_frame():
    one = video.decode(video.encode(moving_square(1), 10), name="one")
    assert one.frames.shape == (1, 48, 64, 3) and one.times.tolist() == [0.0]
    picture = make(moving_square(1), codec="png", container="image2pipe", pixels="rgb24")
    np.testing.assert_array_equal(
        video.decode(picture, name="picture.png").frames, moving_square(1)
    )


def test_files_that_are_no_video_are_refused():
    assert "0 bytes" in refusal(b"")
    assert "not a readable video" in refusal(b"This is a letter, not a film.\n" * 40)
    assert "no video stream" in refusal(make_sound())
    assert "git lfs pull" in refusal(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    )
    assert "check the path" in refusal(Path("nowhere/clip.mp4"))


def test_a_playlist_may_not_open_other_files(tmp_path):
    (tmp_path / "secret.mp4").write_bytes(video.encode(moving_square(), 10))
    playlist = (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{tmp_path / 'secret.mp4'}\n#EXT-X-ENDLIST\n"
    )
    refusal(playlist.encode())
    refusal(f"ffconcat version 1.0\nfile '{tmp_path / 'secret.mp4'}'\n".encode())


def test_cut_files_are_refused_wherever_the_index_is():
    frames = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    index_last = make(frames)
    assert "not a readable video" in refusal(index_last[: len(index_last) // 2])
    without_index_end = make(frames, container="matroska", codec="ffv1", pixels="bgr0")
    refusal(without_index_end[: len(without_index_end) // 2])


def test_overwritten_picture_data_is_refused():
    data = bytearray(
        video.encode(np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8), 10)
    )
    start = data.index(b"mdat") + len(data) // 3
    data[start : start + len(data) // 4] = bytes(len(data) // 4)
    refusal(bytes(data))


def test_errors_survive_the_way_back_from_another_process():
    error = pickle.loads(pickle.dumps(video.VideoError("a.mp4", "is bad", "leave it out")))
    assert (
        str(error) == "a.mp4: is bad; leave it out."
        and error.name == "a.mp4"
        and error.problem == "is bad"
    )


def test_uniform_indices_take_the_middle_of_equal_stretches_of_time():
    times = np.arange(40) / 10
    assert video.uniform_indices(times, 4).tolist() == [5, 15, 25, 35]
    assert video.uniform_indices(times[:8], 8).tolist() == list(range(8))
    assert video.uniform_indices(times[:16] / 2.997, 8).tolist() == list(range(1, 16, 2))


def test_uniform_indices_follow_time_where_frames_are_unevenly_spread():
    times = np.array(
        [0.0, 0.1, 0.2, 0.3, 0.4, 4.0, 7.9]
    )  # five frames in half a second, then hardly any
    assert video.uniform_indices(times, 4).tolist() == [4, 4, 5, 5]


def test_uniform_indices_repeat_frames_of_short_clips():
    assert video.uniform_indices(np.zeros(1), 4).tolist() == [0, 0, 0, 0]
    assert video.uniform_indices(np.array([0.0, 0.1]), 4).tolist() == [0, 0, 1, 1]


def test_random_offsets_stay_in_their_stretch_and_follow_the_seed():
    times = np.arange(80) / 10
    draws = [video.uniform_indices(times, 8, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert draws[0].tolist() == draws[1].tolist() != draws[2].tolist()
    for draw in draws:
        assert (draw // 10).tolist() == list(range(8))


@needs_clips
@pytest.mark.parametrize("facts", odd_files, ids=[facts["file"] for facts in odd_files])
def test_odd_real_files_decode_fully_or_are_refused(facts):
    expected, path = facts["expected"], CLIPS / facts["file"]
    if expected["decodable"] != "yes" or expected["attached_pic"]:
        refusal(path, name=facts["file"])
        return
    decoded = video.decode(path, name=facts["file"])
    width = expected["display_width"] * (2 if facts["kind"] == "pixel-aspect" else 1)
    assert decoded.frames.shape == (
        expected["frames_decoded"],
        expected["display_height"],
        width,
        3,
    )
    assert decoded.times[0] == 0 and (np.diff(decoded.times) > 0).all()
    if expected["duration_header"] and facts["kind"] not in ("streams", "timestamps"):
        assert decoded.times[-1] + 1 / decoded.fps == pytest.approx(
            expected["duration_header"], rel=0.05
        )
    seen = video.probe(path.read_bytes(), name=facts["file"])
    assert (seen.height, seen.width, 3) == decoded.frames.shape[1:]
