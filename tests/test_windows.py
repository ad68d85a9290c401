"""Features of long videos, window by window."""

import numpy as np
import pytest

from vplib.data import pipeline, video
from vplib.data.sources import SourceError
from vplib.evaluate import windows

FPS = 8


class Videos:
    """Videos of these numbers of frames, frame k as grey as 6 k; None is a file that is no video."""

    def __init__(self, *lengths):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def original(self, index):
        count = self.lengths[index]
        grey = [np.full((16, 16, 3), 6 * k, np.uint8) for k in range(count or 0)]
        file = video.encode(grey, FPS) if count else b"no video"
        return file, {"file_name": f"{index}.mp4"}


def shown(clips):
    """Which frames a clip consists of."""
    return np.round(clips.mean((2, 3, 4), dtype=float) / 6)


def run(source, out, **change):
    settings = dict(length=2.0, stride=1.0, frames=4, size=8, batch=3, max_skipped_fraction=0.5)
    return windows.features({"frames": shown}, source, name="long", out=out, **settings | change)


def test_windows_begin_every_stride_and_hold_evenly_spaced_frames(tmp_path):
    found = run(Videos(40, 16), tmp_path)
    first, second = found.values["frames"]
    assert found.starts[0].tolist() == [0, 1, 2, 3] and found.starts[1].tolist() == [0]
    assert found.ends.tolist() == [5, 2] and found.rows.tolist() == [0, 1]
    expected = np.array([[2, 6, 10, 14]]) + FPS * np.arange(4)[:, None]
    assert (first == expected).all() and (second == expected[:1]).all()


def test_a_window_sees_what_a_clip_of_its_own_would_show(tmp_path):
    file, _ = Videos(16).original(0)
    clip = pipeline.read_clip(file, name="a", frames=4, size=8)
    assert (run(Videos(16), tmp_path).values["frames"][0] == shown(clip[None])).all()


def test_videos_that_cannot_be_read_or_are_too_short_are_left_out(tmp_path):
    found = run(Videos(None, 24, 9, 17), tmp_path)
    assert found.rows.tolist() == [1, 3] and len(found.values["frames"]) == 2
    assert [entry["file"] for entry in found.skipped] == ["0.mp4", "2.mp4"]
    assert "lasts 1.125 s, less than a window of 2 s" in found.skipped[1]["reason"]
    assert (tmp_path / "skipped-long.csv").read_text().count("\n") == 3
    with pytest.raises(SourceError, match="3 of 3 videos cannot be used"):
        run(Videos(None, 9, 9), tmp_path)


def test_every_moment_has_the_window_whose_centre_is_nearest():
    starts = windows.starts(5.0, 2.0, 1.0)  # centres 1, 2, 3, 4
    times = np.array([0.0, 1.4, 1.5, 1.6, 3.0, 4.9])
    assert windows.nearest(starts, 2.0, times).tolist() == [0, 0, 0, 1, 2, 3]


def test_rounding_of_a_duration_loses_no_window():
    assert len(windows.starts(64.0, 2.0, 2.0)) == 32
    assert len(windows.starts(63.9999999, 2.0, 2.0)) == 32
    assert len(windows.starts(1.0, 0.1, 0.1)) == 10
