"""Speed of the base-size encoder: beside `transformers`, beside the machine's matrix product, and of a stage-2 step.

    python benchmarks/encoder.py            prints
    python benchmarks/encoder.py --record   also writes reports/tables/benchmark_encoder.csv and .json

All measurements of a group take turns in one process, so that whatever else the machine does meets them alike; a row is
the median of ratios of one turn. Weights are random: they do not change the work. float32 on CPU, bfloat16 on an
accelerator. `transformers` and PyTorch are the extra `torch`; without them that row says so. A quarter of an hour on 2
CPU cores and 16 GB of memory.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("NPROC", "2")  # as in every run, before jax starts
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from visible_cost import SIZES, interval, seconds

from vplib import config, export, paths
from vplib.encoders import VideoEncoder, VideoText
from vplib.stages import Stage2, pixels, stage2_loss

ACCELERATOR = jax.default_backend() != "cpu"
DTYPE = jnp.bfloat16 if ACCELERATOR else jnp.float32
MATRIX = 8192 if ACCELERATOR else 4096  # rows of the matrix whose product shows what the machine can do


def work(sizes: dict) -> float:
    """Floating-point operations of all matrix products of one clip's forward pass."""
    t, d, grid = sizes["frames"], sizes["width"], sizes["size"] // sizes["patch"]
    tokens = t * grid**2
    layers = sizes["spatial_layers"] + sizes["temporal_layers"]
    weights = 3 * sizes["patch"] ** 2 * d + layers * (4 * d * d + 2 * d * sizes["mlp"])
    logits = sizes["spatial_layers"] * grid**2 + sizes["temporal_layers"] * t  # keys a token, over all layers
    return 2.0 * tokens * (weights + 2 * d * logits)


def product():
    """A large matrix product, and its operations."""
    a = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX), DTYPE)
    run = jax.jit(lambda a: a @ a)
    return (lambda: seconds(run, a)), 2.0 * MATRIX**3


def turns(runs: dict, repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each run in each turn, after one turn that compiles and warms up."""
    taken = [{name: run() for name, run in runs.items()} for _ in range(repeats + 1)][1:]
    return {name: np.array([turn[name] for turn in taken]) for name in runs}


def ours(sizes: dict, clips: int):
    encoder = VideoEncoder(**sizes, rngs=nnx.Rngs(0))
    video = jax.random.uniform(jax.random.key(1), (clips, sizes["frames"], sizes["size"], sizes["size"], 3), DTYPE)
    run = jax.jit(lambda encoder, video: encoder(video))
    return lambda: seconds(run, encoder, video)


def theirs(sizes: dict):
    """The forward pass of `transformers`, with as many threads. Raises ImportError without the extra `torch`."""
    import torch
    from transformers import VideoPrismConfig, VideoPrismVisionModel

    torch.set_num_threads(int(os.environ["NPROC"]))
    model = VideoPrismVisionModel._from_config(  # eager: the only attention of theirs that caps logits
        VideoPrismConfig(**export.configuration(sizes)).vision_config, attn_implementation="eager").eval()
    video = torch.rand(1, sizes["frames"], 3, sizes["size"], sizes["size"])

    def run() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            model(pixel_values_videos=video)
        return time.perf_counter() - start

    return run


def forward(sizes: dict, repeats: int) -> list[dict]:
    matmul, operations = product()
    runs = {"matmul": matmul, "one": ours(sizes, 1), "two": ours(sizes, 2)}
    lacking = "an accelerator is present: the comparison is of CPUs" if ACCELERATOR else ""
    if not lacking:
        try:
            runs["transformers"] = theirs(sizes)
        except ImportError as error:
            lacking = f"{error.name} is not installed (the extra torch)"
    taken = turns(runs, repeats)
    limit = work(sizes) / operations * taken["matmul"]
    return [
        row("forward_seconds", taken["one"], "seconds a clip"),
        row("forward_seconds_batch_2", taken["two"] / 2, "seconds a clip"),
        row("matmul_rate", operations / taken["matmul"] / 1e9, "GFLOP/s"),
        row("forward_over_matmul_limit", taken["one"] / limit, "times the limit", bar="at most 1.25"),
        row("forward_speedup_over_transformers", taken["transformers"] / taken["one"] if not lacking else None,
            "times faster", bar="at least 1.6", note=lacking),
    ]


def training(sizes: dict, decoder: dict, stage2: dict, repeats: int) -> list[dict]:
    """A stage-2 step with its teacher beside a forward and backward pass of the whole clip; optimiser left out of both."""
    sizes = sizes | {"frames": 8}  # as the paper trains
    encoder = VideoEncoder(**sizes, rngs=nnx.Rngs(0))
    stage = Stage2(encoder, teacher_width=sizes["width"], teacher_heads=sizes["heads"], decoder=decoder, local_loss=True,
                   global_loss=True, rngs=nnx.Rngs(1))
    teacher = VideoText(vision=sizes, text=dict(vocabulary=2, layers=1, mlp=4), aux_layers=0, rngs=nnx.Rngs(2))
    clips = 16 if ACCELERATOR else 1
    shape = (clips, sizes["frames"], sizes["size"], sizes["size"], 3)
    video = jax.random.randint(jax.random.key(3), shape, 0, 256).astype(jnp.uint8)
    options = dict(mask=stage2["mask"], ratio=stage2["mask_ratio"], shuffle=True, masked_only=False, normalise_targets=False)
    key = jax.random.key(4)
    dense = jax.jit(jax.grad(lambda encoder, video: jnp.square(encoder(pixels(video, DTYPE)).astype(jnp.float32)).mean()))
    step = jax.jit(jax.grad(lambda stage, video, teacher: stage2_loss(
        stage, {"video": video}, teacher, **options, dtype=DTYPE, key=key)[0]))
    matmul, operations = product()
    taken = turns({"matmul": matmul, "dense": lambda: seconds(dense, encoder, video),
                   "stage2": lambda: seconds(step, stage, video, teacher)}, repeats)
    peak = 3 * clips * work(sizes) / operations * taken["matmul"] / taken["dense"]  # backward: twice the forward's work
    return [
        row("dense_step_seconds", taken["dense"] / clips, "seconds a clip"),
        row("stage2_step_seconds", taken["stage2"] / clips, "seconds a clip"),
        row("stage2_step_over_dense", taken["stage2"] / taken["dense"], "of the dense step", bar="at most 0.75"),
        row("training_step_share_of_matmul_cpu" if not ACCELERATOR else "training_step_share_of_matmul", peak,
            "of the matmul rate", bar="" if not ACCELERATOR else "at least 0.45"),
        *([] if ACCELERATOR else [row("training_step_share_of_matmul", None, "of the matmul rate", bar="at least 0.45",
                                      note="no accelerator here")]),
    ]


def row(name: str, values: np.ndarray | None, unit: str, *, bar: str = "", note: str = "") -> dict:
    if values is None:
        return {"name": name, "value": "not measured", "low": "", "high": "", "unit": unit, "bar": bar, "note": note}
    low, high = interval(values)
    return {"name": name, "value": f"{np.median(values):.4g}", "low": f"{low:.4g}", "high": f"{high:.4g}", "unit": unit,
            "bar": bar, "note": note}


def machine() -> dict:
    """What the numbers were measured on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        names = [line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = f"{len(names)} cores of {names[0]}" if names else cpu
    versions = {}
    for package in ("jax", "flax", "torch", "transformers"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"cpu": cpu, "threads": int(os.environ["NPROC"]), "device": jax.devices()[0].device_kind,
            "dtype": jnp.dtype(DTYPE).name, "python": platform.python_version(), **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write reports/tables/benchmark_encoder.csv and .json")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are counted")
    parser.add_argument("--model", default="base", help="an option of conf/model")
    options = parser.parse_args()
    cfg = config.load("30_stage2", f"scale=smoke model={options.model} tag=benchmark_encoder stage2.mask_ratio=0.65")
    sizes = {name: cfg.model[name] for name in SIZES}
    rows = forward(sizes, options.repeats) + training(sizes, dict(cfg.model.decoder), dict(cfg.stage2), options.repeats)
    for r in rows:
        span = f" [{r['low']}, {r['high']}]" if r["low"] else ""
        print(f"{r['name']:36} {r['value']}{span} {r['unit']}  {r['bar']}{'; ' if r['bar'] and r['note'] else ''}{r['note']}")
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if options.record:
        file = paths.REPORTS / "tables" / "benchmark_encoder.csv"
        with file.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        whole = {"command": "python benchmarks/encoder.py --record", "machine": machine(), "rows": rows}
        file.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
