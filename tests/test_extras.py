"""What needs packages of gigabytes: `make test-extras` installs them. Skipped where they are absent."""

import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from vplib import export, paths
from vplib.data import pipeline, text
from vplib.evaluate import features
from vplib.model import checkpoints
from vplib.world import corpora


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


@pytest.mark.parametrize("kind", ["video_text", "encoder"])
def test_mteb_scores_what_we_score(kind, tmp_path):
    """On a task in memory: mteb's recall at 1 is that of our vectors."""
    pytest.importorskip("mteb", reason="mteb is absent: make test-extras")
    module = benchmark("mteb_videoprism")
    source = corpora.WorldSource("retrieval/test", 20, seed=0, resolution=16, frames=6, fps=8)
    clips, tokenizer = [source[i] for i in range(len(source))], None
    if kind == "video_text":
        text.train((corpora.text("ac1", i)[0] for i in range(60)), tmp_path / "v.model", size=120)
        tokenizer = text.Tokenizer(tmp_path / "v.model", 8)
    changes = {"vocabulary": tokenizer.size} if tokenizer else {}
    model = getattr(toy, kind)(**changes)
    checkpoints.save(model, tmp_path / "w.npz")
    encoder = module.Encoder(str(tmp_path / "w.npz"), tokenizer)
    look = dict(frames=3, size=12)
    videos = [pipeline.read_clip(clip.video, name="clip", **look) for clip in clips]
    pixels = jnp.asarray(np.stack(videos)) / 255
    ours = model.encode_video(pixels) if tokenizer else model(pixels).mean(1)
    task = module.world("t2v", clips, "toy")
    told = encoder.encode(SimpleNamespace(dataset=task.dataset["default"]["test"]["corpus"]))
    assert toy.close(told, ours, 1e-3)  # tokens are kept in half precision
    if not tokenizer:
        with pytest.raises(ValueError, match=r"Model vplib/w supports \['video'\], but none"):
            module.scores(encoder, [task])
        return
    assert encoder.mteb_model_meta.n_parameters == sum(x.size for x in toy.leaves(model).values())
    words = features.embed_texts(encoder.whole, tokenizer, [clip.text for clip in clips])
    likeness = words @ np.asarray(ours).T
    tasks = [module.world(way, clips, "toy") for way in module.WAYS]
    for way, told in module.scores(encoder, tasks).items():
        first = likeness.argmax(1 if way.endswith("T2V") else 0)
        assert told["recall_at_1"] == pytest.approx((first == np.arange(20)).mean(), abs=1e-5)
