"""Probes find what is there and nothing else."""

from functools import partial

import numpy as np
import optax
import pytest

from vplib.evaluate import heads

RECIPE = dict(classes=4, heads=2, epochs=12, batch=32, learning_rate=3e-3, weight_decay=0.01)


def planted(clips: int, seed: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise tokens, one of which, at a random place, points in the direction of the class."""
    rng = np.random.default_rng(seed)
    tokens, labels = rng.normal(size=(clips, 6, 16)), rng.integers(4, size=clips)
    tokens[np.arange(clips), rng.integers(6, size=clips)] += strength * np.eye(16)[labels]
    return (5 + tokens).astype(np.float16), labels


def right(train, test, **recipe) -> float:
    """The share of test clips that a probe names rightly."""
    probe = heads.train_probe(*train, **RECIPE | {"seed": 0} | recipe)
    return (heads.predict(probe, test[0]).argmax(1) == test[1]).mean()


def test_a_probe_finds_a_planted_signal_and_nothing_in_noise():
    for strength, low, high in ((8.0, 0.9, 1.0), (0.0, 0.15, 0.35)):
        found = [
            right(planted(512, 0, strength), planted(256, 1, strength), seed=k) for k in (0, 1)
        ]
        assert low <= np.mean(found) <= high


def test_a_probe_does_not_care_in_which_unit_a_feature_is_measured():
    """Both parts of the standardisation: each feature's own mean and its own deviation."""
    tokens, labels = planted(64, 0, 4.0)
    unit, shift = 2.0 ** np.random.default_rng(1).integers(0, 8, 16), 64 * np.arange(16)
    scaled = (tokens.astype(np.float32) * unit + shift).astype(np.float32)
    logits = [
        heads.predict(heads.train_probe(x, labels, **RECIPE | {"seed": 0, "epochs": 2}), x)
        for x in (tokens, scaled)
    ]
    np.testing.assert_allclose(*logits, atol=0.05)
    assert np.ptp(logits[0]) > 1


def test_losses_of_other_targets_will_do():
    """Several classes a clip at once, each a yes or no."""
    tokens, labels = planted(512, 0, 8.0)
    several = np.stack([labels == 0, labels <= 1, labels == 2], 1).astype(float)
    recipe = RECIPE | {"classes": 3, "loss": optax.sigmoid_binary_cross_entropy}
    logits = heads.predict(heads.train_probe(tokens, several, seed=0, **recipe), tokens)
    assert ((logits > 0) == several).mean() > 0.9


def test_a_batch_is_at_most_all_clips():
    tokens, labels = planted(20, 0, 8.0)
    assert heads.train_probe(tokens, labels, seed=0, **RECIPE | {"batch": 100}).mean.shape == (16,)


def test_classes_out_of_range_are_one_sentence():
    with pytest.raises(ValueError, match="^targets run from 0 to 3 but the probe has 3 classes$"):
        heads.train_probe(*planted(64, 0, 4.0), seed=0, **RECIPE | {"classes": 3})


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


def test_a_block_before_pooling_compares_tokens():
    """The class is whether two tokens agree in their sign, which no weighted mean of them says."""
    rng = np.random.default_rng(0)
    signs = rng.choice((-1.0, 1.0), (768, 2))
    tokens = np.zeros((768, 2, 16), np.float16)
    tokens[:, :, 0], tokens[:, 0, 1], tokens[:, 1, 2] = signs, 1, 1
    labels = (signs[:, 0] == signs[:, 1]).astype(int)
    train, test = (tokens[:512], labels[:512]), (tokens[512:], labels[512:])
    recipe = {"classes": 2, "epochs": 20}
    assert right(train, test, block=True, **recipe) > 0.95


def test_heads_have_the_width_that_is_asked_for_or_are_refused():
    probe = heads.train_probe(*planted(64, 0, 4.0), seed=0, **RECIPE | {"heads": 3, "width": 24})
    assert probe.atten_pooler.pooling_attention.query.w.shape == (16, 3, 8)
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        heads.train_probe(*planted(64, 0, 4.0), seed=0, **RECIPE | {"heads": 3})


def test_a_head_of_late_fusion_knows_which_frame_a_token_is_of():
    """Two things in two frames, in this order or the other: of tokens that know nothing of time."""

    def ordered(clips: int, seed: int):
        rng = np.random.default_rng(seed)
        tokens, labels = rng.normal(size=(clips, 2, 3, 16)), rng.integers(2, size=clips)
        rows = np.arange(clips)
        tokens[rows, labels, rng.integers(3, size=clips), 0] += 8
        tokens[rows, 1 - labels, rng.integers(3, size=clips), 1] += 8
        return tokens.reshape(clips, 6, 16).astype(np.float16), labels

    train, test = ordered(512, 0), ordered(256, 1)
    late = partial(heads.LateFusion, frames=2)
    recipe = dict(classes=2, epochs=40)
    assert right(train, test, head=late, **recipe) > 0.9
    assert right(train, test, **recipe) < 0.65
