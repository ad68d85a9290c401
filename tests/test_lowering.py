"""Both training steps and the evaluation's forward pass become programs for accelerators, here
without one."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vplib import config
from vplib.evaluate import features
from vplib.method import stages
from vplib.model.encoders import VideoEncoder, VideoText, configure
from vplib.model.sizes import Sizes
from vplib.train import loop, optimiser

BATCH = 8


def step_of(stage: int, cfg, sizes: Sizes):
    """The update of a stage and its arguments, as shapes."""
    dtype, video = jnp.dtype(cfg.hardware.dtype), (BATCH, sizes.frames, sizes.size, sizes.size, 3)
    batch = {"video": jax.ShapeDtypeStruct(video, jnp.uint8)}
    text = nnx.eval_shape(lambda: VideoText(sizes, rngs=nnx.Rngs(0)))
    configure(text, kernel=cfg.hardware.attention, remat=cfg.hardware.remat)
    if stage == 1:
        model, frozen = nnx.eval_shape(lambda: stages.Stage1(text)), None
        words = (BATCH, sizes.text_length)
        batch |= {
            "ids": jax.ShapeDtypeStruct(words, jnp.int32),
            "keep": jax.ShapeDtypeStruct(words, jnp.bool_),
        }
        loss = partial(stages.stage1_loss, drop_ratio=cfg.stage1.drop_ratio, dtype=dtype)
    else:
        frozen = text

        def student():
            encoder = VideoEncoder(sizes, rngs=nnx.Rngs(0))
            both = dict(local_loss=True, global_loss=True)
            return stages.Stage2(encoder, sizes, teacher=sizes, **both, rngs=nnx.Rngs(0))

        model = nnx.eval_shape(student)
        configure(model, kernel=cfg.hardware.attention, remat=cfg.hardware.remat)
        names = ("mask", "mask_ratio", "shuffle_tokens", "masked_only", "normalise_targets")
        settings = {name: cfg.stage2[name] for name in names}
        loss = partial(stages.stage2_loss, **settings, dtype=dtype)
    rate = optimiser.schedule("linear", learning_rate=1e-4, steps=10, warmup=1)
    tx = optimiser.optimiser(cfg.optim.optimiser, rate, weight_decay=1e-4, clip=1.0)
    params = nnx.state(model, nnx.Param)
    states = params, jax.eval_shape(tx.init, params), frozen and nnx.state(frozen)
    update = loop.update_of(model, loss, tx, 0, frozen)
    return update, (*states, batch, jax.ShapeDtypeStruct((), jnp.int32))


def export(function, platform: str):
    """The constraint is ours: a program that is kept would need to know that it stays."""
    known = [jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint")]
    return jax.export.export(function, platforms=[platform], disabled_checks=known)


@pytest.fixture(params=["tpu", "cuda"])
def platform(request, monkeypatch):
    """Code that asks where it runs is told of an accelerator."""
    backend = {"cuda": "gpu"}.get(request.param, request.param)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    return request.param


@pytest.mark.parametrize("model", ["base", "giant"])
@pytest.mark.parametrize("stage", [1, 2])
def test_training_steps_lower_for_accelerators(platform, model, stage):
    words = f"scale=paper model={model} hardware={'gpu' if platform == 'cuda' else 'pod'} tag=lowered_{model}_{platform}"
    cfg = config.load("20_stage1" if stage == 1 else "30_stage2", words)
    update, arguments = step_of(stage, cfg, Sizes.of(cfg.model, vocabulary=32_000))
    program = export(jax.jit(update), platform)(*arguments)
    assert program.platforms == (platform,)
    assert [x.shape for x in program.out_avals[: len(jax.tree.leaves(arguments[0]))]] == [
        x.shape for x in jax.tree.leaves(arguments[0])
    ]
    assert "bf16" in program.mlir_module()


@pytest.mark.parametrize("model", ["base", "giant"])
def test_the_forward_pass_lowers_for_accelerators(platform, model):
    cfg = config.load(
        "40_classification_localization",
        f"scale=paper model={model} tag=lowered_{model}_{platform}",
    )
    sizes = Sizes.of(cfg.model)
    encoder = nnx.eval_shape(lambda: VideoEncoder(sizes, rngs=nnx.Rngs(0)))
    clips = jax.ShapeDtypeStruct((BATCH, sizes.frames, sizes.size, sizes.size, 3), jnp.uint8)
    encode = jax.jit(lambda encoder, clips: features.tokens_of(encoder)(clips))
    program = export(encode, platform)(encoder, clips)
    tokens = sizes.frames * sizes.places
    assert program.out_avals[0].shape == (BATCH, tokens, sizes.width)
