"""Both stages: who sees what, where gradients go, what ablations remove, and that both learn."""

import ast
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from flax import nnx

from vplib import config, paths
from vplib.method import stages
from vplib.method.losses import cosine_distance
from vplib.method.masking import MASKS
from vplib.method.stages import (
    LocalDecoder,
    distil,
    instance_normalise,
    stage1_loss,
    stage2_loss,
    temperature_floor,
)
from vplib.model.encoders import VideoEncoder, VideoText
from vplib.train import optimiser

PAPER = dict(
    mask="bevt",
    mask_ratio=0.65,
    shuffle_tokens=True,
    masked_only=False,
    normalise_targets=False,
    step=0,
)
OFF = {"shuffle_warmup": 0, "visible_only": False, "targets": "tokens", "image_teacher": False}
SETTINGS = tuple({*PAPER, *OFF} - {"step"})
loss1 = jax.jit(stage1_loss, static_argnames="drop_ratio")
compare = jax.jit(distil, static_argnames=SETTINGS)


def loss2(*given, **settings):
    return compare(*given, **settings)[:2]


class FixedTeacher(VideoText):
    """A teacher with the same answer whatever it is shown."""

    def __init__(self, clips: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.tokens = nnx.Param(jnp.asarray(rng.normal(size=(clips, 27, 16)), jnp.float32))
        self.embedding = nnx.Param(jnp.asarray(rng.normal(size=(clips, 16)), jnp.float32))

    def vision_encoder(self, video):
        return self.tokens[...]

    def pool(self, tokens):
        return self.embedding[...]


# --- stage 1 -------------------------------------------------------------------------------------


def test_stage1_drops_the_same_half_of_the_places_in_every_frame():
    """Replace the pixels of each place in turn: the loss changes where the place was kept."""
    stage, batch, other = toy.stage1(), toy.batch(0, clips=2), toy.batch(1, clips=2)["video"]
    loss = jax.jit(
        lambda batch: stage1_loss(stage, batch, drop_ratio=0.5, key=jax.random.key(0))[0]
    )
    kept = np.zeros((2, 3, 3, 3), bool)  # B T row column
    for clip, frame, row, column in np.ndindex(kept.shape):
        video = batch["video"].copy()
        where = clip, frame, slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
        video[where] = other[where]
        kept[clip, frame, row, column] = loss(batch | {"video": video}) != loss(batch)
    assert (kept.sum((2, 3)) == 5).all()
    assert (kept == kept[:, :1]).all() and (kept[0] != kept[1]).any()


def test_stage1_logs_its_temperature_and_retrieval_in_the_batch():
    stage = toy.stage1()
    stage.log_scale[...] = jnp.log(jnp.float32(50.0))
    loss, numbers = jax.jit(partial(stage1_loss, drop_ratio=0.0))(
        stage, toy.batch(0), key=jax.random.key(0)
    )
    assert float(numbers["temperature"]) == pytest.approx(0.02, rel=1e-4)
    assert 0 <= numbers["batch_r1"] <= 1 and (8 * numbers["batch_r1"]) % 1 == 0
    assert np.isfinite(loss)


def test_stage1_sees_images_whole():
    dropped, whole = (
        jax.jit(partial(stage1_loss, drop_ratio=drop))(
            toy.stage1(), toy.batch(0, frames=1), key=jax.random.key(0)
        )[0]
        for drop in (0.5, 0.0)
    )
    assert np.isfinite(whole) and dropped == whole


def test_stage1_gives_images_the_first_moment_of_the_table_and_not_its_mean():
    def loss(row):
        stage = toy.stage1()
        if row is not None:
            table = stage.model.vision_encoder.temporal_pos_emb.emb_var
            table[...] = table[...].at[row].multiply(2)
        return loss1(stage, toy.batch(0, frames=1), drop_ratio=0.5, key=jax.random.key(0))[0]

    assert loss(1) == loss(None) == loss(2) != loss(0)


@pytest.mark.parametrize("at", [2.5, 5.0], ids=["above the floor", "below it"])
def test_the_temperature_learns(at):
    """The gradient of its parameter is that of the loss, by differences, wherever it is."""
    stage, batch = toy.stage1(), jax.device_put(toy.batch(0))
    stage.log_scale[...] = jnp.float32(at)
    run = jax.jit(
        jax.value_and_grad(
            lambda stage: stage1_loss(stage, batch, drop_ratio=0.0, key=jax.random.key(0))[0]
        )
    )
    gradient, values = float(run(stage)[1].log_scale[...]), []
    for value in (at - 0.1, at + 0.1):
        stage.log_scale[...] = jnp.float32(value)
        values.append(float(run(stage)[0]))
    assert abs(gradient) > 1e-3
    assert gradient == pytest.approx((values[1] - values[0]) / 0.2, rel=0.05)


def log_scales(tx: optax.GradientTransformation, start: float, slopes: list[float]):
    """Stage 1's log_scale after every update from `start`, and by how much its text encoder's class
    token, which starts there too, went up on the way; all gradients of an update are `slope`."""
    stage = toy.stage1()
    stage.log_scale[...] = jnp.float32(start)
    stage.model.text_encoder.cls_emb[...] = jnp.full((1, 1, 16), start)
    before = params = nnx.state(stage, nnx.Param)

    @jax.jit
    def update(params, state, slope):
        gradients = jax.tree.map(lambda value: jnp.full_like(value, slope), params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state, values = jax.jit(tx.init)(params), []
    for slope in slopes:
        params, state = update(params, state, slope)
        values.append(float(params["log_scale"][...]))
    token = [part["model"]["text_encoder"]["cls_emb"][...] for part in (before, params)]
    return values, float((token[1] - token[0]).min())


def test_the_temperature_stays_at_a_hundredth_and_comes_back_from_there():
    floored = optax.chain(optax.sgd(0.5), temperature_floor())
    floor = pytest.approx(np.log(100), abs=1e-6)
    values, rest = log_scales(floored, 4.0, [-1.0, -1.0, -1.0, 1.0])
    assert values == [4.5, floor, floor, pytest.approx(np.log(100) - 0.5, abs=1e-6)]
    assert rest == pytest.approx(1.0, abs=1e-6)  # and it alone is held
    assert log_scales(floored, 5.5, [0.0, 1.0])[0] == [floor, pytest.approx(np.log(100) - 0.5)]


def test_notebook_20_holds_the_temperature_after_its_optimiser(out):
    cells = json.loads((paths.NOTEBOOKS / "20_stage1.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (line,) = [
        line
        for text in code
        if "tx = " in text
        for line in ast.parse(text).body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "tx"
    ]
    names = {"cfg": config.load("20_stage1"), "optax": optax, "optimiser": optimiser}
    names |= {"stages": stages, "rate": lambda step: 1.0}
    exec(compile(ast.Module([line], []), "20_stage1", "exec"), names)
    values, rest = log_scales(names["tx"], 4.6, [-1.0] * 3)
    assert values == [pytest.approx(np.log(100), abs=1e-6)] * 3 and rest > 0.1


# --- stage 2 -------------------------------------------------------------------------------------


def exchange(video: np.ndarray, visible, *, masked: bool) -> np.ndarray:
    """The video with other pixels at its masked places, or at its visible ones (3 x 3 places of 4
    x 4 pixels)."""
    shown = np.eye(9, dtype=bool)[np.asarray(visible)].any(2).reshape(-1, 3, 3, 3)  # B T row column
    shown = np.kron(shown, np.ones((1, 1, 4, 4), bool))[..., None]  # B T H W 1
    other = toy.batch(7, clips=len(video))["video"]
    return np.where(shown == masked, video, other)


@pytest.mark.parametrize("mask", MASKS)
def test_the_student_does_not_see_masked_pixels(mask):
    batch, key = toy.batch(0, clips=2), jax.random.key(3)
    given = dict(teacher=FixedTeacher(2), **PAPER | {"mask": mask}, key=key)
    run = partial(loss2, toy.stage2(), **given)
    visible = compare(toy.stage2(), batch, **given)[2]["visible"]
    tube = (visible == visible[:, :1]).all()
    assert tube == (mask == "tube") or mask == "bevt"
    loss = run(batch)[0]
    assert run({"video": exchange(batch["video"], visible, masked=True)})[0] == loss
    assert run({"video": exchange(batch["video"], visible, masked=False)})[0] != loss


@pytest.fixture(scope="module")
def gradients():
    """Stage 2's loss and its gradients for student and teacher; compiled once, for 8 clips."""

    def loss(stage, teacher, batch, key):
        return stage2_loss(stage, batch, teacher, **PAPER, key=key)[0]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def test_the_teacher_sees_masked_pixels_and_gets_no_gradient(gradients):
    stage, batch, key = toy.stage2(), toy.batch(0), jax.random.key(3)
    loss, (to_stage, to_teacher) = gradients(stage, toy.video_text(1), batch, key)
    assert not any(gradient.any() for gradient in toy.leaves(to_teacher).values())
    still = {name for name, gradient in toy.leaves(to_stage).items() if not gradient.any()}
    assert still <= {"global_decoder/pool/pooling_attention/key/b"}  # softmax ignores it
    visible = compare(stage, batch, toy.video_text(1), **PAPER, key=key)[2]["visible"]
    changed = batch | {"video": exchange(batch["video"], visible, masked=True)}
    assert gradients(stage, toy.video_text(1), changed, key)[0] != loss


@pytest.mark.parametrize("alone", ["local", "global"])
def test_either_loss_alone_reaches_every_part_of_the_student(alone):
    stage = toy.stage2(local_loss=alone == "local", global_loss=alone == "global")
    batch, teacher = jax.device_put(toy.batch(0, clips=2)), FixedTeacher(2)
    gradient = jax.jit(
        jax.grad(
            lambda stage: stage2_loss(stage, batch, teacher, **PAPER, key=jax.random.key(0))[0]
        )
    )(stage)
    assert all(part.any() for part in toy.leaves(gradient.encoder).values())


def test_what_stage_2_starts_from_is_a_teacher_without_words_and_a_copy_of_its_encoder():
    model, batch, key = toy.video_text(1, aux_layers=1), toy.batch(0, clips=2), jax.random.key(0)
    teacher, student = stages.start(model)
    assert not hasattr(teacher, "text_encoder") and hasattr(model, "text_encoder")
    assert hasattr(teacher, "auxiliary_encoder")  # which the clip embedding needs
    known = toy.leaves(model.vision_encoder)
    assert all((known[name] == value).all() for name, value in toy.leaves(student).items())
    student.patch = None  # another object than the teacher's, which is configured by itself
    assert teacher.vision_encoder.patch and model.vision_encoder.patch
    stage = toy.stage2()
    assert loss2(stage, batch, teacher, **PAPER, key=key)[0] == pytest.approx(
        float(loss2(stage, batch, model, **PAPER, key=key)[0]), abs=1e-6
    )
    for alone in (model.vision_encoder, toy.classifier()):
        teacher, student = stages.start(alone)
        assert type(teacher) is type(student) is VideoEncoder and teacher is not student
    local = toy.stage2(global_loss=False)
    of_model = loss2(local, batch, model, **PAPER, key=key)
    of_encoder = loss2(local, batch, model.vision_encoder, **PAPER, key=key)
    assert of_encoder[1].keys() == of_model[1].keys() == {"local", "local_masked"}
    assert of_encoder[0] == pytest.approx(float(of_model[0]), abs=1e-6)


def test_each_ablation_removes_exactly_its_term():
    stage, batch, teacher = toy.stage2(), toy.batch(0, clips=2), FixedTeacher(2)
    run = partial(loss2, batch=batch, teacher=teacher, key=jax.random.key(0))
    loss, numbers = jax.device_get(run(stage, **PAPER))
    assert loss == pytest.approx(numbers["local"] + numbers["global"], abs=1e-6)

    for lost, options in (("local", {"local_loss": False}), ("global", {"global_loss": False})):
        part = toy.stage2(**options)
        nnx.update(
            part,
            nnx.from_flat_state(
                [
                    (path, value)
                    for path, value in nnx.to_flat_state(nnx.state(stage))
                    if path[0] != f"{lost}_decoder"
                ]
            ),
        )
        kept = {"local": "global", "global": "local"}[lost]
        alone, its_numbers = jax.device_get(run(part, **PAPER))
        assert alone == pytest.approx(numbers[kept], abs=1e-6) and lost not in its_numbers

    masked, _ = jax.device_get(run(stage, **PAPER | {"masked_only": True}))
    assert masked == pytest.approx(numbers["local_masked"] + numbers["global"], abs=1e-6)
    assert numbers["local_masked"] != pytest.approx(numbers["local"], abs=1e-4)

    _, its_numbers = jax.device_get(run(stage, **PAPER | {"shuffle_tokens": False}))
    assert its_numbers["global"] == pytest.approx(numbers["global"], abs=1e-6)
    assert its_numbers["local"] != pytest.approx(numbers["local"], abs=1e-4)


def test_normalised_targets_leave_what_a_clip_shares_to_the_global_loss():
    """Neither a token common to a whole clip nor the size of a channel changes them."""
    tokens = FixedTeacher(2).tokens[...]
    shared = tokens * jnp.arange(1.0, 17.0) + jnp.arange(32.0).reshape(2, 1, 16)
    normal = instance_normalise(tokens)
    assert toy.close(instance_normalise(shared), normal, 1e-2)
    assert toy.close(normal.mean(1), 0) and toy.close(normal.std(1), 1, 5e-3)
    given = dict(key=jax.random.key(0), **PAPER)
    for normalise_targets, target in ((True, normal), (False, tokens)):
        given["normalise_targets"] = normalise_targets
        _, numbers, compared = compare(
            toy.stage2(), toy.batch(0, clips=2), FixedTeacher(2), **given
        )
        assert toy.close(compared["local_target"], target)
        distance = cosine_distance(compared["local"], target)
        assert float(numbers["local"]) == pytest.approx(float(distance.mean()), abs=1e-5)


def test_the_losses_are_means_over_all_tokens_over_masked_ones_and_over_clips():
    stage, teacher = toy.stage2(), FixedTeacher(2)
    _, numbers, compared = compare(
        stage, toy.batch(0, clips=2), teacher, **PAPER, key=jax.random.key(0)
    )
    distance = np.asarray(cosine_distance(compared["local"], teacher.tokens[...]))
    hidden = ~np.eye(9, dtype=bool)[np.asarray(compared["visible"])].any(2).reshape(2, 27)
    assert hidden.sum() == 2 * 3 * 6 and (hidden == compared["masked"]).all()
    assert float(numbers["local"]) == pytest.approx(distance.mean(), abs=1e-5)
    assert float(numbers["local_masked"]) == pytest.approx(distance[hidden].mean(), abs=1e-5)
    whole = cosine_distance(compared["global"], teacher.embedding[...])
    assert float(numbers["global"]) == pytest.approx(float(whole.mean()), abs=1e-5)


# --- token shuffling -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def see_through():
    """A local decoder that hands its input on: output = permuted tokens + positions; the mask
    token is zero."""
    decoder = toy.filled(lambda: LocalDecoder(toy.SIZES, toy.SIZES, rngs=nnx.Rngs(0)))
    block = decoder.stack.transformers_stack.x_layers
    for part in (block.self_attention.post, block.ff_layer.ffn_layer2.linear):
        for name in ("w", "b") if hasattr(part, "w") else ("kernel", "bias"):
            value = getattr(part, name)
            value[...] = jnp.zeros_like(value[...])
    for linear in (decoder.projector.linear, decoder.output.linear):
        linear.kernel[...], linear.bias[...] = jnp.eye(16), jnp.zeros(16)
    decoder.mask_token[...] = jnp.zeros(16)
    return jax.jit(
        lambda seen, visible, key, share: decoder(seen, visible, share=share, key=key),
        static_argnames="share",
    ), decoder


# Two equal clips of 3 x 3 visible tokens.
SEEN = jnp.broadcast_to(10.0 + jnp.arange(9.0)[None, :, None], (2, 9, 16))
VISIBLE = jnp.broadcast_to(jnp.array([[0, 3, 8], [1, 2, 4], [5, 6, 7]]), (2, 3, 3))


def test_shuffled_tokens_stand_elsewhere_in_every_clip_and_step_under_positions_in_raster_order(
    see_through,
):
    run, decoder = see_through
    positions = (decoder.temporal_pos_emb[...][:, None] + decoder.spatial_pos_emb[...]).reshape(
        27, 16
    )
    first, again, other = (
        np.asarray(run(SEEN, VISIBLE, jax.random.key(k), 1) - positions) for k in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first[0] != first[1]).any() and (first != other).any((1, 2)).all()
    # Nothing is lost; each position was added to the slot of its place.
    for clip in (*first, *other):
        np.testing.assert_allclose(sorted(clip[:, 0]), [0.0] * 18 + [*range(10, 19)], atol=1e-5)


def test_unshuffled_tokens_stand_at_their_own_places(see_through):
    run, decoder = see_through
    positions = (decoder.temporal_pos_emb[...][:, None] + decoder.spatial_pos_emb[...]).reshape(
        27, 16
    )
    output = np.asarray(run(SEEN, VISIBLE, jax.random.key(0), 0) - positions).reshape(2, 3, 9, 16)[
        ..., 0
    ]
    expected = np.zeros((3, 9))
    for frame, places in enumerate(np.asarray(VISIBLE[0])):
        expected[frame, places] = 10 + 3 * frame + np.arange(3)
    np.testing.assert_allclose(output, np.stack([expected] * 2), atol=1e-5)


def test_shuffling_warms_up_from_none_to_all():
    stage, teacher, batch = toy.stage2(global_loss=False), FixedTeacher(2), toy.batch(0, clips=2)
    run = partial(loss2, stage, batch, teacher, shuffle_warmup=12, key=jax.random.key(0))
    losses = [float(run(**PAPER | {"step": step})[0]) for step in (0, 6, 12, 40)]
    assert losses[2] == losses[3] and abs(np.diff(losses[:3])).min() > 1e-4  # a part, then all
    # Without shuffling there is nothing to warm up.
    unshuffled = float(run(**PAPER | {"shuffle_tokens": False, "step": 6})[0])
    assert losses[0] == pytest.approx(unshuffled, abs=1e-6)


def test_targets_stay_in_raster_order_however_tokens_are_shuffled(see_through):
    """With positions alone to go by, the decoder meets targets that are those positions."""
    stage, teacher = toy.stage2(global_loss=False), FixedTeacher(2)
    stage.local_decoder = see_through[1]
    norm = stage.encoder.temporal_ln
    # scale is an offset from one: tokens are zero.
    norm.scale[...], norm.bias[...] = jnp.full(16, -1.0), jnp.zeros(16)
    positions = (
        stage.local_decoder.temporal_pos_emb[...][:, None]
        + stage.local_decoder.spatial_pos_emb[...]
    )
    teacher.tokens[...] = jnp.broadcast_to(positions.reshape(27, 16), (2, 27, 16))
    assert loss2(stage, toy.batch(0, clips=2), teacher, **PAPER, key=jax.random.key(0))[0] < 1e-5


# --- learning ------------------------------------------------------------------------------------


def learn(stage, value_and_grad, steps=60):
    """The losses of AdamW steps on one batch, with a new key each."""
    tx = optax.adamw(3e-3)

    @jax.jit
    def update(stage, state, gradients):
        updates, state = tx.update(gradients, state, stage)
        return optax.apply_updates(stage, updates), state

    state, values = tx.init(stage), []
    for key in jax.random.split(jax.random.key(0), steps):
        value, gradients = value_and_grad(stage, key)
        stage, state = update(stage, state, gradients)
        values.append(float(value))
    return values


def test_stage1_learns_one_batch_by_heart():
    batch = jax.device_put(toy.batch(0))
    losses = learn(
        toy.stage1(),
        jax.jit(
            jax.value_and_grad(
                lambda stage, key: stage1_loss(stage, batch, drop_ratio=0.5, key=key)[0]
            )
        ),
    )
    assert losses[0] > 1.5 and np.mean(losses[-5:]) < 0.3 * losses[0]


def test_stage2_learns_one_batch_by_heart(gradients):
    batch, teacher = toy.batch(0), toy.video_text(1)

    def value_and_grad(stage, key):
        value, (gradient, _) = gradients(stage, teacher, batch, key)
        return value, gradient

    losses = learn(toy.stage2(), value_and_grad)
    assert losses[0] > 1.5 and np.mean(losses[-5:]) < 0.5 * losses[0]
