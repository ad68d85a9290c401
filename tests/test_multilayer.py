"""One query looks at several layers, in order; what only an early layer says is found."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx
from test_boxes import GRID
from test_boxes import planted as planted_boxes

from vplib.evaluate import boxes, features, heads, multilayer
from vplib.evaluate.multilayer import MultilayerProbe
from vplib.evaluate.tasks import TASKS

RECIPE = dict(classes=4, heads=2, epochs=12, batch=32, learning_rate=3e-3, weight_decay=0.01)


def planted(clips: int, seed: int, layer: int, layers: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Noise tokens of several layers, in one of which a token points in the class' direction."""
    rng = np.random.default_rng(seed)
    tokens, labels = rng.normal(size=(clips, layers, 6, 16)), rng.integers(4, size=clips)
    tokens[np.arange(clips), layer, rng.integers(6, size=clips)] += 8 * np.eye(16)[labels]
    return (5 + tokens).astype(np.float16), labels


def probe(layers: int = 3, seed: int = 0, **more) -> MultilayerProbe:
    """Untrained, with noise in every parameter."""
    of = np.zeros(16 * layers, np.float32), np.ones(16 * layers, np.float32)
    make = lambda: MultilayerProbe(*of, 2, 4, layers=layers, rngs=nnx.Rngs(0), **more)  # noqa: E731
    made = toy.filled(make, seed)
    made.mean[...], made.deviation[...] = map(jnp.asarray, of)
    return made


def right(head, task, tokens, labels) -> float:
    return (task.predict(head, tokens).argmax(1) == labels).mean()


# --- tokens --------------------------------------------------------------------------------------


def test_the_last_layer_is_what_the_encoder_gives():
    encoder = toy.encoder(spatial_layers=3, temporal_layers=2)
    videos = toy.batch(0, clips=2)["video"]
    found = np.asarray(multilayer.layers_of(encoder)(videos))
    assert found.shape == (2, 4, 27, 16) and found.dtype == np.float16
    np.testing.assert_array_equal(found[:, -1], features.tokens_of(encoder)(videos))
    small = videos[:, :2, :8, :8]  # positions of another shape are interpolated
    other = multilayer.layers_of(encoder, 2)(small)
    assert other.shape == (2, 2, 8, 16)
    np.testing.assert_array_equal(other[:, -1], features.tokens_of(encoder)(small))


def test_earlier_layers_are_those_of_shorter_encoders():
    """Cutting the last block off leaves the layer before, with the same norm; the deepest spatial
    one is the released `spatial_features`, and says nothing of other frames.
    """
    encoder = toy.encoder(spatial_layers=3, temporal_layers=2)
    videos = toy.batch(0, clips=2)["video"]
    found = np.asarray(multilayer.layers_of(encoder)(videos))
    spatial = encoder(jnp.asarray(videos) / 255, features=True)[1]["spatial_features"]
    np.testing.assert_allclose(found[:, 1], spatial, atol=5e-3)
    for stack, places in (("temporal_encoder", [2]), ("spatial_encoder", [0])):
        short = toy.encoder(spatial_layers=3, temporal_layers=2)
        blocks = getattr(short, stack).transformers_stack
        blocks.x_layers = jax.tree.map(lambda leaf: leaf[:-1], blocks.x_layers)
        given, more = short(jnp.asarray(videos) / 255, features=True)
        expected = given if stack.startswith("t") else more["spatial_features"]
        np.testing.assert_allclose(found[:, places[0]], expected, atol=5e-3)
    other = videos.copy()
    other[:, 0] = 0
    changed = (np.asarray(multilayer.layers_of(encoder)(other)) != found).reshape(2, 4, 3, -1)
    assert changed.any((0, 3)).tolist() == [[True, False, False]] * 2 + [[True] * 3] * 2


def test_more_layers_than_there_are_are_one_sentence():
    for count in (0, 3):
        with pytest.raises(
            ValueError, match=f"^the tokens of {count} layers .* encoder has 2: take"
        ):
            multilayer.layers_of(toy.encoder(), count)


# --- the recursion -------------------------------------------------------------------------------


def test_the_output_of_a_layer_is_the_query_of_the_next_shallowest_first():
    tokens, head = np.random.default_rng(0).normal(size=(2, 3, 5, 16)).astype(np.float32), probe()
    query = jnp.broadcast_to(head.query[...], (2, 1, 16))
    for number in range(3):
        layer = jax.tree.map(lambda leaf: leaf[number], head.layers)  # noqa: B023
        query = layer(query, jnp.asarray(tokens[:, number]))
    np.testing.assert_allclose(multilayer.pooled(head, tokens), query[:, 0], atol=1e-5)
    np.testing.assert_allclose(
        multilayer.predict(head, tokens), head.projection(query)[:, 0], atol=1e-5
    )
    turned = multilayer.pooled(head, tokens[:, ::-1])
    assert np.abs(turned - query[:, 0]).max() > 0.01
    shuffled = multilayer.pooled(head, tokens[:, :, ::-1])  # tokens are a set
    np.testing.assert_allclose(shuffled, query[:, 0], atol=1e-5)


@pytest.mark.parametrize("layer", range(3))
def test_every_layer_is_looked_at_and_learns(layer):
    tokens = np.random.default_rng(0).normal(size=(2, 3, 5, 16)).astype(np.float32)
    head, other = probe(), tokens.copy()
    other[:, layer] *= -1
    assert np.abs(multilayer.pooled(head, other) - multilayer.pooled(head, tokens)).max() > 0.01
    graph, params, fixed = nnx.split(head, nnx.Param, ...)
    inputs = multilayer.beside(tokens)

    def loss(params):
        return jnp.square(nnx.merge(graph, params, fixed)(jnp.asarray(inputs))).sum()

    found = toy.leaves(nnx.merge(graph, jax.grad(loss)(params), fixed))
    for name, gradient in found.items():
        own = gradient[layer] if name.startswith("layers/") else gradient
        silent = name.endswith("attention/key/b")  # the same for all tokens
        assert silent or jnp.abs(own).max() > 1e-4, name


def test_one_layer_is_one_cross_attention_whose_query_is_learned():
    head, tokens = probe(layers=1), np.random.default_rng(0).normal(size=(2, 1, 5, 16))
    (alone,) = [jax.tree.map(lambda leaf: leaf[0], head.layers)]
    expected = alone(jnp.stack([head.query[...]] * 2), jnp.float32(tokens[:, 0]))
    np.testing.assert_allclose(multilayer.pooled(head, tokens), expected[:, 0], atol=1e-5)


# --- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return multilayer.train(*planted(512, 0, 0), seed=0, **RECIPE)


def test_with_one_layer_it_is_about_as_good_as_the_head_of_one_layer():
    (train, y), (test, truth) = planted(512, 0, 0, layers=1), planted(256, 1, 0, layers=1)
    many = multilayer.train(train, y, seed=0, **RECIPE)
    one = heads.train_probe(train[:, 0], y, seed=0, **RECIPE)
    found = right(many, TASKS["classification"], test, truth)
    assert abs(found - right(one, TASKS["classification"], test[:, 0], truth)) < 0.05 < 0.9 < found


@pytest.mark.parametrize("layer", range(3))
def test_it_finds_what_a_single_layer_knows_and_the_last_one_may_not(layer):
    train, test = planted(512, 0, layer), planted(256, 1, layer)
    many = TASKS["classification"].train(*train, seed=0, **RECIPE)
    assert right(many, TASKS["classification"], *test) > 0.9
    last = heads.train_probe(train[0][:, -1], train[1], seed=0, **RECIPE)
    found = right(last, TASKS["classification"], test[0][:, -1], test[1])
    assert found > 0.9 if layer == 2 else 0.15 < found < 0.35


def test_several_labels_a_clip_and_the_width_that_is_asked_for():
    tokens, labels = planted(512, 0, 1)
    several = np.stack([labels == 0, labels <= 1, labels == 2], 1).astype(float)
    recipe = RECIPE | {"classes": 3, "heads": 3, "loss": optax.sigmoid_binary_cross_entropy}
    head = multilayer.train(tokens, several, seed=0, width=24, **recipe)
    assert head.layers.attention.query.w.shape == (3, 16, 3, 8)
    assert ((multilayer.predict(head, tokens) > 0) == several).mean() > 0.9


def test_the_classifier_reads_what_is_pooled(trained):
    tokens = planted(256, 1, 0)[0]
    seen, linear = multilayer.pooled(trained, tokens, batch=100), trained.projection.linear
    assert seen.shape == (256, 16)
    logits = seen @ np.asarray(linear.kernel[...]) + np.asarray(linear.bias[...])
    np.testing.assert_allclose(logits, multilayer.predict(trained, tokens), atol=1e-4)


def test_each_layer_has_a_standardisation_of_its_own():
    tokens = planted(64, 0, 1)[0] * np.float16([1, 8, 4])[:, None, None]
    head = multilayer.train(tokens, np.arange(64) % 4, seed=0, **RECIPE | {"epochs": 1})
    for found, of in ((head.mean, np.mean), (head.deviation, np.std)):
        expected = of(tokens.astype(np.float32), (0, 2))
        np.testing.assert_allclose(found[...].reshape(3, 16), expected, rtol=2e-3)


def test_the_same_seed_gives_the_same_bytes_in_any_batches(trained):
    (tokens, labels), seen = planted(512, 0, 0), planted(256, 1, 0)[0]
    first, again, other = (
        multilayer.predict(head, seen)
        for head in (
            trained,
            *(multilayer.train(tokens, labels, seed=seed, **RECIPE) for seed in (0, 1)),
        )
    )
    assert (first == again).all() and (first != other).any()
    np.testing.assert_allclose(multilayer.predict(trained, seen, batch=100), first, atol=1e-4)


def test_what_does_not_fit_is_one_sentence():
    tokens, labels = planted(64, 0, 0)
    with pytest.raises(ValueError, match="^3 heads do not divide a width of 16: choose"):
        multilayer.train(tokens, labels, seed=0, **RECIPE | {"heads": 3})
    with pytest.raises(ValueError, match="^targets run from 0 to 3 but the probe has 3 classes$"):
        multilayer.train(tokens, labels, seed=0, **RECIPE | {"classes": 3})


def test_tokens_of_one_layer_get_the_head_of_one_layer():
    (tokens, labels), places = planted(64, 0, 0), planted_boxes(64, 0)
    recipe = RECIPE | {"epochs": 2}
    head = multilayer.train(tokens[:, -1], labels, seed=0, **recipe)
    alone = heads.train_probe(tokens[:, -1], labels, seed=0, **recipe)
    assert type(head) is heads.Probe
    expected = heads.predict(alone, tokens[:, -1])
    assert (multilayer.predict(head, tokens[:, -1]) == expected).all()
    given = dict(grid=GRID, most=3, heads=2, epochs=2, batch=32, learning_rate=3e-3)
    head = multilayer.train_boxes(*places, seed=0, weight_decay=0.01, **given)
    assert type(head) is boxes.BoxProbe
    found = multilayer.predict_boxes(head, *places[:2], grid=GRID)
    expected = boxes.predict(head, *places[:2], grid=GRID)
    assert (np.concatenate(found) == np.concatenate(expected)).all()


# --- boxes ---------------------------------------------------------------------------------------


def test_boxes_are_queries_and_get_the_classes_of_their_objects():
    """Their objects are in the early layer alone; the last one says where to look, no more."""
    recipe = dict(
        grid=GRID, most=3, heads=2, epochs=12, batch=32, learning_rate=3e-3, weight_decay=0.01
    )
    (tokens, places, targets), (unseen, where, truth) = planted_boxes(256, 0), planted_boxes(64, 1)

    def both(tokens):
        return np.stack([tokens, tokens], 1)

    head = multilayer.train_boxes(both(tokens), places, targets, seed=0, **recipe)
    found = multilayer.predict_boxes(head, both(unseen), where, grid=GRID)
    assert ((np.concatenate(found) > 0.5) == np.concatenate(truth)).mean() > 0.97
    regions = boxes.regions(unseen, *boxes.pad(where, 3)[:1], GRID).astype(np.float16)
    assert not hasattr(head, "query") and regions.shape == (64, 3, 16)
    with pytest.raises(ValueError, match="^3 heads do not divide a width of 16: choose"):
        multilayer.train_boxes(both(tokens), places, targets, seed=0, **recipe | {"heads": 3})


def test_the_first_query_of_a_box_is_its_region_in_the_last_layer():
    head, rng = probe(layers=2, most=2), np.random.default_rng(0)
    tokens = rng.normal(size=(1, 2, 72, 16)).astype(np.float32)
    places = [np.array([[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]])]
    query = jnp.asarray(boxes.regions(tokens[:, 1], np.stack(places), GRID))
    for number in range(2):
        layer = jax.tree.map(lambda leaf: leaf[number], head.layers)  # noqa: B023
        query = layer(query, jnp.asarray(tokens[:, number]))
    expected = jax.nn.sigmoid(head.projection(query))
    found = multilayer.predict_boxes(head, tokens, places, grid=GRID)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
