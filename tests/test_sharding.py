"""One device, eight devices and two processes train the same model; parameters are split, and whole when handed back."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import toy
from flax import nnx
from jax.sharding import PartitionSpec as P

from vplib import checkpoints, paths, sharding, train
from vplib.stages import stage1_loss

STEPS, CLIPS = 3, 8


def run(out: Path, processes: int = 1, index: int = 0, port: int = 0) -> None:
    """Three steps of stage 1 on a global batch of 8 clips, with a text table large enough to be split."""
    mesh = sharding.init(f"127.0.0.1:{port}", processes, index) if processes > 1 else sharding.init()
    mine = slice(index * CLIPS // processes, (index + 1) * CLIPS // processes)
    batches = toy.Batches(lambda step: {name: value[mine] for name, value in toy.batch(step, CLIPS).items()})
    stage = toy.stage1(vocabulary=4096)
    trained = train.fit(stage, lambda *given, key: stage1_loss(*given, drop=0.5, key=key), batches, steps=STEPS,
                        tx=optax.sgd(0.1, momentum=0.9), seed=0, out=out, mesh=mesh, every=1, checkpoint_every=STEPS)  # fmt: skip
    table = trained.model.text_encoder.token_emb.emb_var[...]
    split = P("data") if len(jax.devices()) > 1 else P()
    assert table.sharding.spec == split, table.sharding
    checkpoints.save(trained, out / "weights.npz")


def start(out: Path, devices: int = 1, *arguments: int) -> subprocess.Popen:
    path = os.pathsep.join(str(folder) for folder in (paths.ROOT, paths.ROOT / "tests"))
    flags = f"--xla_force_host_platform_device_count={devices}"
    code = "import sys, pathlib, test_sharding as t; t.run(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    return subprocess.Popen([sys.executable, "-c", code, str(out), *map(str, arguments)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": path, "XLA_FLAGS": flags})  # fmt: skip


def finish(*processes: subprocess.Popen) -> None:
    """Waits for success; a process that hangs, or whose partner died, fails the test."""
    try:
        for process in processes:
            output, _ = process.communicate(timeout=90)
            assert process.returncode == 0, output
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
    assert max(abs(value - start[name]).max() for name, value in known.items()) > 1e-2  # it did learn


def test_eight_devices_train_like_one(alone, tmp_path):
    finish(start(tmp_path, 8))
    assert_same(tmp_path, alone)


def test_two_processes_train_like_one(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    finish(*(start(tmp_path, 1, 2, index, port) for index in range(2)))
    assert_same(tmp_path, alone)


def test_large_arrays_are_split_over_their_longest_divisible_axis():
    """The rule, for a mesh of eight; abstract, as this process has one device."""
    mesh = jax.sharding.AbstractMesh((8,), ("data",))
    tree = {"longest": (256, 512), "first": (512, 128), "odd": (513, 128), "indivisible": (513, 129), "small": (8, 8)}
    shardings = sharding.fsdp(mesh, {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in tree.items()})
    assert {name: value.spec for name, value in shardings.items()} == {
        "longest": P(None, "data"), "first": P("data"), "odd": P(None, "data"), "indivisible": P(), "small": P()}  # fmt: skip


def test_one_device_keeps_everything_whole():
    mesh = sharding.init()
    assert mesh.size == len(jax.devices()) == 1
    shardings = sharding.fsdp(mesh, nnx.state(toy.stage1(vocabulary=4096)))
    assert all(value.spec == P() for value in jax.tree.leaves(shardings))
