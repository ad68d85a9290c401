"""Scores of captions: who they are learned from, what they are held against."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
import toy
from scipy.stats import spearmanr

from vplib.data import text
from vplib.evaluate import features, grounding
from vplib.method import stages
from vplib.train.loop import TrainingError
from vplib.world import corpora, grades

SIZES = dict(size=12, frames=1, temporal_layers=0)
LOSS, TX = partial(stages.stage1_loss, drop_ratio=0.0), optax.adam(3e-3)
CAPTIONS = ["red star", "blue ring", "green moon", "a cube"]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Four captions, each of six clips of two frames that have its colour, and their tokeniser."""
    path = tmp_path_factory.mktemp("words") / "words.model"
    text.train(CAPTIONS, path, size=30)
    rng = np.random.default_rng(0)
    colours = np.array([[200, 0, 0], [0, 0, 200], [0, 200, 0], [200, 200, 200]])
    noise = rng.integers(0, 50, (24, 2, 12, 12, 3))
    frames = (colours[np.arange(24) % 4][:, None, None, None] + noise).astype(np.uint8)
    return grounding.Pairs(frames, CAPTIONS * 6), text.Tokenizer(path, 6)


def fitted(known, *, seed=0, steps=2, tx=TX, pairs=None, batch=4):
    pairs, tokenizer = known[0] if pairs is None else pairs, known[1]
    stage = toy.stage1(vocabulary=tokenizer.size, **SIZES)
    told = dict(steps=steps, batch=batch, seed=seed, title="scorer")
    return grounding.fit(stage, LOSS, tx, pairs, tokenizer, **told)


def leaves(stage):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(stage)]


# --- the scorer ----------------------------------------------------------------------------------


def test_it_learns_which_text_belongs_to_which_frames(known):
    pairs, tokenizer = known
    videos, texts = grounding.embed(fitted(known, steps=150).model, tokenizer, pairs)
    own = (videos * texts).sum(1).mean()
    other = (videos * np.roll(texts, 1, 0)).sum(1).mean()
    assert own > other + 0.3
    assert np.linalg.norm(videos, axis=1) == pytest.approx(1, abs=1e-5)


def test_equal_arguments_give_equal_bits_and_another_seed_other_batches(known):
    one, again, other = fitted(known), fitted(known), fitted(known, seed=1)
    assert all((a == b).all() for a, b in zip(leaves(one), leaves(again), strict=True))
    assert any((a != b).any() for a, b in zip(leaves(one), leaves(other), strict=True))


def test_a_batch_holds_single_frames_of_all_moments_and_no_clip_twice(known, monkeypatch):
    pairs, tokenizer = known
    given = []
    monkeypatch.setattr(
        grounding, "_step", lambda *told: given.append(told[6]) or (told[3], told[4], 0.0)
    )
    fitted(known, steps=40, pairs=grounding.Pairs(pairs.frames[:3], pairs.texts[:3]), batch=2)
    assert {one["video"].shape for one in given} == {(2, 1, 12, 12, 3)}
    where = {frame.tobytes(): row for row, clip in enumerate(pairs.frames[:3]) for frame in clip}
    rows = [[where[frame.tobytes()] for frame in one["video"][:, 0]] for one in given]
    assert all(a != b for a, b in rows)
    seen = {frame.tobytes() for one in given for frame in one["video"][:, 0]}
    assert seen == {*where}
    for one, of in zip(given, rows, strict=True):
        assert (one["ids"] == tokenizer([pairs.texts[row] for row in of])[0]).all()


def test_a_loss_that_is_not_finite_is_one_sentence(known):
    with pytest.raises(TrainingError, match="^scorer: the loss is not finite: lower"):
        fitted(known, tx=optax.sgd(np.nan))


def test_a_clip_is_the_mean_of_its_frames_whatever_else_is_encoded(known, monkeypatch):
    pairs, tokenizer = known
    model = toy.video_text(vocabulary=tokenizer.size, **SIZES)
    monkeypatch.setattr(grounding, "CLIPS", 16)  # so that the last part is padded
    found = grounding.embed_frames(model, pairs.frames)
    alone = [np.asarray(features.embeddings_of(model)(clip[:, None])) for clip in pairs.frames]
    mean = np.stack(alone).mean(1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    assert found.shape == mean.shape and abs(found - mean).max() < 1e-5


def test_hits_are_of_both_directions():
    videos = np.eye(3)
    texts = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0.9, 0.1]])
    # The third text finds the second video; the third video is still nearest to its own text.
    assert grounding.hits(videos, texts).tolist() == [1, 1, 0.5]


# --- choosing, and comparing with the truth ------------------------------------------------------


def test_the_best_of_every_group_are_kept_and_groups_keep_their_sizes():
    scores = np.array([0.9, 0.1, 0.5, 0.2, 0.3, 0.2, 0.8, 0.0])
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert grounding.best(scores, group, 0.5).tolist() == [0, 2, 4, 6]
    assert grounding.best(np.zeros(8), group, 0.25).tolist() == [0, 4]


def test_separation_counts_pairs():
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 9, 60) / 8, rng.random(60) < 0.7
    pairs = [(a > b) + (a == b) / 2 for a in scores[right] for b in scores[~right]]
    assert grounding.separation(scores, right) == pytest.approx(np.mean(pairs))
    assert np.isnan(grounding.separation(scores, np.ones(60, bool)))


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=50), rng.integers(0, 3, 50) / 2
    assert grounding.rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(grounding.rank_correlation(x, np.ones(50)))


def test_intervals_over_clips_hold_the_value_and_shrink_with_more_clips():
    rng = np.random.default_rng(2)

    def width(count):
        right = rng.random(count) < 0.5
        scores = rng.normal(size=count) + right
        value, low, high = grounding.over_clips(grounding.separation, scores, right)
        assert low < value < high and abs(value - 0.76) < 0.12
        return high - low

    assert width(1600) < 0.5 * width(100)
    assert np.isnan(grounding.over_clips(grounding.separation, np.zeros(4), np.ones(4, bool))).all()


def test_intervals_over_few_cover_the_truth():
    """Of seven independent items 95% of the intervals hold 0, about."""
    rng = np.random.default_rng(3)
    found = [grounding.over_few(*rng.normal(size=(2, 7))) for _ in range(1000)]
    assert 0.92 < np.mean([low <= 0 <= high for _, low, high in found]) <= 1
    value, low, high = grounding.over_few(np.arange(7.0), np.arange(7.0))
    assert value == high == 1 and 0.5 < low < 0.99
    assert np.isnan(grounding.over_few(np.arange(3.0), np.arange(3.0))[1:]).all()


# --- truth, and clips that nobody holds ----------------------------------------------------------


def test_grades_are_those_of_the_truth():
    found = {name: [grades.grade(corpora.text_truth(name, i)) for i in range(300)] for name in ("ac1", "ac2", "wts70m", "internvid")}  # fmt: skip
    assert {*found["ac1"]} == {"right"}
    for name, fault, rate in (("ac2", "wrong", 0.3), ("wts70m", "wrong", 0.25), ("internvid", "partial", 0.15)):  # fmt: skip
        assert {*found[name]} == {"right", fault}
        assert abs(np.mean([one == fault for one in found[name]]) - rate) < 0.08


def test_clips_that_no_corpus_holds_are_equal_each_time_and_take_the_corpora_in_turn():
    look = dict(seed=1, resolution=16, frames=4, fps=8.0)
    frames, texts = grades.unheld(["ac1", "videocc"], 4, **look)
    again, same_texts = grades.unheld(["ac1", "videocc"], 4, **look)
    assert frames.shape == (4, 1, 16, 16, 3) and (frames == again).all() and texts == same_texts
    names, moments = ["ac1", "videocc", "ac1", "videocc"], []
    for k, name in enumerate(names):
        index = grades.UNHELD + k // 2
        whole, said, _ = corpora.clip(name, index, seed=1, resolution=16, frames=4)
        assert texts[k] == said
        moments.append([(frames[k, 0] == frame).all() for frame in whole].index(True))
    assert len({*moments}) > 1
    other, _ = grades.unheld(["ac1", "videocc"], 4, **look | {"seed": 2})
    assert (other != frames).any()
