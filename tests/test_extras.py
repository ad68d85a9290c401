"""What needs packages of gigabytes: `make test-extras` installs them. Skipped where they are absent."""

import importlib.util

import jax
import numpy as np
import pytest
import toy

from vplib import export, paths
from vplib.model import checkpoints


def benchmark(name: str):
    """A module of benchmarks/."""
    spec = importlib.util.spec_from_file_location(name, paths.ROOT / f"benchmarks/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_openvino_computes_the_same_from_an_exported_folder(tmp_path):
    """The lines of README.md, at toy size."""
    openvino = pytest.importorskip("openvino", reason="openvino is absent: make test-extras")
    torch = pytest.importorskip("torch", reason="torch is absent: make test-extras")
    transformers = pytest.importorskip("transformers", reason="transformers is absent")
    encoder = toy.encoder()
    checkpoints.save(encoder, tmp_path / "w.npz")
    export.export(tmp_path / "w.npz", tmp_path / "folder")
    peer = transformers.VideoPrismVisionModel.from_pretrained(tmp_path / "folder").eval()
    video = np.asarray(toy.pixels(0, 1))
    channels_first = np.ascontiguousarray(video.transpose(0, 1, 4, 2, 3))
    example = torch.tensor(channels_first)
    model = openvino.convert_model(peer, example_input=example, input=[channels_first.shape])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert toy.close(compiled(channels_first)[0], encoder(video))


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("attention", ["plain", "splash"])
def test_training_steps_compile_for_a_tpu(stage, attention, monkeypatch):
    """Of a small model, for a chip that is not here."""
    pytest.importorskip("libtpu", reason="libtpu is absent: make test-extras")
    memory = benchmark("memory")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    row = memory.Row("v5e", 1, "small", stage, 8, 8, True, attention)
    line = memory.measured(row)
    assert line["fits"] == "yes" and float(line["state_gb"]) > 0 and float(line["tflop"]) > 0
