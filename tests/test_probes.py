"""Scores and their uncertainty; probes find what is there and nothing else; zero-shot and retrieval on known vectors."""

import jax
import numpy as np
import pytest
import toy

from vplib.data import text
from vplib.evaluate import features, heads, metrics

RECIPE = dict(classes=4, heads=2, epochs=12, batch=32, lr=3e-3, weight_decay=0.01)


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_recall_counts_answers_among_the_most_similar_and_ties_against_the_model():
    similarity = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1], [0.4, 0.4, 0.4]])
    answer = np.array([0, 1, 2, 1])
    assert metrics.recall_at(similarity, 1, answer).tolist() == [1, 0, 0, 0]
    assert metrics.recall_at(similarity, 2, answer).tolist() == [1, 1, 0, 0]
    assert metrics.recall_at(similarity, 3, answer).tolist() == [1, 1, 1, 1]
    assert not metrics.recall_at(
        np.zeros((5, 5)), 4
    ).any()  # a model that says the same of all knows nothing


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), 0
    for trial in range(200):
        mean, low, high = metrics.interval(
            (rng.random((1, 150)) < 0.7).astype(float), seed=trial, draws=200
        )
        assert low <= mean <= high
        covered += low <= 0.7 <= high
    assert 0.89 < covered / 200 < 0.99  # 0.95, give or take


def test_intervals_know_both_clips_and_repeats_and_repeat_with_their_seed():
    clips, seeds = (
        np.tile(np.arange(100) % 2, (5, 1)).astype(float),
        np.tile([[0.4], [0.5], [0.6]], (1, 100)),
    )
    for scores in (clips, seeds):
        mean, low, high = metrics.interval(scores)
        assert low < mean - 0.05 and high > mean + 0.05
        assert metrics.interval(scores) == (mean, low, high)
    assert metrics.interval(np.full((3, 10), 0.5)) == pytest.approx((0.5, 0.5, 0.5))


def test_differences_stay_paired():
    """Two models that differ by the same amount on every clip differ surely, however unlike the clips are."""
    base = np.random.default_rng(0).random((3, 50))
    mean, low, high = metrics.interval(base + 0.01 - base)
    assert mean == pytest.approx(0.01) and high - low < 1e-9
    _, low, high = metrics.interval(base)
    assert high - low > 0.1


def test_confusion_counts_truth_by_guess():
    table = metrics.confusion(np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2]), 3)
    assert table.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


# --- probes -----------------------------------------------------------------------------------------------------------


def planted(clips: int, seed: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise tokens, one of which, at a random place, points in the direction of the clip's class."""
    rng = np.random.default_rng(seed)
    tokens, labels = rng.normal(size=(clips, 6, 16)), rng.integers(4, size=clips)
    tokens[np.arange(clips), rng.integers(6, size=clips)] += strength * np.eye(16)[labels]
    return (5 + tokens).astype(np.float16), labels


def test_a_probe_finds_a_planted_signal_and_nothing_in_noise():
    scores = {}
    for strength in (8.0, 0.0):
        hits, guesses = features.probe_scores(
            planted(512, 0, strength), planted(256, 1, strength), seeds=range(2), **RECIPE
        )
        assert hits.shape == guesses.shape == (2, 256)
        assert ((guesses == planted(256, 1, strength)[1]) == hits).all()
        scores[strength] = hits.mean()
    assert scores[8.0] > 0.9 and abs(scores[0.0] - 0.25) < 0.1


def test_probes_repeat_with_their_seed_and_predict_in_any_batches():
    tokens, labels = planted(64, 0, 4.0)
    recipe = RECIPE | {"epochs": 2}
    first, again, other = (
        heads.predict(heads.train_probe(tokens, labels, seed=seed, **recipe), tokens)
        for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()
    probe = heads.train_probe(tokens, labels, seed=0, **recipe)
    np.testing.assert_allclose(heads.predict(probe, tokens, batch=48), first, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch": 100},
            r"^64 labelled clips are fewer than one batch: give more clips or probe\.batch=32$",
        ),
        ({"classes": 3}, r"^labels run from 0 to 3 but the probe has 3 classes$"),
    ],
)
def test_impossible_probes_are_one_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        heads.train_probe(*planted(64, 0, 4.0), seed=0, **RECIPE | changes)


# --- features ---------------------------------------------------------------------------------------------------------


def test_features_are_those_of_every_clip_whatever_the_batch():
    videos, encoder = toy.batch(0, clips=5)["video"], toy.encoder()
    encode = features.tokens_of(encoder)
    tokens = features.features(encode, videos, batch=4)
    assert tokens.shape == (5, 27, 16) and tokens.dtype == np.float16
    np.testing.assert_allclose(tokens, jax.jit(encode)(videos), atol=2e-3)


def test_the_single_frame_baseline_sees_the_middle_frame_alone():
    videos, encoder = toy.batch(0, clips=2)["video"], toy.encoder()
    reversed_, outer = videos[:, ::-1], videos.copy()
    outer[:, [0, 2]] = 0
    still, whole = (
        jax.jit(features.single_frame_tokens_of(encoder)),
        jax.jit(features.tokens_of(encoder)),
    )
    assert (still(videos) == still(reversed_)).all() and (still(videos) == still(outer)).all()
    assert (whole(videos) != whole(reversed_)).any((1, 2)).all()
    assert (still(videos) != still(np.roll(videos, 1, axis=1))).any((1, 2)).all()


def test_labels_stand_at_dotted_keys_and_missing_ones_are_named():
    metas = [{"labels": {"motion": "spins"}}, {"labels": {"motion": 3}, "file_name": "b.mp4"}]
    assert features.labels(metas, "labels.motion") == ["spins", "3"]
    with pytest.raises(
        ValueError, match=r"^clip 1 \(b\.mp4\) has no 'labels\.colour': add it to every line of "
    ):
        features.labels([{"labels": {"colour": "red"}}, metas[1]], "labels.colour")


# --- zero shot --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "pieces.model"
    text.train(toy.CAPTIONS, path, size=60)
    return text.Tokenizer(path, 12)


def test_text_embeddings_are_of_unit_length_whatever_the_batch(tokenizer):
    model = toy.video_text(vocabulary=tokenizer.size)
    embeddings = features.embed_texts(model, tokenizer, toy.CAPTIONS, batch=3)
    assert embeddings.shape == (8, 16)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        features.embed_texts(model, tokenizer, toy.CAPTIONS[::-1], batch=3)[::-1],
        embeddings,
        atol=1e-5,
    )


def test_a_class_is_the_direction_of_the_mean_of_its_prompts(tokenizer):
    model = toy.video_text(vocabulary=tokenizer.size)
    single = features.embed_texts(model, tokenizer, toy.CAPTIONS[:3])
    classes = features.class_embeddings(model, tokenizer, [toy.CAPTIONS[:2], [toy.CAPTIONS[2]]])
    mean = single[:2].mean(0)
    np.testing.assert_allclose(classes, [mean / np.linalg.norm(mean), single[2]], atol=1e-5)


def test_retrieval_counts_both_directions():
    video = np.eye(6, dtype=np.float32)
    perfect = features.retrieval(video, video)
    assert sorted(perfect) == ["t2v_r1", "t2v_r5", "v2t_r1", "v2t_r5"]
    assert all(hits.all() for hits in perfect.values())
    same = np.tile(video[:1], (6, 1))  # all texts describe video 0
    one_sided = features.retrieval(video, same)
    assert one_sided["t2v_r1"].tolist() == [1, 0, 0, 0, 0, 0] and not one_sided["v2t_r5"].any()
