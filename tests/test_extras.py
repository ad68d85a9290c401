"""What needs packages of gigabytes: `make test-extras` installs them. Skipped where they are absent."""

import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
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


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_openvino_computes_the_same_from_an_exported_folder(precision, tmp_path, monkeypatch):
    """The lines of README.md, at toy size."""
    for name in ("openvino", "torch", "transformers"):
        pytest.importorskip(name, reason=f"{name} is absent: make test-extras")
    readme = (paths.ROOT / "README.md").read_text(encoding="utf-8")
    _, lines = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    encoder = toy.encoder()
    checkpoints.save(encoder, tmp_path / "w.npz")
    monkeypatch.chdir(tmp_path)
    export.export(Path("w.npz"), Path("data/exported"))
    scope = {}
    exec(lines.replace('"bf16"', f'"{precision}"'), scope)
    ours = np.asarray(encoder(jnp.asarray(scope["video"].transpose(0, 1, 3, 4, 2))))
    if precision == "f32":
        assert toy.close(scope["tokens"], ours)
    else:
        cosine = (ours * scope["tokens"]).sum(-1)
        cosine /= np.linalg.norm(ours, axis=-1) * np.linalg.norm(scope["tokens"], axis=-1)
        assert cosine.min() > 0.99


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("attention", ["plain", "splash"])
def test_training_steps_compile_for_a_tpu(stage, attention, monkeypatch):
    """Of a small model, for a chip that is not here."""
    pytest.importorskip("libtpu", reason="libtpu is absent: make test-extras")
    memory = benchmark("memory")
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    row = memory.Row("v5e", 1, "small", stage, 8, 8, True, attention)
    line = memory.measured(row)
    assert line["fits"] == "yes" and float(line["state_gb"]) > 0 and float(line["work_gb"]) > 0
