"""Video decoding, sampling by time and encoding, on files made here and on odd real ones."""

import io
import json
import os
import pickle
import socket
import struct
import zlib
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
    """Four coloured quarters, so that turns show; a white square moves one pixel a frame."""
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
    options=None,
    last=None,
    prepare=lambda stream: None,
):
    """A video file; `times` are the milliseconds at which frames are shown, by default 100 apart.

    The last one is on show for `last` milliseconds.
    """
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=10, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        packets = []
        for frame, time in zip(frames, times or range(0, 100 * len(frames), 100), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            packets += stream.encode(picture)
        packets += stream.encode()
        if last:
            max(packets, key=lambda packet: packet.pts).duration = last
        output.mux(packets)
    return file.getvalue()


def left_edge(frame):
    """Where the white square begins: the number of the frame."""
    return int((frame[24].min(axis=1) > 150).argmax())


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
    """The message of the refusal, checked to be one sentence that begins with the file's name."""
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
    # Encoding is lossy, and colour has half the resolution.
    assert np.abs(decoded.frames.astype(int) - frames).mean() < 6


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
    np.testing.assert_array_equal(a.frames, list(video.stream_frames(path, name="c")))
    times, end = video.read_times(path, name="d")
    np.testing.assert_array_equal(a.times, times)
    assert a.end == end == pytest.approx(1.2)


def test_resolution_shrinks_the_shorter_side_and_never_enlarges():
    data = video.encode(moving_square(), 10)
    assert video.decode(data, name="clip", resolution=24).frames.shape == (12, 24, 32, 3)
    assert video.decode(data, name="clip", resolution=480).frames.shape == (12, 48, 64, 3)


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("libx264", "mp4", {"g": "7", "bf": "2"}),
        ("libx264", "matroska", {"g": "7", "x264-params": "open-gop=1"}),
        ("libx264", "mp4", {"x264-params": "intra-refresh=1:keyint=7"}),
        ("libx265", "mp4", {"x265-params": "keyint=7:open-gop=1:log-level=none"}),
        ("libvpx-vp9", "webm", {"g": "7"}),
        ("libx264", "mpegts", {"g": "7", "bf": "2"}),
        ("mjpeg", "avi", {}),
    ],
)
def test_frames_on_demand_are_the_frames_of_a_full_decode(codec, container, options):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    times = [100 * i + 30 * (i % 3 == 1) for i in range(40)] if container != "avi" else None
    frames = moving_square(40)
    data = make(
        frames, codec=codec, container=container, pixels=pixels, options=options, times=times
    )
    whole = video.decode(data, name="whole")
    lazy = video.decode(data, name="lazy", max_bytes=10 * frames[0].nbytes)
    assert isinstance(whole.frames, np.ndarray) and isinstance(lazy.frames, video.LazyFrames)
    np.testing.assert_array_equal(lazy.times, whole.times)
    assert (lazy.end, lazy.fps) == (whole.end, whole.fps) and len(lazy.frames) == 40
    for chosen in ([39, 0, 0, 17, 3], [5], slice(10, 16), -1, np.arange(40)):
        np.testing.assert_array_equal(lazy.frames[chosen], whole.frames[chosen])


def test_a_few_frames_of_a_long_clip_need_few_frames_decoded(monkeypatch):
    data = make(moving_square(56), options={"g": "7", "bf": "0"})
    lazy = video.decode(data, name="lazy", max_bytes=1).frames
    seen = []
    upright = video._upright
    monkeypatch.setattr(video, "_upright", lambda *a: seen.append(1) or upright(*a))
    monkeypatch.setattr(video, "decoded", None)  # reading everything would call it
    assert lazy[[50, 3, 50]].shape == (3, 48, 64, 3) and len(seen) == 2
    assert lazy.nbytes < len(data) + 10_000


def test_a_long_clip_with_a_damaged_stretch_is_refused_where_it_is_read():
    frames = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    data = bytearray(make(frames, options={"g": "5", "bf": "0"}))
    start = data.index(b"mdat") + len(data) // 2
    data[start : start + 2000] = bytes(2000)
    lazy = video.decode(bytes(data), name="clip", max_bytes=1).frames
    assert lazy[[0, 39]].shape == (2, 48, 64, 3)
    with pytest.raises(video.VideoError, match="^clip: "):
        lazy[np.arange(40)]
    refusal(bytes(data))


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


REFERENCES = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n",
    "hls master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9\n{}\n",
    "hls key": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n#EXTINF:2,\n{0}\n#EXT-X-ENDLIST\n',
    "hls map": '#EXTM3U\n#EXT-X-MAP:URI="{0}"\n#EXTINF:2,\n{0}\n#EXT-X-ENDLIST\n',
    "concat": "ffconcat version 1.0\nfile '{}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="0" bandwidth="9"><BaseURL>{}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "asx": '<asx version="3.0"><entry><ref href="{}"/></entry></asx>',
    "smil": '<smil><body><video src="{}"/></body></smil>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:{}\n",
    "pls": "[playlist]\nFile1={}\nNumberOfEntries=1\n",
    "rtsp text": "RTSPtext\n{}\n",
    "address": "{}\n",
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_references_dressed_as_videos_open_nothing(tmp_path, kind):
    (tmp_path / "secret.mp4").write_bytes(video.encode(moving_square(), 10))
    (tmp_path / "pipe.mp4").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        host = f"127.0.0.1:{server.getsockname()[1]}"
        protocols = ["http", "tcp", "ftp", "rtmp", "rtsp", "gopher", "crypto+http", "cache:http"]
        targets = [f"{protocol}://{host}/a.mp4" for protocol in protocols]
        secret = tmp_path / "secret.mp4"
        targets += [str(secret), secret.as_uri(), f"subfile,,start,0,end,0,,:{secret}"]
        for number, target in enumerate([*targets, f"concat:{secret}", "secret.mp4"]):
            path = tmp_path / f"{number}.mp4"
            path.write_text(REFERENCES[kind].format(target))
            refusal(path)
            refusal(path.read_bytes())
        with pytest.raises(BlockingIOError):  # nobody has called
            server.accept()


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
    # Five frames in half a second, then hardly any.
    times = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 4.0, 7.9])
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


# --- whatever one file holds, only that file is refused ------------------------------------------


def with_exif(orientation):
    """A JPEG of four coloured quarters, with the block in which cameras say how they were held."""
    picture = make(
        moving_square(1)[:, :, :48], codec="mjpeg", container="image2pipe", pixels="yuvj420p"
    )
    tiff = struct.pack("<2sHIHHHIIII", b"II", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    block = b"Exif\0\0" + tiff
    return picture[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + picture[2:]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_their_camera_says(orientation):
    upright = moving_square(1)[0, :, :48]
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright),
    }
    seen = video.decode(with_exif(orientation), name="photo.jpg").frames[0]
    assert np.abs(seen.astype(int) - turned[orientation]).mean() < 16


@pytest.mark.parametrize("error", [ValueError("31 is\nno"), KeyError("x"), OSError(5, "I/O")])
def test_whatever_a_reader_raises_is_a_refusal_of_that_file(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(video, "_display_matrix", fail)
    assert "damaged" in refusal(video.encode(moving_square(), 10))
    monkeypatch.setattr(video, "_display_matrix", lambda _: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):  # no fault of the file
        video.decode(video.encode(moving_square(), 10), name="a")


def test_tags_that_cannot_be_read_do_no_harm():
    data = make(moving_square(), container="matroska", codec="ffv1", pixels="bgr0")
    tag = b"00:00:01.200000000"
    assert data.count(tag) == 1
    for wrong in (b"abc", b"1:2", b"a:b:c", b"nan:0:0", b"-1:0:0", b"::", b"\xe9t\xe9"):
        decoded = video.decode(data.replace(tag, wrong.ljust(len(tag), b"\0")), name="a.mkv")
        assert len(decoded.frames) == 12 and decoded.end == pytest.approx(1.2)
    film = video.encode(moving_square(), 10).replace(b"VideoHandler", b"Vid\xe9oHandl\xe8r")
    assert len(video.decode(film, name="latin.mp4").frames) == 12


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "a.mp4").chmod(0)
    assert "check the path" in refusal(tmp_path / "a.mp4")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    assert "is not a file" in refusal(tmp_path / "pipe.mp4")
    assert "is not a file" in refusal(tmp_path)


# --- limits --------------------------------------------------------------------------------------


def png_header(width, height):
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + body
    rest = b"IDAT" + zlib.compress(bytes(1 << 20))
    parts = [
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, rest)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("container", ["matroska", "avi", "mov"])
@pytest.mark.parametrize("codec", ["mjpeg", "libx264"])
def test_a_larger_picture_before_the_film_is_not_the_film(container, codec):
    """In Matroska and AVI no header says how many frames a stream has."""
    file, frames = io.BytesIO(), moving_square()
    with av.open(file, "w", format=container) as output:
        picture, film = (output.add_stream(name, rate=10) for name in (codec, "libx264"))
        picture.width, picture.height, picture.pix_fmt = (
            128,
            96,
            f"yuv{'j' * (codec == 'mjpeg')}420p",
        )
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        large = frames[:1].repeat(2, 1).repeat(2, 2)
        for stream, shown in ((picture, large), (film, frames)):
            for index, array in enumerate(shown):
                frame = av.VideoFrame.from_ndarray(array, format="rgb24")
                frame.pts = index
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
    assert video.decode(file.getvalue(), name="a").frames.shape == (12, 48, 64, 3)


def test_frames_larger_than_the_limit_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(video, "decoded", None)  # is not reached where the header tells
    data = video.encode(moving_square(2), 10)
    for read in (video.decode, video.probe, video.read_times):
        with pytest.raises(video.VideoError, match="64x48 pixels, more than data.max_pixels=3000;"):
            read(data, name="a", max_pixels=3000)

    def stretch(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    with pytest.raises(video.VideoError, match="128x48 pixels, more than data.max_pixels=4000;"):
        video.decode(make(moving_square(2), prepare=stretch), name="a", max_pixels=4000)


def test_a_strip_is_not_enlarged_beyond_the_limit():
    strip = make(
        np.zeros((1, 2, 3000, 3), np.uint8), codec="png", container="image2pipe", pixels="rgb24"
    )
    with pytest.raises(
        video.VideoError, match="frames of 96000x64 pixels, more than data.max_pixels"
    ):
        video.decode(strip, name="a", resolution=64, enlarge=True, max_pixels=1_000_000)


def test_a_picture_that_unpacks_to_a_gigabyte_is_refused():
    assert "max_pixels" in refusal(png_header(16_000, 16_000), name="bomb.png")
    whole = make(moving_square(1), codec="png", container="image2pipe", pixels="rgb24")
    with pytest.raises(video.VideoError, match="its frames exceed data.max_pixels"):
        video.decode(whole, name="a.png", max_pixels=3000)


def test_files_of_very_many_streams_are_refused():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        streams = [output.add_stream("mpeg4", rate=10) for _ in range(70)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        for stream in streams:
            picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            output.mux([*stream.encode(picture), *stream.encode()])
    assert "more than 64 streams" in refusal(file.getvalue())


# --- times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
def test_the_last_frame_is_on_show_as_long_as_the_file_says(container):
    times, options = [0, 3000, 5000, 9000], {"bf": "0"}
    data = make(moving_square(4), container=container, times=times, last=6000, options=options)
    for max_bytes in (video.MEMORY, 1):
        slides = video.decode(data, name="slides", max_bytes=max_bytes)
        assert slides.end == pytest.approx(15) and slides.fps == pytest.approx(4 / 15)
        picked = video.uniform_indices(slides.times, 8, end=slides.end)
        assert picked.tolist() == [0, 0, 1, 2, 2, 3, 3, 3]
    assert video.probe(data, name="slides").seconds == pytest.approx(15)


def test_a_last_frame_of_unknown_duration_is_on_show_for_one_interval():
    # MP4 stores the time to the next frame that is decoded, which is here an earlier one.
    data = make(moving_square(7), times=[0, 100, 200, 300, 800, 900, 1600])
    for max_bytes in (video.MEMORY, 1):
        assert video.decode(data, name="a", max_bytes=max_bytes).end == pytest.approx(1.7)


def test_the_last_picture_of_an_animation_may_stand():
    data = make(moving_square(6), codec="gif", container="gif", pixels="rgb8", last=5000)
    assert video.decode(data, name="a.gif").end == pytest.approx(5.5)


def test_times_that_run_backwards_give_way_to_the_rate_of_the_header():
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as output:  # which stores the order of decoding only
        stream = output.add_stream("libx264", rate=30, options={"bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for index, frame in enumerate(moving_square(40)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = index
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    for max_bytes in (video.MEMORY, 1):
        decoded = video.decode(file.getvalue(), name="a.avi", max_bytes=max_bytes)
        np.testing.assert_allclose(decoded.times, np.arange(40) / 30)
        assert decoded.end == pytest.approx(4 / 3) and decoded.fps == 30
    squares = (decoded.frames[:][:, 24].min(axis=2) > 150).argmax(axis=1)
    assert (np.diff(squares) >= 0).all()


@pytest.mark.parametrize("codec, container", [("libx264", "h264"), ("mpeg4", "m4v")])
def test_bare_streams_have_the_rate_that_they_name(codec, container):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=30)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in moving_square(30):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    decoded = video.decode(file.getvalue(), name="bare")
    assert decoded.times[1] == pytest.approx(1 / 30) and decoded.end == pytest.approx(1)
    assert decoded.fps == pytest.approx(30)


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "flv"])
def test_a_late_start_is_subtracted(container):
    times = [5000 + 100 * index for index in range(20)]
    data = make(moving_square(20), container=container, times=times, options={"bf": "0"})
    decoded = video.decode(data, name="late")
    np.testing.assert_allclose(decoded.times, np.arange(20) / 10, atol=2e-3)


def recording(start, count=40, codec="libx264"):
    """A transport stream with a key frame a second, whose clock begins at `start` milliseconds."""
    times = [start + 100 * index for index in range(count)]
    options = {"g": "10", "bf": "2"}
    frames = moving_square(count)
    return make(frames, codec=codec, container="mpegts", times=times, options=options)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_recording_that_begins_between_key_frames_is_no_cut_one(codec):
    data = recording(0, codec=codec)
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    decoded = video.decode(b"".join(packets[:3] + packets[12:]), name="joined late")
    assert 20 < len(decoded.frames) < 35 and decoded.times[0] == 0
    # What precedes the first key frame is no picture.
    assert left_edge(decoded.frames[0]) == 40 - len(decoded.frames)
    np.testing.assert_allclose(np.diff(decoded.times), 0.1, atol=1e-3)


@pytest.mark.parametrize("starts", [(0, 7_200_000), (7_200_000, 0), (0, 60_000)])
def test_recordings_joined_without_a_common_clock_are_refused(starts):
    assert "has times that jump by" in refusal(b"".join(map(recording, starts)))


@pytest.mark.parametrize(
    ("times", "last", "expected"),
    [
        ([0, 100, 200, 900_000], None, "jump by \\+900 s after frame 2;"),
        ([0], 1_024_000, "shows its last frame for 1024 s;"),
        ([3_000_000 * index for index in range(10)], None, "jump by \\+3000 s after frame 0;"),
    ],
)
def test_times_that_cannot_be_true_are_refused(times, last, expected):
    data = make(moving_square(len(times)), times=times, last=last)
    with pytest.raises(video.VideoError, match=expected):
        video.decode(data, name="a")
    with pytest.raises(video.VideoError, match=expected):
        video.decode(data, name="a", max_bytes=1)


def test_thousands_of_frames_in_a_second_are_refused():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=100_000, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in moving_square(20):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode())
    assert "shows 20 frames in 0.0002 s" in refusal(file.getvalue())


def test_frames_of_one_time_share_the_gap_to_the_next():
    data = make(
        moving_square(6),
        times=[0, 100, 200, 200, 200, 300],
        container="matroska",
        codec="ffv1",
        pixels="bgr0",
    )
    decoded = video.decode(data, name="a")
    np.testing.assert_allclose(decoded.times, [0, 0.1, 0.2, 0.7 / 3, 0.8 / 3, 0.3], atol=1e-3)


def test_the_film_is_shown_and_not_its_thumbnail():
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        thumbnail = output.add_stream("mjpeg", rate=10)
        thumbnail.height, thumbnail.width, thumbnail.pix_fmt = 96, 128, "yuvj420p"
        films = [output.add_stream("libx264", rate=10) for _ in range(2)]
        for film, scale in zip(films, (1, 2), strict=True):
            film.height, film.width, film.pix_fmt = 24 * scale, 32 * scale, "yuv420p"
        picture = av.VideoFrame.from_ndarray(moving_square(1, 96, 128)[0], format="rgb24")
        output.mux([*thumbnail.encode(picture), *thumbnail.encode()])
        for film in films:
            for frame in moving_square(12, film.height, film.width):
                output.mux(film.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            output.mux(film.encode())
    assert video.decode(file.getvalue(), name="a.mov").frames.shape == (12, 48, 64, 3)


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
