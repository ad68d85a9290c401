"""Weights as a folder of Hugging Face `transformers`: `python -m vplib.export WEIGHTS FOLDER`.

    VideoPrismVisionModel.from_pretrained(FOLDER)               a video encoder
    VideoPrismClipModel.from_pretrained(FOLDER)                 a video-text model
    VideoPrismForVideoClassification.from_pretrained(FOLDER)    a classifier

WEIGHTS is what `checkpoints.load` takes, and so is FOLDER. The PyTorch model gives our outputs
(tested to 1e-4), its texts up to 64 tokens. Two things differ between the codes. `transformers` computes its text
positions with other timescales (10,000^(-2i/D) instead of the released 10,000^(-i/(D/2-1)), which
moves the texts of toy models by 0.01, cosine 0.9997), so the folder stores ours, as that buffer is
loaded, too. Its pooler is as wide as its MLP; a narrower one is filled with zeros, and its queries
scaled so that attention stays the same.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np

from vplib import cards, environment, files
from vplib.files import FileError
from vplib.model import checkpoints, exported
from vplib.model.checkpoints import CheckpointError
from vplib.model.encoders import sinusoids
from vplib.shipped import WEIGHTS


def widen(weights: dict[str, np.ndarray], inner: int) -> dict[str, np.ndarray]:
    """The same model with a pooler of `inner` width: zeros fill up each head, queries grow as the
    square root.

    Raises CheckpointError when the pooler is wider than that.
    """
    wide = dict(weights)
    for name, value in weights.items():
        if "/pooling_attention/" not in name or name.endswith("post/b"):
            continue
        size = value.shape[-1]
        heads = next(
            v.shape[1] for k, v in weights.items() if k.endswith("/pooling_attention/query/w")
        )
        more = inner // heads - size
        if more < 0 or inner % heads:
            raise CheckpointError(
                f"a pooler of width {heads * size} does not fit into transformers' VideoPrism, whose is "
                f"as wide as its MLP ({inner}): such a model cannot be exported"
            )
        if "/query/" in name:
            value = value * np.float32((inner / heads / size) ** 0.5)
        wide[name] = np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, more)])
    return wide


def export(name: str | Path, folder: str | Path) -> None:
    """Write `folder` with config.json, model.safetensors and a model card, README.md; it appears
    complete or not at all.

    `name` is what `checkpoints.load` takes. Raises CheckpointError as `load` does, when the folder
    exists, for a model that transformers cannot hold (LvT-g's text norm), and without the package
    safetensors; FileError when it cannot be written.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError:
        raise CheckpointError(
            "the package safetensors is missing: pip install -e '.[torch]'"
        ) from None
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder} exists: give a folder that does not, or delete it")
    weights = checkpoints.flatten(checkpoints.load(name))
    sizes = checkpoints.infer(weights, name=str(name))
    try:
        named = exported.arrays(widen(weights, sizes.mlp))
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    card = cards.exported(name, weights, sizes, WEIGHTS)
    if sizes.vocabulary:
        positions = sinusoids(exported.TEXT_LENGTH, sizes.width)
        named["text_model.embeddings.position_embedding"] = np.asarray(positions)
        named["text_model.embeddings.position_ids"] = np.arange(exported.TEXT_LENGTH)[None]
    part = files.folder(folder.with_name(f".{folder.name}.{os.getpid()}.part"))
    try:
        with files.explained(folder):
            save_file(named, part / "model.safetensors", metadata={"format": "pt"})
            text = json.dumps(exported.configuration(sizes), indent=2) + "\n"
            (part / "config.json").write_text(text, encoding="utf-8")
            (part / cards.CARD).write_text(card, encoding="utf-8")
            os.rename(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def main() -> None:
    environment.write_any_letter()
    if len(sys.argv) != 3:
        sys.exit("usage: python -m vplib.export WEIGHTS FOLDER")
    try:
        export(*sys.argv[1:])
    except (CheckpointError, FileError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
