"""Boxes are named by what is inside them, whatever stands beside them in the array."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx

from vplib.evaluate import boxes
from vplib.model.attention import attend

GRID = (2, 6, 6)
RECIPE = dict(
    grid=GRID, most=3, heads=2, epochs=12, batch=32, learning_rate=3e-3, weight_decay=0.01
)


def planted(clips: int, seed: int, strength: float = 6.0):
    """Noise tokens with an object of 2 x 2 cells left and one right; a box around each; of its
    four classes a box has its object's and, if that is 0, class 3 too.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(clips, *GRID, 16))
    places, targets = [], []
    for clip in range(clips):
        here = []
        for x, kind in zip((0, 4), rng.integers(3, size=2), strict=True):
            y = rng.integers(5)
            tokens[clip, :, y : y + 2, x : x + 2] += strength * np.eye(16)[kind]
            here.append(
                (np.array([x, y, x + 2, y + 2]) / 6, np.eye(4)[kind] + (kind == 0) * np.eye(4)[3])
            )
        here = here[: rng.integers(1, 3)]
        places.append(np.stack([box for box, _ in here]))
        targets.append(np.stack([target for _, target in here]))
    return tokens.reshape(clips, -1, 16).astype(np.float16), places, targets


@pytest.fixture(scope="module")
def trained():
    return boxes.train(*planted(256, 0), seed=0, **RECIPE)


def test_a_region_is_the_maximum_of_what_lies_at_its_bins():
    """On a ramp along x (and minus a ramp along y) the answer can be worked out by hand."""
    image = np.stack(np.broadcast_arrays(np.arange(4.0), -np.arange(6.0)[:, None]), -1)  # 6 4 2
    tokens = np.stack([image - 1, image + 1]).reshape(1, -1, 2).astype(np.float32)
    box = np.array([[[0.25, 0.5, 0.75, 1.0], [0, 0, 1, 1], [0.5, 0.5, 0.625, 0.625]]])
    last, first = 6.5 / 7, 0.5 / 7  # of seven bins
    expected = [
        (1 + 2 * last - 0.5, -(3 + 3 * first - 0.5)),
        (3, 0),  # half a cell beyond the last centre there is the end's value
        (2 + 0.5 * last - 0.5, -(3 + 0.75 * first - 0.5)),
    ]
    found = boxes.regions(tokens, box, (2, 6, 4))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_a_region_on_whole_cells_is_the_one_bright_cell_and_no_neighbour():
    tokens = np.zeros((1, 2, 6, 6, 1), np.float32)
    tokens[0, :, 2, 3] = 5.0
    inside, beside = [3 / 6, 2 / 6, 4 / 6, 3 / 6], [4.5 / 6, 0, 1, 1]
    found = boxes.regions(tokens.reshape(1, -1, 1), np.array([[inside, beside]]), GRID)
    np.testing.assert_allclose(found[0, :, 0], [5.0, 0.0], atol=1e-6)


def test_a_query_stays_itself_beside_what_it_looks_up():
    layer, rng = boxes.CrossAttention(8, 2, rngs=nnx.Rngs(0)), np.random.default_rng(0)
    queries, tokens = (jnp.array(rng.normal(size=(1, n, 8)), jnp.float32) for n in (2, 5))
    assert jnp.abs(layer(queries, tokens) - layer(queries, 2 - tokens)).max() > 0.01
    silent = nnx.Param(jnp.zeros((8, 2, 4))), nnx.Param(jnp.zeros((32, 8)))
    layer.attention.post.w, layer.ff_layer.ffn_layer2.linear.kernel = silent
    np.testing.assert_array_equal(layer(queries, tokens), queries)


def test_the_loss_sums_classes_and_averages_over_real_boxes():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 4)).astype(np.float32)
    targets = rng.integers(2, size=(2, 3, 4)).astype(np.float32)
    valid = np.array([[True, True, False], [True, False, False]])
    each = np.asarray(optax.sigmoid_binary_cross_entropy(logits, targets))
    expected = (each.mean(-1) * valid).sum() * 4 / 3
    assert boxes.loss(*map(jnp.asarray, (logits, targets, valid))) == pytest.approx(
        expected, rel=1e-5
    )
    nothing = boxes.loss(*map(jnp.asarray, (logits, targets, valid & False)))
    assert nothing == 0


def test_boxes_get_the_classes_of_their_objects(trained):
    tokens, places, targets = planted(64, 1)
    found = boxes.predict(trained, tokens, places, grid=GRID)
    right = (np.concatenate(found) > 0.5) == np.concatenate(targets)
    prior = boxes.prior(targets)
    assert right.mean() > 0.97 > ((prior > 0.5) == np.concatenate(targets)).mean() + 0.2
    assert 0 <= np.concatenate(found).min() and np.concatenate(found).max() <= 1


def test_a_box_that_moves_to_another_object_changes_its_class(trained):
    tokens = np.random.default_rng(2).normal(size=(1, *GRID, 16))
    tokens[0, :, 1:3, 0:2, 0] += 6
    tokens[0, :, 1:3, 4:6, 2] += 6
    tokens = tokens.reshape(1, -1, 16).astype(np.float16)
    for x, kind in ((0, 0), (4, 2)):
        place = [np.array([[x, 1, x + 2, 3]]) / 6]
        assert boxes.predict(trained, tokens, place, grid=GRID)[0][0, :3].argmax() == kind


def test_padding_changes_nothing(trained):
    """Neither in what is said of a box nor in what is learned from it."""
    tokens, places, targets = planted(40, 1)
    alone = boxes.predict(trained, tokens, [own[:1] for own in places], grid=GRID)
    together = boxes.predict(trained, tokens, places, grid=GRID)
    for one, both in zip(alone, together, strict=True):
        np.testing.assert_allclose(one[0], both[0], atol=1e-5)
    few = RECIPE | {"epochs": 2}
    narrow, wide = (
        boxes.predict(
            boxes.train(tokens, places, targets, seed=0, **few | {"most": most}),
            tokens,
            places,
            grid=GRID,
        )
        for most in (3, 7)
    )
    np.testing.assert_allclose(np.concatenate(narrow), np.concatenate(wide), atol=1e-4)


def test_it_does_not_matter_in_which_unit_a_feature_is_measured():
    tokens, places, targets = planted(40, 0)
    unit, shift = 2.0 ** np.random.default_rng(1).integers(0, 6, 16), 16 * np.arange(16)
    scaled = (tokens.astype(np.float32) * unit + shift).astype(np.float32)
    found = [
        boxes.predict(
            boxes.train(x, places, targets, seed=0, **RECIPE | {"epochs": 2}), x, places, grid=GRID
        )
        for x in (tokens.astype(np.float32), scaled)
    ]
    np.testing.assert_allclose(*map(np.concatenate, found), atol=0.02)


def test_the_same_seed_gives_the_same_bytes():
    data, few = planted(40, 0), RECIPE | {"epochs": 2}
    first, again, other = (
        np.concatenate(boxes.predict(boxes.train(*data, seed=seed, **few), *data[:2], grid=GRID))
        for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()


def test_a_clip_without_boxes_gets_no_detections(trained):
    tokens, places, _ = planted(2, 1)
    found = boxes.predict(trained, tokens, [places[0], np.zeros((0, 4))], grid=GRID)
    assert [len(one) for one in found] == [len(places[0]), 0]


def test_the_prior_is_the_share_of_boxes_with_a_class():
    targets = [np.array([[1, 0], [1, 1]]), np.array([[0, 0], [1, 0]])]
    np.testing.assert_allclose(boxes.prior(targets), [0.75, 0.25])


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0.1, 0.5, 0.4),
        (0.6, 0.1, 0.5, 0.4),
        (0.1, 0.1, 30, 40),
        (-0.1, 0, 1, 1),
        (np.nan, 0, 1, 1),
    ],
)
def test_empty_boxes_and_boxes_outside_are_one_sentence(trained, box):
    tokens, places, _ = planted(2, 1)
    with pytest.raises(
        ValueError, match=r"^clip 1: box 0 \(.*\) is empty or not within the frame; "
    ):
        boxes.predict(trained, tokens, [places[0], np.array([box])], grid=GRID)


def test_boxes_without_targets_and_clips_without_boxes_are_one_sentence():
    tokens, places, targets = planted(40, 0)
    with pytest.raises(ValueError, match="^clip 0 has 2 boxes and targets of 1: give one row"):
        boxes.train(
            tokens,
            [places[0][[0, 0]], *places[1:]],
            [targets[0][:1], *targets[1:]],
            seed=0,
            **RECIPE,
        )
    with pytest.raises(ValueError, match="^clip 0 has 0 boxes and targets of 0: .* leave clips"):
        boxes.train(
            tokens, [places[0][:0], *places[1:]], [targets[0][:0], *targets[1:]], seed=0, **RECIPE
        )


def test_what_does_not_fit_the_head_is_one_sentence(trained):
    tokens, places, targets = planted(40, 0)
    with pytest.raises(ValueError, match="^clip 0 has 4 boxes but the head takes 3 a clip: raise"):
        boxes.predict(trained, tokens, [places[0][[0] * 4], *places[1:]], grid=GRID)
    with pytest.raises(ValueError, match="^72 tokens a clip are no grid of 2 x 6 x 5 in time, "):
        boxes.predict(trained, tokens, places, grid=(2, 6, 5))
    with pytest.raises(ValueError, match="^3 heads do not divide a width of 16: choose"):
        boxes.train(tokens, places, targets, seed=0, **RECIPE | {"heads": 3})


def test_looking_is_attention_whose_keys_and_values_need_not_be_formed():
    layer = toy.filled(lambda: boxes.CrossAttention(8, 2, inner=12, rngs=nnx.Rngs(0)))
    queries, tokens = (
        jnp.array(np.random.default_rng(n).normal(size=(3, n, 8)), jnp.float32) for n in (2, 5)
    )

    def project(x, part):
        return jnp.einsum("bnd,dkh->bknh", x, part.w[...]) + part.b[...][:, None]

    of, seen = layer.attention, layer.token_norm(tokens)
    query = project(layer.query_norm(queries), of.query) * 6**-0.5
    y = attend(query, project(seen, of.key), project(seen, of.value))
    looked = jnp.einsum("bkmh,dkh->bmd", y, of.post.w[...]) + of.post.b[...]
    expected = layer.ff_layer(queries + looked)
    np.testing.assert_allclose(layer(queries, tokens), expected, atol=1e-5)
