"""Speed of training at the released base size: the encoder's passes, and a step of stage 2.

    python benchmarks/encoder.py                     prints
    python benchmarks/encoder.py --parts training    only one part, or several
    python benchmarks/encoder.py --record            also writes reports/tables/encoder.{csv,json}

training: the encoder's forward and backward pass: which share of the measured rate of large matrix
          products it reaches. The bar is for accelerators.
step:     loss and gradient of stage 2 with 65% masked, teacher included, against the student's
          dense forward and backward pass on the same clips; then without the decoders. Notes give
          the ratio of operations: what arithmetic allows.

What is compared is measured in one process, taking turns, with the same number of threads; weights
are random. On a CPU all is float32, on an accelerator bfloat16. What cannot be run here gets the
value "not measured" and the reason. `--attention` chooses another kernel than plain attention; its
name and an accelerator's are appended to those of the rows. On 2 CPU cores each part takes
minutes, and the last two gigabytes; on a GPU nearly all of it is compilation (40 s a program).
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vplib import environment

environment.restart()  # as in every run, before jax starts

import jax
import jax.numpy as jnp
import numpy as np
from common import large_products, machine, row, turns, write
from flax import nnx
from omegaconf import DictConfig

from vplib import config
from vplib.method.masking import draw_mask, visible_count
from vplib.method.stages import Stage2, stage2_loss
from vplib.model.attention import KERNELS
from vplib.model.cost import encoder_operations, stack_operations
from vplib.model.encoders import VideoEncoder, VideoText, configure, pixels
from vplib.model.sizes import Sizes

BACKEND = jax.default_backend()
DTYPE = jnp.float32 if BACKEND == "cpu" else jnp.bfloat16
CLIPS = 1 if BACKEND == "cpu" else 16
WHERE = f"{BACKEND}, {DTYPE.__name__}, {CLIPS} clip{'s' * (CLIPS > 1)}"


def step_operations(sizes: Sizes, mask_ratio: float) -> float:
    """Of stage 2's step on one clip: teacher forward; student on visible tokens and decoders
    forward and backward (thrice)."""
    seen, decoder = visible_count(sizes.places, mask_ratio), sizes.decoder
    student = encoder_operations(sizes, seen)
    for tokens in (sizes.frames * sizes.places, sizes.frames * seen):  # local, global
        student += stack_operations(decoder.layers, tokens, tokens, decoder.width, decoder.mlp)
        # projector, output
        student += 2 * decoder.width * sizes.width * (sizes.frames * seen + tokens)
    return encoder_operations(sizes, sizes.places) + 3 * student


def power(encoder: VideoEncoder, video: jax.Array, **given) -> jax.Array:
    """A loss for its gradient: any scalar of the tokens will do."""
    return jnp.square(encoder(pixels(video, DTYPE), **given)).mean(dtype=jnp.float32)


def random_bytes(sizes: Sizes) -> jax.Array:
    shape = (CLIPS, sizes.frames, sizes.size, sizes.size, 3)
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def training(cfg: DictConfig, sizes: Sizes, kernel: str, repeats: int) -> tuple[list[dict], dict]:
    encoder, video = VideoEncoder(sizes, rngs=nnx.Rngs(0)), random_bytes(sizes)
    configure(encoder, kernel=kernel, remat=cfg.hardware.remat)
    dense = jax.jit(jax.grad(power))
    # Backward: twice the forward pass.
    operations = 3 * CLIPS * encoder_operations(sizes, sizes.places)
    multiply, times_more = large_products(operations, DTYPE)
    times = turns({"dense": lambda: dense(encoder, video), "matmul": multiply}, repeats)
    rows = [
        row(
            "training_share_of_matmul_rate",
            times["matmul"] * times_more / times["dense"],
            "of the rate of large matrix products, dense forward and backward pass",
            ">= 0.45" if BACKEND != "cpu" else "",
            WHERE,
        )
    ]
    return rows, {name: values.tolist() for name, values in times.items()}


def step(cfg: DictConfig, sizes: Sizes, kernel: str, repeats: int) -> tuple[list[dict], dict]:
    """The teacher has its text encoder cut to one layer: this step does not use it."""
    student = VideoEncoder(sizes, rngs=nnx.Rngs(0))
    teacher = VideoText(replace(sizes, vocabulary=8, text_layers=1, aux_layers=0), rngs=nnx.Rngs(1))
    stage = Stage2(
        student, sizes, teacher=sizes, local_loss=True, global_loss=True, rngs=nnx.Rngs(2)
    )
    configure(teacher, kernel=kernel)
    configure(stage, kernel=kernel, remat=cfg.hardware.remat)
    video = random_bytes(sizes)
    chosen = cfg.stage2
    names = ("mask", "mask_ratio", "shuffle_tokens", "masked_only", "normalise_targets")
    settings = {name: chosen[name] for name in names}
    seen = visible_count(sizes.places, chosen.mask_ratio)
    visible = draw_mask(
        chosen.mask,
        chosen.mask_ratio,
        jax.random.key(1),
        batch=CLIPS,
        frames=sizes.frames,
        grid=sizes.grid,
    )

    def loss(stage, video, teacher, key):
        batch = {"video": video}
        return stage2_loss(stage, batch, teacher, **settings, dtype=DTYPE, key=key, step=0)[0]

    dense, masked, whole = (
        jax.jit(jax.grad(f))
        for f in (
            power,
            lambda encoder, video, visible: power(encoder, video, visible=visible),
            loss,
        )
    )
    encode = jax.jit(lambda encoder, video: encoder(pixels(video, DTYPE)))
    runs = {
        "dense": lambda: dense(student, video),
        "visible": lambda: masked(student, video, visible),
        "teacher": lambda: encode(teacher.vision_encoder, video),
        "step": lambda: whole(stage, video, teacher, jax.random.key(2)),
    }
    times = turns(runs, repeats)
    seen_share = encoder_operations(sizes, seen) / encoder_operations(sizes, sizes.places)
    step_share = step_operations(sizes, chosen.mask_ratio) / (
        3 * encoder_operations(sizes, sizes.places)
    )
    results = (
        ("stage2_step_over_dense_student", times["step"], step_share, "<= 0.75"),
        (
            "stage2_without_decoders_over_dense_student",
            times["teacher"] + times["visible"],
            1 / 3 + seen_share,
            "",
        ),
        ("stage2_visible_student_over_dense_student", times["visible"], seen_share, ""),
    )
    unit = "of the student's dense forward and backward pass"
    rows = [
        row(name, seconds / times["dense"], unit, bar, f"{WHERE}; operations {share:.2f}")
        for name, seconds, share, bar in results
    ]
    return rows, {name: values.tolist() for name, values in times.items()}


PARTS = {"training": training, "step": step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--repeats", type=int, default=3, help="measurements of each, after one that does not count"
    )
    parser.add_argument("--model", default="base", help="a word of conf/model")
    parser.add_argument(
        "--attention", default="plain", choices=["plain", *KERNELS], help="as hardware.attention"
    )
    parser.add_argument(
        "--record", action="store_true", help="write reports/tables/encoder.csv and encoder.json"
    )
    options = parser.parse_args()
    cfg = config.load(
        "30_stage2", f"scale=smoke model={options.model} tag=encoder_speed_{options.model}"
    )
    sizes = Sizes.of(cfg.model)
    print(json.dumps(machine()))
    for part in options.parts:
        kernel = options.attention
        rows, times = PARTS[part](cfg, sizes, kernel, options.repeats)
        for entry in rows:
            entry["name"] += f"_{BACKEND}" * (BACKEND != "cpu") + f"_{kernel}" * (kernel != "plain")
            numbers = (
                f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
                if entry["low"]
                else entry["value"]
            )
            print(
                f"{entry['name']}: {numbers} {entry['unit']} (bar {entry['bar'] or 'none'}; {entry['note']})"
            )
        if options.record:
            write(rows, times)


if __name__ == "__main__":
    main()
