"""Overlays of conf/ablation: what each one changes in the losses, and what baselines cost."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import yaml
from flax import nnx
from omegaconf import OmegaConf
from test_stages import PAPER, SETTINGS, FixedTeacher, compare, exchange

from vplib import chains, config, paths, published, results
from vplib.method import compute, stages
from vplib.method.losses import cosine_distance, normalised_patches
from vplib.method.masking import visible_count
from vplib.model.encoders import VideoEncoder, VideoText, pixels
from vplib.model.sizes import Sizes
from vplib.train import optimiser

KEY = jax.random.key(0)
IMAGE_MODELS = ("clip", "coca")  # to start from: they read no clip
GOLDEN = json.loads((paths.ROOT / "tests/golden/evaluation/videomae_targets.json").read_text())
BASELINES = ("single_frame", "stage1_continued", "videomae", "umt", "one_stage")


def composed(ablation: str, scale: str):
    """Both trainings' configurations in one."""
    words = f"ablation={ablation} scale={scale}"
    both = [config.check(name, words) for name in ("20_stage1", "30_stage2")]
    return OmegaConf.merge(*(OmegaConf.to_container(one, resolve=True) for one in both))


# --- an image teacher ----------------------------------------------------------------------------


def test_an_image_teacher_sees_each_frame_alone_as_stage_1_sees_images():
    teacher, video = toy.video_text(1), pixels(jnp.asarray(toy.batch(0, clips=2)["video"]))
    look = jax.jit(stages.teacher_tokens, static_argnames="frames_alone")
    alone = look(teacher, video, frames_alone=True).reshape(2, 3, 9, -1)
    for frame in range(3):
        image = jax.jit(partial(teacher.vision_encoder, crop=True))(video[:, frame : frame + 1])
        assert toy.close(alone[:, frame], image, 1e-5)
    other = look(teacher, video.at[:, 1].set(0.5), frames_alone=True).reshape(2, 3, 9, -1)
    assert (other[:, [0, 2]] == alone[:, [0, 2]]).all() and (other[:, 1] != alone[:, 1]).any()
    assert not toy.close(look(teacher, video).reshape(alone.shape), alone, 1e-2)
    _, _, compared = compare(
        toy.stage2(), toy.batch(0, clips=2), teacher, **PAPER, image_teacher=True, key=KEY
    )
    assert toy.close(compared["local_target"], alone.reshape(2, 27, -1), 1e-5)
    assert toy.close(compared["global_target"], teacher.pool(alone.reshape(2, 27, -1)), 1e-5)


# --- visible tokens alone ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen_alone():
    """Of a teacher that always says the same: what is compared of a clip, of one with other pixels
    at its masked places, and of one with others at its visible places."""
    batch = toy.batch(0, clips=2)
    run = partial(
        compare, toy.stage2(global_loss=False), teacher=FixedTeacher(2), visible_only=True, key=KEY
    )
    found = run(batch, **PAPER)
    visible = found[2]["visible"]
    others = [
        run({"video": exchange(batch["video"], visible, masked=masked)}, **PAPER)
        for masked in (True, False)
    ]
    return found, *others


def test_visible_tokens_alone_are_predicted_each_from_its_own_place(seen_alone):
    (loss, numbers, compared), masked, seen = seen_alone
    assert numbers.keys() == {"local"}  # there is no other place to speak of
    assert masked[0] == loss != seen[0]
    places = np.asarray(compared["visible"]) + 9 * np.arange(3)[:, None]
    tokens = np.asarray(FixedTeacher(2).tokens[...])
    target = np.take_along_axis(tokens, places.reshape(2, -1, 1), axis=1)
    assert (compared["local_target"] == target).all()
    distance = cosine_distance(compared["local"], jnp.asarray(target))
    assert float(loss) == pytest.approx(float(distance.mean()), abs=1e-6)


def test_visible_tokens_carry_the_positions_of_their_places():
    decoder = toy.filled(lambda: stages.LocalDecoder(toy.SIZES, toy.SIZES, rngs=nnx.Rngs(0)))
    space, time = decoder.spatial_pos_emb[...], decoder.temporal_pos_emb[...]
    seen = jnp.zeros((1, 6, 16))
    visible = jnp.array([[[0, 8], [3, 4], [1, 2]]])
    run = jax.jit(lambda seen, visible: decoder(seen, visible, share=0, visible_only=True, key=KEY))
    own = jnp.stack([space[p] + time[t] for t in range(3) for p in np.asarray(visible[0, t])])
    assert toy.close(
        run(seen, visible), decoder.output(decoder.stack(decoder.projector(own[None]))), 1e-5
    )


# --- pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_targets_are_videomaes(case):
    video = jnp.asarray(case["video_thwc"])[None]
    found = normalised_patches(video, case["patch"], tubelet=case["tubelet"])[0]
    if case["normalised"]:
        assert abs(found - np.array(case["targets"])).max() < 1e-5
    else:  # what is normalised are these pixels, in this order
        raw = np.array(case["targets"]).reshape(*found.shape[:1], -1, 3)
        mean, deviation = raw.mean(1, keepdims=True), raw.std(1, ddof=1, keepdims=True)
        assert abs(found - ((raw - mean) / (deviation + 1e-6)).reshape(found.shape)).max() < 1e-5


@pytest.mark.parametrize("case", GOLDEN["masks"], ids=lambda case: str(case["size"]))
def test_tubes_hide_as_much_as_videomaes(case):
    _, rows, columns = case["size"]
    assert visible_count(rows * columns, case["ratio"]) == case["visible_per_frame"]


def test_patches_are_asked_for_by_their_squared_error_and_no_teacher_is():
    class Nobody(VideoText):
        def __init__(self):
            pass

    stage, batch = toy.stage2(global_loss=False, pixels=True), toy.batch(0, clips=2)
    run = partial(compare, stage, batch, Nobody(), targets="pixels", key=KEY)
    loss, numbers, compared = run(**PAPER)
    target = normalised_patches(pixels(jnp.asarray(batch["video"])), 4)
    assert compared["local"].shape == target.shape == (2, 27, 48)
    assert toy.close(compared["local_target"], target, 1e-5)
    error = jnp.square(compared["local"] - target).mean(-1)
    assert float(loss) == pytest.approx(float(error.mean()), rel=1e-5)
    hidden = float((error * compared["masked"]).sum() / compared["masked"].sum())
    assert float(numbers["local_masked"]) == pytest.approx(hidden, rel=1e-5)
    assert float(run(**PAPER | {"masked_only": True})[0]) == pytest.approx(hidden, rel=1e-5)


# --- a teacher that follows ----------------------------------------------------------------------


def test_a_teacher_follows_what_the_student_became_and_its_pooler_stays():
    params = {
        "stage": {"encoder": {"kernel": jnp.ones(3)}, "local_decoder": {"kernel": jnp.ones(3)}},
        "teacher": {"vision_encoder": {"kernel": jnp.zeros(3)}, "pooler": {"kernel": jnp.ones(3)}},
    }
    updates = jax.tree.map(lambda x: jnp.full_like(x, 2.0), params)  # its own are no matter
    tx = stages.follow(0.9)
    found, _ = tx.update(updates, tx.init(params), params)
    assert found["stage"] == updates["stage"]
    after = jax.tree.map(jnp.add, params, found)["teacher"]
    assert toy.close(after["vision_encoder"]["kernel"], jnp.full(3, 0.1 * 3), 1e-6)
    assert (after["pooler"]["kernel"] == 1).all()


def test_every_parameter_of_the_teachers_encoder_follows_one_of_the_students():
    teacher, _ = stages.start(toy.video_text(1))
    params = nnx.state(stages.Followed(toy.stage2(), teacher), nnx.Param)
    tx = stages.follow(0.0)  # it becomes the student
    found, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    after = jax.tree.map(jnp.add, params, found)
    same = jax.tree.map(
        lambda a, b: toy.close(a, b, 1e-6),
        after["teacher"]["vision_encoder"],
        params["stage"]["encoder"],
    )
    assert all(jax.tree.leaves(same)) and len(jax.tree.leaves(same)) > 20
    pooler = "contrastive_vision_pooler"
    kept = jax.tree.map(
        lambda a, b: (a == b).all(), after["teacher"][pooler], params["teacher"][pooler]
    )
    assert all(jax.tree.leaves(kept))


def test_the_loss_is_that_of_a_frozen_teacher_and_it_has_no_gradient():
    teacher, _ = stages.start(toy.video_text(1))
    batch, settings = toy.batch(0, clips=2), PAPER | {"key": KEY, "step": 0}

    @jax.jit
    def run(stage, teacher, batch):
        both = stages.Followed(stage, teacher)
        found = nnx.value_and_grad(lambda both: stages.followed_loss(both, batch, **settings)[0])
        return *found(both), stages.stage2_loss(stage, batch, teacher, **settings)[0]

    value, gradient, frozen = run(toy.stage2(), teacher, batch)
    assert float(value) == pytest.approx(float(frozen), abs=1e-6)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient["teacher"]))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradient["stage"]["encoder"]))


# --- overlays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [one for one in config.groups()["ablation"] if one != "none"])
def test_an_overlay_says_what_it_expects_and_its_losses_have_gradients(name):
    lines = (paths.CONF / "ablation" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_" and lines[1].startswith("# ") and len(lines[1]) > 40
    cfg, plain = composed(name, "sweep"), composed("none", "sweep")
    changed = [part for part in ("stage1", "stage2", "data", "model") if cfg[part] != plain[part]]
    # Where nothing else is changed, what stage 2 builds on is.
    one = len(changed) == 1 or (name.startswith("steps_") and changed == ["stage1", "stage2"])
    several = "_then_" in name or name in IMAGE_MODELS
    one = one or (several and changed == ["stage1", "data"])
    assert one or (not changed and chains.stage1(name) not in ("none", name))
    if not {"stage2", "model"} & {*changed}:
        return  # the losses of `none`
    sizes = Sizes.of(cfg.model, vocabulary=24)

    def stage2(rngs):
        own = {key: cfg.stage2[key] for key in ("local_loss", "global_loss")}
        own["pixels"] = cfg.stage2.targets == "pixels"
        return stages.Stage2(VideoEncoder(sizes, rngs=rngs), sizes, teacher=sizes, **own, rngs=rngs)

    def loss(key, video):
        rngs = nnx.Rngs(key)
        stage, teacher = stage2(rngs), VideoText(sizes, rngs=rngs)
        run = partial(stages.stage2_loss, **{key: cfg.stage2[key] for key in SETTINGS})
        run = partial(run, key=key, step=0)
        return nnx.value_and_grad(lambda stage: run(stage, {"video": video}, teacher)[0])(stage)

    shape = (2, sizes.frames, sizes.size, sizes.size, 3)
    value, _ = jax.eval_shape(loss, KEY, jax.ShapeDtypeStruct(shape, "uint8"))
    assert value.shape == ()


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("none", ["20 none", "30 none"]),
        ("no_shuffle", ["20 none", "30 no_shuffle"]),
        ("decoder_4", ["20 none", "30 decoder_4"]),
        ("temporal_4", ["20 temporal_4", "30 temporal_4"]),
        ("public_corpora", ["20 public_corpora", "30 public_corpora"]),
        ("extra_clips", ["20 public_corpora", "30 extra_clips"]),
        (
            "internvid_then_yt180m",
            ["20 only_internvid", "20 internvid_then_yt180m", "30 internvid_then_yt180m"],
        ),
        ("stage1_continued", ["20 none", "20 stage1_continued"]),
        ("single_frame", ["20 single_frame"]),
        ("one_stage", ["20 one_stage"]),
        ("coca", ["20 coca"]),
        ("coca_init", ["20 coca", "20 coca_init", "30 coca_init"]),
    ],
)
def test_a_chain_begins_with_the_stage_1_that_an_overlay_asks_for(name, steps, out):
    found = chains.trainings(name)
    assert [f"{step.notebook[:2]} {step.ablation}" for step in found] == steps
    cfg = config.load("30_stage2", f"scale=smoke ablation={name}")
    first = results.run(cfg, "20_stage1").name
    if steps[-1].startswith("30"):  # what the notebook of stage 2 reads
        assert first == f"world-smoke-{found[-2].ablation}-s0"
    continued = config.load("20_stage1", f"scale=smoke ablation={name}")
    earlier = found[0].ablation if len(found) == 3 else "none"
    assert results.run(continued, "20_stage1").name == f"world-smoke-{earlier}-s0"


def test_the_composed_configuration_has_no_word_of_the_chain(out):
    for name in ("extra_clips", "stage1_continued"):
        assert "chain" not in config.load("30_stage2", f"scale=smoke ablation={name}")


@pytest.mark.parametrize(
    "name", [one for one in config.groups()["ablation"] if one not in ("none", *IMAGE_MODELS)]
)
def test_images_stay_half_of_the_batches(name):
    """So that corpora of videos are compared and not how many images there are."""
    corpora = composed(name, "sweep").data.corpora
    assert 2 * corpora.webli == pytest.approx(sum(corpora.values()))


def test_image_models_read_images_alone_and_what_starts_from_them_is_else_as_without():
    plain = composed("none", "sweep")
    for name in IMAGE_MODELS:
        cfg = composed(name, "sweep")
        assert {one for one, weight in cfg.data.corpora.items() if weight} == {"webli"}
        begun = composed(f"{name}_init", "sweep")
        assert (begun.data, begun.model, begun.stage2) == (plain.data, plain.model, plain.stage2)
        assert chains.before(f"{name}_init") == name
    clip, coca = (composed(name, "sweep") for name in IMAGE_MODELS)
    assert {**coca.stage1} == {**clip.stage1, "captions": 2.0}


def test_corpora_are_those_of_the_papers_table_1():
    table = published.corpora().query("role == 'pretraining'").set_index("name")
    stand_in = {}
    for file in (paths.ROOT / "data_cards").glob("*.md"):
        header = file.read_text().partition("---")[2].partition("---")[0]
        told = yaml.safe_load(header) or {}
        if told.get("stand_in"):
            stand_in[told["stand_in"]] = told["pretty_name"]
    videos = {ours: theirs for ours, theirs in stand_in.items() if ours != "webli"}

    def used(name):
        return {key for key, weight in composed(name, "sweep").data.corpora.items() if weight}

    public = {ours for ours, theirs in videos.items() if table.loc[theirs, "public"] == "yes"}
    high = {ours for ours, theirs in videos.items() if table.loc[theirs, "quality"] == "High"}
    assert used("public_corpora") == public | {"webli"}
    assert used("high_quality") == high | {"webli"}
    assert used("two_mixed") == used("two_alternating") == {"internvid", "yt180m", "webli"}


def test_a_teacher_with_random_weights_has_learned_nothing():
    cfg = composed("random_teacher", "sweep").stage1
    rate = optimiser.schedule(
        "linear", learning_rate=cfg.learning_rate, steps=cfg.steps, warmup=cfg.warmup
    )
    tx = optimiser.optimiser("adamw", rate, weight_decay=cfg.weight_decay, clip=1.0)
    begun = {"weight": jnp.full((4, 4), 1e-3), "bias": jnp.zeros(4)}
    params, state = begun, tx.init(begun)
    for _ in range(round(cfg.times * cfg.steps)):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    assert (params["weight"] == begun["weight"]).all() and abs(params["bias"]).max() < 1e-29


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_cost_what_both_stages_cost(name):
    plain, cfg = composed("none", "sweep"), composed(name, "sweep")
    mix = plain.data.corpora
    images = mix.webli / sum(mix.values())
    first, second = compute.stage1(plain, images=images), compute.stage2(plain)
    if cfg.stage1.continues:
        cost = first + compute.stage1(cfg, images=images)
    elif name in ("single_frame", "one_stage"):
        cost = compute.stage1(cfg, images=images)
    elif cfg.stage2.targets == "pixels":  # no teacher
        cost = compute.stage2(cfg)
    else:
        cost = first + compute.stage2(cfg)
    assert cost == pytest.approx(first + second, rel=0.01)


def test_operations_are_those_that_a_compiler_counts():
    """Of models without repeated layers: of a loop it counts one turn."""
    settings = {**composed("none", "smoke").stage2, "mask": "tube", "batch": 8}
    stage, teacher, batch = toy.stage2(), toy.video_text(1), toy.batch(0)
    run = partial(stages.stage2_loss, **{key: settings[key] for key in SETTINGS}, step=0)

    def loss(stage, video, key):
        return run(stage, {"video": video}, teacher, key=key)[0]

    lowered = jax.jit(jax.grad(loss)).lower(stage, jnp.asarray(batch["video"]), KEY)
    counted = lowered.cost_analysis()["flops"]
    assert counted == pytest.approx(compute.stage2_step(toy.SIZES, settings), rel=0.25)
