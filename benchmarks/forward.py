"""Speed of frozen features at the released base size: our forward pass and other engines'.

    pip install -e '.[peers]'                   PyTorch, ONNX Runtime, OpenVINO (gigabytes)
    python benchmarks/forward.py                prints
    python benchmarks/forward.py --record       also writes rows of reports/tables/encoder.{csv,json}

One clip of 16 frames of 288 pixels, in float32 and, where the processor multiplies it by itself, in
bfloat16, against (1) the time that large matrix products of as many operations take and (2) the
VideoPrism of Hugging Face `transformers` in PyTorch, ONNX Runtime and OpenVINO, as far as these are
installed. Each has a process of its own, for threads of engines that wait for work slow down others;
they take turns, with the same number of threads, free to use what instructions they like; weights
are random. On an accelerator 16 clips in bfloat16, and of the others only PyTorch. What cannot be
run gets the value "not measured" and the reason. A quarter of an hour on 2 CPU cores.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from vplib import environment

environment.restart(pinned=False)  # as `vplib.predict`, before jax starts

import jax
import jax.numpy as jnp
import numpy as np
from common import large_products, machine, row, write
from flax import nnx

from vplib import config
from vplib.model import exported, frozen
from vplib.model.attention import KERNELS
from vplib.model.cost import encoder_operations
from vplib.model.encoders import VideoEncoder, configure
from vplib.model.sizes import Sizes

BACKEND = jax.default_backend()
CLIPS = 1 if BACKEND == "cpu" else 16
BARS = {
    ("pytorch", "float32"): ">= 1.5",
    ("onnxruntime", "float32"): ">= 1.0",
    ("openvino", "float32"): ">= 0.95",
    ("pytorch", "bfloat16"): ">= 1.2",
    ("openvino", "bfloat16"): ">= 0.8",
}


def torch_model(sizes: Sizes):
    """The peer of our encoder, random."""
    from transformers import VideoPrismVisionConfig, VideoPrismVisionModel

    return VideoPrismVisionModel(VideoPrismVisionConfig(**exported.configuration(sizes))).eval()


def pytorch(sizes: Sizes, dtype: str) -> Callable[[], object]:
    import torch

    device = "cpu" if BACKEND == "cpu" else "cuda"
    torch.set_num_threads(int(os.environ["NPROC"]))
    model = torch_model(sizes).to(device, getattr(torch, dtype))
    video = torch.rand(shape(sizes), dtype=model.dtype, device=device)

    def run():
        with torch.inference_mode():
            tokens = model(video).last_hidden_state
        if device == "cuda":
            torch.cuda.synchronize()
        return tokens

    return run


def onnxruntime(sizes: Sizes, dtype: str) -> Callable[[], object]:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["NPROC"])
    video = torch.rand(shape(sizes))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "encoder.onnx"
        torch.onnx.export(
            torch_model(sizes), (video,), file, input_names=["video"], dynamo=True, verbose=False
        )
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"video": video.numpy()})[0]


def openvino(sizes: Sizes, dtype: str) -> Callable[[], object]:
    import openvino
    import torch

    video = torch.rand(shape(sizes))
    with torch.inference_mode():
        model = openvino.convert_model(
            torch_model(sizes), example_input=video, input=[shape(sizes)]
        )
    chosen = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        "INFERENCE_NUM_THREADS": int(os.environ["NPROC"]),
    }
    compiled = openvino.compile_model(model, "CPU", chosen)
    return lambda: compiled(video.numpy())[0]


PEERS = {"pytorch": pytorch, "onnxruntime": onnxruntime, "openvino": openvino}
NEEDED = {
    "pytorch": ("torch", "transformers"),
    "onnxruntime": ("onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
}


def shape(sizes: Sizes) -> tuple[int, ...]:
    return CLIPS, sizes.frames, 3, sizes.size, sizes.size


def why_not(name: str, dtype: str) -> str:
    """Why a peer cannot be run here; empty if it can."""
    needed = dict.fromkeys((*NEEDED["pytorch"], *NEEDED[name]))  # all start from PyTorch's model
    missing = [part for part in needed if importlib.util.find_spec(part) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if BACKEND != "cpu":
        import torch

        if name != "pytorch":
            return "compared on CPU only"
        return "" if torch.cuda.is_available() else f"PyTorch finds no GPU, JAX runs on {BACKEND}"
    return ""


def ours(sizes: Sizes, dtype: str, kernel: str) -> Callable[[], object]:
    encoder = VideoEncoder(sizes, rngs=nnx.Rngs(0))
    configure(encoder, kernel=kernel)
    frames = (CLIPS, sizes.frames, sizes.size, sizes.size, 3)
    video = jax.random.uniform(jax.random.key(0), frames, jnp.dtype(dtype))
    graph, weights = frozen.apart(encoder, dtype)  # as features.tokens_of
    encode = jax.jit(lambda weights, video: frozen.together(graph, weights)(video))
    return lambda: jax.block_until_ready(encode(weights, video))


def work(name: str, dtype: str, model: str, kernel: str) -> None:
    """In a process of its own: says "ready" after a first call, then the seconds of one more call
    for each line it is sent."""
    sizes = sizes_of(model)
    if name == "ours":
        run = ours(sizes, dtype, kernel)
    elif name == "matmul":
        multiply, times_more = large_products(
            CLIPS * encoder_operations(sizes, sizes.places), dtype
        )
        run = lambda: jax.block_until_ready(multiply())  # noqa: E731
    else:
        run = PEERS[name](sizes, dtype)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
        print(seconds * (times_more if name == "matmul" else 1), flush=True)


def ask(worker: subprocess.Popen, line: str) -> str:
    """The last line of what a worker says next that is ours. Raises SystemExit if it has ended."""
    if line:
        worker.stdin.write(f"{line}\n")
        worker.stdin.flush()
    for said in worker.stdout:
        if said.strip() == "ready" or said[:1].isdigit():
            return said.strip()
    sys.exit(f"error: {worker.args[-4:]} ended: see above")


def measure(given: argparse.Namespace, dtype: str) -> tuple[list[dict], dict]:
    sizes = sizes_of(given.model)
    reasons = {name: why_not(name, dtype) for name in PEERS if (name, dtype) in BARS}
    names = ["ours", "matmul", *(name for name, reason in reasons.items() if not reason)]
    me = [sys.executable, __file__, "--model", given.model, "--attention", given.attention]
    workers = {
        name: subprocess.Popen(
            [*me, "--worker", name, dtype], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in names
    }
    try:
        for worker in workers.values():
            ask(worker, "")
        times = {name: [] for name in names}
        for _ in range(given.repeats):
            for name, worker in workers.items():
                times[name].append(float(ask(worker, "go")))
                print(f"  {name} {times[name][-1]:.2f} s", flush=True)
    finally:
        for worker in workers.values():
            worker.kill()
    times = {name: np.array(values) for name, values in times.items()}
    operations = CLIPS * encoder_operations(sizes, sizes.places)
    where = f"{BACKEND}, {dtype}, {CLIPS} clip{'s' * (CLIPS > 1)}"
    end = "" if dtype == "float32" or BACKEND != "cpu" else f"_{dtype}"
    rows = [
        row(
            f"forward_over_matmul_limit{end}",
            times["ours"] / times["matmul"],
            "times the time of as many operations in large matrix products",
            "<= 1.25",
            f"{where}; {operations / 1e12:.2f} TFLOP",
        ),
        row(
            f"matmul_rate{end}",
            operations / times["matmul"] / 1e9,
            "GFLOP/s of large matrix products",
            "",
            where,
        ),
    ]
    for name, reason in reasons.items():
        ratios = None if reason else times[name] / times["ours"]
        bar = BARS[name, dtype] if BACKEND == "cpu" else ""
        about = reason or where
        rows.append(row(f"forward_speedup_over_{name}{end}", ratios, "times faster", bar, about))
    return rows, {name: values.tolist() for name, values in times.items()}


def sizes_of(model: str) -> Sizes:
    return Sizes.of(config.check("30_stage2", f"scale=smoke model={model}").model)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="measurements of each, after one that does not count"
    )
    parser.add_argument("--model", default="base", help="a word of conf/model")
    parser.add_argument(
        "--attention", default="plain", choices=["plain", *KERNELS], help="as hardware.attention"
    )
    parser.add_argument(
        "--record", action="store_true", help="write reports/tables/encoder.csv and encoder.json"
    )
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "DTYPE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return work(*given.worker, given.model, given.attention)
    print(json.dumps(machine()))
    native = BACKEND != "cpu" or environment.multiplies_bfloat16()
    for dtype in ["float32"] * (BACKEND == "cpu") + ["bfloat16"] * native:
        rows, times = measure(given, dtype)
        for entry in rows:
            entry["name"] += f"_{BACKEND}" * (BACKEND != "cpu")
            entry["name"] += f"_{given.attention}" * (given.attention != "plain")
            value = entry["value"]
            numbers = (
                value
                if isinstance(value, str)
                else f"{value:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"
            )
            print(
                f"{entry['name']}: {numbers} {entry['unit']} (bar {entry['bar'] or 'none'}; {entry['note']})"
            )
        if given.record:
            write(rows, times)


if __name__ == "__main__":
    main()
