"""Adapters, fine-tuning from videos, what an adaptation costs."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
import yaml
from flax import nnx

from vplib import paths, published
from vplib.data import labelled
from vplib.evaluate import adapt, boxes, classify, heads, multilayer
from vplib.model import adapters, checkpoints, cost
from vplib.model.encoders import VideoClassifier, VideoEncoder, pixels
from vplib.model.sizes import Sizes

SIZES = replace(toy.SIZES, spatial_layers=2, temporal_layers=2, vocabulary=0, classes=0)
GOLDEN = paths.ROOT / "tests" / "golden"


def clips(count: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    """Their brightness tells the class, of three."""
    rng = np.random.default_rng(seed)
    target = rng.integers(3, size=count).astype(np.int32)
    video = rng.integers(0, 60, (count, 3, 12, 12, 3)) + 90 * target[:, None, None, None, None]
    return {"video": video.astype(np.uint8), "target": target}


def encoder(seed: int = 0) -> VideoEncoder:
    return toy.filled(lambda: VideoEncoder(SIZES, rngs=nnx.Rngs(0)), seed)


RECIPE = dict(
    classes=3,
    heads=2,
    inner=4,
    steps=4,
    batch=8,
    learning_rate=3e-3,
    weight_decay=0.0,
    every=2,
)


def tuned(tmp_path, adaptation, arrays=None, **change):
    recipe = RECIPE | dict(seed=0, identity="x", out=tmp_path) | change
    return adapt.tune(encoder(), SIZES, arrays or clips(), adaptation=adaptation, **recipe)


def changed(before, after) -> set[str]:
    """The top names of what differs."""
    old, new = toy.leaves(before), toy.leaves(after)
    return {name for name in old if not np.array_equal(old[name], new[name])}


# --- adapters ------------------------------------------------------------------------------------


def test_new_adapters_leave_the_network_as_it_is_bit_for_bit():
    plain, video = encoder(), pixels(jnp.asarray(clips()["video"][:4]))
    own = adapters.Adapters(replace(SIZES, adapter=4), rngs=nnx.Rngs(1))
    joined = adapters.join(plain, own)
    assert not hasattr(plain.spatial_encoder.transformers_stack.x_layers.ff_layer, "adapter")
    np.testing.assert_array_equal(np.asarray(joined(video)), np.asarray(plain(video)))
    for part in (own.spatial, own.temporal):  # one in every block, and each of them speaks
        assert part.down.linear.kernel.shape == (2, SIZES.width, 4)
        assert part.scale[...].tolist() == [np.float32(0.1)] * 2
        for layer in range(2):
            part.up.linear.bias[...] = (
                jnp.zeros_like(part.up.linear.bias[...]).at[layer, ::2].set(1)
            )
            moved = adapters.join(plain, own)(video)
            assert np.abs(np.asarray(moved - plain(video))).max() > 1e-3
        part.up.linear.bias[...] = jnp.zeros_like(part.up.linear.bias[...])


def test_an_adapter_is_a_bottleneck_with_a_scale():
    one = toy.filled(lambda: adapters.Adapter(6, 2, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    down, up = one.down.linear, one.up.linear
    hidden = np.maximum(x @ np.asarray(down.kernel[...]) + np.asarray(down.bias[...]), 0)
    want = hidden @ np.asarray(up.kernel[...]) + np.asarray(up.bias[...])
    np.testing.assert_allclose(one(jnp.asarray(x)), float(one.scale[...]) * want, atol=1e-6)


def test_a_classifier_with_adapters_is_a_weights_file(tmp_path):
    sizes = replace(SIZES, adapter=4, classes=3)
    model = toy.filled(lambda: VideoClassifier(sizes, rngs=nnx.Rngs(0)))
    checkpoints.save(model, tmp_path / "c.npz")
    assert checkpoints.infer(checkpoints.read(tmp_path / "c.npz")).adapter == 4
    video = pixels(jnp.asarray(clips()["video"][:2]))
    loaded = checkpoints.load(tmp_path / "c.npz")
    np.testing.assert_array_equal(np.asarray(loaded(video)), np.asarray(model(video)))


# --- training ------------------------------------------------------------------------------------


def test_what_stays_and_what_learns(tmp_path):
    before = encoder()
    network, head = tuned(tmp_path / "a", "adapter", learning_rate=0.1)
    told = changed(before, network)
    assert not told  # every weight that the frozen encoder has
    own = network.spatial_encoder.transformers_stack.x_layers.ff_layer.adapter
    assert all(np.asarray(own.up.linear.kernel[...]).any((1, 2)))
    network, head = tuned(tmp_path / "b", "end_to_end")
    assert len(changed(before, network)) == len(toy.leaves(before))
    network, _ = tuned(tmp_path / "c", "end_to_end", blocks=1, weight_decay=0.1)
    old, new = toy.leaves(before), toy.leaves(network)
    for name, value in old.items():
        if "temporal_encoder" in name:
            assert np.array_equal(value[0], new[name][0]), name
            assert not np.array_equal(value[1], new[name][1]), name
        else:
            assert np.array_equal(value, new[name]) == ("temporal_ln" not in name), name


def test_no_gradient_is_computed_below_the_blocks_that_learn():
    model = encoder()
    video = pixels(jnp.asarray(clips()["video"][:2]))

    def gradients(blocks):
        adapt.last(model, SIZES, blocks)
        return toy.leaves(jax.grad(lambda m: jnp.square(m(video)).mean())(model))

    whole = gradients(None)
    for blocks in (1, 2, 3):
        for name, value in gradients(blocks).items():
            first = 2 if "temporal_encoder" in name else 0
            if "x_layers" in name:
                for layer in range(2):
                    learns = first + layer >= 4 - blocks
                    same = toy.close(value[layer], whole[name][layer], 1e-6)
                    assert same if learns else not value[layer].any(), (name, blocks)
            elif "temporal_ln" in name:
                assert value.any()
            elif "patch" in name or "spatial_pos" in name:
                assert not value.any()
    adapt.last(model, SIZES, None)


def test_layers_decay_from_the_last_to_the_patches():
    head = heads.Probe(np.zeros(16), np.ones(16), 2, 3, rngs=nnx.Rngs(0))
    tuning = adapt.Tuning(head, encoder())
    rates = toy.leaves(adapt.layer_rates(tuning, SIZES, blocks=None, decay=0.5))
    for name, value in rates.items():
        value = np.asarray(value).ravel().tolist()
        if "head" in name:
            assert value == [1]
        elif "x_layers" in name:
            assert value == ([1 / 4, 1 / 2] if "temporal" in name else [1 / 16, 1 / 8])
        elif "patch" in name or "spatial_pos" in name:
            assert value == [1 / 32], name
    kept = toy.leaves(adapt.layer_rates(tuning, SIZES, blocks=2, decay=0.5))
    assert {float(np.asarray(v).max()) for n, v in kept.items() if "spatial" in n} == {0.0}
    tx = optax.chain(optax.sgd(1.0), adapt.optimiser.scaled({"a": jnp.float32(0.5), "b": 0.0}))
    updates, _ = tx.update({"a": jnp.ones(2), "b": jnp.ones(2)}, tx.init({"a": 1, "b": 1}))
    assert updates["a"].tolist() == [-0.5] * 2 and updates["b"].tolist() == [0, 0]


@pytest.mark.parametrize("adaptation", ["adapter", "end_to_end"])
def test_it_learns_what_the_labels_show(tmp_path, adaptation):
    arrays = clips(48)
    network, head = tuned(tmp_path, adaptation, arrays, steps=60, every=30, learning_rate=1e-2)
    unseen = clips(48, seed=1)
    said = adapt.logits(network, head, unseen, batch=20)
    assert said.shape == (48, 3) and (said.argmax(1) == unseen["target"]).mean() > 0.8
    one = adapt.logits(network, head, {k: v[:1] for k, v in unseen.items()})
    np.testing.assert_allclose(one, said[:1], atol=1e-4)


def test_a_stopped_adaptation_goes_on_as_if_it_never_stopped(tmp_path, monkeypatch):
    whole, head = tuned(tmp_path / "a", "adapter")
    real = adapt.loop.fit
    monkeypatch.setattr(adapt.loop, "fit", lambda *a, **k: real(*a, **k | {"steps": 2}))
    tuned(tmp_path / "b", "adapter")
    monkeypatch.setattr(adapt.loop, "fit", real)
    again, same = tuned(tmp_path / "b", "adapter")
    assert not changed(whole, again) and not changed(head, same)
    assert changed(whole, tuned(tmp_path / "c", "adapter", seed=1)[0])


def test_boxes_are_read_as_frozen_heads_read_them(tmp_path):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (24, 2, 2))
    places = [*np.concatenate([low, low + 0.4], -1)]
    target = boxes.pack([rng.integers(0, 2, (2, 3)) for _ in places], np.ones((24, 2), bool))
    arrays = clips() | {"target": target.astype(np.float32)}
    arrays = adapt.boxed(arrays, places, grid=(3, 3, 3), most=2)
    network, head = tuned(tmp_path, "end_to_end", arrays, of=boxes.packed_loss)
    said = adapt.logits(network, head, arrays)
    assert said.shape == (24, 2, 3)
    tokens = np.asarray(network(pixels(jnp.asarray(arrays["video"]))))
    wanted = boxes.predict(head, tokens, places, grid=(3, 3, 3))
    np.testing.assert_allclose(1 / (1 + np.exp(-said)), np.stack(wanted), atol=1e-4)


def test_a_step_in_two_parts_is_one_step(tmp_path):
    arrays = clips(8)
    once, _ = tuned(tmp_path / "a", "adapter", arrays)
    twice, _ = tuned(tmp_path / "b", "adapter", arrays, accumulate=2)
    for name, value in toy.leaves(once).items():
        assert toy.close(value, toy.leaves(twice)[name], 1e-4), name


@pytest.mark.parametrize(
    ("adaptation", "change", "message"),
    [
        ("frozen", {}, "frozen is no adaptation of an encoder: choose adapter or end_to_end"),
        ("end_to_end", {"blocks": 5}, "the last 5 blocks .* encoder has 4: take from 1"),
        ("adapter", {"heads": 3}, "3 heads do not divide a width of 16"),
        ("adapter", {"accumulate": 3}, "a batch of 8 clips has no 3 equal parts: choose adapt"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, adaptation, change, message):
    with pytest.raises(ValueError, match=message):
        tuned(tmp_path, adaptation, **change)
    assert not any(tmp_path.iterdir())


def test_processes_share_a_batch():
    arrays = clips(12)
    whole = labelled.stream(arrays, batch=6, seed=3)
    parts = [labelled.stream(arrays, batch=6, seed=3, index=i, count=2) for i in range(2)]
    for _ in range(5):
        one, two = next(whole), [next(part) for part in parts]
        shared = np.stack([part["target"] for part in two], 1).ravel()
        assert one["target"].tolist() == shared.tolist() and len(one["video"]) == 6
    with pytest.raises(ValueError, match="a global batch of 6 does not divide over 4 processes"):
        labelled.stream(arrays, batch=6, seed=3, index=0, count=4)
    assert len(next(labelled.stream(arrays, batch=50, seed=0))["target"]) == 12


# --- cost ----------------------------------------------------------------------------------------


def base(frames: int, size: int) -> Sizes:
    told = yaml.safe_load((paths.CONF / "model" / "base.yaml").read_text())
    return replace(Sizes.of(told), frames=frames, size=size)


@pytest.mark.parametrize(
    ("frames", "size", "wanted"),  # published: equal compute, and VideoPrism's own input
    [
        (8, 252, {"frozen": 3.72, "mlap": 14.9, "adapter": 8.71, "end_to_end": 374}),
        (16, 288, {"frozen": 9.71, "mlap": 38.8, "adapter": 22.8, "end_to_end": 977}),
    ],
)
def test_trainable_operations_are_the_published_ones(frames, size, wanted):
    sizes = base(frames, size)
    if size == 252:
        sizes = replace(sizes, patch=18)
    for way, value in wanted.items():
        found = cost.trainable_operations(way, sizes, 64) / 1e9
        assert found == pytest.approx(value, rel=0.012), way
    with pytest.raises(ValueError, match="probing is unknown: choose one of frozen"):
        cost.trainable_operations("probing", sizes, 64)


def test_scores_of_the_reference_file():
    cases = json.loads((GOLDEN / "evaluation" / "videoglue_score.json").read_text())["cases"]
    assert len(cases) >= 8
    for case in cases:
        ways = list(case["trainable_gflops"])
        averages = [published.average(case["scores"][way], published.GROUPS) for way in ways]
        for way, value in zip(ways, averages, strict=True):
            assert value == pytest.approx(case["stratified_average"][way], abs=1e-6)
        costs = [case["trainable_gflops"][way] for way in ways]
        assert published.videoglue_score(averages, costs) == pytest.approx(case["vgs"], abs=1e-6)


def test_small_costs_have_no_weight():
    for small in (1.0, 0.4):
        with pytest.raises(ValueError, match=f"a cost of {small:g} has no weight .* smaller unit"):
            published.videoglue_score([50, 60], [small, 300])
    # Cheap adaptations weigh more, and the unit matters.
    assert published.videoglue_score([50, 60], [10, 1000]) == pytest.approx(52.5)
    assert published.videoglue_score([50, 60], [1e4, 1e6]) == pytest.approx(54)


# --- what is kept --------------------------------------------------------------------------------


def test_a_classifier_of_several_layers_is_kept_and_says_what_its_head_said(tmp_path):
    model, arrays = encoder(), clips(12)
    layers = np.asarray(multilayer.layers_of(model, 3)(arrays["video"]))
    recipe = dict(epochs=1, batch=4, learning_rate=1e-2, weight_decay=0.0, seed=0)
    head = multilayer.train(layers, arrays["target"], classes=3, heads=4, width=8, **recipe)
    said = multilayer.predict(head, layers)
    kept = multilayer.MultilayerClassifier(model, head)
    classify.save(kept, ["a", "b", "c"], tmp_path, encoder="toy")
    again, classes, whose = classify.restore(tmp_path)
    assert (classes, whose) == (["a", "b", "c"], "toy")
    found = np.asarray(again(pixels(jnp.asarray(arrays["video"]))))
    np.testing.assert_allclose(found, said, atol=0.02)  # tokens were kept in half precision
    assert toy.leaves(again).keys() == toy.leaves(kept).keys()
    weights = checkpoints.read(tmp_path / "classifier.npz")
    del weights["params/head/query"]
    np.savez(tmp_path / "classifier.npz", **weights)
    with pytest.raises(checkpoints.CheckpointError, match="it lacks query"):
        classify.restore(tmp_path)
