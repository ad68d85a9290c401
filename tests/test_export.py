"""Export: what PyTorch computes from the exported folder is what we compute."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

from vplib import export, paths
from vplib.files import FileError
from vplib.model import checkpoints, exported
from vplib.model.checkpoints import CheckpointError
from vplib.model.layers import AttentionPool

MODELS = {
    "encoder": toy.encoder,
    "video_text": lambda: toy.video_text(aux_layers=1),
    "classifier": toy.classifier,
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_names_lead_there_and_back(kind):
    weights = checkpoints.flatten(MODELS[kind]())
    named = exported.arrays(weights)
    assert sum(value.size for value in named.values()) == sum(
        value.size for value in weights.values()
    )
    back = exported.released(named, {name: value.shape for name, value in weights.items()})
    assert checkpoints.digest(back) == checkpoints.digest(weights)


def test_a_pooler_filled_with_zeros_gives_the_same():
    model = toy.classifier()
    wide = export.widen(checkpoints.flatten(model), 64)
    bigger = toy.filled(lambda: AttentionPool(16, 2, inner=64, rngs=nnx.Rngs(0)))
    checkpoints.assign(bigger, wide, prefix="params/atten_pooler")
    tokens = toy.pixels(0, 2).reshape(2, -1, 16)
    assert toy.close(bigger(tokens), model.atten_pooler(tokens))


def test_what_transformers_cannot_hold_is_one_sentence_and_no_folder(tmp_path):
    with pytest.raises(
        CheckpointError,
        match=r"^a pooler of width 32 does not fit into .* as wide as its MLP \(16\)",
    ):
        export.widen(checkpoints.flatten(toy.video_text()), 16)
    pytest.importorskip("safetensors", reason="safetensors is absent: pip install -e '.[torch]'")
    checkpoints.save(toy.video_text(text_norm="primer_hybrid"), tmp_path / "w.npz")
    with pytest.raises(
        CheckpointError,
        match=r"post_layer_norm/bias has no place in transformers' VideoPrism: such a model",
    ):
        export.export(tmp_path / "w.npz", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]


def test_a_disturbed_export_leaves_nothing_and_a_folder_is_not_overwritten(tmp_path, monkeypatch):
    numpy = pytest.importorskip(
        "safetensors.numpy", reason="safetensors is absent: pip install -e '.[torch]'"
    )
    checkpoints.save(toy.encoder(), tmp_path / "w.npz")

    def full(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(numpy, "save_file", full)
        with pytest.raises(FileError, match=r"folder cannot be written: the disk is full; free"):
            export.export(tmp_path / "w.npz", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["w.npz"]
    command = [sys.executable, "-m", "vplib.export", tmp_path / "w.npz", tmp_path / "folder"]
    for stderr in (
        "",
        f"error: {tmp_path / 'folder'} exists: give a folder that does not, or delete it\n",
    ):
        done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (bool(stderr), stderr)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["tubelet_size"] == [
        1,
        4,
        4,
    ]


@pytest.mark.parametrize("kind", MODELS)
def test_pytorch_computes_the_same_from_the_folder(kind, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is absent: pip install -e '.[torch]'")
    transformers = pytest.importorskip(
        "transformers", reason="transformers is absent: pip install -e '.[torch]'"
    )
    model = MODELS[kind]()
    checkpoints.save(model, tmp_path / "w.npz")
    export.export(tmp_path / "w.npz", tmp_path / "folder")
    name = {
        "encoder": "VideoPrismVisionModel",
        "video_text": "VideoPrismClipModel",
        "classifier": "VideoPrismForVideoClassification",
    }[kind]
    theirs, report = getattr(transformers, name).from_pretrained(
        tmp_path / "folder", output_loading_info=True
    )
    assert not any(report.values())  # nothing missing, unexpected or of another shape
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path / "folder")
    scope = {}
    exec(lines, scope)
    shown = {"encoder": ("tokens", (1, 27, 16)), "classifier": ("logits", (1, 5))}
    what, shape = shown.get(kind, ("videos", (1, 16)))
    assert scope[what].shape == shape and (kind != "video_text" or scope["texts"].shape == shape)
    for frames, size in ((3, 12), (5, 20)):
        video = toy.pixels(0, 2, frames, size)
        given = dict(
            pixel_values_videos=torch.tensor(np.asarray(video)).permute(0, 1, 4, 2, 3),
            interpolate_pos_encoding=True,
        )
        with torch.no_grad():
            if kind == "encoder":
                ours, known = (
                    jax.jit(lambda m, x: m(x))(model, video),
                    theirs(**given).last_hidden_state,
                )
            elif kind == "classifier":
                ours, known = jax.jit(lambda m, x: m(x))(model, video), theirs(**given).logits[:, 0]
            else:
                ours, known = (
                    jax.jit(lambda m, x: m.encode_video(x))(model, video),
                    theirs.get_video_features(**given).pooler_output[:, 0],
                )
        assert toy.close(ours, known.numpy(), 1e-4)
    if kind == "video_text":
        batch = toy.batch(0)
        with torch.no_grad():
            known = theirs.get_text_features(
                torch.tensor(batch["ids"]), torch.tensor(batch["keep"]).long()
            ).pooler_output
        assert toy.close(
            model.encode_text(jnp.asarray(batch["ids"]), jnp.asarray(batch["keep"])),
            known.numpy(),
            1e-4,
        )
