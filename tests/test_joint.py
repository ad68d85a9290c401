"""Joint attention: one stack in which every token sees all of a clip, in place of space and time."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from vplib import cards, config
from vplib.evaluate import adapt, classify, features, heads, multilayer
from vplib.method import stages
from vplib.model import adapters, checkpoints, exported
from vplib.model.checkpoints import CheckpointError
from vplib.model.cost import encoder_operations
from vplib.model.encoders import VideoEncoder, configure
from vplib.model.sizes import Sizes

JOINT = {"joint": True, "spatial_layers": 2, "temporal_layers": 1}
encoder = partial(toy.encoder, **JOINT)
encode = jax.jit(lambda model, video, **given: model(video, **given), static_argnames="crop")


def without(video, frame: int, place: int):
    """The video, black at one place (of 3 x 3, 4 pixels each) of one frame."""
    top, left = 4 * (place // 3), 4 * (place % 3)
    return video.at[:, frame, top : top + 4, left : left + 4].set(0)


def blocks(model) -> list[nnx.Module]:
    layers = model.joint_encoder.transformers_stack.x_layers
    return [jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(3)]


# --- the encoder ---------------------------------------------------------------------------------


def test_all_blocks_see_one_sequence_with_both_positions():
    model, video = encoder(), toy.pixels(0, 2)
    x = model.patch_projection(video.reshape(2, 3, 3, 4, 3, 4, 3).swapaxes(3, 4).reshape(2, 27, 48))
    space, time = model.spatial_pos_emb.emb_var[...], model.temporal_pos_emb.emb_var[...]
    x = x + jnp.tile(space, (3, 1)) + jnp.repeat(time, 9, axis=0)
    for block in blocks(model):
        x = block(x)
    assert toy.close(encode(model, video), model.temporal_ln(x))
    assert encode(model, video).shape == encode(toy.encoder(), video).shape


def test_one_block_is_enough_to_see_another_place_of_another_frame():
    video = toy.pixels(0, 1)
    one = toy.encoder(joint=True, spatial_layers=1, temporal_layers=0)
    moved = np.asarray(encode(one, without(video, 2, 8)) != encode(one, video))
    assert moved.any(-1).all()
    over_time = toy.encoder(
        spatial_layers=0, temporal_layers=1
    )  # what factorised attention sees in one
    moved = np.asarray(encode(over_time, without(video, 2, 8)) != encode(over_time, video))
    assert moved.any(-1).reshape(3, 9).all(0).tolist() == [False] * 8 + [True]


def test_it_has_the_blocks_of_factorised_attention_and_one_norm_less():
    sizes = replace(toy.SIZES, spatial_layers=2)
    plain, joint = (
        toy.leaves(VideoEncoder(replace(sizes, joint=one), rngs=nnx.Rngs(0)))
        for one in (False, True)
    )
    counts = [sum(leaf.size for leaf in leaves.values()) for leaves in (plain, joint)]
    assert counts[0] - counts[1] == 2 * sizes.width
    gone = {name for name in plain if "_encoder" not in name} - {*joint}
    assert gone == {"spatial_ln/scale", "spatial_ln/bias"}
    for name, leaf in joint.items():
        if "joint_encoder" in name:
            of = [plain[name.replace("joint", part)] for part in ("spatial", "temporal")]
            assert leaf.shape == (sum(map(len, of)), *of[0].shape[1:])


def test_visible_tokens_alone_enter():
    model, video = encoder(), toy.pixels(0, 2)
    places = jnp.broadcast_to(jnp.array([[0, 4, 5], [0, 1, 8], [2, 5, 7]]), (2, 3, 3))
    tokens = encode(model, video, visible=places)
    assert tokens.shape == (2, 9, 16)
    assert toy.close(encode(model, without(video, 1, 5), visible=places), tokens, 0)
    moved = jnp.abs(encode(model, without(video, 1, 8), visible=places) - tokens).max((0, 2))
    assert (moved > 1e-5).all()  # every other one
    everywhere = jnp.broadcast_to(jnp.arange(9), (2, 3, 9))
    assert toy.close(encode(model, video, visible=everywhere), encode(model, video))
    tube = jnp.array([[0, 4, 5, 8], [1, 2, 3, 7]])
    ragged = jnp.broadcast_to(tube[:, None], (2, 3, 4))
    same = encode(model, video, visible=tube), encode(model, video, visible=ragged)
    assert toy.close(*same)


def test_padded_frames_have_no_influence():
    model, video = encoder(), toy.pixels(0, 2)
    paddings = jnp.array([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    tokens = encode(model, video, paddings=paddings).reshape(2, 3, 9, 16)
    other = video.at[0, 2].set(0).at[1, 1:].set(1)
    changed = encode(model, other, paddings=paddings).reshape(2, 3, 9, 16)
    assert toy.close(changed[0, :2], tokens[0, :2], 0)
    assert toy.close(changed[1, :1], tokens[1, :1], 0)
    short = encode(model, video[:1, :2], crop=True).reshape(2, 9, 16)
    assert toy.close(tokens[0, :2], short)
    visible = jnp.broadcast_to(jnp.array([[0, 4], [0, 1], [2, 5]]), (2, 3, 2))
    one, two = (encode(model, v, paddings=paddings, visible=visible) for v in (video, other))
    assert toy.close(one.reshape(2, 3, 2, 16)[0, :2], two.reshape(2, 3, 2, 16)[0, :2], 0)


def test_both_stages_train_all_of_it():
    model, batch = toy.stage1(**JOINT), jax.tree.map(jnp.asarray, toy.batch(0, clips=2))
    own = dict(drop_ratio=0.5, key=jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda stage: stages.stage1_loss(stage, batch, **own)[0]))(model)
    learned = toy.leaves(gradient.model.vision_encoder)
    assert all(leaf.any() for leaf in learned.values())
    teacher, student = stages.start(model.model)
    sizes = replace(toy.SIZES, **JOINT)

    def both(rngs):
        own = dict(teacher=sizes, local_loss=True, global_loss=True)
        return stages.Stage2(student, sizes, **own, rngs=rngs)

    stage = both(nnx.Rngs(0))
    told = dict(mask="bevt", mask_ratio=0.5, shuffle_tokens=True, masked_only=False)
    told |= dict(normalise_targets=False, key=jax.random.key(0), step=0)
    found = jax.jit(jax.grad(lambda s: stages.stage2_loss(s, batch, teacher, **told)[0]))(stage)
    assert all(leaf.any() for leaf in toy.leaves(found.encoder).values())


def test_a_kernel_and_recomputation_reach_every_block():
    model = encoder()
    configure(model, kernel="splash", remat=True)
    stack = model.joint_encoder.transformers_stack
    assert stack.remat and stack.x_layers.self_attention.kernel == "splash"


# --- weights, and what reads the encoder ---------------------------------------------------------


def test_a_weights_file_says_which_attention_it_is_of(tmp_path):
    for name, make in (("a", partial(toy.video_text, **JOINT)), ("b", toy.video_text)):
        checkpoints.save(make(0), tmp_path / f"{name}.npz")
    joint, plain = (checkpoints.read(tmp_path / f"{name}.npz") for name in "ab")
    found = checkpoints.infer(joint)
    assert found.joint and not checkpoints.infer(plain).joint
    assert (found.layers, found.spatial_layers, found.temporal_layers) == (3, 3, 0)
    video = toy.pixels(0, 2)
    loaded = checkpoints.load(tmp_path / "a.npz")
    expected = toy.video_text(0, **JOINT).encode_video(video)
    assert (loaded.encode_video(video) == expected).all()
    assert "spatial_features" not in loaded.features(video)
    with pytest.raises(CheckpointError, match="x is of another model: it lacks .*/joint_encoder"):
        checkpoints.assign(toy.video_text(**JOINT), plain, name="x")
    with pytest.raises(CheckpointError, match="x is of another model: it lacks .*/spatial_encoder"):
        checkpoints.assign(toy.video_text(), joint, name="x")


def test_it_has_no_place_in_transformers():
    with pytest.raises(ValueError, match="joint_encoder.* cannot be exported$"):
        exported.arrays(checkpoints.flatten(encoder()))


def test_heads_read_its_tokens_and_layers():
    model, videos = encoder(), toy.batch(0, clips=2)["video"]
    assert classify.attention_heads(model) == 2
    assert classify.view(model) == {"frames": 3, "size": 12}
    tokens = features.tokens_of(model)(videos)
    found = np.asarray(multilayer.layers_of(model, 3)(videos))
    assert found.shape == (2, 3, 27, 16)
    np.testing.assert_array_equal(found[:, -1], tokens)
    stack = model.joint_encoder.transformers_stack
    stack.x_layers = jax.tree.map(lambda leaf: leaf[:-1], stack.x_layers)  # one block less
    np.testing.assert_allclose(found[:, 1], features.tokens_of(model)(videos), atol=5e-3)
    with pytest.raises(ValueError, match="of 3 layers .* has 2: take from 1"):
        multilayer.layers_of(model, 3)


def test_adapters_stand_in_every_block(tmp_path):
    sizes = replace(toy.SIZES, **JOINT)
    model, video = encoder(), toy.pixels(0, 2)
    own = adapters.Adapters(replace(sizes, adapter=4), rngs=nnx.Rngs(0))
    joined = adapters.join(model, own)
    assert toy.close(encode(joined, video), encode(model, video), 0)
    own.joint.up.linear.bias[...] = own.joint.up.linear.bias[...].at[1, ::2].set(1)
    assert not toy.close(encode(adapters.join(model, own), video), encode(model, video), 1e-3)
    checkpoints.save(toy.encoder(**JOINT, adapter=4), tmp_path / "w.npz")
    assert checkpoints.load(tmp_path / "w.npz").joint_encoder is not None
    assert checkpoints.infer(checkpoints.read(tmp_path / "w.npz")).adapter == 4


@pytest.mark.parametrize("shown", [True, False], ids=["as inferred", "as configured"])
def test_its_last_blocks_may_learn_alone(shown):
    sizes = replace(toy.SIZES, **JOINT)
    if shown:
        sizes = replace(sizes, spatial_layers=3, temporal_layers=0)
    model, video = encoder(), toy.pixels(0, 2)
    adapt.last(model, sizes, 2)
    found = jax.jit(jax.grad(lambda m: jnp.square(m(video)).mean()))(model)
    kernel = found.joint_encoder.transformers_stack.x_layers.ff_layer.ffn_layer1.linear.kernel[...]
    assert kernel.any((1, 2)).tolist() == [False, True, True]
    head = heads.Probe(np.zeros(16), np.ones(16), 2, 3, rngs=nnx.Rngs(0))
    rates = adapt.layer_rates(adapt.Tuning(head, model), sizes, blocks=None, decay=0.5)
    for name, value in toy.leaves(rates).items():
        value = np.asarray(value).ravel().tolist()
        if "x_layers" in name:
            assert value == [1 / 8, 1 / 4, 1 / 2]
        elif "encoder" in name:
            assert value == [1 / 2 if "temporal_ln" in name else 1 / 16], name


# --- the overlay, and what it costs --------------------------------------------------------------


@pytest.mark.parametrize("model", ["tiny", "base"])
def test_the_overlay_keeps_the_number_of_blocks(model):
    one, other = (
        Sizes.of(config.check("20_stage1", f"ablation={word} model={model}").model)
        for word in ("none", "joint_attention")
    )
    assert other == replace(one, joint=True) and other.layers == one.layers
    assert "over space and time at once" in cards.shape(other) != cards.shape(one)


def test_operations_are_those_that_a_compiler_counts():
    """Of one block: of a loop it counts one turn."""
    sizes = replace(toy.SIZES, joint=True, spatial_layers=1, temporal_layers=0)
    model, video = toy.encoder(joint=True, spatial_layers=1, temporal_layers=0), toy.pixels(0, 1)
    counted = jax.jit(lambda m, v: m(v)).lower(model, video).cost_analysis()["flops"]
    assert counted == pytest.approx(encoder_operations(sizes, sizes.places), rel=0.3)
    few, all_of = (encoder_operations(sizes, places) for places in (1, 9))
    assert all_of > 9 * few  # attention grows with the square
