"""Speed of the released base size: the encoder's forward pass, its training, and a step of stage 2.

    python benchmarks/encoder.py                     prints
    python benchmarks/encoder.py --parts forward     only one part, or several
    python benchmarks/encoder.py --record            also writes reports/tables/encoder.{csv,json}

forward:  one clip of 16 frames of 288 pixels, against (1) the time a large matrix product needs
          for as many operations and (2) VideoPrism of Hugging Face `transformers` in PyTorch, where
          both are installed.
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
import csv
import functools
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vplib import environment

environment.restart()  # as in every run, before jax starts

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from omegaconf import DictConfig

from vplib import config, export, files, paths
from vplib.method.masking import draw_mask, visible_count
from vplib.method.stages import Stage2, stage2_loss
from vplib.model.attention import KERNELS
from vplib.model.encoders import VideoEncoder, VideoText, configure, pixels
from vplib.model.sizes import Sizes

COLUMNS = ["name", "value", "low", "high", "unit", "bar", "note"]
BACKEND = jax.default_backend()
DTYPE = jnp.float32 if BACKEND == "cpu" else jnp.bfloat16
CLIPS = 1 if BACKEND == "cpu" else 16
WHERE = f"{BACKEND}, {DTYPE.__name__}, {CLIPS} clip{'s' * (CLIPS > 1)}"


def stack_operations(layers: int, tokens: int, keys: int, width: int, hidden: int) -> float:
    """Operations of a stack's matrix products, forward, when each token sees `keys` tokens."""
    return layers * tokens * (8 * width**2 + 4 * width * hidden + 4 * keys * width)


def encoder_operations(sizes: Sizes, places: int) -> float:
    """Of one clip with `places` tokens a frame, on which its temporal attention depends: see
    `VideoEncoder._by_place`."""
    tokens, width, hidden = sizes.frames * places, sizes.width, sizes.mlp
    keys = sizes.frames if places == sizes.places else 3 * sizes.frames
    return (
        2 * tokens * 3 * sizes.patch**2 * width
        + stack_operations(sizes.spatial_layers, tokens, places, width, hidden)
        + stack_operations(sizes.temporal_layers, tokens, keys, width, hidden)
    )


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


def turns(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of `repeats` calls of each, taking turns; the first calls, which compile and warm
    up, do not count."""
    times = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
            print(
                f"  {'warm-up' if not repeat else repeat}: {name} {times[name][-1]:.2f} s",
                flush=True,
            )
    return {name: np.array(values[1:]) for name, values in times.items()}


def row(name: str, ratios: np.ndarray | None, unit: str, bar: str, note: str = "") -> dict:
    """Median, least and greatest of paired ratios; None is "not measured", and `note` says why."""
    values = {"value": "not measured", "low": None, "high": None}
    if ratios is not None:
        values = {
            "value": float(np.median(ratios)),
            "low": float(ratios.min()),
            "high": float(ratios.max()),
        }
    return {"name": name, **values, "unit": unit, "bar": bar, "note": note}


def torch_forward(sizes: Sizes) -> Callable[[], object] | str:
    """The forward pass in PyTorch, on the accelerator if JAX has one; or why there is none."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    import torch
    from transformers import VideoPrismVisionConfig, VideoPrismVisionModel

    if BACKEND != "cpu" and not torch.cuda.is_available():
        return f"PyTorch finds no GPU, JAX runs on {BACKEND}"
    torch.set_num_threads(int(os.environ["NPROC"]))
    device = "cpu" if BACKEND == "cpu" else "cuda"
    model = VideoPrismVisionModel(VideoPrismVisionConfig(**export.configuration(sizes)))
    model = model.eval().to(device, torch.float32 if BACKEND == "cpu" else torch.bfloat16)
    shape = (CLIPS, sizes.frames, 3, sizes.size, sizes.size)
    video = torch.rand(*shape, dtype=model.dtype, device=device)

    def run():
        with torch.inference_mode():
            tokens = model(video).last_hidden_state
        if device == "cuda":
            torch.cuda.synchronize()
        assert tokens.shape == (CLIPS, sizes.frames * sizes.places, sizes.width)

    return run


def large_products(operations: float) -> tuple[Callable[[], object], float]:
    """Matrix products of about a quarter of `operations`, and by what to multiply their time for
    all of them."""
    side = 2048 if BACKEND == "cpu" else 8192
    # The scale keeps the size of the products.
    matrix = (jax.random.normal(jax.random.key(0), (side, side)) * side**-0.5).astype(DTYPE)
    products = max(round(operations / (4 * 2 * side**3)), 1)
    multiply = jax.jit(lambda matrix: functools.reduce(jnp.matmul, [matrix] * (products + 1)))
    return lambda: multiply(matrix), operations / (products * 2 * side**3)


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
    multiply, times_more = large_products(operations)
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


def forward(cfg: DictConfig, sizes: Sizes, kernel: str, repeats: int) -> tuple[list[dict], dict]:
    encoder = VideoEncoder(sizes, rngs=nnx.Rngs(0))
    configure(encoder, kernel=kernel)
    shape = (CLIPS, sizes.frames, sizes.size, sizes.size, 3)
    video = jax.random.uniform(jax.random.key(0), shape, DTYPE)
    encode = jax.jit(lambda encoder, video: encoder(video))
    operations = CLIPS * encoder_operations(sizes, sizes.places)
    multiply, times_more = large_products(operations)
    runs = {"ours": lambda: encode(encoder, video), "matmul": multiply}
    pytorch = torch_forward(sizes)
    if callable(pytorch):
        runs["pytorch"] = pytorch
    times = turns(runs, repeats)
    limit = times["matmul"] * times_more
    speedup = times["pytorch"] / times["ours"] if callable(pytorch) else None
    rows = [
        row(
            "forward_over_matmul_limit",
            times["ours"] / limit,
            "times the time of as many operations in large matrix products",
            "<= 1.25",
            f"{WHERE}; {operations / 1e12:.2f} TFLOP",
        ),
        row(
            "forward_speedup_over_pytorch",
            speedup,
            "times faster",
            ">= 1.6",
            WHERE if callable(pytorch) else pytorch,
        ),
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


PARTS = {"forward": forward, "training": training, "step": step}


def machine() -> dict:
    """What the times depend on."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    packages = [
        name
        for name in ("jax", "jaxlib", "flax", "torch", "transformers")
        if importlib.util.find_spec(name)
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": int(os.environ["NPROC"]),
        "devices": [device.device_kind for device in jax.devices()],
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def write(rows: list[dict], times: dict) -> None:
    """Add or replace rows of reports/tables/encoder.csv and, with seconds, of encoder.json."""
    table = paths.REPORTS / "tables" / "encoder.csv"
    seconds = table.with_suffix(".json")
    old = json.loads(seconds.read_text(encoding="utf-8")) if seconds.exists() else []
    about = machine()
    entries = {entry["name"]: entry for entry in old}
    for entry in rows:
        # What this machine cannot measure may have been measured on another.
        if entry["value"] != "not measured" or entry["name"] not in entries:
            entries[entry["name"]] = entry | {"machine": about, "seconds": times}
    ordered = [entries[name] for name in sorted(entries)]
    files.folder(table.parent)
    files.write(seconds, json.dumps(ordered, indent=1) + "\n")
    with files.replacing(table) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in entry.items()}
            for entry in ordered
        )


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
