"""Several views of a clip are averaged in probabilities, and each is one that a model may see."""

import miniatures
import numpy as np
import pytest
import toy

from vplib.data import pipeline, shards, sources
from vplib.evaluate import tasks, views


def test_views_differ_in_moment_and_place_and_one_is_the_single_view():
    x = np.arange(16)
    videos = (10 * np.arange(6)[:, None, None] + x).astype(np.uint8)[None, ..., None]
    videos = np.broadcast_to(videos, (1, 6, 16, 16, 3))
    found = views.views(videos, clips=2, crops=3, size=12)
    assert [one.shape for one in found] == [(1, 3, 12, 12, 3)] * 6
    assert [one[0, :, 0, 0, 0].tolist() for one in found] == [
        [first + left, first + left + 20, first + left + 40]
        for first in (0, 10)
        for left in (0, 2, 4)
    ]
    (one,) = views.views(videos, clips=1, crops=1, size=12)
    assert (one == videos[:, :, 2:14, 2:14]).all()


def test_clips_of_a_stride_follow_each_other_from_the_beginning_to_the_end():
    chosen = views.strided(20, 3, stride=2, clips=4)
    assert chosen.reshape(4, 3).tolist() == [[0, 2, 4], [5, 7, 9], [10, 12, 14], [15, 17, 19]]
    assert views.strided(20, 3, stride=2, clips=1).tolist() == [7, 9, 11]
    assert views.strided(3, 3, stride=2, clips=2).tolist() == [0, 2, 2] * 2  # its last frame
    videos = np.broadcast_to(chosen[:, None, None, None], (1, 12, 16, 16, 3)).astype(np.uint8)
    found = views.views(videos, clips=4, crops=1, size=12, stride=2)
    assert [one[0, :, 0, 0, 0].tolist() for one in found] == chosen.reshape(4, 3).tolist()


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory):
    """A miniature: its section of the configuration, and its two corpora."""
    out = miniatures.written("kinetics400", tmp_path_factory.mktemp("made"))[1]
    data = miniatures.section("kinetics400", out, 32)
    return data, {
        part: sources.split("folder", out, part, resolution=32) for part in ("train", "val")
    }


def test_what_a_benchmark_names_is_what_is_shown(kinetics):
    data, corpora = kinetics
    assert views.of_benchmarks(data) == {"label": {"clips": 4, "crops": 3, "stride": 4}}
    spaced = views.spaced(corpora, data, frames=3)
    # Every fourth frame of the middle of 16; miniatures say in pictures which frame is on show.
    assert [miniatures.seen(spaced["val"].original(2)[0])[k] for k in (1, 2)] == [3, 3]
    assert (
        spaced["val"].original(2)[1] == corpora["val"].original(2)[1] and len(spaced["val"]) == 12
    )
    other = miniatures.section("ssv2", data["root"], 32)
    assert views.of_benchmarks(other) == {"label": {"clips": 1, "crops": 3}}
    assert views.spaced(corpora, other, frames=3) == corpora
    assert views.of_benchmarks({"tasks": data["tasks"]}) == {}  # of one's own videos


def test_the_views_of_a_stride_are_those_of_the_video(kinetics, tmp_path):
    data, corpora = kinetics
    rows, kind = np.arange(12), tasks.Task(tasks.TOP1, lambda head, x: x, probabilities=np.copy)
    one = tasks.Answers(kind, np.zeros((1, 12, 1)), np.zeros(12, int), ["a"], [None], rows)
    shown = []

    def told(videos):
        assert videos.shape[1:] == (3, 24, 24, 3)
        shown.append(videos[0].astype(float))
        return np.zeros((len(videos), 1))

    look = dict(clips=4, crops=3, stride=4, frames=3, size=24, resolution=32)
    reading = dict(name="val", out=tmp_path, batch=12, max_skipped_fraction=0.0)
    views.multi_view(one, told, corpora["val"], **look, **reading)
    frames = miniatures.frames_of(4, 16)[:, :, 4:36]  # the first of val; the central square
    for clip, start in enumerate((0, 2, 5, 7)):
        for crop, left in enumerate((0, 4, 8)):
            true = frames[[start, start + 4, start + 8], 4:28, left : left + 24]
            assert abs(shown[3 * clip + crop] - true).mean() < 16


def test_the_mean_of_probabilities_answers(tmp_path):
    corpus = shards.Shards(toy.write(toy.Marked("mine", 3, frames=6), tmp_path / "corpus"))
    kind = tasks.Task(tasks.TOP1, lambda head, x: x @ head, probabilities=np.square)
    trained = [np.eye(3), 2 * np.eye(3)]

    def mean(videos):
        return videos.astype(float).mean((1, 2, 3))

    reading = dict(frames=3, size=12, resolution=16, batch=3, max_skipped_fraction=0.0)
    view = dict(name="mine", out=tmp_path, **reading)
    rows = np.array([1, 2, 7])
    outputs = np.zeros((2, 3, 3))
    one = tasks.Answers(kind, outputs, np.zeros(3, int), ["a", "b", "c"], trained, rows)
    found = views.multi_view(one, mean, corpus, clips=2, crops=2, **view)
    assert found.outputs.shape == (2, 3, 3) and found.targets is one.targets
    clip = pipeline.read_clip(corpus.original(2)[0], name="2", frames=6, size=16)
    shown = views.views(clip[None], clips=2, crops=2, size=12)
    np.testing.assert_allclose(found.outputs[0, 1], np.mean([mean(v)[0] ** 2 for v in shown], 0))
    np.testing.assert_allclose(found.outputs[1], 4 * found.outputs[0])
    turns = views.multi_view(one, [mean, lambda v: 0 * mean(v)], corpus, clips=1, crops=1, **view)
    assert turns.outputs[0].all() and not turns.outputs[1].any()
    with pytest.raises(ValueError, match="^there are no crops of 12 pixels in videos of 10"):
        views.multi_view(one, mean, corpus, clips=1, crops=1, **view | {"resolution": 10})
