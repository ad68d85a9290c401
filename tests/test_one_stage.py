"""Both losses in one stage: the one encoder gets the gradients of either."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx

from vplib.method import one_stage, stages
from vplib.method.losses import normalised_patches, squared_error
from vplib.method.one_stage import OneStage, one_stage_loss
from vplib.model import checkpoints
from vplib.model.encoders import pixels
from vplib.train import loop

KEY = jax.random.key(0)
SETTINGS = dict(masked=0.5, drop_ratio=0.5)
KEY_BIAS = "key/b"  # softmax knows nothing of it


def made(seed: int = 0) -> OneStage:
    return toy.filled(lambda: OneStage(toy.video_text(), toy.SIZES, rngs=nnx.Rngs(0)), seed)


def batch(index: int = 0, clips: int = 4, frames: int = 3) -> dict:
    return jax.tree.map(jnp.asarray, toy.batch(index, clips=clips, frames=frames))


loss = jax.jit(partial(one_stage_loss, **SETTINGS))


def gradient(stage: OneStage, given: dict) -> OneStage:
    """As `fit` takes it: of parameters that each are there once."""
    graph, params, rest = nnx.split(stage, nnx.Param, ...)
    run = lambda now: one_stage_loss(nnx.merge(graph, now, rest), given, **SETTINGS, key=KEY)[0]  # noqa: E731
    return nnx.merge(graph, jax.jit(jax.grad(run))(params), rest)


def test_the_loss_is_that_of_stage_1_plus_the_error_of_hidden_pixels():
    stage, given = made(), batch()
    value, numbers = loss(stage, given, key=KEY)
    k_drop, k_mask = jax.random.split(KEY)
    first, told = stages.stage1_loss(stage, given, drop_ratio=0.5, key=k_drop)
    _, _, seen = stages.distil(
        stage.stage2, given, stage.model, mask_ratio=0.5, key=k_mask, step=0, **one_stage.FORM
    )
    target = normalised_patches(pixels(given["video"]), 4)
    error = squared_error(seen["local"], target)
    hidden = float((error * seen["masked"]).sum() / seen["masked"].sum())
    assert seen["masked"].mean((0, 1)) == pytest.approx(4 / 9, abs=0.01)  # half of 9, rounded
    assert float(numbers["masked"]) == pytest.approx(hidden, rel=1e-4)
    assert float(numbers["contrastive"]) == pytest.approx(float(first), rel=1e-4)
    assert float(value) == pytest.approx(float(first) + hidden, rel=1e-4)
    assert numbers["clips"] == 1 and {*told} < {*numbers}
    assert float(numbers["temperature"]) == pytest.approx(float(told["temperature"]))


def test_images_are_not_masked():
    image = batch(frames=1)
    value, numbers = loss(made(), image, key=KEY)
    assert numbers["clips"] == numbers["masked"] == 0 and value == numbers["contrastive"]
    assert {*numbers} == {*loss(made(), batch(), key=KEY)[1]}  # so that a log has the same columns
    found = toy.leaves(gradient(made(), image))
    assert all(not leaf.any() for name, leaf in found.items() if "local_decoder" in name)


def test_one_encoder_learns_from_both():
    stage, given = made(), batch()
    names = [*toy.leaves(stage)]
    assert len([name for name in names if "patch_projection/linear/kernel" in name]) == 1
    both = toy.leaves(gradient(stage, given))
    assert all(leaf.any() for name, leaf in both.items() if not name.endswith(KEY_BIAS))
    k_drop, k_mask = jax.random.split(KEY)
    first = jax.grad(lambda s: stages.stage1_loss(s, given, drop_ratio=0.5, key=k_drop)[0])
    own = dict(mask_ratio=0.5, key=k_mask, step=0, **one_stage.FORM)
    second = jax.grad(lambda s: stages.stage2_loss(s, given, stage.model, **own)[0])
    one = toy.leaves(jax.jit(first)(stage).model.vision_encoder)
    two = toy.leaves(jax.jit(second)(stage.stage2).encoder)
    for name in one:
        (summed,) = [leaf for key, leaf in both.items() if key.endswith(f"encoder/{name}")]
        np.testing.assert_allclose(summed, one[name] + two[name], rtol=1e-3, atol=1e-4)


class Stop(Exception):
    pass


def train(out, stop: int | None = None):
    def draw(index):
        if index == stop:
            raise Stop
        return toy.batch(index, frames=1 if index % 2 else 3)

    tx = optax.chain(optax.adam(1e-2), stages.temperature_floor())
    own = dict(steps=6, tx=tx, seed=0, out=out, every=2, checkpoint_every=2)
    run = partial(one_stage_loss, **SETTINGS)
    return loop.fit(made(), run, toy.Batches(draw), **own)


def test_stopped_between_clips_and_images_it_ends_as_if_it_never_stopped(tmp_path):
    whole = train(tmp_path / "a")
    with pytest.raises(Stop):
        train(tmp_path / "b", stop=5)
    again = train(tmp_path / "b")
    one, other = toy.leaves(whole), toy.leaves(again)
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
    logs = [(tmp_path / name / "metrics.csv").read_bytes() for name in "ab"]
    assert logs[0] == logs[1] and b"masked" in logs[0]
    before = toy.leaves(made())
    assert all((one[name] != before[name]).any() for name in one if not name.endswith(KEY_BIAS))
    assert again.stage2.encoder is again.model.vision_encoder
    checkpoints.save(again.model, tmp_path / "w.npz")
    assert type(checkpoints.load(tmp_path / "w.npz")) is type(again.model)
