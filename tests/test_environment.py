"""What a machine is asked for, what it has, and what the user is told."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from vplib import config, environment, paths
from vplib.evaluate import features


def flags(monkeypatch, words: str) -> None:
    machine = environment.machine()
    monkeypatch.setattr(environment, "machine", lambda: machine | {"flags": words})


@pytest.mark.parametrize(
    "own, has, pinned, expected",
    [
        (True, "avx2 avx512_bf16", False, "bfloat16"),
        (True, "amx_bf16 avx2", False, "bfloat16"),
        (True, "avx2 avx512f", False, "float32"),
        (True, "avx2 avx512_bf16", True, "float32"),  # XLA may not use what the processor has
        (False, "avx2 avx512_bf16", False, "float32"),  # what is committed follows no machine
    ],
)
def test_auto_is_bfloat16_for_own_videos_where_the_processor_multiplies_it(
    monkeypatch, own, has, pinned, expected
):
    flags(monkeypatch, has)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2" if pinned else "")
    assert features.precision("auto", own=own) == expected
    for asked in ("float32", "bfloat16"):  # who asks, decides
        assert features.precision(asked, own=own) == asked


@pytest.mark.parametrize(
    "platform, dtype, has, said",
    [
        ("gpu", "bfloat16", "avx2", "asks for a GPU and JAX finds none: .*cuda.*hardware=cpu"),
        ("tpu", "bfloat16", "avx2", "asks for a TPU and JAX finds none: .*tpu.*hardware=cpu"),
        ("cpu", "bfloat16", "avx2", "lacks .*: choose hardware.dtype=float32"),
        ("cpu", "bfloat16", "avx2 avx512_bf16", "^$"),
        ("cpu", "float32", "avx2", "^$"),
        ("cpu", "auto", "avx2", "^$"),
    ],
)
def test_what_the_machine_lacks_is_said(monkeypatch, platform, dtype, has, said):
    flags(monkeypatch, has)
    monkeypatch.delenv("JAX_POD", raising=False)
    assert re.search(said, environment.lacking(platform, dtype))


def test_a_jax_that_was_replaced_under_a_running_kernel_asks_for_a_restart(monkeypatch):
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    assert "restart the kernel" in environment.lacking("cpu", "float32")


def test_a_notebook_stops_at_what_the_machine_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with pytest.raises(config.ConfigError, match="hardware=gpu asks for a GPU"):
        config.load("20_stage1", "scale=smoke hardware=gpu tag=lacking")
    config.load("20_stage1", "scale=smoke tag=lacking")


def test_training_chooses_its_precision():
    with pytest.raises(config.ConfigError, match="hardware.dtype must be float32 or bfloat16 in"):
        config.load("20_stage1", "scale=smoke hardware.dtype=auto tag=lacking")


def test_a_device_with_too_little_memory_is_one_sentence():
    with pytest.raises(MemoryError, match=r"^the device's memory is too small.*: take less$"):
        with environment.enough_memory("take less"):
            jnp.zeros(2**46).block_until_ready()
    with pytest.raises(RuntimeError, match="something else"):
        with environment.enough_memory("take less"):
            raise RuntimeError("something else")


def test_only_our_own_instruction_set_is_taken_back():
    ours = dict(environment.VARIABLES) | {"HOME": "here"}
    assert environment.unpinned(ours) == {
        key: value for key, value in ours.items() if key not in environment.PINS
    }
    theirs = ours | {"XLA_FLAGS": "--xla_dump_to=/tmp/x"}
    assert environment.unpinned(theirs)["XLA_FLAGS"] == theirs["XLA_FLAGS"]


def test_a_processor_without_avx_is_told(monkeypatch):
    environment._check_avx(["avx", "sse4_2"])
    environment._check_avx([])  # a system that does not tell
    with pytest.raises(SystemExit, match="no AVX instructions"):
        environment._check_avx(["sse4_2"])


WINDOWS = """
import os, signal, sys
sys.modules["array_record"] = None  # has no package there
import zmq
has = zmq.has
zmq.has = lambda what: what != "ipc" and has(what)
for name in ("killpg", "getpgid"):
    delattr(os, name)
"""


def test_lessons_run_without_array_record_and_sockets(tmp_path):
    """As far as a machine with them can tell."""
    (tmp_path / "sitecustomize.py").write_text(WINDOWS)
    env = os.environ | {
        "PYTHONPATH": f"{tmp_path}:{paths.ROOT}",
        "VPLIB_OUT": str(tmp_path / "out"),
    }
    words = ["00_tour", "scale=smoke"]
    done = subprocess.run(
        [sys.executable, "-m", "vplib.run", *words], env=env, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    missing = subprocess.run(
        [sys.executable, "-m", "vplib.run", "10_prepare_corpus", "scale=smoke"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert missing.returncode
    assert "shards need the package array_record" in missing.stderr.splitlines()[-2]
