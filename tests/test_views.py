"""Several views of a clip are averaged in probabilities, and each is one that a model may see."""

import numpy as np
import pytest
import toy

from vplib.data import pipeline, shards
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
