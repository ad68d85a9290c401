"""One device, eight devices and two processes train the same model, from split parameters."""

import csv
import os
import re
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import toy
from flax import nnx
from jax.sharding import PartitionSpec as P

from vplib import paths
from vplib.method.stages import stage1_loss, stage2_loss
from vplib.model import checkpoints
from vplib.model.attention import attend
from vplib.model.layers import Stack
from vplib.train import loop, sharding

STEPS, CLIPS = 3, 8
HANGS = 400  # seconds, then a process shows where it is and ends


def run(out: Path, processes: int = 1, index: int = 0, port: int = 0) -> None:
    """Three steps of stage 1 on a global batch of 8 clips; the text table is worth splitting."""
    mesh = (
        sharding.init(f"127.0.0.1:{port}", processes, index) if processes > 1 else sharding.init()
    )
    mine = slice(index * CLIPS // processes, (index + 1) * CLIPS // processes)
    batches = toy.Batches(
        lambda step: {name: value[mine] for name, value in toy.batch(step, CLIPS).items()}
    )
    traced = []

    def loss(stage, batch, *, key, step):
        traced.append(jax.sharding.get_abstract_mesh().size)
        return stage1_loss(stage, batch, drop_ratio=0.5, key=key, step=step)

    def train():
        return loop.fit(
            toy.stage1(vocabulary=4096),
            loss,
            batches,
            steps=STEPS,
            tx=optax.sgd(0.1, momentum=0.9),
            seed=0,
            out=out,
            mesh=mesh,
            every=1,
            checkpoint_every=STEPS,
        )

    trained, again = train(), train()  # the second one finds the state of the first
    assert batches.drawn == STEPS
    assert checkpoints.digest(checkpoints.flatten(again)) == checkpoints.digest(
        checkpoints.flatten(trained)
    )
    assert traced == [mesh.size], "compiled anew although no shape changed, or without its mesh"
    places = {name: value.sharding.spec for name, value in toy.leaves(trained).items()}
    assert places.pop("model/text_encoder/token_emb/emb_var") == (
        P("data") if mesh.size > 1 else P()
    )
    assert set(places.values()) == {P()}
    checkpoints.save(trained, out / "weights.npz")
    if mesh.size == 8:
        check_rule(mesh)
        check_kernel(mesh)
        check_stack(mesh)
        check_parts(mesh)
        check_order(mesh)


def check_rule(mesh) -> None:
    """Large arrays are split over their longest divisible axis, on a mesh of eight."""
    shapes = {
        (256, 512): P(None, "data"),
        (512, 128): P("data"),
        (513, 128): P(None, "data"),
        (513, 129): P(),
        (8, 8): P(),
    }
    given = {shape: jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes}
    assert {shape: place.spec for shape, place in sharding.fsdp(mesh, given).items()} == shapes


def check_kernel(mesh) -> None:
    """An attention kernel runs on each device's own clips, inside `jit` as in training."""
    qkv = [
        np.random.default_rng(i).normal(size=(8, 2, 128, 32)).astype(np.float32) for i in range(3)
    ]
    split = list(sharding.to_mesh(mesh, dict(zip("qkv", qkv, strict=True))).values())
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda *x: attend(*x, cap=50.0, kernel="splash")).lower(*split).compile()
    assert "all-gather" not in compiled.as_text()
    mine = compiled(*split)
    assert mine.sharding.spec == P("data")
    np.testing.assert_allclose(mine, attend(*map(jax.numpy.asarray, qkv), cap=50.0), atol=1e-4)


def check_stack(mesh) -> None:
    """What stacks do on accelerators leaves each device its own clips, too."""
    stack = Stack(2, 16, 2, 32, rngs=nnx.Rngs(0))
    clips = sharding.to_mesh(mesh, {"x": np.ones((8, 3, 9, 16), np.float32)})["x"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        gradient = jax.jit(jax.grad(lambda stack, x: jax.numpy.square(stack(x)).mean()))
        assert "all-gather" not in gradient.lower(stack, clips).compile().as_text()


def check_parts(mesh) -> None:
    """Every device has its own clips of each micro-batch: none travel."""
    stage, sgd = toy.stage1(), optax.sgd(0.1)
    params = nnx.state(stage, nnx.Param)

    def loss(stage, batch, *, key, step):
        return jax.numpy.square(stage.model.encode_video(batch["video"] / 255)).mean(), {}

    update = jax.jit(loop.update_of(stage, loss, sgd, 0, accumulate=2))
    clips = sharding.to_mesh(mesh, {"video": toy.batch(0, 16)["video"]})
    text = update.lower(params, sgd.init(params), None, clips, 0).compile().as_text()
    assert not {"all-gather", "all-to-all", "collective-permute"} & {*re.findall(r"[\w-]+", text)}


def check_order(mesh) -> None:
    """No step exchanges anything within a branch: XLA on CPU orders what processes exchange, but not
    what a branch holds, and processes that meet in another order wait forever.
    """
    clips = toy.batch(0, CLIPS)
    distilled = partial(
        stage2_loss,
        mask="bevt",
        mask_ratio=0.65,
        shuffle_tokens=True,
        masked_only=False,
        normalise_targets=False,
    )
    steps = {
        "stage 1": (toy.stage1(), partial(stage1_loss, drop_ratio=0.5), None),
        "stage 2": (toy.stage2(), distilled, toy.video_text()),
    }
    for name, (stage, loss, frozen) in steps.items():
        sgd, params = optax.sgd(0.1), nnx.state(stage, nnx.Param)
        update = jax.jit(loop.update_of(stage, loss, sgd, 0, frozen))
        kept = nnx.state(frozen) if frozen else None
        split = sharding.to_mesh(mesh, clips)
        text = update.lower(params, sgd.init(params), kept, split, 0).compile().as_text()
        assert "all-reduce" in text
        assert "conditional(" not in text, name


def start(out: Path, devices: int = 1, *arguments: int) -> tuple[subprocess.Popen, Path]:
    """A process that runs `run`, and the file of what it prints."""
    path = os.pathsep.join(str(folder) for folder in (paths.ROOT, paths.ROOT / "tests"))
    flags = f"--xla_force_host_platform_device_count={devices}"
    code = (
        f"import faulthandler as f; f.dump_traceback_later({HANGS}, exit=True);"
        "import sys, pathlib, test_sharding as t;"
        "t.run(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    )
    said = out / "-".join(["said", *map(str, arguments)])
    with said.open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(out), *map(str, arguments)],
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": flags},
        )
    return process, said


def finish(*started: tuple[subprocess.Popen, Path]) -> None:
    """Waits for success; a process that hangs, or whose partner died, fails the test, which says
    what all of them printed.
    """
    processes = [process for process, _ in started]
    try:
        while not any(process.poll() for process in processes):  # the first that fails, ends it
            if all(process.poll() == 0 for process in processes):
                return
            time.sleep(0.1)
        said = "\n".join(f"{process.poll()}: {file.read_text()}" for process, file in started)
        raise AssertionError(said)
    finally:
        for process in processes:
            process.kill()


def losses(out: Path) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader((out / "metrics.csv").open())]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the training on one device."""
    out = tmp_path_factory.mktemp("alone")
    run(out)
    return out


def assert_same(out: Path, alone: Path) -> None:
    assert len(losses(alone)) == STEPS and losses(alone)[0] != losses(alone)[-1]
    np.testing.assert_allclose(losses(out), losses(alone), atol=1e-5)
    weights, known = checkpoints.read(out / "weights.npz"), checkpoints.read(alone / "weights.npz")
    assert weights.keys() == known.keys()
    for name, value in known.items():
        np.testing.assert_allclose(weights[name], value, atol=1e-4, err_msg=name)
    start = checkpoints.flatten(toy.stage1(vocabulary=4096))
    # It did learn.
    assert max(abs(value - start[name]).max() for name, value in known.items()) > 1e-2


def test_eight_devices_train_like_one(alone, tmp_path):
    finish(start(tmp_path, 8))
    assert_same(tmp_path, alone)


def test_two_processes_train_like_one(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    finish(*(start(tmp_path, 1, 2, index, port) for index in range(2)))
    assert_same(tmp_path, alone)
